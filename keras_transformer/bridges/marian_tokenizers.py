"""The two SentencePiece models of a Marian checkpoint, rewritten so that ids are vocab.json's."""

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from keras_transformer.text.protobuf import (
    bytes_field,
    fields,
    fixed32_field,
    number_field,
    numbers,
)
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.unknowns import Unknowns

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of a piece
UNIGRAM = 1
SPACE = "▁"
SPECIAL = {"</s>": CONTROL, "<pad>": CONTROL, "<unk>": UNKNOWN}
# Numbers of SentencePiece's own fields, from its sentencepiece_model.proto.
PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5
# Scores are multiples of this, so that float32 sums up to 16,384 are exact, and two equally good
# segmentations ("g gg" and "gg g") are equal in every version of SentencePiece.
SCORE_UNIT = 1 / 1024


class Piece(NamedTuple):
    """An entry of a SentencePiece model."""

    text: str
    score: float
    kind: int


def read_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Return the source and target tokenizers of a Marian folder.

    Ids and segmentation are those of transformers' `MarianTokenizer` and of Marian itself, which
    look the pieces of `source.spm` or `target.spm` up in `vocab.json` as strings. In each
    rewritten model, pieces of `vocab.json` that only the other side has are UNUSED, so that they
    decode but are never made from text. Pieces of its own that `vocab.json` lacks stand behind
    the vocabulary, and `Unknowns` makes them unknown. Language codes such as '>>fra<<' are
    USER_DEFINED, and are recognised at the start of a text or behind a space. The space that
    should follow them is the next word's.

    Args:
        folder: with `vocab.json`, `source.spm`, `target.spm` and, where the two vocabularies are
            separate, `target_vocab.json`.

    Raises:
        ValueError: a file is missing or damaged, or a setting in it is not supported; the file
            and the setting are named.
    """
    vocabulary = target_vocabulary = read_vocabulary(folder / "vocab.json")
    if (folder / "target_vocab.json").exists():
        target_vocabulary = read_vocabulary(folder / "target_vocab.json")
    return (
        _tokenizer(folder / "source.spm", vocabulary),
        _tokenizer(folder / "target.spm", target_vocabulary),
    )


def read_vocabulary(path: Path) -> dict[str, int]:
    """Return the pieces of a `vocab.json` in the order of their ids.

    Raises:
        ValueError: no such file, no JSON object of pieces and ids, ids that are not 0, 1, 2, ...,
            or no '</s>', '<unk>' and '<pad>'.
    """
    values = read_json(path)
    ids = list(values.values())
    if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise ValueError(
            f"{path}: must give each piece an id of its own, 0 to {len(values) - 1} for "
            f"{len(values)} pieces. Copy the file again."
        )
    if not all(values) or re.search("[\x00\ud800-\udfff]", "".join(values)):
        raise ValueError(f"{path}: must have pieces of Unicode text, none empty. Copy it again.")
    missing = [repr(piece) for piece in SPECIAL if piece not in values]
    if missing:
        raise ValueError(f"{path}: must have the pieces {', '.join(missing)}, as Marian's have.")
    return dict(sorted(values.items(), key=lambda item: item[1]))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: the file is missing or damaged; it is named.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise ValueError(f"{path}: is damaged, it must be JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold a JSON object. Received: {type(values).__name__}")
    return cast("dict[str, Any]", values)


def rewrite(serialized: bytes, vocabulary: Mapping[str, int]) -> bytes:
    """Return a SentencePiece model with the ids of a vocabulary.

    Args:
        serialized: a unigram model.
        vocabulary: pieces and their ids, in the order of the ids.

    Raises:
        ValueError: another kind of model, or settings with which language codes would not be
            recognised.
    """
    own = {piece.text: piece for piece in _pieces(serialized)}
    spoken = {text: one for text, one in own.items() if one.kind in (NORMAL, USER_DEFINED, BYTE)}
    codes = {text for text in vocabulary if text.startswith(">>") and text.endswith("<<")}
    _check(serialized, codes)
    guests = _guests(vocabulary.keys() - own.keys() - codes - SPECIAL.keys(), spoken)
    lowest = min((one.score for one in spoken.values() if one.kind == NORMAL), default=0.0)

    def entry(text: str) -> Piece:
        if text in SPECIAL:
            return Piece(text, 0.0, SPECIAL[text])
        if text in codes:  # SentencePiece has put a space before the text by the time it looks
            return Piece(SPACE + text, 0.0, USER_DEFINED)
        if text in guests:  # the rarest score: it changes neither the others' nor the unknown's
            return Piece(text, lowest, NORMAL)
        if text in spoken:
            return spoken[text]
        is_control = text in own and own[text].kind == CONTROL
        return Piece(text, 0.0, CONTROL if is_control else UNUSED)

    inside = [entry(text) for text in vocabulary]
    outside = [one for text, one in spoken.items() if text not in vocabulary]
    rule = Unknowns(
        len(inside),
        vocabulary["<unk>"],
        tuple(vocabulary[text] for text in vocabulary if text in guests),
        len(inside) + len(outside),
    )
    begin = vocabulary["<s>"] if Piece("<s>", 0.0, CONTROL) in inside else -1
    return b"".join(
        [
            rule.to_field(),  # first, so that a file that was cut short cannot lack it unnoticed
            *(_piece_field(one) for one in (*inside, *outside)),
            *_other_fields(serialized, _special_ids(vocabulary, begin, rule.num_pieces)),
        ]
    )


def _tokenizer(path: Path, vocabulary: Mapping[str, int]) -> Tokenizer:
    try:
        serialized = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        return Tokenizer(rewrite(serialized, vocabulary))
    except ValueError as error:
        raise ValueError(
            f"{path}: must be a whole SentencePiece model of Marian's kind. {error}"
        ) from error


def _pieces(serialized: bytes) -> Iterator[Piece]:
    for number, start, end in fields(serialized):
        if number == PIECES:
            yield _piece(serialized[start:end])


def _piece(message: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, start, end in fields(message):
        content = message[start:end]
        if number == 1:
            text = content.decode()
        elif number == 2 and len(content) == 4:
            (score,) = struct.unpack("<f", content)
        elif number == 3:
            (kind,) = numbers(content)
    if not math.isfinite(score):
        raise ValueError(f"The score of each piece must be a number. Received: {text!r}: {score}")
    return Piece(text, round(score / SCORE_UNIT) * SCORE_UNIT if kind == NORMAL else score, kind)


def _piece_field(piece: Piece) -> bytes:
    score = fixed32_field(2, struct.pack("<f", piece.score))
    return bytes_field(
        PIECES, bytes_field(1, piece.text.encode()) + score + number_field(3, piece.kind)
    )


def _guests(others: Iterable[str], spoken: Mapping[str, Piece]) -> set[str]:
    """Return the pieces of the other side whose characters are all unknown to this one.

    Where the text has exactly such a stretch, Marian finds it in the vocabulary.
    """
    if any(one.kind == BYTE for one in spoken.values()):
        return set()  # nothing is unknown: it is spelled in bytes
    known = set[str]().union(*spoken)
    return {text for text in others if known.isdisjoint(text)}


def _check(serialized: bytes, codes: set[str]) -> None:
    trainer, normalizer = _message(serialized, TRAINER), _message(serialized, NORMALIZER)
    if _setting(trainer, 3, UNIGRAM) != UNIGRAM:
        raise ValueError(
            "Its model_type must be unigram, as OPUS-MT's are: in others, pieces of the other "
            "side would change how text is cut."
        )
    wanted = {
        "add_dummy_prefix": (normalizer, 3, 1, 1),
        "remove_extra_whitespaces": (normalizer, 4, 1, 1),
        "escape_whitespaces": (normalizer, 5, 1, 1),
        "treat_whitespace_as_suffix": (trainer, 24, 0, 0),
    }
    for name, (message, number, default, expected) in wanted.items():
        if codes and _setting(message, number, default) != expected:
            raise ValueError(
                f"Its {name} must be {bool(expected)} in a model with language codes such as "
                f"{min(codes)!r}. Received: {name}={not expected}"
            )


def _message(serialized: bytes, wanted: int) -> bytes:
    found = [serialized[start:end] for number, start, end in fields(serialized) if number == wanted]
    return b"".join(found)


def _setting(message: bytes, wanted: int, default: int) -> int:
    for number, start, end in fields(message):
        if number == wanted:
            default = numbers(message[start:end])[-1]
    return default


def _special_ids(vocabulary: Mapping[str, int], begin: int, num_pieces: int) -> bytes:
    """Return trainer settings; behind the old ones, they replace them."""
    ids = {40: vocabulary["<unk>"], 41: begin, 42: vocabulary["</s>"], 43: vocabulary["<pad>"]}
    texts = {45: "<unk>", 46: "<s>", 47: "</s>", 48: "<pad>"}
    return b"".join(
        [
            number_field(4, num_pieces),
            *(number_field(number, value) for number, value in ids.items()),
            *(bytes_field(number, text.encode()) for number, text in texts.items()),
        ]
    )


def _other_fields(serialized: bytes, special_ids: bytes) -> Iterator[bytes]:
    """Yield the settings; a self-test, which compares with the old ids, is left out."""
    for number, start, end in fields(serialized):
        if number in (TRAINER, NORMALIZER, DENORMALIZER):
            more = special_ids if number == TRAINER else b""
            yield bytes_field(number, serialized[start:end] + more)
