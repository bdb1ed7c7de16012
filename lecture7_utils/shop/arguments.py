"""What the shop demands of its arguments. (The kernels have their own: neither floor imports the other.)"""

import math
from collections.abc import Sequence


def whole(value: object, name: str, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int in [low, high]; `TypeError` for other kinds, `ValueError` outside."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    try:
        number = value.__index__()
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {value!r}") from None
    _within(number, name, low, high)
    return number


def number(value: object, name: str, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float in [low, high]; `TypeError` for other kinds, `ValueError` outside."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    given = float(value)
    if not math.isfinite(given):
        raise ValueError(f"{name}: expected a finite number, got {given}")
    _within(given, name, low, high)
    return given


def flag(value: object, name: str) -> bool:
    """Return `value` if it is True or False, `TypeError` otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def choice(value: object, name: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`; `TypeError` if it is no string, `ValueError` otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def _within(value: float, name: str, low: float | None, high: float | None) -> None:
    if (low is None or value >= low) and (high is None or value <= high):
        return
    if high is None:
        raise ValueError(f"{name}: expected at least {low}, got {value}")
    raise ValueError(f"{name}: expected between {low} and {high}, got {value}")
