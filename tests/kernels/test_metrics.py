"""Metrics against their definitions, pixel by pixel; curves against one copy at a time."""

import copy
import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lecture7_utils.kernels.metrics import (
    best_constant_box,
    boundary_error,
    box_iou,
    deletion_curve,
    insertion_curve,
    iou,
    localisation_accuracy,
    pointing_game,
    share_inside,
)
from lecture7_utils.kernels.targets import class_probability, evaluate, unit
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SIZE = (9, 11)

shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 10**6)


def random_map(seed: int, shape, levels: int | None = None) -> Tensor:
    """Normal values; or `levels` different ones, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(-1, levels, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_mask(seed: int, shape, share: float = 0.3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def same(a: Tensor, b, tolerance: float = 1e-12) -> None:
    b = torch.as_tensor(b, dtype=a.dtype)
    assert a.shape == b.shape
    assert torch.equal(a.isnan(), b.isnan())
    assert ((a - b).nan_to_num(nan=0.0).abs() <= tolerance).all()


# --- a map against a mask


@given(seed=seeds, shape=shapes, levels=st.sampled_from([None, 1, 3]))
@settings(max_examples=60)
def test_share_inside(seed, shape, levels):
    map, mask = random_map(seed, shape, levels), random_mask(seed, shape)
    with unchanged(map):
        found = share_inside(map, mask)
    expected = []
    for values, inside in zip(map.tolist(), mask.tolist(), strict=True):
        cells = [
            (max(v, 0.0), i)
            for row, ins in zip(values, inside, strict=True)
            for v, i in zip(row, ins, strict=True)
        ]
        total = sum(v for v, _ in cells)
        expected.append(sum(v for v, i in cells if i) / total if total else math.nan)
    same(found, expected)


def test_share_of_an_even_map_is_the_share_of_the_area():
    mask = random_mask(1, (3, 7, 8))
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        found = share_inside(torch.full((3, 7, 8), 1000.0, dtype=dtype), mask)
        assert found.dtype == dtype
        assert torch.allclose(found.double(), mask.double().mean((1, 2)), atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_share_does_not_depend_on_the_maps_scale(scale):
    map, mask = random_map(2, (2, 300, 300)), random_mask(2, (2, 300, 300))
    same(share_inside(map * scale, mask), share_inside(map, mask))


@given(
    seed=seeds,
    shape=shapes,
    levels=st.sampled_from([None, 1, 2]),
    share=st.sampled_from([0, 0.05, 0.3]),
    tolerance=st.one_of(
        st.floats(0, 9), st.integers(0, 9), st.sampled_from([math.sqrt(2), math.sqrt(5), 15])
    ),
)
@settings(max_examples=150)
def test_pointing_game(seed, shape, levels, share, tolerance):
    map, mask = random_map(seed, shape, levels), random_mask(seed, shape, share)
    found = pointing_game(map, mask, tolerance)
    assert found.dtype == torch.bool
    for hit, values, inside in zip(found.tolist(), map.tolist(), mask.tolist(), strict=True):
        flat = [v for row in values for v in row]
        y, x = divmod(flat.index(max(flat)), shape[2])
        near = [math.hypot(y - i, x - j) for i in range(shape[1]) for j in range(shape[2]) if inside[i][j]]
        distance = min(near, default=math.inf)
        if abs(distance - tolerance) > 1e-9:  # sqrt rounds: whether √2 is within √2 is not asked here
            assert hit == (distance <= tolerance)


def test_pointing_game_takes_15_pixels_and_a_disc():
    map, mask = torch.zeros(4, 40, 40), torch.zeros(4, 40, 40, dtype=torch.bool)
    map[:, 0, 0] = 1
    for n, (y, x) in enumerate([(15, 0), (16, 0), (9, 12), (11, 11)]):
        mask[n, y, x] = True
    assert pointing_game(map, mask).tolist() == [True, False, True, False]
    assert pointing_game(map, mask, 0).tolist() == [False] * 4


# --- masks and boxes


@given(seed=seeds, shape=shapes, a=st.sampled_from([0.0, 0.3, 0.9]), b=st.sampled_from([0.0, 0.3, 0.9]))
@settings(max_examples=60)
def test_iou(seed, shape, a, b):
    mask_a, mask_b = random_mask(seed, shape, a), random_mask(seed + 1, shape, b)
    expected = []
    for one, other in zip(mask_a.tolist(), mask_b.tolist(), strict=True):
        first = {(i, j) for i, row in enumerate(one) for j, v in enumerate(row) if v}
        second = {(i, j) for i, row in enumerate(other) for j, v in enumerate(row) if v}
        expected.append(len(first & second) / len(first | second) if first | second else math.nan)
    same(iou(mask_a, mask_b), expected, 1e-6)
    same(iou(mask_b, mask_a), expected, 1e-6)


@given(
    seed=seeds,
    shape=shapes,
    share=st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0]),
    distance=st.sampled_from([1, 1.2, 1.5, 2, 2.5, 3, 20]),
)
@settings(max_examples=80)
def test_boundary_error(seed, shape, share, distance):
    mask, truth = random_mask(seed, shape), random_mask(seed + 1, shape, share)
    expected = []
    for said, true in zip(mask.tolist(), truth.tolist(), strict=True):
        cells = [(i, j) for i in range(shape[1]) for j in range(shape[2])]
        band = [
            (i, j)
            for i, j in cells
            if any((i - k) ** 2 + (j - m) ** 2 <= distance**2 and true[i][j] != true[k][m] for k, m in cells)
        ]
        wrong = [said[i][j] != true[i][j] for i, j in band]
        expected.append(sum(wrong) / len(wrong) if wrong else math.nan)
    with unchanged(mask, truth):
        found = boundary_error(mask, truth, distance)
    same(found, expected, 1e-6)


def test_boundary_error_sees_an_outline_that_the_iou_hides():
    truth = torch.zeros(1, 64, 64, dtype=torch.bool)
    truth[:, 8:56, 8:56] = True
    larger, hole = truth.clone(), truth.clone()
    larger[:, 7:57, 7:57] = True  # 196 pixels at the outline
    hole[:, 20:34, 20:34] = False  # 196 pixels inside
    for mask in (larger, hole):
        assert iou(mask, truth).item() == pytest.approx(0.92, abs=0.006)
    # the ring of 196 is a quarter of a band of two rings on either side, a little more as corners are out
    assert boundary_error(larger, truth).item() > 0.25
    assert boundary_error(hole, truth).item() == 0
    assert boundary_error(~truth, truth).item() == 1


def test_boundary_error_refuses():
    mask = random_mask(1, (2, 5, 6))
    refuses("mask", boundary_error, mask.float(), mask, says="mask > 0.5")
    refuses("truth", boundary_error, mask, mask.float())
    refuses("mask", boundary_error, mask[:1], mask)
    refuses("truth", boundary_error, mask, mask[0])
    refuses("distance", boundary_error, mask, mask, 0.5)
    refuses("distance", boundary_error, mask, mask, math.nan)
    refuses("distance", boundary_error, mask, mask, "2")


corners = st.lists(st.tuples(*[st.integers(0, 12)] * 4), min_size=1, max_size=5)


@given(first=corners, second=corners)
@settings(max_examples=100)
def test_box_iou_is_the_iou_of_the_boxes_pixels(first, second):
    count = min(len(first), len(second))
    masks, boxes = [], []
    for rows in (first[:count], second[:count]):
        ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows]
        mask = torch.zeros(count, 12, 12, dtype=torch.bool)
        for n, (x1, y1, x2, y2) in enumerate(ordered):
            mask[n, y1:y2, x1:x2] = True
        masks.append(mask)
        boxes.append(torch.tensor(ordered))
    same(box_iou(*boxes), iou(*masks), 1e-6)
    same(box_iou(boxes[0].double() / 7, boxes[1] / 7), iou(*masks).double(), 1e-6)
    same(box_iou(boxes[0][:1], boxes[1]), box_iou(boxes[0][:1].expand(count, 4), boxes[1]))
    same(box_iou(boxes[0], boxes[1][:1]), box_iou(boxes[0], boxes[1][:1].expand(count, 4)))


def test_box_iou_agrees_with_torchvision():
    from torchvision.ops import box_iou as peer

    corner = random_map(1, (50, 2))
    boxes = torch.cat([corner, corner + 2 * random_map(2, (50, 2)).abs()], 1)
    same(box_iou(boxes[:25], boxes[25:]), peer(boxes[:25], boxes[25:]).diagonal())
    assert box_iou(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[1, 1, 3, 3]])).item() == pytest.approx(1 / 7)


def slow_iou(a, b) -> Fraction:
    """Of two boxes of ints, exactly."""
    both = 1
    for start, end in ((0, 2), (1, 3)):
        both *= max(0, min(a[end], b[end]) - max(a[start], b[start]))
    return Fraction(both, sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)) - both)


def random_boxes(seed: int, count: int, height: int, width: int) -> Tensor:
    """Boxes with an area, int [N, 4]."""
    generator = torch.Generator().manual_seed(seed)

    def sides(length: int) -> Tensor:
        start = torch.randint(0, length, (count,), generator=generator)
        more = torch.rand(count, generator=generator) * (length - start)
        return torch.stack([start, start + more.long().clamp(min=1)])

    (x1, x2), (y1, y2) = sides(width), sides(height)
    return torch.stack([x1, y1, x2, y2], 1)


# multiples of 1/64: floats hold them exactly, so an IoU that equals the threshold counts on both sides
thresholds = st.sampled_from([1 / 64, 0.25, 0.5, 0.75, 1.0])


@given(seed=seeds, count=st.integers(1, 30), one=st.booleans(), threshold=thresholds)
@settings(max_examples=100)
def test_localisation_accuracy(seed, count, one, threshold):
    truth = random_boxes(seed, count, 9, 12)
    boxes = random_boxes(seed + 1, 1 if one else count, 9, 12)
    answers = boxes.tolist() * (count if one else 1)
    right = [slow_iou(a, b) >= threshold for a, b in zip(answers, truth.tolist(), strict=True)]
    with unchanged(boxes, truth):
        found = localisation_accuracy(boxes, truth, threshold)
    assert type(found) is float
    assert found == pytest.approx(sum(right) / count)
    if threshold == 0.5:
        assert localisation_accuracy(boxes.float(), truth.half()) == found


def test_localisation_accuracy_counts_an_iou_of_exactly_the_threshold_and_no_empty_box():
    truth = torch.tensor([[0, 0, 2, 2]]).expand(4, 4)
    boxes = torch.tensor([[0, 0, 2, 1], [0, 0, 4, 2], [0, 0, 4, 3], [0, 0, 0, 0]])
    assert localisation_accuracy(boxes, truth) == 0.5
    assert localisation_accuracy(boxes, truth, 0.51) == 0.0


@given(
    seed=seeds,
    count=st.integers(1, 12),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    threshold=thresholds,
    step=st.integers(1, 4),
)
@settings(max_examples=60)
def test_best_constant_box_is_the_best_of_all(seed, count, size, threshold, step):
    truth = random_boxes(seed, count, *size)
    with unchanged(truth):
        found = best_constant_box(truth, size, threshold=threshold, step=step)
    assert found.shape == (1, 4)
    assert found.dtype == torch.float32
    rows, columns = (sorted({*range(0, length, step), length}) for length in size)
    ranks = {}
    for x1, x2 in itertools.combinations(columns, 2):
        for y1, y2 in itertools.combinations(rows, 2):
            ious = [slow_iou((x1, y1, x2, y2), box) for box in truth.tolist()]
            ranks[x1, y1, x2, y2] = sum(iou >= threshold for iou in ious), float(sum(ious) / count)
    most = max(rank[0] for rank in ranks.values())
    mean = max(rank[1] for rank in ranks.values() if rank[0] == most)
    chosen = tuple(found[0].int().tolist())
    assert ranks[chosen][0] == most
    assert ranks[chosen][1] == pytest.approx(mean)
    assert localisation_accuracy(found, truth, threshold) == pytest.approx(most / count)


def test_best_constant_box_takes_one_of_several_by_its_rule():
    square = torch.tensor([[0, 0, 4, 4]])
    assert best_constant_box(square, 8, step=2).tolist() == [[0, 0, 4, 4]]
    # two pictures that no box can serve both: the first in the order of the corners
    apart = torch.tensor([[4, 4, 8, 8], [0, 0, 4, 4]])
    assert best_constant_box(apart, 8, step=2).tolist() == [[0, 0, 4, 4]]
    assert best_constant_box(apart.double(), (8, 12)).tolist() == [[0, 0, 4, 4]]
    # the border is a line of every grid
    assert best_constant_box(torch.tensor([[3, 0, 7, 5]]), (5, 7), step=3).tolist() == [[3, 0, 7, 5]]


def test_no_other_constant_answer_is_better_on_many_boxes():
    truth = random_boxes(5, 300, 48, 64)
    best = localisation_accuracy(best_constant_box(truth, (48, 64), step=4), truth)
    middle = truth.double().mean(0, keepdim=True)
    for other in (middle, torch.tensor([[0, 0, 64, 48]]), (middle / 4).round() * 4):
        assert localisation_accuracy(other, truth) <= best
    assert localisation_accuracy(best_constant_box(truth, (48, 64), step=2), truth) >= best


# --- curves

TARGETS = {
    "score": (lambda n: 2),
    "one for each": (lambda n: [k % 5 for k in range(n)]),
    "probability": (lambda n: class_probability(3)),
    "unit": (lambda n: unit("body", [k % 3 for k in range(n)], "mean")),
}


def slow_curve(net, images, target, map, steps, before, after):
    """One image, one step, one pixel at a time; the order by Python's stable sort."""
    n, _, height, width = images.shape
    fractions, values = [], torch.zeros(n, steps + 1, dtype=images.dtype)
    for i in range(n):
        cells = sorted(
            ((y, x) for y in range(height) for x in range(width)), key=lambda p: -map[i][p[0]][p[1]].item()
        )
        for k in range(steps + 1):
            count = math.floor(k * height * width / steps + 0.5)
            changed = before[i].clone()
            for y, x in cells[:count]:
                changed[:, y, x] = after[i, :, y, x]
            batch = before.clone()  # in its own row, for targets that are one for each image
            batch[i] = changed
            values[i, k] = evaluate(net, batch, target)[i]
            if i == 0:
                fractions.append(count / (height * width))
    area = [
        sum((fractions[k + 1] - fractions[k]) * (row[k] + row[k + 1]) / 2 for k in range(steps))
        for row in values.tolist()
    ]
    return fractions, values, area


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("curve", [deletion_curve, insertion_curve])
@given(
    seed=seeds,
    n=st.integers(1, 3),
    steps=st.integers(1, 7),
    levels=st.sampled_from([None, 3]),
    data=st.data(),
)
@settings(max_examples=3)
def test_curves_equal_one_copy_at_a_time(kind, curve, seed, n, steps, levels, data):
    net = random_net(seed, SIZE, train=data.draw(st.booleans()), in_place_first=data.draw(st.booleans()))
    images, baseline = random_images(seed, n, SIZE), random_images(seed + 1, n, SIZE)
    map, target = random_map(seed, (n, *SIZE), levels), TARGETS[kind](n)
    with unchanged(net, images, map, baseline):
        found = curve(
            net, images, target, map, steps=steps, baseline=baseline, chunk=data.draw(st.integers(1, 9))
        )
    ends = (images, baseline) if curve is deletion_curve else (baseline, images)
    fractions, values, area = slow_curve(net, images, target, map, steps, *ends)
    same(found.fractions, fractions)
    same(found.values, values)
    same(found.area, area)
    assert found.complete


