"""Is the map right? Numbers for a map against a mask, two masks or boxes, a map against the network."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    describe,
    require_choice,
    require_images,
    require_int,
    require_map,
    require_model,
    require_number,
)
from lecture7_utils.kernels.dense import Passes, bar, chunk_size
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.occlusion import Baseline, as_baseline
from lecture7_utils.kernels.targets import TargetLike, as_target, target_count


def share_inside(map: Tensor, mask: Tensor) -> Tensor:
    """The share of a map's mass that lies inside a mask: [N], 0 to 1.

    Wang et al., "Score-CAM", CVPR Workshops 2020 (arXiv 1910.01279), section 4.3, the energy-based pointing
    game: sum of the map inside / sum of the map. The mass is the positive part: negative values count 0.

    map: float [N, H, W]; mask: bool [N, H, W] on the map's device. An even map scores the mask's share of
    the area. NaN for a map without any positive value. The result has the map's dtype.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_map(map, "map")
    _require_mask(mask, "mask", map)
    mass = _wide(map.detach().clamp(min=0))
    inside = (mass * mask).sum((1, 2))
    return (inside / mass.sum((1, 2))).to(map.dtype)


def pointing_game(map: Tensor, mask: Tensor, tolerance: float = 15) -> Tensor:
    """Whether the map's highest point hits the mask, or lies within `tolerance` pixels of it: bool [N].

    Zhang, Lin, Brandt, Shen, Sclaroff, "Top-down Neural Attention by Excitation Backprop", ECCV 2016 (arXiv
    1608.00507), section 4.1, with its 15 pixels. The distance is the Euclidean one between the centres of
    pixels, so that the mask is in effect dilated by a disc.

    map: float [N, H, W]; of several highest points the first in reading order counts. mask: bool [N, H, W]
    on the map's device; an empty one is never hit. tolerance: in pixels, at least 0.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_map(map, "map")
    _require_mask(mask, "mask", map)
    tolerance = require_number(tolerance, "tolerance", 0)
    _, height, width = map.shape
    point = map.detach().flatten(1).argmax(1)
    down = torch.arange(height, device=map.device) - (point // width)[:, None]
    across = torch.arange(width, device=map.device) - (point % width)[:, None]
    # integers: exact
    squared = down[:, :, None] ** 2 + across[:, None, :] ** 2
    return (mask & (squared <= math.floor(tolerance**2))).flatten(1).any(1)


def iou(mask_a: Tensor, mask_b: Tensor) -> Tensor:
    """Intersection over union of two masks, image by image: float [N], 0 to 1.

    mask_a, mask_b: bool [N, H, W] on one device. NaN where both are empty.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    _require_mask(mask_a, "mask_a")
    _require_mask(mask_b, "mask_b", mask_a)
    both = (mask_a & mask_b).sum((1, 2))
    return both / (mask_a | mask_b).sum((1, 2))


def boundary_error(mask: Tensor, truth: Tensor, distance: float = 2) -> Tensor:
    """The share of wrong pixels among those near the true boundary, image by image: float [N], 0 to 1.

    The trimap of Kohli, Ladický, Torr, "Robust higher order potentials for enforcing label consistency",
    IJCV 2009, section 5.3: a mask's area hides its outline, so that only a narrow band on either side of the
    outline is judged. A pixel is in the band if a pixel of the other kind (mask or background, by the
    truth) lies within `distance` of it, from centre to centre. What is outside the picture is neither.

    mask, truth: bool [N, H, W] on one device. distance: in pixels, at least 1; 1 takes the pixels that touch
    the outline with a side. NaN where the truth has no outline: all mask or all background.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    _require_mask(truth, "truth")
    _require_mask(mask, "mask", truth)
    distance = require_number(distance, "distance", 1)
    _, height, width = truth.shape
    band = torch.zeros_like(truth)
    reach = math.floor(distance)
    for down in range(min(reach, height - 1) + 1):
        for across in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            # half of the offsets: each pair of pixels is met once, and marks both
            if (down, across) <= (0, 0) or down**2 + across**2 > distance**2:
                continue
            left, right = max(across, 0), min(width + across, width)
            one = truth[:, : height - down, left - across : right - across]
            other = truth[:, down:, left:right]
            differ = one != other
            band[:, : height - down, left - across : right - across] |= differ
            band[:, down:, left:right] |= differ
    wrong = (band & (mask != truth)).sum((1, 2))
    return wrong / band.sum((1, 2))


def box_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of two boxes, row by row: float [N], 0 to 1.

    boxes_a, boxes_b: [N, 4] as (x1, y1, x2, y2), x2 and y2 excluded, in any unit, on one device; [1, 4]
    stands for one box against all of the other's. An empty box, as `largest_box` gives where there is
    none, scores 0 against any other; NaN where both are empty.
    Raises `TypeError` for no real numbers, `ValueError` for a wrong shape, a value that is not finite, a
    box that ends before it starts or lengths that differ.
    """
    _require_boxes(boxes_a, "boxes_a")
    _require_boxes(boxes_b, "boxes_b")
    if boxes_a.device != boxes_b.device:
        raise ValueError(f"boxes_b: expected on the device {boxes_a.device}, got {boxes_b.device}")
    if boxes_a.shape[0] != boxes_b.shape[0] and 1 not in (boxes_a.shape[0], boxes_b.shape[0]):
        raise ValueError(f"boxes_b: expected {boxes_a.shape[0]} boxes or one, got {boxes_b.shape[0]}")
    kind = torch.promote_types(boxes_a.dtype, boxes_b.dtype)
    kind = kind if kind.is_floating_point else torch.get_default_dtype()
    a, b = boxes_a.to(kind), boxes_b.to(kind)
    start, end = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (end - start).clamp(min=0).prod(1)
    return both / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both)


