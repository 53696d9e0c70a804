"""From a trained run to files that translate anywhere. Each name is loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_transformer_export.bundle import Bundle
    from keras_transformer_export.exporter import export

_OBJECTS = {
    "Bundle": "keras_transformer_export.bundle",
    "export": "keras_transformer_export.exporter",
}

__all__ = ["Bundle", "export"]


def __getattr__(name: str) -> Any:
    if name not in _OBJECTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_OBJECTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
