"""The course in Colab, rehearsed here: `python -m tests.colab.rehearsal`, which is `make colab-rehearsal`.

It makes a fresh environment with the versions that Colab publishes (`runtime.txt`), says which of them can't
be had for this machine's Python, and puts a stand-in for the module google.colab into it. Then, in kernels of
that environment which can't reach a package registry:

1. the setup cell alone, with nothing beside it: it says in one sentence what to do;
2. the setup cell with the bundle uploaded as one file: it installs the course;
3. every notebook of the unpacked bundle under nbval, its stored outputs compared, and in a last cell every
   control of every explorer moved once;
4. the packages: none of those that Colab gave may be missing or of another version than before.

The exit code is 1 if any of it fails. It takes about 6 GB of disk and, the first time, as much to download.
--again takes the environment that is there and does the rest again; a name ("04") takes some notebooks only.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.colab import bundle, course
from tests.colab.runtime import published
from tests.notebooks.anatomy import ROOT, WIDGET_TEXT
from tests.notebooks.budgets import choose

HERE = Path(__file__).parent
KERNEL = "colab-rehearsal"
DISK_GB = 8
PACKAGES = (
    "import importlib.metadata as m, json, re; "
    "print(json.dumps({re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version"
    " for d in m.distributions()}))"
)
OURS = ("lecture7-utils", *course.DATA)


class Trouble(Exception):
    """The rehearsal can't go on; the text says why."""


def run(*command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=env,
    )


def find_python(wanted: str, asked: str | None = None) -> str:
    """The path of a Python: the one asked for, else one of Colab's minor version, else this one.

    wanted: "3.13.15". Raises `Trouble` if the one asked for doesn't run.
    """
    minor = ".".join(wanted.split(".")[:2])
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    there = sorted(pyenv.glob(f"versions/{minor}.*/bin/python{minor}"))
    for python in [asked] if asked else [f"python{minor}", *map(str, there), sys.executable]:
        try:
            done = run(python, "-I", "-c", "import venv, ensurepip, sys; print(sys.executable)")
        except OSError:
            continue
        if done.returncode == 0:
            return done.stdout.strip()
    raise Trouble(f"--python: expected a Python with the module venv, got {asked}")


def obtainable(python: Path, versions: dict[str, str]) -> tuple[list[str], list[str]]:
    """Which versions pip finds for this Python, as requirements, and a line for each that it doesn't."""
    found, missing = [], []
    for name, version in versions.items():
        requirement = f"{name}=={version}"
        done = run(
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--no-deps",
            "--ignore-installed",
            requirement,
        )
        if done.returncode == 0:
            found.append(requirement)
        else:
            lines = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
            missing.append(f"{requirement}: {lines[-1] if lines else 'pip failed'}"[:200])
    return found, missing


def make_environment(folder: Path, versions: dict[str, str], asked: str | None) -> Path:
    """A fresh environment in `folder` with Colab's versions, as far as they can be had; its Python."""
    wanted = versions["python"]
    base = find_python(wanted, asked)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < DISK_GB:
        raise Trouble(f"the environment takes about {DISK_GB} GB and only {free:.0f} GB are free")
    done = run(base, "-m", "venv", folder)
    if done.returncode:
        raise Trouble(f"no environment with {base}:\n{done.stdout}")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = {name: version for name, version in versions.items() if name != "python"}
    found, missing = obtainable(python, packages)
    for line in missing:
        print(f"not to be had here: {line}", flush=True)
    # what can't be had in Colab's version comes in the nearest that there is
    names = [*found, *(line.partition("==")[0] for line in missing)]
    print(f"Installing {', '.join(names)} (some GB).", flush=True)
    done = run(python, "-I", "-m", "pip", "install", "--quiet", *names)
    if done.returncode:
        raise Trouble(f"Colab's versions can't be installed together:\n{done.stdout[-2000:]}")
    return python


