"""Figures: a map on a photo, contact sheets, top-5 bars, curves, rectangles, masks.

Pictures may be a `Photo`, a PIL image, an array [H, W, 3] or a tensor [3, H, W] as `shop.photos.photo` takes
them (uint8, or float in 0 to 1: `Classifier.display(images)[0]`). Maps are tensors or arrays [H, W] or
[1, H, W] in any units. Every `plot_...` function returns the matplotlib figure and never shows it: a cell
ends with `plt.show()`. All of them raise `TypeError` or `ValueError` naming the argument, what was expected
and what came.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.lecture import COLOURS, DASHES, MARKERS, WIDTH, style
from lecture7_utils.kernels.arguments import describe, require_choice, require_int, require_number
from lecture7_utils.shop.photos import Photo, PhotoLike, photo

HOW = ("max", "percentile", "range", "symmetric")
PERCENTILE = 99.0
SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"

_DIVERGING_MAPS = frozenset(
    name + end
    for name in ("RdBu", "PuOr", "BrBG", "PRGn", "PiYG", "RdGy", "RdYlBu", "coolwarm", "seismic", "vanimo")
    for end in ("", "_r")
)

MapLike = Tensor | np.ndarray


# ---------------------------------------------------------------------------------------- pictures and maps


def picture(image: PhotoLike, name: str = "image") -> np.ndarray:
    """Anything that `photo` takes, as uint8 [H, W, 3]. Errors name the argument `name`."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    try:
        return np.asarray(photo(image).image)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("source:", f"{name}:", 1)) from None


def _values(map: MapLike, name: str = "map") -> np.ndarray:
    """A map as a finite float array [H, W]."""
    expected = f"{name}: expected a map [H, W] or [1, H, W], got {describe(map)}"
    if isinstance(map, Tensor):
        map = map.detach().cpu()
        map = map.float().numpy() if map.dtype in (torch.bfloat16, torch.float16) else map.numpy()
    if not isinstance(map, np.ndarray) or map.dtype.kind not in "fiub":
        raise TypeError(expected)
    if map.ndim == 3 and map.shape[0] == 1:
        map = map[0]
    if map.ndim != 2 or 0 in map.shape:
        raise ValueError(expected)
    map = map.astype(np.float64)
    if not np.isfinite(map).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return map


def _limits(values: np.ndarray, how: str | None, signed: bool = False) -> tuple[float, float, str]:
    """The values that become the first and the last colour, and how they were chosen, in words."""
    if how is not None:
        require_choice(how, "how", HOW)
    low, high = float(values.min()), float(values.max())
    if signed or how == "symmetric":
        most = max(-low, high)
        if most == 0:
            return -1.0, 1.0, "0 everywhere"
        clip = float(np.percentile(np.abs(values), PERCENTILE)) if how in (None, "percentile") else 0.0
        if 0 < clip < most:
            return -clip, clip, f"around 0, clipped at the {PERCENTILE:g}\N{NO-BREAK SPACE}% quantile"
        return -most, most, "symmetric around 0"
    if how is None:
        how = "range" if low < 0 or low > high / 2 else "percentile"
    if low == high:
        if low == 0:
            return 0.0, 1.0, "0 everywhere"
        return min(low, 0.0), max(low, 0.0), f"{low:.3g} everywhere"
    if how == "range":
        return low, high, "lowest to highest value"
    if low < 0:
        raise ValueError(
            f"how: expected 'range' or 'symmetric' for a map with values below 0 "
            f"(its lowest is {low:.4g}), got {how!r}"
        )
    top = float(np.percentile(values, PERCENTILE)) if how == "percentile" else high
    if top <= 0 or top == high:
        return 0.0, high, "0 to highest value"
    return 0.0, top, f"clipped at the {PERCENTILE:g}\N{NO-BREAK SPACE}% quantile"


