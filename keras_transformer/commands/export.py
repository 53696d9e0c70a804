"""`keras-transformer export` and `verify`: a trained model to a proven bundle."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from keras_transformer import backend
from keras_transformer.commands import screen

WHAT_IT_IS = {
    "model.onnx": "texts in, texts out; needs only ONNX Runtime",
    "model.ids.onnx": "ids in, ids out; without custom operators",
    "saved_model": "texts in, texts out, for TensorFlow",
    "encoder.onnx": "ids in, what the decoder reads out",
    "decoder_step.onnx": "one position, for a loop of your own",
}


def run(
    run_folder: Path,
    folder: Path,
    formats: Sequence[str],
    force: bool,
    **choices: Any,
) -> None:
    """Export the best model of a run, or a Marian model, and print what was made.

    Raises:
        ValueError: no such run or model, or the folder exists.
        RuntimeError: an exported file does not equal the Keras model.
        OSError: the disk is full.
    """
    from keras_transformer.starting_point import StartingPoint

    StartingPoint.find(run_folder)  # its errors come before TensorFlow takes its seconds to start
    bundle, report = write(run_folder, folder, formats, force, **choices)
    screen.say(f"[bold]{escape(str(folder))}[/]")
    screen.out.print(files_table(bundle))
    screen.say()
    if report.graph is not None:
        screen.say(f"Graph   {graph_line(report.graph)}")
    screen.say(f"Parity  {parity_line(report)}")
    for line in precision_lines(report):
        screen.say(f"        {line}")
    name = shlex.quote(str(folder))
    commands = [f"keras-transformer verify {name}"]
    if "onnx" in formats:
        commands.append(f"keras-transformer translate {name}/model.onnx < sentences.txt")
    screen.next_commands(commands)


def write(
    run_folder: Path,
    folder: Path,
    formats: Sequence[str],
    force: bool,
    card: dict[str, str] | None = None,
    precisions: Sequence[str] = (),
    **choices: Any,
) -> tuple[Any, Any]:
    """Export, with a line that says what is being done; returns the bundle and its report.

    Args:
        run_folder: of a training run, or of a Marian checkpoint.
        folder: where the bundle is to be.
        formats: "saved_model", "onnx".
        force: replace a bundle that is there.
        card: fields of the model card.
        precisions: "int8", "float16": smaller ONNX files beside those in float32.
        choices: `details` and `layout` of `export`.
    """
    backend.choose_tensorflow()  # also for a run that was trained on JAX
    from keras_transformer.starting_point import StartingPoint
    from keras_transformer_export.bundle import ModelCard
    from keras_transformer_export.exporter import export
    from keras_transformer_export.parity_report import ParityReport

    with screen.messages.status("Loading the model") as status:
        bundle = export(
            StartingPoint.find(run_folder).load(),
            folder,
            formats,
            ("float32", *precisions),  # type: ignore[arg-type]
            card=ModelCard.model_validate(card or {}),
            force=force,
            **choices,
            progress=status.update,
        )
    return bundle, ParityReport.read(bundle)


def verify(folder: Path) -> int:
    """Check every file of a bundle, then translate its stored examples again.

    Returns:
        0, or 1 when the bundle is not what was exported.

    Raises:
        ValueError: it is no bundle.
    """
    from keras_transformer_export.bundle import Bundle
    from keras_transformer_export.parity import ParityError, verify_bundle

    if not (folder / "manifest.json").is_file():
        Bundle.open(folder)  # says what is wrong
    try:
        with screen.messages.status("Verifying"):
            found = verify_bundle(folder)
    except (ValueError, ParityError) as error:
        screen.say(f"[bold red]failed[/]  {escape(str(error))}")
        return screen.FAILED
    screen.say(f"[bold green]ok[/]  {found.files} files are as they were exported")
    for name in found.onnx_files:
        screen.say(
            f"    {name}: {found.sentences} examples give the same ids and texts, scores within "
            f"{found.max_score_difference:.0e}"
        )
    return 0


def files_table(bundle: Any) -> Table:
    """Return the model files of a bundle with their sizes."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name in bundle.manifest.signatures:
        size = screen.size(screen.folder_size(bundle.folder / name))
        precision = bundle.manifest.signatures[name].precision
        what = WHAT_IT_IS[name.replace(f".{precision}", "")]
        table.add_row(f"  {name}", size, what if precision == "float32" else f"in {precision}")
    return table


def precision_lines(report: Any) -> list[str]:
    """Say in one line each what the smaller files cost and bring."""
    from keras_transformer_export.model_card import precision_line

    return [precision_line(found).removeprefix("- ") for found in report.precisions]


def graph_line(graph: Any) -> str:
    """Say in one line what the passes made of the graph; all of them stand in parity.json."""
    most = sorted(graph.passes.items(), key=lambda item: -item[1])[:4]
    counts = ", ".join(f"{name} {count:,}" for name, count in most)
    return f"{graph.nodes_before:,} nodes became {graph.nodes_after:,} ({counts}, ...)"


def parity_line(report: Any) -> str:
    """Say in one line what the proof of an export found."""
    names = {"saved_model": "SavedModel", "model.onnx": "ONNX"}
    equal = " = ".join(["Keras", *(names[name] for name in report.runtimes if name in names)])
    difference = max(runtime.max_score_difference for runtime in report.runtimes.values())
    ties = max(len(runtime.ties) for runtime in report.runtimes.values())
    tied = f" but for {ties} ties" if ties else ""
    return f"{equal} on {report.sentences:,} texts (same ids{tied}, scores to {difference:.0e})"
