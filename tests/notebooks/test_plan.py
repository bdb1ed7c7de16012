"""The table of the lessons and the plans of a lecture say what the notebooks' notes and titles say."""

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.anatomy import HEADING, ROOT, slide_type, without_code

PAGE = ROOT / "notebooks" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
NOTEBOOKS = sorted(PAGE.parent.glob("*.ipynb"))
LINK = re.compile(r"\[[^\]]+\]\((\d\d_\w+\.ipynb)\)")


def notes_of(path: Path) -> list[tuple[str, int, bool]]:
    """Each notes cell: its section ("opening", "1", …), its minutes, whether to skip it if late."""
    section, found = "opening", []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and slide_type(cell) != "notes":
            for level, text in HEADING.findall(without_code(cell.source)):
                number = re.match(r"(\d+)\. ", text)
                if len(level) == 2:
                    section = number[1] if number else section if section == "opening" else text
        elif slide_type(cell) == "notes":
            minutes = int(re.search(r"(\d+)\s*min", cell.source)[1])
            found.append((section, minutes, "skip if late" in cell.source.lower()))
    return found


def minutes_of(path: Path, asked: str) -> int:
    """The minutes of some sections, as a plan writes them: "opening, 1, 2*"."""
    notes, total = notes_of(path), 0
    for part in asked.split(","):
        name, without = part.strip().rstrip("*"), part.strip().endswith("*")
        here = [(minutes, skip) for section, minutes, skip in notes if section == name]
        if not here:
            raise ValueError(f"{path.name}: no notes in section {name!r}")
        if without and (not any(skip for _, skip in here) or all(skip for _, skip in here)):
            raise ValueError(f"{path.name}: the star of section {name} leaves nothing out, or all")
        total += sum(minutes for minutes, skip in here if not (without and skip))
    return total


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table of a markdown text, without its head."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [[[c.strip() for c in row.strip("|").split("|")] for row in t.splitlines()[2:]] for t in found]


LESSONS, *PLANS = tables(TEXT)


def test_every_lesson_is_listed_with_its_own_minutes():
    assert [LINK.search(row[0])[1] for row in LESSONS] == [path.name for path in NOTEBOOKS]
    for path, (_, to_read, in_class, to_run, before, after) in zip(NOTEBOOKS, LESSONS, strict=True):
        title = nbformat.read(path, as_version=4).cells[0].source
        assert to_read == re.search(r"\d+ min", title)[0]
        assert to_run == re.search(r"about (\d+ s)", title)[1]
        notes = notes_of(path)
        late = sum(minutes for _, minutes, skip in notes if not skip)
        assert in_class == f"{sum(minutes for _, minutes, _ in notes)} ({late}) min", path.name
        assert before
        assert after


def test_what_to_read_before_comes_before():
    numbers = {path.name[1] for path in NOTEBOOKS}
    for path, row in zip(NOTEBOOKS, LESSONS, strict=True):
        here = path.name[1]
        before = set(re.findall(r"(?<!section )\b\d\b", row[4]))
        after = set(re.findall(r"\b\d\b", row[5]))
        assert all(n in numbers and n < here for n in before)
        assert all(n in numbers and n > here for n in after)


@pytest.mark.parametrize(
    ("plan", "least", "most"), [(0, 72, 80), (1, 44, 50), (2, 44, 50), (3, 44, 50)], ids=str
)
def test_the_sums_of_a_plan(plan, least, most):
    *rows, (name, _, total) = PLANS[plan]
    assert name == "all"
    for lesson, sections, minutes in rows:
        assert int(minutes) == minutes_of(PAGE.parent / LINK.search(lesson)[1], sections), lesson
    assert int(total) == sum(int(row[2]) for row in rows)
    assert least <= int(total) <= most


def test_there_are_plans_of_80_and_of_three_times_50_minutes():
    assert len(PLANS) == 4
    every = {LINK.search(row[0])[1] for row in PLANS[0][:-1]}
    assert every == {path.name for path in NOTEBOOKS}
    thrice = [LINK.search(row[0])[1] for plan in PLANS[1:] for row in plan[:-1]]
    assert thrice == [path.name for path in NOTEBOOKS]


def test_sections_that_are_not_there_and_idle_stars_are_refused():
    path = PAGE.parent / "02_occlusion_sensitivity.ipynb"
    assert minutes_of(path, "7") > minutes_of(path, "7*") > 0
    with pytest.raises(ValueError, match="no notes in section '12'"):
        minutes_of(path, "12")
    with pytest.raises(ValueError, match="star"):
        minutes_of(path, "1*")
    with pytest.raises(ValueError, match="star"):
        minutes_of(path, "5*")
