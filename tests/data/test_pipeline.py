"""`make_dataset`: the batches as a tf.data.Dataset for Keras."""

import subprocess
import sys

import numpy as np
import pytest

from keras_transformer import backend, data
from keras_transformer.data import make_dataset, padding_waste, stream_of
from keras_transformer.data.batching import BatchStream
from keras_transformer.data.pipeline import _as_dataset
from keras_transformer.text.tokenizer import Tokenizer

tf = backend.import_tensorflow()

PAIRS = [
    (" ".join("abcd"[(i + k) % 4] for k in range(i % 7 + 1)), "ab" * (i % 5 + 1)) for i in range(90)
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["a b c d ab"], 50, "char")


def batches(dataset, count=None):
    iterator = iter(dataset if count is None else dataset.take(count))
    return [(s.numpy().tolist(), i.numpy().tolist(), o.numpy().tolist()) for (s, i), o in iterator]


def test_elements_are_inputs_and_shifted_targets(tokenizer):
    dataset = make_dataset([("a b", "d")], tokenizer, tokenizer, batch_tokens=4)
    spec = tf.TensorSpec([None, None], tf.int32)
    assert dataset.element_spec == ((spec, spec), spec)
    pieces, (t1, t2) = tokenizer.encode(["a b"])[0], tokenizer.encode(["d"])[0]
    assert len(pieces) == 4
    assert batches(dataset) == [([[*pieces, 3]], [[2, t1, t2]], [[t1, t2, 3]])]


def test_each_fresh_iteration_is_the_next_epoch(tokenizer):
    dataset = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    first, second = batches(dataset), batches(dataset)
    assert first != second
    texts = [
        sorted(tokenizer.decode(row for ids, _, _ in epoch for row in ids if any(row)))
        for epoch in (first, second)
    ]
    assert texts[0] == texts[1] == sorted(source for source, _ in PAIRS)
    again = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    assert [batches(again), batches(again)] == [first, second]


def test_validation_has_the_same_order_every_time(tokenizer):
    dataset = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60, shuffle=False)
    assert batches(dataset) == batches(dataset)


def test_an_endless_stream_resumes_exactly(tokenizer):
    def stream(start_step=0):
        return make_dataset(
            PAIRS, tokenizer, tokenizer, batch_tokens=60, seed=5, repeat=True, start_step=start_step
        )

    steps = stream_of(stream()).steps_per_epoch
    uninterrupted = batches(stream(), 3 * steps)
    for start in (1, steps, 2 * steps - 1):
        resumed = stream(start)
        assert batches(resumed, 5) == uninterrupted[start : start + 5]
        # Keras may look at a batch first and start again.
        assert batches(resumed, 5) == uninterrupted[start : start + 5]


def test_a_start_step_without_repeat_goes_on_there_in_epochs_of_full_length(tokenizer):
    whole = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    epochs = [batches(whole) for _ in range(4)]
    steps = len(epochs[0])
    uninterrupted = [batch for epoch in epochs for batch in epoch]
    resumed = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60, start_step=steps + 2)
    assert resumed.cardinality().numpy() == steps
    assert batches(resumed) + batches(resumed) == uninterrupted[steps + 2 : 3 * steps + 2]


def test_fit_takes_every_batch_from_a_start_step_on(tokenizer):
    """Keras keeps the length of the first epoch for all others."""
    import keras

    class Counted(keras.Model):
        def __init__(self):
            super().__init__()
            self.scale = self.add_weight(shape=(), name="scale")

        def call(self, ids):
            return keras.ops.cast(ids[1], "float32") * self.scale

    dataset = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    steps = len(dataset)
    resumed = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60, start_step=2 * steps - 1)
    model = Counted()
    model.compile("sgd", "mse")
    model.fit(resumed, epochs=3, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 3 * steps


def test_cardinality_is_known(tokenizer):
    dataset = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    assert dataset.cardinality().numpy() == len(batches(dataset)) == len(dataset)
    endless = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60, repeat=True)
    assert endless.cardinality().numpy() == tf.data.INFINITE_CARDINALITY


def test_padding_waste_measures_what_statistics_say(tokenizer):
    dataset = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    assert padding_waste(dataset) == pytest.approx(stream_of(dataset).statistics().padding_waste)
    endless = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60, repeat=True)
    assert 0 <= padding_waste(endless, batches=3) < 1
    with pytest.raises(ValueError, match="at least one batch"):
        padding_waste(dataset, batches=0)


