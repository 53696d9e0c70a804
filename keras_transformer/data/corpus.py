"""Sentence pairs from files, read line by line: constant memory, and errors that name the line."""

# Callers are not type-checked, so arguments are.
# pyright: reportUnnecessaryIsInstance=false

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

Pair = tuple[str, str]
AnyPath = str | os.PathLike[str]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"


class _Pairs:
    """What both kinds of corpus share: blank sides are skipped and counted."""

    def __init__(self) -> None:
        self._skipped_empty = 0
        self._first_empty_line = 0

    @property
    def skipped_empty(self) -> int:
        """How many lines with a blank side the last pass skipped."""
        return self._skipped_empty

    @property
    def first_empty_line(self) -> int:
        """The number (from 1) of the first line that the last pass skipped; 0 without any."""
        return self._first_empty_line

    def _without_blank(self, rows: Iterable[tuple[int, str, str]], name: str) -> Iterator[Pair]:
        kept = skipped = first = 0
        for number, source, target in rows:
            if source.strip() and target.strip():
                kept += 1
                yield source, target
            else:
                skipped += 1
                first = first or number
            self._skipped_empty, self._first_empty_line = skipped, first
        if not kept:
            raise ValueError(
                f"{name}: must have at least one line with a source and a target. Check that it "
                f"is the right file. Received: {skipped} lines, all with a blank side"
            )


class PairFile(_Pairs):
    r"""A text file with one pair a line: source, TAB, target.

    UTF-8, with or without byte order mark, lines ended by LF or CRLF, plain or gzip. Only LF ends
    a line, so that U+2028, U+0085 and form feeds stay inside of texts. May be iterated any number
    of times; each pass holds one line in memory. Lines with a blank side are skipped and counted.

    Args:
        path: the file. Gzip is recognised by its first bytes.
        columns: which columns, from 0, are source and target. With None a line must have exactly
            two; otherwise it may have more.

    Raises:
        ValueError: when made, for a missing, unreadable or empty file; in a pass, for the first
            line that has too few or too many columns, is not UTF-8 or contains U+0000, for a
            damaged gzip file, and for a file with no pair. Messages begin "file:line:".

    Example:
        >>> _ = Path("pairs.tsv").write_text("hello\thallo\n", encoding="utf-8")
        >>> list(PairFile("pairs.tsv"))
        [('hello', 'hallo')]
    """

    def __init__(self, path: AnyPath, columns: tuple[int, int] | None = None):
        super().__init__()
        if columns is not None and (len(columns) != 2 or min(columns) < 0):
            raise ValueError(
                "columns must be two numbers from 0. Give the columns of source and target. "
                f"Received: columns={columns!r}"
            )
        self.path = Path(path)
        self.columns = columns
        _check_readable(self.path)

    def __iter__(self) -> Iterator[Pair]:
        return self._without_blank(self._rows(), str(self.path))

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        for number, line in _read_lines(self.path):
            if not line.strip():
                yield number, "", ""
                continue
            cells = line.split("\t")
            if self.columns is None and len(cells) == 2:
                yield number, cells[0], cells[1]
            elif self.columns is not None and len(cells) > max(self.columns):
                yield number, cells[self.columns[0]], cells[self.columns[1]]
            else:
                raise ValueError(self._wrong_columns(number, line, len(cells)))

    def _wrong_columns(self, number: int, line: str, found: int) -> str:
        if self.columns is None:
            wanted = "a line must have two columns, source TAB target"
            advice = "Add the TAB" if found < 2 else "Cut the others off: cut -f1,2"
        else:
            wanted = f"a line must have at least {max(self.columns) + 1} columns"
            advice = "Correct the line or columns"
        columns = "1 column" if found == 1 else f"{found} columns"
        shown = line if len(line) <= 60 else line[:60] + "..."
        return f"{self.path}:{number}: {wanted}. {advice}. Received: {columns}, {shown!r}"

    def identity(self) -> str:
        """Returns what is another text when the file or the columns change."""
        return f"PairFile {file_identity(self.path)} {self.columns}"

    def __repr__(self) -> str:
        return f"PairFile({str(self.path)!r})"


class ParallelFiles(_Pairs):
    """Two text files whose lines belong together; format, passes and errors as in `PairFile`.

    Args:
        source: file of source texts, one a line.
        target: file of target texts, one a line; the same number of lines.

    Raises:
        ValueError: when made, also for files of different numbers of lines; the message has both.
    """

    def __init__(self, source: AnyPath, target: AnyPath):
        super().__init__()
        self.source, self.target = Path(source), Path(target)
        counts = [_count_lines(path) for path in (self.source, self.target)]
        if counts[0] != counts[1]:
            raise ValueError(
                "source and target must have the same number of lines. Check that they belong "
                f"together and are whole. Received: {self.source} with {counts[0]:,} lines, "
                f"{self.target} with {counts[1]:,} lines"
            )

    def __iter__(self) -> Iterator[Pair]:
        return self._without_blank(self._rows(), f"{self.source}, {self.target}")

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        lines = zip(_read_lines(self.source), _read_lines(self.target), strict=True)
        for (number, source), (_, target) in lines:
            yield number, source, target

    def identity(self) -> str:
        """Returns what is another text when a file changes."""
        return f"ParallelFiles {file_identity(self.source)} {file_identity(self.target)}"

    def __repr__(self) -> str:
        return f"ParallelFiles({str(self.source)!r}, {str(self.target)!r})"


