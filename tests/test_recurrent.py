"""`RNNSearch` does what the paper's equations say, and is to fit and Translator what others are."""

import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import numpy_rnnsearch
import pytest
import tensorflow as tf
from numpy_search import Rules, beam_search, by_recomputing, every_output
from tiny_models import assert_close, disturb, source_ids, target_ids

from keras_transformer import backend
from keras_transformer.config import RNNSearchConfig, TransformerConfig
from keras_transformer.data import make_dataset
from keras_transformer.data.builtin import ReversedDigits
from keras_transformer.decoding import reference
from keras_transformer.decoding.generation import generate
from keras_transformer.recurrent import RNNSearch, maxout
from keras_transformer.search_options import SearchOptions
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy
from keras_transformer.translator import Translator

SIZES = {
    "source_vocab_size": 11,
    "target_vocab_size": 13,
    "d_embedding": 5,
    "hidden_size": 6,
    "units": 7,
    "maxout_size": 4,
}
SOURCE_LENGTHS, TARGET_LENGTHS = (5, 2, 1, 7), (4, 6, 1, 3)


def tiny_rnn(seed=0, **fields):
    random.seed(seed)
    model = RNNSearch(RNNSearchConfig(**{**SIZES, **fields}))
    disturb(model, seed)
    return model


def batch(model, source_lengths=SOURCE_LENGTHS, target_lengths=TARGET_LENGTHS):
    config = model.config
    return source_ids(config, source_lengths), target_ids(config, target_lengths)


def compiled(function):
    """`function(source_ids, target_in)` as one graph for every size."""
    graph = backend.compile(function, [((None, None), "int32")] * 2)
    return lambda *ids: np.asarray(graph(*ids))


@pytest.fixture(scope="module")
def model():
    return tiny_rnn()


@pytest.fixture(scope="module")
def forward(model):
    return compiled(lambda sources, targets: model((sources, targets)))


@pytest.fixture(scope="module")
def alignment(model):
    return compiled(model.attention_scores)


@pytest.mark.parametrize(
    "lengths", [(SOURCE_LENGTHS, TARGET_LENGTHS), ((9,), (11,)), ((3, 6), (8, 2))]
)
def test_logits_and_alignment_equal_the_paper_in_numpy(model, forward, alignment, lengths):
    sources, targets = batch(model, *lengths)
    logits, scores = forward(sources, targets), alignment(sources, targets)
    assert scores.shape == (*targets.shape, sources.shape[1])
    largest = 0.0
    for row, (s, t) in enumerate(zip(*lengths, strict=True)):
        expected = numpy_rnnsearch.sentence(model, sources[row, :s], targets[row, :t])
        found = logits[row, :t], scores[row, :t, :s]
        assert np.abs(expected[0]).max() > 0.5
        assert np.ptp(expected[1], axis=0).max() > 0.01 or min(s, t) == 1
        largest = max(largest, *(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)))
        np.testing.assert_array_equal(scores[row, :, s:], 0)
    print(f"largest error {largest:.1e}")
    assert largest <= 1e-5


def test_eager_and_compiled_passes_are_equal(model, forward):
    inputs = batch(model)
    assert_close(model(inputs), forward(*inputs))


def test_number_of_parameters_is_that_of_the_equations(model):
    m, n, units, maxout_size = 5, 6, 7, 4
    encoder = 2 * 3 * (n * m + n * n + n)
    start = n * n + n
    alignment = units * (n + 2 * n) + units
    decoder = 3 * (n * (m + 2 * n) + n * n + n)
    deep = 2 * maxout_size * (n + m + 2 * n + 1)
    output = 13 * (maxout_size + 1)
    embeddings = (11 + 13) * m
    parts = (encoder, start, alignment, decoder, deep, output, embeddings)
    assert model.count_params() == sum(parts)


def test_maxout_takes_the_larger_of_each_pair():
    vectors = np.array([[1.0, 2.0, -3.0, -4.0], [0.0, -1.0, 5.0, 5.0]])
    np.testing.assert_array_equal(maxout(vectors), [[2, -3], [0, 5]])


