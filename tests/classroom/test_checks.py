"""Checks: a stub is not yet, right answers pass however they are written, wrong ones are told by name."""

import math
import random
import re

import numpy as np
import pytest
import torch

from lecture7_utils.classroom import checks
from lecture7_utils.classroom.checks import Verdict, check
from tests.guards import unchanged

# ------------------------------------------------------------------------------------------- right answers


def softmax(scores):
    powers = (scores - scores.amax(dim=1, keepdim=True)).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def raise_probability(scores, c):
    lowered = torch.minimum(scores, scores[:, [c]] - 20)
    lowered[:, c] = scores[:, c]
    return lowered


def _gradient(model, images, classes, pick=lambda s: s):
    images = images.clone().requires_grad_(True)
    chosen = pick(model(images))[torch.arange(len(images)), classes]
    return torch.autograd.grad(chosen.sum(), images)[0]


def saliency(model, images, classes):
    return _gradient(model, images, classes).abs().amax(dim=1)


def slope(model, image, c, channel, i, j, h):
    step = torch.zeros_like(image)
    step[0, channel, i, j] = h
    with torch.no_grad():
        return ((model(image + step) - model(image - step))[0, c] / (2 * h)).item()


def average_gradient(model, images, classes, noises):
    total = sum(_gradient(model, images + noise, classes) for noise in noises)
    return (total / len(noises)).abs().amax(dim=1)


def starts(size, window, stride):
    return [k * stride for k in range(math.ceil((size - window) / stride) + 1)]


def occlude(image, top, left, window, value):
    image = image.clone()
    image[:, top : top + window, left : left + window] = value[:, None, None]
    return image


def occlusion_scores(model, image, c, window, stride, value):
    grid = [
        [occlude(image, top, left, window, value) for left in starts(image.shape[2], window, stride)]
        for top in starts(image.shape[1], window, stride)
    ]
    with torch.no_grad():
        return torch.stack([model(torch.stack(row))[:, c] for row in grid])


def class_map(features, weight, c):
    return (weight[c, :, None, None] * features).sum(dim=1)


def box(map, threshold):
    high = map >= threshold * map.max()
    rows, columns = high.any(dim=1).nonzero(), high.any(dim=0).nonzero()
    return columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1


def grad_cam(features, gradient):
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu()


def share_on(maps, masks):
    mass = maps.clamp(min=0)
    return (mass * masks).sum(dim=(1, 2)) / mass.sum(dim=(1, 2))


def answers_changed(model, images, swapped):
    with torch.no_grad():
        return (model(images).argmax(dim=1) != model(swapped).argmax(dim=1)).float().mean().item()


RIGHT = {
    "0a": softmax,
    "0b": raise_probability,
    "1a": saliency,
    "1b": slope,
    "1c": average_gradient,
    "2a": starts,
    "2b": occlude,
    "2c": occlusion_scores,
    "3a": class_map,
    "3b": box,
    "3c": grad_cam,
    "9b": share_on,
    "9c": answers_changed,
}


def _minus_infinity(scores, c):
    lowered = torch.full_like(scores, -torch.inf)
    lowered[:, c] = scores[:, c]
    return lowered


def _one_image_at_a_time(model, images, classes):
    maps = []
    for image, c in zip(images, classes, strict=True):
        x = image[None].clone().requires_grad_()
        maps.append(torch.autograd.grad(model(x)[0, c], x)[0].abs().max(1).values[0])
    return torch.stack(maps)


def _asking_the_given_images(model, images, classes):
    images.requires_grad_(True)
    scores = model(images)[torch.arange(len(images)), classes]
    return torch.autograd.grad(scores.sum(), images)[0].abs().amax(1)


def _slope_in_double(model, image, c, channel, i, j, h):
    with torch.no_grad():
        plus, minus = image.clone(), image.clone()
        plus[:, channel, i, j] += h
        minus[:, channel, i, j] -= h
        return (model(plus)[0, c].double() - model(minus)[0, c].double()) / 2 / h


def _average_in_one_pass(model, images, classes, noises):
    many = (images + noises).flatten(0, 1)
    gradient = _gradient(model, many, classes.repeat(len(noises))).view_as(noises)
    return gradient.mean(0).abs().amax(1)


def _starts_by_a_loop(size, window, stride):
    found = [0]
    while found[-1] + window < size:
        found.append(found[-1] + stride)
    return torch.tensor(found)


def _lists_of_lists(model, image, c, window, stride, value):
    return occlusion_scores(model, image, c, window, stride, value).tolist()


def _box_by_a_loop(map, threshold):
    values, level = map.tolist(), threshold * map.max().item()
    found = [(x, y) for y, row in enumerate(values) for x, v in enumerate(row) if v >= level]
    (left, right), (top, bottom) = ((min(side), max(side) + 1) for side in zip(*found, strict=True))
    return torch.tensor([left, top, right, bottom], dtype=torch.float32)


