"""A corpus that is tokenized once and kept as ids."""

import os

import numpy as np
import pytest

from keras_transformer.data.batching import BatchStream
from keras_transformer.data.builtin import CmuDict, ReversedDigits
from keras_transformer.data.corpus import PairFile, ParallelFiles, split_by_hash
from keras_transformer.text.tokenizer import Tokenizer

POOL = 20


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["0 1 2 3 4 5 6 7 8 9"], 32, "word")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in ReversedDigits(70)), encoding="utf-8")
    return PairFile(path)


class Counted:
    """A tokenizer that counts the texts it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.texts = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode(self, texts):
        self.texts += len(texts)
        return self.tokenizer.encode(texts)


def stream(corpus, tokenizer, cache, **options):
    options = {"batch_tokens": 40, "pool_size": POOL, "max_source_length": 9, **options}
    return BatchStream(corpus, tokenizer, tokenizer, cache=cache, **options)


def epochs(batches, count=2):
    return [array for epoch in range(count) for batch in batches.batches(epoch) for array in batch]


def assert_equal(one, other):
    assert len(one) == len(other) > 10
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("pool_size", [POOL, 1000])
@pytest.mark.parametrize("overlong", ["skip", "cut"])
def test_batches_are_the_same_and_each_text_is_tokenized_once(
    corpus, tokenizer, tmp_path, pool_size, overlong
):
    options = {"pool_size": pool_size, "overlong": overlong}
    plain = stream(corpus, tokenizer, None, **options)
    expected = epochs(plain)
    counted = Counted(tokenizer)
    first = stream(corpus, counted, tmp_path / "ids", **options)
    assert_equal(epochs(first), expected)
    assert counted.texts == 140
    again = stream(corpus, counted, tmp_path / "ids", **options)
    assert_equal(epochs(again), expected)
    assert counted.texts == 140  # another process reads them too
    assert again.statistics() == plain.statistics()


def test_an_interrupted_pass_is_gone_on_with(corpus, tokenizer, tmp_path):
    expected = epochs(stream(corpus, tokenizer, None))
    counted = Counted(tokenizer)
    next(stream(corpus, counted, tmp_path / "ids").batches())  # the first pool, of 20 pairs
    assert counted.texts == 2 * POOL
    assert_equal(epochs(stream(corpus, counted, tmp_path / "ids")), expected)
    assert counted.texts == 140


def test_a_changed_file_tokenizer_or_limit_is_tokenized_anew(corpus, tokenizer, tmp_path):
    def texts(tokenizer, **options):
        counted = Counted(tokenizer)
        epochs(stream(corpus, counted, tmp_path / "ids", **options), 1)
        return counted.texts

    assert [texts(tokenizer), texts(tokenizer)] == [140, 0]
    assert [texts(tokenizer, max_source_length=8), texts(tokenizer, max_source_length=8)] == [
        140,
        0,
    ]
    other = Tokenizer.train(["0 1 2 3 4 5 6 7 8 9 10"], 32, "word")
    assert texts(other) == 140
    text = corpus.path.read_text(encoding="utf-8")
    corpus.path.write_text(text.replace("1", "2"), encoding="utf-8")
    os.utime(corpus.path, ns=(1, 1))
    assert_equal(
        epochs(stream(corpus, tokenizer, tmp_path / "ids")),
        epochs(stream(corpus, tokenizer, None)),
    )
    assert len(list((tmp_path / "ids").iterdir())) == 4  # nothing of the others is left


def test_a_damaged_pool_is_tokenized_again(corpus, tokenizer, tmp_path):
    expected = epochs(stream(corpus, tokenizer, tmp_path / "ids"))
    path = sorted((tmp_path / "ids").iterdir())[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged .*tokenized again"):
        assert_equal(epochs(stream(corpus, tokenizer, tmp_path / "ids")), expected)
    assert_equal(epochs(stream(corpus, tokenizer, tmp_path / "ids")), expected)


def test_where_nothing_can_be_written_training_goes_on(corpus, tokenizer, tmp_path):
    (tmp_path / "ids").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be kept in .*ids"):
        found = epochs(stream(corpus, tokenizer, tmp_path / "ids"))
    assert_equal(found, epochs(stream(corpus, tokenizer, None)))


def test_large_ids_are_kept_whole(tmp_path):
    from keras_transformer.data.pool import Pool, Side
    from keras_transformer.data.stored_pools import Read, StoredPools

    ids = np.array([4, 70_000], np.int32)
    side = Side.of([[(ids, 0.0)], [(ids[:0], -1.0), (ids[1:], -2.5)]])
    store = StoredPools(tmp_path, {})
    store.save(3, Read(Pool(side, side), 2, 1, last=True))
    found = store.load(3)
    assert found is not None
    assert found[1:] == (2, 1, True)
    assert all(np.array_equal(a, b) for a, b in zip(found.pool.target.rows, side.rows, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found.pool.target[1:], side[1:], strict=True))


def test_a_corpus_without_an_identity_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"method identity\(\).*Received: list"):
        stream([("1", "1")], tokenizer, tmp_path / "ids")


def test_identities_tell_corpora_apart(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text("1\t1\n", encoding="utf-8")
    corpora = [PairFile(path) for path in paths]
    corpora += [PairFile(paths[0], (1, 0)), ParallelFiles(*paths), ParallelFiles(*paths[::-1])]
    corpora += [ReversedDigits(5), ReversedDigits(5, seed=1), CmuDict()]
    corpora += split_by_hash(corpora[0], {"train": 0.5, "rest": 0.5}).values()
    assert len({corpus.identity() for corpus in corpora}) == len(corpora)
    assert PairFile(paths[0]).identity() == corpora[0].identity()
