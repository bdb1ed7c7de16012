"""The explorer of lesson 4: gradient ascent."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw

from lecture7_utils.classroom.lecture import COLOURS
from lecture7_utils.classroom.plots import picture
from lecture7_utils.classroom.widgets.pieces import (
    PANEL,
    WIDE,
    Explorer,
    as_jpeg,
    font_of,
    panels,
    paragraph,
    percent,
    predictions_of,
    progress_bar,
    running,
    score_text,
    scores_of,
    table_html,
    write_note,
)
from lecture7_utils.kernels.arguments import describe, require_int, require_number
from lecture7_utils.kernels.ascent import NATURAL, ascend
from lecture7_utils.kernels.regularisers import Transform, jitter, rotate_and_scale
from lecture7_utils.kernels.targets import (
    ClassScore,
    Target,
    TargetLike,
    Unit,
    as_target,
    evaluate,
    target_count,
)
from lecture7_utils.shop.models import Classifier

# what is added to L = s - lambda ||x||^2, and how far a step goes: a pixel, or a number of the spectrum
SETTINGS = {
    "nothing more": ((), 0.02),
    "jitter": ((jitter(),), 0.02),
    "jitter, rotation and scale": ((jitter(), rotate_and_scale()), 0.02),
    "jitter, rotation, scale and Fourier": (NATURAL, 0.08),
}


class _Climb(NamedTuple):
    """One climb, at its kept frames: what was done for how many steps, and what the network says of it."""

    steps: tuple[int, ...]
    pictures: list[np.ndarray]
    scores: list[float]
    squares: list[float]
    answers: list[tuple[float, str, float]]  # probability of the class; the first answer and its own


def explore_ascent(
    net: Classifier,
    objective: TargetLike,
    *,
    lambdas: Sequence[float] = (0.0, 1e-4, 1e-3, 1e-2),
    size: int = 128,
    steps: int = 64,
    keep_every: int = 4,
    seed: int = 0,
) -> Explorer:
    """Lesson 4: watch gradient ascent make an image, for several lambda and several regularisers.

    objective: a class (an int or `class_score`), a `class_probability` or a `unit`; one.
    Choose lambda, what is done beside the penalty, and the step; a button climbs what was not climbed yet,
    with a progress bar: `steps` steps at `size` × `size`, of which each `keep_every`-th is kept. Left is the
    image as it can be shown, right s and L of the kept frames as they are, without jitter. The first climb is
    made at once.
    controls: "lambda", "setting", "step", "climb", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
    target = _one(objective)
    if isinstance(lambdas, str) or not isinstance(lambdas, Sequence) or not lambdas:
        raise TypeError(f"lambdas: expected a sequence of numbers, got {describe(lambdas)}")
    lambdas = [require_number(value, "lambdas", 0) for value in lambdas]
    require_int(size, "size", 1)
    require_int(steps, "steps", 1)
    require_int(keep_every, "keep_every", 1, steps)
    bounds = net.colour(0, 0, 0), net.colour(255, 255, 255)
    chosen = target.classes if isinstance(target, ClassScore) else None

    kept_steps = [*range(0, steps, keep_every), steps]
    controls = {
        "lambda": widgets.SelectionSlider(
            options=[(f"{value:g}", value) for value in lambdas],
            value=lambdas[min(1, len(lambdas) - 1)],
            description="λ",
            style=WIDE,
        ),
        "setting": widgets.Dropdown(
            options=[(name, name) for name in SETTINGS],
            value=list(SETTINGS)[-1],
            description="beside the penalty",
            style=WIDE,
        ),
        "step": widgets.SelectionSlider(
            options=[(str(step), i) for i, step in enumerate(kept_steps)],
            value=len(kept_steps) - 1,
            description="steps done",
            style=WIDE,
        ),
        "climb": widgets.Button(
            description="Climb", icon="play", layout={"width": "150px"}, button_style="primary"
        ),
    }
    for name in ("lambda", "setting", "step"):
        controls[name].layout.width = "100%"
    progress = progress_bar()
    kept: dict[tuple[float, str], _Climb] = {}

    def climb() -> None:
        key = controls["lambda"].value, controls["setting"].value
        if key in kept:
            return
        regularise, rate = SETTINGS[key[1]]

        def tick(images, _draws):
            progress.value += 1
            return images

        with running(progress, steps), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            made = ascend(
                net, target, steps=steps, rate=rate, l2=key[0], size=size, bounds=bounds,
                regularise=[*regularise, Transform("progress", tick)], keep_every=keep_every, generator=seed,
            )  # fmt: skip
        if not made.complete:
            raise KeyboardInterrupt
        frames = made.frames[:, 0]
        answers = []
        if chosen is not None:
            for scores in scores_of(net, frames):
                first = predictions_of(net, scores, 1)[0]
                answers.append((torch.softmax(scores, 0)[chosen].item(), first.category, first.probability))
        kept[key] = _Climb(
            made.frame_steps,
            [picture(shown) for shown in net.display(frames)],
            evaluate(net, frames, target).tolist(),
            frames.double().square().sum((1, 2, 3)).tolist(),
            answers,
        )

    def draw() -> tuple[bytes, str]:
        penalty, setting, i = (controls[name].value for name in ("lambda", "setting", "step"))
        made = kept.get((penalty, setting))
        if made is None:
            empty = np.full((PANEL, PANEL, 3), 238, np.uint8)
            sheet = panels([("the image", empty), ("s and L", empty)])
            write_note(sheet, f"Not climbed yet.\nPress Climb: {steps} steps")
            return as_jpeg(sheet), paragraph(f"λ = {penalty:g}, {escape(setting)}: press <b>Climb</b>.")
        values = [s - penalty * q for s, q in zip(made.scores, made.squares, strict=True)]
        chart = _chart(made.steps, {"s": made.scores, "L": values}, made.steps[i])
        pixels = np.asarray(
            Image.fromarray(made.pictures[i]).resize((PANEL, PANEL), Image.Resampling.BICUBIC)
        )
        sheet = panels([(f"after {made.steps[i]} steps", pixels), ("s and L at the kept frames", chart)])
        table = table_html(
            ("steps", "s(x)", "λ‖x‖²", "L"),
            (
                str(made.steps[i]),
                score_text(made.scores[i]),
                score_text(penalty * made.squares[i]),
                score_text(values[i]),
            ),
        )
        if chosen is None:
            return as_jpeg(sheet), table
        probability, name, share = made.answers[i]
        line = (
            f"<b>{escape(net.categories[chosen])}</b>: probability {percent(probability)}. "
            f"First answer: {escape(name)} ({percent(share)})"
        )
        return as_jpeg(sheet), table + paragraph(line)

    climb()
    explorer = Explorer(controls, draw, below=[progress])
    explorer.on_press("climb", climb)
    return explorer


