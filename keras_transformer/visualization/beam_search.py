"""The best outputs of a search as a tree: where they agree, they are one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.visualization.arrays import checked_title, finite_array
from keras_transformer.visualization.figures import (
    BLUE,
    GREY,
    LABEL_SIZE,
    Picture,
    add_axes,
    new_picture,
    shrink_wrap,
    write_title,
)
from keras_transformer.visualization.fonts import fonts_for
from keras_transformer.visualization.labels import label_of

LINE_LENGTH = 30  # characters of a box's line
ACROSS, APART = 0.4, 0.12  # inches between a box and the next, sideways and downwards


@dataclass
class Branch:
    """Tokens that all hypotheses of a branch share, and how they go on.

    `ranks` are the places of these hypotheses in the list; a branch without `next` is the end of
    one. Sizes and places are in inches, y downwards.
    """

    ranks: list[int]
    text: str
    next: list[Branch] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0  # of the middle


def plot_beam_search(
    hypotheses: Sequence[Hypothesis],
    tokens: Callable[[list[int]], Sequence[str]] | None = None,
    *,
    log_probs: Any = None,
    given_up: Sequence[Hypothesis] = (),
    title: str = "Beam search",
) -> Figure:
    """Draw the hypotheses of one text as a tree; the way to the best one is blue.

    Tokens that hypotheses share stand in one box. At the end of each stand its rank and score.
    What the search gave up on its way is not in its result: a search of one's own, which keeps
    it, may hand it over as `given_up`.

    Args:
        hypotheses: of one text, best first: an entry of what `translate(..., beam_size=4,
            num_hypotheses=4)` returns, of any translator.
        tokens: what turns ids into pieces, such as `translator.target.tokens`; None: ids are
            written.
        log_probs: `[n, T]`, of each token of each hypothesis, then of its end symbol: the output
            `log_probs[0]` of an ONNX file. Each box then shows the probability of its tokens. Rows
            of what was given up come behind those of the hypotheses.
        given_up: beginnings that the search followed and then dropped, drawn with dashed lines.
        title: over the tree.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: no hypotheses, a score that is NaN, or log-probabilities that do not fit them.

    Example:
        >>> best = [Hypothesis("a b", -0.1, [5, 6], True), Hypothesis("a c", -0.4, [5, 7], True)]
        >>> figure = plot_beam_search(best)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['start', '5', '6', '1.  score -0.10', '7', '2.  score -0.40']
    """
    rows = [each.tokens for each in (*_checked(hypotheses), *_checked_dropped(given_up))]
    labels = [_labels(row, tokens) for row in rows]
    sums = _sums(log_probs, rows)
    ends = [_end(rank, hypothesis) for rank, hypothesis in enumerate(hypotheses)]
    ends += ["given up"] * len(given_up)
    tree = Branch(list(range(len(rows))), "start", _branches(rows, labels, ends, sums))
    boxes = list(_walk(tree))
    drawn, families = fonts_for([*(box.text for box in boxes), checked_title(title) or ""])
    picture = new_picture()
    axes = add_axes(picture, 0, 0, 1, 1)  # one inch is one unit
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(1, 0))
    for box, text in zip(boxes, drawn, strict=False):
        box.text = text
        _measure(picture, axes, box, families)
    _place(tree, 0.0, 0.0)
    _draw(axes, tree, families, len(hypotheses))
    width, height = max(box.x + box.width for box in boxes), _depth(tree)
    across, up = picture.get_size_inches()
    axes.set_position((0, 0, width / across, height / up))
    axes.set(xlim=(0, width), ylim=(height, 0))
    write_title(axes, drawn[-1], families)
    return shrink_wrap(picture)


def _checked(hypotheses: Sequence[Hypothesis]) -> Sequence[Hypothesis]:
    if not isinstance(hypotheses, Sequence) or not all(
        isinstance(hypothesis, Hypothesis) for hypothesis in hypotheses
    ):
        raise ValueError(
            "hypotheses must be a list of Hypothesis of one text: an entry of what translate "
            f"returns. Received: {hypotheses!r:.80}"
        )
    for rank, hypothesis in enumerate(hypotheses):
        if math.isnan(hypothesis.score):
            raise ValueError(
                "hypotheses must have scores that are numbers. Look for the step of training that "
                f"gave others. Received: hypotheses[{rank}].score=nan"
            )
    if not hypotheses:
        raise ValueError("hypotheses must hold at least one. Received: hypotheses=[]")
    return hypotheses


def _checked_dropped(given_up: Sequence[Hypothesis]) -> Sequence[Hypothesis]:
    for index, each in enumerate(given_up):
        if not isinstance(each, Hypothesis) or not each.tokens:
            raise ValueError(
                "given_up must hold a Hypothesis of at least one token for each beginning that "
                f"was dropped. Received: given_up[{index}]={each!r:.80}"
            )
    return given_up


def _labels(row: list[int], tokens: Callable[[list[int]], Sequence[str]] | None) -> list[str]:
    pieces = [str(token) for token in row] if tokens is None else list(tokens(row))
    if len(pieces) != len(row):
        raise ValueError(
            "tokens must return one string for each id. "
            f"Received: {len(pieces)} strings for {len(row)} ids"
        )
    return [label_of(piece) for piece in pieces]


def _sums(log_probs: Any, rows: list[list[int]]) -> np.ndarray | None:
    """Return log-probabilities summed up to each token, `[n, T + 1]`, 0 in front."""
    if log_probs is None:
        return None
    array = finite_array("log_probs", log_probs, {2: "[n, T]"})
    longest = max(map(len, rows))
    if len(array) < len(rows) or array.shape[1] < longest or array.max() > 1e-3:
        raise ValueError(
            "log_probs must be [n, T]: a row for each hypothesis, then for each that was given up, "
            "a number of at most 0 for each token. "
            f"Received: log_probs of shape {array.shape}, {len(rows)} hypotheses of up to "
            f"{longest} tokens, largest number {array.max():.6g}"
        )
    return np.pad(np.cumsum(array, axis=1), ((0, 0), (1, 0)))


def _end(rank: int, hypothesis: Hypothesis) -> str:
    cut = "" if hypothesis.finished else ", not finished"
    return f"{rank + 1}.  score {hypothesis.score:.2f}{cut}"


def _branches(
    rows: list[list[int]],
    labels: list[list[str]],
    ends: list[str],
    sums: np.ndarray | None,
    ranks: Sequence[int] | None = None,
    start: int = 0,
) -> list[Branch]:
    """Return what may follow the first `start` tokens, the best hypothesis first."""
    groups: dict[int | None, list[int]] = {}
    for rank in range(len(rows)) if ranks is None else ranks:
        ended = len(rows[rank]) == start
        groups.setdefault(None if ended else rows[rank][start], []).append(rank)
    found: list[Branch] = []
    for first, group in groups.items():
        if first is None:
            found += [Branch([rank], ends[rank]) for rank in group]
            continue
        stop = _shared(rows, group, start)
        text = _wrapped(labels[group[0]][start:stop])
        if sums is not None:
            text += f"\np = {np.exp(sums[group[0], stop] - sums[group[0], start]):.2g}"
        found.append(Branch(group, text, _branches(rows, labels, ends, sums, group, stop)))
    return found


def _shared(rows: list[list[int]], ranks: list[int], start: int) -> int:
    """Return up to where these hypotheses have the same tokens."""
    stop = start
    while all(len(rows[rank]) > stop for rank in ranks):
        if len({rows[rank][stop] for rank in ranks}) > 1:
            break
        stop += 1
    return stop


def _wrapped(labels: list[str]) -> str:
    """Write tokens with spaces between them, in lines of about `LINE_LENGTH`."""
    lines = [labels[0]]
    for label in labels[1:]:
        if len(lines[-1]) + 1 + len(label) > LINE_LENGTH:
            lines.append(label)
        else:
            lines[-1] += " " + label
    return "\n".join(lines)


def _walk(branch: Branch):
    yield branch
    for following in branch.next:
        yield from _walk(following)


def _write(axes: Axes, box: Branch, families: Sequence[str]):
    """Write a branch's text at its place, in a frame unless it is an end."""
    colour = BLUE if 0 in box.ranks else GREY
    frame = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour}
    return axes.text(
        box.x, box.y, box.text, ha="left", va="center", fontsize=LABEL_SIZE, linespacing=1.3,
        family=list(families), parse_math=False, bbox=frame if box.next else None,
    )  # fmt: skip


