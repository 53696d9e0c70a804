"""Texts in, hypotheses out, on the Keras model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer import backend

backend.start()

from keras import ops

from keras_transformer.config import SequenceConfig
from keras_transformer.decoding.compiled_search import CompiledSearch
from keras_transformer.decoding.phases import Found
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.hypothesis import LOWEST_SCORE, Hypothesis
from keras_transformer.id_rows import batches_by_length, grown_to, pad_rows, rounded_up
from keras_transformer.layers.embedding import check_ids
from keras_transformer.recipe import RunConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.search_options import (
    SearchOptions,
    check_count,
    check_sampling,
    in_chunks,
    prefix_rows,
)
from keras_transformer.text.tokenizer import Tokenizer


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
        held_out_references: for each of these its right translations, where they are known.
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
        held_out_references: Sequence[Sequence[str]] | None = None,
        recipe: RunConfig | None = None,
    ):
        self.model = model
        self.source = source
        self.target = target
        self.config: SequenceConfig = model.config
        self.held_out = list(held_out) if held_out is not None else None
        self.held_out_references = held_out_references
        self.recipe = recipe
        self._search = CompiledSearch(model)
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
        held_out = run.held_out()
        return cls(
            run.load_best_model(),
            run.source_tokenizer(),
            run.target_tokenizer(),
            held_out=[source for source, _ in held_out],
            held_out_references=[references for _, references in held_out],
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
        min_decoding_length: int | None = None,
        early_stopping: bool = True,
        target_prefix: Sequence[Sequence[int]] | None = None,
        batch_size: int = 64,
    ) -> list[list[Hypothesis]]:
        """Translate texts; the order is kept and each gets what it would get alone.

        Args:
            texts: any number of texts, the empty text included.
            beam_size: hypotheses that are followed together; 1: greedy search.
            num_hypotheses: hypotheses for each text, at most `beam_size`.
            length_penalty: alpha of ((5 + length) / 6)^alpha, which divides the log-probability.
            max_decoding_length: most target tokens, end symbol included; None: source + 50.
            min_decoding_length: fewest target tokens, end symbol included; None: any number.
            early_stopping: True: beam search ends a text once its open hypotheses, at their
                present length, score no better than the finished ones. False: once they could not
                get better by any continuation; never misses what the beam holds, and is slower.
            target_prefix: for each text the target ids its translations begin with, as
                `target.encode` gives them; an empty row leaves a text free.
            batch_size: texts decoded together, by similar length.

        Returns:
            For each text its hypotheses, best first. Those that were cut at the limit come after
            the others. There are fewer where the vocabulary allows no more.

        Raises:
            ValueError: an option out of range, a text with U+0000 or a lone surrogate, or a
                text too long for learned positions.
        """
        options = SearchOptions(
            beam_size,
            num_hypotheses,
            length_penalty,
            max_decoding_length,
            min_decoding_length,
            early_stopping,
        )
        options.check_fit(self.config.target_vocab_size)
        check_count("batch_size", batch_size)
        rows = self._rows(self.source, texts, "texts")
        prefixes = prefix_rows(target_prefix, len(rows), self.config)
        results: list[list[Hypothesis]] = [[] for _ in rows]
        for indices in batches_by_length(list(map(len, rows)), batch_size):
            source_ids = pad_rows([rows[i] for i in indices], self.config.pad_id)
            prefix = pad_rows([prefixes[i] for i in indices], self.config.pad_id)
            found = self._search(source_ids, prefix, options)
            for index, hypotheses in zip(indices, self._hypotheses(found), strict=True):
                results[index] = hypotheses
        return results

    def translate_iter(
        self, lines: Iterable[str], *, chunk_size: int = 2048, **options: Any
    ) -> Iterator[list[Hypothesis]]:
        """Translate a stream of texts in constant memory, `chunk_size` at a time."""
        for chunk in in_chunks(lines, chunk_size):
            yield from self.translate(chunk, **options)

    def sample(
        self,
        texts: Sequence[str],
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        length_penalty: float = 0.6,
        max_decoding_length: int | None = None,
        min_decoding_length: int | None = None,
        target_prefix: Sequence[Sequence[int]] | None = None,
        batch_size: int = 64,
    ) -> list[list[Hypothesis]]:
        """Draw translations at random, token by token, by the model's probabilities.

        Equal arguments draw alike, and the batch size changes nothing.

        Args:
            texts: any number of texts.
            num_samples: how many to draw for each; they may be equal.
            temperature: above 0: divides the logits; below 1 likely tokens become likelier.
            top_k: only so many of the most probable tokens; 0: all.
            top_p: only the fewest tokens that together are so probable, above 0; 1: all.
            seed: an integer from 0.
            length_penalty: of the scores, see `translate`.
            max_decoding_length: see `translate`.
            min_decoding_length: see `translate`.
            target_prefix: see `translate`.
            batch_size: samples drawn together.

        Returns:
            For each text its samples in the order they were drawn. Scores are those that the
            model gives, temperature and cuts aside.

        Raises:
            ValueError: as `translate`; `temperature` or `top_p` out of range.
        """
        options = SearchOptions(1, 1, length_penalty, max_decoding_length, min_decoding_length)
        check_sampling(num_samples, temperature, top_k, top_p, seed)
        sampling = Sampling(
            np.float32(temperature), np.int32(top_k), np.float32(top_p), np.uint32(seed), None
        )
        check_count("batch_size", batch_size)
        rows = self._rows(self.source, texts, "texts")
        prefixes = prefix_rows(target_prefix, len(rows), self.config)
        results: list[list[Hypothesis]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        draws = [(i, i * num_samples + draw) for i in order for draw in range(num_samples)]
        for start in range(0, len(draws), batch_size):
            batch = draws[start : start + batch_size]
            found = self._search(
                pad_rows([rows[i] for i, _ in batch], self.config.pad_id),
                pad_rows([prefixes[i] for i, _ in batch], self.config.pad_id),
                options,
                sampling._replace(streams=np.array([stream for _, stream in batch], "int32")),
            )
            for (index, _), hypotheses in zip(batch, self._hypotheses(found), strict=True):
                results[index].extend(hypotheses)
        return results

    def search(self, source_ids, options: SearchOptions | None = None, target_prefix=None) -> Found:
        """Decode ids `[B, S]` with the compiled search; NumPy arrays come back.

        Args:
            source_ids: integers, padded on the right, each row with its end symbol.
            options: None: greedy search, all by default.
            target_prefix: for each row the target ids that come first; None: free.

        Raises:
            ValueError: not integers `[B, S]`, an id outside the vocabulary, or a bad option.
        """
        source_ids = np.asarray(source_ids)
        if source_ids.ndim != 2 or not np.issubdtype(source_ids.dtype, np.integer):
            raise ValueError(
                "source_ids must be integers [B, S]. "
                f"Received: shape {source_ids.shape}, {source_ids.dtype}"
            )
        check_ids(source_ids, self.config.source_vocab_size, "source_ids")
        _check_length("source_ids", source_ids.shape[1], self.config.longest)
        options = options or SearchOptions()
        options.check_fit(self.config.target_vocab_size)
        prefixes = prefix_rows(target_prefix, len(source_ids), self.config)
        return self._search(source_ids, pad_rows(prefixes, self.config.pad_id), options)

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
        widths = [rounded_up(x.shape[1], most=self.config.longest) for x in ids]
        padded = (
            grown_to(x, rounded_up(rows, 1), longer, self.config.pad_id)
            for x, longer in zip(ids, widths, strict=True)
        )
        return np.asarray(self._compiled_log_probs(*padded))[:rows, :length]

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

    def _hypotheses(self, found: Found) -> list[list[Hypothesis]]:
        special = {self.config.pad_id, self.config.eos_id}
        exist = found.scores > LOWEST_SCORE
        tokens = [[int(i) for i in ids if i not in special] for ids in found.ids[exist]]
        parts = zip(
            self.target.decode(tokens),
            found.scores[exist],
            tokens,
            found.finished[exist],
            strict=True,
        )
        hypotheses = (Hypothesis(text, float(s), ids, bool(ended)) for text, s, ids, ended in parts)
        return [list(itertools.islice(hypotheses, int(count))) for count in exist.sum(axis=1)]
