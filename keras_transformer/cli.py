"""The command line: keras-transformer demo | train | evaluate | translate | export | verify."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from keras_transformer import __version__, backend
from keras_transformer.commands import screen

app = typer.Typer(
    name="keras-transformer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


class Format(StrEnum):
    """What to export."""

    saved_model = "saved_model"
    onnx = "onnx"


class Detail(StrEnum):
    """Further outputs of the ONNX files."""

    log_probs = "log_probs"
    cross_attention = "cross_attention"


class Precision(StrEnum):
    """What the smaller ONNX files hold."""

    int8 = "int8"
    float16 = "float16"


RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a training run, such as runs/g2p.")
]


def _version(wanted: bool) -> None:
    if wanted:
        screen.say(f"keras-transformer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From sentence pairs to one ONNX file that translates, with a Transformer in Keras.

    New here?  [cyan]keras-transformer demo[/]  shows all of it on real data in 20 minutes.

    Your own data, from pairs to a file:
      [cyan]keras-transformer train --pairs pairs.tsv --run-folder runs/mine[/]
      [cyan]keras-transformer evaluate runs/mine[/]
      [cyan]keras-transformer export runs/mine exported[/]
      [cyan]keras-transformer translate exported/model.onnx < texts.txt[/]
    """


@app.command()
def demo(
    minutes: Annotated[
        float,
        typer.Option(
            min=0.1, help="Minutes of training; more gives fewer errors, up to 4,000 steps."
        ),
    ] = 8.0,
    folder: Annotated[
        Path, typer.Option(help="Where the run and the exported files are kept.")
    ] = Path("runs/demo"),
) -> None:
    """The whole way on real data, in one command.

    A Transformer learns to pronounce English from 126,052 words of the CMU
    Pronouncing Dictionary and is tested on words it has never seen. It is
    exported to SavedModel and ONNX, proven equal, and speaks in a process
    without TensorFlow. Sizes and speeds are compared. No GPU is needed.

    Examples:
      [cyan]keras-transformer demo[/]                  about 20 minutes on 2 cores
      [cyan]keras-transformer demo --minutes 20[/]     trains the same model further
    """
    with screen.errors():
        from keras_transformer.demo import run

        code = run(minutes, folder)
    raise typer.Exit(code)


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="g2p, g2p-large, multi30k, reverse, or the path of a YAML file."
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Your own data: one pair a line, source TAB target."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="FILE", help="Your own source texts, one a line.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="FILE", help="Their targets, in the same order.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where the recipe's data files are.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Train further: a run, or a Marian model (OPUS-MT)."
        ),
    ] = None,
    run_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to keep it. Default: runs/NAME.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="End after so much training.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="End after so many steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Other weights to begin with.")] = None,
    max_source_length: Annotated[
        int | None, typer.Option(help="Most tokens of a source text.")
    ] = None,
    overlong: Annotated[
        Literal["skip", "cut"] | None, typer.Option(help="What becomes of pairs that are longer.")
    ] = None,
    distribution: Annotated[
        Literal["one", "mirrored", "data_parallel"] | None,
        typer.Option(help="Several devices (TensorFlow), or processes and machines (JAX)."),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="How many of this machine's; default: all.")
    ] = None,
) -> None:
    """Train a model, or resume where the same command was stopped.

    A recipe that comes with the package, or a YAML file of your own:
      [cyan]keras-transformer train reverse[/]         digits backwards, one minute
      [cyan]keras-transformer train g2p[/]             words to pronunciations, 8 minutes
      [cyan]keras-transformer train multi30k --data FOLDER[/]
      [cyan]keras-transformer train my_recipe.yaml[/]

    Your own data, plain or .gz, with settings chosen for its size:
      [cyan]keras-transformer train --pairs pairs.tsv[/]
      [cyan]keras-transformer train --source train.en --target train.de[/]

    From a trained model, with its tokenizers and sizes:
      [cyan]keras-transformer train --from opus-mt-en-de --pairs pairs.tsv[/]
      [cyan]keras-transformer train multi30k --data FOLDER --from runs/news[/]

    Ctrl-C saves and ends it well; the same command resumes.
    """
    with screen.errors():
        from keras_transformer.commands.train import run

        code = run(
            recipe,
            pairs,
            source,
            target,
            {
                "folder": data,
                "max_source_length": max_source_length,
                "overlong": overlong,
            },
            {
                "max_minutes": max_minutes,
                "max_steps": max_steps,
                "seed": seed,
                "distribution": distribution,
                "devices": devices,
            },
            run_folder,
            start_from,
        )
    raise typer.Exit(code)


