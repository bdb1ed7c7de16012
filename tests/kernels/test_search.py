"""The search of a data set against a full sort; groups, batches, streams, processes; interrupts; errors."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torchvision.transforms import v2

from lecture7_utils.kernels import feed
from lecture7_utils.kernels.layers import activations
from lecture7_utils.kernels.ranking import Ranking
from lecture7_utils.kernels.receptive import receptive_field
from lecture7_utils.kernels.search import parts_of, top_activations
from lecture7_utils.shop.scenes import Scenes
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

ROOT = Path(__file__).resolve().parents[2]


class Images(Dataset):
    """Tensors as a data set; `broken` raise what is given there."""

    def __init__(self, images: Tensor, broken: dict[int, BaseException] | None = None):
        self.images, self.broken, self.asked = images, broken or {}, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.asked.append(i)
        if i in self.broken:
            raise self.broken[i]
        return self.images[i]


class Coarse(nn.Module):
    """Rounds what a network gives, so that many values are equal."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.rounded = net, nn.Identity()

    def forward(self, x):
        return self.rounded((self.net.pointwise(self.net.depthwise(self.net.stem(x))) * 2).round())


# ---- the slow reference: every value of every image, fully sorted


def by_full_sort(
    net: nn.Module, layer: str, images: Tensor, k: int, channel: int, groups=None, skip=()
) -> list[tuple]:
    """(image, value, position) of the k highest, from one image at a time."""
    found = []
    for n, image in enumerate(images):
        if n in skip:
            continue
        output = activations(net, image[None], layer)[0, channel]
        grid = output.reshape(1, 1) if output.ndim == 0 else output
        value, place = max(
            ((v, (i, j)) for i, row in enumerate(grid.tolist()) for j, v in enumerate(row)),
            key=lambda entry: (entry[0], -entry[1][0], -entry[1][1]),
        )
        found.append((n, value, place))
    found.sort(key=lambda entry: (-entry[1], entry[0]))
    if groups is not None:
        first = {}
        for entry in found:
            first.setdefault(groups[entry[0]], entry)
        found = list(first.values())
    return found[:k]


def same(a: Ranking, b: Ranking, *, about: bool = True) -> None:
    """Bitwise the same, but for the date."""
    for mine, its in zip((*a.best, *a.drawn), (*b.best, *b.drawn), strict=True):
        assert mine.dtype == its.dtype
        assert torch.equal(mine, its)
    for mine, its in zip(a.fields, b.fields, strict=True):
        assert torch.equal(mine.tables, its.tables)
        assert torch.equal(mine.table_of, its.table_of)
    assert (a.count, a.skipped, a.names, a.note) == (b.count, b.skipped, b.names, b.note)
    if about:
        assert a.searched == b.searched


def agrees(ranking: Ranking, net, layer, images, groups=None, skip=(), tolerance=1e-10) -> None:
    fields = receptive_field(net, layer, tuple(images.shape[2:]))
    for channel in ranking.channels(layer):
        want = by_full_sort(net, layer, images, ranking.k, channel, groups, skip)
        got = ranking.top(channel, layer)
        assert [(h.image, h.position) for h in got] == [(n, place) for n, _, place in want]
        for hit, (n, value, (i, j)) in zip(got, want, strict=True):
            assert abs(hit.value - value) <= tolerance * max(1, abs(value))
            assert list(hit.rectangle) == fields[channel, i, j].tolist()
            assert hit.group == (n if groups is None else groups[n])


# ---- against it


