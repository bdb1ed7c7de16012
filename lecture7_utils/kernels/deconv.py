"""Lesson 6: a convolution as a matrix W, its transpose, and three ways to apply Wᵀ without the matrix.

One convention in all functions. `weight` is the filter of the *forward* convolution y = W x, in PyTorch's
layout: [f] or [f, f'] for one channel, [D, C/groups, f] or [D, C/groups, f, f'] for C channels of x and D
of y (the layout that `torch.nn.functional.conv_transpose1d` and `conv_transpose2d` want too). A filter
without channels goes with x and y without them, [n] or [h, w]; one with channels with [N, C, n] or
[N, C, h, w].
As in PyTorch the filter slides over x unflipped (a cross-correlation): y_i = sum_k w_k x_(s i + d k - p).

Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016 (arXiv 1603.07285), chapter 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lecture7_utils.kernels.arguments import as_int, describe, require_choice, require_int

Size = int | Sequence[int]

MOST_ENTRIES = 30_000_000  # of a dense matrix: 120 MB in float32


def convolution_matrix(
    weight: Tensor,
    input_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    *,
    dilation: Size = 1,
    groups: int = 1,
    keep_padding: bool = False,
) -> Tensor:
    """The matrix W of a convolution: y.flatten() = W @ x.flatten(). Dense, for looking at.

    weight: float [f], [f, f'], [D, C/groups, f] or [D, C/groups, f, f'].
    input_size: n_x, or (rows, columns); of x without its padding. stride, padding, dilation: an int, or one
    for each axis; padding is in zeros at each end.
    keep_padding: W acts on x with its zeros around it, as in the lecture's notes: n_x + 2 padding columns an
        axis instead of n_x.
    Returns [D · n_y, C · n_x] (without channels D = C = 1; in 2-D the n are products), channels first, then
    rows, then columns, with n_y = floor((n_x + 2 padding - dilation (f - 1) - 1) / stride) + 1 for each axis,
    in the weight's dtype and on its device.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came; `ValueError` too
    where the filter does not fit into the padded input, and for a matrix of more than 30 million entries.
    """
    shape = _Shape.of(weight, stride, padding, dilation, groups)
    sizes = shape.axes(input_size, "input_size", 1)
    require_choice(keep_padding, "keep_padding", (False, True))
    counts_y = []
    for n, f, s, p, d in zip(sizes, shape.f, shape.stride, shape.padding, shape.dilation, strict=True):
        room = n + 2 * p - d * (f - 1) - 1
        if room < 0:
            raise ValueError(
                f"input_size: expected at least {d * (f - 1) + 1} with its padding, as the filter covers so "
                f"many, got {n} and 2 × {p}"
            )
        counts_y.append(room // s + 1)
    columns = [n + 2 * p if keep_padding else n for n, p in zip(sizes, shape.padding, strict=True)]
    inputs = shape.weight.shape[1] * shape.groups
    entries = shape.weight.shape[0] * math.prod(counts_y) * inputs * math.prod(columns)
    if entries > MOST_ENTRIES:
        raise ValueError(
            f"input_size: expected a matrix of at most {MOST_ENTRIES:,} entries, got {entries:,}; "
            "sub_pixel and transposed_convolution need no matrix"
        )
    # for each axis: hits[k, i, j] = 1 where tap k of output i reads input j
    hits = []
    for n_y, n, f, s, p, d in zip(
        counts_y, columns, shape.f, shape.stride, shape.padding, shape.dilation, strict=True
    ):
        k, i, j = torch.arange(f), torch.arange(n_y), torch.arange(n)
        read = s * i[None, :, None] + d * k[:, None, None] - (0 if keep_padding else p)
        hits.append((read == j).to(weight))
    if len(hits) == 1:
        blocks = torch.einsum("gock,kyx->goycx", shape.grouped, hits[0])
    else:
        blocks = torch.einsum("gockl,kyx,lzw->goyzcxw", shape.grouped, *hits)
    height = shape.weight.shape[0] // shape.groups * math.prod(counts_y)
    return torch.block_diag(*blocks.reshape(shape.groups, height, -1))


def transposed_convolution(
    y: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    *,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Wᵀ y without the matrix: each entry of y stamps the filter, times itself, onto x; overlaps add up.

    x_j = sum of w_k y_i over all i, k with s i + d k - p = j: the columns of Wᵀ one after the other. It is
    the gradient of the convolution with respect to its input, and no inverse of it.

    y: float, [n] or [h, w] for a filter without channels, else [N, D, n] or [N, D, h, w].
    weight, stride, padding, dilation, groups: those of the forward convolution, as in `convolution_matrix`.
    output_padding: how much longer x is than the shortest that has this y, less than the larger of stride
        and dilation; a strided convolution does not see those entries where they lie beyond its last window.
    Returns x, without channels or [N, C, …], of n_x = s (n - 1) + d (f - 1) + 1 - 2 padding + output_padding
    an axis; equal to PyTorch's transposed convolution. Differentiable in y and weight.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shape, y = _Shape.for_y(y, weight, stride, padding, output_padding, dilation, groups)
    sizes = y.shape[2:]
    # by groups: [N, G, D/G, …] with the filter [G, D/G, C/G, …]
    entries = y.reshape(len(y), shape.groups, -1, *sizes)
    whole = [
        s * (n - 1) + d * (f - 1) + 1 + extra
        for n, f, s, d, extra in zip(
            sizes, shape.f, shape.stride, shape.dilation, shape.output_padding, strict=True
        )
    ]
    x = y.new_zeros(len(y), shape.groups, shape.grouped.shape[2], *whole)
    for tap in product(*map(range, shape.f)):
        filters = shape.grouped[(..., *tap)]
        stamp = torch.einsum("ngd...,gdc->ngc...", entries, filters)
        place = tuple(
            slice(d * k, d * k + s * (n - 1) + 1, s)
            for k, n, s, d in zip(tap, sizes, shape.stride, shape.dilation, strict=True)
        )
        x[(..., *place)] += stamp
    kept = tuple(slice(p, length - p) for p, length in zip(shape.padding, whole, strict=True))
    return shape.as_given(x[(..., *kept)].reshape(len(y), -1, *shape.n_x(sizes)))


def sub_pixel(
    y: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    *,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Wᵀ y as one ordinary convolution of stride 1: the trick of the lecture's notes.

    stride - 1 zeros go between the entries of y, dilation (f - 1) - padding zeros around them (f - 1 in the
    notes; where that is negative, entries are cut off), and the filter is flipped. It multiplies by the
    zeros: `counts` says how often, `pixel_shuffle_form` does without.

    Arguments, result and errors as in `transposed_convolution`.
    """
    shape, y = _Shape.for_y(y, weight, stride, padding, output_padding, dilation, groups)
    sizes = y.shape[2:]
    spread = y.new_zeros(*y.shape[:2], *(s * (n - 1) + 1 for n, s in zip(sizes, shape.stride, strict=True)))
    spread[(..., *(slice(None, None, s) for s in shape.stride))] = y
    ends = []
    for f, p, d, extra in zip(shape.f, shape.padding, shape.dilation, shape.output_padding, strict=True):
        ends.append((d * (f - 1) - p, d * (f - 1) - p + extra))
    # F.pad counts from the last axis; what is negative cuts off
    padded = F.pad(spread, [v for end in reversed(ends) for v in end])
    return shape.as_given(shape.convolve(padded, shape.swapped.flip(shape.spatial), dilation=shape.dilation))


