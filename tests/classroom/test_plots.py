"""Figures: what they show equals what they are given, every text is legible, nothing global changes."""

import itertools
import re
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lecture7_utils.classroom import lecture, plots
from lecture7_utils.shop.models import Prediction
from lecture7_utils.shop.photos import Photo
from tests.guards import refuses, unchanged

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (96, 128, 3), dtype=np.uint8)
MAP = torch.rand(96, 128, generator=torch.Generator().manual_seed(0)) ** 4
SIGNED = torch.randn(96, 128, generator=torch.Generator().manual_seed(1))
TOP = [Prediction(f"a dog of a rather long breed {i}", i, 7.0 - 2 * i, 0.5**i / 2) for i in range(5)]
MASK = torch.zeros(96, 128, dtype=torch.bool)
MASK[10:60, 0:50] = True


@pytest.fixture(autouse=True)
def _no_window_and_none_left(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("a plot function must not show"))
    yield
    plt.close("all")
    lecture._lecture = False


def _many(n):
    return {f"the name of map {i}": MAP * (i + 1) for i in range(n)}


FIGURES = {
    "images": lambda: plots.plot_images([PIXELS] * 3, ["one", "two", "a third with a very long title"]),
    "many images": lambda: plots.plot_images([PIXELS] * 13, [f"picture {i}" for i in range(13)], title="All"),
    "one image": lambda: plots.plot_images([PIXELS], title="One"),
    "unlike images": lambda: plots.plot_images([PIXELS, PIXELS[:40], PIXELS[:, :50]], ["a", "b", "c\nd"]),
    "map": lambda: plots.plot_map(PIXELS, MAP, title="Look here", label="|∂s/∂x|"),
    "signed map": lambda: plots.plot_map(PIXELS, SIGNED, signed=True, label="a long label of the map " * 3),
    "zero map": lambda: plots.plot_map(PIXELS, torch.zeros(96, 128)),
    "constant map": lambda: plots.plot_map(PIXELS, torch.full((96, 128), -2.5)),
    "maps": lambda: plots.plot_maps(PIXELS, _many(3), title="Three", label="|∂s/∂x|"),
    "many maps": lambda: plots.plot_maps(PIXELS, _many(7), overlay=True, same_scale=True),
    "small maps": lambda: plots.plot_maps(PIXELS, {"grid": SIGNED[:5, :7]}, signed=True),
    "top": lambda: plots.plot_top(TOP, image=PIXELS, title="What it says"),
    "top alone": lambda: plots.plot_top(TOP[:3]),
    "curves": lambda: plots.plot_curves(
        {f"curve {i}": (range(9), GENERATOR.random(9)) for i in range(7)}, xlabel="x", ylabel="y", title="C"
    ),
    "one curve": lambda: plots.plot_curves({"loss": (range(99), range(99))}, xlabel="step", ylabel="loss"),
    "rectangles": lambda: plots.plot_rectangles(
        PIXELS, [(0, 0, 30, 30), (60, 60, 96, 128)], labels=["dog", "tag"], title="Boxes"
    ),
    "masks": lambda: plots.plot_masks(PIXELS, {"truth": MASK, "found": ~MASK}, title="Masks"),
}


