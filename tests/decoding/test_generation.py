"""From source ids to hypotheses on real models: the cached search against recomputed prefixes."""

import numpy as np
import pytest
from numpy_search import Rules, beam_search, by_recomputing
from tiny_models import OPTIONS, disturb, model_with, source_ids, tiny_model

from keras_transformer import backend
from keras_transformer.decoding import reference
from keras_transformer.decoding.generation import generate
from keras_transformer.decoding.phases import Found

LENGTHS = (5, 1, 8, 3, 2)
IDS, INTEGER = ((None, None), "int32"), ((), "int32")


def decoder(model):
    """Greedy search of a model, compiled: `(source_ids, max_decoding_length)`."""
    compiled = backend.compile(
        lambda ids, most: generate(model, ids, max_decoding_length=most), [IDS, INTEGER]
    )
    return lambda *inputs: Found(*map(np.asarray, compiled(*inputs)))


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
    return backend.compile(lambda s, t: model((s, t)), [IDS, IDS])


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
                np.testing.assert_array_equal(found.ids[:, 0], expected)
                ended = (expected == model.config.eos_id).any(axis=1)
                np.testing.assert_array_equal(found.finished[:, 0], ended)
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
        ids, whole = alone.ids[0, 0], together.ids[row, 0]
        assert whole[: len(ids)].tolist() == ids.tolist()
        assert (whole[len(ids) :] == model.config.pad_id).all()
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


def test_eager_search_equals_compiled_search():
    model = tiny_model(5, output_bias=True)
    sources = source_ids(model.config, (3, 2))
    eager, compiled = generate(model, sources, max_decoding_length=4), decoder(model)(sources, 4)
    np.testing.assert_array_equal(eager.ids, compiled.ids)
    np.testing.assert_allclose(eager.scores, compiled.scores, rtol=1e-5)


def test_an_empty_batch_of_sources_gives_no_hypotheses():
    model, _ = model_with("post_norm")
    found = decoder(model)(np.zeros((0, 3), "int32"), 0)
    assert found.ids.shape == (0, 1, 0)
    assert found.scores.shape == (0, 1)


def test_pad_and_start_never_come_out():
    model = tiny_model(6, output_bias=True)
    bias = model.output_bias.numpy()
    bias[[model.config.pad_id, model.config.start_id]] += 50.0
    model.output_bias.assign(bias)
    disturb(model.decoder, 6)
    sources = source_ids(model.config, (4, 2))
    for ids in (
        decoder(model)(sources, 6).ids,
        np.asarray(generate(model, sources, beam_size=3, max_decoding_length=3).ids),
    ):
        assert model.config.start_id not in ids
        assert ((ids != model.config.pad_id).sum(axis=-1) > 0).all()


def assert_as_recomputed(found, row, forward, config, source, sizes, limit):
    """The hypotheses of a row are those of a beam search that runs the whole model each time."""
    rules = Rules(config.eos_id, (config.pad_id, *config.banned_ids), limit)
    expected, _ = beam_search(by_recomputing(forward, config, source, limit), rules, *sizes)
    assert len(expected) == sizes[1]
    ids = [[int(i) for i in ids if i != config.pad_id] for ids in np.asarray(found.ids)[row]]
    assert ids == [list(output.ids) for output in expected]
    assert np.asarray(found.finished)[row].tolist() == [output.finished for output in expected]
    scores = [output.score for output in expected]
    np.testing.assert_allclose(np.asarray(found.scores)[row], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", OPTIONS)
def test_promise_3_beam_search_with_the_cache_equals_one_that_recomputes_the_prefix(option):
    model, forward = model_with(option)
    config, lengths, limit = model.config, (5, 1, 3), 5
    sources = source_ids(config, lengths)
    found = generate(model, sources, beam_size=3, num_hypotheses=3, max_decoding_length=limit)
    for row, length in enumerate(lengths):
        source = sources[row, :length]
        assert_as_recomputed(found, row, forward, config, source, (3, 3), limit)


@pytest.mark.jax
@pytest.mark.parametrize("option", ["learned_positions", "cosine"])
def test_promise_2_beams_in_a_fixed_cache_equal_those_of_recomputed_prefixes(option):
    model, forward = model_with(option)
    config, lengths, limit = model.config, (4, 1, 3), 6
    sources = source_ids(config, lengths, seed=3)
    search = backend.compile(
        lambda ids: generate(
            model, ids, beam_size=4, num_hypotheses=2, max_decoding_length=limit, capacity=8
        ),
        [((3, 4), "int32")],
        model.variables,
    )
    found = search(sources)
    for row, source in enumerate(sources):
        assert_as_recomputed(found, row, forward, config, source, (4, 2), limit)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_prefix_for_all_is_that_prefix_for_each(beam_size):
    model, _ = model_with("norm_first")
    sources = source_ids(model.config, (4, 2, 1))
    options = {"beam_size": beam_size, "max_decoding_length": 5}
    once = generate(model, sources, target_prefix=np.array([[7, 9]]), **options)
    each = generate(model, sources, target_prefix=np.array([[7, 9]] * 3), **options)
    assert (np.asarray(once.ids)[:, :, :2] == [7, 9]).all()
    for one, other in zip(once, each, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_beam_size_that_is_a_tensor_chooses_greedy_search_where_it_is_one():
    model, _ = model_with("post_norm")
    compiled = backend.compile(
        lambda ids, size, count: generate(
            model, ids, beam_size=size, num_hypotheses=count, max_decoding_length=6
        ),
        [IDS, INTEGER, INTEGER],
    )
    sources = source_ids(model.config, (4, 2, 1))
    for size, count in ((1, 1), (2, 1), (4, 3), (1, 1)):
        found = compiled(sources, size, count)
        expected = generate(
            model, sources, beam_size=size, num_hypotheses=count, max_decoding_length=6
        )
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert compiled.experimental_get_tracing_count() == 1


def test_learned_positions_are_the_limit_of_every_hypothesis():
    model = tiny_model(3, positions="learned", max_positions=4)
    sources = source_ids(model.config, (4, 1))
    for most in (0, 50, 3):
        found = generate(
            model, sources, beam_size=3, num_hypotheses=3, max_decoding_length=most,
            min_decoding_length=9,
        )  # fmt: skip
        assert np.asarray(found.ids).shape == (2, 3, most if most == 3 else 4)
        assert not np.asarray(found.finished).any()


def test_the_default_limit_is_the_source_length_plus_fifty_sentence_by_sentence():
    model = tiny_model(2, output_bias=True)
    bias = model.output_bias.numpy()
    bias[model.config.eos_id] = -50.0
    model.output_bias.assign(bias)
    ids = decoder(model)(source_ids(model.config, (6, 2)), 0).ids
    assert (ids != model.config.pad_id).sum(axis=-1).tolist() == [[56], [52]]
