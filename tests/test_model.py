from types import SimpleNamespace

import keras
import numpy as np
import numpy_transformer
import pytest
import tensorflow as tf
from keras import ops
from tiny_models import (
    OPTIONS,
    SIZES,
    assert_close,
    batch,
    model_with,
    tiny_config,
    tiny_model,
)

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.model import Transformer
from keras_transformer.search_options import SearchOptions
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.translator import Translator

each_option = pytest.mark.parametrize("option", OPTIONS)
# On JAX every option compiles anew, and all similarities are tried there layer by layer.
ON_JAX = {
    "norm_first", "learned_positions", "output_bias_gelu", "key_and_value_sizes", "uneven_stacks",
    "rotary_halves", "additive", "own_similarity",
}  # fmt: skip
each_option_some_on_jax = pytest.mark.parametrize(
    "option",
    [pytest.param(name, marks=[pytest.mark.jax] * (name in ON_JAX)) for name in OPTIONS],
)
needs_tensorflow = pytest.mark.tensorflow


@each_option_some_on_jax
def test_forward_pass_equals_the_paper_in_numpy(option):
    model, forward = model_with(option)
    sizes = [[(5, 2, 1, 7), (4, 6, 1, 3)], [(9,), (11,)]]
    for lengths in sizes[:1] if backend.needs_fixed_shapes() else sizes:  # each compiles anew there
        inputs = batch(model, *lengths)
        expected = numpy_transformer.logits(model, *inputs)
        assert np.abs(expected).max() > 0.5
        assert_close(forward(*inputs), expected)


def test_eager_and_compiled_passes_are_equal():
    model, forward = model_with("norm_first")
    inputs = batch(model)
    assert_close(model(inputs), forward(*inputs))


def test_every_field_of_the_config_is_an_option():
    usual = TransformerConfig(source_vocab_size=11, target_vocab_size=13)
    changed = {
        name
        for fields in [SIZES, *OPTIONS.values()]
        for name, value in fields.items()
        if value != getattr(usual, name)
    }
    # dropout is for training; vocabularies have no usual size
    rates = {name for name in TransformerConfig.model_fields if "dropout" in name}
    sizes = {"source_vocab_size", "target_vocab_size"}
    assert set(TransformerConfig.model_fields) - rates - sizes - changed == set()


# On JAX a search has a fixed cache; that which grows is tried there layer by layer.
@pytest.mark.parametrize("capacity", [pytest.param(None, marks=needs_tensorflow), 9])
@each_option_some_on_jax
def test_promise_2_cached_step_equals_the_full_pass(option, capacity):
    model, forward = model_with(option)
    # of the sizes that the forward pass was compiled for above
    sources, targets = batch(model, (5, 2, 1, 7), (6, 6, 6, 6))

    def steps(sources, targets):
        memory = model.project_memory(sources)
        cache, found = model.init_cache(memory, capacity), []
        for step in range(6):
            logits, cache = model.decode_step(targets[:, step], step, cache, memory)
            found.append(logits)
        return ops.stack(found, axis=1)

    assert_close(steps(sources, targets), forward(sources, targets))


@each_option
def test_attention_scores_are_those_of_every_layer_and_head(option):
    model, _ = model_with(option)
    config = model.config
    sources, targets = batch(model, (5, 2), (4, 6))
    scores = model.attention_scores(sources, targets)
    heads, (encoders, decoders) = (
        config.num_heads,
        (
            config.num_encoder_layers,
            config.num_decoder_layers,
        ),
    )
    assert tuple(scores.encoder.shape) == (2, encoders, heads, 5, 5)
    assert tuple(scores.causal.shape) == (2, decoders, heads, 6, 6)
    assert tuple(scores.cross.shape) == (2, decoders, heads, 6, 5)
    for part in scores:
        part = np.asarray(part)
        assert part.dtype == "float32"
        np.testing.assert_allclose(part.sum(axis=-1), 1, atol=1e-5)
    assert (np.asarray(scores.cross)[1, ..., 2:] == 0).all(), "pads of the source"
    assert (np.triu(np.asarray(scores.causal), 1) == 0).all(), "the future"


