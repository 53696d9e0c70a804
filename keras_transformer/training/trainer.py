"""A recipe becomes a run folder, by `model.fit`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_transformer import backend
from keras_transformer.data.batching import Statistics
from keras_transformer.data.pipeline import make_dataset, stream_of
from keras_transformer.files import held
from keras_transformer.model import Transformer
from keras_transformer.recipe import DataConfig, RunConfig, TrainingConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.training.averaging import AverageLast
from keras_transformer.training.best import Best
from keras_transformer.training.callbacks import (
    CosineToTheEnd,
    KeepCheckpoints,
    ProgressLine,
    StopAt,
)
from keras_transformer.training.checkpoints import Progress, fingerprints, restore_checkpoint
from keras_transformer.training.compilation import compile_shapes, compiled_model
from keras_transformer.training.distribution import ONE, Place, find_place
from keras_transformer.training.preparation import Prepared, architecture_of, prepare
from keras_transformer.training.records import (
    DrawCurve,
    MetricsLog,
    TensorBoardLog,
    check_tensorboard,
)
from keras_transformer.training.translation_quality import ShowOutputs, quality_of, shown_metric


@dataclass(frozen=True)
class TrainingResult:
    """How a call of `train` ended."""

    run: RunFolder
    reason: str  # steps, time, interrupt, patience; finished: there was nothing left to do
    step: int
    seconds: float
    best: Best


def train(recipe: RunConfig, run_folder: str | Path, console: Console) -> TrainingResult:
    """Train a recipe with `model.fit`, or resume it at its last checkpoint.

    Args:
        recipe: what to train.
        run_folder: made when new; the same recipe and folder resume.
        console: where progress is written.

    Raises:
        ValueError: bad data, a folder that holds another run or that another process trains in, or
            a loss that is not a number.
        ImportError: a package that the recipe needs is not installed.
        OSError: the disk is full; earlier checkpoints stay.
    """
    if recipe.training.tensorboard:
        check_tensorboard()
    backend.make_deterministic(recipe.training.seed, recipe.training.jit_compile)
    place = find_place(recipe.training)
    if not place.first:
        console = Console(quiet=True)
    with held(run_folder) if place.first else contextlib.nullcontext():
        prepared = prepare(recipe, run_folder, place, console)
        with place.fit_scope():
            return _train(prepared, place, console)


def _train(prepared: Prepared, place: Place, console: Console) -> TrainingResult:
    run, training = prepared.run, prepared.run.recipe.training
    keras.utils.set_random_seed(training.seed)  # whatever this process has drawn before
    with place.model_scope():
        config = architecture_of(run.recipe, prepared.source, prepared.target)
        model = compiled_model(config, training)
    console.print(f"Model       {_describe(model)}", highlight=False)
    tokenizers = fingerprints(prepared.source, prepared.target)
    progress, damaged = restore_checkpoint(run.path / "checkpoints", model, tokenizers)
    for sentence in damaged:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)
    stop = StopAt(
        training.max_steps,
        training.max_minutes,
        progress.seconds if progress else 0.0,
        progress.step if progress else 0,
        place,
    )
    best = _best_so_far(progress, training.best_by)
    keep = KeepCheckpoints(
        run.path, stop, best, tokenizers, patience=training.patience, place=place
    )
    if progress and _is_finished(progress.step, progress.seconds, best, training):
        return TrainingResult(run, "finished", progress.step, progress.seconds, best)
    _fit(model, prepared, stop, keep, console)
    return TrainingResult(run, stop.reason or "steps", stop.step, stop.seconds, best)


def _fit(
    model: Transformer, prepared: Prepared, stop: StopAt, keep: KeepCheckpoints, console: Console
) -> None:
    training = prepared.run.recipe.training
    batches, validation = _datasets(prepared, model.config.start_id, stop)
    _get_ready(model, batches, validation, prepared.run.recipe, stop, console)
    line = ProgressLine(stop, console, stream_of(batches), shown_metric(training))
    epoch = stop.step // training.evaluate_every
    try:
        model.fit(
            batches,
            validation_data=validation,
            steps_per_epoch=training.evaluate_every,
            initial_epoch=epoch,
            epochs=epoch - (stop.step - training.max_steps) // training.evaluate_every,
            shuffle=False,
            verbose=0,
            callbacks=_callbacks(prepared, validation, stop, keep, line),
        )
    finally:
        line.close()
        stop.release()


def _get_ready(
    model: Transformer,
    batches: Any,
    validation: Any,
    recipe: RunConfig,
    stop: StopAt,
    console: Console,
) -> None:
    """Say where training starts and on what; compile it where the recipe wants that."""
    if stop.step:
        console.print(f"Resuming at step {stop.step:,}", highlight=False)
        for name, dataset in (("training", batches), ("validation", validation)):
            if stream_of(dataset).replaced:
                console.print(
                    f"The files of the {name} pairs have changed since they were tokenized. "
                    "Training goes on with what is in them now.",
                    style="yellow",
                    highlight=False,
                    soft_wrap=True,
                )
    found = _in_words(stream_of(batches).statistics(), recipe.data)
    console.print(f"Batches     {found}", highlight=False)
    if not stop.step and recipe.model.start_from is not None:
        loss = model.evaluate(validation, verbose=0, return_dict=True)["loss"]
        console.print(f"Before      validation loss {loss:.3f}", highlight=False)
    if recipe.training.jit_compile and stop.place == ONE:
        seconds, shapes = compile_shapes(model, batches, validation)
        stop.seconds_before += seconds
        console.print(f"Compiled    {shapes} shapes in {seconds:.0f} s", highlight=False)


def _datasets(prepared: Prepared, start_id: int, stop: StopAt) -> tuple[Any, Any]:
    """Return the endless batches, from where training stands, and those of validation."""
    data, training = prepared.run.recipe.data, prepared.run.recipe.training
    place = stop.place
    ids = prepared.run.path / "ids" if place.first else None  # the others would write it once more
    options: dict[str, Any] = {
        "batch_tokens": training.batch_tokens,
        "num_shapes": training.num_shapes,
        "max_source_length": data.max_source_length,
        "max_target_length": data.max_target_length,
        "overlong": data.overlong,
        "decoder_start_id": start_id,
        "shard": (place.index, place.processes),
        "devices": place.devices,
    }
    batches = _dataset(
        "training",
        prepared.splits.train,
        prepared.source,
        prepared.target,
        seed=training.seed,
        repeat=True,
        start_step=stop.step,
        cache=ids and ids / "training",
        subword_nbest=training.subword_nbest,
        subword_alpha=training.subword_alpha,
        **options,
    )
    validation = _dataset(
        "validation",
        prepared.splits.validation,
        prepared.source,
        prepared.target,
        shuffle=False,
        cache=ids and ids / "validation",
        **options,
    )
    return batches, validation


def _dataset(name: str, *arguments: Any, **options: Any) -> Any:
    try:
        return make_dataset(*arguments, **options)
    except ValueError as error:
        if str(error).startswith("pairs "):
            raise ValueError(f"{name} {error}") from None
        raise


def _callbacks(
    prepared: Prepared,
    validation: Any,
    stop: StopAt,
    keep: KeepCheckpoints,
    line: ProgressLine,
) -> list[keras.callbacks.Callback]:
    """Return what `fit` calls, in this order: each adds to the logs of those behind it."""
    run, training, console = prepared.run, prepared.run.recipe.training, line.console
    quality = quality_of(run.recipe, prepared.splits.validation, prepared.source, prepared.target)
    found: list[keras.callbacks.Callback] = [stop]
    if quality:
        found.append(quality)
    if training.average_last > 1:
        keep.average = AverageLast(
            run.path / "snapshots", training.average_last, validation, quality, stop.place
        )
        found.append(keep.average)
    found.append(line)
    if quality:
        found.append(ShowOutputs(quality, console))
    if stop.place.first:
        run.trim_metrics(stop.step)
        found.append(MetricsLog(run))
    found.append(keep)  # behind it: what a checkpoint stands for has been logged
    if stop.place.first:
        found.append(DrawCurve(run, shown_metric(training), console))
    if training.tensorboard and stop.place.first:
        logs = run.path / "tensorboard"
        found.append(TensorBoardLog(logs))
        text = f"TensorBoard tensorboard --logdir {logs}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if training.schedule == "cosine":
        found.append(CosineToTheEnd(stop, training.peak_learning_rate, training.warmup_steps))
    return found


def _is_finished(step: int, seconds: float, best: Best, training: TrainingConfig) -> bool:
    out_of_time = training.max_minutes is not None and seconds >= 60 * training.max_minutes
    return step >= training.max_steps or out_of_time or best.is_out_of(training.patience)


def _best_so_far(progress: Progress | None, best_by: str) -> Best:
    """Return the best of earlier sessions; one by another measure says nothing of this one."""
    if progress is None or progress.best_by != best_by:
        return Best(best_by)
    return Best(best_by, progress.best, progress.waited)


def _in_words(found: Statistics, data: DataConfig) -> str:
    """Say what a pass over the pairs consists of, and what became of those that are too long."""
    count = f"{found.batches:,}" if found.complete else f"first {found.batches:,}"
    text = f"{count} for all pairs, {100 * found.padding_waste:.1f} % padding"
    if found.overlong:
        done = "left out" if data.overlong == "skip" else "cut"
        limits = f"{data.max_source_length} source or {data.max_target_length} target tokens"
        text += f"\n            pairs {done}, above {limits}: {found.overlong:,}"
    return text


def _describe(model: Transformer) -> str:
    config = model.config
    layers = f"{config.num_encoder_layers} + {config.num_decoder_layers} layers"
    sizes = f"d_model {config.d_model}, d_ff {config.d_ff}"
    return f"{model.count_params():,} parameters, {layers}, {sizes}"
