"""What every notebook of the course keeps, as a checker: `python -m tests.notebooks.anatomy [notebook ...]`.

The conventions, beyond valid nbformat 4.5 and the kernel `python3`:

- Names are those of `COURSE`; lessons may be missing, their order is the order of the names.
- Cell 1 is the title, in markdown: `# 3. Class activation maps` (the lesson's number in the heading), links
  to the previous and the next notebook there is, at least three list items that say what one can do
  afterwards, minutes to read and seconds to run ("20 min", "40 s"), and the question of the shop's manager.
  A Colab badge, once a repository is known, has alt text and opens this notebook.
- Cell 2 is the setup cell, letter by letter the same in all notebooks.
- Committed as run from top to bottom: counts 1, 2, 3 …, no errors, nothing on stderr, no live widget (a
  sentence stands for it: `make run` sees to that), no address or path of the machine. At most 1.5 MB.
- At least three cells whose outputs are compared (`# NBVAL_CHECK_OUTPUT`) and have outputs.
- A code cell with a picture among its outputs is followed by markdown with a line that starts with
  `*Figure:` and describes the picture (a notes cell may stand between). Markdown pictures have alt text.
- Two or three exercises: a code cell tagged `exercise`, which holds `...` and prints "not yet"; the next cell
  is tagged `solution`, is hidden in JupyterLab (`jupyter.source_hidden`) and in Colab (first line `#@title`,
  `cellView: form`) and prints ✓. No other cell is hidden, and no later cell needs a name that only a hidden
  cell defines.
- Every cell has `slideshow.slide_type`; at least one is `notes`. Each notes cell says how many minutes and
  begins with `<span class="l7-notes">`, by which lecture mode finds and hides it; one says "skip if late".
- The lessons 1 to 8: in a section (## …), the headings The idea, From scratch, With the package (code that
  asserts), Look, Where it misleads come in this order, and each of them occurs.
- A heading Recap with at least two `<details>` and a web link after it. The last cell leads back to the top,
  to the title, which JupyterLab finds only if the title is in ASCII: `# 3. Class activation maps`.
- Links resolve: to files, and to headings.
"""

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
COURSE = (
    "00_start_here",
    "01_saliency_maps",
    "02_occlusion_sensitivity",
    "03_class_activation_maps",
    "04_gradient_ascent",
    "05_dataset_search",
    "06_deconvolution",
    "07_unpooling_and_deconvnet",
    "08_generators_and_segmentation",
    "09_the_managers_report",
)
STEPS = ("the idea", "from scratch", "with the package", "look", "where it misleads")
SLIDE_TYPES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
MAX_BYTES = 1_500_000
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "Interactive: run the notebook to use it."
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:work|root|home|tmp|Users|opt|private)/\w|\b[A-Z]:\\Users\\|file:/{2}"
)
RAINBOW = re.compile(
    r"""(["'])(?:jet|rainbow|gist_rainbow|turbo|hsv|nipy_spectral|gist_ncar)(?:_r)?\1"""
    r"|\bcm\.(?:jet|rainbow|gist_rainbow|turbo|hsv|nipy_spectral)\b|COLORMAP_(?:JET|RAINBOW|TURBO|HSV)"
)
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$", re.M)

Problem = tuple[int | None, str]  # index of the cell, or None for the whole notebook
Check = Callable[[Path, nbformat.NotebookNode], Iterator[Problem]]


def problems(path: Path) -> list[str]:
    """What is wrong with one notebook: a line for each, with the notebook, the cell and its first line."""
    try:
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        return [f"{path.name}: no readable notebook: {str(error).splitlines()[0]}"]
    found = []
    for check in CHECKS:
        for index, message in check(path, notebook):
            where = path.name
            if index is not None:
                cell = notebook.cells[index]
                first = next((line for line in cell.source.splitlines() if line.strip()), "")
                where += f', cell {index + 1} ({cell.cell_type}, "{first[:50]}")'
            found.append(f"{where}: {message}")
    return found


def course_problems(folder: Path) -> list[str]:
    """What is wrong between the notebooks of a folder: unknown names, and setup cells that differ."""
    found, first = [], None
    for path in sorted(folder.glob("*.ipynb")):
        if path.stem not in COURSE:
            found.append(f"{path.name}: not a name of the course; they are {', '.join(COURSE)}")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        setup = "".join(cells[1]["source"]) if len(cells) > 1 else None
        first = first or (path.name, setup)
        if setup != first[1]:
            found.append(f"{path.name}, cell 2: the setup cell differs from that of {first[0]}")
    return found


