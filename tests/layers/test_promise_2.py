"""Promise 2 for every public layer: steps, batches, padding and the future change nothing."""

import inspect

import numpy as np
import pytest
from keras import ops
from layer_cases import CASES, MEMORY_MASK, PUBLIC_LAYERS, X, is_similarity, make
from tiny_models import disturb

from keras_transformer import layers
from keras_transformer.config import SIMILARITY_NAMES

pytestmark = pytest.mark.jax

POSITIONS = X.shape[1]
CAPACITIES = {"grown": None, "fixed": POSITIONS + 3}


def step_self_attention(layer, inputs, capacity):
    (x,) = inputs
    cache = layer.init_cache(len(x), capacity)
    for step in range(POSITIONS):
        rows, cache = layer.step(x[:, step], step, cache)
        yield rows


def step_cross_attention(layer, inputs, capacity, beam_size=1):
    x, memory, mask = inputs
    projected = layer.project_memory(memory, mask)
    for step in range(POSITIONS):
        yield layer.step(x[:, step], projected, mask, beam_size)


def step_decoder_layer(layer, inputs, capacity, beam_size=1):
    x, memory, mask = inputs
    projected = layer.cross_attention.project_memory(memory, mask)
    cache = layer.self_attention.init_cache(len(x), capacity)
    for step in range(POSITIONS):
        rows, cache = layer.step(x[:, step], step, cache, projected, mask, beam_size)
        yield rows


def step_decoder(layer, inputs, capacity, beam_size=1):
    x, memory, mask = inputs
    projected, cache = layer.project_memory(memory, mask), layer.init_cache(len(x), capacity)
    for step in range(POSITIONS):
        rows, cache = layer.step(x[:, step], step, cache, projected, beam_size)
        yield rows


def step_positions(layer, inputs, capacity):
    (x,) = inputs
    for step in range(POSITIONS):
        yield layer.step(x[:, step], step)


STEPPED = {
    "CausalSelfAttention": step_self_attention,
    "CrossAttention": step_cross_attention,
    "Decoder": step_decoder,
    "DecoderLayer": step_decoder_layer,
    "PositionalEmbedding": step_positions,
}
CAUSAL = ("CausalSelfAttention", "Decoder", "DecoderLayer")
ATTENTIONS = ("CausalSelfAttention", "CrossAttention", "MultiHeadAttention", "SelfAttention")
TAKES_SIMILARITY = [
    name for name in PUBLIC_LAYERS if not is_similarity(name) and "num_heads" in CASES[name][0]
]
# "concat" is "additive" by another name, "scaled_dot" is that of the cases.
SIMILARITIES = [
    *(name for name in SIMILARITY_NAMES if name not in ("scaled_dot", "concat")), "tests>Negated",
]  # fmt: skip


def variants(names):
    """Each layer as its case makes it, each attention with all similarities and rotary layouts.

    What is made of attentions only hands these on, which one value shows; all of them in a whole
    model are in `tests/test_model.py`.
    """
    found = [pytest.param(name, {}, id=name) for name in names]
    for name in names:
        is_attention = name in ATTENTIONS
        options = {}
        if name in TAKES_SIMILARITY:
            options["similarity"] = SIMILARITIES if is_attention else ["additive"]
        if "rotary_layout" in CASES[name][0]:
            options["rotary_layout"] = [None, "interleaved"] if is_attention else [None]
        for option, values in options.items():
            found += [pytest.param(name, {option: v}, id=f"{name}-{v}") for v in values]
    return found


def test_every_attention_is_tried_with_every_similarity():
    assert set(ATTENTIONS) <= set(TAKES_SIMILARITY)
    assert {name for name in PUBLIC_LAYERS if name.endswith("Attention")} == set(ATTENTIONS)


def run(layer, *inputs):
    return np.asarray(layer(*inputs))


def masked(inputs):
    """The position of the mask among the inputs, or None."""
    found = [i for i, x in enumerate(inputs) if x.dtype == bool]
    return found[0] if found else None


