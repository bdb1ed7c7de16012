"""Gradient ascent: against finite differences and the plain loop, every part on its own, and cleaned up."""

import copy
import itertools
import math
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lecture7_utils.kernels.ascent import NATURAL, ascend
from lecture7_utils.kernels.regularisers import (
    Correction,
    Penalty,
    Transform,
    blurred,
    fourier,
    gaussian_blur,
    jitter,
    rotate_and_scale,
    total_variation,
    turned,
)
from lecture7_utils.kernels.targets import class_probability, class_score, evaluate, unit
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SIZE = (9, 10)
PLAIN = {"regularise": (), "update": "gradient"}

# an objective, and what it means, written out: (scores and outputs of layers of one image) -> its value
OBJECTIVES = {
    "score": (3, lambda y: y[""][3]),
    "probability": (class_probability(2), lambda y: y[""].exp()[2] / y[""].exp().sum()),
    "unit max": (unit("pointwise", 1), lambda y: y["pointwise"][1].max()),
    "unit mean": (unit("body", 2, "mean"), lambda y: y["body"][2].sum() / y["body"][2].numel()),
    "unit (i, j)": (unit("left.0", 0, (0, 1)), lambda y: y["left.0"][0][0][1]),
    "logit as a unit": (unit("head", 4), lambda y: y["head"][4]),
    "sum of units": (
        {unit("left.0", 0, "mean"): 2.0, unit("depthwise", 1): -0.5},
        lambda y: 2 * y["left.0"][0].mean() - 0.5 * y["depthwise"][1].max(),
    ),
    "score against score": ({1: 1, 4: -1}, lambda y: y[""][1] - y[""][4]),
    "score and unit": (
        {class_score(0): 0.25, unit("body", 1, (2, 3)): 3},
        lambda y: 0.25 * y[""][0] + 3 * y["body"][1][2][3],
    ),
}
LAYERS = ("pointwise", "body", "left.0", "depthwise", "head")


def function_of(net, *reads):
    """images -> the objective of each: a copy of the network run as a whole, one image at a time."""
    net, found = copy.deepcopy(net).eval().requires_grad_(False), {}
    for name in LAYERS:
        layer = net.get_submodule(name)
        layer.register_forward_hook(lambda _m, _x, y, name=name: found.__setitem__(name, y.clone()[0]))

    def value(images):
        values = []
        for image, read in zip(images, itertools.cycle(reads)):
            found[""] = net(image[None].clone())[0]
            values.append(read(found))
        return torch.stack(values)

    return value


def plain_loop(value, x, steps, rate, l2):
    """The four steps of the lecture's notes, again and again: the last x, and L and its terms at each."""
    history, scores, norms = [], [], []
    for _ in range(steps):
        x = x.clone().requires_grad_()
        s = value(x)  # 1. forward propagate x
        norm = l2 * torch.stack([(image**2).sum() for image in x])
        loss = s - norm  # 2. compute the objective L
        loss.sum().backward()  # 3. backpropagate to get dL/dx
        history.append(loss.detach())
        scores.append(s.detach())
        norms.append(norm.detach())
        x = (x + rate * x.grad).detach()  # 4. update x's pixels
    return x, torch.stack(history), torch.stack(scores), torch.stack(norms)


# --- the gradient and the loop


@pytest.mark.parametrize("kind", OBJECTIVES)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=2)
def test_a_step_goes_along_the_gradient_by_finite_differences(kind, seed):
    objective, read = OBJECTIVES[kind]
    net, images = random_net(seed, SIZE), random_images(seed, 1, SIZE)
    value, l2, weight, h = function_of(net, read), 0.03, 0.02, 1e-6

    def loss(x):
        smooth = (x[:, :, 1:] - x[:, :, :-1]).square().sum((1, 2, 3))
        smooth = smooth + (x[..., 1:] - x[..., :-1]).square().sum((1, 2, 3))
        return value(x) - l2 * (x**2).sum((1, 2, 3)) - weight * smooth

    step = ascend(
        net, objective, steps=1, rate=0.5, l2=l2, start=images, regularise=[total_variation(weight)],
        update="gradient",
    )  # fmt: skip
    got = ((step.images - images) / 0.5).flatten()
    moves = h * torch.eye(images.numel(), dtype=images.dtype).view(-1, *images.shape[1:])
    with torch.no_grad():
        up, down, middle = loss(images + moves), loss(images - moves), loss(images)
    assert step.history.item() == pytest.approx(middle.item())
    # elsewhere is a kink of a ReLU or of a maximum within the step
    smooth = (up + down - 2 * middle).abs() < 1e-4 * h
    assert smooth.float().mean() > 0.9
    torch.testing.assert_close(got[smooth], ((up - down) / (2 * h))[smooth], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", OBJECTIVES)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 3),
    steps=st.integers(1, 6),
    l2=st.sampled_from([0, 1e-3, 0.05]),
)
@settings(max_examples=3)
def test_the_plain_ascent_is_the_loop_of_the_notes(kind, seed, n, steps, l2):
    objective, read = OBJECTIVES[kind]
    net = random_net(seed, SIZE, train=seed % 2 == 0, in_place_first=seed % 3 == 0)
    start = random_images(seed, n, SIZE)
    with unchanged(net, start):
        got = ascend(net, objective, steps=steps, rate=0.3, l2=l2, start=start, **PLAIN)
    images, history, scores, norms = plain_loop(function_of(net, read), start, steps, 0.3, l2)
    torch.testing.assert_close(got.images, images, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.history, history, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.terms["objective"], scores, rtol=1e-8, atol=1e-10)
    assert set(got.terms) == ({"objective", "l2"} if l2 else {"objective"})
    if l2:
        torch.testing.assert_close(got.terms["l2"], norms, rtol=1e-8, atol=1e-10)
    assert got.complete
    assert got.images.dtype == start.dtype
    assert got.history.shape == (steps, n)


