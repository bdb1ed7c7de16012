"""The judges of lesson 8: a stub is not yet, right answers pass, wrong ones are told by name."""

import pytest
import torch
import torch.nn.functional as F

from lecture7_utils.classroom.checks import check
from lecture7_utils.kernels.metrics import boundary_error
from lecture7_utils.shop import decoders
from tests.classroom.exercises import has_four_wrong_answers_each, is_not_yet, is_refused
from tests.guards import unchanged


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def enlarge(x, weight):
    return F.conv2d(doubled(x), weight, padding=weight.shape[-1] // 2)


def walk(start, end, t):
    a = torch.arccos((start @ end / (start.norm() * end.norm())).clamp(-1, 1))
    return (torch.sin((1 - t) * a) * start + torch.sin(t * a) * end) / torch.sin(a)


def band_of(truth):
    band = torch.zeros_like(truth)
    rows, columns = truth[1:] != truth[:-1], truth[:, 1:] != truth[:, :-1]
    band[1:] |= rows
    band[:-1] |= rows
    band[:, 1:] |= columns
    band[:, :-1] |= columns
    return band


def outline_error(mask, truth):
    return (mask != truth)[band_of(truth)].float().mean()


RIGHT = {"8a": enlarge, "8b": walk, "8c": outline_error}


def _same(x, weight):
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def _holes(x, at=0):
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, at::2, at::2] = x
    return wide


def _transposed(x, weight):
    k = weight.shape[-1]
    return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2, padding=k // 2, output_padding=1)


def _first_only(x, weight):
    found = enlarge(x, weight)
    found[1:] = 0
    return found


def _at(angle_of):
    def answer(start, end, t):
        a = torch.as_tensor(angle_of(start, end))
        return (torch.sin((1 - t) * a) * start + torch.sin(t * a) * end) / torch.sin(a)

    return answer


def _angle(start, end):
    return torch.arccos(F.cosine_similarity(start, end, 0))


def _line(start, end, t):
    return (1 - t) * start + t * end


def _stretched(start, end, t):
    z = _line(start, end, t)
    return z / z.norm() * ((1 - t) * start.norm() + t * end.norm())


def _with_cosines(start, end, t):
    a = _angle(start, end)
    return (torch.cos((1 - t) * a) * start + torch.cos(t * a) * end) / torch.cos(a)


def _corners_too(mask, truth):
    near = F.max_pool2d(truth.float()[None], 3, 1, 1)[0] > 0
    far = F.max_pool2d((~truth).float()[None], 3, 1, 1)[0] > 0
    return (mask != truth)[near & far].float().mean()


def _share(band, wrong, among=None):
    return wrong[band].sum() / (len(band.flatten()) if among is None else among)


def _outside_is_background(mask, truth):
    wide = F.pad(truth, (1, 1, 1, 1))
    return (mask != truth)[band_of(wide)[1:-1, 1:-1]].float().mean()


