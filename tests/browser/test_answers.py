"""The line that `make lab` prints once JupyterLab answers; the server is played by this process."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser import answers


@pytest.fixture(params=[200, 403, None], ids=["answers", "wants a password", "does not answer"])
def server(request, tmp_path, monkeypatch):
    """The status that a played server gives; what Jupyter would write of it lies where it would be."""

    class Status(BaseHTTPRequestHandler):
        def do_GET(self):
            right = self.path == "/base/api/status" and self.headers["Authorization"] == "token secret"
            self.send_response(request.param if right else 500)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    played = ThreadingHTTPServer(("127.0.0.1", 0), Status)
    threading.Thread(target=played.serve_forever, daemon=True).start()
    about = {"url": f"http://127.0.0.1:{played.server_port}/base/", "token": "secret"}
    (tmp_path / f"jpserver-{os.getpid()}.json").write_text(json.dumps(about))
    if request.param is None:
        played.shutdown()
        played.server_close()
    yield request.param
    if request.param is not None:
        played.shutdown()
        played.server_close()


def test_the_seconds_are_printed_once_it_answers(server, capsys):
    begin = time.time() - 7
    code = answers.main(os.getpid(), begin, patience=8.0)
    out = capsys.readouterr().out
    if server is None:
        assert (code, out) == (1, "")
    else:
        assert code == 0
        assert out in (
            "JupyterLab answers 7 s after the command.\n",
            "JupyterLab answers 8 s after the command.\n",
        )


def test_nothing_is_said_of_a_server_that_is_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert answers.main(gone.pid, time.time()) == 1
    assert capsys.readouterr().out == ""


def test_half_a_file_is_no_answer(tmp_path):
    path = tmp_path / "jpserver-1.json"
    assert not answers.answers(path)
    path.write_text('{"url": "http')
    assert not answers.answers(path)
    path.write_text('{"token": "x"}')
    assert not answers.answers(path)
