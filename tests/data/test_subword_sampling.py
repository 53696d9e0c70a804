"""Subword regularisation: each epoch cuts the texts in other ways."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from keras_transformer.data.batching import BatchStream
from keras_transformer.data.pool import Side
from keras_transformer.text.tokenizer import Tokenizer

WORDS = ["lower", "lowest", "newer", "newest", "wider", "widest", "low", "new", "wide"]
PAIRS = [(f"{a} {b}", f"{b} {a}") for a in WORDS for b in WORDS]


@pytest.fixture(scope="module")
def unigram():
    return Tokenizer.train([text for pair in PAIRS for text in pair], 40, "unigram")


def stream(unigram, **options):
    options = {"batch_tokens": 120, "subword_nbest": 8, "subword_alpha": 0.2, **options}
    return BatchStream(PAIRS, unigram, unigram, **options)


def texts(batches, tokenizer):
    """Return (source, target) of every pair, and every row of ids."""
    rows = [row for batch in batches for row in batch.source_ids if row[0] != tokenizer.pad_id]
    targets = [row for batch in batches for row in batch.target_out if row[0] != tokenizer.pad_id]
    return list(zip(tokenizer.decode(rows), tokenizer.decode(targets), strict=True)), rows


def test_the_best_ways_to_cut_come_with_the_probability_of_their_pieces(unigram):
    [ways] = unigram.encode_nbest(["lowest newer"], 6)
    assert len(ways) == 6
    assert ways[0][0] == unigram.encode(["lowest newer"])[0]
    assert len({tuple(ids) for ids, _ in ways}) == 6
    assert unigram.decode([ids for ids, _ in ways]) == ["lowest newer"] * 6
    scores = unigram._processor.get_score  # as SentencePiece has them
    for ids, log_prob in ways:
        assert log_prob == pytest.approx(sum(scores(i) for i in ids))
    falling = [log_prob for _, log_prob in ways[1:]]
    assert falling == sorted(falling, reverse=True)


def test_an_unknown_piece_costs_ten_more_than_the_rarest(unigram):
    [[(ids, log_prob)]] = unigram.encode_nbest(["☃"], 1)
    scores = [unigram._processor.get_score(i) for i in range(4, unigram.vocab_size)]
    known = sum(unigram._processor.get_score(i) for i in ids if i != unigram.unk_id)
    assert log_prob == pytest.approx(known + min(scores) - 10)


def test_the_ways_are_the_same_in_another_process(unigram, tmp_path):
    unigram.save(tmp_path / "a.model")
    code = (
        "import sys; from keras_transformer.text.tokenizer import Tokenizer; "
        "print(Tokenizer.load(sys.argv[1]).encode_nbest(['lowest newer wide'], 8))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.model")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(unigram.encode_nbest(["lowest newer wide"], 8))


def test_ways_are_drawn_by_their_probability_to_the_power_alpha():
    ways = [(np.array([i], np.int32), log_prob) for i, log_prob in enumerate([-1.0, -2.0, -4.0])]
    side = Side.of([[ways[0]], ways])
    chance = np.random.default_rng(0)
    drawn = side.draw(np.ones(20_000, np.int64), 0.5, chance)
    found = Counter(side.rows.flat[side.rows.starts[drawn]].tolist())
    weights = np.exp(0.5 * np.array([-1.0, -2.0, -4.0]))
    expected = 20_000 * weights / weights.sum()
    for i in range(3):
        assert found[i] == pytest.approx(expected[i], rel=0.05)
    assert set(side.draw(np.zeros(5, np.int64), 0.5, chance)) == {0}  # a text with one way


@pytest.mark.parametrize("pool_size", [30, 1000])
def test_every_epoch_has_the_same_texts_in_other_pieces(unigram, pool_size):
    batches = stream(unigram, pool_size=pool_size)
    first, second = (list(batches.batches(epoch)) for epoch in (0, 1))
    pairs, rows = texts(first, unigram)
    others, other_rows = texts(second, unigram)
    assert sorted(pairs) == sorted(others) == sorted(PAIRS)
    assert {tuple(row[row != 0]) for row in rows} != {tuple(row[row != 0]) for row in other_rows}
    for batch in (*first, *second):
        real = batch.target_in[:, 0] != unigram.pad_id
        assert (batch.source_ids[real] == unigram.eos_id).sum(axis=1).tolist() == [1] * sum(real)
        assert not (batch.target_in == unigram.eos_id).any()
        np.testing.assert_array_equal(
            batch.target_in[real, 1:],
            np.where(batch.target_out == unigram.eos_id, unigram.pad_id, batch.target_out)[
                real, :-1
            ],
        )


@pytest.mark.parametrize("alpha", [0.0, 0.2, 5.0])
def test_padding_is_told_of_the_ways_that_are_drawn(unigram, alpha):
    drawn = stream(unigram, subword_alpha=alpha)
    epochs = [list(drawn.batches(epoch)) for epoch in range(20)]
    tokens = np.mean([sum((b.source_ids != 0).sum() for b in epoch) for epoch in epochs])
    assert drawn.statistics().source_tokens == pytest.approx(tokens, rel=0.02)


@pytest.mark.parametrize("pool_size", [30, 1000])
def test_the_order_is_still_a_function_of_seed_epoch_and_step(unigram, tmp_path, pool_size):
    options = {"pool_size": pool_size}
    steps = len(list(stream(unigram, **options).batches()))
    whole = stream(unigram, **options).stream()
    expected = [next(whole) for _ in range(2 * steps + 3)][-4:]

    class File(list):
        def identity(self):
            return "these"

    for cache in (None, tmp_path / "ids", tmp_path / "ids"):
        resumed = BatchStream(
            File(PAIRS), unigram, unigram, batch_tokens=120, subword_nbest=8, subword_alpha=0.2,
            cache=cache, **options,
        ).stream(2 * steps - 1)  # fmt: skip
        for batch in expected:
            for a, b in zip(batch, next(resumed), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_high_power_leaves_the_usual_way(unigram):
    sampled, plain = (
        {tuple(row[row != 0]) for row in texts(list(batches.batches()), unigram)[1]}
        for batches in (stream(unigram, subword_alpha=1e6), stream(unigram, subword_nbest=1))
    )
    usual = [tuple(ids) for ids in unigram.encode([source for source, _ in PAIRS])]
    best = {ids: unigram.encode_nbest([source], 8)[0] for ids, (source, _) in zip(usual, PAIRS)}  # noqa: B905
    tied = {ids for ids, ways in best.items() if len(ways) > 1 and ways[1][1] >= ways[0][1]}
    assert {row[:-1] for row in sampled} - tied <= {row[:-1] for row in plain}


def test_ways_above_the_length_limit_are_left_out(unigram):
    longest = max(len(ids) for ids in unigram.encode([source for source, _ in PAIRS])) + 1
    batches = stream(unigram, max_source_length=longest, max_target_length=longest)
    found = list(batches.batches())
    assert sorted(texts(found, unigram)[0]) == sorted(PAIRS)
    assert max(batch.source_ids.shape[1] for batch in found) <= longest


def test_other_models_are_refused_with_advice(unigram):
    bpe = Tokenizer.train([text for pair in PAIRS for text in pair], 40, "bpe")
    with pytest.raises(ValueError, match="model_type must be unigram"):
        stream(bpe)
    with pytest.raises(ValueError, match="subword_alpha must be a number from 0"):
        stream(unigram, subword_alpha=-0.1)
    with pytest.raises(ValueError, match="subword_nbest must be an integer from 1"):
        stream(unigram, subword_nbest=0)
