"""A Transformer as figure 1 of the paper draws it, with its own shapes and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from keras_transformer.visualization.arrays import checked_title
from keras_transformer.visualization.figures import (
    GREY,
    LABEL_SIZE,
    add_axes,
    new_picture,
    shrink_wrap,
    write_title,
)
from keras_transformer.visualization.fonts import fonts_for

WIDTH, HEIGHT, GAP = 2.5, 0.42, 0.2  # inches: a box, and from it to the next
BESIDE, BETWEEN = 0.3, 0.9  # inches: from a box to its frame, from one frame to the other
FILLS = {"attention": "#FCE5CD", "inner": "#D9EAF7", "embedding": "#D8EFE4", "other": "#F2F2F2"}
SUBLAYERS = {
    "self_attention": ("self-attention", "attention"),
    "cross_attention": ("cross-attention", "attention"),
    "feed_forward": ("feed-forward", "inner"),
}


class Part(NamedTuple):
    """A box: what it is, what is said of it, and its kind, which is its colour."""

    name: str
    detail: str
    kind: str = "other"


class Side(NamedTuple):
    """Encoder or decoder, from below to above."""

    ids: str
    before: list[Part]
    layer: str
    sublayers: list[list[Part]]  # a residual connection leads past each
    after: list[Part]


def plot_architecture(model: Any, *, title: str | None = None) -> Figure:
    """Draw a `Transformer` as figure 1 of 'Attention Is All You Need' does, with its own sizes.

    Each box names the shape of what leaves it (B sentences, S source and T target tokens) and how
    many parameters it has; a layer is drawn once. Norms stand where the model has them: behind
    each sum as in the paper, or in front of each sublayer.

    Args:
        model: a `Transformer`.
        title: None: how many parameters the whole model has.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: another kind of model.
    """
    stacks = (getattr(model, side, None) for side in ("encoder", "decoder"))
    if not all(hasattr(stack, "layers") for stack in stacks):
        raise ValueError(
            "model must be a Transformer, whose encoder and decoder are stacks of layers. "
            f"Received: {type(model).__name__}"
        )
    picture = new_picture()
    axes = add_axes(picture, 0, 0, 1, 1)  # one inch is one unit
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    left, right = _encoder_side(model), _decoder_side(model)
    middle = WIDTH + 2 * BESIDE + BETWEEN  # from the one side to the other
    start, _ = _draw_side(axes, left, 0.0, -1)
    end, cross = _draw_side(axes, right, middle, 1)
    _draw_memory(axes, start, middle, cross, f"memory {_shape(model, 'S')}")
    _write(axes, middle, end + 0.08, f"logits [B, T, {model.config.target_vocab_size:,}]")
    width, height = middle + WIDTH, max(start, end) + HEIGHT
    across, up = picture.get_size_inches()
    axes.set_position((0, 0, width / across, height / up))
    axes.set(xlim=(-WIDTH / 2, middle + WIDTH / 2), ylim=(0, height))
    (title,), families = fonts_for([checked_title(title) or f"{model.count_params():,} parameters"])
    write_title(axes, title, families)
    return shrink_wrap(picture)


def _shape(model: Any, length: str) -> str:
    return f"[B, {length}, {model.config.d_model}]"


def _counted(shape: str, *layers: Any) -> str:
    """Say what leaves some layers, and how many parameters they have together."""
    count = sum(layer.count_params() for layer in layers)
    return f"{shape}   {count:,} parameters" if count else shape


def _encoder_side(model: Any) -> Side:
    shape = _shape(model, "S")
    embedding = Part("source embedding", _counted(shape, model.source_embedding), "embedding")
    return Side(
        ids="source ids [B, S]",
        before=[embedding, *_positions(model.source_positions, shape)],
        layer=_layer_name(model.encoder, "encoder"),
        sublayers=_sublayers(model.encoder.layers[0], shape, {}),
        after=_final_norm(model.encoder, shape),
    )


def _decoder_side(model: Any) -> Side:
    shape = _shape(model, "T")
    is_shared = model.token_embedding is model.source_embedding
    detail = (
        f"{shape}   that of the source" if is_shared else _counted(shape, model.token_embedding)
    )
    logits = f"[B, T, {model.config.target_vocab_size:,}]"
    output = Part("output", f"{logits}   embedding transposed", "embedding")
    if model.output_projection is not None:
        output = Part("output", _counted(logits, model.output_projection), "embedding")
    return Side(
        ids="target ids, shifted right [B, T]",
        before=[
            Part("target embedding", detail, "embedding"),
            *_positions(model.target_positions, shape),
        ],
        layer=_layer_name(model.decoder, "decoder"),
        sublayers=_sublayers(
            model.decoder.layers[0], shape, {"self_attention": "masked self-attention"}
        ),
        after=[*_final_norm(model.decoder, shape), output],
    )


def _positions(positions: Any, shape: str) -> list[Part]:
    """Rotary positions have no box: attention turns its queries and keys."""
    return [] if positions is None else [Part("+ positions", _counted(shape, positions))]


def _layer_name(stack: Any, side: str) -> str:
    times, count = len(stack.layers), stack.layers[0].count_params()
    return f"{times} {side} layer{'s' if times > 1 else ''},\n{count:,} each"


def _final_norm(stack: Any, shape: str) -> list[Part]:
    return [] if stack.norm is None else [Part("norm", _counted(shape, stack.norm))]


def _sublayers(layer: Any, shape: str, names: dict[str, str]) -> list[list[Part]]:
    """Return the boxes of each sublayer, its norm in front of it or behind the sum."""
    found: list[list[Part]] = []
    for attribute, (name, kind) in SUBLAYERS.items():
        sublayer = getattr(layer, attribute, None)
        if sublayer is None:
            continue
        name = names.get(attribute, name)
        name += f", {layer.num_heads} heads" if kind == "attention" else f", {layer.d_ff:,} inside"
        box = Part(name, _counted(shape, sublayer), kind)
        norm = _counted(shape, getattr(layer, f"{attribute}_norm"))
        if layer.norm_first:
            found.append([Part("norm", norm), box, Part("add", shape)])
        else:
            found.append([box, Part("add and norm", norm)])
    return found


def _draw_side(axes: Axes, side: Side, x: float, outwards: int) -> tuple[float, float]:
    """Draw a side around `x`, its residual connections `outwards` (-1: at the left).

    Returns:
        The height where its last box ends, and that of its cross-attention (0 where it has none).
    """
    _write(axes, x, 0.0, side.ids)
    y = _draw_parts(axes, side.before, x, 0.18)
    bottom, cross, below = y + 0.1, 0.0, 0.15  # the first arrow crosses the frame
    y += below
    for parts in side.sublayers:
        start = y + 0.06
        for part in parts:
            if part.name.startswith("cross"):
                cross = y + GAP + HEIGHT / 2
            y, below = _draw_parts(axes, [part], x, y, below), 0.0
        _draw_residual(axes, x, start, y - HEIGHT / 2, outwards)
    top = y + 0.45
    frame = (x - WIDTH / 2 - BESIDE, bottom), WIDTH + 2 * BESIDE, top - bottom
    axes.add_patch(Rectangle(*frame, fill=False, edgecolor=GREY, clip_on=False))
    axes.text(
        x + outwards * (WIDTH / 2 + BESIDE - 0.06), top - 0.06, side.layer, va="top",
        ha="left" if outwards < 0 else "right", fontsize=LABEL_SIZE, linespacing=1.3,
    )  # fmt: skip
    if side.after:
        y = _draw_parts(axes, side.after, x, top, top - y)
    return y, cross


def _draw_parts(axes: Axes, parts: Sequence[Part], x: float, y: float, below: float = 0.0) -> float:
    """Draw boxes over each other, each with an arrow from what is below; return their end.

    The first arrow comes from as far as `below` the height `y`.
    """
    for part in parts:
        _draw_arrow(axes, (x, y - below), (x, y + GAP))
        y, below = y + GAP, 0.0
        box = FancyBboxPatch(
            (x - WIDTH / 2, y), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=FILLS[part.kind], edgecolor="black", linewidth=0.8, clip_on=False,
        )  # fmt: skip
        axes.add_patch(box)
        _write(axes, x, y + 0.23, part.name)
        _write(axes, x, y + 0.07, part.detail, size=LABEL_SIZE - 2)
        y += HEIGHT
    return y


def _draw_residual(axes: Axes, x: float, start: float, end: float, outwards: int) -> None:
    """Draw the way past a sublayer: what comes in is added to what goes out."""
    edge, aside = x + outwards * WIDTH / 2, x + outwards * (WIDTH / 2 + 0.15)
    _draw_line(axes, (x, aside, aside), (start, start, end))
    _draw_arrow(axes, (aside, end), (edge, end))


def _draw_memory(axes: Axes, start: float, middle: float, cross: float, what: str) -> None:
    """Draw the way from the encoder's end to the cross-attention of the decoder."""
    between, corner = middle / 2, start + 0.6  # above the frame, where that ends last
    _draw_line(axes, (0, 0, between, between), (start, corner, corner, cross))
    _draw_arrow(axes, (between, cross), (middle - WIDTH / 2, cross))
    _write(axes, 0, corner + 0.08, what)


def _draw_line(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color="black", linewidth=0.8, clip_on=False)


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "linewidth": 0.8, "color": "black"}
    axes.annotate("", end, start, annotation_clip=False, arrowprops=arrow)


def _write(axes: Axes, x: float, y: float, text: str, size: float = LABEL_SIZE) -> None:
    axes.text(x, y, text, ha="center", va="bottom", fontsize=size)