def localisation_accuracy(boxes: Tensor, truth: Tensor, threshold: float = 0.5) -> float:
    """The share of boxes whose IoU with their true box is at least `threshold`: 0 to 1.

    The criterion of PASCAL VOC (Everingham et al., IJCV 2010, section 4.2) for one object in each picture.

    boxes, truth: [N, 4] as in `box_iou`, row by row; [1, 4] in `boxes` is one answer for all pictures. A box
    without area counts as wrong. threshold: above 0, at most 1. IoUs are computed in float64.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    _require_boxes(boxes, "boxes")
    _require_true_boxes(truth, "truth")
    threshold = _share_above_0(threshold, "threshold")
    if boxes.device != truth.device:
        raise ValueError(f"boxes: expected on the device {truth.device} of truth, got {boxes.device}")
    if len(boxes) not in (1, len(truth)):
        raise ValueError(
            f"boxes: expected {len(truth)} boxes, one for each of truth, or one, got {len(boxes)}"
        )
    return (box_iou(boxes.double(), truth.double()) >= threshold).double().mean().item()


def best_constant_box(
    truth: Tensor, size: int | tuple[int, int], *, threshold: float = 0.5, step: int = 2
) -> Tensor:
    """The one box that is right for the most pictures: what an answer gets that does not look at them.

    Of all boxes whose corners lie on a grid of lines `step` pixels apart, from 0 on, with the border of the
    picture as the last line, the one with IoU >= threshold to the most of `truth`. Of several such the one
    with the highest mean IoU, and of those the first by (x1, x2, y1, y2). It is chosen with the truth at
    hand, so it is a bound: no constant answer on that grid does better on these pictures.

    truth: [N, 4], the true boxes as in `box_iou`, each with an area. size: side of the pictures in pixels,
    or (height, width). threshold: above 0, at most 1. step: at least 1.
    Returns float32 [1, 4] on the device of `truth`: one box against all in `box_iou` and
    `localisation_accuracy`, which says how many it reaches. The search is exact: it leaves out only what
    can not win. About 0.2 s for 500 boxes at 96 × 96; 4 s with step=1.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    _require_true_boxes(truth, "truth")
    height, width = _as_size(size)
    threshold = _share_above_0(threshold, "threshold")
    step = require_int(step, "step", 1)
    boxes = truth.detach().double()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    columns, rows = _intervals(width, step, boxes), _intervals(height, step, boxes)
    both_x, both_y = _overlap(columns, boxes[:, 0::2]), _overlap(rows, boxes[:, 1::2])
    length_x, length_y = columns[:, 1] - columns[:, 0], rows[:, 1] - rows[:, 0]
    # a box's IoU is at most that of its sides: a pair of intervals can be right where both sides can be
    near_x = _can_reach(both_x, length_x, boxes[:, 2] - boxes[:, 0], threshold)
    near_y = _can_reach(both_y, length_y, boxes[:, 3] - boxes[:, 1], threshold).float()
    reachable = near_x.sum(1)
    most, mean, best = -1, -1.0, (0, 0)
    for i in reachable.argsort(descending=True, stable=True).tolist():
        if reachable[i] < most:
            break
        j = (near_y @ near_x[i].float() >= most).nonzero()[:, 0]
        ious = _ious(both_x[i] * both_y[j], length_x[i] * length_y[j, None], areas)
        counts = (ious >= threshold).sum(1)
        if not len(j) or counts.max() < most:
            continue
        means = torch.where(counts == counts.max(), ious.mean(1), -1)
        found = int(counts.max()), means.max().item(), (i, int(j[means.argmax()]))
        better = found[:2] > (most, mean) or (found[:2] == (most, mean) and found[2] < best)
        if better:
            most, mean, best = found
    x, y = columns[best[0]], rows[best[1]]
    return torch.stack([x[0], y[0], x[1], y[1]])[None].float()


