"""Targets: their values from first principles, units that stop the network, and what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lecture7_utils.kernels.targets import (
    ClassProbability,
    ClassScore,
    Unit,
    as_target,
    class_probability,
    class_score,
    class_scores,
    evaluate,
    target_count,
    unit,
    values,
)
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SIZE = (11, 13)
MAPS = ["stem", "stem_norm", "body.0", "body.2", "body", "depthwise", "left", "right.1", "pool", "drop"]


def plain(net, images):
    """Scores in eval mode of a copy, as nested lists."""
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        return net(images.detach().clone()).tolist()


def layer_output(net, layer, images):
    """What the layer gives in one pass of a copy of the network in eval mode."""
    net, found = copy.deepcopy(net).eval(), []

    def hook(_module, _inputs, output):
        found.append(output.detach().clone())

    net.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        net(images.detach().clone())
    return found[0]


# --- values


@given(seed=st.integers(0, 10**6), k=st.integers(0, 4), train=st.booleans())
@settings(max_examples=25)
def test_class_score_and_probability(seed, k, train):
    net, images = random_net(seed, SIZE, train=train, in_place_first=train), random_images(seed, 3, SIZE)
    scores = plain(net, images)
    with unchanged(net, images):
        one = evaluate(net, images, k)
        same = evaluate(net, images, class_score(k))
        share = evaluate(net, images, class_probability(k))
    assert one.tolist() == [row[k] for row in scores] == same.tolist()
    for row, p in zip(scores, share.tolist(), strict=True):
        assert p == pytest.approx(math.exp(row[k]) / sum(map(math.exp, row)), rel=1e-12)


@given(classes=st.lists(st.integers(0, 4), min_size=4, max_size=4))
@settings(max_examples=15)
def test_one_class_for_each_image(classes):
    net, images = random_net(1, SIZE), random_images(1, 4, SIZE)
    scores = plain(net, images)
    want = [row[k] for row, k in zip(scores, classes, strict=True)]
    as_tensor = torch.tensor(classes)
    for form in (
        classes,
        tuple(classes),
        as_tensor,
        as_tensor.to(torch.uint8),
        np.array(classes),
        list(as_tensor),
    ):
        assert evaluate(net, images, form).tolist() == want
        assert class_score(form) == ClassScore(tuple(classes))
    probabilities = torch.tensor(scores).double().softmax(1)
    got = evaluate(net, images, class_probability(classes))
    torch.testing.assert_close(got, probabilities[torch.arange(4), as_tensor])


@given(seed=st.integers(0, 10**6), layer=st.sampled_from(MAPS), data=st.data())
@settings(max_examples=40)
def test_units(seed, layer, data):
    net, images = random_net(seed, SIZE, train=seed % 2 == 0), random_images(seed, 2, SIZE)
    output = layer_output(net, layer, images).tolist()
    channels = data.draw(st.lists(st.integers(0, len(output[0]) - 1), min_size=2, max_size=2))
    i = data.draw(st.integers(0, len(output[0][0]) - 1))
    j = data.draw(st.integers(0, len(output[0][0][0]) - 1))
    maps = [image[k] for image, k in zip(output, channels, strict=True)]
    flat = [[value for row in one for value in row] for one in maps]
    with unchanged(net, images):
        largest = evaluate(net, images, unit(layer, channels))
        mean = evaluate(net, images, unit(layer, channels, "mean"))
        single = evaluate(net, images, unit(layer, torch.tensor(channels), (i, j)))
        for_all = evaluate(net, images, unit(layer, channels[0], [i, j]))
    assert largest.tolist() == [max(values) for values in flat]
    assert mean.tolist() == pytest.approx([math.fsum(values) / len(values) for values in flat], abs=1e-12)
    assert single.tolist() == [one[i][j] for one in maps]
    assert for_all.tolist() == [image[channels[0]][i][j] for image in output]


@pytest.mark.parametrize("target", [1, class_probability(1), unit("0", 2, (1, 1)), unit("0", [0, 2], (1, 1))])
def test_the_values_keep_nothing_else_in_memory(target):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    got = evaluate(net, random_images(0, 2, (8, 8), torch.float32), target)
    assert got.untyped_storage().nbytes() == 2 * got.element_size()


def test_unit_of_a_layer_without_positions():
    net, images = random_net(0), random_images(0)
    scores = plain(net, images)
    for position in ("max", "mean"):
        assert evaluate(net, images, unit("head", [2, 3], position)).tolist() == [scores[0][2], scores[1][3]]


def test_unit_computes_nothing_after_its_layer():
    net, images, calls = random_net(0), random_images(0), []
    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda _m, _x, name=name: calls.append(name))
    evaluate(net, images, unit("body.1", 0))
    assert calls == ["entry", "stem", "stem_norm", "body.0", "body.1"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inside_other_modes(mode):
    net, images = random_net(0), random_images(0)
    with mode(), unchanged(net, images):
        got = evaluate(net, images, [1, 2])
        unit_value = evaluate(net, images, unit("pool", 1))
    assert not got.requires_grad
    assert not unit_value.requires_grad
    assert got.tolist() == [row[k] for row, k in zip(plain(net, images), (1, 2), strict=True)]


def test_images_that_require_gradients():
    net, images = random_net(0, in_place_first=True), random_images(0).requires_grad_()
    with unchanged(net, images):
        assert evaluate(net, images, 0).tolist() == [row[0] for row in plain(net, images)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    net, images = random_net(5, dtype=dtype), random_images(5, dtype=dtype)
    for target in (
        1,
        class_probability(1),
        unit("left", 1),
        unit("left", 1, "mean"),
        unit("left", 1, (0, 1)),
    ):
        got = evaluate(net, images, target)
        assert got.dtype == dtype
        want = evaluate(net.double(), images.double(), target)
        torch.testing.assert_close(got.double(), want, rtol=0.05, atol=0.05)
        net.to(dtype)


def test_values_keep_the_graph():
    net, images = random_net(0), random_images(0).requires_grad_()
    for target in (class_score(1), class_probability(1), unit("pool", 1)):
        assert values(net, images, target).requires_grad


def test_kinds_and_counts():
    assert as_target(3) == class_score(3) == ClassScore(3)
    assert as_target([3, 4]) == ClassScore((3, 4))
    assert as_target(np.int64(3)) == as_target(torch.tensor(3)) == as_target(np.array(3)) == ClassScore(3)
    assert as_target(range(3)) == ClassScore((0, 1, 2))
    for target in (class_probability(1), unit("a", 1), class_score(2)):
        assert as_target(target) is target
        assert target_count(target) is None
    assert class_probability([1, 2]) == ClassProbability((1, 2))
    assert unit("a", [1, 2, 3], [4, 5]) == Unit("a", (1, 2, 3), (4, 5))
    assert target_count(unit("a", [1, 2, 3])) == 3
    assert target_count(class_score([1])) == 1
    assert hash(unit("a", [1], [4, 5])) == hash(unit("a", (1,), (4, 5)))


# --- errors

NO_CLASSES = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=20),
    st.binary(max_size=3),
    st.floats(),
    st.integers(max_value=-1),
    st.just([]),
    st.just(()),
    st.sets(st.integers()),
    st.dictionaries(st.integers(), st.integers()),
    st.lists(st.floats(), min_size=1),
    st.lists(st.booleans(), min_size=1),
    st.lists(st.text(), min_size=1),
    st.lists(st.lists(st.integers()), min_size=1),
    st.lists(st.integers(max_value=-1), min_size=1),
    st.sampled_from(
        [
            torch.tensor(1.0),
            torch.tensor([1.0, 2.0]),
            torch.tensor([True]),
            torch.tensor(True),
            torch.tensor([[1]]),
            torch.tensor([]),
            torch.tensor([-1]),
            torch.tensor(1j),
            np.array([[1]]),
            np.array([0.5]),
            np.array([True]),
            np.array(["a"]),
            np.array([]),
            object(),
            nn.ReLU(),
            len,
        ]
    ),
)


@given(NO_CLASSES)
def test_classes_refused(value):
    for make in (class_score, class_probability, as_target):
        refuses("target", make, value)
    refuses("channel", unit, "stem", value)


@pytest.mark.parametrize(
    "images", [None, np.zeros((1, 3, 4, 4)), torch.zeros(3, 4, 4), torch.full((1, 3, 4, 4), math.nan)]
)
def test_images_refused(images):
    refuses("images", evaluate, random_net(0), images, 0)


@pytest.mark.parametrize("model", [None, "vgg16", nn.ReLU, torch.relu])
def test_model_refused(model):
    refuses("model", evaluate, model, random_images(0), 0)


@given(st.one_of(st.none(), st.integers(), st.binary(), st.lists(st.text())))
def test_unit_layer_refused(layer):
    refuses("layer", unit, layer, 0)


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text().filter(lambda text: text not in ("max", "mean")),
        st.binary(),
        st.lists(st.integers(0, 9)).filter(lambda p: len(p) != 2),
        st.tuples(st.integers(max_value=-1), st.integers()),
        st.tuples(st.integers(0, 9), st.floats()),
        st.tuples(st.text(), st.text()),
        st.tuples(st.booleans(), st.booleans()),
        st.just(torch.tensor([1, 2])),
        st.just({1: 2, 3: 4}),
    )
)
def test_position_refused(position):
    refuses("position", unit, "stem", 0, position)


@pytest.mark.parametrize(
    "target", [5, 1000, [0, 5], class_probability(5), class_score([5, 0]), torch.tensor([0, 7])]
)
def test_class_that_the_network_does_not_have(target):
    net = random_net(0, train=True)
    with unchanged(net):
        refuses("target", evaluate, net, random_images(0), target, says="class between 0 and 4, got")


@pytest.mark.parametrize("target", [[0], [0, 1, 2], class_probability([1]), class_score([1, 2, 3])])
def test_classes_for_another_number_of_images(target):
    refuses(
        "target", evaluate, random_net(0), random_images(0), target, says="each of the 2 images, got [13]"
    )


def test_unit_that_the_layer_does_not_have():
    net, images = random_net(0, train=True), random_images(0)
    height, width = layer_output(net, "pool", images).shape[2:]
    with unchanged(net, images):
        refuses("channel", evaluate, net, images, unit("right", 3), says="channel between 0 and 2, got 3")
        refuses("channel", evaluate, net, images, unit("right", [0, 3]), says="got 3")
        refuses(
            "channel", evaluate, net, images, unit("right", [0, 1, 2]), says="each of the 2 images, got 3"
        )
        for position in ((height, 0), (0, width)):
            refuses(
                "position",
                evaluate,
                net,
                images,
                unit("pool", 0, position),
                says=f"below {height} and .*{width}",
            )
        refuses(
            "position",
            evaluate,
            net,
            images,
            unit("head", 0, (0, 0)),
            says="'head' gives one value a channel",
        )
        refuses("layer", evaluate, net, images, unit("poll", 0), says="'pool'")


def test_layer_of_another_shape():
    class Reshape(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape = shape

        def forward(self, x):
            return x.reshape(self.shape)

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), Reshape(2, 4, -1), Reshape(4, 2, -1, 14), Reshape(-1), Reshape(2, -1)
    )
    images = random_images(0, dtype=torch.float32)
    with unchanged(net, images):
        refuses("layer", evaluate, net, images, unit("1", 0), says=r"'1' to give \[N, C, H, W\] or \[N, C\]")
        refuses("layer", evaluate, net, images, unit("2", 0), says="one row for each of the 2 images")
        refuses("layer", evaluate, net, images, unit("3", 0))


@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda x: (x.flatten(1), x), "tuple"),
        (lambda x: {"logits": x.flatten(1)}, "dict"),
        (lambda x: None, "None"),
        (lambda x: x, r"\[2, K\]"),
        (lambda x: x.mean((1, 2, 3)), r"\[2, K\]"),
        (lambda x: x.flatten(1)[:1], r"\[2, K\]"),
        (lambda x: x.sum(), r"\[2, K\]"),
    ],
)
def test_network_that_gives_no_scores(give, says):
    class Odd(nn.Module):
        def forward(self, x):
            return give(x)

    refuses("model", evaluate, Odd(), random_images(0), 0, says=says)
    refuses("model", class_scores, Odd(), random_images(0), says=says)
