"""Every notebook keeps the anatomy of a lesson, and its links resolve; so do those of the READMEs."""

from pathlib import Path

import pytest

from tests.notebooks.anatomy import ROOT, broken_link, course_problems, links, problems

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDERS = (ROOT / name for name in ("lecture7_utils", "tests", "notebooks"))
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in folder.rglob("*.md"))])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_anatomy(path: Path):
    found = problems(path)
    assert not found, "\n" + "\n".join(found)


def test_the_notebooks_belong_together():
    found = course_problems(ROOT / "notebooks")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_readmes(path: Path):
    broken = [broken_link(path, link) for link in links(path.read_text(encoding="utf-8"))]
    assert not any(broken), "\n".join(filter(None, broken))
