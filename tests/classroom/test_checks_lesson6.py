"""The judges of lesson 6: a stub is not yet, right answers pass, wrong ones are told by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lecture7_utils.classroom.checks import check
from lecture7_utils.kernels.deconv import (
    convolution_matrix,
    counts,
    pixel_shuffle_form,
    transposed_convolution,
)
from tests.classroom.exercises import STUBS, has_four_wrong_answers_each, is_not_yet, is_refused
from tests.guards import unchanged


def matrix_of(w, n, s):
    matrix = torch.zeros((n - len(w)) // s + 1, n)
    for i, row in enumerate(matrix):
        row[s * i : s * i + len(w)] = w
    return matrix


def _conv(y, w, **how):
    return F.conv1d(y[None, None], w[None, None], **how)[0, 0]


def spread(y, s):
    wide = y.new_zeros(s * (len(y) - 1) + 1)
    wide[::s] = y
    return wide


def run_backwards(y, w, s):
    return _conv(F.pad(spread(y, s), (len(w) - 1, len(w) - 1)), w.flip(0))


def multiplications(n, f, s):
    places = (s * (n - 1) + f) * f
    return places, places - n * f


RIGHT = {"6a": matrix_of, "6b": run_backwards, "6c": multiplications}


def _rows_at(start):
    """A matrix whose row i has the filter from start(i, f, n, s) on, cut off at the ends."""

    def answer(w, n, s):
        matrix = torch.zeros((n - len(w)) // s + 1, n)
        for i, row in enumerate(matrix):
            for k, value in enumerate(w):
                if 0 <= start(i, len(w), n, s) + k < n:
                    row[start(i, len(w), n, s) + k] = value
        return matrix

    return answer


def _one_row_more(w, n, s):
    matrix = torch.zeros(-(-(n - len(w)) // s) + 1, n)
    for i, row in enumerate(matrix):
        part = row[s * i : s * i + len(w)]
        part[:] = w[: len(part)]
    return matrix


def _overwritten(y, w, s):
    x = torch.zeros(s * (len(y) - 1) + len(w))
    for i, value in enumerate(y):
        x[s * i : s * i + len(w)] = value * w
    return x


def _averaged(y, w, s):
    many = run_backwards(torch.ones_like(y), torch.ones_like(w), s)
    return run_backwards(y, w, s) / many.round().clamp_min(1)


def _padded(wide, w, ends):
    return _conv(F.pad(wide, (ends, ends)), w.flip(0))


def _spread_too_far(y, s):
    return torch.stack([y, *[torch.zeros_like(y)] * (s - 1)], 1).flatten()


def _long(n, f, s):
    """The length of the vector with all its zeros."""
    return s * (n - 1) + 1 + 2 * (f - 1)


WRONG = [
    ("6a", lambda w, n, s: matrix_of(w.flip(0), n, s), "filter is flipped"),
    ("6a", _rows_at(lambda i, f, n, s: i), "move on by 1, not by the stride 2"),
    ("6a", _rows_at(lambda i, f, n, s: i * f), "by the filter's size 4"),
    ("6a", _rows_at(lambda i, f, n, s: i * s + s), "begins at entry 2"),
    ("6a", _rows_at(lambda i, f, n, s: n - f - s * ((n - f) // s) + s * i), "left over is left at the end"),
    ("6a", lambda w, n, s: matrix_of(w, n, s).flip(0), "move to the left"),
    ("6a", _rows_at(lambda i, f, n, s: 0), "every row is the same"),
    ("6a", lambda w, n, s: matrix_of(torch.ones_like(w), n, s), "ones where the weights"),
    ("6a", _one_row_more, "one row too many"),
    ("6a", lambda w, n, s: matrix_of(w, n, s)[:-1], "last row is missing"),
    ("6a", lambda w, n, s: matrix_of(w, n, 1), "a row for every place"),
    ("6a", lambda w, n, s: matrix_of(w, n, s).T, "this is the transpose"),
    ("6a", lambda w, n, s: w.expand((n - len(w)) // s + 1, -1), "as long as the input"),
    ("6a", lambda w, n, s: matrix_of(w, n, s)[0], "one row; one for each output"),
    ("6a", lambda w, n, s: matrix_of(w, n, s) @ torch.ones(n), "this is a y"),
    ("6a", lambda w, n, s: matrix_of(w, n, s).flatten(), "not flattened"),
    ("6a", lambda w, n, s: F.pad(matrix_of(w, n, s), (len(w) - 1, len(w) - 1)), "add none"),
    ("6a", lambda w, n, s: F.pad(matrix_of(w, n, s)[:1], (0, 0, 0, (n - len(w)) // s)), "first row only"),
    ("6a", lambda w, n, s: matrix_of(w, n, s).tolist(), "expected a tensor"),
    ("6a", lambda w, n, s: matrix_of(w.mul_(1.5), n, s), r"changes `w`.*clone"),
    ("6b", lambda y, w, s: run_backwards(y, w.flip(0), s), "filter is not flipped"),
    ("6b", lambda y, w, s: run_backwards(y.flip(0), w, s), "y is turned round"),
    ("6b", lambda y, w, s: run_backwards(y, w, s).flip(0), "both are turned round"),
    ("6b", _overwritten, "they add up"),
    ("6b", _averaged, "mean is taken"),
    ("6b", lambda y, w, s: _conv(spread(y, s), w.flip(0)), "3 zeros before and after are missing"),
    ("6b", lambda y, w, s: run_backwards(y, w, s)[: s * (len(y) - 1) + 1], "as many after them"),
    ("6b", lambda y, w, s: run_backwards(y, w, 1), "zeros between the entries of y are missing"),
    ("6b", lambda y, w, s: run_backwards(y, w, s + 1), r"s − 1 of them, 1, are asked for"),
    ("6b", lambda y, w, s: _padded(_spread_too_far(y, s), w, len(w) - 1), "none behind the last one"),
    ("6b", lambda y, w, s: _padded(spread(y, s), w, len(w)), "f − 1 of them, 3"),
    ("6b", lambda y, w, s: _conv(y, w, stride=s), "convolution of y with stride s"),
    ("6b", lambda y, w, s: run_backwards(y, w, s)[::s], "stride 1"),
    ("6b", lambda y, w, s: run_backwards(y, w, s)[None, None], "batch and channel dimensions"),
    ("6b", lambda y, w, s: convolution_matrix(w, s * (len(y) - 1) + len(w), s).T, "its product with y"),
    ("6b", lambda y, w, s: y, "longer than y"),
    ("6b", lambda y, w, s: run_backwards(y, w, s) + 0.1, "expected .* got .* at entry"),
    ("6c", lambda n, f, s: multiplications(n, f, s)[::-1], "swapped"),
    ("6c", lambda n, f, s: (multiplications(n, f, s)[0], n * f), "the useful ones"),
    ("6c", lambda n, f, s: (multiplications(n, f, s)[0], _long(n, f, s) - n), "zeros in the vector"),
    ("6c", lambda n, f, s: (_long(n, f, s) * f, (_long(n, f, s) - n) * f), "fewer places"),
    ("6c", lambda n, f, s: ((s * (n - 1) + 1) * f, (s * (n - 1) + 1 - n) * f), "before and after y are"),
    ("6c", lambda n, f, s: (s * n * f, (s - 1) * n * f), "not s n"),
    ("6c", lambda n, f, s: (n * f, 0), "useful ones alone"),
    ("6c", lambda n, f, s: (s * (n - 1) + f, s * (n - 1) + f - n), "takes f multiplications"),
    ("6c", lambda n, f, s: (7, 3), "every place of x takes f"),
    ("6c", lambda n, f, s: (multiplications(n, f, s)[0], 5), "each entry of y meets each weight once"),
    ("6c", lambda n, f, s: n * f, r"two ints, \(all, by zero\), got 20"),
    ("6c", lambda n, f, s: (1, 2, 3), "two ints"),
    ("6c", lambda n, f, s: (*multiplications(n, f, s)[:1], "some"), "two ints"),
]  # fmt: skip


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_passes(exercise, capsys):
    with unchanged():
        assert check(exercise, RIGHT[exercise]).ok is True
    assert capsys.readouterr().out.startswith(f"{exercise}  ✓ ")


def test_right_answers_written_in_another_way_pass():
    def by_transposing(y, w, s):
        return F.conv_transpose1d(y[None, None], w[None, None], stride=s)[0, 0].double()

    def by_counting(n, f, s):
        found = counts(torch.zeros(f), n, s)
        return torch.tensor([found.sub_pixel, found.sub_pixel - found.useful])

    ways = {
        "6a": [
            lambda w, n, s: convolution_matrix(w, n, s),
            lambda w, n, s: convolution_matrix(w, n, s).numpy(),
            lambda w, n, s: torch.eye(n).unfold(1, len(w), s).mul(w).sum(2).T,
        ],
        "6b": [
            by_transposing,
            transposed_convolution,
            lambda y, w, s: pixel_shuffle_form(w, s)(y),
            lambda y, w, s: convolution_matrix(w, s * (len(y) - 1) + len(w), s).T @ y,
        ],
        "6c": [
            by_counting,
            lambda n, f, s: list(multiplications(n, f, s)),
            lambda n, f, s: np.array(multiplications(n, f, s)),
        ],
    }  # fmt: skip
    for exercise, answers in ways.items():
        for answer in answers:
            verdict = check(exercise, answer)
            assert verdict.ok is True, verdict.message


@pytest.mark.parametrize("exercise", RIGHT)
@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_is_not_yet(exercise, stub, capsys):
    is_not_yet(exercise, stub, capsys)


@pytest.mark.parametrize(("exercise", "answer", "says"), WRONG)
def test_a_wrong_answer_is_refused_by_the_name_of_its_mistake(exercise, answer, says, capsys):
    is_refused(exercise, answer, says, capsys)


def test_every_exercise_of_the_lesson_has_at_least_four_wrong_answers():
    has_four_wrong_answers_each("6", RIGHT, WRONG)