def valid(path: Path, notebook) -> Iterator[Problem]:
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield None, f"not valid: {str(error).splitlines()[0]}"
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield None, f"expected nbformat 4.5, got {notebook.nbformat}.{notebook.nbformat_minor}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield None, "the kernel is not python3"
    if notebook.metadata.get("widgets"):
        yield None, "holds the state of widgets (`make run` leaves it out)"
    if path.stat().st_size > MAX_BYTES:
        yield None, f"{path.stat().st_size / 1e6:.2f} MB, at most {MAX_BYTES / 1e6} MB"


def title(path: Path, notebook) -> Iterator[Problem]:
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        yield None, "the first cell is not the title in markdown"
        return
    text = notebook.cells[0].source
    heading = HEADING.search(text)
    number = path.stem[:2]
    if not heading or len(heading[1]) != 1:
        yield 0, "no title: a heading of the first level"
    elif number.isdigit() and not re.search(rf"\b{int(number)}\b", heading[2]):
        yield 0, f"the title does not give the lesson's number, {int(number)}"
    neighbours = sorted(p.name for p in path.parent.glob("*.ipynb"))
    here = neighbours.index(path.name)
    targets = {link.partition("#")[0] for link in links(text)}
    for step, word in ((-1, "previous"), (1, "next")):
        if 0 <= here + step < len(neighbours) and neighbours[here + step] not in targets:
            yield 0, f"no link to the {word} notebook, {neighbours[here + step]}"
    badge = re.search(r"\[!\[[^\]]+\]\([^)]+\)\]\(https://colab\.research\.google\.com/([^)]*)\)", text)
    if not badge and "colab." in text:
        yield 0, "no Colab badge with alt text"
    elif badge and "github/" in badge[1] and not badge[1].endswith(f"/notebooks/{path.name}"):
        yield 0, f"the Colab badge opens another notebook: {badge[1]}"
    if len(re.findall(r"^\s*(?:[-*+]|\d+\.)\s+\S", text, re.M)) < 3:
        yield 0, "fewer than three list items that say what one can do afterwards"
    if not re.search(r"\d\s*min", text) or not re.search(r"\d\s*s(?:ec|\b)", text):
        yield 0, "does not say the minutes to read and the seconds to run"
    if "manager" not in text.lower():
        yield 0, "the manager asks no question"


def setup(_path: Path, notebook) -> Iterator[Problem]:
    if len(notebook.cells) < 2 or notebook.cells[1].cell_type != "code":
        yield None, "the second cell is not the setup cell"
        return
    for needed in ("import lecture7_utils as l7", "l7.start("):
        if needed not in notebook.cells[1].source:
            yield 1, f"the setup cell has no `{needed}`"


def executed(_path: Path, notebook) -> Iterator[Problem]:
    count = 0
    for index, cell in code(notebook):
        if not cell.source.strip():
            yield index, "an empty code cell"
            continue
        count += 1
        if cell.execution_count != count:
            yield (
                index,
                f"run as number {cell.execution_count}, expected {count}: `make run` runs it in order",
            )
        if "execution" in cell.metadata:
            yield index, "holds execution times (`make run` leaves them out)"


