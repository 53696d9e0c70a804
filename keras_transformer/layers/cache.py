"""The keys and values of the positions decoded so far: a cache that grows, or a fixed buffer."""

from typing import Any, NamedTuple

from keras import ops


class GrownCache(NamedTuple):
    """Keys and values of exactly the positions so far; each step makes both one longer.

    The cheapest form where a compiled loop lets a shape change: on TensorFlow, and in every export.
    """

    key: Any  # prepared, [R, N, H, t] or as the similarity keeps it
    value: Any  # [R, N, t, H]

    def append(self, key, value, step, length_axis):
        """Return the cache with one more position; `step` is not needed."""
        return GrownCache(
            ops.concatenate([self.key, key], axis=length_axis),
            ops.concatenate([self.value, value], axis=2),
        )

    def mask(self, step):
        """Return None, no mask: every position is real."""


class FixedCache(NamedTuple):
    """Buffers of `capacity` positions, filled from the front and masked behind `step`.

    For compilers that want every shape to stay: on JAX, and under `jit_compile`.
    """

    key: Any  # prepared, [R, N, H, L] or as the similarity keeps it
    value: Any  # [R, N, L, H]

    def append(self, key, value, step, length_axis):
        """Return the cache with position `step` written.

        Raises:
            ValueError: the buffer is full, where `step` is an int.
        """
        capacity = self.value.shape[2]
        if isinstance(step, int) and step >= capacity:
            raise ValueError(
                f"step must be below the capacity of the cache, {capacity}. Make it with a larger "
                f"capacity. Received: step={step}"
            )
        return FixedCache(
            _write(self.key, key, step, length_axis), _write(self.value, value, step, 2)
        )

    def mask(self, step):
        """Boolean `[1, 1, L]`: positions up to `step` may be attended to."""
        return ops.expand_dims(ops.arange(self.value.shape[2]) <= step, (0, 1))


def _write(buffer, entry, step, axis):
    start = [0] * len(buffer.shape)
    start[axis] = step
    return ops.slice_update(buffer, start, entry)
