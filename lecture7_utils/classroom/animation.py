"""Pictures one after another, as a GIF: how an image grows while it is climbed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from lecture7_utils.classroom.lecture import style
from lecture7_utils.classroom.plots import picture
from lecture7_utils.kernels.arguments import describe, require_int, require_number
from lecture7_utils.shop.photos import PhotoLike

DPI = 100


def save_animation(
    frames: Sequence[PhotoLike] | Tensor,
    path: str | Path,
    *,
    titles: Sequence[str] | None = None,
    fps: float = 6,
    width: int = 240,
    hold: int = 6,
) -> Path:
    """Save pictures as an animated GIF, by matplotlib's own Pillow writer; it plays again and again.

    frames: pictures of one size, or a tensor [F, 3, H, W] in 0 to 1 (`Classifier.display` of the frames that
    `ascend` kept). path: a file that ends in .gif, in a folder that exists; a file of that name is replaced.
    titles: one for each frame, written above it. fps: frames a second, above 0 to 50. width: of the picture,
    in pixels, 32 to 1024. hold: how many frames the last picture stays on.
    Returns the path. Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    from matplotlib import rc_context
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _pictures(frames)
    path = _gif(path)
    if titles is not None and len(titles) != len(shown):
        raise ValueError(f"titles: expected one for each of the {len(shown)} frames, got {len(titles)}")
    require_number(fps, "fps", 0, 50)
    if fps == 0:
        raise ValueError("fps: expected above 0, got 0")
    require_int(width, "width", 32, 1024)
    require_int(hold, "hold", 1)

    height = round(width * shown[0].shape[0] / shown[0].shape[1])
    above = 0 if titles is None else 28
    with rc_context({**style(), "figure.constrained_layout.use": False}):
        figure = Figure(figsize=(width / DPI, (height + above) / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, height / (height + above)))
        axes.axis("off")
        drawn = axes.imshow(shown[0], aspect="auto")
        title = figure.text(0.5, 1 - above / 2 / (height + above), "", ha="center", va="center")

        def draw(i: int):
            drawn.set_data(shown[i])
            if titles is not None:
                title.set_text(str(titles[i]))
            return drawn, title

        order = [*range(len(shown)), *[len(shown) - 1] * (hold - 1)]
        FuncAnimation(figure, draw, frames=order).save(path, writer=PillowWriter(fps=fps), dpi=DPI)
    return path


def _pictures(frames: object) -> list[np.ndarray]:
    if isinstance(frames, str | bytes) or not isinstance(frames, Sequence | Tensor | np.ndarray):
        raise TypeError(f"frames: expected a sequence of pictures, got {describe(frames)}")
    if isinstance(frames, Tensor | np.ndarray) and frames.ndim != 4:
        raise ValueError(f"frames: expected [F, 3, H, W] or a list of pictures, got {describe(frames)}")
    if len(frames) == 0:
        raise ValueError("frames: expected at least one picture, got none")
    shown = [picture(frame, f"frames[{i}]") for i, frame in enumerate(frames)]
    odd = next((i for i, pixels in enumerate(shown) if pixels.shape != shown[0].shape), None)
    if odd is not None:
        sizes = [" × ".join(map(str, shown[i].shape[:2])) for i in (0, odd)]
        raise ValueError(f"frames: expected pictures of one size, got {sizes[0]} and {sizes[1]}")
    return shown


def _gif(path: object) -> Path:
    if not isinstance(path, str | Path):
        raise TypeError(f"path: expected the name of a .gif file, got {describe(path)}")
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path: expected a name that ends in .gif, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"path: expected a folder that exists, got {str(path.parent)!r}")
    return path