class HashSplit:
    """The pairs of a corpus whose source text falls into one share; made by `split_by_hash`."""

    def __init__(self, pairs: Iterable[Pair], lower: float, upper: float):
        self.pairs = pairs
        self._lower, self._upper = lower, upper

    def __iter__(self) -> Iterator[Pair]:
        for source, target in self.pairs:
            if self._lower <= _place(source) < self._upper:
                yield source, target

    def identity(self) -> str:
        """Returns what is another text when the corpus or the share changes."""
        return f"HashSplit {self._lower} {self._upper} of {corpus_identity(self.pairs)}"


def split_by_hash(pairs: Iterable[Pair], fractions: Mapping[str, float]) -> dict[str, HashSplit]:
    """Splits a corpus by a hash of the source text: the same text is always in the same part.

    A pair's part depends on nothing but its source text and the fractions, so that parts stay
    disjoint when the corpus grows or changes its order, and variants of one source stay together.

    Args:
        pairs: a corpus that can be iterated more than once.
        fractions: share of each part by name, in order, summing to 1, such as
            `{"train": 0.9, "validation": 0.05, "test": 0.05}`.

    Returns:
        For each name a view that reads `pairs` anew at each pass and holds nothing.

    Raises:
        ValueError: for shares that are not positive or do not sum to 1, and for an iterator.
    """
    check_reiterable(pairs)
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(
            "fractions must be positive and sum to 1. Give the share of every part. "
            f"Received: fractions={dict(fractions)!r}"
        )
    splits: dict[str, HashSplit] = {}
    lower = 0.0
    for name, share in fractions.items():
        # Rounding of the sums must not leave a gap at the end.
        upper = lower + share if len(splits) + 1 < len(fractions) else 1.0
        splits[name] = HashSplit(pairs, lower, upper)
        lower = upper
    return splits


def group_references(pairs: Iterable[Pair]) -> list[tuple[str, list[str]]]:
    """Gathers the targets of equal sources, in order of first appearance.

    Returns:
        A list of (source, references) without repeated references; it holds the whole corpus.
    """
    groups: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        groups.setdefault(source, {})[target] = None
    return [(source, list(references)) for source, references in groups.items()]


def check_reiterable(pairs: Iterable[object]) -> None:
    """Refuses what can be read only once.

    Raises:
        ValueError: when `pairs` is an iterator or not iterable.
    """
    if not isinstance(pairs, Iterable) or iter(pairs) is pairs:
        raise ValueError(
            "pairs must be a corpus that can be read more than once, such as a list or PairFile, "
            f"not an iterator. Put it in a list. Received: {type(pairs).__name__}"
        )


def corpus_identity(pairs: Iterable[object]) -> str:
    """Returns what is another text whenever a corpus has other pairs.

    Raises:
        ValueError: it has no method `identity`.
    """
    identity = getattr(pairs, "identity", None)
    if identity is None:
        raise ValueError(
            "pairs must have a method identity() to be kept in a cache, as PairFile and "
            f"ParallelFiles have. Leave cache out. Received: {type(pairs).__name__}"
        )
    return str(identity())


def file_identity(path: Path) -> str:
    """Returns what is another text when a file is another, or was written to."""
    found = path.stat()
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"


def _place(text: str) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    # 53 bits: the quotient is exact and stays below 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _check_readable(path: Path) -> None:
    with _opened(path):
        pass


def _opened(path: Path) -> BinaryIO:
    """Opens a plain or gzip file for reading bytes; an unusable file is a ValueError."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start == _GZIP_MAGIC:
            return gzip.open(path, "rb")  # type: ignore[return-value]
        if start and path.suffix != ".gz":
            return open(path, "rb")
    except OSError as error:
        raise ValueError(
            f"{path}: must be a readable text file. Check the name and the permissions. "
            f"Received: {error.strerror}"
        ) from error
    wanted, found = ("a gzip file", "other content") if start else ("a text file", "an empty file")
    raise ValueError(f"{path}: must be {wanted}. Check that it is whole. Received: {found}")


def _read_raw(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (number from 1, bytes without the line end) of each line."""
    number = 0
    with _opened(path) as file:
        try:
            for number, raw in enumerate(file, start=1):
                line = raw[:-1] if raw.endswith(b"\n") else raw
                yield number, line[:-1] if line.endswith(b"\r") else line
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{path}:{number + 1}: the file must be whole and readable. Copy or compress it "
                f"again. Received: {error}"
            ) from error


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, raw in _read_raw(path):
        if number == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: must be UTF-8 text. Convert the file or correct the line. "
                f"Received: byte 0x{raw[error.start]:02x} at offset {error.start} of the line"
            ) from error
        if "\x00" in line:
            raise ValueError(
                f"{path}:{number}: a text must not contain U+0000 (NUL). Remove it. "
                f"Received: NUL at position {line.index(chr(0))} of the line"
            )
        yield number, line


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _read_raw(path))
