"""The explorer of lesson 3: class activation maps."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import torch
from torch import Tensor

from lecture7_utils.classroom.plots import SEQUENTIAL, overlay
from lecture7_utils.classroom.widgets.pieces import (
    WIDE,
    Explorer,
    Shown,
    as_cells,
    as_jpeg,
    blank,
    outline,
    panels,
    paragraph,
    percent,
    thousandths,
    with_bar,
)
from lecture7_utils.kernels.cam import boxes, class_activation_map
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.tails import find_averaged_map
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import PhotoLike


def explore_cam(net: Classifier, photos: Sequence[PhotoLike]) -> Explorer:
    """Lesson 3: the class activation map of a photo and a class, and the box that a threshold makes of it.

    net: ends in a global average and one linear layer, as `class_activation_map` needs it.
    Choose photo and class, of the photo's five highest; the per cent of the map's maximum that a pixel needs
    to count; how much of the map covers the photo. At the left are the map's own few numbers, at the right
    the same map enlarged, with the box of its largest region. One forward pass for each photo, and one for
    each class of it that is looked at.
    controls: "photo", "class", "threshold", "blend", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = Shown(net, photos)

    def options(i: int) -> list[tuple[str, int]]:
        return [(net.categories[p.index], p.index) for p in shown.top(i)]

    controls = {
        "photo": shown.dropdown(),
        "class": widgets.Dropdown(options=options(0), description="class", style=WIDE),
        "threshold": widgets.IntSlider(
            value=20, min=5, max=95, step=5, description="threshold (% of max)", style=WIDE
        ),
        "blend": widgets.FloatSlider(
            value=0.5, min=0.0, max=1.0, step=0.05, description="photo ↔ map", style=WIDE
        ),
    }
    for control in controls.values():
        control.layout.width = "100%"
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    bias = _bias(net, shown[0][0])

    def map_of(i: int, c: int) -> tuple[Tensor, Tensor]:
        """The map on its own grid [1, h, w] and at the picture's size [1, H, W], on the CPU."""
        if (i, c) not in kept:
            images, pixels, _ = shown[i]
            grid = class_activation_map(net, images, c, size=None).float().cpu()
            large = torch.nn.functional.interpolate(grid[None], pixels.shape[:2], mode="bilinear")[0]
            kept[i, c] = grid, large
        return kept[i, c]

    def draw() -> tuple[bytes, str]:
        i, c, threshold, blend = (controls[name].value for name in ("photo", "class", "threshold", "blend"))
        _, pixels, scores = shown[i]
        grid, large = map_of(i, c)
        rows, columns = grid.shape[1:]
        # one scale for both: what is below 0 speaks against the class and stays dark
        most = max(float(grid.max()), float(large.max()))
        limits = (0.0, most if most > 0 else 1.0)
        cells = overlay(blank(pixels), as_cells(grid[0], pixels.shape[:2]), alpha=1.0, limits=limits)
        sheet = panels(
            [
                (f"the map: {rows} × {columns} numbers", cells),
                (shown.photos[i].name, overlay(pixels, large[0], alpha=blend, limits=limits)),
            ]
        )
        found = boxes(large, threshold / 100)[0]
        height, width = pixels.shape[:2]
        if len(found.boxes):
            x1, y1, x2, y2 = (round(v) for v in found.boxes[0].tolist())
            outline(sheet, 1, (y1, x1, y2, x2), width)
            share = (x2 - x1) * (y2 - y1) / (height * width)
            region = "1 region" if len(found.boxes) == 1 else f"{len(found.boxes)} regions"
            box = (
                f"{region} above {threshold} % of the maximum. Box of the largest: x {x1} to {x2}, "
                f"y {y1} to {y2}, {percent(share)} of the picture"
            )
        else:
            box = "The map is nowhere above 0: no box"
        sheet = with_bar(
            sheet, SEQUENTIAL, "0 and below", f"{limits[1]:.3g}", "M(i, j), in units of the score"
        )
        mean, name = grid.double().mean().item(), escape(net.categories[c])
        offset = 0.0 if bias is None else bias[c].item()
        sign = "+" if offset >= 0 else "\N{MINUS SIGN}"
        lines = [
            f"<b>{name}</b>: mean of the map {thousandths(mean)} {sign} bias {abs(offset):.3f} = "
            f"<b>{thousandths(mean + offset)}</b>; the network's score: "
            f"<b>{thousandths(scores[c].item())}</b>",
            box,
        ]
        return as_jpeg(sheet), paragraph(*lines)

    def follow(name: str) -> None:
        if name == "photo":
            controls["class"].options = options(controls["photo"].value)

    return Explorer(controls, draw, follow=follow)


def _bias(net: Classifier, images: Tensor) -> Tensor | None:
    """The biases [K] of the linear layer after the average; None where the average is the scores."""
    try:
        class_activation_map(net, images, 0)  # says what is to be said of a network without such an end
    except ValueError as error:
        raise ValueError(str(error).replace("model:", "net:", 1)) from None
    with evaluation(net, images.device), torch.no_grad():
        bias = find_averaged_map(net, images.clone())[1].bias
    return None if bias is None else bias.float().cpu()
