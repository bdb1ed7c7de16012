"""A lesson in a real JupyterLab: it runs without errors, and its explorer answers to its slider."""

import re
import time

import pytest

from tests.browser.lab import move_slider, open_notebook, picture, readout
from tests.notebooks.anatomy import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("name", ["02_occlusion_sensitivity"])
def test_the_lesson_runs_and_its_explorer_answers(lab, page, name):
    notebook = open_notebook(page, lab, name)
    notebook.run_all()
    notebook.screenshots(ROOT / "dist" / "screenshots")
    assert notebook.errors() == []
    not_run = [prompt for prompt in notebook.prompts() if not re.fullmatch(r"(\[\d+\]:)?", prompt.strip())]
    assert not_run == []

    explorer = notebook.explorers().first
    explorer.scroll_into_view_if_needed()
    before = picture(explorer), readout(explorer)
    assert before[0].startswith("data:image/")
    move_slider(explorer)
    until = time.monotonic() + 15
    while (picture(explorer) == before[0] or readout(explorer) == before[1]) and time.monotonic() < until:
        page.wait_for_timeout(200)
    assert picture(explorer) != before[0]
    assert readout(explorer) != before[1]
    assert re.search(r"\d", readout(explorer))
    assert notebook.errors() == []
    page.screenshot(path=ROOT / "dist" / "screenshots" / f"{name}-moved.png")
