"""Chooses the few static shapes of batches that waste least on padding, and fills them."""

from typing import NamedTuple

import numpy as np

# Corners of shapes are looked for at most at this many lengths a side, chosen at quantiles.
_MOST_LENGTHS = 48
# A further shape must save this share of all positions: each may cost a compilation.
_WORTH_A_SHAPE = 0.005
_MOST_ROUNDS = 3


class Shape(NamedTuple):
    """A batch of `rows` pairs, padded to `source` and `target` positions."""

    rows: int
    source: int
    target: int


def choose_shapes(
    source_lengths: np.ndarray, target_lengths: np.ndarray, batch_tokens: int, num_shapes: int
) -> list[Shape]:
    """Returns at most `num_shapes` shapes that cover all pairs with little padding.

    A pair goes into the smallest shape that covers it, and the sum of source and target positions
    over all pairs is to be small: a facility location problem. Shapes are added greedily, each
    the one that saves most, as long as another one is worth it (short batches at the end
    included); then each is moved to a better place while there is one. On translation data this
    leaves about half the padding of the best cuts of target lengths and, inside, source lengths.

    Args:
        source_lengths: int array [pairs], of a corpus or a sample of it.
        target_lengths: int array [pairs].
        batch_tokens: the most positions of a batch on either side; a shape has
            `batch_tokens // max(source, target)` rows, at least 1.
        num_shapes: the most shapes.

    Returns:
        Shapes in ascending order of source + target positions.
    """
    search = _Search(source_lengths, target_lengths)
    chosen, fewest = search.chosen[:], np.inf
    while True:
        shapes = _make_shapes(search.corners(search.chosen), batch_tokens)
        batches = fill(shapes, assign(shapes, source_lengths, target_lengths))
        positions = sum(shapes[i].rows * (shapes[i].source + shapes[i].target) for i, _ in batches)
        if positions < fewest * (1 - _WORTH_A_SHAPE * (len(search.chosen) - len(chosen))):
            chosen, fewest = search.chosen[:], positions
        if len(search.chosen) >= num_shapes or not search.add():
            break
    search.chosen = chosen
    search.improve()
    return _make_shapes(search.corners(search.chosen), batch_tokens)


def make_shape(source: int, target: int, batch_tokens: int) -> Shape:
    """Returns the shape with as many rows as `batch_tokens` allow."""
    return Shape(max(1, batch_tokens // max(source, target)), source, target)


def assign(
    shapes: list[Shape], source_lengths: np.ndarray, target_lengths: np.ndarray
) -> np.ndarray:
    """Returns for each pair the index of the first shape that covers it; int array [pairs].

    Shapes are in ascending order, so that the first is the smallest; the caller sees to it that
    the last covers every pair.
    """
    result = np.full(len(source_lengths), -1, np.int32)
    for index in reversed(range(len(shapes))):
        shape = shapes[index]
        result[(source_lengths <= shape.source) & (target_lengths <= shape.target)] = index
    return result


def fill(shapes: list[Shape], assigned: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Deals all pairs into batches: full ones first, then the leftovers.

    Args:
        shapes: as `choose_shapes` returns them.
        assigned: int array [pairs], the shape of each pair; pairs are dealt in this order.

    Returns:
        (shape index, positions in `assigned`) of each batch.
    """
    full, leftovers = deal(shapes, assigned)
    return full + merge_leftovers(shapes, leftovers)


def deal(
    shapes: list[Shape], assigned: np.ndarray
) -> tuple[list[tuple[int, np.ndarray]], list[np.ndarray]]:
    """Returns the full batches, and what is left over of each shape, as positions."""
    full: list[tuple[int, np.ndarray]] = []
    leftovers: list[np.ndarray] = []
    for index, shape in enumerate(shapes):
        members = np.flatnonzero(assigned == index)
        whole = len(members) // shape.rows * shape.rows
        full += [(index, batch) for batch in members[:whole].reshape(-1, shape.rows)]
        leftovers.append(members[whole:])
    return full, leftovers


def merge_leftovers(
    shapes: list[Shape], leftovers: list[np.ndarray]
) -> list[tuple[int, np.ndarray]]:
    """Deals leftovers into as few batches as possible.

    Free rows of a larger shape are filled with leftovers of smaller ones, largest first, so that
    few batches have empty rows.
    """
    left = list(leftovers)
    batches: list[tuple[int, np.ndarray]] = []
    for index in reversed(range(len(shapes))):
        if not len(left[index]):
            continue
        batch = left[index]
        for other in reversed(range(index)):
            fits = shapes[other].source <= shapes[index].source
            if fits and shapes[other].target <= shapes[index].target:
                free = shapes[index].rows - len(batch)
                batch = np.concatenate([batch, left[other][:free]])
                left[other] = left[other][free:]
        batches.append((index, batch))
    return batches


def _make_shapes(corners: list[tuple[int, int]], batch_tokens: int) -> list[Shape]:
    ordered = sorted(set(corners), key=lambda corner: (sum(corner), corner))
    return [make_shape(source, target, batch_tokens) for source, target in ordered]


class _Search:
    """Corners of shapes on a grid of lengths, chosen to cover the histogram of pairs cheaply."""

    def __init__(self, source_lengths: np.ndarray, target_lengths: np.ndarray):
        sources, targets = _grid(source_lengths), _grid(target_lengths)
        cells = np.zeros((len(sources), len(targets)), np.float32)
        at = np.searchsorted(sources, source_lengths), np.searchsorted(targets, target_lengths)
        np.add.at(cells, at, 1)
        used_source, used_target = np.nonzero(cells)
        self._pairs = cells[used_source, used_target]
        self._source, self._target = (x.ravel() for x in np.meshgrid(sources, targets))
        covers = (sources[used_source] <= self._source[:, None]) & (
            targets[used_target] <= self._target[:, None]
        )
        # [corners, cells]: positions of a pair of the cell in a batch of this corner.
        size = (self._source + self._target).astype(np.float32)
        self._cost = np.where(covers, size[:, None], np.float32(np.inf))
        # The first corner covers everything and stays.
        self.chosen = [len(size) - 1]

    def corners(self, chosen: list[int]) -> list[tuple[int, int]]:
        """The (source, target) lengths of corners."""
        return [(int(self._source[i]), int(self._target[i])) for i in chosen]

    def add(self) -> bool:
        """Adds the corner that saves most; False when none saves anything."""
        saved = self._saved(self.chosen)
        best = int(saved.argmax())
        if saved[best] <= 0:
            return False
        self.chosen.append(best)
        return True

    def improve(self) -> None:
        """Moves one corner after the other to where it saves most, until none moves."""
        for _ in range(_MOST_ROUNDS):
            before = list(self.chosen)
            for place in range(1, len(self.chosen)):
                saved = self._saved(self.chosen[:place] + self.chosen[place + 1 :])
                best = int(saved.argmax())
                if saved[best] > saved[self.chosen[place]]:
                    self.chosen[place] = best
            if self.chosen == before:
                return

    def _saved(self, chosen: list[int]) -> np.ndarray:
        """Positions that each corner would save beside the chosen ones."""
        current = self._cost[chosen].min(axis=0)
        return np.maximum(current - self._cost, 0) @ self._pairs


def _grid(lengths: np.ndarray) -> np.ndarray:
    distinct = np.unique(lengths)
    if len(distinct) <= _MOST_LENGTHS:
        return distinct
    shares = np.linspace(0, 1, _MOST_LENGTHS + 1)[1:]
    return np.unique(np.quantile(lengths, shares, method="higher"))
