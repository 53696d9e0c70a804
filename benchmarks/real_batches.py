"""Training on real text: our batches of few shapes, and KerasHub's batches of one fixed length.

The fixed length is that of the example 'English-to-Spanish translation with KerasHub' at
https://keras.io/examples/nlp/neural_machine_translation_with_keras_hub (its source: keras-io,
examples/nlp/neural_machine_translation_with_keras_hub.py): MAX_SEQUENCE_LENGTH = 40 on both sides,
BATCH_SIZE = 64, longer texts cut. Its text goes through one vocabulary here, ours, and its model,
optimizer and loss are those of the other side (layer_contestants.py), so that only the batches and
the layers differ. Its ids are made beforehand, ours in the process, by `make_dataset`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from layer_contestants import Sizes, keras_hub_model, on, our_model
from layers import cpu_seconds, peak_bytes
from turns import Answer, Runner

ROWS, LENGTH = 64, 40  # of the example
LONGEST = 100  # ids of a side of ours, as in the recipe multi30k
TINY = Sizes(4, 128, 256, 4, batch=ROWS, source=LENGTH, target=LENGTH, dropout=0.3, shared=True)


@dataclass(frozen=True)
class Corpus:
    """Two files line by line, and what is made of them in `folder`.

    Attributes:
        batch_tokens: the most positions of a batch of ours on either side.
    """

    source: Path
    target: Path
    folder: Path
    vocabulary: int = 10_000
    batch_tokens: int = ROWS * LENGTH

    @property
    def tokenizer(self) -> Path:
        """The joint tokenizer."""
        return self.folder / "joint.model"

    @property
    def arrays(self) -> Path:
        """Rows of a fixed length, for KerasHub."""
        return self.folder / "fixed.npz"


class Prepared(NamedTuple):
    """Pairs, pieces of the vocabulary, and pairs that the fixed length cuts."""

    pairs: int
    vocabulary: int
    cut: int


class Batches(NamedTuple):
    """A compiled model, one batch of each shape, batches without end, their share of padding."""

    model: Any
    shapes: list[Any]
    stream: Iterator[Any]
    padding: float


class Turn(NamedTuple):
    """Some steps: real target tokens, seconds, CPU seconds, and the most bytes held so far."""

    tokens: int
    seconds: float
    cpu: float
    peak: int


def prepare(corpus: Corpus) -> Prepared:
    """Train the tokenizer, and write the rows of a fixed length."""
    import keras_transformer as kt

    pairs = list(kt.data.ParallelFiles(corpus.source, corpus.target))
    tokenizer = kt.Tokenizer.train(chain.from_iterable(pairs), corpus.vocabulary, "bpe")
    tokenizer.save(corpus.tokenizer)
    sources, targets = (tokenizer.encode(list(texts)) for texts in zip(*pairs, strict=True))
    end, start = tokenizer.eos_id, tokenizer.bos_id
    source = np.stack([fixed([*ids[: LENGTH - 1], end], LENGTH) for ids in sources])
    target = np.stack([fixed([start, *ids[: LENGTH - 1], end], LENGTH + 1) for ids in targets])
    np.savez(corpus.arrays, source=source, target=target)
    longest = (max(len(s), len(t)) for s, t in zip(sources, targets, strict=True))
    return Prepared(len(pairs), tokenizer.vocab_size, sum(ids >= LENGTH for ids in longest))


def fixed(ids: list[int], length: int) -> np.ndarray:
    """Return int32 `[length]`, padded with 0 on the right."""
    return np.pad(np.array(ids, "int32"), (0, length - len(ids)))


def ours(corpus: Corpus, sizes: Sizes) -> Batches:
    """Return our model, and the batches of `make_dataset`."""
    import keras_transformer as kt

    tokenizer = kt.Tokenizer.load(corpus.tokenizer)
    dataset = kt.data.make_dataset(
        kt.data.ParallelFiles(corpus.source, corpus.target),
        tokenizer,
        tokenizer,
        corpus.batch_tokens,
        repeat=True,
        max_source_length=LONGEST,
        max_target_length=LONGEST,
    )
    stream = kt.data.stream_of(dataset)
    shapes = {
        (source_ids.shape, target_in.shape): ((source_ids, target_in), target_out)
        for source_ids, target_in, target_out in stream.batches()
    }
    padding = stream.statistics().padding_waste
    return Batches(our_model(sizes), list(shapes.values()), iter(dataset), padding)


def ours_giving_back(corpus: Corpus, sizes: Sizes) -> Batches:
    """Return ours as it would be if glibc gave freed memory back to the system."""
    from keras_transformer import backend

    backend.keep_freed_memory = lambda: None
    return ours(corpus, sizes)


def keras_hub(corpus: Corpus, sizes: Sizes) -> Batches:
    """Return KerasHub's model, and batches of a fixed length in random order."""
    model = keras_hub_model(sizes)
    import tensorflow as tf

    with np.load(corpus.arrays) as arrays:
        source, target = arrays["source"], arrays["target"]
    target_in, target_out = target[:, :-1], target[:, 1:]
    rows = tf.data.Dataset.from_tensor_slices(((source, target_in), target_out))
    dataset = rows.batch(sizes.batch, drop_remainder=True).shuffle(2048, seed=0).repeat()
    padding = (np.mean(source == 0) + np.mean(target_out == 0)) / 2
    return Batches(model, list(dataset.take(1)), iter(dataset.prefetch(16)), float(padding))


