"""The checker itself: it passes a good notebook and finds each defect."""

import base64
import copy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks.anatomy import WIDGET_MIME, WIDGET_TEXT, broken_link, course_problems, problems

NAME = "02_occlusion_sensitivity.ipynb"
BADGE = "https://colab.research.google.com/github/someone/course/blob/main/notebooks/"
TITLE = f"""# 2. Occlusion sensitivity

[Lesson 1](01_saliency_maps.ipynb) · [Lesson 3](03_class_activation_maps.ipynb)
[![Open in Colab](badge.svg)]({BADGE}{NAME})

The manager asks which part of a photo matters. 20 min to read, 60 s to run. Afterwards you can

- cover a part of a photo,
- draw a map,
- say what it costs.
"""
PNG = base64.b64encode(b"no real picture").decode()


def markdown(text, kind="-", **metadata):
    return new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}, **metadata})


def code(source, *outputs, **metadata):
    return new_code_cell(
        source, outputs=list(outputs), metadata={"slideshow": {"slide_type": "-"}, **metadata}
    )


def prints(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shows(**data):
    return new_output("display_data", data={kind.replace("__", "/"): value for kind, value in data.items()})


def good():
    exercise = {"tags": ["exercise"]}
    solution = {"tags": ["solution"], "jupyter": {"source_hidden": True}, "cellView": "form"}
    cells = [
        markdown(TITLE, "slide"),
        code("import lecture7_utils as l7\nl7.start()", prints("ready\n")),
        markdown("## Covering a part", "slide"),
        markdown('<span class="l7-notes">Say what happens. 3 min.</span> Skip if late.', "notes"),
        markdown("### The idea\n\nSee [the recap](#Recap)."),
        markdown("### From scratch"),
        code("# NBVAL_CHECK_OUTPUT\nscore = 1\nprint(score)", prints("1\n")),
        markdown("### With the package"),
        code("# NBVAL_CHECK_OUTPUT\nassert score == 1\nprint(0.0)", prints("0.0\n")),
        markdown("### Look"),
        code("draw(score)", shows(image__png=PNG, text__plain="<Figure size 640x480 with 1 Axes>")),
        markdown("*Figure: the dog on the left, its map on the right.*"),
        code("l7.explore(score)", shows(text__plain=WIDGET_TEXT)),
        markdown("## 2. Where it misleads"),
        code("# NBVAL_CHECK_OUTPUT\nprint(2)", prints("2\n")),
        markdown("## Exercises", "slide"),
    ]
    for name in ("first", "second"):
        cells.append(
            code(f"def {name}(x):\n    return ...\n\ncheck({name})", prints("Not yet: try\n"), **exercise)
        )
        cells.append(
            code(
                f"#@title Solution\ndef {name}(x):\n    return x\n\ncheck({name})", prints("✓\n"), **solution
            )
        )
    cells.append(
        markdown(
            "## Recap\n\nA line.\n\n<details>One.</details>\n\n<details>Two.</details>\n\n"
            "[Zeiler and Fergus 2014](https://arxiv.org/abs/1311.2901), section 4.2\n\n"
            "[↑ Back to the top](#2.-Occlusion-sensitivity)"
        )
    )
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    return new_notebook(
        cells=cells,
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )


@pytest.fixture
def course(tmp_path):
    for name in ("01_saliency_maps.ipynb", "03_class_activation_maps.ipynb"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "badge.svg").write_text("<svg/>")

    def write(notebook) -> Path:
        path = tmp_path / NAME
        nbformat.write(copy.deepcopy(notebook), path)
        return path

    return write


def test_a_good_notebook_has_no_problems(course):
    assert problems(course(good())) == []


def cell(notebook, start):
    return next(c for c in notebook.cells if c.source.startswith(start))


def replace(start, old, new):
    def change(notebook):
        found = cell(notebook, start)
        assert old in found.source
        found.source = found.source.replace(old, new)

    return change


def metadata(start, **changes):
    def change(notebook):
        cell(notebook, start).metadata.update(changes)

    return change


def output(start, *outputs):
    def change(notebook):
        cell(notebook, start).outputs = list(outputs)

    return change


def drop(start):
    def change(notebook):
        notebook.cells.remove(cell(notebook, start))

    return change


def add(new, after):
    def change(notebook):
        if new.cell_type == "code":
            new.execution_count = max(c.execution_count for c in notebook.cells if c.cell_type == "code") + 1
        notebook.cells.insert(notebook.cells.index(cell(notebook, after)) + 1, new)

    return change


def of_notebook(key, value):
    return lambda notebook: notebook.metadata.update({key: value})


SOLUTION = "#@title Solution\ndef first"
NOTES = '<span class="l7-notes">Say'
DEFECTS = {
    "is not python3": of_notebook("kernelspec", {"name": "conda-env", "display_name": "c"}),
    "holds the state of widgets": of_notebook("widgets", {"application/vnd": {}}),
    "at most 1.5 MB": output("l7.explore", shows(text__plain=WIDGET_TEXT), prints("x" * 1_500_001)),
    "not the title": lambda notebook: notebook.cells.insert(0, code("import this")),
    "the lesson's number": replace("# 2.", "# 2.", "#"),
    "no link to the previous": replace("# 2.", "01_saliency_maps", "03_class_activation_maps"),
    "no link to the next": replace("# 2.", "03_class_activation_maps", "01_saliency_maps"),
    "no Colab badge": replace("# 2.", "![Open in Colab]", "![]"),
    "badge opens another": replace("# 2.", f"notebooks/{NAME}", "notebooks/01_saliency_maps.ipynb"),
    "fewer than three list items": replace("# 2.", "- draw a map,\n", ""),
    "minutes to read": replace("# 2.", "20 min", "soon"),
    "seconds to run": replace("# 2.", "60 s", "soon"),
    "manager asks no question": replace("# 2.", "manager", "boss"),
    "not the setup cell": lambda notebook: notebook.cells.insert(1, markdown("## Setup")),
    "no `l7.start(`": replace("import lecture7", "l7.start()", ""),
    "an empty code cell": add(code(" "), "## Covering"),
    "expected 2": lambda notebook: setattr(notebook.cells[6], "execution_count", 7),
    "run as number None": lambda notebook: setattr(notebook.cells[6], "execution_count", None),
    "holds execution times": metadata("draw", execution={"iopub.execute_input": "x"}),
    "a stored error": output(
        "l7.exp", shows(text__plain=WIDGET_TEXT), new_output("error", ename="E", evalue="x")
    ),
    "prints to stderr": output("import lecture7", prints("UserWarning", "stderr")),
    "a live widget": output(
        "l7.explore", shows(text__plain=WIDGET_TEXT), shows(**{WIDGET_MIME: {"model_id": "x"}})
    ),
    "an object's address": output("import lecture7", prints("<Foo at 0x7f12345678>")),
    "machine in the output": output("import lecture7", prints("/" + "home/ann/x.py")),
    "machine in the source": replace("### The idea", "See", "/" + "tmp/x and"),
    "a rainbow colour map": replace("draw", "score", "score, cmap='" + "jet'"),
    "no output to compare": output("# NBVAL_CHECK_OUTPUT\nscore"),
    "2 cells with # NBVAL": replace("# NBVAL_CHECK_OUTPUT\nscore", "# NBVAL_CHECK_OUTPUT\n", ""),
    "no line `*Figure:": replace("*Figure", "*Figure:", "*A picture:"),
    "a picture without alt text": replace("### The idea", "See", "![](badge.svg)"),
    "no explorer": output("l7.explore"),
    "1 cells tagged exercise": lambda notebook: [notebook.cells.pop(-3), notebook.cells.pop(-2)],
    "a stub that holds": replace("def first", "...", "x"),
    'does not print "not yet"': output("def first", prints("wrong")),
    "not its solution": add(markdown("So:"), "def first"),
    "without an exercise": add(markdown("So:"), "def first"),
    "hidden, and no solution": metadata("draw", jupyter={"source_hidden": True}),
    "starts with #@title": replace(SOLUTION, "#@title", "#"),
    "no ✓": output(SOLUTION, prints("wrong")),
    "not hidden in JupyterLab": metadata(SOLUTION, jupyter={}),
    "not hidden in Colab": metadata(SOLUTION, cellView="code"),
    "needs first, which only": add(code("first(3)"), "#@title Solution\ndef second"),
    "slideshow.slide_type is None": metadata("draw", slideshow={}),
    "slideshow.slide_type is 'page'": metadata("draw", slideshow={"slide_type": "page"}),
    "says how many minutes": replace(NOTES, "3 min", "soon"),
    "lecture mode hides it by that": replace(NOTES, "span", "b"),
    "no notes cell for": metadata(NOTES, slideshow={"slide_type": "-"}),
    '"skip if late"': replace(NOTES, "Skip if late", "Stay"),
    "the order is": lambda notebook: notebook.cells.insert(4, markdown("### Look at it")),
    'no heading "Where it misleads"': replace("## 2. Where", "Where it misleads", "So what"),
    "asserts that it agrees": replace("# NBVAL_CHECK_OUTPUT\nassert", "assert ", ""),
    "no heading Recap": replace("## Recap", "Recap", "End"),
    "fewer than two questions": replace("## Recap", "<details>Two.</details>", ""),
    "not in ASCII": replace("# 2.", "# 2.", "# 2 ·"),
    'no link "[Back to the top](#2.-Occlusion-sensitivity)': replace("## Recap", "Back to the top", "Top"),
    "no references": replace("## Recap", "https", "http"),
    "a file that is not there": replace("### The idea", "#Recap", "../README.md"),
    "a heading that is not there": replace("### The idea", "#Recap", "#The-end"),
    "no such attachment": replace("### The idea", "See", "![a dog](attachment:dog.png)"),
}


@pytest.mark.parametrize(("expected", "change"), DEFECTS.items(), ids=DEFECTS)
def test_each_defect_is_found(course, expected, change):
    notebook = good()
    change(notebook)
    found = problems(course(notebook))
    assert any(expected in line for line in found), found


def test_a_problem_names_the_notebook_and_the_cell(course):
    notebook = good()
    replace("# NBVAL_CHECK_OUTPUT\nscore", "print", "jet = '" + "jet'\nprint")(notebook)
    (line,) = problems(course(notebook))
    assert line.startswith(f'{NAME}, cell 7 (code, "# NBVAL_CHECK_OUTPUT"): ')


def test_a_broken_file_is_reported(course):
    path = course(good())
    path.write_text("{")
    assert "no readable notebook" in problems(path)[0]


def test_setup_cells_that_differ_and_unknown_names_are_found(tmp_path):
    notebook = good()
    for name in ("00_start_here.ipynb", "01_saliency_maps.ipynb"):
        nbformat.write(notebook, tmp_path / name)
    assert course_problems(tmp_path) == []
    notebook.cells[1].source += " "
    nbformat.write(notebook, tmp_path / NAME)
    (tmp_path / "01_saliency_maps.ipynb").rename(tmp_path / "01_saliency.ipynb")
    first, second = course_problems(tmp_path)
    assert first.startswith("01_saliency.ipynb: not a name of the course")
    assert second == f"{NAME}, cell 2: the setup cell differs from that of 00_start_here.ipynb"


def test_anchors_follow_the_kind_of_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# What it's for\n\n```\n# no heading\n```\n")
    assert broken_link(page, "#what-its-for") is None
    assert broken_link(page, "page.md#what-its-for") is None
    assert "heading" in broken_link(page, "#no-heading")
    assert "file" in broken_link(page, "other.md")


@pytest.mark.parametrize(
    ("link", "good"),
    [
        ("https://example.org/nowhere", True),
        ("https://doi.org/10.1109/CVPR.2009.5206848", True),
        ("https://arxiv.org/abs/1311.2901#section-4", True),
        ("https://example.org", True),
        ("http://example.org/a", False),
        ("https:/example.org/a", False),
        ("https://example/a", False),
        ("https://exa mple.org/a", False),
        ("htps://example.org/a", False),
        ("https://example.org/a{b}", False),
    ],
)
def test_links_to_the_web_are_well_formed(tmp_path, link, good):
    assert (broken_link(tmp_path / "page.md", link) is None) == good
