"""Lesson 2: what a rectangle in front of the image does to the score, at one place and at all places."""

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    as_colour,
    as_int,
    describe,
    require_choice,
    require_images,
    require_int,
    require_model,
)
from lecture7_utils.kernels.dense import Passes, chunk_size, values_per_copy
from lecture7_utils.kernels.dirty import Differs, DirtyRectangles, NotFaster
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.targets import Target, TargetLike, as_target

KINDS = ("score", "drop")
BASELINES = ("mean", "blur")

Pair = int | tuple[int, int]
Baseline = float | str | Sequence[float] | Tensor


@dataclass(frozen=True, eq=False)
class Occlusion:
    """The target's value with a window occluded, for every position of the window. Made by `occlusion_map`.

    scores: [M, rows, cols], the value of the target with the window at that position; M is the number of
        images, or of targets where one image was given several. In the target's units.
    clean: [M], the value with nothing occluded; NaN for images that an interrupted sweep had not begun.
    rectangles: int [rows, cols, 4], each window as (top, left, bottom, right) in pixels, bottom and right
        excluded.
    size: (height, width) of the images in pixels.
    how: which way the scores were computed, in words.
    complete: False if the sweep was interrupted; the positions not reached are NaN then.
    """

    scores: Tensor
    clean: Tensor
    rectangles: Tensor
    size: tuple[int, int]
    how: str
    complete: bool = True

    @property
    def drops(self) -> Tensor:
        """clean - scores, [M, rows, cols]: how much the target loses when that window is occluded."""
        return self.clean[:, None, None] - self.scores

    def map(self, kind: str = "score") -> Tensor:
        """Back to pixels, [M, H, W]: for each pixel the mean over all windows that cover it.

        kind: "score", the value that is left (low where it matters), or "drop", what is lost (high where
        it matters). A pixel that no window covers (stride beyond window) was never occluded: it has the
        clean value, and a drop of 0. A pixel whose windows were not reached before an interrupt is NaN.
        Raises `ValueError` for another kind.
        """
        require_choice(kind, "kind", KINDS)
        # windows are products of intervals: two small matrices say which covers which row and column
        spans = self.rectangles.cpu()
        down = _covering(spans[:, 0, 0], spans[:, 0, 2], self.size[0])
        across = _covering(spans[0, :, 1], spans[0, :, 3], self.size[1])
        values = (self.scores if kind == "score" else self.drops).cpu().double()
        nothing = self.clean.cpu().double() if kind == "score" else torch.zeros(len(values)).double()
        reached = (~values.isnan()).double()
        total = down.T @ values.nan_to_num(nan=0.0) @ across
        count = down.T @ reached @ across
        covered = (down.sum(0)[:, None] * across.sum(0)) > 0
        mean = torch.where(covered, total / count, nothing[:, None, None])
        return mean.to(self.scores.device, self.scores.dtype)

    def __repr__(self) -> str:
        maps, rows, cols = self.scores.shape
        state = "" if self.complete else ", interrupted"
        return f"Occlusion({maps} × {rows} × {cols} positions{state}; {self.how})"