def test_every_layer_that_can_step_is_tested_so():
    stepping = [name for name in PUBLIC_LAYERS if hasattr(getattr(layers, name), "step")]
    assert sorted(stepping) == sorted(STEPPED)


def test_every_layer_that_takes_a_mask_is_tested_with_one():
    for name in PUBLIC_LAYERS:
        parameters = inspect.signature(getattr(layers, name).call).parameters
        if any(parameter.endswith("mask") for parameter in parameters):
            assert masked(CASES[name][1]) is not None, name


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize(("name", "changes"), variants(STEPPED))
def test_promise_2_cached_steps_equal_the_full_pass(name, changes, capacity):
    layer, inputs = make(name, **changes)

    def steps(*inputs):
        return ops.stack(list(STEPPED[name](layer, inputs, CAPACITIES[capacity])), axis=1)

    found = np.asarray(steps(*inputs))
    np.testing.assert_allclose(found, run(layer, *inputs), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "changes"), variants(["CrossAttention", "Decoder", "DecoderLayer"])
)
def test_promise_2_hypotheses_of_a_source_step_side_by_side_as_each_alone(name, changes):
    layer, (x, *memory) = make(name, **changes)
    hypotheses = [x, -x, 2 * x]
    rows = np.stack(hypotheses, axis=1).reshape(-1, *x.shape[1:])  # of one source together
    alone = [list(STEPPED[name](layer, (x, *memory), None)) for x in hypotheses]
    for size in (3, ops.convert_to_tensor(3)):
        together = list(STEPPED[name](layer, (rows, *memory), None, size))
        for step in range(POSITIONS):
            found = np.asarray(together[step]).reshape(2, 3, -1)
            expected = np.stack([np.asarray(steps[step]) for steps in alone], axis=1)
            np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(("name", "changes"), variants(PUBLIC_LAYERS))
def test_promise_2_batched_equals_single(name, changes):
    layer, inputs = make(name, **changes)
    together = run(layer, *inputs)
    for row in range(2):
        alone = run(layer, *(x[row : row + 1] for x in inputs))
        np.testing.assert_allclose(alone[0], together[row], atol=2e-5)


@pytest.mark.parametrize(("name", "changes"), variants(PUBLIC_LAYERS))
def test_promise_2_what_is_masked_changes_nothing(name, changes):
    layer, inputs = make(name, **changes)
    index = masked(inputs)
    if index is None:
        pytest.skip("it takes no mask")
    before = run(layer, *inputs)
    mask, length = inputs[index], inputs[index].shape[-1]
    hidden = ~mask[:, 0]
    changed = [x.copy() for x in inputs]
    for x in changed[:index]:
        if x.shape[1] == length:
            x[hidden] = 100.0
    after = run(layer, *changed)
    seen = np.ones(before.shape[:2], bool) if mask is MEMORY_MASK else mask[:, 0]
    np.testing.assert_allclose(after[seen], before[seen], atol=2e-5)


@pytest.mark.parametrize(("name", "changes"), variants(CAUSAL))
def test_promise_2_the_future_does_not_leak(name, changes):
    layer, inputs = make(name, **changes)
    before = run(layer, *inputs)
    for step in range(1, POSITIONS):
        x = inputs[0].copy()
        x[:, step:] += 3.0
        after = run(layer, x, *inputs[1:])
        np.testing.assert_allclose(after[:, :step], before[:, :step], atol=2e-6)
        assert not np.allclose(after[:, step:], before[:, step:], atol=1e-3)


def test_the_fixed_cache_keeps_its_shapes_and_the_grown_one_grows():
    layer = layers.CausalSelfAttention(2, similarity="additive")
    layer(X)
    disturb(layer)
    for capacity, lengths in ((None, [1, 2, 3]), (4, [4, 4, 4])):
        cache = layer.init_cache(2, capacity)
        found = []
        for step in range(3):
            _, cache = layer.step(X[:, step], step, cache)
            found.append((cache.key.shape[2], cache.value.shape[2]))
        assert found == [(n, n) for n in lengths]