def test_on_a_linear_score_it_ends_where_algebra_says():
    """For s(x) = w · x the maximum of L is x = w / (2 lambda)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 2)).double()
    w = net[1].weight.detach()[1].view(1, 3, 4, 5)
    got = ascend(net, 1, steps=400, rate=0.5, l2=0.25, size=(4, 5), **PLAIN)
    torch.testing.assert_close(got.images, w / 0.5)
    assert (got.history[1:] >= got.history[:-1] - 1e-12).all()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
def test_adam_is_torchs(seed):
    net, start = random_net(seed, SIZE), random_images(seed, 2, SIZE)
    got = ascend(net, 1, steps=7, rate=0.1, l2=0.01, start=start, regularise=())
    x = start.clone().requires_grad_()
    adam, net = torch.optim.Adam([x], lr=0.1, maximize=True), copy.deepcopy(net).requires_grad_(False)
    for _ in range(7):
        adam.zero_grad()
        (net(x.clone())[:, 1] - 0.01 * (x**2).sum((1, 2, 3))).sum().backward()
        adam.step()
    torch.testing.assert_close(got.images, x.detach(), rtol=1e-7, atol=1e-9)


def test_a_normalised_step_moves_every_image_as_far():
    net, start = random_net(0, SIZE), random_images(0, 3, SIZE) * torch.tensor([1, 5, 0.1]).view(3, 1, 1, 1)
    start = start.double()
    options = {"steps": 1, "l2": 0, "start": start, "regularise": ()}
    got = ascend(net, 2, rate=0.2, update="normalised", **options).images - start
    gradient = ascend(net, 2, rate=1.0, update="gradient", **options).images - start
    length = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(got, 0.2 * gradient / length, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.square().mean((1, 2, 3)), torch.full((3,), 0.04, dtype=torch.float64))


@pytest.mark.parametrize("update", ["adam", "normalised", "gradient"])
def test_where_there_is_no_gradient_nothing_moves(update):
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).double()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1)
    start = random_images(0, 2, SIZE)
    with unchanged(net, start), pytest.warns(UserWarning, match=r"image 0, 1 did not move in 3 steps.*ReLU"):
        got = ascend(net, unit("1", 1), steps=3, l2=0, start=start, regularise=(), update=update)
    assert torch.equal(got.images, start)


# --- regularisers, one at a time and all together


def slow_ascent(value, start, steps, rate, l2, seed, shift, degrees, scale, sigma, every, weight, space):
    """Everything at once, from the definitions of the parts; only the way the draws are made is known."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.Generator().manual_seed(torch.randint(2**62, (), generator=generator).item())
    z, history = space.inverse(start), []
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    for t in range(1, steps + 1):
        z = z.detach().requires_grad_()
        x = space.images(z)
        seen = x
        if shift:
            down, right = torch.randint(-shift, shift + 1, (2,), generator=draws).tolist()
            seen = torch.roll(seen, (down, right), (2, 3))
        if degrees or scale:
            turn, more = (2 * torch.rand(2, generator=draws, dtype=torch.float64) - 1).tolist()
            seen = turned(seen, math.radians(degrees * turn), 1 + scale * more)
        loss = value(seen) - l2 * (x**2).sum((1, 2, 3))
        if weight:
            down, right = (x[:, :, 1:] - x[:, :, :-1]) ** 2, (x[..., 1:] - x[..., :-1]) ** 2
            loss = loss - weight * (down.sum((1, 2, 3)) + right.sum((1, 2, 3)))
        history.append(loss.detach())
        (g,) = torch.autograd.grad(loss.sum(), z)
        with torch.no_grad():
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            z = z + rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
            z = space.settled(z)
            if sigma and t % every == 0:
                z = space.inverse(blurred(space.images(z), sigma))
    return space.images(z).detach(), torch.stack(history)


