"""The explorers: one for each lesson, of core ipywidgets only (7.7 and 8 alike).

What costs a pass through the network is done once and kept, or waits for a button with a progress bar; the
rest of a redraw is a few milliseconds of numpy. Pictures are encoded images, not figures: that is several
times as quick. An error inside a callback is shown in the explorer, kept in `failures`, and raised.
"""

import io
import re
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

from lecture7_utils.classroom.plots import DIVERGING, SEQUENTIAL, overlay, palette, picture
from lecture7_utils.kernels.arguments import describe, require_int
from lecture7_utils.kernels.cam import boxes, class_activation_map, grad_cam
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.occlusion import Occlusion, occlude
from lecture7_utils.kernels.saliency import saliency_map, smooth_grad
from lecture7_utils.kernels.tails import find_averaged_map
from lecture7_utils.kernels.targets import ClassProbability, ClassScore, TargetLike, as_target, class_scores
from lecture7_utils.shop.models import Classifier, Prediction
from lecture7_utils.shop.photos import Photo, PhotoLike
from lecture7_utils.shop.photos import photo as as_photo
from lecture7_utils.shop.scenes import SPECIES, draw_scenes

PANEL = 384  # pixels that a picture in an explorer is wide
SAMPLES = (1, 4, 8, 16)

_WIDE = {"description_width": "150px"}


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
            self.problem.value = _message(f"{type(error).__name__}: {error}", wrong=True)
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
                self.problem.value = _message("Interrupted. What was drawn stays; press again to begin anew.")
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


# ------------------------------------------------------------------------------------- pieces of explorers


def _message(text: str, wrong: bool = False) -> str:
    colour = "#b00020" if wrong else "inherit"
    return f'<div style="font-size:14px;line-height:1.4;color:{colour}">{escape(text)}</div>'


