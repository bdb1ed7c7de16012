"""Judges a learner's answer to an exercise: "not yet", what is wrong with it, or right.

Every function is called on inputs of random shapes (the same ones each time, from a generator of their own)
and held against a reference that is written here from the definition. What typical mistakes would give is
worked out beside it, so that a wrong answer is told by its name. Nothing of the learner's is kept or changed,
and the global random generators are left as they were.
"""

import dis
import itertools
import linecache
import random
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import describe
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.scenes import SPECIES, draw_scenes

ATOL, RTOL = 2e-5, 2e-3  # float32 against a float64 reference; every mistake that is named is far outside


@dataclass(frozen=True)
class Verdict:
    """What `check` found: ok is True (right), False (wrong) or None (not yet); message is what it printed."""

    exercise: str
    ok: bool | None
    message: str

    def _ipython_display_(self) -> None:
        """Nothing: `check` has printed the message, and a cell's last value must not print it again."""


class _Wrong(Exception):
    """What is wrong with the answer, as it is said to the learner."""


class _NotYet(Exception):
    """The stub is still there."""


def check(exercise: str, answer: object) -> Verdict:
    """Judge the answer to an exercise, print the verdict, and return it.

    exercise: "0a", "0b", "1a" … as the lesson names it. answer: the learner's function (in 9a a network).
    The verdict's `ok` is None while the stub is there (with a hint), False for a wrong answer (with what was
    expected and what came, and the mistake's name where it is a known one) or for an exception of the
    learner's function (with its line), and True for a right one.
    The global random generators are left as they were, whatever the answer does to them.
    Raises `ValueError` for an exercise that does not exist; `KeyboardInterrupt` passes through.
    """
    if exercise not in _EXERCISES:
        raise ValueError(f"exercise: expected one of {', '.join(map(repr, _EXERCISES))}, got {exercise!r}")
    asked = _EXERCISES[exercise]
    try:
        with _random_states_kept():
            asked.judge(asked.take(answer, asked.signature), torch.Generator().manual_seed(7))
    except _NotYet:
        ok, message = None, f"Not yet: {asked.hint}"
    except _Wrong as wrong:
        ok, message = False, f"✗ {wrong}"
    else:
        ok, message = True, f"✓ {asked.right}"
    lines = [
        textwrap.fill(line, 108, subsequent_indent="    ", replace_whitespace=False, drop_whitespace=True)
        for line in message.split("\n")
    ]
    print("\n".join([f"{exercise}  {lines[0]}", *lines[1:]]))
    return Verdict(exercise, ok, message)


# ---------------------------------------------------------------------- calling the learner's function


@contextmanager
def _random_states_kept() -> Iterator[None]:
    python, torch_ = random.getstate(), torch.get_rng_state()
    numpy_ = np.random.get_state()  # noqa: NPY002 (kept and put back, not drawn from)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)  # noqa: NPY002
        torch.set_rng_state(torch_)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


class _Caller:
    """The learner's function, called on copies; tells a stub, an exception and a changed input apart."""

    def __init__(self, answer: object, signature: str):
        if answer is None or answer is Ellipsis:
            raise _NotYet
        if not callable(answer):
            name = signature.split("(")[0]
            raise _Wrong(
                f"expected your function itself, {name}, without calling it, got {describe(answer)}."
            )
        self.answer, self.signature = answer, signature
        self.names = [name.strip() for name in signature[signature.index("(") + 1 : -1].split(",")]

    def __call__(self, *args: object) -> object:
        given = [a.clone() if isinstance(a, Tensor) else a for a in args]
        models = [a for a in args if isinstance(a, nn.Module)]
        before = [[p.detach().clone() for p in m.state_dict().values()] for m in models]
        try:
            with torch.enable_grad():
                got = self.answer(*given)
        except NotImplementedError:
            raise _NotYet from None
        except Exception as error:
            if "ellipsis" in str(error).lower():  # a part of the stub is still there
                raise _NotYet from None
            raise _Wrong(self._failed(error, args)) from None
        if got is None or got is Ellipsis:
            if got is None and _has_a_body(self.answer):
                raise _Wrong("the function gives None: its last line has to `return` the result.")
            raise _NotYet
        for name, mine, theirs in zip(self.names, args, given, strict=True):
            if isinstance(mine, Tensor) and not _equal(mine, theirs):
                raise _Wrong(
                    f"the function changes `{name}`, which belongs to the caller: work on `{name}.clone()`."
                )
        for model, values in zip(models, before, strict=True):
            if not all(torch.equal(a, b) for a, b in zip(values, model.state_dict().values(), strict=True)):
                raise _Wrong("the function changes the model's weights, which it should only read.")
            if model.training:
                raise _Wrong("the function leaves the model in train mode; it was in eval mode before.")
        return got

    def _failed(self, error: Exception, args: tuple) -> str:
        """The exception, the learner's own line, and what the function was called with."""
        code = getattr(self.answer, "__code__", None)
        where = ""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if code is not None and frame.filename == code.co_filename:
                line = linecache.getline(frame.filename, frame.lineno).strip()
                where = f"\nline {frame.lineno - code.co_firstlineno + 1} of your function: {line}"
                break
        called = ", ".join(f"{n} {_brief(a)}" for n, a in zip(self.names, args, strict=True))
        text = str(error).split("\n")[0]
        return f"{type(error).__name__}: {text}{where}\ncalled with {called}"


def _has_a_body(answer: object) -> bool:
    """Whether the function does anything: a stub of `...` or a docstring alone loads and returns None."""
    code = getattr(answer, "__code__", None)
    if code is None or Ellipsis in code.co_consts:
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "CACHE", "COPY_FREE_VARS"}
    return any(step.opname not in idle for step in dis.get_instructions(code))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b.detach())


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        if value.ndim <= 1 and value.numel() <= 5:
            return _numbers(value)
        return str(list(value.shape))
    return "a small CNN" if isinstance(value, nn.Module) else repr(value)


def _numbers(values: Tensor) -> str:
    """A few numbers as one writes them: [0.12, −3.4]."""
    flat = values.detach().reshape(-1).tolist()
    text = ", ".join(
        str(v) if isinstance(v, int) else f"{v:.3g}".replace("-", "\N{MINUS SIGN}") for v in flat[:5]
    )
    return f"[{text}{', …' if len(flat) > 5 else ''}]"


# ------------------------------------------------------------------------------------------- comparing


def _tensor(got: object, what: str, shape: tuple[int, ...], shape_hints: Mapping[tuple, str]) -> Tensor:
    """The answer as a float64 tensor of that shape; what is said otherwise."""
    if isinstance(got, np.ndarray):
        got = torch.from_numpy(got)
    if not isinstance(got, Tensor):
        raise _Wrong(f"expected a tensor {list(shape)} of {what}, got {describe(got)}.")
    if tuple(got.shape) != shape:
        hint = shape_hints.get(tuple(got.shape))
        raise _Wrong(
            f"expected a tensor {list(shape)} of {what}, got {list(got.shape)}{f': {hint}' if hint else ''}."
        )
    return got.detach().cpu().double()


