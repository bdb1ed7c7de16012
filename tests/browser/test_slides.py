"""The decks in a real browser, opened as files; a request to the outside fails the test, and is refused."""

import json
import os
from pathlib import Path

import nbformat
import pytest

from tests.browser.lab import browser_page, chromium
from tests.notebooks.anatomy import ROOT
from tests.notebooks.slides import build, deck

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SIZE = {"width": 1280, "height": 720}

# what is wrong with the slide that is shown now, in the slide's own pixels
LOOK = """() => {
  const slide = Reveal.getCurrentSlide(), found = [];
  const frame = slide.getBoundingClientRect(), scale = frame.width / slide.offsetWidth;
  const parts = slide.querySelectorAll(".page, .page *:not(mjx-container *):not(aside *), .where");
  for (const part of parts) {
    if (part.closest("details:not([open])") && part.tagName !== "SUMMARY") continue;
    const box = part.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const outside = Math.max(box.right - frame.left - 1280 * scale, box.bottom - frame.top - 712 * scale,
      frame.left - box.left, frame.top - box.top) / scale;
    const kind = part.tagName;
    if (outside > 1) found.push(`<${kind.toLowerCase()}> leaves the slide by ${Math.round(outside)} px`);
    if (part.scrollWidth > part.clientWidth + 2 && kind === "PRE") found.push("a line is cut off");
    if (kind === "PRE" && parseFloat(getComputedStyle(part).fontSize) < 10.5)
      found.push(`code of ${getComputedStyle(part).fontSize}`);
    if (kind === "IMG" && box.width / scale < 250 && box.height / scale < 250)
      found.push(`a picture of only ${Math.round(box.width / scale)} px`);
    if (kind === "IMG" && !(part.getAttribute("alt")?.length >= 20)) found.push("a picture without alt text");
  }
  if (slide.querySelector("mjx-merror, [data-mjx-error]")) found.push("a formula with an error");
  const words = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const node = words.currentNode;
    if (node.parentElement.closest("pre, code, aside, mjx-container")) continue;
    const text = node.data.slice(0, 60);
    if (/\\$|\\\\[a-zA-Z(\\[]/.test(node.data)) found.push(`a formula that is not set: ${text}`);
    if (/\\*\\*|^#+ /.test(node.data)) found.push(`markdown that is not set: ${text}`);
  }
  if (!slide.querySelector(".page").textContent.trim() && !slide.querySelector("img")) found.push("nothing");
  const {h, v} = Reveal.getIndices();
  return [...new Set(found)].map(text => `slide ${h + 1}.${v + 1}: ${text}`);
}"""


def walk(path: Path, pictures: Path | None = None) -> tuple[list[str], int]:
    """Open a deck from its file and go through it key by key: what is wrong, and how many slides it has."""
    found: list[str] = []
    with browser_page(SIZE) as page:
        page.unroute_all()

        def answer(route):
            inside = route.request.url.startswith(path.parent.as_uri())
            if not inside and not route.request.url.startswith(("data:", "blob:")):
                found.append(f"asks for {route.request.url}")
                route.abort()
            else:
                route.continue_()

        page.route("**/*", answer)
        page.on(
            "console", lambda said: found.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("requestfailed", lambda request: found.append(f"not loaded: {request.url[:200]}"))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=120_000, state="attached")
        total = page.evaluate("Reveal.getTotalSlides()")
        seen = set()
        for _ in range(3 * total):
            here = page.evaluate("JSON.stringify([Reveal.getIndices().h, Reveal.getIndices().v])")
            if pictures and here not in seen:
                h, v = json.loads(here)
                page.screenshot(path=pictures / f"{path.stem}-{h:02d}-{v:02d}.png")
            seen.add(here)
            found += page.evaluate(LOOK)
            if page.evaluate("Reveal.isLastSlide() && !Reveal.availableFragments().next"):
                break
            page.keyboard.press("Space")
        if len(seen) != total:
            found.append(f"{len(seen)} of {total} slides seen")
    return list(dict.fromkeys(found)), total


@pytest.fixture(scope="session")
def decks(tmp_path_factory):
    if chromium() is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium: install the package chromium, or name one in the variable CHROMIUM")
    return {path.stem: path for path in build(NOTEBOOKS, tmp_path_factory.mktemp("slides"))}


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_a_deck_is_whole_without_a_network(decks, name):
    found, total = walk(decks[name])
    assert found == []
    assert total > 10


def test_the_speakers_window_shows_the_notes_and_asks_for_nothing(decks):
    path = next(iter(decks.values()))
    asked = []
    with browser_page(SIZE) as page:
        page.unroute_all()
        page.context.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=120_000, state="attached")
        page.keyboard.press("ArrowRight")
        with page.expect_popup() as opened:
            page.keyboard.press("s")
        notes = opened.value.locator(".speaker-controls-notes .value")
        notes.get_by_text("minutes").wait_for(timeout=20_000)
        assert "minutes" in notes.inner_text()
    assert [
        url for url in asked if not url.startswith((path.parent.as_uri(), "data:", "blob:", "about:"))
    ] == []


def without_alt(page: str) -> str:
    head, _, tail = page.partition('<img alt="')
    return head + '<img alt="' + tail[tail.index('"') :]


SPOILS = {
    "leaves the slide": lambda page: page.replace("</h1>", '</h1><div style="height:900px">x</div>', 1),
    "a formula with an error": lambda page: page.replace("</h1>", "</h1><p>$\\frac{1}$</p>", 1),
    "a formula that is not set": lambda page: page.replace("</h1>", "</h1><p>costs $5</p>", 1),
    "asks for https": lambda page: page.replace("</h1>", '</h1><img src="https://example.org/a.png">', 1),
    "missing is not defined": lambda page: page.replace("<body", "<script>missing()</script><body", 1),
    "without alt text": without_alt,
}


@pytest.mark.parametrize(("expected", "spoil"), SPOILS.items(), ids=SPOILS)
def test_each_defect_of_a_deck_is_found(decks, tmp_path, expected, spoil):
    """The walk itself, on a deck of a few slides."""
    (tmp_path / "assets").symlink_to(next(iter(decks.values())).parent / "assets")
    notebook = nbformat.read(ROOT / "notebooks" / "02_occlusion_sensitivity.ipynb", as_version=4)
    figure = next(i for i, c in enumerate(notebook.cells) if c.source.startswith("*Figure"))
    notebook.cells = notebook.cells[: figure + 1]
    nbformat.write(notebook, tmp_path / "part.ipynb")
    page = deck(tmp_path / "part.ipynb")
    path = tmp_path / "part.html"
    path.write_text(page, encoding="utf-8")
    assert walk(path)[0] == []
    spoiled = spoil(page)
    assert spoiled != page
    path.write_text(spoiled, encoding="utf-8")
    found, _ = walk(path)
    assert any(expected in line for line in found), found
