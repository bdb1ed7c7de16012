"""The exercises of lesson 6, the convolution as a matrix and its transpose."""

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import Caller, Exercise, Wrong, as_tensor, compare
from lecture7_utils.kernels.arguments import describe


def _rows(w: Tensor, n: int, starts: list[int]) -> Tensor:
    """A row for each start, with the filter from there on; what sticks out is cut off."""
    matrix = torch.zeros(len(starts), n, dtype=w.dtype)
    for row, start in enumerate(starts):
        for k, value in enumerate(w):
            if 0 <= start + k < n:
                matrix[row, start + k] = value
    return matrix


def _judge_matrix(call: Caller, g: torch.Generator) -> None:
    # in the second and the third case the stride does not divide what is left of the input
    for f, n, s in ((4, 12, 2), (3, 10, 3), (5, 12, 4), (2, 6, 1)):
        weight = torch.randn(f, generator=g)
        w = weight.double()
        n_y = (n - f) // s + 1
        want = _rows(w, n, [s * i for i in range(n_y)])
        hints = {
            (n_y + 1, n): "one row too many: the last window would stick out of the input",
            (n_y - 1, n): "the last row is missing",
            (n - f + 1, n): f"a row for every place; rows move on by the stride, {s}",
            (n, n_y): "this is the transpose: a row for each output, a column for each input",
            (n_y, f): f"a row is as long as the input, {n}, with zeros where it is not read",
            (n,): "one row; one for each output is asked for",
            (n_y * n,): "not flattened: a row for each output, a column for each input",
            (n_y,): "this is a y; the matrix itself is asked for",
            (n, n): f"there are {n_y} outputs, not as many as inputs",
            (n_y, n + 2 * (f - 1)): "n is the length with its padding: add none",
        }
        hints.pop((n_y, n), None)
        got = as_tensor(call(weight, n, s), "W", (n_y, n), hints)
        late = n - f - s * (n_y - 1)
        mistakes = {
            "the filter is flipped: PyTorch's convolution takes it as it is, w₁ first": _rows(
                w.flip(0), n, [s * i for i in range(n_y)]
            ),
            f"the rows move on by 1, not by the stride {s}": _rows(w, n, list(range(n_y))),
            f"the rows move on by the filter's size {f}, not by the stride {s}": _rows(
                w, n, [f * i for i in range(n_y)]
            ),
            "the rows move to the left; the first row reads the first entries": want.flip(0),
            f"the first row begins at entry {s}; it begins at 0": _rows(
                w, n, [s * (i + 1) for i in range(n_y)]
            ),
            f"the first row begins at entry {late}: what is left over is left at the end": _rows(
                w, n, [late + s * i for i in range(n_y)]
            ),
            "every row is the same: each has to move on by the stride": want[:1].expand_as(want),
            "there are ones where the weights have to stand": (want != 0).double(),
            "the filter stands in the first row only": torch.cat([want[:1], 0 * want[1:]]),
        }
        compare(got, want, mistakes, ("row", "column"))


