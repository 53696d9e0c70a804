"""From files of sentence pairs to batches; importing it does not import TensorFlow."""

from typing import TYPE_CHECKING

from keras_transformer.lazy import lazy_names

if TYPE_CHECKING:
    from keras_transformer.data.batching import Batch, BatchStream, Statistics
    from keras_transformer.data.builtin import (
        CmuDict,
        ReversedDigits,
        cmudict_notice,
    )
    from keras_transformer.data.corpus import (
        PairFile,
        ParallelFiles,
        group_references,
        split_by_hash,
    )
    from keras_transformer.data.pipeline import make_dataset, padding_waste, stream_of

_MODULES = {
    "Batch": "batching",
    "BatchStream": "batching",
    "CmuDict": "builtin",
    "PairFile": "corpus",
    "ParallelFiles": "corpus",
    "ReversedDigits": "builtin",
    "Statistics": "batching",
    "cmudict_notice": "builtin",
    "group_references": "corpus",
    "make_dataset": "pipeline",
    "padding_waste": "pipeline",
    "split_by_hash": "corpus",
    "stream_of": "pipeline",
}

__all__ = [
    "Batch",
    "BatchStream",
    "CmuDict",
    "PairFile",
    "ParallelFiles",
    "ReversedDigits",
    "Statistics",
    "cmudict_notice",
    "group_references",
    "make_dataset",
    "padding_waste",
    "split_by_hash",
    "stream_of",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
