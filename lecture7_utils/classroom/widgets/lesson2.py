"""The explorer of lesson 2: occlusion sensitivity."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.plots import DIVERGING, overlay, picture
from lecture7_utils.classroom.widgets.pieces import (
    WIDE,
    Explorer,
    Shown,
    as_jpeg,
    blank,
    outline,
    panels,
    paragraph,
    percent,
    predictions_of,
    progress_bar,
    running,
    score_text,
    scores_of,
    signed_text,
    table_html,
    with_bar,
    write_note,
)
from lecture7_utils.kernels.arguments import describe, require_int
from lecture7_utils.kernels.occlusion import Occlusion, occlude
from lecture7_utils.kernels.targets import ClassProbability, ClassScore, TargetLike, as_target
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import PhotoLike
from lecture7_utils.shop.photos import photo as as_photo

FILLS = ("grey", "black", "white", "blur", "mean colour")


def explore_occlusion(net: Classifier, photo: PhotoLike, target: TargetLike | None = None) -> Explorer:
    """Lesson 2: put a window in front of a photo, anywhere, and read what the network still thinks.

    target: the class, as an int, `class_score` or `class_probability`; None for the photo's first answer.
    Choose the window's first row and column, its size, and what fills it: one forward pass for each place
    that was not tried before. A button slides the window over the whole photo, with a progress bar, and
    lays the loss of score over it: for each pixel the mean over the windows that cover it.
    controls: "row", "column", "window", "fill", "sweep", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
    shown = Shown(net, [as_photo(photo)])
    images, pixels, clean = shown[0]
    c = _one_class(target, clean)
    height, width = images.shape[2:]
    side = min(height, width)
    whole = torch.softmax(clean, 0)
    stride = max(1, round(side / 14))

    def slider(most: int, value: int, step: int, text: str, least: int = 0) -> widgets.IntSlider:
        return widgets.IntSlider(
            value=value, min=least, max=most, step=step, description=text, style=WIDE,
            continuous_update=False, layout={"width": "100%"},
        )  # fmt: skip

    step = max(1, side // 56)
    controls = {
        "row": slider(height - step, height // 3, step, "first row"),
        "column": slider(width - step, width // 3, step, "first column"),
        "window": slider(side, side // 4, step, "window (pixels)", least=step),
        "fill": widgets.Dropdown(
            options=FILLS, value="grey", description="filled with", style=WIDE, layout={"width": "100%"}
        ),
        "sweep": widgets.Button(
            description="Sweep the whole image",
            icon="play",
            layout={"width": "200px"},
            button_style="primary",
        ),
    }
    progress = progress_bar()
    colours = {"grey": (127, 127, 127), "black": (0, 0, 0), "white": (255, 255, 255)}
    kept: dict[tuple[int, int, int, str], tuple[float, float, str, float]] = {}
    maps: dict[tuple[int, str], np.ndarray] = {}

    def baseline(fill: str) -> Tensor | str:
        return net.colour(*colours[fill]) if fill in colours else fill.removesuffix(" colour")

    def occluded(rectangles: Sequence[Sequence[int]], fill: str) -> Tensor:
        return occlude(images, rectangles, baseline(fill))

    def values() -> tuple[int, int, int, str]:
        return tuple(controls[name].value for name in ("row", "column", "window", "fill"))

    def sweep() -> None:
        _, _, window, fill = values()
        if (window, fill) in maps:
            return
        tops, lefts = (_starts(length, window, stride) for length in (height, width))
        boxes = [(t, x, min(t + window, height), min(x + window, width)) for t in tops for x in lefts]
        scores = []
        with running(progress, len(boxes)):
            for first in range(0, len(boxes), 8):
                part = boxes[first : first + 8]
                scores.append(scores_of(net, occluded(part, fill))[:, c])
                progress.value = first + len(part)
        grid = torch.cat(scores).view(1, len(tops), len(lefts))
        rectangles = torch.tensor(boxes).view(len(tops), len(lefts), 4)
        found = Occlusion(grid, clean[c : c + 1], rectangles, (height, width), "one by one")
        maps[window, fill] = found.map("drop")[0].numpy()

    def draw() -> tuple[bytes, str]:
        row, column, window, fill = values()
        bottom, right = min(row + window, height), min(column + window, width)
        copy = occluded([(row, column, bottom, right)], fill)
        if (row, column, window, fill) not in kept:
            scores = scores_of(net, copy)[0]
            first = predictions_of(net, scores, 1)[0]
            share = torch.softmax(scores, 0)[c].item()
            kept[row, column, window, fill] = (scores[c].item(), share, first.category, first.probability)
        score, probability, first_name, first_share = kept[row, column, window, fill]
        seen = picture(net.display(copy)[0])
        drops = maps.get((window, fill))
        if drops is None:
            sheet = panels([("what the network sees", seen), ("mean loss of score per pixel", blank(pixels))])
            count = len(_starts(height, window, stride)) * len(_starts(width, window, stride))
            write_note(
                sheet, f"Sweep the whole image\nwith a window of {window} pixels:\n{count} forward passes"
            )
            most = None
        else:
            most = float(np.abs(drops).max()) or 1.0
            laid = overlay(pixels, drops, alpha=0.75, colours=DIVERGING, limits=(-most, most))
            sheet = panels([("what the network sees", seen), ("mean loss of score per pixel", laid)])
        for panel in range(1 if drops is None else 2):
            outline(sheet, panel, (row, column, bottom, right), width)
        ends = ("", "") if most is None else (signed_text(-most), signed_text(most))
        sheet = with_bar(sheet, DIVERGING, *ends, middle="blue: the score rises · red: it falls")
        table = table_html(
            ("", "whole photo", "now", "difference"),
            ("score", score_text(clean[c].item()), score_text(score), signed_text(score - clean[c].item())),
            (
                "probability",
                percent(whole[c].item()),
                percent(probability),
                signed_text(100 * (probability - whole[c].item()), "{:+z.1f} points"),
            ),
        )
        name = escape(net.categories[c])
        answer = f"First answer now: {escape(first_name)} ({percent(first_share)})"
        return as_jpeg(sheet), paragraph(f"Class: <b>{name}</b>") + table + paragraph(answer)

    explorer = Explorer(controls, draw, below=[progress])
    explorer.on_press("sweep", sweep)
    return explorer


def _one_class(target: TargetLike | None, scores: Tensor) -> int:
    if target is None:
        return scores.argmax().item()
    chosen = as_target(target)
    expected = "target: expected one class, as an int, class_score or class_probability"
    if not isinstance(chosen, ClassScore | ClassProbability):
        raise TypeError(f"{expected}, got {describe(target)}")
    classes = chosen.classes if isinstance(chosen.classes, tuple) else (chosen.classes,)
    if len(classes) != 1:
        raise ValueError(f"{expected}, got {len(classes)} of them")
    return require_int(classes[0], "target", 0, len(scores) - 1)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows of one axis, all inside: until one reaches the border."""
    return list(range(0, min(length, max(1, length - window + stride)), stride))
