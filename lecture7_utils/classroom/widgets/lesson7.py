"""The explorer of lesson 7: one activation of a channel's map, and its trace to the pixels."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lecture7_utils.classroom.plots import SEQUENTIAL, palette
from lecture7_utils.classroom.sheets import value_text
from lecture7_utils.classroom.traces import limit_of, trace_picture
from lecture7_utils.classroom.widgets.pieces import WIDE, Explorer, Shown, as_jpeg, font_of, paragraph
from lecture7_utils.kernels.arguments import describe
from lecture7_utils.kernels.deconvnet import deconvnet
from lecture7_utils.kernels.layers import activations, find_layer
from lecture7_utils.kernels.receptive import receptive_fields
from lecture7_utils.kernels.targets import unit
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import PhotoLike

RULES = {"DeconvNet": "deconvnet", "guided backpropagation": "guided", "gradient": "gradient"}
KINDS = ("ReLU", "ReLU6", "MaxPool2d")  # whose outputs are offered, where nothing else is asked for
PANEL, GAP, ABOVE = 272, 6, 26  # pixels: a panel's side, between panels, for its title
RIM = 3  # pixels that a frame is wide
KEPT = 300  # traces that are kept in memory

Box = tuple[int, int, int, int]


def explore_trace(
    net: Classifier, photos: Sequence[PhotoLike], layers: Sequence[str] | None = None
) -> Explorer:
    """Lesson 7: one activation is kept, all others are set to zero: its trace to the pixels.

    layers: names of layers that give maps [N, C, h, w]; None for all ReLUs and max poolings. It begins with
    the last one and its strongest channel.
    Choose photo, layer and channel: the channel's largest activation is kept; row and column, or the button
    "Next largest", choose another one. At the left the photo with the receptive field, in the middle the
    channel's map with the activation framed, at the right its trace by the rule for ReLU that is chosen:
    grey is 0. The last two pictures of a field are enlarged on request. A redraw is one forward and one
    backward pass.
    controls: "photo", "layer", "channel", "row", "column", "rule", "view", "next", "reset". Returns the
    root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = Shown(net, photos)
    names = _checked_layers(net, shown[0][0], layers)
    kept_maps: dict[tuple[int, str], Tensor] = {}
    kept_traces: dict[tuple, Tensor] = {}
    fields = _fields(net, names, tuple(shown[0][0].shape[2:]))

    def maps(i: int, layer: str) -> Tensor:
        """The layer's maps [C, h, w] on the CPU."""
        if (i, layer) not in kept_maps:
            kept_maps[i, layer] = activations(net, shown[i][0], layer)[0].float().cpu()
        return kept_maps[i, layer]

    def field(layer: str, channel: int, row: int, column: int) -> Box | None:
        if layer not in fields:
            return None
        top, left, bottom, right = fields[layer][channel, row, column].tolist()
        return (top, left, bottom, right) if bottom > top and right > left else None

    def trace(i: int, layer: str, channel: int, row: int, column: int, rule: str) -> Tensor:
        key = (i, layer, channel, row, column, rule)
        if key not in kept_traces:
            while len(kept_traces) >= KEPT:
                del kept_traces[next(iter(kept_traces))]
            target = unit(layer, channel, (row, column))
            kept_traces[key] = deconvnet(net, shown[i][0], target, rule=rule)[0].float().cpu()
        return kept_traces[key]

    first = names[-1]
    strongest = int(maps(0, first).flatten(1).amax(1).argmax())
    row, column = _largest(maps(0, first)[strongest])
    count, height, width = maps(0, first).shape

    def slider(name: str, value: int, most: int) -> widgets.IntSlider:
        return widgets.IntSlider(value=value, min=0, max=most, description=name, style=WIDE)

    controls = {
        "photo": shown.dropdown(),
        "layer": widgets.Dropdown(options=names, value=first, description="layer", style=WIDE),
        "channel": slider("channel", strongest, count - 1),
        "row": slider("row of the map", row, height - 1),
        "column": slider("column of the map", column, width - 1),
        "rule": widgets.Dropdown(options=list(RULES.items()), description="rule for ReLU", style=WIDE),
        "view": widgets.Dropdown(
            options=[("whole picture", False), ("receptive field", True)],
            value=False,
            description="shown",
            style=WIDE,
        ),
        "next": widgets.Button(description="Next largest", icon="forward", layout={"width": "150px"}),
    }
    for control in controls.values():
        if not isinstance(control, widgets.Button):
            control.layout.width = "100%"

    def to_the_largest() -> None:
        here = maps(controls["photo"].value, controls["layer"].value)[controls["channel"].value]
        controls["row"].value, controls["column"].value = _largest(here)

    def follow(name: str) -> None:
        if name == "layer":
            sizes = maps(controls["photo"].value, controls["layer"].value).shape
            for which, size in zip(("channel", "row", "column"), sizes, strict=True):
                controls[which].max = size - 1  # a value beyond it comes down by itself
        if name in ("photo", "layer", "channel"):
            to_the_largest()

    def draw() -> tuple[bytes, str]:
        i, layer, channel, row, column, rule, close = (
            controls[name].value for name in ("photo", "layer", "channel", "row", "column", "rule", "view")
        )
        _, pixels, _ = shown[i]
        here = maps(i, layer)[channel]
        box, found = field(layer, channel, row, column), trace(i, layer, channel, row, column, rule)
        photo_title, trace_title = shown.photos[i].name, "its trace to the pixels"
        if close and box is not None:
            top, left, bottom, right = box
            pixels, found = pixels[top:bottom, left:right], found[:, top:bottom, left:right]
            photo_title, trace_title, frame = "its receptive field", "its trace there", None
        else:
            frame = box
        parts = [
            (photo_title, pixels, frame),
            (f"channel {channel}: {here.shape[0]} × {here.shape[1]}", _cells(here), _cell(row, column)),
            (trace_title, trace_picture(found), frame),
        ]
        return as_jpeg(_sheet(parts)), _lines(layer, channel, here, row, column, box, found)

    explorer = Explorer(controls, draw, follow=follow)

    def to_the_next() -> None:
        here = maps(controls["photo"].value, controls["layer"].value)[controls["channel"].value]
        row, column = _next(here, controls["row"].value, controls["column"].value)
        with explorer._hold():
            controls["row"].value, controls["column"].value = row, column

    explorer.on_press("next", to_the_next)
    return explorer


