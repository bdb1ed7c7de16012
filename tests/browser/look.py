"""Take pictures of a notebook in JupyterLab: `python -m tests.browser.look NOTEBOOK FOLDER [--run]`.

NOTEBOOK is a file, or the beginning of a lesson's name: `02`. Without --run it is shown as it is stored. The
pictures are one screen each, from top to bottom.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.browser.lab import SIZE, browser_page, lab_server, open_notebook
from tests.notebooks.anatomy import ROOT
from tests.notebooks.budgets import choose


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.look", description=__doc__)
    parser.add_argument("notebook")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", action="store_true", help="restart the kernel and run all cells first")
    parser.add_argument("--width", type=int, default=SIZE["width"])
    parser.add_argument("--height", type=int, default=SIZE["height"])
    options = parser.parse_args()
    path = Path(options.notebook)
    if path.suffix != ".ipynb":
        (path,) = choose(ROOT / "notebooks", [options.notebook])
    with (
        tempfile.TemporaryDirectory() as folder,
        lab_server(Path(folder)) as lab,
        browser_page({"width": options.width, "height": options.height}) as page,
    ):
        if path.resolve().parent != ROOT / "notebooks":
            shutil.copy(path, lab.folder / "notebooks")
        notebook = open_notebook(page, lab, path.stem)
        if options.run:
            notebook.run_all()
        for message in notebook.errors():
            print(f"error on the page: {message}")
        for picture in notebook.screenshots(options.folder):
            print(picture)


if __name__ == "__main__":
    main()
