"""Attention to explore in a browser: choose a layer, a head and a token, see where it looks."""

from __future__ import annotations

import html
import json
import os
import string
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.files import replacing
from keras_transformer.visualization.arrays import (
    SHAPES,
    checked_title,
    token_list,
    weight_array,
)
from keras_transformer.visualization.labels import label_of

DIGITS = string.ascii_letters + string.digits + "-_"  # of base 64
PARTS = 64**2 - 1  # of 1: what two digits can count
# Pixels of a page in a notebook: at most; above and below the tokens; the map; a token.
HIGHEST, AROUND, MAP, ROW = 760, 235, 330, 22


class Kind(NamedTuple):
    """One of the three uses of attention: its title, whose tokens look, and at whose."""

    title: str
    left: str
    right: str


KINDS = {
    "encoder": Kind("encoder self-attention", "source", "source"),
    "causal": Kind("decoder self-attention", "target", "target"),
    "cross": Kind("cross-attention", "target", "source"),
}


class AttentionExplorer:
    """A page to explore attention, from `explore_attention`: shows itself in Jupyter."""

    def __init__(self, page: str, height: int, summary: str):
        self._page = page
        self._height = height
        self._summary = summary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to one file that any browser opens, with no server and no network.

        What comes behind `#` in its address chooses what is shown first:
        `page.html#kind=cross&layer=1&head=3&token=2`. `kind` is an argument of
        `explore_attention`, `head` a number or `mean`.

        Raises:
            OSError: the file cannot be written. What was there before is then still there.
        """
        with replacing(path) as aside:
            aside.write_text(self._page, encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return a frame for a notebook: neither knows of the other's styles and scripts."""
        page = html.escape(self._page, quote=True)
        style = f"width: 100%; height: {self._height}px; border: 0; resize: vertical"
        return (
            f'<iframe title="Attention" sandbox="allow-scripts" style="{style}" srcdoc="{page}">'
            "</iframe>"
        )

    def __repr__(self) -> str:
        return f"AttentionExplorer({self._summary})"


def explore_attention(
    source_tokens: Sequence[str] | None = None,
    target_tokens: Sequence[str] | None = None,
    *,
    encoder: Any = None,
    causal: Any = None,
    cross: Any = None,
    title: str | None = None,
) -> AttentionExplorer:
    """Make a page in which a reader chooses layer, head and token and sees the weights.

    At the left are the tokens that look, at the right those that are looked at, with lines and
    numbers between them; beside them the map of the head, and small maps of all heads. Mouse,
    touch and keyboard (Tab and arrow keys) work. The page is one piece of HTML that loads
    nothing. It holds weights to 1 / 8190.

    Weights of one sentence are `[L, N, T, S]` (layers, heads, queries, keys), or without the
    first axes; NumPy arrays or Keras tensors. At least one of the three is needed.

    Args:
        source_tokens: S pieces of the source; needed for `encoder` and `cross`.
        target_tokens: T pieces of the target; needed for `causal` and `cross`.
        encoder: weights of the encoder's self-attention, such as
            `Transformer.attention_scores(...).encoder[0]`.
        causal: those of the decoder's self-attention.
        cross: those of cross-attention; of an ONNX file, its output `cross_attention[0, 0]`.
        title: over the page.

    Returns:
        An `AttentionExplorer`. Jupyter shows it; `save(path)` writes it to a file.

    Raises:
        ValueError: no weights; weights that are not from 0 to 1 or do not fit the tokens; tokens
            that are missing.

    Example:
        >>> weights = [[0.9, 0.1], [0.2, 0.8]]
        >>> explore_attention(["the", "cat"], ["le", "chat"], cross=weights)
        AttentionExplorer(cross: 1 layer, 1 head, 2 x 2 tokens)
    """
    tokens = {
        name: None if given is None else token_list(f"{name}_tokens", given)
        for name, given in (("source", source_tokens), ("target", target_tokens))
    }
    given = {"encoder": encoder, "causal": causal, "cross": cross}
    arrays = {name: _weights(name, some) for name, some in given.items() if some is not None}
    if not arrays:
        raise ValueError(
            "One of encoder, causal and cross must be given. Take the weights of one sentence of "
            "Transformer.attention_scores. Received: None for all three"
        )
    kinds = [_kind(name, weights, tokens) for name, weights in arrays.items()]
    page = _page({"title": checked_title(title) or "", "digits": DIGITS, "kinds": kinds})
    rows = max(weights.shape[axis] for weights in arrays.values() for axis in (2, 3))
    summary = "; ".join(_summary(name, weights) for name, weights in arrays.items())
    return AttentionExplorer(page, min(AROUND + max(ROW * rows, MAP), HIGHEST), summary)


def _weights(name: str, given: Any) -> np.ndarray:
    """Return weights as `[L, N, T, S]`, from 0 to 1."""
    weights = weight_array(name, given, SHAPES)
    return weights.reshape((1,) * (4 - weights.ndim) + weights.shape)


def _kind(name: str, weights: np.ndarray, tokens: dict[str, list[str] | None]) -> dict[str, Any]:
    """Return what the page's script reads of one kind of attention."""
    kind = KINDS[name]
    sides: list[list[str]] = []
    for side, count in ((kind.left, weights.shape[2]), (kind.right, weights.shape[3])):
        labels = tokens[side]
        if labels is None or len(labels) != count:
            received = f"{side}_tokens=None" if labels is None else f"{len(labels)} {side}_tokens"
            raise ValueError(
                f"{name} must have a row for each of {kind.left}_tokens and a column for each of "
                f"{kind.right}_tokens. Cut padding off, and give the start and end symbols their "
                f"tokens. Received: {name} of shape {weights.shape}, {received}"
            )
        sides.append([label_of(label) for label in labels])
    return {
        "name": name,
        "title": kind.title,
        "names": [kind.left, kind.right],
        "layers": weights.shape[0],
        "heads": weights.shape[1],
        "left": sides[0],
        "right": sides[1],
        "weights": _packed(weights),
    }


def _packed(weights: np.ndarray) -> str:
    """Write each weight as two digits in base 64: its parts of 4095."""
    digits = np.frombuffer(DIGITS.encode("ascii"), "uint8")
    parts = np.rint(weights.reshape(-1) * PARTS).astype("int64")
    return np.stack([digits[parts // 64], digits[parts % 64]], axis=-1).tobytes().decode("ascii")


def _page(data: dict[str, Any]) -> str:
    """Put the data into the page. No token can end the element that holds them, or begin one."""
    template = (
        resources.files("keras_transformer.visualization")
        .joinpath("explorer.html")
        .read_text("utf-8")
    )
    safe = json.dumps(data).replace("<", "\\u003c").replace("&", "\\u0026")
    return template.replace("{{data}}", safe)


def _summary(name: str, weights: np.ndarray) -> str:
    layers, heads, rows, columns = weights.shape
    of = f"{layers} layer{'s' * (layers != 1)}, {heads} head{'s' * (heads != 1)}"
    return f"{name}: {of}, {rows} x {columns} tokens"