@pytest.mark.parametrize("seed", range(4))
def test_top_k_is_that_of_a_full_sort(seed):
    choose = random.Random(seed)
    size = (choose.randint(12, 18), choose.randint(12, 18))
    net, images = random_net(seed, size), random_images(seed, choose.randint(11, 30), size)
    layers = [*choose.sample(["stem_norm", "body", "depthwise", "right", "pool"], 2), "head"]
    k = choose.randint(1, 6)
    data = Images(images)
    with unchanged(net, images):
        ranking = top_activations(net, layers, data, k, batch_size=choose.randint(1, 9))
    assert ranking.layers == tuple(layers)
    assert ranking.count == len(images)
    assert sorted(data.asked[1:]) == list(range(len(images)))  # the first image tells the size
    for layer in layers:
        agrees(ranking, net, layer, images)
        assert torch.equal(
            ranking.images(layer),
            torch.tensor([[h.image for h in ranking.top(c, layer)] for c in ranking.channels(layer)]),
        )
        assert ranking.values(layer).dtype == torch.float64


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 25),
    k=st.integers(1, 7),
    batch_size=st.integers(1, 9),
    grouped=st.booleans(),
)
@settings(max_examples=25)
def test_ties_are_ordered_by_the_images_number(seed, count, k, batch_size, grouped):
    net, images = Coarse(random_net(3, (8, 8))), random_images(seed, count, (8, 8))
    groups = [random.Random(seed + n).randrange(6) for n in range(count)] if grouped else None
    ranking = top_activations(net, "rounded", Images(images), k, batch_size=batch_size, groups=groups)
    assert len(set(ranking.values().flatten().tolist())) < ranking.values().numel() or count < 3 or k < 3
    agrees(ranking, net, "rounded", images, groups)


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_one_entry_for_each_group(kind):
    net, images = random_net(2), random_images(5, 40)
    groups = [n // 7 for n in range(40)]
    ranking = top_activations(net, "left", Images(images), 5, batch_size=6, groups=kind(groups))
    agrees(ranking, net, "left", images, groups)
    for channel in ranking.channels():
        hit_groups = [hit.group for hit in ranking.top(channel)]
        assert len(set(hit_groups)) == 5
    few = top_activations(net, "left", Images(images), 9, groups=kind(groups))
    assert all(len(few.top(channel)) == 6 for channel in few.channels())
    assert (few.images()[:, 6:] == -1).all()
    assert (few.values()[:, 6:] == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_batch_sizes_give_the_same_within_rounding(dtype):
    net, images = random_net(1, dtype=dtype), random_images(1, 50, dtype=dtype)
    one = top_activations(net, ["body", "right"], Images(images), 4, batch_size=7)
    for batch_size in (1, 13, 50, 64):
        other = top_activations(net, ["body", "right"], Images(images), 4, batch_size=batch_size)
        for layer in ("body", "right"):
            a, b = one.values(layer), other.values(layer)
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()
            swapped = one.images(layer) != other.images(layer)
            gaps = torch.cat([a[:, :-1] - a[:, 1:], torch.full((len(a), 1), math.inf)], 1)
            assert not (swapped & (gaps > 1e-4) & (gaps.roll(1, 1) > 1e-4)).any()


def test_the_batch_size_is_chosen_by_the_images_size():
    net = random_net(1, (64, 64), dtype=torch.float32)
    images = random_images(1, 60, (64, 64), dtype=torch.float32)
    chosen = top_activations(net, "stem", Images(images), 2)
    assert chosen.searched.batch_size == 4 * 224 * 224 // 64**2
    same(chosen, top_activations(net, "stem", Images(images), 2, batch_size=49))
    few = top_activations(net, "stem", Images(images[:3]), 2)
    assert few.searched.batch_size == 3


def test_channels_can_be_chosen():
    net, images = random_net(4), random_images(4, 12)
    whole = top_activations(net, ["stem", "left"], Images(images), 3)
    some = top_activations(net, "left", Images(images), 3, channels=[3, 0])
    assert some.channels() == (3, 0)
    assert torch.equal(some.values(), whole.values("left")[[3, 0]])
    assert some.top(3) == whole.top(3, "left")
    both = top_activations(net, ["stem", "left"], Images(images), 3, channels={"stem": torch.tensor([1])})
    assert both.channels("stem") == (1,)
    assert both.channels("left") == whole.channels("left")
    assert both.top(1, "stem") == whole.top(1, "stem")
    refuses("channel", some.top, 1, says="one of the 2 searched in 'left'")


def test_the_network_stops_at_the_deepest_layer():
    net, images = random_net(0), random_images(0, 5)
    net.pool.register_forward_hook(lambda *_: pytest.fail("it went on"))
    top_activations(net, ["right", "stem"], Images(images), 2)


def test_a_layer_without_places():
    net, images = random_net(7, head="flatten"), random_images(7, 9)
    ranking = top_activations(net, "head", Images(images), 3)
    hit = ranking.top(2)[0]
    assert (hit.position, hit.rectangle) == ((0, 0), (0, 0, 16, 16))
    assert hit.image == int(activations(net, images, "head")[:, 2].argmax())


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_network_whose_fields_cannot_be_followed():
    compiled = torch.jit.script(nn.Conv2d(3, 4, 3).double())
    net = nn.Sequential(compiled, nn.ReLU())
    ranking = top_activations(net, "1", Images(random_images(0, 4)), 2)
    assert ranking.top(0)[0].rectangle == (0, 0, 16, 16)
    assert "TorchScript" in ranking.note
    assert ranking.note in str(ranking)


def test_a_network_that_needs_its_own_memory_layout():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            return self.out(x.view(len(x), -1))

    net, images = Viewed(), random_images(0, 6, dtype=torch.float32)
    ranking = top_activations(net, "out", Images(images), 2)
    with torch.no_grad():
        assert torch.allclose(ranking.values()[:, 0], net(images).amax(0), atol=1e-5)


def test_half_precision():
    net, images = random_net(5, dtype=torch.bfloat16), random_images(5, 8, dtype=torch.float32)
    ranking = top_activations(net, "left", Images(images), 3, batch_size=4)
    assert ranking.values().dtype == torch.float32
    want = activations(net, images.bfloat16(), "left").float().amax((2, 3))
    assert torch.allclose(ranking.values()[:, 0], want.amax(0), rtol=0.05, atol=0.05)


# ---- what a data set may be


class Stream(IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


class NamedAxes(Tensor):
    """A tensor as torch 2.11 has them: `.names` are the names of its axes, none as a rule."""

    names = property(lambda self: (None,) * self.ndim)


def test_every_kind_of_data_set_gives_the_same():
    net, images = random_net(6), random_images(6, 17)
    want = top_activations(net, "left", Images(images), 3, batch_size=5)
    labelled = TensorDataset(images, torch.zeros(17))
    old = images.as_subclass(NamedAxes)
    for data in (images, old, list(images), labelled, torch.utils.data.Subset(labelled, range(17))):
        same(top_activations(net, "left", data, 3, batch_size=5, data="Images"), want)
    for stream in (Stream(images), iter(images), (image for image in images)):
        got = top_activations(net, "left", stream, 3, batch_size=5)
        assert got.searched.size is None
        same(got, want, about=False)
    pictures = [v2.functional.to_pil_image(image.clamp(0, 1).float()) for image in images]

    def prepared(picture):
        return v2.functional.pil_to_tensor(picture).double()[None] / 255

    got = top_activations(net, "left", pictures, 3, preprocess=prepared)
    assert got.count == 17
    assert [h.image for h in got.top(0)] == [
        n for n, _, _ in by_full_sort(net, "left", torch.cat([*map(prepared, pictures)]), 3, 0)
    ]


def test_scenes_are_drawn_by_the_batch_and_bring_their_names():
    net, scenes = random_net(8, (64, 64), dtype=torch.float32), Scenes(10, size=64)
    ranking = top_activations(net, "stem", scenes, 2, batch_size=4)
    drawn = torch.stack([scenes[i].image for i in range(10)])
    agrees(ranking, net, "stem", drawn, tolerance=1e-5)
    hit = ranking.top(0)[0]
    assert hit.name == scenes[hit.image].name
    assert ranking.searched.data == "Scenes"


@pytest.mark.parametrize(("bound", "most"), [("AT_ONCE", 120), ("PIXELS", 120 * 8 * 8)])
def test_a_data_set_that_gives_several_at_once_is_asked_for_several_batches(monkeypatch, bound, most):
    class Several(Images):
        def __getitems__(self, numbers):
            self.lists.append(list(numbers))
            return [super(Several, self).__getitem__(n) for n in numbers]

    net, images = random_net(8, (8, 8)), random_images(8, 300, (8, 8))
    monkeypatch.setattr(feed, bound, most)  # two batches of 50 and not three
    data = Several(images)
    data.lists = []
    ranking = top_activations(net, "stem", data, 3, batch_size=50, data="Images")
    assert data.lists == [list(range(i, min(i + 100, 300))) for i in (0, 100, 200)]
    same(ranking, top_activations(net, "stem", Images(images), 3, batch_size=50))
    data.broken = {7: OSError("torn"), 299: OSError("torn")}
    again = top_activations(net, "stem", data, 3, batch_size=49)
    assert [s.image for s in again.skipped] == [7, 299]
    agrees(again, net, "stem", images, skip=(7, 299))


def test_torchvision_datasets_and_names_of_ones_own():
    data = torchvision.datasets.FakeData(6, (3, 16, 16), transform=v2.ToImage())
    steps = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float64, scale=True)])
    data = torchvision.datasets.FakeData(6, (3, 16, 16), transform=steps)
    ranking = top_activations(random_net(1), "stem", data, 2, names=[f"fake {i}" for i in range(6)])
    assert [hit.name for hit in ranking.top(1)] == [f"fake {hit.image}" for hit in ranking.top(1)]


