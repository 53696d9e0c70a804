"""Text to subword ids and back: a SentencePiece model with this project's special ids."""

# Callers are not type-checked, so arguments are.
# pyright: reportUnnecessaryIsInstance=false

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_transformer.files import replacing
from keras_transformer.text.protobuf import fields
from keras_transformer.text.sentencepiece_training import (
    ModelType,
    Normalization,
    import_sentencepiece,
    train_model,
)
from keras_transformer.text.unknowns import Unknowns
from keras_transformer.text.validation import check_texts


class Tokenizer:
    """Texts to lists of ids and back.

    A SentencePiece model (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226) of one of
    four types: `unigram` and `bpe` cut words into pieces, `char` cuts text into characters,
    `word` splits at spaces. Ids of a tokenizer made by `train`: padding 0, unknown 1, begin 2,
    end 3, ordinary pieces from 4.

    Instances are immutable, compare equal when their serialized models are equal bytes, and may
    be used from several threads. Loading needs `sentencepiece`, never TensorFlow.

    Example:
        >>> tokenizer = Tokenizer.train(["a cat", "a dog"], vocab_size=20, model_type="char")
        >>> tokenizer.decode(tokenizer.encode(["a dog"]))
        ['a dog']
    """

    def __init__(self, serialized: bytes):
        """Makes the tokenizer of a serialized SentencePiece model; see also `load`, `train`."""
        self._processor = _make_processor(serialized, "serialized")
        self._serialized = bytes(serialized)
        self._unknowns = Unknowns.read(self._serialized)
        pieces = int(self._processor.vocab_size())
        self._vocab_size = pieces if self._unknowns is None else self._unknowns.vocab_size
        self._skipped_ids = _skipped_ids(self._processor)

    @classmethod
    def train(
        cls,
        lines: Iterable[str],
        vocab_size: int = 8000,
        model_type: ModelType = "unigram",
        *,
        character_coverage: float = 1.0,
        add_dummy_prefix: bool = True,
        byte_fallback: bool = False,
        normalization: Normalization = "nmt_nfkc",
        num_threads: int = 4,
    ) -> "Tokenizer":
        """Learns a vocabulary; equal arguments and lines give equal bytes.

        Args:
            lines: texts, read once. Of more than 2,000,000 lines a random sample of that many is
                used (the same at every run), so that memory stays bounded. No line is too long.
            vocab_size: the largest number of pieces, special ids included. It is a maximum for
                every model type: text with fewer distinct pieces gives a smaller vocabulary.
            model_type: "unigram", "bpe", "char" or "word".
            character_coverage: share of the characters in `lines` that get a piece of their own,
                0.98 to 1; the rarest others become unknown.
            add_dummy_prefix: whether a space is put before the text, so that a word is the same
                piece at the start and inside of a sentence.
            byte_fallback: whether unknown characters are spelled as UTF-8 bytes, with 256 pieces
                reserved for them. Not for "word", which cannot write them back as words.
            normalization: SentencePiece's rule: "nmt_nfkc" (NFKC and plain spaces), "nmt_nfkc_cf"
                (and case folding), "nfkc", "nfkc_cf", or "identity" (characters as they are).
            num_threads: threads for training. The result may depend on it.

        Returns:
            A `Tokenizer`.

        Raises:
            ValueError: for an argument out of range, for lines that are not all `str`, have
                U+0000 or are all blank, and for a `vocab_size` too small for the characters.
        """
        return cls(
            train_model(
                lines,
                vocab_size=vocab_size,
                model_type=model_type,
                character_coverage=character_coverage,
                add_dummy_prefix=add_dummy_prefix,
                byte_fallback=byte_fallback,
                normalization=normalization,
                num_threads=num_threads,
            )
        )

    @classmethod
    def from_bytes(cls, serialized: bytes) -> "Tokenizer":
        """Returns the tokenizer of a serialized model, the inverse of `serialized`.

        Raises:
            ValueError: when the bytes are not a whole SentencePiece model with padding, unknown
                and end ids.
        """
        return cls(serialized)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a SentencePiece model file.

        Raises:
            ValueError: when the file is missing, unreadable, or not a whole SentencePiece model
                with padding, unknown and end ids. The message names the file.
        """
        try:
            serialized = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(
                f"path must be a readable SentencePiece model file ({error.strerror}). "
                f"Check the name and the permissions. Received: path={os.fspath(path)!r}"
            ) from error
        try:
            return cls(serialized)
        except ValueError as error:
            raise ValueError(
                f"path must be a whole SentencePiece model file, but {os.fspath(path)} is "
                f"damaged or of another kind. Copy or train it again. "
                f"Received: path={os.fspath(path)!r} ({error})"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model file in one step: a reader sees the old file or the new, never a part.

        Raises:
            OSError: when it cannot be written; a file of that name is then left as it was.
        """
        with replacing(path) as aside:
            aside.write_bytes(self._serialized)

    @property
    def serialized(self) -> bytes:
        """The SentencePiece model, as `save` writes it."""
        return self._serialized

    @property
    def vocab_size(self) -> int:
        """The number of pieces, special ids included."""
        return self._vocab_size

    @property
    def pad_id(self) -> int:
        """The id that fills rows."""
        return self._processor.pad_id()

    @property
    def unk_id(self) -> int:
        """The id of what has no piece."""
        return self._processor.unk_id()

    @property
    def bos_id(self) -> int:
        """The id that begins a target: padding where the model has no begin piece, as Marian's."""
        begin = self._processor.bos_id()
        return self.pad_id if begin < 0 else begin

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""
        return self._processor.eos_id()

    @property
    def unknowns(self) -> Unknowns | None:
        """What becomes of unknown pieces, where the vocabulary is not SentencePiece's own."""
        return self._unknowns

    @property
    def skipped_ids(self) -> tuple[int, ...]:
        """The ids that `decode` leaves out: padding, begin and, with byte fallback, the NUL byte.

        No text has U+0000, so a NUL byte is always a model's mistake, and it would end the text
        inside ONNX Runtime.
        """
        return self._skipped_ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without begin and end ids; an empty text gives [].

        Raises:
            ValueError: for one string in place of a sequence, and for a text with U+0000 or a
                lone surrogate; the message has its index and position.
        """
        rows = self._processor.encode(check_texts(texts))
        return rows if self._unknowns is None else self._unknowns.apply(rows)

    def encode_nbest(self, texts: Sequence[str], nbest: int) -> list[list[tuple[list[int], float]]]:
        """Returns the most probable ways to cut each text into pieces, for subword regularisation.

        Kudo 2018 (https://arxiv.org/abs/1804.10959), section 3.2. The same at every call and in
        every process, which SentencePiece's own sampling is not.

        Args:
            texts: as for `encode`.
            nbest: the most ways for a text, from 1.

        Returns:
            For each text at least one (ids, log probability): what `encode` gives comes first,
            then the others by falling probability. An unknown piece counts as SentencePiece counts
            it: 10 below the least probable one.

        Raises:
            ValueError: bad texts, `nbest` below 1, or a model that is not `unigram`: no other has
                probabilities.
        """
        if isinstance(nbest, bool) or not isinstance(nbest, int) or nbest < 1:
            raise ValueError(f"nbest must be an integer from 1. Received: nbest={nbest!r}")
        scores = self._piece_scores()
        found: list[list[tuple[list[int], float]]] = []
        for text, best in zip(check_texts(texts), self._processor.encode(texts), strict=True):
            ways = [best, *self._nbest(text, nbest)]
            distinct = list(dict.fromkeys(tuple(way) for way in ways))[:nbest]
            first, others = distinct[0], distinct[1:]
            log_probs = {way: float(sum(scores[i] for i in way)) for way in distinct}
            others.sort(key=lambda way: (-log_probs[way], way))
            rows = [list(way) for way in (first, *others)]
            if self._unknowns is not None:
                rows = self._unknowns.apply(rows)
            found.append(list(zip(rows, (log_probs[w] for w in (first, *others)), strict=True)))
        return found

    def _nbest(self, text: str, nbest: int) -> list[list[int]]:
        try:
            return self._processor.nbest_encode(text, nbest_size=nbest)
        except RuntimeError:
            raise ValueError(
                "model_type must be unigram where texts are cut in several ways: the pieces of "
                "other models have no probabilities. Train the tokenizer with "
                'model_type="unigram", or leave subword_nbest at 1.'
            ) from None

    def _piece_scores(self) -> list[float]:
        """Return the log probability of each piece of the model, by its id there."""
        ids = range(self._processor.vocab_size())
        ordinary = [i for i in ids if not self._processor.is_control(i)]
        scores = [0.0] * len(ids)
        for i in ordinary:
            scores[i] = float(self._processor.get_score(i))
        known = (scores[i] for i in ordinary if not self._processor.is_unknown(i))
        scores[self._processor.unk_id()] = min(known, default=0.0) - 10
        return scores

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row of ids.

        A row ends at its first end id; `skipped_ids` are left out wherever they are. An unknown
        id gives " ⁇ ", SentencePiece's sign for it.

        Args:
            ids: rows of integers (lists, tuples or NumPy rows), of any lengths.

        Raises:
            ValueError: for an id outside the vocabulary or not an integer; the message has the
                row and position.
        """
        rows = [self._content(row, index) for index, row in enumerate(ids)]
        # SentencePiece takes an empty list for one row, not for no rows.
        return self._processor.decode(rows) if rows else []

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the piece of each id of one row, special ids as "<pad>", "<unk>", "<s>", "</s>".

        Raises:
            ValueError: for an id outside the vocabulary or not an integer.
        """
        return [self._processor.id_to_piece(i) for i in self._checked_row(ids, 0)]

    def _content(self, row: Sequence[int], index: int) -> list[int]:
        checked = self._checked_row(row, index)
        if self.eos_id in checked:
            checked = checked[: checked.index(self.eos_id)]
        return [i for i in checked if i not in self._skipped_ids]

    def _checked_row(self, row: Sequence[int], index: int) -> list[int]:
        values: list[Any] = row.tolist() if hasattr(row, "tolist") else row  # type: ignore[attr-defined]
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise ValueError(
                "ids must be rows of integers. Put a single row in a list for decode, and pass "
                f"tokens one row. Received: ids[{index}]={values!r}"
            )
        checked = list(values)
        for position, value in enumerate(checked):
            # bool is an int in Python, and NumPy integers are not: __index__ is what both have.
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                wanted = "integers"
            elif not 0 <= int(value) < self._vocab_size:
                wanted = f"from 0 to {self._vocab_size - 1}, the tokenizer's vocabulary"
            else:
                checked[position] = int(value)
                continue
            raise ValueError(
                f"ids must be {wanted}. Use ids that this tokenizer or its model made. "
                f"Received: ids[{index}][{position}]={value!r}"
            )
        return checked

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self._serialized == other._serialized

    def __hash__(self) -> int:
        return hash(self._serialized)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._serialized,)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self._vocab_size})"


def _make_processor(serialized: bytes, argument: str) -> Any:
    spm = import_sentencepiece()
    reason = _missing_part(serialized)
    if reason is None:
        try:
            processor = spm.SentencePieceProcessor(model_proto=bytes(serialized))
            # Reading every piece finds names that are not UTF-8.
            processor.id_to_piece(list(range(processor.vocab_size())))
            Unknowns.read(bytes(serialized))
        except (RuntimeError, UnicodeDecodeError, ValueError) as error:
            reason = str(error).strip()
        else:
            ids = {name: getattr(processor, f"{name}_id")() for name in ("pad", "eos")}
            missing = [name for name, value in ids.items() if value < 0]
            if not missing:
                return processor
            reason = f"it defines no {' and no '.join(missing)} id"
    raise ValueError(
        f"{argument} must be a whole SentencePiece model with pad, unk and eos ids. "
        f"Make one with Tokenizer.train. Received: {_size(serialized)} ({reason})"
    )


def _skipped_ids(processor: Any) -> tuple[int, ...]:
    skipped = {processor.pad_id(), processor.bos_id()} - {-1}
    nul = processor.piece_to_id("<0x00>")
    if processor.is_byte(nul):
        skipped.add(nul)
    return tuple(sorted(skipped))


def _missing_part(serialized: bytes) -> str | None:
    """Finds a model that ends early between two fields, which SentencePiece takes for whole."""
    if not isinstance(serialized, bytes | bytearray | memoryview) or not serialized:
        return "no bytes"
    names = {1: "pieces", 2: "trainer settings", 3: "normalization rules"}
    try:
        found = {number for number, _, _ in fields(bytes(serialized))}
    except ValueError as error:
        return str(error)
    missing = [name for number, name in names.items() if number not in found]
    return f"it has no {' and no '.join(missing)}" if missing else None


def _size(value: object) -> str:
    return f"{len(value)} bytes" if hasattr(value, "__len__") else repr(value)  # type: ignore[arg-type]
