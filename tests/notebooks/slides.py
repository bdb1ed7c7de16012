"""A reveal.js deck of each lesson, for rooms without network: `python -m tests.notebooks.slides [name ...]`.

A deck is made from the notebook as it is committed, with its outputs; nothing is run. `slide` begins a stack
of slides, `subslide` another slide of the stack, `fragment` appears by a key press, `skip` stays out, and
`notes` becomes speaker notes (key S) on every slide of its stack. Solutions stay out, and so do the sentences
that stand for widgets. Where a cell draws a picture, its code is shown only under "From scratch" and "With
the package", where the code is the point. The line `*Figure: …*` after a picture becomes its alt text, the
answers in `<details>` become speaker notes. What does not fit a slide goes on to another one: `deck.js`
measures that in the browser.

reveal.js, MathJax and the fonts lie in `assets` beside the decks: they are files of the packages
sphinx-revealjs, django-static-mathjax and matplotlib, none of which is imported.
"""

import argparse
import base64
import html
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nbformat
from nbconvert.filters import Highlight2HTML, markdown2html
from pygments.formatters import HtmlFormatter

from tests.notebooks.anatomy import HEADING, ROOT, WIDGET_TEXT, slide_type, tags, without_code
from tests.notebooks.budgets import choose

HERE = Path(__file__).parent
# file beside the decks: package, and how the file's path in it ends
ASSETS = {
    "reveal.js": ("sphinx-revealjs", "dist/reveal.js"),
    "reveal.css": ("sphinx-revealjs", "dist/reveal.css"),
    "notes.js": ("sphinx-revealjs", "plugin/notes/notes.js"),
    "reveal-LICENSE": ("sphinx-revealjs", "revealjs/LICENSE"),
    "sans.woff": ("sphinx-revealjs", "source-sans-pro-regular.woff"),
    "sans-italic.woff": ("sphinx-revealjs", "source-sans-pro-italic.woff"),
    "sans-bold.woff": ("sphinx-revealjs", "source-sans-pro-semibold.woff"),
    "sans-LICENSE": ("sphinx-revealjs", "source-sans-pro/LICENSE"),
    "mathjax.js": ("django-static-mathjax", "es5/tex-svg-full.js"),
    "mono.ttf": ("matplotlib", "ttf/DejaVuSansMono.ttf"),
    "mono-LICENSE": ("matplotlib", "ttf/LICENSE_DEJAVU"),
}
FIGURE = re.compile(r"^\*Figure:\s*(.*?)\*[ \t]*(?:\n[ \t]*\n|\Z)", re.M | re.S)
READERS_ONLY = re.compile(r"^The same at .* without running it:[ \t]*$", re.M)
TO_THE_TOP = re.compile(r"\[↑ Back to the top\]\([^)]*\)(?: · )?")
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.S)
PICTURES = {"image/png": "png", "image/jpeg": "jpeg"}
WIDTH = 1160  # pixels of a slide's 1280 that text may take
LINES = 28  # of code that a slide holds at most
CODE_COUNTS = ("from scratch", "with the package")  # headings
LETTER = 0.602  # width of a letter of DejaVu Sans Mono at size 1

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="assets/reveal.css">
<link rel="stylesheet" href="assets/deck.css">
<script>
window.MathJax = {{
  tex: {{inlineMath: [["$", "$"]], processEscapes: true}},
  options: {{skipHtmlTags: ["script", "style", "pre", "code", "aside"]}},
  svg: {{fontCache: "local"}},
  startup: {{typeset: false}},
}};
</script>
<script src="assets/mathjax.js"></script>
<script src="assets/reveal.js"></script>
<script src="assets/notes.js"></script>
<script src="assets/deck.js" defer></script>
</head>
<body class="pressing">
<div class="reveal"><div class="slides">
{stacks}
</div></div>
</body>
</html>
"""
INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Lecture 7: the slides</title>
<link rel="stylesheet" href="assets/deck.css"></head>
<body class="index"><h1>Lecture 7: the slides</h1>
<ul>
{lines}
</ul>
<p>Arrow keys or space: on and back. S: speaker notes with minutes. Esc: all slides. F: full screen.</p>
</body></html>
"""


@dataclass
class Slide:
    """One slide as the notebook means it: blocks of HTML, each with the cell it comes from."""

    blocks: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Stack:
    """The slides of one section, under each other, and the notes on all of them."""

    slides: list[Slide] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    heading: str = ""


