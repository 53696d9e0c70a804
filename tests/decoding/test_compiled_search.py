"""The searches compiled, with tensors as options and with fixed shapes, against plain NumPy."""

import functools

import numpy as np
import pytest
from keras import ops
from numpy_search import Rules, beam_search, greedy_search, log_softmax
from scripted_steps import BANNED, END, PAD, SIZE, START, A, B, C, assert_found, make_search

from keras_transformer import backend
from keras_transformer.decoding import phases

STATES = 997
LOGITS = np.random.default_rng(7).normal(0, 1.5, (STATES, SIZE)).astype("float32")
CAPACITY = 8
MOST_ROWS, MOST_FORCED = 8, 3


def next_state(state, ids, sentences):
    """A number that depends on the sentence and on all tokens so far."""
    return (state * 31 + ids + 1 + 7 * sentences) % STATES


def log_probs_of(sentence, tokens):
    state = 0
    for token in (START, *tokens):
        state = next_state(state, token, sentence)
    return log_softmax(LOGITS[state])


@functools.cache
def compiled(kind, capacity):
    """The search of a kind: "greedy", "beam" with sizes that are tensors, or a pair of sizes."""

    def search(limits, prefix, beam_size, num_hypotheses, alpha, least, early):
        rows = ops.shape(limits)[0]
        if isinstance(kind, tuple):
            beam_size, num_hypotheses = kind
        options = {"alpha": alpha, "min_length": least, "capacity": capacity}
        if kind == "greedy":
            beam_size = 1
        else:
            options |= {"num_hypotheses": num_hypotheses, "early_stopping": early}

        def step(ids, step, cache, memory):
            sentences = ops.repeat(memory, beam_size, axis=0)
            state = next_state(cache, ids, sentences)
            return ops.take(ops.convert_to_tensor(LOGITS), state, axis=0), state

        index = ops.cast(ops.arange(rows), "int32")
        sentences = phases.Sentences(index, limits, prefix, memory=index)
        cache = ops.zeros((rows * beam_size,), "int32")
        search = make_search(step, None if kind == "greedy" else beam_size, **options)
        return phases.run(search, sentences, cache)

    integer = ((), "int32")
    signature = [((None,), "int32"), ((None, None), "int32"), integer, integer]
    return backend.compile(search, [*signature, ((), "float32"), integer, ((), "bool")])


def random_case(seed):
    """Limits `[b]`, prefixes, and options, sizes first."""
    generator = np.random.default_rng([seed, 5])
    rows = int(generator.integers(1, MOST_ROWS + 1))
    size = int(generator.integers(1, 9))
    limits = generator.integers(1, CAPACITY + 1, rows)
    limits[generator.random(rows) < 0.6] = CAPACITY
    lengths = generator.integers(0, MOST_FORCED + 1, rows) * (seed % 3 == 0)
    prefix = [tuple(map(int, generator.choice([A, B, C], n))) for n in lengths]
    return limits.astype("int32"), prefix, {
        "size": size,
        "count": int(generator.integers(1, size + 1)),
        "alpha": float(generator.choice([0.0, 0.6, 1.0, 2.0])),
        "least": int(generator.choice([0, 0, 1, 3, 6])),
        "early": bool(generator.random() < 0.5),
    }  # fmt: skip


def search_case(kind, capacity, limits, prefix, options):
    width = max(map(len, prefix)) + 1
    table = np.array([[*row, *[PAD] * (width - len(row))] for row in prefix], "int32")
    rows = len(limits)
    if capacity is not None:  # one shape for all, or each would be compiled
        more = MOST_ROWS - rows
        table = np.pad(table, ((0, more), (0, MOST_FORCED + 1 - width)), mode="edge")
        limits = np.pad(limits, (0, more), mode="edge")
    types = {"size": "int32", "count": "int32", "alpha": "float32", "least": "int32"}
    numbers = (np.asarray(options[name], dtype) for name, dtype in types.items())
    found = compiled(kind, capacity)(limits, table, *numbers, np.asarray(options["early"]))
    return phases.Found(*(np.asarray(part)[:rows] for part in found))


def assert_by_the_rules(found, limits, prefix, options, is_greedy=False):
    for row, limit in enumerate(limits):
        rules = Rules(END, BANNED, int(limit), options["alpha"], options["least"], prefix[row])
        of_row = functools.partial(log_probs_of, row)
        if is_greedy:
            expected = [greedy_search(of_row, rules)]
        else:
            sizes = options["size"], options["count"]
            expected, _ = beam_search(of_row, rules, *sizes, options["early"])
        assert_found(found, row, expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_one_trace_does_as_the_rules_say_whatever_the_options(kind):
    for seed in range(60):
        limits, prefix, options = random_case(seed)
        found = search_case(kind, None, limits, prefix, options)
        assert_by_the_rules(found, limits, prefix, options, kind == "greedy")
    assert compiled(kind, None).experimental_get_tracing_count() == 1


@pytest.mark.jax
@pytest.mark.parametrize("kind", ["greedy", (1, 1), (3, 2), (8, 8)])
def test_with_fixed_shapes_it_does_as_the_rules_say(kind):
    for seed in range(20):
        limits, prefix, options = random_case(seed)
        if kind != "greedy":
            options |= {"size": kind[0], "count": kind[1]}
        found = search_case(kind, CAPACITY, limits, prefix, options)
        assert found.ids.shape[2] == CAPACITY
        assert_by_the_rules(found, limits, prefix, options, kind == "greedy")


@pytest.mark.tensorflow
def test_grown_and_fixed_shapes_give_equal_ids_scores_and_ends():
    for seed in range(20):
        limits, prefix, options = random_case(seed)
        options |= {"size": 3, "count": 2}
        grown = search_case("beam", None, limits, prefix, options)
        fixed = search_case((3, 2), CAPACITY, limits, prefix, options)
        length = grown.ids.shape[2]
        np.testing.assert_array_equal(grown.ids, fixed.ids[:, :, :length])
        assert (fixed.ids[:, :, length:] == PAD).all()
        np.testing.assert_allclose(grown.scores, fixed.scores, rtol=1e-6)
        np.testing.assert_array_equal(grown.finished, fixed.finished)


@pytest.mark.tensorflow
def test_eager_and_compiled_searches_are_equal():
    import tensorflow as tf

    for kind, seed in (("greedy", 3), ("beam", 4), ("beam", 6)):
        limits, prefix, options = random_case(seed)
        graph = search_case(kind, None, limits, prefix, options)
        tf.config.run_functions_eagerly(True)
        try:
            eager = search_case(kind, None, limits, prefix, options)
        finally:
            tf.config.run_functions_eagerly(False)
        np.testing.assert_array_equal(graph.ids, eager.ids)
        np.testing.assert_allclose(graph.scores, eager.scores, rtol=1e-6)
