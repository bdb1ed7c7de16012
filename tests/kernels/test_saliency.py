"""Saliency against finite differences, the paper's definition, bare autograd, a slow loop and captum."""

import copy
import math
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lecture7_utils.kernels.saliency import saliency_map, segment, smooth_grad
from lecture7_utils.kernels.targets import class_probability, class_score, unit
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SIZE = (9, 10)

# a target, and what it means, written out: (scores or the layer's output of one image) -> its value
TARGETS = {
    "score": (3, None, lambda y: y[3]),
    "probability": (class_probability(2), None, lambda y: y.exp()[2] / y.exp().sum()),
    "unit max": (unit("pointwise", 1), "pointwise", lambda y: y[1].max()),
    "unit mean": (unit("body", 2, "mean"), "body", lambda y: y[2].sum() / y[2].numel()),
    "unit (i, j)": (unit("left.0", 0, (0, 1)), "left.0", lambda y: y[0][0][1]),
    "logit as a unit": (unit("head", 4), "head", lambda y: y[4]),
}


def function_of(net, layer, read):
    """images -> value of the target for each image: a copy of the network run as a whole, in eval mode."""
    net, found = copy.deepcopy(net).eval(), []
    if layer is not None:
        # stopping is the kernel's business: here the whole network runs
        net.get_submodule(layer).register_forward_hook(lambda _m, _x, y: found.append(y.clone()))

    def value(images: Tensor) -> Tensor:
        found.clear()
        scores = net(images.clone())
        return torch.stack([read(y) for y in (scores if layer is None else found[0])])

    return value


def bare_gradient(value, images):
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(value(leaf).sum(), leaf)[0]


def finite_differences(value, images, step=1e-6):
    """Central differences [N, 3, H, W], and how far they may be off: half of what the one-sided ones differ
    by. That is next to nothing but where a kink of a ReLU or of a maximum lies within the step."""
    gradient, doubt = torch.zeros_like(images), torch.zeros_like(images)
    with torch.no_grad():
        for n, image in enumerate(images):
            steps = step * torch.eye(image.numel(), dtype=images.dtype).view(-1, *image.shape)
            up, down = value(image + steps), value(image - steps)
            middle = value(image[None])
            gradient[n] = ((up - down) / (2 * step)).view(image.shape)
            doubt[n] = ((up + down - 2 * middle).abs() / (2 * step)).view(image.shape)
    return gradient, doubt


# --- the map itself


@pytest.mark.parametrize("kind", TARGETS)
@given(seed=st.integers(0, 10**6), height=st.integers(7, 11), width=st.integers(7, 11), train=st.booleans())
@settings(max_examples=4)
def test_equals_finite_differences(kind, seed, height, width, train):
    target, layer, read = TARGETS[kind]
    net = random_net(seed, (height, width), train=train)
    images = random_images(seed, 2, (height, width))
    want, doubt = finite_differences(function_of(net, layer, read), images)
    with unchanged(net, images):
        got = saliency_map(net, images, target, reduce=None)
    assert (doubt < 1e-5).float().mean() > 0.97
    assert ((got - want).abs() <= 1e-6 * want.abs() + 1e-8 + doubt).all()


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_bare_autograd_to_the_last_bit(kind, seed):
    target, layer, read = TARGETS[kind]
    net, images = random_net(seed, SIZE, in_place_first=seed == 2), random_images(seed, 3, SIZE)
    want = bare_gradient(function_of(net, layer, read), images)
    assert want.abs().max() > 0
    got = saliency_map(net, images, target, reduce=None)
    if kind == "probability":  # softmax and its formula differ in the last bits
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    else:
        assert torch.equal(got, want)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 3), times_input=st.booleans())
@settings(max_examples=15)
def test_reduce_and_times_input(seed, n, times_input):
    net, images = random_net(seed, SIZE), random_images(seed, n, SIZE)
    w = bare_gradient(lambda x: net(x)[:, 1], images)
    if times_input:
        w = w * images
    # section 3.1 of the paper, in words: M_ij = max_c |w_ijc|
    largest = torch.stack([w[:, 0].abs(), w[:, 1].abs(), w[:, 2].abs()]).max(0).values
    length = (w[:, 0] ** 2 + w[:, 1] ** 2 + w[:, 2] ** 2).sqrt()
    with unchanged(net, images):
        default = saliency_map(net, images, 1, times_input=times_input)
        maximum = saliency_map(net, images, 1, reduce="max", times_input=times_input)
        norm = saliency_map(net, images, 1, reduce="l2", times_input=times_input)
        signed = saliency_map(net, images, 1, reduce=None, times_input=times_input)
    assert torch.equal(default, largest)
    assert torch.equal(maximum, largest)
    torch.testing.assert_close(norm, length, rtol=1e-12, atol=1e-14)
    assert torch.equal(signed, w)


