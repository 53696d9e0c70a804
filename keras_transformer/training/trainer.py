"""A recipe becomes a run folder: tokenizers, model, `model.fit`, checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.data.batching import Statistics
from keras_transformer.data.corpus import Pair, group_references
from keras_transformer.data.pipeline import make_dataset, stream_of
from keras_transformer.data.splits import Splits, open_splits
from keras_transformer.model import Transformer
from keras_transformer.recipe import DataConfig, RunConfig, TrainingConfig
from keras_transformer.run_folder import RunFolder
from keras_transformer.starting_point import StartingPoint
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training.averaging import AverageLast
from keras_transformer.training.best import Best
from keras_transformer.training.callbacks import (
    CosineToTheEnd,
    KeepCheckpoints,
    ProgressLine,
    StopAt,
)
from keras_transformer.training.checkpoints import (
    Progress,
    fingerprints,
    restore_checkpoint,
    save_checkpoint,
)
from keras_transformer.training.compilation import compile_shapes
from keras_transformer.training.distribution import ONE, Place, find_place
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy
from keras_transformer.training.records import (
    DrawCurve,
    MetricsLog,
    TensorBoardLog,
    check_tensorboard,
)
from keras_transformer.training.schedules import InverseSquareRoot
from keras_transformer.training.translation_quality import ShowOutputs, quality_of, shown_metric

HELD_OUT = 500


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
        ValueError: bad data, a folder that holds another run, or a loss that is not a number.
        ImportError: a package that the recipe needs is not installed.
        OSError: the disk is full; earlier checkpoints stay.
    """
    if recipe.training.tensorboard:
        check_tensorboard()
    backend.make_deterministic(recipe.training.seed, recipe.training.jit_compile)
    place = find_place(recipe.training)
    if not place.first:
        console = Console(quiet=True)
    with place.first_before_others():
        run = RunFolder.prepare(run_folder, recipe)
        splits = open_splits(recipe.data)
        check_not_empty(splits, recipe.data)
        if not place.first:
            check_shared(run)
        if recipe.model.start_from is not None and not run.has_weights:
            take_over(run, StartingPoint.find(recipe.model.start_from), splits, console)
        source, target = prepare_tokenizers(run, splits, console)
        if place.first:
            run.save_recipe()  # of a run that is resumed: its limits may be new
    with place.fit_scope():
        return _train(run, splits, source, target, place, console)


def check_shared(run: RunFolder) -> None:
    """Find out whether a process sees what the first one has prepared.

    Raises:
        ValueError: it does not.
    """
    if not (run.path / "target.model").exists():
        raise ValueError(
            "--run-folder must be on a disk that every process sees, and the first process must "
            "have prepared it: see what process 0 says. "
            f"Received: {run.path} without target.model"
        )


def _train(
    run: RunFolder,
    splits: Splits,
    source: Tokenizer,
    target: Tokenizer,
    place: Place,
    console: Console,
) -> TrainingResult:
    recipe = run.recipe
    keras.utils.set_random_seed(recipe.training.seed)  # whatever this process has drawn before
    with place.model_scope():
        model = compiled_model(_architecture(recipe, source, target), recipe.training)
    console.print(f"Model       {_describe(model)}", highlight=False)
    tokenizers = fingerprints(source, target)
    progress, damaged = restore_checkpoint(run.path / "checkpoints", model, tokenizers)
    for sentence in damaged:
        console.print(f"[yellow]{sentence}[/]")
    stop = StopAt(
        recipe.training.max_steps,
        recipe.training.max_minutes,
        progress.seconds if progress else 0.0,
        progress.step if progress else 0,
        place,
    )
    best = _best_so_far(progress, recipe.training.best_by)
    keep = KeepCheckpoints(
        run.path, stop, best, tokenizers, patience=recipe.training.patience, place=place
    )
    if progress and _is_finished(progress.step, progress.seconds, best, recipe.training):
        return TrainingResult(run, "finished", progress.step, progress.seconds, best)
    _fit(model, run, splits, source, target, stop, keep, console)
    return TrainingResult(run, stop.reason or "steps", stop.step, stop.seconds, best)


def check_not_empty(splits: Splits, data: DataConfig) -> None:
    """Find a part without pairs before anything is made of the others.

    Raises:
        ValueError: there are no pairs to train on, or none for validation.
    """
    for name, pairs in (("training", splits.train), ("validation", splits.validation)):
        if next(iter(pairs), None) is None:
            raise ValueError(
                f"data must leave at least one {name} pair. Check the files, or change "
                "data.validation_fraction. Received: "
                f"no {name} pairs, validation_fraction={data.validation_fraction}"
            )


