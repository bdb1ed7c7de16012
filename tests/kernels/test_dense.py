"""The fast way through a network: exact on networks of all kinds, and not taken where it would not be."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from lecture7_utils.kernels import occlusion
from lecture7_utils.kernels.dense import Passes, read_copies
from lecture7_utils.kernels.dirty import NotFaster
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.occlusion import occlude, occlusion_map
from lecture7_utils.kernels.targets import as_target, evaluate, unit
from tests.guards import unchanged
from tests.nets import random_images

SIZE = (12, 14)


@pytest.fixture(autouse=True)
def dense_way(monkeypatch):
    """Here the dense way is tested, on networks that would mostly not take it."""

    def refuse(*_, **__):
        raise NotFaster("a test of the dense way")

    monkeypatch.setattr(occlusion, "DirtyRectangles", refuse)


def calibrate(net: nn.Module, seed: int = 0, size=SIZE, count: int = 8) -> nn.Module:
    """Batch norms that saw images and have weights: with fresh ones a fold is no test."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(std=0.5, generator=generator)
        dtype = next(net.parameters()).dtype
        net.train()(random_images(seed, count, size, dtype))
    return net.eval()


class Block(nn.Module):
    """A convolution, a batch norm and a head; sub-classes say how they meet."""

    def __init__(self, seed: int = 0, bias: bool = True, **norm):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 6, 3, stride=2, bias=bias)
            self.norm = nn.BatchNorm2d(6, **norm)
            self.head = nn.Linear(6 * 5 * 6, 4)

    def features(self, x):
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class ReadTwice(Block):
    def features(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class AlteredBetween(Block):
    def features(self, x):
        y = self.conv(x)
        y += 1
        return self.norm(y)


class ReadByValue(Block):
    def features(self, x):
        y = self.conv(x)
        return self.norm(y) * float(y.detach().flatten()[0] > -1e9)


class Shared(Block):
    """One convolution, called twice, normed once."""

    def features(self, x):
        return self.norm(self.conv(x)) + self.conv(x.flip(3))


class OwnCalls(Block):
    """No modules are called, and arguments go by name."""

    def features(self, x):
        y = F.conv2d(input=x, weight=self.conv.weight, bias=self.conv.bias, stride=2)
        return F.batch_norm(
            y,
            running_mean=self.norm.running_mean,
            running_var=self.norm.running_var,
            weight=self.norm.weight,
            bias=self.norm.bias,
            eps=self.norm.eps,
        )


class BatchStatistics(Block):
    """Normed by the image's own statistics: `training=True` in the call."""

    def features(self, x):
        y = self.conv(x)
        return torch.cat([F.batch_norm(part, None, None, training=True) for part in y.split(1)])


class Viewed(Block):
    """`view` demands the usual memory format."""

    def forward(self, x):
        features = self.features(x)
        return self.head(features.view(len(features), -1))


class InPlace(Block):
    def features(self, x):
        return F.relu_(self.norm(self.conv(F.relu_(x))))


class Catches(Block):
    """It goes on after any error, and notices none."""

    def features(self, x):
        try:
            return super().features(x)
        except Exception:
            return torch.zeros(len(x), 6, 5, 6, dtype=x.dtype)


KINDS = {
    "usual": (Block(1), 1),
    "no bias": (Block(2, bias=False), 1),
    "no affine": (Block(3, affine=False), 1),
    "large epsilon": (Block(4, eps=0.7), 1),
    "calls of its own": (OwnCalls(5), 1),
    "in place": (InPlace(6), 1),
    "view": (Viewed(7), 1),
    "catches errors": (Catches(8), 1),
    "read twice": (ReadTwice(9), 0),
    "altered between": (AlteredBetween(10), 0),
    "read by value": (ReadByValue(11), 0),
    "shared": (Shared(12), 0),
    "batch statistics": (BatchStatistics(13), 0),
}


def check(net, dtype, folds, tolerance=None):
    net = calibrate(copy.deepcopy(net).to(dtype))
    images = random_images(1, 2, SIZE, dtype)
    with unchanged(net, images):
        found = occlusion_map(net, images, 2, window=5, stride=4, baseline=4.0, chunk=7)
    reference = copy.deepcopy(net).double()
    for n in range(2):
        for i, row in enumerate(found.rectangles.tolist()):
            for j, rectangle in enumerate(row):
                with torch.no_grad():
                    score = reference(occlude(images[n : n + 1].double(), rectangle, 4.0))[0, 2]
                assert abs(found.scores[n, i, j] - score) < (
                    tolerance or (1e-12 if dtype == torch.float64 else 1e-5)
                )
    assert found.drops.abs().max() > 0.05  # else nothing was tested
    plural = "s" if folds > 1 else ""
    assert (f"{folds} batch norm{plural} folded" in found.how) == (folds > 0), found.how
    return found.how


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_on_networks_of_all_kinds(kind, dtype):
    net, folds = KINDS[kind]
    how = check(net, dtype, folds)
    assert ("channels last" in how) == (dtype == torch.float32 and kind != "view")
    assert ("did not fit" in how) == (dtype == torch.float32 and kind == "view")


def test_a_convolution_that_someone_hooked_keeps_its_output():
    net, seen = Block(1), []
    net.conv.register_forward_hook(lambda _m, _x, y: seen.append(y.clone()))
    check(net, torch.float64, 0)
    net = calibrate(Block(1).double())
    net.conv.register_forward_hook(lambda _m, _x, y: seen.append(y.clone()))
    seen.clear()
    images = random_images(1, 1, SIZE)
    occlusion_map(net, images, 0, window=20, stride=20, baseline=1.0)
    assert torch.allclose(
        seen[-1], F.conv2d(torch.ones_like(images), net.conv.weight, net.conv.bias, stride=2)
    )


def test_a_computed_weight_is_left_alone():
    net = Block(1)
    parametrizations.weight_norm(net.conv)
    check(net, torch.float64, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_torchscript_inside():
    net = calibrate(Block(1).double())
    scripted = torch.jit.script(net)
    images = random_images(1, 1, SIZE)
    found = occlusion_map(scripted, images, 1, window=5, stride=4, baseline=2.0)
    expected = occlusion_map(net, images, 1, window=5, stride=4, baseline=2.0)
    assert torch.allclose(found.scores, expected.scores, atol=1e-13)


class Branches(Block):
    """It skips the batch norm where the image holds a 9."""

    def features(self, x):
        y = self.conv(x)
        return y if (x == 9).any() else self.norm(y)


class BranchesElsewhere(Block):
    """Where the image holds a 9, the convolution's output goes into another batch norm."""

    def __init__(self, seed):
        super().__init__(seed)
        self.other = nn.BatchNorm2d(6, affine=False)

    def features(self, x):
        y = self.conv(x)
        return self.other(y) if (x == 9).any() else self.norm(y)


@pytest.mark.parametrize("kind", [Branches, BranchesElsewhere])
def test_a_network_that_branches_on_its_data_is_never_wrong(kind):
    net, images = calibrate(kind(1).double()), random_images(1, 1, SIZE)
    for baseline in (9.0, 8.0):
        found = occlusion_map(net, images, 1, window=5, stride=4, baseline=baseline, chunk=1)
        copies = occlude(images, found.rectangles.flatten(0, 1), baseline)
        expected = torch.stack([evaluate(net, c[None], 1)[0] for c in copies])
        assert torch.allclose(found.scores.flatten(), expected, atol=1e-13)
        assert ("folded" in found.how) == (baseline == 8.0)
    # the images decide as well: here it is the clean one that takes the other branch
    images[0, 0, 0, 0] = 9
    found = occlusion_map(net, images, 1, window=5, stride=4, baseline=1.0, chunk=1)
    copies = occlude(images, found.rectangles.flatten(0, 1), 1.0)
    expected = torch.stack([evaluate(net, c[None], 1)[0] for c in copies])
    assert torch.allclose(found.scores.flatten(), expected, atol=1e-13)


class Strides(Block):
    """Wrong, and without an error, for any but the usual memory format."""

    def features(self, x):
        y = torch.as_strided(x, x.shape, torch.empty(x.shape).stride())
        return super().features(y)


def test_a_way_that_gives_other_results_is_not_taken():
    how = check(Strides(1), torch.float32, 1)
    assert "channels last" not in how
    assert "other results" in how


def test_a_way_that_needs_the_wrong_batch_norm_is_not_taken(monkeypatch):
    from lecture7_utils.kernels import dense

    real = dense._Watch.folds
    monkeypatch.setattr(
        dense._Watch,
        "folds",
        lambda self: {k: dense.replace(f, bias=f.bias + 1e-3) for k, f in real(self).items()},
    )
    assert "other results" in check(Block(1), torch.float64, 0)


def test_a_fold_stops_at_a_unit_before_the_batch_norm():
    net, images = calibrate(Block(1).double()), random_images(1, 1, SIZE)
    for layer, folds in (("conv", False), ("norm", True)):
        found = occlusion_map(net, images, unit(layer, 2, "mean"), window=5, stride=4, baseline=4.0)
        copies = occlude(images, found.rectangles.flatten(0, 1), 4.0)
        assert torch.allclose(
            found.scores.flatten(), evaluate(net, copies, unit(layer, 2, "mean")), atol=1e-13
        )
        assert ("folded" in found.how) == folds


def test_copies_may_come_from_anywhere():
    net, images = calibrate(Block(1)), random_images(1, 3, SIZE, torch.float32)
    with evaluation(net), torch.inference_mode():
        passes = Passes(net, images, as_target([0, 1, 2]), 2)
        copies = 2 * images[[2, 0, 0]]
        found = passes(lambda: copies.clone(memory_format=passes.layout), [2, 0, 0])
    assert torch.allclose(passes.clean, evaluate(net, images, [0, 1, 2]), atol=1e-6)
    assert torch.allclose(found[:, 0], evaluate(net, copies, [2, 0, 0]), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "target", "per_copy"),
    [
        ((3, 5), 1, 1),
        ((3, 5), [1, 2], 2),
        ((3, 4, 6, 6), unit("0", 2, (1, 1)), 1),
        ((3, 4, 6, 6), unit("0", [0, 2], (1, 1)), 2),
    ],
)
def test_what_is_read_of_a_pass_keeps_nothing_else_in_memory(shape, target, per_copy):
    got = read_copies(torch.randn(shape), as_target(target), [0] * 3, per_copy)
    assert got.shape == (3, per_copy)
    assert got.untyped_storage().nbytes() == got.numel() * got.element_size()


def test_layer_that_mixes_images_is_refused():
    class Mixes(Block):
        def features(self, x):
            return super().features(x.flatten(0, 1)[None].expand(1, -1, -1, -1)[:, :3])

    net, images = Mixes(1), random_images(1, 2, SIZE, torch.float32)
    with pytest.raises(ValueError, match="one row for each of the 2 images, got float32"):
        occlusion_map(net, images, unit("conv", 0), window=5, stride=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet", "densenet121"])
def test_torchvision(name):
    """In double precision exact; in single precision no further off than the network itself is."""
    from torchvision import models

    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.get_model(name, weights=None, num_classes=10, **extra)
    net = calibrate(net, size=(64, 64))
    images = random_images(3, 1, (64, 64), torch.float32)
    options = {"window": 24, "stride": 20, "baseline": 3.0}
    found = occlusion_map(net, images, list(range(10)), **options)
    copies = occlude(images, found.rectangles.flatten(0, 1), 3.0)
    with torch.no_grad():
        plain = net(copies).T
    net = net.double()
    exact = occlusion_map(net, images.double(), list(range(10)), **options)
    with torch.no_grad():
        expected = net(copies.double()).T
    scale = expected.abs().max()
    assert (exact.scores.flatten(1) - expected).abs().max() <= 1e-12 * scale
    own = (plain - expected).abs().max()
    assert own <= 1e-4 * scale
    assert (found.scores.flatten(1) - expected).abs().max() <= 1e-6 * scale + 3 * own
    assert exact.drops.abs().max() > 0.02 * scale
    assert "channels last" in found.how
    for way in (found.how, exact.how):
        assert ("folded" in way) == (name != "squeezenet1_1")


@pytest.mark.slow
def test_the_embedded_network():
    import lecture7_utils as l7

    net = l7.load_model("efficientnet_lite0", device="cpu")
    images = net.preprocess(l7.photos()[0])
    found = occlusion_map(net, images, list(range(0, 1000, 100)), window=80, stride=72, baseline="mean")
    with torch.no_grad():
        copies = occlude(images, found.rectangles.flatten(0, 1), "mean").double()
        expected = copy.deepcopy(net).double()(copies)[:, ::100].T
    assert (found.scores.flatten(1) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert found.drops.abs().max() > 0.05 * expected.abs().max()
    assert "channels last, 49 batch norms folded" in found.how
    assert math.isfinite(found.map("drop").sum())
