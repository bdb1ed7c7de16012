"""CAM and Grad-CAM against their definitions, slowly; boxes against a flood fill; errors; cleaning up."""

import copy
import gc
import random
from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lecture7_utils.kernels.cam import Boxes, boxes, class_activation_map, grad_cam, largest_box
from lecture7_utils.kernels.targets import class_probability, class_score, evaluate, unit
from lecture7_utils.shop.petnet import PetNet, to_global_average_pooling
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SEEDS = range(6)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    assert a.shape == b.shape
    scale = max(float(b.abs().max()), 1e-3)
    assert float((a - b).abs().max()) <= tolerance * scale


# ---- slow references


def map_by_definition(features: Tensor, weight: Tensor, classes: list[int]) -> Tensor:
    """M_c(i, j) = sum_k w_k^c f_k(i, j), term by term."""
    n, channels, h, w = features.shape
    result = features.new_zeros(n, h, w)
    for image in range(n):
        for i in range(h):
            for j in range(w):
                result[image, i, j] = sum(
                    weight[classes[image], k] * features[image, k, i, j] for k in range(channels)
                )
    return result


def by_full_graph(net: nn.Module, images: Tensor, layer: str, score, *, entering: bool = False) -> Tensor:
    """sum_k alpha_k A_k from a graph of the whole network, one image after the other.

    score(outputs, n): the value from the dict of all layers' outputs and the number of the image.
    entering: A is what goes into the layer, not what it gives.
    """
    maps = []
    for n, image in enumerate(images):
        outputs: dict[str, Tensor] = {}
        kept: list[Tensor] = []

        def keep(tensor, kept=kept):
            # copies: the network may go on in place
            kept.append(tensor.clone())
            kept[0].retain_grad()
            return kept[0].clone()

        def note(name, outputs=outputs):
            def hook(_module, _inputs, output):
                outputs[name] = output.clone()

            return hook

        handles = []
        for name, module in net.named_modules():
            if name == layer and entering:
                handles.append(module.register_forward_pre_hook(lambda _m, inputs, k=keep: (k(inputs[0]),)))
            elif name == layer:
                handles.append(module.register_forward_hook(lambda _m, _i, output, k=keep: k(output)))
            handles.append(module.register_forward_hook(note(name)))
        try:
            net(image[None].clone().requires_grad_(True))
        finally:
            for handle in handles:
                handle.remove()
        score(outputs, n).backward()
        a, gradient = kept[0].detach()[0], kept[0].grad[0]
        alpha = [gradient[k].sum() / gradient[k].numel() for k in range(len(a))]
        maps.append(sum(alpha[k] * a[k] for k in range(len(a))))
        net.zero_grad(set_to_none=True)
    return torch.stack(maps)


