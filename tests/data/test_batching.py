"""Batches: what is in them, in which order, and what is refused."""

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from keras_transformer.data.batching import BatchStream
from keras_transformer.text.tokenizer import Tokenizer

WORDS = "abcdefghij"


@pytest.fixture(scope="module")
def source():
    return Tokenizer.train([" ".join(WORDS)], 50, "word")


@pytest.fixture(scope="module")
def target():
    return Tokenizer.train([" ".join(WORDS)], 50, "char", add_dummy_prefix=False)


def corpus(count: int, seed: int = 0, longest: int = 12) -> list[tuple[str, str]]:
    generator = np.random.default_rng(seed)

    def text(separator: str) -> str:
        return separator.join(generator.choice(list(WORDS), generator.integers(1, longest + 1)))

    return [(text(" "), text("")) for _ in range(count)]


def decoded(batches, source, target) -> list[tuple[str, str]]:
    """The pairs of batches, in order, without empty rows."""
    pairs = []
    for batch in batches:
        real = batch.source_ids.any(axis=1)
        rows = batch.source_ids[real], batch.target_out[real]
        pairs += zip(source.decode(rows[0]), target.decode(rows[1]), strict=True)
    return pairs


def equal(first, second) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_source_ends_and_target_is_shifted_by_one(source, target):
    stream = BatchStream([("a b", "cab")], source, target, batch_tokens=12)
    (batch,) = stream.batches()
    (a, b), (c, ta, tb) = source.encode(["a b"])[0], target.encode(["cab"])[0]
    assert batch.source_ids[0].tolist() == [a, b, 3]
    assert batch.target_in[0].tolist() == [2, c, ta, tb]
    assert batch.target_out[0].tolist() == [c, ta, tb, 3]
    assert all(ids.dtype == np.int32 for ids in batch)
    # 12 tokens make 3 rows of 4; those without a pair are padding everywhere.
    assert [ids.shape for ids in batch] == [(3, 3), (3, 4), (3, 4)]
    assert not any(ids[1:].any() for ids in batch)


def test_an_empty_text_is_its_end_id(source, target):
    (batch,) = BatchStream([("", "")], source, target, batch_tokens=1).batches()
    assert [ids.tolist() for ids in batch] == [[[3]], [[2]], [[3]]]