def test_promise_2_cached_step_equals_the_full_pass(model, forward):
    sources, targets = batch(model, (5, 2, 1), (4, 4, 4))
    full = forward(sources, targets)
    memory = model.project_memory(sources)
    cache = model.init_cache(memory)
    for step in range(4):
        logits, cache = model.decode_step(targets[:, step], step, cache, memory)
        assert logits.dtype == "float32"
        assert_close(logits, full[:, step])


def test_the_cache_does_not_grow_whatever_the_capacity(model):
    sources, targets = batch(model)
    memory = model.project_memory(sources)
    caches = [model.init_cache(memory), model.init_cache(memory, 9), model.init_cache(memory, None)]
    for cache in caches:
        np.testing.assert_array_equal(cache, caches[0])
        _, after = model.decode_step(targets[:, 0], 0, cache, memory)
        assert after.shape == cache.shape == (4, 6)


def test_a_search_may_reorder_the_rows_of_the_cache_alone(model):
    sources, targets = batch(model, (4, 4), (3, 3))
    sources[1] = sources[0]  # two hypotheses of one source
    memory = model.project_memory(sources)
    _, cache = model.decode_step(targets[:, 0], 0, model.init_cache(memory), memory)
    kept, _ = model.decode_step(targets[:, 1], 1, cache, memory)
    swapped, _ = model.decode_step(targets[::-1, 1], 1, keras.ops.flip(cache, 0), memory)
    np.testing.assert_allclose(swapped[::-1], kept, atol=1e-6)
    assert not np.allclose(kept[0], kept[1], atol=1e-3)


def test_promise_2_batched_equals_single(model, forward):
    sources, targets = batch(model)
    together = forward(sources, targets)
    for row, (s, t) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        alone = forward(sources[row : row + 1, :s], targets[row : row + 1, :t])[0]
        assert_close(alone, together[row, :t])


def test_promise_2_padding_changes_nothing(model, forward):
    sources, targets = batch(model)
    before = forward(sources, targets)
    columns, rows = ((0, 0), (0, 5)), ((0, 2), (0, 0))
    for widths in (columns, rows):
        padded = [np.pad(ids, widths) for ids in (sources, targets)]
        after = forward(*padded)
        assert np.isfinite(after).all()
        assert_close(after[:4, : targets.shape[1]], before)


def test_annotations_at_pads_are_never_read(model):
    sources, targets = batch(model)
    memory = model.project_memory(sources)
    pads = (sources == model.config.pad_id)[:, :, None]
    other = memory._replace(
        annotations=np.where(pads, 100, memory.annotations).astype("float32"),
        prepared_key=np.where(pads[:, None], -100, memory.prepared_key).astype("float32"),
    )
    expected, _ = model.decode_step(targets[:, 0], 0, model.init_cache(memory), memory)
    found, _ = model.decode_step(targets[:, 0], 0, model.init_cache(memory), other)
    np.testing.assert_array_equal(found, expected)


def test_promise_2_future_tokens_do_not_leak(model, forward):
    sources, targets = batch(model, (5,) * 7, (7,) * 7)
    sources[:], targets[:] = sources[0], targets[0]
    before = forward(sources, targets)
    generator = np.random.default_rng(0)
    for step in range(1, 7):  # in row `step` everything from there on is another
        targets[step, step:] = generator.integers(0, 13, 7 - step)
    after = forward(sources, targets)
    for step in range(1, 7):
        assert_close(after[step, :step], before[step, :step], 1e-6)
        assert not np.allclose(after[step, step:], before[step, step:], atol=1e-3)


def test_an_empty_source_and_an_empty_row_are_finite(model, forward, alignment):
    sources, targets = batch(model, (4, 1, 1), (3, 3, 1))
    sources[2], targets[2] = model.config.pad_id, model.config.pad_id
    assert sources[1, 0] == model.config.eos_id
    assert np.isfinite(forward(sources, targets)).all()
    scores = alignment(sources, targets)
    np.testing.assert_allclose(scores.sum(axis=-1), [[1] * 3, [1] * 3, [0] * 3], atol=1e-6)
    with tf.GradientTape() as tape:
        value = SmoothedCrossEntropy(0.1)(targets, model((sources, targets)))
    gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)
    moved = [np.abs(tf.convert_to_tensor(gradient)).max() > 0 for gradient in gradients]
    assert all(moved), "every weight learns"