def _measure(picture: Picture, axes: Axes, box: Branch, families: Sequence[str]) -> None:
    """Find the size of a branch's text in inches, with its frame."""
    text = _write(axes, box, families)
    renderer = picture.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    extent = text.get_window_extent(renderer)
    frame = 0.3 * LABEL_SIZE / 72 * 2
    box.width, box.height = extent.width / picture.dpi + frame, extent.height / picture.dpi + frame
    text.remove()


def _depth(branch: Branch) -> float:
    """Return the inches downwards that a branch needs with all that follows."""
    following = sum(map(_depth, branch.next)) + APART * max(0, len(branch.next) - 1)
    return max(branch.height, following)


def _place(branch: Branch, x: float, top: float) -> None:
    """Give each branch its place: what follows at its right, itself in the middle of that."""
    branch.x, branch.y = x, top + _depth(branch) / 2
    following = sum(map(_depth, branch.next)) + APART * max(0, len(branch.next) - 1)
    below = branch.y - following / 2
    for each in branch.next:
        _place(each, x + branch.width + ACROSS, below)
        below += _depth(each) + APART


def _draw(axes: Axes, branch: Branch, families: Sequence[str], found: int) -> None:
    """Draw a branch, what follows it, and lines to that: dashed to what was not `found`."""
    _write(axes, branch, families)
    edge = 0.3 * LABEL_SIZE / 72
    for following in branch.next:
        best = 0 in following.ranks
        axes.plot(
            (branch.x + branch.width - edge, following.x - edge), (branch.y, following.y),
            color=BLUE if best else GREY, linewidth=2 if best else 1, zorder=0, clip_on=False,
            linestyle="-" if following.ranks[0] < found else "--",
        )  # fmt: skip
        _draw(axes, following, families, found)