def test_workers_read_the_same():
    net, images = random_net(9), random_images(9, 23)
    data = Images(images, {4: ValueError("torn")})
    one = top_activations(net, "left", data, 3, batch_size=5)
    same(top_activations(net, "left", data, 3, batch_size=5, workers=2), one)


# ---- images that can't be used


def test_unreadable_images_are_skipped_and_listed():
    net, images = random_net(3), random_images(3, 20)
    broken = {0: OSError("torn\nfile"), 7: ValueError(""), 19: KeyError("x")}
    images[11, 1, 2, 3] = math.nan
    data = Images(images, broken)
    ranking = top_activations(net, "left", data, 4, batch_size=6)
    assert ranking.count == 16
    reasons = [(s.image, s.reason) for s in ranking.skipped]
    assert reasons == [
        (0, "OSError: torn file"),
        (7, "ValueError"),
        (11, "it holds NaN or infinity"),
        (19, "KeyError: 'x'"),
    ]
    agrees(ranking, net, "left", images.nan_to_num(0), skip=(0, 7, 11, 19))
    assert "16 images of Images, 4 skipped" in str(ranking)


def test_a_batch_of_unreadable_images():
    net, images = random_net(3), random_images(3, 9)
    ranking = top_activations(
        net, "left", Images(images, dict.fromkeys(range(3, 6), OSError("gone"))), 9, batch_size=3
    )
    agrees(ranking, net, "left", images, skip=(3, 4, 5))


