"""Cascading randomisation: similarities against slow definitions, which layers, and nothing left changed."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lecture7_utils.kernels.cam import grad_cam
from lecture7_utils.kernels.deconvnet import deconvnet
from lecture7_utils.kernels.saliency import saliency_map
from lecture7_utils.kernels.sanity import Randomisation, randomisation_check
from lecture7_utils.kernels.targets import unit
from lecture7_utils.shop.petnet import PetNet
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net


def petnet(seed: int = 0) -> PetNet:
    return PetNet(("cat", "dog", "hen"), blocks=((4,), (5, 5), (6,)), size=32, seed=seed).double().eval()


IMAGES = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
NET = petnet()


def gradient(net: nn.Module, images: Tensor) -> Tensor:
    return saliency_map(net, images, 1)


def spearman(a: Tensor, b: Tensor) -> float:
    """1 + the number below + half the number of others that are equal, then Pearson, by plain loops."""

    def ranks(values):
        return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]

    x, y = ranks(a.flatten().tolist()), ranks(b.flatten().tolist())
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    below = math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y))
    return top / below if below else math.nan


def ssim_by_definition(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, eq. 13, with an 11 × 11 Gaussian window of sigma 1.5, where the window fits."""
    a, b = ((map - map.min()) / (map.max() - map.min()) for map in (a, b))
    x = torch.arange(-5, 6).double()
    window = torch.exp(-(x**2) / (2 * 1.5**2))
    window = window[:, None] * window / window.sum() ** 2

    def mean(map):
        return F.conv2d(map[None, None], window[None, None])[0, 0]

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


class Two(nn.Module):
    """One weight: 0 as it is, so that `explain` can see whether it was randomised."""

    def __init__(self):
        super().__init__()
        self.only = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x.mean((2, 3))[:, :2])


@pytest.mark.parametrize("measure", ["rank", "cosine", "ssim"])
@given(seed=st.integers(0, 9999), ties=st.booleans())
def test_similarities_by_definition(measure, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 2, 12, 13)
    pair = torch.randn(shape, generator=generator, dtype=torch.float64)
    pair = pair.round() if ties else pair
    before = Two()
    weight = before.only.weight.detach().clone()

    def explain(net, images):
        return pair[0 if torch.equal(net.only.weight, weight) else 1]

    images = torch.rand(2, 3, 4, 4)
    found = randomisation_check(before, images, explain, similarity=measure).similarity
    for n in range(2):
        a, b = pair[0, n], pair[1, n]
        want = {
            "rank": lambda a=a, b=b: spearman(a, b),
            "cosine": lambda a=a, b=b: float((a * b).sum() / (a.pow(2).sum() * b.pow(2).sum()).sqrt()),
            "ssim": lambda a=a, b=b: ssim_by_definition(a, b),
        }[measure]()
        assert float(found[n, 0]) == pytest.approx(1, abs=1e-12)
        assert float(found[n, 1]) == pytest.approx(want, abs=1e-10)


def test_cascades_from_the_top():
    weights = []

    def explain(net, images):
        weights.append({name: value.clone() for name, value in net.named_parameters()})
        return gradient(net, images)

    check = randomisation_check(NET, IMAGES, explain)
    layers = ("classifier", "features.8", "features.5", "features.3", "features.0")
    assert check.layers == layers
    assert check.similarity.shape == (2, 6)
    assert check.maps.shape == (6, 2, 32, 32)
    assert torch.equal(check.maps[0], gradient(NET, IMAGES))
    own = dict(NET.named_parameters())
    for step, now in enumerate(weights):
        for name, value in now.items():
            if name.endswith("weight"):
                randomised = name.removesuffix(".weight") in layers[:step]
                assert torch.equal(value, own[name]) != randomised
    for step in range(1, 6):  # what is randomised stays as it is from then on
        for layer in layers[: step - 1]:
            assert torch.equal(weights[step][f"{layer}.weight"], weights[step - 1][f"{layer}.weight"])


def test_scale_is_kept():
    net = nn.Sequential(nn.Conv2d(3, 64, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 60))
    with torch.no_grad():
        net[0].weight.mul_(30).add_(2)
    seen = []

    def explain(net, images):
        seen.append(net[0].weight.clone())
        return images

    randomisation_check(net, torch.rand(1, 3, 8, 8), explain)
    before, after = seen[0], seen[-1]
    assert abs(float(after.std() / before.std()) - 1) < 0.05
    assert abs(float(after.mean() - before.mean())) < 4 * float(before.std()) / math.sqrt(before.numel())
    correlation = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.1


def test_a_map_that_needs_no_weights_stays_and_others_fall():
    """An edge detector on the image passes for a map (Adebayo et al.); the gradient falls."""
    edges = randomisation_check(NET, IMAGES, lambda _net, x: x.diff(dim=3).abs().sum(1))
    torch.testing.assert_close(edges.similarity, torch.ones_like(edges.similarity), rtol=0, atol=1e-12)
    falls = randomisation_check(NET, IMAGES, lambda net, x: saliency_map(net, x, 1, reduce=None))
    assert float(falls.similarity[:, -1].abs().max()) < 0.3


