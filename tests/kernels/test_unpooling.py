"""Switches and unpooling against loops over windows, PyTorch's own indices, and the transpose."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lecture7_utils.kernels.unpooling import Switches, switches, unpool
from tests.guards import refuses, unchanged


def drawn(seed: int, *shape: int, levels: int | None = None) -> Tensor:
    """Normal numbers, or with `levels` few different ones, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    if levels is not None:
        return torch.randint(levels, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def windows(size, kernel, stride, padding, dilation, counts):
    """For each place of the pooled map the places inside the map that its window covers, in reading order."""
    for out in itertools.product(*map(range, counts)):
        axes = [
            [o * s - p + d * k for k in range(f) if 0 <= o * s - p + d * k < n]
            for o, n, f, s, p, d in zip(out, size, kernel, stride, padding, dilation, strict=True)
        ]
        yield out, list(itertools.product(*axes))


def by_loops(x: Tensor, kernel, stride, padding, dilation, counts) -> Tensor:
    """The switches [N, C, *counts] of x [N, C, *size]: the first largest entry of each window."""
    size = x.shape[2:]
    result = torch.full((*x.shape[:2], *counts), -1)
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        for out, places in windows(size, kernel, stride, padding, dilation, counts):
            best = max(places, key=lambda place, n=n, c=c: float(x[(n, c, *place)]))  # the first of equals
            flat = 0
            for place, width in zip(best, size, strict=True):
                flat = flat * width + place
            result[(n, c, *out)] = flat
    return result


def put_back_by_loops(y: Tensor, indices: Tensor, size, overlap: str) -> Tensor:
    total = torch.Size(size).numel()
    result = y.new_zeros((*y.shape[:2], total))
    for n, c in itertools.product(range(y.shape[0]), range(y.shape[1])):
        for value, place in zip(y[n, c].flatten(), indices[n, c].flatten(), strict=True):
            result[n, c, place] = value + (result[n, c, place] if overlap == "add" else 0)
    return result.view(*y.shape[:2], *size)


@st.composite
def poolings(draw, axes: int):
    kernel = draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
    return {
        "kernel": kernel,
        "stride": draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes)),
        "padding": [draw(st.integers(0, k // 2)) for k in kernel],
        "dilation": draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes)),
        "ceil_mode": draw(st.booleans()),
    }


@pytest.mark.parametrize("axes", [1, 2])
@given(data=st.data())
def test_equals_loops_over_windows(axes, data):
    options = data.draw(poolings(axes))
    size = data.draw(st.lists(st.integers(5, 8), min_size=axes, max_size=axes))
    seed, levels = data.draw(st.integers(0, 999)), data.draw(st.sampled_from([None, 2]))
    x = drawn(seed, 1, 2, *size, levels=levels)
    found = switches(x, **options)
    counts = found.indices.shape[2:]
    want = by_loops(x, options["kernel"], options["stride"], options["padding"], options["dilation"], counts)
    assert torch.equal(found.indices, want)
    assert found.size == tuple(size)
    pool = F.max_pool1d if axes == 1 else F.max_pool2d
    order = ("kernel", "stride", "padding", "dilation", "ceil_mode")
    assert torch.equal(found.read(x), pool(x, *(options[key] for key in order)))
    y = drawn(seed + 1, *found.indices.shape)
    for overlap in ("add", "last"):
        want = put_back_by_loops(y, found.indices, size, overlap)
        torch.testing.assert_close(unpool(y, found, overlap=overlap), want, rtol=0, atol=1e-14)


def test_without_channels():
    x = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    found = switches(x, 2)
    assert found.indices.tolist() == [0, 2, 5]
    assert unpool(found.read(x), found).tolist() == [3, 0, 4, 0, 0, 9]
    grid = torch.tensor([[1.0, 2.0, 0.0, 0.0], [4.0, 3.0, 0.0, 7.0]])
    found = switches(grid, (2, 2))
    assert found.indices.tolist() == [[4, 7]]
    assert unpool(torch.tensor([[5.0, 6.0]]), found).tolist() == [[0, 0, 0, 0], [5, 0, 0, 6]]


def test_the_two_conventions_on_overlapping_windows():
    x = torch.tensor([0.0, 1.0, 9.0, 2.0, 0.0])  # 9 is the maximum of both windows
    found = switches(x, 3, 2)
    y = torch.tensor([10.0, -4.0])
    assert unpool(y, found).tolist() == [0, 0, 6, 0, 0]
    assert unpool(y, found, overlap="last").tolist() == [0, 0, -4, 0, 0]
    # the last one wins, even with nothing
    assert unpool(torch.tensor([10.0, 0.0]), found, overlap="last").tolist() == [0] * 5
    pooled = found.read(x)
    assert unpool(pooled, found, overlap="last")[2] == 9
    assert unpool(pooled, found)[2] == 18


@pytest.mark.parametrize("seed", range(4))
def test_adding_is_what_the_backward_pass_does(seed):
    x = drawn(seed, 2, 3, 11, 9).requires_grad_(True)
    pooled = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    y = drawn(seed + 50, *pooled.shape)
    (gradient,) = torch.autograd.grad(pooled, x, y)
    found = switches(x, 3, 2, 1, ceil_mode=True)
    torch.testing.assert_close(unpool(y, found), gradient, rtol=0, atol=1e-14)
    assert not torch.equal(unpool(y, found, overlap="last"), gradient)


def test_as_max_unpool_where_windows_do_not_overlap():
    x = drawn(0, 2, 3, 8, 8)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    found = switches(x, 2)
    want = F.max_unpool2d(pooled, indices, 2)
    assert torch.equal(unpool(pooled, found), want)
    assert torch.equal(unpool(pooled, found, overlap="last"), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    x = drawn(3, 1, 2, 6, 6).to(dtype)
    found = switches(x, 3, 1)
    for overlap in ("add", "last"):
        back = unpool(found.read(x), found, overlap=overlap)
        assert back.dtype == dtype
        assert back.shape == x.shape


def test_nothing_changes():
    x = drawn(0, 1, 2, 6, 6).requires_grad_(True)
    with unchanged(x):
        found = switches(x, 2)
        y = found.read(x.detach())
        with unchanged(y):
            unpool(y, found)
    assert not y.requires_grad


X = drawn(0, 1, 2, 6, 6)


@pytest.mark.parametrize("x", [None, [1.0, 2.0], X.long(), X[..., None], X[:, :0], X / 0, torch.tensor(1.0)])
def test_x_refused(x):
    refuses("x", switches, x, 2)


@pytest.mark.parametrize("name", ["kernel", "stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [-1, 1.5, "2", (2, 2, 2), True, [2, -3]])
def test_sizes_refused(name, value):
    refuses(name, switches, X, **{"kernel": 2, name: value})


def test_windows_refused():
    refuses("kernel", switches, X, 0)
    refuses("stride", switches, X, 2, 0)
    refuses("kernel", switches, X, 7)
    refuses("kernel", switches, X, 4, dilation=2)
    refuses("padding", switches, X, 2, 2, 2)
    refuses("kernel", switches, X[0, 0, 0], (2, 2))
    refuses("ceil_mode", switches, X, 2, ceil_mode=1)


def test_unpool_refused():
    found = switches(X, 2)
    refuses("y", unpool, X, found)
    refuses("y", unpool, found.indices, found)
    refuses("y", unpool, None, found)
    refuses("switches", unpool, found.read(X), found.indices)
    refuses("overlap", unpool, found.read(X), found, overlap="sum")
    refuses("x", found.read, X[:, :1])
    refuses("x", found.read, 3)
    assert isinstance(found, Switches)
