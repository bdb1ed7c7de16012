"""DeconvNet and guided backpropagation against the papers, step by step and slowly; refusals; cleaning up."""

import copy
import itertools
import math
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lecture7_utils.kernels.deconvnet import Step, deconvnet, explicit_deconvnet
from lecture7_utils.kernels.targets import class_probability, class_score, evaluate, unit
from lecture7_utils.shop.models import load_model
from lecture7_utils.shop.petnet import PetNet
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

RULES = ("deconvnet", "guided", "gradient")


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    assert float(b.abs().max()) > 0, "nothing to compare"
    assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


# ---- the slow reference: one inverse a function, loops over positions


def conv_back(conv: nn.Conv2d, signal: Tensor, like: Tensor) -> Tensor:
    """Each entry of the signal puts its filter, times itself, where the filter stood."""
    (sy, sx), (dy, dx), (py, px) = conv.stride, conv.dilation, conv.padding
    wide = F.pad(torch.zeros_like(like), (px, px, py, py))
    groups, outs, ins = conv.groups, conv.out_channels // conv.groups, conv.in_channels // conv.groups
    for g, i, j in itertools.product(range(groups), range(signal.shape[2]), range(signal.shape[3])):
        part = signal[:, g * outs : (g + 1) * outs, i, j]
        for u, v in itertools.product(range(conv.kernel_size[0]), range(conv.kernel_size[1])):
            weight = conv.weight[g * outs : (g + 1) * outs, :, u, v]
            wide[:, g * ins : (g + 1) * ins, i * sy + u * dy, j * sx + v * dx] += part @ weight
    return wide[:, :, py : py + like.shape[2], px : px + like.shape[3]]


def relu_back(signal: Tensor, x: Tensor, rule: str, high: float = math.inf) -> Tensor:
    passed = ((x > 0) & (x < high)).double()
    positive = (signal + signal.abs()) / 2
    return {"deconvnet": positive, "guided": positive * passed, "gradient": signal * passed}[rule]


def pool_back(pool: nn.MaxPool2d, signal: Tensor, x: Tensor, overlap: str = "add") -> Tensor:
    """The switches are found anew: for each window the first largest entry."""
    kernel, stride = pool.kernel_size, pool.stride
    out = torch.zeros_like(x)
    for n, c, i, j in itertools.product(*map(range, signal.shape)):
        rows = range(i * stride - pool.padding, i * stride - pool.padding + kernel)
        columns = range(j * stride - pool.padding, j * stride - pool.padding + kernel)
        places = [(r, q) for r in rows for q in columns if 0 <= r < x.shape[2] and 0 <= q < x.shape[3]]
        r, q = max(places, key=lambda place, n=n, c=c: float(x[(n, c, *place)]))
        out[n, c, r, q] = signal[n, c, i, j] + (out[n, c, r, q] if overlap == "add" else 0)
    return out


def norm_back(norm: nn.BatchNorm2d, signal: Tensor) -> Tensor:
    return signal * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]


def first_signal(output: Tensor, channels, position, start: str) -> Tensor:
    """The activation kept (or 1 in its place), all others zero."""
    signal = torch.zeros_like(output)
    for n, channel in enumerate(channels):
        maps = output[n, channel]
        if output.ndim == 2:
            signal[n, channel] = maps if start == "activation" else 1
        elif position == "mean":
            signal[n, channel] = (maps.mean() if start == "activation" else 1) / maps.numel()
        else:
            place = divmod(int(maps.argmax()), maps.shape[1]) if position == "max" else position
            signal[(n, channel, *place)] = maps[place] if start == "activation" else 1
    return signal


def chain_back(layers, images, channels, position, rule, start, overlap="add") -> Tensor:
    x, inputs = images, []
    for layer in layers:
        inputs.append(x)
        x = layer(x.clone())
    signal = first_signal(x, channels, position, start)
    for layer, x in zip(reversed(layers), reversed(inputs), strict=True):
        if isinstance(layer, nn.Conv2d):
            signal = conv_back(layer, signal, x)
        elif isinstance(layer, nn.ReLU | nn.ReLU6):
            signal = relu_back(signal, x, rule, 6 if isinstance(layer, nn.ReLU6) else math.inf)
        elif isinstance(layer, nn.MaxPool2d):
            signal = pool_back(layer, signal, x, overlap)
        elif isinstance(layer, nn.BatchNorm2d):
            signal = norm_back(layer, signal)
        elif isinstance(layer, nn.Flatten):
            signal = signal.reshape(x.shape)
        else:
            assert isinstance(layer, nn.Linear)
            signal = signal @ layer.weight
    return signal


