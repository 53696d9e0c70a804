"""Weights trained elsewhere, in this package's models; importing it imports no framework."""

from typing import TYPE_CHECKING

from keras_transformer.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
