"""The judges of lesson 5: a stub is not yet, right answers pass, wrong ones are told by name."""

import pytest
import torch

from lecture7_utils.classroom.checks import check
from tests.classroom.exercises import has_four_wrong_answers_each, is_not_yet, is_refused
from tests.guards import unchanged


def strongest(features):
    values, places = features.flatten(2).max(dim=2)
    return values, places // features.shape[3], places % features.shape[3]


def update(values, images, batch, first):
    both = torch.cat([values, batch.T], dim=1)
    numbers = torch.arange(first, first + len(batch)).expand(len(values), -1)
    best, which = both.topk(values.shape[1], dim=1)
    return best, torch.cat([images, numbers], dim=1).gather(1, which)


def field(steps, i, size):
    first = last = i
    for kernel, stride, padding in reversed(steps):
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return max(0, first), min(size, last + 1)


RIGHT = {"5a": strongest, "5b": update, "5c": field}


def _strongest(change):
    """A wrong answer from the values, rows and columns of the right one, and the features."""
    return lambda features: change(features, *strongest(features))


def _other_peak(find):
    """The peak by another criterion: values and places from [N, C, h w]."""

    def answer(features):
        values, places = find(features.flatten(2))
        return values, places // features.shape[3], places % features.shape[3]

    return answer


def _absolute(flat):
    places = flat.abs().argmax(2)
    return flat.abs().amax(2), places


def _with_numbers(numbers):
    """An update that numbers the batch's images in another way."""

    def answer(values, images, batch, first):
        best, which = torch.cat([values, batch.T], 1).topk(values.shape[1], dim=1)
        new = torch.as_tensor(numbers(first, len(batch))).expand(len(values), -1)
        return best, torch.cat([images, new], 1).gather(1, which)

    return answer


def _lowest(values, images, batch, first):
    best, which = torch.cat([values, batch.T], 1).topk(values.shape[1], dim=1, largest=False)
    return best, which


def _one_list(values, images, batch, first):
    k = values.shape[1]
    best, which = torch.cat([values, batch.T], 1).flatten().topk(k)
    return best.expand(len(values), k), which.expand(len(values), k)


def _only_batch(values, images, batch, first):
    k = min(values.shape[1], len(batch))
    best, which = batch.T.topk(k, dim=1)
    return best, which + first


def _field(step, order=reversed, end=1, clip=True):
    def answer(steps, i, size):
        a = b = i
        for kernel, stride, padding in order(steps):
            a, b = step(a, b, kernel, stride, padding)
        b += end
        return (max(0, a), min(size, b)) if clip else (a, b)

    return answer


def _step(a, b, k, s, p):
    return a * s - p, b * s - p + k - 1


def _start_and_width(steps, i, size):
    start, stop = field(steps, i, size)
    return start, stop - start