def test_what_lies_after_a_unit_plays_no_part():
    check = randomisation_check(NET, IMAGES, lambda net, x: deconvnet(net, x, unit("features.4", 2)))
    torch.testing.assert_close(
        check.similarity[:, :4], torch.ones(2, 4, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert check.layers[3] == "features.3"
    assert float(check.similarity[:, 4].max()) < 0.99


def test_chosen_layers_and_blocks():
    check = randomisation_check(NET, IMAGES, gradient, layers=["classifier", "features"], similarity="cosine")
    assert check.layers == ("classifier", "features")
    assert check.similarity.shape == (2, 3)


def test_seeds():
    def run(generator):
        return randomisation_check(NET, IMAGES, gradient, generator=generator).maps

    assert torch.equal(run(3), run(3))
    assert torch.equal(run(3), run(torch.Generator().manual_seed(3)))
    assert not torch.equal(run(3), run(4))


@pytest.mark.filterwarnings("error")
def test_constant_maps_have_no_similarity():
    for measure in ("rank", "cosine", "ssim"):
        check = randomisation_check(NET, IMAGES, lambda _n, x: torch.zeros_like(x), similarity=measure)
        assert bool(check.similarity.isnan().all())


def test_scale_of_maps_plays_no_part():
    def scaled(net, images):
        return gradient(net, images) * (
            1e-200 if net.classifier.weight[0, 0] != NET.classifier.weight[0, 0] else 1
        )

    for measure in ("rank", "cosine", "ssim"):
        want = randomisation_check(NET, IMAGES, gradient, similarity=measure).similarity
        got = randomisation_check(NET, IMAGES, scaled, similarity=measure).similarity
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("train", [False, True])
def test_left_as_it_was(train):
    net, images = random_net(0, train=train), random_images(0)
    with unchanged(net, images):
        check = randomisation_check(net, images, lambda n, x: grad_cam(n, x, 1, "left", relu=False))
    assert isinstance(check, Randomisation)
    assert "Randomisation(2 images" in repr(check)
    assert not check.maps.requires_grad


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_left_as_it_was_when_the_first_map_breaks(error):
    def broken(_net, _images):
        raise error("broken")

    with unchanged(NET, IMAGES), pytest.raises(error, match="broken"):
        randomisation_check(NET, IMAGES, broken)


def test_an_interrupted_check_gives_back_what_it_has():
    calls = []

    def explain(net, images):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return gradient(net, images)

    with unchanged(NET, IMAGES), pytest.warns(UserWarning, match="after 2 of 5 layers"):
        check = randomisation_check(NET, IMAGES, explain)
    assert not check.complete
    assert check.layers == ("classifier", "features.8")
    assert check.similarity.shape == (2, 3)
    assert check.maps.shape[0] == 3
    want = randomisation_check(NET, IMAGES, gradient).similarity[:, :3]
    assert torch.equal(check.similarity, want)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_other_modes(mode):
    want = randomisation_check(NET, IMAGES, gradient).maps
    with mode():
        got = randomisation_check(NET, IMAGES, gradient).maps
    assert torch.equal(got, want)


def test_progress_shows_a_bar(capsys):
    randomisation_check(NET, IMAGES, gradient, layers=["classifier"], progress=True)
    assert "randomising" in capsys.readouterr().err


def test_arguments_refused():
    refuses("model", randomisation_check, None, IMAGES, gradient)
    refuses("model", randomisation_check, nn.ReLU(), IMAGES, gradient)
    refuses("images", randomisation_check, NET, IMAGES.float(), gradient)
    refuses("images", randomisation_check, NET, IMAGES[0], gradient)
    for wrong in (None, "saliency", nn.Linear):
        refuses("explain", randomisation_check, NET, IMAGES, wrong)
    for wrong in (lambda n, x: None, lambda n, x: x[:1], lambda n, x: x.sum((1, 2, 3)), lambda n, x: x / 0):
        refuses("explain", randomisation_check, NET, IMAGES, wrong)
    refuses("explain", randomisation_check, NET, IMAGES, lambda n, x: x[:, :, :8], similarity="ssim")
    sizes = iter((32, 16))
    refuses("explain", randomisation_check, NET, IMAGES, lambda n, x: x[..., : next(sizes)])
    refuses("similarity", randomisation_check, NET, IMAGES, gradient, similarity="pearson")
    refuses("progress", randomisation_check, NET, IMAGES, gradient, progress=1)
    for wrong in ("classifier", [], ["classifer"], ["features.1"], 3, [3]):
        refuses("layers", randomisation_check, NET, IMAGES, gradient, layers=wrong)
    refuses("generator", randomisation_check, NET, IMAGES, gradient, generator="0")
