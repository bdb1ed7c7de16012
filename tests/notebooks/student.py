"""Copies for a class, without solutions, outputs and notes: `python -m tests.notebooks.student [name ...]`.

The copies stand in `dist/student`. Each exercise keeps its stub and its check, so a copy runs from top to
bottom and says "not yet". The answers in `<details>` go, their questions stay. Everything else is as in the
notebook: edit that one, and make the copies again.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from tests.notebooks.anatomy import ROOT, links, slide_type, tags
from tests.notebooks.budgets import choose
from tests.notebooks.slides import DETAILS

# what lesson 0 says of the solutions' cells
ABOUT_SOLUTIONS = re.compile(r"\s*The solution is the folded cell\s+below[^.]*\.")


def student_copy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A new notebook without what a class should not see; the given one is left as it is."""
    copy = nbformat.from_dict(notebook)
    copy.cells = []
    for original in notebook.cells:
        if "solution" in tags(original) or slide_type(original) == "notes":
            continue
        cell = nbformat.from_dict(original)
        cell.metadata.pop("slideshow", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = re.sub(r"^\s*#\s*NBVAL_\w+[ \t]*\n", "", cell.source, flags=re.M)
        else:
            cell.source = DETAILS.sub(
                lambda folded: f"- {folded[1].strip()}" if "?" in folded[1] else "", cell.source
            )
            cell.source = ABOUT_SOLUTIONS.sub("", cell.source).strip()
        copy.cells.append(cell)
    return copy


def build(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write the copies of these notebooks into `folder`, with the files they link to; the copies' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for path in paths:
        copy = student_copy(nbformat.read(path, as_version=4))
        for cell in copy.cells:
            if cell.cell_type == "markdown":
                for link in links(cell.source):
                    _bring(link.partition("#")[0], path.parent, folder)
        copies.append(folder / path.name)
        copies[-1].write_text(nbformat.writes(copy) + "\n", encoding="utf-8")
    return copies


def _bring(link: str, source: Path, folder: Path) -> None:
    """A picture or another file of the notebooks' folder comes along; notebooks have copies of their own."""
    if not link or ":" in link or link.endswith(".ipynb"):
        return
    found = (source / link).resolve()
    if found.is_file() and found.is_relative_to(source.resolve()):
        target = folder / found.relative_to(source.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks.student", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; all without one")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist" / "student", help="where the copies go")
    options = parser.parse_args(arguments)
    try:
        paths = choose(ROOT / "notebooks", options.names)
    except ValueError as error:
        parser.error(str(error))
    for path in build(paths, options.folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
