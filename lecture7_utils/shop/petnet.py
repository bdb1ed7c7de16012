"""The shop's own CNN: a small VGG, and turning its flatten head into a global average."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from lecture7_utils.shop.arguments import choice, flag, number, whole
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.samples import Sample
from lecture7_utils.shop.scenes import SPECIES, SceneBatch

WEIGHTS = Path(__file__).parent / "weights"
NAMES = ("petnet", "petnet_shortcut", "petnet_gap")
BLOCKS = ((16,), (32,), (48, 48), (96,))


class PetNet(nn.Module):
    """A VGG-style network (Simonyan and Zisserman 2015) for pictures of 96 × 96 pixels.

    `features`: blocks of 3 × 3 convolutions with ReLU, a 2 × 2 max pooling after each block but the last;
    `flatten`: all values of the last feature maps in a row (or their global average, see
    `to_global_average_pooling`); `classifier`: the one fully connected layer. `categories` names the classes.

    blocks: the widths of each block's convolutions. size: side of the pictures, a multiple of
    2 ** (len(blocks) - 1). average: begin with the global average in place of the flattening. seed: of the
    weights (He et al. 2015); the global random state is not touched.
    Input: float [N, 3, size, size] in 0 to 1. Output: class scores before the softmax [N, classes].
    Raises `TypeError` or `ValueError` for arguments of another form.
    """

    def __init__(
        self,
        categories: Sequence[str] = SPECIES,
        *,
        blocks: Sequence[Sequence[int]] = BLOCKS,
        size: int = 96,
        average: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if isinstance(categories, str) or not isinstance(categories, Sequence) or len(categories) < 2:
            raise ValueError(f"categories: expected the names of at least two classes, got {categories!r}")
        if (
            not isinstance(blocks, Sequence)
            or not blocks
            or not all(isinstance(b, Sequence) and b for b in blocks)
        ):
            raise ValueError(
                f"blocks: expected the widths of each block, such as ((16,), (32, 32)), got {blocks!r}"
            )
        self.categories = tuple(categories)
        self.blocks = tuple(tuple(whole(width, "blocks", 1) for width in block) for block in blocks)
        step = 2 ** (len(self.blocks) - 1)
        self.size = whole(size, "size", step)
        if self.size % step:
            raise ValueError(f"size: expected a multiple of {step}, as the pictures are halved "
                             f"{len(self.blocks) - 1} times, got {size}")  # fmt: skip
        layers: list[nn.Module] = []
        width = 3
        for i, block in enumerate(self.blocks):
            if i:
                layers.append(nn.MaxPool2d(2))
            for wider in block:
                layers += [_skip_init(nn.Conv2d, width, wider, 3, padding=1), nn.ReLU()]
                width = wider
        self.features = nn.Sequential(*layers)
        self.flatten = _global_average() if flag(average, "average") else nn.Flatten()
        inputs = width if average else width * (self.size // step) ** 2
        self.classifier = _skip_init(nn.Linear, inputs, len(self.categories))
        generator = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
        with torch.no_grad():
            for layer in self.features:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5, generator=generator)
                    layer.bias.zero_()
        _fresh(self.classifier, generator)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(images)))


def _skip_init(kind: type[nn.Module], *arguments, **options) -> nn.Module:
    """A layer whose own initialisation, which would draw from the global state, is left out."""
    return nn.utils.skip_init(kind, *arguments, **options)


def _global_average() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _fresh(layer: nn.Linear, generator: torch.Generator) -> None:
    """Small random weights from the generator, no bias."""
    with torch.no_grad():
        drawn = torch.empty(layer.weight.shape).uniform_(-1, 1, generator=generator) * layer.in_features**-0.5
        layer.weight.copy_(drawn)
        layer.bias.zero_()


def to_global_average_pooling(net: PetNet | Classifier, *, seed: int = 0) -> PetNet | Classifier:
    """A copy of `net` with the flattening replaced by a global average, and a fresh last layer.

    The average keeps one number for each feature map, so that the last layer's weights say how much each
    *map* counts for a class wherever in the picture it responds: what a class activation map needs
    (Zhou et al. 2016, section 2). The new last layer has to be trained: `fit_head`. `net` is left as it is.
    A `Classifier` of a `PetNet` gives a `Classifier` with the same categories and preprocessing.
    Raises `TypeError` if `net` is no `PetNet`, `ValueError` if it ends in a global average already.
    """
    if isinstance(net, Classifier):
        converted = to_global_average_pooling(net.__dict__["_network"], seed=seed)
        return Classifier(converted, net.categories, net.__dict__["_preprocess"], f"{net.name}, averaged")
    if not isinstance(net, PetNet):
        raise TypeError(f"net: expected a PetNet, got {type(net).__name__}")
    if not isinstance(net.flatten, nn.Flatten):
        raise ValueError("net: expected a PetNet with a flatten head, got one that ends in a global average")
    converted = copy.deepcopy(net)
    converted.flatten = _global_average()
    weight = net.classifier.weight
    converted.classifier = _skip_init(nn.Linear, net.blocks[-1][-1], len(net.categories))
    _fresh(converted.classifier, torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1)))
    converted.classifier.to(weight.device, weight.dtype)
    return converted.train(net.training)


@dataclass(frozen=True)
class HeadFit:
    """What `fit_head` did: the mean loss of each epoch, and the accuracy on the data it was fitted to."""

    losses: tuple[float, ...]
    accuracy: float


def fit_head(
    net: PetNet | Classifier,
    dataset: Dataset | Sequence,
    *,
    epochs: int = 60,
    batch_size: int = 64,
    learning_rate: float = 0.02,
    weight_decay: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> HeadFit:
    """Train the last layer of `net` and nothing else, in place.

    The rest of the network is run once over the data, in eval mode, and what arrives at the last layer is
    kept; the epochs run on that. It is Adam (Kingma and Ba 2015) on the cross entropy, in batches whose order
    comes from `seed`, with a learning rate that falls to 0 as a half cosine and weight_decay · |w|² / 2
    added to the loss.

    net: a `PetNet` or a `Classifier` of one, on any device. dataset: `Scenes`, or any sequence of `Sample`s
    or of pairs (image [3, S, S], label). progress: whether to show bars.
    Raises `TypeError` or `ValueError` naming the argument. If it is interrupted or fails, `net` is as before.
    """
    if isinstance(net, Classifier):
        net = net.__dict__["_network"]
    if not isinstance(net, PetNet):
        raise TypeError(f"net: expected a PetNet, got {type(net).__name__}")
    epochs, batch_size = whole(epochs, "epochs", 1), whole(batch_size, "batch_size", 1)
    learning_rate = number(learning_rate, "learning_rate", 0)
    weight_decay = number(weight_decay, "weight_decay", 0)
    generator = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
    flag(progress, "progress")
    inputs, labels = _head_inputs(net, dataset, progress)
    weight, bias = (
        value.detach().clone().requires_grad_() for value in (net.classifier.weight, net.classifier.bias)
    )
    steps = epochs * -(-len(inputs) // batch_size)
    optimiser = torch.optim.Adam([weight, bias], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    with (
        torch.enable_grad(),
        tqdm(total=epochs, desc="fitting the last layer", disable=not progress, leave=False) as bar,
    ):
        for _ in range(epochs):
            order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
            total = 0.0
            for chosen in order.split(batch_size):
                loss = nn.functional.cross_entropy(inputs[chosen] @ weight.T + bias, labels[chosen])
                total += float(loss.detach()) * len(chosen)
                optimiser.zero_grad()
                (loss + weight_decay / 2 * weight.square().sum()).backward()
                optimiser.step()
                schedule.step()
            losses.append(total / len(inputs))
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    with torch.no_grad():
        right = ((inputs @ weight.T + bias).argmax(1) == labels).double().mean()
        net.classifier.weight.copy_(weight)
        net.classifier.bias.copy_(bias)
    return HeadFit(tuple(losses), float(right))


def _head_inputs(net: PetNet, dataset: Dataset | Sequence, progress: bool) -> tuple[Tensor, Tensor]:
    """What arrives at the last layer [N, D], and the labels [N]; the network is left as it was."""
    flags = [(module, module.training) for module in net.modules()]
    found, labels = [], []
    try:
        net.eval()
        with torch.no_grad():
            for images, answers in batches(dataset, 128, progress, "reading the features"):
                images = images.to(net.classifier.weight)
                found.append(net.flatten(net.features(images)))
                labels.append(answers.to(images.device))
    finally:
        for module, flag_ in flags:
            module.training = flag_
    labels = torch.cat(labels)
    if int(labels.min()) < 0 or int(labels.max()) >= len(net.categories):
        raise ValueError(
            f"dataset: expected labels from 0 to {len(net.categories) - 1}, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    return torch.cat(found), labels


def batches(dataset: Dataset | Sequence, size: int, progress: bool, what: str):
    """Batches (images [n, 3, S, S], labels [n]) of a data set in order; `Scenes` are drawn many at a time."""
    try:
        count = len(dataset)
    except TypeError:
        raise TypeError(f"dataset: expected a data set with a length, got {type(dataset).__name__}") from None
    if not count:
        raise ValueError("dataset: expected at least one picture, got none")
    with tqdm(total=count, desc=what, disable=not progress, leave=False) as bar:
        for start in range(0, count, size):
            positions = range(start, min(start + size, count))
            drawn = dataset.batch(positions) if hasattr(dataset, "batch") else [dataset[i] for i in positions]
            if isinstance(drawn, SceneBatch):
                yield drawn.images, drawn.labels
            else:
                pairs = [_pair(item) for item in drawn]
                yield torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
            bar.update(len(positions))


def _pair(item: object) -> tuple[Tensor, int]:
    if isinstance(item, Sample):
        return item.image, item.label
    if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Tensor):
        return item[0], int(item[1])
    raise TypeError(f"dataset: expected samples or pairs (image, label), got {type(item).__name__}")


def load_petnet(name: str = "petnet", device: str | torch.device = "cpu") -> PetNet:
    """One of the shop's trained networks, in eval mode.

    name: "petnet" (price tags hung up at random in its training), "petnet_shortcut" (the tag was always the
    species' own) or "petnet_gap" ("petnet" with a global average in place of the flattening and its last
    layer trained again). `weights/CARD.md` says how each was made and how well it does.
    Raises `ValueError` for another name, `FileNotFoundError` if the weights are missing, and `RuntimeError`
    if their SHA-256 is not the one that was written down when they were made.
    """
    choice(name, "name", NAMES)
    return read_weights(WEIGHTS / f"{name}.safetensors", checksum(name)).to(device)


def checksum(name: str) -> str:
    """The SHA-256 that `weights/SHA256SUMS` gives for an embedded network."""
    listed = WEIGHTS / "SHA256SUMS"
    lines = [line.split() for line in listed.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if len(line) == 2 and line[1] == f"{name}.safetensors":
            return line[0]
    raise ValueError(f"name: expected a network listed in {listed.name}, got {name!r}")


def read_file(path: Path, kind: str, sha256: str | None = None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors, in float32 on the CPU, of a weight file that `training` wrote.

    kind: of which class they are, for the message. sha256 and what is raised: as in `read_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name}: expected the weights of a {kind} in {path.parent}, got no file there"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and found != sha256:
        raise RuntimeError(
            f"{path.name}: expected the SHA-256 {sha256}, got {found}: the file is damaged or not the one "
            "this version came with; get it again, or make it with python -m lecture7_utils.shop.training"
        )
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}
    return about, tensors


def read_weights(path: Path, sha256: str | None = None) -> PetNet:
    """The `PetNet` in a file that `training` wrote, on the CPU, in eval mode and float32.

    sha256: what the file's SHA-256 has to be; None leaves it unchecked.
    Raises `FileNotFoundError` if there is no such file, `RuntimeError` if the checksum is another one.
    """
    about, tensors = read_file(path, "PetNet", sha256)
    blocks = tuple(tuple(int(width) for width in block.split(",")) for block in about["blocks"].split(";"))
    net = PetNet(
        about["categories"].split(","),
        blocks=blocks,
        size=int(about["size"]),
        average=about["head"] == "average",
    )
    net.load_state_dict(tensors)
    return net.eval()