def packages(python: Path) -> dict[str, str]:
    """Name and version of each distribution in the environment of `python`, not of the working folder."""
    return json.loads(subprocess.run([python, "-I", "-c", PACKAGES], capture_output=True, check=True).stdout)


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What happened to the packages that were there before: a line for each that is not as it was."""
    return [
        f"{name}: was {version}, is {after.get(name, 'missing')}"
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]


def install_kernel(python: Path, folder: Path) -> None:
    """Make the kernel that runs the notebooks: google.colab is loaded in it, no registry can be reached.

    It changes this process' environment, so that nbclient and nbval find it.
    """
    # beside the packages, where Colab's own lies; other parts of the namespace google stay reachable
    where = run(
        python, "-I", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    ).stdout.strip()
    shutil.copytree(HERE / "standin", where, dirs_exist_ok=True, ignore=bundle.LITTER)
    spec = {
        "display_name": "Colab, rehearsed",
        "language": "python",
        "argv": [
            str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}",
            "--InteractiveShellApp.exec_lines=import google.colab",
        ],
        "env": {
            "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PYTHONNOUSERSITE": "1",
            "IPYTHONDIR": str(folder / "ipython"), "CUDA_VISIBLE_DEVICES": "",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        },
    }  # fmt: skip
    path = folder / "jupyter" / "kernels" / KERNEL / "kernel.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec))
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    for variable in ("PYTHONPATH", "PIP_FIND_LINKS"):
        os.environ.pop(variable, None)


def setup_alone(folder: Path, source: course.Source) -> str | None:
    """Run the setup cell by itself in `folder`: None if it runs, else the last line of its error."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(course.setup_source(source))])
    client = NotebookClient(
        notebook, kernel_name=KERNEL, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return str(error).strip().splitlines()[-1]
    return None


def forget_course(python: Path) -> None:
    """Take the course and its data out of the environment again: each Colab session begins without."""
    run(python, "-I", "-m", "pip", "uninstall", "--yes", "--quiet", *OURS)
    left = packages(python).keys() & set(OURS)
    if left:
        raise Trouble(f"{', '.join(left)} can't be taken out of the environment again")


def explorers_in(notebook: nbformat.NotebookNode) -> int:
    """How many explorers a notebook shows: as many as there are sentences in their stead in its outputs."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    outputs = (output for cell in cells for output in cell.outputs)
    return sum(output.get("data", {}).get("text/plain") == WIDGET_TEXT for output in outputs)


def drive_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cell that drives a notebook's explorers when it comes last."""
    text = (HERE / "drive.py").read_text(encoding="utf-8")
    call = f"drive({explorers_in(notebook)})"
    return nbformat.v4.new_code_cell(f"{text}\n\n{call}", metadata={"tags": ["rehearsal"]})


def add_drive(path: Path) -> int:
    """Append to a notebook the cell that drives its explorers; how many it expects."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(drive_cell(notebook))
    nbformat.write(notebook, path)
    return explorers_in(notebook)


def rehearse(path: Path, log: Path) -> list[str]:
    """Run a notebook under nbval; the failures it reports, a line for each. What it printed is in `log`."""
    ini = log.with_name("pytest.ini")
    ini.write_text("[pytest]\n")
    done = run(
        sys.executable, "-m", "pytest", "-c", ini, "--rootdir", path.parent, "-p", "no:cacheprovider", "-ra",
        "--nbval-lax", f"--nbval-kernel-name={KERNEL}", "--nbval-cell-timeout=300", path,
    )  # fmt: skip
    log.write_text(done.stdout, encoding="utf-8")
    failures = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.M)
    if done.returncode and not failures:
        failures = [f"pytest ended with {done.returncode}: {done.stdout.strip()[-300:]}"]
    return failures


def whole(folder: Path, names: list[str], again: bool, asked: str | None) -> bool:
    """The rehearsal; True if all of it went well. Raises `Trouble` or `RuntimeError` where it can't go on."""
    good = True

    def check(what: str, fine: bool, why: str = "") -> None:
        nonlocal good
        good &= fine
        print(
            f"{'ok    ' if fine else 'FAILED'}  {what}" + (f": {why}" if why and not fine else ""), flush=True
        )

    versions = published()
    environment = folder / "environment"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if again and python.exists():
        forget_course(python)
    else:
        python = make_environment(environment, versions, asked)
    given = packages(python)
    here = run(python, "-I", "-c", "import platform; print(platform.python_version())").stdout.strip()
    for line in differences(versions, {**given, "python": here}):
        print(f"not as in Colab: {line.replace('was', 'Colab has', 1).replace('is', 'here', 1)}")
    install_kernel(python, folder)
    if given.keys() & set(OURS):
        raise Trouble("the fresh environment already holds the course or its data")

    source, _ = course.recorded()
    packed = folder / course.BUNDLE
    bundle.make(packed)
    print(f"{packed.name}: {packed.stat().st_size / 1e6:.1f} MB", flush=True)

    for name in ("empty", "one-file", "course"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    if not source.repository:
        error = setup_alone(folder / "empty", source)
        check(
            "setup with nothing beside it says what to do", bool(error and course.BUNDLE in error), str(error)
        )

    shutil.copy(packed, folder / "one-file")
    error = setup_alone(folder / "one-file", source)
    check("setup with the bundle as one file", error is None, str(error))
    changed = differences(given, packages(python))
    check("setup left Colab's packages alone", not changed, "; ".join(changed))
    forget_course(python)

    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder / "course")
    for path in choose(folder / "course", names):
        explorers = add_drive(path)
        begin = time.perf_counter()
        failures = rehearse(path, folder / f"{path.stem}.log")
        seconds = time.perf_counter() - begin
        what = f"{path.stem}: {explorers} explorers moved, {seconds:.0f} s"
        check(
            what, not failures, "\n  ".join(["", *failures, f"all of it is in {folder.name}/{path.stem}.log"])
        )

    now = packages(python)
    changed = differences(given, now)
    check("the lessons left Colab's packages alone", not changed, "; ".join(changed))
    new = sorted(now.keys() - given.keys())
    check(f"installed: {', '.join(new)}", new == sorted(OURS), f"expected {', '.join(sorted(OURS))}")
    return good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.colab.rehearsal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="beginnings of notebooks' names; all without one")
    parser.add_argument("--again", action="store_true", help="take the environment that is there")
    parser.add_argument("--python", help="the Python to make the environment with")
    parser.add_argument("--folder", type=Path, default=ROOT / "dist" / "colab-rehearsal")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        good = whole(options.folder.resolve(), options.names, options.again, options.python)
    except (Trouble, RuntimeError, ValueError) as error:
        print(f"The rehearsal stopped: {error}", file=sys.stderr)
        return 1
    print("Colab's rehearsal went well." if good else "Colab's rehearsal failed: see the lines above.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
