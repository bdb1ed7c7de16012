"""What every kernel demands of its arguments, and what it says when it does not get it."""

import math
import operator
from collections.abc import Iterator, Sequence
from numbers import Real

import torch
from torch import Tensor, nn


def describe(value: object) -> str:
    """A value in a few words, for an error message: dtype and shape of a tensor, type of the rest."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if hasattr(value, "dtype") and getattr(value, "shape", ()) != ():
        return f"{type(value).__name__} {value.dtype} {list(value.shape)}"
    if isinstance(value, list | tuple | dict | set) and len(value) > 4:
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}…"


def require_model(model: object) -> None:
    """Raise `TypeError` if `model` is not an `nn.Module`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {describe(model)}")


def require_images(images: object, model: nn.Module | None = None, name: str = "images") -> Tensor:
    """Return `images` if it is a finite float tensor [N, 3, H, W] that fits `model`'s device and dtype.

    The device and dtype of a model are those of its first float parameter.
    Raises `TypeError` for what is no dense float tensor, `ValueError` for a wrong shape, an empty batch, a
    NaN or infinity, or a device or dtype that differs from the model's.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(_no_images(images, name) + "; load it with Classifier.preprocess")
    if images.layout != torch.strided or images.is_meta:
        kind = "one without data" if images.is_meta else str(images.layout)
        raise TypeError(f"{name}: expected a dense tensor with data, got {kind}")
    if images.ndim == 3 and images.shape[0] == 3:
        raise ValueError(f"{_no_images(images, name)}; the batch dimension is missing: {name}[None] adds it")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(_no_images(images, name) + "; load it with Classifier.preprocess")
    weight = None if model is None else next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None and weight.device != images.device:
        raise ValueError(
            f"{name}: expected on the model's device {weight.device}, got {images.device}; "
            f"move one of them with .to({str(weight.device)!r})"
        )
    if weight is not None and weight.dtype != images.dtype:
        raise ValueError(
            f"{name}: expected the model's dtype {str(weight.dtype).removeprefix('torch.')}, "
            f"got {describe(images)}"
        )
    # the sum is not finite if a value is not, and takes no memory; one that overflows says nothing
    if not math.isfinite(images.detach().sum().item()) and not torch.isfinite(images).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity in {describe(images)}")
    return images


def _no_images(value: object, name: str) -> str:
    return f"{name}: expected a float tensor [N, 3, H, W], got {describe(value)}"


def require_int(value: object, name: str, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int in [low, high]; `TypeError` for other kinds, `ValueError` outside.

    Integers of numpy and 0-dimensional int tensors count as ints, bools do not.
    """
    return _in_range(as_int(value, name, "an int"), name, low, high)


def as_int(value: object, name: str, expected: str) -> int:
    """`value` as an int, or `TypeError` saying that `expected` was; bools are refused."""
    # numpy's bools have __index__ too before numpy 2.3
    refused = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    try:
        # arrays and tensors have __index__ too: it raises for all but one integer, which may hide in [[3]]
        if not refused and getattr(value, "ndim", 0) == 0:
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: expected {expected}, got {describe(value)}")


def require_number(value: object, name: str, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float in [low, high]; `TypeError` for other kinds, `ValueError` outside.

    Real numbers of Python and numpy count, bools and tensors do not.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}")
    return _in_range(number, name, low, high)


def _in_range(value: float, name: str, low: float | None, high: float | None) -> float:
    if (low is not None and value < low) or (high is not None and value > high):
        if high is None:
            bounds = f"at least {low}"
        elif low is None:
            bounds = f"at most {high}"
        else:
            bounds = f"between {low} and {high}"
        raise ValueError(f"{name}: expected {bounds}, got {value}")
    return value


def require_choice(value: object, name: str, choices: Sequence) -> None:
    """Raise `ValueError` if `value` is none of `choices`, of the same type."""
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {describe(value)}")


def require_map(value: object, name: str, like: Tensor | None = None) -> Tensor:
    """Return `value` if it is a finite float tensor [N, H, W], of `like`'s shape where that is given."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name}: expected a float tensor [N, H, W], got {describe(value)}")
    if value.ndim != 3 or 0 in value.shape:
        raise ValueError(f"{name}: expected a float tensor [N, H, W], got {describe(value)}")
    if like is not None and value.shape != like.shape:
        raise ValueError(f"{name}: expected the shape {list(like.shape)}, got {describe(value)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity in {describe(value)}")
    return value


def as_generator(value: object, device: torch.device, name: str = "generator") -> torch.Generator:
    """A `torch.Generator` from a seed (on `device`), or the one given; the global state is not touched."""
    if isinstance(value, torch.Generator):
        return value
    seed = as_int(value, name, "a torch.Generator or an int seed")
    return torch.Generator(device=device).manual_seed(require_int(seed, name, 0, 2**63 - 1))


def as_colour(value: object, name: str, expected: str) -> list[float]:
    """One number, or one each for R, G and B, as a list; `expected` begins the message for anything else."""
    numbers = value.tolist() if hasattr(value, "tolist") else value
    numbers = list(numbers) if isinstance(numbers, Sequence) else [numbers]
    if len(numbers) not in (1, 3):
        raise ValueError(f"{expected}, got {describe(value)}")
    try:
        return [require_number(number, name) for number in numbers]
    except TypeError:
        raise TypeError(f"{expected}, got {describe(value)}") from None


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in a value: itself, or those inside its tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)
