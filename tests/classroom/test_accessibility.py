"""Colours that everyone can read: colour maps from one list, text that stands out from what is behind it."""

import ast
import inspect
import itertools
import re
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

import lecture7_utils as l7
from lecture7_utils.classroom import plots
from lecture7_utils.classroom.matrices import plot_matrices
from lecture7_utils.classroom.report import _STYLE, Finding, Report, _bars, _page, _sheet
from lecture7_utils.classroom.sheets import plot_hits
from lecture7_utils.classroom.traces import plot_traces
from lecture7_utils.kernels.ranking import Hit
from lecture7_utils.shop.models import Prediction
from tests.notebooks.anatomy import ROOT, code

matplotlib.use("Agg")
# perceptually uniform, in order of lightness; diverging ones are told apart by colour-blind eyes
ALLOWED = {"inferno", "viridis", "magma", "plasma", "cividis", "gray", "gray_r", "RdBu", "RdBu_r"}
ENOUGH = 4.5  # WCAG 2, level AA


# ------------------------------------------------------------------------------------------- colour maps


def colour_maps(source: str) -> list[str]:
    """The colour maps that code names: as an argument, as matplotlib's attribute, or in a constant."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("cmap", "colours", "colormap"):
            found += [c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
            if owner in ("cm", "colormaps") and node.attr in matplotlib.colormaps:
                found.append(node.attr)
            if node.attr.startswith("COLORMAP_"):
                found.append(node.attr)
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("colormaps"):
            found += [node.slice.value] if isinstance(node.slice, ast.Constant) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("palette", "get_cmap"):
            found += [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found += [v.value for k, v in pairs if isinstance(k, ast.Constant) and k.value == "image.cmap"]
    return [name for name in found if isinstance(name, str)]


def sources() -> dict[str, str]:
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "lecture7_utils").rglob("*.py"))
    }
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell.source for _, cell in code(nbformat.read(path, as_version=4))]
        texts[path.name] = "\n".join(
            line for line in "\n".join(cells).splitlines() if not line.lstrip().startswith(("%", "!"))
        )
    return texts


def test_every_colour_map_is_from_the_list():
    assert {(name, m) for name, text in sources().items() for m in colour_maps(text)} - {
        (name, m) for name in sources() for m in ALLOWED
    } == set()
    assert {plots.SEQUENTIAL, plots.DIVERGING} <= ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "ax.imshow(x, cmap='hot')",
        "plt.cm.spring(x)",
        "matplotlib.colormaps['cool']",
        "cv2.applyColorMap(x, cv2.COLORMAP_HOT)",
        "overlay(a, b, colours='Spectral' if c else 'inferno')",
        "palette('bwr')",
        "style = {'image.cmap': 'copper'}",
    ],
)
def test_a_colour_map_that_is_not_on_the_list_is_found(source):
    assert set(colour_maps(source)) - ALLOWED


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_the_lightness_of_the_list_is_in_order(name):
    """Of a sequential map it rises or falls all the way; of a diverging one it does so to either side."""
    from skimage.color import rgb2lab

    light = rgb2lab(plots.palette(name)[None] / 255.0)[0, :, 0]
    if name.startswith("RdBu"):
        middle = int(light.argmax())
        assert 110 < middle < 146
        halves = light[: middle + 1], light[middle:][::-1]
    else:
        halves = (light if light[-1] > light[0] else light[::-1],)
    for half in halves:
        assert (np.diff(half) > -0.3).all()
        assert half[-1] - half[0] > 50


# ------------------------------------------------------------------------------------------- contrast of text


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance of colours [..., 3] in 0 to 1, as WCAG 2 defines it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(a, b) -> np.ndarray:
    first, second = luminance(np.asarray(a, float)), luminance(np.asarray(b, float))
    return (np.maximum(first, second) + 0.05) / (np.minimum(first, second) + 0.05)


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255.0


def contrasts(figure) -> dict[str, float]:
    """For each text of a figure, its contrast with what is behind it: the least of nine tenths of the pixels.

    Behind it is what the figure shows without its texts' letters; where a text has a rim, the rim.
    """
    figure.canvas.draw()
    unseen = [
        label
        for ax in figure.axes
        if not ax.axison
        for label in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label)
    ]
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in unseen]
    boxes = [t.get_window_extent() for t in texts]
    colours = [to_rgb(t.get_color()) for t in texts]
    for text in texts:
        text.set_alpha(0)  # its box stays
        text.set_color((0, 0, 0, 0))
    behind = pixels(figure)
    height, width = behind.shape[:2]
    found = {}
    for text, box, colour in zip(texts, boxes, colours, strict=True):
        rims = [e for e in text.get_path_effects() if isinstance(e, withStroke)]
        rows = slice(max(0, int(height - box.y1)), max(0, int(np.ceil(height - box.y0))))
        columns = slice(max(0, int(box.x0)), min(width, int(np.ceil(box.x1))))
        part = behind[rows, columns].reshape(-1, 3)
        if rims:
            part = np.array([to_rgb(rims[0]._gc["foreground"])])
        elif text.get_bbox_patch() is not None:
            part = np.array([text.get_bbox_patch().get_facecolor()[:3]])
        if len(part):
            value = float(np.quantile(contrast(part, colour), 0.1))
            found[text.get_text()] = min(value, found.get(text.get_text(), np.inf))
    return found


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
MAP = np.random.default_rng(1).normal(size=(48, 64))
HITS = {
    "a channel": [Hit(0, "", 3.25, (0, 0), (4, 6, 24, 26), 0), Hit(0, "", -0.5, (0, 0), (0, 0, 48, 64), 0)]
}
PREDICTIONS = [
    Prediction(name, i, score, p)
    for i, (name, score, p) in enumerate(
        [("dog", 9.0, 0.7), ("cat", 3.0, 0.2), ("goose", 0.1, 0.09), ("rug", -4.0, 0.01)]
    )
]


SHARES = {"saliency": (0.26, 0.28), "SmoothGrad": (0.12, 0.03), "guided": (0.13, 0.4), "occlusion": (0.04, 0)}
REPORT = Report(
    findings=(
        *(Finding(name, method, *share, 0.5, 0.2) for name in "AB" for method, share in SHARES.items()),
        *(Finding(name, "CAM", why="it ends in no global average") for name in "AB"),
    ),
    accuracy={"A": 1.0, "B": 0.999},
    shuffled={"A": 0.205, "B": 1.0},
    animal_area=0.13,
    tag_area=0.04,
    count=200,
    html="",
)


def rectangles(photo):
    return plots.plot_rectangles(photo, [(5, 6, 30, 40), (20, 10, 44, 60)], labels=["first", "second"])


FIGURES = {
    "images": lambda: plots.plot_images([PHOTO, PHOTO], ["one", "two"], title="two"),
    "map": lambda: plots.plot_map(PHOTO, MAP, signed=True, label="loss", title="a map"),
    "maps": lambda: plots.plot_maps(PHOTO, {"a": abs(MAP), "b": abs(MAP)}, overlay=True, title="maps"),
    "top": lambda: plots.plot_top(PREDICTIONS, image=PHOTO, title="five"),
    "top without a photo": lambda: plots.plot_top(PREDICTIONS[::3], title="two"),
    "curves": lambda: plots.plot_curves(
        {str(k): ([0, 1, 2], [k, 2 * k, 0]) for k in range(7)}, xlabel="x", ylabel="y", title="seven"
    ),
    "rectangles": lambda: rectangles(PHOTO),
    "many rectangles": lambda: plots.plot_rectangles(
        PHOTO, [(5 * k, 8 * k, 5 * k + 9, 8 * k + 9) for k in range(7)], labels=list("abcdefg")
    ),
    "rectangles on white": lambda: rectangles(np.full_like(PHOTO, 255)),
    "masks": lambda: plots.plot_masks(PHOTO, {"truth": MAP > 1, "found": MAP > 0}, title="masks"),
    "matrices": lambda: plot_matrices(
        {"W": np.linspace(-3, 3, 35).reshape(5, 7), "small": np.eye(3)}, title="matrices"
    ),
    "hits": lambda: plot_hits(HITS, [PHOTO], whole=True, title="hits"),
    "report": REPORT.plot,
    "report of one": lambda: _bars(REPORT, ["A"], legend=False),
    "pictures of the report": lambda: _sheet(
        torch.rand(2, 3, 48, 64), {"saliency": torch.rand(2, 48, 64), "CAM": torch.zeros(2, 48, 64)}
    ),
    "traces": lambda: plot_traces(HITS, [PHOTO], {"a channel": torch.randn(2, 3, 48, 64)}, title="traces"),
}  # fmt: skip


@pytest.mark.parametrize("projector", [False, True])
@pytest.mark.parametrize("name", FIGURES)
def test_text_in_figures_stands_out(name, projector):
    l7.lecture_mode(projector)
    try:
        found = contrasts(FIGURES[name]())
    finally:
        l7.lecture_mode(False)
    assert len(found) >= 2
    assert {text: round(value, 1) for text, value in found.items() if value < ENOUGH} == {}


def beside_letters(figure) -> dict[str, float]:
    """For each text with a rim, the least contrast of its colour with the pixels that its letters touch."""
    texts = [
        t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t.get_path_effects()
    ]
    figure.set_dpi(192)
    as_it_is, found = pixels(figure), {}
    for text in texts:
        colour = text.get_color()
        text.set_color("magenta")
        letters = np.abs(pixels(figure) - as_it_is).max(2) > 0
        text.set_color(colour)
        around = letters.copy()
        for step, axis in itertools.product((-1, 1), (0, 1)):
            around |= np.roll(letters, step, axis)
        assert letters.any(), text.get_text()
        value = float(contrast(as_it_is[around & ~letters], to_rgb(colour)).min())
        found[text.get_text()] = min(value, found.get(text.get_text(), np.inf))
    return found


def test_the_rim_keeps_a_bars_number_off_the_lines_behind_it():
    """The blue line of the animals' area passes under some numbers: black on it has 4.1 only."""
    assert contrast(to_rgb(plots.COLOURS[0]), (0, 0, 0)) < ENOUGH
    figure = REPORT.plot()
    found = beside_letters(figure)
    assert {"12", "13", "40", "not defined"} <= found.keys()
    assert {text: round(value, 1) for text, value in found.items() if value < ENOUGH} == {}
    for text in figure.findobj(Text):
        if text.get_path_effects():
            text.set_path_effects([withStroke(linewidth=0.1, foreground="white")])
    assert min(beside_letters(figure).values()) < ENOUGH


