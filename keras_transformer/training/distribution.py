"""Where a run trains: on one device, on several of one machine, or in several processes.

Every kind trains on the same batches in the same order: the rows of each batch are dealt to the
devices, none twice. The gradient is that of the mean over all real target tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from keras_transformer import backend
from keras_transformer.cluster import ADDRESSES, PROCESS, PROCESSES, Cluster
from keras_transformer.recipe import TrainingConfig

__all__ = ["ONE", "Place", "find_place"]


@dataclass(frozen=True)
class Place:
    """One device, and what every other kind of place can do.

    Attributes:
        index: the number of this process, from 0; process 0 writes and speaks.
        processes: how many train together.
        devices: that this process computes on.
    """

    index: int = 0
    processes: int = 1
    devices: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.index == 0

    def model_scope(self) -> AbstractContextManager[Any]:
        """Return the context in which the model is made, inside that of `fit`."""
        return nullcontext()

    def fit_scope(self) -> AbstractContextManager[Any]:
        """Return the context in which `fit` runs."""
        return nullcontext()

    def first_before_others(self) -> AbstractContextManager[Any]:
        """Return a context that the other processes enter when the first has left it."""
        return nullcontext()

    def alone(self) -> AbstractContextManager[Any]:
        """Return a context, inside that of `fit`, for what one process does without the others."""
        return nullcontext()

    def agree(self, seconds: float, interrupted: bool) -> tuple[float, bool]:
        """Return the clock of the first process, and whether any process was interrupted."""
        return seconds, interrupted


ONE = Place()


@dataclass(frozen=True)
class Mirrored(Place):
    """Several devices of one machine, each with a copy of the model (`tf.distribute`)."""

    strategy: Any = None

    def model_scope(self) -> AbstractContextManager[Any]:
        return self.strategy.scope()


@dataclass(frozen=True)
class DataParallel(Place):
    """Devices of one or more processes that compute one step together (`keras.distribution`)."""

    distribution: Any = None

    def fit_scope(self) -> AbstractContextManager[Any]:
        return self.distribution.scope()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        if not self.first:
            self._wait()
        try:
            yield
        finally:
            if self.first:
                self._wait()

    @contextmanager
    def alone(self) -> Iterator[None]:
        import keras

        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(self.distribution)

    def agree(self, seconds: float, interrupted: bool) -> tuple[float, bool]:
        if self.processes == 1:
            return seconds, interrupted
        import numpy as np
        from jax.experimental import multihost_utils

        said = multihost_utils.process_allgather(np.array([seconds, interrupted], np.float32))
        return float(said[0, 0]), bool(said[:, 1].any())

    def _wait(self) -> None:
        if self.processes > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("the first process has prepared the run")


def find_place(training: TrainingConfig) -> Place:
    """Return where a recipe trains; several processes are connected before it returns.

    Raises:
        ValueError: another Keras backend than the recipe's `distribution` needs, more devices
            than there are, or processes that are not named in full.
    """
    if training.distribution == "one":
        return ONE
    _check_backend(training.distribution)
    if training.distribution == "mirrored":
        return _mirrored(training)
    return _data_parallel(training.devices)


def _check_backend(distribution: str) -> None:
    import keras

    needed, other = ("jax", "mirrored") if distribution == "data_parallel" else (
        "tensorflow", "data_parallel"
    )  # fmt: skip
    if keras.backend.backend() != needed:
        raise ValueError(
            f"training.distribution={distribution} needs the Keras backend {needed}. Set "
            f"KERAS_BACKEND={needed}, or choose {other}. "
            f"Received: backend={keras.backend.backend()!r}"
        )


def _mirrored(training: TrainingConfig) -> Mirrored:
    if training.jit_compile:
        raise ValueError(
            "training.jit_compile must be false with distribution=mirrored: TensorFlow does not "
            "compile a step of several devices as one program. Received: jit_compile=True"
        )
    if training.clip_norm is not None:
        raise ValueError(
            "training.clip_norm must be left out with distribution=mirrored: Keras would clip what "
            "each device adds, not their sum. Leave it out, or choose data_parallel. "
            f"Received: clip_norm={training.clip_norm}"
        )
    tf = backend.import_tensorflow()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    count = _how_many(training.devices, len(found), "mirrored")
    strategy = tf.distribute.MirroredStrategy([device.name for device in found[:count]])
    return Mirrored(devices=count, strategy=strategy)


def _data_parallel(devices: int | None) -> DataParallel:
    import jax
    import keras

    cluster = Cluster.from_environment()
    if cluster.processes > 1 and not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(cluster.address, cluster.processes, cluster.index)
    count = len(jax.local_devices())
    if cluster.processes > 1 and devices is None:
        devices = count
    count = _how_many(devices, count, "data_parallel", alone=cluster.processes == 1)
    own = [
        [device for device in jax.devices() if device.process_index == process][:count]
        for process in range(cluster.processes)
    ]
    chosen = [f"{device.platform}:{device.id}" for part in own for device in part]
    distribution = keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False)
    return DataParallel(cluster.index, cluster.processes, count, distribution)


def _how_many(wanted: int | None, found: int, distribution: str, alone: bool = True) -> int:
    """Return the number of devices of this process.

    Raises:
        ValueError: more are wanted than found, or there is one only and no other process.
    """
    if wanted is not None and wanted > found:
        raise ValueError(
            f"training.devices must be at most {found}: so many does this process see. Lower it, "
            f"or make more devices visible. Received: devices={wanted}"
        )
    if alone and (wanted or found) < 2:
        processes = (
            f", or start several processes with {ADDRESSES}, {PROCESSES} and {PROCESS} set"
            if distribution == "data_parallel"
            else ""
        )
        raise ValueError(
            f"training.distribution={distribution} needs at least two devices. Set it to "
            f"one{processes}. Received: devices={wanted}, found {found}"
        )
    return wanted or found
