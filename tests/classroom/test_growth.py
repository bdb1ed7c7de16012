"""The figure of how an occluder spreads: every rectangle on its map, at its place."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lecture7_utils.classroom.growth import plot_growth
from lecture7_utils.classroom.lecture import WIDTH, lecture_mode
from lecture7_utils.kernels.dirty import DirtyRectangle
from tests.guards import refuses, unchanged

ROWS = [
    DirtyRectangle("stem", (1, 2, 5, 8), (12, 10)),
    DirtyRectangle("blocks.0", (0, 0, 6, 5), (6, 5)),
    DirtyRectangle("blocks.1", (0, 0, 0, 0), (3, 3)),
]
CHANGES = {"stem": torch.rand(12, 10), "blocks.0": np.ones((6, 5)), "blocks.1": torch.zeros(1, 3, 3)}
PHOTO = torch.rand(3, 24, 20)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_each_rectangle_is_on_its_map():
    with unchanged(PHOTO, CHANGES["stem"]):
        figure = plot_growth(PHOTO, (4, 6, 12, 18), ROWS, CHANGES, columns=2, title="It grows")
    photo, stem, first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == [
        "photo, 24 × 20",
        "stem, 12 × 10: 20%",
        "blocks.0, 6 × 5: 100%",
        "blocks.1, 3 × 3: 0%",
    ]
    for ax, (top, left, bottom, right) in (
        (photo, (4, 6, 12, 18)),
        (stem, (1, 2, 5, 8)),
        (first, (0, 0, 6, 5)),
    ):
        (patch,) = ax.patches
        assert patch.get_xy() == (left - 0.5, top - 0.5)
        assert (patch.get_width(), patch.get_height()) == (right - left, bottom - top)
    assert not second.patches
    assert np.array_equal(stem.images[0].get_array(), CHANGES["stem"].double().numpy())
    assert stem.images[0].get_clim() == (0, CHANGES["stem"].max().item())
    assert figure.get_suptitle() == "It grows"


@pytest.mark.parametrize("lecture", [False, True])
def test_it_fits_the_page_and_titles_do_not_meet(lecture):
    lecture_mode(lecture)
    try:
        figure = plot_growth(PHOTO, (4, 6, 12, 18), ROWS * 2, CHANGES, title="Growth")
        figure.canvas.draw()
        assert figure.get_size_inches()[0] <= WIDTH + 0.01
        boxes = [ax.title.get_window_extent() for ax in figure.axes]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    finally:
        lecture_mode(False)


def test_bad_arguments():
    good = (PHOTO, (4, 6, 12, 18), ROWS, CHANGES)
    refuses("image", plot_growth, 3, *good[1:])
    refuses("window", plot_growth, PHOTO, (1, 2, 3), ROWS, CHANGES)
    refuses("rows", plot_growth, PHOTO, good[1], [], CHANGES)
    refuses("rows", plot_growth, PHOTO, good[1], [(0, 0, 1, 1)], CHANGES)
    refuses("changes", plot_growth, PHOTO, good[1], ROWS, [1])
    refuses("changes", plot_growth, PHOTO, good[1], ROWS, {"stem": CHANGES["stem"]}, says="'blocks.0'")
    for bad in (torch.rand(3, 3), -torch.rand(12, 10)):
        refuses("changes", plot_growth, PHOTO, good[1], ROWS, {**CHANGES, "stem": bad})
    refuses("columns", plot_growth, *good, columns=0)
