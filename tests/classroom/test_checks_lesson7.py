"""The judges of lesson 7: a stub is not yet, right answers pass, wrong ones are told by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lecture7_utils.classroom.checks import check
from lecture7_utils.kernels.deconvnet import explicit_deconvnet
from lecture7_utils.kernels.targets import unit
from lecture7_utils.kernels.unpooling import switches, unpool
from tests.classroom.exercises import STUBS, has_four_wrong_answers_each, is_not_yet, is_refused
from tests.guards import unchanged


def unpooled(x, signal, f):
    _, places = F.max_pool2d(x, f, return_indices=True)
    out = torch.zeros_like(x).flatten(1)
    return out.scatter_(1, places.flatten(1), signal.flatten(1)).view(x.shape)


def through_relu6(signal, x, rule):
    passed = torch.ones_like(signal, dtype=torch.bool)
    if rule != "gradient":
        passed = passed & (signal > 0)
    if rule != "deconvnet":
        passed = passed & inside(x)
    return signal * passed


def inside(x):
    return (x > 0) & (x < 6)


def way_back(signal, x, weight, bias, *, before=None, relu=torch.relu, after=None, back=F.conv_transpose2d):
    conv = F.conv2d(x, weight, bias, padding=1)
    _, places = F.max_pool2d(torch.relu(conv), 2, return_indices=True)
    signal = F.max_unpool2d(signal, places, 2)
    signal = relu(signal) if before is None else before(signal, conv)
    out = back(signal, weight, padding=1)
    return out if after is None else after(out)


RIGHT = {"7a": unpooled, "7b": through_relu6, "7c": way_back}


def _enlarged(signal, f):
    return signal.repeat_interleave(f, -1).repeat_interleave(f, -2)


def _to_corner(x, signal, f):
    out = torch.zeros_like(x)
    out[..., ::f, ::f] = signal
    return out


def _all_of_the_largest(x, signal, f):
    return (x == _enlarged(F.max_pool2d(x, f), f)) * _enlarged(signal, f)


def _last_of_the_largest(x, signal, f):
    return unpooled(x.flip(1, 2), signal.flip(1, 2), f).flip(1, 2)


def _swapped_inside(x, signal, f):
    """The place in the window is read as column, row."""
    out = torch.zeros_like(x)
    for c, i, j in torch.cartesian_prod(*map(torch.arange, signal.shape)).tolist():
        k = x[c, f * i : f * i + f, f * j : f * j + f].flatten().argmax().item()
        out[c, f * i + k % f, f * j + k // f] = signal[c, i, j]
    return out


def _one_for_all(x, signal, f):
    return unpooled(x.sum(0, keepdim=True).expand_as(x).contiguous(), signal, f)


def _rule(**parts):
    """Right but for the rules given: through_relu6 with another function for some of them."""

    def answer(signal, x, rule):
        return parts[rule](signal, x) if rule in parts else through_relu6(signal, x, rule)

    return answer


def _other_switches(pick):
    """The way back with the switches of another map."""

    def answer(signal, x, weight, bias):
        map = pick(x, weight, bias)
        _, places = F.max_pool2d(map, 2, return_indices=True)
        return F.conv_transpose2d(torch.relu(F.max_unpool2d(signal, places, 2)), weight, padding=1)

    return answer


def _no_switches(place):
    def answer(signal, x, weight, bias):
        blank = torch.zeros(len(x), len(weight), *x.shape[2:])
        return F.conv_transpose2d(torch.relu(place(blank, signal, 2)), weight, padding=1)

    return answer


def _not_turned(signal, weight, padding):
    return F.conv2d(signal, weight.transpose(0, 1), padding=padding)


def _not_padded(signal, weight, padding):
    return F.conv_transpose2d(signal, weight)


def _with_bias(sign):
    return lambda s, x, w, b: way_back(s, x, w, b, before=lambda s, _: s.relu() + sign * b[:, None, None])


WRONG = [
    ("7a", _to_corner, "first entry of each window"),
    ("7a", lambda x, signal, f: _enlarged(signal, f), "every entry of the window"),
    ("7a", lambda x, signal, f: _enlarged(signal, f) / f**2, "shared out"),
    ("7a", _all_of_the_largest, "equal maxima all get"),
    ("7a", _last_of_the_largest, "equal maxima the last one"),
    ("7a", lambda x, signal, f: unpooled(x, F.max_pool2d(x, f), f), "these are the maxima of x"),
    ("7a", lambda x, signal, f: unpooled(x, signal, f) * x, "multiplied by the maximum"),
    ("7a", lambda x, signal, f: unpooled(-x, signal, f), "smallest entry"),
    ("7a", lambda x, signal, f: unpooled(x.abs(), signal, f), r"largest \|x\|"),
    ("7a", _swapped_inside, "swapped inside the window"),
    ("7a", _one_for_all, "all channels have the same switches"),
    ("7a", lambda x, signal, f: signal, "the signal's size; 6 × 8"),
    ("7a", lambda x, signal, f: unpooled(x, signal, f)[0], "channels are missing"),
    ("7a", lambda x, signal, f: unpooled(x, signal, f)[None], "batch dimension"),
    ("7a", lambda x, signal, f: unpooled(x, signal, f).flatten(1), "bring the rows back"),
    ("7a", lambda x, signal, f: unpooled(x, signal, f).mT, "rows and columns are swapped"),
    ("7a", lambda x, signal, f: unpooled(x, signal, f) + 1, "expected .* got .* at channel"),
    ("7a", lambda x, signal, f: unpooled(x, signal.mul_(2), f), "changes `signal`"),
    ("7b", _rule(deconvnet=lambda s, x: s * inside(x)), "'deconvnet': this is the rule of the gradient"),
    ("7b", _rule(deconvnet=lambda s, x: s.relu() * inside(x)), "'deconvnet': this is the rule of guided"),
    ("7b", _rule(gradient=lambda s, x: s.relu()), "'gradient': this is the rule of DeconvNet"),
    ("7b", _rule(guided=lambda s, x: s.relu()), "'guided': this is the rule of DeconvNet"),
    ("7b", _rule(guided=lambda s, x: s * inside(x)), "'guided': this is the rule of the gradient"),
    ("7b", _rule(gradient=lambda s, x: s), "comes back as it was"),
    ("7b", _rule(deconvnet=lambda s, x: s), "comes back as it was"),
    ("7b", lambda s, x, rule: x.clamp(0, 6), "forward pass"),
    ("7b", _rule(gradient=lambda s, x: s * x.clamp(0, 6)), "multiplied by x"),
    ("7b", _rule(guided=lambda s, x: s.relu() * x.clamp(0, 6)), "multiplied by x"),
    ("7b", _rule(gradient=lambda s, x: s * (x > 0)), "above 6 the signal passes, as with ReLU"),
    ("7b", _rule(guided=lambda s, x: s.relu() * (x > 0)), "above 6 the signal passes, as with ReLU"),
    ("7b", _rule(gradient=lambda s, x: s * (x >= 0)), "above 6 the signal passes.* and at 0"),
    ("7b", _rule(gradient=lambda s, x: s * (x < 6)), "upper end alone"),
    ("7b", _rule(gradient=lambda s, x: s * ((x >= 0) & (x < 6))), "exactly 0 nothing passes"),
    ("7b", _rule(guided=lambda s, x: s.relu() * ((x >= 0) & (x < 6))), "exactly 0 nothing passes"),
    ("7b", _rule(gradient=lambda s, x: s * ((x > 0) & (x <= 6))), "exactly 6 nothing passes"),
    ("7b", _rule(gradient=lambda s, x: s * ((x >= 0) & (x <= 6))), "exactly 0 or 6 nothing passes"),
    ("7b", _rule(gradient=lambda s, x: s * ~inside(x)), "the other way round"),
    ("7b", _rule(deconvnet=lambda s, x: s.clamp(0, 6)), "cut at 6"),
    ("7b", _rule(deconvnet=lambda s, x: s.relu() * (x < 6)), "upper end plays no part"),
    ("7b", lambda s, x, rule: (through_relu6(s, x, rule) != 0).float(), "1 and 0 come back"),
    ("7b", _rule(deconvnet=lambda s, x: s.abs()), r"abs\(\)"),
    ("7b", _rule(guided=lambda s, x: s.abs() * inside(x)), r"abs\(\)"),
    ("7b", _rule(deconvnet=lambda s, x: s.clamp(max=0)), "negative signals pass"),
    ("7b", _rule(guided=lambda s, x: s * ((s > 0) | inside(x))), "both have to hold"),
    ("7b", _rule(guided=lambda s, x: s.relu() * inside(x) + 1), "expected .* got .* at entry"),
    ("7b", lambda s, x, rule: through_relu6(s, x, rule).sum(), "one number"),
    ("7c", lambda *a: way_back(*a, before=lambda s, _: s), "ReLU step is missing"),
    ("7c", lambda *a: way_back(*a, before=lambda s, _: s, after=torch.relu), "comes after the convolution"),
    ("7c", lambda *a: way_back(*a, after=torch.relu), "done twice"),
    ("7c", lambda *a: way_back(*a, before=lambda s, c: s * (c > 0)), "gradient's rule"),
    ("7c", lambda *a: way_back(*a, before=lambda s, c: s.relu() * (c > 0)), "guided backpropagation"),
    ("7c", lambda *a: way_back(*a, back=_not_turned), "not turned round"),
    ("7c", lambda *a: way_back(*a, back=_not_padded), "padding 1, so its transpose"),
    ("7c", _other_switches(lambda x, w, b: F.conv2d(x, w, b, padding=1)), "saw the map after the ReLU"),
    ("7c", _other_switches(lambda x, w, b: F.conv2d(x, w, padding=1).relu()), "without the bias"),
    ("7c", _no_switches(_to_corner), "first entry of its window"),
    ("7c", _no_switches(lambda _, s, f: _enlarged(s, f)), "every entry of a window"),
    ("7c", _no_switches(lambda _, s, f: _enlarged(s, f) / 4), "shared out"),
    ("7c", _with_bias(-1), "bias is taken off"),
    ("7c", _with_bias(1), "bias is added"),
    ("7c", lambda s, x, w, b: F.conv_transpose2d(s.relu(), w, padding=1), "through the pooling is missing"),
    ("7c", lambda *a: way_back(*a, back=lambda s, w, padding: s), "through the convolution is missing"),
    ("7c", lambda *a: a[0], "still at the pooling"),
    ("7c", lambda *a: way_back(*a)[0], "expected a tensor"),
    ("7c", lambda *a: way_back(*a) + 0.1, "expected .* got .* at image"),
]  # fmt: skip


@pytest.mark.parametrize("exercise", RIGHT)
def test_a_right_answer_passes(exercise, capsys):
    with unchanged():
        assert check(exercise, RIGHT[exercise]).ok is True
    assert capsys.readouterr().out.startswith(f"{exercise}  ✓ ")


def test_right_answers_written_in_another_way_pass():
    def by_torch(x, signal, f):
        _, places = F.max_pool2d(x[None], f, return_indices=True)
        return F.max_unpool2d(signal[None], places, f, output_size=x.shape[1:])[0].double()

    def by_the_kernel(x, signal, f):
        return unpool(signal[None], switches(x[None], f))[0].numpy()

    def by_where(signal, x, rule):
        zero = torch.zeros_like(signal)
        if rule == "gradient":
            return torch.where(inside(x), signal, zero)
        return torch.where(inside(x), signal.relu(), zero) if rule == "guided" else signal.clamp(min=0)

    def by_autograd(signal, x, rule):
        if rule != "gradient":
            signal = signal.relu()
        if rule == "deconvnet":
            return signal
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(F.relu6(leaf), leaf, signal)[0]

    def by_the_chain(signal, x, weight, bias):
        """The kernel for each entry of the signal alone: it is linear in positive signals."""
        conv = nn.Conv2d(*weight.shape[1::-1], 3, padding=1)
        conv.load_state_dict({"weight": weight, "bias": bias})
        chain = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2))
        out = torch.zeros_like(x)
        for k, i, j in torch.cartesian_prod(*map(torch.arange, signal.shape[1:])).tolist():
            one = explicit_deconvnet(chain, x, unit("2", k, (i, j)), start="one")
            out += one * signal[:, k, i, j].relu()[:, None, None, None]
        return out

    for exercise, answer in (
        ("7a", by_torch),
        ("7a", by_the_kernel),
        ("7b", by_where),
        ("7b", by_autograd),
        ("7c", by_the_chain),
    ):
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
    has_four_wrong_answers_each("7", RIGHT, WRONG)
