"""Every lesson in a real JupyterLab: it runs without errors, its explorers answer to mouse and keyboard."""

import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page

from lecture7_utils.shop.photos import photo
from tests.browser.lab import drag_slider, open_notebook, picture, readout
from tests.notebooks.anatomy import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
PICTURES = ROOT / "dist" / "screenshots"
PLACES = (0.8, 0.3, 0.55)  # of a slider's track
# JupyterLab takes the arrow keys of a closed list for itself: Space opens it
KEYS = {"slider": ["ArrowRight"], "SELECT": ["Space", "ArrowDown", "Enter"], "BUTTON": ["Enter"]}
PATIENCE = 60  # seconds: a press of a button may compute for a while
SLIDER, CHOICE, BUTTON = ".widget-slider", ".widget-dropdown select", "button.jupyter-button"


def state(explorer: Locator) -> tuple[str, str]:
    return picture(explorer), readout(explorer)


def changed(page: Page, explorer: Locator, before: tuple[str, str], seconds: float = 15) -> bool:
    """Whether the picture or the numbers become others within that time."""
    until = time.monotonic() + seconds
    while state(explorer) == before:
        if time.monotonic() > until:
            return False
        page.wait_for_timeout(100)
    return True


def settled(page: Page, explorer: Locator) -> tuple[str, str]:
    """The picture and the numbers once they stay for a second and no button is held down by its work."""
    until, last, since = time.monotonic() + PATIENCE, state(explorer), time.monotonic()
    while time.monotonic() < until:
        page.wait_for_timeout(100)
        now = state(explorer)
        if now != last or explorer.locator(f"{BUTTON}[disabled]").count():
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 1:
            return now
    raise TimeoutError("the explorer does not come to rest")


def choose_another(choice: Locator, tried: int) -> bool:
    """Choose the option `tried` places after the present one; False if there are no more."""
    chosen, count = choice.evaluate("s => [s.selectedIndex, s.options.length]")
    if tried >= count:
        return False
    choice.select_option(index=(chosen + tried) % count)
    return True


def drag_to_another(slider: Locator, tried: int) -> bool:
    """Drag to one of a few places of the track; False if there are no more."""
    if tried > len(PLACES):
        return False
    drag_slider(slider, PLACES[tried - 1])
    return True


def press(button: Locator, tried: int) -> bool:
    """Press it, once."""
    if tried == 1:
        button.click()
    return tried == 1


def moves(explorer: Locator) -> list[tuple[str, Callable[[int], bool], float]]:
    """Every control but Reset: what it is called, how it is moved, and how many seconds it has to answer.

    The move takes 1, 2 … for the first, the second … other place, and says False when there is none left.
    """
    found = []
    for slider in explorer.locator(SLIDER).all():
        name = slider.locator(".widget-label").first.inner_text()
        found.append((name, lambda n, s=slider: drag_to_another(s, n), 4))
    for choice in explorer.locator(CHOICE).all():
        name = choice.locator("xpath=..").locator(".widget-label").first.inner_text()
        found.append((name, lambda n, c=choice: choose_another(c, n), 4))
    for button in explorer.locator(BUTTON).all():
        name = button.inner_text().strip()
        if name != "Reset":
            found.append((name, lambda n, b=button: press(b, n), 20))
    return found


def answers(page: Page, explorer: Locator, control: tuple, controls: list) -> bool:
    """Whether something changes when a control is moved: as all stands, from the beginning, or once the first
    control was moved (a climb that is done already is not done again)."""
    _, move, seconds = control
    for prepare in ("", "reset", "another"):
        if prepare:
            explorer.locator(BUTTON, has_text="Reset").click()
            settled(page, explorer)
        if prepare == "another":
            controls[0][1](1)
        before, tried = settled(page, explorer), 1
        # one place may look like another: a control answers if one of its places does
        while move(tried):
            if changed(page, explorer, before, seconds):
                return True
            tried += 1
    return False


