"""What every exercise keeps: a stub is told so, a wrong answer is refused by the name of its mistake."""

import re

from lecture7_utils.classroom import checks
from lecture7_utils.classroom.checks import check
from tests.guards import unchanged


def _stub(*_):
    """→ what is asked for."""
    ...


STUBS = (None, ..., _stub, lambda *_: ...)


def is_not_yet(exercise: str, stub: object, capsys) -> None:
    """The check of a stub says "Not yet", with a hint, and judges and changes nothing."""
    with unchanged():
        verdict = check(exercise, stub)
    assert verdict.ok is None
    assert len(verdict.message) > 40
    assert capsys.readouterr().out.startswith(f"{exercise}  Not yet: ")


def is_refused(exercise: str, answer: object, says: str, capsys) -> None:
    """The check of a wrong answer says what is wrong, in lines that fit a page, and changes nothing."""
    with unchanged():
        verdict = check(exercise, answer)
    assert verdict.ok is False
    assert re.search(says, verdict.message.replace("\n", " ")), verdict.message
    printed = capsys.readouterr().out
    assert printed.startswith(f"{exercise}  ✗ ")
    assert max(len(line) for line in printed.split("\n")) <= 114


def has_four_wrong_answers_each(lesson: str, right, wrong) -> None:
    """Every exercise of the lesson has a right answer and at least four wrong ones."""
    assert {name for name in checks._EXERCISES if name.startswith(lesson)} == set(right)
    for exercise in right:
        assert sum(name == exercise for name, _, _ in wrong) >= 4
