"""Learning-rate schedules."""

import keras
from keras import ops

__all__ = ["InverseSquareRoot"]


@keras.saving.register_keras_serializable(package="keras_transformer")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then decay with 1 / sqrt(step) ('Attention Is All You Need', section 5.3).

    lr = peak * min(step / warmup_steps, sqrt(warmup_steps / step)), steps counted from 1. With
    `d_model` the peak is the paper's (d_model * warmup_steps)^-0.5.

    Args:
        warmup_steps: steps until the peak.
        peak: the highest rate.
        d_model: model size, from which the paper computes the peak.

    Raises:
        ValueError: not exactly one of `peak` and `d_model`, or `warmup_steps` below 1.

    Example:
        >>> schedule = InverseSquareRoot(warmup_steps=4, peak=0.1)
        >>> [round(float(schedule(step)), 4) for step in (0, 3, 15)]
        [0.025, 0.1, 0.05]
    """

    def __init__(self, warmup_steps, peak=None, d_model=None):
        if (peak is None) == (d_model is None):
            raise ValueError(
                f"Give exactly one of peak and d_model. Received: peak={peak}, d_model={d_model}"
            )
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps must be 1 or more. Received: {warmup_steps=}")
        self.warmup_steps = warmup_steps
        self.peak = peak
        self.d_model = d_model

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1.0
        peak = (self.d_model * self.warmup_steps) ** -0.5 if self.peak is None else self.peak
        warmup = float(self.warmup_steps)
        return peak * ops.minimum(step / warmup, ops.sqrt(warmup / step))

    def get_config(self):
        return {"warmup_steps": self.warmup_steps, "peak": self.peak, "d_model": self.d_model}