def _one(objective: object) -> Target:
    """The objective as a target of one class or channel, whatever the number of images."""
    try:
        target = as_target(objective)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("target:", "objective:", 1)) from None
    count = target_count(target)
    if count is None:
        return target
    if count > 1:
        raise ValueError(f"objective: expected one class or unit, got {count}")
    if isinstance(target, Unit):
        return replace(target, channel=target.channel[0])
    return replace(target, classes=target.classes[0])


def _chart(steps: Sequence[int], curves: dict[str, Sequence[float]], at: int) -> np.ndarray:
    """Curves over the steps, and a line at one of them: uint8 [PANEL, PANEL, 3]."""
    image = Image.new("RGB", (PANEL, PANEL), "white")
    pen, font = ImageDraw.Draw(image), font_of(14)
    left, top, right, bottom = 62, 12, PANEL - 30, PANEL - 44
    values = [v for curve in curves.values() for v in curve]
    low, high = min(*values, 0.0), max(*values, 0.0)
    span = (high - low) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * step / max(steps[-1], 1)
        return x, bottom - (bottom - top) * (value - low) / span

    # no number on top of another
    for value in {low, high} | ({0.0} if min(-low, high) > 0.06 * span else set()):
        y = place(0, value)[1]
        pen.line([(left, y), (right, y)], fill="#dddddd")
        pen.text((left - 6, y), score_text(value), fill="black", font=font, anchor="rm")
    pen.line([place(at, low), place(at, high)], fill="#888888", width=2)
    for step in (steps[0], steps[-1]):
        pen.text((place(step, low)[0], bottom + 6), str(step), fill="black", font=font, anchor="ma")
    pen.text(((left + right) / 2, bottom + 22), "steps", fill="black", font=font, anchor="ma")
    for (name, curve), colour, width in zip(curves.items(), COLOURS, (5, 2), strict=False):
        pen.line([place(s, v) for s, v in zip(steps, curve, strict=True)], fill=colour, width=width)
        x, y = place(steps[-1], curve[-1])
        pen.text((x + 6, y + (-9 if name == "s" else 9)), name, fill=colour, font=font, anchor="lm")
    return np.asarray(image)
