"""The exercises of lesson 3, class activation maps."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    few,
    named_or_scaled,
    randint,
)
from lecture7_utils.kernels.arguments import describe


def _grid_hints(n: int, k: int, h: int, w: int) -> dict[tuple, str]:
    hints = {
        (n, k, h, w): "the channels are not summed yet",
        (n, 1, h, w): "without the channel dimension, so no keepdim",
        (n, w, h): "rows and columns are swapped",
        (k, h, w): "the sum was taken over the images, not over the channels",
        (n, k): "one value a channel; one for each place is asked for",
        (n,): "one value an image; one for each place is asked for",
    }
    if n > 1:
        hints[(1, h, w)] = "only one image was done; all of the batch are asked for"
    return {(h, w): "the batch dimension is missing; features come as [N, K, h, w]", **hints}


def _judge_class_map(call: Caller, g: torch.Generator) -> None:
    for n, k, h, w, classes in ((2, 6, 7, 4, 6), (3, 5, 4, 6, 7), (1, 8, 3, 5, 4)):
        features = torch.randn(n, k, h, w, generator=g)
        weight = torch.randn(classes, k, generator=g)
        # neither the first nor the last class, so that counting from 1 is still a row of the matrix
        c = int(randint(g, 1, min(classes, k) - 1))
        f, m = features.double(), weight.double()

        def summed(weights: Tensor, f_: Tensor = f) -> Tensor:
            return sum(weights[channel] * f_[:, channel] for channel in range(f_.shape[1]))

        want = summed(m[c])
        hints = _grid_hints(n, k, h, w)
        hints[n, classes, h, w] = f"one map is asked for: that of class {c}, summed over the channels"
        hints[n, classes] = "no places are left: don't average over them"
        got = as_tensor(call(features, weight, c), "the map", (n, h, w), hints)
        mistakes = {
            "the channels are summed without their weights": f.sum(1),
            "the channels are averaged without their weights": f.mean(1),
            f"the weights are those of class {c + 1}: classes count from 0": summed(m[c + 1]),
            f"the weights are those of class {c - 1}": summed(m[c - 1]),
            "the weights of all classes are summed; those of class c are asked for": summed(m.sum(0)),
            f"the weighted sum is divided by the {k} channels: their weights do that already": want / k,
            f"the map is divided by its {h * w} places: its mean over the places gives the score": (
                want / (h * w)
            ),
            "the map is rectified: places that speak against the class are asked for too": want.clamp(min=0),
            "the weights have lost their sign": summed(m[c].abs()),
            "only positive weights are used; negative ones count too": summed(m[c].clamp(min=0)),
            "the weights went through a softmax: take them as they are": summed(m[c].softmax(0)),
            "the features are rectified first: take them as they are": summed(m[c], f.clamp(min=0)),
            "every place has the mean of the map: don't average over the places": (
                want.mean((1, 2), keepdim=True).expand_as(want)
            ),
        }
        if classes == k:
            mistakes["the weights are column c of the matrix; those of a class are a row"] = summed(m[:, c])
        if n > 1:
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first image was done"] = only
            mistakes["the first image's map is given for all"] = want[:1].expand_as(want)
        named_or_scaled(got, want, mistakes)


def _high(map: Tensor, level: float) -> list[tuple[int, int]]:
    """(row, column) of every pixel that is at least `level`, one by one."""
    return [(i, j) for i, row in enumerate(map.tolist()) for j, v in enumerate(row) if v >= level]


def _around(pixels: list[tuple[int, int]]) -> list[int]:
    """The box around pixels: (x1, y1, x2, y2), ends exclusive."""
    rows, columns = [i for i, _ in pixels], [j for _, j in pixels]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def _largest_patch(pixels: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The largest of the groups of pixels that touch, at a corner too."""
    left, groups = set(pixels), []
    while left:
        todo, group = [left.pop()], []
        while todo:
            i, j = todo.pop()
            group.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            todo += near
        groups.append(group)
    return max(groups, key=len)


