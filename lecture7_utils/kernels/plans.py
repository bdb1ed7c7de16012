"""Which part of each map a rectangle in the image can change, for all positions of a sweep at once.

The part is a rectangle: a product of two intervals, so that each axis is planned by itself. An interval
[lo, hi) goes through a step whose windows have kernel k, stride s, padding p in front and dilation d to all
places i with a window that reaches into it: ceil((lo + p - d (k - 1)) / s) <= i <= floor((hi - 1 + p) / s).
Positions of a sweep differ in the lengths of their intervals by a place or so. Those of each axis are split
into a few classes of similar lengths; in a pair of classes all patches of one map are equally large, so that
they make a batch.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lecture7_utils.kernels.tracing import Step

CLASSES = 3  # on each axis; one costs 15 to 25 % more multiplications, six save next to nothing
# a patch that covers this much of its map is made the whole map: nothing to be put together any more
ENOUGH = 0.8

Interval = tuple[int, int]


def intervals(steps: Sequence[Step], axis: int, windows: Sequence[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """lo and hi, int [steps, positions]: what each window [start, end) of the image changes on one axis.

    axis: 0 is down, 1 is across. Nothing changes where lo = hi. Steps that give no map, and those after one
    that needs the whole of its input, have 0 and the map's length, or 1.
    """
    lo, hi = (np.zeros((len(steps), len(windows)), np.int64) for _ in range(2))
    for number, step in enumerate(steps):
        length = step.shape[1 + axis] if len(step.shape) == 3 else 1
        if step.role == "image":
            lo[number], hi[number] = np.array(windows, np.int64).T
        elif step.role in ("average", "whole") or not step.is_map:
            hi[number] = length
            continue
        elif step.role == "window":
            window, before = step.window, step.inputs[0]
            kernel, stride = window.kernel[axis], window.stride[axis]
            first = lo[before] + window.before[axis] - window.dilation[axis] * (kernel - 1)
            last = hi[before] - 1 + window.before[axis]
            lo[number], hi[number] = -(-first // stride), last // stride + 1
            hi[number] = np.where(hi[before] > lo[before], hi[number], 0)
        else:
            given = [i for i in step.inputs]
            some = [hi[i] > lo[i] for i in given]
            lo[number] = np.min([np.where(s, lo[i], length) for i, s in zip(given, some, strict=True)], 0)
            hi[number] = np.max([np.where(s, hi[i], 0) for i, s in zip(given, some, strict=True)], 0)
        lo[number] = lo[number].clip(0, length)
        hi[number] = np.maximum(hi[number].clip(0, length), lo[number])
    return lo, hi


def classes(sizes: np.ndarray, weights: np.ndarray, count: int = CLASSES) -> np.ndarray:
    """Split positions into at most `count` classes of similar lengths: the class of each, [positions].

    sizes: int [steps, positions], the lengths. weights: [steps], what one place of each step costs. In a
    class every position pays for the class's largest length at each step; the split makes the sum of that
    smallest, among those that cut the positions, sorted by cost, into runs.
    """
    kinds, kind_of, numbers = np.unique(sizes, axis=1, return_inverse=True, return_counts=True)
    order = np.argsort(weights @ kinds, kind="stable")
    kinds, numbers = kinds[:, order], numbers[order]
    total = kinds.shape[1]
    before = np.concatenate([[0], np.cumsum(numbers)])
    # cost[i, j]: kinds i … j in one class
    cost = np.full((total, total), np.inf)
    for i in range(total):
        largest = np.maximum.accumulate(kinds[:, i:], 1)
        cost[i, i:] = (weights @ largest) * (before[i + 1 :] - before[i])
    best, cuts = cost[0], []
    for _ in range(min(count, total) - 1):
        options = best[:-1, None] + cost[1:]  # up to i, then i + 1 … j
        cut = options.argmin(0)
        better = options[cut, np.arange(total)]
        cuts.append(np.where(better < best, cut, -1))
        best = np.minimum(best, better)
    label, end, place = np.zeros(total, np.int64), total - 1, 0
    for cut in reversed(cuts):
        if cut[end] >= 0:
            start = cut[end] + 1
            label[start : end + 1] = place + 1
            place, end = place + 1, start - 1
    back = np.empty(total, np.int64)
    back[order] = label
    return np.unique(back[kind_of.reshape(-1)], return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, eq=False)
class Patch:
    """Where the patches of one map lie, on each axis: their size, and where each position's one starts."""

    size: tuple[int, int]
    starts: tuple[np.ndarray, np.ndarray]

    def same(self, other: "Patch") -> bool:
        """Whether the patches lie at the same places."""
        return self is other or (
            self.size == other.size
            and all(np.array_equal(a, b) for a, b in zip(self.starts, other.starts, strict=True))
        )


