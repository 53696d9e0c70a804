"""How well the model translates while it trains: measured, shown, and what it is chosen by."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.text import Text

from keras_transformer.data.corpus import Pair
from keras_transformer.evaluation import LABELS
from keras_transformer.recipe import RunConfig, TrainingConfig
from keras_transformer.search_options import check_count
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training.best import Best
from keras_transformer.training.checkpoints import save_inference_model
from keras_transformer.training.quality import METRICS, Tokenize, measure, take_examples
from keras_transformer.translator import Translator

WIDTH = 80  # of a terminal, and of a cell in a notebook
SHOWN = 2  # outputs at each evaluation of a recipe


class TranslationQuality(keras.callbacks.Callback):
    """Decodes some pairs at the end of an epoch of `fit` and says how good the outputs are.

    Adds `val_bleu`, `val_chrf`, `val_exact_match`, `val_wer` or `val_per` to the logs, as `metrics`
    says, so that `History`, `CSVLogger` and others behind this callback have them. Shows a few
    outputs beside their references. Keeps the best model in `best_path`, and ends training once
    `patience` evaluations have brought nothing better. What is trained is the same with it and
    without.

    Args:
        pairs: (source, target) texts that are not trained on.
        source: tokenizer of the source side.
        target: tokenizer of the target side.
        metrics: what is measured, of `bleu`, `chrf`, `exact_match`, `wer` and `per`. The first
            says how pairs become examples: see `quality.take_examples`.
        every: it is measured at each so many-th epoch: an evaluation. Logs of the epochs between
            have no such value, as with `validation_freq` of `fit`; `CSVLogger`, whose columns are
            those of the first epoch, wants 1.
        num_examples: how many examples are decoded; None: all.
        best_by: the metric that the best model is chosen by; None: the first of `metrics`.
        patience: evaluations without a better value after which training ends; None: never.
        best_path: a `.keras` file for the best model, for inference; None: none is kept.
        samples: how many outputs are shown; 0: nothing is printed.
        console: where to; None: a rich console of its own.
        tokenize: sacrebleu's tokenizer for BLEU: "13a", or "none" for text that is tokenised.
        options: of `Translator.translate`, such as `beam_size`; by default greedy search.

    Attributes:
        best: a `Best`: its metric, its value so far, and the evaluations since.
        outputs: the outputs of the last evaluation, in the order of the examples.

    Raises:
        ValueError: no pairs, an unknown metric, or a number out of range.
        ImportError: sacrebleu or rapidfuzz is needed and not installed.

    Example:
        >>> quality = kt.callbacks.TranslationQuality(
        ...     pairs, source, target, metrics=("bleu", "chrf"), patience=5, best_path="best.keras"
        ... )  # doctest: +SKIP
        >>> model.fit(batches, epochs=50, callbacks=[quality])  # doctest: +SKIP
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        source: Tokenizer,
        target: Tokenizer,
        metrics: Sequence[str] = ("bleu", "chrf"),
        *,
        every: int = 1,
        num_examples: int | None = 200,
        best_by: str | None = None,
        patience: int | None = None,
        best_path: str | os.PathLike[str] | None = None,
        samples: int = 3,
        console: Console | None = None,
        tokenize: Tokenize = "13a",
        **options: Any,
    ):
        super().__init__()
        self.metrics = _checked(metrics)
        self.best = Best(self._chosen(best_by))
        check_count("every", every)
        for name, value in (("patience", patience), ("num_examples", num_examples)):
            if value is not None:
                check_count(name, value)
        self.every = every
        self.patience = patience
        self.source = source
        self.target = target
        self.best_path = None if best_path is None else Path(best_path)
        self.samples = samples
        self.console = console or Console()
        self.tokenize: Tokenize = tokenize
        self.options = options
        self.examples = take_examples(pairs, self.metrics[0], num_examples)
        if not self.examples:
            raise ValueError("pairs must hold at least one pair of texts. Received: none")
        self.outputs: list[str] = []
        self._translator: Any = None  # a Translator from the beginning of `fit` on
        # what is missing or cannot be measured is found here, not after hours of training
        self._values([references[0] for _, references in self.examples])

    def on_train_begin(self, logs=None):
        self.best.waited = 0  # of an earlier `fit`
        # One for all evaluations: it compiles its search now, so that a wrong option is found
        # before the first step, and reads the weights of the moment each time.
        if self._translator is None or self._translator.model is not self.model:
            if self._translator is not None:
                self.best = Best(self.best.metric)  # that of another model says nothing of this one
            self._translator = Translator(self.model, self.source, self.target)
            self._translator.translate([self.examples[0][0]], **self.options)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        self.outputs = self._translate()
        values = self._values(self.outputs)
        if logs is not None:
            logs |= {f"val_{name}": value for name, value in values.items()}
        if self.samples:
            found = (f"{LABELS[name]} {value:.1f}" for name, value in values.items())
            self.console.print(f"\nepoch {epoch + 1}  {'  '.join(found)}", highlight=False)
            self.show(self.console, self.samples)
        if self.best.judge([values[self.best.metric]]) is not None and self.best_path:
            save_inference_model(self.model, self.best_path)
        if self.best.is_out_of(self.patience):
            self.model.stop_training = True
            if self.samples:
                self.console.print(_patience_in_words(self.best), highlight=False)

    def measure(self) -> dict[str, float]:
        """Decode the examples with the weights as they are now; return each metric's value.

        Raises:
            RuntimeError: no `fit` has begun.
        """
        if self._translator is None:
            raise RuntimeError(
                "measure wants the model of a fit: pass this callback to model.fit first. To "
                "measure a model without training use Translator and evaluation."
            )
        return self._values(self._translate())

    def show(self, console: Console, count: int) -> None:
        """Print the first few examples: source, reference and the last output, a line each."""
        shown = zip(self.examples[:count], self.outputs, strict=False)
        for (source, references), output in shown:
            right = output in references
            reference = output if right else references[0]
            console.print(_line("source", source, console))
            console.print(_line("reference", reference, console))
            console.print(_line("output", output, console, "" if right else "yellow"))

    def _translate(self) -> list[str]:
        sources = [source for source, _ in self.examples]
        found = self._translator.translate(sources, **self.options)
        return [hypotheses[0].text for hypotheses in found]

    def _values(self, texts: list[str]) -> dict[str, float]:
        references = [references for _, references in self.examples]
        found = measure(self.metrics, texts, references, self.tokenize)
        return {one.name: one.value for one in found}

    def _chosen(self, best_by: str | None) -> str:
        if best_by is not None and best_by not in self.metrics:
            raise ValueError(
                "best_by must be one of metrics, or None for the first of them. Add it there. "
                f"Received: best_by={best_by!r}, metrics={self.metrics}"
            )
        return best_by or self.metrics[0]