def test_a_linear_score_has_its_weights_as_map():
    """Section 3: for s_c(x) = w_c · x + b_c the gradient is w_c, whatever x is."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 6, 4)).double()
    images = random_images(0, 2, (5, 6))
    w = net[1].weight.detach().view(4, 3, 5, 6)
    assert torch.equal(saliency_map(net, images, [2, 0], reduce=None), w[[2, 0]])
    assert torch.equal(saliency_map(net, images, [2, 0]), w[[2, 0]].abs().amax(1))
    assert torch.equal(saliency_map(net, images, 3, reduce=None, times_input=True), images * w[3])
    # the probability of c is p_c (w_c - sum_k p_k w_k)
    p = net(images).softmax(1).detach()
    want = p[:, 1, None, None, None] * (w[1] - torch.einsum("nk,kchw->nchw", p, w))
    torch.testing.assert_close(saliency_map(net, images, class_probability(1), reduce=None), want)


@given(classes=st.lists(st.integers(0, 4), min_size=3, max_size=3))
@settings(max_examples=10)
def test_one_class_for_each_image(classes):
    net, images = random_net(8, SIZE), random_images(8, 3, SIZE)
    channels = [k % 3 for k in classes]
    for make, chosen in ((class_score, classes), (class_probability, classes), (unit_right, channels)):
        got = saliency_map(net, images, make(chosen), reduce=None)
        for n, k in enumerate(chosen):
            alone = saliency_map(net, images[n : n + 1], make(k), reduce=None)
            torch.testing.assert_close(got[n], alone[0], rtol=1e-10, atol=1e-14)
    assert torch.equal(
        saliency_map(net, images, torch.tensor(classes)), saliency_map(net, images, class_score(classes))
    )


def unit_right(channel):
    return unit("right.1", channel, "mean")


def test_not_normalised():
    net, images = random_net(3), random_images(3)
    once = saliency_map(net, images, 0)
    with torch.no_grad():
        net.head.weight.mul_(1024)
    assert torch.equal(saliency_map(net, images, 0), 1024 * once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", ["max", "l2", None])
def test_dtype_and_shape(dtype, reduce):
    net, images = random_net(6, dtype=dtype), random_images(6, dtype=dtype)
    got = saliency_map(net, images, 1, reduce=reduce)
    smooth = smooth_grad(net, images, 1, reduce=reduce, samples=2)
    assert got.dtype == smooth.dtype == dtype
    assert got.shape == smooth.shape == ((2, 3, 16, 16) if reduce is None else (2, 16, 16))
    want = saliency_map(net.double(), images.double(), 1, reduce=reduce)
    coarse = {torch.float16: 0.05, torch.bfloat16: 0.3}.get(dtype, 1e-5)
    assert (got.double() - want).norm() <= coarse * want.norm()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: torch.cat([x, x], 3)[..., ::2],
    ],
)
def test_strides_of_the_images(change):
    net, images = random_net(2, in_place_first=True), change(random_images(2))
    with unchanged(net, images):
        got = saliency_map(net, images, 2, reduce=None)
        smooth = smooth_grad(net, images, 2, reduce=None, samples=3, chunk=4)
    torch.testing.assert_close(
        got, saliency_map(net, images.contiguous(), 2, reduce=None), rtol=0, atol=1e-14
    )
    want = smooth_grad(net, images.contiguous(), 2, reduce=None, samples=3)
    torch.testing.assert_close(smooth, want, rtol=0, atol=1e-14)


def test_captum_agrees():
    from captum.attr import InputXGradient, Saliency

    for seed in range(3):
        net, images = random_net(seed, SIZE), random_images(seed, 3, SIZE)
        chosen = [1, 4, 0]
        peer = Saliency(net).attribute(images.clone().requires_grad_(), chosen, abs=False)
        torch.testing.assert_close(saliency_map(net, images, chosen, reduce=None), peer, rtol=0, atol=1e-15)
        peer = Saliency(net).attribute(images.clone().requires_grad_(), chosen).amax(1)
        torch.testing.assert_close(saliency_map(net, images, chosen), peer, rtol=0, atol=1e-15)
        peer = InputXGradient(net).attribute(images.clone().requires_grad_(), chosen).abs().amax(1)
        mine = saliency_map(net, images, chosen, times_input=True)
        torch.testing.assert_close(mine, peer, rtol=0, atol=1e-15)


def test_captum_agrees_on_smooth_grad(monkeypatch):
    from captum.attr import NoiseTunnel, Saliency

    net, images = random_net(1, SIZE), random_images(1, 1, SIZE)
    sigma = 0.2 * (images.max() - images.min()).item()
    generator = torch.Generator().manual_seed(11)
    noise = torch.cat([torch.randn(images.shape, generator=generator, dtype=images.dtype) for _ in range(6)])
    monkeypatch.setattr(torch, "normal", lambda _mean, std: noise * sigma)  # captum's draw: the same noise
    peer = NoiseTunnel(Saliency(net)).attribute(
        images.clone(), nt_type="smoothgrad", nt_samples=6, stdevs=sigma, target=2, abs=False
    )
    monkeypatch.undo()
    mine = smooth_grad(net, images, 2, samples=6, noise=0.2, generator=11, reduce=None)
    torch.testing.assert_close(mine, peer, rtol=0, atol=1e-14)


# --- SmoothGrad


def slow_smooth_grad(net, images, read, samples, noise, seed, times_input):
    """One image and one sample at a time; the noise drawn anew for the whole batch."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(images)
    for _ in range(samples):
        e = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        for n in range(len(images)):
            sigma = noise * (images[n].max() - images[n].min())
            noisy = (images[n] + sigma * e[n])[None]
            gradient = bare_gradient(lambda x, n=n: read(x, n), noisy)
            total[n] += (gradient * noisy if times_input else gradient)[0]
    return total / samples


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 4),
    samples=st.integers(1, 7),
    noise=st.floats(0, 2),
    chunk=st.one_of(st.integers(1, 40), st.just("auto")),
    times_input=st.booleans(),
)
@settings(max_examples=25)
def test_smooth_grad_equals_the_slow_loop(seed, n, samples, noise, chunk, times_input):
    net, images = random_net(seed, SIZE, train=seed % 2 == 0), random_images(seed, n, SIZE)
    classes = [(seed + k) % 5 for k in range(n)]
    still = copy.deepcopy(net).eval()
    want = slow_smooth_grad(
        still, images, lambda x, k: still(x)[:, classes[k]], samples, noise, seed, times_input
    )
    options = {"samples": samples, "noise": noise, "chunk": chunk, "times_input": times_input}
    with unchanged(net, images):
        got = smooth_grad(net, images, classes, reduce=None, generator=seed, **options)
        largest = smooth_grad(net, images, classes, generator=seed, **options)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(largest, want.abs().amax(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", TARGETS)
def test_smooth_grad_of_each_target(kind):
    target, layer, read = TARGETS[kind]
    net, images = random_net(4, SIZE), random_images(4, 2, SIZE)
    value = function_of(net, layer, read)
    want = slow_smooth_grad(net, images, lambda x, _n: value(x), 5, 0.15, 3, False)
    got = smooth_grad(net, images, target, samples=5, generator=3, reduce=None)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 8, 9, 100])