def _stamps(y: Tensor, w: Tensor, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of stamps, the stamps laid over each other without adding, and how many lie on each entry."""
    length = s * (len(y) - 1) + len(w)
    total, last, many = (torch.zeros(length, dtype=y.dtype) for _ in range(3))
    for i, entry in enumerate(y):
        for k, value in enumerate(w):
            total[s * i + k] += entry * value
            last[s * i + k] = entry * value
            many[s * i + k] += 1
    return total, last, many


def _judge_sub_pixel(call: Caller, g: torch.Generator) -> None:
    for n, f, s in ((6, 4, 2), (6, 5, 3), (4, 3, 4), (7, 3, 1)):
        y, weight = torch.randn(n, generator=g), torch.randn(f, generator=g)
        a, w = y.double(), weight.double()
        want, last, many = _stamps(a, w, s)
        length = len(want)
        hints = {
            (s * (n - 1) + 2 - f,): f"the {f - 1} zeros before and after are missing",
            (s * (n - 1) + 1,): f"{f - 1} zeros go before the entries and as many after them",
            (n + f - 1,): f"the {s - 1} zeros between the entries of y are missing",
            (s * n + f - 1,): "the zeros go between the entries; there are none behind the last one",
            ((s + 1) * (n - 1) + f,): f"{s} zeros between two entries; s − 1 of them, {s - 1}, are asked for",
            (s * (n - 1) + 2 + f,): f"{f} zeros before and after; f − 1 of them, {f - 1}, are asked for",
            (n,): "x is longer than y",
            ((n - f) // s + 1,): "this is a convolution of y with stride s; Wᵀ y is asked for",
            (-(-length // s),): "the convolution at the end has stride 1",
            (1, 1, length): "take the batch and channel dimensions of conv1d off again",
            (1, length): "take the channel dimension of conv1d off again",
            (length, n): "this is the matrix Wᵀ; its product with y is asked for",
        }
        hints.pop((length,), None)
        got = as_tensor(call(y, weight, s), "x", (length,), hints)
        mistakes = {
            "the filter is not flipped: conv1d takes it as it is, so turn it round first": _stamps(
                a, w.flip(0), s
            )[0],
            "y is turned round; only the filter is": _stamps(a.flip(0), w, s)[0],
            "both are turned round; only the filter is": want.flip(0),
            "where stamps overlap the last one is kept: they add up": last,
            "where stamps overlap their mean is taken: they add up": want / many.clamp_min(1),
        }
        compare(got, want, mistakes, ("entry",))


def _judge_counts(call: Caller, g: torch.Generator) -> None:
    for n, f, s in ((5, 4, 2), (7, 3, 3), (4, 6, 1), (16, 5, 4)):
        # the vector of the trick as it stands there: 1 for an entry of y, 0 for a zero put in
        entries = [0] * (f - 1)
        for i in range(n):
            entries += [1] + [0] * (s - 1 if i < n - 1 else 0)
        entries += [0] * (f - 1)
        places = len(entries) - f + 1
        factors = [entries[j + k] for j in range(places) for k in range(f)]
        want = all_, zeros = len(factors), factors.count(0)
        where = f"multiplications({n}, {f}, {s})"
        got = call(n, f, s)
        if isinstance(got, Tensor | np.ndarray):
            got = got.tolist()
        try:
            first, second = (int(v) if v == int(v) else float(v) for v in got)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"{where}: expected two ints, (all, by zero), got {describe(got)}.") from None
        if (first, second) == want:
            continue
        inner = s * (n - 1) + 1
        names = {
            (zeros, all_): "the two are swapped: all first, then those by zero",
            (all_, all_ - zeros): "the second are the useful ones; those by zero are asked for",
            (
                all_,
                entries.count(0),
            ): "the second counts the zeros in the vector; each is read by several places",
            (len(entries) * f, zeros): "the filter fits into fewer places than the vector has entries",
            (len(entries) * f, len(entries) * f - n * f): (
                "the filter fits into fewer places than the vector has entries"
            ),
            (
                inner * f,
                inner * f - n * f,
            ): "x has f − 1 more places: the zeros before and after y are padding",
            (s * n * f, (s - 1) * n * f): "x has s (n − 1) + f places, not s n",
            (n * f, 0): "these are the useful ones alone; the trick multiplies at every place, zeros too",
            (places, places - n): "each place takes f multiplications",
        }
        name = names.get((first, second))
        if name is None and first != all_:
            name = "all: every place of x takes f multiplications"
        name = name or f"{all_} − {all_ - zeros} by zero: each entry of y meets each weight once"
        raise Wrong(f"{where}: {name} (expected {want}, got {(first, second)}).")


EXERCISES = {
    "6a": Exercise(
        "matrix_of(w, n, s)",
        "start with torch.zeros(n_y, n), n_y = (n − f) // s + 1, and write w into row i from column s · i.",
        "every row has the filter in its place.",
        _judge_matrix,
    ),
    "6b": Exercise(
        "transposed(y, w, s)",
        "zeros between the entries of y, f − 1 zeros before and after, w.flip(0), one conv1d of stride 1.",
        "Wᵀ y, and no matrix was needed.",
        _judge_sub_pixel,
    ),
    "6c": Exercise(
        "multiplications(n, f, s)",
        "x has s (n − 1) + f places with f multiplications each; every entry of y meets every weight once.",
        "both numbers are those of the slow count.",
        _judge_counts,
    ),
}
