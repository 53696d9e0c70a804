"""The Keras search as a TensorFlow SavedModel: texts in, texts out."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_transformer import backend


def save(translator: Any, folder: Path) -> None:
    """Write a SavedModel.

    Its signature `serving_default` takes `texts` string [B] and `max_decoding_length` int32
    scalar (0: source length + 50), and gives `texts` string [B, n], `scores` float [B, n] and
    `ids` int32 [B, n, T]. It loads in plain TensorFlow once `tensorflow_text` is imported.

    Args:
        translator: a `Translator`.
        folder: where to write; made where missing.
    """
    tf = backend.import_tensorflow()
    module = _module(tf, translator)
    with _quiet():
        tf.saved_model.save(module, str(folder), signatures=module.translate)


def load(folder: Path) -> Any:
    """Load a SavedModel; returns the function `(texts [B], max_decoding_length) -> dict`."""
    tf = backend.import_tensorflow()
    import tensorflow_text  # noqa: F401  # pyright: ignore[reportUnusedImport]  # its operators

    with _quiet():
        loaded = tf.saved_model.load(str(folder))
    function = loaded.signatures["serving_default"]

    def translate(texts: list[str], max_decoding_length: int = 0) -> dict[str, Any]:
        outputs = function(
            texts=tf.constant(texts, tf.string, shape=[len(texts)]),
            max_decoding_length=tf.constant(max_decoding_length, tf.int32),
        )
        return {name: value.numpy() for name, value in outputs.items()}

    translate.loaded = loaded  # the function does not keep the variables alive
    return translate


def _module(tf: Any, translator: Any) -> Any:
    from keras_transformer.text.graph_tokenizer import GraphTokenizer
    from keras_transformer.translator import generate

    module = tf.Module(name="translator")
    # Only what the traced function reads: the Keras model would bring its training state along.
    module.weights = [weight.value for weight in translator.model.weights]
    module.source = GraphTokenizer(translator.source)
    module.target = GraphTokenizer(translator.target)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="texts"),
            tf.TensorSpec([], tf.int32, name="max_decoding_length"),
        ]
    )
    def translate(texts: Any, max_decoding_length: Any) -> dict[str, Any]:
        source_ids = module.source.tokenize(texts)
        found = generate(translator.model, source_ids, max_decoding_length)
        shape = tf.shape(found.ids)
        rows = tf.reshape(found.ids, [shape[0] * shape[1], shape[2]])
        return {
            "texts": tf.reshape(module.target.detokenize(rows), shape[:2]),
            "scores": found.scores,
            "ids": found.ids,
        }

    module.translate = translate
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what TensorFlow reports about a save that went well off the screen."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