WRONG = [
    ("5a", _strongest(lambda f, v, i, j: (f.mean((2, 3)), i, j)), "mean of each map"),
    ("5a", _strongest(lambda f, v, i, j: (f.sum((2, 3)), i, j)), "sum of each map"),
    ("5a", _other_peak(_absolute), "absolute values are compared"),
    ("5a", _other_peak(lambda flat: flat.min(2)), "smallest value"),
    ("5a", _strongest(lambda f, v, i, j: (v, j, i)), "rows and columns are swapped"),
    ("5a", _strongest(lambda f, v, i, j: (v, i * f.shape[3] + j, j)), "flattened map: its row is place // w"),
    ("5a", _strongest(lambda f, v, i, j: (v, i, i * f.shape[3] + j)), "its column is place % w"),
    (
        "5a",
        _strongest(
            lambda f, v, i, j: (v, (i * f.shape[3] + j) // f.shape[2], (i * f.shape[3] + j) % f.shape[2])
        ),
        "divided by the 4 rows, not by the 7 columns",
    ),
    ("5a", _strongest(lambda f, v, i, j: (v, i, (i * f.shape[3] + j) % f.shape[2])), "remainder is taken by"),
    ("5a", _strongest(lambda f, v, i, j: (v, i + 1, j + 1)), "rows are counted from 1"),
    ("5a", _strongest(lambda f, v, i, j: (v, i, j + 1)), "columns are counted from 1"),
    ("5a", _strongest(lambda f, v, i, j: (v, i * f.shape[3] + j)), "expected 3 results, .* got 2 results"),
    ("5a", _strongest(lambda f, v, i, j: v), "expected 3 results"),
    ("5a", _strongest(lambda f, v, i, j: (f.amax((2, 3), keepdim=True), i, j)), "keepdim"),
    ("5a", _strongest(lambda f, v, i, j: (f.amax(1), i, j)), "over the channels; over the places"),
    ("5a", _strongest(lambda f, v, i, j: (f.amax((0, 2, 3)), i, j)), "batch dimension is missing"),
    ("5a", _strongest(lambda f, v, i, j: (f.amax(3), i, j)), "along the columns only"),
    ("5a", lambda f: strongest(f.relu_()), r"changes `features`.*clone"),
    ("5b", _lowest, "lowest are kept"),
    ("5b", _one_list, "each has its own"),
    ("5b", _only_batch, "only the batch is left|expected a tensor"),
    ("5b", lambda v, i, b, f: (v, i), "batch is not used"),
    ("5b", _with_numbers(lambda first, n: range(n)), "numbered from 0: the first of them is number 20"),
    ("5b", _with_numbers(lambda first, n: range(first + 1, first + 1 + n)), "numbered from 1"),
    ("5b", lambda v, i, b, f: torch.cat([v, b.T], 1).topk(v.shape[1], 1), "places in old and new"),
    ("5b", lambda v, i, b, f: (update(v, i, b, f)[0], i), "they move with their values"),
    ("5b", lambda v, i, b, f: tuple(part.flip(1) for part in update(v, i, b, f)), "in rising order"),
    (
        "5b",
        lambda v, i, b, f: (torch.cat([v, b.T], 1).sort(1, True).values, i),
        "only the 3 highest of them are asked for",
    ),
    ("5b", lambda v, i, b, f: tuple(part.T for part in update(v, i, b, f)), "channels and places"),
    ("5b", lambda v, i, b, f: update(v, i, b, f)[0], "expected 2 results"),
    ("5b", lambda v, i, b, f: update(v.clamp_(min=0), i, b, f), r"changes `values`.*clone"),
    ("5c", _field(_step, clip=False), "clip it to 0 and"),
    ("5c", _field(_step, end=0), "one past the last pixel"),
    ("5c", _field(lambda a, b, k, s, p: (a * s, b * s + k - 1)), "padding is forgotten"),
    ("5c", _field(lambda a, b, k, s, p: (a * s + p, b * s + p + k - 1)), "padding is added"),
    ("5c", _field(lambda a, b, k, s, p: (a - p, b - p + k - 1)), "strides are forgotten"),
    ("5c", _field(_step, order=list), "go back from the last one"),
    ("5c", _field(lambda a, b, k, s, p: (a * s - p, b * s - p + k)), "one pixel too many"),
    ("5c", lambda steps, i, size: field(steps[-1:], i, size), "only the last step"),
    ("5c", lambda steps, i, size: field(steps[:1], i, size), "only the first step"),
    (
        "5c",
        _start_and_width,
        "start and the width",
    ),
    ("5c", lambda steps, i, size: list(range(*field(steps, i, size))), "expected two numbers"),
    ("5c", lambda steps, i, size: "0 to 3", "expected two numbers"),
]  # fmt: skip


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_passes(exercise, capsys):
    with unchanged():
        assert check(exercise, RIGHT[exercise]).ok is True
    assert capsys.readouterr().out.startswith(f"{exercise}  ✓ ")


def test_right_answers_written_in_another_way_pass():
    def by_loops(features):
        n, c, _, w = features.shape
        places = torch.zeros(n, c, dtype=torch.long)
        for a in range(n):
            for b in range(c):
                flat = features[a, b].flatten().tolist()
                places[a, b] = flat.index(max(flat))
        return [features.flatten(2).gather(2, places[:, :, None])[:, :, 0], places // w, places % w]

    def by_sorting(values, images, batch, first):
        both = torch.cat([values, batch.T], 1)
        numbers = torch.cat([images, (torch.arange(len(batch)) + first).repeat(len(values), 1)], 1)
        order = both.argsort(1, descending=True)[:, : values.shape[1]]
        return both.gather(1, order).double(), numbers.gather(1, order)

    def by_marking(steps, i, size):
        seen = {i}
        for kernel, stride, padding in steps[::-1]:
            seen = {place * stride - padding + tap for place in seen for tap in range(kernel)}
        seen = [p for p in seen if 0 <= p < size]
        return torch.tensor([min(seen), max(seen) + 1])

    for exercise, answer in (("5a", by_loops), ("5b", by_sorting), ("5c", by_marking)):
        assert check(exercise, answer).ok is True


def _stubs():
    def dots(*arguments): ...

    def documented(features):
        """→ values, rows and columns."""
        ...

    def raising(*arguments):
        raise NotImplementedError

    return None, ..., dots, documented, raising


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_stub_is_not_yet(exercise, capsys):
    for stub in _stubs():
        if stub is not None and stub is not ... and stub.__name__ == "documented" and exercise != "5a":
            continue
        is_not_yet(exercise, stub, capsys)


@pytest.mark.parametrize(("exercise", "answer", "says"), WRONG)
def test_a_wrong_answer_is_refused_by_the_name_of_its_mistake(exercise, answer, says, capsys):
    is_refused(exercise, answer, says, capsys)


def test_every_exercise_of_the_lesson_has_at_least_four_wrong_answers():
    has_four_wrong_answers_each("5", RIGHT, WRONG)