@pytest.mark.parametrize(("curve", "default"), [(deletion_curve, 0.0), (insertion_curve, "blur")])
def test_the_baselines_of_the_paper_are_the_default(curve, default):
    net, images, map = random_net(1, SIZE), random_images(1, 2, SIZE), random_map(1, (2, *SIZE))
    found = curve(net, images, 1, map, steps=3)
    same(found.values, curve(net, images, 1, map, steps=3, baseline=default).values)
    other = curve(net, images, 1, map, steps=3, baseline="mean").values
    assert (found.values - other).abs().max() > 1e-3
    # one end is the image itself
    end = -1 if curve is insertion_curve else 0
    same(found.values[:, end], evaluate(net, images, 1))


def test_a_map_that_knows_the_network_has_the_better_areas():
    class Sum(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x):
            return (x * self.weight).sum((1, 2, 3))[:, None]

    truth = random_map(3, SIZE).abs()
    net, images = Sum(truth), torch.ones(1, 3, *SIZE, dtype=torch.float64)
    wrong = random_map(4, (1, *SIZE))
    for steps in (4, 99):
        options = {"steps": steps, "baseline": 0.0}
        for other in (wrong, -truth[None]):
            assert (
                deletion_curve(net, images, 0, truth[None], **options).area
                < deletion_curve(net, images, 0, other, **options).area
            )
            assert (
                insertion_curve(net, images, 0, truth[None], **options).area
                > insertion_curve(net, images, 0, other, **options).area
            )