def _share_by_a_loop(maps, masks):
    found = []
    for values, inside in zip(maps.numpy(), masks.numpy(), strict=True):
        values = np.maximum(values, 0)
        found.append(values[inside].sum() / values.sum())
    return np.array(found)


def _changed_by_a_loop(model, images, swapped):
    pairs = zip(images, swapped, strict=True)
    return sum(model(a[None])[0].argmax() != model(b[None])[0].argmax() for a, b in pairs) / len(images)


ALSO_RIGHT = [
    ("0a", lambda s: s.softmax(1)),
    ("0a", lambda s: s.double().softmax(-1).numpy()),
    ("0b", lambda s, c: s - 1e4 * (torch.arange(s.shape[1]) != c)),
    ("0b", _minus_infinity),
    ("1a", _one_image_at_a_time),
    ("1a", _asking_the_given_images),
    ("1b", _slope_in_double),
    ("1c", _average_in_one_pass),
    ("2a", _starts_by_a_loop),
    ("2a", lambda n, w, s: range(0, n - w + s, s)),
    ("2b", lambda x, t, e, w, v: checks.lesson2._filled(x, t, e, w, w, v)),
    ("2c", _lists_of_lists),
    ("3a", lambda f, w, c: torch.einsum("k,nkhw->nhw", w[c], f)),
    ("3a", lambda f, w, c: torch.nn.functional.conv2d(f, w[:, :, None, None])[:, c]),
    ("3a", lambda f, w, c: np.tensordot(f.numpy(), w[c].numpy(), (1, 0))),
    ("3b", _box_by_a_loop),
    ("3b", lambda m, t: np.asarray(box(m, t))),
    ("3c", lambda f, d: torch.einsum("nkhw,nk->nhw", f, d.flatten(2).mean(2)).clamp(min=0)),
    ("9b", _share_by_a_loop),
    ("9b", lambda p, m: torch.stack([(v.relu() / v.relu().sum())[i].sum() for v, i in zip(p, m)])),  # noqa: B905
    ("9c", _changed_by_a_loop),
    ("9c", lambda m, a, b: (m(a).softmax(1).max(1).indices != m(b).max(1).indices).double().mean()),
]


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_passes_and_the_verdict_is_printed_once(exercise, capsys):
    with unchanged():
        verdict = check(exercise, RIGHT[exercise])
    assert verdict.ok is True
    assert verdict.exercise == exercise
    printed = capsys.readouterr().out
    assert printed.startswith(f"{exercise}  ✓ ")
    assert printed.count("\n") == 1
    assert _joined(printed) == f"{exercise} {verdict.message}"
    # as the last value of a cell it must not appear a second time
    assert verdict._ipython_display_() is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("exercise", "answer"), ALSO_RIGHT)
def test_a_right_answer_may_be_written_otherwise(exercise, answer):
    assert check(exercise, answer).ok is True


def _joined(text):
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------- not yet


def _stub(*args):
    """With a docstring only."""


def _ellipsis_stub(*args):
    """As in the lessons."""
    ...


def _half_a_stub(*args):
    value = ...
    return value


def _used_stub(*args):
    value = ...
    return value * 2.0


def _called_stub(*args):
    value = ...
    return value.sum()


def _todo(*args):
    raise NotImplementedError


@pytest.mark.parametrize("exercise", RIGHT)
@pytest.mark.parametrize(
    "answer",
    [_stub, _ellipsis_stub, _half_a_stub, _used_stub, _called_stub, _todo, None, ..., lambda *a: ...],
)
def test_a_stub_is_not_yet_and_gets_a_hint(exercise, answer, capsys):
    with unchanged():
        verdict = check(exercise, answer)
    assert verdict.ok is None
    assert capsys.readouterr().out.startswith(f"{exercise}  Not yet: ")
    assert len(verdict.message) > 40
    assert "✓" not in verdict.message
    assert "✗" not in verdict.message


def test_a_forgotten_return_is_no_stub():
    def forgotten(scores):
        powers = scores.exp()
        powers / powers.sum(1, keepdim=True)

    verdict = check("0a", forgotten)
    assert verdict.ok is False
    assert "return" in verdict.message


# ------------------------------------------------------------------------------------------- wrong answers


def _in_place(scores, c):
    scores[:, torch.arange(scores.shape[1]) != c] -= 100
    return scores


def _raised(scores, c):
    scores = scores.clone()
    scores[:, c] += 100
    return scores


def _first_row(scores, c):
    lowered = scores.clone()
    lowered[0] = raise_probability(scores, c)[0]
    return lowered


def _a_bit(scores, c):
    lowered = scores - 3
    lowered[:, c] += 3
    return lowered


