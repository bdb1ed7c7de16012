"""Receptive fields against where gradients reach, on networks of every kind; errors; cleaning up."""

import random
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lecture7_utils.kernels.layers import activations_with_grad
from lecture7_utils.kernels.receptive import receptive_field, receptive_fields
from lecture7_utils.shop.petnet import PetNet
from tests.guards import refuses, unchanged
from tests.nets import random_net

# ---- the slow reference: a gradient that nothing stops


class Open(TorchFunctionMode):
    """Activations let everything through, and a maximum is the sum of what it looks at."""

    _THROUGH = frozenset(
        {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "hardsigmoid", "hardswish", "gelu"}
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in self._THROUGH:
            return args[0] * 1
        if name in ("max_pool2d", "adaptive_max_pool2d"):
            return _summed(func, *args, **kwargs)
        if name == "batch_norm":
            return args[0] * 1
        return func(*args, **kwargs)


def _summed(func: Callable, x: Tensor, *args, **kwargs) -> Tensor:
    """The pooling's windows, found by asking the pooling itself where each single pixel shows."""
    h, w = x.shape[2:]
    single = torch.eye(h * w, dtype=x.dtype).view(h * w, 1, h, w)
    windows = func(single - 1, *args, **kwargs) == 0  # [h * w, 1, h', w']
    return torch.einsum("ncp,pij->ncij", x.flatten(2), windows[:, 0].to(x.dtype))


def positive(net: nn.Module) -> nn.Module:
    """All weights equal and positive, so that no path cancels another; nothing grows beyond bounds."""
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1 / max(1, parameter[0].numel()) if parameter.ndim > 1 else 1.0)
    return net


def reached(net: nn.Module, layer: str, size: tuple[int, int], unit: tuple[int, ...]) -> list[int]:
    """The rectangle around all pixels whose gradient isn't zero."""
    image = torch.ones(1, 3, *size, dtype=torch.float64, requires_grad=True)
    with Open():
        value = activations_with_grad(net, image, [layer])[layer][(0, *unit)]
    if not value.requires_grad:
        return [0, 0, 0, 0]
    (gradient,) = torch.autograd.grad(value, image)
    rows, columns = (gradient[0].abs().amax(0).amax(d).nonzero()[:, 0].tolist() for d in (1, 0))
    if not rows:
        return [0, 0, 0, 0]
    return [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]


def units_of(fields: Tensor, choose: random.Random, count: int) -> list[tuple[int, ...]]:
    """Corners, the middle, and some at random."""
    c, h, w, _ = fields.shape
    chosen = [(0, 0, 0), (c - 1, h - 1, w - 1), (c // 2, h // 2, w // 2)]
    chosen += [tuple(choose.randrange(n) for n in (c, h, w)) for _ in range(count)]
    return chosen


def holds(net: nn.Module, layer: str, size: tuple[int, int], count: int = 3, seed: int = 0) -> Tensor:
    net = positive(net)
    found = receptive_field(net, layer, size)
    for c, i, j in units_of(found, random.Random(seed), count):
        unit = (c, i, j) if _is_map(net, layer, size) else (c,)
        assert found[c, i, j].tolist() == reached(net, layer, size, unit), (layer, unit)
    return found


def _is_map(net: nn.Module, layer: str, size: tuple[int, int]) -> bool:
    with torch.no_grad():
        return (
            activations_with_grad(net, torch.ones(1, 3, *size, dtype=torch.float64), [layer])[layer].ndim == 4
        )


# ---- against it


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed):
    size = (random.Random(seed).randint(12, 23), random.Random(-seed).randint(12, 23))
    net = random_net(seed, size)
    for layer in ("stem", "body", "depthwise", "left", "right", "pool", "drop", "head"):
        holds(net, layer, size, seed=seed)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.tuples(st.integers(0, 5), st.integers(0, 5)), st.sampled_from(["valid", "same"])),
    dilation=st.integers(1, 3),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    pool=st.sampled_from(["max", "avg", "none"]),
    ceil=st.booleans(),
    grouped=st.booleans(),
)
def test_every_geometry(kernel, stride, padding, dilation, mode, pool, ceil, grouped):
    if isinstance(padding, str):
        stride = (1, 1) if padding == "same" else stride
    first = nn.Conv2d(3, 4, kernel, stride, padding, dilation, padding_mode=mode)
    second = nn.Conv2d(4, 6, 3, 2, (2, 0), groups=2 if grouped else 1)
    pools = {"max": nn.MaxPool2d(3, 2, 1, ceil_mode=ceil), "avg": nn.AvgPool2d((2, 3), ceil_mode=ceil)}
    net = nn.Sequential(first, nn.ReLU(), pools.get(pool, nn.Identity()), second)
    holds(net, "3", (25, 46), count=2)


