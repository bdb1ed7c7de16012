"""The exercises of lesson 4: a stub is not yet, right answers pass, wrong ones are told by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lecture7_utils.classroom.checks import check
from tests.classroom.exercises import STUBS, has_four_wrong_answers_each, is_not_yet, is_refused
from tests.guards import unchanged

# ------------------------------------------------------------------------------------------- right answers


def ascent_step(model, x, c, rate, l2, objective=lambda s, c: s[:, c], penalty=lambda x: (x**2).sum()):
    x = x.clone().requires_grad_(True)
    loss = objective(model(x), c).sum() - l2 * penalty(x)
    (gradient,) = torch.autograd.grad(loss, x)
    return (x + rate * gradient).detach()


def _steps(x):
    return F.pad(x.diff(dim=2), (0, 0, 0, 1)), F.pad(x.diff(dim=3), (0, 1))


def total_variation(x, beta, steps=_steps, dims=(1, 2, 3)):
    down, right = steps(x)
    return (down**2 + right**2).pow(beta / 2).sum(dims)


def one_each(features, channels):
    return features[torch.arange(len(features)), channels].mean((1, 2))


RIGHT = {"4a": ascent_step, "4b": total_variation, "4c": one_each}


def _image_by_image(model, x, c, rate, l2):
    moved = []
    for image in x:
        one = image[None].clone().requires_grad_()
        loss = model(one)[0, c] - l2 * one.norm() ** 2
        moved.append(image + rate * torch.autograd.grad(loss, one)[0][0])
    return torch.stack(moved)


def _penalty_by_hand(model, x, c, rate, l2):
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(x)[:, c].sum(), x)
    with torch.no_grad():
        return x * (1 - 2 * rate * l2) + rate * gradient


def _variation_by_loops(x, beta):
    n, _, h, w = x.shape
    found = np.zeros(n)
    for k, c, i, j in np.ndindex(*x.shape):
        here = x[k, c, i, j]
        down = x[k, c, i + 1, j] - here if i + 1 < h else 0.0
        right = x[k, c, i, j + 1] - here if j + 1 < w else 0.0
        found[k] += float(down**2 + right**2) ** (beta / 2)
    return found


def _variation_by_parts(x, beta):
    down, right = x.diff(dim=2), x.diff(dim=3)
    inside = (down[..., :-1] ** 2 + right[:, :, :-1] ** 2) ** (beta / 2)
    borders = down[..., -1].abs().pow(beta).sum((1, 2)) + right[:, :, -1].abs().pow(beta).sum((1, 2))
    return inside.sum((1, 2, 3)) + borders


ALSO_RIGHT = [
    ("4a", _image_by_image),
    ("4a", _penalty_by_hand),
    ("4b", _variation_by_loops),
    ("4b", _variation_by_parts),
    ("4c", lambda f, k: torch.stack([f[n, c].mean() for n, c in enumerate(k)])),
    ("4c", lambda f, k: f.mean((2, 3)).gather(1, k[:, None])[:, 0]),
    ("4c", lambda f, k: f.mean((2, 3))[:, k].diagonal().numpy()),
]


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_passes(exercise, capsys):
    with unchanged():
        assert check(exercise, RIGHT[exercise]).ok is True
    assert capsys.readouterr().out.startswith(f"{exercise}  ✓ ")


@pytest.mark.parametrize(("exercise", "answer"), ALSO_RIGHT)
def test_a_right_answer_may_be_written_otherwise(exercise, answer):
    assert check(exercise, answer).ok is True


# ------------------------------------------------------------------------------------------- not yet


def _half_a_stub(*args):
    gradient = ...
    return args[0] + gradient


@pytest.mark.parametrize("exercise", RIGHT)
@pytest.mark.parametrize("answer", [_half_a_stub, *STUBS])
def test_a_stub_is_not_yet(exercise, answer, capsys):
    is_not_yet(exercise, answer, capsys)


# ------------------------------------------------------------------------------------------- wrong answers


def _step(**changes):
    """The right step with another objective or penalty."""
    return lambda *args: ascent_step(*args, **changes)


def _moved(change):
    """A step from x, its size and x itself: change(x, rate, gradient of L)."""

    def answer(model, x, c, rate, l2):
        gradient = (ascent_step(model, x, c, rate, l2) - x) / rate
        return change(x, rate, gradient)

    return answer


def _by_backward(model, x, c, rate, l2):
    x = x.clone().requires_grad_(True)
    (model(x)[:, c].sum() - l2 * (x**2).sum()).backward()
    return (x + rate * x.grad).detach()


def _with_its_graph(model, x, c, rate, l2):
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(x)[:, c].sum() - l2 * (x**2).sum(), x)
    return x + rate * gradient


def _in_place(model, x, c, rate, l2):
    x += ascent_step(model, x, c, rate, l2) - x
    return x


def _mean_of_batch(model, x, c, rate, l2):
    x = x.clone().requires_grad_(True)
    loss = (model(x)[:, c] - l2 * (x**2).sum((1, 2, 3))).mean()
    return (x + rate * torch.autograd.grad(loss, x)[0]).detach()


def _zeroed(model, x, c, rate, l2):
    moved = ascent_step(model, x, c, rate, l2)
    with torch.no_grad():
        next(model.parameters()).zero_()
    return moved


def _no_square(x):
    return x.flatten(1).norm(dim=1).sum()


WRONG = [
    # exercise, answer, what the message has to say
    ("4a", _moved(lambda x, r, g: x - r * g), "goes downhill"),
    ("4a", _step(penalty=lambda x: 0 * x.sum()), "penalty is missing"),
    ("4a", _step(penalty=lambda x: -(x**2).sum()), "it is taken off"),
    ("4a", _step(penalty=lambda x: (x**2).sum() / 2), "is 2 x, not x"),
    ("4a", _step(penalty=_no_square), "not squared"),
    ("4a", _step(penalty=lambda x: x.norm()), "whole batch, and not squared"),
    ("4a", _step(penalty=lambda x: (x**2).mean((1, 2, 3)).sum()), r"mean of the squares is taken; ‖x‖² is"),
    ("4a", _step(penalty=lambda x: (x**2).mean()), "mean of the squares is taken, over all images"),
    ("4a", _step(penalty=lambda x: x.abs().sum()), "absolute values"),
    ("4a", _step(objective=lambda s, c: s.softmax(1)[:, c]), "climbs the probability"),
    ("4a", _step(objective=lambda s, c: s.log_softmax(1)[:, c]), "cross-entropy"),
    ("4a", _step(objective=lambda s, c: s.amax(1)), "winning class"),
    ("4a", _step(objective=lambda s, c: s), "sum of all scores"),
    ("4a", _step(objective=lambda s, c: s[:, c] / len(s)), "scores are divided by the 4 images"),
    ("4a", _mean_of_batch, "divided by the 4 images: sum the objectives"),
    ("4a", _moved(lambda x, r, g: r * g), "the step alone"),
    ("4a", _moved(lambda x, r, g: g), "gradient alone"),
    ("4a", _moved(lambda x, r, g: x + g), "rate is missing"),
    ("4a", _moved(lambda x, r, g: x + g / r), "divided by the rate"),
    ("4a", _moved(lambda x, r, g: x + r * g.sign()), "only the sign"),
    ("4a", _moved(lambda x, r, g: x), "as they were"),
    ("4a", _moved(lambda x, r, g: torch.cat([(x + r * g)[:1], x[1:]])), "only the first image"),
    ("4a", _moved(lambda x, r, g: (x + r * g)[0]), "batch dimension is missing"),
    ("4a", _moved(lambda x, r, g: (x + r * g)[:1]), "only one image"),
    ("4a", _moved(lambda x, r, g: g.sum()), "the changed images are asked for"),
    ("4a", _moved(lambda x, r, g: (x + r * g).amax(1)), "all three channels"),
    ("4a", _by_backward, "parameters.*autograd.grad"),
    ("4a", _with_its_graph, "hangs on the graph"),
    ("4a", _in_place, r"changes `x`.*clone"),
    ("4a", _zeroed, "changes the model's weights"),
    ("4a", lambda m, x, c, r, d: ascent_step(m, x, c, r, d) + 1, "expected .*, got"),
    ("4b", lambda x, b: total_variation(x, b).sum(), "one number for the whole batch"),
    ("4b", lambda x, b: total_variation(x, b).sum().expand(len(x)), "sum of the whole batch"),
    ("4b", lambda x, b: x.diff(dim=3).abs().pow(b).sum((1, 2, 3)), "only neighbours in a row"),
    ("4b", lambda x, b: x.diff(dim=2).abs().pow(b).sum((1, 2, 3)), "only neighbours in a column"),
    ("4b", lambda x, b: sum(d.square().sum((1, 2, 3)) for d in _steps(x)), "exponent is left out"),
    ("4b", lambda x, b: sum(d.abs().pow(b).sum((1, 2, 3)) for d in _steps(x)), "by itself"),
    ("4b", lambda x, b: total_variation(x, 2 * b), r"so it is beta / 2"),
    ("4b", lambda x, b: total_variation(x, 2).pow(b / 2), "take it at each place"),
    ("4b", lambda x, b: sum(d.sum((1, 2, 3)) for d in _steps(x)), "with their signs"),
    ("4b", lambda x, b: sum(d.sum((1, 2, 3)) ** 2 for d in _steps(x)), "sum the squares"),
    ("4b", lambda x, b: sum(d.abs().sum((1, 2, 3)) for d in _steps(x)), "square them"),
    (
        "4b",
        lambda x, b: total_variation(
            x,
            b,
            lambda x: (
                F.pad(x[:, :, 2:] - x[:, :, :-2], (0, 0, 0, 2)),
                F.pad(x[..., 2:] - x[..., :-2], (0, 2)),
            ),
        ),
        "two apart",
    ),
    ("4b", lambda x, b: total_variation(x, b).sqrt(), "the root"),
    ("4b", lambda x, b: total_variation(x, b) / x[0].numel(), "the mean is taken"),
    (
        "4b",
        lambda x, b: total_variation(x, b, lambda x: [x.roll(-1, d) - x for d in (2, 3)]),
        "don't wrap around",
    ),
    (
        "4b",
        lambda x, b: total_variation(x, b, lambda x: (x.diff(dim=2)[..., :-1], x.diff(dim=3)[:, :, :-1])),
        "the last row and the last column",
    ),
    (
        "4b",
        lambda x, b: total_variation(
            x, b, lambda x: (F.pad(x.diff(dim=2), (0, 0, 1, 0)), F.pad(x.diff(dim=3), (1, 0)))
        ),
        "different places are paired",
    ),
    ("4b", lambda x, b: 2 * total_variation(x, b), "counted twice"),
    ("4b", lambda x, b: total_variation(x, b, dims=(2, 3)).mean(1), "averaged; sum over"),
    ("4b", lambda x, b: total_variation(x.mean(1, keepdim=True), b), "before the differences"),
    (
        "4b",
        lambda x, b: sum(d.square().sum(1) for d in _steps(x)).pow(b / 2).sum((1, 2)),
        "summed before the power",
    ),
    ("4b", lambda x, b: total_variation(x, b, dims=(2, 3)), "channels are not summed"),
    ("4b", lambda x, b: sum(d.square() for d in _steps(x)).pow(b / 2), "places are not summed"),
    ("4b", lambda x, b: total_variation(x, b)[:, None, None, None], "keepdim"),
    ("4b", lambda x, b: x.square().sum((1, 2, 3)), "differences are asked for"),
    (
        "4b",
        lambda x, b: torch.cat([total_variation(x[:1], b), torch.zeros(len(x) - 1)]),
        "only the first image",
    ),
    ("4b", lambda x, b: (x.diff(dim=2) ** 2 + x.diff(dim=3) ** 2).sum((1, 2, 3)), "RuntimeError.*size"),
    ("4b", lambda x, b: "smooth", "expected a tensor"),
    ("4c", lambda f, k: f[:, k].mean((2, 3)), "image n has channel"),
    ("4c", lambda f, k: f[:, k], "image n has channel"),
    ("4c", lambda f, k: f[torch.arange(len(f)), k], "places are not averaged"),
    ("4c", lambda f, k: f[torch.arange(len(f)), k].sum((1, 2)), "places are summed"),
    ("4c", lambda f, k: f[torch.arange(len(f)), k].amax((1, 2)), "largest place"),
    ("4c", lambda f, k: f[torch.arange(len(f)), k, f.shape[2] // 2, f.shape[3] // 2], "only the middle"),
    ("4c", lambda f, k: f[torch.arange(len(f)), k, 0, 0], "only the first place"),
    ("4c", lambda f, k: f[:, k[0]].mean((1, 2)), "read for all"),
    ("4c", lambda f, k: one_each(f, torch.arange(len(f))), r"its channel is channels\[n\]"),
    ("4c", lambda f, k: one_each(f, k + 1), "count from 0"),
    ("4c", lambda f, k: f.mean((1, 2, 3)), "all channels"),
    ("4c", lambda f, k: one_each(f.relu(), k), "set to 0"),
    ("4c", lambda f, k: f[0, k].mean((1, 2)), "image 0 is read"),
    ("4c", lambda f, k: one_each(f, k).mean().expand(len(f)), "values of all images are averaged"),
    ("4c", lambda f, k: f[:, k].mean((1, 2, 3)), "channels of all images"),
    ("4c", lambda f, k: f.mean((2, 3)), "every channel is here"),
    ("4c", lambda f, k: one_each(f, k).sum(), "one number for the whole batch"),
    ("4c", lambda f, k: one_each(f, k)[:, None], "keepdim"),
    ("4c", lambda f, k: -one_each(f, k), "expected .*, got"),
]


@pytest.mark.parametrize(("exercise", "answer", "says"), WRONG)
def test_a_wrong_answer_is_refused_by_the_name_of_its_mistake(exercise, answer, says, capsys):
    is_refused(exercise, answer, says, capsys)


def test_every_exercise_of_the_lesson_has_at_least_four_wrong_answers():
    has_four_wrong_answers_each("4", RIGHT, WRONG)
