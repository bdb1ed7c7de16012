"""The convolution as a matrix, its transpose and its other forms against loops from the definition."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lecture7_utils.kernels import deconv
from lecture7_utils.kernels.deconv import (
    Counts,
    convolution_matrix,
    counts,
    pixel_shuffle_form,
    sub_pixel,
    transposed_convolution,
)
from tests.guards import refuses, unchanged

# ---- slow references: sums over every index, nothing shared with the code under test


def slow_convolution(x: Tensor, weight: Tensor, stride, padding, dilation, groups: int) -> Tensor:
    """y_i = sum_k w_k x_(s i + d k - p) with zeros outside; x [C, …], weight [D, C/groups, …]."""
    sizes, f = x.shape[1:], weight.shape[2:]
    n_y = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(sizes, padding, dilation, f, stride, strict=True)
    ]
    y = x.new_zeros(len(weight), *n_y)
    for c in range(len(weight)):
        group = c // (len(weight) // groups)
        for i in product(*map(range, n_y)):
            for b in range(weight.shape[1]):
                for k in product(*map(range, f)):
                    j = [
                        s * a + d * t - p
                        for s, a, d, t, p in zip(stride, i, dilation, k, padding, strict=True)
                    ]
                    if all(0 <= v < n for v, n in zip(j, sizes, strict=True)):
                        y[(c, *i)] += weight[(c, b, *k)] * x[(group * weight.shape[1] + b, *j)]
    return y


def slow_transpose(y: Tensor, weight: Tensor, stride, padding, extra, dilation, groups: int):
    """x_j = sum of w_k y_i over s i + d k - p = j, and how many of these products there are."""
    n_x = [
        s * (n - 1) + d * (k - 1) + 1 - 2 * p + e
        for s, n, d, k, p, e in zip(
            stride, y.shape[1:], dilation, weight.shape[2:], padding, extra, strict=True
        )
    ]
    x, used = y.new_zeros(weight.shape[1] * groups, *n_x), 0
    for c in range(len(weight)):
        group = c // (len(weight) // groups)
        for i in product(*map(range, y.shape[1:])):
            for b in range(weight.shape[1]):
                for k in product(*map(range, weight.shape[2:])):
                    j = [
                        s * a + d * t - p
                        for s, a, d, t, p in zip(stride, i, dilation, k, padding, strict=True)
                    ]
                    if all(0 <= v < n for v, n in zip(j, n_x, strict=True)):
                        x[(group * weight.shape[1] + b, *j)] += weight[(c, b, *k)] * y[(c, *i)]
                        used += 1
    return x, used


@st.composite
def cases(draw, most: int = 3):
    """y, weight and the arguments of a transposed convolution, of one or two axes, in float64."""
    axes = draw(st.integers(1, 2))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))

    groups = draw(st.integers(1, 3))
    weight_shape = (
        groups * draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        *each(1, 4 if axes == 2 else 6),
    )
    f, stride, dilation, sizes = weight_shape[2:], each(1, 4), each(1, 3), each(1, most)
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    # up to as much padding as leaves one entry
    padding = [
        draw(st.integers(0, (s * (n - 1) + d * (k - 1) + e) // 2))
        for s, n, d, k, e in zip(stride, sizes, dilation, f, extra, strict=True)
    ]
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    weight = torch.randn(weight_shape, generator=g, dtype=torch.float64)
    y = torch.randn(draw(st.integers(1, 2)), weight_shape[0], *sizes, generator=g, dtype=torch.float64)
    options = {"output_padding": extra, "dilation": dilation, "groups": groups}
    return y, weight, stride, padding, options


def by_shuffle(y, weight, stride=1, padding=0, **options):
    return pixel_shuffle_form(weight, stride, padding, **options)(y)


FORMS = {"stamps": transposed_convolution, "sub_pixel": sub_pixel, "pixel_shuffle": by_shuffle}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


# ---- the forms


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_each_form_is_the_sum_of_the_definition(form, case):
    y, weight, stride, padding, options = case
    got = FORMS[form](y, weight, stride, padding, **options)
    for mine, image in zip(got, y, strict=True):
        close(
            mine,
            slow_transpose(
                image,
                weight,
                stride,
                padding,
                options["output_padding"],
                options["dilation"],
                options["groups"],
            )[0],
        )


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(case=cases(most=9))
def test_each_form_is_pytorchs_transposed_convolution(form, case):
    y, weight, stride, padding, options = case
    peer = F.conv_transpose1d if weight.ndim == 3 else F.conv_transpose2d
    close(
        FORMS[form](y, weight, stride, padding, **options),
        peer(y, weight, stride=stride, padding=padding, **options),
    )


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_the_matrix_is_the_convolution_and_its_transpose_the_other_way(case):
    y, weight, stride, padding, options = case
    dilation, groups = options["dilation"], options["groups"]
    n_x = by_shuffle(y, weight, stride, padding, **options).shape[2:]
    if any(
        n + 2 * p < d * (f - 1) + 1
        for n, p, d, f in zip(n_x, padding, dilation, weight.shape[2:], strict=True)
    ):
        return
    matrix = convolution_matrix(weight, n_x, stride, padding, dilation=dilation, groups=groups)
    x = torch.randn(weight.shape[1] * groups, *n_x, generator=torch.Generator().manual_seed(3)).double()
    forward = slow_convolution(x, weight, stride, padding, dilation, groups)
    close(matrix @ x.flatten(), forward.flatten())
    peer = F.conv1d if weight.ndim == 3 else F.conv2d
    close(forward, peer(x[None], weight, None, stride, padding, dilation, groups)[0])
    if forward.shape[1:] == y.shape[2:]:  # more output padding than a stride has another y
        back = by_shuffle(y, weight, stride, padding, **options)
        close((y.flatten(1) @ matrix).view_as(back), back)
        # <W x, y> = <x, Wᵀ y>
        assert torch.dot(forward.flatten(), y[0].flatten()).item() == pytest.approx(
            torch.dot(x.flatten(), back[0].flatten()).item(), abs=1e-9
        )


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_with_kept_padding_the_matrix_acts_on_the_padded_input(case):
    _, weight, stride, padding, options = case
    n = [d * (f - 1) + 2 for d, f in zip(options["dilation"], weight.shape[2:], strict=True)]
    same = {"dilation": options["dilation"], "groups": options["groups"]}
    kept = convolution_matrix(weight, n, stride, padding, keep_padding=True, **same)
    x = torch.randn(
        weight.shape[1] * options["groups"], *n, generator=torch.Generator().manual_seed(3)
    ).double()
    padded = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    plain = convolution_matrix(weight, n, stride, padding, **same)
    close(kept @ padded.flatten(), plain @ x.flatten())
    close(kept, convolution_matrix(weight, padded.shape[1:], stride, 0, **same))


def test_the_example_of_the_notes_number_by_number():
    w = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = torch.zeros(5, 12, dtype=torch.float64)
    for row in range(5):
        for k in range(4):
            expected[row, 2 * row + k] = w[k]
    assert torch.equal(convolution_matrix(w, 8, 2, 2, keep_padding=True), expected)
    assert torch.equal(convolution_matrix(w, 12, 2), expected)
    assert torch.equal(convolution_matrix(w, 8, 2, 2), expected[:, 2:10])


@pytest.mark.parametrize("form", FORMS)
def test_a_filter_without_channels_takes_and_gives_vectors_and_planes(form):
    g = torch.Generator().manual_seed(0)
    w, y = torch.randn(4, generator=g), torch.randn(5, generator=g)
    close(FORMS[form](y, w, 2, 2), F.conv_transpose1d(y[None, None], w[None, None], None, 2, 2)[0, 0], 1e-6)
    w, y = torch.randn(3, 4, generator=g), torch.randn(5, 2, generator=g)
    found = FORMS[form](y, w, (2, 3), (0, 1), output_padding=(1, 0))
    close(found, F.conv_transpose2d(y[None, None], w[None, None], None, (2, 3), (0, 1), (1, 0))[0, 0], 1e-6)


@pytest.mark.parametrize(("f", "stride", "padding"), [(4, 2, 0), (4, 2, 1), (3, 2, 0), (5, 3, 0), (2, 3, 0)])
def test_the_phases_are_what_pytorchs_pixel_shuffle_interleaves(f, stride, padding):
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 2, f, f, generator=g, dtype=torch.float64)
    y = torch.randn(1, 3, 5, 6, generator=g, dtype=torch.float64)
    form = pixel_shuffle_form(weight, stride, padding)
    taps = math.ceil(f / stride)
    assert form.phases == (stride, stride)
    assert form.weight.shape == (2 * stride**2, 3, taps, taps)
    shuffled = F.pixel_shuffle(F.conv2d(y, form.weight, padding=taps - 1), stride)
    found = form(y)
    rows, columns = found.shape[2:]
    close(shuffled[:, :, padding : padding + rows, padding : padding + columns], found)


def test_a_phase_holds_every_sth_tap_and_no_zero_where_s_divides_f():
    form = pixel_shuffle_form(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2)
    assert form.weight.tolist() == [[[3.0, 1.0]], [[4.0, 2.0]]]
    assert pixel_shuffle_form(torch.tensor([1.0, 2.0, 3.0]), 2).weight.tolist() == [
        [[3.0, 1.0]],
        [[0.0, 2.0]],
    ]


def test_the_forward_filter_is_not_flipped_and_the_sub_pixel_one_is():
    w = torch.tensor([1.0, 2.0, 3.0, 4.0])
    one = torch.zeros(5).index_fill(0, torch.tensor(2), 1.0)
    # one entry of y stamps the filter as it is
    assert transposed_convolution(one, w, 2).tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deconv.F, "conv1d", lambda x, f, **how: seen.append((x, f, how)) or F.conv2d)
        with pytest.raises(TypeError):
            sub_pixel(torch.arange(1.0, 6.0), w, 2)
    ((padded, filters, how),) = seen
    assert padded.flatten().tolist() == [0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0, 0]
    assert filters.flatten().tolist() == [4, 3, 2, 1]
    assert how["dilation"] == (1,)
    assert "stride" not in how


# ---- counts


class Multiplications:
    """Counts those of every convolution inside, from the shapes that it is given."""

    def __init__(self):
        self.total = 0

    def watched(self, convolution):
        def run(x, weight, dilation, groups):
            found = convolution(x, weight, dilation=dilation, groups=groups)
            self.total += found.numel() * weight[0].numel()
            return found

        return run


@settings(max_examples=80, deadline=None)
@given(case=cases(most=5))
def test_counts_are_those_of_a_slow_loop_and_of_the_convolutions_that_run(case):
    y, weight, stride, padding, options = case
    y = y[:1]
    found = counts(weight, y.shape[2:], stride, padding, **options)
    assert isinstance(found, Counts)
    x, used = slow_transpose(
        y[0], weight, stride, padding, options["output_padding"], options["dilation"], options["groups"]
    )
    assert found.useful == used
    assert found.matrix == x.numel() * y.numel()
    stamps = 0
    for _entry in product(*map(range, y.shape[1:])):
        for _tap in product(*map(range, weight.shape[1:])):
            stamps += 1  # every entry of y stamps the whole filter, also where it is cut off afterwards
    assert found.stamps == stamps
    for form in ("sub_pixel", "pixel_shuffle"):
        run = Multiplications()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deconv.F, "conv1d", run.watched(F.conv1d))
            patch.setattr(deconv.F, "conv2d", run.watched(F.conv2d))
            FORMS[form](y, weight, stride, padding, **options)
        assert getattr(found, form) == run.total
    assert found.useful <= min(found.matrix, found.stamps, found.sub_pixel, found.pixel_shuffle)


def test_counts_of_the_notes_example_by_hand():
    # 12 places × 4 taps; of the 48 products 20 are a weight times an entry of y; 2 phases of 2 taps, 6 places
    assert counts(torch.zeros(4), 5, 2) == Counts(
        useful=20, matrix=60, stamps=20, sub_pixel=48, pixel_shuffle=24
    )


def test_phases_are_computed_only_where_they_reach_x():
    # padding 2 leaves 8 entries of x: 2 phases of 4 places, 2 taps each
    assert counts(torch.zeros(4), 5, 2, 2).pixel_shuffle == 16
    # padding 3 leaves 3 × 3: 4 phases of 2 × 2 places, 2 × 2 taps each
    assert counts(torch.zeros(4, 4), 3, 2, 3, output_padding=1).pixel_shuffle == 4 * 4 * 4


def test_the_zeros_that_sub_pixel_multiplies_by_are_found_by_looking():
    w, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.arange(1.0, 6.0)
    padded = [0.0] * 3 + [v for entry in y.tolist() for v in (entry, 0.0)][:-1] + [0.0] * 3
    products = [padded[j + k] for j in range(12) for k in range(4)]
    found = counts(w, 5, 2)
    assert found.sub_pixel == len(products)
    assert found.useful == sum(v != 0 for v in products)


# ---- manners


@pytest.mark.parametrize("form", FORMS)
def test_gradients_flow_to_y_and_weight(form):
    g = torch.Generator().manual_seed(2)
    y = torch.randn(1, 2, 3, 2, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 2, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda y, w: FORMS[form](y, w, (2, 3), (1, 0), groups=2, dilation=(1, 2)), (y, weight)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_the_dtype_stays_and_nothing_given_is_changed(form, dtype):
    g = torch.Generator().manual_seed(3)
    y = torch.randn(2, 3, 4, 5, generator=g).to(dtype).permute(0, 1, 3, 2)  # not contiguous
    weight = torch.randn(3, 2, 3, 3, generator=g).to(dtype)
    with unchanged(y, weight):
        found = FORMS[form](y, weight, 2, 1)
    assert found.dtype == dtype
    exact = F.conv_transpose2d(y.double(), weight.double(), stride=2, padding=1)
    close(found.double(), exact, 1e-6 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_call_that_is_broken_off_leaves_no_trace(error):
    y, weight = torch.ones(1, 1, 4), torch.ones(1, 1, 3)

    def stop(*_, **__):
        raise error("now")

    for form in ("sub_pixel", "pixel_shuffle"):
        with unchanged(y, weight), pytest.MonkeyPatch.context() as patch:
            patch.setattr(deconv.F, "conv1d", stop)
            with pytest.raises(error):
                FORMS[form](y, weight, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("form", FORMS)
def test_it_stays_on_the_device(form):
    y, weight = torch.randn(2, 3, 5, 5).double().cuda(), torch.randn(3, 2, 4, 4).double().cuda()
    found = FORMS[form](y, weight, 2, 1)
    assert found.device == y.device
    close(found, F.conv_transpose2d(y, weight, stride=2, padding=1))
    assert convolution_matrix(weight, 6, 2, 1).device == y.device


# ---- errors

W1, W2, W4 = torch.ones(3), torch.ones(3, 3), torch.ones(4, 2, 3, 3)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ([1.0, 2.0], "a float tensor"),
        (torch.ones(3, dtype=torch.long), "int64"),
        (torch.ones(()), "float32"),
        (torch.ones(1, 1, 1, 1, 1), "float32"),
        (torch.ones(2, 0, 3), "float32"),
        (torch.ones(3).to_sparse(), "a float tensor"),
    ],
)
def test_a_wrong_weight_is_refused(weight, says):
    refuses("weight", convolution_matrix, weight, 8, says=says)
    refuses("weight", transposed_convolution, torch.ones(5), weight, says=says)
    refuses("weight", sub_pixel, torch.ones(5), weight, says=says)
    refuses("weight", pixel_shuffle_form, weight, says=says)
    refuses("weight", counts, weight, 5, says=says)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("y", "weight", "says"),
    [
        ([1.0], W1, r"\[n\]"),
        (torch.ones(5, dtype=torch.int), W1, "int32"),
        (torch.ones(1, 1, 5), W1, r"\[n\] for this weight"),
        (torch.ones(0), W1, r"\[n\]"),
        (torch.ones(5), W2, r"\[h, w\]"),
        (torch.ones(1, 3, 5, 5), W4, r"\[N, 4, h, w\]"),
        (torch.ones(4, 5, 5), W4, r"\[N, 4, h, w\]"),
        (torch.ones(1, 4, 5), W4, r"\[N, 4, h, w\]"),
        (torch.ones(0, 4, 5, 5), W4, r"\[N, 4, h, w\]"),
        (torch.ones(5, dtype=torch.float64), W1, "float32 on cpu, got float64"),
    ],
)
def test_a_wrong_y_is_refused(form, y, weight, says):
    refuses("y", FORMS[form], y, weight, says=says)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("stride", 0, "at least 1"),
        ("stride", 1.5, "an int"),
        ("stride", True, "an int"),
        ("stride", (1, 2, 3), "or 2 of them"),
        ("stride", (1, -2), "at least 1"),
        ("stride", "2", "an int"),
        ("padding", -1, "at least 0"),
        ("padding", None, "an int"),
        ("padding", (1,), "or 2 of them"),
        ("output_padding", 2, "less than the larger of stride and dilation, 2"),
        ("output_padding", -1, "at least 0"),
        ("dilation", 0, "at least 1"),
        ("dilation", [1, 2.0], "an int"),
        ("groups", 0, "at least 1"),
        ("groups", 3, "divisor"),
        ("groups", 1.0, "an int"),
    ],
)
def test_a_wrong_number_is_refused(form, argument, value, says):
    options = {"stride": 2, argument: value}
    refuses(argument, FORMS[form], torch.ones(1, 4, 5, 5), W4, says=says, **options)
    refuses(argument, counts, W4, 5, says=says, **options)
    if argument in ("stride", "padding", "dilation", "groups"):
        refuses(argument, convolution_matrix, W4, 8, says=says, **options)


def test_groups_need_channels():
    refuses("groups", convolution_matrix, W1, 8, groups=2, says="without channels")


@pytest.mark.parametrize("form", FORMS)
def test_a_padding_that_leaves_nothing_is_refused(form):
    refuses("y", FORMS[form], torch.ones(2), W1, 1, 2, says=r"padding \[2\] leaves at least one")
    assert FORMS[form](torch.ones(3), W1, 1, 2).shape == (1,)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: convolution_matrix(W1, 0), "at least 1"),
        (lambda: convolution_matrix(W1, 2.0), "an int"),
        (lambda: convolution_matrix(W1, (8, 8)), "one int"),
        (lambda: convolution_matrix(W2, (8, 8, 8)), "or 2 of them"),
        (lambda: convolution_matrix(W1, 2), "at least 3"),
        (lambda: convolution_matrix(W1, 2, padding=1, dilation=2), "at least 5"),
        (lambda: convolution_matrix(W1, 5_500), "at most 30,000,000 entries, got 30,239,000"),
    ],
)
def test_an_input_size_that_gives_no_matrix_is_refused(call, says):
    refuses("input_size", call, says=says)


def test_the_other_arguments_are_refused():
    refuses("keep_padding", convolution_matrix, W1, 8, keep_padding=1)
    refuses("output_size", counts, W1, 0)
    refuses("output_size", counts, W1, (5, 5), says="one int")
    refuses("output_size", counts, W1, 2, 1, 2, says="at least one entry")
