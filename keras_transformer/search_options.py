"""What a translation may be asked for: the same for every translator, without TensorFlow."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Iterable, Iterator

LARGEST = 2**31 - 1  # of an int32
STRONGEST_PENALTY = 100


def check_search_options(
    beam_size: int = 1,
    num_hypotheses: int = 1,
    length_penalty: float = 0.6,
    max_decoding_length: int | None = None,
) -> None:
    """Refuse options that the search cannot honour.

    Raises:
        ValueError: more than one hypothesis or beam, a length penalty that is not a number from
            0, or a limit that is not None or an integer from 1.
    """
    for name, value in (("beam_size", beam_size), ("num_hypotheses", num_hypotheses)):
        if value != 1 or isinstance(value, bool):
            raise ValueError(
                f"{name} must be 1: this version decodes greedily. Received: {name}={value!r}"
            )
    number = isinstance(length_penalty, numbers.Real) and not isinstance(length_penalty, bool)
    if not number or not 0 <= length_penalty <= STRONGEST_PENALTY:
        raise ValueError(
            f"length_penalty must be a number from 0 to {STRONGEST_PENALTY}; 0 leaves "
            "log-probabilities as they are. "
            f"Received: length_penalty={length_penalty!r}"
        )
    if max_decoding_length is not None:
        check_count("max_decoding_length", max_decoding_length, " or None for source length + 50")


def check_count(name: str, value: object, alternative: str = "") -> None:
    """Refuse what is not an integer from 1 that fits 32 bits.

    Raises:
        ValueError: it is not.
    """
    integer = hasattr(value, "__index__") and not isinstance(value, bool)
    if not integer or not 1 <= int(value) <= LARGEST:  # pyright: ignore[reportArgumentType]
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
