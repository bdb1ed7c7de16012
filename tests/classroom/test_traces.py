"""Traces as pictures and the sheet of crops and traces: the right pixels, places and words; errors."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lecture7_utils.classroom.lecture import lecture_mode
from lecture7_utils.classroom.traces import plot_traces, trace_picture
from lecture7_utils.kernels.ranking import Hit
from tests.guards import refuses, unchanged

SIZE = (40, 50)
PIXELS = [np.random.default_rng(i).integers(0, 256, (*SIZE, 3), dtype=np.uint8) for i in range(6)]


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


def traces(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(len(hits), 3, *SIZE, generator=g) for name, hits in ROWS.items()}


def by_hand(values: np.ndarray) -> np.ndarray:
    """[3, h, w] → uint8 [h, w, 3], each value for itself."""
    there = sorted(abs(v) for v in values.flatten() if v)
    place = 0.995 * (len(there) - 1)
    low = int(place)
    limit = there[low] + (place - low) * (there[min(low + 1, len(there) - 1)] - there[low])
    out = np.zeros((*values.shape[1:], 3), np.uint8)
    for c, i, j in np.ndindex(*values.shape):
        out[i, j, c] = round(128 + 127 * max(-1.0, min(1.0, values[c, i, j] / limit)))
    return out


def drawn(figure) -> list[np.ndarray]:
    (ax,) = figure.axes
    return [np.asarray(image.get_array()) for image in ax.images]


# ---- one trace


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_zero_is_grey_and_signs_are_above_and_below(seed, dtype):
    g = torch.Generator().manual_seed(seed)
    trace = torch.randn(3, 9, 7, generator=g).to(dtype)
    trace[:, 2:5] = 0
    with unchanged(trace):
        got = trace_picture(trace)
    want = by_hand(trace.double().numpy())
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1  # a half may be rounded either way
    assert (got[2:5] == 128).all()
    assert ((got > 128) <= (trace.permute(1, 2, 0).double().numpy() > 0)).all()


def test_a_batch_of_one_a_factor_and_a_limit():
    trace = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    assert np.array_equal(trace_picture(trace[None]), trace_picture(trace))
    assert np.array_equal(trace_picture(8 * trace), trace_picture(trace))
    fixed = trace_picture(trace, limit=2 * trace.abs().max().item())
    assert fixed.max() < 200
    assert fixed.min() > 60
    assert (trace_picture(torch.zeros(3, 4, 5)) == 128).all()


def test_wrong_traces_are_refused():
    refuses("trace", trace_picture, None)
    refuses("trace", trace_picture, torch.zeros(3, 4, 4, dtype=torch.uint8))
    refuses("trace", trace_picture, torch.zeros(4, 4))
    refuses("trace", trace_picture, torch.zeros(2, 3, 4, 4))
    refuses("trace", trace_picture, torch.zeros(1, 4, 4))
    refuses("trace", trace_picture, torch.full((3, 4, 4), torch.nan), says="finite")
    refuses("limit", trace_picture, torch.zeros(3, 4, 4), 0)
    refuses("limit", trace_picture, torch.zeros(3, 4, 4), "1")


# ---- the sheet


def test_under_each_crop_is_its_trace_cut_to_the_same_rectangle():
    given = traces()
    with unchanged(*given.values()):
        figure = plot_traces(ROWS, PIXELS, given, title="channels")
    got = iter(drawn(figure))
    for name, hits in ROWS.items():
        for k, one in enumerate(hits):
            top, left, bottom, right = one.rectangle
            assert np.array_equal(next(got), PIXELS[one.image][top:bottom, left:right])
            want = by_hand(given[name][k, :, top:bottom, left:right].double().numpy())
            assert np.abs(next(got).astype(int) - want.astype(int)).max() <= 1
    assert next(got, None) is None
    assert figure.get_suptitle() == "channels"
    said = [text.get_text() for text in figure.axes[0].texts]
    assert {"top", "3.14", "\N{MINUS SIGN}0.25", "1", "1e\N{MINUS SIGN}09"} <= set(said)
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= 10


@pytest.mark.parametrize("lecture", [False, True])
def test_pictures_are_in_pairs_of_one_size_that_do_not_overlap(lecture):
    lecture_mode(lecture)
    try:
        figure = plot_traces(ROWS, PIXELS, traces())
    finally:
        lecture_mode(False)
    extents = [image.get_extent() for image in figure.axes[0].images]  # left, right, bottom, top
    width, height = figure.get_size_inches()
    for crop, trace in zip(extents[::2], extents[1::2], strict=True):
        assert crop[:2] == trace[:2]
        assert crop[2] - crop[3] == pytest.approx(trace[2] - trace[3])
        assert trace[3] > crop[2]  # under it
    for i, a in enumerate(extents):
        assert a[0] >= 0
        assert a[1] <= width
        assert a[3] >= 0
        assert a[2] <= height
        for b in extents[:i]:
            apart = a[1] <= b[0] or b[1] <= a[0] or a[2] <= b[3] or b[2] <= a[3]
            assert apart


def test_show_makes_pictures_and_a_row_may_be_empty():
    pictures = [torch.from_numpy(p).permute(2, 0, 1).float() / 127.5 - 1 for p in PIXELS]
    rows, given = {**ROWS, "none": []}, {**traces(), "none": torch.zeros(0, 3, *SIZE)}
    figure = plot_traces(rows, pictures, given, show=lambda image: (image + 1) / 2)
    assert np.abs(drawn(figure)[0].astype(int) - PIXELS[0][4:14, 6:26]).max() <= 1
    assert len(drawn(figure)) == 8


def test_wrong_arguments_are_refused():
    good = traces()
    refuses("rows", plot_traces, [], PIXELS, good)
    refuses("rows", plot_traces, {}, PIXELS, {})
    refuses("traces", plot_traces, ROWS, PIXELS, good["top"])
    refuses("traces", plot_traces, ROWS, PIXELS, {"top": good["top"]}, says="'at the border'")
    refuses("traces", plot_traces, ROWS, PIXELS, {**good, "top": good["top"][:2]}, says="one for each hit")
    refuses("traces", plot_traces, ROWS, PIXELS, {**good, "top": [1, 2, 3]})
    refuses("traces", plot_traces, ROWS, PIXELS, {**good, "top": good["top"][..., :30]}, says="40 × 50")
    refuses("traces", plot_traces, ROWS, PIXELS, {**good, "top": good["top"] * torch.nan}, says="finite")
    refuses("data", plot_traces, ROWS, [p[:8, :8] for p in PIXELS], good)
