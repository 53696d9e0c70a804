"""`keras-transformer train`: a recipe, or a user's own pairs, to a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from keras_transformer import backend
from keras_transformer.cluster import Cluster
from keras_transformer.commands import screen
from keras_transformer.evaluation import LABELS
from keras_transformer.recipe import RunConfig, find_recipe, recipe_names

if TYPE_CHECKING:
    from keras_transformer.commands.own_data import Survey

LONGEST_EXAMPLE = 28
HIGH_RATE = 0.001


def run(
    recipe: str | None,
    pairs: str | None,
    source: str | None,
    target: str | None,
    data: dict[str, Any],
    training: dict[str, Any],
    run_folder: Path | None,
    start_from: str | None = None,
) -> int:
    """Train, and say what came of it.

    Args:
        recipe: name of a recipe or path of a YAML file.
        pairs: TSV file of the user's own pairs.
        source: the user's own source texts, line by line.
        target: their targets.
        data: settings of the data section that replace the recipe's; None leaves them.
        training: the same for the training section.
        run_folder: None: runs/NAME.
        start_from: folder of a training run or of a Marian checkpoint to start from.

    Returns:
        Exit code.

    Raises:
        ValueError: wrong options or data.
        OSError: the disk is full.
    """
    mirrored = training.get("distribution") == "mirrored"  # which cannot clip
    config, survey = _choose(recipe, pairs, source, target, start_from, clip=not mirrored)
    if recipe is None and data.get("folder") is not None:
        raise ValueError(
            "--data must be left out beside your own files: they are read where --pairs, --source "
            f"and --target say. Put the folder there. Received: --data {data['folder']}"
        )
    config = changed(config, data=data, training=training)
    if config.training.distribution == "data_parallel":
        screen.out.quiet = Cluster.from_environment().index > 0  # the first process speaks for all
    folder = run_folder or Path("runs") / config.name
    _check_files(config)
    if config.model.start_from is not None:
        _check_start(config, folder)
    _check_warmup(config)
    if survey is not None:
        _say_choices(config, survey)
    elif start_from is not None:
        screen.say(f"Recipe      {escape(config.name)}: its data and training, for another model")

    backend.import_tensorflow()
    from keras_transformer.training.trainer import train

    screen.say(f"Run folder  {escape(str(folder))}  (the same command resumes it)")
    result = train(config, folder, screen.out)
    if result.reason == "interrupt":
        _interrupted(folder, result.step)
        return screen.INTERRUPTED
    _closing(result, folder)
    return 0


def changed(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    """Return the recipe with some settings replaced; None leaves a setting as it is.

    Raises:
        ValueError: a value out of range.
    """
    values = config.model_dump()
    for name, settings in sections.items():
        values[name] |= {key: value for key, value in settings.items() if value is not None}
    return RunConfig(**values)


def _choose(
    recipe: str | None,
    pairs: str | None,
    source: str | None,
    target: str | None,
    start_from: str | None,
    clip: bool = True,
) -> tuple[RunConfig, Survey | None]:
    """Return a recipe, and for one of own data what it was chosen by."""
    own = pairs is not None or source is not None or target is not None
    if recipe is not None and not own:
        config = find_recipe(recipe)
        return (config if start_from is None else _starting(config, start_from)), None
    if recipe is None and (
        (pairs is not None and source is None and target is None)
        or (pairs is None and source is not None and target is not None)
    ):
        from keras_transformer.commands.own_data import make_recipe

        return make_recipe(pairs, source, target, start_from, 1.0 if clip else None)
    if not own:
        raise ValueError(
            "What to train on is missing. Give the name of a recipe "
            f"({', '.join(recipe_names())}), a YAML file, --pairs data.tsv, or --source a.txt "
            "--target b.txt."
        )
    if recipe is not None:
        raise ValueError(
            "Give a recipe or your own data, not both. To train a recipe's model on your own "
            "data, copy its YAML file and change its data section. "
            f"Received: recipe={recipe!r} beside --pairs, --source or --target"
        )
    raise ValueError(
        "Give --pairs data.tsv, or --source and --target together. Received: "
        + ", ".join(
            f"--{name} {value}"
            for name, value in (("pairs", pairs), ("source", source), ("target", target))
            if value is not None
        )
    )


def _starting(config: RunConfig, start_from: str) -> RunConfig:
    """Return a recipe's data and training for a model that is there already.

    Raises:
        ValueError: the recipe starts from another one.
    """
    from keras_transformer.commands.own_data import TUNED

    if config.model.start_from is None:
        values = config.model_dump(exclude={"tokenizer", "model"})
        values |= {"name": config.name + TUNED, "model": {"start_from": start_from}}
        return RunConfig(**values)
    if config.model.start_from != start_from:
        raise ValueError(
            "--from must be left out, or be what the recipe says: it has a start_from of its own. "
            f"Received: --from {start_from}, model.start_from={config.model.start_from!r}"
        )
    return config


def _check_start(config: RunConfig, folder: Path) -> None:
    """Find a missing or wrong folder before TensorFlow takes its seconds to start.

    A run that has its first weights does not need it any more.
    """
    from keras_transformer.run_folder import RunFolder
    from keras_transformer.starting_point import StartingPoint

    start_from = config.model.start_from or ""
    if Path(start_from).resolve() == folder.resolve():
        raise ValueError(
            "--run-folder must be another folder than the one to start from. "
            f"Received: {folder} for both"
        )
    if not RunFolder(folder, config).has_weights:
        StartingPoint.find(start_from)
    if config.training.peak_learning_rate > HIGH_RATE:
        screen.warn(
            f"peak_learning_rate {config.training.peak_learning_rate} is one for training from "
            "nothing: it may undo what the model has learned. Less than "
            f"{HIGH_RATE} is usual; copy the recipe to change it."
        )


def _check_warmup(config: RunConfig) -> None:
    """Say so where a run ends before its rate has risen to what the recipe wants."""
    training = config.training
    if training.schedule != "constant" and training.warmup_steps > training.max_steps:
        screen.warn(
            f"the learning rate rises for {training.warmup_steps:,} steps (training.warmup_steps), "
            f"and this run has {training.max_steps:,}: it ends while the rate is low. Take more "
            "steps, or copy the recipe and lower training.warmup_steps."
        )


def _say_choices(config: RunConfig, survey: Survey) -> None:
    from keras_transformer.commands.own_data import in_words

    screen.heading(config.name, "settings chosen for your data")
    for name, text in in_words(config, survey).items():
        screen.say(f"  {name:<12}{escape(text)}")
    screen.say()


def _check_files(config: RunConfig) -> None:
    """Find missing files and packages before TensorFlow takes its seconds to start."""
    from keras_transformer.data.splits import open_splits

    open_splits(config.data)


def _interrupted(folder: Path, step: int) -> None:
    screen.say(f"\nStopped at step {step:,}. Everything is saved in {escape(str(folder))}.")
    screen.say("The same command resumes there:")
    screen.out.print(f"  {screen.this_command()}", markup=False, soft_wrap=True)


def _closing(result: Any, folder: Path) -> None:
    best, patience = _in_words(result.best), result.run.recipe.training.patience
    if result.reason == "finished":
        further = "--max-steps or --max-minutes"
        if result.best.is_out_of(patience):
            further = f"training.patience (now {patience}) in the recipe"
        screen.say(
            f"\nThis run is finished: step {result.step:,} after "
            f"{screen.duration(result.seconds)}. {best}.\nA higher {further} "
            "trains it further; another --run-folder starts anew."
        )
    else:
        ended = {
            "time": "time is up",
            "patience": f"{result.best.waited} evaluations without a better one",
        }.get(result.reason, "all steps done")
        screen.say(
            f"\nTrained {result.step:,} steps in {screen.duration(result.seconds)} ({ended}). "
            f"{best}, kept."
        )
    name = shlex.quote(str(folder))
    bundle = shlex.quote(str(Path("exported") / folder.name))
    screen.next_commands(
        [
            f"keras-transformer evaluate {name}",
            f"echo {_example(result.run)} | keras-transformer translate {name}",
            f"keras-transformer export {name} {bundle}",
        ]
    )


def _in_words(best: Any) -> str:
    """Name the measure and the value of a `Best`."""
    if best.value is None:
        return ""
    label, digits = (LABELS[best.metric], 2) if best.metric in LABELS else ("loss", 3)
    return f"Best validation {label} {best.value:.{digits}f}"


def _example(run: Any) -> str:
    """A source text of the run, quoted for a shell."""
    sources = (source for source, _ in run.held_out())
    chosen = next((text for text in sources if 3 <= len(text) <= LONGEST_EXAMPLE), "your text")
    return shlex.quote(chosen)
