"""Weights trained elsewhere, in this package's models; importing it imports no framework."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_transformer.bridges.marian import from_marian
    from keras_transformer.bridges.torch_transformer import from_torch

_MODULES = {
    "from_marian": "marian",
    "from_torch": "torch_transformer",
}

__all__ = [
    "from_marian",
    "from_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
