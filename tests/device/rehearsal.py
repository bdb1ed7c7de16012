"""The course on a stand-in for a GPU: `python -m tests.device.rehearsal`, which is `make device-rehearsal`.

Tensors of CPU and GPU in one operation are what breaks most courses in Colab, and nobody sees it without a
GPU. Here every notebook runs from top to bottom with everything that device="auto" picks on the device
"pretend", which computes on the CPU and refuses such mixtures; then every control of every explorer is moved
once. The exit code is 1 if a cell fails. It takes a C++ compiler, some 15 minutes, and no GPU. What it can't
show: a GPU's speed, memory and rounding. A name ("04") takes some notebooks only.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tests.colab.rehearsal import drive_cell
from tests.notebooks.anatomy import ROOT
from tests.notebooks.budgets import choose, execute

FIRST = """import os
import pathlib
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # where there is a GPU, the stand-in is asked all the same
sys.path.insert(0, {root!r})
from tests.device import pretend

stand_in = pretend.install(pathlib.Path({build!r}))
pretend.check(stand_in)
pretend.take_for_auto(stand_in)"""


def rehearse(path: Path, build: Path) -> str:
    """Run a notebook on the stand-in; returns why it failed, or ""."""
    notebook = nbformat.read(path, as_version=4)
    first = nbformat.v4.new_code_cell(FIRST.format(root=str(ROOT), build=str(build)))
    on_it = nbformat.v4.new_code_cell("assert device == stand_in, device")
    notebook.cells = [first, *notebook.cells, on_it, drive_cell(notebook)]
    try:
        execute(notebook, path.parent, widget_state=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.device.rehearsal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; all without one")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist" / "device-rehearsal")
    options = parser.parse_args(arguments)
    try:
        paths = choose(ROOT / "notebooks", options.names)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    failed = 0
    for path in paths:
        begin = time.perf_counter()
        why = rehearse(path, options.folder.resolve())
        failed += bool(why)
        seconds = time.perf_counter() - begin
        print(f"{'FAILED' if why else 'ok    '}  {path.stem}  {seconds:.0f} s", flush=True)
        if why:
            print(why, flush=True)
    print("No operation mixed two devices." if not failed else f"{failed} of {len(paths)} notebooks failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