def bilinear(grid: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation with pixel centres at one half, clamped at the border, from the formula."""
    h, w = grid.shape
    out = grid.new_zeros(height, width)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            i, j = int(v), int(u)
            i2, j2, dv, du = min(i + 1, h - 1), min(j + 1, w - 1), v - i, u - j
            above = (1 - du) * grid[i, j] + du * grid[i, j2]
            below = (1 - du) * grid[i2, j] + du * grid[i2, j2]
            out[y, x] = (1 - dv) * above + dv * below
    return out


# ---- networks


class Ended(nn.Module):
    """Convolutions to a map [N, 6, h, w], then the end given as a function of (net, map)."""

    def __init__(self, end, seed: int = 0, classes: int = 4):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3, padding=1)
            )
            self.head = nn.Linear(6, classes)
            self.wide = nn.Linear(6 * 64, classes)
            self.second = nn.Linear(classes, classes)
            self.kernel = nn.Conv2d(6, classes, 1)
            self.norm = nn.LayerNorm(6)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flat = nn.Flatten()
            self.drop = nn.Dropout(0.5)
        self.end = end
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, self.body(x))


AVERAGES = {
    "module": lambda m, x: m.head(torch.flatten(m.pool(x), 1)),
    "module, flatten and dropout modules": lambda m, x: m.head(m.drop(m.flat(m.pool(x)))),
    "functional": lambda m, x: m.head(F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "functional, indexed": lambda m, x: m.head(F.adaptive_avg_pool2d(x, (1, 1))[:, :, 0, 0]),
    "mean": lambda m, x: m.head(x.mean((2, 3))),
    "torch.mean": lambda m, x: m.head(torch.mean(x, dim=(3, 2))),
    "mean, kept and squeezed": lambda m, x: m.head(x.mean([-1, -2], keepdim=True).squeeze(3).squeeze(2)),
    "mean of means": lambda m, x: m.head(x.mean(3).mean(-1)),
    "mean of kept means": lambda m, x: m.head(x.mean(2, keepdim=True).mean((2, 3))),
    "mean of the flattened": lambda m, x: m.head(x.flatten(2).mean(2)),
    "mean of the viewed": lambda m, x: m.head(x.contiguous().view(len(x), 6, -1).mean(-1)),
    "1-d pooling": lambda m, x: m.head(F.adaptive_avg_pool1d(x.flatten(2), 1).squeeze(2)),
    "avg_pool2d of all": lambda m, x: m.head(F.avg_pool2d(x, kernel_size=x.shape[2:]).view(-1, 6)),
    "reshape, identity": lambda m, x: nn.Identity()(m.head(m.pool(x).reshape(x.shape[0], -1).contiguous())),
    "functional dropout": lambda m, x: m.head(
        F.dropout(F.dropout2d(m.pool(x), 0.3, False).flatten(1), 0.3, False)
    ),
    "dropout of the scores": lambda m, x: m.drop(m.head(x.mean((2, 3)))),
    "a convolution as the linear layer": lambda m, x: m.kernel(m.pool(x)).flatten(1),
    "relu before": lambda m, x: m.head(torch.relu(x).mean((2, 3))),
    "an average of averages": lambda m, x: m.head(F.adaptive_avg_pool2d(x, 3).mean((2, 3))),
    "after a gate": lambda m, x: m.head((x * torch.sigmoid(x.mean((2, 3), keepdim=True))).mean((2, 3))),
    "a side branch": lambda m, x: (F.relu(m.head(x.mean((2, 3)))), m.head(x.mean((2, 3))))[1],
}

# what the average itself gives
SCORES = {
    "convolution, average": lambda m, x: m.kernel(x).mean((2, 3)),
    "convolution, relu, average": lambda m, x: torch.flatten(m.pool(F.relu(m.kernel(x))), 1),
}

OTHERS = {
    "flatten": (lambda m, x: m.wide(x.flatten(1)), r"takes a map \[2, 6, 8, 8\] flattened"),
    "flatten and dropout": (lambda m, x: m.wide(m.drop(m.flat(x))), "flattened"),
    "maximum": (lambda m, x: m.head(x.amax((2, 3))), "no such average .* comes from linear"),
    "max pooling": (lambda m, x: m.head(F.adaptive_max_pool2d(x, 1).flatten(1)), "no such average"),
    "relu after": (lambda m, x: m.head(F.relu(x.mean((2, 3)))), r"average of a map .* on into relu"),
    "relu after, in place": (lambda m, x: m.head(x.mean((2, 3)).relu_()), "on into relu_"),
    "norm after": (lambda m, x: m.head(m.norm(x.mean((2, 3)))), "on into layer_norm"),
    "two layers": (
        lambda m, x: m.second(m.head(x.mean((2, 3)))),
        "linear layer after the average of a map .* on into linear",
    ),
    "softmax": (lambda m, x: m.head(x.mean((2, 3))).softmax(1), "on into softmax"),
    "scaled scores": (lambda m, x: m.head(x.mean((2, 3))) / 2, "on into"),
    "scaled average": (lambda m, x: m.head(2 * x.mean((2, 3))), "on into"),
    "average and maximum": (lambda m, x: m.head(x.mean((2, 3)) + x.amax((2, 3))), "on into (__)?add"),
    "two averages": (lambda m, x: m.head(x.mean((2, 3)) + (x * x).mean((2, 3))), "on into (__)?add"),
    "concatenated": (
        lambda m, x: m.head(torch.cat([x.mean((2, 3)), x.mean((2, 3))], 1)[:, 3:9]),
        "on into cat",
    ),
    "two heads": (lambda m, x: m.head(x.mean((2, 3))) + m.head(x.amax((2, 3))), "linear layer after .* add"),
    "rolled channels": (lambda m, x: m.head(x.mean((2, 3)).roll(1, 1)), "on into roll"),
    "indexed channels": (lambda m, x: m.head(x.mean((2, 3))[:, [5, 4, 3, 2, 1, 0]]), "on into __getitem__"),
    "rolled images": (lambda m, x: m.head(m.pool(x).flatten(1)[[1, 0]]), "on into __getitem__"),
    "some rows": (lambda m, x: m.head(x[:, :, 2:].amax(2).mean(2)), "no such average"),
    "a border of zeros": (lambda m, x: m.head(F.avg_pool2d(x, 8, padding=3)[:, :, 0, 0]), "no such average"),
    "another divisor": (
        lambda m, x: m.head(F.avg_pool2d(x, 8, divisor_override=3).flatten(1)),
        "no such average",
    ),
    "part of the map": (lambda m, x: m.head(F.avg_pool2d(x, 5).flatten(1)), "no such average"),
    "changed between": (
        lambda m, x: (p := m.pool(x), q := p.flatten(1), p.relu_(), m.head(q))[-1],
        "on into relu_",
    ),
    "map overwritten": (
        lambda m, x: (p := x.mean((2, 3)), x.relu_(), m.head(p))[-1],
        r"map \[2, 6, 8, 8\] that is overwritten",
    ),
    "active dropout": (lambda m, x: m.head(F.dropout(x.mean((2, 3)), 0.5)), "on into dropout"),
    "mean of images and places": (lambda m, x: m.head(x.mean((0, 2, 3)).expand(2, 6)), "no such average"),
}


def small_vgg(seed: int = 0) -> nn.Sequential:
    """Convolutions, in-place ReLUs and max pooling, a pooling that repeats nothing, a flatten head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 7, 3, padding=1),
            nn.BatchNorm2d(7),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        head = nn.Sequential(
            nn.Flatten(), nn.Linear(28, 9), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(9, 5)
        )
        net = nn.Sequential()
        net.features, net.pool, net.head = features, nn.AdaptiveAvgPool2d(2), head
    return net.double().eval()


FAMILIES = {
    "tf_efficientnet_lite0": ("classifier", "act"),
    "resnet18": ("fc", "layer4"),
    "mobilenet_v2": ("classifier.1", "features"),
    "densenet121": ("classifier", None),
    "squeezenet1_1": (None, "classifier.2"),
    "shufflenet_v2_x0_5": ("fc", "conv5"),
    "googlenet": ("fc", "inception5b"),
}


