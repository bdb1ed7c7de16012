"""How every embedded weight was made, and how well it does.

    python -m lecture7_utils.shop.training petnet            # also petnet_shortcut, petnet_gap
    python -m lecture7_utils.shop.training petnet --resume   # goes on where it was interrupted
    python -m lecture7_utils.shop.training evaluate          # every figure in weights/CARD.md

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
_BLOCK = 512  # scenes drawn at a time


@dataclass(frozen=True)
class Recipe:
    """How a `PetNet` is trained: AdamW (Loshchilov and Hutter 2019) on the cross entropy of drawn scenes.

    seed: of the first weights, the scenes and the hidden positions. tag_follows_species: of the scenes.
    steps, batch_size: how many batches of how many scenes, of one to three animals of one species.
    learning_rate: the highest; it rises over the first 15 % of the steps and falls to 0 as a half cosine.
    hidden: up to this share of the last feature maps' positions is set to 0 while training (a share drawn for
        each scene, what is left is scaled up), so that no single part of an animal is enough; after the idea
        of Singh and Lee 2017, "Hide-and-Seek".
    """

    seed: int
    tag_follows_species: float
    steps: int = 900
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    hidden: float = 0.9


RECIPES = {
    "petnet": Recipe(seed=1, tag_follows_species=0.0),
    "petnet_shortcut": Recipe(seed=2, tag_follows_species=1.0, steps=450),
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
        none. resume: go on from that file if it is there. net: the network to begin with; None makes one from
        the recipe's seed.
    Raises `ValueError` if the checkpoint is of another recipe. An interrupt is passed on after saving.
    """
    if net is None:
        net = PetNet(seed=recipe.seed)
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
    return net.to(memory_format=torch.contiguous_format).eval()


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
    maps = net.features(images.contiguous(memory_format=torch.channels_last))
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    share = recipe.hidden * torch.rand(len(maps), 1, 1, 1, generator=generator)
    kept = (torch.rand(len(maps), 1, *maps.shape[2:], generator=generator) >= share) / (1 - share)
    scores = net.classifier(net.flatten((maps * kept.to(maps)).contiguous()))
    loss = F.cross_entropy(scores, labels)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


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
    if state["recipe"] != asdict(recipe):
        raise ValueError(
            f"checkpoint: expected one of the recipe {asdict(recipe)}, got {state['recipe']} in {path}"
        )
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
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "categories": ",".join(net.categories),
        "blocks": ";".join(",".join(map(str, block)) for block in net.blocks),
        "size": str(net.size),
        "head": "flatten" if isinstance(net.flatten, nn.Flatten) else "average",
    }
    tensors = {name: value.detach().half().cpu().contiguous() for name, value in net.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata=about)
    os.replace(part, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = path.parent / "SHA256SUMS"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    lines = sorted(
        [line for line in lines if line.split()[-1:] != [path.name]] + [f"{digest}  {path.name}"],
        key=lambda x: x.split()[-1],
    )
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return digest


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


@torch.no_grad()
def class_maps(net: PetNet, images: Tensor, labels: Tensor) -> Tensor:
    """M_c = sum_k w_k^c f_k (Zhou et al. 2016, equation 2) for each image's class, at its size: [N, S, S]."""
    found = []
    for part, chosen in zip(images.split(128), labels.split(128), strict=True):
        maps = torch.einsum("nkhw,nk->nhw", net.features(part), net.classifier.weight[chosen])
        found.append(
            F.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        )
    return torch.cat(found)


def largest_boxes(maps: Tensor, threshold: float) -> Tensor:
    """For each map [N, H, W], the box around the largest connected part (8 neighbours) of `threshold` times
    its maximum and above: float [N, 4], (x1, y1, x2, y2), x2 and y2 exclusive."""
    above = maps >= threshold * maps.flatten(1).amax(1)[:, None, None]
    height, width = maps.shape[1:]
    marks = torch.arange(1, height * width + 1, device=maps.device).float().reshape(1, height, width) * above
    while True:  # each part takes its highest mark
        spread = F.max_pool2d(marks[:, None], 3, 1, 1)[:, 0] * above
        if torch.equal(spread, marks):
            break
        marks = spread
    boxes = []
    for mark in marks.long():
        counts = torch.bincount(mark.flatten())
        counts[0] = 0
        rows, columns = (mark == counts.argmax()).nonzero(as_tuple=True)
        boxes.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    return torch.tensor(boxes).float()


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] that broadcast."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    return both / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both)