def _close(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and bool(torch.allclose(got, want.double(), atol=ATOL, rtol=RTOL))


def _compare(got: Tensor, want: Tensor, mistakes: Mapping[str, Tensor], axes: tuple[str, ...]) -> None:
    """Raise `_Wrong` unless `got` is `want`: with the mistake that would give it, or the first difference."""
    want = want.double()
    if _close(got, want):
        return
    worst = (got - want).abs().nan_to_num(torch.inf).argmax().item()
    place = np.unravel_index(worst, tuple(want.shape))
    at = ", ".join(f"{axis} {int(i)}" for axis, i in zip(axes, place, strict=True))
    example = (
        f"expected {_number(want.flatten()[worst])}, got {_number(got.flatten()[worst])}"
        f"{f' at {at}' if at else ''}"
    )
    for name, value in mistakes.items():
        if _close(got, value.double()):
            raise _Wrong(f"{name} ({example}).")
    raise _Wrong(f"{example}.")


def _number(value: Tensor) -> str:
    return f"{value.item():.4g}".replace("-", "\N{MINUS SIGN}")


def _proportional(got: Tensor, want: Tensor) -> bool:
    """Whether each image's map is the right one times a number of its own, which isn't 1."""
    a, b = got.flatten(1), want.double().flatten(1)
    factor = (a * b).sum(1, keepdim=True) / (b * b).sum(1, keepdim=True).clamp_min(1e-30)
    return bool((factor > 0).all()) and bool(torch.allclose(a, factor * b, rtol=1e-2, atol=1e-6))


# ----------------------------------------------------------------------------------- the small network


class _SmallNet(nn.Module):
    """A smooth CNN for images of any size: its scores bend, so that a wrong difference quotient shows."""

    def __init__(self, classes: int, generator: torch.Generator):
        super().__init__()
        self.first = nn.utils.skip_init(nn.Conv2d, 3, 6, 3, padding=1)
        self.second = nn.utils.skip_init(nn.Conv2d, 6, 8, 3, padding=1)
        self.head = nn.utils.skip_init(nn.Linear, 8, classes)
        with torch.no_grad():
            for parameter, scale in zip(self.parameters(), (0.5, 0.5, 0.4, 0.5, 2.0, 0.5), strict=True):
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError(f"the network takes images [N, 3, H, W], got {list(images.shape)}")
        x = torch.tanh(self.second(torch.tanh(self.first(images))))
        # not a plain mean: places count differently, so that a transposed or mirrored map is another one
        slope = torch.linspace(0.3, 2.0, x.shape[-2], dtype=x.dtype)[:, None]
        slope = slope + torch.linspace(0.0, 1.0, x.shape[-1], dtype=x.dtype)
        return self.head((x * slope).mean((2, 3)))


def _net(generator: torch.Generator, classes: int) -> tuple[_SmallNet, _SmallNet]:
    """The network for the learner, and its twin in float64 for the reference."""
    net = _SmallNet(classes, generator).eval()
    twin = _SmallNet(classes, torch.Generator().manual_seed(0)).double().eval()
    twin.load_state_dict(net.state_dict())
    return net, twin


def _randint(generator: torch.Generator, low: int, high: int, shape: tuple = ()) -> Tensor:
    return torch.randint(low, high, shape, generator=generator)


def _gradients(twin: nn.Module, images: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """d(sum of pick(scores)) / d(images), in float64."""
    with torch.enable_grad():
        leaf = images.double().detach().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(pick(twin(leaf)).sum(), leaf)
    return gradient


def _no_parameter_gradients(net: nn.Module) -> None:
    if any(p.grad is not None for p in net.parameters()):
        raise _Wrong(
            "the values are right, but the function leaves gradients in the model's parameters: "
            "`backward()` fills `.grad` of every one of them; `torch.autograd.grad(score.sum(), images)` "
            "computes the one gradient that is asked for."
        )


# -------------------------------------------------------------------------------------------- lesson 0


def _judge_softmax(call: _Caller, g: torch.Generator) -> None:
    for n, k in ((3, 4), (4, 4), (1, 6), (5, 2)):
        scores = torch.randn(n, k, generator=g) * 2
        got = _tensor(call(scores), "probabilities", (n, k), {(k, n): "transposed"})
        s = scores.double()
        e = s.exp()
        want = e / e.sum(1, keepdim=True)
        _compare(
            got,
            want,
            {
                "every column sums to 1, but every row has to: sum over the classes, dim=1": e / e.sum(0),
                "all entries together sum to 1, but every row has to": e / e.sum(),
                "these are the logarithms of the probabilities": want.log(),
                "these are the scores themselves": s,
                "these are exponentials that are not yet divided by their sum": e,
                "the scores are divided by their sum without the exponential": s / s.sum(1, keepdim=True),
            },
            ("row", "class"),
        )
    high = torch.tensor([[1000.0, 999.0, 990.0], [-1000.0, -1001.0, -1010.0], [0.0, 1000.0, -1000.0]])
    e = (high.double() - high.double().amax(1, keepdim=True)).exp()
    want = e / e.sum(1, keepdim=True)
    got = _tensor(call(high), "probabilities", (3, 3), {})
    bad = ~torch.isfinite(got).all(1)
    if bad[1] and not bad[0]:
        raise _Wrong(
            "right for small scores, but scores [−1000, −1001, −1010] beside a row of +1000 give "
            f"{_numbers(got[1])}, expected {_numbers(want[1])}: subtract each row's own maximum, "
            "not that of all rows."
        )
    if bad.any():
        raise _Wrong(
            f"right for small scores, but scores [1000, 999, 990] give {_numbers(got[0])}, expected "
            f"{_numbers(want[0])}: exp(1000) overflows. Subtract each row's maximum first; "
            "the probabilities stay the same."
        )
    _compare(got, want, {}, ("row", "class"))


def _judge_raise_probability(call: _Caller, g: torch.Generator) -> None:
    for n, k, spread, c in ((3, 5, 2.0, 1), (1, 10, 3.0, 9), (4, 3, 30.0, 0), (2, 1000, 3.0, 321)):
        scores = torch.randn(n, k, generator=g) * spread
        got = _tensor(call(scores, c), "scores", (n, k), {(n,): "one value a row; all scores are asked for"})
        s = scores.double()
        if torch.isnan(got).any():
            raise _Wrong(f"expected numbers, got NaN in row {int(torch.isnan(got).any(1).nonzero()[0])}.")
        if bool(((got >= 0) & (got <= 1)).all()) and torch.allclose(got.sum(1), got.new_ones(n), atol=1e-4):
            raise _Wrong(
                "each row sums to 1: these are probabilities; scores, before the softmax, are asked for."
            )
        moved = (got[:, c] - s[:, c]).abs() > 1e-4 * (1 + s[:, c].abs())
        if moved.any():
            row = int(moved.nonzero()[0])
            raise _Wrong(
                f"the score of class {c} has to stay {s[row, c]:.3g} in row {row}, got {got[row, c]:.3g}: "
                "lower the others instead."
            )
        reached = torch.softmax(got, 1)[:, c]
        if bool((~(reached > 0.99)).any()):  # not <=: an infinite score gives NaN
            row = int((~(reached > 0.99)).nonzero()[0])
            before = torch.softmax(s, 1)[row, c]
            if _close(got, s):
                why = "the scores come back unchanged"
            elif row > 0 and bool((reached[:row] > 0.99).all()) and _close(got[row], s[row]):
                why = f"row {row} comes back unchanged: do it for every row"
            else:
                why = f"the others are still too high ({k} classes, scores up to {s[row].max():.3g})"
            raise _Wrong(
                f"expected a probability above 0.99 for class {c} in row {row}, "
                f"got {reached[row]:.3g} (it was {before:.3g}): {why}."
            )


# -------------------------------------------------------------------------------------------- lesson 1

_MAP_AXES = ("image", "row", "column")


def _map_hints(n: int, h: int, w: int) -> dict[tuple, str]:
    hints = {
        (n, 3, h, w): "the three channels still have to become one, by their largest |gradient|",
        (n, 1, h, w): "without the channel dimension, so no keepdim",
        (n, w, h): "rows and columns are swapped",
        (3, h, w): "the maximum was taken over the images, not over the channels",
        (n,): "one value an image; one for each pixel is asked for",
        (n, 3): "one value a channel; one for each pixel is asked for",
    }
    if n > 1:
        hints[(1, h, w)] = "only one image was done; all of the batch are asked for"
    return {(h, w): "the batch dimension is missing; images come as [N, 3, H, W]", **hints}


def _judge_saliency(call: _Caller, g: torch.Generator) -> None:
    for n, h, w, k in ((4, 7, 9, 5), (1, 8, 6, 3), (2, 10, 10, 7)):
        net, twin = _net(g, k)
        images = torch.randn(n, 3, h, w, generator=g)
        with torch.no_grad():
            best = twin(images.double()).argmax(1)
        # never the class that wins, so that a gradient of the winner is found out
        classes = (best + _randint(g, 1, k, (n,))) % k
        rows = torch.arange(n)
        gradient = _gradients(twin, images, lambda s, r=rows, c=classes: s[r, c])
        post = _gradients(twin, images, lambda s, r=rows, c=classes: s.softmax(1)[r, c])
        log_post = _gradients(twin, images, lambda s, r=rows, c=classes: s.log_softmax(1)[r, c])
        winner = _gradients(twin, images, lambda s: s.amax(1))
        every = _gradients(twin, images, lambda s: s.sum(1))
        first = _gradients(twin, images, lambda s, c=classes: s[:, c[0]])
        want = gradient.abs().amax(1)
        got = _tensor(call(net, images, classes), "saliency", (n, h, w), _map_hints(n, h, w))
        mistakes = {
            "no absolute value: the largest signed gradient of the channels": gradient.amax(1),
            "the absolute value comes after the maximum: take it first": gradient.amax(1).abs(),
            "the mean over the channels is taken, not the largest": gradient.abs().mean(1),
            "the sum over the channels is taken, not the largest": gradient.abs().sum(1),
            "the channels are averaged with their signs: they cancel": gradient.mean(1),
            "the channels are summed with their signs: they cancel": gradient.sum(1),
            "the absolute value of the channels' sum: opposite signs cancel": gradient.sum(1).abs(),
            "the absolute value of the channels' mean: opposite signs cancel": gradient.mean(1).abs(),
            "the norm of the channels is taken (reduce='l2'), not the largest": gradient.norm(dim=1),
            "this is the gradient of the probability, after the softmax; the score before it is asked for": (
                post.abs().amax(1)
            ),
            "this is the gradient of the log-probability (a cross-entropy); the score is asked for": (
                log_post.abs().amax(1)
            ),
            "this is the gradient of the winning class; the class in `classes` is asked for": (
                winner.abs().amax(1)
            ),
            "this is the gradient of all scores together; that of one class is asked for": (
                every.abs().amax(1)
            ),
            "the first image's class was used for all; each image has its own": first.abs().amax(1),
            "this is gradient × input; the gradient alone is asked for": (
                (gradient * images.double()).abs().amax(1)
            ),
        }
        if n > 1:
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first image was done"] = only
            mistakes[f"divided by the {n} images: sum the scores, don't average them"] = want / n
        _named_or_scaled(got, want, mistakes)
        _no_parameter_gradients(net)


def _named_or_scaled(got: Tensor, want: Tensor, mistakes: Mapping[str, Tensor]) -> None:
    try:
        _compare(got, want, mistakes, _MAP_AXES)
    except _Wrong as wrong:
        named = any(_close(got, value.double()) for value in mistakes.values())
        if not named and bool(torch.isfinite(got).all()) and _proportional(got, want):
            raise _Wrong(
                f"the map has the right pattern but was normalised: keep it as it is, {str(wrong)[:-1]}."
            ) from None
        raise


def _judge_slope(call: _Caller, g: torch.Generator) -> None:
    for h, w, k, step in ((6, 8, 4, 0.5), (9, 7, 3, 0.25), (8, 8, 6, 1.0)):
        net, twin = _net(g, k)
        image = torch.randn(1, 3, h, w, generator=g)
        c, channel = int(_randint(g, 0, k)), int(_randint(g, 0, 3))
        # rows and columns that are both inside when swapped
        i, j = int(_randint(g, 0, 3)), 3 + int(_randint(g, 0, 3))
        what = f"slope(model, image, {c}, {channel}, {i}, {j}, {step})"
        point = image.double()

        def at(offset: float, post: bool = False, place=(channel, i, j), x=point, net_=twin, c_=c) -> Tensor:
            x = x.clone()
            x[0, place[0], place[1], place[2]] += offset
            with torch.no_grad():
                s = net_(x)
                return (s.softmax(1) if post else s)[0, c_]

        want = (at(step) - at(-step)) / (2 * step)
        got = call(net, image, c, channel, i, j, step)
        if isinstance(got, Tensor | np.ndarray) and np.prod(tuple(got.shape)) != 1:
            raise _Wrong(f"expected one number, got {describe(got)}.")
        try:
            got = torch.tensor(float(got), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise _Wrong(f"expected one number, got {describe(got)}.") from None
        mistakes = {
            "this is the forward difference, (s(x + h) − s(x)) / h": (at(step) - at(0)) / step,
            "this is the backward difference, (s(x) − s(x − h)) / h": (at(0) - at(-step)) / step,
            "the two points are 2 h apart: divide by 2 h, not by h": 2 * want,
            "the difference is not divided by 2 h": want * 2 * step,
            "multiplied by h / 2: brackets are missing around 2 * h": want * 2 * step / 2 * step,
            "the sign is turned round: s(x + h) − s(x − h)": -want,
            "this is the slope of the probability; that of the score is asked for": (
                (at(step, True) - at(-step, True)) / (2 * step)
            ),
            "row and column are swapped: the image is [1, 3, H, W], i is the row": (
                (at(step, place=(channel, j, i)) - at(-step, place=(channel, j, i))) / (2 * step)
            ),
            "the second point is x, not x − h": (at(step) - at(0)) / (2 * step),
        }
        try:
            _compare(got, want, mistakes, ())
        except _Wrong as wrong:
            raise _Wrong(f"{str(wrong)[:-1]} for {what}.") from None
        _no_parameter_gradients(net)


def _judge_average_gradient(call: _Caller, g: torch.Generator) -> None:
    for n, h, w, k, count in ((3, 7, 9, 5, 4), (1, 8, 6, 3, 3), (2, 6, 6, 4, 5)):
        net, twin = _net(g, k)
        images = torch.randn(n, 3, h, w, generator=g)
        noises = torch.randn(count, n, 3, h, w, generator=g)
        rows, classes = torch.arange(n), _randint(g, 0, k, (n,))

        def at(x: Tensor, net_=twin, r=rows, c=classes) -> Tensor:
            return _gradients(net_, x, lambda s: s[r, c])

        x = images.double()
        each = torch.stack([at(x + noise.double()) for noise in noises])
        mean = each.mean(0)
        want = mean.abs().amax(1)
        probability = torch.stack(
            [
                _gradients(twin, x + e.double(), lambda s, r=rows, c=classes: s.softmax(1)[r, c])
                for e in noises
            ]
        ).mean(0)
        got = _tensor(
            call(net, images, classes, noises),
            "averaged gradients",
            (n, h, w),
            {(count, n, h, w): "the average over the noises is missing", **_map_hints(n, h, w)},
        )
        mistakes = {
            "the absolute value is taken before the average: average the signed gradients first": (
                each.abs().mean(0).amax(1)
            ),
            "the maps are averaged: average the signed gradients first, then |·| and the maximum": (
                each.abs().amax(2).mean(0)
            ),
            f"the gradients of the {count} noises are summed: divide by their number": want * count,
            "this is the gradient at the image plus the mean noise: average gradients, not images": (
                at(x + noises.double().mean(0)).abs().amax(1)
            ),
            "only the first noise was used": each[0].abs().amax(1),
            "only the last noise was used": each[-1].abs().amax(1),
            "no noise was added": at(x).abs().amax(1),
            "this is the gradient at the noise alone: add it to the images": (
                torch.stack([at(noise.double()) for noise in noises]).mean(0).abs().amax(1)
            ),
            "no absolute value: the largest signed gradient of the channels": mean.amax(1),
            "the mean over the channels is taken, not the largest": mean.abs().mean(1),
            "the sum over the channels is taken, not the largest": mean.abs().sum(1),
            "this is the gradient of the probability; the score before the softmax is asked for": (
                probability.abs().amax(1)
            ),
        }
        if n > 1:
            mistakes[f"divided by the {n} images: sum the scores, don't average them"] = want / n
        _named_or_scaled(got, want, mistakes)
        _no_parameter_gradients(net)


# -------------------------------------------------------------------------------------------- lesson 2


def _starts(size: int, window: int, stride: int) -> list[int]:
    """0, s, 2s … up to the first window that reaches the border; counted here one by one."""
    found = [0]
    while found[-1] + window < size:
        found.append(found[-1] + stride)
    return found


def _judge_starts(call: _Caller, g: torch.Generator) -> None:
    sizes = [(11, 4, 3), (8, 4, 2), (224, 32, 16), (5, 5, 2), (7, 2, 5), (10, 1, 1)]
    while len(sizes) < 14:
        window, stride = int(_randint(g, 1, 9)), int(_randint(g, 1, 9))
        size = window + int(_randint(g, 0, 30))
        if _starts(size, window, stride)[-1] < size:  # a stride beyond the window may step over the border
            sizes.append((size, window, stride))
    for size, window, stride in sizes:
        got = call(size, window, stride)
        where = f"starts({size}, {window}, {stride})"
        want = _starts(size, window, stride)
        if isinstance(got, Tensor | np.ndarray):
            got = got.tolist()
        if isinstance(got, int) and got == len(want):
            raise _Wrong(f"{where}: expected the starts themselves, {want}, got their number, {got}.")
        try:
            got = [int(v) if v == int(v) else v for v in itertools.islice(got, 10_000)]
        except (TypeError, ValueError):
            raise _Wrong(f"{where}: expected a list of ints, {want}, got {describe(got)}.") from None
        if got == want:
            continue
        floor = list(range(0, size - window + 1, stride))
        if got == floor:
            why = (
                f"{size - floor[-1] - window} of the last pixels are never covered: round up; "
                "the last window may stick out and is clipped"
            )
        elif got == list(range(0, size, stride)):
            why = "stop at the first window that reaches the border"
        elif got == list(range(0, size - window, stride)):
            why = "the last window is missing"
        elif got == [*floor, size - window]:
            why = "the last window is not moved back: it starts at a multiple of the stride and is clipped"
        elif got[: len(want)] == want:
            why = "too many: stop at the first window that reaches the border"
        elif got and got == want[: len(got)]:
            why = "too few: go on until a window reaches the border"
        elif got == [v + 1 for v in want]:
            why = "pixels count from 0"
        else:
            why = "0, s, 2s … until the window reaches the border"
        raise _Wrong(f"{where}: expected {_few(want)}, got {_few(got)}: {why}.")


def _few(values: list) -> str:
    if len(values) <= 8:
        return str(values)
    return f"[{', '.join(map(str, values[:3]))}, …, {', '.join(map(str, values[-2:]))}] ({len(values)})"


def _filled(image: Tensor, top: int, left: int, height: int, width: int, value: Tensor) -> Tensor:
    """The definition, pixel by pixel: what lies in the rectangle has the value's colour."""
    rows, columns = torch.arange(image.shape[1])[:, None], torch.arange(image.shape[2])
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return torch.where(inside, value[:, None, None], image)


def _judge_occlude(call: _Caller, g: torch.Generator) -> None:
    for h, w, top, left, window in (
        (9, 9, 2, 4, 3),  # as wide as there are channels: the value broadcasts along the columns, wrongly
        (9, 12, 1, 4, 4),
        (8, 8, 0, 3, 2),
        (9, 7, 6, 2, 5),  # sticks out below
        (6, 9, 1, 7, 4),  # sticks out at the right
    ):
        image = torch.randn(3, h, w, generator=g)
        value = torch.randn(3, generator=g)
        got = call(image, top, left, window, value)
        hints = {
            (3, window, window): "the whole image is asked for, not the square alone",
            (1, 3, h, w): "the image comes and goes as [3, H, W]",
            (h, w): "all three channels are asked for",
        }
        got = _tensor(got, "the occluded image", (3, h, w), hints)
        x, v = image.double(), value.double()
        want = _filled(x, top, left, window, window, v)
        one = want.clone()
        one[1:] = x[1:]
        along = x.clone()
        if window == 3:
            along[:, top : top + 3, left : left + 3] = v
        blank = torch.zeros_like(v)
        mistakes = {
            "nothing was filled": x,
            "rows and columns are swapped: top is the first row, left the first column": (
                _filled(x, left, top, window, window, v)
            ),
            "only the first channel was filled": one,
            "one colour for all channels: each has its own value": (
                _filled(x, top, left, window, window, v[:1].expand(3))
            ),
            "the mean of the value fills all channels: each has its own": (
                _filled(x, top, left, window, window, v.mean().expand(3))
            ),
            "the square is filled with 0, not with `value`": _filled(x, top, left, window, window, blank),
            "the square is one pixel too large: top to top + window − 1 are inside": (
                _filled(x, top, left, window + 1, window + 1, v)
            ),
            "the square is one pixel too small: row top + window − 1 is still inside": (
                _filled(x, top, left, window - 1, window - 1, v)
            ),
            "the square is moved back inside the image: clip it at the border": (
                _filled(x, min(top, h - window), min(left, w - window), window, window, v)
            ),
            "(top, left) is taken for the square's middle": (
                _filled(x, top - window // 2, left - window // 2, window, window, v)
            ),
            "the value runs along the columns: value[:, None, None] gives one for each channel": along,
            "all but the square is filled": torch.where(want == x, v[:, None, None], x),
        }
        called = f"occlude(image [3, {h}, {w}], {top}, {left}, {window}, value)"
        try:
            _compare(got, want, mistakes, ("channel", "row", "column"))
        except _Wrong as wrong:
            raise _Wrong(f"{called}: {wrong}") from None


def _judge_occlusion_scores(call: _Caller, g: torch.Generator) -> None:
    for h, w, k, window, stride in ((9, 14, 4, 4, 3), (12, 8, 3, 5, 4), (7, 11, 5, 3, 2)):
        net, twin = _net(g, k)
        image, value = torch.randn(3, h, w, generator=g), torch.randn(3, generator=g)
        x, v = image.double(), value.double()
        tops, lefts = _starts(h, window, stride), _starts(w, window, stride)
        rows, columns = len(tops), len(lefts)
        with torch.no_grad():
            whole = twin(x[None])
            c = int((whole[0].argmax() + 1) % k)
            scores = torch.stack(
                [
                    torch.cat([twin(_filled(x, t, left, window, window, v)[None]) for left in lefts])
                    for t in tops
                ]
            )
            black = torch.stack(
                [
                    torch.cat([twin(_filled(x, t, left, window, window, 0 * v)[None]) for left in lefts])
                    for t in tops
                ]
            )
        want = scores[:, :, c]
        got = call(net, image, c, window, stride, value)
        if isinstance(got, list | tuple):
            try:
                got = torch.tensor([[float(score) for score in row] for row in got])
            except (TypeError, ValueError, RuntimeError):
                raise _Wrong(
                    f"expected a tensor [{rows}, {columns}] of scores, got {describe(got)}."
                ) from None
        fewer = "the last window, which sticks out and is clipped, is missing"
        hints = {
            (rows - 1, columns - 1): fewer,
            (rows - 1, columns): fewer,
            (rows, columns - 1): fewer,
            (columns, rows): "rows and columns are swapped",
            (rows * columns,): f"arrange the {rows} × {columns} positions as a grid",
            (rows, columns, k): f"these are the scores of all classes; that of class {c} is asked for",
            (rows, columns, 1): "without the last dimension",
            (h, w): "one score for each position of the window is asked for, not for each pixel",
        }
        got = _tensor(
            got, f"scores, one for each of the {rows} × {columns} positions", (rows, columns), hints
        )
        mistakes = {
            "these are probabilities, after the softmax; the score before it is asked for": (
                scores.softmax(2)[:, :, c]
            ),
            "the score of the whole image was subtracted: the occluded score itself is asked for": (
                want - whole[0, c]
            ),
            "these are the drops s(x) − s(occluded): the occluded score itself is asked for": (
                whole[0, c] - want
            ),
            "this is the winning class's score; that of class c is asked for": scores.amax(2),
            "every position gives the whole image's score: the occluded copy is not what the model saw": (
                whole[0, c].expand(rows, columns)
            ),
            "the square is filled with 0, not with `value`": black[:, :, c],
        }
        called = f"occlusion_scores(model, image [3, {h}, {w}], {c}, {window}, {stride}, value)"
        # a copy that is never restored: the rectangles add up
        kept, marked = x.clone(), torch.zeros_like(want)
        with torch.no_grad():
            for a, t in enumerate(tops):
                for b, left in enumerate(lefts):
                    kept = _filled(kept, t, left, window, window, v)
                    marked[a, b] = twin(kept[None])[0, c]
        mistakes["the rectangles add up: begin with a fresh copy of the image at each position"] = marked
        try:
            _compare(got, want, mistakes, ("row", "column"))
        except _Wrong as wrong:
            raise _Wrong(f"{called}: {wrong}") from None


# -------------------------------------------------------------------------------------------- lesson 3


def _grid_hints(n: int, k: int, h: int, w: int) -> dict[tuple, str]:
    hints = {
        (n, k, h, w): "the channels are not summed yet",
        (n, 1, h, w): "without the channel dimension, so no keepdim",
        (n, w, h): "rows and columns are swapped",
        (k, h, w): "the sum was taken over the images, not over the channels",
        (n, k): "one value a channel; one for each place is asked for",
        (n,): "one value an image; one for each place is asked for",
    }
    if n > 1:
        hints[(1, h, w)] = "only one image was done; all of the batch are asked for"
    return {(h, w): "the batch dimension is missing; features come as [N, K, h, w]", **hints}


def _judge_class_map(call: _Caller, g: torch.Generator) -> None:
    for n, k, h, w, classes in ((2, 6, 7, 4, 6), (3, 5, 4, 6, 7), (1, 8, 3, 5, 4)):
        features = torch.randn(n, k, h, w, generator=g)
        weight = torch.randn(classes, k, generator=g)
        # neither the first nor the last class, so that counting from 1 is still a row of the matrix
        c = int(_randint(g, 1, min(classes, k) - 1))
        f, m = features.double(), weight.double()

        def summed(weights: Tensor, f_: Tensor = f) -> Tensor:
            return sum(weights[channel] * f_[:, channel] for channel in range(f_.shape[1]))

        want = summed(m[c])
        hints = _grid_hints(n, k, h, w)
        hints[n, classes, h, w] = f"one map is asked for: that of class {c}, summed over the channels"
        hints[n, classes] = "no places are left: don't average over them"
        got = _tensor(call(features, weight, c), "the map", (n, h, w), hints)
        mistakes = {
            "the channels are summed without their weights": f.sum(1),
            "the channels are averaged without their weights": f.mean(1),
            f"the weights are those of class {c + 1}: classes count from 0": summed(m[c + 1]),
            f"the weights are those of class {c - 1}": summed(m[c - 1]),
            "the weights of all classes are summed; those of class c are asked for": summed(m.sum(0)),
            f"the weighted sum is divided by the {k} channels: their weights do that already": want / k,
            f"the map is divided by its {h * w} places: its mean over the places gives the score": (
                want / (h * w)
            ),
            "the map is rectified: places that speak against the class are asked for too": want.clamp(min=0),
            "the weights have lost their sign": summed(m[c].abs()),
            "only positive weights are used; negative ones count too": summed(m[c].clamp(min=0)),
            "the weights went through a softmax: take them as they are": summed(m[c].softmax(0)),
            "the features are rectified first: take them as they are": summed(m[c], f.clamp(min=0)),
            "every place has the mean of the map: don't average over the places": (
                want.mean((1, 2), keepdim=True).expand_as(want)
            ),
        }
        if classes == k:
            mistakes["the weights are column c of the matrix; those of a class are a row"] = summed(m[:, c])
        if n > 1:
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first image was done"] = only
            mistakes["the first image's map is given for all"] = want[:1].expand_as(want)
        _named_or_scaled(got, want, mistakes)


def _high(map: Tensor, level: float) -> list[tuple[int, int]]:
    """(row, column) of every pixel that is at least `level`, one by one."""
    return [(i, j) for i, row in enumerate(map.tolist()) for j, v in enumerate(row) if v >= level]


def _around(pixels: list[tuple[int, int]]) -> list[int]:
    """The box around pixels: (x1, y1, x2, y2), ends exclusive."""
    rows, columns = [i for i, _ in pixels], [j for _, j in pixels]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def _largest_patch(pixels: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The largest of the groups of pixels that touch, at a corner too."""
    left, groups = set(pixels), []
    while left:
        todo, group = [left.pop()], []
        while todo:
            i, j = todo.pop()
            group.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            todo += near
        groups.append(group)
    return max(groups, key=len)


def _box_cases(g: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Two patches that are high enough, apart and of different size; three pixels that are not quite."""
    for h, w, threshold, scale in ((9, 14, 0.5, 1.5), (12, 10, 0.2, 0.25), (10, 16, 0.35, 40.0)):
        map = -0.2 - 0.3 * torch.rand(h, w, generator=g)
        map[0, w // 2] = -0.5
        map[2:5, 3:7] = 0.8 + 0.1 * torch.rand(3, 4, generator=g)
        map[3, 4] = 1.0
        map[h - 2, w - 3 : w - 1] = 0.7
        # each of the usual mistakes takes one more of these in, and so gives a box of its own
        map[h // 2, 1], map[1, w // 2], map[h // 2, w - 1] = 0.8 * threshold, 0.6 * threshold, 0.2 * threshold
        yield map * scale, threshold


def _judge_box(call: _Caller, g: torch.Generator) -> None:
    for map, threshold in _box_cases(g):
        values = map.double()
        h, w = values.shape
        most, least = float(values.max()), float(values.min())
        pixels = _high(values, threshold * most)
        want = x1, y1, x2, y2 = _around(pixels)
        where = f"box(map [{h}, {w}] with values from {least:.2f} to {most:.2f}, {threshold})"
        where = where.replace("-", "\N{MINUS SIGN}")
        got = call(map, threshold)
        if isinstance(got, Tensor | np.ndarray):
            got = got.tolist()
        try:
            got = [int(v) if v == int(v) else float(v) for v in got]
        except (TypeError, ValueError, RuntimeError):
            raise _Wrong(f"{where}: expected four numbers (x1, y1, x2, y2), got {describe(got)}.") from None
        if len(got) != 4:
            raise _Wrong(f"{where}: expected four numbers (x1, y1, x2, y2), got {len(got)}: {_few(got)}.")
        if got == want:
            continue

        def boxed(level: float, v: Tensor = values) -> list[int] | None:
            found = _high(v, level)
            return _around(found) if found else None

        low = [(i, j) for i in range(h) for j in range(w) if values[i, j] < threshold * most]
        mistakes = {
            "the ends are inclusive: x2 and y2 are one past the last pixel": [x1, y1, x2 - 1, y2 - 1],
            "rows and columns are swapped: x counts columns, y counts rows": [y1, x1, y2, x2],
            "rows and columns are swapped, and the ends are inclusive": [y1, x1, y2 - 1, x2 - 1],
            "these are x, y, width and height; x2 and y2 are asked for": [x1, y1, x2 - x1, y2 - y1],
            "the order is x1, y1, x2, y2": [x1, x2, y1, y2],
            "only the largest patch is boxed: here all pixels that are high enough count": (
                _around(_largest_patch(pixels))
            ),
            "the threshold is taken as a value of the map: it is a share of its maximum": boxed(threshold),
            "the threshold is a share of the maximum, not of the way from the lowest value to it": (
                boxed(least + threshold * (most - least))
            ),
            "the threshold is a share of the maximum, not of the mean": boxed(
                threshold * float(values.mean())
            ),
            "this is the box around the pixels that are too low": _around(low),
            "the box is one pixel too far to the left and to the top": [x1 - 1, y1 - 1, x2 - 1, y2 - 1],
            "the whole map is boxed": [0, 0, w, h],
        }
        why = next((f": {name}" for name, value in mistakes.items() if value == got), "")
        raise _Wrong(f"{where}: expected {tuple(want)}, got {tuple(got)}{why}.")


def _judge_grad_cam(call: _Caller, g: torch.Generator) -> None:
    for n, k, h, w in ((3, 5, 4, 6), (1, 8, 3, 5), (2, 6, 7, 4)):
        # of either sign, so that a ReLU before the sum differs from one on the weights
        features = torch.randn(n, k, h, w, generator=g) + 0.5
        # one mean a channel, of either sign, so that some places come out below 0 and some above
        gradient = torch.randn(n, k, h, w, generator=g) + torch.randn(n, k, 1, 1, generator=g)
        a, d = features.double(), gradient.double()

        def weighted(weights: Tensor, maps: Tensor = a) -> Tensor:
            parts = [weights[:, c, None, None] * maps[:, c] for c in range(maps.shape[1])]
            return torch.stack(parts).sum(0)

        alpha = d.sum((2, 3)) / (h * w)
        signed = weighted(alpha)
        want = signed.clamp(min=0)
        got = _tensor(call(features, gradient), "the map", (n, h, w), _grid_hints(n, k, h, w))
        each = a * alpha[:, :, None, None]
        mistakes = {
            "the ReLU is missing: the map has values below 0": signed,
            "the absolute value is taken; the ReLU sets what is below 0 to 0": signed.abs(),
            "the sign is turned round": (-signed).clamp(min=0),
            "the ReLU comes before the sum: sum the channels first": each.clamp(min=0).sum(1),
            "only positive weights are used; negative ones count too": weighted(alpha.clamp(min=0)).clamp(
                min=0
            ),
            "the gradient is rectified before its mean": weighted(d.clamp(min=0).mean((2, 3))).clamp(min=0),
            "the weights have lost their sign": weighted(alpha.abs()).clamp(min=0),
            f"the gradient is summed over the {h * w} places: take its mean": want * (h * w),
            "the largest gradient of each channel is taken: take its mean": weighted(d.amax((2, 3))).clamp(
                min=0
            ),
            "each place is weighted by its own gradient: take one mean for each channel": (
                (a * d).sum(1).clamp(min=0)
            ),
            "features and gradient are swapped": weighted(a.mean((2, 3)), d).clamp(min=0),
            "the channels are averaged; sum them": want / k,
            "the channels are summed without their weights": a.sum(1),
            "the channels are averaged without their weights": a.mean(1),
            "this is the gradient alone: it weights the features": d.sum(1).clamp(min=0),
            "the features are averaged too: only the gradient is": (
                (alpha * a.mean((2, 3))).sum(1)[:, None, None].expand_as(want).clamp(min=0)
            ),
        }
        if n > 1:
            together = alpha.mean(0, keepdim=True).expand_as(alpha)
            mistakes["the gradient is averaged over the images too; each has its own weights"] = weighted(
                together
            ).clamp(min=0)
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first image was done"] = only
        _named_or_scaled(got, want, mistakes)


# -------------------------------------------------------------------------------------------- lesson 9

_FRESH, _SEED = 100, 9009  # photos on which an offer is tried, of a world that nobody trained on


class _Offer:
    """The network that the learner decided for; takes the place of `_Caller`."""

    def __init__(self, answer: object, signature: str):
        if answer is None or answer is Ellipsis:
            raise _NotYet
        if not isinstance(answer, Classifier):
            raise _Wrong(f"expected one of the two networks itself, {signature}, got {describe(answer)}.")
        self.net = answer


def _judge_offer(offer: _Offer, g: torch.Generator) -> None:
    net = offer.net
    indices, species = list(range(_FRESH)), len(SPECIES)
    try:
        known = torch.tensor([net.index(name) for name in SPECIES])
    except ValueError as error:
        raise _Wrong(f"this network doesn't know the shop's animals: {error}.") from None
    shop = draw_scenes(indices, seed=_SEED, tag_follows_species=1.0)
    other = (shop.labels + _randint(g, 1, species, (_FRESH,))) % species
    scenes = (shop, draw_scenes(indices, seed=_SEED, tag=other))
    with evaluation(net, net.device), torch.no_grad():
        as_it_is, swapped = (
            net(torch.cat([net.preprocess(image) for image in batch.images])).argmax(1).cpu()
            for batch in scenes
        )
    right = as_it_is == known[shop.labels]
    if right.sum() < 0.9 * _FRESH:
        raise _Wrong(
            f"this network is right on {int(right.sum())} of {_FRESH} fresh photos: it is neither of the two "
            "offers, which are right on almost all."
        )
    changed = right & (as_it_is != swapped)
    if changed.sum() > 0.25 * _FRESH:
        raise _Wrong(
            f"{_FRESH} fresh photos, each once more with the tag of another species and all else as it was: "
            f"this network changes {int(changed.sum())} of its {int(right.sum())} right answers. Which "
            "methods tell the two offers apart on almost every photo, and what do their maps lie on?"
        )


def _judge_share_on(call: _Caller, g: torch.Generator) -> None:
    for n, h, w in ((4, 5, 7), (1, 6, 6), (3, 8, 4)):
        maps = torch.randn(n, h, w, generator=g) + 0.3  # of either sign
        masks = torch.rand(n, h, w, generator=g) < 0.35
        m, inside = maps.double(), masks.double()
        mass = m.clamp(min=0)

        def total(values: Tensor) -> Tensor:
            return values.sum((1, 2))

        want = total(mass * inside) / total(mass)
        hints = {
            (h, w): "one value a pixel; one for each map is asked for",
            (n, h, w): "one value a pixel; one for each map is asked for",
            (n, h): "summed over the columns only; rows and columns both have to go",
            (n, w): "summed over the rows only; rows and columns both have to go",
            (): "one number for all maps together; one for each is asked for",
            (n, 1): "without the last dimension, so no keepdim",
            (n, 1, 1): "without the last two dimensions, so no keepdim",
        }
        got = _tensor(call(maps, masks), "shares", (n,), {k: v for k, v in hints.items() if k != (n,)})
        ones = torch.ones(n, dtype=torch.float64)
        mistakes = {
            "negative values are counted with their sign: only the positive part is the map's mass": (
                total(m * inside) / total(m)
            ),
            "negative values are left out above the fraction line, but not below it": (
                total(mass * inside) / total(m)
            ),
            "negative values are left out below the fraction line, but not above it": (
                total(m * inside) / total(mass)
            ),
            "absolute values are taken: what speaks against the class counts as if it spoke for it": (
                total(m.abs() * inside) / total(m.abs())
            ),
            "this is the share outside the mask": 1 - want,
            "this is the ratio of inside to outside; divide by the whole map's sum": want / (1 - want),
            "the sum inside is not divided by the whole map's sum": total(mass * inside),
            "the sum inside is divided by the pixels of the mask, not by the whole map's sum": (
                total(mass * inside) / total(inside)
            ),
            "the sum inside is divided by the map's maximum, not by its sum": (
                total(mass * inside) / mass.amax((1, 2))
            ),
            "the mean inside is divided by the mean of the map: take sums": want / inside.mean((1, 2)),
            "this is the mask's share of the picture; the map isn't used": inside.mean((1, 2)),
            "pixels are counted: their values have to be summed": (
                total((m > 0) * inside) / total((m > 0).double())
            ),
            "this is the share of the mask that is above 0; the share of the map inside is asked for": (
                total((m > 0) * inside) / total(inside)
            ),
            "these are per cent; a share is from 0 to 1": 100 * want,
            "all maps are summed together; each has its own share": ones * (mass * inside).sum() / mass.sum(),
            "the sum inside each mask is divided by that of all maps together": (
                total(mass * inside) / mass.sum()
            ),
        }
        _compare(got, want, mistakes, ("map",))


def _judge_answers_changed(call: _Caller, g: torch.Generator) -> None:
    for n, h, w, k in ((11, 6, 7, 4), (17, 8, 5, 5), (13, 6, 6, 6)):
        net, twin = _net(g, k)
        images = torch.randn(n, 3, h, w, generator=g)
        change = torch.randn(n, 3, h, w, generator=g)
        with torch.no_grad():
            s = twin(images.double())
            # of the changes that are tried, the one that turns nearest to a third of the answers
            tried = {
                f: twin(images.double() + f * change.double()) for f in (0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5)
            }
        turned = {f: (s.argmax(1) != t.argmax(1)).double().mean() for f, t in tried.items()}
        factor = min(turned, key=lambda f: abs(turned[f] - 1 / 3))
        t, want = tried[factor], turned[factor]
        flags = s.argmax(1) != t.argmax(1)
        got = call(net, images, images + factor * change)
        if isinstance(got, Tensor | np.ndarray) and np.prod(tuple(got.shape)) != 1:
            each = ": one value a photo; their mean is asked for" if tuple(got.shape) == (n,) else ""
            raise _Wrong(f"expected one number, got {describe(got)}{each}.")
        try:
            got = torch.tensor(float(got), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise _Wrong(f"expected one number, got {describe(got)}.") from None
        p, q = s.softmax(1), t.softmax(1)
        own = s.argmax(1)
        rows = torch.arange(n)
        mistakes = {
            "this is the share of the answers that stay": 1 - want,
            f"this is their number; a share of the {n} photos is asked for": flags.double().sum(),
            "these are per cent; a share is from 0 to 1": 100 * want,
            "this is the share of photos whose scores change; the answer is the highest class": (
                (s != t).any(1).double().mean()
            ),
            "the highest photo of each class is compared; take the highest class of each photo, dim=1": (
                (s.argmax(0) != t.argmax(0)).double().mean()
            ),
            "the mean change of the scores; the answer is the highest class": (s - t).abs().mean(),
            "the mean change of the probabilities; the answer is the highest class": (p - q).abs().mean(),
            "the mean loss of the first answer's probability; count the answers that change": (
                (p[rows, own] - q[rows, own]).mean()
            ),
            "only the first photo was compared": flags[:1].double().mean(),
            "only the last photo was compared": flags[-1:].double().mean(),
            "the lowest class of each photo is compared; the answer is the highest": (
                (s.argmin(1) != t.argmin(1)).double().mean()
            ),
        }
        try:
            _compare(got, want, mistakes, ())
        except _Wrong as wrong:
            raise _Wrong(f"{str(wrong)[:-1]} for {n} photos.") from None


# ----------------------------------------------------------------------------------------- all of them


@dataclass(frozen=True)
class _Exercise:
    signature: str
    hint: str
    right: str
    judge: Callable[["_Caller | _Offer", torch.Generator], None]
    take: Callable[[object, str], "_Caller | _Offer"] = _Caller


_EXERCISES = {
    "0a": _Exercise(
        "softmax(scores)",
        "return exp(s) / Σ exp(s) for each row of scores [N, K]; large scores must not overflow.",
        "every row sums to 1, and scores of ±1000 don't overflow.",
        _judge_softmax,
    ),
    "0b": _Exercise(
        "raise_probability(scores, c)",
        "return a copy of scores [N, K] in which the other classes are so low that class c gets over 99 %.",
        "the probability rose above 99 % and the score of the class did not move.",
        _judge_raise_probability,
    ),
    "1a": _Exercise(
        "saliency(model, images, classes)",
        "pick each image's own class score, ask torch.autograd.grad for its gradient with respect to the "
        "images, and take the largest absolute value of the channels.",
        "the saliency map agrees with the reference on every batch.",
        _judge_saliency,
    ),
    "1b": _Exercise(
        "slope(model, image, c, channel, i, j, h)",
        "move one pixel of a copy by +h and of another by −h; divide the scores' difference by 2 h.",
        "the central difference agrees with the reference at every pixel tried.",
        _judge_slope,
    ),
    "1c": _Exercise(
        "average_gradient(model, images, classes, noises)",
        "take the gradient at images + noise for each noise, average, then |·| and the largest channel.",
        "the averaged gradient agrees with the reference on every batch.",
        _judge_average_gradient,
    ),
    "2a": _Exercise(
        "starts(size, window, stride)",
        "list 0, stride, 2 · stride … until the window reaches the border; the last one may stick out.",
        "every pixel is covered and no window is one too many.",
        _judge_starts,
    ),
    "2b": _Exercise(
        "occlude(image, top, left, window, value)",
        "clone the image [3, H, W] and fill rows top to top + window, columns left to left + window.",
        "the right pixels have the right colour, and the image is as it was.",
        _judge_occlude,
    ),
    "2c": _Exercise(
        "occlusion_scores(model, image, c, window, stride, value)",
        "for every start of a row and of a column, occlude a copy and write down the score of class c.",
        "the grid of scores agrees with the reference on every image.",
        _judge_occlusion_scores,
    ),
    "3a": _Exercise(
        "class_map(features, weight, c)",
        "multiply each channel of features [N, K, h, w] by its weight in row c of weight [C, K], and sum "
        "over the channels.",
        "the class map agrees with the reference on every batch.",
        _judge_class_map,
    ),
    "3b": _Exercise(
        "box(map, threshold)",
        "find the rows and the columns with a pixel of at least threshold times the maximum; the box runs "
        "from the first of each to one past the last.",
        "the box holds every pixel that is high enough, and none more than that takes.",
        _judge_box,
    ),
    "3c": _Exercise(
        "grad_cam(features, gradient)",
        "the mean of the gradient over the places is each channel's weight; sum the weighted channels, "
        "and set what is below 0 to 0.",
        "the map agrees with the reference on every batch.",
        _judge_grad_cam,
    ),
    "9a": _Exercise(
        "offers['A'] or offers['B']",
        "set my_choice to offers['A'] or offers['B'], and be ready to say on which numbers you rely.",
        "on 100 fresh photos it keeps its answers when another species' tag hangs there: it may be bought.",
        _judge_offer,
        _Offer,
    ),
    "9b": _Exercise(
        "share_on(maps, masks)",
        "set what is below 0 to 0; divide the sum inside each mask by the sum of its whole map.",
        "every map's share agrees with the reference.",
        _judge_share_on,
    ),
    "9c": _Exercise(
        "answers_changed(model, images, swapped)",
        "the answer is the class with the highest score; compare it photo by photo, and take the mean.",
        "the share of changed answers agrees with the reference on every batch.",
        _judge_answers_changed,
    ),
}
