"""Running and cleaning notebooks: what `make run` and `make budgets` do."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests.notebooks import budgets
from tests.notebooks.anatomy import WIDGET_MIME, WIDGET_TEXT


def write(path, *sources):
    notebook = new_notebook(
        cells=[new_code_cell(s) for s in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return notebook


@pytest.fixture
def small_machine(monkeypatch):
    """`main` without its lasting effects on this process."""
    monkeypatch.setattr(budgets, "small_machine", lambda: "this machine")


@pytest.mark.slow
def test_run_stores_clean_outputs_and_stable_ids(tmp_path, capsys, small_machine):
    path = tmp_path / "01_small.ipynb"
    before = write(
        path,
        "import os, sys\nprint('a')\nprint('b', flush=True)\nprint(os.path.exists('01_small.ipynb'))",
        "# the slow one\nimport time; time.sleep(0.3)\n"
        "import ipywidgets\nfrom tqdm.auto import tqdm\n"
        "for _ in tqdm(range(3)): pass\nfor _ in tqdm(range(3), file=sys.stderr): pass\n"
        "ipywidgets.VBox([ipywidgets.IntSlider()])",
        "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass\nprint('warned', file=sys.stderr)",
        "6 * 7",
    )
    assert budgets.main(["--folder", str(tmp_path), "--write"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("01_small"))
    assert "slowest cell" in line
    assert line.endswith("import time; time.sleep(0.3)")

    text = path.read_text(encoding="utf-8")
    after = nbformat.reads(text, as_version=4)
    nbformat.validate(after)
    assert text.endswith("}\n")
    assert [c.id for c in after.cells] == [c.id for c in before.cells]
    assert [c.source for c in after.cells] == [c.source for c in before.cells]
    assert [c.execution_count for c in after.cells] == [1, 2, 3, 4]
    assert all("execution" not in c.metadata for c in after.cells)
    assert "widgets" not in after.metadata
    assert [o.text for o in after.cells[0].outputs] == ["a\nb\nTrue\n"]
    assert [dict(o.data) for o in after.cells[1].outputs] == [{"text/plain": WIDGET_TEXT}]
    # what is no progress bar stays, for the anatomy to complain about
    assert [o.name for o in after.cells[2].outputs] == ["stderr"]
    assert after.cells[3].outputs[0].data["text/plain"] == "42"


@pytest.mark.slow
def test_a_failing_notebook_fails_and_is_not_stored(tmp_path, capsys, small_machine):
    path = tmp_path / "02_broken.ipynb"
    write(path, "1 + 1", "raise RuntimeError('no such dog')")
    before = path.read_bytes()
    assert budgets.main(["--folder", str(tmp_path), "--write", "02"]) == 1
    assert "no such dog" in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "limit"), [("NOTEBOOK_SECONDS", 1), ("COURSE_SECONDS", 3), ("MAX_BYTES", 1)]
)
def test_each_budget_is_held(tmp_path, capsys, monkeypatch, small_machine, name, limit):
    for number in (1, 2):
        write(tmp_path / f"0{number}_x.ipynb", "1")
    monkeypatch.setattr(budgets, "execute", lambda *_: budgets.Run(2.0, 1.0, "1"))
    assert budgets.main(["--folder", str(tmp_path)]) == 0
    assert "OVER" not in capsys.readouterr().out
    monkeypatch.setattr(budgets, name, limit)
    assert budgets.main(["--folder", str(tmp_path)]) == 1
    assert "OVER BUDGET" in capsys.readouterr().out


def test_without_write_nothing_is_stored(tmp_path, monkeypatch, small_machine):
    path = tmp_path / "01_x.ipynb"
    write(path, "1")
    before = path.read_bytes()
    monkeypatch.setattr(budgets, "execute", lambda *_: budgets.Run(2.0, 1.0, "1"))
    budgets.main(["--folder", str(tmp_path)])
    assert path.read_bytes() == before


def test_an_unknown_name_is_refused(tmp_path, capsys):
    write(tmp_path / "01_x.ipynb", "1")
    with pytest.raises(SystemExit):
        budgets.main(["--folder", str(tmp_path), "07"])
    assert "got '07'" in capsys.readouterr().err


def test_clean_tells_bars_from_explorers_and_warnings():
    def view(text):
        return new_output("display_data", data={WIDGET_MIME: {"model_id": "m"}, "text/plain": text})

    cell = new_code_cell(
        "x",
        outputs=[
            view("  0%|          | 0/10 [00:00<?, ?it/s]"),
            view("0it [00:00, ?it/s]"),
            view("VBox(children=(IntSlider(value=0),))"),
            new_output("stream", name="stderr", text="\r 10%|█  | 1/10 [00:00<00:01, 6.2it/s]\n"),
            new_output("stream", name="stderr", text="UserWarning: 10% of the pixels\n"),
            new_output("stream", name="stdout", text="10%| said\n"),
        ],
    )
    notebook = budgets.clean(new_notebook(cells=[cell], metadata={"widgets": {"x": 1}}))
    kept = notebook.cells[0].outputs
    assert [o.get("name", "widget") for o in kept] == ["widget", "stderr", "stdout"]
    assert kept[0].data == {"text/plain": WIDGET_TEXT}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot lend fewer cores")
def test_the_small_machine_has_at_most_two_cores_and_no_gpu():
    script = (
        "import os; from tests.notebooks.budgets import small_machine; small_machine()\n"
        "print(len(os.sched_getaffinity(0)), repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=budgets.ROOT)
    assert done.stdout.split() in (["1", "''"], ["2", "''"])