def test_images_for_which_the_network_gives_no_number():
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Identity()

        def forward(self, x):
            return self.out(x.log())

    images = random_images(0, 6).abs() + 0.1
    images[2, 0, 3, 3], images[4, 1, 0, 0] = -1.0, 1e308  # of which float64 has a logarithm
    ranking = top_activations(Log(), "out", Images(images), 6)
    assert [(s.image, s.reason) for s in ranking.skipped] == [(2, "the network gives NaN or infinity")]
    assert sorted(ranking.images()[0].tolist()) == [-1, 0, 1, 3, 4, 5]


def test_not_one_readable_image():
    data = Images(random_images(0, 3), dict.fromkeys(range(3), OSError("torn")))
    refuses("dataset", top_activations, random_net(0), "stem", data, says="none among 3.*OSError: torn")


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_picture_is_refused(stream):
    def search(items, **options):
        data = iter(items) if stream else items
        return top_activations(random_net(0), "stem", data, 2, **options)

    good = random_images(0, 3)
    whole = [v2.functional.to_pil_image(image.float()) for image in good]
    refuses("dataset", search, whole, says="Image.*preprocess=net.preprocess")
    refuses("dataset", search, [*good, good[0].byte()], says=r"uint8 \[3, 16, 16\].*\(image 3\)")
    refuses("dataset", search, [good[0], good[1][None, None]], says=r"\(image 1\)")
    refuses("dataset", search, [good[0, :1]], says=r"float64 \[1, 16, 16\]")
    refuses("dataset", search, [good[0], good[1, :, 1:]], says="16 × 16, got 15 × 16 .image 1.")
    refuses("dataset", search, [{"image": good[0]}])
    refuses("dataset", search, whole, preprocess=lambda picture: np.zeros(3))
    refuses("dataset", search, [])


# ---- the sample and the quantiles


def test_quantiles_and_samples_where_the_sample_holds_everything():
    net, images = random_net(2), random_images(2, 37)
    ranking = top_activations(net, ["left", "stem"], Images(images), 3, batch_size=8)
    peaks = activations(net, images, "left").amax((2, 3)).numpy()
    q = [0, 0.1, 0.5, 0.77, 1]
    np.testing.assert_allclose(ranking.quantiles(q, "left"), np.quantile(peaks, q, axis=0), rtol=1e-12)
    np.testing.assert_allclose(ranking.quantiles(0.3, "left"), np.quantile(peaks, 0.3, axis=0), rtol=1e-12)
    fields = receptive_field(net, "left", (16, 16))
    ranks = peaks[:, 1].argsort().argsort()
    for low, high in ((0.0, 0.25), (0.25, 0.75), (0.9, 1.0)):
        inside = {n for n in range(37) if low <= (ranks[n] + 0.5) / 37 < high}
        for n in (2, 100):
            hits = ranking.sample(1, low, high, n, "left")
            assert len(hits) == min(n, len(inside))
            assert {h.image for h in hits} <= inside
            assert [h.value for h in hits] == sorted((h.value for h in hits), reverse=True)
        for hit in hits:
            assert abs(hit.value - peaks[hit.image, 1]) < 1e-10
            i, j = hit.position
            assert hit.value == activations(net, images, "left")[hit.image, 1, i, j]
            assert list(hit.rectangle) == fields[1, i, j].tolist()


