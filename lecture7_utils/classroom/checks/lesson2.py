"""The exercises of lesson 2, occlusion sensitivity."""

import itertools

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    compare,
    few,
    randint,
    small_net,
)
from lecture7_utils.kernels.arguments import describe


def _starts(size: int, window: int, stride: int) -> list[int]:
    """0, s, 2s … up to the first window that reaches the border; counted here one by one."""
    found = [0]
    while found[-1] + window < size:
        found.append(found[-1] + stride)
    return found


def _judge_starts(call: Caller, g: torch.Generator) -> None:
    sizes = [(11, 4, 3), (8, 4, 2), (224, 32, 16), (5, 5, 2), (7, 2, 5), (10, 1, 1)]
    while len(sizes) < 14:
        window, stride = int(randint(g, 1, 9)), int(randint(g, 1, 9))
        size = window + int(randint(g, 0, 30))
        if _starts(size, window, stride)[-1] < size:  # a stride beyond the window may step over the border
            sizes.append((size, window, stride))
    for size, window, stride in sizes:
        got = call(size, window, stride)
        where = f"starts({size}, {window}, {stride})"
        want = _starts(size, window, stride)
        if isinstance(got, Tensor | np.ndarray):
            got = got.tolist()
        if isinstance(got, int) and got == len(want):
            raise Wrong(f"{where}: expected the starts themselves, {want}, got their number, {got}.")
        try:
            got = [int(v) if v == int(v) else v for v in itertools.islice(got, 10_000)]
        except (TypeError, ValueError):
            raise Wrong(f"{where}: expected a list of ints, {want}, got {describe(got)}.") from None
        if got == want:
            continue
        floor = list(range(0, size - window + 1, stride))
        if got == floor:
            why = (
                f"{size - floor[-1] - window} of the last pixels are never covered: round up; "
                "the last window may stick out and is clipped"
            )
        elif got == list(range(0, size, stride)):
            why = "stop at the first window that reaches the border"
        elif got == list(range(0, size - window, stride)):
            why = "the last window is missing"
        elif got == [*floor, size - window]:
            why = "the last window is not moved back: it starts at a multiple of the stride and is clipped"
        elif got[: len(want)] == want:
            why = "too many: stop at the first window that reaches the border"
        elif got and got == want[: len(got)]:
            why = "too few: go on until a window reaches the border"
        elif got == [v + 1 for v in want]:
            why = "pixels count from 0"
        else:
            why = "0, s, 2s … until the window reaches the border"
        raise Wrong(f"{where}: expected {few(want)}, got {few(got)}: {why}.")


def _filled(image: Tensor, top: int, left: int, height: int, width: int, value: Tensor) -> Tensor:
    """The definition, pixel by pixel: what lies in the rectangle has the value's colour."""
    rows, columns = torch.arange(image.shape[1])[:, None], torch.arange(image.shape[2])
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return torch.where(inside, value[:, None, None], image)