Maker = Callable[[Corpus, Sizes], Batches]
GIVING_BACK = "ours, TensorFlow, memory given back"
CONTESTANTS: dict[str, tuple[Maker, dict[str, str]]] = {
    "ours, TensorFlow": (ours, on("tensorflow", False)),
    "ours, TensorFlow, jit": (ours, on("tensorflow", True)),
    "KerasHub, TensorFlow": (keras_hub, on("tensorflow", False)),
    "KerasHub, TensorFlow, jit": (keras_hub, on("tensorflow", True)),
    GIVING_BACK: (ours_giving_back, on("tensorflow", False)),
}


def get_ready(name: str, corpus: Corpus, sizes: Sizes) -> tuple[tuple[int, int, float], Answer]:
    """Make a step of every shape; return parameters, shapes, padding, and the measurement."""
    make, _ = CONTESTANTS[name]
    model, shapes, stream, padding = make(corpus, sizes)
    for inputs, target_out in shapes:
        model.train_on_batch(inputs, target_out)

    def measure(steps: Any) -> Turn:
        tokens, begun, used = 0, time.perf_counter(), cpu_seconds()
        for _ in range(steps):
            inputs, target_out = next(stream)
            tokens += int(np.count_nonzero(target_out))
            model.train_on_batch(inputs, target_out)
        return Turn(tokens, time.perf_counter() - begun, cpu_seconds() - used, peak_bytes())

    measure(2)
    return (model.count_params(), len(shapes), padding), measure


@dataclass
class Entry:
    """A process and what was measured of it."""

    runner: Runner
    parameters: int = 0
    shapes: int = 0
    padding: float = 0.0
    turns: list[Turn] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Real target tokens a second, round by round."""
        return [turn.tokens / turn.seconds for turn in self.turns]


def compare(
    names: list[str], corpus: Corpus, sizes: Sizes, rounds: int, steps: int, threads: int
) -> list[Entry]:
    """Let the contestants take turns of some steps."""
    entries: list[Entry] = []
    for name in names:  # XLA compiles each shape, which takes its time
        log = corpus.folder / f"{name}.log"
        entries.append(Entry(Runner(name, log, patience=3600)))
    try:
        for entry in entries:
            _, environment = CONTESTANTS[entry.runner.name]
            arguments = (entry.runner.name, corpus, sizes)
            ready = entry.runner.start(get_ready, arguments, environment, threads)
            if ready:
                entry.parameters, entry.shapes, entry.padding = ready
        for number in range(rounds):
            turn = number % len(entries)  # nobody always comes after the same neighbour
            for entry in entries[turn:] + entries[:turn]:
                answer = entry.runner.ask(steps)
                if answer:
                    entry.turns.append(answer)
    finally:
        for entry in entries:
            entry.runner.end()
    return entries


def better(entries: list[Entry], beginning: str) -> Entry | None:
    """Return the faster setting of a side: the greatest median of tokens a second."""
    side = [
        entry
        for entry in entries
        if entry.turns
        and entry.runner.name.startswith(beginning)
        and entry.runner.name != GIVING_BACK
    ]
    return max(side, key=lambda entry: median(entry.speeds), default=None)


def sizes_for(vocabulary: int, small: bool) -> Sizes:
    """Return the tiny preset with this vocabulary; `small`: less of it, to try the script."""
    tiny = replace(TINY, vocabulary=vocabulary)
    return replace(tiny, layers=1, d_model=32) if small else tiny