def test_dropout_is_on_in_training_only():
    model = tiny_rnn(dropout=0.5)
    inputs = batch(model)
    np.testing.assert_array_equal(model(inputs), model(inputs))
    in_training = np.asarray(model(inputs, training=True))
    assert np.isfinite(in_training).all()
    assert np.abs(in_training - np.asarray(model(inputs))).max() > 0.1


@pytest.mark.slow
def test_trains_compiled_by_xla():
    backend.make_deterministic(0, jit_compile=True)
    model = tiny_rnn()
    inputs = batch(model)
    model.compile(keras.optimizers.Adam(0.02), SmoothedCrossEntropy(0.0), jit_compile=True)
    losses = [float(model.train_on_batch(inputs, inputs[1])) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.fixture(scope="module")
def trained():
    """A model, its tokenizers and the losses of a short training on digits in reverse."""
    pairs = list(ReversedDigits(2000, max_length=5))
    tokenizer = Tokenizer.train([source for source, _ in pairs], 32, "word")
    keras.utils.set_random_seed(1)
    sizes = {"d_embedding": 16, "hidden_size": 32, "units": 24, "maxout_size": 16, "dropout": 0.05}
    model = RNNSearch(RNNSearchConfig.for_tokenizers(tokenizer, tokenizer, **sizes))
    model.compile(
        keras.optimizers.Adam(0.01, global_clipnorm=1.0),  # as in section B.2
        SmoothedCrossEntropy(0.0),
        metrics=[TokenAccuracy(), Perplexity()],
        jit_compile=False,
    )
    options = {"batch_tokens": 256, "num_shapes": 2}
    batches = make_dataset(pairs, tokenizer, tokenizer, repeat=True, **options)
    held_out = make_dataset(
        ReversedDigits(100, max_length=5, seed=9), tokenizer, tokenizer, shuffle=False, **options
    )
    history = model.fit(
        batches,
        steps_per_epoch=50,
        epochs=3,
        validation_data=held_out,
        shuffle=False,
        verbose=0,
    ).history
    return Translator(model, tokenizer, tokenizer), history


def test_learns_to_reverse(trained):
    _, history = trained
    print({name: [round(value, 3) for value in values] for name, values in history.items()})
    assert history["val_loss"][-1] < 0.5 * history["val_loss"][0]
    assert history["val_token_accuracy"][-1] > 0.8


TEXTS = ["1 2 3", "9 8 7 6 5 4", "", "5", "0 0 7 7 1 3", "4 2"]


def test_greedy_equals_the_loop_that_recomputes_the_whole_prefix(trained):
    translator, _ = trained
    config = translator.config
    found = translator.translate(TEXTS, max_decoding_length=8)
    forward = compiled(lambda sources, targets: translator.model((sources, targets)))
    for text, (hypothesis,) in zip(TEXTS, found, strict=True):
        row = [*translator.source.encode([text])[0], config.eos_id]
        (expected,) = reference.predict(forward, np.array([row]), config, [8])
        ids = hypothesis.tokens + [config.eos_id] * hypothesis.finished
        assert ids == expected.tolist()
    assert sum(hypothesis.finished for (hypothesis,) in found) >= 4


def test_beams_equal_a_search_that_recomputes_the_whole_prefix(trained):
    translator, _ = trained
    config, forward = translator.config, compiled(lambda s, t: translator.model((s, t)))
    found = translator.translate(TEXTS, 3, 3, max_decoding_length=8)
    for text, hypotheses in zip(TEXTS, found, strict=True):
        source = np.array([*translator.source.encode([text])[0], config.eos_id])
        rules = Rules(config.eos_id, (config.pad_id, *config.banned_ids), 8)
        expected, _ = beam_search(by_recomputing(forward, config, source, 8), rules, 3, 3)
        ids = [tuple(h.tokens + [config.eos_id] * h.finished) for h in hypotheses]
        assert ids == [output.ids for output in expected]
        np.testing.assert_allclose(
            [h.score for h in hypotheses], [o.score for o in expected], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_beams_that_cover_the_tree_find_what_brute_force_finds(alpha):
    model = tiny_rnn(2, source_vocab_size=5, target_vocab_size=5)  # two letters
    config, limit = model.config, 3
    sources = source_ids(config, (4, 1))
    found = generate(
        model, sources, beam_size=8, num_hypotheses=8, length_penalty=alpha,
        max_decoding_length=limit, early_stopping=False,
    )  # fmt: skip
    forward = compiled(lambda s, t: model((s, t)))
    rules = Rules(config.eos_id, (config.pad_id, *config.banned_ids), limit, alpha)
    for row, source in enumerate(sources):
        expected = every_output(by_recomputing(forward, config, source, limit), rules, 5)[:8]
        ids = [tuple(int(i) for i in ids if i != config.pad_id) for ids in found.ids[row].numpy()]
        assert ids == [output.ids for output in expected]
        np.testing.assert_allclose(found.scores[row], [o.score for o in expected], rtol=1e-4)


def test_score_is_the_sum_of_the_log_probabilities(trained):
    translator, _ = trained
    eos, start = translator.config.eos_id, translator.config.start_id
    targets = [" ".join(reversed(text.split())) for text in TEXTS]
    expected = []
    for source, target in zip(TEXTS, targets, strict=True):
        sources = np.array([[*translator.source.encode([source])[0], eos]])
        out = np.array([*translator.target.encode([target])[0], eos])
        target_in = np.array([[start, *out[:-1]]])
        logits = np.asarray(translator.model((sources, target_in)))[0].astype("float64")
        chosen = logits[np.arange(len(out)), out]
        expected.append((chosen - np.log(np.exp(logits).sum(axis=-1))).sum())
    np.testing.assert_allclose(translator.score(TEXTS, targets), expected, rtol=1e-4, atol=1e-4)


def test_scores_of_greedy_are_those_of_the_full_model(trained):
    translator, _ = trained
    found = [hypotheses[0] for hypotheses in translator.translate(TEXTS, length_penalty=0.0)]
    finished = [index for index, hypothesis in enumerate(found) if hypothesis.finished]
    rescored = translator.score(
        [TEXTS[index] for index in finished], [found[index].text for index in finished]
    )
    np.testing.assert_allclose(
        [found[index].score for index in finished], rescored, rtol=1e-4, atol=1e-4
    )


def test_the_alignment_of_a_trained_model_runs_backward(trained):
    """Reversing a text is reading it from its end: the figure that the paper's figure 3 is for."""
    translator, _ = trained
    text = "3 1 4 1 5 9"
    source = np.array([[*translator.source.encode([text])[0], translator.config.eos_id]])
    target = np.array([[translator.config.start_id, *source[0, :-1][::-1]]])
    scores = np.asarray(translator.model.attention_scores(source, target))[0]
    places = scores @ np.arange(7)  # where each target position looks, on the average
    assert np.corrcoef(places[:6], np.arange(6))[0, 1] < -0.8


def test_config_and_keras_file_round_trip(model, tmp_path):
    config = model.get_config()
    again = RNNSearch.from_config(config)
    assert again.config == model.config
    assert again.get_config() == config
    again.set_weights(model.get_weights())
    inputs = batch(model)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(inputs), model(inputs))
    cell = model.decoder.cell
    copy = type(cell).from_config(cell.get_config())
    assert (copy.hidden_size, copy.units) == (6, 7)


def test_keras_file_reloads_in_a_fresh_process_on_jax_and_searches_and_trains_there(
    trained, tmp_path
):
    translator, _ = trained
    ids = np.array([[5, 6, 7, 3, 0], [8, 3, 0, 0, 0], [3, 0, 0, 0, 0], [4, 5, 6, 7, 3]], "int32")
    translator.model.save(tmp_path / "model.keras")
    translator.target.save(tmp_path / "tokenizer.model")
    np.savez(
        tmp_path / "expected.npz",
        ids=ids,
        logits=translator.model((ids, ids)),
        found=translator.search(ids, SearchOptions(3, 2, max_decoding_length=8)).ids,
        greedy=translator.search(ids, SearchOptions(max_decoding_length=8)).ids,
    )
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "export")])
    result = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "jax"},
        timeout=240,
    )
    print(result.stdout)
    assert result.stdout.splitlines()[-1:] == ["done on jax"], result.stderr[-3000:]


