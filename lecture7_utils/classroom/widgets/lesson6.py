"""The explorer of lesson 6: a convolution as a matrix."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lecture7_utils.classroom.matrices import entry_colours, entry_text
from lecture7_utils.classroom.widgets.pieces import WIDE, Explorer, as_jpeg, font_of, paragraph, percent
from lecture7_utils.kernels.arguments import describe, require_int, require_number
from lecture7_utils.kernels.deconv import convolution_matrix

FILTERS = {
    "edge: −1, 0, 0, 1": (-1, 0, 0, 1),
    "as printed: −1, 0, 0, 0, 1": (-1, 0, 0, 0, 1),
    "1, 2, 3, 4": (1, 2, 3, 4),
    "mean of two: ½, ½": (0.5, 0.5),
    "smooth: ¼, ½, ¼": (0.25, 0.5, 0.25),
}
VIEWS = ("W", "W Wᵀ", "Wᵀ W")
MOST_STRIDE, MOST_PADDING = 4, 3
CELL = (60, 36)  # pixels that an entry is wide and high
MARGIN = (48, 60)  # for the labels at the left, for title and labels above


def explore_convolution(filters: Mapping[str, Sequence[float]] | None = None, size: int = 8) -> Explorer:
    """Lesson 6: a 1-D convolution as a matrix W, every entry readable, and what Wᵀ makes of y = W x.

    filters: {name: numbers}, 1 to `size` of them, one at least not 0; None for those of the lesson.
    size: of x without its padding, 2 to 10.
    Choose filter, stride and padding, and which of W, W Wᵀ and Wᵀ W is drawn. As in the lecture's notes W
    acts on x with its padding: grey columns meet a zero, and columns that no row reads are crossed out.
    Below: both formulas of n_y, whether the rows are orthogonal, and x = (1, 2, 3 …) there and back.
    controls: "filter", "stride", "padding", "matrix", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_int(size, "size", 2, 10)
    kept = _checked(FILTERS if filters is None else filters, size)
    controls = {
        "filter": widgets.Dropdown(options=list(kept), description="filter", style=WIDE),
        "stride": widgets.IntSlider(value=2, min=1, max=MOST_STRIDE, description="stride s", style=WIDE),
        "padding": widgets.IntSlider(
            value=2, min=0, max=MOST_PADDING, description="padding at each end", style=WIDE
        ),
        "matrix": widgets.Dropdown(options=list(VIEWS), description="matrix", style=WIDE),
    }
    for control in controls.values():
        control.layout.width = "100%"

    # all pictures are as wide as the widest: the page stretches narrow ones
    wide = MARGIN[0] + CELL[0] * (size + 2 * MOST_PADDING) + 2

    def draw() -> tuple[bytes, str]:
        name, stride, padding, view = (controls[n].value for n in ("filter", "stride", "padding", "matrix"))
        w = kept[name]
        matrix = convolution_matrix(w, size, stride, padding, keep_padding=True)
        x_names = ["0"] * padding + [f"x{_low(i + 1)}" for i in range(size)] + ["0"] * padding
        y_names = [f"y{_low(i + 1)}" for i in range(len(matrix))]
        in_padding = np.array([text == "0" for text in x_names])
        if view == "W":
            never = np.array([not _is_read(j, len(w), stride, len(matrix)) for j in range(len(x_names))])
            title = f"W: {matrix.shape[0]} × {matrix.shape[1]}, y = W x"
            sheet = _picture(title, matrix, y_names, x_names, in_padding, never)
        elif view == "W Wᵀ":
            product = matrix @ matrix.T
            title = "W Wᵀ: each row of W times each other"
            sheet = _picture(title, product, y_names, y_names)
        else:
            product = matrix.T @ matrix
            title = "Wᵀ W: what becomes of x, there and back"
            sheet = _picture(title, product, x_names, x_names, in_padding)
        page = Image.new("RGB", (wide, sheet.height), "white")
        page.paste(sheet, (0, 0))
        return as_jpeg(page), paragraph(*_lines(matrix, w, size, stride, padding))

    return Explorer(controls, draw)


def _checked(filters: object, size: int) -> dict[str, Tensor]:
    if not isinstance(filters, Mapping):
        raise TypeError(f"filters: expected a dict of name to numbers, got {describe(filters)}")
    if not filters:
        raise ValueError("filters: expected at least one, got none")
    found = {}
    for name, numbers in filters.items():
        what = f"filters[{name!r}]"
        if isinstance(numbers, Tensor | np.ndarray):
            numbers = numbers.tolist()
        if not isinstance(numbers, Sequence) or isinstance(numbers, str):
            raise TypeError(f"{what}: expected a sequence of numbers, got {describe(numbers)}")
        if not 1 <= len(numbers) <= size:
            raise ValueError(f"{what}: expected 1 to {size} numbers, as x has {size}, got {len(numbers)}")
        values = [require_number(v, what) for v in numbers]
        if not any(values):
            raise ValueError(f"{what}: expected at least one number that is not 0, got only zeros")
        found[str(name)] = torch.tensor(values, dtype=torch.float64)
    return found


