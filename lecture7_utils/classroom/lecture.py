"""The start of every lesson: seeds, figure style, device, one line that says what runs; lecture mode."""

import ctypes
import os
import platform
import random

import numpy as np
import torch
from cycler import cycler

from lecture7_utils.shop.models import pick_device

# Okabe and Ito's colours without the yellow, which is too pale for lines on white; each with its own dash and
# marker, so that a curve is told by more than its colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH = 10.2  # inches: at 96 dots an inch just under 1,000 pixels, the width of a cell in JupyterLab

_lecture = False

# What lecture mode changes in JupyterLab's page. Sizes through JupyterLab's own variables where it has one;
# the cell with the number 1 is the set-up cell, which every lesson has there.
_PROJECTOR = """<style class="l7-lecture">
.jp-Notebook { --jp-content-font-size1: 19px; --jp-code-font-size: 18px; }
.jp-Notebook .jp-OutputArea-output pre { font-size: 18px; word-break: normal; overflow-wrap: anywhere; }
.jp-Notebook .jp-Cell .cm-content {
  white-space: break-spaces; overflow-wrap: anywhere; min-width: 0; flex-shrink: 1;
}
.jp-Notebook .jp-Cell .cm-line { padding-left: calc(6px + 6ch); text-indent: -6ch; }
.jp-Notebook .l7-explorer { zoom: 1.35; }
.jp-Notebook .jp-InputPrompt, .jp-Notebook .jp-OutputPrompt, .jp-Notebook .jp-Placeholder-prompt,
.jp-Notebook .alone, .jp-Notebook .jp-MarkdownCell:has(.l7-notes),
.jp-Notebook .jp-CodeCell[data-windowed-list-index="1"],
.jp-Notebook .jp-CodeCell:has(> .jp-Cell-inputWrapper > .jp-InputPlaceholder),
.jp-Notebook .jp-CodeCell:has(style.l7-lecture) { display: none; }
</style>"""
_page = None  # the output that holds it, in the notebook where lecture mode was switched on


def style() -> dict[str, object]:
    """The course's matplotlib settings as they are now: for reading on a page, or for a projector.

    Returns a new dict for `matplotlib.rc_context`. Sizes are in points; the smallest font is 10 pt.
    """
    larger = 1.25 if _lecture else 1.0
    return {
        "figure.dpi": 144 if _lecture else 96,
        "figure.figsize": (WIDTH * 0.6, WIDTH * 0.36),
        "figure.facecolor": "white",  # a dark theme must not swallow black text
        "figure.titlesize": 13 * larger,
        "figure.titleweight": "bold",
        "figure.constrained_layout.use": True,
        "savefig.facecolor": "white",
        "savefig.dpi": "figure",
        "font.size": 11 * larger,
        "axes.titlesize": 11.5 * larger,
        "axes.labelsize": 11 * larger,
        "axes.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES),
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.8,
        "xtick.labelsize": 10 * larger,
        "ytick.labelsize": 10 * larger,
        "legend.fontsize": 10.5 * larger,
        "legend.frameon": False,
        "lines.linewidth": 2.0 * larger,
        "lines.markersize": 5 * larger,
        "image.cmap": "viridis",
    }


def start(seed: int = 0, device: str | torch.device = "auto") -> torch.device:
    """Begin a lesson: seed every generator, set the figures' style, pick the device, print one line.

    seed: for Python's, numpy's and torch's global generators, 0 to 2**32 - 1.
    device: "auto" takes the GPU where there is one.
    Returns the device. Calling it again does the same again and nothing more. In a notebook, figures with
    photos are from now on sent as JPEG and the others as PNG, which keeps the notebook's file small. On Linux
    the process keeps memory that it has freed, a gigabyte or two: large tensors come and go in each pass.
    Raises `TypeError` or `ValueError` for a seed or a device of another form, before anything is changed.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, got {seed!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected between 0 and {2**32 - 1}, got {seed}")
    chosen = pick_device(device)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (a lesson's own cells may use the global generator)
    torch.manual_seed(seed)
    _keep_memory()
    _small_pictures()
    _apply_style()
    print(_report(chosen))
    return chosen


def lecture_mode(on: bool = True) -> None:
    """Sizes for a projector, and prompts and helper cells out of the way; False goes back.

    Figures made afterwards get larger fonts, thicker lines and half as many pixels again. In JupyterLab the
    text, code and explorers on the page grow too, a line of code that is too long goes on below, and what
    nobody in a room needs is no longer shown: the prompts, the set-up cell, the lecturer's notes, the folded
    solutions and the cell that calls this. They are there all the same: run all cells as before. In Colab,
    whose outputs can't reach the page, only the figures change.
    Raises `TypeError` if `on` is no bool.
    """
    if not isinstance(on, bool):
        raise TypeError(f"on: expected True or False, got {on!r}")
    global _lecture
    _lecture = on
    _apply_style()
    _change_page(on)


def _change_page(on: bool) -> None:
    """Put the projector's style sheet into the page, once; or take it out of the output that holds it."""
    global _page
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        return
    if not hasattr(get_ipython(), "kernel"):  # a terminal would print the object
        return
    if _page is not None:
        _page.update(HTML(""))
        _page = None
    if on:
        _page = display(HTML(_PROJECTOR), display_id=True)


def _apply_style() -> None:
    import matplotlib.pyplot as plt

    plt.rcParams.update(style())


def _keep_memory() -> None:
    """Have malloc keep what is freed. By default glibc gives blocks beyond 32 MiB back to the system at once,
    and each pass spends up to a third of its time on getting the same pages again."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # mallopt's numbers for them, malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 1 << 30)
    libc.mallopt(mmap_max, 0)  # no block has pages of its own, which would go back with it


def _report(device: torch.device) -> str:
    from importlib.metadata import PackageNotFoundError, version

    from lecture7_utils import __version__

    try:
        torchvision = version("torchvision")
    except PackageNotFoundError:
        torchvision = "missing"
    if device.type == "cuda":
        where = f"{device} ({torch.cuda.get_device_name(device)})"
    else:
        where = f"{device} ({os.cpu_count()} cores)" if device.type == "cpu" else str(device)
    return (
        f"lecture7_utils {__version__} · Python {platform.python_version()} · torch {torch.__version__} · "
        f"torchvision {torchvision} · device {where}"
    )


def _small_pictures() -> None:
    """In a notebook, send figures with photos as JPEG: as PNG a row of four photos weighs 0.4 MB."""
    try:
        from IPython import get_ipython
        from IPython.core.pylabtools import print_figure
    except ImportError:
        return
    shell = get_ipython()
    if shell is None or not hasattr(shell, "display_formatter"):
        return
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    if "inline" not in plt.get_backend().lower():
        return
    try:
        import matplotlib_inline.backend_inline  # noqa: F401 (loaded now, as it sets its own formatters)
    except ImportError:
        return

    def photographic(figure: Figure) -> bool:
        return any(axes.images for axes in figure.axes)

    def as_png(figure: Figure):
        return None if photographic(figure) else print_figure(figure, "png")

    def as_jpeg(figure: Figure):
        if not photographic(figure):
            return None
        return print_figure(figure, "jpeg", pil_kwargs={"quality": 82, "subsampling": 1, "optimize": True})

    def register(*_):
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, as_png)
        formatters["image/jpeg"].for_type(Figure, as_jpeg)

    def register_again(*_):
        shell.events.unregister("post_run_cell", register_again)
        register()

    register()
    # older backends set their formatters only after the cell that loads them
    shell.events.register("post_run_cell", register_again)
