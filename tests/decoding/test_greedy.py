"""Greedy search on scripted steps, where the best continuation is known, and on real models."""

import keras
import numpy as np
import pytest
from tiny_models import disturb, model_with, source_ids, tiny_model

from keras_transformer import backend
from keras_transformer.decoding import reference
from keras_transformer.decoding.greedy import greedy
from keras_transformer.translator import generate

# A tiny alphabet: pad, start, end, and letters.
PAD, START, END, A, B, C = range(6)
SIZE = 6


def run(step, start, limits, cache=(), **options):
    start, limits = np.array(start, "int32"), np.array(limits, "int32")
    settings = {"vocab_size": SIZE, "eos_id": END, "pad_id": PAD, **options}
    state = greedy(step, start, limits, cache, **settings)
    return {
        field: np.asarray(getattr(state, field))
        for field in ("ids", "lengths", "log_probs", "finished")
    }


def scripted(*rows):
    """A step that makes each row's script the best continuation, by probability 0.9."""
    table = np.full((len(rows), max(map(len, rows)) + 1), A)
    for row, script in zip(table, rows, strict=True):
        row[: len(script)] = script

    def step(ids, position, cache):
        best = table[:, int(position)]
        probabilities = np.full((len(rows), SIZE), 0.1 / (SIZE - 1), "float32")
        probabilities[np.arange(len(rows)), best] = 0.9
        return keras.ops.convert_to_tensor(np.log(probabilities)), cache

    return step


def test_the_scripts_come_out_and_rows_end_at_different_steps():
    step = scripted([A, B, C, END], [END], [C, END], [B, A, END])
    found = run(step, [START] * 4, [9] * 4)
    assert found["ids"].tolist() == [
        [A, B, C, END],
        [END, PAD, PAD, PAD],
        [C, END, PAD, PAD],
        [B, A, END, PAD],
    ]
    assert found["lengths"].tolist() == [4, 1, 2, 3]
    assert found["finished"].all()
    np.testing.assert_allclose(found["log_probs"], np.log(0.9) * found["lengths"], rtol=1e-5)


def test_each_row_is_cut_at_its_own_limit_and_says_so():
    step = scripted([A, B, C, END], [A, END], [C, C, C, C])
    found = run(step, [START] * 3, [2, 2, 3])
    assert found["ids"].tolist() == [[A, B, PAD], [A, END, PAD], [C, C, C]]
    assert found["finished"].tolist() == [False, True, False]
    assert found["lengths"].tolist() == [2, 2, 3]


def test_it_stops_as_soon_as_every_row_has_ended():
    seen = []
    inner = scripted([A, END], [END])

    def step(ids, position, cache):
        seen.append(int(position))
        return inner(ids, position, cache)

    run(step, [START] * 2, [50, 50])
    assert seen == [0, 1]


def test_ties_go_to_the_lower_id():
    def step(ids, position, cache):
        scores = np.zeros((1, SIZE), "float32")
        scores[0, [B, C]] = 3.0
        return keras.ops.convert_to_tensor(scores), cache

    assert run(step, [START], [1])["ids"].tolist() == [[B]]


def test_banned_ids_never_come_and_the_next_best_does():
    step = scripted([PAD, START, A, END])
    found = run(step, [START], [4], banned_ids=(PAD, START))
    # Where a banned id is best, all others are equal and the lowest of them is the end.
    assert found["ids"].tolist() == [[END]]
    # The score is still that of the whole distribution: banning does not make tokens likelier.
    np.testing.assert_allclose(found["log_probs"], [np.log(0.1 / 5)], rtol=1e-5)
    found = run(scripted([A, START, END]), [START], [3], banned_ids=(START, END))
    assert found["ids"].tolist() == [[A, PAD, PAD]]


def test_the_step_is_given_the_token_before_the_position_and_its_own_cache():
    calls = []
    inner = scripted([B, C, END])

    def step(ids, position, cache):
        calls.append((np.asarray(ids).tolist(), int(position), int(cache)))
        return inner(ids, position, None)[0], cache + 1

    run(step, [START], [9], cache=keras.ops.convert_to_tensor(10))
    assert calls == [([START], 0, 10), ([B], 1, 11), ([C], 2, 12)]


def test_an_empty_batch_gives_an_empty_result():
    def step(ids, position, cache):
        raise AssertionError("nothing to decode")

    found = run(step, [], [])
    assert found["ids"].shape == (0, 0)
    assert found["lengths"].shape == (0,)