def _checked_layers(net: Classifier, images: Tensor, layers: object) -> list[str]:
    """The layers' names; each gives maps."""
    table = {row.name: row for row in net.layers(images, leaves_only=False)}
    maps = [name for name, row in table.items() if row.shape is not None and len(row.shape) == 3]
    if layers is None:
        leaves = [row.name for row in net.layers(images) if row.kind in KINDS and row.name in maps]
        if not leaves:
            raise ValueError(f"layers: expected names, as the network has no {', '.join(KINDS)}, got None")
        return leaves
    if isinstance(layers, str | bytes) or not isinstance(layers, Sequence):
        raise TypeError(f"layers: expected a sequence of layers' names, got {describe(layers)}")
    if not layers:
        raise ValueError("layers: expected at least one name, got none")
    for name in layers:
        find_layer(net, name, "layers")
        if name not in maps:
            raise ValueError(f"layers: expected layers that give maps [N, C, h, w], got {name!r}")
    return list(layers)


def _fields(net: Classifier, layers: Sequence[str], size: tuple[int, int]) -> dict[str, Tensor]:
    """Each layer's receptive fields, all by one pass, so that no redraw waits.

    None for a network that can't be followed: its traces can be seen all the same.
    """
    try:
        found = receptive_fields(net, layers, size)
    except ValueError:
        return {}
    return {name: rectangles.to(torch.int16) for name, rectangles in found.items()}