RELOAD = """
import sys
from pathlib import Path
import numpy as np
import keras_transformer as kt
from keras_transformer import recurrent
from keras_transformer.search_options import SearchOptions
import keras
folder = Path(sys.argv[1])
expected = np.load(folder / "expected.npz")
ids = expected["ids"]
model = keras.saving.load_model(folder / "model.keras", compile=False)
largest = np.abs(np.asarray(model((ids, ids))) - expected["logits"]).max()
print(f"largest difference {largest:.1e}")
assert largest <= 1e-5 * max(1, np.abs(expected["logits"]).max())
tokenizer = kt.Tokenizer.load(folder / "tokenizer.model")
translator = kt.Translator(model, tokenizer, tokenizer)
for name, sizes in (("greedy", (1, 1)), ("found", (3, 2))):
    found = translator.search(ids, SearchOptions(*sizes, max_decoding_length=8)).ids
    np.testing.assert_array_equal(found, expected[name])
model.compile(keras.optimizers.Adam(0.001), kt.losses.SmoothedCrossEntropy(0.1))
losses = [float(model.train_on_batch((ids, ids), ids)) for _ in range(4)]
assert losses[-1] < losses[0], losses
print("done on", keras.backend.backend())
"""


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_logits_near_those_of_float32(model, policy):
    inputs = batch(model)
    keras.config.set_dtype_policy(policy)
    mixed = RNNSearch(model.config)
    mixed.set_weights(model.get_weights())
    logits = mixed(inputs)
    assert logits.dtype == "float32"
    assert mixed.encode(inputs[0]).dtype == policy.removeprefix("mixed_")
    assert mixed.attention_scores(*inputs).dtype == "float32"
    np.testing.assert_allclose(logits, model(inputs), atol=0.1)


