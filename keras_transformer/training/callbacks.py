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

from keras_transformer.files import replacing
from keras_transformer.training.checkpoints import Progress, save_checkpoint
from keras_transformer.training.distribution import ONE, Place

__all__ = ["CosineToTheEnd", "KeepCheckpoints", "ProgressLine", "StopAt"]


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
        reason: `steps`, `time` or `interrupt` once `fit` was ended, before that None.
    """

    def __init__(self, max_steps, max_minutes=None, seconds_before=0.0, step=None, place=ONE):
        super().__init__()
        self.step = step or 0
        self._steps_before = step
        self.place = place
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
            self.step = int(self.model.optimizer.iterations)
        if self.place.processes > 1:
            self._agreed, _ = self.place.agree(self.seconds, False)
        self._previous_handler = signal.getsignal(signal.SIGINT)
        try:
            signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:  # not in the main thread: Ctrl-C does not arrive here anyway
            self._previous_handler = None

    def _interrupt(self, signum, frame):
        self.reason = "interrupt"
        signal.signal(signal.SIGINT, self._previous_handler or signal.default_int_handler)

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
            logs |= {"step": self.step, "seconds": round(self.seconds, 1)}

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
    """Writes a checkpoint at each end of an epoch, and `best.keras` when the loss is lowest.

    `best.keras` is for inference: it has no optimizer state.

    A loss that is not a number ends training with a `ValueError` that names the step.

    Args:
        folder: the run folder.
        stop: the `StopAt`, which knows the time spent.
        best: lowest validation loss so far, or None.
        tokenizers: their `fingerprints`, which a checkpoint holds on to.
        place: where training happens; the first of its processes writes.
    """

    def __init__(
        self,
        folder: Path,
        stop: StopAt,
        best: float | None = None,
        tokenizers: list[str] | None = None,
        place: Place = ONE,
    ):
        super().__init__()
        self.place = place
        self.tokenizers = tokenizers
        self.folder = Path(folder)
        self.stop = stop
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        for name in ("loss", "val_loss"):
            self._check_finite(name, logs)
        loss = logs.get("val_loss")
        if loss is not None and (self.best is None or loss < self.best):
            self.best = float(loss)
            if self.place.first:
                with self.place.alone():
                    save_inference_model(self.model, self.folder / "best.keras")
        self._save()

    def on_train_batch_end(self, batch, logs=None):
        self._check_finite("loss", logs or {})  # a mean since the epoch began: one NaN stays in it
        if self.stop.reason == "interrupt":  # at once: a second Ctrl-C must find it saved
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
            best=self.best,
            tokenizers=self.tokenizers,
        )
        save_checkpoint(self.folder / "checkpoints", self.model, progress)


def save_inference_model(model: Any, path: Path) -> None:
    """Save the weights for inference, without optimizer and in float32, atomically."""
    copy = type(model).from_config(model.get_config() | {"dtype": "float32"})
    copy.set_weights(model.get_weights())
    with replacing(path) as aside:
        copy.save(aside)


class ProgressLine(keras.callbacks.Callback):
    """One live line while it trains, one lasting line for each epoch of `fit`.

    Args:
        stop: the `StopAt`.
        console: where to write.
    """

    def __init__(self, stop: StopAt, console: Console):
        super().__init__()
        self.stop = stop
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def on_train_begin(self, logs=None):
        self._shown = 0.0
        self._live.start()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self.stop.reason == "interrupt":
            self._live.update(f"{self._place()}  saving, then one last validation", refresh=True)
            return
        now = time.monotonic()
        if now - self._shown > 0.5:
            self._shown = now
            speed = self.model.tokens_seen / (now - self._epoch_began)
            text = f"{self._place()}/{self.stop.max_steps:,}  loss {(logs or {})['loss']:.3f}"
            self._live.update(f"{text}  {speed:,.0f} target tokens/s", refresh=True)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        text = f"{self._place()}  loss {logs['loss']:.3f}"
        if "val_loss" in logs:
            accuracy = 100 * logs["val_token_accuracy"]
            text += f"  validation {logs['val_loss']:.3f}  token accuracy {accuracy:.1f} %"
        self.console.print(text, highlight=False)

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
