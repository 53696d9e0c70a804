import keras
import numpy as np
import numpy_transformer
import pytest
import tensorflow as tf
from tiny_models import (
    OPTIONS,
    assert_close,
    model_with,
    source_ids,
    target_ids,
    tiny_config,
    tiny_model,
)

from keras_transformer.config import PRESETS, TransformerConfig
from keras_transformer.model import Transformer
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy

each_option = pytest.mark.parametrize("option", OPTIONS)


def batch(model, source_lengths=(5, 2, 1, 7), target_lengths=(4, 6, 1, 3)):
    config = model.config
    return source_ids(config, source_lengths), target_ids(config, target_lengths)


@each_option
def test_forward_pass_equals_the_paper_in_numpy(option):
    model, forward = model_with(option)
    for lengths in ([(5, 2, 1, 7), (4, 6, 1, 3)], [(9,), (11,)]):
        inputs = batch(model, *lengths)
        expected = numpy_transformer.logits(model, *inputs)
        assert np.abs(expected).max() > 0.5
        assert_close(forward(*inputs), expected)


def test_eager_and_compiled_passes_are_equal():
    model, forward = model_with("norm_first")
    inputs = batch(model)
    assert_close(model(inputs), forward(*inputs))


def attention_parameters(config):
    d, heads, key, value = config.d_model, config.num_heads, config.key_size, config.value_size
    return (2 * key + value) * heads * (d + 1) + (heads * value + 1) * d


def expected_parameters(config):
    """The formulas of the paper's layers, biases included."""
    d, f = config.d_model, config.d_ff
    feed_forward = 2 * d * f + f + d
    encoder = attention_parameters(config) + feed_forward + 4 * d
    decoder = 2 * attention_parameters(config) + feed_forward + 6 * d
    norms = 4 * d if (config.norm_first and config.final_norm is None) or config.final_norm else 0
    source, target = config.source_vocab_size * d, config.target_vocab_size * d
    matrices = {"shared": target, "tied": source + target, "separate": source + 2 * target}
    positions = 2 * config.max_positions * d if config.positions == "learned" else 0
    bias = config.target_vocab_size if config.output_bias else 0
    stacks = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return stacks + norms + matrices[config.embeddings] + positions + bias


@each_option
def test_number_of_parameters_is_the_formulas(option):
    model, _ = model_with(option)
    assert model.count_params() == expected_parameters(model.config)


@pytest.mark.parametrize("name", PRESETS)
def test_number_of_parameters_of_each_preset(name):
    sizes = {"source_vocab_size": 5, "target_vocab_size": 5, "embeddings": "shared"}
    whole = TransformerConfig.preset(name, **sizes)
    one_layer = TransformerConfig.preset(name, num_layers=1, **sizes)
    d, f = whole.d_model, whole.d_ff
    assert Transformer(one_layer).count_params() == expected_parameters(one_layer)
    encoder = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    decoder = 8 * (d * d + d) + 2 * d * f + f + d + 6 * d
    layers = whole.num_encoder_layers
    assert expected_parameters(whole) == layers * (encoder + decoder) + 5 * d


def test_published_numbers_of_parameters():
    base = TransformerConfig.preset("base", source_vocab_size=5, target_vocab_size=5)
    assert expected_parameters(base) - 2 * 5 * 512 == 44_138_496
    sizes = {"source_vocab_size": 10_000, "target_vocab_size": 10_000, "embeddings": "shared"}
    tiny = Transformer(TransformerConfig.preset("tiny", **sizes))
    assert tiny.count_params() == 2_605_056


@each_option
def test_promise_2_cached_step_equals_the_full_pass(option):
    model, forward = model_with(option)
    sources, targets = batch(model, (5, 2, 1), (4, 4, 4))
    full = forward(sources, targets)
    memory = model.project_memory(sources)
    cache = model.init_cache(memory)
    for step in range(4):
        logits, cache = model.decode_step(targets[:, step], step, cache, memory)
        assert_close(logits, full[:, step])


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


# What Keras users try first.


@pytest.fixture(scope="module")
def compiled():
    model = tiny_model()
    metrics = [TokenAccuracy(), Perplexity()]
    model.compile("adam", SmoothedCrossEntropy(0.1), metrics=metrics, run_eagerly=True)
    return model


def test_predict_takes_arrays_in_a_tuple_or_a_list_and_a_batch_size(compiled):
    sources, targets = batch(compiled)
    expected = np.asarray(compiled((sources, targets)))
    for inputs, size in (((sources, targets), None), ([sources, targets], 3)):
        found = compiled.predict(inputs, batch_size=size, verbose=0)
        assert_close(found, expected)
    found = compiled.predict_on_batch((sources, targets))
    assert_close(found, expected)


def test_evaluate_gives_the_same_for_every_batch_size(compiled):
    sources, targets = batch(compiled)
    outputs = np.roll(targets, -1, axis=1)
    results = [
        compiled.evaluate((sources, targets), outputs, batch_size=n, verbose=0, return_dict=True)
        for n in (3, 4)
    ]
    assert set(results[0]) == {"loss", "token_accuracy", "perplexity"}
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_training_and_saving_by_kerass_own_methods(tmp_path):
    model = tiny_model()
    sources, targets = batch(model)
    outputs = np.roll(targets, -1, axis=1)
    model.compile(keras.optimizers.Adam(0.03), SmoothedCrossEntropy(0.0), metrics=[TokenAccuracy()])
    losses = model.fit((sources, targets), outputs, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 20
    before = model.evaluate((sources, targets), outputs, verbose=0)
    assert again.evaluate((sources, targets), outputs, verbose=0) == pytest.approx(before)
    model.summary(print_fn=lambda text, **_: None)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = Transformer(model.config)
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh((sources, targets)), model((sources, targets)))


def test_kerass_own_losses_and_metrics_train_it_too():
    model = tiny_model()
    sources, targets = batch(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    history = model.fit((sources, targets), targets, epochs=2, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    assert history["loss"][1] < history["loss"][0]
    expected = float(loss(targets, model((sources, targets))))
    found = model.evaluate((sources, targets), targets, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_kerass_own_export_writes_a_saved_model_for_any_size(tmp_path):
    model = tiny_model()
    model.export(tmp_path / "saved", verbose=False)
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    for lengths in ([(5, 2), (4, 6)], [(1,), (1,)], [(9, 9, 3), (2, 1, 2)]):
        sources, targets = batch(model, *lengths)
        found = serve(source_ids=sources, target_in=targets)
        expected = model((sources, targets))
        assert_close(*found.values(), expected)


def test_kerass_own_export_writes_an_onnx_file_for_any_size(tmp_path):
    import onnxruntime

    model = tiny_model()
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for lengths in ([(5, 2), (4, 6)], [(1,), (1,)]):
        sources, targets = batch(model, *lengths)
        found = session.run(None, {"source_ids": sources, "target_in": targets})[0]
        assert_close(found, model((sources, targets)))


def test_same_seed_gives_the_same_model_and_the_same_training():
    runs = []
    for _ in range(2):
        model = tiny_model(seed=3, dropout=0.2)
        sources, targets = batch(model)
        model.compile("adam", SmoothedCrossEntropy(0.1), run_eagerly=True)
        history = model.fit((sources, targets), targets, batch_size=2, epochs=1, verbose=0)
        runs.append((history.history["loss"], model.get_weights()))
    assert runs[0][0] == runs[1][0]
    for first, second in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_array_equal(first, second)
