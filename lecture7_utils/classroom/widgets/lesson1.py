"""The explorer of lesson 1: saliency maps."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.plots import SEQUENTIAL, overlay
from lecture7_utils.classroom.widgets.pieces import (
    WIDE,
    Explorer,
    Shown,
    as_jpeg,
    panels,
    paragraph,
    percent,
    progress_bar,
    running,
    score_text,
    with_bar,
)
from lecture7_utils.kernels.arguments import describe, require_int
from lecture7_utils.kernels.saliency import saliency_map, smooth_grad
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import PhotoLike

SAMPLES = (1, 4, 8, 16)


def explore_saliency(
    net: Classifier, photos: Sequence[PhotoLike], classes: Sequence[int] | None = None
) -> Explorer:
    """Lesson 1: the saliency map of a photo and a class, and how the way of showing it changes what is seen.

    classes: the class indices to choose from; None for the five highest of each photo.
    Choose photo and class; how three channels become one; the quantile at which colours are clipped; how much
    of the map covers the photo; the number of noisy copies, which a button computes with a progress bar.
    A gradient is computed once for each photo, class and number of copies.
    controls: "photo", "class", "reduce", "quantile", "blend", "samples", "compute", "reset". Returns the
    root widget. Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = Shown(net, photos)
    if classes is not None:
        if isinstance(classes, str | bytes) or not isinstance(classes, Sequence) or len(classes) == 0:
            raise TypeError(f"classes: expected a sequence of class indices or None, got {describe(classes)}")
        classes = [require_int(c, "classes", 0, len(net.categories) - 1) for c in classes]

    def options(i: int) -> list[tuple[str, int]]:
        chosen = [p.index for p in shown.top(i)] if classes is None else classes
        return [(net.categories[c], c) for c in chosen]

    controls = {
        "photo": shown.dropdown(),
        "class": widgets.Dropdown(options=options(0), description="class", style=WIDE),
        "reduce": widgets.Dropdown(
            options=[("the largest |gradient|", "max"), ("their norm", "l2")],
            value="max",
            description="three channels to one",
            style=WIDE,
        ),
        "quantile": widgets.FloatSlider(
            value=99.0, min=90.0, max=100.0, step=0.5, description="clip at quantile (%)", style=WIDE,
            readout_format=".1f",
        ),
        "blend": widgets.FloatSlider(
            value=0.7, min=0.0, max=1.0, step=0.05, description="photo ↔ map", style=WIDE
        ),
        "samples": widgets.SelectionSlider(
            options=SAMPLES, value=1, description="noisy copies n", style=WIDE
        ),
        "compute": widgets.Button(
            description="Compute SmoothGrad", icon="play", layout={"width": "190px"}, button_style="primary"
        ),
    }  # fmt: skip
    for name in ("photo", "class", "reduce", "quantile", "blend", "samples"):
        controls[name].layout.width = "100%"
    progress = progress_bar()
    kept: dict[tuple[int, int, int], Tensor] = {}

    def gradient(i: int, c: int, n: int) -> tuple[Tensor, int]:
        """The gradient [3, H, W] for n copies, or for fewer where n waits for the button; and how many."""
        ready = max((m for m in SAMPLES if m <= n and (i, c, m) in kept), default=None)
        if ready is None:
            kept[i, c, 1] = saliency_map(net, shown[i][0], c, reduce=None)[0].float().cpu()
            ready = 1
        return kept[i, c, ready], ready

    def compute() -> None:
        i, c, n = (controls[name].value for name in ("photo", "class", "samples"))
        if n == 1 or (i, c, n) in kept:
            return
        images = shown[i][0]
        generator = torch.Generator(device=images.device).manual_seed(0)
        total = torch.zeros_like(images[0], device="cpu", dtype=torch.float32)
        with running(progress, n):
            for done in range(n):
                # one generator for all: the same noise as in one call for n samples
                part = smooth_grad(net, images, c, samples=1, reduce=None, generator=generator)
                total += part[0].float().cpu()
                progress.value = done + 1
        kept[i, c, n] = total / n

    def draw() -> tuple[bytes, str]:
        i, c, reduce, quantile, blend, n = (
            controls[name].value for name in ("photo", "class", "reduce", "quantile", "blend", "samples")
        )
        _, pixels, scores = shown[i]
        found, ready = gradient(i, c, n)
        values = (found.abs().amax(0) if reduce == "max" else found.norm(dim=0)).numpy()
        top = float(np.percentile(values, quantile)) or float(values.max()) or 1.0
        title = "gradient" if ready == 1 else f"SmoothGrad, n = {ready}"
        sheet = panels(
            [(shown.photos[i].name, pixels), (title, overlay(pixels, values, alpha=blend, limits=(0.0, top)))]
        )
        sheet = with_bar(sheet, SEQUENTIAL, "0", f"{top:.3g}", "|∂s/∂x|")
        probability = torch.softmax(scores, 0)[c].item()
        clipped = 100 * float((values > top).mean())
        lines = [
            f"<b>{escape(net.categories[c])}</b>: score {score_text(scores[c].item())}, "
            f"probability {percent(probability)}",
            f"The brightest colour stands for {top:.3g} and above: {clipped:.1f} % of the pixels.",
        ]
        if ready != n:
            lines.append(f"n = {n} is not computed yet: press “Compute SmoothGrad”. Shown is n = {ready}.")
        return as_jpeg(sheet), paragraph(*lines)

    def follow(name: str) -> None:
        if name == "photo":
            controls["class"].options = options(controls["photo"].value)

    explorer = Explorer(controls, draw, follow=follow, below=[progress])
    explorer.on_press("compute", compute)
    return explorer
