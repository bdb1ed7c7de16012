"""The tables that close the course quote each lesson's own outputs, and nothing that they don't say."""

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.anatomy import ROOT, code, text_of

LAST = ROOT / "notebooks" / "09_the_managers_report.ipynb"
# the lessons whose tools explain a network: each has a row, once it is there
TOOLS = ("01", "02", "03", "04", "05", "07", "08")


def rows(path: Path) -> list[list[str]]:
    """The cells of each row of the tables under "Which tool answers which question"."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    section = re.split(r"^## ", text.split("## Which tool answers which question", 1)[1], flags=re.M)[0]
    tables = [table.strip().splitlines() for table in re.findall(r"(?:^\|.*\n?)+", section, re.M)]
    assert len({table[0] for table in tables}) == 1  # one head for all
    lines = [line for table in tables for line in table[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def said(name: str) -> str:
    """All text that the code cells of a lesson print, on one line."""
    notebook = nbformat.read(LAST.parent / name, as_version=4)
    return " ".join("\n".join(text_of(cell) for _, cell in code(notebook)).split())


def prints(quoted: str, text: str) -> bool:
    """Whether the text holds the quotation as whole words and numbers: `9%` is not in "49%"."""
    words = r"\s+".join(re.escape(word) for word in quoted.split())
    return re.search(rf"(?<![\w.%-]){words}(?![\w%]|\.\d)", text) is not None


TABLE = rows(LAST)


def test_every_tool_has_a_question_a_failure_and_a_lesson():
    assert len(TABLE) >= 12
    for tool, question, failure, measured in TABLE:
        assert question.endswith("?")
        assert failure.endswith(".")
        assert re.search(r"\]\(\d\d_\w+\.ipynb\)|this lesson", tool), tool
        assert re.search(r"`[^`]*\d[^`]*`", measured), measured


def test_every_lesson_with_tools_has_a_row():
    here = {path.name for path in LAST.parent.glob("*.ipynb") if path.name[:2] in TOOLS}
    linked = {name for tool, *_ in TABLE for name in re.findall(r"\]\((\d\d_\w+\.ipynb)\)", tool)}
    assert here - linked == set()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0][:20])
def test_each_number_is_printed_by_its_lesson(row):
    tool, _, _, measured = row
    link = re.search(r"\]\((\d\d_\w+\.ipynb)\)", tool)
    printed = said(link[1] if link else LAST.name)
    for quoted in re.findall(r"`([^`]+)`", measured):
        assert prints(quoted, printed), f"{quoted!r} is printed nowhere in its lesson"


@pytest.mark.parametrize(
    ("quoted", "text", "there"),
    [
        ("49%", "share 49%, 3%", True),
        ("9%", "share 49%", False),
        ("0.2", "area 0.21", False),
        ("0.2", "area 0.2.", True),
        ("goose 3.0", "goose  3.0 (loss 8.2)", True),
        ("3.0 (loss 8.2)", "goose 3.0 (loss 8.2)", True),
        ("3.0", "-3.0", False),
    ],
)
def test_a_quotation_is_found_as_a_whole(quoted, text, there):
    assert prints(quoted, text) == there