@pytest.mark.jax
@pytest.mark.parametrize("norm_first", [False, True])
def test_attention_scores_of_the_last_layers_give_the_logits(norm_first):
    # One layer, its scores applied to the values by hand: what follows must be the model's.
    model = tiny_model(norm_first=norm_first)
    sources, targets = batch(model, (5,), (4,))
    scores = model.attention_scores(sources, targets)
    layer = model.decoder.layers[0]
    x = model.target_positions(model.token_embedding(targets))
    memory, mask = model.encode(sources), model.source_mask(sources)

    def by_hand(sublayer, norm, weights, value, x):
        context = np.asarray(weights)[:, 0] @ np.asarray(value)
        rows = sublayer.output_projection(context.transpose(0, 2, 1, 3).reshape(-1, 8))
        total = x + np.reshape(rows, x.shape)
        return total if norm_first else norm(total)

    def read(norm, x):
        return norm(x) if norm_first else x

    _, _, value = layer.self_attention.heads(read(layer.self_attention_norm, x))
    x = by_hand(layer.self_attention, layer.self_attention_norm, scores.causal, value, x)
    _, value = layer.cross_attention.project_memory(memory)
    x = by_hand(layer.cross_attention, layer.cross_attention_norm, scores.cross, value, x)
    inner = layer.feed_forward(read(layer.feed_forward_norm, x))
    x = model.decoder.norm(x + inner) if norm_first else layer.feed_forward_norm(x + inner)
    logits = model.token_embedding.project(np.reshape(x, (-1, 8)))
    assert_close(logits, np.asarray(model.decode(targets, memory, mask))[0])


@each_option
def test_promise_2_batched_equals_single(option):
    model, forward = model_with(option)
    source_lengths, target_lengths = (5, 2, 1, 7), (4, 6, 1, 3)
    sources, targets = batch(model, source_lengths, target_lengths)
    together = forward(sources, targets)
    for row, (s, t) in enumerate(zip(source_lengths, target_lengths, strict=True)):
        alone = forward(sources[row : row + 1, :s], targets[row : row + 1, :t])[0]
        assert_close(alone, together[row, :t])


@each_option
def test_promise_2_padding_changes_nothing(option):
    model, forward = model_with(option)
    sources, targets = batch(model)
    before = forward(sources, targets)
    columns, rows = ((0, 0), (0, 5)), ((0, 2), (0, 0))
    for widths in (columns, rows):
        padded = [
            np.pad(i, widths, constant_values=model.config.pad_id) for i in (sources, targets)
        ]
        after = forward(*padded)
        assert np.isfinite(after).all()
        assert_close(after[:4, : targets.shape[1]], before)


@each_option
def test_promise_2_future_tokens_do_not_leak(option):
    model, forward = model_with(option)
    sources, targets = batch(model, (5,) * 7, (7,) * 7)
    sources[:], targets[:] = sources[0], targets[0]
    before = forward(sources, targets)
    generator = np.random.default_rng(0)
    for step in range(1, 7):  # in row `step` everything from there on is another
        targets[step, step:] = generator.integers(0, model.config.target_vocab_size, 7 - step)
    after = forward(sources, targets)
    for step in range(1, 7):
        assert_close(after[step, :step], before[step, :step], 1e-6)
        assert not np.allclose(after[step, step:], before[step, step:], atol=1e-3)


@needs_tensorflow
def test_promise_2_the_gradient_of_a_position_ends_at_that_position():
    model = tiny_model()
    sources, targets = batch(model, (4, 3), (6, 6))
    memory, mask = model.encode(sources), model.source_mask(sources)
    x = tf.Variable(model.target_positions(model.token_embedding(targets)))
    for step in range(6):
        with tf.GradientTape() as tape:
            rows = model.decoder(x, memory, mask)[:, step]
        size = np.abs(tape.gradient(rows, x, tf.random.normal(rows.shape))).max(axis=(0, 2))
        assert (size[: step + 1] > 0).all()
        assert (size[step + 1 :] == 0).all()


@needs_tensorflow
def test_an_empty_row_has_finite_gradients():
    model = tiny_model()
    sources, targets = batch(model, (4, 1), (3, 1))
    sources[1], targets[1] = model.config.pad_id, model.config.pad_id
    loss = SmoothedCrossEntropy(0.1)
    with tf.GradientTape() as tape:
        value = loss(np.array([[4, 5, 3], [0, 0, 0]]), model((sources, targets)))
    gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)


def test_encode_and_decode_are_the_two_halves_of_the_call():
    model = tiny_model()
    sources, targets = batch(model)
    memory = model.encode(sources)
    assert memory.shape == (4, 7, 8)
    logits = model.decode(targets, memory, model.source_mask(sources))
    np.testing.assert_array_equal(logits, model((sources, targets)))