def test_no_pass_is_larger_than_a_chunk(chunk):
    net, images, passes = random_net(0, SIZE), random_images(0, 4, SIZE), []
    net.register_forward_pre_hook(lambda _m, x: passes.append(len(x[0])))
    channels = [0, 2, 1, 0]
    got = smooth_grad(net, images, unit("right.1", channels), samples=5, chunk=chunk)
    assert max(passes) <= chunk
    assert sum(passes) == 4 * 5
    want = smooth_grad(net, images, unit("right.1", channels), samples=5, chunk=20)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_auto_chunk_grows_with_smaller_images():
    passes = []
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.register_forward_pre_hook(lambda _m, x: passes.append(tuple(x[0].shape)))
    smooth_grad(net, torch.rand(1, 3, 224, 224), 0, samples=17)
    assert [shape[0] for shape in passes] == [2] * 8 + [1]
    passes.clear()
    smooth_grad(net, torch.rand(1, 3, 112, 112), 0, samples=17)
    assert [shape[0] for shape in passes] == [8, 8, 1]
    passes.clear()
    smooth_grad(net, torch.rand(2, 3, 700, 700), 0, samples=2)  # one image is beyond the room
    assert [shape[0] for shape in passes] == [1, 1, 1, 1]


def test_smooth_grad_without_noise_is_the_gradient():
    net, images = random_net(0), random_images(0)
    flat = torch.ones_like(images) * 0.3  # an image of one value has no range, so no noise
    for x, noise in ((images, 0.0), (images, 0), (flat, 0.5)):
        want = saliency_map(net, x, 1, reduce=None)
        torch.testing.assert_close(smooth_grad(net, x, 1, noise=noise, samples=3, reduce=None), want)


