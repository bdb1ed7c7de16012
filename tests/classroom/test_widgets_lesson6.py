"""The explorer of lesson 6: every control from end to end, the right numbers in picture and text, errors."""

import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from lecture7_utils.classroom.widgets import explore_convolution, lesson6
from lecture7_utils.classroom.widgets.pieces import Explorer
from lecture7_utils.kernels.deconv import convolution_matrix
from tests.classroom.explorers import resets_with_one_redraw
from tests.classroom.test_widgets import _changes, drive_all
from tests.guards import refuses, unchanged

MINUS = "\N{MINUS SIGN}"


def plain(explorer) -> str:
    return re.sub("<[^>]*>", "", explorer.readout.value.replace("<br>", "\n")).replace(MINUS, "-")


def vector(explorer, name: str) -> list[float]:
    """The numbers of a line `name = (…)` of the readout."""
    line = re.search(rf"^{name} = \((.*)\)$", plain(explorer), re.M)
    assert line, plain(explorer)
    return [float(v) for v in line[1].split(",")]


def setting(explorer, **values) -> None:
    for name, value in values.items():
        explorer.controls[name].value = value


@pytest.fixture
def written(monkeypatch) -> list[tuple[tuple, str]]:
    """Where each text is drawn, and what it says."""
    texts, draw = [], ImageDraw.ImageDraw.text

    def text(self, place, words, *args, **kwargs):
        texts.append((place, words))
        return draw(self, place, words, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def cells(texts, rows: int, columns: int) -> list[list[str]]:
    """The texts that stand in the cells, row by row."""
    found = {}
    for (x, y), words in texts:
        j, i = (x - lesson6.MARGIN[0]) // lesson6.CELL[0], (y - lesson6.MARGIN[1]) // lesson6.CELL[1]
        if x > lesson6.MARGIN[0] and y > lesson6.MARGIN[1]:
            found[i, j] = words
    assert set(found) == {(i, j) for i in range(rows) for j in range(columns)}
    return [[found[i, j] for j in range(columns)] for i in range(rows)]


# ---- driving


def test_every_control_moves_from_end_to_end():
    with unchanged():
        explorer = explore_convolution()
        seen = drive_all(explorer)
    assert isinstance(explorer, Explorer)
    assert set(seen) == {"filter", "stride", "padding", "matrix", "reset"}
    for control in ("filter", "stride", "padding"):
        pictures, readouts = _changes(seen[control])
        assert pictures > 2, control
        assert readouts > 2, control
    assert _changes(seen["matrix"]) == (3, 1)
    assert all(0 < len(control.description) <= 24 for control in explorer.controls.values())


def test_reset_puts_everything_back_with_one_redraw():
    resets_with_one_redraw(explore_convolution())


# ---- what it shows


def test_it_begins_with_the_example_of_the_notes(written):
    explore_convolution()
    expected = [["0"] * 12 for _ in range(5)]
    for i in range(5):
        expected[i][2 * i], expected[i][2 * i + 3] = f"{MINUS}1", "1"
    assert cells(written, 5, 12) == expected
    words = [text for _, text in written]
    assert words.count("x₈") == words.count("y₅") == 1
    assert "W: 5 × 12, y = W x" in words


@pytest.mark.parametrize("view", lesson6.VIEWS)
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (3, 1), (4, 3)])
@pytest.mark.parametrize("name", list(lesson6.FILTERS))
def test_every_entry_stands_in_its_cell(name, stride, padding, view, written):
    explorer = explore_convolution()
    setting(explorer, filter=name, stride=stride, padding=padding)
    written.clear()
    setting(explorer, matrix=lesson6.VIEWS[(lesson6.VIEWS.index(view) + 1) % 3])
    written.clear()
    setting(explorer, matrix=view)
    w = torch.tensor(lesson6.FILTERS[name], dtype=torch.float64)
    # by PyTorch: the columns of W are the convolutions of the unit vectors
    n = 8 + 2 * padding
    matrix = F.conv1d(torch.eye(n).double()[:, None], w[None, None], stride=stride)[:, 0].T
    want = {"W": matrix, "W Wᵀ": matrix @ matrix.T, "Wᵀ W": matrix.T @ matrix}[view]
    texts = cells(written, *want.shape)
    shown = torch.tensor([[float(v.replace(MINUS, "-")) for v in row] for row in texts]).double()
    assert torch.allclose(shown, want, rtol=0.06, atol=1e-9)
    assert ((shown == 0) == (want == 0)).all()