BOUNDS = ((-2.0, -1.5, -1.0), (1.0, 2.0, 3.0))
NONE = {"shift": 0, "degrees": 0, "scale": 0, "sigma": 0, "every": 1, "weight": 0}
PARTS = {
    "jitter": ({"shift": 3}, [jitter(3)]),
    "rotation and scale": ({"degrees": 20, "scale": 0.2}, [rotate_and_scale(20, 0.2)]),
    "blur": ({"sigma": 0.7, "every": 2}, [gaussian_blur(0.7, 2)]),
    "total variation": ({"weight": 0.02}, [total_variation(0.02)]),
    "none": ({}, []),
    "all": (
        {"shift": 2, "degrees": 10, "scale": 0.3, "sigma": 0.5, "every": 3, "weight": 0.01},
        [gaussian_blur(0.5, 3), jitter(2), total_variation(0.01), rotate_and_scale(10, 0.3)],
    ),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("space", [None, fourier(1.2), fourier(0.5, decorrelate=False)])
@pytest.mark.parametrize("bounds", [None, BOUNDS])
def test_regularisers_do_what_the_slow_loop_does(parts, space, bounds):
    changes, regularise = PARTS[parts]
    seed = 7 * len(parts) + (bounds is None)
    net, start = random_net(seed, SIZE), random_images(seed, 2, SIZE)
    options = {"steps": 5, "rate": 0.1, "l2": 0.01}
    with unchanged(net, start):
        got = ascend(
            net, 1, start=start, bounds=bounds, generator=seed,
            regularise=[*regularise, *([] if space is None else [space])], **options,
        )  # fmt: skip
    ends = None if bounds is None else tuple(torch.tensor(b).double().view(1, 3, 1, 1) for b in bounds)
    made = (space or fourier()).make(*SIZE, ends, start)
    if space is None:
        made = pixels(ends)
    net = copy.deepcopy(net).eval().requires_grad_(False)
    images, history = slow_ascent(
        lambda x: net(x)[:, 1], start, seed=seed, space=made, **options, **{**NONE, **changes}
    )
    torch.testing.assert_close(got.images, images, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(got.history, history, rtol=1e-6, atol=1e-8)
    if bounds is not None:
        assert ((got.frames >= ends[0]) & (got.frames <= ends[1])).all()


class pixels:
    """The pixels themselves, clipped."""

    def __init__(self, ends):
        self.settled = self.inverse = lambda x: x.clone() if ends is None else x.clamp(*ends)
        self.images = lambda x: x


def test_the_terms_add_up():
    net = random_net(3, SIZE)
    mine = Penalty("brightness", 0.3, lambda images: images.mean((1, 2, 3)))
    got = ascend(
        net, [1, 2], steps=4, rate=0.1, l2=0.02, size=SIZE, regularise=[total_variation(0.1), mine, jitter(1)]
    )
    assert list(got.terms) == ["objective", "l2", "total variation", "brightness"]
    total = got.terms["objective"] - got.terms["l2"] - got.terms["total variation"] - got.terms["brightness"]
    torch.testing.assert_close(got.history, total)
    start = got.frames[0]
    assert got.terms["l2"][0].tolist() == pytest.approx((0.02 * start.square().sum((1, 2, 3))).tolist())
    assert got.terms["brightness"][0].tolist() == pytest.approx((0.3 * start.mean((1, 2, 3))).tolist())


def test_parts_of_your_own():
    net, start = random_net(1, SIZE, head="average"), random_images(1, 1, SIZE)
    smaller = Transform("crop", lambda images, _draws: images[:, :, 1:, 2:])
    mirror = Correction("mirror", 2, lambda images: images.flip(3))
    got = ascend(
        net, 1, steps=2, rate=0.1, l2=0, start=start, regularise=[smaller, mirror], update="gradient"
    )
    x = start
    for _ in range(2):
        x = x.clone().requires_grad_()
        net.eval()(x[:, :, 1:, 2:])[0, 1].backward()
        x = (x + 0.1 * x.grad).detach()
    torch.testing.assert_close(got.images, x.flip(3))


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Transform("bad", lambda images, _draws: None), TypeError),
        (Transform("bad", lambda images, _draws: images[0]), ValueError),
        (Transform("bad", lambda images, _draws: images[:1]), ValueError),
        (Penalty("bad", 1.0, lambda images: 3.0), TypeError),
        (Penalty("bad", 1.0, lambda images: images.sum()), ValueError),
        (Correction("bad", 1, lambda images: images[..., 1:]), ValueError),
        (Correction("bad", 1, lambda images: images.numpy()), TypeError),
    ],
)
def test_parts_that_give_something_else_are_refused(part, kind):
    net = random_net(0, SIZE)
    with unchanged(net), pytest.raises(kind):
        ascend(net, [0, 1], steps=2, size=SIZE, regularise=[part])
    refuses("regularise", ascend, net, [0, 1], steps=2, size=SIZE, regularise=[part], says="'bad'")


# --- many at once