def test_max_pooling_with_dilation_and_adaptive_pooling():
    for pool in (nn.MaxPool2d(2, 1, dilation=3), nn.AdaptiveAvgPool2d((3, 5)), nn.AdaptiveMaxPool2d((4, 3))):
        holds(nn.Sequential(nn.Conv2d(3, 4, 3), pool), "1", (13, 16))


@pytest.mark.parametrize(
    ("make", "layers", "side"),
    [
        (lambda: PetNet(size=40), ("features.2", "features.7", "features.12", "flatten", "classifier"), 40),
        (lambda: torchvision.models.vgg11(weights=None), ("features.5", "features.10"), 40),
        (lambda: torchvision.models.resnet18(weights=None), ("maxpool", "layer1", "layer3.0"), 64),
        (lambda: torchvision.models.squeezenet1_1(weights=None), ("features.3", "features.7"), 64),
        (
            lambda: torchvision.models.shufflenet_v2_x0_5(weights=None),
            ("stage2.0", "stage2.3", "stage3.1"),
            96,
        ),
        (
            lambda: timm.create_model("tf_efficientnet_lite0"),
            ("conv_stem", "blocks.1", "blocks.3", "global_pool"),
            75,
        ),
    ],
    ids=["PetNet", "VGG", "ResNet", "SqueezeNet", "ShuffleNet", "EfficientNet-Lite0"],
)
def test_known_networks(make, layers, side):
    net = make()
    for layer in layers:
        holds(net, layer, (side, side if isinstance(net, PetNet) else side + 6), count=1)


def test_channels_of_a_concatenation_have_fields_of_their_own():
    net = torchvision.models.squeezenet1_1(weights=None)
    middle = receptive_field(net, "features.3", 96)[:, 10, 10]
    width = middle[:, 2] - middle[:, 0]
    assert width.unique().tolist() == [7, 15]
    assert width[:64].unique().tolist() == [7]  # the 1 × 1 convolutions of the fire module


def test_a_gate_sees_the_whole_image():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
            self.gated = nn.Identity()

        def forward(self, x):
            x = self.first(x)
            return self.gated(x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1))))

    assert (holds(Gated(), "gated", (9, 11)) == torch.tensor([0, 0, 9, 11])).all()
    assert receptive_field(Gated(), "first", (9, 11))[0, 2, 3].tolist() == [2, 3, 5, 6]


class Step(nn.Module):
    """A convolution, a step of one's own, a convolution."""

    def __init__(self, step):
        super().__init__()
        self.first, self.step = nn.Conv2d(3, 4, 3, padding=1), step
        self.weight = nn.Parameter(torch.ones(4, 1, 1))
        self.between, self.last = nn.Identity(), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.last(self.between(self.step(self, self.first(x))))


