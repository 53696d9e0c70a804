"""Encoder and decoder layers and their stacks; the numbers are held in tests/test_model.py."""

import numpy as np
import pytest

from keras_transformer.layers import Decoder, DecoderLayer, Encoder, EncoderLayer

pytestmark = pytest.mark.jax

NORMS = [
    {},
    {"norm_first": True},
    {"norm_first": True, "final_norm": False},
    {"final_norm": True},
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_a_post_norm_layer_gives_normalised_vectors_and_a_pre_norm_layer_a_sum():
    x = 3 * normal(2, 5, 8)
    post, pre = EncoderLayer(2, 16, dropout=0.0), EncoderLayer(2, 16, dropout=0.0, norm_first=True)
    np.testing.assert_allclose(np.asarray(post(x)).mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(post(x)).std(axis=-1), 1, atol=1e-3)
    pre.build(x.shape)
    for dense in (pre.self_attention.output_projection, pre.feed_forward.outer):
        dense.set_weights([np.zeros_like(w) for w in dense.get_weights()])
    np.testing.assert_array_equal(pre(x), x)


def test_final_norm_follows_norm_first_unless_it_is_given():
    assert [Encoder(1, 2, 4, **norms).norm is not None for norms in NORMS] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("norms", NORMS)
def test_decoder_step_by_step_equals_the_full_pass(norms):
    decoder = Decoder(2, 2, 16, dropout=0.1, key_dim=3, value_dim=5, **norms)
    x, memory = normal(3, 5, 8), normal(3, 4, 8, seed=1)
    mask = np.arange(4)[None, None] < np.array([4, 2, 1])[:, None, None]
    full = np.asarray(decoder(x, memory, mask))
    projected, cache = decoder.project_memory(memory, mask), decoder.init_cache(3)
    for step in range(5):
        rows, cache = decoder.step(x[:, step], step, cache, projected)
        np.testing.assert_allclose(rows, full[:, step], atol=1e-5)


def test_masked_positions_change_nothing_for_the_others():
    encoder, decoder = Encoder(2, 2, 16), Decoder(2, 2, 16)
    x, y = normal(2, 5, 8), normal(2, 3, 8, seed=1)
    mask = np.arange(5)[None, None] < np.array([5, 3])[:, None, None]
    memory = np.asarray(encoder(x, mask))
    result = np.asarray(decoder(y, memory, mask))
    changed = x.copy()
    changed[1, 3:] = 1e3
    changed_memory = np.array(encoder(changed, mask))
    np.testing.assert_allclose(changed_memory[1, :3], memory[1, :3], atol=1e-6)
    changed_memory[1, 3:] = -1e3
    np.testing.assert_allclose(decoder(y, changed_memory, mask), result, atol=1e-6)


def test_later_targets_change_nothing_for_earlier_ones():
    layer = DecoderLayer(2, 16)
    y, memory = normal(2, 6, 8), normal(2, 3, 8, seed=1)
    before = np.asarray(layer(y, memory))
    y[:, 4:] = 1e3
    np.testing.assert_allclose(np.asarray(layer(y, memory))[:, :4], before[:, :4], atol=1e-6)


def test_dropout_is_for_training_only():
    for layer in (EncoderLayer(2, 16, dropout=0.5), Encoder(1, 2, 16, dropout=0.5)):
        x = normal(1, 4, 8)
        np.testing.assert_array_equal(layer(x), layer(x, training=False))
        assert not np.allclose(layer(x, training=True), layer(x))


def test_the_decoder_needs_no_mask():
    decoder = Decoder(2, 2, 16)
    x, memory = normal(2, 3, 8), normal(2, 5, 8, seed=1)
    plain = np.asarray(decoder(x, memory))
    np.testing.assert_array_equal(decoder(x, memory, None), plain)
    np.testing.assert_allclose(decoder(x, memory, np.ones((2, 1, 5), bool)), plain, atol=1e-6)
    causal, cross = decoder.attention_scores(x, memory)
    assert (tuple(causal.shape), tuple(cross.shape)) == ((2, 2, 2, 3, 3), (2, 2, 2, 3, 5))


def test_stacks_name_an_input_of_another_size():
    for stack in (Encoder(1, 2, 16), Encoder(1, 2, 16, norm_first=True)):
        stack(normal(2, 3, 8))
        with pytest.raises(ValueError, match=r"x must have vectors of size 8.*\(2, 3, 6\)"):
            stack(normal(2, 3, 6))


@pytest.mark.parametrize("stack", [Encoder, Decoder])
@pytest.mark.parametrize("num_layers", [0, -1, 1.5, None])
def test_a_number_of_layers_that_is_none_is_refused(stack, num_layers):
    with pytest.raises(ValueError, match=f"integer from 1.*num_layers={num_layers}"):
        stack(num_layers, num_heads=2, d_ff=8)
