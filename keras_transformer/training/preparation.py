"""What a run has before its first step: data, tokenizers, and the weights it starts from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_transformer.config import TransformerConfig
from keras_transformer.data.corpus import Pair, group_references
from keras_transformer.data.splits import Splits, open_splits
from keras_transformer.recipe import DataConfig, RunConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.starting_point import StartingPoint
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training.checkpoints import Progress, fingerprints, save_checkpoint
from keras_transformer.training.compilation import compiled_model
from keras_transformer.training.distribution import Place

HELD_OUT = 500


@dataclass(frozen=True)
class Prepared:
    """A run folder and what it is trained with."""

    run: RunFolder
    splits: Splits
    source: Tokenizer
    target: Tokenizer


def prepare(recipe: RunConfig, folder: str | Path, place: Place, console: Console) -> Prepared:
    """Make a run folder ready for training, or find it so; the first process before the others.

    Raises:
        ValueError: bad data, a folder that holds another run, or one that not all processes see.
    """
    with place.first_before_others():
        run = RunFolder.prepare(folder, recipe)
        splits = open_splits(recipe.data)
        check_not_empty(splits, recipe.data)
        if not place.first:
            check_shared(run)
        if recipe.model.start_from is not None and not run.has_weights:
            take_over(run, StartingPoint.find(recipe.model.start_from), splits, console)
        source, target = prepare_tokenizers(run, splits, console)
        if place.first:
            run.save_recipe()  # of a run that is resumed: its limits may be new
    return Prepared(run, splits, source, target)


def check_shared(run: RunFolder) -> None:
    """Find out whether a process sees what the first one has prepared.

    Raises:
        ValueError: it does not.
    """
    if not (run.path / "target.model").exists():
        raise ValueError(
            "--run-folder must be on a disk that every process sees, and the first process must "
            "have prepared it: see what process 0 says. "
            f"Received: {run.path} without target.model"
        )


def check_not_empty(splits: Splits, data: DataConfig) -> None:
    """Find a part without pairs before anything is made of the others.

    Raises:
        ValueError: there are no pairs to train on, or none for validation.
    """
    for name, pairs in (("training", splits.train), ("validation", splits.validation)):
        if next(iter(pairs), None) is None:
            raise ValueError(
                f"data must leave at least one {name} pair. Pairs of one source stay together, so "
                "add pairs with other sources; or change data.validation_fraction in the recipe. "
                "Received: "
                f"no {name} pairs, validation_fraction={data.validation_fraction}"
            )


def take_over(run: RunFolder, start: StartingPoint, splits: Splits, console: Console) -> None:
    """Copy a trained model into a new run: tokenizers, architecture, and weights as step 0.

    Everything is read before the first file is written, so that what cannot be loaded leaves no
    folder behind. The checkpoint comes last: with it, the run no longer needs what it started from.

    Raises:
        ValueError: the model cannot be loaded, or does not fit the recipe.
    """
    console.print(f"Start       {start}", highlight=False, markup=False, soft_wrap=True)
    trained = start.load()
    held_out = _first(splits.validation, HELD_OUT)
    run.record_architecture(trained.model.config.model_dump())
    _save_beginning(run, held_out, trained.source, trained.target)
    config = architecture_of(run.recipe, trained.source, trained.target)
    model = compiled_model(config, run.recipe.training)
    model.set_weights(trained.model.get_weights())
    tokenizers = fingerprints(trained.source, trained.target)
    progress = Progress(step=0, seconds=0.0, best=None, tokenizers=tokenizers)
    save_checkpoint(run.path / "checkpoints", model, progress)


def architecture_of(recipe: RunConfig, source: Tokenizer, target: Tokenizer) -> TransformerConfig:
    """Return the model of a recipe: its preset, or what it starts from, with its overrides."""
    overrides = recipe.model.overrides
    if recipe.model.architecture is not None:
        return TransformerConfig(**(recipe.model.architecture | overrides))
    return TransformerConfig.for_tokenizers(recipe.model.preset, source, target, **overrides)


def prepare_tokenizers(
    run: RunFolder, splits: Splits, console: Console
) -> tuple[Tokenizer, Tokenizer]:
    """Load the run's tokenizers; for a new run train them and set texts aside for later proof.

    Those of a run that starts from a model are there: `take_over` has put them there.
    """
    settings = run.recipe.tokenizer
    started = run.recipe.model.start_from is not None
    if started or (run.path / "target.model").exists():
        source, target = run.source_tokenizer(), run.target_tokenizer()
    else:
        pairs = _Counted(splits.train)
        options: dict[str, Any] = {"add_dummy_prefix": settings.add_dummy_prefix}
        if settings.shared:
            lines: Iterable[str] = itertools.chain.from_iterable(pairs)
            source = target = Tokenizer.train(
                lines, settings.vocab_size, settings.model_type, **options
            )
        else:
            source = Tokenizer.train(
                (pair[0] for pair in pairs), settings.vocab_size, settings.model_type, **options
            )
            target = Tokenizer.train(
                (pair[1] for pair in splits.train),
                settings.target_vocab_size or settings.vocab_size,
                settings.target_model_type or settings.model_type,
            )
        held_out = _first(splits.validation, HELD_OUT)
        run.save_recipe()
        _save_beginning(run, held_out, source, target)
        console.print(f"Data        {pairs.count:,} training pairs", highlight=False)
    kind = "one for both sides" if source == target else "source and target"
    sizes = " and ".join(f"{t.vocab_size:,}" for t in dict.fromkeys((source, target)))
    console.print(f"Tokenizers  {sizes} pieces ({kind})", highlight=False)
    return source, target


def _save_beginning(
    run: RunFolder, held_out: list[tuple[str, list[str]]], source: Tokenizer, target: Tokenizer
) -> None:
    """Write what a run has before its first checkpoint; `target.model` last: it stands for all."""
    run.save_held_out(held_out)
    source.save(run.path / "source.model")
    target.save(run.path / "target.model")


def _first(pairs: Iterable[Pair], count: int) -> list[tuple[str, list[str]]]:
    """Return the references of the first `count` sources; equal sources stand together."""
    sources: dict[str, None] = {}

    def until_full() -> Iterator[Pair]:
        for pair in pairs:
            sources[pair[0]] = None
            if len(sources) > count:
                return
            yield pair

    return group_references(until_full())


class _Counted:
    """Counts the pairs of the one pass that is made over it."""

    def __init__(self, pairs: Iterable[Pair]):
        self.pairs = pairs
        self.count = 0

    def __iter__(self) -> Iterator[Pair]:
        for pair in self.pairs:
            self.count += 1
            yield pair
