"""Intervals by brute force, classes by trying all cuts, patches that hold what changes."""

import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lecture7_utils.kernels.plans import ENOUGH, classes, intervals, make_plan, plan_key
from lecture7_utils.kernels.tracing import trace
from tests.kernels.test_dirty import random_case

WINDOWS = [(k, min(k + 5, 31)) for k in range(0, 31, 3)]


def steps_of(net: nn.Module, size=(31, 31)):
    with torch.inference_mode():
        return trace(net.eval(), torch.randn(1, 3, *size), net).steps


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (1, 2, 0, 1), (5, 3, 2, 1), (3, 1, 2, 2), (4, 2, 0, 1), (2, 3, 1, 4)],
)
def test_intervals_are_where_a_window_reaches_in(kernel, stride, padding, dilation):
    net = nn.Conv2d(3, 1, kernel, stride, padding, dilation)
    for axis in (0, 1):
        lo, hi = intervals(steps_of(net), axis, WINDOWS)
        reach = dilation * (kernel - 1) + 1  # with dilation the windows count as if they had no gaps
        for p, (start, end) in enumerate(WINDOWS):
            line = torch.zeros(1, 1, 31)
            line[..., start:end] = 1
            seen = F.conv1d(F.pad(line, (padding, padding)), torch.ones(1, 1, reach), stride=stride)
            places = (seen.flatten() > 0).nonzero().flatten().tolist()
            assert list(range(lo[1][p], hi[1][p])) == places


def test_intervals_of_padding_ceil_mode_and_sums():
    class Net(nn.Module):
        def forward(self, x):
            uneven = F.max_pool2d(F.pad(x, (0, 2, 2, 0)), 3, 2)  # rows -2 … 30, columns 0 … 32
            ceil = F.max_pool2d(x, 2, 2, ceil_mode=True)
            return torch.cat([uneven, ceil], 1)

    steps = steps_of(Net())
    assert [s.role for s in steps] == ["image", "window", "window", "union"]
    for axis, before in ((0, 2), (1, 0)):
        lo, hi = intervals(steps, axis, [(7, 9), (30, 31), (0, 1)])
        for p, (start, end) in enumerate([(7, 9), (30, 31), (0, 1)]):
            uneven = [i for i in range(16) if i * 2 - before < end and i * 2 - before + 3 > start]
            ceil = [i for i in range(16) if i * 2 < end and i * 2 + 2 > start]
            assert list(range(lo[1][p], hi[1][p])) == uneven
            assert list(range(lo[2][p], hi[2][p])) == ceil
            assert (lo[3][p], hi[3][p]) == (min(uneven[0], ceil[0]), max(uneven[-1], ceil[-1]) + 1)


def test_a_window_that_no_one_sees_changes_nothing():
    class Net(nn.Module):
        def forward(self, x):
            return F.avg_pool2d(x, 1, 3) + F.max_pool2d(x, 1, 3)

    lo, hi = intervals(steps_of(Net()), 0, [(1, 3), (2, 4)])
    assert (hi - lo)[1:].tolist() == [[0, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize("seed", range(8))
def test_no_cut_into_runs_costs_less(seed):
    choose = np.random.default_rng(seed)
    sizes, weights = choose.integers(1, 6, (4, 9)), choose.random(4)
    order = np.argsort(weights @ sizes, kind="stable")

    def cost(label):
        return sum(weights @ sizes[:, label == k].max(1) * (label == k).sum() for k in set(label.tolist()))

    for count in (1, 2, 3):
        best = np.inf
        for cuts in itertools.combinations(range(1, 9), count - 1):
            label = np.empty(9, int)
            for k, run in enumerate(np.split(order, cuts)):
                label[run] = k
            best = min(best, cost(label))
        found = classes(sizes, weights, count)
        assert len(set(found.tolist())) <= count
        assert set(found.tolist()) == set(range(found.max() + 1))
        assert cost(found) <= best + 1e-12


def test_equal_positions_are_one_class():
    assert classes(np.full((3, 7), 4), np.ones(3)).tolist() == [0] * 7
    assert classes(np.full((3, 1), 4), np.ones(3)).tolist() == [0]


@pytest.mark.parametrize("seed", range(6))
def test_patches_hold_what_changes_and_lie_in_the_map(seed):
    net, size, options = random_case(seed)
    steps = steps_of(net, size)
    choose = random.Random(seed)
    axes = [
        [(k, min(k + w, n)) for k in range(0, n, choose.randint(2, 7))]
        for n, w in zip(size, options["window"], strict=True)
    ]
    plan = make_plan(steps, *axes)
    seen = np.zeros([len(a) for a in axes], int)
    spent = 0.0
    for pair in plan.pairs:
        seen[np.ix_(*pair.places)] += 1
        spent += pair.cost * pair.count
        for number, (step, patch) in enumerate(zip(steps, pair.patches, strict=True)):
            if patch is None:
                continue
            assert number == 0 or patch.size[0] * patch.size[1] <= ENOUGH * step.shape[1] * step.shape[2]
            assert all(pair.patches[i] is not None for i in step.inputs)
            for axis in (0, 1):
                lo, hi = (ends[number][pair.places[axis]] for ends in intervals(steps, axis, axes[axis]))
                start = patch.starts[axis]
                assert (start >= 0).all()
                assert (start + patch.size[axis] <= step.shape[1 + axis]).all()
                some = hi > lo
                assert (start <= lo)[some].all()
                assert (start + patch.size[axis] >= hi)[some].all()
    assert (seen == 1).all()
    places = [s.shape[1] * s.shape[2] if len(s.shape) == 3 else 1 for s in steps]
    whole = sum(s.cost * n for s, n in zip(steps, places, strict=True)) * seen.size
    assert plan.share == pytest.approx(spent / whole)


def test_the_key_holds_the_structure_and_no_weights():
    net, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    assert plan_key(steps_of(net), WINDOWS, WINDOWS) == plan_key(steps_of(other), WINDOWS, WINDOWS)
    for changed in (nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 3), nn.Conv2d(3, 4, 3, 2)):
        assert plan_key(steps_of(net), WINDOWS, WINDOWS) != plan_key(steps_of(changed), WINDOWS, WINDOWS)
    assert plan_key(steps_of(net), WINDOWS, WINDOWS) != plan_key(steps_of(net), WINDOWS, WINDOWS[:-1])
