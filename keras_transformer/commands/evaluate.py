"""`keras-transformer evaluate`: how good and how fast a trained run is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from keras_transformer import backend
from keras_transformer.commands import screen
from keras_transformer.data.corpus import Pair
from keras_transformer.evaluation import LABELS
from keras_transformer.recipe import RunConfig
from keras_transformer.search_options import SearchOptions

SAMPLES = 5


def run(
    run_folder: Path,
    split: str | None,
    limit: int | None,
    data_folder: str | None,
    tokenize: Literal["13a", "none"] | None,
    beam_size: int = 1,
    length_penalty: float = 0.6,
) -> None:
    """Translate held-out texts with the best model and print how good they are.

    Args:
        run_folder: of a training run.
        split: "validation" or "test"; None: test where the recipe has one.
        limit: the most examples; None: all.
        data_folder: where the recipe's files are now; None: where they were.
        tokenize: sacrebleu's tokenizer for BLEU; None: the recipe's.
        beam_size: of the search; 1: greedy.
        length_penalty: of beam search.

    Raises:
        ValueError: no such run, split or data, or an option the search cannot honour.
    """
    from keras_transformer.commands.train import changed
    from keras_transformer.run_folder import RunFolder

    options = SearchOptions(beam_size, length_penalty=length_penalty)
    opened = RunFolder.open(run_folder)
    config = changed(opened.recipe, data={"folder": data_folder})
    name, pairs = choose_split(config, split)

    backend.import_tensorflow()
    from keras_transformer.training.quality import assess, take_examples
    from keras_transformer.translator import Translator

    metric = config.training.quality_metric
    examples = take_examples(pairs, metric, limit)
    with screen.messages.status(f"Translating {len(examples):,} texts"):
        found = assess(
            Translator.load(run_folder),
            examples,
            metric,
            tokenize or config.training.bleu_tokenize,
            beam_size=beam_size,
            length_penalty=length_penalty,
        )
    folder = escape(str(run_folder))
    how = search_in_words(options)
    screen.say(f"[bold]{folder}[/]  {len(examples):,} {name} texts, best model, {how}")
    show(found)
    samples = zip(examples, found.hypotheses, strict=True)
    screen.out.print(Group("", _samples([next(samples) for _ in examples[:SAMPLES]])))


def search_in_words(options: SearchOptions) -> str:
    """Return how was searched: "greedy", or "beam 4, length penalty 0.6"."""
    if options.beam_size == 1:
        return "greedy"
    return f"beam {options.beam_size}, length penalty {options.length_penalty:g}"


def choose_split(config: RunConfig, split: str | None) -> tuple[str, Iterable[Pair]]:
    """Return the name and the pairs of a split; None: test where there is one.

    Raises:
        ValueError: the recipe has no test split, or a file is missing.
    """
    from keras_transformer.data.splits import open_splits

    splits = open_splits(config.data)
    if split is None:
        split = "validation" if splits.test == () else "test"
    if split == "test" and splits.test == ():
        raise ValueError(
            "--split must be validation: this run's recipe sets no test data aside "
            "(data.test_fraction). Received: --split test"
        )
    return split, splits.test if split == "test" else splits.validation


def show(found: Any) -> None:
    """Print the measures of an `Assessment`."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=13)
    table.add_column(justify="right")
    table.add_column(style="dim")
    for measure in found.measures:
        value = f"{measure.value:.2f} {measure.unit}".rstrip()
        table.add_row(f"  {LABELS[measure.name]}", Text(value, "bold"), measure.note)
    perplexity = f"nats a target token; perplexity {math.exp(found.cross_entropy):.2f}"
    table.add_row("  cross entropy", f"{found.cross_entropy:.3f}", perplexity)
    cut = sum(not hypothesis.finished for hypothesis in found.hypotheses)
    if cut:
        table.add_row("  cut", f"{cut:,}", "outputs that reached the length limit")
    table.add_row("  speed", screen.number(found.words_per_second), "words of source a second")
    screen.out.print(table)


def _samples(samples: list[Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("  source", "output", "reference"):
        table.add_column(name, overflow="fold")
    for (source, references), hypothesis in samples:
        right = hypothesis.text in references
        reference = hypothesis.text if right else references[0]
        style = "" if right else "yellow"
        table.add_row(Text(f"  {source}"), Text(hypothesis.text, style), Text(reference))
    return table