def _by_backward(model, images, classes):
    images = images.clone().requires_grad_(True)
    model(images)[torch.arange(len(images)), classes].sum().backward()
    return images.grad.abs().amax(1)


def _mean_of_scores(model, images, classes):
    images = images.clone().requires_grad_(True)
    chosen = model(images)[torch.arange(len(images)), classes]
    return torch.autograd.grad(chosen.mean(), images)[0].abs().amax(1)


def _winner(model, images, classes):
    return saliency(model, images, model(images).argmax(1))


def _first_image(model, images, classes):
    return saliency(model, images[:1], classes[:1])


def _no_batch(model, images, classes):
    return saliency(model, images[:1], classes[:1])[0]


def _normalised(model, images, classes):
    maps = saliency(model, images, classes)
    return maps / maps.amax((1, 2), keepdim=True)


def _normalised_together(model, images, classes):
    maps = saliency(model, images, classes)
    return maps / maps.max()


def _train(model, images, classes):
    model.train()
    return saliency(model, images, classes)


def _zeroed_weights(model, images, classes):
    maps = saliency(model, images, classes)
    with torch.no_grad():
        next(model.parameters()).zero_()
    return maps


def _grad_of(reduce, pick=lambda s: s):
    return lambda model, images, classes: reduce(_gradient(model, images, classes, pick))


def _difference(top, bottom, divide):
    def answer(model, image, c, channel, i, j, h):
        step = torch.zeros_like(image)
        step[0, channel, i, j] = h
        with torch.no_grad():
            return ((model(image + top * step) - model(image + bottom * step))[0, c] / divide(h)).item()

    return answer


def _moved_image(model, image, c, channel, i, j, h):
    with torch.no_grad():
        image[0, channel, i, j] += h
        high = model(image)[0, c]
        image[0, channel, i, j] -= 2 * h
        return ((high - model(image)[0, c]) / (2 * h)).item()


def _every_class(model, images, classes):
    images = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(images)[:, classes].sum(), images)
    return gradient.abs().amax(1)


def _slope_of_probability(model, image, c, channel, i, j, h):
    step = torch.zeros_like(image)
    step[0, channel, i, j] = h
    with torch.no_grad():
        s = model(torch.cat([image + step, image - step])).softmax(1)[:, c]
    return ((s[0] - s[1]) / (2 * h)).item()


def _mean_of_maps(model, images, classes, noises):
    return torch.stack([saliency(model, images + noise, classes) for noise in noises]).mean(0)


def _mean_of_absolutes(model, images, classes, noises):
    return torch.stack([_gradient(model, images + e, classes).abs() for e in noises]).mean(0).amax(1)


def _filled(rows, columns, value=lambda v: v[:, None, None], channels=slice(None)):
    """rows and columns: the last, exclusive, from (top, left, window)."""

    def answer(image, top, left, window, fill):
        image = image.clone()
        image[channels, rows(top, left, window), columns(top, left, window)] = value(fill)
        return image

    return answer


def _rows(t, e, w):
    return slice(t, t + w)


def _columns(t, e, w):
    return slice(e, e + w)


def _fill_in_place(image, top, left, window, value):
    image[:, top : top + window, left : left + window] = value[:, None, None]
    return image


def _moved_back(image, top, left, window, value):
    return occlude(
        image, min(top, image.shape[1] - window), min(left, image.shape[2] - window), window, value
    )


def _scores(change):
    def answer(model, image, c, window, stride, value):
        return change(occlusion_scores(model, image, c, window, stride, value), model, image, c)

    return answer


def _probabilities(model, image, c, window, stride, value):
    grid = [
        [occlude(image, t, e, window, value) for e in starts(image.shape[2], window, stride)]
        for t in starts(image.shape[1], window, stride)
    ]
    with torch.no_grad():
        return torch.stack([model(torch.stack(row)).softmax(1)[:, c] for row in grid])


def _without_the_last(model, image, c, window, stride, value):
    rows = range(0, image.shape[1] - window + 1, stride)
    columns = range(0, image.shape[2] - window + 1, stride)
    with torch.no_grad():
        return torch.tensor(
            [[model(occlude(image, t, e, window, value)[None])[0, c] for e in columns] for t in rows]
        )


def _adding_up(model, image, c, window, stride, value):
    grid = []
    for t in starts(image.shape[1], window, stride):
        grid.append([])
        for e in starts(image.shape[2], window, stride):
            image = occlude(image, t, e, window, value)
            with torch.no_grad():
                grid[-1].append(model(image[None])[0, c].item())
    return torch.tensor(grid)


def _of_class(weights):
    """The map for weights [K] that are made of weight [C, K] and c."""
    return lambda features, weight, c: (weights(weight, c)[:, None, None] * features).sum(1)


def _box_of(high):
    """The box around the pixels that `high` marks in (map, threshold)."""
    return lambda map, threshold: box(high(map, threshold).float(), 0.5)


