"""What a translation may be asked for: the same for every translator, without TensorFlow."""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LARGEST = 2**31 - 1  # of an int32
STRONGEST_PENALTY = 10
HIGHEST_TEMPERATURE = 1000


@dataclass(frozen=True)
class SearchOptions:
    """How to search; the options of every translator.

    Attributes:
        beam_size: hypotheses that are followed together; 1: greedy search.
        num_hypotheses: how many to return, at most `beam_size`.
        length_penalty: alpha of ((5 + length) / 6)^alpha, which divides the log-probability.
        max_decoding_length: most target tokens, end symbol included; None: source + 50.
        min_decoding_length: fewest target tokens, end symbol included; None: any number.
        early_stopping: whether beam search ends once its open hypotheses, at their present
            length, score no better than the finished ones; see `Translator.translate`.

    Raises:
        ValueError: a value that the search cannot honour.
    """

    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 0.6
    max_decoding_length: int | None = None
    min_decoding_length: int | None = None
    early_stopping: bool = True

    def __post_init__(self) -> None:
        check_count("beam_size", self.beam_size)
        check_count("num_hypotheses", self.num_hypotheses)
        if self.num_hypotheses > self.beam_size:
            raise ValueError(
                "num_hypotheses must be at most beam_size: a search of that many finds no more. "
                f"Raise beam_size. Received: num_hypotheses={self.num_hypotheses}, "
                f"beam_size={self.beam_size}"
            )
        alpha = self.length_penalty
        number = isinstance(alpha, numbers.Real) and not isinstance(alpha, bool)
        if not number or not 0 <= alpha <= STRONGEST_PENALTY:
            raise ValueError(
                f"length_penalty must be a number from 0 to {STRONGEST_PENALTY}; 0 leaves "
                f"log-probabilities as they are. Received: length_penalty={alpha!r}"
            )
        if not isinstance(self.early_stopping, bool):
            raise ValueError(
                "early_stopping must be True or False. "
                f"Received: early_stopping={self.early_stopping!r}"
            )
        most, least = self.max_decoding_length, self.min_decoding_length
        if most is not None:
            check_count("max_decoding_length", most, " or None for source length + 50")
        if least is not None:
            check_count("min_decoding_length", least, " or None for any number")
        if most is not None and least is not None and least > most:
            raise ValueError(
                "min_decoding_length must be at most max_decoding_length. Received: "
                f"min_decoding_length={least}, max_decoding_length={most}"
            )

    def check_fit(self, vocab_size: int) -> None:
        """Refuse a beam that is wider than the target vocabulary.

        Raises:
            ValueError: it is.
        """
        if self.beam_size > vocab_size:
            raise ValueError(
                f"beam_size must be at most the target vocabulary's size, {vocab_size}. "
                f"Received: beam_size={self.beam_size}"
            )

    def numbers(self) -> tuple[Any, ...]:
        """Return all options in their order as NumPy scalars, 0 for None."""
        return (
            np.int32(self.beam_size),
            np.int32(self.num_hypotheses),
            np.float32(self.length_penalty),
            np.int32(self.max_decoding_length or 0),
            np.int32(self.min_decoding_length or 0),
            np.bool_(self.early_stopping),
        )


def check_sampling(
    num_samples: int, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    """Refuse what sampling cannot honour.

    Raises:
        ValueError: a number out of range; it is named.
    """
    check_count("num_samples", num_samples)
    for name, value, most in (
        ("temperature", temperature, HIGHEST_TEMPERATURE),
        ("top_p", top_p, 1),
    ):
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not 0 < value <= most:
            raise ValueError(
                f"{name} must be a number above 0 and at most {most}. For the best translation "
                f"use translate. Received: {name}={value!r}"
            )
    for name, value in (("top_k", top_k), ("seed", seed)):
        number = _as_int(value)
        if number is None or not 0 <= number <= LARGEST:
            raise ValueError(
                f"{name} must be an integer from 0 to {LARGEST}. Received: {name}={value!r}"
            )


class HasIds(Protocol):
    """What `prefix_rows` reads of a configuration."""

    @property
    def target_vocab_size(self) -> int: ...
    @property
    def banned_ids(self) -> tuple[int, ...]: ...
    @property
    def eos_id(self) -> int: ...


def prefix_rows(
    target_prefix: Sequence[Sequence[int]] | None, count: int, config: HasIds
) -> list[list[int]]:
    """Return what each of `count` outputs must begin with, as lists of ids.

    Raises:
        ValueError: another number of rows, or an id that no output can have.
    """
    if target_prefix is None:
        return [[]] * count
    rows = len(target_prefix) if hasattr(target_prefix, "__len__") else repr(target_prefix)
    if rows != count:
        raise ValueError(
            "target_prefix must have a row for each text, [] where it is free. "
            f"Received: {rows} rows for {count} texts"
        )
    return [_prefix_row(place, row, config) for place, row in enumerate(target_prefix)]


def _prefix_row(place: int, row: Sequence[int], config: HasIds) -> list[int]:
    if not hasattr(row, "__len__"):
        raise ValueError(f"target_prefix[{place}] must be a list of target ids. Received: {row!r}")
    impossible = {*config.banned_ids, config.eos_id}
    tokens: list[int] = []
    for received in row:
        token = _as_int(received)
        if token is None or token in impossible or not 0 <= token < config.target_vocab_size:
            raise ValueError(
                f"target_prefix[{place}] must hold target ids below "
                f"{config.target_vocab_size} without the pad, start and end symbols. "
                f"Received: {received!r}"
            )
        tokens.append(token)
    return tokens


def _as_int(value: object) -> int | None:
    """Return an integer of any kind as a Python int; None: it is something else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def check_count(name: str, value: object, alternative: str = "") -> None:
    """Refuse what is not an integer from 1 that fits 32 bits.

    Raises:
        ValueError: it is not.
    """
    number = _as_int(value)
    if number is None or not 1 <= number <= LARGEST:
        raise ValueError(
            f"{name} must be an integer from 1 to {LARGEST}{alternative}. "
            f"Received: {name}={value!r}"
        )


def in_chunks(lines: Iterable[str], chunk_size: int) -> Iterator[list[str]]:
    """Yield lists of `chunk_size` lines, the last one shorter; holds one of them at a time.

    Raises:
        ValueError: `chunk_size` is not an integer from 1, or one string in place of lines.
    """
    if isinstance(lines, str):
        raise ValueError(f"lines must be several texts. Put one in a list. Received: {lines!r}")
    check_count("chunk_size", chunk_size)
    iterator = iter(lines)
    while chunk := list(itertools.islice(iterator, chunk_size)):
        yield chunk
