"""What the translators of exported files have in common: options, batches, hypotheses."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.id_rows import pad_rows
from keras_transformer.search_options import SearchOptions, check_count, in_chunks, prefix_rows
from keras_transformer.text.validation import check_texts
from keras_transformer_export.bundle import Description
from keras_transformer_export.outputs import Outputs, hypotheses
from keras_transformer_export.search_inputs import inputs_of

MOST_ROWS = 64
# Attention takes memory by the square of the length: long texts go in smaller batches.
MOST_CHARACTERS = 16_384

Request = tuple[list[str], Mapping[str, np.ndarray]]  # texts and the other inputs of one run


class TextTranslator(abc.ABC):
    """Texts in, hypotheses out, on a file that was exported; a context manager.

    Args:
        description: what the file says of itself.
    """

    def __init__(self, description: Description):
        self.description = description

    def translate(
        self,
        texts: Sequence[str],
        beam_size: int = 1,
        num_hypotheses: int = 1,
        length_penalty: float = 0.6,
        max_decoding_length: int | None = None,
        *,
        min_decoding_length: int | None = None,
        early_stopping: bool = True,
        target_prefix: Sequence[Sequence[int]] | None = None,
        batch_size: int = MOST_ROWS,
    ) -> list[list[Hypothesis]]:
        """Translate texts; the order is kept and each gets what it would get alone.

        Args:
            texts: any number of texts, the empty text included.
            beam_size: hypotheses that are followed together; 1: greedy search.
            num_hypotheses: hypotheses for each text, at most `beam_size`.
            length_penalty: alpha of ((5 + length) / 6)^alpha, which divides the log-probability;
                from 0.
            max_decoding_length: most target tokens, end symbol included; None: source + 50.
            min_decoding_length: fewest target tokens, end symbol included; None: any number.
            early_stopping: True: beam search ends a text once its open hypotheses, at their
                present length, score no better than the finished ones. False: once they could not
                get better by any continuation; never misses what the beam holds, and is slower.
            target_prefix: for each text the target ids its translations begin with; an empty row
                leaves a text free.
            batch_size: the most texts decoded together, by similar length.

        Returns:
            For each text its hypotheses, best first. Those that were cut at the limit come after
            the others. There are fewer where the vocabulary allows no more.

        Raises:
            ValueError: an option out of range, a text with U+0000 or a lone surrogate, a text
                too long for learned positions, or a closed translator.
        """
        options = SearchOptions(
            beam_size,
            num_hypotheses,
            length_penalty,
            max_decoding_length,
            min_decoding_length,
            early_stopping,
        )
        options.check_fit(self.description.target_vocab_size)
        check_count("batch_size", batch_size)
        checked = check_texts(texts)
        prefixes = prefix_rows(target_prefix, len(checked), self.description)
        results: list[list[Hypothesis]] = [[] for _ in checked]
        parts = self._deal([*batches(checked, batch_size, MOST_CHARACTERS // beam_size)])
        requests: list[Request] = []
        for indices in parts:
            prefix = pad_rows([prefixes[i] for i in indices], self.description.special_ids.pad)
            requests.append(([checked[i] for i in indices], inputs_of(options, prefix)))
        for indices, outputs in zip(parts, self._run_all(requests), strict=True):
            found = hypotheses(outputs, self.description.special_ids)
            for index, row in zip(indices, found, strict=True):
                results[index] = row
        return results

    def translate_iter(
        self, lines: Iterable[str], *, chunk_size: int = 2048, **options: Any
    ) -> Iterator[list[Hypothesis]]:
        """Translate a stream of any length in constant memory, `chunk_size` texts at a time.

        `options` are those of `translate`; the order is kept.

        Raises:
            ValueError: as `translate`, or `chunk_size` is not an integer from 1.
        """
        for chunk in in_chunks(lines, chunk_size):
            yield from self.translate(chunk, **options)

    def __reduce__(self) -> str:
        raise TypeError(
            "A translator cannot be pickled or copied. Open one in each process, and share one "
            f"among threads. Received: {type(self).__name__}"
        )

    @abc.abstractmethod
    def close(self) -> None:
        """Free the model; translations that are running end as usual."""

    def _deal(self, parts: list[list[int]]) -> list[list[int]]:
        """Return the batches, as indices of texts, in the way they are best run."""
        return parts

    @abc.abstractmethod
    def _run_all(self, requests: Sequence[Request]) -> Iterable[Outputs]:
        """Return the outputs of each request, in their order.

        Translations and scores are `[B, n]`, ids `[B, n, T]`.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def batches(texts: Sequence[str], most_texts: int, most_characters: int) -> Iterator[list[int]]:
    """Yield the indices of all texts, texts of similar length together.

    A batch has at most `most_texts`; and so many that, if all were as long as the longest, they
    have at most `most_characters`, or one.
    """
    batch: list[int] = []
    for index in sorted(range(len(texts)), key=lambda i: len(texts[i])):
        size = len(batch) + 1
        if batch and (size > most_texts or size * len(texts[index]) > most_characters):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
