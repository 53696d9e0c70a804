"""Texts in, hypotheses out, on the Keras model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer import backend

backend.start()

from keras import ops

from keras_transformer.config import RunConfig, SequenceConfig
from keras_transformer.decoding.greedy import greedy
from keras_transformer.decoding.scoring import MAX_EXTRA_LENGTH, decoding_limits, length_penalty
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.layers.embedding import check_ids
from keras_transformer.run_folder import RunFolder
from keras_transformer.search_options import check_count, check_search_options, in_chunks
from keras_transformer.text.tokenizer import Tokenizer


class SearchResult(NamedTuple):
    """What a search found, best first: n hypotheses for each of B sources."""

    ids: Any  # int32 [B, n, T]: tokens with the end symbol, pads behind it
    scores: Any  # float32 [B, n]: log-probability / length penalty
    finished: Any  # bool [B, n]: ended by itself, was not cut at the limit


def generate(
    model, source_ids, max_decoding_length=0, alpha=0.6, capacity: int | None = None
) -> SearchResult:
    """Decode source ids greedily: the one definition that every exported file is made from.

    Args:
        model: a `Transformer`, or another `SequenceModel`.
        source_ids: int32 `[B, S]`, padded on the right; real ids end with the end symbol.
        max_decoding_length: integer scalar; 0: source length + 50, row by row.
        alpha: length penalty of the scores.
        capacity: None: cache and ids grow. An int: they are buffers of that many positions,
            which is then the longest output, for compilers that want fixed shapes.

    Returns:
        `SearchResult` with n = 1.
    """
    config: SequenceConfig = model.config
    lengths = ops.sum(ops.cast(ops.not_equal(source_ids, config.pad_id), "int32"), axis=1)
    limits = decoding_limits(lengths, max_decoding_length)
    if config.longest is not None:
        limits = ops.minimum(limits, config.longest)
    if capacity is not None:
        limits = ops.minimum(limits, capacity)
    memory = model.project_memory(source_ids)
    state = greedy(
        lambda ids, step, cache: model.decode_step(ids, step, cache, memory),
        ops.full_like(lengths, config.start_id),
        limits,
        model.init_cache(memory, capacity),
        vocab_size=config.target_vocab_size,
        eos_id=config.eos_id,
        pad_id=config.pad_id,
        banned_ids=config.banned_ids,
        capacity=capacity,
    )
    scores = state.log_probs / length_penalty(state.lengths, alpha)
    return SearchResult(
        ops.expand_dims(state.ids, 1),
        ops.expand_dims(scores, 1),
        ops.expand_dims(state.finished, 1),
    )


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> np.ndarray:
    """Return int32 `[B, longest]`, padded on the right."""
    longest = max(map(len, rows), default=0)
    padded = np.full((len(rows), longest), pad_id, "int32")
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def rounded_up(size: int, smallest: int = 8) -> int:
    """Return the power of two from `size` on, so that few shapes are compiled."""
    return max(smallest, 1 << (size - 1).bit_length())


def _grown_to(ids: np.ndarray, rows: int, length: int, pad_id: int) -> np.ndarray:
    """Return ids `[rows, length]`: pads behind each row, and copies of the first row below."""
    padded = np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=pad_id)
    return np.concatenate([padded, np.repeat(padded[:1], rows - len(ids), axis=0)])


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yield index arrays that together cover all rows, rows of similar length together."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _check_length(name: str, length: int, longest: int | None) -> None:
    if longest is not None and length > longest:
        raise ValueError(
            f"{name} must have at most {longest} tokens, end symbol included: the model's "
            f"positions are learned. Split the text. Received: {length} tokens"
        )


def _check_rows(
    name: str, rows: Sequence[Sequence[int]], vocab_size: int, longest: int | None
) -> None:
    for index, row in enumerate(rows):
        _check_length(f"{name}[{index}]", len(row), longest)
        if not len(row):
            raise ValueError(f"{name}[{index}] must end with the end symbol. Received: no ids")
        check_ids(np.asarray(row), vocab_size, f"{name}[{index}]")


class Translator:
    """Translates texts with a Keras `Transformer` (or `RNNSearch`) and its two tokenizers.

    Args:
        model: the trained model.
        source: tokenizer of the source side.
        target: tokenizer of the target side.
        held_out: source texts the model has not seen, which an export is proven on.
        recipe: the `RunConfig` of the run that trained the model, for the model card.

    Raises:
        ValueError: a tokenizer does not fit the model's vocabulary or special ids.

    Example:
        >>> Translator.load("runs/g2p").translate(["hello"])[0][0].text     # doctest: +SKIP
        'HH AH L OW'
    """

    def __init__(
        self,
        model,
        source: Tokenizer,
        target: Tokenizer,
        *,
        held_out: Sequence[str] | None = None,
        recipe: RunConfig | None = None,
    ):
        self.model = model
        self.source = source
        self.target = target
        self.config: SequenceConfig = model.config
        self.held_out = list(held_out) if held_out is not None else None
        self.recipe = recipe
        self._check_fit("source", source, self.config.source_vocab_size)
        self._check_fit("target", target, self.config.target_vocab_size)

    def _check_fit(self, side: str, tokenizer: Tokenizer, vocab_size: int) -> None:
        if tokenizer.vocab_size != vocab_size:
            raise ValueError(
                f"The {side} tokenizer must have as many pieces as the model's vocabulary. "
                "Use the tokenizer the model was trained with. Received: "
                f"{tokenizer.vocab_size} pieces, {side}_vocab_size={vocab_size}"
            )
        for name in ("pad_id", "eos_id"):
            if getattr(tokenizer, name) != getattr(self.config, name):
                raise ValueError(
                    f"The {side} tokenizer and the model must agree on {name}. Received: "
                    f"{getattr(tokenizer, name)} and {getattr(self.config, name)}"
                )

    @classmethod
    def load(cls, run_folder: str | Path) -> Translator:
        """Load the best model of a training run.

        Raises:
            ValueError: not a run folder, or a file in it is missing or damaged.
        """
        run = RunFolder.open(run_folder)
        return cls(
            run.load_best_model(),
            run.source_tokenizer(),
            run.target_tokenizer(),
            held_out=[source for source, _ in run.held_out()],
            recipe=run.recipe,
        )

    def translate(
        self,
        texts: Sequence[str],
        beam_size: int = 1,
        num_hypotheses: int = 1,
        length_penalty: float = 0.6,
        max_decoding_length: int | None = None,
        *,
        batch_size: int = 64,
    ) -> list[list[Hypothesis]]:
        """Translate texts; the order is kept and each gets what it would get alone.

        Args:
            texts: any number of texts, the empty text included.
            beam_size: 1: greedy.
            num_hypotheses: hypotheses for each text.
            length_penalty: alpha of ((5 + length) / 6)^alpha, which divides the log-probability.
            max_decoding_length: most target tokens, end symbol included; None: source + 50.
            batch_size: texts decoded together, by similar length.

        Returns:
            For each text its hypotheses, best first.

        Raises:
            ValueError: an option out of range, a text with U+0000 or a lone surrogate, or a
                text too long for learned positions.
        """
        check_search_options(beam_size, num_hypotheses, length_penalty, max_decoding_length)
        check_count("batch_size", batch_size)
        rows = self._rows(self.source, texts, "texts")
        results: list[list[Hypothesis]] = [[] for _ in rows]
        for indices in batches_by_length(list(map(len, rows)), batch_size):
            source_ids = pad_rows([rows[i] for i in indices], self.config.pad_id)
            found = self.search(source_ids, max_decoding_length, length_penalty)
            for index, hypotheses in zip(indices, self._hypotheses(found), strict=True):
                results[index] = hypotheses
        return results

    def translate_iter(
        self, lines: Iterable[str], *, chunk_size: int = 2048, **options: Any
    ) -> Iterator[list[Hypothesis]]:
        """Translate a stream of texts in constant memory, `chunk_size` at a time."""
        for chunk in in_chunks(lines, chunk_size):
            yield from self.translate(chunk, **options)

    def search(self, source_ids, max_decoding_length=None, length_penalty=0.6) -> SearchResult:
        """Decode ids `[B, S]` with the compiled search; NumPy arrays come back.

        Raises:
            ValueError: not integers `[B, S]`, an id outside the vocabulary, or a bad option.
        """
        check_search_options(1, 1, length_penalty, max_decoding_length)
        source_ids = np.asarray(source_ids)
        if source_ids.ndim != 2 or not np.issubdtype(source_ids.dtype, np.integer):
            raise ValueError(
                "source_ids must be integers [B, S]. "
                f"Received: shape {source_ids.shape}, {source_ids.dtype}"
            )
        check_ids(source_ids, self.config.source_vocab_size, "source_ids")
        _check_length("source_ids", source_ids.shape[1], self.config.longest)
        limit, alpha = np.int32(max_decoding_length or 0), np.float32(length_penalty)
        source_ids = source_ids.astype("int32")
        if not backend.needs_fixed_shapes():
            found = self._compiled_search(None)(source_ids, limit, alpha)
            return SearchResult(*(np.asarray(part) for part in found))
        return self._search_in_fixed_shapes(source_ids, limit, alpha)

    def _search_in_fixed_shapes(self, source_ids, limit, alpha) -> SearchResult:
        """Search in sizes that are powers of two, and cut what was added."""
        rows, length = source_ids.shape
        longest = int(limit) or length + MAX_EXTRA_LENGTH
        if self.config.longest is not None:
            longest = min(longest, self.config.longest)
        if not rows:
            ids = np.zeros((0, 1, 0), "int32")
            return SearchResult(ids, np.zeros((0, 1), "float32"), np.zeros((0, 1), bool))
        padded = _grown_to(
            source_ids, rounded_up(rows, 1), self._rounded(length), self.config.pad_id
        )
        found = self._compiled_search(rounded_up(longest))(padded, limit, alpha)
        ids, scores, finished = (np.asarray(part)[:rows] for part in found)
        steps = (ids != self.config.pad_id).sum(axis=-1).max(initial=0)
        return SearchResult(ids[:, :, :steps], scores, finished)

    def _rounded(self, length: int) -> int:
        longest = self.config.longest
        return rounded_up(length) if longest is None else min(rounded_up(length), longest)

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, batch_size: int = 64
    ) -> np.ndarray:
        """Return log p(target | source) by the full model, float32 `[len(sources)]`.

        The end symbol counts as a token of the target; no length penalty is applied.

        Raises:
            ValueError: different numbers of texts, or a text that is refused or too long for
                learned positions.
        """
        if len(sources) != len(targets):
            raise ValueError(
                "sources and targets must be equally many. Received: "
                f"{len(sources)} sources, {len(targets)} targets"
            )
        source_rows = self._rows(self.source, sources, "sources")
        target_rows = self._rows(self.target, targets, "targets")
        return self.score_ids(source_rows, target_rows, batch_size=batch_size)

    def score_ids(
        self,
        source_rows: Sequence[Sequence[int]],
        target_rows: Sequence[Sequence[int]],
        *,
        batch_size: int = 64,
    ) -> np.ndarray:
        """Return log p(target | source) of ids that include their end symbol, `[B]`.

        Raises:
            ValueError: different numbers of rows, an empty row, or an id outside the vocabulary.
        """
        check_count("batch_size", batch_size)
        if len(source_rows) != len(target_rows):
            raise ValueError(
                "source_rows and target_rows must be equally many. Received: "
                f"{len(source_rows)} and {len(target_rows)}"
            )
        longest = self.config.longest
        _check_rows("source_rows", source_rows, self.config.source_vocab_size, longest)
        _check_rows("target_rows", target_rows, self.config.target_vocab_size, longest)
        scores = np.zeros(len(source_rows), "float32")
        for indices in batches_by_length(list(map(len, target_rows)), batch_size):
            source_ids = pad_rows([source_rows[i] for i in indices], self.config.pad_id)
            target_out = pad_rows([target_rows[i] for i in indices], self.config.pad_id)
            target_in = np.roll(target_out, 1, axis=1)
            target_in[:, 0] = self.config.start_id
            log_probs = self._log_probs_of(source_ids, target_in, target_out)
            lengths = np.array([[len(target_rows[i])] for i in indices])
            real = np.arange(target_out.shape[1]) < lengths
            scores[indices] = np.where(real, log_probs, 0).sum(axis=1)
        return scores

    def _log_probs_of(self, *ids: np.ndarray) -> np.ndarray:
        """Log-probability of each target position `[B, T]`, as a NumPy array."""
        if not backend.needs_fixed_shapes():
            return np.asarray(self._compiled_log_probs(*ids))
        rows, length = ids[-1].shape
        padded = (
            _grown_to(x, rounded_up(rows, 1), self._rounded(x.shape[1]), self.config.pad_id)
            for x in ids
        )
        return np.asarray(self._compiled_log_probs(*padded))[:rows, :length]

    @functools.cached_property
    def _compiled_search(self) -> Callable[[int | None], Any]:
        """The compiled search for each capacity."""

        @functools.cache
        def compiled(capacity: int | None) -> Any:
            return backend.compile(
                lambda ids, limit, alpha: generate(self.model, ids, limit, alpha, capacity),
                [((None, None), "int32"), ((), "int32"), ((), "float32")],
                self.model.variables,
            )

        return compiled

    @functools.cached_property
    def _compiled_log_probs(self) -> Any:
        return backend.compile(self._log_probs, [((None, None), "int32")] * 3, self.model.variables)

    def _log_probs(self, source_ids, target_in, target_out):
        log_probs = ops.log_softmax(self.model((source_ids, target_in)), axis=-1)
        chosen = ops.expand_dims(target_out, -1)
        return ops.squeeze(ops.take_along_axis(log_probs, chosen, axis=-1), -1)

    def _rows(self, tokenizer: Tokenizer, texts: Sequence[str], name: str) -> list[list[int]]:
        """Ids of each text and the end symbol."""
        rows = [[*row, self.config.eos_id] for row in tokenizer.encode(texts)]
        for index, row in enumerate(rows):
            _check_length(f"{name}[{index}]", len(row), self.config.longest)
        return rows

    def _hypotheses(self, found: SearchResult) -> list[list[Hypothesis]]:
        config = self.config
        special = {config.pad_id, config.eos_id}
        tokens = [
            [[int(i) for i in ids if i not in special] for ids in hypotheses]
            for hypotheses in found.ids
        ]
        texts = iter(self.target.decode([ids for hypotheses in tokens for ids in hypotheses]))
        return [
            [
                Hypothesis(next(texts), float(score), ids, bool(finished))
                for ids, score, finished in zip(row, scores, ended, strict=True)
            ]
            for row, scores, ended in zip(tokens, found.scores, found.finished, strict=True)
        ]
