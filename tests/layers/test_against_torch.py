"""Attention beside `torch.nn.functional.scaled_dot_product_attention` and NumPy in float64.

Theirs computes the heads; the projections around them, with the weights of our layer, are NumPy's.
"""

import keras
import numpy as np
import numpy_transformer
import pytest
import torch_goldens
from numpy_transformer import cross_attention_maps, self_attention_maps, separate_maps
from tiny_models import disturb

from keras_transformer.layers import (
    CausalSelfAttention,
    CrossAttention,
    MultiHeadAttention,
    SelfAttention,
)
from keras_transformer.layers.attention import attention_weights
from keras_transformer.layers.similarity import ScaledDot

TOLERANCE = 1e-5
D_MODEL = 24
SIZES = {
    "one head": {"num_heads": 1},
    "four heads": {"num_heads": 4},
    "sizes of their own": {"num_heads": 3, "key_dim": 5, "value_dim": 16},
}
LENGTHS = {"one": (1, 1, 1), "short": (3, 4, 6), "long": (2, 65, 40)}  # sentences, T, S

each_size = pytest.mark.parametrize("sizes", SIZES)
each_length = pytest.mark.parametrize("lengths", LENGTHS)


def torch_heads(query, key, value, mask):
    pytest.importorskip(
        "torch", reason="PyTorch is not installed: it comes with the extra [references]"
    )
    return torch_goldens.torch_attention(query, key, value, mask)


def numpy_heads(query, key, value, mask):
    """Equation 1 of the paper in float64, sentence by sentence and head by head."""
    mask = np.broadcast_to(mask, (len(query), query.shape[2], key.shape[2]))
    return np.stack(
        [
            np.stack(
                [numpy_transformer.attention(*head, allowed) for head in zip(*row, strict=True)]
            )
            for *row, allowed in zip(query, key, value, mask, strict=True)
        ]
    )


each_reference = pytest.mark.parametrize("heads", [torch_heads, numpy_heads])


def expected(heads, inputs, maps, num_heads, mask):
    """Projections, `heads`, output projection; `inputs` are query, key and value."""
    parts = []
    for x, (kernel, bias) in zip(inputs, maps, strict=False):
        rows = x.astype("float64") @ kernel + bias
        parts.append(rows.reshape(*rows.shape[:2], num_heads, -1).swapaxes(1, 2))
    context = np.asarray(heads(*parts, mask), "float64").swapaxes(1, 2)
    kernel, bias = maps[3]
    return context.reshape(*context.shape[:2], -1) @ kernel + bias


def vectors(rows, length, seed):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, length, D_MODEL)).astype("float32")


def padding(rows, length):
    """A mask `[B, 1, length]`: the first row is full, each further one has more padding."""
    real = np.maximum(1, length - 2 * np.arange(rows))
    return np.arange(length)[None, None] < real[:, None, None]


def built(layer_class, sizes, inputs=1):
    layer = layer_class(**SIZES[sizes])
    layer.build(*[(None, None, D_MODEL)] * inputs)
    disturb(layer)
    # outputs of about 1, so that the absolute tolerance is well above float32's rounding
    layer.set_weights([weight / 2 for weight in layer.get_weights()])
    return layer


def assert_equal(ours, theirs):
    ours = keras.ops.convert_to_numpy(ours)
    largest = float(np.abs(ours - theirs).max())
    scale = float(np.abs(theirs).max())
    print(f"largest absolute error {largest:.1e}, largest number {scale:.1f}")
    assert scale > 0.5
    assert largest < TOLERANCE


@each_reference
@each_size
@each_length
def test_multi_head_attention(heads, sizes, lengths):
    rows, target, source = LENGTHS[lengths]
    inputs = [vectors(rows, n, seed) for seed, n in enumerate((target, source, source))]
    mask = np.random.default_rng(3).random((rows, target, source)) < 0.5
    mask[..., 0] = True
    layer = built(MultiHeadAttention, sizes)
    theirs = expected(heads, inputs, separate_maps(layer), layer.num_heads, mask)
    assert_equal(layer(*inputs, mask), theirs)
    inputs[2] = inputs[1]
    theirs = expected(heads, inputs, separate_maps(layer), layer.num_heads, padding(rows, source))
    assert_equal(layer(*inputs[:2], attention_mask=padding(rows, source)), theirs)


@each_reference
@each_size
@each_length
def test_self_attention(heads, sizes, lengths):
    rows, length, _ = LENGTHS[lengths]
    x, mask = vectors(rows, length, 0), padding(rows, length)
    layer = built(SelfAttention, sizes)
    theirs = expected(heads, [x] * 3, self_attention_maps(layer), layer.num_heads, mask)
    assert_equal(layer(x, mask), theirs)


@each_reference
@each_size
@each_length
def test_causal_self_attention(heads, sizes, lengths):
    rows, length, _ = LENGTHS[lengths]
    x, mask = vectors(rows, length, 0), np.tril(np.ones((1, length, length), bool))
    layer = built(CausalSelfAttention, sizes)
    theirs = expected(heads, [x] * 3, self_attention_maps(layer), layer.num_heads, mask)
    assert_equal(layer(x), theirs)


@each_reference
@each_size
@each_length
def test_cross_attention(heads, sizes, lengths):
    rows, target, source = LENGTHS[lengths]
    x, memory, mask = vectors(rows, target, 0), vectors(rows, source, 1), padding(rows, source)
    layer = built(CrossAttention, sizes, inputs=2)
    maps = cross_attention_maps(layer)
    theirs = expected(heads, [x, memory, memory], maps, layer.num_heads, mask)
    assert_equal(layer(x, memory, mask), theirs)


def heads_of_ours(query, key, value, mask):
    """The heads alone: no projections, as `scaled_dot_product_attention` has none."""
    similarity = ScaledDot()
    weights = attention_weights(similarity(query, similarity.prepare_key(key)), mask)
    return keras.ops.matmul(weights, value)


def test_heads_equal_the_golden_file_of_torch():
    arrays = torch_goldens.load(torch_goldens.ATTENTION)
    theirs = arrays.pop("output")
    assert_equal(heads_of_ours(**arrays), theirs)


def test_a_row_that_may_attend_to_nothing_is_zeros_in_torch_too():
    arrays = torch_goldens.load(torch_goldens.ATTENTION)
    del arrays["output"]
    arrays["mask"][1, 2] = False
    theirs = torch_heads(**arrays)
    np.testing.assert_array_equal(theirs[1, :, 2], 0)
    assert_equal(heads_of_ours(**arrays), theirs)