def random_net_back(net, images: Tensor, classes, rule: str, start: str) -> Tensor:
    """`tests.nets.RandomNet`, written out: batch norm, a residual sum, depthwise and strided convolution, a
    concatenation, ReLU6, pooling in ceil mode."""
    relu = torch.relu
    stem = net.stem(images)
    normed = net.stem_norm(stem)
    trunk = relu(normed)
    inner = net.body[0](trunk)
    inner_normed = net.body[1](inner)
    body = net.body[3](relu(inner_normed))
    added = trunk + body
    deep = net.depthwise(added)
    point = net.pointwise(deep)
    rectified = relu(point)
    left, right = net.left[0](rectified), net.right[0](rectified)
    joined = torch.cat([relu(left), right.clamp(0, 6)], 1)
    pooled = net.pool(joined)
    average = net.kind == "average"
    scores = net.head(pooled.mean((2, 3)) if average else pooled.flatten(1))

    signal = first_signal(scores, classes, "max", start) @ net.head.weight
    if average:
        signal = signal[:, :, None, None].expand_as(pooled) / (pooled.shape[2] * pooled.shape[3])
    signal = pool_back(net.pool, signal.reshape(pooled.shape), joined)
    width = left.shape[1]
    from_left = conv_back(net.left[0], relu_back(signal[:, :width], left, rule), rectified)
    from_right = conv_back(net.right[0], relu_back(signal[:, width:], right, rule, 6), rectified)
    signal = relu_back(from_left + from_right, point, rule)
    signal = conv_back(net.depthwise, conv_back(net.pointwise, signal, deep), added)
    inside = relu_back(conv_back(net.body[3], signal, inner_normed), inner_normed, rule)
    inside = conv_back(net.body[0], norm_back(net.body[1], inside), trunk)
    signal = norm_back(net.stem_norm, relu_back(signal + inside, normed, rule))
    return conv_back(net.stem, signal, images)


# ---- networks


def small_petnet(seed: int) -> PetNet:
    net = PetNet(("cat", "dog", "hen"), blocks=((3,), (4, 5), (4,)), size=16, seed=seed).double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            if parameter.ndim == 1:  # biases of zero would let zeros meet ReLU's kink
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(seed + i))
    return net


def chained(net: nn.Module) -> nn.Sequential:
    return nn.Sequential(net.features, net.flatten, net.classifier)


def small_vgg(kind: str = "vgg11_bn", seed: int = 0) -> nn.Module:
    """torchvision's VGG with every width divided by 16."""
    plan = {"vgg11": [4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"]}[kind.removesuffix("_bn")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = torchvision.models.vgg.make_layers(plan, batch_norm=kind.endswith("_bn"))
        with torch.device("meta"):  # its own classifier has 120 million weights, and goes at once
            net = torchvision.models.VGG(nn.Identity(), init_weights=False)
        net.features = features
        net.avgpool = nn.AdaptiveAvgPool2d((2, 3))
        net.classifier = nn.Sequential(
            nn.Linear(32 * 6, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 10), nn.ReLU(True),
            nn.Dropout(), nn.Linear(10, 5),
        )  # fmt: skip
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.double().eval()


class Act(nn.Module):
    """convolution, activation given as a function, convolution, global average, linear."""

    def __init__(self, act, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, stride=2)
            self.head = nn.Linear(6, 4)
        self.act = act
        with torch.no_grad():
            self.first.weight.mul_(4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.first(x))))
        return self.head(x.mean((2, 3)))


IMAGES = random_images(7, 3, (12, 12))


# ---- what is right