WRONG = [
    ("8a", _transposed, "this is a transposed convolution"),
    ("8a", lambda x, w: _same(_holes(x), w), "zeros are put between the pixels, as in"),
    ("8a", lambda x, w: _same(_holes(x, 1), w), "zeros are put between the pixels"),
    ("8a", lambda x, w: doubled(_same(x, w)), "convolution comes first"),
    ("8a", lambda x, w: enlarge(x, w.flip(2, 3)), "turned round"),
    ("8a", lambda x, w: enlarge(x, w.transpose(2, 3)), "rows and columns are swapped"),
    ("8a", lambda x, w: _same(x.repeat(1, 1, 2, 2), w), "whole picture is repeated"),
    ("8a", lambda x, w: _same(F.interpolate(x, scale_factor=2, mode="bilinear"), w), "blended"),
    ("8a", lambda x, w: enlarge(x, w) / 4, "divided by 4"),
    ("8a", lambda x, w: enlarge(x, w).relu(), "ReLU"),
    ("8a", _first_only, "only the first picture"),
    ("8a", _same, "not doubled"),
    ("8a", lambda x, w: doubled(x), "not convolved"),
    ("8a", lambda x, w: F.conv2d(doubled(x), w), "padding of 1"),
    ("8a", lambda x, w: F.conv2d(doubled(x), w, padding=w.shape[-1] - 1), "padding is too large"),
    ("8a", lambda x, w: doubled(F.conv2d(x, w)), "comes last, and is padded"),
    ("8a", lambda x, w: _same(x.repeat_interleave(2, 2), w), "columns are not doubled"),
    ("8a", lambda x, w: _same(x.repeat_interleave(2, 3), w), "rows are not doubled"),
    ("8a", lambda x, w: enlarge(doubled(x), w), "four times as long"),
    ("8a", lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), stride=2), "transposed convolution gives"),
    ("8a", lambda x, w: enlarge(x, w)[0], "batch dimension is missing"),
    ("8a", lambda x, w: enlarge(x, w) + 0.1, "expected .* got .* at image"),
    ("8a", lambda x, w: enlarge(x.mul_(2), w), r"changes `x`"),
    ("8b", _line, "this is the straight line; the great"),
    ("8b", lambda a, b, t: walk(a, b, 1 - t), "start and end are swapped: t = 0"),
    ("8b", lambda a, b, t: _line(b, a, t), "straight line, with start and end swapped"),
    ("8b", lambda a, b, t: walk(a, b, t) * torch.sin(_angle(a, b)), "division by sin"),
    ("8b", lambda a, b, t: walk(a / a.norm(), b / b.norm(), t), "scaled to length 1 and not back"),
    ("8b", lambda a, b, t: F.normalize(walk(a, b, t), dim=0), "the result is scaled to length 1"),
    ("8b", lambda a, b, t: F.normalize(_line(a, b, t), dim=0), "straight line is scaled"),
    ("8b", _stretched, "stretched"),
    ("8b", _with_cosines, "cosines stand"),
    ("8b", _at(lambda a, b: torch.pi / 2), "right angle for every pair"),
    ("8b", _at(lambda a, b: torch.rad2deg(_angle(a, b))), "degrees"),
    ("8b", _at(lambda a, b: F.cosine_similarity(a, b, 0)), "arccos gives it"),
    ("8b", _at(lambda a, b: torch.arccos(a @ b)), "divided by both lengths"),
    ("8b", lambda a, b, t: walk(a, b, t)[None], "batch dimension off"),
    ("8b", lambda a, b, t: torch.cat([a, b]), "one behind the other"),
    ("8b", lambda a, b, t: _angle(a, b), "not a number"),
    ("8b", lambda a, b, t: walk(a, b, t) + 0.5, r"t = 0.25, \d+° between the ends: expected"),
    ("8c", lambda m, t: (m != t).float().mean(), "all wrong pixels"),
    ("8c", lambda m, t: (m != t)[band_of(m)].float().mean(), "taken from the mask"),
    ("8c", _corners_too, "touch at a corner"),
    ("8c", lambda m, t: (m != t)[band_of(t) & t].float().mean(), "only the animal's side"),
    ("8c", lambda m, t: (m != t)[band_of(t) & ~t].float().mean(), "only the background's side"),
    ("8c", lambda m, t: 1 - outline_error(m, t), "share that is right"),
    ("8c", lambda m, t: ((m != t) & band_of(t)).sum(), "a count was given"),
    ("8c", lambda m, t: ((m != t) & band_of(t)).float().mean(), "divided by all pixels"),
    ("8c", lambda m, t: ((m != t) & band_of(t)).sum() / t.sum(), "mask's pixels"),
    ("8c", lambda m, t: m[band_of(t)].float().mean(), "the mask covers"),
    ("8c", _outside_is_background, "outside the picture"),
    ("8c", lambda m, t: ((m != t) & band_of(t)).float(), "one for each pixel"),
    ("8c", lambda m, t: outline_error(m, t)[None], "without a dimension"),
    ("8c", lambda m, t: outline_error(m, t) + 0.011, "expected .* got"),
    ("8c", lambda m, t: "0.3", "expected a tensor"),
]


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_passes(exercise, capsys):
    with unchanged():
        assert check(exercise, RIGHT[exercise]).ok is True
    assert capsys.readouterr().out.startswith(f"{exercise}  ✓ ")


def test_right_answers_written_in_another_way_pass():
    def by_steps(start, end, t):
        # the walk has its steps at k / 20
        return decoders.walk(start, end, 21)[round(20 * t)]

    ways = {
        "8a": [
            lambda x, w: F.conv2d(F.interpolate(x, scale_factor=2), w, padding="same"),
            lambda x, w: enlarge(x.double(), w.double()).numpy(),
        ],
        "8b": [by_steps, lambda a, b, t: walk(a.double(), b.double(), t).numpy()],
        "8c": [
            lambda m, t: boundary_error(m[None], t[None], 1)[0],
            lambda m, t: outline_error(m, t).item(),
        ],
    }
    for exercise, answers in ways.items():
        for answer in answers:
            verdict = check(exercise, answer)
            assert verdict.ok is True, verdict.message


def _stub(*_):
    """→ what is asked for."""
    ...


@pytest.mark.parametrize("exercise", RIGHT)
@pytest.mark.parametrize("stub", [None, ..., _stub, lambda *_: ...])
def test_a_stub_is_not_yet(exercise, stub, capsys):
    is_not_yet(exercise, stub, capsys)


@pytest.mark.parametrize(("exercise", "answer", "says"), WRONG)
def test_a_wrong_answer_is_refused_by_the_name_of_its_mistake(exercise, answer, says, capsys):
    is_refused(exercise, answer, says, capsys)


def test_every_exercise_of_the_lesson_has_at_least_four_wrong_answers():
    has_four_wrong_answers_each("8", RIGHT, WRONG)
