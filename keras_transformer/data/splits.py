"""From the data section of a recipe to training, validation and test pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from keras_transformer.data.builtin import CmuDict, ReversedDigits
from keras_transformer.data.corpus import Pair, PairFile, ParallelFiles, split_by_hash
from keras_transformer.recipe import DataConfig


@dataclass(frozen=True)
class Splits:
    """Three re-iterables of (source, target) texts; `test` is empty where a recipe sets none."""

    train: Iterable[Pair]
    validation: Iterable[Pair]
    test: Iterable[Pair]


def open_splits(config: DataConfig) -> Splits:
    """Open the corpora that a recipe names; files are read when they are iterated.

    Raises:
        ValueError: a file is missing; the message says which and where it was looked for.
        ImportError: the CMU dictionary is not installed.
    """
    corpus = _corpus(config)
    validation = _validation(config)
    if validation is not None:
        return Splits(corpus, validation, ())
    rest = 1.0 - config.validation_fraction - config.test_fraction
    fractions = {"train": rest, "validation": config.validation_fraction}
    if config.test_fraction:
        fractions["test"] = config.test_fraction
    splits = split_by_hash(corpus, fractions)
    return Splits(splits["train"], splits["validation"], splits.get("test", ()))


def _corpus(config: DataConfig) -> Iterable[Pair]:
    if config.kind == "cmudict":
        return CmuDict()
    if config.kind == "reverse":
        return ReversedDigits(config.num_examples, max_length=config.max_digits)
    if config.kind == "pairs":
        return PairFile(_find(config, config.pairs))
    return ParallelFiles(_find(config, config.source), _find(config, config.target))


def _validation(config: DataConfig) -> Iterable[Pair] | None:
    if config.validation_pairs is not None:
        return PairFile(_find(config, config.validation_pairs))
    if config.validation_source is not None:
        return ParallelFiles(
            _find(config, config.validation_source), _find(config, config.validation_target)
        )
    return None


def _find(config: DataConfig, name: str | None) -> Path:
    """Return the file below the recipe's folder, as it is or compressed (.gz)."""
    path = Path(config.folder or "") / str(name)
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.exists():
            return candidate
    raise ValueError(
        f"{path} must be an existing file. Say which folder holds it with --data FOLDER. "
        f"Received: folder={config.folder!r}, seen from {Path.cwd()}"
    )
