"""Says after how many seconds a JupyterLab answers: `python -m tests.browser.answers PID BEGIN`.

`make lab` starts it beside the server. PID is the server, BEGIN the second of the command. It prints
one line, or nothing if the server ends first or needs more than ten minutes.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir


def answers(about: Path) -> bool:
    """Whether the server that wrote the file `about` answers; False while there is no whole file."""
    try:
        server = json.loads(about.read_text(encoding="utf-8"))
        request = urllib.request.Request(
            f"{server['url']}api/status", headers={"Authorization": f"token {server.get('token', '')}"}
        )
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it wants a password: that is an answer
    except (OSError, ValueError, KeyError):
        return False


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def main(pid: int, begin: float, patience: float = 600) -> int:
    about = Path(jupyter_runtime_dir()) / f"jpserver-{pid}.json"
    while runs(pid) and time.time() < begin + patience:
        if answers(about):
            print(f"JupyterLab answers {max(1, round(time.time() - begin))} s after the command.", flush=True)
            return 0
        time.sleep(0.2)
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
