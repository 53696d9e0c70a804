"""keras-transformer: from sentence pairs to one ONNX file that translates text.

Importing this package imports neither Keras nor TensorFlow: each name is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keras_transformer import backend

if TYPE_CHECKING:
    from keras_transformer import bridges, data, evaluation, layers, visualization
    from keras_transformer.config import RNNSearchConfig, TransformerConfig
    from keras_transformer.hypothesis import Hypothesis
    from keras_transformer.model import Transformer
    from keras_transformer.recipe import RunConfig, TrainingConfig
    from keras_transformer.recurrent import RNNSearch
    from keras_transformer.text.tokenizer import Tokenizer
    from keras_transformer.training import callbacks, losses, metrics, schedules
    from keras_transformer.training.averaging import average_weights
    from keras_transformer.translator import Translator

backend.quiet()

__version__ = "0.1.0"

_MODULES = {
    "bridges": "keras_transformer.bridges",
    "callbacks": "keras_transformer.training.callbacks",
    "data": "keras_transformer.data",
    "evaluation": "keras_transformer.evaluation",
    "layers": "keras_transformer.layers",
    "losses": "keras_transformer.training.losses",
    "metrics": "keras_transformer.training.metrics",
    "schedules": "keras_transformer.training.schedules",
    "visualization": "keras_transformer.visualization",
}
_OBJECTS = {
    "Hypothesis": "keras_transformer.hypothesis",
    "RNNSearch": "keras_transformer.recurrent",
    "RNNSearchConfig": "keras_transformer.config",
    "RunConfig": "keras_transformer.recipe",
    "Tokenizer": "keras_transformer.text.tokenizer",
    "TrainingConfig": "keras_transformer.recipe",
    "Transformer": "keras_transformer.model",
    "TransformerConfig": "keras_transformer.config",
    "Translator": "keras_transformer.translator",
    "average_weights": "keras_transformer.training.averaging",
}

__all__ = [
    "Hypothesis",
    "RNNSearch",
    "RNNSearchConfig",
    "RunConfig",
    "Tokenizer",
    "TrainingConfig",
    "Transformer",
    "TransformerConfig",
    "Translator",
    "average_weights",
    "bridges",
    "callbacks",
    "data",
    "evaluation",
    "export",
    "layers",
    "losses",
    "metrics",
    "schedules",
    "visualization",
]


def export(*args: Any, **kwargs: Any) -> Any:
    """Write a bundle (SavedModel and ONNX) of a `Translator`.

    See `keras_transformer_export.exporter.export` for the arguments.
    """
    from keras_transformer_export.exporter import export as write_bundle

    return write_bundle(*args, **kwargs)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = import_module(_MODULES[name])
    elif name in _OBJECTS:
        value = getattr(import_module(_OBJECTS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
