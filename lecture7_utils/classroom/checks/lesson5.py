"""The exercises of lesson 5, the search of a data set."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    close,
    compare,
    few,
    randint,
)
from lecture7_utils.kernels.arguments import describe


def _parts(got: object, names: Sequence[str]) -> list:
    """The answer as so many results."""
    if not isinstance(got, tuple | list) or len(got) != len(names):
        what = f"{len(got)} results" if isinstance(got, tuple | list) else describe(got)
        raise Wrong(f"expected {len(names)} results, {', '.join(names)}, got {what}.")
    return list(got)


# ---- 5a: the strongest place of each channel


def _judge_strongest(call: Caller, g: torch.Generator) -> None:
    for n, c, h, w in ((3, 5, 4, 7), (1, 6, 8, 3), (4, 2, 5, 6)):
        features = torch.randn(n, c, h, w, generator=g) - 0.5
        # a large negative value everywhere: not what excites a channel
        features[:, :, h - 1, 0] = -9.0
        values, rows, columns = (
            as_tensor(part, what, (n, c), _strongest_hints(n, c, h, w))
            for part, what in zip(
                _parts(call(features), ("values", "rows", "columns")),
                ("values", "rows", "columns"),
                strict=True,
            )
        )
        f = features.double()
        want = torch.empty(n, c, 3, dtype=torch.float64)
        for a in range(n):
            for b in range(c):
                places = [(float(f[a, b, i, j]), i, j) for i in range(h) for j in range(w)]
                want[a, b] = torch.tensor(max(places), dtype=torch.float64)
        flat = f.flatten(2)
        mistakes = {
            "the mean of each map is given; its largest value is asked for": flat.mean(2),
            "the sum of each map is given; its largest value is asked for": flat.sum(2),
            "the absolute values are compared: a large negative value doesn't excite a channel": (
                flat.abs().amax(2)
            ),
            "the smallest value is given": flat.amin(2),
            "the value in the middle of the map is given; look at all places": f[:, :, h // 2, w // 2],
            "the norm of each map is given": flat.norm(dim=2),
        }
        compare(values, want[:, :, 0], mistakes, ("image", "channel"))
        if close(rows, want[:, :, 2]) and close(columns, want[:, :, 1]):
            raise Wrong("rows and columns are swapped: first the row, then the column.")
        place = want[:, :, 1] * w + want[:, :, 2]
        compare(
            rows,
            want[:, :, 1],
            {
                "this is the place in the flattened map: its row is place // w": place,
                f"the place in the flattened map is divided by the {h} rows, not by the {w} columns": place
                // h,
                "rows are counted from 1": want[:, :, 1] + 1,
                "the row of the smallest value": (flat.argmin(2) // w).double(),
                "this is the place along the columns": want[:, :, 2],
            },
            ("image", "channel"),
        )
        compare(
            columns,
            want[:, :, 2],
            {
                "this is the place in the flattened map: its column is place % w": place,
                f"the remainder is taken by the {h} rows, not by the {w} columns": place % h,
                "columns are counted from 1": want[:, :, 2] + 1,
            },
            ("image", "channel"),
        )


def _strongest_hints(n: int, c: int, h: int, w: int) -> dict[tuple, str]:
    return {
        (c,): "the batch dimension is missing, or the maximum was taken over the images too",
        (n,): "one value an image; one for each channel is asked for",
        (n, h, w): "the maximum was taken over the channels; over the places is asked for",
        (n, c, h): "the maximum was taken along the columns only",
        (n, c, w): "the maximum was taken along the rows only",
        (n, c, 1): "without the last dimension, so no keepdim",
        (n, c, 1, 1): "without the last two dimensions, so no keepdim",
        (n, c, h * w): "the maximum is not taken yet",
        (c, n): "images and channels are swapped",
    }


# ---- 5b: a batch into the best so far


def _best_of(values: Tensor, images: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row, one by one."""
    chosen = torch.empty(len(values), k, dtype=torch.float64)
    which = torch.empty(len(values), k, dtype=torch.float64)
    for c, (row, numbers) in enumerate(zip(values.tolist(), images.tolist(), strict=True)):
        order = sorted(range(len(row)), key=lambda m: -row[m])[:k]
        chosen[c] = torch.tensor([row[m] for m in order])
        which[c] = torch.tensor([float(numbers[m]) for m in order])
    return chosen, which