def take_over(run: RunFolder, start: StartingPoint, splits: Splits, console: Console) -> None:
    """Copy a trained model into a new run: tokenizers, architecture, and weights as step 0.

    Everything is read before the first file is written, so that what cannot be loaded leaves no
    folder behind. The checkpoint comes last: with it, the run no longer needs what it started from.

    Raises:
        ValueError: the model cannot be loaded, or does not fit the recipe.
    """
    console.print(f"Start       {start}", highlight=False, markup=False, soft_wrap=True)
    trained = start.load()
    held_out = _first(splits.validation, HELD_OUT)
    run.record_architecture(trained.model.config.model_dump())
    _save_beginning(run, held_out, trained.source, trained.target)
    config = _architecture(run.recipe, trained.source, trained.target)
    model = compiled_model(config, run.recipe.training)
    model.set_weights(trained.model.get_weights())
    tokenizers = fingerprints(trained.source, trained.target)
    progress = Progress(step=0, seconds=0.0, best=None, tokenizers=tokenizers)
    save_checkpoint(run.path / "checkpoints", model, progress)


def _architecture(recipe: RunConfig, source: Tokenizer, target: Tokenizer) -> TransformerConfig:
    overrides = recipe.model.overrides
    if recipe.model.architecture is not None:
        return TransformerConfig(**(recipe.model.architecture | overrides))
    return TransformerConfig.for_tokenizers(recipe.model.preset, source, target, **overrides)


def prepare_tokenizers(
    run: RunFolder, splits: Splits, console: Console
) -> tuple[Tokenizer, Tokenizer]:
    """Load the run's tokenizers; for a new run train them and set texts aside for later proof.

    Those of a run that starts from a model are there: `take_over` has put them there.
    """
    settings = run.recipe.tokenizer
    started = run.recipe.model.start_from is not None
    if started or (run.path / "target.model").exists():
        source, target = run.source_tokenizer(), run.target_tokenizer()
    else:
        pairs = _Counted(splits.train)
        options: dict[str, Any] = {"add_dummy_prefix": settings.add_dummy_prefix}
        if settings.shared:
            lines: Iterable[str] = itertools.chain.from_iterable(pairs)
            source = target = Tokenizer.train(
                lines, settings.vocab_size, settings.model_type, **options
            )
        else:
            source = Tokenizer.train(
                (pair[0] for pair in pairs), settings.vocab_size, settings.model_type, **options
            )
            target = Tokenizer.train(
                (pair[1] for pair in splits.train),
                settings.target_vocab_size or settings.vocab_size,
                settings.target_model_type or settings.model_type,
            )
        held_out = _first(splits.validation, HELD_OUT)
        run.save_recipe()
        _save_beginning(run, held_out, source, target)
        console.print(f"Data        {pairs.count:,} training pairs", highlight=False)
    kind = "one for both sides" if source == target else "source and target"
    sizes = " and ".join(f"{t.vocab_size:,}" for t in dict.fromkeys((source, target)))
    console.print(f"Tokenizers  {sizes} pieces ({kind})", highlight=False)
    return source, target


def _save_beginning(
    run: RunFolder, held_out: list[tuple[str, list[str]]], source: Tokenizer, target: Tokenizer
) -> None:
    """Write what a run has before its first checkpoint; `target.model` last: it stands for all."""
    run.save_held_out(held_out)
    source.save(run.path / "source.model")
    target.save(run.path / "target.model")


