"""What a picture is given, checked: arrays of numbers, tokens, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ROUNDING = 1e-3  # by which float16 weights may exceed 1
SHAPES = {
    2: "[T, S]",
    3: "[N, T, S] of all heads",
    4: "[L, N, T, S] of all layers and heads",
}


def token_list(name: str, tokens: Sequence[str]) -> list[str]:
    """Return the tokens as a list.

    Raises:
        ValueError: one string in place of several, something that is no string, or none at all.
    """
    if isinstance(tokens, str):
        raise ValueError(
            f"{name} must be a list of strings. Split the text, or put it in a list. "
            f"Received: {name}={tokens!r}"
        )
    found = list(tokens)
    for index, token in enumerate(found):
        if not isinstance(token, str):
            raise ValueError(
                f"{name} must be a list of strings. Turn ids into pieces with Tokenizer.tokens. "
                f"Received: {name}[{index}]={token!r}"
            )
    if not found:
        raise ValueError(f"{name} must hold at least one token. Received: {name}=[]")
    return found


def checked_title(title: str | None) -> str | None:
    """Return a title.

    Raises:
        ValueError: it is no string.
    """
    if title is not None and not isinstance(title, str):
        raise ValueError(f"title must be a string or None. Received: title={title!r}")
    return title


def finite_array(name: str, values: Any, shapes: dict[int, str]) -> np.ndarray:
    """Return float64 numbers with one of the wanted numbers of axes.

    Args:
        name: of the argument, for errors.
        values: a NumPy array, a tensor of Keras, or lists.
        shapes: what each number of axes that is allowed means.

    Raises:
        ValueError: no numbers, other axes, an axis of length 0, or a number that is not finite.
    """
    wanted = " or ".join(shapes.values())
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError("complex numbers")
        array = array.astype("float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers {wanted}. Received: {error}") from error
    if array.ndim not in shapes or not array.size:
        raise ValueError(
            f"{name} must be {wanted}, with no axis of length 0. {_remedy(name, array, shapes)}"
            f"Received: shape {array.shape}"
        )
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = tuple(map(int, wrong[0]))
        others = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"{name} must be finite numbers. Look for the step that gives others. "
            f"Received: {array[place]} at {list(place)}{others}"
        )
    return array


def _remedy(name: str, array: np.ndarray, shapes: dict[int, str]) -> str:
    """Say what makes an array of another number of axes one that can be drawn."""
    if array.ndim > max(shapes):
        return f"Of a batch, take one sentence: {name}[0]. "
    if array.ndim == 3 and set(shapes) == {4}:
        return f"Of one layer, give {name}[None]. "
    return ""


def weight_array(name: str, weights: Any, shapes: dict[int, str]) -> np.ndarray:
    """Return attention weights as `finite_array` does.

    Raises:
        ValueError: as `finite_array`, or a weight is not from 0 to 1.
    """
    array = finite_array(name, weights, shapes)
    for extreme in (array.min(), array.max()):
        if not 0 <= extreme <= 1 + ROUNDING:
            raise ValueError(
                f"{name} must be attention weights, from 0 to 1. Give what is behind the softmax; "
                f"draw scores with plot_similarity. Received: a weight of {extreme:.6g}"
            )
    return array.clip(0, 1)


def check_fit(name: str, array: np.ndarray, source: list[str], target: list[str]) -> None:
    """Refuse `[..., T, S]` that does not have a row for each target and a column for each source.

    Raises:
        ValueError: it has not; the shape and both numbers of tokens are named.
    """
    if array.shape[-2:] != (len(target), len(source)):
        raise ValueError(
            f"{name} must have a row for each target token and a column for each source token. "
            "Cut padding off, and give the start and end symbols their tokens. "
            f"Received: {name} of shape {array.shape}, {len(source)} source_tokens, "
            f"{len(target)} target_tokens"
        )


def one_map(weights: Any, layer: int | None, head: int | None) -> tuple[np.ndarray, str]:
    """Return one map `[T, S]` of `[T, S]`, `[N, T, S]` or `[L, N, T, S]`, and what it is of.

    Args:
        weights: attention weights.
        layer: which layer, from 0; None: the mean over layers.
        head: which head, from 0; None: the mean over heads.

    Raises:
        ValueError: wrong weights, or a layer or head that they do not have.
    """
    array = weight_array("weights", weights, SHAPES)
    parts: list[str] = []
    for name, index, axes in (("layer", layer, 4), ("head", head, 3)):
        if array.ndim != axes:
            if index is not None:
                raise ValueError(
                    f"{name} must be None for weights without an axis of {name}s. "
                    f"Received: {name}={index}, weights of shape {np.shape(weights)}"
                )
            continue
        array, part = _chosen(array, name, index)
        parts.append(part)
    return array, ", ".join(parts)


def _chosen(array: np.ndarray, name: str, index: int | None) -> tuple[np.ndarray, str]:
    """Take one of the first axis, or its mean; and say which."""
    count = len(array)
    if index is None:
        return array.mean(axis=0), f"mean of {count} {name}s" if count > 1 else f"{name} 0"
    return array[place_of(name, index, count, ", or None for the mean")], f"{name} {index}"


def place_of(name: str, index: Any, count: int, more: str) -> int:
    """Return an index from 0 to `count - 1` as an integer of Python.

    Args:
        name: of the argument, for errors.
        index: the index, of Python or NumPy.
        count: how many there are.
        more: what else is to be said of it, for errors.

    Raises:
        ValueError: it is no integer or out of range.
    """
    whole = isinstance(index, int | np.integer) and not isinstance(index, bool)
    if not whole or not 0 <= index < count:
        raise ValueError(
            f"{name} must be an integer from 0 to {count - 1}{more}. Received: {name}={index!r}"
        )
    return int(index)