def test_never_more_than_a_chunk_in_a_pass():
    net, images, sizes = random_net(7, SIZE), random_images(8, 5, SIZE), []
    net.stem.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    deletion_curve(net, images, 1, random_map(1, (5, *SIZE)), steps=9, chunk=4)
    assert max(sizes) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_curves_keep_the_images_dtype_and_are_ordinary_tensors(dtype):
    net, images = random_net(1, SIZE, dtype=dtype), random_images(1, 1, SIZE, dtype)
    with torch.inference_mode():
        found = insertion_curve(net, images, 1, random_map(1, (1, *SIZE)), steps=4)
    exact = insertion_curve(net.double(), images.double(), 1, random_map(1, (1, *SIZE)), steps=4)
    for tensor in (found.values, found.area, found.fractions):
        assert tensor.dtype == dtype
        assert not tensor.is_inference()
    same(found.values.double(), exact.values, 1e-5 if dtype == torch.float32 else 0.1)


class Stops(nn.Module):
    """One class, the mean; at its `at`-th pass it raises `error`."""

    def __init__(self, at: int, error: BaseException | None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.inner = nn.Sequential(nn.Dropout(0.5))
        self.calls, self.at, self.error = 0, at, error

    def forward(self, x):
        torch.rand(3)
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.weight * x.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("curve", [deletion_curve, insertion_curve])
def test_an_interrupt_gives_back_what_there_is(curve):
    images, map = random_images(1, 2, SIZE), random_map(1, (2, *SIZE))
    whole = curve(Stops(0, None), images, 0, map, steps=4)
    net = Stops(5, KeyboardInterrupt()).train()
    with (
        unchanged(net, images, map),
        pytest.warns(UserWarning, match=rf"{curve.__name__} was interrupted after 6 of 10") as caught,
    ):
        found = curve(net, images, 0, map, steps=4, chunk=2)
    assert caught[0].filename == __file__
    assert not found.complete
    assert torch.equal(found.values.flatten()[:6], whole.values.flatten()[:6])
    assert found.values.flatten()[6:].isnan().all()
    assert found.area[0] == whole.area[0]
    assert found.area[1].isnan()
    assert "interrupted" in repr(found)
    assert "interrupted" not in repr(whole)


@pytest.mark.parametrize(
    ("at", "error"), [(1, KeyboardInterrupt), (2, KeyboardInterrupt), (1, OSError), (4, OSError)]
)
def test_what_can_not_be_given_back_passes_on(at, error):
    net, images, map = Stops(at, error()).train(), random_images(1, 2, SIZE), random_map(1, (2, *SIZE))
    with unchanged(net, images, map), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error):
            deletion_curve(net, images, 0, map, steps=4, chunk=2)