def _paragraph(*lines: str) -> str:
    """Lines of HTML in the readout's font."""
    return f'<div style="font-size:14px;line-height:1.5">{"<br>".join(lines)}</div>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(value: float, form: str = "{:+.2f}") -> str:
    return form.format(value).replace("-", "\N{MINUS SIGN}")


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _thousandths(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _jpeg(pixels: np.ndarray | Image.Image) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The figures' own font: Pillow's has no ∂ and no minus sign."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _panels(parts: Sequence[tuple[str, np.ndarray]], width: int = PANEL) -> Image.Image:
    """Pictures of one size side by side, each under its title."""
    font, gap, above = _font(16), 12, 26
    height = round(width * parts[0][1].shape[0] / parts[0][1].shape[1])
    sheet = Image.new("RGB", (len(parts) * (width + gap) - gap, above + height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (title, pixels) in enumerate(parts):
        left = i * (width + gap)
        pen.text((left, 2), title, fill="black", font=font)
        panel = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(panel, (left, above))
    return sheet


def _with_bar(sheet: Image.Image, colours: str, low: str, high: str, middle: str = "") -> Image.Image:
    """The sheet with a colour bar under its last panel, its ends labelled."""
    font, bar = _font(14), 12
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


class _Shown:
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
        return widgets.Dropdown(options=names, value=0, description="photo", style=_WIDE)

    def __getitem__(self, i: int) -> tuple[Tensor, np.ndarray, Tensor]:
        """images [1, 3, H, W]; the picture uint8 [H, W, 3]; the scores [K], on the CPU."""
        if i not in self._kept:
            images = self.net.preprocess(self.photos[i])
            self._kept[i] = (images, picture(self.net.display(images)[0]), _scores(self.net, images)[0])
        return self._kept[i]

    def top(self, i: int, k: int = 5) -> list[Prediction]:
        return _predictions(self.net, self[i][2], k)


def _scores(net: Classifier, images: Tensor) -> Tensor:
    """Pre-softmax scores [N, K] on the CPU, in eval mode; the network is left as it was."""
    with evaluation(net, images.device), torch.no_grad():
        return class_scores(net, images).float().cpu()


def _predictions(net: Classifier, scores: Tensor, k: int, also: Sequence[int] = ()) -> list[Prediction]:
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


# ------------------------------------------------------------------------------------- lesson 0


def explore_predictions(net: Classifier, photos: Sequence[PhotoLike]) -> Explorer:
    """Lesson 0: scores before the softmax and probabilities after it.

    Choose a photo; add a number to all scores (no probability changes); add a number to all scores but the
    winner's (its probability changes while its score does not). One forward pass for each photo, ever.
    controls: "photo", "shift", "rivals", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = _Shown(net, photos)
    slider = {"min": -10.0, "max": 10.0, "step": 0.5, "value": 0.0, "readout_format": "+.1f", "style": _WIDE}
    controls = {
        "photo": shown.dropdown(),
        "shift": widgets.FloatSlider(description="add to all scores", **slider),
        "rivals": widgets.FloatSlider(description="add to the rivals", **slider),
    }
    for control in controls.values():
        control.layout.width = "100%"

    def draw() -> tuple[bytes, str]:
        i, shift, rivals = (controls[name].value for name in ("photo", "shift", "rivals"))
        _, pixels, scores = shown[i]
        watched = scores.argmax().item()
        moved = scores + shift + rivals
        moved[watched] -= rivals
        before = _predictions(net, scores, 1)[0]
        rows = _predictions(net, moved, 5, also=[watched])
        after = next(p for p in rows if p.index == watched)
        name = escape(before.category)
        readout = _bars(rows, watched) + _paragraph(
            f"<b>{name}</b>: score {_score(before.score)} → <b>{_score(after.score)}</b>, "
            f"probability {_percent(before.probability)} → <b>{_percent(after.probability)}</b>"
        )
        return _jpeg(_panels([(shown.photos[i].name, pixels)])), readout

    explorer = Explorer(controls, draw, beside=True)
    explorer.picture.layout.width = "36%"
    explorer.readout.layout.width = "63%"
    return explorer


def _bars(rows: Sequence[Prediction], watched: int) -> str:
    """Scores and probabilities as two columns of bars; scores on one scale, −10 to 25, whatever the photo."""
    low, high = -10.0, 25.0

    def bar(start: float, end: float, colour: str, text: str) -> str:
        left, width = 100 * min(start, end), max(0.5, 100 * abs(end - start))
        return (
            '<td style="width:36%;padding:3px 6px"><div style="position:relative;height:22px;'
            'background:rgba(128,128,128,.15)">'
            f'<div style="position:absolute;left:{left:.2f}%;width:{width:.2f}%;height:22px;'
            f'background:{colour}"></div>'
            '<div style="position:absolute;right:4px;line-height:22px;font-variant-numeric:tabular-nums">'
            f"{text}</div></div></td>"
        )

    def place(score: float) -> float:
        return min(1.0, max(0.0, (score - low) / (high - low)))

    lines = []
    for p in rows:
        weight = "bold" if p.index == watched else "normal"
        lines.append(
            f'<tr style="font-weight:{weight}"><td style="text-align:right;line-height:1.15">'
            f"{escape(p.category)}</td>"
            + bar(place(0.0), place(p.score), "#56B4E9", _score(p.score))
            + bar(0.0, p.probability, "#E69F00", _percent(p.probability))
            + "</tr>"
        )
    return (
        '<table style="width:100%;font-size:14px;line-height:1.3;border-collapse:collapse"><tr><th></th>'
        "<th>score<br>before the softmax</th><th>probability<br>after the softmax</th></tr>"
        + "".join(lines)
        + "</table>"
    )


# ------------------------------------------------------------------------------------- lesson 1


def explore_saliency(
    net: Classifier, photos: Sequence[PhotoLike], classes: Sequence[int] | None = None
) -> Explorer:
    """Lesson 1: the saliency map of a photo and a class, and how the way of showing it changes what is seen.

    classes: the class indices to choose from; None for the five highest of each photo.
    Choose photo and class; how three channels become one; the quantile at which colours are clipped; how much
    of the map covers the photo; the number of noisy copies, which a button computes with a progress bar.
    A gradient is computed once for each photo, class and number of copies.
    controls: "photo", "class", "reduce", "quantile", "blend", "samples", "compute", "reset". Returns the
    root widget. Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = _Shown(net, photos)
    if classes is not None:
        if isinstance(classes, str | bytes) or not isinstance(classes, Sequence) or len(classes) == 0:
            raise TypeError(f"classes: expected a sequence of class indices or None, got {describe(classes)}")
        classes = [require_int(c, "classes", 0, len(net.categories) - 1) for c in classes]

    def options(i: int) -> list[tuple[str, int]]:
        chosen = [p.index for p in shown.top(i)] if classes is None else classes
        return [(net.categories[c], c) for c in chosen]

    controls = {
        "photo": shown.dropdown(),
        "class": widgets.Dropdown(options=options(0), description="class", style=_WIDE),
        "reduce": widgets.Dropdown(
            options=[("the largest |gradient|", "max"), ("their norm", "l2")],
            value="max",
            description="three channels to one",
            style=_WIDE,
        ),
        "quantile": widgets.FloatSlider(
            value=99.0, min=90.0, max=100.0, step=0.5, description="clip at quantile (%)", style=_WIDE,
            readout_format=".1f",
        ),
        "blend": widgets.FloatSlider(
            value=0.7, min=0.0, max=1.0, step=0.05, description="photo ↔ map", style=_WIDE
        ),
        "samples": widgets.SelectionSlider(
            options=SAMPLES, value=1, description="noisy copies n", style=_WIDE
        ),
        "compute": widgets.Button(
            description="Compute SmoothGrad", icon="play", layout={"width": "190px"}, button_style="primary"
        ),
    }  # fmt: skip
    for name in ("photo", "class", "reduce", "quantile", "blend", "samples"):
        controls[name].layout.width = "100%"
    progress = _progress()
    kept: dict[tuple[int, int, int], Tensor] = {}

    def gradient(i: int, c: int, n: int) -> tuple[Tensor, int]:
        """The gradient [3, H, W] for n copies, or for fewer where n waits for the button; and how many."""
        ready = max((m for m in SAMPLES if m <= n and (i, c, m) in kept), default=None)
        if ready is None:
            kept[i, c, 1] = saliency_map(net, shown[i][0], c, reduce=None)[0].float().cpu()
            ready = 1
        return kept[i, c, ready], ready

    def compute() -> None:
        i, c, n = (controls[name].value for name in ("photo", "class", "samples"))
        if n == 1 or (i, c, n) in kept:
            return
        images = shown[i][0]
        generator = torch.Generator(device=images.device).manual_seed(0)
        total = torch.zeros_like(images[0], device="cpu", dtype=torch.float32)
        with _running(progress, n):
            for done in range(n):
                # one generator for all: the same noise as in one call for n samples
                part = smooth_grad(net, images, c, samples=1, reduce=None, generator=generator)
                total += part[0].float().cpu()
                progress.value = done + 1
        kept[i, c, n] = total / n

    def draw() -> tuple[bytes, str]:
        i, c, reduce, quantile, blend, n = (
            controls[name].value for name in ("photo", "class", "reduce", "quantile", "blend", "samples")
        )
        _, pixels, scores = shown[i]
        found, ready = gradient(i, c, n)
        values = (found.abs().amax(0) if reduce == "max" else found.norm(dim=0)).numpy()
        top = float(np.percentile(values, quantile)) or float(values.max()) or 1.0
        title = "gradient" if ready == 1 else f"SmoothGrad, n = {ready}"
        sheet = _panels(
            [(shown.photos[i].name, pixels), (title, overlay(pixels, values, alpha=blend, limits=(0.0, top)))]
        )
        sheet = _with_bar(sheet, SEQUENTIAL, "0", f"{top:.3g}", "|∂s/∂x|")
        probability = torch.softmax(scores, 0)[c].item()
        clipped = 100 * float((values > top).mean())
        lines = [
            f"<b>{escape(net.categories[c])}</b>: score {_score(scores[c].item())}, "
            f"probability {_percent(probability)}",
            f"The brightest colour stands for {top:.3g} and above: {clipped:.1f} % of the pixels.",
        ]
        if ready != n:
            lines.append(f"n = {n} is not computed yet: press “Compute SmoothGrad”. Shown is n = {ready}.")
        return _jpeg(sheet), _paragraph(*lines)

    def follow(name: str) -> None:
        if name == "photo":
            controls["class"].options = options(controls["photo"].value)

    explorer = Explorer(controls, draw, follow=follow, below=[progress])
    explorer.on_press("compute", compute)
    return explorer


def _progress() -> widgets.IntProgress:
    return widgets.IntProgress(
        value=0, min=0, max=1, bar_style="info", layout={"width": "300px", "visibility": "hidden"}
    )


@contextmanager
def _running(progress: widgets.IntProgress, steps: int) -> Iterator[None]:
    """Inside, the bar is seen and counts to `steps`; after, it is gone, whatever happened."""
    progress.max, progress.value = steps, 0
    progress.layout.visibility = "visible"
    try:
        yield
    finally:
        progress.layout.visibility = "hidden"


# ------------------------------------------------------------------------------------- lesson 2

FILLS = ("grey", "black", "white", "blur", "mean colour")


def explore_occlusion(net: Classifier, photo: PhotoLike, target: TargetLike | None = None) -> Explorer:
    """Lesson 2: put a window in front of a photo, anywhere, and read what the network still thinks.

    target: the class, as an int, `class_score` or `class_probability`; None for the photo's first answer.
    Choose the window's first row and column, its size, and what fills it: one forward pass for each place
    that was not tried before. A button slides the window over the whole photo, with a progress bar, and
    lays the loss of score over it: for each pixel the mean over the windows that cover it.
    controls: "row", "column", "window", "fill", "sweep", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
    shown = _Shown(net, [as_photo(photo)])
    images, pixels, clean = shown[0]
    c = _one_class(target, clean)
    height, width = images.shape[2:]
    side = min(height, width)
    whole = torch.softmax(clean, 0)
    stride = max(1, round(side / 14))

    def slider(most: int, value: int, step: int, text: str, least: int = 0) -> widgets.IntSlider:
        return widgets.IntSlider(
            value=value, min=least, max=most, step=step, description=text, style=_WIDE,
            continuous_update=False, layout={"width": "100%"},
        )  # fmt: skip

    step = max(1, side // 56)
    controls = {
        "row": slider(height - step, height // 3, step, "first row"),
        "column": slider(width - step, width // 3, step, "first column"),
        "window": slider(side, side // 4, step, "window (pixels)", least=step),
        "fill": widgets.Dropdown(
            options=FILLS, value="grey", description="filled with", style=_WIDE, layout={"width": "100%"}
        ),
        "sweep": widgets.Button(
            description="Sweep the whole image",
            icon="play",
            layout={"width": "200px"},
            button_style="primary",
        ),
    }
    progress = _progress()
    colours = {"grey": (127, 127, 127), "black": (0, 0, 0), "white": (255, 255, 255)}
    kept: dict[tuple[int, int, int, str], tuple[float, float, str, float]] = {}
    maps: dict[tuple[int, str], np.ndarray] = {}

    def baseline(fill: str) -> Tensor | str:
        return net.colour(*colours[fill]) if fill in colours else fill.removesuffix(" colour")

    def occluded(rectangles: Sequence[Sequence[int]], fill: str) -> Tensor:
        return occlude(images, rectangles, baseline(fill))

    def values() -> tuple[int, int, int, str]:
        return tuple(controls[name].value for name in ("row", "column", "window", "fill"))

    def sweep() -> None:
        _, _, window, fill = values()
        if (window, fill) in maps:
            return
        tops, lefts = (_starts(length, window, stride) for length in (height, width))
        boxes = [(t, x, min(t + window, height), min(x + window, width)) for t in tops for x in lefts]
        scores = []
        with _running(progress, len(boxes)):
            for first in range(0, len(boxes), 8):
                part = boxes[first : first + 8]
                scores.append(_scores(net, occluded(part, fill))[:, c])
                progress.value = first + len(part)
        grid = torch.cat(scores).view(1, len(tops), len(lefts))
        rectangles = torch.tensor(boxes).view(len(tops), len(lefts), 4)
        found = Occlusion(grid, clean[c : c + 1], rectangles, (height, width), "one by one")
        maps[window, fill] = found.map("drop")[0].numpy()

    def draw() -> tuple[bytes, str]:
        row, column, window, fill = values()
        bottom, right = min(row + window, height), min(column + window, width)
        copy = occluded([(row, column, bottom, right)], fill)
        if (row, column, window, fill) not in kept:
            scores = _scores(net, copy)[0]
            first = _predictions(net, scores, 1)[0]
            share = torch.softmax(scores, 0)[c].item()
            kept[row, column, window, fill] = (scores[c].item(), share, first.category, first.probability)
        score, probability, first_name, first_share = kept[row, column, window, fill]
        seen = picture(net.display(copy)[0])
        drops = maps.get((window, fill))
        if drops is None:
            sheet = _panels(
                [("what the network sees", seen), ("mean loss of score per pixel", _blank(pixels))]
            )
            count = len(_starts(height, window, stride)) * len(_starts(width, window, stride))
            _note(sheet, f"Sweep the whole image\nwith a window of {window} pixels:\n{count} forward passes")
            most = None
        else:
            most = float(np.abs(drops).max()) or 1.0
            laid = overlay(pixels, drops, alpha=0.75, colours=DIVERGING, limits=(-most, most))
            sheet = _panels([("what the network sees", seen), ("mean loss of score per pixel", laid)])
        for panel in range(1 if drops is None else 2):
            _outline(sheet, panel, (row, column, bottom, right), width)
        ends = ("", "") if most is None else (_signed(-most), _signed(most))
        sheet = _with_bar(sheet, DIVERGING, *ends, middle="blue: the score rises · red: it falls")
        table = _table(
            ("", "whole photo", "now", "difference"),
            ("score", _score(clean[c].item()), _score(score), _signed(score - clean[c].item())),
            (
                "probability",
                _percent(whole[c].item()),
                _percent(probability),
                _signed(100 * (probability - whole[c].item()), "{:+.1f} points"),
            ),
        )
        name = escape(net.categories[c])
        answer = f"First answer now: {escape(first_name)} ({_percent(first_share)})"
        return _jpeg(sheet), _paragraph(f"Class: <b>{name}</b>") + table + _paragraph(answer)

    explorer = Explorer(controls, draw, below=[progress])
    explorer.on_press("sweep", sweep)
    return explorer


def _one_class(target: TargetLike | None, scores: Tensor) -> int:
    if target is None:
        return scores.argmax().item()
    chosen = as_target(target)
    expected = "target: expected one class, as an int, class_score or class_probability"
    if not isinstance(chosen, ClassScore | ClassProbability):
        raise TypeError(f"{expected}, got {describe(target)}")
    classes = chosen.classes if isinstance(chosen.classes, tuple) else (chosen.classes,)
    if len(classes) != 1:
        raise ValueError(f"{expected}, got {len(classes)} of them")
    return require_int(classes[0], "target", 0, len(scores) - 1)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows of one axis, all inside: until one reaches the border."""
    return list(range(0, min(length, max(1, length - window + stride)), stride))


def _blank(pixels: np.ndarray) -> np.ndarray:
    return np.full_like(pixels, 238)


def _note(sheet: Image.Image, text: str) -> None:
    """Text in the middle of the last panel."""
    place = (sheet.width - PANEL // 2, (sheet.height + 26) // 2)
    ImageDraw.Draw(sheet).multiline_text(
        place, text, fill="black", font=_font(16), anchor="mm", align="center", spacing=8
    )


def _outline(sheet: Image.Image, panel: int, corners: tuple[int, int, int, int], width: int) -> None:
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


def _table(head: Sequence[str], *rows: Sequence[str]) -> str:
    cell = 'style="text-align:right;padding:2px 18px 2px 0"'
    lines = ["".join(f"<th {cell}>{escape(text)}</th>" for text in head)]
    lines += ["".join(f"<td {cell}>{escape(text)}</td>" for text in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        '<table style="font-size:14px;line-height:1.4;border-collapse:collapse;'
        f'font-variant-numeric:tabular-nums">{body}</table>'
    )


# ------------------------------------------------------------------------------------- lesson 3


def explore_cam(net: Classifier, photos: Sequence[PhotoLike]) -> Explorer:
    """Lesson 3: the class activation map of a photo and a class, and the box that a threshold makes of it.

    net: ends in a global average and one linear layer, as `class_activation_map` needs it.
    Choose photo and class, of the photo's five highest; the per cent of the map's maximum that a pixel needs
    to count; how much of the map covers the photo. At the left are the map's own few numbers, at the right
    the same map enlarged, with the box of its largest region. One forward pass for each photo, and one for
    each class of it that is looked at.
    controls: "photo", "class", "threshold", "blend", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    shown = _Shown(net, photos)

    def options(i: int) -> list[tuple[str, int]]:
        return [(net.categories[p.index], p.index) for p in shown.top(i)]

    controls = {
        "photo": shown.dropdown(),
        "class": widgets.Dropdown(options=options(0), description="class", style=_WIDE),
        "threshold": widgets.IntSlider(
            value=20, min=5, max=95, step=5, description="threshold (% of max)", style=_WIDE
        ),
        "blend": widgets.FloatSlider(
            value=0.5, min=0.0, max=1.0, step=0.05, description="photo ↔ map", style=_WIDE
        ),
    }
    for control in controls.values():
        control.layout.width = "100%"
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    bias = _bias(net, shown[0][0])

    def map_of(i: int, c: int) -> tuple[Tensor, Tensor]:
        """The map on its own grid [1, h, w] and at the picture's size [1, H, W], on the CPU."""
        if (i, c) not in kept:
            images, pixels, _ = shown[i]
            grid = class_activation_map(net, images, c, size=None).float().cpu()
            large = torch.nn.functional.interpolate(grid[None], pixels.shape[:2], mode="bilinear")[0]
            kept[i, c] = grid, large
        return kept[i, c]

    def draw() -> tuple[bytes, str]:
        i, c, threshold, blend = (controls[name].value for name in ("photo", "class", "threshold", "blend"))
        _, pixels, scores = shown[i]
        grid, large = map_of(i, c)
        rows, columns = grid.shape[1:]
        # one scale for both: what is below 0 speaks against the class and stays dark
        most = max(float(grid.max()), float(large.max()))
        limits = (0.0, most if most > 0 else 1.0)
        cells = overlay(_blank(pixels), _cells(grid[0], pixels.shape[:2]), alpha=1.0, limits=limits)
        sheet = _panels(
            [
                (f"the map: {rows} × {columns} numbers", cells),
                (shown.photos[i].name, overlay(pixels, large[0], alpha=blend, limits=limits)),
            ]
        )
        found = boxes(large, threshold / 100)[0]
        height, width = pixels.shape[:2]
        if len(found.boxes):
            x1, y1, x2, y2 = (round(v) for v in found.boxes[0].tolist())
            _outline(sheet, 1, (y1, x1, y2, x2), width)
            share = (x2 - x1) * (y2 - y1) / (height * width)
            region = "1 region" if len(found.boxes) == 1 else f"{len(found.boxes)} regions"
            box = (
                f"{region} above {threshold} % of the maximum. Box of the largest: x {x1} to {x2}, "
                f"y {y1} to {y2}, {_percent(share)} of the picture"
            )
        else:
            box = "The map is nowhere above 0: no box"
        sheet = _with_bar(
            sheet, SEQUENTIAL, "0 and below", f"{limits[1]:.3g}", "M(i, j), in units of the score"
        )
        mean, name = grid.double().mean().item(), escape(net.categories[c])
        offset = 0.0 if bias is None else bias[c].item()
        sign = "+" if offset >= 0 else "\N{MINUS SIGN}"
        lines = [
            f"<b>{name}</b>: mean of the map {_thousandths(mean)} {sign} bias {abs(offset):.3f} = "
            f"<b>{_thousandths(mean + offset)}</b>; the network's score: "
            f"<b>{_thousandths(scores[c].item())}</b>",
            box,
        ]
        return _jpeg(sheet), _paragraph(*lines)

    def follow(name: str) -> None:
        if name == "photo":
            controls["class"].options = options(controls["photo"].value)

    return Explorer(controls, draw, follow=follow)


def _bias(net: Classifier, images: Tensor) -> Tensor | None:
    """The biases [K] of the linear layer after the average; None where the average is the scores."""
    try:
        class_activation_map(net, images, 0)  # says what is to be said of a network without such an end
    except ValueError as error:
        raise ValueError(str(error).replace("model:", "net:", 1)) from None
    with evaluation(net, images.device), torch.no_grad():
        bias = find_averaged_map(net, images.clone())[1].bias
    return None if bias is None else bias.float().cpu()


def _cells(grid: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A small map at a picture's size, each of its numbers one flat cell."""
    return torch.nn.functional.interpolate(grid[None, None], size, mode="nearest-exact")[0, 0].numpy()


# ------------------------------------------------------------------------------------- lesson 9

ASKED = ("Grad-CAM", "SmoothGrad", "saliency")
NO_TAG, NOTHING = "no tag", "nothing"


def explore_offers(
    offers: Mapping[str, Classifier], scenes: Sequence[int] = range(12), *, seed: int = 0
) -> Explorer:
    """Lesson 9: one photo of the shop; change its tag or take its animal away, and ask every network.

    offers: {name: `Classifier`}, one to four. scenes, seed: which scenes, as in `draw_scenes`.
    Choose the photo, whose tag hangs in it (as the shop is: the animal's own species'), whether the animal
    is there, and the method whose map of each network's answer is laid over the photo. The table gives each
    network's answer. One drawing and one pass for each photo not seen before, and the method's for each map.
    controls: "photo", "tag", "without", "method", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(offers, Mapping) or not all(isinstance(net, Classifier) for net in offers.values()):
        raise TypeError(f"offers: expected a dict of name to Classifier, got {describe(offers)}")
    if not 1 <= len(offers) <= 4:
        raise ValueError(f"offers: expected one to four classifiers, got {len(offers)}")
    if isinstance(scenes, str) or not isinstance(scenes, Sequence) or not scenes:
        raise TypeError(f"scenes: expected at least one scene's number, got {describe(scenes)}")
    scenes = [require_int(index, "scenes", 0) for index in scenes]
    labels = draw_scenes(scenes, seed=seed).labels.tolist()
    names = [(f"{i + 1}: a {SPECIES[c]}", i) for i, c in enumerate(labels)]
    controls = {
        "photo": widgets.Dropdown(options=names, value=0, description="photo"),
        "tag": widgets.Dropdown(
            options=[*SPECIES, NO_TAG], value=SPECIES[labels[0]], description="price tag of a"
        ),
        "without": widgets.Dropdown(options=[NOTHING, "the animal"], value=NOTHING, description="taken away"),
        "method": widgets.Dropdown(options=ASKED, value=ASKED[0], description="map by"),
    }
    for control in controls.values():
        control.style.description_width = _WIDE["description_width"]
        control.layout.width = "100%"
    seen: dict[tuple[int, str, str], tuple[Tensor, dict[str, Prediction]]] = {}
    maps: dict[tuple[int, str, str, str, str], np.ndarray] = {}

    def photo_of(i: int, tag: str, without: str) -> tuple[Tensor, dict[str, Prediction]]:
        """The photo [3, H, W] and each network's first answer."""
        key = (i, tag, without)
        if key not in seen:
            image = draw_scenes(
                [scenes[i]], seed=seed, species=labels[i], tag=False if tag == NO_TAG else tag,
                leave_out=() if without == NOTHING else ("animals", "shadows"),
            ).images[0]  # fmt: skip
            first = {}
            for name, net in offers.items():
                first[name] = _predictions(net, _scores(net, net.preprocess(image))[0], 1)[0]
            seen[key] = image, first
        return seen[key]

    def map_of(name: str, i: int, tag: str, without: str, method: str) -> np.ndarray:
        """The network's picture with the map of its answer laid over."""
        key = (name, i, tag, without, method)
        if key not in maps:
            net = offers[name]
            image, first = photo_of(i, tag, without)
            images, c = net.preprocess(image), first[name].index
            if method == "Grad-CAM":
                found = grad_cam(net, images, c)
            elif method == "SmoothGrad":
                found = smooth_grad(net, images, c, samples=4)
            else:
                found = saliency_map(net, images, c)
            maps[key] = overlay(picture(net.display(images)[0]), found[0])
        return maps[key]

    def draw() -> tuple[bytes, str]:
        i, tag, without, method = (controls[name].value for name in ("photo", "tag", "without", "method"))
        image, first = photo_of(i, tag, without)
        parts = [("the photo", picture(image))]
        parts += [
            (f"{name}: {first[name].category}", map_of(name, i, tag, without, method)) for name in offers
        ]
        width = (2 * PANEL + 12 * 2 - 12 * len(parts)) // len(parts)
        sheet = _panels([(title, _enlarged(pixels, width)) for title, pixels in parts], width)
        rows = []
        for name, answer in first.items():
            truth = (
                "" if without != NOTHING else "right" if answer.category == SPECIES[labels[i]] else "wrong"
            )
            rows.append((name, answer.category, _percent(answer.probability), truth))
        what = f"a {SPECIES[labels[i]]}" if without == NOTHING else "the empty place"
        hung = tag if tag == NO_TAG else f"the price tag of a {tag}"
        table = _table(("", "answer", "probability", ""), *rows)
        return _jpeg(sheet), _paragraph(f"In the photo: <b>{what}, {hung}</b>") + table

    def follow(name: str) -> None:
        if name == "photo":  # the next photo comes as the shop has it
            controls["tag"].value = SPECIES[labels[controls["photo"].value]]
            controls["without"].value = NOTHING

    return Explorer(controls, draw, follow=follow)


def _enlarged(pixels: np.ndarray, width: int) -> np.ndarray:
    """Pictures of several sizes, as networks take them, at one width and square to it."""
    return np.asarray(Image.fromarray(pixels).resize((width, width), Image.Resampling.BICUBIC))


# ------------------------------------------------------------------------------------- your own photo


def upload_photo(net: Classifier, show: Callable[[Photo, Tensor], object]) -> widgets.VBox:
    """The last cell of a lesson on photos: choose a picture file, and `show(photo, images)` is called for it.

    show: gets the `Photo` and what the network takes, float [1, 3, H, W]; what it prints and plots appears
    below the button. A file that is no photo gives a message that says so. The file stays in this kernel.
    controls: "upload", "reset". Returns the root widget; its `failures` keeps what `show` raised.
    Raises `TypeError` if `net` is no Classifier or `show` can't be called.
    """
    if not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
    if not callable(show):
        raise TypeError(f"show: expected a function show(photo, images), got {describe(show)}")
    upload = widgets.FileUpload(
        accept="image/*", multiple=False, description="Choose a photo", layout={"width": "190px"}
    )
    reset = widgets.Button(description="Clear", icon="undo", layout={"width": "110px"})
    invitation = _message(
        "Choose a picture of your own, best one of an animal or a thing that ImageNet knows. "
        "What you saw above appears here for it. The file goes to this notebook's kernel and nowhere else."
    )
    readout, output = widgets.HTML(invitation), widgets.Output()
    readout.add_class("l7-readout")
    root = widgets.VBox([widgets.HBox([upload, reset]), readout, output])
    root.add_class("l7-explorer")
    root.controls = {"upload": upload, "reset": reset}
    root.readout, root.output, root.failures = readout, output, []

    def received(_change) -> None:
        file = _uploaded(upload.value)
        if file is None:
            return
        name, content = file
        output.clear_output()
        try:
            own = as_photo(content, name=name)
            images = net.preprocess(own)
        except (TypeError, ValueError) as error:
            text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", repr(name), str(error).removeprefix("source: "))
            readout.value = _message(f"{name}: {text}. Choose another file.", wrong=True)
            return
        width, height = own.image.size
        readout.value = _message(f"{name}, {width} × {height} pixels")
        with output:  # shows the traceback of what `show` raises
            try:
                show(own, images)
            except Exception as error:
                root.failures.append(error)
                raise

    def cleared(_button) -> None:
        output.clear_output()
        readout.value = invitation

    upload.observe(received, "value")
    reset.on_click(cleared)
    return root


def _uploaded(value: object) -> tuple[str, bytes] | None:
    """Name and bytes of the file: ipywidgets 8 gives a tuple of dicts, 7 a dict of name to dict."""
    if not value:
        return None
    if isinstance(value, Mapping):
        name, file = next(iter(value.items()))
    else:
        file = value[-1]
        name = file["name"]
    return name, bytes(file["content"])