@pytest.mark.parametrize("update", ["adam", "gradient", "normalised"])
@pytest.mark.parametrize("regularise", [(), NATURAL, PARTS["all"][1]], ids=["plain", "natural", "all"])
def test_a_batch_of_objectives_is_as_many_single_climbs(update, regularise):
    net = random_net(5, SIZE)
    objectives = [
        4,
        unit("left.0", 2, "mean"),
        {unit("body", 0): 1, 3: 0.5},
        class_probability(1),
        unit("head", 0),
    ]
    options = {
        "steps": 4, "rate": 0.1, "l2": 0.01, "regularise": regularise, "update": update, "bounds": (-2, 2),
        "generator": 3, "keep_every": 2,
    }  # fmt: skip
    with unchanged(net):
        together = ascend(net, objectives, size=SIZE, **options)
    for n, objective in enumerate(objectives):
        alone = ascend(net, objective, start=together.frames[0][n : n + 1], **options)
        torch.testing.assert_close(alone.frames[:, 0], together.frames[:, n], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(alone.history[:, 0], together.history[:, n], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [class_score, class_probability, lambda c: unit("right.0", c, "mean"), list])
def test_one_class_or_channel_for_each_image(make):
    net, start = random_net(2, SIZE), random_images(2, 1, SIZE)
    chosen = [2, 0, 1, 2]
    options = {"steps": 3, "rate": 0.2, "l2": 0.01, "start": start}
    got = ascend(net, make(chosen), **options)
    assert got.images.shape == (4, 3, *SIZE)
    for n, c in enumerate(chosen):
        alone = ascend(net, make([c]), **options)
        torch.testing.assert_close(got.images[n], alone.images[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({"objective": 1}, 1),
        ({"objective": 1, "batch": 4}, 4),
        ({"objective": [1, 2, 3]}, 3),
        ({"objective": torch.tensor([1, 2])}, 2),
        ({"objective": [1, 2, 3], "batch": 3}, 3),
        ({"objective": [1, 2, 3], "start": random_images(0, 1, SIZE)}, 3),
        ({"objective": [1, 2], "start": random_images(0, 2, SIZE)}, 2),
        ({"objective": 1, "start": random_images(0, 5, SIZE)}, 5),
        ({"objective": {1: 1.0, class_score([2, 3]): 0.5}}, 2),
        ({"objective": 1, "start": random_images(0, 1, SIZE), "batch": 2}, 2),
        ({"objective": [{1: 1}]}, 1),
    ],
)
def test_how_many_images_there_are(options, n):
    if "start" not in options:
        options["size"] = SIZE
    got = ascend(random_net(0, SIZE), steps=2, **options)
    assert got.images.shape == (n, 3, *SIZE)
    assert got.history.shape == (2, n)


def test_several_images_of_one_objective_start_and_end_apart():
    got = ascend(random_net(0, SIZE), 1, steps=3, size=SIZE, batch=3)
    for a, b in itertools.combinations(range(3), 2):
        assert (got.frames[0][a] - got.frames[0][b]).abs().mean() > 0.01
        assert (got.images[a] - got.images[b]).abs().mean() > 0.01


# --- what is computed and what is kept


@pytest.mark.parametrize(
    ("objective", "last"),
    [
        (unit("stem", 0), "stem"),
        (unit("body.1", 1), "body.1"),
        ([unit("left.0", 0), unit("body.1", 1)], "left.0"),
        ({unit("pool", 0): 1, unit("stem", 0): 2}, "pool"),
        ({3: 1, unit("stem", 0): 2}, "head"),
        (3, "head"),
    ],
)
def test_the_network_stops_at_the_deepest_layer_asked_for(objective, last):
    net, calls = random_net(0, SIZE), []
    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda _m, _x, name=name: calls.append(name))
    net(random_images(0, 1, SIZE))
    once = calls[: calls.index(last) + 1]
    calls.clear()
    with unchanged(net):
        ascend(net, objective, steps=3, size=SIZE, keep_every=1)
    assert calls == 3 * once


def test_each_step_is_one_forward_and_one_backward_pass():
    net, calls = random_net(0, SIZE), []
    net.stem.register_forward_pre_hook(lambda *_: calls.append("forward"))
    net.stem.register_full_backward_pre_hook(lambda *_: calls.append("backward"))
    ascend(net, 2, steps=3, size=SIZE)
    assert calls == ["forward", "backward"] * 3


@pytest.mark.parametrize(
    ("steps", "keep_every", "kept"),
    [
        (7, None, (0, 7)),
        (7, 3, (0, 3, 6, 7)),
        (6, 3, (0, 3, 6)),
        (3, 1, (0, 1, 2, 3)),
        (2, 5, (0, 2)),
        (1, 1, (0, 1)),
    ],
)
def test_frames(steps, keep_every, kept):
    net = random_net(1, SIZE)
    options = {"rate": 0.1, "size": SIZE, "batch": 2, "generator": 5}
    got = ascend(net, 1, steps=steps, keep_every=keep_every, **options)
    assert got.frame_steps == kept
    assert got.frames.shape == (len(kept), 2, 3, *SIZE)
    assert torch.equal(got.frames[-1], got.images)
    for frame, t in zip(got.frames, kept, strict=True):
        if t:
            assert torch.equal(frame, ascend(net, 1, steps=t, **options).images)
    # L of a frame before the next step, if nothing is drawn
    plain = ascend(net, 1, steps=steps, keep_every=1, l2=0.1, start=got.frames[0], **PLAIN, rate=0.1)
    for t in range(steps):
        frame = plain.frames[t]
        want = evaluate(net, frame, 1) - 0.1 * frame.square().sum((1, 2, 3))
        torch.testing.assert_close(plain.history[t], want)


