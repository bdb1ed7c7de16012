"""The explorer of lesson 9: the two offers."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np
from torch import Tensor

from lecture7_utils.classroom.plots import overlay, picture
from lecture7_utils.classroom.widgets.pieces import (
    PANEL,
    WIDE,
    Explorer,
    as_jpeg,
    enlarged,
    panels,
    paragraph,
    percent,
    predictions_of,
    scores_of,
    table_html,
)
from lecture7_utils.kernels.arguments import describe, require_int
from lecture7_utils.kernels.cam import grad_cam
from lecture7_utils.kernels.saliency import saliency_map, smooth_grad
from lecture7_utils.shop.models import Classifier, Prediction
from lecture7_utils.shop.scenes import SPECIES, draw_scenes

ASKED = ("Grad-CAM", "SmoothGrad", "saliency")
NO_TAG, NOTHING = "no tag", "nothing"


def explore_offers(
    offers: Mapping[str, Classifier], scenes: Sequence[int] = range(12), *, seed: int = 0
) -> Explorer:
    """Lesson 9: one photo of the shop; change its tag or take its animal away, and ask every network.

    offers: {name: `Classifier`}, one to four. scenes, seed: which scenes, as in `draw_scenes`.
    Choose the photo, whose tag hangs in it (as the shop is: the animal's own species'), whether the animal
    is there, and the method whose map of each network's answer is laid over the photo. The table gives each
    network's answer. One drawing and one pass for each photo not seen before, and the method's for each map.
    controls: "photo", "tag", "without", "method", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(offers, Mapping) or not all(isinstance(net, Classifier) for net in offers.values()):
        raise TypeError(f"offers: expected a dict of name to Classifier, got {describe(offers)}")
    if not 1 <= len(offers) <= 4:
        raise ValueError(f"offers: expected one to four classifiers, got {len(offers)}")
    if isinstance(scenes, str) or not isinstance(scenes, Sequence) or not scenes:
        raise TypeError(f"scenes: expected at least one scene's number, got {describe(scenes)}")
    scenes = [require_int(index, "scenes", 0) for index in scenes]
    labels = draw_scenes(scenes, seed=seed).labels.tolist()
    names = [(f"{i + 1}: a {SPECIES[c]}", i) for i, c in enumerate(labels)]
    controls = {
        "photo": widgets.Dropdown(options=names, value=0, description="photo"),
        "tag": widgets.Dropdown(
            options=[*SPECIES, NO_TAG], value=SPECIES[labels[0]], description="price tag of a"
        ),
        "without": widgets.Dropdown(options=[NOTHING, "the animal"], value=NOTHING, description="taken away"),
        "method": widgets.Dropdown(options=ASKED, value=ASKED[0], description="map by"),
    }
    for control in controls.values():
        control.style.description_width = WIDE["description_width"]
        control.layout.width = "100%"
    seen: dict[tuple[int, str, str], tuple[Tensor, dict[str, Prediction]]] = {}
    maps: dict[tuple[int, str, str, str, str], np.ndarray] = {}

    def photo_of(i: int, tag: str, without: str) -> tuple[Tensor, dict[str, Prediction]]:
        """The photo [3, H, W] and each network's first answer."""
        key = (i, tag, without)
        if key not in seen:
            image = draw_scenes(
                [scenes[i]], seed=seed, species=labels[i], tag=False if tag == NO_TAG else tag,
                leave_out=() if without == NOTHING else ("animals", "shadows"),
            ).images[0]  # fmt: skip
            first = {}
            for name, net in offers.items():
                first[name] = predictions_of(net, scores_of(net, net.preprocess(image))[0], 1)[0]
            seen[key] = image, first
        return seen[key]

    def map_of(name: str, i: int, tag: str, without: str, method: str) -> np.ndarray:
        """The network's picture with the map of its answer laid over."""
        key = (name, i, tag, without, method)
        if key not in maps:
            net = offers[name]
            image, first = photo_of(i, tag, without)
            images, c = net.preprocess(image), first[name].index
            if method == "Grad-CAM":
                found = grad_cam(net, images, c)
            elif method == "SmoothGrad":
                found = smooth_grad(net, images, c, samples=4)
            else:
                found = saliency_map(net, images, c)
            maps[key] = overlay(picture(net.display(images)[0]), found[0])
        return maps[key]

    def draw() -> tuple[bytes, str]:
        i, tag, without, method = (controls[name].value for name in ("photo", "tag", "without", "method"))
        image, first = photo_of(i, tag, without)
        parts = [("the photo", picture(image))]
        parts += [
            (f"{name}: {first[name].category}", map_of(name, i, tag, without, method)) for name in offers
        ]
        width = (2 * PANEL + 12 * 2 - 12 * len(parts)) // len(parts)
        sheet = panels([(title, enlarged(pixels, width)) for title, pixels in parts], width)
        rows = []
        for name, answer in first.items():
            truth = (
                "" if without != NOTHING else "right" if answer.category == SPECIES[labels[i]] else "wrong"
            )
            rows.append((name, answer.category, percent(answer.probability), truth))
        what = f"a {SPECIES[labels[i]]}" if without == NOTHING else "the empty place"
        hung = tag if tag == NO_TAG else f"the price tag of a {tag}"
        table = table_html(("", "answer", "probability", ""), *rows)
        return as_jpeg(sheet), paragraph(f"In the photo: <b>{what}, {hung}</b>") + table

    def follow(name: str) -> None:
        if name == "photo":  # the next photo comes as the shop has it
            controls["tag"].value = SPECIES[labels[controls["photo"].value]]
            controls["without"].value = NOTHING

    return Explorer(controls, draw, follow=follow)