@pytest.mark.parametrize("view", lesson6.VIEWS)
def test_no_title_is_cut_off_above_a_small_matrix(view, monkeypatch):
    titles, draw = [], ImageDraw.ImageDraw.text

    def text(self, place, words, *args, **kwargs):
        if place == (2, 2):
            titles.append((words, place[0] + kwargs["font"].getlength(words), self.im.size[0]))
        return draw(self, place, words, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    explorer = explore_convolution()
    setting(explorer, filter="as printed: −1, 0, 0, 0, 1", stride=4, padding=0, matrix=view)
    words, end, width = titles[-1]
    assert words.startswith(view)
    assert end <= width


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("name", list(lesson6.FILTERS))
def test_the_readout_goes_there_and_back_as_pytorch_does(name, stride, padding):
    explorer = explore_convolution()
    setting(explorer, filter=name, stride=stride, padding=padding)
    w = torch.tensor(lesson6.FILTERS[name], dtype=torch.float64)[None, None]
    x = F.pad(torch.arange(1.0, 9.0).double(), (padding, padding))
    y = F.conv1d(x[None, None], w, stride=stride)
    back = F.conv_transpose1d(y, w, stride=stride)[0, 0]
    back = F.pad(back, (0, len(x) - len(back)))
    assert vector(explorer, "x") == x.tolist()
    assert vector(explorer, "y = W x") == pytest.approx(y.flatten().tolist(), rel=0.06)
    text = plain(explorer)
    up, down = re.search(r"\+ 1 = (\d+), PyTorch's .* \+ 1 = (\d+)", text).groups()
    assert int(down) == y.numel()
    assert int(up) == -(-(len(x) - w.numel()) // stride) + 1
    assert ("read by no row" in text) == (up != down)
    if up != down:
        unread = (len(x) - w.numel()) % stride
        end = "1 entry at the end is" if unread == 1 else f"{unread} entries at the end are"
        assert f"; {end} read by no row" in text
    matrix = convolution_matrix(w[0, 0], 8, stride, padding, keep_padding=True)
    gram = matrix @ matrix.T
    if torch.equal(gram, torch.diag(gram.diagonal())):
        norm = float(re.search(r"W Wᵀ = (\S+) I", text)[1])
        assert norm == pytest.approx(float((w**2).sum()))
        assert vector(explorer, f"Wᵀ y / {norm:.4g}") == pytest.approx(
            (back / norm).tolist(), rel=0.06, abs=1e-9
        )
        share = float(re.search(r"([\d.]+) % of", text)[1]) / 100
        assert share == pytest.approx(float(((back / norm) ** 2).sum() / (x**2).sum()), abs=1e-3)
    else:
        assert "not orthogonal" in text
        assert vector(explorer, "Wᵀ y") == pytest.approx(back.tolist(), rel=0.06, abs=1e-9)
        distance = float(re.search(r"x is ([\d.]+) times", text)[1])
        assert distance == pytest.approx(float((back - x).norm() / x.norm()), abs=0.006)


def test_the_filter_as_printed_is_told_from_the_one_that_is_meant():
    explorer = explore_convolution()
    assert "orthogonal: W Wᵀ = 2 I" in plain(explorer)
    setting(explorer, filter="as printed: −1, 0, 0, 0, 1")
    assert "not orthogonal: two of them have the product -1" in plain(explorer)


def test_colours_say_the_sign_padding_is_grey_and_what_is_never_read_is_crossed_out():
    explorer = explore_convolution({"a": [2.0, -2.0]}, size=4)
    setting(explorer, stride=3, padding=1)  # reads entries 0, 1 and 3, 4 of 6
    with Image.open(io.BytesIO(explorer.picture.value)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    width, height = lesson6.CELL

    def corner(i, j):
        # away from the number in the middle and from a cross's lines
        y, x = lesson6.MARGIN[1] + height * i + 6, lesson6.MARGIN[0] + width * j + width // 2
        return pixels[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1))

    red, blue, white, grey = corner(1, 3), corner(0, 1), corner(1, 1), corner(1, 0)
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40
    assert white.min() > 235
    assert grey.max() < 225
    assert np.ptp(grey) < 8
    top = slice(lesson6.MARGIN[1], lesson6.MARGIN[1] + 2 * height)

    def dark(j):
        """Dark pixels of a column outside of its numbers."""
        left = lesson6.MARGIN[0] + width * j
        return int((pixels[top, left + 4 : left + 12].max(2) < 170).sum())

    assert dark(2) > 10  # never read
    assert dark(1) == 0


def test_filters_of_ones_own():
    explorer = explore_convolution({"<b> & co": np.array([1.0, 3.0]), "t": torch.tensor([1, 2, 3])}, size=3)
    assert [*explorer.controls["filter"].options] == ["<b> & co", "t"]
    drive_all(explorer)
    assert vector(explorer, "x") == [0, 0, 1, 2, 3, 0, 0]


# ---- errors


def test_an_error_in_a_callback_is_shown_kept_and_raised(monkeypatch):
    explorer = explore_convolution()

    def broken(*_, **__):
        raise RuntimeError("no such matrix")

    with monkeypatch.context() as patch:
        patch.setattr(lesson6, "convolution_matrix", broken)
        with pytest.raises(RuntimeError, match="no such matrix"):
            explorer.controls["stride"].value = 3
    assert len(explorer.failures) == 1
    assert "no such matrix" in explorer.problem.value
    explorer.controls["stride"].value = 2
    assert explorer.problem.value == ""


@pytest.mark.parametrize("size", [1, 11, 2.5, None])
def test_a_wrong_size_is_refused(size):
    refuses("size", explore_convolution, size=size)


@pytest.mark.parametrize(
    ("filters", "argument", "says"),
    [
        ([1, 2], "filters", "a dict"),
        ({}, "filters", "at least one"),
        ({"a": 3}, "filters['a']", "a sequence"),
        ({"a": "12"}, "filters['a']", "a sequence"),
        ({"a": []}, "filters['a']", "1 to 8 numbers"),
        ({"a": [1] * 9}, "filters['a']", "1 to 8 numbers, as x has 8, got 9"),
        ({"a": [1, "b"]}, "filters['a']", "a number"),
        ({"a": [1, float("nan")]}, "filters['a']", "finite"),
        ({"a": [0, 0.0]}, "filters['a']", "not 0"),
    ],
)
def test_wrong_filters_are_refused(filters, argument, says):
    with pytest.raises((TypeError, ValueError)) as caught:
        explore_convolution(filters)
    assert str(caught.value).startswith(f"{argument}: expected")
    assert ", got " in str(caught.value)
    assert re.search(says, str(caught.value))