def _visible_texts(figure):
    """The texts that are drawn: not ticks outside an axis' limits, nor those of an axis switched off."""
    drawn, draw = [], matplotlib.text.Text.draw

    def noting(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip() and self not in drawn:
            drawn.append(self)
        return draw(self, renderer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.text.Text, "draw", noting)
        figure.canvas.draw()
    return drawn


@pytest.mark.parametrize("projector", [False, True])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_legible_and_making_it_changes_nothing(name, projector):
    lecture._lecture = projector
    before, values, pixels = dict(plt.rcParams), MAP.clone(), PIXELS.copy()
    with unchanged(SIGNED):
        figure = FIGURES[name]()
    assert isinstance(figure, matplotlib.figure.Figure)
    assert dict(plt.rcParams) == before
    assert torch.equal(MAP, values)
    assert np.array_equal(PIXELS, pixels)
    texts = _visible_texts(figure)
    assert texts
    assert all(t.get_fontsize() >= 10 for t in texts)
    boxes = [t.get_window_extent().padded(-1) for t in texts]
    for (a, one), (b, two) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not one.overlaps(two), f"{a.get_text()!r} lies over {b.get_text()!r}"
    drawn = figure.get_tightbbox()
    assert drawn.width <= lecture.WIDTH + 0.4
    assert drawn.height * figure.dpi < (1200 if projector else 800)
    # pictures keep their pixels square
    for axes in figure.axes:
        if axes.images and axes.get_label() != "<colorbar>":
            assert axes.get_aspect() == 1.0


def _says(figure):
    return " ".join(" ".join(t.get_text().split()) for t in _visible_texts(figure))


def test_the_colour_bar_says_unit_ends_and_normalisation():
    text = _says(plots.plot_map(PIXELS, MAP, label="|∂s/∂x|", how="max"))
    assert "|∂s/∂x|" in text
    assert "0 to highest value" in text
    assert f"{MAP.max():.3g}" in text
    text = _says(plots.plot_map(PIXELS, MAP, how="percentile"))
    assert "clipped at the 99 % quantile" in text
    assert f"{np.percentile(MAP.numpy().astype(float), 99):.3g}" in text
    text = _says(plots.plot_map(PIXELS, SIGNED, signed=True, how="symmetric"))
    most = f"{SIGNED.abs().max():.3g}"
    assert f"\N{MINUS SIGN}{most}" in text
    assert "symmetric around 0" in text
    text = _says(plots.plot_maps(PIXELS, {"a": SIGNED, "b": 3 * SIGNED}, how="range", same_scale=True))
    assert text.count("one scale: lowest to highest value") == 2
    assert text.count(f"{3 * SIGNED.max():.3g}") == 2


def test_one_scale_gives_equal_values_equal_colours():
    figure = plots.plot_maps(PIXELS, {"a": MAP, "b": 3 * MAP}, same_scale=True, how="max")
    a, b = (axes.images[0] for axes in figure.axes[1:3])
    assert a.get_clim() == b.get_clim() == (0.0, pytest.approx(3 * MAP.max().item()))
    figure = plots.plot_maps(PIXELS, {"a": MAP, "b": 3 * MAP}, how="max")
    a, b = (axes.images[0] for axes in figure.axes[1:3])
    assert b.get_clim()[1] == pytest.approx(3 * a.get_clim()[1])


def test_the_picture_is_called_as_one_says():
    assert _says(plots.plot_maps(PIXELS, {"a": MAP}, picture_name="the scene")).startswith("the scene")
    assert "photo" in _says(plots.plot_maps(PIXELS, {"a": MAP}))


def test_a_map_is_drawn_with_its_own_values():
    figure = plots.plot_map(PIXELS, SIGNED[None], signed=True)
    photo, map_, both = figure.axes[:3]
    assert np.array_equal(photo.images[0].get_array(), PIXELS)
    assert np.allclose(map_.images[0].get_array(), SIGNED)
    assert map_.images[0].get_cmap().name == "RdBu_r"
    low, high = map_.images[0].get_clim()
    assert low == -high
    expected = plots.overlay(PIXELS, SIGNED, colours="RdBu_r", limits=(low, high))
    assert np.array_equal(both.images[0].get_array(), expected)


# ------------------------------------------------------------------------------------------------ overlay


def _slow_overlay(pixels, values, alpha, low, high, colours, diverging):
    """The definition, pixel by pixel."""
    table = matplotlib.colormaps[colours]
    result = np.zeros(pixels.shape)
    for i, j in np.ndindex(values.shape):
        u = min(1.0, max(0.0, (values[i, j] - low) / (high - low)))
        colour = 255 * np.array(table(round(u * 255))[:3])
        r, g, b = (float(v) for v in pixels[i, j])
        grey = 0.299 * r + 0.587 * g + 0.114 * b
        weight = alpha ** (2 - (abs(2 * u - 1) if diverging else u))
        for k, v in enumerate((r, g, b)):
            faded = (1 - alpha) * v + alpha * grey
            result[i, j, k] = (1 - weight) * faded + weight * colour[k]
    return result


@pytest.mark.parametrize(("colours", "diverging"), [("inferno", False), ("viridis", False), ("RdBu_r", True)])
@pytest.mark.parametrize("alpha", [0.0, 0.35, 0.6, 1.0])
def test_overlay_against_its_definition(colours, diverging, alpha):
    pixels, values = PIXELS[:9, :7], SIGNED[:9, :7].double()
    got = plots.overlay(pixels, values, alpha=alpha, colours=colours, limits=(-1.0, 1.5))
    want = _slow_overlay(pixels, values.numpy(), alpha, -1.0, 1.5, colours, diverging)
    assert got.dtype == np.uint8
    assert got.shape == (9, 7, 3)
    assert np.abs(got.astype(float) - want).max() <= 1.5  # a palette of 8 bits, rounded
    if alpha == 0:
        assert np.array_equal(got, pixels)


def test_overlay_takes_every_kind_of_picture_alike():
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    image = Image.fromarray(PIXELS)
    kinds = [PIXELS, PIXELS / 255, tensor, tensor.double() / 255, image, Photo("mine", image, None, "test")]
    results = [plots.overlay(kind, MAP) for kind in kinds]
    assert all(np.array_equal(r, results[0]) for r in results)
    for map_ in (MAP[None], MAP.numpy(), MAP.double()):
        assert np.array_equal(plots.overlay(PIXELS, map_), results[0])
    for half in (MAP.half(), MAP.bfloat16()):
        assert np.array_equal(plots.overlay(PIXELS, half), plots.overlay(PIXELS, half.float()))


def test_overlay_is_pure():
    pixels, values = PIXELS.copy(), MAP.clone()
    pixels.setflags(write=False)
    first = plots.overlay(pixels, values)
    first += 1  # what it gave belongs to the caller
    assert np.array_equal(plots.overlay(pixels, values) + 1, first)
    assert torch.equal(values, MAP)


# ------------------------------------------------------------------------------------------------ normalise


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.sampled_from([1e-8, 1.0, 1e6]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_normalise_against_its_definition(h, w, seed, scale, dtype):
    drawn = torch.randn(h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    map_ = (scale * drawn).to(dtype)
    x = map_.double().numpy()
    scaled, text = plots.normalise(map_, "symmetric")
    assert scaled.dtype == dtype
    assert scaled.shape == (h, w)
    assert np.allclose(scaled, x / np.abs(x).max(), atol=1e-6)
    assert "symmetric" in text
    scaled, _ = plots.normalise(map_[None], "range")
    if h * w > 1:
        assert np.allclose(scaled, (x - x.min()) / (x.max() - x.min()), atol=1e-5)
    positive, x = map_.abs(), np.abs(x)
    scaled, _ = plots.normalise(positive, "max")
    assert np.allclose(scaled, x / x.max(), atol=1e-6)
    scaled, text = plots.normalise(positive, "percentile")
    ordered = np.sort(x.ravel())
    place = 0.99 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    quantile = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    assert np.allclose(scaled, np.minimum(x / quantile, 1), atol=1e-5)


def test_normalise_of_odd_maps():
    for how in plots.HOW:
        scaled, text = plots.normalise(torch.zeros(3, 4), how)
        assert torch.equal(scaled, torch.zeros(3, 4))
        assert "0 everywhere" in text
    assert torch.equal(plots.normalise(torch.full((2, 2), 3.0), "max")[0], torch.ones(2, 2))
    sparse = torch.zeros(20, 20)
    sparse[3, 3] = 7.0  # the 99 % quantile is 0
    assert plots.normalise(sparse, "percentile")[0].max() == 1
    assert plots.normalise(torch.ones(2, 2, dtype=torch.bool))[0].dtype == torch.float32
    assert plots.normalise(np.ones((2, 2), np.int64))[0].dtype == torch.float32


# ------------------------------------------------------------------------------------------------ the others


def test_contact_sheets_have_even_rows_and_the_names_of_photos():
    figure = plots.plot_images([Photo(f"photo {i}", Image.fromarray(PIXELS), None, "t") for i in range(6)])
    tops = {round(axes.get_subplotspec().get_topmost_subplotspec().rowspan.start) for axes in figure.axes}
    assert tops == {0, 1}
    assert [axes.get_title() for axes in figure.axes] == [f"photo {i}" for i in range(6)]
    figure = plots.plot_images(torch.rand(4, 3, 8, 8), columns=2)
    assert len(figure.axes) == 4
    assert figure.axes[0].get_gridspec().ncols == 2


def test_top_shows_both_numbers_of_every_class():
    text = _says(plots.plot_top(TOP, image=PIXELS))
    for p in TOP:
        assert f"{p.score:.2f}" in text
        assert f"{100 * p.probability:.1f} %" in text
        assert p.category in text
    figure = plots.plot_top(TOP)
    scores, probabilities = figure.axes
    assert [bar.get_width() for bar in scores.patches] == [p.score for p in TOP]
    assert [bar.get_width() for bar in probabilities.patches] == [p.probability for p in TOP]
    heights = [bar.get_y() for bar in scores.patches]
    assert heights == sorted(heights, reverse=True)


def test_curves_are_the_values_and_the_names_follow_their_ends():
    x = torch.linspace(0, 1, 5)
    figure = plots.plot_curves({"low": (x, x), "high": (x.tolist(), (2 * x).numpy())}, xlabel="x", ylabel="y")
    (axes,) = figure.axes
    assert np.allclose(axes.lines[1].get_ydata(), 2 * x)
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["high", "low"]
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()


def test_rectangles_lie_on_the_pixels_borders():
    figure = plots.plot_rectangles(PIXELS, torch.tensor([[2, 3, 10, 20]]))
    (patch,) = figure.axes[0].patches
    # pixel i covers i - 0.5 to i + 0.5; bottom and right are exclusive
    assert (patch.get_x(), patch.get_y()) == (2.5, 1.5)
    assert (patch.get_width(), patch.get_height()) == (17, 8)


def test_outlines_of_masks_enclose_their_pixels():
    figure = plots.plot_masks(PIXELS, {"m": MASK})
    lines = [p.vertices for c in figure.axes[0].collections for p in c.get_paths()]
    points = np.concatenate(lines)
    assert points[:, 0].min() == pytest.approx(-0.5)
    assert points[:, 0].max() == pytest.approx(49.5)
    assert points[:, 1].min() == pytest.approx(9.5)
    assert points[:, 1].max() == pytest.approx(59.5)
    empty = plots.plot_masks(PIXELS, {"m": torch.zeros(96, 128)})
    assert not empty.axes[0].collections


_NAN = torch.full((96, 128), torch.nan)
_XY = {"a": ([0, 1], [0, 1])}


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("image", lambda: plots.plot_map(3, MAP)),
        ("image", lambda: plots.overlay(torch.zeros(5, 96, 128), MAP)),
        ("image", lambda: plots.overlay(torch.full((3, 96, 128), 2.0), MAP)),
        ("image", lambda: plots.plot_top(TOP, image=np.zeros((4, 4, 4, 4)))),
        ("map", lambda: plots.plot_map(PIXELS, MAP[:90])),
        ("map", lambda: plots.plot_map(PIXELS, MAP[0])),
        ("map", lambda: plots.plot_map(PIXELS, _NAN)),
        ("map", lambda: plots.plot_map(PIXELS, "map")),
        ("map", lambda: plots.overlay(PIXELS, torch.zeros(2, 96, 128))),
        ("map", lambda: plots.normalise(torch.zeros(0, 3))),
        ("map", lambda: plots.normalise([[1.0]])),
        ("how", lambda: plots.normalise(MAP, "log")),
        ("how", lambda: plots.normalise(MAP, None)),
        ("how", lambda: plots.normalise(SIGNED, "max")),
        ("how", lambda: plots.normalise(SIGNED, "percentile")),
        ("how", lambda: plots.plot_map(PIXELS, MAP, how="sqrt")),
        ("how", lambda: plots.plot_maps(PIXELS, {"a": SIGNED}, how="max")),
        ("alpha", lambda: plots.overlay(PIXELS, MAP, alpha=1.5)),
        ("alpha", lambda: plots.overlay(PIXELS, MAP, alpha="half")),
        ("colours", lambda: plots.overlay(PIXELS, MAP, colours="rainbows")),
        ("limits", lambda: plots.overlay(PIXELS, MAP, limits=(1, 0))),
        ("limits", lambda: plots.overlay(PIXELS, MAP, limits=1)),
        ("limits", lambda: plots.overlay(PIXELS, MAP, limits=(0, torch.inf))),
        ("signed", lambda: plots.plot_map(PIXELS, MAP, signed="yes")),
        ("maps", lambda: plots.plot_maps(PIXELS, [MAP])),
        ("maps", lambda: plots.plot_maps(PIXELS, {})),
        ("picture_name", lambda: plots.plot_maps(PIXELS, {"a": MAP}, picture_name=3)),
        ("maps['a']", lambda: plots.plot_maps(PIXELS, {"a": _NAN})),
        ("maps['a']", lambda: plots.plot_maps(PIXELS, {"a": MAP[:7]}, overlay=True)),
        ("overlay", lambda: plots.plot_maps(PIXELS, {"a": MAP}, overlay=1)),
        ("columns", lambda: plots.plot_maps(PIXELS, {"a": MAP}, columns=0)),
        ("columns", lambda: plots.plot_images([PIXELS], columns=1.5)),
        ("images", lambda: plots.plot_images([])),
        ("images", lambda: plots.plot_images("dalmatian")),
        ("images", lambda: plots.plot_images(torch.zeros(3, 8, 8))),
        ("images[1]", lambda: plots.plot_images([PIXELS, 5])),
        ("titles", lambda: plots.plot_images([PIXELS], ["a", "b"])),
        ("predictions", lambda: plots.plot_top([])),
        ("predictions", lambda: plots.plot_top([1, 2])),
        ("predictions", lambda: plots.plot_top(TOP[0].score)),
        ("curves", lambda: plots.plot_curves({}, xlabel="x", ylabel="y")),
        ("curves", lambda: plots.plot_curves([1, 2], xlabel="x", ylabel="y")),
        ("curves", lambda: plots.plot_curves({i: ([0], [0]) for i in range(8)}, xlabel="x", ylabel="y")),
        ("curves['a']", lambda: plots.plot_curves({"a": [1, 2, 3]}, xlabel="x", ylabel="y")),
        ("curves['a']", lambda: plots.plot_curves({"a": ([1], [1, 2])}, xlabel="x", ylabel="y")),
        ("curves['a']", lambda: plots.plot_curves({"a": ([1], [torch.nan])}, xlabel="x", ylabel="y")),
        ("curves['a']", lambda: plots.plot_curves({"a": (["x"], [1])}, xlabel="x", ylabel="y")),
        ("rectangles", lambda: plots.plot_rectangles(PIXELS, 3)),
        ("rectangles[0]", lambda: plots.plot_rectangles(PIXELS, [1, 2, 3, 4])),
        ("rectangles[0]", lambda: plots.plot_rectangles(PIXELS, [(5, 5, 5, 9)])),
        ("labels", lambda: plots.plot_rectangles(PIXELS, [(0, 0, 5, 9)], labels=["a", "b"])),
        ("masks", lambda: plots.plot_masks(PIXELS, MASK)),
        ("masks", lambda: plots.plot_masks(PIXELS, {})),
        ("masks['m']", lambda: plots.plot_masks(PIXELS, {"m": MAP})),
        ("masks['m']", lambda: plots.plot_masks(PIXELS, {"m": MASK[:5]})),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name_and_leaves_no_figure(argument, call):
    with unchanged():
        refuses(argument.split("[")[0], call, says=f"^{re.escape(argument)}: ")
    assert not plt.get_fignums()


def test_a_picture_may_be_anything_with_the_fields_of_a_prediction():
    rows = [SimpleNamespace(category="cat", index=0, score=-3.0, probability=1.0)]
    text = _says(plots.plot_top(rows))
    assert "100.0 %" in text
    assert "-3.00" in text