def test_an_image_of_its_own_is_given_back():
    start = random_images(0, 2, SIZE)
    got = ascend(random_net(0, SIZE), 1, steps=1, start=start, regularise=())
    assert not {t.untyped_storage().data_ptr() for t in (start,)} & {
        t.untyped_storage().data_ptr() for t in (got.images, got.frames)
    }
    assert not any(t.requires_grad for t in (got.images, got.frames, got.history, *got.terms.values()))


def test_generators_and_seeds():
    net = random_net(0, SIZE)

    def climb(generator, **options):
        return ascend(net, 1, steps=3, size=SIZE, generator=generator, **options).images

    with unchanged(net):
        first = climb(7)
        assert torch.equal(first, climb(7))
        assert not torch.equal(first, climb(8))
        generator = torch.Generator().manual_seed(7)
        assert torch.equal(first, climb(generator))
        assert not torch.equal(first, climb(generator)), "a generator goes on where it stands"
        assert torch.equal(climb(0), ascend(net, 1, steps=3, size=SIZE).images)
        # the draws of the steps do not depend on the noise
        two = ascend(net, 1, steps=3, size=SIZE, generator=7, batch=2).images
        torch.testing.assert_close(two[:1], first, rtol=1e-9, atol=1e-11)


def test_size_and_start():
    net = random_net(0, (16, 16), head="average")
    assert ascend(net, 1, steps=1).images.shape == (1, 3, 224, 224)
    assert ascend(net, 1, steps=1, size=20).images.shape == (1, 3, 20, 20)
    assert ascend(net, 1, steps=1, size=(12, 17)).images.shape == (1, 3, 12, 17)
    assert ascend(net, 1, steps=1, size=np.int64(13)).images.shape == (1, 3, 13, 13)
    start = random_images(0, 1, (11, 13))
    assert ascend(net, 1, steps=1, start=start).images.shape == start.shape
    assert ascend(net, 1, steps=1, start=start, size=(11, 13)).images.shape == start.shape


@pytest.mark.parametrize(
    "bounds",
    [
        (-1, 1),
        [-1.0, np.float32(1)],
        (torch.tensor([-1.0, -1, -1]), torch.ones(3)),
        ((-1, -1, -1), [1, 1, 1]),
        torch.tensor([[-1.0] * 3, [1.0] * 3]),
        (np.array([-1.0, -1, -1]), torch.tensor(1.0)),
    ],
    ids=range(6),
)
def test_bounds_of_every_form(bounds):
    net = random_net(0, SIZE)
    want = ascend(net, 1, steps=3, size=SIZE, bounds=(-1, 1))
    with unchanged(net):
        assert torch.equal(ascend(net, 1, steps=3, size=SIZE, bounds=bounds).images, want.images)
    assert want.images.abs().max() <= 1


def test_a_start_beyond_the_bounds_is_brought_inside():
    net, start = random_net(0, SIZE), 3 * random_images(0, 1, SIZE)
    for regularise in ((), NATURAL):
        got = ascend(net, 1, steps=1, rate=1e-9, start=start, bounds=(-1, 1), regularise=regularise, l2=0)
        torch.testing.assert_close(got.frames[0], start.clamp(-1, 1), rtol=0, atol=0.005)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("regularise", [(), NATURAL], ids=["plain", "natural"])
def test_dtypes(dtype, regularise):
    net = random_net(6, SIZE, dtype=dtype)
    options = {"steps": 4, "size": SIZE, "rate": 0.05, "regularise": regularise}
    got = ascend(net, unit("body", 1, "mean"), **options)
    assert got.images.dtype == got.frames.dtype == dtype
    assert got.history.dtype == torch.promote_types(dtype, torch.float32)
    if dtype == torch.float32:  # the noise is drawn in that type, so only this far
        start = got.frames[0].double()
        want = ascend(net.double(), unit("body", 1, "mean"), start=start, **{**options, "size": None})
        assert (got.images.double() - want.images).abs().max() < 1e-3


