"""The judges of lesson 8: a stub is not yet, right answers pass, wrong ones are told by name."""

import pytest
import torch
import torch.nn.functional as F

from lecture7_utils.classroom.checks import check
from lecture7_utils.kernels.metrics import boundary_error
from lecture7_utils.shop import decoders
from tests.classroom.exercises import STUBS, has_four_wrong_answers_each, is_not_yet, is_refused
from tests.guards import unchanged


def plan(side, layers, *, after=None, weights=None, dense=None):
    """Right but for the parts given."""
    found = []
    for a, b, f, s, p in layers:
        larger = s * (side - 1) + f - 2 * p if after is None else after(side, f, s, p)
        own = a * b * f * f if weights is None else weights(a, b, f, side)
        full = a * side**2 * b * larger**2 if dense is None else dense(a, b, side, larger)
        found.append((larger, own, full))
        side = larger
    return found


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


RIGHT = {"8a": plan, "8b": walk, "8c": outline_error}


def _with(**parts):
    return lambda side, layers: plan(side, layers, **parts)


def _from_the_first(side, layers):
    return [plan(side, [layer])[0] for layer in layers]


def _all_up_to_here(column):
    def answer(side, layers):
        total, found = 0, []
        for row in plan(side, layers):
            total += row[column]
            found.append((*row[:column], total, *row[column + 1 :]))
        return found

    return answer


def _from_the_first_maps(side, layers):
    return [
        (n, w, layers[0][0] * side**2 * layer[1] * n**2)
        for (n, w, _), layer in zip(plan(side, layers), layers, strict=True)
    ]


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
    ("8a", _with(after=lambda n, f, s, p: s * n), r"layer \d, .*side: expected .*only where f - 2p is s"),
    ("8a", _with(after=lambda n, f, s, p: (n + 2 * p - f) // s + 1), "an ordinary convolution"),
    ("8a", _with(after=lambda n, f, s, p: s * (n - 1) + f - p), "at both ends"),
    ("8a", _with(after=lambda n, f, s, p: s * (n - 1) + f), "padding is left out"),
    ("8a", _with(after=lambda n, f, s, p: s * (n - 1) + f + 2 * p), "taken off, not added"),
    ("8a", _with(after=lambda n, f, s, p: s * n + f - 2 * p), "n - 1 steps"),
    ("8a", _with(after=lambda n, f, s, p: s * (n - 1) - 2 * p), "f is missing"),
    ("8a", _from_the_first, "begins with the side that the one before"),
    ("8a", _with(weights=lambda a, b, f, n: a * b * f), "weights: expected .*f rows and f columns"),
    ("8a", _with(weights=lambda a, b, f, n: f * f), "each pair of channels, in and out"),
    ("8a", _with(weights=lambda a, b, f, n: a * f * f), "go out are missing"),
    ("8a", _with(weights=lambda a, b, f, n: b * f * f), "go in are missing"),
    ("8a", _with(weights=lambda a, b, f, n: a * b * f * f + b), "biases"),
    ("8a", _with(weights=lambda a, b, f, n: (a + b) * f * f), "in times out"),
    ("8a", _with(weights=lambda a, b, f, n: a * b * f * f * n * n), "at every place"),
    ("8a", _all_up_to_here(1), "weights: .*each layer's own"),
    ("8a", _with(dense=lambda a, b, n, m: n**2 * m**2), "fully connected: expected .*channels are left out"),
    ("8a", _with(dense=lambda a, b, n, m: a * n * b * m), "count squared"),
    ("8a", _with(dense=lambda a, b, n, m: a * n**2 * b * m**2 + b * m**2), "biases"),
    ("8a", _with(dense=lambda a, b, n, m: a * n**2 + b * m**2), "multiply, don't add"),
    ("8a", _with(dense=lambda a, b, n, m: b * m**2), "numbers that go out"),
    ("8a", _from_the_first_maps, "not from the first ones"),
    ("8a", _all_up_to_here(2), "fully connected: .*each layer's own"),
    ("8a", _with(weights=lambda a, b, f, n: a * b * f * f + 0.5), r"expected 240, got 240\.5"),
    ("8a", lambda side, layers: plan(side, layers)[-1], "three numbers of one layer"),
    ("8a", lambda side, layers: plan(side, layers)[:1], "expected 2 entries, one for each layer, got 1"),
    ("8a", lambda side, layers: [(side, 0, 0), *plan(side, layers)], "no layer's"),
    ("8a", lambda side, layers: [row[0] for row in plan(side, layers)], "for each layer .side, weights"),
    ("8a", lambda side, layers: [row[:2] for row in plan(side, layers)], "for each layer .side, weights"),
    ("8a", lambda side, layers: [("a", 1, 2)] * len(layers), "three numbers"),
    ("8a", lambda side, layers: 3, "expected a list"),
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

    def by_torch(side, layers):
        found, x = [], torch.zeros(1, layers[0][0], side, side)
        for a, b, f, s, p in layers:
            step = torch.nn.ConvTranspose2d(a, b, f, s, p, bias=False)
            y = step(x)
            found.append((y.shape[2], step.weight.numel(), x.numel() * y.numel()))
            x = y
        return found

    ways = {
        "8a": [
            lambda side, layers: torch.tensor(plan(side, layers)).numpy(),
            lambda side, layers: [list(map(float, row)) for row in plan(side, layers)],
            by_torch,
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


@pytest.mark.parametrize("exercise", RIGHT)
@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_is_not_yet(exercise, stub, capsys):
    is_not_yet(exercise, stub, capsys)


@pytest.mark.parametrize(("exercise", "answer", "says"), WRONG)
def test_a_wrong_answer_is_refused_by_the_name_of_its_mistake(exercise, answer, says, capsys):
    is_refused(exercise, answer, says, capsys)


def test_every_exercise_of_the_lesson_has_at_least_four_wrong_answers():
    has_four_wrong_answers_each("8", RIGHT, WRONG)