def family(name: str) -> nn.Module:
    """That architecture with random weights and calibrated batch norm, for 10 classes, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if name.startswith("tf_"):
            net = timm.create_model(name, num_classes=10)
        else:
            more = {"init_weights": True} if name == "googlenet" else {}
            net = getattr(torchvision.models, name)(num_classes=10, **more)
        net = net.double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
            elif isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0
        with torch.no_grad():
            net.train()(random_images(2, 4, (64, 64)))
    return net.eval()


# ---- class activation maps


@pytest.mark.parametrize("seed", SEEDS)
def test_cam_is_its_definition_on_random_networks(seed):
    size = random.Random(seed).choice([(16, 16), (17, 24), (21, 13)])
    net, images = random_net(seed, size, head="average"), random_images(seed, 3, size)
    classes = [seed % 5, 4, 0]
    seen = []
    with torch.no_grad():
        handle = net.drop.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
        scores = net(images)
        handle.remove()
    expected = map_by_definition(seen[0], net.head.weight.detach(), classes)
    with unchanged(net, images):
        got = class_activation_map(net, images, classes, size=None)
    close(got, expected)
    close(got.mean((1, 2)) + net.head.bias.detach()[classes], scores[[0, 1, 2], classes])
    # the layer's name changes nothing; one class for all is the same class for each
    assert torch.equal(class_activation_map(net, images, classes, layer="drop", size=None), got)
    one = class_activation_map(net, images, 2, size=None)
    assert torch.equal(class_activation_map(net, images, torch.tensor([2, 2, 2]), size=None), one)
    assert torch.equal(class_activation_map(net, images, class_score(2), size=None), one)


class Viewed(nn.Module):
    """Looks at a map as one row of features on the way: a view that the channels-last format has not."""

    def __init__(self):
        super().__init__()
        self.net = random_net(4, head="average").float()

    def forward(self, x):
        return self.net(x.view(len(x), -1).view(x.shape))


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
@pytest.mark.parametrize("viewed", [False, True])
def test_single_precision_takes_channels_last_where_the_network_lets_it(viewed, method):
    net = Viewed().eval() if viewed else random_net(4, head="average").float().eval()
    images = random_images(4, 3).float()
    exact = copy.deepcopy(net).double()
    expected = method(exact, images.double(), 2, size=None)
    formats = []

    def note(_module, inputs):
        formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    handle = first.register_forward_pre_hook(note)
    with unchanged(net, images):
        got = method(net, images, 2, size=None)
    handle.remove()
    assert formats == [torch.backends.mkldnn.is_available() and not viewed]
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert got.is_contiguous()


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_what_fails_in_both_formats_is_raised_once(method):
    net, images = random_net(4, head="average").float(), random_images(4).float()

    def fail(*_):
        raise RuntimeError("of its own")

    handle = net.head.register_forward_hook(fail)
    with unchanged(net, images), pytest.raises(RuntimeError, match=r"^of its own$") as caught:
        method(net, images, 1)
    handle.remove()
    assert caught.value.__context__ is None


@pytest.mark.parametrize("end", AVERAGES)
def test_every_spelling_of_an_average_is_recognised(end):
    net, images = Ended(AVERAGES[end]), random_images(3, 2)
    features = net.body(images).detach()
    if end == "relu before":
        features = features.relu()
    if end == "an average of averages":  # of unequal parts: what is averaged globally is their map
        features = F.adaptive_avg_pool2d(features, 3)
    if end == "after a gate":
        features = features * torch.sigmoid(features.mean((2, 3), keepdim=True))
    weight = net.kernel.weight.flatten(1) if "convolution" in end else net.head.weight
    bias = net.kernel.bias if "convolution" in end else net.head.bias
    got = class_activation_map(net, images, [1, 3], size=None)
    close(got, map_by_definition(features, weight.detach(), [1, 3]))
    close(got.mean((1, 2)) + bias.detach()[[1, 3]], evaluate(net, images, [1, 3]))


@pytest.mark.parametrize("end", SCORES)
def test_where_the_average_is_the_score_the_map_holds_the_bias(end):
    net, images = Ended(SCORES[end]), random_images(4, 2)
    got = class_activation_map(net, images, [0, 2], size=None)
    expected = net.kernel(net.body(images)).detach()[[0, 1], [0, 2]]
    close(got, expected.relu() if "relu" in end else expected)
    close(got.mean((1, 2)), evaluate(net, images, [0, 2]))


@pytest.mark.parametrize("end", OTHERS)
def test_any_other_end_is_refused_with_what_was_found(end):
    function, found = OTHERS[end]
    net, images = Ended(function), random_images(5, 2)
    with unchanged(net, images):
        says = refuses("model", class_activation_map, net, images, 1, says=found)
    assert "grad_cam" in says
    assert "to_global_average_pooling" in says


def test_a_linear_layer_on_each_row_is_no_such_end():
    # an average in the last dimension but channels in the second: [N, 1, C] is not [N, C]
    net = Ended(lambda m, x: m.head(x.mean((2, 3))[:, None])[:, 0])
    refuses("model", class_activation_map, net, random_images(0), 0, says="average of a map")


def test_a_grouped_convolution_is_no_linear_layer():
    net = Ended(lambda m, x: m.grouped(m.pool(x)).flatten(1))
    net.grouped = nn.Conv2d(6, 4, 1, groups=2).double()
    refuses("model", class_activation_map, net, random_images(0), 0, says="on into conv2d")


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    """The identity mean(M_c) + b_c = s_c, and Grad-CAM without ReLU = CAM / (h w), found without names."""
    head, layer = FAMILIES[name]
    net, images, classes = family(name), random_images(7, 2, (70, 64)), [3, 8]
    bias = net.get_submodule(head).bias.detach()[classes] if head else torch.zeros(2).double()
    with unchanged(net, images):
        cam = class_activation_map(net, images, classes, size=None)
    scores = evaluate(net, images, classes)
    assert cam.abs().max() > 1e-3
    close(cam.mean((1, 2)) + bias, scores, 1e-9)
    with unchanged(net, images):
        grad = grad_cam(net, images, classes, size=None, relu=False)
    close(grad * cam[0].numel(), cam, 1e-9)
    if name == "squeezenet1_1":
        assert cam.min() >= 0
    if name not in ("tf_efficientnet_lite0", "densenet121"):
        close(grad_cam(net, images, classes, layer, size=None, relu=False), grad, 1e-12)


def test_a_named_layer_has_to_give_the_averaged_map():
    net, images = family("resnet18"), random_images(8, 1, (64, 64))
    found = class_activation_map(net, images, 1)
    assert torch.equal(class_activation_map(net, images, 1, layer="layer4"), found)
    for wrong in ("layer3", "avgpool", "fc", "layer4.1.bn2"):
        refuses("layer", class_activation_map, net, images, 1, layer=wrong, says="averaged")
    refuses("layer", class_activation_map, net, images, 1, layer="layer5", says="'layer4'")
    refuses("layer", class_activation_map, net, images, 1, layer=4)
    # the layer's map goes on to be changed in place: it is not what is averaged
    net = Ended(lambda m, x: m.head(x.relu_().mean((2, 3))))
    refuses("layer", class_activation_map, net, random_images(1), 1, layer="body", says="as it is averaged")
    refuses("layer", class_activation_map, net, random_images(1), 1, layer="second", says="averaged")


@pytest.mark.parametrize("end", ["module", "functional", "a convolution as the linear layer"])
def test_half_precision_weights_and_images(end):
    net, images = Ended(AVERAGES[end]), random_images(3, 2)
    expected = class_activation_map(net, images, 1)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        got = class_activation_map(net.to(dtype), images.to(dtype), 1)
        assert got.dtype == dtype
        close(got.double(), expected, tolerance)
        net.double()
    with torch.autocast("cpu", torch.bfloat16):
        got = class_activation_map(net.float(), images.float(), 1)
        assert got.dtype == torch.float32
        close(got.double(), expected, 0.1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_a_refusal_says_of_attention_networks_and_of_compiled_ones():
    vit = torchvision.models.VisionTransformer(32, 16, 2, 2, 12, 12, num_classes=4).double()
    images = random_images(0, 1, (32, 32))
    nn.init.normal_(vit.heads[0].weight)
    refuses("model", class_activation_map, vit, images, 1, says="no such average")
    refuses("layer", grad_cam, vit, images, 1, says="2 steps of attention")
    assert grad_cam(vit, images, 1, "conv_proj").shape == (1, 32, 32)
    net = Ended(AVERAGES["module"])
    wrapped = nn.Sequential(torch.jit.trace(nn.Sequential(net.body, net.pool, net.flat, net.head), images))
    refuses("model", class_activation_map, wrapped, images, 1, says="TorchScript")


# ---- Grad-CAM


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("layer", ["stem_norm", "body.1", "depthwise", "left", "pool"])
def test_grad_cam_is_its_definition_on_random_networks(seed, layer):
    size = random.Random(seed).choice([(16, 16), (17, 24), (21, 13)])
    net, images = random_net(seed, size), random_images(seed, 2, size)
    classes = [seed % 5, 1]
    expected = by_full_graph(net, images, layer, lambda o, n: o[""][0, classes[n]])
    with unchanged(net, images):
        got = grad_cam(net, images, classes, layer, size=None, relu=False)
    close(got, expected)
    assert torch.equal(grad_cam(net, images, classes, layer, size=None), got.clamp(min=0))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_layer_found_is_the_last_map_before_pooling(seed):
    net, images = random_net(seed), random_images(seed)
    expected = by_full_graph(net, images, "pool", lambda o, n: o[""][0, 3], entering=True)
    with unchanged(net, images):
        close(grad_cam(net, images, 3, size=None, relu=False), expected)


def test_for_a_vgg_the_layer_found_is_the_last_rectified_convolution():
    net, images = small_vgg(), random_images(2, 2, (20, 22))
    got = grad_cam(net, images, 2, size=None, relu=False)
    assert got.shape == (2, 5, 5)
    close(got, by_full_graph(net, images, "features.8", lambda o, n: o[""][0, 2]))
    assert torch.equal(grad_cam(net, images, 2, "features.8", size=None, relu=False), got)


TARGETS = {
    "probability": (class_probability([1, 4]), lambda o, n: o[""][0].softmax(0)[[1, 4][n]]),
    "score": (class_score(2), lambda o, n: o[""][0, 2]),
    "unit, maximum": (unit("features.7", 3), lambda o, n: o["features.7"][0, 3].max()),
    "unit, mean": (unit("features.7", [3, 0], "mean"), lambda o, n: o["features.7"][0, [3, 0][n]].mean()),
    "unit, place": (unit("features.7", 5, (1, 2)), lambda o, n: o["features.7"][0, 5, 1, 2]),
    "unit of a flat layer": (unit("head.1", 4), lambda o, n: o["head.1"][0, 4]),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_target(kind):
    target, score = TARGETS[kind]
    net, images = small_vgg(1), random_images(6, 2, (20, 22))
    for layer in ("features.1", "features.3"):
        expected = by_full_graph(net, images, layer, score)
        assert expected.abs().max() > 0
        with unchanged(net, images):
            close(grad_cam(net, images, target, layer, size=None, relu=False), expected)


def test_a_unit_without_a_layer_is_explained_by_the_last_map_before_it():
    net, images = small_vgg(1), random_images(6, 2, (20, 22))
    got = grad_cam(net, images, unit("features.5", 2, "mean"), size=None, relu=False)
    expected = by_full_graph(net, images, "features.4", lambda o, n: o["features.5"][0, 2].mean())
    close(got, expected)
    # a unit of the last map itself: that channel, over the number of places
    maps = grad_cam(net, images, unit("features.3", 2, "mean"), size=None, relu=False)
    features = net.features[:4](images).detach()[:, 2]
    close(maps, features / features[0].numel())


def test_cam_and_grad_cam_agree_up_to_the_number_of_places():
    net, images = Ended(AVERAGES["module"]), random_images(9, 3)
    cam = class_activation_map(net, images, 1, size=None)
    grad = grad_cam(net, images, 1, size=None, relu=False)
    close(grad, cam / (cam.shape[1] * cam.shape[2]), 1e-12)
    close(grad_cam(net, images, 1), grad_cam(net, images, 1, "body"), 1e-12)


@pytest.mark.parametrize("average", [False, True])
def test_petnet(average):
    net = PetNet(size=32, blocks=((4,), (6, 6), (5,))).double()
    if average:
        net = to_global_average_pooling(net)
    images, classes = random_images(2, 3, (32, 32)), [0, 3, 2]
    layer = f"features.{len(net.features) - 1}"
    grad = grad_cam(net, images, classes, size=None, relu=False)
    assert grad.shape == (3, 8, 8)
    assert torch.equal(grad_cam(net, images, classes, layer, size=None, relu=False), grad)
    if average:
        cam = class_activation_map(net, images, classes, size=None)
        close(grad * 64, cam)
        close(cam.mean((1, 2)) + net.classifier.bias.detach()[classes], evaluate(net, images, classes))
    else:
        refuses("model", class_activation_map, net, images, 0, says=r"takes a map \[3, 5, 8, 8\] flattened")


class Squeezed(nn.Module):
    """A gate from an average after the last convolution (squeeze and excitation), and a shuffle by views."""

    def __init__(self, in_place: bool):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.first, self.last = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3)
            self.gate = nn.Conv2d(6, 6, 1)
            self.seen = nn.Identity()
            self.head = nn.Linear(6 * 4, 4)
        self.in_place = in_place
        self.double().eval()

    def forward(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.last(F.relu(x))
        gate = torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        if self.in_place:
            y *= gate
        else:
            y = y * gate
        y = self.seen(y)
        return self.head(F.max_pool2d(y, 2).flatten(1))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_gate_after_the_last_convolution_belongs_to_the_map(in_place):
    net, images = Squeezed(in_place), random_images(3, 2, (14, 14))
    expected = by_full_graph(net, images, "seen", lambda o, n: o[""][0, 1])
    close(grad_cam(net, images, 1, size=None, relu=False), expected)


class Twisted(nn.Module):
    """Goes on in place behind the last map, by way of a view of it."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.last, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 4)
        self.double().eval()

    def forward(self, x):
        x = self.last(x).flatten(1)
        return self.head(x.relu_())


