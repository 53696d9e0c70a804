"""A trained model that training may start from, or that an export is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keras_transformer.bridges.marian_tokenizers import read_json
from keras_transformer.run_folder import RunFolder

if TYPE_CHECKING:
    from keras_transformer.translator import Translator


@dataclass(frozen=True)
class StartingPoint:
    """The folder of a training run, or of a Marian checkpoint (OPUS-MT)."""

    path: Path
    kind: Literal["run", "marian"]

    @classmethod
    def find(cls, folder: str | Path) -> StartingPoint:
        """Say what a folder is, without loading the model or Keras.

        Raises:
            ValueError: it is neither; the message says what was looked for.
        """
        path = Path(folder)
        if (path / "config.yaml").is_file():
            RunFolder.open(path)
            return cls(path, "run")
        config = path / "config.json"
        missing = "a file" if path.exists() else "no such folder"
        found = "neither of the two in it" if path.is_dir() else missing
        if config.is_file():
            model_type = read_json(config).get("model_type")
            if model_type == "marian":
                return cls(path, "marian")
            found = f"config.json with model_type={model_type!r}"
        raise ValueError(
            f"{path} must be the folder of a training run, with config.yaml in it (train one with: "
            "keras-transformer train RECIPE), or of a Marian checkpoint such as OPUS-MT's, with "
            f"config.json in it and the model_type 'marian'. Received: {found}"
        )

    def load(self) -> Translator:
        """Load the model and its tokenizers.

        Raises:
            ValueError: a file is missing, damaged or of an unsupported kind.
            ImportError: a package that reads the weights is missing.
        """
        if self.kind == "marian":
            from keras_transformer.bridges.marian import from_marian

            return from_marian(self.path)
        from keras_transformer.translator import Translator

        return Translator.load(self.path)

    def __str__(self) -> str:
        kind = "a Marian checkpoint" if self.kind == "marian" else "a training run"
        return f"{self.path}, {kind}"