def setup_function():
    torch.manual_seed(0)  # by chance a unit may be off, and then there is nothing to compare


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("start", ["activation", "one"])
@pytest.mark.parametrize("seed", range(2))
def test_petnet_equals_the_paper_and_the_layers_written_out(seed, start, rule):
    net, images = small_petnet(seed), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    layers = [*net.features, net.flatten, net.classifier]
    options = {"rule": rule, "start": start}
    with torch.no_grad():
        want = chain_back(layers, images, [2, 0, 1], "max", rule, start)
        close(deconvnet(net, images, [2, 0, 1], **options), want)
        close(explicit_deconvnet(chained(net), images, [2, 0, 1], **options), want)
        for depth, position in ((1, "max"), (4, (3, 5)), (7, "mean"), (8, "max")):
            want = chain_back(layers[: depth + 1], images, [0, 2, 1], position, rule, start)
            if start == "activation" and float(want.abs().max()) == 0:
                continue  # the unit at that position is off
            target = unit(f"features.{depth}", [0, 2, 1], position)
            close(deconvnet(net, images, target, **options), want)
            target = unit(f"{depth}", [0, 2, 1], position)
            close(explicit_deconvnet(net.features, images, target, **options), want)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["vgg11", "vgg11_bn"])
def test_torchvision_vgg_equals_the_layers_written_out(kind, rule):
    net, images = small_vgg(kind), random_images(1, 2, (64, 96))
    whole = nn.Sequential(net.features, net.avgpool, nn.Flatten(), net.classifier)
    for target in (3, class_probability([1, 4])):
        got = explicit_deconvnet(whole, images, target, rule=rule, start="one")
        close(got, deconvnet(net, images, target, rule=rule, start="one"))
    last = len(net.features) - 2
    got = explicit_deconvnet(net.features, images, unit(str(last), [5, 9]), rule=rule)
    close(got, deconvnet(net, images, unit(f"features.{last}", [5, 9]), rule=rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_network_with_sums_and_concatenations_equals_the_paper(seed, rule):
    start = "one" if seed % 2 else "activation"
    net, images = random_net(seed, (12, 14)), random_images(seed, 2, (12, 14)) * 2
    with torch.no_grad():
        want = random_net_back(net, images, [1, 3], rule, start)
    close(deconvnet(net, images, [1, 3], rule=rule, start=start), want)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("overlap", ["add", "last"])
def test_overlapping_pools_by_both_conventions(overlap, rule):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(4, 5, 3, 1, 1), nn.ReLU6(True), nn.MaxPool2d(3, 1, 1), nn.Conv2d(5, 2, 2),
        ).double()  # fmt: skip
    images = random_images(0, 2, (23, 21)) * 3
    with torch.no_grad():
        want = chain_back([*net], images, [0, 1], "max", rule, "one", overlap)
    options = {"rule": rule, "start": "one", "overlap": overlap}
    close(deconvnet(net, images, unit("6", [0, 1]), **options), want)
    close(explicit_deconvnet(net, images, unit("6", [0, 1]), **options), want)
    if overlap == "last":
        other = deconvnet(net, images, unit("6", [0, 1]), **{**options, "overlap": "add"})
        assert float((other - want).abs().max()) > 0.01 * float(want.abs().max())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", [{}, {"kernel_size": (3, 2), "dilation": 2}, {"groups": 2, "stride": 3}])
@pytest.mark.parametrize("padding", [0, "same", "valid", (1, 2)])
def test_convolutions_of_all_kinds(padding, options):
    if padding == "same":  # PyTorch has none with a stride
        options = {**options, "stride": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        middle = nn.Conv2d(4, 6, **{"kernel_size": 4, **options}, padding=padding)
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), middle).double()
    images = random_images(2, 2, (13, 14))
    for rule in RULES:
        got = explicit_deconvnet(net, images, unit("2", 1), rule=rule)
        close(got, deconvnet(net, images, unit("2", 1), rule=rule))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [class_score, class_probability, lambda k: unit("left", k)])
def test_rule_gradient_is_autograd(make, seed):
    net, images, target = random_net(seed), random_images(seed), make([1, 0])
    leaf = images.clone().requires_grad_(True)
    if isinstance(target, type(unit("left", 0))):
        found = []
        handle = net.left.register_forward_hook(lambda _m, _i, output: found.append(output))
        net(leaf)
        handle.remove()
        value = torch.stack([found[0][n, k].max() for n, k in enumerate([1, 0])])
    else:
        value = net(leaf) if make is class_score else net(leaf).softmax(1)
        value = value[[0, 1], [1, 0]]
    (want,) = torch.autograd.grad(value.sum(), leaf)
    close(deconvnet(net, images, target, rule="gradient", start="one"), want)
    close(deconvnet(net, images, target, rule="gradient"), want * value.detach()[:, None, None, None])


