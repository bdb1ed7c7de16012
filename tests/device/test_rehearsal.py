"""What is put around a notebook, and what is said of it; the whole of it is `make device-rehearsal`."""

import pytest
from nbclient.exceptions import CellExecutionError

from tests.device import rehearsal


@pytest.fixture
def ran(monkeypatch):
    """The notebooks that would have been run; `ran.error` is raised instead where it is set."""

    class Ran(list):
        error = None

    ran = Ran()

    def execute(notebook, folder, **options):
        ran.append((notebook, folder, options))
        if ran.error:
            raise ran.error

    monkeypatch.setattr(rehearsal, "execute", execute)
    return ran


def test_the_device_comes_first_and_the_explorers_last(ran, tmp_path, capsys):
    assert rehearsal.main(["06", "--folder", str(tmp_path / "built")]) == 0
    [(notebook, folder, options)] = ran
    first, *lesson, on_it, last = (cell.source for cell in notebook.cells)
    assert "pretend.install" in first
    assert str(tmp_path / "built") in first
    assert first.index("pretend.check") < first.index("pretend.take_for_auto")
    assert "l7.start()" in "".join(lesson)
    assert on_it == "assert device == stand_in, device"
    assert last.endswith("drive(2)")  # as many as lesson 6 shows
    assert folder.name == "notebooks"
    assert options == {"widget_state": True}
    assert "No operation mixed two devices." in capsys.readouterr().out


def test_a_cell_that_fails_is_shown_and_the_next_notebook_runs(ran, tmp_path, capsys):
    ran.error = CellExecutionError("the \x1b[31mcell\x1b[39m", "RuntimeError", "two devices")
    assert rehearsal.main(["00", "06", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert len(ran) == 2
    assert "FAILED  06_deconvolution" in said
    assert "the cell" in said
    assert "2 of 2 notebooks failed." in said


def test_a_name_that_fits_no_notebook(ran, tmp_path, capsys):
    assert rehearsal.main(["11", "--folder", str(tmp_path)]) == 1
    assert not ran
    assert "name: expected one of" in capsys.readouterr().err