def _judge_occlude(call: Caller, g: torch.Generator) -> None:
    for h, w, top, left, window in (
        (9, 9, 2, 4, 3),  # as wide as there are channels: the value broadcasts along the columns, wrongly
        (9, 12, 1, 4, 4),
        (8, 8, 0, 3, 2),
        (9, 7, 6, 2, 5),  # sticks out below
        (6, 9, 1, 7, 4),  # sticks out at the right
    ):
        image = torch.randn(3, h, w, generator=g)
        value = torch.randn(3, generator=g)
        got = call(image, top, left, window, value)
        hints = {
            (3, window, window): "the whole image is asked for, not the square alone",
            (1, 3, h, w): "the image comes and goes as [3, H, W]",
            (h, w): "all three channels are asked for",
        }
        got = as_tensor(got, "the occluded image", (3, h, w), hints)
        x, v = image.double(), value.double()
        want = _filled(x, top, left, window, window, v)
        one = want.clone()
        one[1:] = x[1:]
        along = x.clone()
        if window == 3:
            along[:, top : top + 3, left : left + 3] = v
        blank = torch.zeros_like(v)
        mistakes = {
            "nothing was filled": x,
            "rows and columns are swapped: top is the first row, left the first column": (
                _filled(x, left, top, window, window, v)
            ),
            "only the first channel was filled": one,
            "one colour for all channels: each has its own value": (
                _filled(x, top, left, window, window, v[:1].expand(3))
            ),
            "the mean of the value fills all channels: each has its own": (
                _filled(x, top, left, window, window, v.mean().expand(3))
            ),
            "the square is filled with 0, not with `value`": _filled(x, top, left, window, window, blank),
            "the square is one pixel too large: top to top + window − 1 are inside": (
                _filled(x, top, left, window + 1, window + 1, v)
            ),
            "the square is one pixel too small: row top + window − 1 is still inside": (
                _filled(x, top, left, window - 1, window - 1, v)
            ),
            "the square is moved back inside the image: clip it at the border": (
                _filled(x, min(top, h - window), min(left, w - window), window, window, v)
            ),
            "(top, left) is taken for the square's middle": (
                _filled(x, top - window // 2, left - window // 2, window, window, v)
            ),
            "the value runs along the columns: value[:, None, None] gives one for each channel": along,
            "all but the square is filled": torch.where(want == x, v[:, None, None], x),
        }
        called = f"cover(image [3, {h}, {w}], {top}, {left}, {window}, value)"
        try:
            compare(got, want, mistakes, ("channel", "row", "column"))
        except Wrong as wrong:
            raise Wrong(f"{called}: {wrong}") from None


def _judge_occlusion_scores(call: Caller, g: torch.Generator) -> None:
    for h, w, k, window, stride in ((9, 14, 4, 4, 3), (12, 8, 3, 5, 4), (7, 11, 5, 3, 2)):
        net, twin = small_net(g, k)
        image, value = torch.randn(3, h, w, generator=g), torch.randn(3, generator=g)
        x, v = image.double(), value.double()
        tops, lefts = _starts(h, window, stride), _starts(w, window, stride)
        rows, columns = len(tops), len(lefts)
        with torch.no_grad():
            whole = twin(x[None])
            c = int((whole[0].argmax() + 1) % k)
            scores = torch.stack(
                [
                    torch.cat([twin(_filled(x, t, left, window, window, v)[None]) for left in lefts])
                    for t in tops
                ]
            )
            black = torch.stack(
                [
                    torch.cat([twin(_filled(x, t, left, window, window, 0 * v)[None]) for left in lefts])
                    for t in tops
                ]
            )
        want = scores[:, :, c]
        got = call(net, image, c, window, stride, value)
        if isinstance(got, list | tuple):
            try:
                got = torch.tensor([[float(score) for score in row] for row in got])
            except (TypeError, ValueError, RuntimeError):
                raise Wrong(
                    f"expected a tensor [{rows}, {columns}] of scores, got {describe(got)}."
                ) from None
        fewer = "the last window, which sticks out and is clipped, is missing"
        hints = {
            (rows - 1, columns - 1): fewer,
            (rows - 1, columns): fewer,
            (rows, columns - 1): fewer,
            (columns, rows): "rows and columns are swapped",
            (rows * columns,): f"arrange the {rows} × {columns} positions as a grid",
            (rows, columns, k): f"these are the scores of all classes; that of class {c} is asked for",
            (rows, columns, 1): "without the last dimension",
            (h, w): "one score for each position of the window is asked for, not for each pixel",
        }
        got = as_tensor(
            got, f"scores, one for each of the {rows} × {columns} positions", (rows, columns), hints
        )
        mistakes = {
            "these are probabilities, after the softmax; the score before it is asked for": (
                scores.softmax(2)[:, :, c]
            ),
            "the score of the whole image was subtracted: the occluded score itself is asked for": (
                want - whole[0, c]
            ),
            "these are the drops s(x) − s(occluded): the occluded score itself is asked for": (
                whole[0, c] - want
            ),
            "this is the winning class's score; that of class c is asked for": scores.amax(2),
            "every position gives the whole image's score: the occluded copy is not what the model saw": (
                whole[0, c].expand(rows, columns)
            ),
            "the square is filled with 0, not with `value`": black[:, :, c],
        }
        called = f"occlusion_scores(model, image [3, {h}, {w}], {c}, {window}, {stride}, value)"
        # a copy that is never restored: the rectangles add up
        kept, marked = x.clone(), torch.zeros_like(want)
        with torch.no_grad():
            for a, t in enumerate(tops):
                for b, left in enumerate(lefts):
                    kept = _filled(kept, t, left, window, window, v)
                    marked[a, b] = twin(kept[None])[0, c]
        mistakes["the rectangles add up: begin with a fresh copy of the image at each position"] = marked
        try:
            compare(got, want, mistakes, ("row", "column"))
        except Wrong as wrong:
            raise Wrong(f"{called}: {wrong}") from None


EXERCISES = {
    "2a": Exercise(
        "starts(size, window, stride)",
        "list 0, stride, 2 · stride … until the window reaches the border; the last one may stick out.",
        "every pixel is covered and no window is one too many.",
        _judge_starts,
    ),
    "2b": Exercise(
        "cover(image, top, left, window, value)",
        "clone the image [3, H, W] and fill rows top to top + window, columns left to left + window.",
        "the right pixels have the right colour, and the image is as it was.",
        _judge_occlude,
    ),
    "2c": Exercise(
        "occlusion_scores(model, image, c, window, stride, value)",
        "for every start of a row and of a column, occlude a copy and write down the score of class c.",
        "the grid of scores agrees with the reference on every image.",
        _judge_occlusion_scores,
    ),
}