@pytest.mark.parametrize("name", LESSONS)
def test_the_lesson_runs_and_its_explorers_answer(lab, page, name, tmp_path):
    notebook = open_notebook(page, lab, name)
    notebook.run_all()
    notebook.screenshots(PICTURES)
    assert notebook.errors() == []
    not_run = [prompt for prompt in notebook.prompts() if not re.fullmatch(r"(\[\d+\]:)?", prompt.strip())]
    assert not_run == []

    has_picture = page.locator(".l7-picture")
    explorers = notebook.explorers().filter(has=has_picture).all()
    assert explorers, "a lesson without an explorer"
    for number, explorer in enumerate(explorers):
        explorer.scroll_into_view_if_needed()
        first = settled(page, explorer)
        assert first[0].startswith("data:image/")
        assert re.search(r"\d", first[1])
        seen, pictures, numbers = [], {first[0]}, {first[1]}
        controls = moves(explorer)
        for control in controls:
            assert answers(page, explorer, control, controls), (
                f"explorer {number}: nothing changes with {control[0]!r}"
            )
            now = settled(page, explorer)
            pictures.add(now[0])
            numbers.add(now[1])
            seen.append(control[0])
            page.screenshot(path=PICTURES / f"{name}-explorer{number}-{len(seen)}.png")
        assert seen
        assert len(pictures) > 1, f"explorer {number}: the picture never changed"
        assert len(numbers) > 1, f"explorer {number}: the numbers never changed"

        moved = settled(page, explorer)
        explorer.locator(BUTTON, has_text="Reset").click()
        assert changed(page, explorer, moved), f"explorer {number}: Reset does nothing"
        assert settled(page, explorer)[1] == first[1], f"explorer {number}: Reset does not lead back"
        assert explorer.locator(".l7-problem").inner_text().strip() == ""
    own = tmp_path / "my_goose.jpg"
    photo("goose").image.save(own)
    for upload in notebook.explorers().filter(has_not=has_picture).all():
        upload.scroll_into_view_if_needed()
        with page.expect_file_chooser() as chooser:
            upload.locator(BUTTON).first.click()
        chooser.value.set_files(own)
        upload.get_by_text(re.compile(r"my_goose\.jpg, \d+ × \d+ pixels")).wait_for(timeout=30_000)
        upload.locator("img").first.wait_for(timeout=PATIENCE * 1000)
        upload.screenshot(path=PICTURES / f"{name}-own-photo.png")
        upload.locator(BUTTON, has_text="Clear").click()
        upload.locator("img").first.wait_for(state="detached", timeout=15_000)
    assert notebook.errors() == []
    assert page.console_errors == []


def test_an_explorer_is_driven_by_the_keyboard_alone(lab, page):
    """From the top of the notebook: the arrow keys go from cell to cell, Tab into the explorer."""
    notebook = open_notebook(page, lab, "02_occlusion_sensitivity")
    notebook.run_all()
    explorer = notebook.explorers().first
    cells = page.locator(".jp-Notebook .jp-Cell")
    wanted = next(i for i, cell in enumerate(cells.all()) if cell.locator(".l7-explorer").count())
    keys = page.keyboard
    keys.press("Escape")
    for _ in range(cells.count()):
        keys.press("ArrowUp")
    for _ in range(wanted):
        keys.press("ArrowDown")
    assert "jp-mod-active" in cells.nth(wanted).get_attribute("class")

    inside = "document.activeElement && document.activeElement.closest('.l7-explorer') !== null"
    kind = "document.activeElement.matches('.noUi-handle') ? 'slider' : document.activeElement.tagName"
    met, before = {}, settled(page, explorer)
    for _ in range(60):
        keys.press("Tab")
        if not page.evaluate(inside):
            if met:
                break
            continue
        control = page.evaluate(kind)
        if control in met or control not in KEYS:  # a slider's number can be typed, too
            continue
        before = settled(page, explorer)
        for key in KEYS[control]:
            keys.press(key)
            page.wait_for_timeout(200)
        met[control] = changed(page, explorer, before, 10)
        settled(page, explorer)
    assert met.get("slider"), met
    assert met.get("SELECT"), met
    assert notebook.errors() == []
