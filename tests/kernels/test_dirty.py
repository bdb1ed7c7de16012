"""Dirty rectangles against the plain loop, on networks of all kinds; and when the dense way is taken."""

import copy
import os
import random
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lecture7_utils.kernels import dirty, tracing
from lecture7_utils.kernels.dirty import DirtyRectangles, dirty_rectangles
from lecture7_utils.kernels.occlusion import occlude, occlusion_map
from lecture7_utils.kernels.receptive import receptive_field
from lecture7_utils.kernels.targets import class_probability, evaluate, unit
from tests.guards import refuses, unchanged
from tests.kernels.test_dense import calibrate
from tests.nets import random_images
from tests.notebooks.anatomy import ROOT

# --- random networks


class Plain(nn.Module):
    def __init__(self, choose, width, wide):
        super().__init__()
        kernel, dilation = choose.choice([(3, 1), (1, 1), ((1, 5), 1), (3, 2), ((3, 2), 1), (4, 1)])[:2]
        padding = choose.choice([0, 1, (1, 2)])
        self.conv = nn.Conv2d(width, wide, kernel, choose.choice([1, 1, 2, (2, 1)]), padding, dilation)

    def forward(self, x):
        return F.relu(self.conv(x))


class Residual(nn.Module):
    """Two convolutions with batch norms and a shortcut, added in place."""

    def __init__(self, choose, width, wide):
        super().__init__()
        stride = choose.choice([1, 2])
        self.first = nn.Conv2d(width, wide, 3, stride, 1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(wide) for _ in range(3))
        self.second = nn.Conv2d(wide, wide, 3, 1, 1, groups=choose.choice([1, wide]))
        self.short = nn.Conv2d(width, wide, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        out += self.norm3(self.short(x))
        return self.relu(out)


class Dense(nn.Module):
    """Batch norm and ReLU before the convolution, whose output is put beside its input."""

    def __init__(self, choose, width, wide):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, 3, 3, padding=1)
        self.last = nn.Conv2d(width + 3, wide, 1)

    def forward(self, x):
        return self.last(torch.cat([x, self.conv(F.relu(self.norm(x), inplace=True))], 1))


class Branches(nn.Module):
    """As in Inception: convolutions and poolings of several kinds, side by side."""

    def __init__(self, choose, width, wide):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, 2, 1), nn.Conv2d(width, 3, 5, padding=2)
        self.three = nn.Conv2d(width, 2, 3, padding="same", dilation=2)
        self.last = nn.Conv2d(2 * width + 7, wide, 1)
        self.include = choose.random() < 0.5

    def forward(self, x):
        largest = F.max_pool2d(x, 3, 1, 1)
        average = F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.include)
        return self.last(torch.cat((self.one(x), F.silu(self.two(x)), self.three(x), largest, average), 1))


class Same(nn.Module):
    """TensorFlow's padding: one more below and on the right, and a ReLU6."""

    def __init__(self, choose, width, wide):
        super().__init__()
        self.depth = nn.Conv2d(width, width, 3, 2, groups=width, bias=False)
        self.norm, self.point = nn.BatchNorm2d(width, eps=1e-3), nn.Conv2d(width, wide, 1)

    def forward(self, x):
        return self.point(F.hardtanh(self.norm(self.depth(F.pad(x, (0, 1, 0, 1)))), 0.0, 6.0, inplace=True))


class Pooled(nn.Module):
    """Poolings that overhang the border, and channels cut in two."""

    def __init__(self, choose, width, wide):
        super().__init__()
        self.kernel, self.ceil = choose.choice([2, 3, (3, 2)]), choose.random() < 0.7
        self.include, self.largest = choose.random() < 0.5, choose.random() < 0.5
        self.padding = choose.choice([0, 1])
        self.last = nn.Conv2d(width, wide, 1)

    def forward(self, x):
        if self.largest:
            x = F.max_pool2d(x, self.kernel, 2, self.padding, ceil_mode=self.ceil)
        else:
            x = F.avg_pool2d(x, self.kernel, 2, self.padding, self.ceil, self.include)
        first, second = x.chunk(2, 1)
        return self.last(torch.cat([second * 2.0 - 1, F.leaky_relu(first, 0.2)], 1))