def test_the_start_id_may_be_padding_as_in_marian(source, target):
    stream = BatchStream([("a", "b")], source, target, batch_tokens=2, decoder_start_id=0)
    (batch,) = stream.batches()
    assert batch.target_in.tolist() == [[0, *target.encode(["b"])[0]]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("pool_size", [10_000, 70, 1])
def test_an_epoch_has_every_pair_once(source, target, shuffle, pool_size):
    pairs = corpus(100)
    stream = BatchStream(
        pairs, source, target, batch_tokens=64, shuffle=shuffle, pool_size=pool_size, num_shapes=5
    )
    for epoch in (0, 1):
        assert Counter(decoded(stream.batches(epoch), source, target)) == Counter(pairs)


@pytest.mark.parametrize("pool_size", [10_000, 70])
def test_batches_have_few_static_shapes_and_only_the_last_are_short(source, target, pool_size):
    stream = BatchStream(
        corpus(500), source, target, batch_tokens=64, pool_size=pool_size, num_shapes=4
    )
    batches = list(stream.batches())
    shapes = {(*b.source_ids.shape, b.target_in.shape[1]) for b in batches}
    assert shapes <= set(stream.shapes)
    assert len(stream.shapes) <= 4
    assert all(b.source_ids.shape[0] == b.target_in.shape[0] for b in batches)
    assert all(b.target_in.shape == b.target_out.shape for b in batches)
    assert sum(not b.source_ids[-1].any() for b in batches) <= 4
    assert all(max(b.source_ids.size, b.target_in.size) <= 64 or len(b[0]) == 1 for b in batches)


@pytest.mark.parametrize("pool_size", [10_000, 70])
def test_order_is_a_function_of_seed_and_epoch(source, target, pool_size):
    pairs = corpus(200)

    def epoch(number, seed=0):
        stream = BatchStream(pairs, source, target, batch_tokens=64, seed=seed, pool_size=pool_size)
        return list(stream.batches(number))

    assert equal(epoch(3), epoch(3))
    assert not equal(epoch(3), epoch(4))
    assert not equal(epoch(3), epoch(3, seed=1))


def test_order_without_shuffling_is_the_same_in_every_epoch(source, target):
    pairs = [(f"a{' b' * (i % 2)}", word) for i, word in enumerate(WORDS)]
    stream = BatchStream(pairs, source, target, batch_tokens=6, shuffle=False)
    assert equal(list(stream.batches(0)), list(stream.batches(7)))
    read = [text for text, _ in decoded(stream.batches(), source, target)]
    one_word = [
        target for source, target in decoded(stream.batches(), source, target) if source == "a"
    ]
    assert len(read) == 10
    assert one_word == list("acegi")


@pytest.mark.parametrize("pool_size", [10_000, 70])
@pytest.mark.parametrize("start", [0, 1, 7, 33, 100])
def test_a_stream_resumes_at_any_step(source, target, pool_size, start):
    def stream(step):
        made = BatchStream(
            corpus(150), source, target, batch_tokens=48, pool_size=pool_size, num_shapes=3
        )
        return made.stream(step)

    uninterrupted = list(itertools.islice(stream(0), start + 10))
    assert equal(list(itertools.islice(stream(start), 10)), uninterrupted[start:])


@pytest.mark.parametrize("pool_size", [10_000, 70])
def test_a_stream_is_epoch_after_epoch(source, target, pool_size):
    made = BatchStream(corpus(100), source, target, batch_tokens=48, pool_size=pool_size)
    epochs = [list(made.batches(epoch)) for epoch in range(3)]
    steps = made.steps_per_epoch
    assert [len(epoch) for epoch in epochs] == [steps] * 3
    assert equal(list(itertools.islice(made.stream(), 3 * steps)), list(itertools.chain(*epochs)))
    assert made.locate(2 * steps + 1) == (2, 1)


def test_locate_reads_a_streamed_corpus_once_where_it_must(source, target):
    made = BatchStream(corpus(100), source, target, batch_tokens=48, pool_size=30)
    assert made.steps_per_epoch is None
    assert made.locate(0) == (0, 0)
    steps = len(list(made.batches()))
    fresh = BatchStream(corpus(100), source, target, batch_tokens=48, pool_size=30)
    assert fresh.locate(steps + 2) == (1, 2)


def test_later_pools_with_longer_pairs_have_a_shape_that_covers_them(source, target):
    pairs = [("a", "a")] * 50 + corpus(50, longest=19)
    for num_shapes in (1, 3):
        stream = BatchStream(
            pairs,
            source,
            target,
            batch_tokens=40,
            pool_size=50,
            num_shapes=num_shapes,
            max_source_length=20,
            max_target_length=20,
        )
        assert len(stream.shapes) <= num_shapes
        assert Counter(decoded(stream.batches(), source, target)) == Counter(pairs)


def test_a_pair_longer_than_the_token_budget_is_a_batch_of_its_own(source, target):
    pairs = [("a " * 29 + "a", "b")] * 3
    batches = list(BatchStream(pairs, source, target, batch_tokens=10).batches())
    assert [b.source_ids.shape for b in batches] == [(1, 31)] * 3


def test_overlong_pairs_are_skipped_or_cut_and_counted(source, target):
    pairs = [("a b c", "abc"), ("a b c d", "abc"), ("a b c", "abcd"), ("a", "b")]
    limits = {"max_source_length": 4, "max_target_length": 4, "batch_tokens": 8}
    skipping = BatchStream(pairs, source, target, **limits)
    kept = decoded(skipping.batches(), source, target)
    assert Counter(kept) == Counter([pairs[0], pairs[3]])
    assert skipping.statistics().overlong == 2
    cutting = BatchStream(pairs, source, target, overlong="cut", **limits)
    kept = decoded(cutting.batches(), source, target)
    assert Counter(kept) == Counter([("a b c", "abc")] * 3 + [("a", "b")])
    assert cutting.statistics().overlong == 2


@pytest.mark.parametrize("pool_size", [10_000, 70])
def test_statistics_count_what_the_batches_hold(source, target, pool_size):
    stream = BatchStream(corpus(300), source, target, batch_tokens=64, pool_size=pool_size)
    assert stream.statistics().complete == (pool_size > 300)
    batches = list(stream.batches())
    statistics = stream.statistics()
    assert statistics.complete
    assert statistics.batches == stream.steps_per_epoch == len(batches)
    assert statistics.pairs == 300
    assert statistics.source_tokens == sum((b.source_ids != 0).sum() for b in batches)
    assert statistics.target_tokens == sum((b.target_out != 0).sum() for b in batches)
    assert statistics.positions == sum(b.source_ids.size + b.target_out.size for b in batches)
    padding = sum((ids == 0).sum() for b in batches for ids in (b.source_ids, b.target_out))
    assert statistics.padding_waste == pytest.approx(padding / statistics.positions)


def test_statistics_count_rows_that_are_added_for_several_devices(source, target):
    alone, shared = (
        BatchStream(corpus(300), source, target, batch_tokens=64, divisible_by=n) for n in (1, 7)
    )
    rows = [(len(batch.source_ids), batch) for batch in alone.batches()]
    positions = sum(
        -(-n // 7) * 7 * (b.source_ids.shape[1] + b.target_out.shape[1]) for n, b in rows
    )
    assert shared.statistics().positions == positions > alone.statistics().positions


def test_little_of_a_large_corpus_is_padding(source, target):
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(4000):
        length = int(generator.gamma(6, 2)) + 1
        other = max(1, length + int(generator.integers(-2, 3)))
        pairs.append((" ".join("a" * length), "b" * other))
    assert BatchStream(pairs, source, target, batch_tokens=1024).statistics().padding_waste < 0.1


def test_pairs_of_ids_are_taken_as_they_are(source, target):
    texts = corpus(50)
    ids = list(
        zip(
            source.encode([s for s, _ in texts]),
            map(np.array, target.encode([t for _, t in texts])),
            strict=True,
        )
    )
    from_texts = BatchStream(texts, source, target, batch_tokens=64).batches()
    from_ids = BatchStream(ids, source, target, batch_tokens=64).batches()
    assert equal(list(from_texts), list(from_ids))


BAD_PAIRS = {
    "id beyond the source vocabulary": (([4, 14], [4]), r"source of pairs\[1\].*0 to 13.*id 14"),
    "id beyond the target vocabulary": (
        ([4], [4, 99]),
        r"target of pairs\[1\].*id 99 at position 1",
    ),
    "negative id": (([-1], [4]), "id -1 at position 0"),
    "end id": (([4, 3], [4]), "must not have padding, begin or end ids.*id 3 at position 1"),
    "padding": (([4], [0, 4]), "target of .*id 0 at position 0"),
    "floats": (([4.0], [4]), "list of integer ids"),
    "nested": (([[4]], [4]), "list of integer ids"),
    "a number": ((4, [4]), "list of integer ids"),
    "three": (([4], [4], [4]), r"\(source, target\) tuples.*pairs\[1\]"),
    "one text": ("ab", r"\(source, target\) tuples.*pairs\[1\]='ab'"),
    "nothing": (None, r"pairs\[1\]=None"),
}


@pytest.mark.parametrize(("pair", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_a_bad_pair_is_named(source, target, pair, message):
    with pytest.raises(ValueError, match=message):
        BatchStream([([4], [5]), pair], source, target)


BAD_TEXTS = {
    "NUL": (("a\x00", "b"), r"source of pairs\[1\].*U\+0000"),
    "surrogate": (("a", "b\ud800"), r"target of pairs\[1\].*U\+D800"),
    "bytes": (("a", b"b"), r"target of pairs\[1\] must be a str"),
    "text and ids": (([4], "b"), r"source of pairs\[1\] must be a str"),
}


@pytest.mark.parametrize(("pair", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_a_bad_text_is_named(source, target, pair, message):
    with pytest.raises(ValueError, match=message):
        BatchStream([("a", "b"), pair], source, target)


def test_a_bad_pair_beyond_the_first_pool_is_named_when_it_is_read(source, target):
    pairs = [("a", "b")] * 50 + [("a\x00", "b")]
    stream = BatchStream(pairs, source, target, pool_size=20)
    with pytest.raises(ValueError, match=r"source of pairs\[50\]") as error:
        list(stream.batches())
    assert stream.failure is error.value


def test_a_corpus_without_a_usable_pair_is_refused(source, target):
    with pytest.raises(ValueError, match=r"at least one pair.*no pairs"):
        BatchStream([], source, target)
    with pytest.raises(ValueError, match=r"within max_source_length.*2 pairs, all longer"):
        BatchStream([("a b", "b")] * 2, source, target, max_source_length=2)
    with pytest.raises(ValueError, match="not an iterator"):
        BatchStream(iter([("a", "b")]), source, target)
    with pytest.raises(ValueError, match="more than once"):
        BatchStream(3, source, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens must be an integer from 1"),
        ({"batch_tokens": 4.5}, "batch_tokens must be an integer from 1"),
        ({"num_shapes": 0}, "num_shapes must be"),
        ({"max_source_length": 0}, "max_source_length must be"),
        ({"max_target_length": True}, "max_target_length must be"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"overlong": "keep"}, 'overlong must be "skip" or "cut"'),
        ({"decoder_start_id": 999}, "decoder_start_id must be from 0 to"),
    ],
)
def test_an_argument_out_of_range_is_refused(source, target, arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchStream([("a", "b")], source, target, **arguments)


def test_every_pair_may_be_overlong_in_the_first_pool(source, target):
    pairs = [("a b c", "b")] * 20 + [("a", "b")] * 5
    stream = BatchStream(pairs, source, target, max_source_length=2, pool_size=20)
    assert decoded(stream.batches(), source, target) == [("a", "b")] * 5
    assert stream.statistics().overlong == 20


def test_a_streamed_corpus_without_a_usable_pair_is_refused_when_read(source, target):
    stream = BatchStream([("a b", "b")] * 30, source, target, max_source_length=2, pool_size=20)
    with pytest.raises(ValueError, match=r"30 pairs, all longer"):
        next(stream.stream())


class Endless:
    """Pairs of ids, made while they are read; `read` counts them."""

    def __init__(self, count):
        self.count, self.read = count, 0

    def __iter__(self):
        for index in range(self.count):
            self.read = index + 1
            yield [4 + index % 9] * (index % 17 + 1), [5] * (index % 13 + 1)


def test_the_first_batch_of_five_million_pairs_needs_no_more_than_one_pool(source, target):
    pairs = Endless(5_000_000)
    stream = BatchStream(pairs, source, target, batch_tokens=256, pool_size=500)
    assert len(next(stream.batches()).source_ids)
    assert pairs.read == 501  # one more, to know that it is not the last pool


def test_memory_is_the_same_after_a_tenth_of_a_corpus_and_at_its_end(source, target):
    pairs = Endless(6000)
    list(BatchStream(Endless(600), source, target, batch_tokens=256, pool_size=150).batches())
    tracemalloc.start()
    try:
        stream = BatchStream(pairs, source, target, batch_tokens=256, pool_size=150)
        tenth, rows = 0, 0
        for batch in stream.batches():
            rows += int((batch.source_ids[:, 0] != source.pad_id).sum())
            if not tenth and pairs.read >= 600:
                tenth = tracemalloc.get_traced_memory()[1]
        end = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 6000
    assert end < 1.1 * tenth