def localisation(net: PetNet, count: int = 500, choice_count: int = 300) -> dict[str, float]:
    """How often boxes from class activation maps are right (IoU >= 0.5) on unseen scenes of one animal.

    The threshold is chosen on `choice_count` scenes of another seed. Beside it, what a box gets that does not
    look: the whole picture, a centred one of the mean size, and the best of all constant ones (in steps of
    a sixteenth), these two with the hindsight of the test scenes.
    """
    chosen, test = (
        Scenes(n, seed=seed, size=net.size).batch(range(n))
        for n, seed in ((choice_count, CHOICE_SEED), (count, TEST_SEED))
    )
    maps = class_maps(net, chosen.images, chosen.labels)
    thresholds = [i / 20 for i in range(1, 13)]
    rates = [_right(largest_boxes(maps, t), chosen.boxes[:, 0]) for t in thresholds]
    threshold = thresholds[max(range(len(rates)), key=rates.__getitem__)]
    truth, side = test.boxes[:, 0], float(net.size)
    found = largest_boxes(class_maps(net, test.images, test.labels), threshold)
    middle = (truth[:, 2:] - truth[:, :2]).mean(0) / 2
    edges = torch.arange(17) * side / 16
    constant = torch.cartesian_prod(edges, edges, edges, edges)
    constant = constant[(constant[:, 2:] - constant[:, :2]).amin(1) >= side / 4]
    best = max(
        float((box_iou(part[:, None], truth) >= 0.5).double().mean(1).max()) for part in constant.split(2000)
    )
    return {
        "threshold": threshold,
        "chosen on": max(rates),
        "class activation map": _right(found, truth),
        "best constant box": best,
        "centred box of the mean size": _right(torch.cat([side / 2 - middle, side / 2 + middle]), truth),
        "whole picture": _right(torch.tensor([0.0, 0.0, side, side]), truth),
    }


def _right(boxes: Tensor, truth: Tensor) -> float:
    return float((box_iou(boxes, truth) >= 0.5).double().mean())


def multiply_adds(net: PetNet) -> int:
    """Multiplications with an addition in one forward pass of one picture."""
    side, total = net.size, net.classifier.weight.numel()
    for layer in net.features:
        if isinstance(layer, nn.MaxPool2d):
            side //= 2
        elif isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * side * side
    return total


def evaluate(folder: Path = WEIGHTS, count: int = 2000, progress: bool = True) -> str:
    """Every figure about the embedded networks in `folder`, as a table in Markdown."""
    nets = {name: read_weights(folder / f"{name}.safetensors") for name in NAMES}
    tests = {
        "tag follows species": {"tag_follows_species": 1.0},
        "tags shuffled": {"tag_follows_species": 0.0},
        "no tag": {"tag": False},
    }
    lines = [f"| network | {' | '.join(tests)} |", "| --- |" + " --- |" * len(tests)]
    for name, net in nets.items():
        shares = [
            accuracy(net, Scenes(count, seed=TEST_SEED, size=net.size, animals=(1, 3), **options), progress)
            for options in tests.values()
        ]
        lines.append(f"| {name} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |")
    lines += ["", f"Accuracy on {count} unseen scenes of one to three animals (seed {TEST_SEED}).", ""]
    found = localisation(nets["petnet_gap"])
    threshold, chosen = found.pop("threshold"), found.pop("chosen on")
    lines += ["| boxes on 500 unseen scenes of one animal | IoU >= 0.5 |", "| --- | --- |"]
    lines += [f"| {name} | {100 * rate:.1f} % |" for name, rate in found.items()]
    lines += [
        "",
        f"Threshold {threshold} of a map's maximum, chosen on 300 other scenes (seed {CHOICE_SEED}; right on "
        f"{100 * chosen:.1f} % of them).",
        "",
        "| file | SHA-256 | bytes | multiply-adds |",
        "| --- | --- | --- | --- |",
    ]
    for name, net in nets.items():
        data = (folder / f"{name}.safetensors").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        lines.append(
            f"| {name}.safetensors | `{digest}` | {len(data):,} | {multiply_adds(net) / 1e6:.1f} million |"
        )
    return "\n".join(lines)


# ---------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code. `--help` says what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m lecture7_utils.shop.training",
        description="Make an embedded network from its recipe, or print how well the embedded ones do.",
    )
    parser.add_argument("what", choices=[*NAMES, "evaluate"])
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, help="folder of the weights (default: the package's)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="file of the state while training (default: beside --out)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint if there is one")
    parser.add_argument("--steps", type=int, help="another number of steps (for a try)")
    parser.add_argument(
        "--scenes", type=int, help="another number of scenes: of petnet_gap's head, of evaluate"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args(arguments)
    progress = not given.quiet
    if given.what == "evaluate":
        print(evaluate(given.out, **({"count": given.scenes} if given.scenes else {}), progress=progress))
        return 0
    path = given.out / f"{given.what}.safetensors"
    if given.what == "petnet_gap":
        start = given.out / "petnet.safetensors"
        net = read_weights(start).to(given.device)
        net = gap_head(net, **({"scenes": given.scenes} if given.scenes else {}), progress=progress)
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


if __name__ == "__main__":
    sys.exit(main())