BLOCKS = (Plain, Residual, Dense, Branches, Same, Pooled)


class Net(nn.Module):
    def __init__(self, seed: int, size: tuple[int, int], kinds=None):
        super().__init__()
        choose = random.Random(seed)
        self.head = choose.choice(["average", "adaptive", "flatten", "squeeze"])
        width, blocks = choose.choice([4, 6]), []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, width, 3, choose.choice([1, 2]), 1)
            for kind in kinds or choose.choices(BLOCKS, k=4):
                wide = choose.choice([4, 6, 8])
                blocks.append(kind(choose, width, wide))
                width = wide
            self.blocks = nn.Sequential(*blocks)
            with torch.no_grad():
                _, c, h, w = self.blocks.eval()(self.stem(torch.zeros(1, 3, *size))).shape
            self.flat = nn.Flatten()
            self.last = nn.Linear(c * h * w if self.head == "flatten" else c, 5)
            for module in self.modules():  # signals that keep their size, so that an occluder has an effect
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
            nn.init.zeros_(self.last.bias)

    def forward(self, x):
        x = self.blocks(F.relu(self.stem(x), inplace=True))
        if self.head == "average":
            x = x.mean([2, 3])
        elif self.head == "adaptive":
            x = self.flat(F.adaptive_avg_pool2d(x, 1))
        elif self.head == "squeeze":
            x = x.mean((-1, -2), keepdim=True).squeeze(3).squeeze(2)
        else:
            x = self.flat(x)
        return self.last(F.dropout(x, 0.5, self.training))


def plain(net: nn.Module, images: Tensor, rectangles: Tensor, baseline, read) -> Tensor:
    """[N, positions] in double precision: the whole network for each copy."""
    net, images = copy.deepcopy(net).double().eval(), images.double()
    baseline = baseline.double() if isinstance(baseline, Tensor) else baseline
    found = []
    for n in range(len(images)):
        fill = baseline[n : n + 1] if isinstance(baseline, Tensor) else baseline
        copies = occlude(images[n : n + 1], rectangles.flatten(0, 1), fill)
        with torch.no_grad():
            found.append(read(net(copies)))
    return torch.stack(found)


def exact(found, expected: Tensor, dtype: torch.dtype) -> None:
    scale = max(expected.abs().max().item(), found.clean.abs().max().item())
    error = (found.scores.flatten(1).double() - expected).abs().max() / scale
    assert error <= (1e-12 if dtype == torch.float64 else 1e-5), error
    # else nothing was tested
    assert found.drops.abs().max() > 0.03 * scale


def centred(net: nn.Module, seed: int, size) -> nn.Module:
    """Scores around 0: what all images have in common would hide an occluder's effect."""
    with torch.no_grad():
        net.last.bias.sub_(net(random_images(seed, 8, size, torch.float32)).mean(0))
    return net


def random_case(seed: int, kinds=None):
    choose = random.Random(seed + 1000)
    size = (choose.randint(24, 40), choose.randint(24, 40))
    net = centred(calibrate(Net(seed, size, kinds), seed, size), seed, size)
    options = {
        "window": (choose.randint(1, 9), choose.randint(1, 9)),
        "stride": (choose.randint(2, 9), choose.randint(2, 9)),
    }
    return net, size, options


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("seed", range(4))
def test_exact_with_each_kind_of_block(kind, seed):
    net, size, options = random_case(seed, [kind, random.Random(seed).choice(BLOCKS)])
    check(net, size, options, seed, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(100, 120))
def test_exact_on_random_networks(seed, dtype):
    net, size, options = random_case(seed)
    check(net, size, options, seed, dtype)


def check(net, size, options, seed, dtype):
    net = net.to(dtype)
    images = random_images(seed, 2, size, dtype)
    baseline = 4 * random_images(seed + 1, 2, size, dtype)
    with unchanged(net, images, baseline), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = occlusion_map(net, images, 3, baseline=baseline, **options)
    saved = "nothing is saved" in found.how
    assert found.how.startswith("dirty rectangles: ") or saved, found.how
    expected = plain(net, images, found.rectangles, baseline, lambda y: y[:, 3])
    exact(found, expected, dtype)


# --- the networks of the lessons