def _is_read(j: int, f: int, stride: int, rows: int) -> bool:
    """Whether some window lies over entry j of the padded x, whatever the weight there."""
    return any(stride * i <= j < stride * i + f for i in range(rows))


def _lines(matrix: Tensor, w: Tensor, size: int, stride: int, padding: int) -> list[str]:
    n, f = size + 2 * padding, len(w)
    up, down = math.ceil((n - f) / stride) + 1, (n - f) // stride + 1
    steps = "(n<sub>x</sub> − f) / s"
    line = f"n<sub>x</sub> = {n} with padding, f = {f}, s = {stride}: the notes' ⌈{steps}⌉ + 1 = {up}, "
    line += f"PyTorch's ⌊{steps}⌋ + 1 = <b>{down}</b>"
    if up != down:
        unread = (n - f) % stride
        entries = "1 entry at the end is" if unread == 1 else f"{unread} entries at the end are"
        line += f"; {entries} read by no row"
    lines = [line]
    products = matrix @ matrix.T
    norm = products[0, 0].item()
    beside = products - torch.diag(products.diagonal())
    orthogonal = bool(beside.abs().max() < 1e-12)
    if orthogonal:
        lines.append(f"Rows are orthogonal: W Wᵀ = <b>{norm:.4g} I</b>; Wᵀ y is divided by it below.")
    else:
        worst = beside.flatten()[beside.abs().argmax()].item()
        lines.append(
            f"Rows are <b>not</b> orthogonal: two of them have the product {entry_text(worst)}. "
            "Wᵀ y is no reconstruction."
        )
    x = torch.zeros(n, dtype=torch.float64)
    x[padding : padding + size] = torch.arange(1, size + 1)
    y = matrix @ x
    back = matrix.T @ y / (norm if orthogonal else 1.0)
    name = f"Wᵀ y / {norm:.4g}" if orthogonal else "Wᵀ y"
    lines.append(f"x = {_vector(x)}")
    lines.append(f"y = W x = {_vector(y)}")
    lines.append(f"{name} = {_vector(back)}")
    if orthogonal:
        share = (back @ x / (x @ x)).item()
        lines.append(
            f"That is x projected onto W's rows: {percent(share)} of ‖x‖² is kept, the rest is lost."
        )
    else:
        distance = ((back - x).norm() / x.norm()).item()
        lines.append(f"Its distance from x is {distance:.2f} times the length of x.")
    return lines


def _vector(values: Tensor) -> str:
    return escape("(" + ", ".join(entry_text(v) for v in values.tolist()) + ")")


def _low(number: int) -> str:
    """1 → ₁."""
    return "".join(chr(0x2080 + int(digit)) for digit in str(number))


def _picture(
    title: str,
    matrix: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    grey: np.ndarray | None = None,
    crossed: np.ndarray | None = None,
) -> Image.Image:
    """The matrix as cells with numbers. grey, crossed: bool, one for each column."""
    values = matrix.numpy()
    width, height = CELL
    left, above = MARGIN
    font, small = font_of(18), font_of(17)
    across = max(left + width * len(columns), 2 + math.ceil(font.getlength(title)))
    sheet = Image.new("RGB", (across + 2, above + height * len(rows) + 2), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((2, 2), title, fill="black", font=font)
    colours = entry_colours(values, float(np.abs(values).max()))
    for j, name in enumerate(columns):
        x = left + width * j
        pen.text((x + width // 2, above - 16), name, fill="black", font=small, anchor="mm")
        for i in range(len(rows)):
            y = above + height * i
            colour = tuple(int(v) for v in colours[i, j])
            if grey is not None and grey[j]:
                colour = tuple(int(0.86 * v) for v in colour)
            pen.rectangle((x, y, x + width, y + height), fill=colour, outline=(200, 200, 200))
            text = entry_text(float(values[i, j]))
            ink = (140, 140, 140) if text == "0" else "black"
            pen.text((x + width // 2, y + height // 2), text, fill=ink, font=font, anchor="mm")
        if crossed is not None and crossed[j]:
            pen.line((x, above, x + width, above + height * len(rows)), fill=(120, 120, 120), width=2)
            pen.line((x + width, above, x, above + height * len(rows)), fill=(120, 120, 120), width=2)
    for i, name in enumerate(rows):
        pen.text((left - 8, above + height * i + height // 2), name, fill="black", font=small, anchor="rm")
    return sheet