def outputs(_path: Path, notebook) -> Iterator[Problem]:
    for index, cell in code(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield index, f"a stored error: {output.ename}: {output.evalue[:80]}"
            elif output.output_type == "stream" and output.name == "stderr":
                yield index, f"prints to stderr: {output.text.strip()[:80]!r}"
            if WIDGET_MIME in output.get("data", {}):
                yield index, "a live widget's output (`make run` stores a sentence instead)"
        if re.search(r" at 0x[0-9a-fA-F]{6,}", text_of(cell)):
            yield index, "an output shows an object's address: end the cell with `_ =` or plt.show()"


def machine(_path: Path, notebook) -> Iterator[Problem]:
    for index, cell in enumerate(notebook.cells):
        for part, text in (("source", cell.source), ("output", text_of(cell))):
            hit = MACHINE_PATH.search(text)
            if hit:
                yield index, f"a path of the machine in the {part}: {text[hit.start() : hit.start() + 40]!r}"
        hit = RAINBOW.search(cell.source) if cell.cell_type == "code" else None
        if hit:
            yield index, f"a rainbow colour map: {hit[0]}"


def checked(_path: Path, notebook) -> Iterator[Problem]:
    count = 0
    for index, cell in code(notebook):
        if re.search(r"^\s*#\s*NBVAL_CHECK_OUTPUT\b", cell.source, re.M):
            count += 1
            if not cell.outputs:
                yield index, "# NBVAL_CHECK_OUTPUT, but there is no output to compare"
    if count < 3:
        yield None, f"{count} cells with # NBVAL_CHECK_OUTPUT, at least 3"


def figures(path: Path, notebook) -> Iterator[Problem]:
    for index, cell in code(notebook):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if any(kind.startswith("image/") for kind in kinds):
            after = (c for c in notebook.cells[index + 1 :] if slide_type(c) != "notes")
            following = next(after, None)
            text = following.source if following and following.cell_type == "markdown" else ""
            line = re.search(r"^\*Figure:(.*)", text, re.M)
            if not line or len(line[1]) < 20:
                yield index, "a picture, but the next cell has no line `*Figure: …*` that describes it"
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            bare = re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=[\"'][^\"']+)[^>]*>", cell.source)
            if bare:
                yield index, f"a picture without alt text: {bare[0][:60]}"
    if path.stem in COURSE[1:9] and not any(WIDGET_TEXT in text_of(c) for _, c in code(notebook)):
        yield None, "no explorer: no cell with a widget"


def exercises(_path: Path, notebook) -> Iterator[Problem]:
    tagged = [i for i, c in enumerate(notebook.cells) if "exercise" in tags(c)]
    if len(tagged) not in (2, 3):
        yield None, f"{len(tagged)} cells tagged exercise, expected 2 or 3"
    for index in tagged:
        cell = notebook.cells[index]
        if cell.cell_type != "code" or "..." not in cell.source:
            yield index, "an exercise is a code cell with a stub that holds ..."
        elif "not yet" not in text_of(cell).lower():
            yield index, 'the check of the untouched exercise does not print "not yet"'
        if index + 1 == len(notebook.cells) or "solution" not in tags(notebook.cells[index + 1]):
            yield index, "the cell after an exercise is not its solution"
    for index, cell in enumerate(notebook.cells):
        if "solution" not in tags(cell):
            if hidden(cell):
                yield index, "hidden, and no solution: readers miss what it defines"
            continue
        if index == 0 or "exercise" not in tags(notebook.cells[index - 1]):
            yield index, "a solution without an exercise before it"
        if cell.cell_type != "code" or not cell.source.startswith("#@title"):
            yield index, "a solution starts with #@title"
        elif "✓" not in text_of(cell):
            yield index, "the solution does not pass its check: no ✓"
        if cell.metadata.get("jupyter", {}).get("source_hidden") is not True:
            yield index, "the solution is not hidden in JupyterLab (jupyter.source_hidden)"
        if cell.metadata.get("cellView") != "form":
            yield index, "the solution is not hidden in Colab (cellView: form)"


def needs_hidden(_path: Path, notebook) -> Iterator[Problem]:
    visible: set[str] = set()
    in_hidden: dict[str, int] = {}
    for index, cell in code(notebook):
        stored, loaded = names(cell.source)
        if "solution" in tags(cell):
            in_hidden |= {name: index for name in stored}
            continue
        for name in sorted((loaded & in_hidden.keys()) - visible - stored):
            yield index, f"needs {name}, which only the hidden cell {in_hidden[name] + 1} defines"
        # an exercise's own names are stubs
        visible |= stored if "exercise" not in tags(cell) else set()


def slides(_path: Path, notebook) -> Iterator[Problem]:
    notes = []
    for index, cell in enumerate(notebook.cells):
        kind = slide_type(cell)
        if kind not in SLIDE_TYPES:
            yield index, f"slideshow.slide_type is {kind!r}, expected one of {sorted(SLIDE_TYPES)}"
        if kind == "notes":
            notes.append(cell.source)
            if cell.cell_type != "markdown" or not re.search(r"\d\s*min", cell.source):
                yield index, "a notes cell is markdown and says how many minutes"
            if not cell.source.startswith('<span class="l7-notes">'):
                yield index, 'a notes cell begins with <span class="l7-notes">: lecture mode hides it by that'
    if not notes:
        yield None, "no notes cell for the lecturer"
    elif not any("skip if late" in text.lower() for text in notes):
        yield None, 'no notes cell says "skip if late"'


def sections(path: Path, notebook) -> Iterator[Problem]:
    if path.stem not in COURSE[1:9]:
        return
    seen: set[str] = set()
    last, step, asserts = -1, None, False
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            asserts |= step == "with the package" and bool(re.search(r"^\s*assert\b", cell.source, re.M))
            continue
        for level, text in HEADING.findall(without_code(cell.source)):
            if len(level) <= 2:
                last = -1
            words = re.sub(r"^[\d.)*_ ]+", "", text.lower())
            step = next((s for s in STEPS if words.startswith(s)), None)
            if step:
                seen.add(step)
                if STEPS.index(step) < last:
                    yield index, f'"{text}" comes after "{STEPS[last]}"; the order is {", ".join(STEPS)}'
                last = max(last, STEPS.index(step))
    for missing in [s for s in STEPS if s not in seen]:
        yield None, f'no heading "{missing.capitalize()}"'
    if "with the package" in seen and not asserts:
        yield None, 'no cell under "With the package" asserts that it agrees with the code from scratch'


def recap(_path: Path, notebook) -> Iterator[Problem]:
    text = "\n\n".join(without_code(c.source) for c in notebook.cells if c.cell_type == "markdown")
    heading = next((h for h in HEADING.finditer(text) if "recap" in h[2].lower()), None)
    if heading is None:
        yield None, "no heading Recap"
        return
    rest = text[heading.end() :]
    if rest.lower().count("<details") < 2:
        yield None, "fewer than two questions with their answers in <details> after the recap"
    if "](https://" not in rest:
        yield None, "no references with links after the recap"


def top(_path: Path, notebook) -> Iterator[Problem]:
    heading = HEADING.search(notebook.cells[0].source) if notebook.cells else None
    if heading is None:
        return
    anchor = heading[2].replace(" ", "-")
    if not anchor.isascii():
        yield 0, f"the title is not in ASCII, so that JupyterLab follows no link to it: {heading[2]}"
    if f"Back to the top](#{anchor})" not in notebook.cells[-1].source:
        yield len(notebook.cells) - 1, f'the last cell has no link "[Back to the top](#{anchor})"'


def linked(path: Path, notebook) -> Iterator[Problem]:
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for link in links(cell.source):
                if link.startswith("attachment:"):
                    if link.removeprefix("attachment:") not in cell.get("attachments", {}):
                        yield index, f"no such attachment: {link}"
                elif broken := broken_link(path, link):
                    yield index, broken


CHECKS: tuple[Check, ...] = (
    valid, title, setup, executed, outputs, machine, checked, figures, exercises, needs_hidden, slides,
    sections, recap, top, linked,
)  # fmt: skip


def links(markdown: str) -> list[str]:
    """The targets of all links and pictures in a markdown text, code left out."""
    text = without_code(markdown)
    return re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"\b(?:href|src)=[\"']([^\"']+)", text)


