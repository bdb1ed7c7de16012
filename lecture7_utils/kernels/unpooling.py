"""Lesson 7: max pooling run backwards, by remembering where each maximum was."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lecture7_utils.kernels.arguments import as_int, describe, require_choice, require_int

OVERLAPS = ("add", "last")
Size = int | Sequence[int]


@dataclass(frozen=True)
class Switches:
    """Where each maximum of a max pooling was. Made by `switches`.

    indices: int64, of the pooled map's shape: the place of the maximum in the map that was pooled, counted
    row by row from 0 (row · width + column), each channel for itself. size: (height, width) of the map that
    was pooled, or (n,) in 1-D.
    """

    indices: Tensor
    size: tuple[int, ...]

    def read(self, x: Tensor) -> Tensor:
        """The values of `x` at the switches, in the pooled map's shape: for the pooled x itself its maxima.

        Raises `TypeError` or `ValueError` if `x` is not of the shape of the map that was pooled.
        """
        shape = (*self.indices.shape[: -len(self.size)], *self.size)
        _require_float(x, "x", f"a float tensor {list(shape)}")
        if x.shape != shape:
            raise ValueError(f"x: expected the shape {list(shape)} of the map pooled, got {describe(x)}")
        axes = len(self.size)
        return x.flatten(-axes).gather(-1, self.indices.flatten(-axes)).view(self.indices.shape)


def switches(
    x: Tensor,
    kernel: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Switches:
    """The switches of a max pooling: for each window, which of its entries is the largest.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv 1311.2901),
    section 2.1, "Unpooling". Of several largest entries it is the first in reading order, as in PyTorch.

    x: float [n] or [N, C, n] for a pooling in 1-D, [h, w] or [N, C, h, w] in 2-D, finite.
    kernel, stride (None for the kernel's size), padding, dilation: an int, or one for each axis; ceil_mode:
    whether a last window may reach over the edge. All as in `torch.nn.functional.max_pool2d`; what is padded
    never is the maximum.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    _require_float(x, "x", "a float tensor [n], [N, C, n], [h, w] or [N, C, h, w]")
    if x.ndim not in (1, 2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"x: expected a float tensor [n], [N, C, n], [h, w] or [N, C, h, w], got {describe(x)}"
        )
    if not torch.isfinite(x).all():
        raise ValueError(f"x: expected finite values, got NaN or infinity in {describe(x)}")
    axes = 1 if x.ndim in (1, 3) else 2
    kernel = _axes(kernel, "kernel", axes, 1)
    stride = kernel if stride is None else _axes(stride, "stride", axes, 1)
    padding = _axes(padding, "padding", axes, 0)
    dilation = _axes(dilation, "dilation", axes, 1)
    require_choice(ceil_mode, "ceil_mode", (False, True))
    size = tuple(x.shape[-axes:])
    for n, k, p, d in zip(size, kernel, padding, dilation, strict=True):
        if 2 * p > k:
            raise ValueError(f"padding: expected at most half of the kernel's {k}, got {p}")
        if n + 2 * p < d * (k - 1) + 1:
            raise ValueError(
                f"kernel: expected a window that fits into {n} + 2 · {p} entries, got {d * (k - 1) + 1}"
            )
    batch = x.detach() if x.ndim > 2 else x.detach()[None, None]
    pool = F.max_pool1d if axes == 1 else F.max_pool2d
    _, indices = pool(batch, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    return Switches(indices if x.ndim > 2 else indices[0, 0], size)


def unpool(y: Tensor, switches: Switches, *, overlap: str = "add") -> Tensor:
    """Unpooling: each entry of y goes back to where the maximum of its window was; all other places get 0.

    Zeiler and Fergus, section 2.1. It undoes a max pooling at the maxima only; what the windows' other
    entries were is lost.

    y: float, of the shape of `switches.indices` and on its device: the pooled map itself, or a signal on its
        way back through the pooling.
    overlap: where windows overlap (AlexNet's 3 × 3 at a stride of 2), one entry may be the maximum of several
        and get several values. "add" sums them: that is the transpose of the pooling, what PyTorch's backward
        pass does and `deconvnet` by default; the pooled map itself does not come back that way, a maximum
        shared by two windows comes back doubled. "last" keeps the value of the window that is last in
        reading order, be it 0: the maxima of the pooled map come back as they were.
        (`torch.nn.functional.max_unpool2d` writes one of the values too, but does not promise which.)
        Without overlap the two are the same.
    Returns a tensor of the size of what was pooled, with the dtype and device of `y`.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(switches, Switches):
        raise TypeError(f"switches: expected what switches(x, …) gives, got {describe(switches)}")
    shape = list(switches.indices.shape)
    _require_float(y, "y", f"a float tensor {shape}")
    if list(y.shape) != shape or y.device != switches.indices.device:
        raise ValueError(
            f"y: expected the shape {shape} of the switches on {switches.indices.device}, "
            f"got {describe(y)} on {y.device}"
        )
    require_choice(overlap, "overlap", OVERLAPS)
    return put_back(y, switches.indices, switches.size, overlap)


def put_back(y: Tensor, indices: Tensor, size: Sequence[int], overlap: str) -> Tensor:
    """As `unpool`, for kernels: without the checks."""
    axes = len(size)
    flat, places = y.flatten(-axes), indices.flatten(-axes)
    blank = flat.new_zeros((*flat.shape[:-1], torch.Size(size).numel()))
    if overlap == "add":
        out = blank.scatter_add(-1, places, flat)
    else:
        # which entry of y comes last is settled by number: a scatter of the values promises no order
        order = torch.arange(flat.shape[-1], device=y.device).expand_as(places)
        last = torch.full(blank.shape, -1, device=y.device)
        last = last.scatter_reduce(-1, places, order, "amax")
        out = torch.where(last >= 0, flat.gather(-1, last.clamp(min=0)), blank)
    return out.view(*y.shape[: y.ndim - axes], *size)


def _require_float(value: object, name: str, expected: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}")


def _axes(value: object, name: str, count: int, low: int) -> tuple[int, ...]:
    """One int for each axis, from an int or a sequence of `count`."""
    expected = "an int" if count == 1 else "an int or a pair of ints"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) != count:
            raise ValueError(f"{name}: expected {expected}, got {describe(value)}")
        return tuple(require_int(as_int(v, name, expected), name, low) for v in value)
    return (require_int(as_int(value, name, expected), name, low),) * count
