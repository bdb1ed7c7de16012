"""Judges a learner's answer to an exercise: "not yet", what is wrong with it, or right.

Every function is called on inputs of random shapes (the same ones each time, from a generator of their own)
and held against a reference that is written here from the definition. What typical mistakes would give is
worked out beside it, so that a wrong answer is told by its name. Nothing of the learner's is kept or changed,
and the global random generators are left as they were.
"""

import importlib
import random
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from lecture7_utils.classroom.checks.judging import Exercise, NotYet, Wrong

# a module for each lesson with exercises
_LESSONS = tuple(f"lesson{number}" for number in range(10))
_EXERCISES: dict[str, Exercise] = {}
for _lesson in _LESSONS:
    _EXERCISES |= importlib.import_module(f"{__name__}.{_lesson}").EXERCISES


@dataclass(frozen=True)
class Verdict:
    """What `check` found: ok is True (right), False (wrong) or None (not yet); message is what it printed."""

    exercise: str
    ok: bool | None
    message: str

    def _ipython_display_(self) -> None:
        """Nothing: `check` has printed the message, and a cell's last value must not print it again."""


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
    except NotYet:
        ok, message = None, f"Not yet: {asked.hint}"
    except Wrong as wrong:
        ok, message = False, f"✗ {wrong}"
    else:
        ok, message = True, f"✓ {asked.right}"
    lines = [
        textwrap.fill(line, 108, subsequent_indent="    ", replace_whitespace=False, drop_whitespace=True)
        for line in message.split("\n")
    ]
    print("\n".join([f"{exercise}  {lines[0]}", *lines[1:]]))
    return Verdict(exercise, ok, message)


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
