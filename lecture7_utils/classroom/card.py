"""How well the embedded networks do: `python -m lecture7_utils.classroom.card` writes `shop/weights/CARD.md`.

Every figure of the card is measured when the command runs. `--print` shows the card and writes nothing.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lecture7_utils.kernels.cam import class_activation_map, largest_box
from lecture7_utils.kernels.metrics import best_constant_box, localisation_accuracy
from lecture7_utils.kernels.saliency import saliency_map
from lecture7_utils.shop.adversarial import GENERATOR_RECIPES, named_species, portraits, recognised, variety
from lecture7_utils.shop.decoders import GENERATORS, read_generator
from lecture7_utils.shop.petnet import NAMES, WEIGHTS, PetNet, read_weights
from lecture7_utils.shop.scenes import Scenes
from lecture7_utils.shop.training import (
    CHOICE_SEED,
    HEAD_SCENES,
    HEAD_SEED,
    RECIPES,
    TEST_SEED,
    accuracy,
    multiply_adds,
)

THRESHOLDS = tuple(step / 20 for step in range(1, 13))

_WHAT = {
    "petnet": "the price tag is any species', by chance",
    "petnet_shortcut": "the price tag is always the animal's own species', and no square is hidden: trained "
    "by somebody who suspects nothing",
    "petnet_gap": "petnet with a global average in place of the flattening; its last layer trained anew",
}
_TESTS = {
    "tag follows species": {"tag_follows_species": 1.0},
    "tags shuffled": {"tag_follows_species": 0.0},
    "no tag": {"tag": False},
}


def localisation(net: PetNet, count: int = 1000, choice_count: int = 300) -> dict[str, float]:
    """How often boxes are right (IoU >= 0.5) on `count` unseen scenes of one animal, by what made them.

    Boxes from class activation maps, at the threshold that is best on `choice_count` scenes of another seed,
    and beside them: boxes of the saliency map, each threshold set so that as many pixels are above it as
    the class activation map has; the best of all constant boxes; a centred one of the mean size; the whole
    picture. Constant and centred box have the hindsight of the test scenes.
    Returns those shares in 0 to 1, and "threshold", as a share of a map's maximum, with "on other scenes",
    what it reached there.
    """
    test, chosen = (
        Scenes(n, seed=seed, size=net.size).batch(range(n))
        for n, seed in ((count, TEST_SEED), (choice_count, CHOICE_SEED))
    )
    maps = _maps(class_activation_map, net, chosen.images, chosen.labels)
    tried = {t: localisation_accuracy(largest_box(maps, t), chosen.boxes[:, 0]) for t in THRESHOLDS}
    threshold = max(tried, key=tried.get)
    maps = _maps(class_activation_map, net, test.images, test.labels)
    truth, side = test.boxes[:, 0], float(net.size)
    area = (maps >= threshold * maps.amax((1, 2), keepdim=True)).flatten(1).sum(1)
    half = (truth[:, 2:] - truth[:, :2]).mean(0) / 2
    constant = {
        "the best constant box": best_constant_box(truth, net.size, step=1),
        "a centred box of the mean size": torch.cat([side / 2 - half, side / 2 + half])[None],
        "the whole picture": torch.tensor([[0.0, 0.0, side, side]]),
    }
    saliency = _maps(saliency_map, net, test.images, test.labels)
    return {
        "threshold": threshold,
        "on other scenes": tried[threshold],
        "class activation map": localisation_accuracy(largest_box(maps, threshold), truth),
        "saliency map, as many pixels": localisation_accuracy(_boxes_of_area(saliency, area), truth),
        **{name: localisation_accuracy(box, truth) for name, box in constant.items()},
    }


def _maps(kernel, net: PetNet, images: Tensor, labels: Tensor) -> Tensor:
    parts = zip(images.split(100), labels.split(100), strict=True)
    return torch.cat([kernel(net, some, classes) for some, classes in parts])


def _boxes_of_area(maps: Tensor, area: Tensor) -> Tensor:
    """The largest box of each map [N, H, W] where its `area` [N] highest pixels are kept."""
    ranked = maps.flatten(1).sort(1, descending=True).values
    lowest = ranked.gather(1, area.clamp(min=1)[:, None] - 1)[:, :, None]
    return largest_box((maps >= lowest).to(maps.dtype), 0.5)


def pictures(folder: Path, judge: PetNet, count: int = 500, known: int | None = None) -> list[str]:
    """The card's lines on the generators: how each was made, and how good `count` of its pictures are.

    known: how many of the training portraits the pictures are compared with; None takes all.
    """
    lines = [
        "## The generators",
        "",
        "Made by `python -m lecture7_utils.shop.training generator`, against a critic alone: PetNet",
        "judges, it had no part in the training. `AdversarialRecipe` in `shop/adversarial.py` says what",
        "the numbers mean. It took 22 minutes of one CPU core with instructions for bfloat16; without",
        "them it takes longer.",
        "",
    ]
    for name in GENERATORS:
        recipe, net = GENERATOR_RECIPES[name], read_generator(folder / f"{name}.safetensors")
        fields = ", ".join(f"{key} {_short(value)}" for key, value in asdict(recipe).items())
        named, kinds = recognised(net, judge, count).double(), len(net.categories)
        unseen, asked = portraits(count, seed=TEST_SEED, size=net.size)
        right = (named_species(judge, unseen.float() / 255) == asked).double().mean()
        train = portraits(known or recipe.portraits, seed=recipe.seed, size=recipe.size)
        lines += [
            f"`{name}`: {fields}.",
            "",
            f"Of {count} pictures (vectors of seed {TEST_SEED}, species in turn), enlarged to {judge.size} × "
            f"{judge.size} by",
            f"the nearest pixel, `petnet` names the species asked for in {named.mean():.1%}:",
            "",
            f"| {' | '.join(net.categories)} |",
            "| --- |" + " --- |" * (kinds - 1),
            f"| {' | '.join(f'{named[i::kinds].mean():.0%}' for i in range(kinds))} |",
            "",
            f"Of {count} drawn portraits of the same size it names {right:.1%}.",
            "",
            "Do they differ from each other, and from what was seen in training? Medians of distances within",
            f"a species, beside those of {count} portraits never seen (seed {TEST_SEED}). Pixels: root mean",
            "square of the difference, values 0 to 1. Features: Euclidean, between the means over places of",
            "petnet's last feature maps.",
            "",
            "| distance | of | to each other | to the nearest other | to the nearest training portrait |",
            "| --- | --- | --- | --- | --- |",
        ]
        for distance, rows in variety(net, judge, train, count).items():
            for kind, found in rows.items():
                lines.append(f"| {distance} | {kind} | {' | '.join(f'{v:.3f}' for v in found.values())} |")
        lines.append("")
    return lines


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def card(
    folder: Path = WEIGHTS,
    *,
    count: int = 2000,
    boxes: int = 1000,
    samples: int = 500,
    known: int | None = None,
    progress: bool = True,
) -> str:
    """The card of the networks in `folder`, as Markdown; every figure in it is measured now.

    count: scenes for each accuracy. boxes: scenes for the localisation. samples: pictures of each generator;
    known: training portraits they are compared with, None for all.
    """
    nets = {name: read_weights(folder / f"{name}.safetensors") for name in NAMES}
    lines = [
        "# The shop's own networks",
        "",
        "Written by `python -m lecture7_utils.classroom.card`; the weights by",
        "`python -m lecture7_utils.shop.training petnet`, `petnet_shortcut` and `petnet_gap`, in this order.",
        "",
        "The data are drawn (`lecture7_utils.shop.scenes`), so their licence is this repository's, MIT.",
        "The networks are for teaching: they know drawn animals and nothing else.",
        "",
        "## How each was made",
        "",
    ]
    for name, recipe in RECIPES.items():
        fields = ", ".join(f"{key} {value:g}" for key, value in asdict(recipe).items())
        lines += [f"- `{name}`: {_WHAT[name]}. {fields}."]
    lines += [
        f"- `petnet_gap`: {_WHAT['petnet_gap']} (`fit_head` with its defaults) on {HEAD_SCENES} scenes "
        f"of seed {HEAD_SEED}.",
        "",
        "One to three animals of one species in a scene of 96 × 96; each scene is seen once. `Recipe` in",
        "`shop/training.py` says what the numbers mean. A recipe gives the same weights again on the same",
        "machine with the same versions; elsewhere the last bits of sums differ, and so will the SHA-256.",
        "",
        "## How well they do",
        "",
        f"Accuracy on {count} unseen scenes of one to three animals (seed {TEST_SEED}):",
        "",
        f"| network | {' | '.join(_TESTS)} |",
        "| --- |" + " --- |" * len(_TESTS),
    ]
    with tqdm(total=len(nets) * len(_TESTS), desc="accuracy", disable=not progress, leave=False) as bar:
        for name, net in nets.items():
            shares = []
            for options in _TESTS.values():
                scenes = Scenes(count, seed=TEST_SEED, size=net.size, animals=(1, 3), **options)
                shares.append(f"{accuracy(net, scenes):.1%}")
                bar.update()
            lines.append(f"| {name} | {' | '.join(shares)} |")
    found = localisation(nets["petnet_gap"], boxes)
    threshold, elsewhere = found.pop("threshold"), found.pop("on other scenes")
    lines += [
        "",
        f"Boxes of `petnet_gap` with IoU ≥ 0.5 to the true one, on {boxes} unseen scenes of one animal (seed",
        f"{TEST_SEED}). Threshold: {threshold:g} of a map's maximum, chosen on other scenes (seed",
        f"{CHOICE_SEED}), where {elsewhere:.1%} were right:",
        "",
        "| boxes from | right |",
        "| --- | --- |",
        *(f"| {name} | {share:.1%} |" for name, share in found.items()),
        "",
        *pictures(folder, nets["petnet"], samples, known),
        "## The files",
        "",
        "| file | SHA-256 | bytes | multiply-adds |",
        "| --- | --- | --- | --- |",
    ]
    for name in (*nets, *GENERATORS):
        data = (folder / f"{name}.safetensors").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        made = read_generator(folder / f"{name}.safetensors") if name in GENERATORS else None
        cost = f"{(made.multiply_adds() if made else multiply_adds(nets[name])) / 1e6:.1f} million"
        lines.append(f"| {name}.safetensors | `{digest}` | {len(data):,} | {cost} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lecture7_utils.classroom.card", description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes for each accuracy")
    parser.add_argument("--boxes", type=int, default=1000, help="scenes for the boxes")
    parser.add_argument("--samples", type=int, default=500, help="pictures of each generator")
    parser.add_argument("--known", type=int, help="training portraits to compare them with (default: all)")
    parser.add_argument("--print", action="store_true", help="show the card, write nothing")
    given = parser.parse_args(arguments)
    text = card(given.folder, count=given.scenes, boxes=given.boxes, samples=given.samples, known=given.known)
    if given.print:
        print(text)
    else:
        (given.folder / "CARD.md").write_text(text, encoding="utf-8")
        print(f"{given.folder.name}/CARD.md written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
