"""Sheets of what a search found: rows of crops or of whole pictures with the receptive field marked."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from lecture7_utils.classroom.lecture import WIDTH, style
from lecture7_utils.classroom.plots import _interpolation, _wrapped, picture
from lecture7_utils.kernels.arguments import describe, require_choice
from lecture7_utils.kernels.ranking import Hit
from lecture7_utils.shop.photos import PhotoLike

LARGEST = 1.25  # inches that a picture of a sheet is wide at most
_LABEL, _GAP = 1.35, 0.08  # inches: of a row's label, between pictures


def plot_hits(
    rows: Mapping[str, Sequence[Hit]],
    data: object,
    *,
    whole: bool = False,
    show: Callable | None = None,
    beside: Mapping[str, PhotoLike] | None = None,
    title: str | None = None,
):
    """A sheet of search results: a row for each name, with its pictures and their values side by side.

    rows: {name: hits}, as `Ranking.top` and `Ranking.sample` give them. data: gives the picture that the
    search saw at `data[hit.image]`, or something with it in `.image`, or a tuple that begins with it.
    whole: the whole pictures with their rectangle marked, instead of the receptive field cut out.
    show: makes a picture of an item of `data` where it is none: `lambda item: net.display(item[None])[0]`.
    beside: {name: picture}, drawn at the left of the rows of these names: what `ascend` made for the channel.
    Crops of one row are drawn to one scale; where a receptive field reaches over the border they are smaller.
    Returns the figure.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    found = _checked(rows)
    require_choice(whole, "whole", (False, True))
    left_of = _beside(beside, found)
    cut = {name: [cut_out(hit, data, show, whole=whole) for hit in hits] for name, hits in found.items()}
    across = max(1, *map(len, cut.values())) + bool(left_of)
    cell = min(LARGEST, (WIDTH - _LABEL) / across - _GAP)
    with plt.rc_context(style() | {"figure.constrained_layout.use": False}):
        points = style()["font.size"]
        above = points * 1.5 / 72  # for the value over each picture
        label, heights = _LABEL, []
        first = label + bool(left_of) * (cell + _GAP)  # where the hits begin
        for name, pictures in cut.items():
            most = max((max(rgb.shape[:2]) for rgb, _ in pictures), default=1)
            tall = max((rgb.shape[0] for rgb, _ in pictures), default=1) * cell / most
            if name in left_of:
                rgb = left_of[name]
                tall = max(tall, rgb.shape[0] * cell / max(rgb.shape[:2]))
            heights.append(tall)
        width = label + across * (cell + _GAP)
        height = sum(heights) + len(heights) * (above + _GAP)
        figure = plt.figure(figsize=(width, height))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.axis("off")
        y = 0.0
        for (name, pictures), tall in zip(cut.items(), heights, strict=True):
            y += above
            most = max((max(rgb.shape[:2]) for rgb, _ in pictures), default=1)
            ax.text(0.05, y + tall / 2, _wrapped(name, 0.85 * label, points), va="center", size=points)
            if name in left_of:
                rgb = left_of[name]
                h, w = (n * cell / max(rgb.shape[:2]) for n in rgb.shape[:2])
                extent = (label + (cell - w) / 2, label + (cell + w) / 2, y + h, y)
                ax.imshow(rgb, extent=extent, interpolation=_interpolation(rgb), aspect="auto")
            for i, ((rgb, box), hit) in enumerate(zip(pictures, found[name], strict=True)):
                h, w = (n * cell / most for n in rgb.shape[:2])
                x, top = first + i * (cell + _GAP) + (cell - w) / 2, y + (tall - h) / 2
                extent = (x, x + w, top + h, top)
                ax.imshow(rgb, extent=extent, interpolation=_interpolation(rgb), aspect="auto")
                ax.text(x + w / 2, top - 0.03, value_text(hit.value), ha="center", va="bottom", size=points)
                if box is not None:
                    t, left, b, right = (v * cell / most for v in box)
                    corner, size = (x + left, top + t), (right - left, b - t)
                    for colour, line in (("white", 3.2), ("black", 1.4)):
                        frame = Rectangle(corner, *size, fill=False, ec=colour, lw=line, clip_on=False)
                        ax.add_patch(frame)
            y += tall + _GAP
        ax.set_xlim(0, width)
        ax.set_ylim(height, 0)
        ax.set_aspect("auto")
        if title:
            _above(figure, ax, title)
    return figure


def _above(figure, ax, title: str) -> None:
    """The headline over the sheet, in a strip of its own."""
    width, height = figure.get_size_inches()
    points = style()["figure.titlesize"]
    text = _wrapped(title, 0.85 * width, points)  # bold letters are wider
    strip = len(text.split("\n")) * points * 1.4 / 72 + 0.06
    figure.set_size_inches(width, height + strip)
    ax.set_position((0, 0, 1, height / (height + strip)))
    figure.suptitle(text, y=1 - 0.06 / (height + strip), va="top")


def _beside(given: object, rows: Mapping[str, list[Hit]]) -> dict[str, np.ndarray]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"beside: expected a dict of name to picture, got {describe(given)}")
    unknown = [name for name in given if str(name) not in rows]
    if unknown:
        raise ValueError(f"beside: expected names of rows, {', '.join(map(repr, rows))}, got {unknown[0]!r}")
    return {str(name): picture(image, f"beside[{name!r}]") for name, image in given.items()}


def _checked(rows: object) -> dict[str, list[Hit]]:
    if not isinstance(rows, Mapping):
        raise TypeError(f"rows: expected a dict of name to hits, got {describe(rows)}")
    if not rows:
        raise ValueError("rows: expected at least one row, got none")
    found = {}
    for name, hits in rows.items():
        if not isinstance(hits, Sequence) or not all(isinstance(hit, Hit) for hit in hits):
            raise TypeError(f"rows[{name!r}]: expected hits as Ranking.top gives them, got {describe(hits)}")
        found[str(name)] = list(hits)
    return found


def value_text(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def picture_of(item: object, show: Callable | None = None) -> np.ndarray:
    """The picture in an item of a data set, uint8 [H, W, 3]."""
    if show is not None:
        return picture(show(item), "show")
    if isinstance(item, tuple | list) and item:
        item = item[0]
    inside = getattr(item, "image", item)
    if isinstance(inside, Tensor) and inside.is_floating_point():
        if inside.min() < -1e-3 or inside.max() > 1 + 1e-3:
            raise ValueError(
                "data: expected pictures with values in 0 to 1, got "
                f"{inside.min():.3g} to {inside.max():.3g}; show=lambda item: net.display(item[None])[0] "
                "turns a network's images back"
            )
        inside = inside.clamp(0, 1)
    return picture(inside, "data")


def cut_out(
    hit: Hit, data: object, show: Callable | None, *, whole: bool
) -> tuple[np.ndarray, tuple[int, int, int, int] | None]:
    """A hit's receptive field, uint8 [h, w, 3], and None; or the whole picture and the rectangle in it.

    Raises `ValueError` if the picture is smaller than the rectangle says.
    """
    rgb = picture_of(data[hit.image], show)
    top, left, bottom, right = hit.rectangle
    if bottom > rgb.shape[0] or right > rgb.shape[1]:
        raise ValueError(
            f"data: expected the pictures that the search saw, of at least {bottom} × {right} for image "
            f"{hit.image}, got {rgb.shape[0]} × {rgb.shape[1]}"
        )
    if whole or bottom <= top or right <= left:
        return rgb, hit.rectangle if bottom > top and right > left else None
    return rgb[top:bottom, left:right], None
