"""The copies for a class: nothing of the solutions is in them, and they run."""

import copy
import json
import os
import subprocess
import sys

import nbformat
import pytest

from tests.notebooks.anatomy import ROOT, broken_link, code, links, slide_type, tags
from tests.notebooks.student import build, student_copy

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return {path.name: path for path in build(NOTEBOOKS, tmp_path_factory.mktemp("student"))}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_copy_is_the_lesson_without_what_a_class_should_not_see(copies, path):
    notebook = nbformat.read(path, as_version=4)
    made = nbformat.read(copies[path.name], as_version=nbformat.NO_CONVERT)
    nbformat.validate(made)
    kept = [c for c in notebook.cells if "solution" not in tags(c) and slide_type(c) != "notes"]
    assert [c.id for c in made.cells] == [c.id for c in kept]
    assert [tags(c) for c in made.cells] == [tags(c) for c in kept]

    stubs = [c for c in made.cells if "exercise" in tags(c)]
    assert len(stubs) in (2, 3)
    assert all("..." in c.source and "l7.check(" in c.source for c in stubs)
    for _, cell in code(made):
        assert cell.outputs == []
        assert cell.execution_count is None

    text = "\n".join(c.source for c in made.cells)
    for hidden in (c for c in notebook.cells if "solution" in tags(c)):
        body = [line for line in hidden.source.splitlines() if line.startswith("    ") and '"""' not in line]
        known = "\n".join(c.source for c in kept)
        assert not [line for line in body if line in text and line not in known]
        assert hidden.source not in text
    for word in ("#@title", "<details", "three dots", "skip if late", "NBVAL_"):
        assert word not in text.lower()
    broken = [
        found
        for cell in made.cells
        if cell.cell_type == "markdown"
        for link in links(cell.source)
        if (found := broken_link(copies[path.name], link))
    ]
    assert broken == []


def test_the_questions_stay_without_their_answers_and_the_notebook_is_left_as_it_is():
    cells = [
        nbformat.v4.new_markdown_cell(
            "See.\n\n<details><summary>Why?</summary>\n\nBecause.\n\n</details>\n\n"
            "<details><summary>Our reading</summary>\n\nThat.\n\n</details>"
        ),
        nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(1)", execution_count=3),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    before = copy.deepcopy(notebook)
    made = student_copy(notebook)
    assert made.cells[0].source == "See.\n\n- Why?"
    assert made.cells[1].source == "print(1)"
    assert notebook == before


@pytest.mark.slow
def test_copies_run_and_say_not_yet(copies):
    """Under nbval, as a class would get them; then the stubs' own words, from a run that keeps them."""
    chosen = [copies[path.name] for path in NOTEBOOKS if path.name[:2] in ("00", "02", "06")]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300"),
            *map(str, chosen),
        ],
        cwd=chosen[0].parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert f"{sum(len(code(nbformat.read(p, as_version=4))) for p in chosen)} passed" in run.stdout

    for path in chosen:
        stubs = [
            c["source"]
            for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if "exercise" in c["metadata"].get("tags", [])
        ]
        script = "import lecture7_utils as l7\n" + "\n".join("".join(s) for s in stubs)
        said = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert said.stdout.count("Not yet: ") == len(stubs)