def test_the_shared_matrix_is_one_weight():
    model = tiny_model(source_vocab_size=13, embeddings="shared")
    matrices = [w for w in model.weights if w.path.endswith("embeddings")]
    assert len(matrices) == 1
    assert matrices[0] is model.token_embedding.embeddings


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([[4, 11, 3]], [[2, 4]], "ids of source_embedding must be from 0 to 10.*ids from 3 to 11"),
        ([[4, 3]], [[2, 13]], "ids of token_embedding must be from 0 to 12.*ids from 2 to 13"),
        ([[4, -1]], [[2, 4]], "ids of source_embedding must be from 0 to 10.*ids from -1 to 4"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(sources, targets, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()((np.array(sources), np.array(targets)))


def test_one_input_instead_of_two_is_refused():
    with pytest.raises(ValueError, match=r"must be a pair"):
        tiny_model()(np.array([[4, 3]]))


def test_learned_positions_say_their_limit():
    model = tiny_model(positions="learned", max_positions=4)
    with pytest.raises(ValueError, match=r"at most max_positions=4 tokens"):
        model(batch(model, (5,), (2,)))


@pytest.mark.jax
def test_learned_positions_say_their_limit_where_ids_are_searched_and_scored():
    model = tiny_model(positions="learned", max_positions=4)
    sizes = (model.config.source_vocab_size, model.config.target_vocab_size)
    tokenizers = [SimpleNamespace(vocab_size=size, pad_id=0, eos_id=3) for size in sizes]
    translator = Translator(model, *tokenizers)
    fits, is_longer = [5, 6, 7, 3], [5, 6, 7, 8, 3]
    for size in (1, 3):
        options = SearchOptions(size, num_hypotheses=size, max_decoding_length=50)
        found = translator.search(np.array([fits]), options)
        assert found.ids.shape[1] == size
        assert found.ids.shape[2] <= 4
    assert np.isfinite(translator.score_ids([fits], [fits])).all()
    with pytest.raises(ValueError, match=r"source_ids must have at most 4 tokens.*Received: 5"):
        translator.search(np.array([is_longer]))
    with pytest.raises(ValueError, match=r"source_rows\[1\] must have at most 4 tokens"):
        translator.score_ids([fits, is_longer], [fits, fits])
    with pytest.raises(ValueError, match=r"target_rows\[0\] must have at most 4 tokens"):
        translator.score_ids([fits, fits], [is_longer, fits])


def test_dropout_is_for_training_only():
    model = tiny_model(dropout=0.5)
    inputs = batch(model)
    np.testing.assert_array_equal(model(inputs), model(inputs, training=False))
    assert not np.allclose(model(inputs, training=True), model(inputs), atol=0.01)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_gives_float32_logits_close_to_float32(policy):
    plain = tiny_model()
    inputs = batch(plain)
    keras.config.set_dtype_policy(policy)
    mixed = Transformer(plain.config)
    mixed.set_weights(plain.get_weights())
    logits = mixed(inputs)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert all(w.dtype == "float32" for w in mixed.weights)
    layer = mixed.decoder.layers[0].cross_attention
    assert layer.compute_dtype == policy.removeprefix("mixed_")
    scores = layer.return_scores(np.ones((1, 2, 8)), np.ones((1, 3, 8)))
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    largest = np.abs(plain(inputs)).max()
    np.testing.assert_allclose(logits, plain(inputs), atol=0.05 * largest)


@pytest.mark.parametrize("option", ["norm_first", "learned_positions", "separate_embeddings"])
def test_promise_1_config_and_keras_file_round_trip(option, tmp_path):
    model, forward = model_with(option)
    again = Transformer.from_config(model.get_config())
    assert again.config == model.config
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = batch(model)
    assert loaded.get_config() == model.get_config()
    assert_close(loaded(inputs), forward(*inputs))


def test_a_config_may_be_a_dict():
    assert Transformer(tiny_config().model_dump()).config == tiny_config()


def test_same_seed_gives_the_same_model_and_the_same_training():
    runs = []
    for _ in range(2):
        model = tiny_model(seed=3, dropout=0.2)
        sources, targets = batch(model)
        model.compile("adam", SmoothedCrossEntropy(0.1), run_eagerly=True)
        inputs = (sources, targets)
        history = model.fit(inputs, targets, batch_size=2, shuffle=False, verbose=0)
        runs.append((history.history["loss"], model.get_weights()))
    assert runs[0][0] == runs[1][0]
    for first, second in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.jax
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_encoder_layers": 2}, "num_encoder_layers is 1, of the file 2"),
        ({"num_heads": 1}, "num_heads is 2, of the file 1"),
        ({"similarity": "cosine"}, "similarity is 'scaled_dot', of the file 'cosine'"),
        ({"norm_first": True}, "norm_first is False, of the file True"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_the_fields_that_differ(
    fields, message, tmp_path
):
    tiny_model(**fields).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=message):
        tiny_model().load_weights(tmp_path / "other.weights.h5")


def test_weights_of_the_same_architecture_load_whatever_the_dropout(tmp_path):
    trained, fresh = tiny_model(seed=1), tiny_model(seed=2, dropout=0.3)
    trained.save_weights(tmp_path / "trained.weights.h5")
    fresh.load_weights(tmp_path / "trained.weights.h5")
    inputs = batch(trained)
    np.testing.assert_array_equal(fresh(inputs), trained(inputs))