@pytest.mark.parametrize(
    "step",
    [
        lambda m, x: x + 1,
        lambda m, x: 1 - x,
        lambda m, x: x * m.weight,
        lambda m, x: x.mul_(2.0).add_(x),
        lambda m, x: torch.cat([x[:, 2:], x[:, :2]], 1),
        lambda m, x: torch.stack(list(x.unbind(1)), 1),
        lambda m, x: x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2).reshape(len(x), 4, *x.shape[2:]),
        lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2) + x,
        lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda m, x: x.flip(3),
        lambda m, x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
        lambda m, x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
        lambda m, x: x[:, :, 1:, ::2],
        lambda m, x: F.pad(x, (0, 1, 3, 0)),
        lambda m, x: torch.where(x > 0, x, 2 * x),
        lambda m, x: x + torch.zeros_like(x),
        lambda m, x: torch.linalg.norm(x, dim=1, keepdim=True).expand_as(x) * 0 + x.mean(1, keepdim=True),
        lambda m, x: x.to(torch.float64).contiguous().clone(),
        lambda m, x: x.softmax(1).detach().exp() * x,
    ],
)
def test_steps_between(step):
    net = Step(step)
    size = (8, 9)
    found = receptive_field(positive(net), "between", size)
    whole = (found == torch.tensor([0, 0, *size])).all()
    if not whole:  # the norm isn't known, and counts as seeing all
        holds(net, "between", size)
        holds(net, "last", size)


def test_a_step_that_is_not_known_sees_all_that_goes_into_it():
    net = Step(lambda m, x: torch.fft.fft2(x).real)
    assert (receptive_field(net, "between", (8, 9)) == torch.tensor([0, 0, 8, 9])).all()
    part = Step(lambda m, x: torch.special.i0(x[:, :, :3, 2:5]))
    assert (receptive_field(part, "between", (8, 9)) == torch.tensor([0, 1, 4, 6])).all()


def test_a_unit_that_sees_padding_only():
    net = nn.Sequential(nn.Conv2d(3, 2, 2, padding=4))
    found = holds(net, "0", (6, 6), count=6)
    assert found[0, 0, 0].tolist() == [0, 0, 0, 0]
    assert found[0, 3, 3].tolist() == [0, 0, 1, 1]
    assert found.shape == (2, 13, 13, 4)
    assert found.dtype == torch.int64


def test_several_layers_in_one_pass():
    net, calls = random_net(1), []
    net.stem.register_forward_pre_hook(lambda *_: calls.append(1))
    both = receptive_fields(net, ["left", "stem"], (16, 16))
    assert calls == [1]
    for layer in ("left", "stem"):
        assert torch.equal(both[layer], receptive_field(net, layer, 16))
    assert torch.equal(receptive_field(net.half(), "left", (16, 16)), both["left"])


# ---- arguments, and what stays


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_refused_arguments():
    net = random_net(0)
    refuses("model", receptive_field, None, "stem", 16)
    refuses("layer", receptive_field, net, "stemm", 16, says="nearest are 'stem'")
    refuses("layer", receptive_field, net, None, 16)
    for wrong in (None, "16", 16.0, True, (16, None)):
        refuses("size", receptive_field, net, "stem", wrong)
    for wrong in (0, -3, (16,), (16, 16, 16), (0, 3), 2**25):
        refuses("size", receptive_field, net, "stem", wrong)
    flat = nn.Sequential(nn.Flatten(2), nn.Identity())
    refuses("layer", receptive_field, flat, "1", 8, says=r"\[N, C, h, w\] or \[N, C\]")
    mixed = Step(lambda m, x: torch.fft.fft(x, dim=0).real.sum(0, keepdim=True))
    refuses("model", receptive_field, mixed, "between", 8, says="step by step")
    lost = Step(lambda m, x: torch.from_numpy(x.detach().cpu().numpy().copy()))
    refuses("model", receptive_field, lost, "between", 8, says="step by step")
    compiled = nn.Sequential(torch.jit.trace(nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 8, 8)), nn.Identity())
    refuses("model", receptive_field, compiled, "1", 8, says="TorchScript")


class Interrupted(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error("stop")


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_network_is_left_as_it_was(error):
    net = random_net(3, train=True, in_place_first=True)
    if error:
        net.pool = Interrupted(error)
    with unchanged(net), torch.inference_mode():
        if error:
            with pytest.raises(error):
                receptive_field(net, "head", 16)
        else:
            receptive_field(net, "head", 16)