def _unit_range(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low .. high to 0 .. 1, clipped."""
    return ((values - low) / (high - low)).clip(0, 1)


def normalise(map: MapLike, how: str = "max") -> tuple[Tensor, str]:
    """A map scaled for showing, and the sentence that says how.

    map: [H, W] or [1, H, W]. how: "max", divided by its highest value; "percentile", divided by its 99 %
    quantile and clipped at 1; "range", (map - lowest) / (highest - lowest); "symmetric", divided by its
    largest absolute value, the sign kept.
    Returns a float tensor [H, W] in 0 to 1 (-1 to 1 for "symmetric") with the dtype and device of a float
    tensor `map` (float32 on the CPU for other kinds), and the text. A map that is 0 everywhere stays 0.
    Raises `ValueError` for "max" or "percentile" of a map with negative values.
    """
    values = _values(map)
    require_choice(how, "how", HOW)
    low, high, text = _limits(values, how)
    if how == "symmetric":
        scaled = values / high
    else:
        scaled = _unit_range(values, low, high)
    like = map if isinstance(map, Tensor) and map.is_floating_point() else torch.zeros(0)
    return torch.from_numpy(scaled).to(like.device, like.dtype), text


@cache
def palette(colours: str) -> np.ndarray:
    """The 256 colours of a matplotlib colour map, uint8 [256, 3]. Raises `ValueError` for an unknown name."""
    import matplotlib

    try:
        table = matplotlib.colormaps[colours]
    except (KeyError, TypeError):
        raise ValueError(
            f"colours: expected the name of a matplotlib colour map such as 'inferno', got {colours!r}"
        ) from None
    return (table(np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def _same_size(values: np.ndarray, rgb: np.ndarray, name: str = "map") -> None:
    if values.shape != rgb.shape[:2]:
        h, w = rgb.shape[:2]
        raise ValueError(
            f"{name}: expected the size of the image, {h} × {w}, got {values.shape[0]} × {values.shape[1]}; "
            "a network crops its photo: show Classifier.display(images)[0] beside its maps"
        )


def overlay(
    image: PhotoLike,
    map: MapLike,
    *,
    alpha: float = 0.6,
    colours: str = SEQUENTIAL,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """A map laid over a picture: uint8 [H, W, 3]. The picture fades to grey, so that colour means the map.

    alpha: 0 shows the picture alone, 1 the map alone; between, low values cover the picture less than high
    ones. colours: a matplotlib colour map; of a diverging one the middle counts as low.
    limits: the values that become the first and the last colour; None takes 0 to the 99 % quantile, or the
    whole range of a map with negative values or without small ones.
    Pure and quick: about 2 ms at 224 × 224. Raises `ValueError` if the sizes differ.
    """
    rgb, values = picture(image), _values(map)
    _same_size(values, rgb)
    require_number(alpha, "alpha", 0, 1)
    if limits is None:
        low, high, _ = _limits(values, None)
    else:
        low, high = _as_limits(limits)
    scaled = _unit_range(values, low, high).astype(np.float32)
    heat = palette(colours)[(scaled * 255).round().astype(np.uint8)].astype(np.float32)
    strength = np.abs(2 * scaled - 1) if colours in _DIVERGING_MAPS else scaled
    weight = (np.float32(alpha) ** (2 - strength))[:, :, None]
    base = rgb.astype(np.float32)
    grey = base @ np.array([0.299, 0.587, 0.114], np.float32)
    base += alpha * (grey[:, :, None] - base)
    return (base + weight * (heat - base)).round().astype(np.uint8)


def _as_limits(limits: object) -> tuple[float, float]:
    if not isinstance(limits, Sequence) or isinstance(limits, str) or len(limits) != 2:
        raise TypeError(f"limits: expected (low, high), got {describe(limits)}")
    low, high = (require_number(v, "limits") for v in limits)
    if low >= high:
        raise ValueError(f"limits: expected low < high, got {(low, high)}")
    return low, high


# ---------------------------------------------------------------------------------------- figures of pictures


def _wrapped(text: object, inches: float, points: float) -> str:
    """Text broken so that it fits: a letter is about half as wide as the font is high."""
    room = max(8, int(inches * 72 / (0.52 * points)))
    return "\n".join(line for part in str(text).split("\n") for line in textwrap.wrap(part, room) or [""])


def _across(count: int, columns: int | None, most: int) -> int:
    """How many panels a row holds: as asked, or about `most` and so that few places stay empty."""
    if columns is not None:
        return min(require_int(columns, "columns", 1), count)
    if count > 2 * most:
        return min(range(most, most + 3), key=lambda c: (-count % c, c))
    return math.ceil(count / math.ceil(count / most))


def _sheet(
    count: int,
    columns: int,
    aspect: float,
    titles: Sequence[object] = (),
    below: float = 0.0,
    largest: float = 3.4,
):
    """A grid of panels with their titles: figure and list of axes.

    aspect: height / width of the tallest picture. below: inches under each picture, for a colour bar.
    largest: inches that a panel is wide at most.
    """
    import matplotlib.pyplot as plt

    rows = math.ceil(count / columns)
    width = min(WIDTH / columns, largest)
    points = style()["axes.titlesize"]
    wrapped = [_wrapped(text, width - 0.1, points) if text else "" for text in titles]
    lines = max([text.count("\n") + 1 for text in wrapped if text], default=0)
    above = lines * points * 1.25 / 72 + (0.1 if lines else 0.0)
    # a very tall picture makes its panel narrower, so that a row still fits a screen
    height = min((width - 0.1) * aspect, 4.6)
    figure = plt.figure(figsize=(width * columns, rows * (height + above + below + 0.1)))
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.0, hspace=0.0)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for ax, text in zip(axes, [*wrapped, *[""] * (count - len(wrapped))], strict=True):
        ax.axis("off")
        ax.set_anchor("N")  # titles of one row stand on one line, whatever the pictures' shapes
        if text:
            ax.set_title(text)
    return figure, axes


def _show(ax, rgb: np.ndarray) -> None:
    ax.imshow(rgb, interpolation=_interpolation(rgb))


def _interpolation(pixels: np.ndarray) -> str:
    # pixels of a small grid are to be seen as such; a large one must not show a moiré of the screen's
    return "nearest" if max(pixels.shape[:2]) <= 64 else "auto"


def _show_map(ax, values: np.ndarray, low: float, high: float, colours: str, text: str) -> None:
    """A map with its colour bar underneath: the ends in the map's own units, and how they were chosen."""
    drawn = ax.imshow(values, cmap=_cmap(colours), vmin=low, vmax=high, interpolation=_interpolation(values))
    bar_axes = ax.inset_axes([0.0, -0.1, 1.0, 0.05])
    bar = ax.figure.colorbar(drawn, cax=bar_axes, orientation="horizontal")
    bar.outline.set_linewidth(0.5)
    ticks = [low, 0.0, high] if low < 0 < high else [low, high]
    bar.set_ticks(ticks, labels=[_short(t) for t in ticks])
    labels = bar_axes.get_xticklabels()
    labels[0].set_ha("left")
    labels[-1].set_ha("right")
    bar_axes.tick_params(length=3, labelsize=style()["xtick.labelsize"])
    bar_axes.set_xlabel(text, fontsize=style()["xtick.labelsize"])


def _cmap(colours: str):
    palette(colours)  # raises for an unknown name
    import matplotlib

    return matplotlib.colormaps[colours]


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _bar_text(label: str | None, text: str, width: float) -> str:
    points = style()["xtick.labelsize"]
    lines = [_wrapped(label, width, points)] if label else []
    return "\n".join([*lines, _wrapped(text, width, points)])


def _below(text_lines: int) -> float:
    """Inches that a colour bar with so many lines of text needs."""
    return 0.45 + text_lines * style()["xtick.labelsize"] * 1.35 / 72


def plot_images(
    images: Sequence[PhotoLike] | Tensor,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str | None = None,
):
    """A contact sheet. images: pictures, or a tensor [N, 3, H, W] in 0 to 1.

    titles: one for each; None takes the names of `Photo`s. columns: None for up to 5 in rows of equal length.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    if isinstance(images, str | bytes) or not isinstance(images, Sequence | Tensor | np.ndarray):
        raise TypeError(f"images: expected a sequence of pictures, got {describe(images)}")
    if len(images) == 0:
        raise ValueError("images: expected at least one picture, got none")
    if isinstance(images, Tensor | np.ndarray) and images.ndim != 4:
        raise ValueError(f"images: expected [N, 3, H, W] or a list of pictures, got {describe(images)}")
    shown = [picture(image, f"images[{i}]") for i, image in enumerate(images)]
    if titles is None:
        titles = [image.name if isinstance(image, Photo) else "" for image in images]
    if len(titles) != len(shown):
        raise ValueError(f"titles: expected one for each of the {len(shown)} images, got {len(titles)}")
    with plt.rc_context(style()):
        aspect = max(rgb.shape[0] / rgb.shape[1] for rgb in shown)
        figure, axes = _sheet(len(shown), _across(len(shown), columns, most=5), aspect, titles)
        for ax, rgb in zip(axes, shown, strict=True):
            _show(ax, rgb)
        _headline(figure, title)
    return figure


def _headline(figure, title: str | None) -> None:
    if title:
        width, height = figure.get_size_inches()
        text = _wrapped(title, width, style()["figure.titlesize"])
        figure.set_size_inches(width, height + 0.3 * len(text.split("\n")))
        figure.suptitle(text)


def plot_map(
    image: PhotoLike,
    map: MapLike,
    *,
    title: str | None = None,
    label: str | None = None,
    signed: bool = False,
    how: str | None = None,
):
    """A picture, its map with a colour bar, and the map laid over the picture.

    map: [H, W] of the picture's size. label: what the map measures, with its unit ("|∂s/∂x|").
    signed: diverging colours around 0 (red above, blue below) instead of dark to bright.
    how: as in `normalise`; None chooses by the map's values. The colour bar says which was used.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    rgb, values = picture(image), _values(map)
    _same_size(values, rgb)
    require_choice(signed, "signed", (False, True))
    low, high, text = _limits(values, how, signed)
    colours = DIVERGING if signed else SEQUENTIAL
    with plt.rc_context(style()):
        text = _bar_text(label, text, WIDTH / 3 - 0.3)
        below = _below(len(text.split("\n")))
        figure, axes = _sheet(3, 3, rgb.shape[0] / rgb.shape[1], ("photo", "map", "both"), below)
        _show(axes[0], rgb)
        _show_map(axes[1], values, low, high, colours, text)
        _show(axes[2], overlay(rgb, values, colours=colours, limits=(low, high)))
        _headline(figure, title)
    return figure


def plot_maps(
    image: PhotoLike,
    maps: Mapping[str, MapLike],
    *,
    signed: bool = False,
    how: str | None = None,
    same_scale: bool = False,
    overlay: bool = False,
    columns: int | None = None,
    picture_name: str = "photo",
    title: str | None = None,
    label: str | None = None,
):
    """A picture, then several maps of it, each with its name and a colour bar.

    maps: {name: [H, W]}; of the picture's size where `overlay` is True. signed, how and label as in
    `plot_map`. same_scale: one scale for all maps, from their values together. overlay: lay each map over
    the picture. columns: None for up to 4 in rows of equal length.
    picture_name: what stands above the picture.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    blend = globals()["overlay"]
    rgb = picture(image)
    if not isinstance(maps, Mapping):
        raise TypeError(f"maps: expected a dict of name to map, got {describe(maps)}")
    if not maps:
        raise ValueError("maps: expected at least one map, got none")
    if not isinstance(picture_name, str):
        raise TypeError(f"picture_name: expected a string, got {describe(picture_name)}")
    for name, value in (("signed", signed), ("same_scale", same_scale), ("overlay", overlay)):
        require_choice(value, name, (False, True))
    arrays = {name: _values(m, f"maps[{name!r}]") for name, m in maps.items()}
    if overlay:
        for name, values in arrays.items():
            _same_size(values, rgb, f"maps[{name!r}]")
    colours = DIVERGING if signed else SEQUENTIAL
    if same_scale:
        low, high, text = _limits(np.concatenate([v.ravel() for v in arrays.values()]), how, signed)
        scales = dict.fromkeys(arrays, (low, high, f"one scale: {text}"))
    else:
        scales = {name: _limits(v, how, signed) for name, v in arrays.items()}
    with plt.rc_context(style()):
        count = len(arrays) + 1
        across = _across(count, columns, most=4)
        room = min(WIDTH / across, 3.4) - 0.2
        texts = {name: _bar_text(label, scales[name][2], room) for name in arrays}
        below = _below(max(len(t.split("\n")) for t in texts.values()))
        aspect = max(rgb.shape[0] / rgb.shape[1], *(v.shape[0] / v.shape[1] for v in arrays.values()))
        figure, axes = _sheet(count, across, aspect, (picture_name, *arrays), below)
        _show(axes[0], rgb)
        for ax, (name, values) in zip(axes[1:], arrays.items(), strict=True):
            low, high, _ = scales[name]
            _show_map(ax, values, low, high, colours, texts[name])
            if overlay:  # over the map, so that the colour bar still belongs to it
                _show(ax, blend(rgb, values, colours=colours, limits=(low, high)))
        _headline(figure, title)
    return figure


# ---------------------------------------------------------------------------------------- top-5


def plot_top(predictions: Sequence, *, image: PhotoLike | None = None, title: str | None = None):
    """What the network says: its top classes with the pre-softmax score and the probability, side by side.

    predictions: `Classifier.top(images)[0]`, the highest first. image: the picture to show beside them.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    rows = list(predictions) if isinstance(predictions, Sequence) else None
    if not rows or not all(hasattr(p, "category") and hasattr(p, "probability") for p in rows):
        raise TypeError(f"predictions: expected net.top(images)[0], got {describe(predictions)}")
    rgb = None if image is None else picture(image)
    with plt.rc_context(style()):
        height = max(2.4, 0.46 * len(rows) + 1.0)
        shares = [1.5, 1.5] if rgb is None else [1.25, 1.5, 1.5]
        figure, axes = plt.subplots(
            1, len(shares), figsize=(WIDTH, height), gridspec_kw={"width_ratios": shares}
        )
        if rgb is not None:
            axes[0].axis("off")
            _show(axes[0], rgb)
        names = [_wrapped(p.category, 1.7, style()["ytick.labelsize"]) for p in rows]
        scores, probabilities = [p.score for p in rows], [p.probability for p in rows]
        for ax, values, text, colour, form in (
            (axes[-2], scores, "score, before the softmax", COLOURS[0], "{:.2f}"),
            (axes[-1], probabilities, "probability, after the softmax", COLOURS[1], "{:.1f} %"),
        ):
            places = np.arange(len(rows))[::-1]
            ax.barh(places, values, color=colour, height=0.62)
            low, high = min(0.0, *values), max(0.0, *values)
            span = (high - low) or 1.0
            for place, value in zip(places, values, strict=True):
                side = -1 if value < 0 else 1
                ax.text(
                    value + side * 0.02 * span,
                    place,
                    form.format(value * (100 if values is probabilities else 1)),
                    va="center",
                    ha="right" if side < 0 else "left",
                )
            # room for the numbers beside the bars; probabilities keep their whole scale
            if values is probabilities:
                ax.set_xlim(0, 1.22)
                ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
            else:
                ax.set_xlim(low - (0.25 * span if low < 0 else 0), high + (0.25 * span if high > 0 else 0))
            ax.axvline(0, color="black", linewidth=0.8)
            ax.spines["left"].set_visible(False)
            ax.set_title(text)
            ax.set_yticks(places, names if ax is axes[-2] else [""] * len(rows))
            ax.tick_params(axis="y", length=0)
        _headline(figure, title)
    return figure


# ---------------------------------------------------------------------------------------- curves


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
):
    """Curves with their names at the right, in the order of their last values.

    curves: {name: (x, y)}, two sequences, arrays or tensors of one length each, finite. Up to 7 curves are
    told apart by colour and dash; short ones carry markers.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    if not isinstance(curves, Mapping):
        raise TypeError(f"curves: expected a dict of name to (x, y), got {describe(curves)}")
    if not 1 <= len(curves) <= len(COLOURS):
        raise ValueError(f"curves: expected 1 to {len(COLOURS)} curves, got {len(curves)}")
    drawn = {name: _curve(pair, name) for name, pair in curves.items()}
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(WIDTH * 0.72, WIDTH * 0.36))
        lines = {}
        for i, (name, (x, y)) in enumerate(drawn.items()):
            marker = MARKERS[i] if len(x) <= 25 else None
            (lines[name],) = ax.plot(x, y, color=COLOURS[i], linestyle=DASHES[i], marker=marker)
        if len(lines) > 1:
            ends = sorted(lines, key=lambda name: -drawn[name][1][-1])
            ax.legend(
                [lines[name] for name in ends], ends, loc="center left", bbox_to_anchor=(1.01, 0.5),
                handlelength=2.8,
            )  # fmt: skip
        else:
            ax.set_title(next(iter(lines)))
        ax.grid(True)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.tick_params(labelsize=style()["xtick.labelsize"])
        ax.margins(x=0.02)
        _headline(figure, title)
    return figure


def _curve(pair: object, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"curves[{name!r}]: expected (x, y), got {describe(pair)}")
    try:
        x, y = (
            np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=np.float64).reshape(-1)
            for v in pair
        )
    except (TypeError, ValueError):
        raise TypeError(f"curves[{name!r}]: expected numbers in x and y, got {describe(pair)}") from None
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"curves[{name!r}]: expected x and y of one length, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"curves[{name!r}]: expected finite values, got NaN or infinity")
    return x, y


# ---------------------------------------------------------------------------------------- boxes and masks


def plot_rectangles(
    image: PhotoLike,
    rectangles: Sequence[Sequence[float]] | Tensor,
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
):
    """Rectangles on a picture. rectangles: (top, left, bottom, right) in pixels, the last two exclusive.

    labels: one for each, written at its upper left corner.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    rgb = picture(image)
    if isinstance(rectangles, Tensor | np.ndarray):
        rectangles = rectangles.tolist()
    if not isinstance(rectangles, Sequence) or isinstance(rectangles, str):
        raise TypeError(f"rectangles: expected (top, left, bottom, right) each, got {describe(rectangles)}")
    boxes = []
    for i, corners in enumerate(rectangles):
        if not isinstance(corners, Sequence | np.ndarray | Tensor) or len(corners) != 4:
            raise ValueError(f"rectangles[{i}]: expected (top, left, bottom, right), got {describe(corners)}")
        top, left, bottom, right = (float(v) for v in corners)
        if not (top < bottom and left < right):
            raise ValueError(
                f"rectangles[{i}]: expected top < bottom and left < right, got {(top, left, bottom, right)}"
            )
        boxes.append((top, left, bottom, right))
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"labels: expected one for each of the {len(boxes)} rectangles, got {len(labels)}")
    with plt.rc_context(style()):
        figure, (ax,) = _sheet(1, 1, rgb.shape[0] / rgb.shape[1], largest=4.6)
        _show(ax, rgb)
        for i, (top, left, bottom, right) in enumerate(boxes):
            colour = COLOURS[i % len(COLOURS)] if len(boxes) > 1 else COLOURS[1]
            patch = Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top,
                fill=False, edgecolor=colour, linewidth=2.5, clip_on=False,
            )  # fmt: skip
            # a white rim keeps the line visible on any photo
            patch.set_path_effects([Stroke(linewidth=5, foreground="white"), Normal()])
            ax.add_patch(patch)
            if labels is not None and labels[i]:
                ax.text(
                    left - 0.5, top - 0.5, labels[i], va="bottom" if top > 20 else "top", clip_on=False,
                    bbox={"facecolor": colour, "edgecolor": "white", "pad": 2.5}, color=_ink_on(colour),
                )  # fmt: skip
        _headline(figure, title)
    return figure


