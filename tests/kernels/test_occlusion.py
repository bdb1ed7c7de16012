"""Occlusion against the plain loop, windows and maps counted by hand, captum, and what is refused."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lecture7_utils.kernels import occlusion
from lecture7_utils.kernels.dirty import NotFaster
from lecture7_utils.kernels.occlusion import Occlusion, as_baseline, occlude, occlusion_map
from lecture7_utils.kernels.targets import class_probability, class_score, unit
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

SIZE = (13, 11)

# a target, and what it means, written out: (scores or the layer's output of one image) -> its value
TARGETS = {
    "score": (3, None, lambda y: y[3]),
    "probability": (class_probability(2), None, lambda y: y.exp()[2] / y.exp().sum()),
    "unit max": (unit("pointwise", 1), "pointwise", lambda y: y[1].max()),
    "unit mean": (unit("body", 2, "mean"), "body", lambda y: y[2].sum() / y[2].numel()),
    "unit (i, j)": (unit("left.0", 0, (0, 1)), "left.0", lambda y: y[0][0][1]),
    "unit before a batch norm": (unit("stem", 1, "mean"), "stem", lambda y: y[1].mean()),
    "unit at a batch norm": (unit("body.1", 1, (1, 2)), "body.1", lambda y: y[1][1][2]),
    "logit as a unit": (unit("head", 4), "head", lambda y: y[4]),
}


def function_of(net: nn.Module, layer: str | None, read):
    """One image -> value of the target: a copy of the network run as a whole, in eval mode."""
    net, found = copy.deepcopy(net).eval(), []
    if layer is not None:
        net.get_submodule(layer).register_forward_hook(lambda _m, _x, y: found.append(y.clone()))

    def value(image: Tensor) -> Tensor:
        found.clear()
        with torch.no_grad():
            scores = net(image[None].clone())
        return read((scores if layer is None else found[0])[0])

    return value


def windows(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """0, s, 2s, … until one reaches the border, where it is clipped, or would start beyond it."""
    found, start = [], 0
    while start < length:
        found.append((start, min(start + window, length)))
        if start + window >= length:
            break
        start += stride
    return found


def plain_loop(value, images: Tensor, fills: Tensor, window, stride):
    """Scores [N, rows, cols] and rectangles [rows, cols, 4], one copy of one image at a time."""
    rows = windows(images.shape[2], window[0], stride[0])
    cols = windows(images.shape[3], window[1], stride[1])
    scores = torch.zeros(len(images), len(rows), len(cols), dtype=images.dtype)
    for n, image in enumerate(images):
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(cols):
                changed = image.clone()
                for y in range(top, bottom):
                    for x in range(left, right):
                        changed[:, y, x] = fills[n, :, y, x]
                scores[n, i, j] = value(changed)
    return scores, torch.tensor([[(t, x, b, y) for x, y in cols] for t, b in rows])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def _refuse(*_, **__):
    raise NotFaster("a test of the dense way")


# --- the scores


@pytest.mark.parametrize("way", ["dense", "dirty rectangles"])
@pytest.mark.parametrize("kind", TARGETS)
@given(data=st.data())
@settings(max_examples=4)
def test_equals_the_plain_loop(kind, way, data):
    target, layer, read = TARGETS[kind]
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    seed, n, size = draw(0, 10**6), draw(1, 3), (draw(8, 13), draw(8, 13))
    window, stride = (draw(1, 16), draw(1, 16)), (draw(2, 9), draw(2, 9))
    first = data.draw(st.booleans())
    net = random_net(seed, size, train=first, in_place_first=first)
    images, baseline = random_images(seed, n, size), 3 * random_images(seed + 1, n, size)
    with unchanged(net, images, baseline), pytest.MonkeyPatch.context() as patch:
        if way == "dense":
            patch.setattr(occlusion, "DirtyRectangles", _refuse)
        found = occlusion_map(
            net, images, target, window=window, stride=stride, baseline=baseline, chunk=draw(1, 20)
        )
    value = function_of(net, layer, read)
    scores, rectangles = plain_loop(value, images, baseline, window, stride)
    close(found.scores, scores)
    close(found.clean, torch.stack([value(image) for image in images]))
    assert found.rectangles.tolist() == rectangles.tolist()
    assert found.complete
    assert found.size == size
    assert found.how.startswith(f"{way}: ") or way == "dirty rectangles"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_the_occluder_matters_where_exactness_is_tested(seed, dtype):
    net, images = random_net(seed, SIZE, dtype=dtype, head="flatten"), random_images(seed, 2, SIZE, dtype)
    found = occlusion_map(net, images, 1, window=5, stride=3, baseline=2.0)
    assert "2 batch norms folded" in found.how
    assert ("channels last" in found.how) == (dtype == torch.float32)
    value = function_of(net.double(), None, lambda y: y[1])
    scores, _ = plain_loop(value, images.double(), torch.full_like(images.double(), 2), (5, 5), (3, 3))
    close(found.scores.double(), scores, 1e-12 if dtype == torch.float64 else 1e-5)
    assert (scores.amax((1, 2)) - scores.amin((1, 2)) > 0.05 * scores.abs().amax((1, 2))).all()
    assert found.scores.dtype == found.clean.dtype == found.map().dtype == dtype


@pytest.mark.parametrize("make", [class_score, class_probability, lambda c: unit("body", [v % 3 for v in c])])
def test_one_target_for_each_image(make):
    net, images, classes = random_net(3, SIZE), random_images(4, 3, SIZE), [2, 0, 4]
    options = {"window": (4, 5), "stride": 3, "chunk": 7}
    together = occlusion_map(net, images, make(classes), **options)
    for n, c in enumerate(classes):
        alone = occlusion_map(net, images[n : n + 1], make([c]), **options)
        close(together.scores[n], alone.scores[0])
        close(together.clean[n], alone.clean[0])


@pytest.mark.parametrize("make", [class_score, class_probability, lambda c: unit("body", [v % 3 for v in c])])
def test_many_targets_for_one_image_take_the_same_passes(make):
    net, image, classes = random_net(5, SIZE), random_images(6, 1, SIZE), [4, 0, 4, 1]
    options = {"window": (4, 5), "stride": 3, "chunk": 7}
    passes = []
    handle = net.stem.register_forward_pre_hook(lambda _m, inputs: passes.append(len(inputs[0])))
    together = occlusion_map(net, image, make(classes), **options)
    several = sum(passes)
    passes.clear()
    occlusion_map(net, image, make(classes[:1]), **options)
    handle.remove()
    assert several == sum(passes)
    assert together.scores.shape[0] == together.clean.shape[0] == 4
    for k, c in enumerate(classes):
        alone = occlusion_map(net, image, make([c]), **options)
        close(together.scores[k], alone.scores[0])
        close(together.clean[k], alone.clean[0])


def test_a_sequence_of_ints_means_class_scores():
    net, image = random_net(5, SIZE), random_images(6, 1, SIZE)
    found = [occlusion_map(net, image, t, window=6, stride=6).scores for t in ([1, 2], class_score([1, 2]))]
    assert torch.equal(*found)
    assert torch.equal(occlusion_map(net, image, torch.tensor([1, 2]), window=6, stride=6).scores, found[0])


def test_never_more_than_a_chunk_in_a_pass_and_the_same_whatever_the_chunk():
    net, images = random_net(7, SIZE), random_images(8, 5, SIZE)
    whole = occlusion_map(net, images, 1, window=4, stride=2, chunk=10**6)
    sizes = []
    handle = net.stem.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    for chunk in (1, 3, 4, 37):
        sizes.clear()
        found = occlusion_map(net, images, 1, window=4, stride=2, chunk=chunk)
        assert max(sizes) <= chunk
        close(found.scores, whole.scores)
        close(found.clean, whole.clean)
    sizes.clear()
    occlusion_map(net, images, 1, window=2, stride=1)
    handle.remove()
    assert max(sizes) * SIZE[0] * SIZE[1] <= 8 * 224 * 224


def test_a_unit_stops_the_network_at_its_layer():
    net, images, calls = random_net(9, SIZE), random_images(9, 2, SIZE), []
    handle = net.depthwise.register_forward_hook(lambda *_: calls.append(1))
    found = occlusion_map(net, images, unit("body", 0), window=5, stride=4)
    handle.remove()
    assert not calls
    assert "'body'" in found.how


def test_results_are_ordinary_tensors_with_the_images_dtype():
    net = random_net(1, SIZE, dtype=torch.float32)
    images = random_images(1, 1, SIZE, torch.float32)
    with torch.inference_mode():
        frozen = images.clone()
        inside = occlusion_map(net, frozen, 1, window=5, stride=4, baseline="blur")
    outside = occlusion_map(net, images.requires_grad_(), 1, window=5, stride=4, baseline="blur")
    assert torch.equal(inside.scores, outside.scores)
    for found in (inside, outside):
        for tensor in (found.scores, found.clean, found.map(), found.map("drop"), found.drops):
            assert not tensor.is_inference()
            assert not tensor.requires_grad
            assert tensor.dtype == torch.float32
            assert (tensor.clone().requires_grad_() * 2).sum().requires_grad
        assert not found.rectangles.is_floating_point()


def test_half_precision_stays_so():
    net, images = random_net(1, SIZE, dtype=torch.bfloat16), random_images(1, 1, SIZE, torch.bfloat16)
    found = occlusion_map(net, images, 1, window=5, stride=4, baseline="blur")
    double = occlusion_map(net.double(), images.double(), 1, window=5, stride=4, baseline="blur")
    assert found.scores.dtype == found.map().dtype == torch.bfloat16
    close(found.scores.double(), double.scores, 0.1)


def test_captum_agrees():
    from captum.attr import Occlusion as Peer

    net, images = random_net(11, SIZE).eval(), random_images(11, 2, SIZE)
    for window, stride in (((4, 3), (2, 3)), ((5, 5), (3, 2)), ((13, 11), (1, 1)), ((2, 6), (2, 6))):
        found = occlusion_map(net, images, [1, 3], window=window, stride=stride, baseline=0.5)
        peer = Peer(net).attribute(
            images,
            target=torch.tensor([1, 3]),
            sliding_window_shapes=(3, *window),
            strides=(3, *stride),
            baselines=0.5,
        )
        assert found.map("drop").abs().max() > 1e-3
        for channel in range(3):
            close(found.map("drop"), peer[:, channel], 1e-6)  # captum sums in single precision


# --- windows and the way back to pixels


@given(
    length=st.integers(1, 40), window=st.integers(1, 50), stride=st.integers(1, 50), other=st.integers(1, 9)
)
@settings(max_examples=60)
def test_windows_start_at_multiples_of_the_stride_and_end_at_the_border(length, window, stride, other):
    net = Mean()
    found = occlusion_map(net, torch.ones(1, 3, length, 9), 0, window=(window, other), stride=(stride, other))
    expected = windows(length, window, stride)
    spans = [(row[0][0], row[0][2]) for row in found.rectangles.tolist()]
    assert spans == expected
    if stride <= window <= length:
        assert len(spans) == math.ceil((length - window) / stride) + 1
        assert spans[-1][1] == length


class Mean(nn.Module):
    """One class: the mean of an image."""

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None]


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    window=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    stride=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40)
def test_the_map_is_the_mean_over_covering_windows(size, window, stride, seed):
    images = random_images(seed, 2, size)
    found = occlusion_map(Mean(), images, 0, window=window, stride=stride, baseline=7.0)
    scores, drops = torch.zeros(2, *size).double(), torch.zeros(2, *size).double()
    for n in range(2):
        clean = images[n].mean()
        for y in range(size[0]):
            for x in range(size[1]):
                over = [
                    found.scores[n, i, j]
                    for i, row in enumerate(found.rectangles.tolist())
                    for j, (top, left, bottom, right) in enumerate(row)
                    if top <= y < bottom and left <= x < right
                ]
                scores[n, y, x] = sum(over) / len(over) if over else clean
                drops[n, y, x] = clean - scores[n, y, x]
    close(found.map(), scores)
    close(found.map("score"), scores)
    close(found.map("drop"), drops)


def test_the_map_of_an_interrupted_sweep_leaves_out_what_was_not_reached():
    found = occlusion_map(Mean(), random_images(1, 1, (4, 6)), 0, window=(4, 2), stride=1, baseline=3.0)
    scores = found.scores.clone()
    scores[0, 0, 3:] = math.nan  # the windows that start at columns 0, 1, 2 are there
    part = Occlusion(scores, found.clean, found.rectangles, found.size, found.how, False)
    s = scores[0, 0]
    expected = torch.stack([s[0], (s[0] + s[1]) / 2, (s[1] + s[2]) / 2, s[2]])
    close(part.map()[0, 0, :4], expected)
    assert part.map()[0, :, 4:].isnan().all()
    assert part.map("drop")[0, :, 4:].isnan().all()
    assert "interrupted" in repr(part)
    assert "interrupted" not in repr(found)


def test_a_map_knows_two_kinds():
    found = occlusion_map(Mean(), random_images(1, 1, (4, 6)), 0, window=2, stride=2)
    for bad in ("drops", None, 1, "SCORE"):
        refuses("kind", found.map, bad)


# --- baselines


def literal_fill(baseline, images: Tensor) -> Tensor:
    """The baseline as an image for each image, from its description."""
    fill = torch.zeros_like(images)
    for n, image in enumerate(images):
        for c in range(3):
            if isinstance(baseline, str):
                fill[n, c] = image[c].sum() / image[c].numel()
            elif isinstance(baseline, Tensor) and baseline.ndim == 4:
                fill[n, c] = baseline[n if len(baseline) > 1 else 0, c]
            else:
                values = np.asarray(baseline, dtype=np.float64).reshape(-1)
                fill[n, c] = values[c if len(values) == 3 else 0]
    return fill


BASELINES = {
    "zero": 0,
    "number": -1.25,
    "numpy number": np.float32(0.5),
    "colour": torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64),
    "colour in single precision": torch.tensor([0.5, -2.0, 3.0]),
    "ints": torch.tensor([1, 0, 2]),
    "scalar tensor": torch.tensor(2.5),
    "list": [1.0, 2, -3.5],
    "array": np.array([1.0, 2.0, -3.5]),
    "mean": "mean",
    "one image": random_images(50, 1, SIZE),
    "images": random_images(51, 2, SIZE),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name):
    baseline, images = BASELINES[name], random_images(3, 2, SIZE)
    fill = literal_fill(baseline, images)
    made = as_baseline(baseline, images)
    assert made.dtype == images.dtype
    close(made.expand(images.shape), fill)
    net = random_net(12, SIZE)
    found = occlusion_map(net, images, 2, window=(4, 5), stride=4, baseline=baseline)
    value = function_of(net, None, lambda y: y[2])
    close(found.scores, plain_loop(value, images, fill, (4, 5), (4, 4))[0])


@pytest.mark.parametrize("size", [(16, 16), (48, 33), (5, 70), (1, 4), (2, 2)])
def test_blur_is_a_gaussian_of_a_sixteenth_of_the_shorter_side(size):
    images = random_images(4, 2, size)
    sigma, last = min(size) / 16, min(size) - 1
    radius = min(math.ceil(3 * sigma), last)
    weights = np.array([math.exp(-((k / sigma) ** 2) / 2) for k in range(-radius, radius + 1)])
    weights /= weights.sum()

    def mirrored(index, length):
        return -index if index < 0 else 2 * (length - 1) - index if index >= length else index

    expected = images.numpy()
    for axis in (2, 3):
        rolled = [
            np.take(expected, [mirrored(i + k, size[axis - 2]) for i in range(size[axis - 2])], axis)
            for k in range(-radius, radius + 1)
        ]
        expected = sum(w * r for w, r in zip(weights, rolled, strict=True))
    close(as_baseline("blur", images), torch.from_numpy(expected))


def test_occluding_by_the_image_itself_changes_nothing():
    net, images = random_net(13, SIZE), random_images(13, 2, SIZE)
    found = occlusion_map(net, images, 1, window=4, stride=3, baseline=images)
    assert found.drops.abs().max() < 1e-13


# --- one rectangle


@given(seed=st.integers(0, 10**6), n=st.integers(1, 3), k=st.integers(1, 3), data=st.data())
@settings(max_examples=30)
def test_occlude(seed, n, k, data):
    images, baseline = random_images(seed, n, SIZE), random_images(seed + 1, n, SIZE)
    count = n if n > 1 else k
    rectangles = []
    for _ in range(count):
        top, left = data.draw(st.integers(0, SIZE[0] - 1)), data.draw(st.integers(0, SIZE[1] - 1))
        rectangles.append(
            (top, left, top + data.draw(st.integers(1, 20)), left + data.draw(st.integers(1, 20)))
        )
    given_as = data.draw(st.sampled_from([list, tuple, torch.tensor, lambda r: [list(x) for x in r]]))
    with unchanged(images, baseline):
        found = occlude(images, given_as(rectangles), baseline)
    for i, (top, left, bottom, right) in enumerate(rectangles):
        owner = i if n > 1 else 0
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                source = baseline if top <= y < bottom and left <= x < right else images
                assert torch.equal(found[i, :, y, x], source[owner, :, y, x])
    assert len(found) == count


def test_one_rectangle_for_all_images():
    images = random_images(1, 3, SIZE)
    rectangle = (2, 3, 6, 9)
    for given_as in (rectangle, list(rectangle), torch.tensor(rectangle), [rectangle], np.array(rectangle)):
        found = occlude(images, given_as, 5.0)
        assert (found[:, :, 2:6, 3:9] == 5).all()
        assert (found != 5).sum() == 3 * 3 * (13 * 11 - 24)


def test_the_sweep_is_occlude_at_every_rectangle():
    net, image = random_net(14, SIZE), random_images(14, 1, SIZE)
    found = occlusion_map(net, image, 1, window=5, stride=4, baseline="mean")
    copies = occlude(image, found.rectangles.flatten(0, 1), "mean")
    with torch.no_grad():
        scores = copy.deepcopy(net).eval()(copies)[:, 1]
    close(found.scores.flatten(), scores)


# --- interrupts, errors, cleanliness


class Stops(nn.Module):
    """One class, the mean; at its `at`-th pass it raises `error`. It can't be traced, as its mean is over
    channels too and it adds a dimension; without batch norms and in double precision a sweep is one pass to
    find that out, one for the clean images and one for each chunk."""

    def __init__(self, at: int, error: BaseException):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.inner = nn.Sequential(nn.Dropout(0.5))
        self.calls, self.at, self.error = 0, at, error

    def forward(self, x):
        assert not self.inner[0].training
        torch.rand(3)
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.weight * x.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("at", [4, 6, 10])
def test_an_interrupt_gives_back_what_there_is(at):
    images = random_images(1, 2, (6, 6))
    whole = occlusion_map(Stops(0, None), images, 0, window=2, stride=2, baseline=9.0)
    net = Stops(at, KeyboardInterrupt()).train()
    with unchanged(net, images), pytest.warns(UserWarning, match=r"interrupted after \d+ of 18") as caught:
        found = occlusion_map(net, images, 0, window=2, stride=2, baseline=9.0, chunk=2)
    assert caught[0].filename == __file__
    done = (at - 3) * 2  # the two images themselves are one pass, and one was left halfway
    assert not found.complete
    assert torch.equal(found.scores.flatten()[:done], whole.scores.flatten()[:done])
    assert found.scores.flatten()[done:].isnan().all()
    assert torch.equal(found.clean, whole.clean)
    assert "interrupted" in repr(found)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupt_before_the_first_score_passes_on(at):
    net, images = Stops(at, KeyboardInterrupt()).train(), random_images(1, 2, (6, 6))
    with unchanged(net, images), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            occlusion_map(net, images, 0, window=2, stride=2, chunk=2)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_what_the_network_raises_passes_on(at):
    net, images = Stops(at, RuntimeError("no")).train(), random_images(1, 2, (6, 6))
    with unchanged(net, images), pytest.raises(RuntimeError, match=r"^no$"):
        occlusion_map(net, images, 0, window=2, stride=2, chunk=2)


def test_progress_shows_a_bar(capsys):
    net, images = random_net(1, SIZE), random_images(1, 1, SIZE)
    quiet = occlusion_map(net, images, 1, window=4, stride=4, chunk=4)
    assert capsys.readouterr() == ("", "")
    loud = occlusion_map(net, images, 1, window=4, stride=4, chunk=4, progress=True)
    assert "Occlusion" in capsys.readouterr().err
    assert torch.equal(quiet.scores, loud.scores)


GOOD = {"window": 5, "stride": 4}


@pytest.mark.parametrize("name", ["window", "stride"])
@pytest.mark.parametrize(
    "bad",
    [0, -1, 2.0, "5", None, True, (), (5,), (5, 5, 5), (5, 0), (5, 1.5), [3, None], torch.ones(2), np.nan],
)
def test_bad_window_and_stride(name, bad):
    refuses(name, occlusion_map, random_net(0, SIZE), random_images(0, 1, SIZE), 1, **{**GOOD, name: bad})


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "grey",
        "",
        True,
        math.nan,
        math.inf,
        1j,
        (),
        (1.0, 2.0),
        [1, 2, None],
        ["mean", "mean", "mean"],
        object(),
        {},
        np.zeros((2, 2)),
        torch.zeros(2),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.complex64),
        torch.tensor([0.0, math.nan, 0.0]),
        torch.zeros(3, *SIZE),
        torch.zeros(1, 3, 2, 2),
        torch.zeros(2, 3, *SIZE),
        torch.zeros(1, 1, *SIZE),
        torch.full((1, 3, *SIZE), math.nan),
        torch.zeros(1, 3, *SIZE, dtype=torch.int64),
    ],
)
def test_bad_baselines(bad):
    net, image = random_net(0, SIZE), random_images(0, 1, SIZE)
    refuses("baseline", occlusion_map, net, image, 1, baseline=bad, **GOOD)
    refuses("baseline", occlude, image, (0, 0, 2, 2), bad)


@pytest.mark.parametrize("bad", [0, -3, 1.5, "all", None, True, (3,)])
def test_bad_chunks(bad):
    refuses("chunk", occlusion_map, random_net(0, SIZE), random_images(0, 1, SIZE), 1, chunk=bad, **GOOD)


@pytest.mark.parametrize("bad", [None, 1, "yes"])
def test_bad_progress(bad):
    refuses(
        "progress", occlusion_map, random_net(0, SIZE), random_images(0, 1, SIZE), 1, progress=bad, **GOOD
    )


@pytest.mark.parametrize(
    "bad", [None, "dog", 1.5, -1, [], [0, -1], True, torch.ones(2), 5, [5], unit("stem", 99)]
)
def test_bad_targets(bad):
    name = "channel" if not isinstance(bad, int | list) and hasattr(bad, "channel") else "target"
    net, image = random_net(0, SIZE), random_images(0, 1, SIZE)
    with unchanged(net, image):
        refuses(name, occlusion_map, net, image, bad, **GOOD)


@pytest.mark.parametrize("target", [[1, 2], class_probability([1, 2, 3, 4]), unit("stem", [0, 1])])
def test_targets_for_another_number_of_images(target):
    net, images = random_net(0, SIZE), random_images(0, 3, SIZE)
    refuses("target", occlusion_map, net, images, target, says="3 images", **GOOD)


def test_unknown_layer():
    net, images = random_net(0, SIZE), random_images(0, 1, SIZE)
    refuses("layer", occlusion_map, net, images, unit("stme", 0), says="'stem'", **GOOD)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        torch.zeros(3, *SIZE),
        torch.zeros(1, 1, *SIZE),
        torch.zeros(0, 3, *SIZE),
        torch.zeros(1, 3, *SIZE, dtype=torch.uint8),
        torch.zeros(1, 3, *SIZE, dtype=torch.float32),
        torch.full((1, 3, *SIZE), math.inf, dtype=torch.float64),
        np.zeros((1, 3, *SIZE)),
    ],
)
def test_bad_images(bad):
    refuses("images", occlusion_map, random_net(0, SIZE), bad, 1, **GOOD)
    if not (isinstance(bad, Tensor) and bad.dtype == torch.float32 and bad.ndim == 4 and bad.numel() == 429):
        refuses("images", occlude, bad, (0, 0, 2, 2))


@pytest.mark.parametrize("bad", [None, lambda x: x, "vgg16", 3])
def test_bad_models(bad):
    refuses("model", occlusion_map, bad, random_images(0, 1, SIZE), 1, **GOOD)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        5,
        "0123",
        (),
        (0, 0, 2),
        (0, 0, 2, [2]),
        (0, 0, 2, 2, 2),
        (0, 0, 2.0, 2),
        (0, 0, True, 2),
        (-1, 0, 2, 2),
        (2, 0, 2, 2),
        (3, 0, 2, 2),
        (0, 11, 2, 12),
        (13, 0, 14, 2),
        [(0, 0, 2, 2), (0, 0)],
        [(0, 0, 2, 2), None],
        ["0123"],
        [[(0, 0, 2, 2)]],
        torch.zeros(1, 4),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.zeros(2, 2, 4, dtype=torch.int64),
        torch.zeros(4, dtype=torch.bool),
        np.zeros(4),
    ],
)
def test_bad_rectangles(bad):
    refuses("rectangles", occlude, random_images(0, 1, SIZE), bad)


def test_rectangles_for_another_number_of_images():
    refuses("rectangles", occlude, random_images(0, 3, SIZE), [(0, 0, 1, 1)] * 2, says="3 images")


# --- where it counts


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives():
    net, images = random_net(2, SIZE), random_images(2, 2, SIZE)
    here = occlusion_map(net, images, [1, 2], window=5, stride=3, baseline="blur")
    there = occlusion_map(net.cuda(), images.cuda(), [1, 2], window=5, stride=3, baseline="blur")
    for tensor in (there.scores, there.clean, there.rectangles, there.map("drop")):
        assert tensor.is_cuda
    close(there.scores.cpu(), here.scores)
    close(there.map("drop").cpu(), here.map("drop"))
