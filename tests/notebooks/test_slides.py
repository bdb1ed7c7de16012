"""What goes into a deck: told from a small notebook; how a deck looks is a matter of tests/browser."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import slides
from tests.notebooks.anatomy import ROOT, WIDGET_TEXT, slide_type
from tests.notebooks.slides import build, deck, stacks_of, write_assets

PNG = "aGVsbG8="


def cell(source, kind="-", *outputs, tagged=()):
    metadata = {"slideshow": {"slide_type": kind}, "tags": list(tagged)}
    if not outputs and not tagged and not source.startswith("run"):
        return new_markdown_cell(source, metadata=metadata)
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def prints(text):
    return new_output("stream", name="stdout", text=text)


def shows(**data):
    return new_output("display_data", data={k.replace("__", "/"): v for k, v in data.items()})


def pieces(*cells):
    """The HTML of each slide, stack by stack, and the notes of each stack."""
    stacks = stacks_of(new_notebook(cells=list(cells)), ROOT / "notebooks")
    return (
        [["\n".join(b for _, b in slide.blocks) for slide in stack.slides] for stack in stacks],
        ["\n".join(stack.notes) for stack in stacks],
    )


def test_slides_follow_the_metadata():
    shown, notes = pieces(
        cell("# 1 · One", "slide"),
        cell("**2 minutes.** Say hello.", "notes"),
        cell("more"),
        cell("below", "subslide"),
        cell("later", "fragment"),
        cell("never", "skip"),
        cell("## Two", "slide"),
        cell("**3 minutes.** Say $x$.", "notes"),
    )
    assert [len(stack) for stack in shown] == [2, 1]
    assert "more" in shown[0][0]
    assert "below" in shown[0][1]
    assert '<div class="fragment"><p>later</p></div>' in shown[0][1]
    assert "never" not in str(shown)
    assert "Say hello" in notes[0]
    assert "minutes" not in str(shown)
    assert "Say $x$" in notes[1]


def test_solutions_and_widgets_stay_out_and_the_stub_stays():
    shown, _ = pieces(
        cell("run_stub(...)", "slide", prints("not yet"), tagged=["exercise"]),
        cell("run_secret()", "-", prints("✓"), tagged=["solution"]),
        cell("run_explorer()", "-", shows(text__plain=WIDGET_TEXT)),
        cell("The same at four settings, for those who read this without running it:"),
        cell("run_more()", "-"),
    )
    text = re.sub("<[^>]+>", "", str(shown))
    assert "run_stub" in text
    assert "not yet" in text
    assert "run_more" in text
    for never in ("secret", "✓", "explorer", "Interactive", "settings"):
        assert never not in text


def test_a_figures_description_is_its_alt_text_and_its_code_is_shown_where_it_counts():
    figure = shows(image__png=PNG, text__plain="<Figure>")
    told = cell('*Figure: a "dog" on\nthe left.*\n\nAnd what it means.')
    for heading, there in (("### Look", False), ("### From scratch", True), ("### With the package", True)):
        shown, _ = pieces(cell(heading, "slide"), cell("run_plot()", "-", figure), told)
        assert f'alt="a &quot;dog&quot; on the left." src="data:image/png;base64,{PNG}"' in shown[0][0]
        assert "Figure" not in shown[0][0]
        assert "And what it means." in shown[0][0]
        assert ("run_plot" in shown[0][0]) == there


def test_the_mark_of_compared_cells_and_the_answers_are_not_on_the_slide():
    shown, notes = pieces(
        cell("run()\n# NBVAL_CHECK_OUTPUT\nprint(1 < 2)", "slide", prints("a < b\n")),
        cell("<details><summary>Why?</summary>\n\nBecause of $s_c$.\n\n</details>"),
        cell("<details><summary>Our reading</summary>\n\nLong.\n\n</details>"),
    )
    assert "NBVAL" not in shown[0][0]
    assert "a &lt; b" in shown[0][0]
    assert "Why?" in shown[0][0]
    assert "Because" not in shown[0][0]
    assert "Our reading" not in shown[0][0]
    assert "Because of $s_c$" in notes[0]
    assert "Long." in notes[0]


def test_long_code_is_cut_between_its_functions():
    functions = [f"def run_{k}(x):\n" + "    x = x + 1\n" * 8 + "\n    return x" for k in range(5)]
    shown, _ = pieces(cell("\n\n\n".join(functions), "slide", prints("done")))
    parts = re.findall(r'<pre class="source".*?</pre>', shown[0][0], re.S)
    assert [part.count("return") for part in parts] == [2, 2, 1]
    assert all(part.count("\n") < slides.LINES for part in parts)
    shown, _ = pieces(cell(functions[0] + "\n\n\nrun_0(1)", "slide"))
    assert shown[0][0].count("<pre") == 1


def test_links_lead_to_decks_and_formulas_are_kept_as_written():
    shown, _ = pieces(
        cell(
            "[next](02_occlusion_sensitivity.ipynb#Recap) [here](#Recap) [out](https://example.org/a)",
            "slide",
        ),
        cell("$a_i < b_i$ and $c_i$\n\n$$ x_i * y_i * z $$"),
    )
    assert '<a href="02_occlusion_sensitivity.html">next</a>' in shown[0][0]
    assert "<span>here</span>" in shown[0][0]
    assert '<a href="https://example.org/a">out</a>' in shown[0][0]
    assert "$a_i &lt; b_i$ and $c_i$" in shown[0][0]
    assert "$$ x_i * y_i * z $$" in shown[0][0]


def test_notes_before_any_slide_are_refused():
    with pytest.raises(ValueError, match="cell 1: expected a slide before the first notes"):
        pieces(cell("**1 min.**", "notes"))


def test_a_page_names_no_file_outside_its_folder(tmp_path):
    path = next((ROOT / "notebooks").glob("02*.ipynb"))
    (page,) = build([path], tmp_path)
    text = page.read_text(encoding="utf-8")
    needed = re.findall(r'(?:<script[^>]*|<link[^>]*|<img[^>]*) (?:src|href)="(?!data:)([^"]+)"', text)
    assert len(needed) >= 5
    css = (tmp_path / "assets" / "deck.css").read_text(encoding="utf-8")
    needed += [f"assets/{name}" for name in re.findall(r"url\(([^)]+)\)", css)]
    assert [name for name in needed if not (tmp_path / name).is_file()] == []
    assert "02_occlusion_sensitivity.html" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_missing_package_or_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(slides.ASSETS, "x.js", ("no-such-package", "x.js"))
    with pytest.raises(RuntimeError, match="the slides need no-such-package: install the extra `test`"):
        write_assets(tmp_path)
    monkeypatch.setitem(slides.ASSETS, "x.js", ("matplotlib", "no/such/file"))
    with pytest.raises(RuntimeError, match=r"matplotlib: expected a file \.\.\./no/such/file"):
        write_assets(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_deck_has_all_notes_and_no_solution(path):
    notebook = nbformat.read(path, as_version=4)
    page = deck(path)
    assert "#@title" not in page
    assert WIDGET_TEXT not in page
    assert "NBVAL_" not in page
    notes = "".join(re.findall(r'<aside class="notes">(.*?)</aside>', page, re.S))
    for written in (c.source for c in notebook.cells if slide_type(c) == "notes"):
        minutes = re.search(r"\*\*(.*?)\*\*", written)[1]
        assert minutes in notes
