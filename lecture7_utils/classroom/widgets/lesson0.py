"""The explorer of lesson 0: scores and probabilities."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets

from lecture7_utils.classroom.widgets.pieces import (
    WIDE,
    Explorer,
    Shown,
    as_jpeg,
    panels,
    paragraph,
    percent,
    predictions_of,
    score_text,
)
from lecture7_utils.shop.models import Classifier, Prediction
from lecture7_utils.shop.photos import PhotoLike


def explore_predictions(net: Classifier, photos: Sequence[PhotoLike]) -> Explorer:
    """Lesson 0: scores before the softmax and probabilities after it.

    Choose a photo; add a number to all scores (no probability changes); add a number to all scores but the
    winner's (its probability changes while its score does not). One forward pass for each photo, ever.
    controls: "photo", "shift", "rivals", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = Shown(net, photos)
    slider = {"min": -10.0, "max": 10.0, "step": 0.5, "value": 0.0, "readout_format": "+.1f", "style": WIDE}
    controls = {
        "photo": shown.dropdown(),
        "shift": widgets.FloatSlider(description="add to all scores", **slider),
        "rivals": widgets.FloatSlider(description="add to the rivals", **slider),
    }
    for control in controls.values():
        control.layout.width = "100%"

    def draw() -> tuple[bytes, str]:
        i, shift, rivals = (controls[name].value for name in ("photo", "shift", "rivals"))
        _, pixels, scores = shown[i]
        watched = scores.argmax().item()
        moved = scores + shift + rivals
        moved[watched] -= rivals
        before = predictions_of(net, scores, 1)[0]
        rows = predictions_of(net, moved, 5, also=[watched])
        after = next(p for p in rows if p.index == watched)
        name = escape(before.category)
        readout = _bars(rows, watched) + paragraph(
            f"<b>{name}</b>: score {score_text(before.score)} → <b>{score_text(after.score)}</b>, "
            f"probability {percent(before.probability)} → <b>{percent(after.probability)}</b>"
        )
        return as_jpeg(panels([(shown.photos[i].name, pixels)])), readout

    explorer = Explorer(controls, draw, beside=True)
    explorer.picture.layout.width = "36%"
    explorer.readout.layout.width = "63%"
    return explorer


def _bars(rows: Sequence[Prediction], watched: int) -> str:
    """Scores and probabilities as two columns of bars; scores on one scale, −10 to 25, whatever the photo."""
    low, high = -10.0, 25.0

    def bar(start: float, end: float, colour: str, text: str) -> str:
        left, width = 100 * min(start, end), max(0.5, 100 * abs(end - start))
        # the number stands beside the bar: on it, it would be hard to read in a dark theme
        return (
            '<td style="width:36%;padding:3px 6px"><div style="display:flex;height:22px;line-height:22px">'
            '<div style="position:relative;flex:1;background:rgba(128,128,128,.15)">'
            f'<div style="position:absolute;left:{left:.2f}%;width:{width:.2f}%;height:22px;'
            f'background:{colour}"></div></div>'
            '<div style="width:4.2em;text-align:right;font-variant-numeric:tabular-nums">'
            f"{text}</div></div></td>"
        )

    def place(score: float) -> float:
        return min(1.0, max(0.0, (score - low) / (high - low)))

    lines = []
    for p in rows:
        weight = "bold" if p.index == watched else "normal"
        lines.append(
            f'<tr style="font-weight:{weight}"><td style="text-align:right;line-height:1.15">'
            f"{escape(p.category)}</td>"
            + bar(place(0.0), place(p.score), "#56B4E9", score_text(p.score))
            + bar(0.0, p.probability, "#E69F00", percent(p.probability))
            + "</tr>"
        )
    return (
        '<table style="width:100%;font-size:14px;line-height:1.3;border-collapse:collapse"><tr><th></th>'
        "<th>score<br>before the softmax</th><th>probability<br>after the softmax</th></tr>"
        + "".join(lines)
        + "</table>"
    )
