"""Matrices as figures: every number in its cell, labels, colours, sizes, errors."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lecture7_utils.classroom.lecture import WIDTH, lecture_mode
from lecture7_utils.classroom.matrices import entry_colours, entry_text, plot_matrices
from tests.guards import refuses, unchanged

MINUS = "\N{MINUS SIGN}"


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def grid(ax, rows, columns):
    """The texts of the cells, by their places."""
    found = {}
    for text in ax.texts:
        x, y = text.get_position()
        found[int(y), int(x)] = text.get_text()
    assert set(found) == {(i, j) for i in range(rows) for j in range(columns)}
    return [[found[i, j] for j in range(columns)] for i in range(rows)]


def test_every_number_stands_in_its_cell():
    w = torch.tensor([[1.0, -0.25, 0.0], [12.0, 0.5, -3.0]])
    with unchanged(w):
        figure = plot_matrices({"W": w, "its transpose": w.T}, title="Two of them")
    first, second = figure.axes
    assert grid(first, 2, 3) == [["1", f"{MINUS}0.25", "0"], ["12", "0.5", f"{MINUS}3"]]
    assert grid(second, 3, 2) == [["1", "12"], [f"{MINUS}0.25", "0.5"], ["0", f"{MINUS}3"]]
    assert [t.get_text() for t in figure.texts if t.get_text()][:2] == ["W", "its transpose"]
    assert figure.get_suptitle() == "Two of them"


def test_labels_stand_at_their_rows_and_columns():
    figure = plot_matrices({"W": np.ones((2, 3))}, labels={"W": (["y1", "y2"], ["x1", "x2", "x3"])})
    (ax,) = figure.axes
    figure.canvas.draw()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x1", "x2", "x3"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["y1", "y2"]
    assert ax.get_yticks().tolist() == [0.5, 1.5]
    top_down = ax.get_ylim()
    assert top_down[0] > top_down[1], "row 1 has to be the upper one"


@pytest.mark.parametrize("lecture", [False, True])
@pytest.mark.parametrize("shapes", [[(5, 12), (5, 5)], [(9, 25)], [(3, 3)] * 4, [(64, 256)], [(1, 1)]])
def test_nothing_overlaps_and_it_fits_the_page(shapes, lecture):
    lecture_mode(lecture)
    try:
        figure = plot_matrices(
            {f"matrix {i}": torch.full(s, 0.25) for i, s in enumerate(shapes)},
            title="A headline of some length",
        )
    finally:
        lecture_mode(False)
    assert figure.get_size_inches()[0] <= WIDTH + 0.2
    figure.canvas.draw()
    boxes = [ax.get_position() for ax in figure.axes]
    for i, a in enumerate(boxes):
        assert 0 <= a.x0 < a.x1 <= 1
        assert 0 <= a.y0 < a.y1 <= 1
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    for ax in figure.axes:
        width = ax.get_window_extent().width / ax.get_xlim()[1]
        for text in ax.texts[:3]:
            assert text.get_size() >= 10
            assert text.get_window_extent().width < width
    assert bool(figure.axes[0].texts) == (max(c for _, c in shapes) <= (17 if lecture else 25))


def test_colours_are_of_one_scale_and_white_at_0():
    colours = entry_colours(np.array([[2.0, -2.0, 0.0, 1.0]]), 2.0)[0].astype(int)
    assert colours[0, 0] > colours[0, 2] + 40
    assert colours[1, 2] > colours[1, 0] + 40
    assert colours[2].min() > 240
    assert colours[3, 2] > colours[0, 2]
    assert (entry_colours(np.zeros((1, 2)), 0.0) > 240).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.0, f"{MINUS}1"),
        (0.25, "0.25"),
        (1 / 3, "0.33"),
        (123.4, "123"),
    ],
)
def test_numbers_are_short(value, text):
    assert entry_text(value) == text


@pytest.mark.parametrize(
    ("matrices", "argument"),
    [(torch.ones(2, 2), "matrices"), ({}, "matrices"), ({"a": [1.0]}, "matrices['a']")],
)
def test_wrong_matrices_are_refused(matrices, argument):
    with pytest.raises((TypeError, ValueError)) as caught:
        plot_matrices(matrices)
    assert str(caught.value).startswith(f"{argument}: expected")
    assert ", got " in str(caught.value)


@pytest.mark.parametrize("value", [torch.ones(3), torch.ones(2, 2, 2), torch.full((2, 2), torch.nan)])
def test_what_is_no_matrix_is_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"^matrices\['a'\]: expected .*got"):
        plot_matrices({"a": value})


@pytest.mark.parametrize(
    "labels", [[], {"b": (["1"], ["1"])}, {"a": "ab"}, {"a": (["1"], ["1", "2"])}, {"a": (["1"],)}]
)
def test_wrong_labels_are_refused(labels):
    with pytest.raises((TypeError, ValueError), match=r"^labels.*: expected .*got"):
        plot_matrices({"a": torch.ones(2, 2)}, labels=labels)


def test_other_arguments_are_refused():
    refuses("columns", plot_matrices, {"a": torch.ones(2, 2)}, columns=0)
    refuses("same_scale", plot_matrices, {"a": torch.ones(2, 2)}, same_scale=1)


def test_one_scale_for_all_or_one_for_each():
    def colour(ax):
        return ax.images[0].get_array()[0, 0].tolist()

    large_and_small = {"a": torch.full((1, 2), 8.0), "b": torch.full((1, 2), 1.0)}
    a, b = plot_matrices(large_and_small).axes
    assert colour(a) == colour(b)
    c, d = plot_matrices(large_and_small, same_scale=True).axes
    assert colour(c) == colour(a) != colour(d)