def torchvision_net(name: str, size: int) -> nn.Module:
    from torchvision import models

    extra = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.get_model(name, weights=None, num_classes=10, **extra)
    return calibrate(net, size=(size, size), count=4)


NETWORKS = ("vgg11_bn", "resnet18", "squeezenet1_1", "mobilenet_v2", "densenet121", "googlenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchvision_is_exact(name, dtype):
    """Windows that are not aligned to any stride, and clipped at the borders."""
    net = torchvision_net(name, 96).to(dtype)
    image = random_images(3, 1, (96, 96), dtype)
    found = occlusion_map(net, image, list(range(10)), window=(23, 19), stride=(31, 29), baseline=3.0)
    assert found.how.startswith("dirty rectangles: ")
    copies = occlude(image, found.rectangles.flatten(0, 1), 3.0)
    with torch.no_grad():
        own = net(copies).T.double()
        expected = copy.deepcopy(net).double()(copies.double()).T
    scale = expected.abs().max()
    error = (found.scores.flatten(1).double() - expected).abs().max() / scale
    rounding = (own - expected).abs().max() / scale
    # in single precision some of these networks are themselves off by as much
    assert error <= (1e-12 if dtype == torch.float64 else max(1e-5, 2 * rounding)), (error, rounding)
    assert found.drops.abs().max() > 0.03 * scale


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet18"])
def test_a_quarter_of_the_side_goes_by_dirty_rectangles(name):
    quarter(torchvision_net(name, 224))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "densenet121", "googlenet"])
def test_a_quarter_of_the_side_goes_by_dirty_rectangles_in_larger_ones(name):
    quarter(torchvision_net(name, 224))


