"""Keras's mixed precision: nothing overflows, and training goes as it goes in float32."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import OPTIONS, disturb, source_ids, target_ids, tiny_config

from keras_transformer import backend
from keras_transformer.config import RNNSearchConfig, TransformerConfig
from keras_transformer.data import make_dataset
from keras_transformer.data.splits import open_splits
from keras_transformer.decoding.generation import generate
from keras_transformer.model import Transformer
from keras_transformer.recipe import find_recipe
from keras_transformer.recurrent import RNNSearch
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.schedules import InverseSquareRoot

POLICIES = ("mixed_bfloat16", "mixed_float16")
CHOSEN = (
    "post_norm", "learned_positions", "separate_embeddings", "rotary", "dot", "general", "additive",
    "linear_concat", "cosine", "own_similarity",
)  # fmt: skip
ONE_LAYER = {"num_encoder_layers": 1, "num_decoder_layers": 1}


def make(option, policy, seed=0):
    """A model whose own policy is mixed; the process's stays float32."""
    random.seed(seed)
    if option == "rnn_search":
        sizes = {"d_embedding": 5, "hidden_size": 6, "units": 7, "maxout_size": 4}
        config = RNNSearchConfig(source_vocab_size=11, target_vocab_size=13, **sizes)
        model = RNNSearch(config, dtype=policy)
    else:
        model = Transformer(tiny_config(**OPTIONS[option] | ONE_LAYER), dtype=policy)
    disturb(model, seed)
    return model


def batch(model):
    """Padded rows, an empty source and, as the last batch of an epoch has, an empty row."""
    config = model.config
    sources, targets = source_ids(config, (6, 2, 1, 4)), target_ids(config, (4, 6, 3, 1))
    sources[3], targets[3] = config.pad_id, config.pad_id
    return (sources, targets), np.roll(targets, -1, axis=1)


def all_finite(tensors):
    return all(np.isfinite(np.asarray(tf.convert_to_tensor(t), "float32")).all() for t in tensors)


def test_every_similarity_is_among_the_options():
    found = {tiny_config(**OPTIONS[option]).similarity for option in CHOSEN}
    assert found == {
        "scaled_dot", "dot", "general", "additive", "linear_concat", "cosine", "tests>Negated",
    }  # fmt: skip


# bfloat16 has the range of float32: what overflows in float16 does not there.
@pytest.mark.parametrize(
    ("option", "policy"),
    [
        *((option, "mixed_float16") for option in (*CHOSEN, "rnn_search")),
        *((option, "mixed_bfloat16") for option in ("post_norm", "additive", "rnn_search")),
    ],
)
def test_a_training_step_is_finite_and_lowers_the_loss(option, policy):
    model = make(option, policy)
    inputs, target_out = batch(model)
    loss = SmoothedCrossEntropy(0.0, model.config.pad_id)
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        value = loss(target_out, logits)
    assert logits.dtype == value.dtype == "float32"
    gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
    assert all_finite([logits, value, *gradients])
    assert max(np.abs(tf.convert_to_tensor(gradient)).max() for gradient in gradients) > 0.01

    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    losses = [float(model.train_on_batch(inputs, target_out)) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert all_finite(model.get_weights())
    if policy == "mixed_float16":  # halved where a gradient times the scale is above 65504
        assert float(model.optimizer.dynamic_scale) >= model.optimizer.initial_scale / 2


# Greedy search and beams make the same steps.
@pytest.mark.parametrize(
    ("option", "policy", "beam_size"),
    [
        *((option, "mixed_float16", 3) for option in (*CHOSEN, "rnn_search")),
        *((option, "mixed_bfloat16", 3) for option in ("post_norm", "rnn_search")),
        *((option, "mixed_float16", 1) for option in ("post_norm", "rnn_search")),
    ],
)
def test_decoding_gives_finite_scores(option, policy, beam_size):
    model = make(option, policy)
    (sources, _), _ = batch(model)
    found = generate(
        model, sources, beam_size=beam_size, num_hypotheses=beam_size, max_decoding_length=4
    )
    ids, scores = np.asarray(found.ids), np.asarray(found.scores)
    assert scores.dtype == "float32"
    assert np.isfinite(scores).all()
    assert (scores < 0).all()
    assert ids.shape[1:] <= (beam_size, 4)
    assert ((ids >= 0) & (ids < model.config.target_vocab_size)).all()


@pytest.fixture(scope="module")
def reverse():
    """The recipe's pairs and its tokenizer."""
    recipe = find_recipe("reverse")
    pairs = list(open_splits(recipe.data).train)
    settings = recipe.tokenizer
    lines = (line for pair in pairs for line in pair)
    return recipe, pairs, Tokenizer.train(lines, settings.vocab_size, settings.model_type)


def losses_of_100_steps(reverse, policy, sizes):
    """The training loss of each 20 of the first 100 steps of the recipe, warm-up and all.

    Compiled by XLA: see the test of TensorFlow's own kernels below.
    """
    recipe, pairs, tokenizer = reverse
    training = recipe.training
    backend.make_deterministic(training.seed, jit_compile=True)
    config = TransformerConfig.for_tokenizers(
        recipe.model.preset, tokenizer, tokenizer, **recipe.model.overrides | sizes
    )
    model = Transformer(config, dtype=policy)
    schedule = InverseSquareRoot(training.warmup_steps, peak=training.peak_learning_rate)
    model.compile(
        keras.optimizers.Adam(schedule, beta_2=training.beta_2, epsilon=training.epsilon),
        SmoothedCrossEntropy(training.label_smoothing),
        jit_compile=True,
    )
    batches = make_dataset(
        pairs, tokenizer, tokenizer, 512, training.seed, num_shapes=1, repeat=True
    )
    history = model.fit(batches, steps_per_epoch=20, epochs=5, shuffle=False, verbose=0).history
    if policy == "mixed_float16":
        assert float(model.optimizer.dynamic_scale) == model.optimizer.initial_scale
    return np.array(history["loss"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "left"),  # left: the most of the loss that may be there still
    [
        pytest.param(ONE_LAYER | {"d_model": 32, "d_ff": 64}, 0.6, id="small"),
        pytest.param({}, 0.5, id="whole", marks=pytest.mark.prove),
    ],
)
def test_loss_of_reverse_after_100_steps_is_within_2_percent_of_float32(reverse, sizes, left):
    expected = losses_of_100_steps(reverse, "float32", sizes)
    print(f"{'float32':14} {expected.round(4)}")
    assert expected[-1] < left * expected[0]
    for policy in POLICIES:
        found = losses_of_100_steps(reverse, policy, sizes)
        difference = found / expected - 1
        print(f"{policy:14} {found.round(4)} {(100 * difference).round(2)} %")
        assert np.abs(difference).max() < 0.02


def test_tensorflow_rounds_bfloat16_products_toward_zero_on_the_cpu_unless_xla_compiles_them():
    """Why `mixed_bfloat16` is for accelerators, or for `jit_compile=True`.

    TensorFlow's own matrix product cuts the last bits off, so that everything shrinks by 0.3 % at
    each product and gradients by 2 % from end to end; and its gradient of a bias is summed in
    bfloat16. When this fails, TensorFlow has mended it.
    """
    row = tf.constant([[1.0, 1.0]], tf.bfloat16)
    column = tf.constant([[1.0], [0.75 * 2**-7]], tf.bfloat16)
    with tf.device("CPU"):
        assert float(tf.matmul(row, column)[0, 0]) == 1.0
        rounded = tf.function(tf.matmul, jit_compile=True)(row, column)
    assert float(rounded[0, 0]) == 1.0 + 2**-7