@pytest.mark.parametrize("rule", RULES)
def test_an_activation_scales_the_trace(rule):
    net = small_petnet(1)
    images, target = torch.rand(4, 3, 16, 16, dtype=torch.float64), unit("features.4", [0, 1, 2, 3])
    value = evaluate(net, images, target)
    assert bool((value > 0).any())
    one = deconvnet(net, images, target, rule=rule, start="one")
    close(deconvnet(net, images, target, rule=rule), one * value[:, None, None, None])


def test_a_negative_activation_goes_back_negative():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([2.0, -3.0]).view(1, 2, 1, 1))
        net[2].bias.fill_(-100)
    images = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    value = -100 + 3 * (2 - 3)
    # the signal is value · (2, -3): the rectifier keeps the second
    assert torch.equal(deconvnet(net, images, unit("2", 0)), torch.full_like(images, -3.0 * value))
    assert torch.equal(deconvnet(net, images, unit("2", 0), start="one"), torch.full_like(images, 2.0))


def test_without_switches_the_trace_knows_nothing_of_the_image():
    """Springenberg et al. 2015, section 3.4: DeconvNet needs max pooling to show the image."""
    net = Act(F.relu)
    trace = deconvnet(net, IMAGES, 1, start="one")
    torch.testing.assert_close(trace[:1].expand_as(trace), trace, rtol=0, atol=1e-13)
    guided = deconvnet(net, IMAGES, 1, rule="guided", start="one")
    assert float((guided[0] - guided[1]).abs().max()) > 0.01 * float(guided.abs().max())


def test_backward_hooks_of_the_user_are_no_obstacle():
    net = Act(F.relu)
    want, seen = deconvnet(net, IMAGES, 1), []
    handle = net.second.register_full_backward_hook(lambda *_: seen.append(1))
    with unchanged(net):
        close(deconvnet(net, IMAGES, 1), want)
    handle.remove()
    assert seen == [1]


def test_many_units_in_one_batch():
    net, image = small_petnet(0), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    together = deconvnet(net, image.expand(4, -1, -1, -1), unit("features.4", range(4)))
    for channel in range(4):
        alone = deconvnet(net, image, unit("features.4", channel))
        torch.testing.assert_close(together[channel : channel + 1], alone, rtol=0, atol=1e-13)


# ---- peers