LENGTHS = (5, 1, 8, 3, 2)


def decoder(model):
    ids = ((None, None), "int32")
    return backend.compile(lambda i, n: generate(model, i, n, 0.6), [ids, ((), "int32")])


def steer_to_the_end(model, forward, share):
    """Set the bias of the end symbol so that it is the best at this share of the steps."""
    bias = model.output_bias.numpy()
    bias[model.config.eos_id] = -50.0
    model.output_bias.assign(bias)
    sources = source_ids(model.config, LENGTHS)
    outputs = reference.predict(forward, sources, model.config, [10] * len(sources))
    logits = np.array(forward(sources, outputs))
    gaps = logits.max(axis=-1) - logits[..., model.config.eos_id]
    bias[model.config.eos_id] += np.quantile(gaps, share)
    model.output_bias.assign(bias)


def compiled_forward(model):
    ids = ((None, None), "int32")
    return backend.compile(lambda s, t: model((s, t)), [ids, ids])


@pytest.mark.parametrize(
    ("seed", "fields"),
    [
        (0, {}),
        (2, {"norm_first": True, "key_dim": 3, "value_dim": 5}),
        (5, {"embeddings": "separate", "decoder_start_id": 0, "position_layout": "halves"}),
        (3, {"decoder_start_id": 3, "positions": "learned", "max_positions": 30}),
    ],
)
def test_promise_3_greedy_with_the_cache_equals_the_papers_plain_loop(seed, fields):
    fields = {"output_bias": True, "embedding_scale": False, **fields}
    model = tiny_model(seed, **fields)
    forward, search = compiled_forward(model), decoder(model)
    endings = set()
    for share in (0.05, 0.15, 0.3):
        steer_to_the_end(model, forward, share)
        for lengths in (LENGTHS, LENGTHS[:1], (12, 12)):
            sources = source_ids(model.config, lengths, seed)
            for limit in (1, 12):
                expected = reference.predict(forward, sources, model.config, [limit] * len(sources))
                found = search(sources, limit)
                np.testing.assert_array_equal(np.asarray(found.ids)[:, 0], expected)
                ended = (expected == model.config.eos_id).any(axis=1)
                np.testing.assert_array_equal(np.asarray(found.finished)[:, 0], ended)
                endings |= set((expected != model.config.pad_id).sum(axis=1).tolist())
    assert len(endings) >= 3, "rows must end at different steps, or nothing is shown"


def test_promise_2_a_batch_gives_each_row_what_it_gets_alone():
    model = tiny_model(4, output_bias=True)
    steer_to_the_end(model, compiled_forward(model), 0.3)
    search = decoder(model)
    sources = source_ids(model.config, LENGTHS)
    together = search(sources, 15)
    for row, length in enumerate(LENGTHS):
        alone = search(sources[row : row + 1, :length], 15)
        ids = np.asarray(alone.ids)[0, 0]
        whole = np.asarray(together.ids)[row, 0]
        assert whole[: len(ids)].tolist() == ids.tolist()
        assert (whole[len(ids) :] == model.config.pad_id).all()
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


def test_eager_search_equals_compiled_search():
    model = tiny_model(5, output_bias=True)
    sources = source_ids(model.config, (3, 2))
    eager, compiled = generate(model, sources, 4), decoder(model)(sources, 4)
    np.testing.assert_array_equal(eager.ids, compiled.ids)
    np.testing.assert_allclose(eager.scores, compiled.scores, rtol=1e-5)


def test_an_empty_batch_of_sources_gives_no_hypotheses():
    model, _ = model_with("post_norm")
    found = decoder(model)(np.zeros((0, 3), "int32"), 0)
    assert np.asarray(found.ids).shape == (0, 1, 0)
    assert np.asarray(found.scores).shape == (0, 1)


def test_pad_and_start_never_come_out():
    model = tiny_model(6, output_bias=True)
    bias = model.output_bias.numpy()
    bias[[model.config.pad_id, model.config.start_id]] += 50.0
    model.output_bias.assign(bias)
    disturb(model.decoder, 6)
    ids = np.asarray(decoder(model)(source_ids(model.config, (4, 2)), 6).ids)
    lengths = (ids != model.config.pad_id).sum(axis=-1)
    assert model.config.start_id not in ids
    assert (lengths > 0).all()