def test_generators_and_seeds():
    net, images = random_net(0), random_images(0)
    options = {"samples": 3, "reduce": None}
    with unchanged(net, images):
        first = smooth_grad(net, images, 1, generator=7, **options)
        assert torch.equal(first, smooth_grad(net, images, 1, generator=7, **options))
        assert not torch.equal(first, smooth_grad(net, images, 1, generator=8, **options))
        generator = torch.Generator().manual_seed(7)
        assert torch.equal(first, smooth_grad(net, images, 1, generator=generator, **options))
        # a generator goes on where it stands
        assert not torch.equal(first, smooth_grad(net, images, 1, generator=generator, **options))
        assert torch.equal(
            smooth_grad(net, images, 1, **options), smooth_grad(net, images, 1, generator=0, **options)
        )


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_half_precision_sums_in_single(chunk):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2).half())
    with torch.no_grad():
        net[1].weight.fill_(1000)
    images = random_images(0, 1, (2, 2), torch.float16)
    # 100 gradients of 1000: their sum is beyond the largest number of half precision
    got = smooth_grad(net, images, 1, samples=100, chunk=chunk)
    assert torch.equal(got, torch.full((1, 2, 2), 1000, dtype=torch.float16))


def test_progress_shows_a_bar(capsys):
    net, images = random_net(0), random_images(0)
    quiet = smooth_grad(net, images, 1, samples=4, chunk=2)
    assert capsys.readouterr().err == ""
    shown = smooth_grad(net, images, 1, samples=4, chunk=2, progress=True)
    assert "SmoothGrad: 100%" in capsys.readouterr().err
    assert torch.equal(quiet, shown)


# --- what is computed


class Operations(TorchDispatchMode):
    """Every operation, with the shapes of its tensors, and the output masks of backward operations."""

    def __init__(self):
        super().__init__()
        self.seen, self.masks = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        shapes = [tuple(a.shape) for a in args if isinstance(a, Tensor)]
        self.seen.append((str(func), shapes))
        if "backward" in str(func):
            masks = [a for a in args if isinstance(a, list) and a and all(isinstance(v, bool) for v in a)]
            self.masks += [(str(func), tuple(mask)) for mask in masks if len(mask) == 3]
        return result


@pytest.mark.parametrize("target", [1, class_probability([1, 2]), unit("head", 0), unit("right", 1)])
def test_no_gradient_is_computed_for_parameters(target):
    net, images = random_net(0), random_images(0)
    assert all(parameter.requires_grad for parameter in net.parameters())
    with Operations() as mine:
        got = saliency_map(net, images, target)
    convolutions = [mask for name, mask in mine.masks if "convolution_backward" in name]
    norms = [mask for name, mask in mine.masks if "batch_norm_backward" in name]
    assert len(convolutions) >= 5
    assert len(norms) >= 2
    assert set(convolutions) == {(True, False, False)}
    assert set(norms) == {(True, False, False)}
    # and so for everything else: the same operations as with parameters that need no gradient
    net.requires_grad_(False)
    with Operations() as frozen:
        again = saliency_map(net, images, target)
    assert mine.seen == frozen.seen
    assert torch.equal(got, again)


@pytest.mark.parametrize("layer", ["stem", "body.1", "pool"])
def test_a_unit_computes_nothing_after_its_layer(layer):
    net, images, calls = random_net(0), random_images(0), []
    leaves = [(name, m) for name, m in net.named_modules() if not list(m.children())]
    for name, module in leaves:
        module.register_forward_pre_hook(lambda _m, _x, name=name: calls.append(name))
    net(images)
    before = calls[: calls.index(layer) + 1]
    calls.clear()
    saliency_map(net, images, unit(layer, 0))
    assert calls == before
    calls.clear()
    smooth_grad(net, images, unit(layer, 0), samples=6, chunk=4)
    assert calls == 3 * before


def test_one_forward_and_one_backward_pass():
    net, images, calls = random_net(0), random_images(0), []
    net.stem.register_forward_pre_hook(lambda *_: calls.append("forward"))
    net.stem.register_full_backward_pre_hook(lambda *_: calls.append("backward"))
    saliency_map(net, images, 2)
    assert calls == ["forward", "backward"]