def test_an_empty_or_unusable_corpus_is_refused_at_once(tokenizer):
    with pytest.raises(ValueError, match="at least one pair"):
        make_dataset([], tokenizer, tokenizer)
    with pytest.raises(ValueError, match="not an iterator"):
        make_dataset(iter(PAIRS), tokenizer, tokenizer)
    with pytest.raises(ValueError, match="start_step must be an integer from 0"):
        make_dataset(PAIRS, tokenizer, tokenizer, start_step=-1)
    with pytest.raises(ValueError, match=r"source of pairs\[0\] must have ids from 0 to"):
        make_dataset([([10_000], [4])], tokenizer, tokenizer)


def test_an_error_in_a_later_pool_is_kept_as_it_was(tokenizer):
    class Broken:
        def __iter__(self):
            yield from PAIRS[:60]
            raise ValueError("corpus.tsv:61: broken")

    stream = BatchStream(Broken(), tokenizer, tokenizer, batch_tokens=60, pool_size=30)
    dataset = _as_dataset(stream, repeat=False, start_step=0)
    with pytest.raises(tf.errors.OpError, match=r"corpus.tsv:61: broken"):
        batches(dataset)
    assert str(stream_of(dataset).failure) == "corpus.tsv:61: broken"


def test_the_stream_of_another_dataset_is_refused(tokenizer):
    dataset = make_dataset(PAIRS, tokenizer, tokenizer)
    for other in (tf.data.Dataset.range(3), dataset.take(1)):
        with pytest.raises(ValueError, match="dataset must be what make_dataset returned"):
            stream_of(other)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_keras_fits_evaluates_and_predicts_on_it(tokenizer):
    import keras

    class Tiny(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = keras.layers.Embedding(tokenizer.vocab_size, 4)
            self.out = keras.layers.Dense(tokenizer.vocab_size)

        def call(self, inputs):
            source_ids, target_in = inputs
            memory = keras.ops.mean(self.embed(source_ids), axis=1, keepdims=True)
            return self.out(self.embed(target_in) + memory)

    model = Tiny()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    model.compile(keras.optimizers.Adam(0.05), loss)
    train = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60)
    validation = make_dataset(PAIRS[:20], tokenizer, tokenizer, batch_tokens=60, shuffle=False)
    history = model.fit(train, validation_data=validation, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert np.isfinite(model.evaluate(validation, verbose=0))
    endless = make_dataset(PAIRS, tokenizer, tokenizer, batch_tokens=60, repeat=True)
    model.fit(endless, epochs=2, steps_per_epoch=3, verbose=0)
    assert model.optimizer.iterations.numpy() == 2 * stream_of(train).steps_per_epoch + 6


def test_importing_data_and_batching_loads_no_tensorflow():
    code = (
        "import sys; from keras_transformer import data; data.PairFile, data.BatchStream, "
        "data.CmuDict; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("False False", "")


def test_every_public_name_of_data_resolves():
    assert all(getattr(data, name) is not None for name in data.__all__)
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="no attribute 'make_datasets'"):
        data.make_datasets  # noqa: B018


def test_the_shards_of_a_batch_are_the_batch_of_one_process(tokenizer):
    def shards(count, devices):
        options = {"batch_tokens": 60, "seed": 3, "devices": devices}
        return [
            batches(make_dataset(PAIRS, tokenizer, tokenizer, shard=(i, count), **options))
            for i in range(count)
        ]

    (whole,) = shards(1, 1)
    for parts in zip(whole, *shards(3, 2), strict=True):
        batch, parts = parts[0], parts[1:]
        for ids, blocks in zip(batch, zip(*parts, strict=True), strict=True):
            assert len({len(block) for block in blocks}) == 1
            assert len(blocks[0]) % 2 == 0
            together = [row for block in blocks for row in block]
            assert together[: len(ids)] == ids
            assert not any(any(row) for row in together[len(ids) :])
            assert len(together) - len(ids) < 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (2, 2)}, r"shard must be \(index, count\).*\(2, 2\)"),
        ({"shard": (0.5, 2)}, "shard must be"),
        ({"shard": (0, 1, 2)}, "shard must be"),
        ({"devices": 0}, "devices must be an integer from 1.*devices=0"),
        ({"devices": "2"}, "devices must be an integer from 1"),
    ],
)
def test_a_wrong_shard_is_refused(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(PAIRS, tokenizer, tokenizer, **options)