def stacks_of(notebook: nbformat.NotebookNode, folder: Path) -> list[Stack]:
    """What of a notebook is shown, in order. folder: where its pictures' paths begin."""
    stacks: list[Stack] = []
    heading = ""
    for index, cell in enumerate(notebook.cells):
        kind = slide_type(cell) or "-"
        if cell.cell_type == "markdown" and kind != "notes":
            heading = ([h[2] for h in HEADING.finditer(without_code(cell.source))] or [heading])[-1]
        if kind == "skip" or "solution" in tags(cell):
            continue
        if kind == "notes":
            if not stacks:
                raise ValueError(f"cell {index + 1}: expected a slide before the first notes, got none")
            stacks[-1].notes.append(_markdown(cell.source))
            continue
        if kind == "slide" or not stacks:
            stacks.append(Stack())
        stack = stacks[-1]
        if kind in ("slide", "subslide") or not stack.slides:
            stack.slides.append(Slide())
        if cell.cell_type == "markdown":
            blocks = _text_blocks(cell.source, stack, folder)
        else:
            after = next((c for c in notebook.cells[index + 1 :] if slide_type(c) != "notes"), None)
            following = after.source if after and after.cell_type == "markdown" else ""
            blocks = _code_blocks(cell, following, heading.lower().startswith(CODE_COUNTS))
        if kind == "fragment":
            blocks = [f'<div class="fragment">{block}</div>' for block in blocks]
        stack.slides[-1].blocks += [(index, block) for block in blocks]
    for stack in stacks:
        stack.slides = [slide for slide in stack.slides if slide.blocks]
    return [stack for stack in stacks if stack.slides]


def _text_blocks(source: str, stack: Stack, folder: Path) -> list[str]:
    """The blocks of a markdown cell, without the descriptions of figures; answers go to the notes."""
    source = TO_THE_TOP.sub("", READERS_ONLY.sub("", FIGURE.sub("", source))).strip()
    for question, answer in DETAILS.findall(source):
        stack.notes.append(f"<p><b>{question.strip()}</b></p>{_markdown(answer)}")
    # questions stay; what only folds an answer away ("Our reading") goes
    source = DETAILS.sub(lambda folded: f"\n- {folded[1]}\n" if "?" in folded[1] else "", source)
    heading = re.match(r"##\s+(.*)", source)
    if heading and not stack.heading:
        stack.heading = heading[1]
    return [_localised(block, folder) for block in _blocks(_markdown(source))]


def _markdown(source: str) -> str:
    text = markdown2html(source)
    text = re.sub(r'<a class="anchor-link".*?</a>', "", text)
    text = re.sub(r"\s*</ul>\s*<ul>\s*", "\n", text)
    return re.sub(r'(<h\d) id="[^"]*"', r"\1", text)


def _blocks(text: str) -> list[str]:
    """The top-level elements of a piece of HTML; a displayed formula stays with the paragraph it is in."""
    found, depth, start = [], 0, 0
    for tag in re.finditer(r"<(/?)(\w+)[^>]*?(/?)>", text):
        if tag[2] in ("br", "img", "hr", "input") or tag[3]:
            continue
        depth += -1 if tag[1] else 1
        if depth == 0:
            found.append(text[start : tag.end()].strip())
            start = tag.end()
    rest = text[start:].strip()
    return found + ([rest] if rest else [])


def _localised(block: str, folder: Path) -> str:
    """Links to lessons lead to their decks, other links inside the course go; pictures come inside."""

    def link(match: re.Match) -> str:
        target, words = html.unescape(match[1]), match[2]
        if target.startswith("https://"):
            return match[0]
        name = target.partition("#")[0]
        if name.endswith(".ipynb"):
            return f'<a href="{Path(name).stem}.html">{words}</a>'
        return f"<span>{words}</span>"

    def picture(match: re.Match) -> str:
        path = folder / html.unescape(match[1])
        kind = {"jpg": "jpeg"}.get(path.suffix[1:], path.suffix[1:])
        return f'src="data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'

    block = re.sub(r'<a href="([^"]*)"[^>]*>(.*?)</a>', link, block, flags=re.S)
    return re.sub(r'src="(?!data:)([^"]+)"', picture, block)