def broken_link(source: Path, link: str) -> str | None:
    """Why a link in the file `source` leads nowhere, or None. Links to the web are read, not followed."""
    if link.startswith("data:"):
        return None
    if re.match(r"[a-z]+:", link):
        well = re.fullmatch(
            r"https://(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?(?:[/?#][^\s<>\"{}|\\^`]*)?", link, re.I
        )
        return None if well else f"a link that is no well-formed https address: {link}"
    name, _, anchor = link.partition("#")
    target = (source.parent / name.replace("%20", " ")).resolve() if name else source.resolve()
    if not target.exists():
        return f"a link to a file that is not there: {link}"
    if anchor and target.suffix in (".md", ".ipynb") and anchor not in anchors(target):
        return f"a link to a heading that is not there: {link}"
    return None


def anchors(path: Path) -> set[str]:
    """The anchors of headings: a notebook's as JupyterLab makes them, a markdown page's as GitHub does."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(c["source"]) for c in cells)
    headings = [re.sub(r"[*_`]", "", h[1]) for h in HEADING.findall(without_code(text))]
    if path.suffix == ".ipynb":
        return {heading.replace(" ", "-") for heading in headings}
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(markdown: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.S)


def code(notebook) -> list[tuple[int, nbformat.NotebookNode]]:
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def slide_type(cell) -> str | None:
    return cell.metadata.get("slideshow", {}).get("slide_type")


def hidden(cell) -> bool:
    about = cell.metadata.get("jupyter", {})
    folded = about.get("source_hidden") or about.get("outputs_hidden") or cell.metadata.get("collapsed")
    return bool(folded or cell.metadata.get("cellView") == "form" or cell.source.startswith("#@title"))


def text_of(cell) -> str:
    """All that a cell's outputs say in text; pictures are left out."""
    said = []
    for output in cell.get("outputs", []):
        said.append(output.get("text", ""))
        said += [str(v) for kind, v in output.get("data", {}).items() if not kind.startswith("image/")]
        said += output.get("traceback", [])
    return "\n".join(said)


def names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell's top level binds, and all that it reads anywhere (IPython's lines aside)."""
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return set(), set()
    stored: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            stored.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            stored |= {(a.asname or a.name).partition(".")[0] for a in statement.names}
        else:
            nodes = ast.walk(statement)
            stored |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    loaded = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return stored, loaded


if __name__ == "__main__":
    paths = [Path(a) for a in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    lines = [line for path in paths for line in problems(path)] + course_problems(ROOT / "notebooks")
    print("\n".join(lines) if lines else f"{len(paths)} notebooks, nothing to complain about")
    sys.exit(bool(lines))
