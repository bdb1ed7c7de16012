"""A contact sheet as a tensor: what was found, cut out of its pictures, in rows of cells of one size."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lecture7_utils.kernels.arguments import describe

_GAP = 2  # pixels between cells
_PAPER = 255  # white

Rectangle = tuple[int, int, int, int]


def contact_sheet(
    rows: Sequence[Sequence[tuple[int, Rectangle]]], data: object, cell: int, show: Callable | None
) -> Tensor:
    """The rectangles cut out of the pictures `data[number]`: uint8 [3, H, W], a row of cells for each of
    `rows`, which hold (number, rectangle).

    A cut is scaled, its sides' ratio kept, until its longer side fills the cell; the rest of the cell and the
    gaps are white. Raises `TypeError` or `ValueError` naming `data` for what is no picture.
    """
    across, step = max(map(len, rows), default=0), cell + _GAP
    sheet = torch.full((3, len(rows) * step - _GAP, across * step - _GAP), _PAPER, dtype=torch.uint8)
    for i, row in enumerate(rows):
        for j, (number, rectangle) in enumerate(row):
            cut = _scaled(_cut(_pixels(data[number], number, show), rectangle, number), cell)
            top = i * step + (cell - cut.shape[1]) // 2
            left = j * step + (cell - cut.shape[2]) // 2
            sheet[:, top : top + cut.shape[1], left : left + cut.shape[2]] = cut
    return sheet


def _pixels(item: object, number: int, show: Callable | None) -> Tensor:
    """An item's picture, uint8 [3, h, w]."""
    if show is not None:
        item = show(item)
    elif isinstance(item, tuple | list) and item:
        item = item[0]
    item = getattr(item, "image", item)
    expected = f"data: expected a picture for image {number}"
    if isinstance(item, Tensor):
        pixels = item.detach().cpu()
        pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
        if pixels.ndim != 3 or len(pixels) != 3 or 0 in pixels.shape:
            raise ValueError(f"{expected}, [3, h, w], got {describe(item)}")
        if pixels.is_floating_point():
            if not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
                raise ValueError(
                    f"{expected} with values in 0 to 1, got {pixels.min():.3g} to {pixels.max():.3g}; "
                    "show=lambda item: net.display(item[None])[0] turns a network's images back"
                )
            return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        if pixels.dtype == torch.uint8:
            return pixels
        raise TypeError(f"{expected} in floats or uint8, got {describe(item)}")
    if hasattr(item, "convert"):  # a PIL image, grey and CMYK ones too
        item = item.convert("RGB")
    elif not isinstance(item, np.ndarray):
        raise TypeError(f"{expected}, got {describe(item)}")
    array = np.array(item)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{expected}, uint8 [h, w, 3], got {describe(array)}")
    return torch.from_numpy(array).permute(2, 0, 1)


def _cut(pixels: Tensor, rectangle: Rectangle, number: int) -> Tensor:
    top, left, bottom, right = rectangle
    height, width = pixels.shape[1:]
    if bottom > height or right > width:
        raise ValueError(
            f"data: expected the pictures that the search saw, of at least {bottom} × {right} for image "
            f"{number}, got {height} × {width}"
        )
    # a unit that sees nothing of the image has an empty field
    return (
        pixels[:, top:bottom, left:right] if bottom > top and right > left else pixels[:, :1, :1] * 0 + _PAPER
    )


def _scaled(cut: Tensor, cell: int) -> Tensor:
    longer = max(cut.shape[1:])
    size = [max(1, round(n * cell / longer)) for n in cut.shape[1:]]
    floats = cut[None].float()
    if longer < cell:  # single pixels stay visible
        grown = F.interpolate(floats, size, mode="nearest-exact")
    else:
        grown = F.interpolate(floats, size, mode="bilinear", align_corners=False, antialias=True)
    return grown[0].round().clamp(0, 255).to(torch.uint8)
