"""The folder of a training run: the only thing that passes from training to export."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.files import remove_parts, replacing
from keras_transformer.recipe import RunConfig, TrainingConfig
from keras_transformer.text.tokenizer import Tokenizer

# What a run that is resumed may have changed: when it ends, where it trains, what its best model is
# and what it writes.
FREE = {
    f"training.{name}"
    for name in (
        "max_minutes",
        "max_steps",
        "distribution",
        "devices",
        "best_by",
        "patience",
        "tensorboard",
    )
}
# Before the first checkpoint, all that the tokenizers do not depend on.
UNTRAINED = {f"training.{name}" for name in TrainingConfig.model_fields} | {
    f"data.{name}" for name in ("overlong", "max_source_length", "max_target_length")
}
# And how translations are measured, unless the best so far was chosen by that.
MEASURED = {f"training.{name}" for name in ("quality_metric", "bleu_tokenize", "quality_examples")}


class RunFolder:
    """`config.yaml`, `source.model`, `target.model`, `held_out.tsv`, `checkpoints/`, `best.keras`,
    `metrics.csv` and `curve.png` below one path.

    Args:
        path: the folder.
        recipe: the run's `RunConfig`.
    """

    def __init__(self, path: str | Path, recipe: RunConfig):
        self.path = Path(path)
        self.recipe = recipe

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run.

        Raises:
            ValueError: the folder is missing or holds no run.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise ValueError(
                f"{path} must be the folder of a training run, with config.yaml in it. Train one "
                "with: keras-transformer train RECIPE"
            )
        return cls(path, RunConfig.load(path / "config.yaml"))

    @classmethod
    def create(cls, path: str | Path, recipe: RunConfig) -> RunFolder:
        """Make the folder, or reopen it for the same recipe; only what is `FREE` may have changed.

        Raises:
            ValueError: the folder holds a run with other settings; each is named.
        """
        run = cls.prepare(path, recipe)
        run.save_recipe()
        return run

    @classmethod
    def prepare(cls, path: str | Path, recipe: RunConfig) -> RunFolder:
        """Check as `create` does, but make nothing: `save_recipe` does, once training is possible.

        Raises:
            ValueError: the folder holds a run with other settings; each is named.
        """
        path = Path(path)
        kept = (path / "checkpoints", path / "snapshots", *(path / "ids").glob("*"))
        for folder in (path, *kept):
            remove_parts(folder)
        if (path / "config.yaml").exists():
            old = cls.open(path).recipe
            if recipe.model.start_from is not None and recipe.model.architecture is None:
                recipe = _with_architecture(recipe, old.model.architecture)
            free = FREE | MEASURED if old.training.best_by == "loss" else FREE
            free = free if cls(path, recipe).has_weights else free | UNTRAINED
            changed = _changed(old.model_dump(), recipe.model_dump(), free)
            if changed:
                raise ValueError(
                    f"{path} holds a run with other settings, which cannot be resumed with these. "
                    "Give another --run-folder, or the old settings. Changed: " + "; ".join(changed)
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"{path} must be a new folder or a training run. Give another --run-folder."
            )
        return cls(path, recipe)

    def save_recipe(self) -> None:
        """Make the folder, and write `config.yaml`; with it, the folder is this recipe's."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / "config.yaml") as aside:
            aside.write_text(self.recipe.to_yaml(), encoding="utf-8")

    @property
    def has_weights(self) -> bool:
        """Whether the run has a checkpoint, and no longer needs the model that it started from."""
        return any((self.path / "checkpoints").glob("step-*.npz"))

    def record_architecture(self, architecture: dict[str, Any]) -> None:
        """Add to the recipe, and to `config.yaml`, what the model it starts from is like.

        Raises:
            ValueError: the recipe says something else, or does not fit it.
        """
        known = self.recipe.model.architecture
        if known is not None:
            known = TransformerConfig(**known).model_dump()  # an older version knew fewer fields
        if known is not None and known != architecture:
            raise ValueError(
                f"{self.recipe.model.start_from} must hold the model that the recipe was made for. "
                "Remove model.architecture from the recipe, or train into another folder. "
                "Changed: " + "; ".join(_changed(known, architecture, set()))
            )
        self.recipe = _with_architecture(self.recipe, architecture)
        self.save_recipe()

    def source_tokenizer(self) -> Tokenizer:
        """Load `source.model`."""
        return Tokenizer.load(self.path / "source.model")

    def target_tokenizer(self) -> Tokenizer:
        """Load `target.model`."""
        return Tokenizer.load(self.path / "target.model")

    def load_best_model(self) -> Any:
        """Load `best.keras`.

        Raises:
            ValueError: it is not there yet, or damaged.
        """
        backend.start()
        import keras

        from keras_transformer.model import Transformer

        path = self.path / "best.keras"
        if not path.is_file():
            raise ValueError(f"{path} is missing: train this run further first.")
        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise ValueError(f"{path} is damaged and cannot be loaded ({error}).") from error
        if not isinstance(model, Transformer):
            raise ValueError(f"{path} must hold a Transformer. Received: {type(model).__name__}")
        return model

    def trim_metrics(self, step: int) -> None:
        """Drop rows of `metrics.csv` behind a step: a run that resumes there writes them again.

        A last row that a full disk has cut is of a step without a checkpoint, and goes too.
        """
        path = self.path / "metrics.csv"
        if not path.exists():
            return
        names, rows = _read_table(path)
        if not names:  # killed before its first row: an empty header would stay for ever
            path.unlink()
            return
        _write_table(path, names, [row for row in rows if int(row["step"]) <= step])

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to `metrics.csv`, and a column for each name that is new in it.

        A run that is resumed with a newer version may log more than it did.

        Raises:
            OSError: the disk is full; the file stays as it was.
        """
        path = self.path / "metrics.csv"
        names, rows = _read_table(path) if path.exists() else ([], [])
        names = names or ["epoch"]
        _write_table(path, [*names, *sorted(row.keys() - set(names))], [*rows, row])

    def save_held_out(self, examples: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Write source texts the model does not train on, with their references.

        Tabs and line breaks inside a text, which the file could not hold, become spaces.
        """
        rows = [(source, *references) for source, references in examples]
        lines = ["\t".join(" ".join(text.split()) for text in row) for row in rows]
        with replacing(self.path / "held_out.tsv") as aside:
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def held_out(self) -> list[tuple[str, list[str]]]:
        """Read what `save_held_out` wrote.

        Raises:
            ValueError: the file is missing or damaged.
        """
        path = self.path / "held_out.tsv"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}).") from error
        rows = [line.split("\t") for line in text.split("\n") if line]
        return [(source, references) for source, *references in rows]


def _read_table(path: Path) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Return the names of a table's columns and its rows; a last line that is cut is left out."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader([line for line in file if line.endswith("\n")])
    return list(reader.fieldnames or ()), list(reader)


def _write_table(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _with_architecture(recipe: RunConfig, architecture: dict[str, Any] | None) -> RunConfig:
    values = recipe.model_dump()
    values["model"]["architecture"] = architecture
    return RunConfig(**values)


def _changed(
    old: dict[str, Any], new: dict[str, Any], free: set[str], prefix: str = ""
) -> list[str]:
    """Name every setting that differs, except those that are free to."""
    names: list[str] = []
    for key in old | new:
        name, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names += _changed(before, after, free, f"{name}.")
        elif before != after and name not in free:
            names.append(f"{name} was {before!r}, is {after!r}")
    return names