def test_sizes_default_to_the_papers():
    config = RNNSearchConfig(source_vocab_size=30000, target_vocab_size=30000)
    sizes = (config.d_embedding, config.hidden_size, config.units, config.maxout_size)
    assert sizes == (620, 1000, 1000, 500)
    assert (config.dropout, config.longest) == (0.0, None)


def test_a_config_for_tokenizers_takes_their_sizes_and_ids():
    source = Tokenizer.train(["a b c d e"] * 3, 20, "char")
    target = Tokenizer.train(["e f g"] * 3, 20, "word")
    config = RNNSearchConfig.for_tokenizers(source, target, hidden_size=8, decoder_start_id=3)
    transformer = TransformerConfig.for_tokenizers("tiny", source, target)
    assert config.source_vocab_size == source.vocab_size != target.vocab_size
    for name in ("source_vocab_size", "target_vocab_size", "pad_id", "unk_id", "bos_id", "eos_id"):
        assert getattr(config, name) == getattr(transformer, name)
    assert (config.hidden_size, config.units, config.start_id) == (8, 1000, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 0}, "hidden_size.*Received: hidden_size=0"),
        ({"dropout": 1.0}, "dropout.*Received: dropout=1.0"),
        ({"unit": 4}, "unit: unknown setting. Did you mean 'units'"),
        ({"d_model": 4}, "d_model: unknown setting"),
        ({"pad_id": 3}, "pad_id and eos_id must differ.*pad_id=3, eos_id=3"),
        ({"eos_id": 11}, "eos_id must be inside both vocabularies, below 11"),
    ],
)
def test_contradictory_or_unknown_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RNNSearchConfig(**{**SIZES, **fields})


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([[4, 11, 3]], [[2, 4]], "ids of source_embedding must be from 0 to 10.*ids from 3 to 11"),
        ([[4, 3]], [[2, 13]], "ids of token_embedding must be from 0 to 12.*ids from 2 to 13"),
        ([4, 3], [[2, 4]], "must be ids of two axes"),
    ],
)
def test_wrong_ids_are_refused(model, sources, targets, message):
    with pytest.raises(ValueError, match=message):
        model((np.array(sources), np.array(targets)))