@app.command()
def evaluate(
    run_folder: RunArgument,
    split: Annotated[
        Literal["validation", "test"] | None,
        typer.Option(help="Default: test where the recipe has it, else validation."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many texts.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where the data files are, if they were moved."),
    ] = None,
    tokenize: Annotated[
        Literal["13a", "none"] | None,
        typer.Option(help="For BLEU: 13a, or none for tokenised texts; else the recipe's."),
    ] = None,
    beam_size: Annotated[
        int, typer.Option(help="1 is greedy search; 4 or 5 is usual for translation.")
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option(help="How the beam favours long translations.")
    ] = 0.6,
) -> None:
    """Say how good and how fast a trained run is.

    Translates texts it was not trained on. Gives BLEU and chrF with sacrebleu's
    signature, or for pronunciations the share of wrong words (WER) and of wrong
    phonemes (PER).

    Examples:
      [cyan]keras-transformer evaluate runs/g2p[/]
      [cyan]keras-transformer evaluate runs/multi30k --beam-size 5[/]
      [cyan]keras-transformer evaluate runs/g2p --split validation --limit 200[/]
    """
    with screen.errors():
        from keras_transformer.commands.evaluate import run

        run(run_folder, split, limit, data, tokenize, beam_size, length_penalty)


@app.command()
def translate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, a Marian folder, an exported folder or an .onnx file.",
        ),
    ],
    beam_size: Annotated[
        int | None,
        typer.Option(help="Translations that are followed together. Default: 1, greedy search."),
    ] = None,
    num_hypotheses: Annotated[
        int | None,
        typer.Option(help="Translations of each line, best first; at most the beam. Default: 1."),
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="How scores favour long translations. Default: 0.6.")
    ] = None,
    max_decoding_length: Annotated[
        int | None,
        typer.Option(help="Most tokens of a translation. Default: those of its source + 50."),
    ] = None,
    min_decoding_length: Annotated[
        int | None, typer.Option(help="Fewest tokens of a translation. Default: any.")
    ] = None,
    no_early_stopping: Annotated[
        bool,
        typer.Option(
            "--no-early-stopping",
            help="Let the beam go on until no better translation can follow: more steps.",
        ),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Most lines decoded together. Default: 64.")
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Write the score and a TAB before each translation.")
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")
    ] = "auto",
) -> None:
    r"""Translate standard input to standard output, line by line.

    Each line gives one line, a blank line a blank one. Memory does not grow.
    With --num-hypotheses above 1 it gives so many lines, each
      [cyan]number of the line, from 0  TAB  score  TAB  translation[/]

    Examples:
      [cyan]echo hello | keras-transformer translate runs/g2p[/]
      [cyan]keras-transformer translate exported/model.onnx < in.txt > out.txt[/]
      [cyan]keras-transformer translate exported --beam-size 4 --num-hypotheses 4[/]
      [cyan]keras-transformer translate exported[/]          type, Enter, read

    For exported files this suffices, in a clone of the repository:
      [cyan]pip install ".\[runtime-cpu]"[/]
    """
    with screen.errors():
        from keras_transformer.commands.translate import run

        options = {
            "beam_size": beam_size,
            "num_hypotheses": num_hypotheses,
            "length_penalty": length_penalty,
            "max_decoding_length": max_decoding_length,
            "min_decoding_length": min_decoding_length,
            "early_stopping": False if no_early_stopping else None,
            "batch_size": batch_size,
        }
        run(model, device, scores, options)


@app.command()
def export(
    run_folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a training run, or of a Marian model (OPUS-MT).",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to put it; new.")],
    format: Annotated[
        list[Format] | None,
        typer.Option(help="Only this one; may be given again. Default: both."),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="A smaller ONNX file as well; may be given again."),
    ] = None,
    detail: Annotated[
        list[Detail] | None,
        typer.Option(help="A further output of the ONNX files; may be given again."),
    ] = None,
    layout: Annotated[
        Literal["single", "split"],
        typer.Option(help="split: encoder and decoder step besides, for a loop of your own."),
    ] = "single",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an exported folder that is there.")
    ] = False,
) -> None:
    """Write SavedModel and ONNX of a run, and prove them equal.

    A file that does not give the run's own translations is never put in place.

    Examples:
      [cyan]keras-transformer export runs/g2p exported/g2p[/]
      [cyan]keras-transformer export runs/g2p exported/g2p --format onnx --force[/]
      [cyan]keras-transformer export runs/g2p exported/g2p --precision int8[/]
      [cyan]keras-transformer export opus-mt-en-de exported/en-de[/]
    """
    with screen.errors():
        from keras_transformer.commands.export import run

        formats = [f.value for f in format or Format]
        run(
            run_folder,
            folder,
            formats,
            force,
            precisions=[p.value for p in precision or ()],
            details=[d.value for d in detail or ()],
            layout=layout,
        )


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What keras-transformer export wrote.")
    ],
) -> None:
    """Check that an exported folder is whole and still right.

    Compares each file with its hash, then translates stored examples again,
    with ONNX Runtime and without TensorFlow. The exit code is 0 when all is
    well, and 1 when not.

    Example:
      [cyan]keras-transformer verify exported/g2p && echo deploy it[/]
    """
    with screen.errors():
        from keras_transformer.commands.export import verify as check

        code = check(folder)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command `keras-transformer`."""
    backend.quiet()
    warnings.showwarning = _say_warning
    app()


def _say_warning(message: Warning | str, *where: Any) -> None:
    """Write what is warned of as the command's own warning, without a place in the code."""
    screen.warn(str(message))


if __name__ == "__main__":
    main()
