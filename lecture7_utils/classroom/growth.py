"""How an occluder spreads through a network: its dirty rectangle on one map after the other."""

from collections.abc import Mapping, Sequence

from lecture7_utils.classroom.lecture import COLOURS, style
from lecture7_utils.classroom.plots import (
    SEQUENTIAL,
    MapLike,
    _cmap,
    _headline,
    _interpolation,
    _sheet,
    _show,
    _values,
    picture,
)
from lecture7_utils.kernels.arguments import describe, require_int
from lecture7_utils.kernels.dirty import DirtyRectangle
from lecture7_utils.shop.photos import PhotoLike


def plot_growth(
    image: PhotoLike,
    window: Sequence[int],
    rows: Sequence[DirtyRectangle],
    changes: Mapping[str, MapLike],
    *,
    columns: int = 4,
    title: str | None = None,
):
    """A picture with a window, then for each layer how much its map changed, with the dirty rectangle on it.

    window: (top, left, bottom, right) in pixels, the last two exclusive. rows: as `dirty_rectangles` gives
    them. changes: {layer: map [h, w] of the layer's size}, not negative, in any units; each is drawn from
    black, no change, to its largest value. Over each map stand its size and the share of it that the
    rectangle covers. columns: how many panels stand in a row.
    Returns the figure.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    rgb = picture(image)
    rows = list(rows)
    if not rows or not all(isinstance(row, DirtyRectangle) for row in rows):
        raise TypeError(f"rows: expected what dirty_rectangles gives, got {describe(rows)}")
    if len(window) != 4:
        raise ValueError(f"window: expected (top, left, bottom, right), got {describe(window)}")
    if not isinstance(changes, Mapping):
        raise TypeError(f"changes: expected a dict of layer to map, got {describe(changes)}")
    maps = {}
    for row in rows:
        if row.layer not in changes:
            raise ValueError(f"changes: expected one for each layer, got none for {row.layer!r}")
        values = _values(changes[row.layer], f"changes[{row.layer!r}]")
        if values.shape != row.size or values.min() < 0:
            raise ValueError(
                f"changes[{row.layer!r}]: expected values from 0 up of the layer's size {row.size}, got "
                f"{values.shape} from {values.min():.3g}"
            )
        maps[row.layer] = values
    columns = require_int(columns, "columns", 1)
    titles = [f"photo, {rgb.shape[0]} × {rgb.shape[1]}"]
    titles += [f"{row.layer}, {row.size[0]} × {row.size[1]}: {row.share:.0%}" for row in rows]
    count = len(rows) + 1
    with plt.rc_context(style()):
        figure, axes = _sheet(count, min(columns, count), rgb.shape[0] / rgb.shape[1], titles)
        _show(axes[0], rgb)
        _outline(axes[0], window)
        for ax, row in zip(axes[1:], rows, strict=True):
            values = maps[row.layer]
            largest = values.max() or 1.0
            ax.imshow(
                values, cmap=_cmap(SEQUENTIAL), vmin=0, vmax=largest, interpolation=_interpolation(values)
            )
            if row.share:
                _outline(ax, row.rectangle)
        _headline(figure, title)
    return figure


def _outline(ax, rectangle: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    top, left, bottom, right = rectangle
    patch = Rectangle(
        (left - 0.5, top - 0.5), right - left, bottom - top,
        fill=False, edgecolor=COLOURS[0], linewidth=2.0, clip_on=False,
    )  # fmt: skip
    patch.set_path_effects([Stroke(linewidth=4, foreground="white"), Normal()])
    ax.add_patch(patch)