def test_captum_agrees_on_vgg_and_resnet():
    from captum.attr import Deconvolution, GuidedBackprop

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        resnet = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 5)
    for net in (small_vgg("vgg11_bn"), resnet.double().eval()):
        images = random_images(4, 2, (64, 96))
        for rule, peer in (("deconvnet", Deconvolution), ("guided", GuidedBackprop)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that it sets hooks
                want = peer(copy.deepcopy(net)).attribute(images.clone(), target=[1, 4]).detach()
            close(deconvnet(net, images, [1, 4], rule=rule, start="one"), want)


def test_a_functional_relu_that_captum_misses():
    from captum.attr import Deconvolution

    functional, module = Act(F.relu), Act(nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = Deconvolution(functional).attribute(IMAGES.clone(), target=2).detach()
        with_module = Deconvolution(copy.deepcopy(module)).attribute(IMAGES.clone(), target=2).detach()
    ours = deconvnet(functional, IMAGES, 2, start="one")
    close(peer, deconvnet(functional, IMAGES, 2, rule="gradient", start="one"))  # the plain gradient
    close(ours, with_module)
    assert float((ours - peer).abs().max()) > 0.1 * float(ours.abs().max())


# ---- ReLU in every dress

RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method in place": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp, positional": lambda x: torch.clamp(x, 0),
    "clamp by a tensor": lambda x: x.clamp(min=torch.zeros((), dtype=x.dtype)),
    "clamp_": lambda x: x.clamp_(min=0.0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clip": lambda x: torch.clip(x, 0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "nn.Threshold": nn.Threshold(0, 0, inplace=True),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum, the other way": lambda x: torch.maximum(torch.zeros((), dtype=x.dtype), x),
    "max": lambda x: torch.max(x, torch.zeros((), dtype=x.dtype)),
    "hardtanh to infinity": lambda x: F.hardtanh(x, 0.0, math.inf),
    "aten": torch.ops.aten.relu,
    "through a view in place": lambda x: (x[:, :6].relu_(), x)[1],
    "checkpointed": lambda x: torch.utils.checkpoint.checkpoint(F.relu, x, use_reentrant=False),
}
RELU6S = {
    "module in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0, 6),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp_": lambda x: x.clamp_(min=0, max=6.0),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", RELUS)
def test_a_relu_in_every_dress(name, rule):
    want = deconvnet(Act(F.relu), IMAGES, 1, rule=rule, start="one")
    close(deconvnet(Act(RELUS[name]), IMAGES, 1, rule=rule, start="one"), want)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", RELU6S)
def test_a_relu6_in_every_dress(name, rule):
    want = deconvnet(Act(nn.ReLU6()), IMAGES, 1, rule=rule, start="one")
    close(deconvnet(Act(RELU6S[name]), IMAGES, 1, rule=rule, start="one"), want)


def test_relu6_by_the_numbers():
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU6(), nn.Conv2d(3, 1, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        net[2].weight.copy_(torch.tensor([5.0, 5.0, 5.0]).view(1, 3, 1, 1))
    images = torch.tensor([-1.0, 2.0, 8.0]).double().view(1, 3, 1, 1)
    trace = {rule: deconvnet(net, images, unit("2", 0), rule=rule, start="one").flatten() for rule in RULES}
    assert trace["deconvnet"].tolist() == [5, 5, 5]
    assert trace["guided"].tolist() == [0, 5, 0]
    assert trace["gradient"].tolist() == [0, 5, 0]


def test_efficientnet_lite0():
    """Its ReLU6s and its padding helper: by another way, its activations replaced by autograd functions."""
    net = load_model("efficientnet_lite0", device="cpu")
    images = random_images(0, 2, (64, 64), torch.float32)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(0, 6)

        @staticmethod
        def backward(ctx, signal):
            return relu_back(signal, *ctx.saved_tensors, rule=rule, high=6).to(signal.dtype)

    class Replaced(nn.Module):
        def forward(self, x):
            return Slow.apply(x)

    twin = copy.deepcopy(net)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, Replaced())
    for rule in ("deconvnet", "guided"):
        leaf = images.clone().requires_grad_(True)
        (want,) = torch.autograd.grad(twin(leaf)[:, 281].sum(), leaf)
        close(deconvnet(net, images, 281, rule=rule, start="one"), want, 1e-4)
    early, late = (deconvnet(net, images, unit(layer, 3)) for layer in ("bn1", "blocks.3"))
    assert int((early != 0).sum()) < int((late != 0).sum())  # what lies in the receptive fields


# ---- refusals

BENT = {
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": nn.SiLU(),
    "leaky_relu": nn.LeakyReLU(0.1),
    "prelu": nn.PReLU(),
    "softmax": lambda x: x.softmax(1),
    "hardtanh": F.hardtanh,
    "hardtanh from": nn.Hardtanh(-1, 6),
    "clamp": lambda x: x.clamp(0.1),
    "clamp to": lambda x: x.clamp(max=6),
    "threshold": nn.Threshold(0.1, 0),
    "maximum": lambda x: torch.maximum(x, -x),
    "max": lambda x: torch.max(x, torch.ones_like(x)),
    "gt": lambda x: torch.where(x > 0, x, 0.0),
    "gt ": lambda x: x * (x > 0),
    "lt": lambda x: x.masked_fill(x < 0, 0),
    "amax": lambda x: torch.stack([x, torch.zeros_like(x)]).amax(0),
    "max over": lambda x: torch.stack([x, torch.zeros_like(x)], -1).max(-1)[0],
    "max of channels|max over": lambda x: x.max(1, keepdim=True)[0] + x,
    "abs": lambda x: (x + x.abs()) / 2,
    "sign": lambda x: x * x.sign(),
    "mul": lambda x: x * x,
    "div": lambda x: x / (x + 100),
    "detach": lambda x: x.detach() + x,
    "'data'": lambda x: x + x.data,
    "item": lambda x: x if x.sum().item() > 0 else -x,
    "__bool__|gt": lambda x: x if x.mean() > 0 else -x,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "without gradients": lambda x: x + torch.no_grad()(lambda: 2 * x)(),
    "switches": lambda x: x + F.max_pool2d(x, 1, return_indices=True)[1],
    "relu.default": torch.ops.aten.relu.default,
    "int": lambda x: x + x.int(),
    "tolist": lambda x: x + torch.tensor(x.tolist()),
    "round": lambda x: x.round(),
}


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", BENT)
def test_steps_without_an_inverse_raise(name, rule):
    net = nn.Sequential(Act(F.relu), nn.Identity())
    act = BENT[name]
    net[0].act = act.double() if isinstance(act, nn.Module) else act
    with unchanged(net, IMAGES):
        message = refuses("model", deconvnet, net, IMAGES, 1, rule=rule, says=f"got .*({name.strip()})")
    assert "in '0" in message, "it does not say where"


@pytest.mark.parametrize("name", ["sigmoid", "gelu", "mul", "clamp", "layer_norm"])
def test_the_gradient_takes_any_step(name):
    net, leaf = Act(BENT[name]), IMAGES.clone().requires_grad_(True)
    (want,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    close(deconvnet(net, IMAGES, 1, rule="gradient", start="one"), want)


def test_an_error_that_the_network_swallows():
    def act(x):
        try:
            return torch.sigmoid(x)
        except ValueError:
            return x

    refuses("model", deconvnet, Act(act), IMAGES, 1, says="sigmoid")


def test_what_the_mode_can_not_see_raises():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.new_tensor(0.0).expand_as(x)

        @staticmethod
        def backward(ctx, signal):
            return signal

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        scripted = torch.jit.script(nn.ReLU())
        function = torch.jit.script(scripted_relu)
        traced = torch.jit.trace(Act(F.relu), IMAGES)
    for net in (Act(scripted), traced, nn.Sequential(nn.Conv2d(3, 4, 1), scripted).double()):
        with unchanged(net, IMAGES):
            refuses("model", deconvnet, net, IMAGES, 1, says="TorchScript")
    refuses("model", deconvnet, Act(function), IMAGES, 1, says="ReluBackward")
    refuses("model", deconvnet, Act(Own.apply), IMAGES, 1)
    refuses(
        "model", deconvnet, torch.compile(Act(F.relu), backend="eager"), IMAGES, 1, says=r"torch\.compile"
    )


def scripted_relu(x):
    return torch.relu(x)


LINEAR = {
    "transposed convolution": lambda x: F.conv_transpose2d(x, torch.ones(6, 6, 2, 2).double(), stride=2),
    "interpolation": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "padding": lambda x: F.pad(x, (1, 2, 0, 1), "reflect"),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "pooling by averages": lambda x: F.avg_pool2d(x, 2, 1) / 3 - 1,
    "unpooling": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=x.shape),
    "largest of positions": lambda x: x.amax((2, 3), keepdim=True) + x.max(3, keepdim=True)[0] + x,
    "constants like it": lambda x: x + torch.ones(1).to(x).expand_as(x) + torch.ones(1).type_as(x),
    "adaptive max pooling": lambda x: F.adaptive_max_pool2d(x, 3),
    "written into": lambda x: x.new_zeros(x.shape).index_fill_(0, torch.tensor([0]), 1).add_(x),
    "set": lambda x: _set(x),
    "other dtype": lambda x: x.float().to(torch.float64).type_as(x),
    "constant factor": lambda x: 2 * x * torch.arange(6).double()[:, None, None],
    "dropout": nn.Dropout(0.5),
}


def _set(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, :-1]
    return out


@pytest.mark.parametrize("name", LINEAR)
def test_linear_steps_pass(name):
    """Without any ReLU all three rules are the gradient."""
    net = Act(LINEAR[name])
    want = deconvnet(net, IMAGES, 1, rule="gradient", start="one")
    for rule in ("deconvnet", "guided"):
        close(deconvnet(net, IMAGES, 1, rule=rule, start="one"), want)


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5", "alexnet", "resnet18"]
)
def test_torchvision_networks_are_taken(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=None, num_classes=4).eval()
    images = random_images(0, 1, (64, 64), torch.float32)
    with torch.no_grad():
        best = int(net(images).argmax())
    traces = [deconvnet(net, images, best, rule=rule, start="one") for rule in RULES]
    assert all(torch.isfinite(trace).all() and trace.abs().max() > 0 for trace in traces)
    assert not torch.equal(traces[0], traces[2])


# ---- arguments

NET = small_petnet(0)
X = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BOTH = [(deconvnet, NET), (explicit_deconvnet, chained(NET))]


@pytest.mark.parametrize(("kernel", "net"), BOTH)
def test_arguments_refused(kernel, net):
    refuses("rule", kernel, net, X, 1, rule="guide")
    refuses("rule", kernel, net, X, 1, rule=None)
    refuses("start", kernel, net, X, 1, start=1)
    refuses("overlap", kernel, net, X, 1, overlap="first")
    refuses("images", kernel, net, X[0], 1)
    refuses("images", kernel, net, X.float(), 1)
    refuses("images", kernel, net, (X * 255).byte(), 1)
    refuses("images", kernel, net, X / 0, 1)
    refuses("target", kernel, net, X, 3)
    refuses("target", kernel, net, X, "cat")
    refuses("target", kernel, net, X, [0, 1, 2])
    refuses("target", kernel, net, X, -1)
    refuses("layer", kernel, net, X, unit("feature.1", 0), says="nearest")
    name = "features.1" if net is NET else "0.1"
    refuses("channel", kernel, net, X, unit(name, 3))
    refuses("channel", kernel, net, X, unit(name, [0, 1, 2]))
    refuses("position", kernel, net, X, unit(name, 0, (16, 0)))


@pytest.mark.parametrize("value", [None, 3, "vgg16", lambda x: x])
def test_models_refused(value):
    refuses("model", deconvnet, value, X, 1)
    refuses("sequential", explicit_deconvnet, value, X, 1)


def test_overlap_with_the_gradient_refused():
    refuses("overlap", deconvnet, NET, X, 1, rule="gradient", overlap="last")


def test_overlap_last_of_other_poolings_refused():
    net = Act(lambda x: F.adaptive_max_pool2d(F.relu(x), 3))
    refuses("model", deconvnet, net, IMAGES, 1, overlap="last", says="adaptive_max_pool2d")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.Sigmoid(), nn.LeakyReLU(), nn.AvgPool2d(2),
        nn.MaxPool2d(2, return_indices=True), nn.Flatten(2), nn.BatchNorm2d(3, track_running_stats=False),
        PetNet(size=16),
    ],
)  # fmt: skip
def test_layers_of_a_chain_refused(layer):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer).double()
    refuses("sequential", explicit_deconvnet, net, X, unit("1", 0), says="'1'")


