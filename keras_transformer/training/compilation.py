"""A model compiled as a recipe says, and the programs of `jit_compile` made before training."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.data.pipeline import one_of_each_shape, stream_of
from keras_transformer.model import Transformer
from keras_transformer.recipe import TrainingConfig
from keras_transformer.training.checkpoints import state_variables
from keras_transformer.training.losses import SmoothedCrossEntropy
from keras_transformer.training.metrics import Perplexity, TokenAccuracy
from keras_transformer.training.schedules import InverseSquareRoot


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


def compile_shapes(model: Any, training: Any, validation: Any) -> tuple[float, int]:
    """Compile a training step and an evaluation for every shape that may come.

    Otherwise each would be compiled when it first comes, in the middle of training, where nobody
    can tell a slow step from a compilation. The model is as before.

    Args:
        model: compiled with `jit_compile=True`.
        training: what it is going to be trained on, from `make_dataset`.
        validation: the same for evaluation.

    Returns:
        The seconds it took, and the number of shapes, those of training and of validation.
    """
    begun = time.monotonic()
    before = [(variable, np.array(variable)) for variable in state_variables(model)]
    shapes = [stream_of(dataset).shapes for dataset in (training, validation)]
    model.fit(one_of_each_shape(training), shuffle=False, verbose=0)
    model.evaluate(one_of_each_shape(validation), verbose=0)
    for variable, value in before:
        variable.assign(value)
    return time.monotonic() - begun, sum(map(len, shapes))