def _one_patch(map, threshold):
    from skimage.measure import label, regionprops

    x = label((map >= threshold * map.max()).numpy(), connectivity=2)
    top, left, bottom, right = max(regionprops(x), key=lambda region: region.area).bbox
    return left, top, right, bottom


def _changed_box(change):
    return lambda map, threshold: change(*box(map, threshold))


def _by_weights(weights, rectify=torch.relu):
    """Grad-CAM with channel weights [N, K] made of (features, gradient)."""
    return lambda f, d: rectify((weights(f, d)[:, :, None, None] * f).sum(1))


def _shares(share):
    """A wrong share of each map, from its values, its positive part and its mask."""
    return lambda maps, masks: share(maps, maps.clamp(min=0), masks.float())


def _s(values):
    return values.sum((1, 2))


def _answers(count):
    """A wrong number from the scores before and after."""
    return lambda model, images, swapped: count(model(images).detach(), model(swapped).detach())


WRONG = [
    # exercise, answer, what the message has to say
    ("0a", lambda s: s.softmax(0), "column"),
    ("0a", lambda s: s.flatten().softmax(0).view_as(s), "all entries together"),
    ("0a", lambda s: s.log_softmax(1), "logarithm"),
    ("0a", lambda s: s, "scores themselves"),
    ("0a", lambda s: s.exp(), "not yet divided"),
    ("0a", lambda s: s / s.sum(1, keepdim=True), "without the exponential"),
    ("0a", lambda s: s.exp() / s.exp().sum(1, keepdim=True), "overflow"),
    ("0a", lambda s: (s - s.max()).exp() / (s - s.max()).exp().sum(1, keepdim=True), "each row's own"),
    ("0a", lambda s: s.softmax(1).T, "transposed|column"),
    ("0a", lambda s: s.softmax(1)[0], r"expected a tensor \[3, 4\]"),
    ("0a", lambda s: s.clamp(-50, 50).softmax(1), "expected"),
    ("0b", _raised, "has to stay"),
    ("0b", _in_place, r"changes `scores`.*clone"),
    ("0b", _first_row, "row 1 comes back unchanged"),
    ("0b", lambda s, c: raise_probability(s, c).softmax(1), "probabilities"),
    ("0b", lambda s, c: s.clone(), "unchanged"),
    ("0b", lambda s, c: s - 100, "has to stay"),
    ("0b", _a_bit, "still too high"),
    ("0b", lambda s, c: raise_probability(s, c)[:, c], "all scores are asked for"),
    ("0b", lambda s, c: s * torch.nan, "NaN"),
    ("0b", lambda s, c: torch.where(torch.arange(s.shape[1]) == c, s, torch.inf), "above 0.99"),
    ("1a", _grad_of(lambda g: g.amax(1)), "no absolute value"),
    ("1a", _grad_of(lambda g: g.amax(1).abs()), "take it first"),
    ("1a", _grad_of(lambda g: g.abs().mean(1)), "mean over the channels"),
    ("1a", _grad_of(lambda g: g.abs().sum(1)), "sum over the channels"),
    ("1a", _grad_of(lambda g: g.sum(1).abs()), "cancel"),
    ("1a", _grad_of(lambda g: g.norm(dim=1)), "norm of the channels"),
    ("1a", _grad_of(lambda g: g.abs().amax(1), lambda s: s.softmax(1)), "after the softmax"),
    ("1a", _grad_of(lambda g: g.abs().amax(1), lambda s: s.log_softmax(1)), "log-probability"),
    ("1a", _grad_of(lambda g: g), r"got \[4, 3, 7, 9\]: the three channels"),
    ("1a", _grad_of(lambda g: g.abs().amax(1, keepdim=True)), "keepdim"),
    ("1a", _grad_of(lambda g: g.abs().amax(0)), "over the images"),
    ("1a", _no_batch, "batch dimension is missing"),
    ("1a", _first_image, "only one image"),
    ("1a", _winner, "winning class"),
    ("1a", _every_class, "picks all these classes for every image"),
    ("1a", _normalised, "normalised"),
    ("1a", _normalised_together, "normalised"),
    ("1a", _mean_of_scores, "divided by the 4 images"),
    ("1a", _by_backward, "parameters.*autograd.grad"),
    ("1a", _train, "train mode"),
    ("1a", _zeroed_weights, "changes the model's weights"),
    ("1b", _difference(1, 0, lambda h: h), "forward difference"),
    ("1b", _difference(0, -1, lambda h: h), "backward difference"),
    ("1b", _difference(1, -1, lambda h: h), "2 h apart"),
    ("1b", _difference(1, -1, lambda h: 1), "not divided"),
    ("1b", _difference(-1, 1, lambda h: 2 * h), "turned round"),
    ("1b", _difference(1, 0, lambda h: 2 * h), "second point is x"),
    ("1b", lambda m, x, c, k, i, j, h: slope(m, x, c, k, j, i, h), "row and column are swapped"),
    ("1b", lambda m, x, c, k, i, j, h: slope(m, x, c, k, i, j, h) * h * h, "brackets"),
    ("1b", _slope_of_probability, "slope of the probability"),
    ("1b", _moved_image, r"changes `image`.*clone"),
    ("1b", lambda m, x, *a: m(x), "the score of class c alone"),
    ("1b", lambda *a: torch.zeros(3), "one number"),
    ("1b", lambda *a: "steep", "one number"),
    ("1c", _mean_of_maps, "average the signed gradients first"),
    ("1c", _mean_of_absolutes, "before the average"),
    ("1c", lambda m, x, c, e: len(e) * average_gradient(m, x, c, e), "summed"),
    ("1c", lambda m, x, c, e: saliency(m, x + e.mean(0), c), "plus the mean noise"),
    ("1c", lambda m, x, c, e: saliency(m, x + e[0], c), "only the first noise"),
    ("1c", lambda m, x, c, e: saliency(m, x, c), "no noise"),
    ("1c", lambda m, x, c, e: average_gradient(m, 0 * x, c, e), "noise alone"),
    ("1c", lambda m, x, c, e: average_gradient(m, x, c, e)[0], "batch dimension is missing"),
    ("1c", lambda m, x, c, e: torch.stack([saliency(m, x + n, c) for n in e]), "average over the noises"),
    ("1c", lambda m, x, c, e: _by_backward(m, x + e[0], c) * 0 + average_gradient(m, x, c, e), "parameters"),
    ("2a", lambda n, w, s: list(range(0, n - w + 1, s)), "never covered: round up"),
    ("2a", lambda n, w, s: list(range(0, n, s)), "stop at the first window"),
    ("2a", lambda n, w, s: list(range(0, n - w, s)), "never covered|last window is missing"),
    ("2a", lambda n, w, s: [*range(0, n - w + 1, s), n - w], "not moved back"),
    ("2a", lambda n, w, s: len(starts(n, w, s)), "got their number"),
    ("2a", lambda n, w, s: [v + 1 for v in starts(n, w, s)], "count from 0"),
    ("2a", lambda n, w, s: [*starts(n, w, s), starts(n, w, s)[-1] + s], "stop at the first window"),
    ("2a", lambda n, w, s: 3.5, "list of ints"),
    ("2a", lambda n, w, s: [v / 2 for v in starts(n, w, s)], "got"),
    ("2b", _fill_in_place, r"changes `image`.*clone"),
    ("2b", _filled(_columns, _rows), "rows and columns are swapped"),
    ("2b", _filled(_rows, _columns, lambda v: v[0], 0), "only the first channel"),
    ("2b", _filled(_rows, _columns, lambda v: v.mean()), "mean of the value"),
    ("2b", _filled(_rows, _columns, lambda v: v[0]), "one colour for all channels"),
    ("2b", _filled(_rows, _columns, lambda v: 0), "filled with 0"),
    ("2b", _filled(_rows, _columns, lambda v: v), "along the columns"),
    ("2b", _filled(lambda t, e, w: slice(t, t + w + 1), lambda t, e, w: slice(e, e + w + 1)), "too large"),
    ("2b", _filled(lambda t, e, w: slice(t, t + w - 1), lambda t, e, w: slice(e, e + w - 1)), "too small"),
    ("2b", _moved_back, "clip it at the border"),
    ("2b", lambda x, t, e, w, v: x.clone(), "nothing was filled"),
    ("2b", lambda x, t, e, w, v: occlude(x, t, e, w, v)[None], r"comes and goes as \[3, H, W\]"),
    ("2b", lambda x, t, e, w, v: occlude(x, t, e, w, v)[:, t : t + w, e : e + w], "not the square alone"),
    ("2c", _probabilities, "probabilities"),
    ("2c", _without_the_last, "last window.*is missing"),
    ("2c", _scores(lambda s, m, x, c: s.T), "rows and columns are swapped"),
    ("2c", _scores(lambda s, m, x, c: s - m(x[None])[0, c].detach()), "was subtracted"),
    ("2c", _scores(lambda s, m, x, c: m(x[None])[0, c].detach() - s), "drops"),
    ("2c", _scores(lambda s, m, x, c: s.flatten()), "arrange"),
    ("2c", _scores(lambda s, m, x, c: s * 0 + m(x[None])[0, c].detach()), "whole image's score"),
    ("2c", lambda m, x, c, w, s, v: occlusion_scores(m, x, c, w, s, 0 * v), "filled with 0"),
    ("2c", _adding_up, "add up"),
    ("2c", _scores(lambda s, m, x, c: "scores"), "expected a tensor"),
    ("2c", _scores(lambda s, m, x, c: [1, 2]), "expected a tensor"),
    ("3a", lambda f, w, c: f.sum(1), "summed without their weights"),
    ("3a", lambda f, w, c: f.mean(1), "averaged without their weights"),
    ("3a", lambda f, w, c: class_map(f, w, c + 1), "classes count from 0"),
    ("3a", lambda f, w, c: class_map(f, w, c - 1), "the weights are those of class"),
    ("3a", _of_class(lambda w, c: w[:, c]), "column c of the matrix"),
    ("3a", _of_class(lambda w, c: w.sum(0)), "the weights of all classes"),
    ("3a", lambda f, w, c: (w[c, :, None, None] * f).mean(1), "divided by the 6 channels"),
    ("3a", lambda f, w, c: class_map(f, w, c) / f[0, 0].numel(), "divided by its 28 places"),
    ("3a", lambda f, w, c: class_map(f, w, c).relu(), "rectified: places that speak against"),
    ("3a", _of_class(lambda w, c: w[c].abs()), "lost their sign"),
    ("3a", _of_class(lambda w, c: w[c].relu()), "only positive weights"),
    ("3a", _of_class(lambda w, c: w[c].softmax(0)), "went through a softmax"),
    ("3a", lambda f, w, c: class_map(f.relu(), w, c), "features are rectified first"),
    ("3a", lambda f, w, c: f.mean((2, 3)) @ w[c], "one value an image"),
    ("3a", lambda f, w, c: f.mean((2, 3)) @ w.T, "don't average over them"),
    ("3a", lambda f, w, c: w[c, :, None, None] * f, "summed over the channels"),
    ("3a", lambda f, w, c: torch.einsum("ck,nkhw->nchw", w, f), "one map is asked for"),
    ("3a", lambda f, w, c: class_map(f, w, c)[0], "batch dimension is missing"),
    ("3a", lambda f, w, c: class_map(f, w, c)[:1], "only one image was done"),
    ("3a", lambda f, w, c: class_map(f, w, c)[:1].expand(len(f), -1, -1), "first image's map"),
    ("3a", lambda f, w, c: class_map(f, w, c)[:, None], "keepdim"),
    ("3a", lambda f, w, c: class_map(f, w, c).mT, "rows and columns are swapped"),
    ("3a", lambda f, w, c: class_map(f, w, c) / class_map(f, w, c).amax((1, 2), True), "normalised"),
    ("3a", lambda f, w, c: f.mul_(w[c, :, None, None]).sum(1), r"changes `features`.*clone"),
    ("3b", _changed_box(lambda x, y, u, v: (x, y, u - 1, v - 1)), "ends are inclusive"),
    ("3b", _changed_box(lambda x, y, u, v: (y, x, v, u)), "rows and columns are swapped"),
    ("3b", _changed_box(lambda x, y, u, v: (y, x, v - 1, u - 1)), "swapped, and the ends"),
    ("3b", _changed_box(lambda x, y, u, v: (x, y, u - x, v - y)), "width and height"),
    ("3b", _changed_box(lambda x, y, u, v: (x, u, y, v)), "the order is x1, y1, x2, y2"),
    ("3b", _changed_box(lambda x, y, u, v: (x - 1, y - 1, u - 1, v - 1)), "one pixel too far"),
    ("3b", _changed_box(lambda *corners: corners[:2]), "expected four numbers .* got 2"),
    ("3b", _one_patch, "only the largest patch is boxed"),
    ("3b", _box_of(lambda m, t: m >= t), "as a value of the map"),
    ("3b", _box_of(lambda m, t: m >= m.min() + t * (m.max() - m.min())), "from the lowest value to it"),
    ("3b", _box_of(lambda m, t: m >= t * m.mean()), "not of the mean"),
    ("3b", _box_of(lambda m, t: m > t * m.max()), "exactly the threshold's share"),
    ("3b", _box_of(lambda m, t: m < t * m.max()), "too low|the whole map"),
    ("3b", lambda m, t: (0, 0, m.shape[1], m.shape[0]), "too low|the whole map"),
    ("3b", lambda m, t: m >= t * m.max(), "expected four numbers"),
    ("3b", lambda m, t: "a box", "expected four numbers"),
    ("3c", _by_weights(lambda f, d: d.mean((2, 3)), lambda x: x), "the ReLU is missing"),
    ("3c", _by_weights(lambda f, d: d.mean((2, 3)), torch.abs), "absolute value"),
    ("3c", _by_weights(lambda f, d: -d.mean((2, 3))), "sign is turned round"),
    ("3c", lambda f, d: (d.mean((2, 3), keepdim=True) * f).relu().sum(1), "before the sum"),
    ("3c", _by_weights(lambda f, d: d.mean((2, 3)).relu()), "only positive weights"),
    ("3c", _by_weights(lambda f, d: d.relu().mean((2, 3))), "rectified before its mean"),
    ("3c", _by_weights(lambda f, d: d.mean((2, 3)).abs()), "lost their sign"),
    ("3c", _by_weights(lambda f, d: d.sum((2, 3))), "summed over the 24 places"),
    ("3c", _by_weights(lambda f, d: d.amax((2, 3))), "largest gradient"),
    ("3c", lambda f, d: (f * d).sum(1).relu(), "its own gradient"),
    ("3c", lambda f, d: grad_cam(d, f), "swapped"),
    ("3c", lambda f, d: (d.mean((2, 3), keepdim=True) * f).mean(1).relu(), "averaged; sum them"),
    ("3c", lambda f, d: f.sum(1), "summed without their weights"),
    ("3c", lambda f, d: f.mean(1), "averaged without their weights"),
    ("3c", lambda f, d: d.sum(1).relu(), "gradient alone"),
    ("3c", lambda f, d: grad_cam(f, d.mean(0, keepdim=True)), "over the images too"),
    ("3c", lambda f, d: grad_cam(f, d)[0], "batch dimension is missing"),
    ("3c", lambda f, d: d.mean((2, 3), keepdim=True) * f, "not summed yet"),
    ("3c", lambda f, d: (d.mean((2, 3)) * f.mean((2, 3))).sum(1).relu(), "one value an image"),
    ("3c", lambda f, d: grad_cam(f, d) / grad_cam(f, d).amax((1, 2), keepdim=True), "normalised"),
    ("9b", _shares(lambda v, p, m: _s(v * m) / _s(v)), "counted with their sign"),
    ("9b", _shares(lambda v, p, m: _s(p * m) / _s(v)), "but not below it"),
    ("9b", _shares(lambda v, p, m: _s(v * m) / _s(p)), "but not above it"),
    ("9b", _shares(lambda v, p, m: _s(v.abs() * m) / _s(v.abs())), "absolute values are taken"),
    ("9b", _shares(lambda v, p, m: _s(p * (1 - m)) / _s(p)), "outside the mask"),
    ("9b", _shares(lambda v, p, m: _s(p * m) / _s(p * (1 - m))), "ratio of inside to outside"),
    ("9b", _shares(lambda v, p, m: _s(p * m)), "not divided by the whole map's sum"),
    ("9b", _shares(lambda v, p, m: _s(p * m) / _s(m)), "by the pixels of the mask"),
    ("9b", _shares(lambda v, p, m: _s(p * m) / p.amax((1, 2))), "not by its sum"),
    ("9b", _shares(lambda v, p, m: _s(p * m) / _s(m) / p.mean((1, 2))), "take sums"),
    ("9b", _shares(lambda v, p, m: m.mean((1, 2))), "the map isn't used"),
    ("9b", _shares(lambda v, p, m: _s((v > 0) * m) / _s((v > 0).float())), "their values have to be summed"),
    ("9b", _shares(lambda v, p, m: _s((v > 0) * m) / _s(m)), "share of the map inside is asked for"),
    ("9b", _shares(lambda v, p, m: 100 * _s(p * m) / _s(p)), "per cent"),
    ("9b", _shares(lambda v, p, m: (p * m).sum() / p.sum() + _s(v) * 0), "each has its own share"),
    ("9b", _shares(lambda v, p, m: _s(p * m) / p.sum()), "that of all maps together"),
    ("9b", _shares(lambda v, p, m: (p * m).sum() / p.sum()), "one number for all maps together"),
    ("9b", _shares(lambda v, p, m: p * m / p.sum((1, 2), True)), "one for each map is asked for"),
    ("9b", _shares(lambda v, p, m: (p * m).sum((1, 2), True) / p.sum((1, 2), True)), "keepdim"),
    ("9b", _shares(lambda v, p, m: (p * m).sum(2) / p.sum(2)), "columns only"),
    ("9b", lambda maps, masks: share_on(maps.relu_(), masks), r"changes `maps`.*clone"),
    ("9c", _answers(lambda s, t: (s.argmax(1) == t.argmax(1)).float().mean()), "answers that stay"),
    ("9c", _answers(lambda s, t: (s.argmax(1) != t.argmax(1)).sum()), "this is their number"),
    ("9c", _answers(lambda s, t: 100 * (s.argmax(1) != t.argmax(1)).float().mean()), "per cent"),
    ("9c", _answers(lambda s, t: (s != t).any(1).float().mean()), "whose scores change"),
    ("9c", _answers(lambda s, t: (s.argmax(0) != t.argmax(0)).float().mean()), "highest class of each photo"),
    ("9c", _answers(lambda s, t: (s - t).abs().mean()), "mean change of the scores"),
    ("9c", _answers(lambda s, t: (s.softmax(1) - t.softmax(1)).abs().mean()), "change of the probabilities"),
    ("9c", _answers(lambda s, t: float(s[0].argmax() != t[0].argmax())), "only the first or the last photo"),
    (
        "9c",
        _answers(lambda s, t: float(s[-1].argmax() != t[-1].argmax())),
        "only the first or the last photo",
    ),
    ("9c", _answers(lambda s, t: (s.argmax() != t.argmax()).float()), "of all photos together"),
    ("9c", _answers(lambda s, t: (s.argmin(1) != t.argmin(1)).float().mean()), "lowest class"),
    ("9c", _answers(lambda s, t: s.argmax(1) != t.argmax(1)), "their mean is asked for"),
    ("9c", _answers(lambda s, t: "some"), "one number"),
]