def test_the_contrast_is_measured():
    assert contrast([0, 0, 0], [1, 1, 1]) == pytest.approx(21)
    assert contrast(to_rgb("#777777"), [1, 1, 1]) == pytest.approx(4.48, abs=0.01)
    figure, ax = plt.subplots()
    ax.imshow(np.full((10, 10, 3), 0.2))
    ax.text(2, 5, "dark", color="black")
    ax.text(2, 2, "light", color="white")
    ax.set_title("grey", color="#999999")
    found = contrasts(figure)
    assert found["dark"] < 2
    assert found["light"] > ENOUGH
    assert 2 < found["grey"] < 3


# ------------------------------------------------------------------------------------------- pages and slides


def declared(css: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+):\s*(#[0-9a-fA-F]{6})", css))


def test_text_on_slides_and_in_explorers_stands_out():
    css = (ROOT / "tests" / "notebooks" / "deck.css").read_text(encoding="utf-8")
    colours = declared(css)
    assert {"ink", "blue", "grey"} <= colours.keys()
    backgrounds = ["#ffffff", "#f4f6f8", "#f0f2f4", "#fdf6e7"]
    assert all(b in css or b == "#ffffff" for b in backgrounds)
    for name, background in itertools.product(("ink", "blue"), backgrounds):
        assert contrast(to_rgb(colours[name]), to_rgb(background)) >= ENOUGH
    assert contrast(to_rgb(colours["grey"]), (1, 1, 1)) >= ENOUGH
    pieces = (ROOT / "lecture7_utils/classroom/widgets/pieces.py").read_text(encoding="utf-8")
    (wrong,) = re.findall(r'"(#[0-9a-f]{6})" if wrong', pieces)
    assert contrast(to_rgb(wrong), (1, 1, 1)) >= ENOUGH


def test_what_the_managers_page_draws_stands_out():
    """Its bars, lines and frames, which are no text: at least 3. The text itself is measured in a browser."""
    page = _page(REPORT, {}, {}, 0.03)
    drawn = [
        colour
        for colour in re.findall(r"(?:border-left-color|border-color|background): (#\w{6})", _STYLE + page)
        if colour.lower() != "#ffffff"
    ]
    assert {plots.COLOURS[0], plots.COLOURS[1]} <= set(drawn)
    assert {colour for colour in drawn if contrast(to_rgb(colour), (1, 1, 1)) < 3} == set()


def test_the_code_on_slides_stands_out(tmp_path):
    from tests.notebooks.slides import write_assets

    write_assets(tmp_path)
    css = (tmp_path / "deck.css").read_text(encoding="utf-8")
    rules = re.findall(r"pre\.source \.(\w+) \{ color: (#[0-9A-Fa-f]{6})", css)
    assert len(rules) > 20
    faint = {
        name: colour
        for name, colour in rules
        if not name.startswith("g") and name not in ("err", "w")  # marks of diffs, not of Python
        and contrast(to_rgb(colour), to_rgb("#f4f6f8")) < ENOUGH
    }  # fmt: skip
    assert faint == {}


def test_no_message_relies_on_colour_alone():
    """An error in an explorer is named in words, not only shown in red."""
    from lecture7_utils.classroom.widgets.pieces import Explorer

    def broken():
        raise ValueError("no such place")

    import ipywidgets as widgets

    slider = widgets.IntSlider(description="row")
    state = SimpleNamespace(bad=False)
    explorer = Explorer({"row": slider}, lambda: broken() if state.bad else (b"", "fine"))
    state.bad = True
    with pytest.raises(ValueError, match="no such place"):
        slider.value = 3
    assert "ValueError: no such place" in explorer.problem.value


def test_every_explorer_has_a_reset_button_and_named_controls():
    """Each is an `Explorer`, whose controls a keyboard reaches and whose button puts all of them back."""
    from lecture7_utils.classroom import widgets as explorers

    makers = [getattr(explorers, name) for name in explorers.__all__ if name.startswith("explore_")]
    assert len(makers) >= 8
    for maker in makers:
        assert inspect.signature(maker).return_annotation is explorers.Explorer, maker.__name__
        assert '"reset"' in maker.__doc__
    import ipywidgets as widgets

    slider = widgets.IntSlider(value=2, description="row")
    explorer = explorers.Explorer({"row": slider}, lambda: (b"", str(slider.value)))
    slider.value = 7
    assert explorer.controls["reset"].description == "Reset"
    explorer.controls["reset"].click()
    assert slider.value == 2
    assert explorer.readout.value == "2"