def test_many_small_steps_add_up_in_half_precision():
    """0.001 added to 1 is lost in bfloat16; a thousand of them are not."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1).bfloat16())
    start = torch.ones(1, 3, 2, 2, dtype=torch.bfloat16)
    got = ascend(net, 0, steps=500, rate=0.001, l2=0, start=start, regularise=())
    assert (got.images.float() - 1).abs().min() > 0.3


# --- other modes, other kinds of model


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inside_other_modes(mode):
    net, start = random_net(0, SIZE), random_images(0, 1, SIZE)
    for regularise in ((), NATURAL):
        options = {"steps": 2, "regularise": regularise}
        want = ascend(net, 1, start=start, **options).images
        with mode():
            made_inside = start + 0
            with unchanged(net, start, made_inside):
                for x in (start, made_inside):
                    got = ascend(net, 1, start=x, **options)
                    assert torch.equal(got.images, want)
        assert not any(t.is_inference() for t in (got.images, got.frames, got.history))


@pytest.mark.parametrize("space", [(), (fourier(),), (jitter(1),)])
def test_a_network_whose_first_step_is_in_place(space):
    net = random_net(0, SIZE, in_place_first=True)
    still = copy.deepcopy(net)
    still.entry = nn.ReLU()
    start = random_images(0, 2, SIZE)
    options = {"steps": 3, "start": start, "regularise": [total_variation(), *space]}
    with unchanged(net, start):
        got = ascend(net, 1, **options)
    assert torch.equal(got.images, ascend(still, 1, **options).images)


def test_a_start_that_requires_gradients():
    net, start = random_net(0, SIZE), random_images(0, 1, SIZE).requires_grad_()
    start.grad = torch.ones_like(start)
    want = ascend(net, 1, steps=2, start=start.detach().clone())
    for x in (start, start * 1):
        with unchanged(net, start):
            got = ascend(net, 1, steps=2, start=x)
        assert torch.equal(got.images, want.images)


def test_frozen_compiled_and_wrapped_networks():
    net = random_net(0, SIZE)
    want = ascend(net, 1, steps=2, size=SIZE).images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        traced = torch.jit.trace(net, random_images(0, 1, SIZE))
    with unchanged(traced):
        torch.testing.assert_close(ascend(traced, 1, steps=2, size=SIZE).images, want, rtol=1e-9, atol=1e-11)
    refuses("layer", ascend, traced, unit("stem", 0), size=SIZE, says="TorchScript")
    net.requires_grad_(False)
    net.stem.weight.requires_grad_(True)
    with unchanged(net):
        assert torch.equal(ascend(net, 1, steps=2, size=SIZE).images, want)


def test_a_model_without_parameters_gets_single_precision():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert ascend(net, 1, steps=1, size=5).images.dtype == torch.float32


def test_gradients_that_are_there_already_stay():
    net = random_net(0, SIZE, train=True)
    net(random_images(0, 2, SIZE)).sum().backward()
    with unchanged(net):
        ascend(net, 1, steps=2, size=SIZE)


def test_progress_shows_a_bar(capsys):
    net = random_net(0, SIZE)
    quiet = ascend(net, 1, steps=4, size=SIZE).images
    assert capsys.readouterr().err == ""
    shown = ascend(net, 1, steps=4, size=SIZE, progress=True).images
    assert "gradient ascent: 100%" in capsys.readouterr().err
    assert torch.equal(quiet, shown)


# --- cleaned up


class Draws(nn.Module):
    """Draws from every global source of random numbers, in eval mode too."""

    def forward(self, x):
        shift = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return F.dropout(x, 0.5, training=True) + shift


class Breaks(nn.Module):
    """Raises in its forward or its backward pass, at the given call."""

    def __init__(self, error, call=1, backward=False):
        super().__init__()
        self.error, self.call, self.backward = error, call, backward

    def forward(self, x):
        self.call -= 1
        if self.call or not self.backward:
            if self.call == 0:
                raise self.error
            return x
        error = self.error

        class Step(torch.autograd.Function):
            @staticmethod
            def forward(_ctx, value):
                return value.clone()

            @staticmethod
            def backward(_ctx, _gradient):
                raise error

        return Step.apply(x)


def disturbed(seed, **parts):
    """A network in train mode, with mixed flags and gradients, and some of its layers replaced."""
    net = random_net(seed, SIZE, train=True, in_place_first=True)
    net.body[1].eval()
    net.stem.weight.grad = torch.ones_like(net.stem.weight)
    net.head.bias.requires_grad_(False)
    for name, layer in parts.items():
        setattr(net, name, layer)
    return net


@pytest.mark.parametrize("objective", [1, class_probability([1, 2]), unit("pool", 0), [unit("head", 1), 2]])
@pytest.mark.parametrize("regularise", [(), NATURAL], ids=["plain", "natural"])
def test_left_as_it_was_by_a_normal_call(objective, regularise):
    net = disturbed(0, stem_norm=Draws(), drop=Draws())
    with unchanged(net):
        ascend(net, objective, steps=3, size=SIZE, regularise=regularise)


ERRORS = [RuntimeError("broken"), KeyboardInterrupt(), MemoryError(), SystemExit(1), StopIteration()]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("place", ["entry", "body", "pool"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("call", [1, 3])
def test_left_as_it_was_when_a_pass_breaks(error, place, backward, call):
    inner = nn.Sequential(getattr(random_net(0), place), Breaks(error, call, backward))
    net = disturbed(0, **{place: inner})
    climb = {"steps": 4, "size": SIZE, "progress": call == 3}
    with unchanged(net):
        if isinstance(error, KeyboardInterrupt) and call == 3:
            with pytest.warns(UserWarning, match="after 2 of 4 steps"):
                ascend(net, 1, **climb)
        else:
            with pytest.raises(type(error)):
                ascend(net, [unit("pool", 0), unit("pool", 1)], **climb)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("done", [1, 2, 5])
def test_an_interrupted_climb_gives_back_what_there_is(done, backward):
    net = disturbed(0, drop=Breaks(KeyboardInterrupt(), done + 1, backward))
    options = {"size": SIZE, "keep_every": 2, "generator": 4}
    with unchanged(net), pytest.warns(UserWarning, match=f"interrupted after {done} of 6 steps"):
        got = ascend(net, [1, 2], steps=6, **options)
    assert not got.complete
    net.drop.call = -1
    want = ascend(net, [1, 2], steps=done, **options)
    assert want.complete
    assert torch.equal(got.images, want.images)
    assert torch.equal(got.frames, want.frames)
    assert got.frame_steps == want.frame_steps
    assert torch.equal(got.history, want.history)


@pytest.mark.parametrize(
    "objective",
    [9, unit("nowhere", 0), unit("pool", 99), unit("pool", 0, (99, 0)), [unit("stem", 0), 77], {5: 1.0}],
)
def test_left_as_it_was_by_a_wrong_objective(objective):
    net = disturbed(0)
    with unchanged(net), pytest.raises(ValueError):
        ascend(net, objective, steps=2, size=SIZE)


# --- climbs that run away


def test_a_climb_that_runs_away_says_when_and_what_to_lower():
    net, start = random_net(0, SIZE, dtype=torch.float32), random_images(0, 2, SIZE, torch.float32)
    rate, l2 = 2.0, 3.0  # each step turns x into (1 - 12) x
    _, history, *_ = plain_loop(function_of(net, OBJECTIVES["score"][1]), start, 60, rate, l2)
    first = int((~history.isfinite()).any(1).nonzero()[0])
    with unchanged(net, start):
        said = refuses("rate", ascend, net, 3, steps=60, rate=rate, l2=l2, start=start, **PLAIN)
    assert f"after {first} steps" in said
    assert "lower rate or l2" in said
    assert "-11 x" in said
    assert ascend(net, 3, steps=first // 2, rate=rate, l2=l2, start=start, **PLAIN).images.isfinite().all()


def test_a_climb_that_runs_away_at_its_last_step():
    net, start = random_net(0, SIZE, dtype=torch.float32), random_images(0, 1, SIZE, torch.float32)
    said = refuses("rate", ascend, net, 3, steps=1, rate=3e38, l2=10.0, start=start, **PLAIN)
    assert "after 1 steps the images are not finite" in said


def test_a_rate_that_is_too_high_without_a_penalty():
    class Square(nn.Module):
        def forward(self, x):
            return x.square().sum((2, 3))

    said = refuses(
        "rate", ascend, Square(), 1, steps=300, rate=10.0, l2=0, size=4, says="lower rate", **PLAIN
    )
    assert "l2" not in said


def test_an_objective_that_is_not_finite_at_the_start():
    class Broken(nn.Module):
        def forward(self, x):
            return (x - 10).log().mean((2, 3))

    refuses("objective", ascend, Broken(), 1, steps=3, size=4, says="finite value .* starts from")


# --- errors

NET, START = random_net(0, SIZE), random_images(0, 2, SIZE)


def refused(argument, says=None, objective=1, model=NET, **options):
    options = {"steps": 2, **({} if "start" in options else {"size": SIZE}), **options}
    return refuses(argument, ascend, model, objective, says=says, **options)


NO_INTS = [None, "3", 1.5, [1], True, torch.tensor(1.5), 0, -1]
NO_NUMBERS = [None, "3", [1], torch.ones(1), math.nan, math.inf, True, -0.5]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("model", [None, "vgg16", nn.Linear, torch.relu]),
        ("steps", NO_INTS),
        ("rate", [*NO_NUMBERS, 0, 0.0]),
        ("l2", NO_NUMBERS),
        ("size", ["large", 1.5, (3, 4, 5), (3,), [4, "5"], 0, (4, 0), True]),
        ("update", [None, "sgd", "Adam", 1]),
        ("keep_every", [v for v in NO_INTS if v is not None]),
        ("batch", [v for v in NO_INTS if v is not None]),
        ("generator", [None, "0", 1.5, -1, True]),
        ("progress", [None, 1, "yes"]),
        ("regularise", [None, "jitter", [jitter], [3], jitter(), [fourier(), fourier()]]),
        (
            "bounds",
            [
                1, "ab", (0,), (0, 1, 2), (1, 0), (0, 0), ("0", "1"), (0, math.inf), (math.nan, 1),
                ((0, 0), 1), ((0, 0, 2), (1, 1, 1)), (None, 1), torch.zeros(3), (True, 2),
            ],
        ),
        (
            "start",
            [
                np.zeros((1, 3, *SIZE)), START[0], START.float(), START.byte(), START[:, :2], START[:0],
                START * math.nan, "noise",
            ],
        ),
        (
            "objective",
            [
                None, "dog", 1.5, True, [], -1, 9, [1, 9], {}, {1: "2"}, {1: math.nan}, {1: None}, {"a": 1},
                [unit("stem", 0), "dog"], [unit("stem", [0, 1]), 1],
                {class_score([1, 2]): 1, class_score([1]): 2},
                [[1, 2], unit("stem", 0)],
            ],
        ),
    ],
)  # fmt: skip
def test_arguments_refused(argument, values):
    for value in values:
        with unchanged(NET):
            refused(argument, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "options", "says"),
    [
        ("batch", {"objective": [1, 2], "batch": 3}, "expected 2"),
        ("start", {"objective": [1, 2, 3], "start": START}, "1 image or 3"),
        ("start", {"batch": 3, "start": START}, "1 image or 3"),
        ("size", {"start": START, "size": (10, 9)}, "the size of start"),
        ("layer", {"objective": unit("stemm", 0)}, "'stem'"),
        ("layer", {"objective": {unit("nowhere", 0): 1}}, "nearest"),
        ("channel", {"objective": unit("stem", 99)}, "between 0"),
        ("position", {"objective": [unit("stem", 0, (99, 0)), 1]}, "row below"),
        ("objective", {"objective": [unit("stem", 0), 1.5]}, "an int"),
        ("objective", {"objective": [0, 77, unit("stem", 0)]}, "between 0 and 4, got 77"),
    ],
)
def test_arguments_that_do_not_fit_together(argument, options, says):
    with unchanged(NET):
        refused(argument, says, **options)


class Cut(nn.Module):
    """Scores through which no gradient reaches the images."""

    def __init__(self, cut):
        super().__init__()
        self.cut, self.layer = cut, nn.Conv2d(3, 4, 3).double()

    def forward(self, x):
        return self.cut(self.layer, x)


@pytest.mark.parametrize(
    "cut",
    [
        lambda layer, x: layer(x.detach()).mean((2, 3)),
        lambda layer, x: layer(x).mean((2, 3)).detach(),
        lambda layer, x: layer.bias.expand(len(x), -1),
    ],
)
def test_an_objective_that_does_not_depend_on_the_images(cut):
    net = Cut(cut)
    with unchanged(net):
        refused("objective", "differentiable", model=net)


@pytest.mark.parametrize("give", [lambda x: [x], lambda x: x, lambda x: x.mean((2, 3))[:1]])
def test_a_network_that_gives_no_scores(give):
    class Gives(nn.Module):
        def forward(self, x):
            return give(x)

    refused("model", model=Gives(), objective=[1, 2])


# --- the network of the course


def shifted(images, fill, down, right):
    """Moved by some pixels; `fill` [3] comes in."""
    height, width = images.shape[2:]
    result = fill.view(1, 3, 1, 1).expand_as(images).clone()
    result[:, :, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = images[
        :, :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("breed", ["bull mastiff", "dalmatian", "golden retriever"])
def test_the_default_setting_makes_dogs_that_stand_a_shift_and_another_size(breed):
    """256 steps at 224 × 224; judged as a file of 8 bits would be, not as the floats that came out."""
    from lecture7_utils.shop.models import load_model

    net = load_model("efficientnet_lite0", "cpu")
    dog, grey = net.index(breed), net.colour(127, 127, 127)
    bounds = net.colour(0, 0, 0), net.colour(255, 255, 255)
    made = ascend(net, dog, bounds=bounds).images
    low, high = (end.view(1, 3, 1, 1) for end in bounds)
    stored = low + (high - low) * (net.display(made) * 255).round() / 255

    def probability(images):
        return evaluate(net, images, class_probability(dog)).min().item()

    assert stored.shape == (1, 3, 224, 224)
    assert probability(stored) > 0.9
    moves = [(down, right) for down in (-8, 0, 8) for right in (-8, 0, 8) if down or right]
    assert probability(torch.cat([shifted(stored, grey, *move) for move in moves])) > 0.5
    for factor in (0.9, 1.1):
        resized = F.interpolate(stored, scale_factor=factor, mode="bilinear", antialias=True)
        assert probability(resized) > 0.5


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("objective", [1, unit("pool", [0, 1]), [unit("stem", 0), {2: 1.0}]])
@pytest.mark.parametrize("regularise", [(), NATURAL], ids=["plain", "natural"])
def test_on_a_gpu(objective, regularise):
    net = random_net(0, SIZE)
    options = {"steps": 5, "rate": 0.1, "regularise": regularise, "bounds": (-2, 2)}
    n = 1 if objective == 1 else 2
    start = random_images(0, n, SIZE)
    want = ascend(net, objective, start=start, generator=torch.Generator().manual_seed(3), **options)
    net, start = net.cuda(), start.cuda()
    state = torch.cuda.get_rng_state()
    with unchanged(net, start):
        generator = torch.Generator().manual_seed(3)  # draws of the CPU: the same on both devices
        got = ascend(net, objective, start=start, generator=generator, **options)
    assert got.images.device == start.device == got.history.device
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(got.images.cpu(), want.images, rtol=1e-6, atol=1e-8)
    assert ascend(net, objective, steps=2, size=SIZE).images.device == start.device
    refuses("rate", ascend, net, 1, steps=400, rate=9.0, l2=9.0, start=start, **PLAIN, says="lower rate")
