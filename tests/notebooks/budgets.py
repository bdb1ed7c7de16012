"""Run the notebooks and hold them to their budgets: `python -m tests.notebooks.budgets [--write] [name ...]`.

Each notebook runs from top to bottom in a fresh kernel on at most 2 CPU cores and without a GPU. Printed are
its seconds, its size as stored and its slowest cell. The exit code is 1 if a notebook fails or a budget is
broken. A name is the beginning of a file's name: `02`. With --write the outputs are stored in place, cleaned:
no progress bars, execution times or state of widgets; where a widget stood, a sentence that says so.
"""

import argparse
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tests.notebooks.anatomy import MAX_BYTES, ROOT, WIDGET_MIME, WIDGET_TEXT

NOTEBOOK_SECONDS = 90
COURSE_SECONDS = 12 * 60
BAR = re.compile(r"\d+%\||\d+it \[|it/s\]|s/it\]")


@dataclass(frozen=True)
class Run:
    """One run of a notebook: seconds (start of the kernel included), and its slowest code cell."""

    seconds: float
    slowest: float
    slowest_line: str


def execute(
    notebook: nbformat.NotebookNode, folder: Path, timeout: float = 600, widget_state: bool = False
) -> Run:
    """Run all cells in a fresh kernel that works in `folder`; the outputs land in `notebook`.

    widget_state: whether that of the widgets lands there, too; nbclient needs it where a cell moves them.
    Raises nbclient's `CellExecutionError`, `CellTimeoutError` or `DeadKernelError`.
    """
    started: dict[int, float] = {}
    seconds: dict[int, float] = {}

    def start(cell, cell_index):
        started[cell_index] = time.perf_counter()

    def end(cell, cell_index, **_):
        seconds[cell_index] = time.perf_counter() - started[cell_index]

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=widget_state,
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
        on_cell_start=start,
        on_cell_executed=end,
    )
    begin = time.perf_counter()
    client.execute()
    total = time.perf_counter() - begin
    slowest = max(seconds, key=seconds.get, default=None)
    if slowest is None:
        return Run(total, 0.0, "")
    lines = [line.strip() for line in notebook.cells[slowest].source.splitlines()]
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return Run(total, seconds[slowest], first)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out, in place, what a run leaves behind that no reader wants; the rest stays as it is."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
            for output in cell.outputs:
                if WIDGET_MIME in output.get("data", {}):
                    output.data = nbformat.from_dict({"text/plain": WIDGET_TEXT})
                    output.metadata = nbformat.from_dict({})
    return notebook


def _is_bar(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream" and output.name == "stderr":
        lines = [line for line in re.split(r"[\r\n]", output.text) if line.strip()]
        return all(BAR.search(line) for line in lines)
    data = output.get("data", {})
    return WIDGET_MIME in data and bool(BAR.search(str(data.get("text/plain", ""))))


def choose(folder: Path, names: list[str]) -> list[Path]:
    """The notebooks whose names begin with one of `names`, or all; `ValueError` for a name that fits none."""
    paths = sorted(folder.glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(Path(name).name) for path in paths):
            raise ValueError(f"name: expected one of {[p.stem for p in paths]}, got {name!r}")
    return [p for p in paths if not names or any(p.name.startswith(Path(n).name) for n in names)]


def report(paths: list[Path], write: bool) -> bool:
    """Run the notebooks and print a line for each; True if all ran within their budgets."""
    good, total = True, 0.0
    width = max((len(path.stem) for path in paths), default=0)
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        try:
            run = execute(notebook, path.parent)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{path.stem:{width}}  FAILED\n{error}", flush=True)
            good = False
            continue
        clean(notebook)
        text = nbformat.writes(notebook) + "\n"
        if write:
            path.write_text(text, encoding="utf-8")
        size = len(text.encode())
        broken = []
        if run.seconds > NOTEBOOK_SECONDS:
            broken.append(f"more than {NOTEBOOK_SECONDS} s")
        if size > MAX_BYTES:
            broken.append(f"more than {MAX_BYTES / 1e6} MB")
        total += run.seconds
        good &= not broken
        print(
            f"{path.stem:{width}}  {run.seconds:5.1f} s  {size / 1e6:5.2f} MB  "
            f"slowest cell {run.slowest:5.1f} s: {run.slowest_line[:60]}"
            + (f"  OVER BUDGET: {', '.join(broken)}" if broken else ""),
            flush=True,
        )
    over = total > COURSE_SECONDS
    print(f"{'all':{width}}  {total:5.1f} s" + (f"  OVER BUDGET: {COURSE_SECONDS} s" if over else ""))
    return good and not over


def small_machine() -> str:
    """Confine this process, and the kernels it starts, to 2 CPU cores and no GPU; say what it got."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
        return f"{len(os.sched_getaffinity(0))} CPU cores, no GPU"
    return f"{os.cpu_count()} CPU cores (this system cannot lend fewer), CUDA switched off"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks.budgets", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; all without one")
    parser.add_argument("--write", action="store_true", help="store the outputs in place")
    parser.add_argument("--folder", type=Path, default=ROOT / "notebooks", help="where the notebooks are")
    options = parser.parse_args(arguments)
    try:
        paths = choose(options.folder, options.names)
    except ValueError as error:
        parser.error(str(error))
    print(f"Running {len(paths)} notebooks on {small_machine()}.", flush=True)
    return 0 if report(paths, options.write) else 1


if __name__ == "__main__":
    sys.exit(main())
