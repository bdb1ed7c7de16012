"""The Makefile's environment: made once, mended when torn, and one plain sentence where something is missing.

Python is played by a shell script, so that nothing is installed; everything else is the real Makefile.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.notebooks.anatomy import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

TOOLS = ("date", "sh", "make", "awk", "cat", "rm", "mkdir", "touch", "id", "uname", "sed", "find", "cp", "df")
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*print* | *print*version_info*) echo 3.12 ;;
  *"sys.exit(not (3, 11)"*) exit {out_of_range} ;;
  *"import venv"*) exit {no_venv} ;;
  *importlib.metadata*) test ! -e torn ;;
  "--version") echo Python 3.12.4 ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install"*) echo "$*" >> pip.log; test ! -e offline ;;
  "-m jupyterlab"*) echo "$*" ;;
  "-m tests.browser.answers"*) echo "$*" >> answers.log ;;
  "-m ruff"*) echo ruff ran ;;
  "-c import torch"*) ;;
  *) echo "no such answer: $*"; exit 1 ;;
esac
"""


class Course:
    """A copy of the course's Makefile on a machine that has only what is put there."""

    def __init__(self, folder: Path):
        self.tools = folder / "tools"
        self.folder = folder / "a course"
        self.tools.mkdir()
        self.folder.mkdir()
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool))
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def python(self, name="python3", out_of_range=0, no_venv=0) -> None:
        self.tool(name, PYTHON.format(out_of_range=out_of_range, no_venv=no_venv))

    def make(self, *arguments: str) -> subprocess.CompletedProcess:
        kept = {
            k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        }
        return subprocess.run(
            [self.tools / "make", *arguments],
            cwd=self.folder,
            env=kept | {"PATH": str(self.tools)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def installations(self) -> int:
        log = self.folder / "pip.log"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def course(tmp_path):
    return Course(tmp_path)


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one sentence that make says instead of going on."""
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not re.match(r"g?make(\[\d+\])?: \*\*\*", line)]
    assert line.endswith("run make again.")
    return line


def test_the_environment_is_made_once_and_follows_pyproject(course):
    course.python()
    done = course.make("lint")
    assert done.returncode == 0, done.stderr
    assert "Making the environment in .venv with Python 3.12.4." in done.stdout
    assert done.stdout.endswith("ruff ran\n")
    assert "-e .[lab,test]" in (course.folder / "pip.log").read_text()

    assert course.make("lint").stdout == "ruff ran\n"
    assert course.installations() == 1

    future = time.time() + 5
    os.utime(course.folder / "pyproject.toml", (future, future))
    again = course.make("lint")
    assert again.returncode == 0
    assert "Making the environment" not in again.stdout
    assert course.installations() == 2


def test_a_python_that_does_not_run_or_does_not_fit_is_passed_over(course):
    course.tool("python3.13", "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    course.python("python3.12", no_venv=1)
    course.python("python3.11", out_of_range=1)
    course.python("python3")
    done = course.make("lint")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_no_python(course):
    course.python("python3", out_of_range=1)
    assert "no Python 3.11 to 3.13 found" in refusal(course.make("lint"))
    assert not (course.folder / ".venv").exists()


def test_no_venv_module(course):
    course.python("python3.12", no_venv=1)
    assert "apt install python3.12-venv" in refusal(course.make("lint"))


def test_a_python_of_ones_own(course):
    course.python("python3")
    course.python("mine", out_of_range=1)
    assert "PYTHON=mine is not Python 3.11 to 3.13" in refusal(course.make("lint", "PYTHON=mine"))
    course.python("mine")
    assert course.make("lint", "PYTHON=mine").returncode == 0


def test_a_full_disk(course):
    course.python()
    row = "/dev/x 90000000 88000000 2000000 98% /"
    course.tool(
        "df", f"#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted\necho '{row}'\n"
    )
    assert re.search(r"needs about \d+ GB of disk and only 1 GB are free", refusal(course.make("lint")))
    assert not (course.folder / ".venv").exists()


def test_a_failed_installation_goes_on_where_it_stopped(course):
    course.python()
    (course.folder / "offline").touch()
    assert "check the network" in refusal(course.make("lint"))
    kept = course.folder / ".venv" / "kept"
    kept.touch()
    (course.folder / "offline").unlink()
    assert course.make("lint").returncode == 0
    assert kept.exists()
    assert course.make("lint").stdout == "ruff ran\n"


def test_a_torn_installation_is_made_anew(course):
    course.python()
    (course.folder / "offline").touch()
    course.make("lint")
    kept = course.folder / ".venv" / "kept"
    kept.touch()
    (course.folder / "offline").unlink()
    (course.folder / "torn").touch()
    done = course.make("lint")
    assert done.returncode == 0, done.stderr
    assert "Removing .venv" in done.stdout
    assert not kept.exists()


@pytest.mark.parametrize(
    "what", ["its Python is gone", "its Python is too old", "the folder moved", "it is empty"]
)
def test_an_environment_that_cannot_work_is_made_anew(course, what):
    course.python()
    assert course.make("lint").returncode == 0
    venv = course.folder / ".venv"
    if what == "its Python is gone":
        (venv / "bin" / "python").unlink()
    elif what == "its Python is too old":
        (venv / "bin" / "python").write_text(PYTHON.format(out_of_range=1, no_venv=0))
    elif what == "the folder moved":
        course.folder = course.folder.rename(course.folder.with_name("elsewhere"))
    else:
        shutil.rmtree(venv)
        venv.mkdir()
    done = course.make("lint")
    assert done.returncode == 0, done.stderr
    assert "Removing .venv" in done.stdout
    assert course.installations() == 2
    assert course.make("lint").stdout == "ruff ran\n"


def test_lab_is_the_default_and_passes_arguments_on(course):
    course.python()
    done = course.make("LAB_ARGS=--no-browser --port=9999")
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    assert command.startswith("-m jupyterlab ")
    assert f"--ServerApp.root_dir={course.folder} " in command
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in command
    assert command.endswith("--no-browser --port=9999")
    until = time.monotonic() + 10  # it runs beside the server
    log = course.folder / "answers.log"
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.05)
    pid, begin = re.fullmatch(r"-m tests\.browser\.answers (\d+) (\d+)\n", log.read_text()).groups()
    assert int(pid) > 1
    assert abs(time.time() - int(begin)) < 60


def test_help_names_every_job(course):
    done = course.make("help")
    assert re.findall(r"^  make ([\w-]+)", done.stdout, re.M) == [
        "lab", "test", "budgets", "run", "slides", "student", "colab", "colab-bundle", "colab-rehearsal",
        "device-rehearsal", "lint", "clean", "help",
    ]  # fmt: skip


def test_clean_leaves_the_environment(course):
    course.python()
    course.make("lint")
    for folder in ("dist", "a b/__pycache__", ".venv/__pycache__", "notebooks/.ipynb_checkpoints"):
        (course.folder / folder).mkdir(parents=True)
    assert course.make("clean").returncode == 0
    left = {str(p.relative_to(course.folder)) for p in course.folder.rglob("*") if p.is_dir()}
    assert {"a b", "notebooks", ".venv/__pycache__"} <= left
    assert left.isdisjoint({"dist", "a b/__pycache__", "notebooks/.ipynb_checkpoints"})