def occlusion_map(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    *,
    window: Pair,
    stride: Pair,
    baseline: Baseline = 0.0,
    chunk: int | str = "auto",
    progress: bool = False,
) -> Occlusion:
    """Occlusion sensitivity: a window is slid over the image and the target read at each position.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv 1311.2901),
    section 4.2. With x' equal to x outside the window and to the baseline inside, scores = s(x').

    model: any `nn.Module`; images: float [N, 3, H, W]; target: a class index (its pre-softmax score), one
        index for each image, or `class_score`, `class_probability`, `unit` (the network stops at its
        layer). With one image and K targets the same passes give K maps.
    window, stride: in pixels, one number or (height, width), at least 1. The window starts at 0, s, 2s …
        on each axis; the last one is clipped at the border. A window longer than the image gives one
        position on that axis, the whole of it.
    baseline: what stands in the window, in the units of `images`: a number, three (one per channel, as
        `Classifier.colour` gives), "mean" (of each image and channel), "blur" (the image blurred by a
        Gaussian with sigma = shorter side / 16), or an image [1, 3, H, W] or [N, 3, H, W].
    chunk: the most occluded copies in one pass; "auto" takes what suits the device.
    progress: show a bar.
    Returns an `Occlusion`, with the dtype and device of `images`. Where the network can be followed, only
    what the window changes is computed again, else the whole network for every copy (`kernels.dirty`); `how`
    says which and why. Both are exact to rounding: one position of each image is computed both ways, and if
    they differ, the long way is taken, with a warning. One chunk of copies is in memory at a time.
    Interrupted (Ctrl-C, the notebook's stop button), it warns and gives back what it has.
    The model is left as it was. Networks that mix the images of a batch give results that depend on `chunk`.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_model(model)
    require_images(images, model)
    target = as_target(target)
    window, stride = _pair(window, "window"), _pair(stride, "stride")
    limit = None if chunk == "auto" else chunk
    chunk = chunk_size(chunk, images)
    require_choice(progress, "progress", (False, True))
    n, _, *size = images.shape
    with torch.inference_mode(False), torch.no_grad():
        images = images.detach().clone()
        fill = as_baseline(baseline, images).expand(images.shape)
        rows, cols = (_intervals(*axis) for axis in zip(size, window, stride, strict=True))
        rectangles = torch.tensor([[(t, x, b, y) for x, y in cols] for t, b in rows])
        # made outside inference mode, so that they are ordinary tensors afterwards
        per_copy, total = values_per_copy(target, n), n * len(rows) * len(cols)
        scores = images.new_full((total, per_copy), math.nan)
        clean = images.new_empty(n * per_copy)
        sweep = _Sweep(model, images, fill, target, (rows, cols), chunk, limit)
        done, complete = 0, True
        with evaluation(model, images.device), _bar(total, progress) as shown:
            try:
                with torch.inference_mode():
                    for where, values in sweep.batches():
                        scores[where] = values
                        done += len(where)
                        shown.update(len(where))
            except KeyboardInterrupt:
                if not done or sweep.clean is None:
                    raise
                complete = False
                warnings.warn(
                    f"occlusion_map was interrupted after {done} of {total} occluded copies; the scores "
                    "of the rest are NaN",
                    stacklevel=2,
                )
        if sweep.doubt:
            warnings.warn(sweep.doubt, stacklevel=2)
        clean.copy_(sweep.clean)
        scores = (scores.T if n == 1 else scores).reshape(-1, len(rows), len(cols)).contiguous()
        return Occlusion(scores, clean, rectangles.to(images.device), tuple(size), sweep.how, complete)


class _Sweep:
    """The target's values for all positions of the window, image by image.

    clean: [M], the values of the unaltered images, NaN for those not reached yet; None before the first.
    how: the way taken, in words. doubt: what to warn of, if there is anything.
    """

    def __init__(self, model, images: Tensor, fill: Tensor, target: Target, windows: tuple, chunk, limit):
        self._model, self._images, self._fill, self._target = model, images, fill, target
        self._rows, self._cols = windows
        self._chunk, self._limit = chunk, limit
        self.clean: Tensor | None = None
        self.how = self.doubt = ""

    def batches(self) -> Iterator[tuple[range | list[int], Tensor]]:
        """The numbers of some copies, image by image and position by position, and their values."""
        places, n = len(self._rows) * len(self._cols), len(self._images)
        for owner in range(n):
            try:
                for numbers, values in self._dirty(owner):
                    yield [owner * places + number for number in numbers], values
                continue
            except NotFaster as error:
                why = str(error)
                if isinstance(error, Differs):
                    self.doubt = f"occlusion_map took the dense way: {why}"
            # outside the block: the error keeps the tables alive
            yield from self._densely(owner * places, n * places, why)
            return

    def _dirty(self, owner: int) -> Iterator[tuple[list[int], Tensor]]:
        n, one = len(self._images), slice(owner, owner + 1)
        per_copy = values_per_copy(self._target, n)
        found = DirtyRectangles(
            self._model,
            self._images[one],
            self._fill[one],
            self._target,
            self._rows,
            self._cols,
            owner=owner,
            per_copy=per_copy,
            limit=self._limit,
        )
        if self.clean is None:
            self.clean = found.clean.new_full((n * per_copy,), math.nan)
        self.clean[owner * per_copy : (owner + 1) * per_copy] = found.clean.flatten()
        self.how = found.how
        batches = iter(found)
        try:
            first = next(batches)
        except (NotFaster, KeyboardInterrupt):
            raise
        except Exception as error:
            raise Differs(f"dirty rectangles failed ({textwrap.shorten(str(error), 80)})") from error
        yield first
        yield from batches

    def _densely(self, first: int, total: int, why: str) -> Iterator[tuple[range, Tensor]]:
        passes = Passes(self._model, self._images, self._target, self._chunk)
        self.clean = passes.clean
        flat = [(top, left, bottom, right) for top, bottom in self._rows for left, right in self._cols]
        for start in range(first, total, self._chunk):
            where = range(start, min(start + self._chunk, total))
            owners = [i // len(flat) for i in where]
            part = [flat[i % len(flat)] for i in where]
            values = passes(
                lambda o=owners, r=part: _occluded(self._images, self._fill, o, r, passes.layout), owners
            )
            self.how = f"{passes.how}; no dirty rectangles: {why}"
            yield where, values


def _bar(total: int, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="Occlusion", disable=not progress)


def occlude(images: Tensor, rectangles: Sequence | Tensor, baseline: Baseline = 0.0) -> Tensor:
    """Images with a rectangle of the baseline in front: what the network sees at one step of the sweep.

    images: float [N, 3, H, W]. rectangles: (top, left, bottom, right) in pixels, bottom and right excluded,
    one for all images, or one for each (a sequence of N, or an int tensor [N, 4]); with one image, K of
    them give K copies. What lies beyond the lower or right border is clipped. baseline: as in
    `occlusion_map`.
    Returns new images [N, 3, H, W], or [K, 3, H, W]. Raises `TypeError` or `ValueError` naming the
    argument, what was expected and what came.
    """
    require_images(images)
    n, _, height, width = images.shape
    chosen = _rectangles(rectangles, height, width)
    if len(chosen) not in (1, n) and n > 1:
        raise ValueError(f"rectangles: expected one, or one for each of the {n} images, got {len(chosen)}")
    images = images.detach()
    fill = as_baseline(baseline, images).expand(images.shape)
    count = max(n, len(chosen))
    owners = range(n) if n == count else [0] * count
    return _occluded(images, fill, owners, chosen * (count // len(chosen)), torch.contiguous_format)


def as_baseline(baseline: Baseline, images: Tensor) -> Tensor:
    """The baseline as a tensor that expands to the shape of `images`, with their dtype and device.

    baseline: as in `occlusion_map`. Raises `TypeError` or `ValueError` for anything else.
    """
    expected = (
        "baseline: expected a number, one for each channel, 'mean', 'blur' or an image [1, 3, H, W] "
        "or [N, 3, H, W]"
    )
    if isinstance(baseline, str):
        require_choice(baseline, "baseline", BASELINES)
        return images.mean((2, 3), keepdim=True) if baseline == "mean" else _blurred(images)
    if isinstance(baseline, Tensor) and baseline.ndim == 4:
        require_images(baseline, name="baseline")
        if baseline.shape[0] not in (1, images.shape[0]) or baseline.shape[1:] != images.shape[1:]:
            raise ValueError(f"{expected} as large as images {list(images.shape)}, got {describe(baseline)}")
        return baseline.detach().to(images.device, images.dtype)
    numbers = as_colour(baseline, "baseline", expected)
    return torch.tensor(numbers, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)


def _blurred(images: Tensor) -> Tensor:
    """A Gaussian blur of sigma = shorter side / 16, cut at 3 sigma, mirrored at the borders."""
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    shorter = min(images.shape[2:])
    sigma = shorter / 16
    radius = min(math.ceil(3 * sigma), shorter - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=wide.dtype, device=wide.device)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(wide, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel, groups=3)
    return F.conv2d(across, kernel.transpose(2, 3), groups=3).to(images.dtype)


def _occluded(
    images: Tensor, fill: Tensor, owners: Sequence[int], rectangles: list, layout: torch.memory_format
) -> Tensor:
    batch = torch.empty(
        (len(owners), *images.shape[1:]), dtype=images.dtype, device=images.device, memory_format=layout
    )
    if owners[0] == owners[-1]:
        batch.copy_(images[owners[0]].expand_as(batch))
    else:
        batch.copy_(images[list(owners)])
    for copy, owner, (top, left, bottom, right) in zip(batch, owners, rectangles, strict=True):
        copy[:, top:bottom, left:right] = fill[owner, :, top:bottom, left:right]
    return batch


def _pair(value: object, name: str) -> tuple[int, int]:
    expected = "an int or (height, width)"
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name}: expected {expected}, got {describe(value)}")
        height, width = value
    else:
        height = width = value
    return tuple(require_int(as_int(v, name, expected), name, 1) for v in (height, width))


def _intervals(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """The windows of one axis, (start, end) with the end excluded."""
    count = max(0, math.ceil((length - window) / stride)) + 1
    starts = [k * stride for k in range(count) if k * stride < length]
    return [(start, min(start + window, length)) for start in starts]


def _covering(starts: Tensor, ends: Tensor, length: int) -> Tensor:
    """[windows, length]: 1 where the window covers the pixel, else 0."""
    pixels = torch.arange(length)
    return ((pixels >= starts[:, None]) & (pixels < ends[:, None])).double()


def _rectangles(value: object, height: int, width: int) -> list[tuple[int, int, int, int]]:
    expected = "rectangles: expected (top, left, bottom, right) or several of them"
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{expected}, got {describe(value)}")
    if not value:
        raise ValueError(f"{expected}, got an empty sequence")
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in value]
    rows = rows if isinstance(rows[0], Sequence) else [rows]
    clipped = []
    for row in rows:
        if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 4:
            raise ValueError(f"{expected}, got {describe(row)} among them")
        top, left, bottom, right = (as_int(v, "rectangles", "ints") for v in row)
        if not (0 <= top < min(bottom, height) and 0 <= left < min(right, width)):
            raise ValueError(
                f"rectangles: expected 0 <= top < bottom and 0 <= left < right, with a part inside "
                f"{height} × {width} pixels, got {(top, left, bottom, right)}"
            )
        clipped.append((top, left, min(bottom, height), min(right, width)))
    return clipped