def test_progress_shows_a_bar(capsys):
    net, images, map = random_net(1, SIZE), random_images(1, 1, SIZE), random_map(1, (1, *SIZE))
    deletion_curve(net, images, 1, map, steps=4, chunk=2)
    assert capsys.readouterr() == ("", "")
    deletion_curve(net, images, 1, map, steps=4, chunk=2, progress=True)
    assert "Deletion curve" in capsys.readouterr().err


# --- what is refused

MAP, MASK = torch.rand(2, *SIZE), random_mask(1, (2, *SIZE))
BAD_MAPS = [
    None,
    np.zeros((2, *SIZE)),
    torch.rand(*SIZE),
    torch.rand(2, 1, *SIZE),
    torch.rand(0, *SIZE),
    torch.ones(2, *SIZE, dtype=torch.int64),
    torch.full((2, *SIZE), math.nan),
    torch.full((2, *SIZE), -math.inf),
]
BAD_MASKS = [
    None,
    np.zeros((2, *SIZE), dtype=bool),
    torch.zeros(2, *SIZE),
    torch.zeros(2, *SIZE, dtype=torch.uint8),
    MASK[0],
    MASK[:, None],
    MASK[:0],
]


@pytest.mark.parametrize("bad", BAD_MAPS)
def test_bad_maps(bad):
    refuses("map", share_inside, bad, MASK)
    refuses("map", pointing_game, bad, MASK)
    for curve in (deletion_curve, insertion_curve):
        refuses("map", curve, random_net(0, SIZE), random_images(0, 2, SIZE), 1, bad)