def _ink_on(colour: str) -> str:
    """Black or white, whichever stands out more from the colour (WCAG 2's relative luminance)."""
    from matplotlib.colors import to_rgb

    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "white"


def plot_masks(image: PhotoLike, masks: Mapping[str, MapLike], *, title: str | None = None):
    """Outlines of masks on a picture, with their names. masks: {name: bool [H, W]} of the picture's size.

    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    rgb = picture(image)
    if not isinstance(masks, Mapping):
        raise TypeError(f"masks: expected a dict of name to mask, got {describe(masks)}")
    if not 1 <= len(masks) <= len(COLOURS):
        raise ValueError(f"masks: expected 1 to {len(COLOURS)} masks, got {len(masks)}")
    arrays = {name: _values(mask, f"masks[{name!r}]") for name, mask in masks.items()}
    for name, values in arrays.items():
        _same_size(values, rgb, f"masks[{name!r}]")
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"masks[{name!r}]: expected 0 or 1 everywhere, got other values")
    with plt.rc_context(style()):
        figure, (ax,) = _sheet(1, 1, rgb.shape[0] / rgb.shape[1], below=0.4, largest=4.6)
        _show(ax, rgb)
        keys = []
        for i, (name, values) in enumerate(arrays.items()):
            # a rim of zeros closes the outlines of masks that touch the border
            padded = np.pad(values, 1)
            rows, columns = (np.arange(-1, n + 1) for n in values.shape)
            if padded.any():
                ax.contour(columns, rows, padded, levels=[0.5], colors="white", linewidths=4.5)
                ax.contour(
                    columns, rows, padded, levels=[0.5], colors=COLOURS[i], linewidths=2.2,
                    linestyles=[DASHES[i]],
                )  # fmt: skip
            keys.append(Line2D([], [], color=COLOURS[i], linestyle=DASHES[i], linewidth=2.2, label=name))
        ax.set_xlim(-1.5, rgb.shape[1] + 0.5)
        ax.set_ylim(rgb.shape[0] + 0.5, -1.5)
        ax.legend(
            handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=min(3, len(keys)),
            handlelength=3,
        )  # fmt: skip
        _headline(figure, title)
    return figure
