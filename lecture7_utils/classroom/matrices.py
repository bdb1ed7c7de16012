"""Matrices as figures: every entry a coloured cell with its number in it."""

from collections.abc import Mapping, Sequence

import numpy as np

from lecture7_utils.classroom.lecture import WIDTH, style
from lecture7_utils.classroom.plots import DIVERGING, MapLike, _values, _wrapped, palette
from lecture7_utils.kernels.arguments import describe, require_choice, require_int

Labels = tuple[Sequence[str], Sequence[str]]  # of the rows and of the columns

_WIDEST, _HEIGHT = 0.048, 0.029  # inches for each point of the font: a cell's width at most, its height
_GAP = 0.35  # inches between panels


def plot_matrices(
    matrices: Mapping[str, MapLike],
    *,
    labels: Mapping[str, Labels] | None = None,
    columns: int = 2,
    same_scale: bool = False,
    title: str | None = None,
):
    """Matrices side by side, each entry a cell with its number: red above 0, blue below, white at 0.

    matrices: {name: [rows, columns]}, finite numbers in any units. same_scale: one scale of colours for all,
    from their values together, instead of one for each.
    labels: for some of the names (row labels, column labels), one for each row and each column.
    columns: how many stand in a row. Where a cell is too narrow for its number there is only its colour.
    Returns the figure.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    if not isinstance(matrices, Mapping):
        raise TypeError(f"matrices: expected a dict of name to matrix, got {describe(matrices)}")
    if not matrices:
        raise ValueError("matrices: expected at least one matrix, got none")
    arrays = {name: _values(m, f"matrices[{name!r}]") for name, m in matrices.items()}
    labels = _checked_labels(labels, arrays)
    require_choice(same_scale, "same_scale", (False, True))
    across = min(require_int(columns, "columns", 1), len(arrays))
    names = list(arrays)
    rows = [names[i : i + across] for i in range(0, len(names), across)]
    largest = {name: float(np.abs(a).max()) for name, a in arrays.items()}
    if same_scale:
        largest = dict.fromkeys(largest, max(largest.values()))
    with plt.rc_context(style() | {"figure.constrained_layout.use": False}):
        points = style()["xtick.labelsize"]
        letter = 0.6 * points / 72
        texts = {name: [[entry_text(v) for v in row] for row in a] for name, a in arrays.items()}
        left = {
            name: letter * max(map(len, labels[name][0])) + 0.1 if name in labels else 0.0 for name in names
        }
        cell = min(
            _WIDEST * points,
            *(
                (WIDTH - sum(left[n] for n in row) - _GAP * (len(row) - 1) - 0.1)
                / sum(arrays[n].shape[1] for n in row)
                for row in rows
            ),
        )
        longest = max(len(t) for grid in texts.values() for row in grid for t in row)
        readable = cell >= letter * longest + 0.04
        height = _HEIGHT * points if readable else cell
        line = style()["axes.titlesize"] * 1.7 / 72
        above = {
            name: line * len(_title(name, arrays[name].shape[1] * cell + left[name]).split("\n"))
            + (points * 1.5 / 72 if name in labels else 0.0)
            for name in names
        }
        # the grids of one row begin at one height
        heads = [max(above[n] for n in row) for row in rows]
        tall = [h + max(len(arrays[n]) for n in row) * height for h, row in zip(heads, rows, strict=True)]
        top = 0.36 if title else 0.0
        total = top + sum(tall) + 0.2 * (len(rows) - 1) + 0.08
        wide = max(
            sum(left[n] + arrays[n].shape[1] * cell for n in row) + _GAP * (len(row) - 1) for row in rows
        )
        headline = _wrapped(title, WIDTH, style()["figure.titlesize"]) if title else ""
        wide = max(wide + 0.1, min(WIDTH, 0.115 * max(map(len, headline.split("\n")))))
        figure = plt.figure(figsize=(wide, total))
        y = top
        for row, head, room in zip(rows, heads, tall, strict=True):
            x = 0.05
            for name in row:
                a = arrays[name]
                size = (a.shape[1] * cell, a.shape[0] * height)
                bottom = 1 - (y + head + size[1]) / total
                ax = figure.add_axes(((x + left[name]) / wide, bottom, size[0] / wide, size[1] / total))
                _draw(ax, a, texts[name] if readable else None, largest[name], labels.get(name), points)
                figure.text(
                    x / wide, 1 - (y + 0.02) / total, _title(name, size[0] + left[name]),
                    size=style()["axes.titlesize"], va="top",
                )  # fmt: skip
                x += left[name] + size[0] + _GAP
            y += room + 0.2
        if title:
            figure.suptitle(headline, x=0.5, y=1 - 0.03 / total, va="top")
    return figure


def _title(name: str, inches: float) -> str:
    return _wrapped(name, max(inches, 1.6), style()["axes.titlesize"])


def _draw(ax, a, texts, largest: float, labels: Labels | None, points: float) -> None:
    rows, columns = a.shape
    ax.imshow(entry_colours(a, largest), extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
    if texts is not None:
        for i, row in enumerate(texts):
            for j, text in enumerate(row):
                colour = "#707070" if a[i, j] == 0 else "black"
                ax.text(j + 0.5, i + 0.53, text, ha="center", va="center", size=points, color=colour)
        for edge in range(1, columns):
            ax.axvline(edge, color="#d5d5d5", linewidth=0.6)
        for edge in range(1, rows):
            ax.axhline(edge, color="#d5d5d5", linewidth=0.6)
    ax.tick_params(length=0, pad=2, labeltop=True, labelbottom=False, labelsize=points)
    ax.set_xticks([], [])
    ax.set_yticks([], [])
    if labels is not None:
        ax.set_yticks(np.arange(rows) + 0.5, labels[0])
        if texts is not None:
            ax.set_xticks(np.arange(columns) + 0.5, labels[1])
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color("#888888")


def _checked_labels(labels: object, arrays: Mapping[str, np.ndarray]) -> dict[str, Labels]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels: expected a dict of name to (rows, columns), got {describe(labels)}")
    found = {}
    for name, pair in labels.items():
        if name not in arrays:
            raise ValueError(f"labels: expected names of matrices, {', '.join(arrays)}, got {name!r}")
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise TypeError(f"labels[{name!r}]: expected (row labels, column labels), got {describe(pair)}")
        lengths = tuple(len(part) for part in pair)
        if lengths != arrays[name].shape:
            raise ValueError(
                f"labels[{name!r}]: expected as many as rows and columns, {list(arrays[name].shape)}, "
                f"got {list(lengths)}"
            )
        found[name] = tuple([str(v) for v in part] for part in pair)
    return found


def entry_text(value: float) -> str:
    """A number as short as it can be read: −1, 0.5, 0.25, 12."""
    text = f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else "0"


def entry_colours(values: np.ndarray, largest: float) -> np.ndarray:
    """Pale diverging colours uint8 [rows, columns, 3], on which black numbers can be read."""
    share = np.asarray(values, dtype=np.float64) / (2 * largest if largest > 0 else 1.0)
    return palette(DIVERGING)[((share + 1) / 2 * 255).round().astype(int).clip(0, 255)]
