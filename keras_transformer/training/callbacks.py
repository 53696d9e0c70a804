"""Callbacks of `model.fit`: when to stop, what to keep, what a person reads meanwhile."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.live import Live

from keras_transformer.data.batching import BatchStream
from keras_transformer.evaluation import LABELS
from keras_transformer.training.averaging import AverageLast
from keras_transformer.training.best import Best
from keras_transformer.training.checkpoints import (
    Progress,
    optimizer_steps,
    save_checkpoint,
    save_inference_model,
)
from keras_transformer.training.distribution import ONE, Place
from keras_transformer.training.translation_quality import TranslationQuality

__all__ = ["CosineToTheEnd", "KeepCheckpoints", "ProgressLine", "StopAt", "TranslationQuality"]

WIDTH = 80  # of a terminal


class StopAt(keras.callbacks.Callback):
    """Ends `fit` cleanly at a step, after a time, or on the first Ctrl-C.

    Args:
        max_steps: optimizer steps in all, those before a resume included.
        max_minutes: wall time in all, or None.
        seconds_before: time spent before the resume.
        step: steps made before the resume; None: those that the optimizer counts, which leaves
            out the ones that loss scaling has skipped.
        place: where training happens; all its processes end at the same step.

    Attributes:
        step: steps so far.
        reason: `steps`, `time` or `interrupt` once `fit` was ended, before that None; `patience`
            where `KeepCheckpoints` ended it.
    """

    def __init__(self, max_steps, max_minutes=None, seconds_before=0.0, step=None, place=ONE):
        super().__init__()
        self.step = step or 0
        self.place = place
        self._steps_before = step
        self._agreed = None
        self.max_steps = max_steps
        self.max_seconds = None if max_minutes is None else 60 * max_minutes
        self.seconds_before = seconds_before
        self.reason = None
        self._started = time.monotonic()
        self._previous_handler = None

    @property
    def seconds(self) -> float:
        """Training time so far, before and after a resume."""
        return self.seconds_before + time.monotonic() - self._started

    def used(self, step: int) -> float:
        """Return the share of the run that is over at a step: of its steps or of its time."""
        seconds = self.seconds if self._agreed is None else self._agreed
        by_time = seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(step / self.max_steps, by_time))

    def on_train_begin(self, logs=None):
        self._started = time.monotonic()
        if self._steps_before is None:
            self.step = optimizer_steps(self.model)
        if self.place.processes > 1:
            self._agreed, _ = self.place.agree(self.seconds, False)
        self._previous_handler = signal.getsignal(signal.SIGINT) or signal.default_int_handler
        try:
            signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:  # not in the main thread: Ctrl-C does not arrive here anyway
            self._previous_handler = None

    def _interrupt(self, signum, frame):
        if self.reason == "interrupt":  # the second before anything is saved; a third gets through
            self.release()
        self.reason = "interrupt"

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        seconds = self.seconds
        if self.place.processes > 1:
            seconds, interrupted = self.place.agree(seconds, self.reason == "interrupt")
            self._agreed, self.reason = seconds, "interrupt" if interrupted else None
        if self.reason is None and self.step >= self.max_steps:
            self.reason = "steps"
        if self.reason is None and self.max_seconds and seconds >= self.max_seconds:
            self.reason = "time"
        if self.reason is not None:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:  # the callbacks behind this one log where the run stands
            logs |= {
                "step": self.step,
                "seconds": round(self.seconds, 1),
                "learning_rate": float(
                    keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
                ),
            }

    def on_train_end(self, logs=None):
        self.release()

    def release(self):
        """Give Ctrl-C back to whom it belonged; also where `fit` failed."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None


class CosineToTheEnd(keras.callbacks.Callback):
    """Warms the learning rate up, then lowers it along a cosine to zero at the end of the run.

    The end is `StopAt`'s: the last step, or the last minute where time is what runs out, so that
    a run of eight minutes ends with small steps on a fast machine and on a slow one. With a time
    limit the rate depends on the clock, and two runs are no longer equal bit for bit.

    Args:
        stop: the `StopAt`, which knows the end.
        peak: the highest rate, reached after `warmup_steps`.
        warmup_steps: steps with a linearly rising rate.
    """

    def __init__(self, stop: StopAt, peak: float, warmup_steps: int):
        super().__init__()
        self.stop = stop
        self.peak = peak
        self.warmup_steps = warmup_steps

    def on_train_batch_begin(self, batch, logs=None):
        step = self.stop.step + 1
        warmup = min(1.0, step / self.warmup_steps)
        decay = (1 + np.cos(np.pi * self.stop.used(step))) / 2
        self.model.optimizer.learning_rate = self.peak * warmup * decay


class KeepCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint at each end of an epoch, and `best.keras` when the model is the best yet.

    `best.keras` is for inference: it has no optimizer state. The best is that of a validation
    measure: the loss, or one that `TranslationQuality` has logged. Training ends where `patience`
    evaluations have brought nothing better.

    A loss that is not a number ends training with a `ValueError` that names the step.

    Args:
        folder: the run folder.
        stop: the `StopAt`, which knows the time spent.
        best: what the best is, and its value in earlier sessions; None: the lowest loss.
        tokenizers: their `fingerprints`, which a checkpoint holds on to.
        average: an `AverageLast` that stands before this callback; its mean of weights is kept
            where it is the best by the same measure.
        patience: evaluations without a better model after which training ends; None: never.
        place: where training happens; the first of its processes writes.
    """

    def __init__(
        self,
        folder: Path,
        stop: StopAt,
        best: Best | None = None,
        tokenizers: list[str] | None = None,
        average: AverageLast | None = None,
        patience: int | None = None,
        place: Place = ONE,
    ):
        super().__init__()
        self.place = place
        self.patience = patience
        self.average = average
        self.tokenizers = tokenizers
        self.folder = Path(folder)
        self.stop = stop
        self.best = best or Best()

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        for name in ("loss", "val_loss"):
            self._check_finite(name, logs)
        waited = self.best.waited
        chosen = self.best.judge(
            [logs.get(f"val_{self.best.metric}"), logs.get(f"val_averaged_{self.best.metric}")]
        )
        if chosen is not None and self.place.first:
            weights = self.average.weights if self.average is not None and chosen == 1 else None
            with self.place.alone():
                save_inference_model(self.model, self.folder / "best.keras", weights)
        if chosen is None and self.stop.reason == "interrupt":
            self.best.waited = waited  # it came early, and those to come are full of steps again
        if self.best.is_out_of(self.patience) and self.stop.reason is None:
            self.stop.reason = "patience"
            self.model.stop_training = True
        if self.stop.reason == "interrupt" and self.place.processes == 1:
            self.model.stop_training = True  # it came during validation: no further step
        self._save()

    def on_train_batch_end(self, batch, logs=None):
        self._check_finite("loss", logs or {})  # a mean since the epoch began: one NaN stays in it
        if self.stop.reason == "interrupt":  # at once, and not after the last validation
            self._save()

    def _check_finite(self, name: str, logs: dict[str, Any]) -> None:
        value = float(logs.get(name, 0.0))
        if np.isfinite(value):
            return
        step = self.stop.step
        kept = max((self.folder / "checkpoints").glob("step-*.npz"), default=None)
        raise ValueError(
            f"The loss became not a number at step {step:,}; training has stopped. "
            + (f"The checkpoint before it is kept: {kept}. " if kept else "")
            + "Lower training.peak_learning_rate, raise training.warmup_steps or set "
            "training.clip_norm, and train into another folder. "
            f"Received: {name}={value}"
        )

    def _save(self):
        if not self.place.first:
            return
        progress = Progress(
            step=self.stop.step,
            seconds=self.stop.seconds,
            best=self.best.value,
            tokenizers=self.tokenizers,
            best_by=self.best.metric,
            waited=self.best.waited,
        )
        save_checkpoint(self.folder / "checkpoints", self.model, progress)
        if self.stop.reason == "interrupt":
            self.stop.release()  # from now on Ctrl-C loses nothing


class ProgressLine(keras.callbacks.Callback):
    """One live line while it trains, one lasting line for each epoch of `fit`.

    Adds `target_tokens_per_second` (real ones, while training) and `padding` (the share of all
    positions) to the logs.

    Args:
        stop: the `StopAt`.
        console: where to write.
        stream: the `BatchStream` that is trained on.
        metric: what an epoch's line shows beside the losses; `loss`: the token accuracy.
    """

    def __init__(self, stop: StopAt, console: Console, stream: BatchStream, metric: str = "loss"):
        super().__init__()
        self.metric = metric
        self.stop = stop
        self.console = console
        self.stream = stream
        self._speed = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def on_train_begin(self, logs=None):
        self._shown = 0.0
        self._live.start()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_began = time.monotonic()
        self._speed = 0.0

    def on_train_batch_end(self, batch, logs=None):
        self._speed = self.model.tokens_seen / (time.monotonic() - self._epoch_began)
        if self.stop.reason == "interrupt":
            self._live.update(f"{self._place()}  saving, then one last validation", refresh=True)
            return
        now = time.monotonic()
        if now - self._shown > 0.5:
            self._shown = now
            text = f"{self._place()}/{self.stop.max_steps:,}  loss {(logs or {})['loss']:.3f}"
            speed = f"{self._speed:,.0f} target tokens/s, {100 * self._padding:.0f} % padding"
            self._live.update(f"{text}  {speed}", refresh=True)

    @property
    def _padding(self) -> float:
        return self.stream.statistics().padding_waste

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        logs["target_tokens_per_second"] = round(self._speed, 1)
        logs["padding"] = round(self._padding, 4)
        line = self._place()
        for part in (f"loss {logs['loss']:.3f}", *self._validation(logs)):
            if len(line) + 2 + len(part) <= WIDTH:  # what matters most comes first
                line += f"  {part}"
        self.console.print(line, highlight=False)

    def _validation(self, logs: dict[str, Any]) -> list[str]:
        """Say what validation found; where the mean of weights was tried, with its value."""
        if "val_loss" not in logs:
            return []
        parts = [f"validation {logs['val_loss']:.3f}"]
        own, averaged = logs.get(f"val_{self.metric}"), logs.get(f"val_averaged_{self.metric}")
        digits = 3 if self.metric == "loss" else 1
        if self.metric != "loss" and own is not None:
            parts.append(f"{LABELS[self.metric]} {own:.{digits}f}")
        if averaged is not None:
            parts.append(f"averaged {averaged:.{digits}f}")
        elif self.metric == "loss":
            parts.append(f"token accuracy {100 * logs['val_token_accuracy']:.1f} %")
        return parts

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """Give the line and the cursor back; also where `fit` failed."""
        self._live.stop()

    def _place(self) -> str:
        limit = f" of {_clock(self.stop.max_seconds)}" if self.stop.max_seconds else ""
        return f"  {_clock(self.stop.seconds)}{limit}  step {self.stop.step:,}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