def test_the_sample_is_random_and_the_same_for_all_channels_and_processes():
    net, images = random_net(2, (8, 8)), random_images(2, 400, (8, 8))
    first = top_activations(net, "stem", Images(images), 3, sample=60, batch_size=32)
    assert len(first.drawn.images) == 60
    assert len(set(first.drawn.images.tolist())) == 60
    other = top_activations(net, "stem", Images(images), 3, sample=60, batch_size=32, seed=1)
    assert set(first.drawn.images.tolist()) != set(other.drawn.images.tolist())
    # uniform: over 40 seeds each quarter of the data set is drawn a quarter of the time (4 sigma)
    quarters = np.zeros(4)
    for seed in range(40):
        drawn = top_activations(net, "stem", Images(images), 1, sample=60, batch_size=400, seed=seed).drawn
        quarters += np.histogram(drawn.images.numpy(), 4, (0, 400))[0]
    assert np.abs(quarters - 600).max() < 4 * (2400 * 0.25 * 0.75) ** 0.5
    peaks = activations(net, images, "stem").amax((2, 3))
    for q in (0.2, 0.5, 0.8):
        share = (peaks <= first.quantiles(q)).double().mean(0)
        assert (share - q).abs().max() < 4 * (q * (1 - q) / 60) ** 0.5
    none = top_activations(net, "stem", Images(images), 3, sample=0)
    assert torch.equal(none.images(), first.images())
    assert none.sample(0, 0, 1) == []
    refuses("q", none.quantiles, 0.5)
    for wrong in (None, -0.1, 1.1, "half"):
        refuses("q", first.quantiles, wrong)
    refuses("low", first.sample, 0, 0.5, 0.5)
    refuses("high", first.sample, 0, 0.5, 2)
    refuses("n", first.sample, 0, 0.5, 1, 0)


# ---- going on


class Stops(Images):
    """Raises at the n-th image that is asked for."""

    def __init__(self, images, after, error=KeyboardInterrupt):
        super().__init__(images)
        self.after, self.error = after, error

    def __getitem__(self, i):
        if len(self.asked) >= self.after:
            raise self.error
        return super().__getitem__(i)


def test_an_interrupted_search_gives_back_what_it_has_and_goes_on(tmp_path):
    net, images = random_net(5), random_images(5, 50)
    want = top_activations(net, ["left", "stem"], Images(images), 4, batch_size=6)
    part = tmp_path / "search.part"
    options = {"batch_size": 6, "resume": part, "data": "Images"}
    with unchanged(net, images), pytest.warns(UserWarning, match="after 18 of 50 images.*same call goes on"):
        first = top_activations(net, ["left", "stem"], Stops(images, 22), 4, **options)
    assert first.count == 18
    agrees(first, net, "left", images[:18])
    data = Images(images)
    same(top_activations(net, ["left", "stem"], data, 4, **options), want)
    assert sorted(data.asked) == [0, *range(18, 50)]
    again = Images(images)
    same(top_activations(net, ["left", "stem"], again, 4, **options), want)
    assert again.asked == [0]
    with pytest.warns(UserWarning, match="after 6 of 50 images; the ranking is theirs$"):
        assert top_activations(net, "left", Stops(images, 9), 4, batch_size=6).count == 6
    with pytest.raises(KeyboardInterrupt):
        top_activations(net, "left", Stops(images, 3), 4, batch_size=6)
    assert parts_of(part) == [part]


def test_what_was_found_so_far_is_written_every_so_often(tmp_path):
    net, images, part = random_net(5), random_images(5, 30), tmp_path / "part"

    class Watched(Images):
        def __getitem__(self, i):
            if part.exists() and i % 5 == 0:
                seen.append((i, Ranking.load(part).count))
            return super().__getitem__(i)

    seen = []
    top_activations(net, "left", Watched(images), 4, batch_size=5, resume=part, save_every=0)
    assert seen == [(i, i) for i in range(5, 30, 5)]
    assert [p.name for p in tmp_path.iterdir()] == ["part"]


