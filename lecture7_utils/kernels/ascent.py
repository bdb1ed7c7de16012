"""Lesson 4: an image that a score or a unit of the network likes, made by gradient ascent."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    as_colour,
    as_generator,
    as_int,
    describe,
    require_choice,
    require_images,
    require_int,
    require_model,
    require_number,
)
from lecture7_utils.kernels.dense import bar
from lecture7_utils.kernels.layers import constant, evaluation, reading
from lecture7_utils.kernels.regularisers import (
    Bounds,
    Pixels,
    Regulariser,
    fourier,
    jitter,
    rotate_and_scale,
    sorted_out,
)
from lecture7_utils.kernels.targets import (
    ClassProbability,
    ClassScore,
    Target,
    TargetLike,
    Unit,
    as_target,
    class_scores,
    read_class,
    read_unit,
    target_count,
)

Objective = TargetLike | Mapping[TargetLike, float] | Sequence[TargetLike | Mapping[TargetLike, float]]

NATURAL = (fourier(), jitter(), rotate_and_scale())
UPDATES = ("adam", "gradient", "normalised")
SIDE = 224  # of an image that nobody gave a size


@dataclass(frozen=True)
class Ascent:
    """What `ascend` made.

    images: [N, 3, H, W], in the units of the network's images.
    history: [S, N], L of each image before each of the S steps, as the network saw it then.
    terms: {name: [S, N]}, what L is made of: "objective" less all others ("l2" and the penalties by name).
    frames: [F, N, 3, H, W], the images after `frame_steps[f]` steps; the first is the start, the last is
    `images`. complete: False if it was interrupted.
    """

    images: Tensor
    history: Tensor
    terms: dict[str, Tensor]
    frames: Tensor
    frame_steps: tuple[int, ...]
    complete: bool


def ascend(
    model: nn.Module,
    objective: Objective,
    *,
    steps: int = 256,
    rate: float = 0.08,
    l2: float = 1e-4,
    start: Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    bounds: tuple | None = None,
    regularise: Sequence[Regulariser] = NATURAL,
    update: str = "adam",
    batch: int | None = None,
    keep_every: int | None = None,
    generator: torch.Generator | int = 0,
    progress: bool = False,
) -> Ascent:
    """Gradient ascent on the image: x that makes L = s(x) - l2 ||x||² large, less what else is penalised.

    Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", 2013 (arXiv 1312.6034), section 2:
    arg max_x S_c(x) - lambda ||x||_2^2, with the score before the softmax. Each step: forward, L, dL/dx,
    update. With `regularise=()` and `update="gradient"` that is all: x + rate dL/dx. The default adds what
    makes images natural (see `kernels.regularisers`).

    model: any `nn.Module`. objective: a class index (its pre-softmax score), `class_score`,
        `class_probability` or `unit`; {target: weight} for a weighted sum; a sequence of these, one for each
        image of a batch (or a target that holds one class or channel for each). Where only units are asked
        for, the network stops at the deepest layer of them.
    steps: at least 1. rate: how far a step goes, above 0. l2: lambda, at least 0, in units of the objective
        per squared unit of `images`; the norm is the sum over pixels and channels.
    start: [1 or N, 3, H, W]; None for noise. size: side, or (height, width), where there is no start (224).
    bounds: (low, high) of a valid pixel, each a number or one for R, G and B, in the units of `images`: for a
        `Classifier`, (net.colour(0, 0, 0), net.colour(255, 255, 255)). None lets the pixels go anywhere,
        where no photo can follow.
    regularise: made by `jitter`, `rotate_and_scale`, `gaussian_blur`, `total_variation`, `fourier`.
    update: "gradient" adds rate × gradient; "normalised" divides that by the gradient's root mean square
        over the image; "adam" is Kingma and Ba's, 2015 (arXiv 1412.6980), which moves each number by about
        `rate`. With `fourier` the numbers that move are not the pixels.
    batch: how many images to climb for one objective, each from a noise of its own.
    keep_every: keep a frame after each so many steps; None keeps the first and the last.
    generator: a `torch.Generator` or a seed, for the noise and for what `regularise` draws.
    progress: show a bar.
    Returns an `Ascent`; its images do not depend on what else is in the batch, beyond rounding. The model is
    left as it was. Interrupted after the first step, it warns and gives back what there is.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came; `ValueError`,
    with the step and what to lower, for a climb that runs away.
    """
    require_model(model)
    wanted = _objectives(objective)
    require_int(steps, "steps", 1)
    require_number(rate, "rate", 0)
    if rate == 0:
        raise ValueError("rate: expected above 0, got 0")
    require_number(l2, "l2", 0)
    parts = sorted_out(regularise)
    require_choice(update, "update", UPDATES)
    if keep_every is not None:
        require_int(keep_every, "keep_every", 1)
    require_choice(progress, "progress", (False, True))
    like = _like(model) if start is None else require_images(start, model, "start").detach()
    n = _how_many(wanted, batch, start)
    size = _size(size, start)
    bounds = _bounds(bounds)
    generator = as_generator(generator, like.device)
    climb = _Climb(wanted, parts, rate, l2, update, n, like)

    with (
        torch.inference_mode(False),
        torch.no_grad(),
        evaluation(model, like.device),
        constant(model),
    ):
        # two streams, so that what is drawn at each step does not depend on how much noise was drawn
        seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
        draws = torch.Generator(device=generator.device).manual_seed(seed)
        climb.begin(start, size, bounds, generator)
        with reading(model, wanted.layers, whole=wanted.whole) as read:
            try:
                for _ in bar(range(steps), progress, "gradient ascent"):
                    climb.step(read, draws)
                    if climb.done % (keep_every or steps) == 0 or climb.done == steps:
                        climb.keep()
            except KeyboardInterrupt:
                if not climb.done:
                    raise
                warnings.warn(f"ascend was interrupted after {climb.done} of {steps} steps", stacklevel=2)
        return climb.result(steps)


@dataclass(frozen=True)
class _Wanted:
    """The objective: [(target, weight)] for all images, or one such list for each."""

    rows: tuple[tuple[tuple[Target, float], ...], ...]
    each: bool  # a row for each image
    count: int | None  # of images that it was written for

    @property
    def targets(self) -> list[Target]:
        return [target for row in self.rows for target, _ in row]

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(t.layer for t in self.targets if isinstance(t, Unit)))

    @property
    def whole(self) -> bool:
        """Whether the network's own output is needed."""
        return any(isinstance(t, ClassScore | ClassProbability) for t in self.targets)

    def values(self, outputs: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The objective of each image: [N]."""
        for name, output in outputs.items():
            if name == "":
                class_scores(lambda _, scores=output: scores, images)
            elif output.ndim == 0 or output.shape[0] != images.shape[0]:
                raise ValueError(
                    f"layer: expected {name!r} to give one row for each of the {len(images)} images, "
                    f"got {describe(output)}"
                )
        if not self.each:
            return _weighted(self.rows[0], outputs)
        return torch.cat(
            [
                _weighted(row, {name: output[i : i + 1] for name, output in outputs.items()})
                for i, row in enumerate(self.rows)
            ]
        )


def _weighted(row: Sequence[tuple[Target, float]], outputs: Mapping[str, Tensor]) -> Tensor:
    terms = []
    for target, weight in row:
        if isinstance(target, Unit):
            value = read_unit(outputs[target.layer], target)
        else:
            value = read_class(outputs[""], target)
        terms.append(value if weight == 1 else weight * value)
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def _objectives(objective: object) -> _Wanted:
    several = isinstance(objective, Sequence) and not isinstance(objective, str | bytes)
    if several and any(isinstance(o, Mapping | ClassScore | ClassProbability | Unit) for o in objective):
        rows = tuple(_row(o) for o in objective)
        if any(target_count(target) is not None for row in rows for target, _ in row):
            raise ValueError(
                "objective: expected one class or channel in each of a sequence of objectives, got several "
                "in one of them"
            )
        return _Wanted(rows, True, len(rows))
    row = _row(objective)
    counts = {count for target, _ in row if (count := target_count(target)) is not None}
    if len(counts) > 1:
        raise ValueError(f"objective: expected targets for as many images each, got {sorted(counts)}")
    return _Wanted((row,), False, next(iter(counts), None))


def _row(objective: object) -> tuple[tuple[Target, float], ...]:
    if not isinstance(objective, Mapping):
        return ((_target(objective), 1.0),)
    if not objective:
        raise ValueError("objective: expected at least one target with its weight, got an empty mapping")
    return tuple((_target(t), require_number(w, "objective (a weight)")) for t, w in objective.items())


def _target(value: object) -> Target:
    with _named_objective():
        return as_target(value)


@contextmanager
def _named_objective() -> Iterator[None]:
    """Inside, what the targets' own functions say of `target` is said of `objective`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith("target:"):
            raise
        raise type(error)(f"objective{str(error).removeprefix('target')}") from None


def _like(model: nn.Module) -> Tensor:
    """A tensor of the dtype and device that the model's images have to have."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return torch.empty(0) if weight is None else weight.detach().new_empty(0)


def _how_many(wanted: _Wanted, batch: object, start: Tensor | None) -> int:
    if batch is not None:
        require_int(batch, "batch", 1)
    if wanted.count is not None and batch not in (None, wanted.count):
        raise ValueError(
            f"batch: expected {wanted.count}, one image for each of the objectives, or None, got {batch}"
        )
    n = wanted.count if wanted.count is not None else batch
    if start is None or len(start) == 1:
        return n or 1
    if n not in (None, len(start)):
        raise ValueError(f"start: expected 1 image or {n}, got {describe(start)}")
    return len(start)


def _size(size: object, start: Tensor | None) -> tuple[int, int]:
    if size is None:
        return (SIDE, SIDE) if start is None else (start.shape[2], start.shape[3])
    expected = "an int or (height, width)"
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size, size]
    if len(sides) != 2:
        raise ValueError(f"size: expected {expected}, got {describe(size)}")
    height, width = (require_int(as_int(side, "size", expected), "size", 1) for side in sides)
    if start is not None and (height, width) != tuple(start.shape[2:]):
        raise ValueError(
            f"size: expected None or the size of start {list(start.shape)}, got {describe(size)}"
        )
    return height, width


def _bounds(bounds: object) -> Bounds:
    if bounds is None:
        return None
    expected = "bounds: expected (low, high), each a number or one for R, G and B"
    if isinstance(bounds, str) or not isinstance(bounds, Sequence | Tensor) or len(bounds) != 2:
        raise TypeError(f"{expected}, got {describe(bounds)}")
    ends = []
    for end in bounds:
        numbers = as_colour(end, "bounds", expected)
        ends.append(torch.tensor(numbers, dtype=torch.float64).expand(3))
    low, high = ends
    if not (low < high).all():
        raise ValueError(f"bounds: expected low below high, got {low.tolist()} and {high.tolist()}")
    return tuple(end.view(1, 3, 1, 1) for end in ends)


class _Climb:
    """Where a climb is: the numbers that move, what was recorded on the way, and the frames."""

    def __init__(
        self, wanted: _Wanted, parts: tuple, rate: float, l2: float, update: str, n: int, like: Tensor
    ):
        self.wanted, self.rate, self.l2, self.update = wanted, rate, l2, update
        self.transforms, self.penalties, self.corrections, self.parametrisation = parts
        self.step_of: Callable[[Tensor], Tensor] = {
            "adam": _Adam(), "gradient": lambda gradient: gradient, "normalised": _normalised
        }[update]  # fmt: skip
        self.n, self.dtype = n, like.dtype
        # half precision is too coarse to add small steps to
        self.wide = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
        self.in_place = True  # whether the network may change what it gets: the first pass shows it
        self.done = 0
        self.recorded: list[dict[str, Tensor]] = []
        self.checked = 0
        self.frames: list[Tensor] = []
        self.frame_steps: list[int] = []

    def begin(
        self, start: Tensor | None, size: tuple[int, int], bounds: Bounds, generator: torch.Generator
    ) -> None:
        if bounds is not None:
            bounds = tuple(end.to(self.wide) for end in bounds)
        self.space: Pixels = self.parametrisation.make(*size, bounds, self.wide)
        if start is None:
            self.parameters = self.space.draw(self.n, generator)
        else:
            wide = start.to(self.wide).expand(self.n, -1, -1, -1)
            self.parameters = self.space.inverse(wide.contiguous())
        self.keep()

    def images(self) -> Tensor:
        return self.space.images(self.parameters).to(self.dtype)

    def keep(self) -> None:
        if self.frame_steps[-1:] != [self.done]:
            self.frames.append(self.images().clone())
            self.frame_steps.append(self.done)

    def step(self, read: Callable[[Tensor], dict[str, Tensor]], draws: torch.Generator) -> None:
        with torch.enable_grad():
            leaf = self.parameters.detach().requires_grad_(True)
            terms = self.terms(leaf, read, draws)
            if not terms["objective"].requires_grad:
                raise ValueError(
                    "objective: expected a value that depends on the images through differentiable steps, "
                    "got one that does not"
                )
            total = terms["L"].sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        self.recorded.append({name: term.detach() for name, term in terms.items()})
        moved = self.space.settled(self.parameters.add(self.step_of(gradient), alpha=self.rate))
        for correction in self.corrections:
            if (self.done + 1) % correction.every == 0:
                images = self.space.images(moved)
                corrected = _fitting(correction.apply(images), images.shape, correction.name)
                moved = self.space.inverse(corrected)
        if moved.device.type != "cpu":  # a GPU would have to wait at each look
            if self.done % 16 == 0:
                self.require_finite()
        elif not math.isfinite(total):
            self.require_finite()
        self.parameters, self.done = moved, self.done + 1

    def terms(self, leaf: Tensor, read, draws: torch.Generator) -> dict[str, Tensor]:
        """L of each image, and what it is made of."""
        images = self.space.images(leaf)
        seen = images.to(self.dtype)
        for transform in self.transforms:
            seen = _fitting(transform.apply(seen, draws), (self.n, 3, None, None), transform.name)
        if self.in_place:
            seen = seen.clone()
        version = seen._version
        with _named_objective():
            objective = self.wanted.values(read(seen), seen).to(self.wide.dtype)
        self.in_place = seen._version != version
        terms = {"objective": objective}
        if self.l2 > 0:
            flat = images.flatten(1)
            terms["l2"] = self.l2 * (flat * flat).sum(1)
        for penalty in self.penalties:
            amount = _fitting(penalty.value(images), (self.n,), penalty.name)
            terms[penalty.name] = penalty.weight * amount
        value = objective
        for name, term in terms.items():
            value = value if name == "objective" else value - term
        return {"L": value, **terms}

    def require_finite(self) -> None:
        """Raise if L was not finite at a step since the last look."""
        if self.checked == len(self.recorded):
            return
        values = torch.stack([terms["L"] for terms in self.recorded[self.checked :]])
        if torch.isfinite(values).all():
            self.checked = len(self.recorded)
            return
        late, image = (~torch.isfinite(values)).nonzero()[0].tolist()
        step, value = self.checked + late, values[late, image].item()
        if step == 0:
            raise ValueError(
                f"objective: expected a finite value for the images that the ascent starts from, got "
                f"L = {value} for image {image}"
            )
        also = ""
        if self.update == "gradient" and 2 * self.rate * self.l2 > 1:
            also = f" or l2 (by itself it turns x into {1 - 2 * self.rate * self.l2:.3g} x at each step)"
        raise ValueError(
            f"rate: expected one that keeps the climb finite, got {self.rate}: after {step} steps L is "
            f"{value} for image {image}; lower rate{also}"
        )

    def result(self, steps: int) -> Ascent:
        del self.recorded[self.done :]  # of a step that was interrupted
        self.require_finite()
        if not torch.isfinite(self.parameters).all():
            raise ValueError(
                f"rate: expected one that keeps the climb finite, got {self.rate}: after {self.done} steps "
                "the images are not finite; lower rate"
            )
        self.keep()
        terms = {name: torch.stack([each[name] for each in self.recorded]) for name in self.recorded[0]}
        history = terms.pop("L")
        still = (terms["objective"] == terms["objective"][0]).all(0).nonzero().flatten().tolist()
        if still and self.done > 1:
            warnings.warn(
                f"the objective of image {', '.join(map(str, still))} did not move in {self.done} steps: "
                "a unit behind a ReLU that is off has no gradient; start from another image, or climb the "
                "layer before the ReLU",
                stacklevel=3,
            )
        frames = torch.stack(self.frames)
        return Ascent(self.frames[-1], history, terms, frames, tuple(self.frame_steps), self.done == steps)


def _fitting(given: object, shape: Sequence[int | None], name: str) -> Tensor:
    """What a part of `regularise` gave, if it is a tensor of that shape (None stands for any length)."""
    text = "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
    if not isinstance(given, Tensor):
        raise TypeError(f"regularise: expected {name!r} to give a tensor {text}, got {describe(given)}")
    if given.ndim != len(shape) or any(a not in (None, b) for a, b in zip(shape, given.shape, strict=True)):
        raise ValueError(f"regularise: expected {name!r} to give a tensor {text}, got {describe(given)}")
    return given


class _Adam:
    """Kingma and Ba, "Adam", 2015, algorithm 1, with their beta_1 = 0.9 and beta_2 = 0.999."""

    def __init__(self):
        self.steps, self.first, self.second = 0, None, None

    def __call__(self, gradient: Tensor) -> Tensor:
        if self.first is None:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.steps += 1
        self.first.lerp_(gradient, 0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self.second / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        return self.first / scale.mul_(1 - 0.9**self.steps)


def _normalised(gradient: Tensor) -> Tensor:
    """The gradient over its root mean square, image by image; 0 stays 0."""
    flat = gradient.flatten(1)
    length = flat.norm(dim=1) / math.sqrt(flat.shape[1])
    return gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny).view(-1, *[1] * (gradient.ndim - 1))