def test_chains_refused():
    refuses("sequential", explicit_deconvnet, NET, X, 1, says="PetNet")
    refuses("target", explicit_deconvnet, NET.features, X, 1, says="unit")
    refuses("steps", explicit_deconvnet, NET.features, X, unit("1", 0), steps="all")


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: torch.zeros_like(x)])
def test_a_target_that_does_not_depend_on_the_images(cut):
    net = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 1)).double()
    net[0].forward = cut
    refuses("target", deconvnet, net, X, unit("1", 0), rule="gradient")
    # DeconvNet says which step cut it, or that nothing depends
    refuses("model" if cut(X.clone()).any() else "target", deconvnet, net, X, unit("1", 0))


# ---- what is left


def test_the_steps():
    trace, steps = explicit_deconvnet(NET.features, X, unit("4", 1), steps=True)
    assert all(isinstance(step, Step) for step in steps)
    assert [step.layer for step in steps] == ["4", "3", "2", "1", "0"]
    assert [step.inverse for step in steps] == [
        "ReLU, deconvnet", "transposed convolution", "unpooling", "ReLU, deconvnet", "transposed convolution",
    ]  # fmt: skip
    assert [list(step.signal.shape) for step in steps] == [
        [2, 4, 8, 8], [2, 3, 8, 8], [2, 3, 16, 16], [2, 3, 16, 16], [2, 3, 16, 16],
    ]  # fmt: skip
    assert torch.equal(trace, steps[-1].signal)
    close(trace, deconvnet(NET, X, unit("features.4", 1)))


