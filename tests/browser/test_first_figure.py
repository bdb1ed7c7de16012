"""How long it takes from `make lab` to the first figure of lesson 0: printed, and held to its budget."""

import os
import re
import time

import nbformat
import pytest

from tests.browser.lab import browser_page, chromium, lab_server, open_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SECONDS = 90  # on a machine where the environment stands
LESSON = "00_start_here"


def test_the_first_figure_comes_within_its_budget(tmp_path, capsys):
    if chromium() is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium: install the package chromium, or name one in the variable CHROMIUM")
    begin = time.monotonic()
    with lab_server(tmp_path) as lab, browser_page() as page:
        answers = time.monotonic() - begin
        # without stored outputs, so that a figure on the page is one that was made now
        path = lab.folder / "notebooks" / f"{LESSON}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
        opened = open_notebook(page, lab, LESSON)
        shown = time.monotonic() - begin
        figures = page.locator(".jp-Notebook .jp-OutputArea-output img")
        assert figures.count() == 0
        opened.start_all()
        page.wait_for_function(
            "[...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output img')]"
            ".some(image => image.complete && image.naturalWidth > 200)",
            timeout=10 * SECONDS * 1000,
        )
        seconds = time.monotonic() - begin
        assert opened.errors() == []
    log = (tmp_path / "lab.log").read_text(errors="replace")
    assert re.search(r"^JupyterLab answers \d+ s after the command\.$", log, re.M), "make lab says nothing"
    with capsys.disabled():
        print(
            f"\nFrom `make lab`: JupyterLab answers after {answers:.0f} s, lesson 0 is on the page after "
            f"{shown:.0f} s, its first figure after {seconds:.0f} s (at most {SECONDS} s)."
        )
    assert seconds <= SECONDS