# --- other modes, other kinds of model


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("target", [1, unit("pool", 1)])
def test_inside_other_modes(mode, target):
    net, images = random_net(0), random_images(0)
    want = saliency_map(net, images, target)
    smooth = smooth_grad(net, images, target, samples=2)
    with mode():
        made_inside = images + 0
        with unchanged(net, images, made_inside):
            for x in (images, made_inside):
                assert torch.equal(saliency_map(net, x, target), want)
                assert torch.equal(smooth_grad(net, x, target, samples=2), smooth)
        # what comes out is an ordinary tensor, of use in autograd afterwards
        got = saliency_map(net, made_inside, target), smooth_grad(net, made_inside, target, samples=2)
    assert not any(tensor.is_inference() for tensor in got)
    assert torch.equal(saliency_map(net, made_inside, target), want)


def test_images_that_require_gradients():
    net, images = random_net(0, in_place_first=True), random_images(0).requires_grad_()
    images.grad = torch.ones_like(images)
    want = saliency_map(net, images.detach().clone(), 1)
    for x in (images, images * 1):
        with unchanged(net, images):
            got = saliency_map(net, x, 1, times_input=False)
            smooth = smooth_grad(net, x, 1, samples=2, times_input=True)
        assert torch.equal(got, want)
        assert not got.requires_grad
        assert not smooth.requires_grad


def test_gradients_that_are_there_already_stay():
    net, images = random_net(0, train=True), random_images(0)
    net(images).sum().backward()
    with unchanged(net, images):
        saliency_map(net, images, 1)
        smooth_grad(net, images, 1, samples=2)


def test_frozen_and_compiled_networks():
    net, images = random_net(0), random_images(0)
    want = saliency_map(net, images, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        traced = torch.jit.trace(net, images)
    with unchanged(traced, images):
        torch.testing.assert_close(saliency_map(traced, images, 1), want, rtol=0, atol=1e-13)
    refuses("layer", saliency_map, traced, images, unit("stem", 0), says="TorchScript")
    assert torch.equal(saliency_map(nn.DataParallel(net), images, 1), want)
    assert torch.equal(saliency_map(net.requires_grad_(False), images, 1), want)


# --- nothing stays changed


class Draws(nn.Module):
    """Draws from every global source of random numbers, in eval mode too."""

    def forward(self, x):
        shift = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return F.dropout(x, 0.5, training=True) + shift


class Breaks(nn.Module):
    """Raises in its forward pass at the given call, or in the backward pass."""

    def __init__(self, error, call=1, backward=False):
        super().__init__()
        self.error, self.call, self.backward = error, call, backward

    def forward(self, x):
        error = self.error

        class Step(torch.autograd.Function):
            @staticmethod
            def forward(_ctx, value):
                return value.clone()

            @staticmethod
            def backward(_ctx, _gradient):
                raise error

        self.call -= 1
        if self.call == 0 and not self.backward:
            raise error
        return Step.apply(x) if self.backward else x


def disturbed(seed, **parts):
    """A network in train mode, with mixed flags and gradients, and some of its layers replaced."""
    net = random_net(seed, train=True, in_place_first=True)
    net.body[1].eval()
    net.stem.weight.grad = torch.ones_like(net.stem.weight)
    net.head.bias.requires_grad_(False)
    for name, layer in parts.items():
        setattr(net, name, layer)
    return net


@pytest.mark.parametrize("target", [1, class_probability([1, 2]), unit("pool", 0), unit("head", 1)])
def test_left_as_it_was_by_a_normal_call(target):
    net, images = disturbed(0, stem_norm=Draws(), drop=Draws()), random_images(0)
    with unchanged(net, images):
        saliency_map(net, images, target)
        smooth_grad(net, images, target, samples=3, chunk=2)


ERRORS = [RuntimeError("broken"), KeyboardInterrupt(), MemoryError(), SystemExit(1), StopIteration()]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("place", ["entry", "stem_norm", "body", "left", "pool", "head"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_left_as_it_was_when_a_pass_breaks(error, place, backward):
    net = disturbed(0, **{place: nn.Sequential(getattr(random_net(0), place), Breaks(error, 1, backward))})
    images = random_images(0)
    with unchanged(net, images), pytest.raises(type(error)):
        saliency_map(net, images, unit("head", 0) if place == "head" else 1)


@pytest.mark.parametrize("error", [e for e in ERRORS if not isinstance(e, KeyboardInterrupt)], ids=repr)
def test_left_as_it_was_when_smooth_grad_breaks_half_way(error):
    net, images = disturbed(0, drop=Breaks(error, call=3)), random_images(0)
    with unchanged(net, images), pytest.raises(type(error)):
        smooth_grad(net, images, 1, samples=6, chunk=2)
    net.drop.call = 3
    with unchanged(net, images), pytest.raises(type(error)):
        smooth_grad(net, images, unit("drop", 0), samples=6, chunk=1, progress=True)


@pytest.mark.parametrize(("chunk", "call", "done"), [(2, 3, 2), (4, 3, 4), (1, 4, 1), (1, 5, 2), (2, 6, 5)])
def test_an_interrupted_smooth_grad_gives_back_what_it_has(chunk, call, done):
    net, images = disturbed(0, drop=Breaks(KeyboardInterrupt(), call)), random_images(0)
    with unchanged(net, images), pytest.warns(UserWarning, match=f"interrupted after {done} of 6 samples"):
        got = smooth_grad(net, images, 1, samples=6, chunk=chunk, reduce=None)
    net.drop.call = 0
    want = smooth_grad(net, images, 1, samples=done, reduce=None)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 2, 12])
def test_an_interrupt_before_the_first_sample_is_passed_on(chunk):
    net, images = disturbed(0, drop=Breaks(KeyboardInterrupt(), 1)), random_images(0)
    with unchanged(net, images), pytest.raises(KeyboardInterrupt):
        smooth_grad(net, images, 1, samples=6, chunk=chunk)


@pytest.mark.parametrize(
    "target", [9, unit("nowhere", 0), unit("pool", 99), unit("pool", 0, (99, 0)), [1, 2, 3]]
)
def test_left_as_it_was_by_a_wrong_target(target):
    net, images = disturbed(0), random_images(0)
    with unchanged(net, images):
        with pytest.raises(ValueError):
            saliency_map(net, images, target)
        with pytest.raises(ValueError):
            smooth_grad(net, images, target, samples=2)


# --- errors

NO_FLAGS = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(), st.just(torch.tensor(True)), st.just([True])
)
NO_NUMBERS = st.one_of(
    st.none(), st.booleans(), st.text(), st.lists(st.integers()), st.just(torch.ones(1)), st.just(np.ones(2))
)
NO_COUNTS = st.one_of(NO_NUMBERS, st.floats(), st.integers(max_value=0))
NET, IMAGES = random_net(0), random_images(0)