@pytest.mark.parametrize("bad", [*BAD_MASKS, MASK[:1], MASK[:, 1:]])
def test_bad_masks(bad):
    refuses("mask", share_inside, MAP, bad)
    refuses("mask", pointing_game, MAP, bad)
    refuses("mask_b", iou, MASK, bad)


@pytest.mark.parametrize("bad", BAD_MASKS)
def test_bad_first_masks(bad):
    refuses("mask_a", iou, bad, MASK)


@pytest.mark.parametrize("bad", [None, "15", -1, math.nan, math.inf, True, torch.ones(1)])
def test_bad_tolerances(bad):
    refuses("tolerance", pointing_game, MAP, MASK, bad)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [(0, 0, 1, 1)],
        np.zeros((1, 4)),
        torch.zeros(4),
        torch.zeros(0, 4),
        torch.zeros(2, 3),
        torch.zeros(2, 4, dtype=torch.bool),
        torch.zeros(2, 4, dtype=torch.complex64),
        torch.tensor([[0.0, 0.0, 1.0, math.nan]]),
        torch.tensor([[0, 0, 1, 1], [2, 0, 1, 1]]),
        torch.tensor([[0, 3, 1, 1]]),
    ],
)
def test_bad_boxes(bad):
    good = torch.tensor([[0, 0, 1, 1]])
    refuses("boxes_a", box_iou, bad, good)
    refuses("boxes_b", box_iou, good, bad)
    refuses("boxes", localisation_accuracy, bad, good)
    refuses("truth", localisation_accuracy, good, bad)
    refuses("truth", best_constant_box, bad, 8)


