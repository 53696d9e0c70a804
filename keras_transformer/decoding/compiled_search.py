"""The search of a model, compiled: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from keras_transformer import backend
from keras_transformer.decoding.generation import generate
from keras_transformer.decoding.greedy import best
from keras_transformer.decoding.phases import Found
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.scoring import MAX_EXTRA_LENGTH
from keras_transformer.id_rows import grown_to, rounded_up
from keras_transformer.search_options import SearchOptions

IDS = ((None, None), "int32")
INTEGER, NUMBER = ((), "int32"), ((), "float32")
# In the order of `SearchOptions.numbers` and of the fields of `Sampling`.
OPTIONS = [INTEGER, INTEGER, NUMBER, INTEGER, INTEGER, ((), "bool")]
SAMPLING = [NUMBER, INTEGER, NUMBER, ((), "uint32"), ((None,), "int32")]


class CompiledSearch:
    """Searches with a model; compiles when a kind of search is first asked for.

    On TensorFlow one trace of greedy search, one of beam search and one of sampling serve all
    options, batches and lengths. On JAX each pair of beam size and number of hypotheses compiles
    anew, and each size of batch, length and limit, of which all are rounded up to powers of two.

    Args:
        model: a `SequenceModel`.
    """

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config

    def __call__(
        self,
        source_ids: np.ndarray,
        prefix: np.ndarray,
        options: SearchOptions,
        sampling: Sampling | None = None,
    ) -> Found:
        """Search.

        Args:
            source_ids: integers `[B, S]`, padded on the right.
            prefix: integers `[B, P]`, padded on the right: what outputs begin with.
            options: a beam size that fits the vocabulary.
            sampling: NumPy scalars and `[B]`; None: greedy or beam search.

        Returns:
            `Found` of NumPy arrays.
        """
        if not len(source_ids):
            nothing = np.zeros((0, options.num_hypotheses))
            ids = np.zeros((0, options.num_hypotheses, 0), "int32")
            return Found(ids, nothing.astype("float32"), nothing.astype(bool))
        if backend.needs_fixed_shapes():
            return self._in_fixed_shapes(source_ids, prefix, options, sampling)
        kind = "sample" if sampling else "beam" if options.beam_size > 1 else "greedy"
        arguments = (source_ids.astype("int32"), prefix, *options.numbers(), *(sampling or ()))
        return Found(*map(np.asarray, self._compiled(kind)(*arguments)))

    def _in_fixed_shapes(
        self,
        source_ids: np.ndarray,
        prefix: np.ndarray,
        options: SearchOptions,
        sampling: Sampling | None,
    ) -> Found:
        """Search in sizes that are powers of two, and cut what was added."""
        rows, length = source_ids.shape
        pad_id, more_rows = self.config.pad_id, rounded_up(rows, 1)
        longest = int(options.max_decoding_length or length + MAX_EXTRA_LENGTH)
        if self.config.longest is not None:
            longest = min(longest, self.config.longest)
        wider = rounded_up(length, most=self.config.longest)
        longer = rounded_up(prefix.shape[1], 1) if prefix.size else 0
        if sampling is not None:
            streams = np.pad(sampling.streams, (0, more_rows - rows))
            sampling = sampling._replace(streams=streams)
        sizes = int(options.beam_size), int(options.num_hypotheses)  # NumPy's count as tensors
        found = self._compiled("sample" if sampling else sizes, rounded_up(longest))(
            grown_to(source_ids.astype("int32"), more_rows, wider, pad_id),
            grown_to(prefix, more_rows, longer, pad_id),
            *options.numbers(),
            *(sampling or ()),
        )
        ids, scores, finished = (np.asarray(part)[:rows] for part in found)
        steps = (ids != pad_id).sum(axis=-1).max(initial=0)
        return Found(ids[:, :, :steps], scores, finished)

    @functools.cached_property
    def _compiled(self) -> Any:
        @functools.cache
        def compiled(kind: str | tuple[int, int], capacity: int | None = None) -> Any:
            def search(source_ids, prefix, beam_size, count, alpha, most, least, early, *sampling):
                if isinstance(kind, tuple):
                    beam_size, count = kind
                return generate(
                    self.model,
                    source_ids,
                    beam_size=1 if kind in ("greedy", "sample") else beam_size,
                    num_hypotheses=count,
                    length_penalty=alpha,
                    max_decoding_length=most,
                    min_decoding_length=least,
                    target_prefix=prefix,
                    early_stopping=early,
                    capacity=capacity,
                    choose=Sampling(*sampling) if sampling else best,
                )

            signature = [IDS, IDS, *OPTIONS, *(SAMPLING if kind == "sample" else [])]
            return backend.compile(search, signature, self.model.variables)

        return compiled