@pytest.mark.parametrize("kernel", [saliency_map, smooth_grad])
@given(
    st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.binary(), st.lists(st.integers())).filter(
        lambda value: value not in ("max", "l2", None)
    )
)
@settings(max_examples=50)
def test_reduce_refused(kernel, value):
    refuses("reduce", kernel, NET, IMAGES, 0, reduce=value, says="'max', 'l2', None")


@pytest.mark.parametrize("kernel", [saliency_map, smooth_grad])
@given(NO_FLAGS)
@settings(max_examples=50)
def test_times_input_refused(kernel, value):
    refuses("times_input", kernel, NET, IMAGES, 0, times_input=value, says="False, True")


@given(NO_FLAGS)
@settings(max_examples=50)
def test_progress_refused(value):
    refuses("progress", smooth_grad, NET, IMAGES, 0, progress=value, says="False, True")


@given(NO_COUNTS)
@settings(max_examples=50)
def test_samples_refused(value):
    refuses("samples", smooth_grad, NET, IMAGES, 0, samples=value)


@given(NO_COUNTS.filter(lambda value: not (isinstance(value, str) and value == "auto")))
@settings(max_examples=50)
def test_chunk_refused(value):
    message = refuses("chunk", smooth_grad, NET, IMAGES, 0, chunk=value)
    assert "'auto'" in message or "at least 1" in message


@given(st.one_of(NO_NUMBERS, st.floats(max_value=-1e-300), st.sampled_from([math.nan, math.inf, -math.inf])))
@settings(max_examples=50)
def test_noise_refused(value):
    refuses("noise", smooth_grad, NET, IMAGES, 0, noise=value)


@given(st.one_of(NO_NUMBERS, st.floats(), st.integers(max_value=-1)))
@settings(max_examples=50)
def test_generator_refused(value):
    refuses("generator", smooth_grad, NET, IMAGES, 0, generator=value)


@pytest.mark.parametrize("kernel", [saliency_map, smooth_grad])
@pytest.mark.parametrize(
    "target", [None, "dog", 1.5, True, [], [0.5], {"a": 1}, torch.tensor([0.5]), -1, [[1]]], ids=repr
)
def test_target_refused(kernel, target):
    refuses("target", kernel, NET, IMAGES, target)