@pytest.mark.parametrize(("exercise", "answer", "says"), WRONG)
def test_a_wrong_answer_is_refused_by_the_name_of_its_mistake(exercise, answer, says, capsys):
    with unchanged():
        verdict = check(exercise, answer)
    assert verdict.ok is False
    assert re.search(says, _joined(verdict.message)), verdict.message
    printed = capsys.readouterr().out
    assert printed.startswith(f"{exercise}  ✗ ")
    assert max(len(line) for line in printed.split("\n")) <= 114


def test_every_exercise_has_at_least_four_wrong_answers_here():
    for exercise in RIGHT:
        assert sum(name == exercise for name, _, _ in WRONG) >= 4
    # the others have files of their own, and so has 9a, which judges a network
    here = {name[0] for name in RIGHT}
    assert {*RIGHT, "9a"} == {name for name in checks._EXERCISES if name[0] in here}


def test_a_difference_is_shown_by_a_value():
    message = check("0a", lambda s: s.softmax(1) + 0.01).message
    expected, got = re.search(r"expected (\S+), got (\S+) at row", message).groups()
    assert float(got) - float(expected) == pytest.approx(0.01, abs=2e-4)


# ----------------------------------------------------------------------------------- and whatever else


def test_an_exception_is_reported_with_its_line_and_the_call():
    def failing(scores):
        a = 1
        return scores.sum(dim=a + 4)

    with unchanged():
        verdict = check("0a", failing)
    assert verdict.ok is False
    assert "IndexError" in verdict.message
    assert "line 3 of your function: return scores.sum(dim=a + 4)" in verdict.message
    assert "scores [3, 4]" in verdict.message
    assert ".py" not in verdict.message