def quarter(net: nn.Module, size: int = 224) -> None:
    image = random_images(4, 1, (size, size), torch.float32)
    for window, stride in ((size // 4, size // 2 + 5), (size // 14, size // 2 + 3)):
        found = occlusion_map(net, image, 1, window=window, stride=stride, baseline=2.0)
        assert found.how.startswith("dirty rectangles: ")
        copies = occlude(image, found.rectangles.flatten(0, 1), 2.0)
        with torch.no_grad():
            expected = net(copies)
        assert (found.scores.flatten() - expected[:, 1]).abs().max() <= 1e-5 * expected.abs().max()
        assert found.drops.abs().max() > 3e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "petnet", "petnet_gap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_embedded_networks(name, dtype):
    import lecture7_utils as l7

    net = l7.load_model(name, device="cpu").to(dtype)
    image = net.preprocess(l7.photos()[0]).to(dtype)
    side = image.shape[-1]
    options = {"window": side // 4, "stride": side // 4 + 3, "baseline": "mean"}
    with unchanged(net, image):
        found = occlusion_map(net, image, [0, 1, 2], **options)
    assert found.how.startswith("dirty rectangles: ")
    reference = copy.deepcopy(net).double()
    with torch.no_grad():
        copies = occlude(image, found.rectangles.flatten(0, 1), "mean").double()
        expected = torch.cat([reference(part) for part in copies.split(5)])
    error = (found.scores.flatten(1).double() - expected[:, :3].T).abs().max() / expected.abs().max()
    assert error <= (1e-12 if dtype == torch.float64 else 1e-5)
    assert found.drops.abs().max() > 0.01 * expected.abs().max()


# --- targets, batches, chunks

SIZE = (32, 28)
GOOD = {"window": 5, "stride": 6, "baseline": 3.0}


def net_for(seed: int = 5, kinds=(Residual, Branches), dtype=torch.float64) -> nn.Module:
    return centred(calibrate(Net(seed, SIZE, kinds), seed, SIZE), seed, SIZE).to(dtype)


UNITS = [
    unit("stem", 1, "max"),
    unit("stem", 2, "mean"),
    unit("blocks.0.relu", 3, (4, 5)),
    unit("blocks.0", 0, "mean"),
    unit("blocks.1.two", 1, "max"),
    unit("blocks.1", 1, (2, 3)),
    unit("last", 2),
]


@pytest.mark.parametrize("target", UNITS, ids=[f"{t.layer}-{t.position}" for t in UNITS])
def test_units(target):
    net, images = net_for(), random_images(1, 2, SIZE)
    found = occlusion_map(net, images, target, **GOOD)
    assert found.how.startswith(f"dirty rectangles: only what the window changes in the network up to "
                                f"{target.layer!r}")  # fmt: skip
    for n in range(2):
        copies = occlude(images[n : n + 1], found.rectangles.flatten(0, 1), 3.0)
        expected = evaluate(net, copies, target)
        assert (found.scores[n].flatten() - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert found.drops.abs().max() > 0.01 * found.clean.abs().max()


@pytest.mark.parametrize(
    "make", [list, class_probability, lambda c: unit("blocks.0", c, "mean"), lambda c: unit("last", c)]
)
def test_targets_for_each_image_and_several_for_one(make):
    net, images = net_for(), random_images(2, 3, SIZE)
    together = occlusion_map(net, images, make([2, 0, 3]), **GOOD)
    several = occlusion_map(net, images[1:2], make([2, 0, 3, 0]), **GOOD)
    assert together.how.startswith("dirty rectangles: ")
    assert together.how == several.how
    for n, c in enumerate([2, 0, 3]):
        alone = occlusion_map(net, images[n : n + 1], make([c]), **GOOD)
        copies = occlude(images[n : n + 1], together.rectangles.flatten(0, 1), 3.0)
        expected = evaluate(net, copies, make([c] * len(copies)))
        for found in (together.scores[n], alone.scores[0]):
            assert (found.flatten() - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (together.clean[n] - alone.clean[0]).abs() <= 1e-12
    for k, c in enumerate([2, 0, 3, 0]):
        alone = occlusion_map(net, images[1:2], make([c]), **GOOD)
        assert (several.scores[k] - alone.scores[0]).abs().max() <= 1e-12


class _Batches(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d and args[1].shape[-1] > 1:  # 1 × 1: rows of places may go in as images
            self.most = max(self.most, len(args[0]))
        return func(*args, **(kwargs or {}))


def test_never_more_than_a_chunk_in_a_pass_and_the_same_whatever_the_chunk():
    net, images = net_for(), random_images(3, 2, SIZE)
    whole = occlusion_map(net, images, 1, window=4, stride=2)
    for chunk in (1, 3, 50):
        with _Batches() as seen:
            found = occlusion_map(net, images, 1, window=4, stride=2, chunk=chunk)
        assert seen.most <= chunk
        assert found.how.startswith("dirty rectangles: ")
        assert (found.scores - whole.scores).abs().max() < 1e-13
    with _Batches() as seen:
        occlusion_map(net, images, 1, window=4, stride=2)
    assert 4 < seen.most <= dirty.LARGEST_BATCH


def test_every_position_once_and_no_more():
    net, image = net_for(), random_images(3, 1, SIZE)
    rows, columns = [(k, k + 4) for k in range(0, 29, 3)], [(k, min(k + 9, 28)) for k in range(0, 28, 4)]
    with torch.inference_mode():
        sweep = DirtyRectangles(net, image, torch.zeros_like(image), unit("last", 1), rows, columns, limit=7)
        numbers = [number for part, _ in sweep for number in part]
    assert sorted(numbers) == list(range(len(rows) * len(columns)))


# --- plans are kept, weights are not


def test_weights_that_change_in_place_count_at_once(monkeypatch):
    net, images = net_for(), random_images(4, 1, SIZE)
    dirty._CACHE.clear()
    made = []
    real = dirty.make_plan
    monkeypatch.setattr(dirty, "make_plan", lambda *a: made.append(1) or real(*a))
    first = occlusion_map(net, images, 1, **GOOD)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.2)
    second = occlusion_map(net, 2 * images, 1, **GOOD)
    assert len(made) == 1  # the plan is the same
    expected = plain(net, 2 * images, second.rectangles, 3.0, lambda y: y[:, 1])
    exact(second, expected, torch.float64)
    assert (first.scores - second.scores).abs().max() > 0.1
    other = net_for(6)
    occlusion_map(other, images, 1, **GOOD)
    occlusion_map(net, images, 1, window=6, stride=6)
    assert len(made) == 3


def test_plans_do_not_pile_up():
    net, image = net_for(), random_images(4, 1, SIZE)
    for window in range(3, 15):
        occlusion_map(net, image, 1, window=window, stride=14)
    assert len(dirty._CACHE) <= dirty._CACHED


# --- when the dense way is taken


class Gated(Net):
    """Squeeze and excitation."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.blocks(x * torch.sigmoid(x.mean((2, 3), keepdim=True)))
        return self.last(x.mean((2, 3)) if self.head != "flatten" else x.flatten(1))


class Decides(Net):
    def forward(self, x):
        return super().forward(x if x.max() > 0 else -x)


class Positions(Net):
    def forward(self, x):
        return super().forward(x * torch.linspace(0, 1, x.shape[3], dtype=x.dtype))


class Mixes(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True) * 0)


class Turns(Net):
    def forward(self, x):
        return super().forward(x.transpose(2, 3).contiguous().transpose(2, 3))


class Catches(Net):
    """It goes on after any error at a step that can't be followed."""

    def forward(self, x):
        try:
            y = x.cumsum(2) * 0.1
        except BaseException:
            y = torch.zeros_like(x)
        return super().forward(x + y)


class Random(Net):
    """Its own noise, in eval mode as well: seen as a constant that differs between places."""

    def forward(self, x):
        return super().forward(x + torch.rand(x.shape, dtype=x.dtype) * 0)


class OverwritesAView(Net):
    def forward(self, x):
        y = self.stem(x)
        z = y[:, :2]
        z.mul_(0.5)
        return self.last(self.blocks(y).mean((2, 3)) if self.head != "flatten" else self.blocks(y).flatten(1))


REASONS = {
    Gated: "squeeze-and-excitation",
    Decides: "isn't known",
    Positions: "differs between places",
    Mixes: "mixes images",
    Turns: "'transpose'",
    Catches: "'cumsum'",
    Random: "differs between places",
    OverwritesAView: "two tensors share",
}


def dense_with(net: nn.Module, says: str, **options) -> None:
    image, options = random_images(5, 1, SIZE), {**GOOD, **options}
    with unchanged(net, image), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = occlusion_map(net, image, 1, **options)
    assert found.how.startswith("dense: ")
    assert "no dirty rectangles: " in found.how
    assert says in found.how
    exact(found, plain(net, image, found.rectangles, 3.0, lambda y: y[:, 1]), torch.float64)


@pytest.mark.parametrize("kind", REASONS)
def test_what_cannot_be_followed_goes_the_dense_way_and_says_why(kind):
    net = kind(7, SIZE, (Plain,))
    if kind is Catches:
        net = Catches(7, SIZE, (Plain,))
    dense_with(calibrate(net, 7, SIZE).double(), REASONS[kind])


def test_a_window_that_changes_nearly_everything():
    dense_with(net_for(), "nothing is saved", window=31, stride=1)


class Ends(nn.Module):
    """Two convolutions, then a linear layer on all values; if `viewed`, it refuses channels last there."""

    def __init__(self, viewed: bool):
        super().__init__()
        self.viewed, self.formats = viewed, []
        self.one, self.two, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5 * 28 * 24, 4)

    def forward(self, x):
        x = F.relu(self.two(F.relu(self.one(x))))
        self.formats.append(x.is_contiguous(memory_format=torch.channels_last))
        return self.last(x.view(len(x), -1) if self.viewed else x.flatten(1))


@pytest.mark.parametrize("viewed", [False, True])
def test_single_precision_is_traced_in_channels_last_where_the_network_lets_it(viewed):
    torch.manual_seed(0)
    net, images = Ends(viewed).eval(), random_images(5, 2, SIZE, torch.float32)
    with unchanged(net, images):
        found = occlusion_map(net, images, 1, **GOOD)
    last = torch.backends.mkldnn.is_available()
    assert net.formats[: 1 + (last and viewed)] == ([last, False] if last and viewed else [last])
    assert found.how.startswith("dirty rectangles: ")
    exact(found, plain(net, images, found.rectangles, 3.0, lambda y: y[:, 1]), torch.float32)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_compiled_parts():
    net = net_for()
    scripted = copy.deepcopy(net)
    scripted.blocks[1].two = torch.jit.script(net.blocks[1].two)
    image = random_images(5, 1, SIZE)
    found = occlusion_map(scripted, image, 1, **GOOD)
    assert "can't be looked into" in found.how
    assert (found.scores - occlusion_map(net, image, 1, **GOOD).scores).abs().max() < 1e-12


def test_hooks_see_every_pass():
    net, seen = net_for(), []
    handle = net.blocks[0].register_forward_hook(lambda _m, _x, y: seen.append(len(y)))
    dense_with(net, "a hook on 'blocks.0'")
    handle.remove()
    assert sum(seen) > 30


def test_maps_too_large_to_keep(monkeypatch):
    monkeypatch.setattr(dirty, "TABLES", 10**4)
    dense_with(net_for(), "its maps would take")


def test_maps_too_large_to_trace(monkeypatch):
    monkeypatch.setattr(tracing, "KEPT", 10**4)
    dense_with(net_for(), "maps of more than")


MEMORY = """
import sys, torch
from lecture7_utils.kernels.occlusion import occlusion_map
from tests.benchmarks.measure import peak
from tests.kernels.test_dirty import torchvision_net
from tests.nets import random_images

side, stride = map(int, sys.argv[1:])
net, image = torchvision_net("vgg16", 64), random_images(4, 1, (side, side), torch.float32)
found = []
print(peak(lambda: found.append(occlusion_map(net, image, 1, window=64, stride=stride).how)), *found)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("side", "stride", "how"), [(448, 120, "dirty rectangles"), (1200, 800, "dense")])
def test_memory_stays_below_two_gibibytes_beyond_the_model(side, stride, how):
    # in a process of its own: after `start`, which other tests call, a process keeps what it has freed
    command = [sys.executable, "-c", MEMORY, str(side), str(stride)]
    on_the_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=on_the_cpu, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    taken, way = done.stdout.split(maxsplit=1)
    assert way.startswith(how)
    if taken == "None":
        pytest.skip("this system does not tell what a call took")
    assert 2**26 < int(taken) < 2**31


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_wrong_first_position_falls_back_with_a_warning(monkeypatch, wrong):
    net, images = net_for(), random_images(6, 2, SIZE)
    real = DirtyRectangles._tail
    monkeypatch.setattr(DirtyRectangles, "_tail", lambda self, x: real(self, x) + wrong)
    with unchanged(net, images), pytest.warns(UserWarning, match="dense way") as caught:
        found = occlusion_map(net, images, 1, **GOOD)
    assert caught[0].filename == __file__
    assert found.how.startswith("dense: ")
    assert "another result" in found.how
    exact(found, plain(net, images, found.rectangles, 3.0, lambda y: y[:, 1]), torch.float64)


def test_an_error_inside_falls_back_with_a_warning(monkeypatch):
    net, image = net_for(), random_images(6, 1, SIZE)

    def fails(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(DirtyRectangles, "_front", fails)
    with unchanged(net, image), pytest.warns(UserWarning, match="no such kernel"):
        found = occlusion_map(net, image, 1, **GOOD)
    assert found.how.startswith("dense: ")
    exact(found, plain(net, image, found.rectangles, 3.0, lambda y: y[:, 1]), torch.float64)


@pytest.mark.parametrize("at", [2, 4])
def test_an_interrupt_gives_back_what_there_is(monkeypatch, at):
    net, images = net_for(), random_images(7, 2, SIZE)
    whole = occlusion_map(net, images, 1, **GOOD)
    monkeypatch.setattr(dirty, "TAIL", 1)  # every batch by itself
    real, calls = DirtyRectangles._front, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(DirtyRectangles, "_front", stops)
    with unchanged(net, images), pytest.warns(UserWarning, match=r"interrupted after \d+ of \d+"):
        found = occlusion_map(net, images, 1, chunk=7, **GOOD)
    there = ~found.scores.isnan()
    assert not found.complete
    assert 0 < there.sum() < there.numel()
    assert (found.scores - whole.scores)[there].abs().max() < 1e-13
    assert abs(found.clean[0] - whole.clean[0]) < 1e-13


def test_an_interrupt_before_the_first_score_passes_on(monkeypatch):
    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DirtyRectangles, "_front", stops)
    net, images = net_for(), random_images(7, 1, SIZE)
    with unchanged(net, images), pytest.raises(KeyboardInterrupt):
        occlusion_map(net, images, 1, **GOOD)


# --- how they grow


@pytest.mark.parametrize("seed", range(6))
def test_rectangles_are_where_receptive_fields_reach_the_window(seed):
    net, size, _ = random_case(seed)
    choose = random.Random(seed)
    top, left = choose.randint(0, size[0] - 6), choose.randint(0, size[1] - 6)
    rectangle = (top, left, top + choose.randint(1, 5), left + choose.randint(1, 5))
    layers = ["stem", *(f"blocks.{k}" for k in range(4))]
    with unchanged(net):
        found = dirty_rectangles(net, size, rectangle, layers=layers)
    assert [row.layer for row in found] == layers
    for row in found:
        fields = receptive_field(net, row.layer, size).double()
        t, le, b, r = rectangle
        reached = (fields[..., 0] < b) & (fields[..., 2] > t) & (fields[..., 1] < r) & (fields[..., 3] > le)
        places = reached.any(0).nonzero()
        assert row.size == tuple(reached.shape[1:])
        assert row.rectangle[:2] == tuple(places.amin(0).tolist())
        assert row.rectangle[2:] == tuple((places.amax(0) + 1).tolist())
        assert row.share == len(places) / reached[0].numel()


def test_rectangles_hold_all_that_changes_and_one_pixel_may_be_seen_by_no_one():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten())
    found = dirty_rectangles(net, 9, (1, 3, 2, 4))
    assert [(row.layer, row.rectangle, row.share) for row in found] == [
        (name, (0, 0, 0, 0), 0.0) for name in ("0", "1", "2")
    ]
    image = random_images(1, 1, (9, 9), torch.float32)
    seen = occlusion_map(net, image, [0, 9], window=1, stride=1, baseline=5.0)
    copies = occlude(image, seen.rectangles.flatten(0, 1), 5.0)
    with torch.no_grad():
        assert torch.allclose(seen.scores.flatten(1), net(copies)[:, [0, 9]].T, atol=1e-6)
    assert seen.drops[:, 1::2].abs().max() < 1e-6
    assert seen.drops[:, ::2, ::2].abs().max() > 0.1


def test_all_layers_by_default_and_images_for_a_size():
    net = net_for()
    found = dirty_rectangles(net, random_images(1, 2, SIZE), torch.tensor([3, 4, 8, 9]))
    assert found == dirty_rectangles(net, SIZE, [3, 4, 8, 9])
    names = [row.layer for row in found]
    assert names[0] == "stem"
    assert "blocks.0.second" in names
    assert "blocks.0" not in names
    assert "last" not in names
    pooled = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert dirty_rectangles(pooled, 32, (0, 0, 4, 4), layers="0")[0].size == (30, 30)
    assert [row.rectangle for row in dirty_rectangles(pooled, 32, (0, 0, 4, 4))] == [
        (0, 0, 4, 4),
        (0, 0, 1, 1),
    ]


def test_bad_arguments_of_dirty_rectangles():
    net = net_for()
    for bad in (None, 3, "abcd", (0, 0, 3), (0, 0, 3, 3.5), (3, 0, 3, 4), (0, 0, 99, 4), (-1, 0, 3, 3)):
        refuses("rectangle", dirty_rectangles, net, SIZE, bad)
    for bad in (None, "32", (3,), 0, 2.5, (0, 4)):
        refuses("size", dirty_rectangles, net, bad, (0, 0, 1, 1))
    refuses("images", dirty_rectangles, net, torch.zeros(1, 3, *SIZE), (0, 0, 1, 1))
    refuses("model", dirty_rectangles, "vgg16", SIZE, (0, 0, 1, 1))
    refuses("layers", dirty_rectangles, net, SIZE, (0, 0, 1, 1), layers=["stme"], says="'stem'")
    refuses("layers", dirty_rectangles, net, SIZE, (0, 0, 1, 1), layers=["last"], says="maps")
    gated = calibrate(Gated(7, SIZE, (Plain,)), 7, SIZE).double()
    with unchanged(gated):
        refuses("model", dirty_rectangles, gated, SIZE, (0, 0, 1, 1), says="squeeze")


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives():
    net, images = net_for(), random_images(2, 2, SIZE)
    here = occlusion_map(net, images, [1, 2], **GOOD)
    there = occlusion_map(net.cuda(), images.cuda(), [1, 2], **GOOD)
    assert there.how.startswith("dirty rectangles: ")
    assert (there.scores.cpu() - here.scores).abs().max() < 1e-12