@pytest.mark.parametrize("kernel", [saliency_map, smooth_grad])
@pytest.mark.parametrize("model", [None, "vgg16", nn.Linear, torch.relu, 5], ids=repr)
def test_model_refused(kernel, model):
    refuses("model", kernel, model, IMAGES, 0)


@pytest.mark.parametrize("kernel", [saliency_map, smooth_grad])
@pytest.mark.parametrize(
    "images",
    [
        None,
        np.zeros((1, 3, 16, 16)),
        IMAGES[0],
        IMAGES.float(),
        IMAGES.byte(),
        IMAGES[:, :2],
        IMAGES[:0],
        IMAGES * math.nan,
        IMAGES / 0,
    ],
    ids=range(9),
)
def test_images_refused(kernel, images):
    refuses("images", kernel, NET, images, 0)


class Cut(nn.Module):
    """Scores through which no gradient reaches the images."""

    def __init__(self, cut):
        super().__init__()
        self.cut, self.layer = cut, nn.Conv2d(3, 4, 3).double()

    def forward(self, x):
        return self.cut(self.layer, x)


def without_gradient(layer, x):
    with torch.no_grad():
        return layer(x).mean((2, 3))


@pytest.mark.parametrize(
    "cut",
    [
        without_gradient,
        lambda layer, x: layer(x.detach()).mean((2, 3)),
        lambda layer, x: layer(x).mean((2, 3)).detach(),
        lambda layer, x: layer(x).mean((2, 3)).round().long().double(),
        lambda layer, x: layer.bias.expand(len(x), -1),
    ],
)
def test_target_that_does_not_depend_on_the_images(cut):
    net = Cut(cut)
    with unchanged(net):
        refuses("target", saliency_map, net, IMAGES, 0, says="differentiable")
        refuses("target", smooth_grad, net, IMAGES, 0, samples=2, says="differentiable")


# --- segmentation


def scene(seed, height=96, width=128):
    """A disc on a textured background: image [3, H, W], true mask [H, W], and a patchy map [H, W] that is
    larger on the disc and, as saliency is, mostly small there too."""
    draw = torch.Generator().manual_seed(seed)
    radius = 14 + 14 * torch.rand((), generator=draw)
    cy = radius + torch.rand((), generator=draw) * (height - 2 * radius)
    cx = radius + torch.rand((), generator=draw) * (width - 2 * radius)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    mask = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
    texture = 0.7 + 0.2 * torch.sin(x / 3 + seed) * torch.cos(y / 4)
    behind = torch.rand(3, generator=draw)[:, None, None]
    image = torch.where(mask, (behind + 0.45) % 1, behind * texture + 0.1)
    image = (image + 0.06 * torch.randn(3, height, width, generator=draw)).clamp(0, 1)
    return image, mask, torch.rand(height, width, generator=draw) ** 3 * (0.15 + mask)


def overlap(a, b):
    return ((a & b).sum() / (a | b).sum()).item()


@pytest.mark.parametrize("seed", range(6))
def test_segment_finds_a_disc(seed):
    image, mask, heat = scene(seed)
    with unchanged(image, heat):
        found = segment(image, heat, blur=3)
        again = segment(image, heat, blur=3)
    assert found.dtype == torch.bool
    assert found.shape == mask.shape
    assert torch.equal(found, again)
    assert overlap(found, mask) > 0.9
    # the map alone does not: the best threshold of all
    blunt = max(overlap(heat > q, mask) for q in torch.quantile(heat, torch.linspace(0.5, 0.99, 30)))
    assert blunt < 0.6


def test_segment_does_not_depend_on_what_opencv_drew_before():
    import cv2

    image, heat = torch.rand(3, 40, 50), torch.rand(40, 50)
    found = []
    for seed in range(1, 7):
        cv2.setRNGSeed(seed)
        found.append(segment(image, heat, blur=0))
    assert all(torch.equal(mask, found[0]) for mask in found)


def test_segment_averages_over_seeds_without_blur():
    scores = [overlap(segment(image, heat, blur=0), mask) for image, mask, heat in map(scene, range(8))]
    assert sum(scores) / len(scores) > 0.7


@pytest.mark.parametrize(("foreground", "background"), [(0.95, 0.3), (0.5, 0.4), (0.99, 0.0), (1.0, 0.6)])
def test_seeds_are_kept(foreground, background):
    image, _, heat = scene(3)
    heat = heat.double()
    found = segment(image, heat, foreground=foreground, background=background, blur=0)
    low, high = np.quantile(heat.numpy(), [background, foreground])
    assert found[heat >= high].all()
    assert not found[heat <= low].any()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("blur", [0, 0.5])