@pytest.mark.parametrize("bad", [torch.zeros(1, 4), torch.tensor([[0, 0, 2, 2], [1, 2, 3, 2]])])
def test_true_boxes_have_an_area(bad):
    refuses("truth", localisation_accuracy, bad, bad, says="an area")
    refuses("truth", best_constant_box, bad, 8, says="an area")


@pytest.mark.parametrize("bad", [None, "0.5", 0, -0.5, 1.5, math.nan, True])
def test_bad_thresholds_of_boxes(bad):
    good = torch.tensor([[0, 0, 1, 1]])
    refuses("threshold", localisation_accuracy, good, good, bad)
    refuses("threshold", best_constant_box, good, 8, threshold=bad)


@pytest.mark.parametrize("bad", [None, "8", 0, -1, 2.5, True, (8,), (8, 8, 8), (0, 8), (8, None)])
def test_bad_sizes_of_pictures(bad):
    refuses("size", best_constant_box, torch.tensor([[0, 0, 1, 1]]), bad)


@pytest.mark.parametrize("bad", [None, 0, -2, 1.5, True])
def test_bad_steps_of_the_grid(bad):
    refuses("step", best_constant_box, torch.tensor([[0, 0, 1, 1]]), 8, step=bad)


def test_boxes_of_other_lengths():
    boxes = torch.tensor([[0, 0, 1, 1]]).expand(5, 4)
    refuses("boxes_b", box_iou, boxes[:3], boxes[:2], says="3 boxes")
    refuses("boxes", localisation_accuracy, boxes[:3], boxes, says="5 boxes")
    refuses("boxes", localisation_accuracy, boxes, boxes[:1], says="got 5")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *[("map", map) for map in (MAP[:1], MAP[:, 1:], MAP[:, :, 1:])],
        *[("steps", steps) for steps in (0, -1, 1.5, "all", None, True, SIZE[0] * SIZE[1] + 1)],
        *[("baseline", value) for value in ("grey", None, (1, 2), math.nan, torch.zeros(3, 3))],
        *[("chunk", chunk) for chunk in (0, "most", None, 2.0)],
        *[("progress", value) for value in (None, 1, "bar")],
        *[("target", target) for target in (None, -1, "cat", 99, [1], [1, 2, 3], class_probability([1]))],
        *[("model", model) for model in (None, "vgg16", len)],
        *[
            ("images", images)
            for images in (None, torch.rand(3, *SIZE), torch.ones(2, 3, *SIZE, dtype=torch.int64))
        ],
    ],
)
def test_bad_arguments_of_curves(name, bad):
    net, images = random_net(0, SIZE), random_images(0, 2, SIZE)
    good = {"model": net, "images": images, "target": 1, "map": MAP, "steps": 3}
    with unchanged(net, images):
        for curve in (deletion_curve, insertion_curve):
            refuses(name, curve, **{**good, name: bad})