def _can_reach(both: Tensor, lengths: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Whether each of K intervals and each of N others have an IoU of `threshold`, give or take: [K, N]."""
    # a hair of room: the bound is rounded, too
    return _ious(both, lengths[:, None], others) >= threshold * (1 - 1e-9)


def _ious(both: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return both / (a + b - both)


def _intervals(length: int, step: int, like: Tensor) -> Tensor:
    """All (start, end) on the lines of a grid along one side: [K, 2]."""
    lines = sorted({*range(0, length, step), length})
    pairs = torch.combinations(torch.arange(len(lines)))
    return torch.tensor(lines)[pairs].to(like)


def _overlap(intervals: Tensor, others: Tensor) -> Tensor:
    """The length that each of [K, 2] shares with each of [N, 2]: [K, N]."""
    start = torch.maximum(intervals[:, None, 0], others[:, 0])
    return (torch.minimum(intervals[:, None, 1], others[:, 1]) - start).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Curve:
    """The target's value against the share of pixels changed. Made by `deletion_curve`, `insertion_curve`.

    fractions: [S + 1], the share of pixels deleted or inserted, from 0 to 1.
    values: [N, S + 1], the target's value at each.
    area: [N], the area under the curve by the trapezoid rule, in the target's units.
    complete: False if it was interrupted; values not reached, and areas that need them, are NaN then.
    """

    fractions: Tensor
    values: Tensor
    area: Tensor
    complete: bool = True

    def __repr__(self) -> str:
        n, steps = self.values.shape
        state = "" if self.complete else ", interrupted"
        return f"Curve({n} images, {steps - 1} steps, mean area {self.area.mean():.4g}{state})"


def deletion_curve(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    map: Tensor,
    *,
    steps: int = 32,
    baseline: Baseline = 0.0,
    chunk: int | str = "auto",
    progress: bool = False,
) -> Curve:
    """How fast the target falls when the pixels that the map ranks highest are deleted first.

    Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018
    (arXiv 1806.07421), section 4.3: a good map gives a small area. The paper takes probabilities: say
    `class_probability(k)`.

    model: any `nn.Module`; images: float [N, 3, H, W]; target: a class index (its pre-softmax score), one
    index for each image, or `class_score`, `class_probability`, `unit`.
    map: float [N, H, W]; pixels with equal values go in reading order.
    steps: S, 1 to H × W; after step k the first round(k H W / S) pixels are the baseline.
    baseline: what stands for a deleted pixel, as in `occlusion_map`; the paper takes 0.
    chunk: changed copies in one pass, as in `occlusion_map`. progress: show a bar.
    Returns a `Curve` with the dtype and device of `images`. Interrupted, it warns and gives back what it
    has. The model is left as it was.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    return _curve(model, images, target, map, steps, baseline, chunk, progress, insert=False)


def insertion_curve(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    map: Tensor,
    *,
    steps: int = 32,
    baseline: Baseline = "blur",
    chunk: int | str = "auto",
    progress: bool = False,
) -> Curve:
    """How fast the target rises when the pixels that the map ranks highest come into the baseline first.

    As `deletion_curve`, with the roles of image and baseline exchanged: a good map gives a large area. The
    paper starts from the blurred image, as a sharp border looks like something of its own.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    return _curve(model, images, target, map, steps, baseline, chunk, progress, insert=True)


def _curve(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    map: Tensor,
    steps: int,
    baseline: Baseline,
    chunk: int | str,
    progress: bool,
    *,
    insert: bool,
) -> Curve:
    require_model(model)
    require_images(images, model)
    target = as_target(target)
    n, _, height, width = images.shape
    require_map(map, "map")
    if map.shape != images[:, 0].shape:
        raise ValueError(f"map: expected the shape {[n, height, width]} of images, got {describe(map)}")
    if map.device != images.device:
        raise ValueError(f"map: expected on the device {images.device} of images, got {map.device}")
    if target_count(target) not in (None, n):
        raise ValueError(f"target: expected one for each of the {n} images, got {target_count(target)}")
    steps = require_int(steps, "steps", 1, height * width)
    chunk = chunk_size(chunk, images)
    require_choice(progress, "progress", (False, True))

    name = "insertion_curve" if insert else "deletion_curve"
    pixels, total = height * width, n * (steps + 1)
    with torch.inference_mode(False), torch.no_grad():
        images = images.detach().clone()
        fill = as_baseline(baseline, images).expand(images.shape)
        before, after = (fill, images) if insert else (images, fill)
        order = map.detach().flatten(1).sort(dim=1, descending=True, stable=True).indices
        rank = order.argsort(1).view(n, 1, height, width)
        counts = [(2 * k * pixels + steps) // (2 * steps) for k in range(steps + 1)]
        fractions = torch.tensor(counts, dtype=torch.float64).div(pixels).to(images)
        # made outside inference mode, so that they are ordinary tensors afterwards
        values = images.new_full((total,), math.nan)
        done, complete = 0, True
        with evaluation(model, images.device):
            try:
                with torch.inference_mode():
                    passes = Passes(model, images, target, chunk)
                    for first in bar(range(0, total, chunk), progress, name.replace("_", " ").capitalize()):
                        last = min(first + chunk, total)
                        owners = [i // (steps + 1) for i in range(first, last)]
                        limits = [counts[i % (steps + 1)] for i in range(first, last)]

                        def make(owners=owners, limits=limits) -> Tensor:
                            limit = torch.tensor(limits, device=images.device).view(-1, 1, 1, 1)
                            changed = torch.where(rank[owners] < limit, after[owners], before[owners])
                            return changed.contiguous(memory_format=passes.layout)

                        values[first:last] = passes(make, owners)[:, 0]
                        done = last
            except KeyboardInterrupt:
                if not done:
                    raise
                complete = False
                warnings.warn(
                    f"{name} was interrupted after {done} of {total} changed copies; the values of the "
                    "rest are NaN",
                    stacklevel=3,
                )
        values = values.view(n, steps + 1)
        return Curve(fractions, values, torch.trapezoid(values, fractions), complete)


def _wide(map: Tensor) -> Tensor:
    """In a dtype, and at a scale, in which the sum over a map neither overflows nor vanishes."""
    wide = map.to(torch.promote_types(map.dtype, torch.float32))
    peak = wide.amax((1, 2), keepdim=True)
    return wide / torch.where(peak > 0, peak, 1)


def _require_mask(value: object, name: str, like: Tensor | None = None) -> None:
    expected = f"{name}: expected a bool tensor [N, H, W], got {describe(value)}"
    if not isinstance(value, Tensor) or value.dtype != torch.bool:
        raise TypeError(expected + ("; mask > 0.5 makes one" if isinstance(value, Tensor) else ""))
    if value.ndim != 3 or 0 in value.shape:
        raise ValueError(expected)
    if like is not None and value.shape != like.shape:
        raise ValueError(f"{name}: expected the shape {list(like.shape)}, got {describe(value)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: expected on the device {like.device}, got {value.device}")


def _require_true_boxes(value: object, name: str) -> None:
    _require_boxes(value, name)
    if not (value[:, :2] < value[:, 2:]).all():
        wrong = value[(value[:, :2] >= value[:, 2:]).any(1)][0].tolist()
        raise ValueError(f"{name}: expected boxes with an area, got {wrong}")


def _share_above_0(value: object, name: str) -> float:
    value = require_number(value, name, 0, 1)
    if value == 0:
        raise ValueError(f"{name}: expected above 0, got 0")
    return value


def _as_size(size: object) -> tuple[int, int]:
    """(height, width) of a picture, from a side or from both."""
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise ValueError(f"size: expected a side or (height, width), got {describe(size)}")
        return require_int(size[0], "size", 1), require_int(size[1], "size", 1)
    side = require_int(size, "size", 1)
    return side, side


def _require_boxes(value: object, name: str) -> None:
    expected = f"{name}: expected a tensor [N, 4] of (x1, y1, x2, y2), got {describe(value)}"
    if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
        raise TypeError(expected)
    if value.ndim != 2 or value.shape[1] != 4 or value.shape[0] == 0:
        raise ValueError(expected)
    if not torch.isfinite(value).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity in {describe(value)}")
    if not (value[:, :2] <= value[:, 2:]).all():
        wrong = value[(value[:, :2] > value[:, 2:]).any(1)][0].tolist()
        raise ValueError(f"{name}: expected x1 <= x2 and y1 <= y2, got {wrong}")
