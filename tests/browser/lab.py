"""JupyterLab as `make lab` starts it, and a headless Chromium that a test or a person looks at it with.

The notebooks are copied to a folder of their own first, and settings, workspaces and kernels' files of the
user stay out of it: nothing that happens in the browser reaches the course or the user's JupyterLab.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.notebooks.anatomy import ROOT

SIZE = {"width": 1400, "height": 1000}
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
# without windowing all cells are in the page; without autosave a run leaves the copy as it was
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}
ERRORS = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'


def chromium() -> str | None:
    """Where Chromium is: the variable CHROMIUM, or the first on the path; None if there is none."""
    names = (os.environ.get("CHROMIUM"), "/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token, the folder it serves."""

    address: str
    token: str
    folder: Path

    def url(self, path: str) -> str:
        """The address that opens a file of `folder` in JupyterLab."""
        return f"{self.address}/lab/tree/{path}?reset&token={self.token}"

    def end_kernels(self) -> None:
        """Shut down every kernel: each holds a network and a gigabyte."""
        for kernel in json.loads(self._ask("GET", "api/kernels")):
            self._ask("DELETE", f"api/kernels/{kernel['id']}")

    def _ask(self, method: str, path: str) -> bytes:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.address}/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()


@contextmanager
def lab_server(folder: Path, patience: float = 300) -> Iterator[Lab]:
    """Copy the course's notebooks into `folder`, start `make lab` on it; stop it at the end.

    Raises `RuntimeError` with the server's log if it does not answer within `patience` seconds.
    """
    served, private = folder / "course", folder / "jupyter"
    shutil.copytree(
        ROOT / "notebooks", served / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    for name, values in SETTINGS.items():
        path = private / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16), served)
    arguments = (
        f"--no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0 "
        f"--IdentityProvider.token={lab.token}"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    for variable in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        environment[variable] = str(private / variable.lower())
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(private / "settings")
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(private / "workspaces")
    log_path = folder / "lab.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            ["make", "lab", f"LAB_FOLDER={served}", f"LAB_ARGS={arguments}"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + patience
        while not _answers(lab):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"JupyterLab does not answer:\n{log_path.read_text(errors='replace')}")
            time.sleep(0.3)
        yield lab
    finally:
        _stop(server)


