"""Traces back to the pixels as pictures, and the sheet of Zeiler and Fergus: each trace under its crop."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.lecture import WIDTH, style
from lecture7_utils.classroom.plots import _interpolation, _wrapped
from lecture7_utils.classroom.sheets import LARGEST, _above, _checked, cut_out, value_text
from lecture7_utils.kernels.arguments import describe, require_number
from lecture7_utils.kernels.ranking import Hit

QUANTILE = 0.995  # of the values that are not 0: it becomes the brightest
_LABEL, _GAP = 1.35, 0.08  # inches: of a row's label, between pictures


def trace_picture(trace: Tensor, limit: float | None = None) -> np.ndarray:
    """A signed trace as a picture: 0 is mid-grey, its red, green and blue are above or below it.

    trace: float [3, H, W] or [1, 3, H, W], as `deconvnet` gives it, finite. limit: the absolute value that
    becomes the brightest and the darkest; None takes the 99.5 % quantile of the absolute values that are
    not 0. What is beyond is clipped. A trace that is 0 everywhere is grey.
    Returns uint8 [H, W, 3]. Raises `TypeError` or `ValueError` naming the argument, what was expected and
    what came.
    """
    values = _trace(trace, "trace")
    if limit is None:
        limit = limit_of(values)
    elif require_number(limit, "limit") <= 0:
        raise ValueError(f"limit: expected a number above 0, got {limit!r}")
    share = np.zeros_like(values) if limit == 0 else (values / limit).clip(-1, 1)
    return (128 + 127 * share).round().astype(np.uint8)


def limit_of(values: np.ndarray) -> float:
    """The absolute value that becomes the brightest; 0 if all are 0."""
    there = np.abs(values[values != 0])
    return float(np.quantile(there, QUANTILE)) if there.size else 0.0


def plot_traces(
    rows: Mapping[str, Sequence[Hit]],
    data: object,
    traces: Mapping[str, Tensor],
    *,
    show: Callable | None = None,
    title: str | None = None,
):
    """A sheet as figure 2 of Zeiler and Fergus: the crops that excite a channel, under each its trace.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv 1311.2901).
    rows, data and show: as in `plot_hits`. traces: for each name of `rows` its k traces [k, 3, H, W], in the
    order of the hits and of the pictures' size; cut to the same receptive field as the crop above, each shown
    as `trace_picture` does.
    Returns the figure.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    import matplotlib.pyplot as plt

    found = _checked(rows)
    if not isinstance(traces, Mapping):
        raise TypeError(f"traces: expected a dict of name to traces, got {describe(traces)}")
    if {str(name) for name in traces} != set(found):
        raise ValueError(
            f"traces: expected the names of rows, {', '.join(map(repr, found))}, "
            f"got {', '.join(map(repr, traces)) or 'none'}"
        )
    given = {str(name): value for name, value in traces.items()}
    pairs = {name: _pairs(name, hits, data, show, given[name]) for name, hits in found.items()}
    across = max(1, *map(len, pairs.values()))
    cell = min(LARGEST, (WIDTH - _LABEL) / across - _GAP)
    with plt.rc_context(style() | {"figure.constrained_layout.use": False}):
        points = style()["font.size"]
        above = points * 1.5 / 72  # for the value over each crop
        most = {name: max((max(c.shape[:2]) for c, _ in p), default=1) for name, p in pairs.items()}
        tall = {
            name: max((c.shape[0] for c, _ in p), default=1) * cell / most[name] for name, p in pairs.items()
        }
        width = _LABEL + across * (cell + _GAP)
        height = sum(above + 2 * t + 0.4 * _GAP + 2 * _GAP for t in tall.values())
        figure = plt.figure(figsize=(width, height))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.axis("off")
        y = 0.0
        for name, parts in pairs.items():
            y += above
            middle = y + tall[name] + 0.2 * _GAP
            ax.text(0.05, middle, _wrapped(name, 0.85 * _LABEL, points), va="center", size=points)
            for i, (pictures, hit) in enumerate(zip(parts, found[name], strict=True)):
                h, w = (n * cell / most[name] for n in pictures[0].shape[:2])
                x = _LABEL + i * (cell + _GAP) + (cell - w) / 2
                for k, rgb in enumerate(pictures):
                    top = y + k * (tall[name] + 0.4 * _GAP) + (tall[name] - h) / 2
                    extent = (x, x + w, top + h, top)
                    ax.imshow(rgb, extent=extent, interpolation=_interpolation(rgb), aspect="auto")
                over = y + (tall[name] - h) / 2 - 0.03
                ax.text(x + w / 2, over, value_text(hit.value), ha="center", va="bottom", size=points)
            y += 2 * tall[name] + 0.4 * _GAP + 2 * _GAP
        ax.set_xlim(0, width)
        ax.set_ylim(height, 0)
        ax.set_aspect("auto")
        if title:
            _above(figure, ax, title)
    return figure


def _pairs(
    name: str, hits: Sequence[Hit], data: object, show: Callable | None, traces: object
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each hit its crop and its trace, cut to the same rectangle."""
    what = f"traces[{name!r}]"
    if not isinstance(traces, Tensor) or traces.ndim != 4 or len(traces) != len(hits):
        raise ValueError(
            f"{what}: expected a float tensor [{len(hits)}, 3, H, W], one for each hit, "
            f"got {describe(traces)}"
        )
    pairs = []
    for hit, trace in zip(hits, traces, strict=True):
        crop, _ = cut_out(hit, data, show, whole=False)
        height, width = _trace(trace, what).shape[:2]
        top, left, bottom, right = hit.rectangle
        if bottom > height or right > width:
            raise ValueError(
                f"{what}: expected traces of the pictures' size, at least {bottom} × {right}, "
                f"got {height} × {width}"
            )
        if bottom > top and right > left:
            trace = trace[:, top:bottom, left:right]  # its scale is that of the cut-out alone
        pairs.append((crop, trace_picture(trace)))
    return pairs


def _trace(trace: object, name: str) -> np.ndarray:
    """A trace as finite float64 [H, W, 3]."""
    expected = f"{name}: expected a float tensor [3, H, W], got {describe(trace)}"
    if not isinstance(trace, Tensor) or not trace.is_floating_point():
        raise TypeError(expected)
    if trace.ndim == 4 and len(trace) == 1:
        trace = trace[0]
    if trace.ndim != 3 or trace.shape[0] != 3 or 0 in trace.shape:
        raise ValueError(expected)
    if not torch.isfinite(trace).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return trace.detach().cpu().double().permute(1, 2, 0).numpy()
