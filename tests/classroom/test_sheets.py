"""Sheets of search results: the right pixels, the marked rectangles, values and names; errors."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from lecture7_utils.classroom.lecture import lecture_mode
from lecture7_utils.classroom.sheets import plot_hits
from lecture7_utils.kernels.ranking import Hit
from lecture7_utils.kernels.search import top_activations
from lecture7_utils.shop.photos import Photo
from lecture7_utils.shop.scenes import Scenes
from tests.guards import refuses, unchanged
from tests.nets import random_net

PIXELS = [
    np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8) for i in range(6)
]  # fmt: skip


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def hit(image: int, value: float = 1.0, rectangle=(4, 6, 14, 26)) -> Hit:
    return Hit(image, "", value, (0, 0), rectangle, image)


ROWS = {
    "top": [hit(0, 3.14159), hit(3, -0.25, (0, 0, 40, 50)), hit(5)],
    "at the border": [hit(2, 1e-9, (30, 45, 40, 50))],
}


def drawn(figure) -> list[np.ndarray]:
    (ax,) = figure.axes
    return [np.asarray(image.get_array()) for image in ax.images]


def test_crops_are_the_pixels_of_the_receptive_fields():
    figure = plot_hits(ROWS, PIXELS, title="what was found")
    want = [PIXELS[0][4:14, 6:26], PIXELS[3], PIXELS[5][4:14, 6:26], PIXELS[2][30:40, 45:50]]
    for got, expected in zip(drawn(figure), want, strict=True):
        assert np.array_equal(got, expected)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert {"top", "3.14", "\N{MINUS SIGN}0.25", "1", "1e\N{MINUS SIGN}09"} <= set(said)
    assert "at the\nborder" in said or "at the border" in said
    assert figure.get_suptitle() == "what was found"
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= 10
    assert not [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def test_crops_keep_their_shape_and_one_scale_in_a_row():
    figure = plot_hits(ROWS, PIXELS)
    extents = [image.get_extent() for image in figure.axes[0].images]
    sizes = [(right - left, bottom - top) for left, right, bottom, top in extents]
    assert sizes[0] == pytest.approx((20 * sizes[1][0] / 50, 10 * sizes[1][0] / 50))
    assert sizes[1][0] / sizes[1][1] == pytest.approx(50 / 40)
    width, height = figure.get_size_inches()
    left, right = figure.axes[0].get_xlim()
    bottom, top = figure.axes[0].get_ylim()
    assert (right - left, bottom - top) == pytest.approx((width, height))  # an inch is an inch both ways


def test_whole_pictures_have_their_rectangles_marked():
    figure = plot_hits({"top": ROWS["top"][:1]}, PIXELS, whole=True)
    (image,) = figure.axes[0].images
    assert np.array_equal(np.asarray(image.get_array()), PIXELS[0])
    left, right, _, top = image.get_extent()
    scale = (right - left) / 50
    frames = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert len(frames) == 2
    for frame in frames:
        assert frame.get_xy() == pytest.approx((left + 6 * scale, top + 4 * scale))
        assert (frame.get_width(), frame.get_height()) == pytest.approx((20 * scale, 10 * scale))


@pytest.mark.parametrize("shown", ["a page", "a projector"])
def test_nothing_overlaps_or_leaves_the_figure(shown):
    rows = {f"channel {i} with a longer name": [hit(n, n / 7) for n in range(5)] for i in range(3)}
    lecture_mode(shown == "a projector")
    try:
        figure = plot_hits(rows, PIXELS, title="A title that is long enough to be broken into lines " * 3)
    finally:
        lecture_mode(False)
    renderer = figure.canvas.get_renderer()
    figure.canvas.draw()
    boxes = [text.get_window_extent(renderer) for text in (*figure.axes[0].texts, figure._suptitle)]
    images = [image.get_window_extent(renderer) for image in figure.axes[0].images]
    for i, box in enumerate(boxes):
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y0 >= -1
        assert box.y1 <= figure.bbox.y1 + 1
        assert not any(box.overlaps(image) for image in images), i
        assert not any(box.overlaps(other) for other in boxes[:i]), i


def test_every_kind_of_data():
    one = {"top": [hit(0)]}
    floats = torch.from_numpy(PIXELS[0]).permute(2, 0, 1).float() / 255
    photo = Photo("x", Image.fromarray(PIXELS[0]), None, "")
    wanted = drawn(plot_hits(one, PIXELS))[0]
    for data in (
        [floats],
        floats[None],
        [(floats, 3)],
        [photo],
        [photo.image],
        [floats.numpy().transpose(1, 2, 0)],
    ):
        assert np.array_equal(drawn(plot_hits(one, data))[0], wanted)
    shown = plot_hits(one, [floats * 2 - 1], show=lambda item: (item + 1) / 2)
    assert np.array_equal(drawn(shown)[0], wanted)
    refuses("data", plot_hits, one, [floats * 2 - 1], says="display")


def test_scenes_from_the_search_to_the_sheet():
    net, scenes = random_net(2, (64, 64), dtype=torch.float32), Scenes(6, size=64)
    ranking = top_activations(net, "stem", scenes, 3)
    with unchanged(net):
        figure = plot_hits({"channel 1": ranking.top(1), "any": ranking.sample(1, 0, 1)}, scenes)
    hits = [*ranking.top(1), *ranking.sample(1, 0, 1)]
    for got, found in zip(drawn(figure), hits, strict=True):
        top, left, bottom, right = found.rectangle
        want = scenes[found.image].image[:, top:bottom, left:right].permute(1, 2, 0).numpy()
        assert np.abs(got / 255 - want).max() <= 0.003


def test_a_picture_beside_a_row():
    figure = plot_hits(ROWS, PIXELS, beside={"at the border": PIXELS[4]}, title="beside")
    images = drawn(figure)
    assert [image.shape for image in images] == [
        (10, 20, 3),
        (40, 50, 3),
        (10, 20, 3),
        (40, 50, 3),
        (10, 5, 3),
    ]
    assert np.array_equal(images[3], PIXELS[4])
    extents = [image.get_extent() for image in figure.axes[0].images]
    assert extents[3][1] <= min(extents[i][0] for i in (0, 1, 2, 4))
    assert extents[3][2] > extents[4][3]
    assert len({text.get_text() for text in figure.axes[0].texts}) == 6
    refuses(
        "beside",
        plot_hits,
        ROWS,
        PIXELS,
        beside={"other": PIXELS[0]},
        says="'top', 'at the border', got 'other'",
    )
    refuses("beside", plot_hits, ROWS, PIXELS, beside=[PIXELS[0]])
    refuses("beside", plot_hits, ROWS, PIXELS, beside={"top": None})


def test_an_empty_row_and_a_unit_that_sees_nothing():
    figure = plot_hits({"none": [], "padding": [hit(1, 0.5, (0, 0, 0, 0))]}, PIXELS)
    assert [image.shape for image in drawn(figure)] == [(40, 50, 3)]


def test_refused_arguments():
    refuses("rows", plot_hits, [hit(0)], PIXELS)
    refuses("rows", plot_hits, {}, PIXELS)
    refuses("rows", plot_hits, {"a": [3]}, PIXELS)
    refuses("rows", plot_hits, {"a": hit(0)._asdict()}, PIXELS)
    refuses("whole", plot_hits, ROWS, PIXELS, whole=None)
    refuses("data", plot_hits, ROWS, [p[:20] for p in PIXELS], says="the pictures that the search saw")
    refuses("data", plot_hits, ROWS, [None] * 6)
    refuses("show", plot_hits, ROWS, PIXELS, show=lambda item: None)
