"""How every embedded weight was made.

    python -m lecture7_utils.shop.training petnet            # also petnet_shortcut, petnet_gap
    python -m lecture7_utils.shop.training generator         # also generator_resize
    python -m lecture7_utils.shop.training petnet --resume   # goes on where it was interrupted

`python -m lecture7_utils.classroom.card` measures how well they do, and writes weights/CARD.md.

Scenes are drawn while the network trains, each seen once. A step's scenes and its random numbers depend on
the recipe's seed and the step's number alone, so that a resumed training ends in the same weights.
"""

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from lecture7_utils.shop.arguments import whole
from lecture7_utils.shop.petnet import (
    NAMES,
    WEIGHTS,
    PetNet,
    fit_head,
    read_weights,
    to_global_average_pooling,
)
from lecture7_utils.shop.scenes import Scenes

TEST_SEED, CHOICE_SEED, HEAD_SEED = 1001, 1002, 1003  # worlds of scenes that no training draws from
GENERATORS = ("generator", "generator_resize")  # their recipes are in shop/adversarial.py
_BLOCK = 512  # scenes drawn at a time


@dataclass(frozen=True)
class Recipe:
    """How a `PetNet` is trained: AdamW (Loshchilov and Hutter 2019) on the cross entropy of drawn scenes.

    seed: of the first weights, the scenes and the hidden squares. tag_follows_species: of the scenes.
    steps, batch_size: how many batches of how many scenes, of one to three animals of one species.
    learning_rate: the highest; it rises over the first 15 % of the steps and falls to 0 as a half cosine.
    hidden: up to this share of a scene's squares of `side` pixels is painted over with the batch's mean
        colour (a share drawn for each scene), so that no single part of an animal is enough: Singh and
        Lee 2017, "Hide-and-Seek", section 3.1.
    While it trains, each convolution is followed by a batch normalisation (Ioffe and Szegedy 2015); it is
    folded into the convolution at the end, so that the network is the plain one that `PetNet` says.
    """

    seed: int
    tag_follows_species: float
    steps: int = 900
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    hidden: float = 0.9
    side: int = 24


RECIPES = {
    "petnet": Recipe(seed=1, tag_follows_species=0.0),
    "petnet_shortcut": Recipe(seed=2, tag_follows_species=1.0, steps=450, hidden=0.0),
}
HEAD_SCENES = 4096  # petnet_gap: the scenes its last layer is trained on


# ---------------------------------------------------------------- training


def train(
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    every: int = 50,
    device: str | torch.device = "cpu",
    progress: bool = True,
    net: PetNet | None = None,
) -> PetNet:
    """Train a `PetNet` by a recipe; returns it in eval mode, in float32.

    checkpoint: a file that holds the state after each `every` steps, and when it is interrupted; None keeps
        none. resume: go on from that file if it is there. net: the network to begin with, which is changed;
        None makes one from the recipe's seed.
    Raises `ValueError` if the checkpoint is of another recipe. An interrupt is passed on after saving.
    """
    if net is None:
        net = PetNet(seed=recipe.seed)
    _normalise(net)
    net = net.to(device=device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(net.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    first = 0
    if resume and checkpoint is not None and checkpoint.is_file():
        first = _load(checkpoint, recipe, net, optimiser, device)

    def save(done: int) -> None:
        if checkpoint is not None:
            _save(checkpoint, recipe, net, optimiser, done)

    done = first
    try:
        with tqdm(
            total=recipe.steps, initial=first, desc="training", unit="step", disable=not progress
        ) as bar:
            for step, images, labels in _stream(recipe, first, net.size, device):
                loss = _step(recipe, net, optimiser, step, images, labels)
                done = step + 1
                bar.update()
                if step % 10 == 0:
                    bar.set_postfix(loss=f"{loss:.3f}")
                if done % every == 0:
                    save(done)
    except KeyboardInterrupt:
        save(done)
        raise
    _fold(net.eval())
    return net.to(memory_format=torch.contiguous_format)


def _normalise(net: PetNet) -> None:
    """Put a batch normalisation behind each convolution, in place."""
    layers: list[nn.Module] = []
    for layer in net.features:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels, device=layer.weight.device))
    net.features = nn.Sequential(*layers)