def _judge_update(call: Caller, g: torch.Generator) -> None:
    for c, k, n, first in ((4, 3, 6, 20), (2, 5, 3, 7), (6, 1, 8, 64)):
        # all values differ, so that the order is one only
        drawn = torch.randperm(c * (k + n), generator=g).float() * 0.25 - 3
        old, fresh = drawn[: c * k].view(c, k).sort(1, descending=True).values, drawn[c * k :].view(n, c)
        images = torch.stack([torch.randperm(first, generator=g)[:k] for _ in range(c)])
        # of each channel the last of the old is below the first of the new, so that something changes
        fresh[0] = torch.maximum(fresh[0], old[:, -1] + 0.125)
        got_values, got_images = _parts(call(old, images, fresh, first), ("values", "images"))
        got_values = as_tensor(got_values, "values", (c, k), _update_hints(c, k, n))
        got_images = as_tensor(got_images, "numbers of images", (c, k), _update_hints(c, k, n))
        o, f = old.double(), fresh.double().T
        numbers = torch.arange(first, first + n).expand(c, n)
        both, both_images = torch.cat([o, f], 1), torch.cat([images, numbers], 1)
        want, which = _best_of(both, both_images, k)
        one_list = both.flatten().sort(descending=True).values[:k].expand(c, k)

        compare(
            got_values,
            want,
            {
                "the lowest are kept; the highest are asked for": -_best_of(-both, both_images, k)[0],
                "the values are right, but in rising order: the highest first": want.flip(1),
                "the best so far are forgotten: only the batch is left": _padded(f, numbers, k),
                "the batch is not used: these are the old values": o,
                "each old value is replaced by the batch's value in its place": _placewise(o, f, k),
                "all channels share one list; each has its own": one_list,
            },
            ("channel", "place"),
        )
        compare(
            got_images,
            which,
            {
                f"the batch's images are numbered from 0: the first of them is number {first}": (
                    _numbered(o, images, f, 0, k)
                ),
                "these are the places in old and new put together, not the numbers of the images": _best_of(
                    both, torch.arange(k + n).expand(c, k + n), k
                )[1],
                "the numbers are those of before: they move with their values": images.double(),
                "the batch's images are numbered from 1": _numbered(o, images, f, first + 1, k),
            },
            ("channel", "place"),
        )


def _padded(fresh: Tensor, numbers: Tensor, k: int) -> Tensor:
    """The k highest of the batch alone; no answer where it holds fewer."""
    if fresh.shape[1] < k:
        return torch.full((len(fresh), k), torch.nan, dtype=torch.float64)
    return _best_of(fresh, numbers, k)[0]


def _placewise(old: Tensor, fresh: Tensor, k: int) -> Tensor:
    m = min(k, fresh.shape[1])
    return torch.cat([torch.maximum(old[:, :m], fresh[:, :m]), old[:, m:]], 1)


def _numbered(old: Tensor, images: Tensor, fresh: Tensor, start: int, k: int) -> Tensor:
    n = fresh.shape[1]
    numbers = torch.arange(start, start + n).expand(len(old), n)
    return _best_of(torch.cat([old, fresh], 1), torch.cat([images, numbers], 1), k)[1]


def _update_hints(c: int, k: int, n: int) -> dict[tuple, str]:
    return {
        (k, c): "channels and places are swapped: one row for each channel",
        (c, k + n): f"only the {k} highest of them are asked for",
        (k,): "one list for each channel is asked for, not one for all",
        (c, n): "these are the batch's values; the best so far and the batch together are asked for",
        (n, c): "these are the batch's values; the best so far and the batch together are asked for",
    }


# ---- 5c: the receptive field


def _field(steps: Sequence[tuple[int, int, int]], i: int, size: int) -> list[int]:
    """By marking: which pixels lead to place i, from one layer to the layer before."""
    seen = {i}
    for kernel, stride, padding in reversed(steps):
        seen = {place * stride - padding + tap for place in seen for tap in range(kernel)}
    inside = [p for p in seen if 0 <= p < size]
    return [min(inside), max(inside) + 1]


def _unclipped(
    steps: Sequence[tuple[int, int, int]], i: int, change: Callable[..., tuple[int, int]]
) -> list[int]:
    """The same by the formula for first and last place, with a mistake in each step."""
    first = last = i
    for step in reversed(steps):
        first, last = change(first, last, *step)
    return [first, last + 1]