def _code_blocks(cell: nbformat.NotebookNode, following: str, code_counts: bool) -> list[str]:
    """A code cell's source and outputs; a cell that only shows a widget gives nothing.

    following: the markdown after it, which describes its picture. code_counts: shown although it draws one.
    """
    outputs = []
    described = FIGURE.search(following)
    alt = html.escape(" ".join(described[1].split()) if described else "", quote=True)
    widget = False
    for output in cell.outputs:
        if output.output_type == "stream":
            text = output.text
        else:
            data = output.get("data", {})
            kind = next((k for k in PICTURES if k in data), None)
            if kind:
                outputs.append(
                    f'<img alt="{alt}" src="data:{kind};base64,{data[kind].replace(chr(10), "")}">'
                )
                continue
            text = data.get("text/plain", "")
        if text.strip() == WIDGET_TEXT:
            widget = True
        elif text.strip():
            outputs.append(_pre(html.escape(text.strip("\n")), text, "output"))
    if widget and not outputs:
        return []
    if not code_counts and any(output.startswith("<img") for output in outputs):
        return outputs
    source = re.sub(r"^\s*#\s*NBVAL_\w+\s*\n", "", cell.source, flags=re.M).strip()
    return [*map(_source, _pieces(source)), *outputs]


def _pieces(source: str) -> list[str]:
    """Long code in pieces that fit a slide, cut at an empty line before one that is not indented."""
    pieces = [""]
    for part in re.split(r"\n\n+(?=[^\s)\]}])", source):
        if pieces[-1] and pieces[-1].count("\n") + part.count("\n") + 4 > LINES:
            pieces.append(part)
        else:
            pieces[-1] += ("\n\n" if pieces[-1] else "") + part
    return pieces if source.count("\n") >= LINES else [source]


def _source(code: str) -> str:
    coloured = Highlight2HTML(pygments_lexer="python")(code)
    inside = re.search(r"<pre[^>]*>(.*?)</pre>", coloured, re.S)[1].strip("\n")
    return _pre(inside, code, "source")


def _pre(inside: str, text: str, kind: str) -> str:
    """Text in fixed width, as large as its longest line allows."""
    longest = max(len(line) for line in text.splitlines())
    size = min(18.0, max(12.5, (WIDTH - 28) / (LETTER * longest)))
    return f'<pre class="{kind}" style="--size:{size:.1f}px">{inside}</pre>'


def deck(path: Path) -> str:
    """The page of one lesson's deck, without the assets that it names."""
    notebook = nbformat.read(path, as_version=4)
    lesson = re.search(r"^#\s+(.*)", notebook.cells[0].source, re.M)[1]
    parts = []
    for stack in stacks_of(notebook, path.parent):
        notes = "\n".join(stack.notes)
        parts.append("<section>")
        for slide in stack.slides:
            title = slide.blocks[0][1].startswith("<h1")
            where = lesson + (f" · {stack.heading}" if stack.heading else "")
            parts.append(f'<section class="{"title" if title else "sheet"}">')
            if not title:
                parts.append(f'<div class="where">{html.escape(where)}</div>')
            parts.append('<div class="page">')
            parts += [f'<div class="block" data-cell="{cell}">{block}</div>' for cell, block in slide.blocks]
            parts.append("</div>")
            if notes:
                parts.append(f'<aside class="notes">{notes}</aside>')
            parts.append("</section>")
        parts.append("</section>")
    return PAGE.format(title=html.escape(lesson), stacks="\n".join(parts))


def write_assets(folder: Path) -> None:
    """Copy what the decks need into `folder`; `RuntimeError` names a package or a file that is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (package, ending) in ASSETS.items():
        try:
            listed = files(package) or []
        except PackageNotFoundError:
            raise RuntimeError(f"the slides need {package}: install the extra `test`") from None
        found = next((file for file in listed if str(file).replace("\\", "/").endswith(ending)), None)
        if found is None:
            raise RuntimeError(f"{package}: expected a file .../{ending}, got none among its {len(listed)}")
        shutil.copyfile(found.locate(), folder / name)
    colours = HtmlFormatter(style="xcode").get_style_defs("pre.source")
    (folder / "deck.css").write_text(
        (HERE / "deck.css").read_text(encoding="utf-8") + colours, encoding="utf-8"
    )
    shutil.copyfile(HERE / "deck.js", folder / "deck.js")


def build(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write the decks of these notebooks, an index and the assets into `folder`; the decks' paths."""
    write_assets(folder / "assets")
    decks, lines = [], []
    for path in paths:
        page = deck(path)
        decks.append(folder / f"{path.stem}.html")
        decks[-1].write_text(page, encoding="utf-8")
        lines.append(f'<li><a href="{path.stem}.html">{re.search("<title>(.*)</title>", page)[1]}</a></li>')
    (folder / "index.html").write_text(INDEX.format(lines="\n".join(lines)), encoding="utf-8")
    return decks


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks.slides", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; all without one")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist" / "slides", help="where the decks go")
    options = parser.parse_args(arguments)
    try:
        paths = choose(ROOT / "notebooks", options.names)
    except ValueError as error:
        parser.error(str(error))
    for path in build(paths, options.folder):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
