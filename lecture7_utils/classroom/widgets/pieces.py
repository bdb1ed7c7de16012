"""What all explorers are made of: the `Explorer` itself, pictures, tables, progress."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lecture7_utils.classroom.plots import palette, picture
from lecture7_utils.kernels.arguments import describe
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.targets import class_scores
from lecture7_utils.shop.models import Classifier, Prediction
from lecture7_utils.shop.photos import Photo, PhotoLike
from lecture7_utils.shop.photos import photo as as_photo

PANEL = 384  # pixels that a picture in an explorer is wide


WIDE = {"description_width": "150px"}


class Explorer(widgets.VBox):
    """Controls above, a picture and a readout below; made by the `explore_...` functions.

    controls: {name: widget}, "reset" among them. failures: what callbacks raised, the latest last.
    draw: gives the picture's bytes and the readout's HTML for the controls' present values.
    follow: told the name of a control that changed, to bring others in line before the redraw.
    """

    def __init__(
        self,
        controls: Mapping[str, widgets.Widget],
        draw: Callable[[], tuple[bytes, str]],
        *,
        follow: Callable[[str], None] = lambda name: None,
        below: Sequence[widgets.Widget] = (),
        beside: bool = False,
    ):
        reset = widgets.Button(description="Reset", icon="undo", layout={"width": "150px"})
        self.controls = {**controls, "reset": reset}
        self.failures: list[Exception] = []
        # a picture is shrunk on a narrow page, never cut
        self.picture = widgets.Image(format="jpeg", layout={"max_width": "100%", "object_fit": "contain"})
        self.readout = widgets.HTML()
        self.problem = widgets.HTML()
        for widget, name in ((self.picture, "picture"), (self.readout, "readout"), (self.problem, "problem")):
            widget.add_class(f"l7-{name}")
        self._draw, self._follow, self._held = draw, follow, False
        self._first = {n: c.value for n, c in controls.items() if not isinstance(c, widgets.Button)}
        self._draw_now()
        for name in self._first:
            controls[name].observe(lambda change, name=name: self._changed(name), "value")
        reset.on_click(lambda _: self.guarded(self._reset))

        buttons = [c for c in self.controls.values() if isinstance(c, widgets.Button)]
        rows = [controls[name] for name in self._first]
        shown = [self.picture, self.readout]
        if beside:
            shown = [widgets.HBox(shown, layout={"flex_flow": "row wrap", "align_items": "center"})]
        super().__init__([*rows, widgets.HBox([*buttons, *below]), self.problem, *shown])
        self.layout.max_width = f"{2 * PANEL + 60}px"
        self.add_class("l7-explorer")

    def redraw(self) -> None:
        """Draw again for the controls' present values."""
        self.guarded(self._draw_now)

    def guarded(self, work: Callable[[], None]) -> None:
        """Do `work`; what it raises is shown under the controls, kept, and raised again."""
        try:
            work()
        except Exception as error:
            self.failures.append(error)
            self.problem.value = message_html(f"{type(error).__name__}: {error}", wrong=True)
            raise
        self.problem.value = ""

    def on_press(self, name: str, work: Callable[[], None]) -> None:
        """Let the button `name` do `work` and redraw; it can't be pressed again meanwhile."""
        button = self.controls[name]

        def pressed(_button) -> None:
            button.disabled = True
            try:
                self.guarded(work)
            except KeyboardInterrupt:
                self.problem.value = message_html(
                    "Interrupted. What was drawn stays; press again to begin anew."
                )
                return
            finally:
                button.disabled = False
            self.redraw()

        button.on_click(pressed)

    def _draw_now(self) -> None:
        pixels, text = self._draw()
        if pixels != self.picture.value:  # sending the same bytes again makes the page flicker
            self.picture.value = pixels
        self.readout.value = text

    def _changed(self, name: str) -> None:
        if self._held:
            return

        def work() -> None:
            with self._hold():
                self._follow(name)
            self._draw_now()

        self.guarded(work)

    def _reset(self) -> None:
        with self._hold():
            for name, value in self._first.items():
                self.controls[name].value = value
                self._follow(name)
        self._draw_now()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False


def message_html(text: str, wrong: bool = False) -> str:
    colour = "#b00020" if wrong else "inherit"
    return f'<div style="font-size:14px;line-height:1.4;color:{colour}">{escape(text)}</div>'


def paragraph(*lines: str) -> str:
    """Lines of HTML in the readout's font."""
    return f'<div style="font-size:14px;line-height:1.5">{"<br>".join(lines)}</div>'


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def signed_text(value: float, form: str = "{:+z.2f}") -> str:
    return form.format(value).replace("-", "\N{MINUS SIGN}")