@dataclass(frozen=True, eq=False)
class PixelShuffleForm:
    """A transposed convolution as one convolution of y itself, whose output channels are then interleaved.

    weight: float [C · s, D/groups, m], in 2-D [C · s · s', D/groups, m, m']: for each channel of x its
    phases (of the rows, then of the columns), ready for an ordinary convolution of stride 1. Phase r has the
    taps r, r + s, r + 2s … of the filter, flipped; m = ceil(f / s), shorter phases begin with a zero. With a
    dilation d, s / gcd(s, d) takes the place of s, and the convolution keeps the dilation d / gcd(s, d).
    Made by `pixel_shuffle_form`; call it with y.
    """

    weight: Tensor
    _shape: "_Shape"

    @property
    def phases(self) -> tuple[int, ...]:
        """How many phases each axis has: the stride, where there is no dilation."""
        return self._shape.phases

    def __call__(self, y: Tensor) -> Tensor:
        """x = Wᵀ y, as `transposed_convolution` gives it.

        Raises `TypeError` or `ValueError` naming y, what was expected and what came.
        """
        shape, y = self._shape, self._shape.with_channels(y)
        sizes = y.shape[2:]
        n_x, spans = shape.n_x(sizes), shape.spans(sizes)
        ends = [
            (reach - low, high - n) for (low, high), n, reach in zip(spans, sizes, shape.reaches, strict=True)
        ]
        padded = F.pad(y, [v for end in reversed(ends) for v in end])
        steps = [d // math.gcd(s, d) for s, d in zip(shape.stride, shape.dilation, strict=True)]
        found = shape.convolve(padded, self.weight, dilation=steps)
        # [N, C, phases …, places …]: value u of phase r belongs at s u + d r - p of x
        found = found.reshape(len(y), -1, *shape.phases, *found.shape[2:])
        x = y.new_zeros(*found.shape[:2], *n_x)
        for phase in product(*map(range, shape.phases)):
            to, at = [], []
            for r, (low, high), s, p, d, length in zip(
                phase, spans, shape.stride, shape.padding, shape.dilation, n_x, strict=True
            ):
                first = max(low, -((d * r - p) // s))  # the negative of a floor is a ceiling
                last = min(high, (length - 1 - d * r + p) // s + 1)
                last = max(first, last)
                begin = s * first + d * r - p
                to.append(slice(begin, begin + s * (last - first), s))
                at.append(slice(first - low, last - low))
            if all(part.stop > part.start for part in at):
                x[(..., *to)] = found[(slice(None), slice(None), *phase, *at)]
        return shape.as_given(x)


def pixel_shuffle_form(
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    *,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> PixelShuffleForm:
    """Cut a filter into the phases that skip the zeros of `sub_pixel`; the result maps y to Wᵀ y.

    Of the taps of the flipped filter only every s-th meets an entry of y, and which ones depends on the place
    modulo s alone. So each of the s phases is an ordinary convolution of y with its own taps, and x
    interleaves their results (`torch.nn.functional.pixel_shuffle`). Shi et al., "Real-Time Single Image and
    Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", 2016 (arXiv
    1609.05158), section 3; and "Is the deconvolution layer the same as a convolutional layer?", 2016 (arXiv
    1609.07009).

    weight and the rest as in `transposed_convolution`. Returns a `PixelShuffleForm`: `form(y)` is x and
    `form.weight` the filters of the phases. Differentiable in weight and y.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shape = _Shape.of(weight, stride, padding, dilation, groups, output_padding)
    filters = shape.swapped
    pad = [m * r - f for f, m, r in zip(shape.f, shape.phases, shape.lengths, strict=True)]
    filters = F.pad(filters, [v for end in reversed(pad) for v in (0, end)])
    # tap k = r + m·phases of an axis becomes (m, r): split each axis, then phases before places
    split = [v for m, r in zip(shape.lengths, shape.phases, strict=True) for v in (m, r)]
    filters = filters.reshape(*filters.shape[:2], *split)
    order = (0, 3, 1, 2) if shape.axes_count == 1 else (0, 3, 5, 1, 2, 4)
    filters = filters.permute(order)
    kept = filters.reshape(-1, filters.shape[shape.axes_count + 1], *shape.lengths)
    return PixelShuffleForm(kept.flip(shape.spatial), shape)


class Counts(NamedTuple):
    """Multiplications of one transposed convolution, for one image, in each of its forms.

    useful: products of a weight and an entry of y that reach x.
    matrix: the dense Wᵀ times y, an entry of the matrix each.
    stamps: `transposed_convolution`; more than useful only where stamps are cut off by the padding.
    sub_pixel: one convolution over y with the zeros in it, all taps at every place.
    pixel_shuffle: the phases, with the zeros around y and those that fill up shorter phases.
    """

    useful: int
    matrix: int
    stamps: int
    sub_pixel: int
    pixel_shuffle: int


def counts(
    weight: Tensor,
    output_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    *,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Counts:
    """How many multiplications each form of Wᵀ y costs for one image, the ones by zero included.

    weight: as in `transposed_convolution`; only its shape counts. output_size: n_y, or (rows, columns) of y,
    the output of the forward convolution. The rest as there.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shape = _Shape.of(weight, stride, padding, dilation, groups, output_padding)
    sizes = shape.axes(output_size, "output_size", 1)
    n_x = shape.n_x(sizes, "output_size")
    # channels are independent of places: D of y times C/groups of x in every form but the dense one
    pairs = shape.weight.shape[0] * shape.weight.shape[1]
    useful = 1
    for n, f, s, p, d, length in zip(
        sizes, shape.f, shape.stride, shape.padding, shape.dilation, n_x, strict=True
    ):
        # entries i of y with 0 <= s i + d k - p < length, for each tap k
        useful *= sum(
            max(0, min(n - 1, (length - 1 - d * k + p) // s) - max(0, -((d * k - p) // s)) + 1)
            for k in range(f)
        )
    spans = [high - low for low, high in shape.spans(sizes)]
    return Counts(
        useful=pairs * useful,
        matrix=pairs * shape.groups * math.prod(sizes) * math.prod(n_x),
        stamps=pairs * math.prod(sizes) * math.prod(shape.f),
        sub_pixel=pairs * math.prod(n_x) * math.prod(shape.f),
        pixel_shuffle=pairs * math.prod(spans) * math.prod(shape.phases) * math.prod(shape.lengths),
    )


@dataclass(frozen=True, eq=False)
class _Shape:
    """The checked arguments of a convolution, one number for each axis; weight with its channels."""

    weight: Tensor
    channels: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls,
        weight: object,
        stride: object,
        padding: object,
        dilation: object,
        groups: object,
        output_padding: object = 0,
    ) -> "_Shape":
        expected = "expected a float tensor [f], [f, f'], [D, C/groups, f] or [D, C/groups, f, f']"
        _require_float(weight, "weight", expected)
        if not 1 <= weight.ndim <= 4 or 0 in weight.shape:
            raise ValueError(f"weight: {expected}, got {describe(weight)}")
        channels = weight.ndim > 2
        filters = weight if channels else weight[None, None]
        count = filters.ndim - 2
        groups = require_int(groups, "groups", 1)
        if len(filters) % groups:
            had = f"{len(filters)} output channels" if channels else "a weight without channels"
            raise ValueError(
                f"groups: expected a divisor of the weight's output channels, got {groups} for {had}"
            )
        made = cls(
            filters,
            channels,
            _axes(stride, "stride", count, 1),
            _axes(padding, "padding", count, 0),
            _axes(output_padding, "output_padding", count, 0),
            _axes(dilation, "dilation", count, 1),
            groups,
        )
        for extra, s, d in zip(made.output_padding, made.stride, made.dilation, strict=True):
            if extra >= max(s, d):
                raise ValueError(
                    f"output_padding: expected less than the larger of stride and dilation, {max(s, d)}, "
                    f"got {extra}"
                )
        return made

    @classmethod
    def for_y(
        cls,
        y: object,
        weight: object,
        stride: object,
        padding: object,
        output_padding: object,
        dilation: object,
        groups: object,
    ) -> "tuple[_Shape, Tensor]":
        shape = cls.of(weight, stride, padding, dilation, groups, output_padding)
        y = shape.with_channels(y)
        shape.n_x(y.shape[2:])
        return shape, y

    def with_channels(self, y: object) -> Tensor:
        """y as [N, D, …], checked against the weight."""
        if self.channels:
            places = "n" if self.axes_count == 1 else "h, w"
            expected = f"expected a float tensor [N, {len(self.weight)}, {places}]"
        else:
            expected = f"expected a float tensor {'[n]' if self.axes_count == 1 else '[h, w]'}"
        expected += " for this weight"
        _require_float(y, "y", expected)
        wanted = self.axes_count + (2 if self.channels else 0)
        if y.ndim != wanted or 0 in y.shape or (self.channels and y.shape[1] != len(self.weight)):
            raise ValueError(f"y: {expected}, got {describe(y)}")
        if y.dtype != self.weight.dtype or y.device != self.weight.device:
            raise ValueError(
                f"y: expected the weight's dtype and device, {_kind(self.weight)}, got {_kind(y)}"
            )
        y = y if self.channels else y[None, None]
        self.n_x(y.shape[2:])
        return y

    def as_given(self, x: Tensor) -> Tensor:
        return x if self.channels else x[0, 0]

    def axes(self, value: object, name: str, low: int) -> tuple[int, ...]:
        return _axes(value, name, self.axes_count, low)

    def n_x(self, sizes: Sequence[int], name: str = "y") -> tuple[int, ...]:
        """The size of x for a y of these sizes."""
        found = tuple(
            s * (n - 1) + d * (f - 1) + 1 - 2 * p + extra
            for n, f, s, p, d, extra in zip(
                sizes, self.f, self.stride, self.padding, self.dilation, self.output_padding, strict=True
            )
        )
        if min(found) < 1:
            raise ValueError(
                f"{name}: expected a size from which padding {list(self.padding)} leaves at least one entry "
                f"of x, got {list(sizes)}"
            )
        return found

    @property
    def axes_count(self) -> int:
        return self.weight.ndim - 2

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(range(2, self.weight.ndim))

    @property
    def f(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    @property
    def phases(self) -> tuple[int, ...]:
        return tuple(s // math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True))

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many taps the longest phase of each axis has."""
        return tuple(-(-f // r) for f, r in zip(self.f, self.phases, strict=True))

    @property
    def reaches(self) -> tuple[int, ...]:
        """How far back in y a phase of each axis looks."""
        return tuple(
            (m - 1) * (d // math.gcd(s, d))
            for m, s, d in zip(self.lengths, self.stride, self.dilation, strict=True)
        )

    def spans(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """For each axis the places [low, high) of the phases that reach x in at least one of them."""
        found = []
        for n, length, s, p, d, r, reach in zip(
            sizes, self.n_x(sizes), self.stride, self.padding, self.dilation, self.phases, self.reaches,
            strict=True,
        ):  # fmt: skip
            low = max(0, -((d * (r - 1) - p) // s))
            high = min(n + reach, (length - 1 + p) // s + 1)
            found.append((low, max(low + 1, high)))
        return found

    @property
    def grouped(self) -> Tensor:
        """The weight as [G, D/G, C/G, …]."""
        return self.weight.reshape(self.groups, -1, *self.weight.shape[1:])

    @property
    def swapped(self) -> Tensor:
        """The weight as [C, D/G, …], for a convolution of y."""
        return self.grouped.transpose(1, 2).reshape(-1, len(self.weight) // self.groups, *self.f)

    def convolve(self, images: Tensor, filters: Tensor, dilation: Sequence[int]) -> Tensor:
        convolution = F.conv1d if self.axes_count == 1 else F.conv2d
        return convolution(images, filters, dilation=tuple(dilation), groups=self.groups)


def _require_float(value: object, name: str, expected: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout != torch.strided:
        raise TypeError(f"{name}: {expected}, got {describe(value)}")


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} on {value.device}"


def _axes(value: object, name: str, count: int, low: int) -> tuple[int, ...]:
    """An int for all axes, or one for each."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) != count:
            plural = "one int" if count == 1 else f"an int or {count} of them"
            raise ValueError(f"{name}: expected {plural} for this weight, got {describe(value)}")
        return tuple(require_int(v, name, low) for v in value)
    whole = as_int(value, name, "an int, or one for each axis")
    return (require_int(whole, name, low),) * count