def test_an_exception_inside_a_library_points_at_the_learners_line():
    def failing(image, top, left, window, value):
        return torch.where(image > 0, torch.zeros(2, 2), image)

    message = check("2b", failing).message
    assert "line 2 of your function" in message
    assert "window 3" in message


@pytest.mark.parametrize("answer", [3, "softmax", torch.zeros(3, 4), [softmax]])
def test_the_function_itself_is_asked_for(answer):
    verdict = check("0a", answer)
    assert verdict.ok is False
    assert "expected your function itself, softmax" in verdict.message


@pytest.mark.parametrize("arguments", [0, 1, 9])
def test_a_wrong_number_of_arguments_is_reported(arguments):
    answer = {0: lambda: 1, 1: lambda a: a, 9: lambda a, b, c, d, e, f, g, h, i: 1}[arguments]
    verdict = check("0b", answer)
    assert verdict.ok is False
    assert "TypeError" in verdict.message


def test_an_answer_that_draws_random_numbers_leaves_the_generators_alone():
    def noisy(scores):
        random.random()
        np.random.rand(3)  # noqa: NPY002
        torch.manual_seed(3)
        torch.rand(2)
        return softmax(scores)

    with unchanged():
        assert check("0a", noisy).ok is True


def test_the_same_answer_gets_the_same_verdict_whatever_the_seed():
    messages = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            messages.append(check("1a", _winner).message)
    assert messages[0] == messages[1]


def test_it_works_inside_no_grad():
    with torch.no_grad():
        assert check("1a", saliency).ok is True
        assert check("1b", slope).ok is True


def test_an_interrupt_passes_through_and_leaves_the_generators_alone():
    def stopped(scores):
        torch.rand(3)
        raise KeyboardInterrupt

    with unchanged(), pytest.raises(KeyboardInterrupt):
        check("0a", stopped)


@pytest.mark.parametrize("exercise", ["0c", "", "1A", 1, None])
def test_an_unknown_exercise_is_refused(exercise):
    with pytest.raises(ValueError, match=r"^exercise: expected one of '0a', .*, got"):
        check(exercise, softmax)


def test_a_verdict_cannot_be_changed():
    verdict = check("0a", softmax)
    assert isinstance(verdict, Verdict)
    with pytest.raises(AttributeError):
        verdict.ok = False
