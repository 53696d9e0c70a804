"""`keras-transformer translate`: lines of standard input to lines of standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from keras_transformer import backend
from keras_transformer.commands import screen
from keras_transformer.commands.line_progress import line_progress
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.text.validation import check_text

CHUNK = 1024  # lines that are sorted by length together
SHORT_CHUNK = 128  # where a bar is to move
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Translate = Callable[[list[str]], list[list[Hypothesis]]]


def run(model: Path, device: str, scores: bool, options: dict[str, Any]) -> None:
    """Translate standard input, in constant memory.

    Args:
        model: run folder, Marian folder, exported folder or ONNX file.
        device: "auto", "cpu" or "cuda".
        scores: write the score and a TAB before each translation.
        options: of `translate`; None leaves what the run or the file has.

    Raises:
        ValueError: no such model, a bad option, or a bad line (named).
    """
    given = {name: value for name, value in options.items() if value is not None}
    interactive = sys.stdin.isatty()
    translate = _open(model, device, given)
    translate([])  # bad options are said before the first line is read
    if interactive:
        screen.messages.print("Type a text and press Enter. Ctrl-D ends it.")
    several = given.get("num_hypotheses", 1) > 1
    output = sys.stdout.buffer
    with line_progress() as advance:
        chunk = 1 if interactive else SHORT_CHUNK if advance else CHUNK
        found = translate_lines(translate, read_lines(sys.stdin.buffer), chunk)
        for number, hypotheses in enumerate(found):
            output.write(_written(number, hypotheses, scores, several).encode())
            if interactive:
                output.flush()
            if advance:
                advance()
        output.flush()


def _written(number: int, hypotheses: list[Hypothesis], scores: bool, several: bool) -> str:
    """The lines of the output for one line of the input."""
    if several:
        return "".join(f"{number}\t{h.score:.4f}\t{_one_line(h.text)}\n" for h in hypotheses)
    best = hypotheses[0]
    score = f"{best.score:.4f}\t" if scores else ""
    return f"{score}{_one_line(best.text)}\n"


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def read_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their ends (LF or CRLF).

    Raises:
        ValueError: a line that is not UTF-8 or has U+0000, by its number.
    """
    for number, raw in enumerate(file, start=1):
        if number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"standard input, line {number}: must be UTF-8 text. Convert it, for example "
                "with: iconv -f LATIN1 -t UTF-8. Received: byte "
                f"0x{line[error.start]:02x} at offset {error.start} of the line"
            ) from None
        check_text(text, f"standard input, line {number}")
        yield text


def translate_lines(
    translate: Translate, lines: Iterable[str], chunk_size: int
) -> Iterator[list[Hypothesis]]:
    """Yield the hypotheses of each line; a blank line is not asked for and stays blank.

    When reading fails, what was read before is translated first.
    """
    for chunk in _chunks(lines, chunk_size):
        texts = [line for line in chunk if line.strip()]
        found = iter(translate(texts) if texts else [])
        for line in chunk:
            yield next(found) if line.strip() else [Hypothesis("", 0.0, [], True)]


def _chunks(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    failure: ValueError | None = None
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except ValueError as error:
        failure = error
    if chunk:
        yield chunk
    if failure is not None:
        raise failure


def _open(model: Path, device: str, options: dict[str, Any]) -> Translate:
    if any((model / name).is_file() for name in ("config.yaml", "config.json")):
        return _open_trained(model, device, options)
    if model.name == "saved_model" and (model.parent / "manifest.json").is_file():
        return _open_saved_model(model, device, options)
    if model.suffix == ".onnx" or (model / "manifest.json").is_file():
        # No TensorFlow in this process: both carry a copy of the same native library.
        from keras_transformer_export.runtime import OnnxTranslator

        if model.is_dir() and not (model / "model.onnx").exists():
            return _open_saved_model(model, device, options)
        translator = OnnxTranslator(model, device=device)  # type: ignore[arg-type]
        return lambda texts: translator.translate(texts, **options)
    what = "does not exist" if not model.exists() else "is none of these"
    raise ValueError(
        "The model must be the folder of a training run or of a Marian model, an exported folder, "
        "or an .onnx file. "
        f"Check the name: it {what}. Received: {str(model)!r}"
    )


def _open_trained(model: Path, device: str, options: dict[str, Any]) -> Translate:
    _start_tensorflow(device)
    from keras_transformer.starting_point import StartingPoint

    translator = StartingPoint.find(model).load()
    return lambda texts: translator.translate(texts, **options)


def _open_saved_model(model: Path, device: str, options: dict[str, Any]) -> Translate:
    """Open a bundle that was exported without ONNX."""
    _start_tensorflow(device)
    from keras_transformer_export.runtime import SavedModelTranslator

    translator = SavedModelTranslator(model)
    return lambda texts: translator.translate(texts, **options)


def _start_tensorflow(device: str) -> None:
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # before TensorFlow looks for devices

    backend.import_tensorflow()
    if device == "cuda":
        _require_gpu()


def _require_gpu() -> None:
    import keras

    if not keras.distribution.list_devices("gpu"):
        raise RuntimeError(
            "--device cuda cannot be used: TensorFlow finds no GPU. Install "
            '".[gpu]" on a machine with an NVIDIA driver, or choose --device cpu.'
        )