def _judge_field(call: Caller, g: torch.Generator) -> None:
    cases = [
        ([(3, 1, 1), (2, 2, 0), (3, 1, 1), (2, 2, 0)], 40),
        ([(5, 2, 2), (3, 1, 1), (3, 2, 0)], 61),
        ([(7, 2, 3), (3, 2, 1), (3, 1, 1), (1, 1, 0)], 90),
        ([(4, 3, 0)], 31),
    ]
    for steps, size in cases:
        length = size
        for kernel, stride, padding in steps:
            length = (length + 2 * padding - kernel) // stride + 1
        middle = int(randint(g, length // 3, max(length // 3 + 1, 2 * length // 3)))
        for i in (middle, 0, length - 1):
            _judge_one_field(call(list(steps), i, size), steps, i, size)


def _judge_one_field(got: object, steps: Sequence[tuple[int, int, int]], i: int, size: int) -> None:
    want = _field(steps, i, size)
    where = f"receptive_field({list(steps)}, {i}, {size})"
    if isinstance(got, Tensor | np.ndarray):
        got = got.tolist()
    try:
        got = [int(v) if v == int(v) else float(v) for v in got]
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{where}: expected two numbers (start, stop), got {describe(got)}.") from None
    if len(got) != 2:
        raise Wrong(f"{where}: expected two numbers (start, stop), got {len(got)}: {few(got)}.")
    if got == want:
        return

    def clipped(pair: Sequence[int]) -> list[int]:
        return [max(0, pair[0]), min(size, pair[1])]

    def right(first, last, k, s, p):
        return first * s - p, last * s - p + k - 1

    whole = _unclipped(steps, i, right)
    span = whole[1] - whole[0]
    wrong: Mapping[str, list[int]] = {
        f"it reaches over the border: clip it to 0 and {size}": whole,
        "stop is one past the last pixel": [want[0], want[1] - 1],
        "the padding is forgotten: place i begins at pixel i · stride − padding": (
            _unclipped(steps, i, lambda a, b, k, s, p: (a * s, b * s + k - 1))
        ),
        "the padding is added: it shifts the field to the left": (
            _unclipped(steps, i, lambda a, b, k, s, p: (a * s + p, b * s + p + k - 1))
        ),
        "the strides are forgotten: the last place begins at pixel last · stride − padding": (
            _unclipped(steps, i, lambda a, b, k, s, p: (a - p, b - p + k - 1))
        ),
        "the steps are taken in the order of the network: go back from the last one": (
            _unclipped(steps[::-1], i, right)
        ),
        "one pixel too many in each step: a kernel of k reaches k − 1 further": (
            _unclipped(steps, i, lambda a, b, k, s, p: (a * s - p, b * s - p + k))
        ),
        "only the last step is used": _unclipped(steps[-1:], i, right),
        "only the first step is used": _unclipped(steps[:1], i, right),
        "this is the start and the width; start and stop are asked for": [want[0], want[1] - want[0]],
        "the field is centred on pixel i · strides: count its start from the padding": (
            _centred(steps, i, span)
        ),
    }
    for name, value in wrong.items():
        if got in (value, clipped(value)):
            raise Wrong(f"{where}: expected {tuple(want)}, got {tuple(got)}: {name}.")
    raise Wrong(f"{where}: expected {tuple(want)}, got {tuple(got)}.")


def _centred(steps: Sequence[tuple[int, int, int]], i: int, span: int) -> list[int]:
    jump = 1
    for _, stride, _ in steps:
        jump *= stride
    start = i * jump - span // 2
    return [start, start + span]


EXERCISES = {
    "5a": Exercise(
        "strongest_place(features)",
        "flatten the places of features [N, C, h, w] into one dimension and take max over it: it gives "
        "values and places; row and column are place // w and place % w.",
        "value, row and column agree with the reference on every batch.",
        _judge_strongest,
    ),
    "5b": Exercise(
        "update(values, images, batch, first)",
        "put values [C, k] and the transposed batch [N, C] side by side, images [C, k] and the numbers "
        "first, first + 1 … too; topk tells which k to keep.",
        "the best so far are right after every batch, and so are their images.",
        _judge_update,
    ),
    "5c": Exercise(
        "receptive_field(steps, i, size)",
        "go back from the last step: the places a to b of its output see the places a · stride − padding to "
        "b · stride − padding + kernel − 1 of its input; at the end clip to the image.",
        "the field is right in the middle and at both borders.",
        _judge_field,
    ),
}
