"""The Keras search as a TensorFlow SavedModel: texts in, texts out."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer import backend
from keras_transformer.files import FULL
from keras_transformer_export.outputs import Outputs
from keras_transformer_export.search_inputs import DEFAULTS


def save(translator: Any, folder: Path) -> None:
    """Write a SavedModel.

    Its signature `serving_default` takes `texts` string [B] and the options of the search, see
    `search_inputs`, integers int32, and gives `texts` string [B, n], `scores` float [B, n] and
    `ids` int32 [B, n, T]. TensorFlow Serving knows the defaults of the options; in Python the
    function `translate` of the loaded object has them. It loads in plain TensorFlow once
    `tensorflow_text` is imported.

    Args:
        translator: a `Translator`.
        folder: where to write; made where missing.

    Raises:
        OSError: the disk is full.
    """
    tf = backend.import_tensorflow()
    module = _module(tf, translator)
    try:
        with _quiet():
            tf.saved_model.save(module, str(folder), signatures=module.translate)
    except tf.errors.OpError as error:  # TensorFlow's own, where Python has an OSError
        full = next((number for number in FULL if os.strerror(number) in error.message), None)
        if full is None:
            raise
        raise OSError(full, os.strerror(full)) from error


def load(folder: Path) -> Any:
    """Load a SavedModel; its `translate(texts, **options)` takes and gives tensors."""
    tf = backend.import_tensorflow()
    import tensorflow_text  # noqa: F401  # pyright: ignore[reportUnusedImport]  # its operators

    with _quiet():
        return tf.saved_model.load(str(folder))


def run(loaded: Any, texts: list[str], inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Translate with a loaded SavedModel.

    Args:
        loaded: from `load`.
        texts: B texts.
        inputs: from `inputs_of`.
    """
    tf = backend.import_tensorflow()
    inputs = _tensors(tf, inputs)
    outputs = loaded.translate(tf.constant(texts, tf.string, shape=[len(texts)]), **inputs)
    translations = [[text.decode() for text in row] for row in outputs["texts"].numpy()]
    return Outputs(translations, outputs["scores"].numpy(), outputs["ids"].numpy())


def _tensors(tf: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: tf.constant(value, "int32" if value.dtype == "int64" else value.dtype)
        for name, value in inputs.items()
    }


def _module(tf: Any, translator: Any) -> Any:
    from keras_transformer.decoding.generation import generate
    from keras_transformer.text.graph_tokenizer import GraphTokenizer

    module = tf.Module(name="translator")
    # Only what the traced function reads: the Keras model would bring its training state along.
    module.weights = [weight.value for weight in translator.model.weights]
    module.source = GraphTokenizer(translator.source)
    module.target = GraphTokenizer(translator.target)

    default = _tensors(tf, DEFAULTS)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="texts"),
            *(
                tf.TensorSpec([None] * v.ndim, default[n].dtype, name=n)
                for n, v in DEFAULTS.items()
            ),
        ],
        autograph=False,
    )
    def translate(
        texts: Any,
        beam_size: Any = default["beam_size"],
        num_hypotheses: Any = default["num_hypotheses"],
        length_penalty: Any = default["length_penalty"],
        max_decoding_length: Any = default["max_decoding_length"],
        min_decoding_length: Any = default["min_decoding_length"],
        early_stopping: Any = default["early_stopping"],
        target_prefix: Any = default["target_prefix"],
    ) -> dict[str, Any]:
        found = generate(
            translator.model,
            module.source.tokenize(texts),
            beam_size=beam_size,
            num_hypotheses=num_hypotheses,
            length_penalty=length_penalty,
            max_decoding_length=max_decoding_length,
            min_decoding_length=min_decoding_length,
            early_stopping=early_stopping,
            target_prefix=target_prefix,
        )
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