def test_maps_of_nearly_one_value(value, blur):
    image, _, _ = scene(0)
    heat = torch.full((96, 128), value)
    heat[40:44, 60:64] = 1 - value
    found = segment(image, heat, blur=blur)
    assert found[40:44, 60:64].all() if value == 0 else not found[40:44, 60:64].any()
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (3, 3), (1, 50)])
def test_segment_small_pictures(shape):
    draw = torch.Generator().manual_seed(0)
    image, heat = torch.rand(3, *shape, generator=draw), torch.rand(shape, generator=draw)
    found = segment(image, heat, blur=0)
    assert segment(image, heat).shape == found.shape == shape
    assert found.flatten()[heat.argmax()]
    assert not found.flatten()[heat.argmin()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_segment_dtypes(dtype):
    image, mask, heat = scene(1)
    assert overlap(segment(image.to(dtype), heat.to(dtype), blur=3), mask) > 0.9
    wanting = image.clone().requires_grad_(), heat.clone().requires_grad_()
    assert torch.equal(segment(*wanting, blur=3), segment(image, heat, blur=3))


@pytest.mark.slow
def test_opencv_is_imported_by_segment_only():
    code = """
import sys, torch
from lecture7_utils.kernels.saliency import saliency_map, segment, smooth_grad
net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
smooth_grad(net, torch.rand(1, 3, 8, 8), 0, samples=2)
assert "cv2" not in sys.modules
segment(torch.rand(3, 8, 8), torch.rand(8, 8))
assert "cv2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


GOOD = scene(0)


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros((3, 96, 128), np.float32),
        GOOD[0].permute(1, 2, 0),
        GOOD[0][None],
        GOOD[0][:1],
        (GOOD[0] * 255).byte(),
        GOOD[0] * 255,
        GOOD[0] - 0.5,
        GOOD[0] * math.nan,
        GOOD[0][:, :0],
    ],
    ids=range(10),
)
def test_segment_image_refused(image):
    refuses("image", segment, image, GOOD[2])


@pytest.mark.parametrize(
    "heat",
    [
        None,
        GOOD[2].numpy(),
        GOOD[1],
        GOOD[2].long(),
        GOOD[2][None],
        GOOD[2][:-1],
        GOOD[2].T,
        GOOD[2] * math.nan,
        GOOD[2] / 0,
        torch.zeros(96, 128),
        torch.full((96, 128), 0.7),
    ],
    ids=range(11),
)
def test_segment_saliency_refused(heat):
    refuses("saliency", segment, GOOD[0], heat)


@pytest.mark.parametrize("name", ["foreground", "background", "blur"])
@given(st.one_of(NO_NUMBERS, st.floats(max_value=-1e-300), st.sampled_from([math.nan, math.inf])))
@settings(max_examples=30)
def test_segment_numbers_refused(name, value):
    refuses(name, segment, GOOD[0], GOOD[2], **{name: value})


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30)
def test_segment_quantiles_in_order(low, gap):
    foreground = low * gap
    refuses("background", segment, GOOD[0], GOOD[2], foreground=foreground, background=low)
    refuses("foreground", segment, GOOD[0], GOOD[2], foreground=1.001 + gap)
    refuses("blur", segment, GOOD[0], GOOD[2], blur=1000.5 + gap, says="between 0 and 1000")
    refuses("background", segment, GOOD[0], GOOD[2], background=1.001 + gap)


@given(NO_COUNTS)
@settings(max_examples=30)
def test_segment_iterations_refused(value):
    refuses("iterations", segment, GOOD[0], GOOD[2], iterations=value)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("target", [1, class_probability([1, 2]), unit("pool", 0)])
def test_on_a_gpu(target):
    net, images = random_net(0), random_images(0)
    want = saliency_map(net, images, target)
    net, images = net.cuda(), images.cuda()
    state = torch.cuda.get_rng_state()
    with unchanged(net, images):
        got = saliency_map(net, images, target)
        generator = torch.Generator().manual_seed(5)  # noise from the CPU: the same on both devices
        smooth = smooth_grad(net, images, target, samples=3, generator=generator)
    assert got.device == images.device == smooth.device
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-9, atol=1e-12)
    want = smooth_grad(net.cpu(), images.cpu(), target, samples=3, generator=5)
    torch.testing.assert_close(smooth.cpu(), want, rtol=1e-9, atol=1e-12)