def _fold(net: PetNet) -> None:
    """Take the batch normalisations out again and into the convolutions before them, in place: in eval mode
    (w * x + b - m) * g + c = (w g) * x + (b - m) g + c, with g = gamma / sqrt(variance + eps)."""
    layers: list[nn.Module] = []
    with torch.no_grad():
        for layer in net.features:
            if isinstance(layer, nn.BatchNorm2d):
                gain = layer.weight * (layer.running_var + layer.eps).rsqrt()
                convolution = layers[-1]
                convolution.weight.mul_(gain[:, None, None, None])
                convolution.bias.sub_(layer.running_mean).mul_(gain).add_(layer.bias)
            else:
                layers.append(layer)
    net.features = nn.Sequential(*layers)


def _stream(recipe: Recipe, first: int, size: int, device) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The batches of the steps from `first` on; scene i of the seed is number i of the stream."""
    batch, total = recipe.batch_size, recipe.steps * recipe.batch_size
    scenes = Scenes(
        total,
        seed=recipe.seed,
        size=size,
        animals=(1, 3),
        tag_follows_species=recipe.tag_follows_species,
        device=device,
    )
    steps = max(1, _BLOCK // batch)
    for start in range(first, recipe.steps, steps):
        stop = min(start + steps, recipe.steps)
        drawn = scenes.batch(range(start * batch, stop * batch))
        images, labels = drawn.images.split(batch), drawn.labels.split(batch)
        yield from zip(range(start, stop), images, labels, strict=True)


def _step(recipe: Recipe, net: PetNet, optimiser, step: int, images: Tensor, labels: Tensor) -> float:
    """One step of the recipe, `step` steps having been made; returns the loss."""
    warm, at = 0.15, step / recipe.steps
    scale = at / warm if at < warm else 0.5 * (1 + math.cos(math.pi * (at - warm) / (1 - warm)))
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * max(scale, 0.02)
    images = hide(images, recipe, step).contiguous(memory_format=torch.channels_last)
    loss = F.cross_entropy(net(images), labels)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def hide(images: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Images [N, 3, S, S] with squares painted over as the recipe says; the same for the same step."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    side, size = recipe.side, images.shape[2]
    cells = size // side + 2
    share = recipe.hidden * torch.rand(len(images), 1, 1, 1, generator=generator)
    seen = torch.rand(len(images), 1, cells, cells, generator=generator) >= share
    top, left = torch.randint(side, (2,), generator=generator).tolist()  # the squares' grid moves about
    seen = seen.repeat_interleave(side, 2).repeat_interleave(side, 3)
    seen = seen[:, :, top : top + size, left : left + size].to(images.device)
    return torch.where(seen, images, images.mean((0, 2, 3), keepdim=True))


def _save(path: Path, recipe: Recipe, net: PetNet, optimiser, done: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "recipe": asdict(recipe),
        "step": done,
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)  # a checkpoint is whole or not there


def _load(path: Path, recipe: Recipe, net: PetNet, optimiser, device) -> int:
    state = torch.load(path, map_location=device, weights_only=True)
    mine, theirs = asdict(recipe), state["recipe"]
    other = [key for key in mine if mine[key] != theirs.get(key)]
    if other:
        expected = ", ".join(f"{key} {mine[key]}" for key in other)
        found = ", ".join(f"{key} {theirs.get(key)}" for key in other)
        raise ValueError(f"checkpoint: expected one of a recipe with {expected}, got {found} in {path.name}")
    net.load_state_dict(state["net"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def gap_head(petnet: PetNet, *, scenes: int = HEAD_SCENES, progress: bool = True) -> PetNet:
    """`petnet` with a global average in place of the flattening, its last layer trained on drawn scenes."""
    net = to_global_average_pooling(petnet)
    data = Scenes(scenes, seed=HEAD_SEED, size=net.size, animals=(1, 3), device=net.classifier.weight.device)
    fit_head(net, data, progress=progress)
    return net


def write_weights(net: PetNet, path: Path) -> str:
    """Write a network in float16 with what rebuilds it, and its SHA-256 beside it; return that."""
    about = {
        "categories": ",".join(net.categories),
        "blocks": ";".join(",".join(map(str, block)) for block in net.blocks),
        "size": str(net.size),
        "head": "flatten" if isinstance(net.flatten, nn.Flatten) else "average",
    }
    return write_file(net, about, path)


def write_file(net: nn.Module, about: dict[str, str], path: Path) -> str:
    """Write a network's tensors in float16 with this metadata, and the SHA-256 beside it; return that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().half().cpu().contiguous() for name, value in net.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata=about)
    os.replace(part, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    list_checksum(path, digest)
    return digest


def list_checksum(path: Path, digest: str) -> None:
    """Write the SHA-256 of a file of weights into the list beside it, in place of an older one."""
    listed = path.parent / "SHA256SUMS"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    lines = sorted(
        [line for line in lines if line.split()[-1:] != [path.name]] + [f"{digest}  {path.name}"],
        key=lambda x: x.split()[-1],
    )
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- evaluation


@torch.no_grad()
def accuracy(net: PetNet, scenes: Scenes, progress: bool = False) -> float:
    """The share of scenes whose species the network names."""
    right = 0
    for start in tqdm(range(0, len(scenes), _BLOCK), desc="accuracy", disable=not progress, leave=False):
        drawn = scenes.batch(range(start, min(start + _BLOCK, len(scenes))))
        scores = torch.cat([net(images) for images in drawn.images.split(128)])
        right += int((scores.argmax(1) == drawn.labels).sum())
    return right / len(scenes)


def multiply_adds(net: PetNet) -> int:
    """Multiplications with an addition in one forward pass of one picture."""
    side, total = net.size, net.classifier.weight.numel()
    for layer in net.features:
        if isinstance(layer, nn.MaxPool2d):
            side //= 2
        elif isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * side * side
    return total


# ---------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code. `--help` says what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m lecture7_utils.shop.training",
        description="Make an embedded network from its recipe.",
    )
    parser.add_argument("what", choices=(*NAMES, *GENERATORS))
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, help="folder of the weights (default: the package's)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="file of the state while training (default: beside --out)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint if there is one")
    parser.add_argument("--steps", type=int, help="another number of steps (for a try)")
    parser.add_argument("--scenes", type=int, help="another number of scenes for petnet_gap's last layer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args(arguments)
    progress = not given.quiet
    path = given.out / f"{given.what}.safetensors"
    if given.what == "petnet_gap":
        start = given.out / "petnet.safetensors"
        net = read_weights(start).to(given.device)
        net = gap_head(net, **({"scenes": given.scenes} if given.scenes else {}), progress=progress)
    elif given.what in GENERATORS:
        return _generator(given, path)
    else:
        recipe = RECIPES[given.what]
        if given.steps is not None:
            recipe = replace(recipe, steps=whole(given.steps, "steps", 1))
        checkpoint = given.checkpoint or given.out / f"{given.what}.checkpoint"
        try:
            net = train(
                recipe, checkpoint=checkpoint, resume=given.resume, device=given.device, progress=progress
            )
        except KeyboardInterrupt:
            print(f"interrupted; the state is in {checkpoint}: --resume goes on from there", file=sys.stderr)
            return 130
        checkpoint.unlink(missing_ok=True)
    print(f"{write_weights(net, path)}  {path.name}")
    return 0


def _generator(given: argparse.Namespace, path: Path) -> int:
    from lecture7_utils.shop import adversarial  # which imports this module

    checkpoint = given.checkpoint or given.out / f"{given.what}.checkpoint"
    try:
        net, _ = adversarial.train_generator(
            adversarial.GENERATOR_RECIPES[given.what],
            steps=given.steps,
            checkpoint=checkpoint,
            resume=given.resume,
            device=given.device,
            progress=not given.quiet,
        )
    except KeyboardInterrupt:
        print(f"interrupted; the state is in {checkpoint}: --resume goes on from there", file=sys.stderr)
        return 130
    checkpoint.unlink(missing_ok=True)
    print(f"{adversarial.write_generator(net, path)}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