def test_several_targets_for_one_image_are_refused():
    net, images = random_net(0, SIZE), random_images(0, 1, SIZE)
    refuses("target", deletion_curve, net, images, [1, 2], MAP[:1], says="1 image")


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives():
    net, images, map = random_net(1, SIZE), random_images(1, 2, SIZE), random_map(1, (2, *SIZE))
    here = insertion_curve(net, images, [1, 2], map, steps=5)
    there = insertion_curve(copy.deepcopy(net).cuda(), images.cuda(), [1, 2], map.cuda(), steps=5)
    assert there.values.is_cuda
    assert there.area.is_cuda
    same(there.values.cpu(), here.values)
    mask = MASK.cuda()
    assert torch.equal(pointing_game(MAP.cuda(), mask).cpu(), pointing_game(MAP, MASK))
    same(share_inside(MAP.cuda(), mask).cpu(), share_inside(MAP, MASK), 1e-6)
    same(iou(mask, mask.flip(0)).cpu(), iou(MASK, MASK.flip(0)), 1e-6)
    truth = random_boxes(5, 40, 24, 32)
    best = best_constant_box(truth.cuda(), (24, 32))
    assert best.is_cuda
    assert localisation_accuracy(best, truth.cuda()) == localisation_accuracy(
        best_constant_box(truth, (24, 32)), truth
    )
