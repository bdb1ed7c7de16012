"""Lecture mode in a real JupyterLab: the page is for a projector, and back again."""

import json
import zlib

import pytest

from tests.browser.lab import drag_slider, open_notebook
from tests.notebooks.anatomy import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def cell(kind, source, **metadata):
    made = {
        "cell_type": kind,
        "id": f"c{zlib.crc32(source.encode())}",
        "metadata": metadata,
        "source": source,
    }
    return made | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def test_prompts_and_helper_cells_go_and_come_back(lab, page):
    lesson = json.loads((ROOT / "notebooks" / "02_occlusion_sensitivity.ipynb").read_text(encoding="utf-8"))
    cells = [
        cell("markdown", "# A lecture\n\nOne sentence."),
        cell("code", "".join(lesson["cells"][1]["source"])),
        cell("code", "l7.lecture_mode()"),
        cell("code", f"print('shown')  # {'long enough to need a second line ' * 6}"),
        cell("code", "#@title Solution\nprint('solved')", jupyter={"source_hidden": True}),
        cell("markdown", '<span class="l7-notes">**3 minutes.**</span> Say it.'),
        cell("code", "l7.explore_convolution()"),
    ]
    lesson["cells"] = cells
    path = lab.folder / "notebooks" / "lecture.ipynb"
    path.write_text(json.dumps(lesson), encoding="utf-8")
    notebook = open_notebook(page, lab, "lecture")
    prose = page.locator(".jp-Notebook .jp-MarkdownOutput p").first
    size = "e => parseFloat(getComputedStyle(e).fontSize)"
    small = prose.evaluate(size)
    assert all(notebook.cells.nth(i).is_visible() for i in range(7))

    notebook.run_all()
    assert notebook.errors() == []
    page.wait_for_function("!document.querySelectorAll('.jp-Notebook .jp-CodeCell')[0].checkVisibility()")
    assert [i for i in range(7) if notebook.cells.nth(i).is_visible()] == [0, 3, 6]
    prompts = page.locator(".jp-Notebook :is(.jp-InputPrompt, .jp-OutputPrompt)")
    assert not any(prompts.nth(i).is_visible() for i in range(prompts.count()))
    assert prose.evaluate(size) >= 1.3 * small
    assert page.get_by_text("shown", exact=True).evaluate(size) >= 18
    code = notebook.cells.nth(3).locator(".cm-line")
    assert code.bounding_box()["height"] >= 2 * 18
    beyond = "e => e.closest('.cm-scroller').scrollWidth - e.closest('.cm-scroller').clientWidth"
    assert code.evaluate(beyond) <= 0
    explorer = notebook.explorers().first
    assert explorer.evaluate("e => parseFloat(getComputedStyle(e).zoom)") >= 1.3
    cut = "labels => labels.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    assert explorer.locator(".widget-label").count() >= 4
    assert explorer.locator(".widget-label").evaluate_all(cut) == []
    stride = explorer.locator(".widget-slider").first  # enlarged, it still follows the mouse
    for share, value in ((1.0, "4"), (0.0, "1")):
        drag_slider(stride, share)
        stride.locator(".widget-readout", has_text=value).wait_for(timeout=10_000)
    page.screenshot(path=ROOT / "dist" / "screenshots" / "lecture-mode.png")

    cells[3]["source"] = "l7.lecture_mode(False)"
    path.write_text(json.dumps(lesson), encoding="utf-8")
    page.goto("about:blank")
    notebook = open_notebook(page, lab, "lecture")
    notebook.run_all()
    page.wait_for_function("document.querySelectorAll('.jp-Notebook .jp-CodeCell')[0].checkVisibility()")
    assert all(notebook.cells.nth(i).is_visible() for i in range(7))
    assert prose.evaluate(size) == small
