"""The parts of the rehearsal; the whole of it is `make colab-rehearsal`."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import ipywidgets as widgets
import nbformat
import pytest

from lecture7_utils.classroom.widgets import Explorer, explore_convolution
from tests.colab import drive, rehearsal
from tests.notebooks.anatomy import ROOT, WIDGET_TEXT
from tests.notebooks.budgets import execute

# ------------------------------------------------------------------------------------------- packages


def test_every_change_of_a_given_package_is_found_and_a_new_one_is_none():
    before = {"torch": "2.11.0", "numpy": "2.1.3", "ipywidgets": "7.7.1"}
    after = {"torch": "2.11.0", "numpy": "2.4.0", "foolbox": "3.3.4"}
    assert rehearsal.differences(before, before) == []
    assert rehearsal.differences(before, {**before, "foolbox": "3.3.4"}) == []
    assert rehearsal.differences(before, after) == [
        "ipywidgets: was 7.7.1, is missing",
        "numpy: was 2.1.3, is 2.4.0",
    ]


def test_packages_are_those_of_the_python_that_is_asked(tmp_path, monkeypatch):
    here = rehearsal.packages(Path(sys.executable))
    assert here["ipywidgets"] == widgets.__version__
    # what lies in the working folder is not installed
    (tmp_path / "ghost-1.0.dist-info").mkdir()
    (tmp_path / "ghost-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ghost\nVersion: 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert rehearsal.packages(Path(sys.executable)) == here


def test_what_pip_can_not_find_is_named(monkeypatch):
    def run(*command):
        bad = "torch==2.11.0" in command
        text = "WARNING: x\nERROR: No matching distribution found for torch==2.11.0\n" if bad else ""
        return subprocess.CompletedProcess(command, int(bad), text)

    monkeypatch.setattr(rehearsal, "run", run)
    found, missing = rehearsal.obtainable(Path("python"), {"torch": "2.11.0", "numpy": "2.1.3"})
    assert found == ["numpy==2.1.3"]
    assert missing == ["torch==2.11.0: ERROR: No matching distribution found for torch==2.11.0"]


def test_the_python_is_the_one_asked_for_or_one_that_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rehearsal.find_python("3.99.1") == sys.executable
    assert rehearsal.find_python("3.99.1", sys.executable) == sys.executable
    with pytest.raises(rehearsal.Trouble, match="expected a Python with the module venv"):
        rehearsal.find_python("3.99.1", str(tmp_path / "python"))


# ------------------------------------------------------------------------------------------- the stand-in


def test_the_stand_in_is_loaded_as_colabs_is_and_offers_nothing_else():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import google.colab; "
        "assert 'google.colab' in sys.modules; from google.colab import files"
    )
    standin = Path(rehearsal.__file__).with_name("standin")
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, standin], capture_output=True, text=True, cwd=standin
    )
    assert "google.colab.files: the course must not need more of Colab" in done.stderr


# ------------------------------------------------------------------------------------------- driving


@pytest.fixture
def alone(monkeypatch):
    """Only what a test makes counts as this kernel's explorers."""
    before = set(map(id, drive.explorers()))
    every = drive.explorers
    monkeypatch.setattr(drive, "explorers", lambda: [e for e in every() if id(e) not in before])


def test_every_control_of_every_explorer_is_moved(alone, capsys):
    explorer = explore_convolution()
    first = {n: c.value for n, c in explorer.controls.items() if hasattr(c, "value")}
    drive.drive(1)
    line = capsys.readouterr().out
    for name in explorer.controls.keys() - {"reset"}:
        assert name in line
    assert {n: c.value for n, c in explorer.controls.items() if n in first} == first


def test_a_missing_explorer_fails(alone):
    explore_convolution()
    with pytest.raises(AssertionError, match="1 explorers in the kernel, expected 2"):
        drive.drive(2)


def explorer_that(draw) -> Explorer:
    return Explorer({"size": widgets.IntSlider(), "go": widgets.Button()}, draw)


def picture() -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    return file.getvalue()


def test_an_explorer_that_does_not_answer_fails(alone):
    kept = explorer_that(lambda: (picture(), "always the same"))
    with pytest.raises(AssertionError, match="nothing changed"):
        drive.drive(1)
    assert kept.failures == []


def test_an_error_that_a_click_swallows_fails(alone):
    kept = explorer_that(lambda: (picture(), "fine"))
    kept.on_press("go", lambda: 1 / 0)
    with pytest.raises(AssertionError, match="go: ZeroDivisionError"):
        drive.drive(1)


def test_a_broken_picture_fails(alone):
    kept = explorer_that(lambda: (b"no picture", "text"))
    with pytest.raises(Exception, match="cannot identify image"):
        drive.drive(1)
    assert kept


@pytest.mark.parametrize("old", [True, False], ids=["ipywidgets 7", "ipywidgets 8"])
def test_a_file_is_sent_as_a_browser_sends_it(old):
    sent = {}
    control = types.SimpleNamespace(set_state=sent.update)
    if old:
        control._counter = 0
    drive.upload(control)
    assert set(sent) == ({"metadata", "data", "_counter"} if old else {"value"})
    if not old:
        real = widgets.FileUpload()
        if not hasattr(real, "_counter"):
            drive.upload(real)
            assert bytes(real.value[0].content).startswith(b"\x89PNG")


def test_the_last_cell_of_a_rehearsed_notebook_drives_it(tmp_path):
    path = tmp_path / "06.ipynb"
    shown = nbformat.v4.new_output("display_data", data={"text/plain": WIDGET_TEXT})
    cells = [
        nbformat.v4.new_code_cell("import lecture7_utils as l7\nl7.explore_convolution()", outputs=[shown]),
        nbformat.v4.new_code_cell("print(1)"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert rehearsal.add_drive(path) == 1
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) == 3
    assert notebook.cells[-1].source.endswith("drive(1)")
    execute(notebook, tmp_path)
    assert "moved: " in notebook.cells[-1].outputs[0].text


def test_failures_of_a_notebook_are_reported(tmp_path, monkeypatch):
    """nbval itself, in a kernel of this environment: a failing cell, a changed output, a good notebook."""
    kernel = tmp_path / "kernels" / rehearsal.KERNEL
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    checked = nbformat.v4.new_output("stream", name="stdout", text="2\n")
    for name, source, count in (("good", "print(2)", 0), ("changed", "print(3)", 1), ("raises", "1 / 0", 1)):
        text = f"# NBVAL_CHECK_OUTPUT\n{source}"
        cell = nbformat.v4.new_code_cell(text, outputs=[checked], execution_count=1)
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        failures = rehearsal.rehearse(path, tmp_path / f"{name}.log")
        assert len(failures) == count, failures
        assert (tmp_path / f"{name}.log").read_text()


def test_the_names_are_those_of_notebooks(tmp_path):
    shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", tmp_path)
    with pytest.raises(ValueError, match="name: expected one of"):
        rehearsal.choose(tmp_path, ["42"])
