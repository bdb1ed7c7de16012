"""What is being explained: a class score, a class probability, or a unit of a layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import as_int, describe, require_images, require_int, require_model
from lecture7_utils.kernels.layers import evaluation, run_to

Ints = int | tuple[int, ...]


@dataclass(frozen=True)
class ClassScore:
    """The score of a class before the softmax, s_c(x). Made by `class_score`."""

    classes: Ints


@dataclass(frozen=True)
class ClassProbability:
    """The probability of a class after the softmax, p_c(x). Made by `class_probability`."""

    classes: Ints


@dataclass(frozen=True)
class Unit:
    """One channel of a layer, at one position or over all of them. Made by `unit`."""

    layer: str
    channel: Ints
    position: str | tuple[int, int]


Target = ClassScore | ClassProbability | Unit
TargetLike = Target | int | Sequence[int] | Tensor


def class_score(classes: int | Sequence[int] | Tensor) -> ClassScore:
    """The pre-softmax score s_c of a class: the output of the network's last layer as it is.

    classes: one class index for all images, or one for each image (a sequence, an int array or tensor [N]).
    Raises `TypeError` for what is no int or sequence of ints, `ValueError` for a negative or an empty one.
    """
    return ClassScore(_ints(classes, "target"))


def class_probability(classes: int | Sequence[int] | Tensor) -> ClassProbability:
    """The probability p_c = exp(s_c) / sum_k exp(s_k) of a class: the score after the softmax.

    classes and errors as in `class_score`.
    """
    return ClassProbability(_ints(classes, "target"))


def unit(layer: str, channel: int | Sequence[int] | Tensor, position: str | tuple[int, int] = "max") -> Unit:
    """A unit of a layer: channel `channel` of what `layer` gives; the network stops at that layer.

    position: "max" for the largest value over all positions (where several are equally large, its gradient
    is shared between them), "mean" for their mean, or (i, j) for row i and column j of the layer's map,
    counted from 0. A layer that gives [N, C] has no positions: (i, j) raises there.
    channel: one for all images, or one for each image.
    Raises `TypeError` or `ValueError` for arguments of another form.
    """
    if not isinstance(layer, str):
        raise TypeError(f"layer: expected a layer's name such as 'features.12', got {describe(layer)}")
    if isinstance(position, str | bytes):
        if position not in ("max", "mean"):
            raise ValueError(f"position: expected 'max', 'mean' or (row, column), got {position!r}")
    elif isinstance(position, Sequence) and len(position) == 2:
        position = tuple(require_int(p, "position", 0) for p in position)
    else:
        raise TypeError(f"position: expected 'max', 'mean' or (row, column), got {describe(position)}")
    return Unit(layer, _ints(channel, "channel"), position)


def as_target(target: TargetLike) -> Target:
    """The target as one of the three kinds: ints stand for class scores.

    Raises `TypeError` or `ValueError` as `class_score` does.
    """
    return target if isinstance(target, ClassScore | ClassProbability | Unit) else class_score(target)


def target_count(target: Target) -> int | None:
    """How many images the target was written for, or None if it is one for all."""
    chosen = target.channel if isinstance(target, Unit) else target.classes
    return len(chosen) if isinstance(chosen, tuple) else None


def evaluate(model: nn.Module, images: Tensor, target: TargetLike) -> Tensor:
    """The value of the target for each image, without gradients: [N].

    model: any `nn.Module` that gives class scores [N, K] (or has the unit's layer); images: float
    [N, 3, H, W]; target: see the module. Eval mode; the model is left as it was.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_model(model)
    require_images(images, model)
    target = as_target(target)
    with evaluation(model, images.device), torch.no_grad():
        # a copy goes in: the first step may be in place
        return values(model, images.clone(), target)


def values(model: nn.Module, images: Tensor, target: Target) -> Tensor:
    """As `evaluate`, for kernels: gradients, eval mode and the checks of `images` are the caller's."""
    return read(run_for(model, images, target), target)


def run_for(model: nn.Module, images: Tensor, target: Target) -> Tensor:
    """What the network gives where the target is: class scores [N, K], or the output of the unit's layer."""
    if not isinstance(target, Unit):
        return class_scores(model, images)
    output = run_to(model, images, target.layer)
    if output.ndim > 0 and output.shape[0] != images.shape[0]:
        raise ValueError(
            f"layer: expected {target.layer!r} to give one row for each of the {images.shape[0]} images, "
            f"got {describe(output)}"
        )
    return output


def read(output: Tensor, target: Target) -> Tensor:
    """Pick the target out of what `run_for` gives: [N]."""
    return read_unit(output, target) if isinstance(target, Unit) else read_class(output, target)


def class_scores(model: nn.Module, images: Tensor) -> Tensor:
    """The network's output, which has to be [N, K].

    Raises `TypeError` if it is no tensor and `ValueError` if it is of another shape.
    """
    scores = model(images)
    if not isinstance(scores, Tensor):
        raise TypeError(f"model: expected class scores [N, K] as its output, got {type(scores).__name__}")
    if scores.ndim != 2 or scores.shape[0] != images.shape[0]:
        raise ValueError(
            f"model: expected class scores [{images.shape[0]}, K] as its output, got {describe(scores)}"
        )
    return scores


def read_class(scores: Tensor, target: ClassScore | ClassProbability) -> Tensor:
    """Pick the target out of class scores [N, K]: [N], in memory of its own.

    A view would hold the whole output as long as somebody keeps the values: of each pass, of each step.
    """
    index = _per_image(target.classes, scores.shape[0], scores.shape[1], "target", "class", scores.device)
    if isinstance(target, ClassProbability):
        scores = torch.softmax(scores, dim=1)
    if isinstance(index, int):
        return scores[:, index].clone()
    return scores.gather(1, index[:, None])[:, 0]


def read_unit(output: Tensor, target: Unit) -> Tensor:
    """Pick the target out of a layer's output [N, C, H, W] or [N, C]: [N], in memory of its own."""
    if output.ndim not in (2, 4):
        raise ValueError(
            f"layer: expected {target.layer!r} to give [N, C, H, W] or [N, C], got {describe(output)}"
        )
    index = _per_image(target.channel, output.shape[0], output.shape[1], "channel", "channel", output.device)
    if isinstance(index, int):
        maps = output[:, index]
    else:
        maps = output[torch.arange(output.shape[0], device=output.device), index]
    if isinstance(target.position, tuple):
        if output.ndim == 2:
            raise ValueError(
                f"position: expected 'max' or 'mean', as {target.layer!r} gives one value a channel, "
                f"got {target.position}"
            )
        i, j = target.position
        if i >= maps.shape[1] or j >= maps.shape[2]:
            raise ValueError(
                f"position: expected a row below {maps.shape[1]} and a column below {maps.shape[2]}, "
                f"as {target.layer!r} gives {maps.shape[1]} × {maps.shape[2]} positions, got {(i, j)}"
            )
        return maps[:, i, j].clone()
    if output.ndim == 2:
        return maps.clone()
    return maps.flatten(1).amax(1) if target.position == "max" else maps.flatten(1).mean(1)


def _ints(value: object, name: str) -> Ints:
    expected = "an int or one int for each image"
    if isinstance(value, str | bytes):
        hint = "; Classifier.index gives a category's number" if name == "target" else ""
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}{hint}")
    if getattr(value, "ndim", 0) == 1:  # an array or a tensor
        value = value.tolist()
    if not isinstance(value, Sequence):
        return require_int(as_int(value, name, expected), name, 0)
    if not value:
        raise ValueError(f"{name}: expected {expected}, got an empty sequence")
    return tuple(require_int(as_int(v, name, expected), name, 0) for v in value)


def _per_image(chosen: Ints, n: int, count: int, name: str, noun: str, device: torch.device) -> int | Tensor:
    """What was chosen, checked: one for all images as an int (a view of it is far quicker), or [N]."""
    if isinstance(chosen, tuple) and len(chosen) != n:
        raise ValueError(f"{name}: expected one {noun} for each of the {n} images, got {len(chosen)}")
    highest = max(chosen) if isinstance(chosen, tuple) else chosen
    if highest >= count:
        raise ValueError(f"{name}: expected a {noun} between 0 and {count - 1}, got {highest}")
    return torch.tensor(chosen, device=device) if isinstance(chosen, tuple) else chosen
