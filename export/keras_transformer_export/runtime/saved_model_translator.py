"""Texts in, hypotheses out, on an exported SavedModel: TensorFlow and tensorflow-text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_transformer_export import saved_model
from keras_transformer_export.bundle import Bundle
from keras_transformer_export.outputs import Outputs
from keras_transformer_export.runtime.text_translator import Request, TextTranslator


class SavedModelTranslator(TextTranslator):
    """Translates with the SavedModel of a bundle.

    One translator may be shared by threads. It is a context manager; `close` frees the model.

    Args:
        path: the folder of a bundle, or `saved_model` in it. The hashes of its files are checked.

    Raises:
        ValueError: no bundle, one without a SavedModel, or a changed file (`BundleError`).
        ImportError: TensorFlow or tensorflow-text is not installed.

    Example:
        >>> with SavedModelTranslator("exported") as translator:      # doctest: +SKIP
        ...     translator.translate(["hello"])[0][0].text
        'HH AH L OW'
    """

    def __init__(self, path: str | Path):
        folder = Path(path).parent if Path(path).name == "saved_model" else Path(path)
        bundle = Bundle.open(folder)
        if "saved_model" not in bundle.manifest.signatures:
            raise ValueError(
                f"{folder} must be a bundle with a SavedModel. Export it with "
                "formats=('saved_model', 'onnx'). "
                f"Received: {', '.join(bundle.manifest.signatures)}"
            )
        for name in bundle.manifest.files:
            if name.startswith("saved_model/"):
                bundle.read(name)
        super().__init__(bundle.manifest)
        self._loaded: Any = saved_model.load(folder / "saved_model")

    def close(self) -> None:
        self._loaded = None

    def _run_all(self, requests: Sequence[Request]) -> Iterable[Outputs]:
        loaded = self._loaded  # kept while it works, also where `close` lets it go
        if loaded is None:
            raise ValueError("The translator must be open. Make a new one: this one was closed.")
        return (saved_model.run(loaded, *request) for request in requests)
