"""What all judges of exercises share: calling the learner's function, comparing, and the small network."""

import dis
import linecache
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import describe

ATOL, RTOL = 2e-5, 2e-3  # float32 against a float64 reference; every mistake that is named is far outside


MAP_AXES = ("image", "row", "column")


class Wrong(Exception):
    """What is wrong with the answer, as it is said to the learner."""


class NotYet(Exception):
    """The stub is still there."""


class Caller:
    """The learner's function, called on copies; tells a stub, an exception and a changed input apart."""

    def __init__(self, answer: object, signature: str):
        if answer is None or answer is Ellipsis:
            raise NotYet
        if not callable(answer):
            name = signature.split("(")[0]
            raise Wrong(f"expected your function itself, {name}, without calling it, got {describe(answer)}.")
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
            raise NotYet from None
        except Exception as error:
            if "ellipsis" in str(error).lower():  # a part of the stub is still there
                raise NotYet from None
            raise Wrong(self._failed(error, args)) from None
        if got is None or got is Ellipsis:
            if got is None and _has_a_body(self.answer):
                raise Wrong("the function gives None: its last line has to `return` the result.")
            raise NotYet
        for name, mine, theirs in zip(self.names, args, given, strict=True):
            if isinstance(mine, Tensor) and not _equal(mine, theirs):
                raise Wrong(
                    f"the function changes `{name}`, which belongs to the caller: work on `{name}.clone()`."
                )
        for model, values in zip(models, before, strict=True):
            if not all(torch.equal(a, b) for a, b in zip(values, model.state_dict().values(), strict=True)):
                raise Wrong("the function changes the model's weights, which it should only read.")
            if model.training:
                raise Wrong("the function leaves the model in train mode; it was in eval mode before.")
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
            return numbers(value)
        return str(list(value.shape))
    return "a small CNN" if isinstance(value, nn.Module) else repr(value)


def numbers(values: Tensor) -> str:
    """A few numbers as one writes them: [0.12, −3.4]."""
    flat = values.detach().reshape(-1).tolist()
    text = ", ".join(
        str(v) if isinstance(v, int) else f"{v:.3g}".replace("-", "\N{MINUS SIGN}") for v in flat[:5]
    )
    return f"[{text}{', …' if len(flat) > 5 else ''}]"


def as_tensor(got: object, what: str, shape: tuple[int, ...], shape_hints: Mapping[tuple, str]) -> Tensor:
    """The answer as a float64 tensor of that shape; what is said otherwise."""
    if isinstance(got, np.ndarray):
        got = torch.from_numpy(got)
    if not isinstance(got, Tensor):
        raise Wrong(f"expected a tensor {list(shape)} of {what}, got {describe(got)}.")
    if tuple(got.shape) != shape:
        hint = shape_hints.get(tuple(got.shape))
        raise Wrong(
            f"expected a tensor {list(shape)} of {what}, got {list(got.shape)}{f': {hint}' if hint else ''}."
        )
    return got.detach().cpu().double()


def close(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and bool(torch.allclose(got, want.double(), atol=ATOL, rtol=RTOL))


def compare(got: Tensor, want: Tensor, mistakes: Mapping[str, Tensor], axes: tuple[str, ...]) -> None:
    """Raise `Wrong` unless `got` is `want`: with the mistake that would give it, or the first difference."""
    want = want.double()
    if close(got, want):
        return
    worst = (got - want).abs().nan_to_num(torch.inf).argmax().item()
    place = np.unravel_index(worst, tuple(want.shape))
    at = ", ".join(f"{axis} {int(i)}" for axis, i in zip(axes, place, strict=True))
    example = (
        f"expected {number(want.flatten()[worst])}, got {number(got.flatten()[worst])}"
        f"{f' at {at}' if at else ''}"
    )
    for name, value in mistakes.items():
        if close(got, value.double()):
            raise Wrong(f"{name} ({example}).")
    raise Wrong(f"{example}.")


def number(value: Tensor) -> str:
    return f"{value.item():.4g}".replace("-", "\N{MINUS SIGN}")


def proportional(got: Tensor, want: Tensor) -> bool:
    """Whether each image's map is the right one times a number of its own, which isn't 1."""
    a, b = got.flatten(1), want.double().flatten(1)
    factor = (a * b).sum(1, keepdim=True) / (b * b).sum(1, keepdim=True).clamp_min(1e-30)
    return bool((factor > 0).all()) and bool(torch.allclose(a, factor * b, rtol=1e-2, atol=1e-6))


def few(values: list) -> str:
    if len(values) <= 8:
        return str(values)
    return f"[{', '.join(map(str, values[:3]))}, …, {', '.join(map(str, values[-2:]))}] ({len(values)})"


class SmallNet(nn.Module):
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


def small_net(generator: torch.Generator, classes: int) -> tuple[SmallNet, SmallNet]:
    """The network for the learner, and its twin in float64 for the reference."""
    net = SmallNet(classes, generator).eval()
    twin = SmallNet(classes, torch.Generator().manual_seed(0)).double().eval()
    twin.load_state_dict(net.state_dict())
    return net, twin


def randint(generator: torch.Generator, low: int, high: int, shape: tuple = ()) -> Tensor:
    return torch.randint(low, high, shape, generator=generator)


def gradients(twin: nn.Module, images: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """d(sum of pick(scores)) / d(images), in float64."""
    with torch.enable_grad():
        leaf = images.double().detach().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(pick(twin(leaf)).sum(), leaf)
    return gradient


def no_parameter_gradients(net: nn.Module) -> None:
    if any(p.grad is not None for p in net.parameters()):
        raise Wrong(
            "the values are right, but the function leaves gradients in the model's parameters: "
            "`backward()` fills `.grad` of every one of them; `torch.autograd.grad(score.sum(), images)` "
            "computes the one gradient that is asked for."
        )


def map_hints(n: int, h: int, w: int) -> dict[tuple, str]:
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


def named_or_scaled(got: Tensor, want: Tensor, mistakes: Mapping[str, Tensor]) -> None:
    try:
        compare(got, want, mistakes, MAP_AXES)
    except Wrong as wrong:
        named = any(close(got, value.double()) for value in mistakes.values())
        if not named and bool(torch.isfinite(got).all()) and proportional(got, want):
            raise Wrong(
                f"the map has the right pattern but was normalised: keep it as it is, {str(wrong)[:-1]}."
            ) from None
        raise


@dataclass(frozen=True)
class Exercise:
    signature: str
    hint: str
    right: str
    judge: Callable[[Any, torch.Generator], None]
    take: Callable[[object, str], Any] = Caller
