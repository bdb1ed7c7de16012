"""The manager's page in a real browser: every text stands out from what is behind it, in print as well."""

import os

import pytest
import torch

from lecture7_utils.classroom.report import _ASKS, _page
from tests.browser.lab import browser_page, chromium
from tests.classroom.test_accessibility import ENOUGH, REPORT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# each visible text with the contrast of its colour and the nearest background that is not transparent;
# a background of another kind than one colour is answered by 0
MEASURE = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [], words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const text = words.currentNode.data.trim(), part = words.currentNode.parentElement;
    if (!text || !part.getClientRects().length) continue;
    let behind = part, plain = true;
    while (behind) {
      const style = getComputedStyle(behind);
      plain &&= style.backgroundImage === "none" && style.opacity === "1";
      if ((numbers(style.backgroundColor)[3] ?? 1) === 1) break;
      behind = behind.parentElement;
    }
    const back = light(behind ? getComputedStyle(behind).backgroundColor : "rgb(255, 255, 255)");
    const front = light(getComputedStyle(part).color);
    const value = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    found.push([text.slice(0, 60), plain ? value : 0]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def html():
    if chromium() is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium: install the package chromium, or name one in the variable CHROMIUM")
    pictures = torch.rand(2, 3, 48, 64), {"saliency": torch.rand(2, 48, 64)}
    return _page(REPORT, {"A": pictures, "B": pictures}, _ASKS, 0.03)


def measured(html: str, **media) -> dict[str, float]:
    with browser_page() as page:
        page.emulate_media(**media)
        page.set_content(html)
        found: dict[str, float] = {}
        for text, value in page.evaluate(MEASURE):
            found[text] = min(round(value, 1), found.get(text, 21.0))
        return found


@pytest.mark.parametrize(
    "media", [{}, {"color_scheme": "dark"}, {"media": "print"}], ids=["screen", "dark", "print"]
)
def test_every_text_stands_out(html, media):
    found = measured(html, **media)
    assert {"Our advice: use", "saliency", "What this page does not say"} <= found.keys()
    assert {text: value for text, value in found.items() if value < ENOUGH} == {}


@pytest.mark.parametrize(
    ("rule", "faint"),
    [
        (".small { color: #999; }", True),
        (".advice { background: #444; }", True),
        (".card { background: linear-gradient(#fff, #000); }", True),
        (".small { color: #000; }", False),
    ],
)
def test_faint_text_is_found(html, rule, faint):
    found = measured(html.replace("</style>", rule + "</style>"))
    assert (min(found.values()) < ENOUGH) == faint