def _box_cases(g: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Two patches that are high enough, apart and of different size; three pixels that are not quite."""
    for h, w, threshold, scale in ((9, 14, 0.5, 1.5), (12, 10, 0.2, 0.25), (10, 16, 0.35, 40.0)):
        map = -0.2 - 0.3 * torch.rand(h, w, generator=g)
        map[0, w // 2] = -0.5
        map[2:5, 3:7] = 0.8 + 0.1 * torch.rand(3, 4, generator=g)
        map[3, 4] = 1.0
        map[h - 2, w - 3 : w - 1] = 0.7
        # each of the usual mistakes takes one more of these in, and so gives a box of its own
        map[h // 2, 1], map[1, w // 2], map[h // 2, w - 1] = 0.8 * threshold, 0.6 * threshold, 0.2 * threshold
        if threshold == 0.5:  # of the three products with the scale the one that no rounding moves
            map[h - 1, 5] = threshold
        yield map * scale, threshold


def _judge_box(call: Caller, g: torch.Generator) -> None:
    for map, threshold in _box_cases(g):
        values = map.double()
        h, w = values.shape
        most, least = float(values.max()), float(values.min())
        pixels = _high(values, threshold * most)
        want = x1, y1, x2, y2 = _around(pixels)
        where = f"box(map [{h}, {w}] with values from {least:.2f} to {most:.2f}, {threshold})"
        where = where.replace("-", "\N{MINUS SIGN}")
        got = call(map, threshold)
        if isinstance(got, Tensor | np.ndarray):
            got = got.tolist()
        try:
            got = [int(v) if v == int(v) else float(v) for v in got]
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"{where}: expected four numbers (x1, y1, x2, y2), got {describe(got)}.") from None
        if len(got) != 4:
            raise Wrong(f"{where}: expected four numbers (x1, y1, x2, y2), got {len(got)}: {few(got)}.")
        if got == want:
            continue

        def boxed(level: float, v: Tensor = values) -> list[int] | None:
            found = _high(v, level)
            return _around(found) if found else None

        above = [(i, j) for i, j in pixels if values[i, j] > threshold * most]
        low = [(i, j) for i in range(h) for j in range(w) if values[i, j] < threshold * most]
        mistakes = {
            "the ends are inclusive: x2 and y2 are one past the last pixel": [x1, y1, x2 - 1, y2 - 1],
            "rows and columns are swapped: x counts columns, y counts rows": [y1, x1, y2, x2],
            "rows and columns are swapped, and the ends are inclusive": [y1, x1, y2 - 1, x2 - 1],
            "these are x, y, width and height; x2 and y2 are asked for": [x1, y1, x2 - x1, y2 - y1],
            "the order is x1, y1, x2, y2": [x1, x2, y1, y2],
            "only the largest patch is boxed: here all pixels that are high enough count": (
                _around(_largest_patch(pixels))
            ),
            "the threshold is taken as a value of the map: it is a share of its maximum": boxed(threshold),
            "the threshold is a share of the maximum, not of the way from the lowest value to it": (
                boxed(least + threshold * (most - least))
            ),
            "the threshold is a share of the maximum, not of the mean": boxed(
                threshold * float(values.mean())
            ),
            "a pixel with exactly the threshold's share of the maximum counts, too": _around(above),
            "this is the box around the pixels that are too low": _around(low),
            "the box is one pixel too far to the left and to the top": [x1 - 1, y1 - 1, x2 - 1, y2 - 1],
            "the whole map is boxed": [0, 0, w, h],
        }
        why = next((f": {name}" for name, value in mistakes.items() if value == got), "")
        raise Wrong(f"{where}: expected {tuple(want)}, got {tuple(got)}{why}.")


def _judge_grad_cam(call: Caller, g: torch.Generator) -> None:
    for n, k, h, w in ((3, 5, 4, 6), (1, 8, 3, 5), (2, 6, 7, 4)):
        # of either sign, so that a ReLU before the sum differs from one on the weights
        features = torch.randn(n, k, h, w, generator=g) + 0.5
        # one mean a channel, of either sign, so that some places come out below 0 and some above
        gradient = torch.randn(n, k, h, w, generator=g) + torch.randn(n, k, 1, 1, generator=g)
        a, d = features.double(), gradient.double()

        def weighted(weights: Tensor, maps: Tensor = a) -> Tensor:
            parts = [weights[:, c, None, None] * maps[:, c] for c in range(maps.shape[1])]
            return torch.stack(parts).sum(0)

        alpha = d.sum((2, 3)) / (h * w)
        signed = weighted(alpha)
        want = signed.clamp(min=0)
        got = as_tensor(call(features, gradient), "the map", (n, h, w), _grid_hints(n, k, h, w))
        each = a * alpha[:, :, None, None]
        mistakes = {
            "the ReLU is missing: the map has values below 0": signed,
            "the absolute value is taken; the ReLU sets what is below 0 to 0": signed.abs(),
            "the sign is turned round": (-signed).clamp(min=0),
            "the ReLU comes before the sum: sum the channels first": each.clamp(min=0).sum(1),
            "only positive weights are used; negative ones count too": weighted(alpha.clamp(min=0)).clamp(
                min=0
            ),
            "the gradient is rectified before its mean": weighted(d.clamp(min=0).mean((2, 3))).clamp(min=0),
            "the weights have lost their sign": weighted(alpha.abs()).clamp(min=0),
            f"the gradient is summed over the {h * w} places: take its mean": want * (h * w),
            "the largest gradient of each channel is taken: take its mean": weighted(d.amax((2, 3))).clamp(
                min=0
            ),
            "each place is weighted by its own gradient: take one mean for each channel": (
                (a * d).sum(1).clamp(min=0)
            ),
            "features and gradient are swapped": weighted(a.mean((2, 3)), d).clamp(min=0),
            "the channels are averaged; sum them": want / k,
            "the channels are summed without their weights": a.sum(1),
            "the channels are averaged without their weights": a.mean(1),
            "this is the gradient alone: it weights the features": d.sum(1).clamp(min=0),
            "the features are averaged too: only the gradient is": (
                (alpha * a.mean((2, 3))).sum(1)[:, None, None].expand_as(want).clamp(min=0)
            ),
        }
        if n > 1:
            together = alpha.mean(0, keepdim=True).expand_as(alpha)
            mistakes["the gradient is averaged over the images too; each has its own weights"] = weighted(
                together
            ).clamp(min=0)
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first image was done"] = only
        named_or_scaled(got, want, mistakes)


EXERCISES = {
    "3a": Exercise(
        "class_map(features, weight, c)",
        "multiply each channel of features [N, K, h, w] by its weight in row c of weight [C, K], and sum "
        "over the channels.",
        "the class map agrees with the reference on every batch.",
        _judge_class_map,
    ),
    "3b": Exercise(
        "box(map, threshold)",
        "find the rows and the columns with a pixel of at least threshold times the maximum; the box runs "
        "from the first of each to one past the last.",
        "the box holds every pixel that is high enough, and none more than that takes.",
        _judge_box,
    ),
    "3c": Exercise(
        "grad_cam(features, gradient)",
        "the mean of the gradient over the places is each channel's weight; sum the weighted channels, "
        "and set what is below 0 to 0.",
        "the map agrees with the reference on every batch.",
        _judge_grad_cam,
    ),
}
