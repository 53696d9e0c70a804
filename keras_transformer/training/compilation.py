"""The programs of `jit_compile`, made before training, one for each shape of a batch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from keras_transformer.data.pipeline import one_of_each_shape, stream_of
from keras_transformer.training.checkpoints import state_variables


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