def _answers(lab: Lab) -> bool:
    request = urllib.request.Request(
        f"{lab.address}/api/status", headers={"Authorization": f"token {lab.token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _stop(server: subprocess.Popen) -> None:
    """End the server's own process group: first so that it ends its kernels, then for certain."""
    for how, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
        try:
            os.killpg(server.pid, how)
            server.wait(patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
        # make may be gone before the server that it started
        until = time.monotonic() + patience
        while time.monotonic() < until and _alive(server.pid):
            time.sleep(0.1)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def browser_page(size: dict[str, int] = SIZE) -> Iterator[Page]:
    """A page of a headless Chromium that reaches nothing but this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGS)
        try:
            page = browser.new_context(viewport=size).new_page()
            page.route(
                lambda url: not url.startswith(("http://127.0.0.1", "blob:", "data:")), lambda r: r.abort()
            )
            page.console_errors = []
            page.on("pageerror", lambda error: page.console_errors.append(str(error)))
            yield page
        finally:
            browser.close()


@dataclass
class Notebook:
    """A notebook open in JupyterLab."""

    page: Page
    name: str
    cells: Locator = field(init=False)

    def __post_init__(self):
        self.cells = self.page.locator(".jp-Notebook .jp-Cell")

    def errors(self) -> list[str]:
        """The text of every error and of everything on stderr that the page shows."""
        return self.page.locator(ERRORS).all_inner_texts()

    def prompts(self) -> list[str]:
        """The prompts of the code cells: "[3]:" has run, "[*]:" runs or waits, "[ ]:" has not; "" hidden."""
        return self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_text_contents()

    def start_all(self) -> None:
        """Restart the kernel and begin to run all cells, as a person does."""
        button = '[data-command="notebook:restart-run-all"], [title^="Restart the kernel and run all"]'
        self.page.locator(f".jp-NotebookPanel-toolbar :is({button})").first.click()
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()

    def run_all(self, patience: float = 600) -> None:
        """Restart the kernel and run all cells, as a person does; come back when all of them are done.

        Raises `TimeoutError`, with the prompts as they are, if that takes more than `patience` seconds.
        """
        self.start_all()
        prompts = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]"
        busy = f"{prompts}.some(prompt => prompt.textContent.includes('*'))"
        try:
            self.page.wait_for_function(busy, timeout=60_000)
            self.page.wait_for_function(f"!{busy}", timeout=patience * 1000)
        except PlaywrightTimeoutError:
            raise TimeoutError(f"{self.name}: not done; the prompts are {self.prompts()}") from None
        # hidden cells have no prompt: they are done when the kernel stays idle
        until, quiet = time.monotonic() + patience, 0
        while quiet < 4:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.name}: the kernel is still busy")
            self.page.wait_for_timeout(500)
            quiet = quiet + 1 if _kernel(self.page, "Idle").count() else 0

    def explorers(self) -> Locator:
        """The course's explorers on the page."""
        return self.page.locator(".l7-explorer")

    def screenshots(self, folder: Path) -> list[Path]:
        """Pictures of the whole notebook from top to bottom, one screen each with a little overlap."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{self.name}-*.png"):
            old.unlink()
        panel = self.page.locator(
            ".jp-NotebookPanel-notebook .jp-WindowedPanel-outer, .jp-NotebookPanel-notebook"
        )
        panel = panel.last
        step = panel.evaluate("e => e.clientHeight") - 60
        taken, top = [], 0
        while True:
            reached = panel.evaluate("(e, top) => { e.scrollTop = top; return e.scrollTop; }", top)
            self.page.wait_for_timeout(100)
            path = folder / f"{self.name}-{len(taken):02d}.png"
            self.page.screenshot(path=path)
            taken.append(path)
            if reached + panel.evaluate("e => e.clientHeight") >= panel.evaluate("e => e.scrollHeight") - 1:
                return taken
            if self._ends_on_the_screen(panel):  # what can be scrolled to below the last cell is empty
                return taken
            top = reached + step

    def _ends_on_the_screen(self, panel: Locator) -> bool:
        last = self.page.locator(".jp-Notebook .jp-Cell").last.bounding_box()
        seen = panel.bounding_box()
        return last is not None and last["y"] + last["height"] <= seen["y"] + seen["height"]


def open_notebook(page: Page, lab: Lab, name: str, side_bar: bool = False) -> Notebook:
    """Open `notebooks/name.ipynb` and wait until its cells are drawn and its kernel is idle."""
    page.goto(lab.url(f"notebooks/{name}.ipynb"))
    stored = json.loads((lab.folder / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    page.locator(".jp-Notebook .jp-Cell").nth(len(stored["cells"]) - 1).wait_for(timeout=60_000)
    _kernel(page, "Idle").wait_for(timeout=60_000)
    if not side_bar:
        page.locator("body").press("Control+b")
    return Notebook(page, name)


def _kernel(page: Page, status: str) -> Locator:
    return page.locator("#jp-bottom-panel").get_by_text(f"| {status}")


def picture(explorer: Locator) -> str:
    """The bytes of an explorer's picture, as a data URL."""
    return explorer.locator("img.l7-picture, .l7-picture img").first.evaluate(
        """async image => {
          const blob = await (await fetch(image.src)).blob();
          return new Promise(done => {
            const reader = new FileReader();
            reader.onload = () => done(reader.result);
            reader.readAsDataURL(blob);
          });
        }"""
    )


def readout(explorer: Locator) -> str:
    """The numbers that an explorer shows."""
    return explorer.locator(".l7-readout").first.inner_text()


def drag_slider(slider: Locator, share: float) -> None:
    """Drag a slider's handle by the mouse to a place of its track, 0 to 1 from its left end."""
    mouse, track = slider.page.mouse, slider.locator(".noUi-base").first.bounding_box()
    handle = slider.locator(".noUi-handle").first.bounding_box()
    y = handle["y"] + handle["height"] / 2
    mouse.move(handle["x"] + handle["width"] / 2, y)
    mouse.down()
    mouse.move(track["x"] + share * track["width"], y, steps=6)
    mouse.up()
