"""The explorer of lesson 5: what a search of a data set found for each channel."""

import math
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw

from lecture7_utils.classroom.sheets import cut_out, value_text
from lecture7_utils.classroom.widgets.pieces import (
    WIDE,
    Explorer,
    as_jpeg,
    font_of,
    paragraph,
    table_html,
)
from lecture7_utils.kernels.arguments import describe
from lecture7_utils.kernels.ranking import Hit, Ranking

CELL, GAP, ACROSS = 148, 8, 5  # pixels of a picture, between pictures; pictures in a row
KEPT = 400  # pictures that are kept in memory

TOP = "top"  # not None: that is an empty field to a dropdown
RANDOM = {
    "random: top 10 %": (0.9, 1.0),
    "random: around the median": (0.4, 0.6),
    "random: lowest 10 %": (0.0, 0.1),
}


def explore_units(ranking: Ranking, data: object, *, show: Callable | None = None) -> Explorer:
    """Lesson 5: the sheet of pictures for a layer and a channel, and how they lie among all the others.

    ranking: the result of `top_activations`. data and show: as in `plot_hits`.
    Choose the layer and the channel; the top k, or random pictures from a range of quantiles; the receptive
    field cut out, or the whole picture with the field marked. No pass through a network.
    controls: "layer", "channel", "shown", "view", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(ranking, Ranking):
        raise TypeError(f"ranking: expected a Ranking, as top_activations gives it, got {describe(ranking)}")
    if not hasattr(data, "__getitem__"):
        raise TypeError(f"data: expected what gives pictures at data[i], got {describe(data)}")
    kept = _Kept(data)

    def channels(layer: str) -> list[tuple[str, int]]:
        return [(str(c), c) for c in ranking.channels(layer)]

    choices = [(f"the top {ranking.k}", TOP)]
    if len(ranking.drawn.images):
        choices += list(RANDOM.items())
    first = ranking.layers[0]
    controls = {
        "layer": widgets.Dropdown(options=list(ranking.layers), value=first, description="layer", style=WIDE),
        "channel": widgets.SelectionSlider(options=channels(first), description="channel", style=WIDE),
        "shown": widgets.Dropdown(options=choices, value=TOP, description="pictures", style=WIDE),
        "view": widgets.Dropdown(
            options=[("receptive fields", False), ("whole pictures", True)],
            value=False,
            description="shown as",
            style=WIDE,
        ),
    }
    for control in controls.values():
        control.layout.width = "100%"

    def draw() -> tuple[bytes, str]:
        layer, channel, shown, whole = (controls[n].value for n in ("layer", "channel", "shown", "view"))
        if shown == TOP:
            hits = ranking.top(channel, layer)
        else:
            hits = ranking.sample(channel, *shown, ranking.k, layer)
        parts = [cut_out(hit, kept, show, whole=whole) for hit in hits]
        rows = [
            (value_text(hit.value), str(hit.image), f"{hit.position[0]}, {hit.position[1]}", hit.name or "–")
            for hit in hits
        ]
        spread = _spread(ranking, channel, layer)
        line = f"Channel {channel} of <b>{escape(layer)}</b>, over {ranking.count:,} images: {spread}"
        readout = paragraph(line) + table_html(("value", "image", "row, column", "name"), *rows)
        return as_jpeg(_sheet(parts, hits, max(ranking.k, 1))), readout

    def follow(name: str) -> None:
        if name == "layer":
            controls["channel"].options = channels(controls["layer"].value)

    return Explorer(controls, draw, follow=follow)


class _Kept:
    """The data set's items, the last ones kept: drawing or reading one again takes time."""

    def __init__(self, data: object):
        self._data, self._items = data, {}

    def __getitem__(self, image: int) -> object:
        if image not in self._items:
            while len(self._items) >= KEPT:
                del self._items[next(iter(self._items))]
            self._items[image] = self._data[image]
        return self._items[image]


def _spread(ranking: Ranking, channel: int, layer: str) -> str:
    """The channel's quantiles in words."""
    if not len(ranking.drawn.images):
        return "no sample was kept"
    at = ranking.channels(layer).index(channel)
    values = ranking.quantiles([0.1, 0.5, 0.9, 0.99], layer)[:, at].tolist()
    named = zip(("10 %", "median", "90 %", "99 %"), values, strict=True)
    return ", ".join(f"{name} {value_text(value)}" for name, value in named)


def _sheet(
    parts: Sequence[tuple[np.ndarray, tuple[int, int, int, int] | None]], hits: Sequence[Hit], places: int
) -> Image.Image:
    """The pictures at one scale, each under its value; as large as for `places` pictures."""
    font, above = font_of(15), 24
    across, down = min(places, ACROSS), math.ceil(places / ACROSS)
    sheet = Image.new("RGB", (across * (CELL + GAP) - GAP, down * (above + CELL + GAP) - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    most = max((max(rgb.shape[:2]) for rgb, _ in parts), default=1)
    for i, ((rgb, box), hit) in enumerate(zip(parts, hits, strict=True)):
        x, y = (i % ACROSS) * (CELL + GAP), (i // ACROSS) * (above + CELL + GAP)
        pen.text((x + CELL // 2, y + 3), value_text(hit.value), fill="black", font=font, anchor="ma")
        h, w = (max(1, round(n * CELL / most)) for n in rgb.shape[:2])
        how = Image.Resampling.NEAREST if most <= 64 else Image.Resampling.BICUBIC
        corner = (x + (CELL - w) // 2, y + above + (CELL - h) // 2)
        sheet.paste(Image.fromarray(rgb).resize((w, h), how), corner)
        if box is not None:
            top, left, bottom, right = (round(v * CELL / most) for v in box)
            for inset, colour in ((0, "white"), (1, "black"), (2, "white")):
                frame = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
                if frame[0] < frame[2] and frame[1] < frame[3]:
                    at = tuple(v + corner[j % 2] for j, v in enumerate(frame))
                    pen.rectangle(at, outline=colour)
    return sheet