@pytest.mark.parametrize("layer", [None, "last"])
def test_a_step_in_place_behind_the_layer_corrupts_nothing(layer):
    net, images = Twisted(), random_images(3, 2, (8, 8))
    expected = by_full_graph(net, images, "last", lambda o, n: o[""][0, 1])
    close(grad_cam(net, images, 1, layer, size=None, relu=False), expected)


class Referred(nn.Module):
    """The in-place ReLU's input is used again after it: it is the very tensor that the ReLU gives."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            self.last, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 4)
        self.double().eval()

    def forward(self, x):
        x = self.last(x)
        return self.head((self.relu(x) * x).mean((2, 3)))


def test_every_reference_to_the_layers_output_counts():
    net, images = Referred(), random_images(3, 2, (8, 8))
    a = net.last(images).relu().detach().requires_grad_(True)
    net.head((a * a).mean((2, 3)))[:, 1].sum().backward()
    expected = (a.grad.mean((2, 3), keepdim=True) * a).sum(1).detach()
    close(grad_cam(net, images, 1, "relu", size=None, relu=False), expected)


class Frozen(nn.Module):
    """A backbone that runs under no_grad, as in transfer learning."""

    def __init__(self):
        super().__init__()
        net = Ended(None)
        self.backbone, self.head = net.body, net.head
        self.double().eval()

    def forward(self, x):
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(F.relu(x).mean((2, 3)))


def test_a_backbone_under_no_grad():
    net, images = Frozen(), random_images(3, 2)
    a = net.backbone(images).detach().requires_grad_(True)
    net.head(a.relu().mean((2, 3)))[:, 1].sum().backward()
    expected = (a.grad.mean((2, 3), keepdim=True) * a).sum(1).detach()
    close(grad_cam(net, images, 1, "backbone", size=None, relu=False), expected)
    refuses("target", grad_cam, net, images, 1, "backbone.0", says="depends on 'backbone.0'")
    cam = class_activation_map(net, images, 1, size=None)
    close(grad_cam(net, images, 1, size=None, relu=False) * cam[0].numel(), cam)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_no_grad_and_inference_mode(mode):
    net, images = random_net(1, head="average"), random_images(1)
    cam, grad = class_activation_map(net, images, 1), grad_cam(net, images, 1)
    named = grad_cam(net, images, 1, "depthwise")
    with mode():
        copied = images + 0  # an inference tensor, in inference mode
        with unchanged(net):
            assert torch.equal(class_activation_map(net, copied, 1), cam)
            assert torch.equal(grad_cam(net, copied, 1), grad)
            assert torch.equal(grad_cam(net, copied, 1, "depthwise"), named)


def test_maps_carry_no_graph_and_images_may_ask_for_gradients():
    net, images = random_net(1, head="average"), random_images(1).requires_grad_(True)
    with unchanged(net, images):
        for result in (class_activation_map(net, images, 1), grad_cam(net, images, 1, "left")):
            assert not result.requires_grad
            assert not result.is_inference()


@pytest.mark.parametrize("first_in_place", [False, True])
def test_train_mode_and_an_in_place_first_step(first_in_place):
    net = random_net(2, head="average", in_place_first=first_in_place, train=True)
    images = random_images(2)
    with unchanged(net, images):
        cam, grad = class_activation_map(net, images, 1), grad_cam(net, images, 1)
    net.eval()
    assert torch.equal(class_activation_map(net, images, 1), cam)
    assert torch.equal(grad_cam(net, images, 1), grad)


def count_calls(net: nn.Module, call) -> Counter:
    counts = Counter()
    handles = [
        module.register_forward_hook(lambda _m, _i, _o, name=name: counts.update([name]))
        for name, module in net.named_modules()
    ]
    call()
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("layer", [None, "stem_norm", "left"])
def test_nothing_is_computed_twice_and_no_graph_begins_before_the_layer(layer):
    net, images = random_net(3, head="average"), random_images(3)
    assert set(count_calls(net, lambda: grad_cam(net, images, 1, layer)).values()) == {1}
    assert set(count_calls(net, lambda: class_activation_map(net, images, 1)).values()) == {1}
    tracked: dict[str, bool] = {}
    learned = []

    def note(name):
        def hook(module, _inputs, output):
            tracked[name] = output.requires_grad
            learned.extend(parameter.requires_grad for parameter in module.parameters())

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in net.named_modules()]
    grad_cam(net, images, 1, layer)
    for handle in handles:
        handle.remove()
    order = list(tracked)
    start = {None: "pool", "stem_norm": "body.0", "left": "pool"}[layer]
    assert not any(tracked[name] for name in order[: order.index(start)] if name != layer)
    assert all(tracked[name] for name in ("pool", "drop", "head", ""))
    assert not any(learned)


def test_a_unit_target_stops_the_network():
    net, images = small_vgg(), random_images(0, 1, (20, 20))
    counts = count_calls(net, lambda: grad_cam(net, images, unit("features.4", 1), "features.1"))
    assert counts["features.4"] == 1 or counts["features.3"] == 1
    assert not {"features.5", "features.6", "head", ""} & set(counts)
    assert count_calls(net, lambda: grad_cam(net, images, unit("features.5", 1)))["features.0"] == 1


class Unused(nn.Module):
    """Five convolutions defined last that no pass runs."""

    def __init__(self):
        super().__init__()
        self.net = random_net(5, head="average")
        self.spare = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(5))

    def forward(self, x):
        return self.net(x)


def test_convolutions_that_are_defined_last_and_not_used():
    net, images = Unused().double(), random_images(5)
    with unchanged(net):
        assert torch.equal(class_activation_map(net, images, 1), class_activation_map(net.net, images, 1))
        assert torch.equal(grad_cam(net, images, 1), grad_cam(net.net, images, 1))


class OwnMode(nn.Module):
    """Runs its convolutions, but the first, under a mode of its own."""

    def __init__(self, ends_inside: bool):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3) for _ in range(7))
            self.head = nn.Linear(3, 4)
        self.ends_inside = ends_inside
        self.double().eval()

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            if i == 6 and not self.ends_inside:
                x = layer(x)
            else:
                with torch.device("cpu"):
                    x = F.relu(layer(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("ends_inside", [False, True])
def test_a_network_with_a_mode_of_its_own(ends_inside):
    net, images = OwnMode(ends_inside), random_images(5, 2, (20, 20))
    with unchanged(net, images):
        cam = class_activation_map(net, images, 1, size=None)
        grad = grad_cam(net, images, 1, size=None, relu=False)
    close(cam.mean((1, 2)) + net.head.bias.detach()[1], evaluate(net, images, 1))
    close(grad * cam[0].numel(), cam)


@pytest.mark.slow
def test_a_second_opinion_of_two_peers():
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM as TorchCAM

    def scaled(maps: Tensor) -> Tensor:
        maps = maps - maps.amin((1, 2), keepdim=True)
        return maps / maps.amax((1, 2), keepdim=True)

    for net, layer in ((family("resnet18"), "layer4"), (small_vgg(3).float(), "features.8")):
        net, images = net.float(), random_images(3, 2, (72, 64), torch.float32)
        if layer == "features.8":
            images = images[..., :20, :22].contiguous()
        ours = grad_cam(net, images, [2, 3], layer)
        assert ours.amax((1, 2)).min() > 0
        with GradCAM(net, [net.get_submodule(layer)]) as peer:
            theirs = peer(images, [ClassifierOutputTarget(2), ClassifierOutputTarget(3)])
        close(scaled(ours), torch.from_numpy(theirs), 1e-4)
        with TorchCAM(net, layer) as peer:
            theirs = peer([2, 3], net(images), normalized=False)[0]
        close(grad_cam(net, images, [2, 3], layer, size=None), theirs.detach(), 1e-4)
        net.zero_grad(set_to_none=True)


# ---- size


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_sizes_are_reached_by_bilinear_interpolation(method):
    net, images = Ended(AVERAGES["mean"]), random_images(1, 2, (11, 14))
    grid = method(net, images, 1, size=None)
    assert grid.shape == (2, 6, 7)
    for size, (height, width) in {"images": (11, 14), (5, 9): (5, 9), (6, 7): (6, 7)}.items():
        got = method(net, images, 1, size=size)
        close(got, torch.stack([bilinear(g, height, width) for g in grid]))
    assert torch.equal(method(net, images, 1), method(net, images, 1, size="images"))


@pytest.mark.gpu
def test_on_a_gpu():
    net, images = random_net(1, head="average"), random_images(1)
    expected = class_activation_map(net, images, 1), grad_cam(net, images, 1)
    net, images = net.cuda(), images.cuda()
    for got, want in zip(
        (class_activation_map(net, images, 1), grad_cam(net, images, 1)), expected, strict=True
    ):
        assert got.is_cuda
        close(got.cpu(), want)
    found = boxes(expected[1].cuda(), 0.5)
    assert found[0].boxes.is_cuda
    assert torch.equal(found[0].boxes.cpu(), boxes(expected[1], 0.5)[0].boxes)


# ---- errors, and what they leave behind


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_refused_arguments(method):
    net, images = random_net(0, head="average"), random_images(0)
    refuses("model", method, "net", images, 0)
    for wrong in (None, images[0], images.int(), images[:, :1], images[:0], images.float()):
        refuses("images", method, net, wrong, 0)
    refuses("images", method, net, torch.full_like(images, torch.nan), 0)
    for wrong in (None, "dog", 1.5, -1, 5, [0], [0, 1, 2], [0, 9], [], True):
        refuses("target", method, net, images, wrong)
    for wrong in ("layers", 3, ["stem"], ""):
        refuses("layer", method, net, images, 0, layer=wrong)
    for wrong in ("image", 7, (3,), (3, 4, 5), (0, 4), (3, 2.5), (3, None), True, [4, -1]):
        refuses("size", method, net, images, 0, size=wrong)
    refuses("model", method, nn.Conv2d(3, 4, 1).double(), images, 0)


def test_refused_arguments_of_each():
    net, images = random_net(0, head="average"), random_images(0)
    refuses("target", class_activation_map, net, images, class_probability(1), says="grad_cam")
    refuses("target", class_activation_map, net, images, unit("left", 1), says="a unit")
    for wrong in (None, 1, "yes"):
        refuses("relu", grad_cam, net, images, 1, relu=wrong)
    refuses("layer", grad_cam, net, images, 1, "head", says=r"\[2, C, h, w\].*'head'")
    refuses("layer", grad_cam, net, images, unit("stem", 0), "left", says="does not call")
    refuses("layer", grad_cam, net, images, unit("nowhere", 0), says="nowhere")
    refuses("channel", grad_cam, net, images, unit("stem", 99), "entry")
    refuses(
        "layer", grad_cam, nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).double(), images, 1, says="no conv"
    )
    cut = Ended(lambda m, x: m.head(x.detach().mean((2, 3))))
    refuses("target", grad_cam, cut, images, 1, "body", says="depends on 'body'")
    counted = Ended(lambda m, x: m.wide((x.flatten(1) > 0).double()))
    refuses("target", grad_cam, counted, images, 1, says="the last map")


class Interrupted(nn.Module):
    """Passes its input on until the given call, then raises."""

    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error("stop")


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["stem_norm", "left", "pool", "drop", "head"])
def test_an_error_inside_the_network_leaves_it_as_it_was(error, place):
    net, images = random_net(4, head="average", train=True), random_images(4)
    setattr(net, place, Interrupted(error))
    with unchanged(net, images):
        for layer in (None, "stem", "pointwise"):
            with pytest.raises(error):
                grad_cam(net, images, 1, layer)
        with pytest.raises(error):
            class_activation_map(net, images, 1)


@pytest.mark.parametrize("layer", [None, "body"])
def test_an_interrupt_in_the_backward_pass_leaves_the_network_as_it_was(layer):
    net = Ended(lambda m, x: m.head(FailsBackward.apply(x.mean((2, 3))))).train()
    images = random_images(4)
    with unchanged(net, images), pytest.raises(KeyboardInterrupt):
        grad_cam(net, images, 1, layer)


def test_nothing_is_kept_alive():
    net, images = random_net(4, head="average"), random_images(4)
    class_activation_map(net, images, 1)
    gc.collect()

    def alive() -> int:
        return sum(type(thing) is Tensor for thing in gc.get_objects())

    before = alive()
    for _ in range(3):
        class_activation_map(net, images, 1)
        grad_cam(net, images, 1)
        grad_cam(net, images, 1, "left")
    assert alive() <= before


# ---- boxes


def region_list(mask: Tensor, diagonal: bool) -> list[tuple[int, list[int]]]:
    """(area, box) of each connected region by a flood fill, the largest first."""
    todo = {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if diagonal or 0 in (a, b)]
    regions = []
    for start in sorted(todo):
        if start not in todo:
            continue
        todo.discard(start)
        region, front = [start], [start]
        while front:
            y, x = front.pop()
            for near in ((y + a, x + b) for a, b in steps):
                if near in todo:
                    todo.discard(near)
                    region.append(near)
                    front.append(near)
        ys, xs = [y for y, _ in region], [x for _, x in region]
        regions.append((len(region), [min(xs), min(ys), max(xs) + 1, max(ys) + 1]))
    return sorted(regions, key=lambda r: -r[0])


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    threshold=st.sampled_from([0.0, 0.2, 0.5, 0.75, 1.0]),
    diagonal=st.booleans(),
    relative=st.booleans(),
)
def test_boxes_are_those_of_a_flood_fill(seed, height, width, threshold, diagonal, relative):
    maps = (
        torch.randint(-2, 5, (2, height, width), generator=torch.Generator().manual_seed(seed)).double() / 4
    )
    found = boxes(maps, threshold, relative=relative, diagonal=diagonal)
    first = largest_box(maps, threshold, relative=relative, diagonal=diagonal)
    assert len(found) == 2
    for one, got, largest in zip(maps, found, first, strict=True):
        limit = threshold * one.max() if relative else threshold
        mask = (one >= limit) & bool(not relative or one.max() > 0)
        regions = region_list(mask, diagonal)
        assert isinstance(got, Boxes)
        assert got.areas.tolist() == [area for area, _ in regions]
        assert got.boxes.tolist() == [box for _, box in regions]
        assert got.boxes.shape == (len(regions), 4)
        assert got.boxes.dtype == torch.float32
        assert got.areas.dtype == torch.int64
        assert largest.tolist() == (regions[0][1] if regions else [0, 0, 0, 0])


def drawn(*rows: str) -> Tensor:
    """A map [1, H, W] from rows of digits, in tenths."""
    return torch.tensor([[[int(c) / 10 for c in row] for row in rows]], dtype=torch.float64)


def test_boxes_on_maps_made_by_hand():
    # two regions of 3: the one read first comes first; a corner joins or parts
    tied = drawn("99000", "90000", "00008", "00088")
    assert boxes(tied, 0.5)[0].boxes.tolist() == [[0, 0, 2, 2], [3, 2, 5, 4]]
    assert boxes(tied, 0.5)[0].areas.tolist() == [3, 3]
    corner = drawn("900", "090", "009")
    assert boxes(corner)[0].boxes.tolist() == [[0, 0, 3, 3]]
    assert boxes(corner, diagonal=False)[0].boxes.tolist() == [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]]
    # the largest is by area, not by height or by its box
    ring = drawn("11111", "10001", "10901", "10001", "11111")
    assert boxes(ring, 0.1)[0].areas.tolist() == [16, 1]
    assert boxes(ring, 0.1)[0].boxes.tolist() == [[0, 0, 5, 5], [2, 2, 3, 3]]
    # the threshold itself belongs; a share is of each map's own maximum
    both = torch.cat([drawn("0145", "0000"), drawn("0099", "0000")])
    assert largest_box(both, 0.8).tolist() == [[2, 0, 4, 1], [2, 0, 4, 1]]
    assert largest_box(both, 0.8, relative=False).tolist() == [[0, 0, 0, 0], [2, 0, 4, 1]]
    # all of it, and nothing of it
    assert largest_box(torch.full((1, 3, 4), 2.0)).tolist() == [[0, 0, 4, 3]]
    for nothing in (torch.zeros(1, 3, 4), -torch.ones(1, 3, 4)):
        assert boxes(nothing)[0].boxes.shape == (0, 4)
        assert boxes(nothing)[0].areas.shape == (0,)
        assert largest_box(nothing).tolist() == [[0, 0, 0, 0]]
    assert largest_box(-torch.ones(1, 3, 4), -1, relative=False).tolist() == [[0, 0, 4, 3]]


@pytest.mark.parametrize("method", [boxes, largest_box])
def test_refused_arguments_of_boxes(method):
    maps = random_images(0)[:, 0]
    for wrong in (None, maps.numpy(), maps[0], maps.int(), maps[:0], maps * torch.nan):
        refuses("maps", method, wrong)
    for wrong in (None, "high", 1.5, -0.1, True, float("nan"), torch.tensor(0.2)):
        refuses("threshold", method, maps, wrong)
    refuses("threshold", method, maps, float("inf"), relative=False)
    refuses("relative", method, maps, 0.2, relative=None)
    refuses("diagonal", method, maps, 0.2, diagonal=8)