def test_only_the_beginning_of_the_same_search_is_gone_on_with(tmp_path):
    net, images, part = random_net(5), random_images(5, 12), tmp_path / "part"
    base = {"batch_size": 4, "resume": part}
    top_activations(net, "left", Images(images), 3, **base)

    def again(net=net, layer="left", data=None, k=3, **options):
        top_activations(net, layer, Images(images) if data is None else data, k, **base | options)

    again()
    refuses("resume", again, k=4, says="with k 4, got part with 3; remove it")
    refuses("resume", again, layer="right", says="with layers")
    refuses("resume", again, net=random_net(5).double().requires_grad_(False).float(), says="with weights")
    refuses("resume", again, data=Images(images[:-1]), says="with size")
    refuses("resume", again, batch_size=3, says="with batch_size")
    refuses("resume", again, channels=[1], says="with channels")
    refuses("resume", again, sample=3, says="with sample")
    refuses("resume", again, seed=3, says="with seed")
    refuses("resume", again, groups=[0] * 12, says="with grouped")
    refuses("resume", again, names=["x"] * 12, says="with content")
    changed = random_net(5)
    with torch.no_grad():
        changed.head.bias.add_(1)
    refuses("resume", again, net=changed, says="with weights")
    part.write_bytes(part.read_bytes()[:-20])
    refuses("resume", again, says="expected a file that Ranking.save wrote, got part")


SEARCH = """
import sys, time, torch
import torch.distributed as dist
from lecture7_utils.kernels.search import top_activations
from tests.nets import random_images, random_net

class Slow:
    images = random_images(11, 83, dtype=torch.float32)

    def __len__(self):
        return 83

    def __getitem__(self, i):
        time.sleep(float(slow))
        if i in (13, 70):
            raise OSError("torn")
        return self.images[i]

torch.set_num_threads(1)
rank, world, meeting, out, part, slow = sys.argv[1:]
if int(world) > 1:
    dist.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=int(world))
options = {"batch_size": 6, "groups": [n // 2 for n in range(83)], "sample": 20}
if part != "-":
    options |= {"resume": part, "save_every": 0}
net = random_net(11, dtype=torch.float32)
found = top_activations(net, ["left", "stem", "head"], Slow(), 4, **options)
assert (found is None) == (int(rank) > 0), rank
if found is not None:
    found.save(out)
if int(world) > 1:
    dist.destroy_process_group()
"""


def start(rank, world, folder, out="out", part="-", slow=0.0) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    part = part if part == "-" else str(folder / part)
    meeting = (folder / f"meeting {out}").as_uri()
    arguments = [str(rank), str(world), meeting, str(folder / out), part, str(slow)]
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