@dataclass(frozen=True, eq=False)
class PairPlan:
    """One class of rows with one of columns.

    places: which positions of each axis belong to it. patches: for each step, None where the whole output is
    computed. cost: multiplications, about, for one position.
    """

    places: tuple[np.ndarray, np.ndarray]
    patches: tuple[Patch | None, ...]
    cost: float

    @property
    def count(self) -> int:
        """How many positions it has."""
        return len(self.places[0]) * len(self.places[1])


@dataclass(frozen=True, eq=False)
class Plan:
    """All positions of a sweep, by pairs of classes, the largest pair first.

    share: multiplications, about, over those of computing everything for every position.
    """

    pairs: tuple[PairPlan, ...]
    share: float


def plan_key(steps: Sequence[Step], rows: Sequence[Interval], columns: Sequence[Interval]) -> Hashable:
    """All that a plan depends on: neither the image nor the weights."""
    return tuple(step.key for step in steps), tuple(rows), tuple(columns)


def make_plan(steps: Sequence[Step], rows: Sequence[Interval], columns: Sequence[Interval]) -> Plan:
    """The plan for all windows rows × columns of the image."""
    places = [step.shape[1] * step.shape[2] if len(step.shape) == 3 else 1 for step in steps]
    whole = sum(step.cost * n for step, n in zip(steps, places, strict=True))
    axes = []
    for axis, windows in enumerate((rows, columns)):
        lo, hi = intervals(steps, axis, windows)
        sizes = np.maximum(hi - lo, 1)
        across = [s.shape[2 - axis] / s.shape[1 + axis] if len(s.shape) == 3 else 0.0 for s in steps]
        # the other axis's length is taken to be in proportion
        weights = np.array([s.cost * r for s, r in zip(steps, across, strict=True)]) * sizes.mean(1)
        axes.append((lo, sizes, classes(sizes, weights)))
    pairs = []
    for row_class in range(axes[0][2].max() + 1):
        for column_class in range(axes[1][2].max() + 1):
            chosen = [
                np.flatnonzero(axes[0][2] == row_class),
                np.flatnonzero(axes[1][2] == column_class),
            ]
            pairs.append(_pair(steps, places, axes, chosen))
    pairs.sort(key=lambda pair: -pair.count)
    spent = sum(pair.cost * pair.count for pair in pairs)
    return Plan(tuple(pairs), spent / max(whole * len(rows) * len(columns), 1e-30))


def _pair(steps: Sequence[Step], places: list[int], axes: list, chosen: list[np.ndarray]) -> PairPlan:
    patches: list[Patch | None] = []
    cost = 0.0
    for number, step in enumerate(steps):
        patch = None
        given = [patches[i] for i in step.inputs]
        if step.is_map and step.role not in ("average", "whole") and None not in given:
            if step.role == "place":
                patch = given[0]
            else:
                size, starts = [], []
                for axis, (lo, sizes, _) in enumerate(axes):
                    length = int(sizes[number, chosen[axis]].max())
                    size.append(length)
                    starts.append(np.minimum(lo[number, chosen[axis]], step.shape[1 + axis] - length))
                if step.role == "image" or size[0] * size[1] <= ENOUGH * places[number]:
                    patch = Patch(tuple(size), tuple(starts))
        patches.append(patch)
        cost += step.cost * (places[number] if patch is None else patch.size[0] * patch.size[1])
    return PairPlan(tuple(chosen), tuple(patches), cost)