def compiled_model(config: TransformerConfig, training: TrainingConfig) -> Transformer:
    """Return a new `Transformer`, compiled as a recipe says."""
    model = Transformer(config, name="transformer", dtype=training.precision)
    model.compile(
        optimizer=keras.optimizers.Adam(
            _schedule(training),
            beta_2=training.beta_2,
            epsilon=training.epsilon,
            global_clipnorm=training.clip_norm,
        ),
        loss=SmoothedCrossEntropy(training.label_smoothing, config.pad_id),
        metrics=[TokenAccuracy(config.pad_id), Perplexity(config.pad_id)],
        jit_compile=training.jit_compile or backend.steps_need_a_compiler(),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _schedule(training: TrainingConfig) -> Any:
    if training.schedule == "inverse_square_root":
        return InverseSquareRoot(training.warmup_steps, peak=training.peak_learning_rate)
    return training.peak_learning_rate  # the start of `cosine`, which is a callback


def _fit(
    model: Transformer,
    run: RunFolder,
    splits: Splits,
    source: Tokenizer,
    target: Tokenizer,
    stop: StopAt,
    keep: KeepCheckpoints,
    console: Console,
) -> None:
    training, data, place = run.recipe.training, run.recipe.data, stop.place
    options: dict[str, Any] = {
        "batch_tokens": training.batch_tokens,
        "num_shapes": training.num_shapes,
        "max_source_length": data.max_source_length,
        "max_target_length": data.max_target_length,
        "overlong": data.overlong,
        "decoder_start_id": model.config.start_id,
        "shard": (place.index, place.processes),
        "devices": place.devices,
    }
    start = stop.step
    if start:
        console.print(f"Resuming at step {start:,}", highlight=False)
    batches = make_dataset(
        splits.train,
        source,
        target,
        seed=training.seed,
        repeat=True,
        start_step=start,
        cache=run.path / "ids" / "training" if place.first else None,
        subword_nbest=training.subword_nbest,
        subword_alpha=training.subword_alpha,
        **options,
    )
    ids = run.path / "ids" / "validation" if place.first else None
    validation = make_dataset(
        splits.validation, source, target, shuffle=False, cache=ids, **options
    )
    found = _in_words(stream_of(batches).statistics(), data)
    console.print(f"Batches     {found}", highlight=False)
    if not start and run.recipe.model.start_from is not None:
        loss = model.evaluate(validation, verbose=0, return_dict=True)["loss"]
        console.print(f"Before      validation loss {loss:.3f}", highlight=False)
    if training.jit_compile and place == ONE:
        seconds, shapes = compile_shapes(model, batches, validation)
        stop.seconds_before += seconds
        console.print(f"Compiled    {shapes} shapes in {seconds:.0f} s", highlight=False)
    if place.first:
        run.trim_metrics(start)
    quality = quality_of(run.recipe, splits.validation, source, target)
    progress = ProgressLine(stop, console, stream_of(batches), shown_metric(training))
    if training.average_last > 1:
        folder, count = run.path / "snapshots", training.average_last
        keep.average = AverageLast(folder, count, validation, quality, place)
    callbacks: list[keras.callbacks.Callback] = [
        stop,
        *([quality] if quality else []),
        *([keep.average] if keep.average else []),
        progress,
        *([ShowOutputs(quality, console)] if quality else []),
        *([MetricsLog(run)] if place.first else []),
        keep,  # behind it: what a checkpoint stands for has been logged
        *([DrawCurve(run, shown_metric(training), console)] if place.first else []),
    ]
    if training.tensorboard and place.first:
        callbacks.append(TensorBoardLog(run.path / "tensorboard"))
        console.print(
            f"TensorBoard tensorboard --logdir {run.path / 'tensorboard'}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    if training.schedule == "cosine":
        callbacks.append(CosineToTheEnd(stop, training.peak_learning_rate, training.warmup_steps))
    epoch = start // training.evaluate_every
    try:
        model.fit(
            batches,
            validation_data=validation,
            steps_per_epoch=training.evaluate_every,
            initial_epoch=epoch,
            epochs=epoch - (start - training.max_steps) // training.evaluate_every,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    finally:
        progress.close()
        stop.release()


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
        text += f"\n            {found.overlong:,} pairs above {limits} are {done}"
    return text


def _describe(model: Transformer) -> str:
    config = model.config
    layers = f"{config.num_encoder_layers} + {config.num_decoder_layers} layers"
    sizes = f"d_model {config.d_model}, d_ff {config.d_ff}"
    return f"{model.count_params():,} parameters, {layers}, {sizes}"


def _first(pairs: Iterable[Pair], count: int) -> list[tuple[str, list[str]]]:
    """Return the references of the first `count` sources; equal sources stand together."""
    sources: dict[str, None] = {}

    def until_full() -> Iterator[Pair]:
        for pair in pairs:
            sources[pair[0]] = None
            if len(sources) > count:
                return
            yield pair

    return group_references(until_full())


class _Counted:
    """Counts the pairs of the one pass that is made over it."""

    def __init__(self, pairs: Iterable[Pair]):
        self.pairs = pairs
        self.count = 0

    def __iter__(self) -> Iterator[Pair]:
        for pair in self.pairs:
            self.count += 1
            yield pair