def test_a_chain_to_a_block_and_repeated_layers():
    relu = nn.ReLU(inplace=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Dropout2d(), nn.Conv2d(4, 4, 3), relu)
    net = nn.Sequential(*[m for m in block if not isinstance(m, nn.Dropout2d)])
    net = nn.Sequential(net, nn.Identity(), nn.Conv2d(4, 2, 1)).double()
    for layer in ("0", "0.2", "2"):
        close(explicit_deconvnet(net, X, unit(layer, 1)), deconvnet(net, X, unit(layer, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_shape(dtype):
    net, images = copy.deepcopy(NET).to(dtype), X.to(dtype)
    for rule in RULES:
        for trace in (
            deconvnet(net, images, 1, rule=rule),
            explicit_deconvnet(chained(net), images, 1, rule=rule),
        ):
            assert trace.dtype == dtype
            assert trace.shape == images.shape
            assert not trace.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("rule", RULES)
def test_inside_other_modes(mode, rule):
    want = deconvnet(NET, X, 1, rule=rule)
    with mode():
        images = X.clone()
        trace = deconvnet(NET, images, 1, rule=rule)
        written = explicit_deconvnet(chained(NET), images, 1, rule=rule)
    close(trace, want)
    close(written, want)
    for tensor in (trace, written):
        assert not tensor.is_inference()
        assert not tensor.requires_grad


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_for_parameters_and_nothing_after_the_layer(rule):
    net = random_net(0, train=True)

    def fail(*_):
        raise AssertionError("computed")

    handles = [net.pool.register_forward_hook(fail)]
    handles += [p.register_hook(fail) for p in net.parameters()]
    deconvnet(net, random_images(0), unit("right", 1), rule=rule)
    for handle in handles:
        handle.remove()


class Breaks(nn.Module):
    """An identity that raises on the way forwards or back, and draws random numbers before."""

    def __init__(self, error: type[BaseException], backward: bool):
        super().__init__()
        self.error, self.backward = error, backward

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3), random.random()
        if not self.backward:
            raise self.error("broken")
        y = x + 0
        y.grad_fn.register_hook(self._break)
        return y

    def _break(self, *_):
        raise self.error("broken")


def disturbed(net: nn.Module) -> nn.Module:
    """Some parts in train mode, some parameters frozen, some gradients there already."""
    net.train()
    for i, module in enumerate(net.modules()):
        module.training = i % 2 == 0
    for i, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(i % 3 != 0)
        parameter.grad = torch.ones_like(parameter) if i % 3 == 1 else None
    return net


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("in_place_first", [False, True])
def test_left_as_it_was(in_place_first, rule):
    net = disturbed(random_net(1, in_place_first=in_place_first))
    images = random_images(1).requires_grad_(True)
    images.grad = torch.ones_like(images)
    chain = disturbed(chained(small_petnet(2)))
    with unchanged(net, chain, images):
        deconvnet(net, images, [0, 1], rule=rule)
        deconvnet(net, images, unit("left", 2), rule=rule)
        explicit_deconvnet(chain, X, 1, rule=rule)
        refuses("channel", deconvnet, net, images, unit("left", 99), rule=rule)
        refuses("channel", explicit_deconvnet, chain, X, unit("0.1", 99), rule=rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_left_as_it_was_when_a_pass_breaks(error, backward, rule):
    net, images = disturbed(random_net(2)), random_images(2)
    net.drop = Breaks(error, backward)
    with unchanged(net, images), pytest.raises(error, match="broken"):
        deconvnet(net, images, 1, rule=rule)
    if not backward:
        chain = disturbed(chained(small_petnet(2)))
        chain[0][3].forward = net.drop.forward
        with unchanged(chain, X), pytest.raises(error, match="broken"):
            explicit_deconvnet(chain, X, 1, rule=rule)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_on_a_gpu(rule):
    net, images = random_net(0), random_images(0)
    want = deconvnet(net, images, 1, rule=rule)
    got = deconvnet(copy.deepcopy(net).cuda(), images.cuda(), 1, rule=rule)
    assert got.device.type == "cuda"
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-12)
    chain = chained(small_petnet(0))
    want = explicit_deconvnet(chain, X, 1, rule=rule, overlap="last")
    got = explicit_deconvnet(copy.deepcopy(chain).cuda(), X.cuda(), 1, rule=rule, overlap="last")
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=1e-12)