def score_text(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def thousandths(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def as_jpeg(pixels: np.ndarray | Image.Image) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The figures' own font: Pillow's has no ∂ and no minus sign."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def panels(parts: Sequence[tuple[str, np.ndarray]], width: int = PANEL) -> Image.Image:
    """Pictures of one size side by side, each under its title."""
    font, gap, above = font_of(16), 12, 26
    height = round(width * parts[0][1].shape[0] / parts[0][1].shape[1])
    sheet = Image.new("RGB", (len(parts) * (width + gap) - gap, above + height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (title, pixels) in enumerate(parts):
        left = i * (width + gap)
        pen.text((left, 2), title, fill="black", font=font)
        panel = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(panel, (left, above))
    return sheet


def with_bar(sheet: Image.Image, colours: str, low: str, high: str, middle: str = "") -> Image.Image:
    """The sheet with a colour bar under its last panel, its ends labelled."""
    font, bar = font_of(14), 12
    result = Image.new("RGB", (sheet.width, sheet.height + bar + 30), "white")
    result.paste(sheet, (0, 0))
    left, top = sheet.width - PANEL, sheet.height + 8
    ramp = palette(colours)[np.linspace(0, 255, PANEL).round().astype(int)]
    result.paste(Image.fromarray(np.tile(ramp, (bar, 1, 1))), (left, top))
    pen = ImageDraw.Draw(result)
    y = top + bar + 2
    pen.text((left, y), low, fill="black", font=font)
    pen.text((left + PANEL // 2, y), middle, fill="black", font=font, anchor="ma")
    pen.text((sheet.width, y), high, fill="black", font=font, anchor="ra")
    return result


class Shown:
    """The photos of an explorer as the network takes them; each is preprocessed and judged once."""

    def __init__(self, net: Classifier, photos: Sequence[PhotoLike]):
        if not isinstance(net, Classifier):
            raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
        if isinstance(photos, Photo | str | bytes) or not isinstance(photos, Sequence):
            raise TypeError(f"photos: expected a sequence of photos, got {describe(photos)}")
        if not photos:
            raise ValueError("photos: expected at least one photo, got none")
        self.net = net
        self.photos = [as_photo(p) for p in photos]
        self._kept: dict[int, tuple[Tensor, np.ndarray, Tensor]] = {}

    def dropdown(self) -> widgets.Dropdown:
        names = [(p.name, i) for i, p in enumerate(self.photos)]
        return widgets.Dropdown(options=names, value=0, description="photo", style=WIDE)

    def __getitem__(self, i: int) -> tuple[Tensor, np.ndarray, Tensor]:
        """images [1, 3, H, W]; the picture uint8 [H, W, 3]; the scores [K], on the CPU."""
        if i not in self._kept:
            images = self.net.preprocess(self.photos[i])
            self._kept[i] = (images, picture(self.net.display(images)[0]), scores_of(self.net, images)[0])
        return self._kept[i]

    def top(self, i: int, k: int = 5) -> list[Prediction]:
        return predictions_of(self.net, self[i][2], k)


def scores_of(net: Classifier, images: Tensor) -> Tensor:
    """Pre-softmax scores [N, K] on the CPU, in eval mode; the network is left as it was."""
    with evaluation(net, images.device), torch.no_grad():
        return class_scores(net, images).float().cpu()


def predictions_of(net: Classifier, scores: Tensor, k: int, also: Sequence[int] = ()) -> list[Prediction]:
    """The k highest of scores [K], and those of `also` in the last places if they aren't among them."""
    k = min(k, len(scores))
    best = scores.topk(k).indices.tolist()
    missing = [c for c in also if c not in best]
    chosen = best[: k - len(missing)] + missing
    probabilities = torch.softmax(scores, 0)
    return [
        Prediction(net.categories[c], c, scores[c].item(), probabilities[c].item())
        for c in sorted(chosen, key=lambda c: -scores[c].item())
    ]


def progress_bar() -> widgets.IntProgress:
    return widgets.IntProgress(
        value=0, min=0, max=1, bar_style="info", layout={"width": "300px", "visibility": "hidden"}
    )


@contextmanager
def running(progress: widgets.IntProgress, steps: int) -> Iterator[None]:
    """Inside, the bar is seen and counts to `steps`; after, it is gone, whatever happened."""
    progress.max, progress.value = steps, 0
    progress.layout.visibility = "visible"
    try:
        yield
    finally:
        progress.layout.visibility = "hidden"


def blank(pixels: np.ndarray) -> np.ndarray:
    return np.full_like(pixels, 238)


def write_note(sheet: Image.Image, text: str) -> None:
    """Text in the middle of the last panel."""
    place = (sheet.width - PANEL // 2, (sheet.height + 26) // 2)
    ImageDraw.Draw(sheet).multiline_text(
        place, text, fill="black", font=font_of(16), anchor="mm", align="center", spacing=8
    )


def outline(sheet: Image.Image, panel: int, corners: tuple[int, int, int, int], width: int) -> None:
    """A rectangle of the picture, drawn on a panel: black between two white lines, seen on any photo."""
    scale = PANEL / width
    top, left, bottom, right = (round(v * scale) for v in corners)
    x, y = panel * (PANEL + 12), 26
    pen = ImageDraw.Draw(sheet)
    edge = x + PANEL - 1, sheet.height - 1
    right_most, lowest = min(x + right - 1, edge[0]), min(y + bottom - 1, edge[1])
    for inset, colour in ((0, "white"), (1, "black"), (2, "white")):
        box = (x + left + inset, y + top + inset, right_most - inset, lowest - inset)
        if box[0] < box[2] and box[1] < box[3]:
            pen.rectangle(box, outline=colour)


def table_html(head: Sequence[str], *rows: Sequence[str]) -> str:
    cell = 'style="text-align:right;padding:2px 18px 2px 0"'
    lines = ["".join(f"<th {cell}>{escape(text)}</th>" for text in head)]
    lines += ["".join(f"<td {cell}>{escape(text)}</td>" for text in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<table style="font-size:14px;line-height:1.4;border-collapse:collapse;'
        f'font-variant-numeric:tabular-nums">{body}</table>'
    )


def as_cells(grid: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A small map at a picture's size, each of its numbers one flat cell."""
    return torch.nn.functional.interpolate(grid[None, None], size, mode="nearest-exact")[0, 0].numpy()


def enlarged(pixels: np.ndarray, width: int) -> np.ndarray:
    """Pictures of several sizes, as networks take them, at one width and square to it."""
    return np.asarray(Image.fromarray(pixels).resize((width, width), Image.Resampling.BICUBIC))