def finished(*processes: subprocess.Popen) -> None:
    for process in processes:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Ranking:
    """What one process finds."""
    folder = tmp_path_factory.mktemp("one")
    finished(start(0, 1, folder))
    return Ranking.load(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_bitwise_the_same_as_one(world, one, tmp_path):
    finished(*(start(rank, world, tmp_path) for rank in range(world)))
    same(Ranking.load(tmp_path / "out"), one)
    assert [s.image for s in one.skipped] == [13, 70]
    images, net = random_images(11, 83, dtype=torch.float32), random_net(11, dtype=torch.float32)
    agrees(one, net, "left", images, [n // 2 for n in range(83)], (13, 70), tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_search_goes_on_with_another_number_of_processes(one, tmp_path):
    killed = [start(rank, 2, tmp_path, "killed", "part", slow=0.05) for rank in range(2)]
    deadline = time.monotonic() + 120
    while not all((tmp_path / name).exists() for name in ("part", "part.1")) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    parts = parts_of(tmp_path / "part")
    assert [p.name for p in parts] == ["part", "part.1"]
    assert all(0 < Ranking.load(p).count < 45 for p in parts)
    finished(start(0, 1, tmp_path, "on", "part"))
    same(Ranking.load(tmp_path / "on"), one)


# ---- cleaning up


class Interrupted(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error, self.calls = error, 0

    def forward(self, x):
        self.calls += len(x) > 4
        if self.calls > 1:
            raise self.error("stop")
        return x


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_the_network_leaves_it_as_it_was(error):
    net, images = random_net(4, train=True, dropout=0.5), random_images(4, 20)
    net.drop = Interrupted(error)
    with unchanged(net, images):
        if error is RuntimeError:
            with pytest.raises(error):
                top_activations(net, "head", Images(images), 3, batch_size=5)
        else:
            with pytest.warns(UserWarning, match="interrupted after 5 of 20"):
                top_activations(net, "head", Images(images), 3, batch_size=5)


def test_the_callers_modes_and_tensors_are_left_alone():
    net, images = random_net(4, train=True, in_place_first=True), random_images(4, 10)
    with unchanged(net, images):
        plain = top_activations(net, "left", Images(images), 3)
    with torch.inference_mode():
        same(top_activations(net, "left", Images(images), 3), plain)
    assert not plain.best.values.is_inference()
    assert not plain.drawn.values.is_inference()


def test_the_bar_counts_images(capsys):
    top_activations(random_net(0), "stem", Images(random_images(0, 10)), 3, batch_size=4, progress=True)
    said = capsys.readouterr().err
    assert "10/10" in said
    assert "images/s" in said
    top_activations(random_net(0), "stem", iter(random_images(0, 10)), 3, batch_size=4, progress=True)
    assert "10 images" in capsys.readouterr().err


# ---- arguments


def test_refused_arguments():
    net, data = random_net(0), Images(random_images(0, 5))

    def search(model=net, layer="stem", dataset=data, k=3, channels=None, **options):
        top_activations(model, layer, dataset, k, channels, **options)

    refuses("model", search, model="net")
    refuses("layer", search, layer="stemm", says="nearest are 'stem'")
    refuses("layer", search, layer=["stem", "x"])
    refuses("layer", search, layer=[])
    refuses("layer", search, layer=None)
    refuses("dataset", search, dataset=3)
    for wrong in (0, -1, 2.0, True, None):
        refuses("k", search, k=wrong)
        refuses("batch_size", search, batch_size=wrong)
    refuses("batch_size", search, batch_size="large")
    for wrong in (-1, 1.5, None):
        refuses("workers", search, workers=wrong)
        refuses("sample", search, sample=wrong)
        refuses("seed", search, seed=wrong)
    for wrong in (-1, None, "often", math.nan):
        refuses("save_every", search, save_every=wrong)
    refuses("progress", search, progress=None)
    refuses("preprocess", search, preprocess=3)
    refuses("data", search, data=3)
    width = net.stem.out_channels
    for wrong in ([width], [-1], [0.5], [], [0, 0], 3, "all", {"left": [0]}, {"stem": [width]}):
        refuses("channels", search, channels=wrong)
    refuses("channels", search, layer=["stem", "left"], channels=[0])
    for wrong in ([0] * 4, [0.5] * 5, [-1] * 5, "group", [[0]] * 5, 3):
        refuses("groups", search, groups=wrong)
    for wrong in (["a"] * 4, "names", 3):
        refuses("names", search, names=wrong)
    stream = {"dataset": iter(data.images)}
    for option in ({"workers": 2}, {"resume": "part"}, {"groups": [0]}, {"names": ["a"]}):
        refuses(next(iter(option)), search, **stream, **option, says="with a stream")
    flat = nn.Sequential(nn.Flatten(2), nn.Identity())
    refuses("layer", search, model=flat, layer="1", says=r"\[N, C, h, w\] or \[N, C\]")
    merged = nn.Sequential(nn.Conv2d(3, 4, 3).double(), Merging())
    refuses("layer", search, model=merged, layer="1", says="for 5 images")


class Merging(nn.Module):
    def forward(self, x):
        return x if len(x) < 5 else x[:2]


def test_the_result_can_be_used_after_the_images_are_gone():
    images = random_images(1, 8)
    ranking = top_activations(random_net(1), "stem", Images(images), 2)
    before = ranking.values()
    images.zero_()
    ranking.values().zero_()
    assert torch.equal(ranking.values(), before)


def test_pictures_of_pil_come_through_as_they_are():
    pictures = [Image.new("RGB", (16, 16), (40 * i, 10, 10)) for i in range(5)]
    net = random_net(0, dtype=torch.float32)
    steps = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    images = torch.stack([steps(picture) for picture in pictures])
    agrees(top_activations(net, "stem", pictures, 5, preprocess=steps), net, "stem", images, tolerance=1e-5)