def _patience_in_words(best: Best) -> str:
    """Say that training ended because nothing better came, and what the best was."""
    count = f"{best.waited} evaluation{'s' if best.waited > 1 else ''}"
    return f"No better validation {LABELS[best.metric]} for {count}; best {best.value:.1f}."


def _checked(metrics: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(metrics, str) else tuple(metrics)
    if not names or len(set(names)) < len(names) or not set(names) <= set(METRICS):
        raise ValueError(
            f"metrics must be a list of different names, of {', '.join(METRICS)}. "
            f"Received: metrics={metrics!r}"
        )
    return names


def _line(label: str, text: str, console: Console, style: str = "") -> Text:
    """Return a line that fits 80 columns, or the console where that is narrower."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    line = Text.assemble((f"  {label:<11}", "dim"), (text, style), no_wrap=True)
    line.truncate(min(WIDTH, console.width), overflow="ellipsis")
    return line


def quality_of(
    recipe: RunConfig, validation: Iterable[Pair], source: Tokenizer, target: Tokenizer
) -> TranslationQuality | None:
    """Return what measures a recipe's first validation pairs, or None where it wants none.

    Pairs whose source is too long for the model are left out. What is best and when to stop is for
    `KeepCheckpoints` to say, and `ShowOutputs` prints.
    """
    training, most = recipe.training, recipe.data.max_source_length
    if not training.quality_examples:
        return None
    first = training.quality_metric
    return TranslationQuality(
        (pair for pair in validation if len(source.encode([pair[0]])[0]) < most),
        source,
        target,
        (first, *(name for name in METRICS if name != first)),
        num_examples=training.quality_examples,
        samples=0,
        tokenize=training.bleu_tokenize,
    )


def shown_metric(training: TrainingConfig) -> str:
    """Return the measure that a recipe's progress and curve show: the one it chooses by.

    It is the task's own where the loss chooses and translations are measured all the same.
    """
    if training.best_by == "loss" and training.quality_examples:
        return training.quality_metric
    return training.best_by


class ShowOutputs(keras.callbacks.Callback):
    """Prints a few outputs of a `TranslationQuality` at the end of an epoch."""

    def __init__(self, quality: TranslationQuality, console: Console):
        super().__init__()
        self.quality = quality
        self.console = console

    def on_epoch_end(self, epoch, logs=None):
        self.quality.show(self.console, SHOWN)