def _largest(map: Tensor) -> tuple[int, int]:
    place = int(map.argmax())
    return place // map.shape[1], place % map.shape[1]


def _next(map: Tensor, row: int, column: int) -> tuple[int, int]:
    """The place whose activation comes next in size; after the last one above 0 the largest again."""
    order = map.flatten().argsort(descending=True, stable=True)
    behind = int((order == row * map.shape[1] + column).nonzero()) + 1
    if behind == len(order) or map.flatten()[order[behind]] <= 0:
        behind = 0
    place = int(order[behind])
    return place // map.shape[1], place % map.shape[1]


def _cell(row: int, column: int) -> Box:
    return row, column, row + 1, column + 1


def _cells(map: Tensor) -> np.ndarray:
    """The map's numbers as colours, uint8 [h, w, 3]: lowest value to highest; all alike are dark."""
    values = map.double().numpy()
    low, high = min(0.0, float(values.min())), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return palette(SEQUENTIAL)[(share * 255).round().astype(int)]


def _sheet(parts: Sequence[tuple[str, np.ndarray, Box | None]]) -> Image.Image:
    """Panels side by side, each under its title, as large as fits; boxes are framed."""
    sheet = Image.new("RGB", (len(parts) * (PANEL + GAP) - GAP, ABOVE + PANEL), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (title, pixels, box) in enumerate(parts):
        scale = PANEL / max(pixels.shape[:2])
        h, w = (max(1, round(n * scale)) for n in pixels.shape[:2])
        x, y = i * (PANEL + GAP) + (PANEL - w) // 2, ABOVE + (PANEL - h) // 2
        pen.text((i * (PANEL + GAP), 2), title, fill="black", font=font_of(15))
        # numbers and small cut-outs are to be seen as cells
        how = Image.Resampling.NEAREST if max(pixels.shape[:2]) <= 64 else Image.Resampling.BICUBIC
        sheet.paste(Image.fromarray(pixels).resize((w, h), how), (x, y))
        if box is not None:
            top, left, bottom, right = (round(v * scale) for v in box)
            # around the box, so that a small one is seen, but never outside the picture
            left, top = max(0, left - RIM), max(0, top - RIM)
            right, bottom = min(w, right + RIM), min(h, bottom + RIM)
            for inset, colour in ((0, "white"), (1, "black"), (2, "white")):
                corners = (left + inset, top + inset, right - 1 - inset, bottom - 1 - inset)
                if corners[0] < corners[2] and corners[1] < corners[3]:
                    pen.rectangle([v + (x, y)[k % 2] for k, v in enumerate(corners)], outline=colour)
    return sheet


def _lines(
    layer: str, channel: int, map: Tensor, row: int, column: int, box: Box | None, trace: Tensor
) -> str:
    value, values = map[row, column].item(), map.flatten()
    place = int((values > value).sum()) + 1
    where = _largest(map)
    lines = [
        f"Channel {channel} of <b>{escape(layer)}</b>, row {row}, column {column}: activation "
        f"<b>{value_text(value)}</b>, number {place} of {len(values)}; the largest is "
        f"{value_text(values.max().item())} at row {where[0]}, column {where[1]}. All others are set to 0."
    ]
    if box is None:
        lines.append("What this place can see of the picture is not known.")
    else:
        lines.append(
            f"It can see rows {box[0]} to {box[2] - 1} and columns {box[1]} to {box[3] - 1} of the picture."
        )
    limit = limit_of(trace.double().numpy())
    if limit == 0:
        why = ": the activation is 0" if value == 0 else ""
        lines.append(f"<b>Nothing comes back{why}.</b>")
    else:
        most = value_text(limit)
        lines.append(f"Trace: grey is 0, black and white are \N{MINUS SIGN}{most} and {most}.")
    return paragraph(*lines)
