"""Trains a SentencePiece model: checked lines in, serialized model out."""

# Callers are not type-checked, so arguments are.
# pyright: reportUnnecessaryIsInstance=false

import io
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

from keras_transformer.backend import install_hint
from keras_transformer.text.protobuf import fields
from keras_transformer.text.validation import check_text

ModelType = Literal["unigram", "bpe", "char", "word"]
Normalization = Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"]

# SentencePiece holds its training lines in memory; of longer input it draws a sample.
_MOST_LINES = 2_000_000
# The unigram trainer's time grows with the square of the longest line.
_LONGEST_CHUNK = 4_000
_MOST_PIECES = 1_000_000
# Scores are multiples of this, so that float32 sums of them are exact (see `_exact_scores`).
_SCORE_UNIT = 1 / 32


def train_model(
    lines: Iterable[str],
    *,
    vocab_size: int,
    model_type: ModelType,
    character_coverage: float,
    add_dummy_prefix: bool,
    byte_fallback: bool,
    normalization: Normalization,
    num_threads: int,
) -> bytes:
    """Returns the serialized model; `Tokenizer.train` explains the arguments and errors."""
    _check_arguments(
        vocab_size,
        model_type,
        character_coverage,
        add_dummy_prefix,
        byte_fallback,
        normalization,
        num_threads,
    )
    spm = import_sentencepiece()
    checked = _TrainingLines(lines)
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(checked),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            add_dummy_prefix=add_dummy_prefix,
            byte_fallback=byte_fallback,
            normalization_rule_name=normalization,
            input_sentence_size=_MOST_LINES,
            shuffle_input_sentence=True,
            # In bytes; normalization makes some characters 18 characters long.
            max_sentence_length=100 * _LONGEST_CHUNK,
            num_threads=num_threads,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            minloglevel=2,
        )
    except RuntimeError as error:
        if checked.error is not None:
            raise checked.error from None
        raise ValueError(_failure(str(error), vocab_size, checked.count)) from error
    trained = model.getvalue()
    return _exact_scores(trained) if model_type == "unigram" else trained


def import_sentencepiece() -> Any:
    """Returns the module, or says which extra installs it."""
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            f"Tokenizer needs the package sentencepiece. {install_hint('train')}"
        ) from error
    return sentencepiece


class _TrainingLines:
    """Checked training lines, cut into chunks; keeps the error that SentencePiece would hide."""

    def __init__(self, lines: Iterable[str]):
        if isinstance(lines, str | bytes):
            raise ValueError(
                "lines must be an iterable of strings, not one string. Put it in a list, or pass "
                f"an open text file. Received: lines={lines[:40]!r}"
            )
        self._lines = lines
        self.error: BaseException | None = None
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        try:
            for line in self._lines:
                check_text(line, f"lines[{self.count}]")
                self.count += 1
                yield from _chunks(line)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


def _chunks(line: str) -> Iterator[str]:
    """Cuts a long line at spaces, so that every word stays whole where that is possible."""
    while len(line) > _LONGEST_CHUNK:
        space = line.rfind(" ", 1, _LONGEST_CHUNK)
        cut = space if space > 0 else _LONGEST_CHUNK
        yield line[:cut]
        line = line[cut:]
    yield line


def _check_arguments(
    vocab_size: int,
    model_type: str,
    character_coverage: float,
    add_dummy_prefix: bool,
    byte_fallback: bool,
    normalization: str,
    num_threads: int,
) -> None:
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int):
        raise ValueError(
            "vocab_size must be an integer. Choose the largest number of pieces. "
            f"Received: vocab_size={vocab_size!r}"
        )
    if not 5 <= vocab_size <= _MOST_PIECES:
        raise ValueError(
            f"vocab_size must be from 5 to {_MOST_PIECES:,}. Choose the largest number of pieces, "
            f"the four special ids included. Received: vocab_size={vocab_size}"
        )
    for name, value, allowed in (
        ("model_type", model_type, get_args(ModelType)),
        ("normalization", normalization, get_args(Normalization)),
    ):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed)}. Choose one of these. "
                f"Received: {name}={value!r}"
            )
    if not 0.98 <= character_coverage <= 1.0:
        raise ValueError(
            "character_coverage must be from 0.98 to 1. Use 1 for small alphabets and 0.9995 for "
            f"large ones. Received: character_coverage={character_coverage!r}"
        )
    if byte_fallback and (model_type == "word" or vocab_size < 261):
        raise ValueError(
            "byte_fallback must be used with unigram, bpe or char and a vocab_size of at least "
            "261 (256 bytes, 4 special ids, 1 piece). Turn it off or change them. "
            f"Received: byte_fallback=True, model_type={model_type!r}, vocab_size={vocab_size}"
        )
    if model_type == "word" and not add_dummy_prefix:
        raise ValueError(
            "add_dummy_prefix must be True for word models, whose pieces begin with a space. "
            "Leave it out. Received: add_dummy_prefix=False, model_type='word'"
        )
    if not 1 <= num_threads <= 1024:
        raise ValueError(
            "num_threads must be from 1 to 1024. Use the number of processor cores. "
            f"Received: num_threads={num_threads!r}"
        )


def _failure(message: str, vocab_size: int, count: int) -> str:
    if "smaller than required_chars" in message:
        needed = message.split(" vs ")[-1].split(".")[0]
        return (
            f"vocab_size must be at least {needed} for these lines (one piece for each character, "
            "and the special ids). Raise it, lower character_coverage, or use byte_fallback. "
            f"Received: vocab_size={vocab_size}"
        )
    if "sentences_.empty" in message or "all_chars_count" in message:
        return (
            "lines must have at least one text that is not blank. Check where they come from: an "
            f"iterator can be read only once. Received: lines with {count} texts, all blank"
        )
    return (
        "lines must be texts that SentencePiece can train on. Read its message. "
        f"Received: {count} lines ({message.strip()})"
    )


def _exact_scores(model: bytes) -> bytes:
    """Rounds the score of every piece of a unigram model to 1/32.

    The best segmentation often ties ("g gg" and "gg g"), and float32 rounding of longer sums then
    decides, which differs between the SentencePiece versions inside sentencepiece,
    tensorflow-text and onnxruntime-extensions. Sums of rounded scores have no rounding error up
    to 524,288 (a text of some 20,000 pieces), so that all of them choose the same pieces.
    """
    result = bytearray(model)
    for number, start, end in fields(model):
        if number != 1:
            continue
        for inner, value_start, value_end in fields(model[start:end]):
            if inner == 2 and value_end - value_start == 4:
                at = start + value_start
                (score,) = struct.unpack_from("<f", model, at)
                struct.pack_into("<f", result, at, round(score / _SCORE_UNIT) * _SCORE_UNIT)
    return bytes(result)
