"""The command that searches a folder: bad files of every kind, exit codes, processes, kill and resume."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lecture7_utils import search
from lecture7_utils.kernels.ranking import Ranking
from lecture7_utils.kernels.search import top_activations
from lecture7_utils.shop.folder import Folder
from lecture7_utils.shop.models import load_model
from tests.kernels.test_search import agrees, same

ROOT = Path(__file__).resolve().parents[1]
LAYER = "features.4"


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (120, 100)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve good pictures of every kind, and six that can't be used."""
    path = tmp_path_factory.mktemp("shop") / "pictures"
    (path / "more").mkdir(parents=True)
    for i in range(8):
        picture(i).save(path / f"good {i}.png")
    picture(20, "CMYK").save(path / "more" / "cmyk.jpg")
    picture(21, "L").save(path / "more" / "grey.jpg")
    picture(22, "RGBA", (40, 300)).save(path / "more" / "tall.png")
    picture(23, "P").save(path / "more" / "palette.gif")
    whole = (path / "more" / "cmyk.jpg").read_bytes()
    (path / "empty.jpg").touch()
    (path / "text.png").write_text("this is no picture")
    (path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    noise = bytearray(whole)
    noise[2:400] = bytes(398)
    (path / "corrupt.jpg").write_bytes(noise)
    (path / "huge.ppm").write_bytes(b"P6 60000 60000 255\n" + bytes(1000))
    picture(24, size=(2000, 9)).save(path / "thread.png")
    return path


BAD = ["corrupt.jpg", "empty.jpg", "huge.ppm", "text.png", "thread.png", "truncated.jpg"]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(folder, out, *more) -> int:
    return search.main(
        [str(folder), "--model", "petnet", "--layer", LAYER, "--out", str(out), *map(str, more)]
    )


def test_all_kinds_of_files(folder, tmp_path, capsys):
    out = tmp_path / "found"
    handler = signal.getsignal(signal.SIGTERM)
    assert run(folder, out, "--top", 3, "--batch-size", 5) == search.SOME_UNREADABLE
    assert signal.getsignal(signal.SIGTERM) is handler
    ranking = Ranking.load(out)
    assert [s.name for s in ranking.skipped] == BAD
    assert ranking.count == 12
    assert [p.name for p in tmp_path.iterdir()] == ["found"]
    said = capsys.readouterr()
    assert "6 of 18 pictures could not be used:" in said.out
    for name, why in zip(
        BAD, ("", "no known picture format", "million pixels", "no known", "100 to 1", ""), strict=True
    ):
        assert re.search(rf"^  {re.escape(name)}: .*{why}", said.out, re.M), name
    assert "petnet: top 3 of 12 images of pictures, 6 skipped" in said.out
    assert "18/18" in said.err
    assert "images/s" in said.err

    net, pictures = load_model("petnet", "cpu"), Folder(folder)
    images = torch.zeros(18, 3, 96, 96)
    bad = [pictures.names.index(name) for name in BAD]
    for i in set(range(18)) - set(bad):
        images[i] = net.preprocess(pictures[i])[0]
    agrees(ranking, net, LAYER, images, skip=bad, tolerance=1e-5)
    assert all(hit.name == pictures.names[hit.image] for c in range(4) for hit in ranking.top(c))

    # the same by hand
    by_hand = top_activations(
        net,
        LAYER,
        pictures,
        3,
        batch_size=5,
        preprocess=net.preprocess,
        names=pictures.names,
        data="pictures",
    )
    same(by_hand, ranking)


def test_a_folder_without_bad_files(folder, tmp_path, capsys):
    assert run(folder / "more", tmp_path / "found", "--quiet", "--layer", "features.1", "--sample", 0) == 0
    ranking = Ranking.load(tmp_path / "found")
    assert ranking.layers == (LAYER, "features.1")
    assert (ranking.k, ranking.count, ranking.searched.sample) == (5, 4, 0)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == f"4 pictures searched, the result is in {tmp_path / 'found'}\n"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--layer", "features.99"], "layer: expected the name of a layer, got 'features.99'"),
        (["--model", "petnot"], "name: expected a model's name, got 'petnot'; the nearest are 'petnet'"),
        (["--top", "0"], "k: expected at least 1, got 0"),
        (["--batch-size", "0"], "batch_size: expected at least 1"),
        (["--threads", "0"], "--threads: expected at least 1"),
        (["--device", "tpu"], "device: expected"),
        (["--out", "missing/file"], "--out: expected a file in a folder that exists"),
    ],
)
def test_wrong_arguments(more, says, folder, tmp_path, capsys):
    assert run(folder, tmp_path / "found", "--quiet", *more) == search.WRONG
    said = capsys.readouterr()
    assert said.err.startswith("python -m lecture7_utils.search: ")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_folder_and_no_pictures(tmp_path, capsys):
    assert run(tmp_path / "missing", tmp_path / "found") == search.WRONG
    assert "path: expected a folder, got nothing" in capsys.readouterr().err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").touch()
    assert run(tmp_path / "bad", tmp_path / "found") == search.WRONG
    assert re.search(r"none among 1; the first, a\.jpg: ValueError", capsys.readouterr().err)
    with pytest.raises(SystemExit) as left:
        search.main([str(tmp_path)])
    assert left.value.code == search.WRONG


def test_stopped_and_gone_on_with(folder, tmp_path, capsys, monkeypatch):
    straight, out = tmp_path / "straight", tmp_path / "found"
    more = ("--batch-size", 4, "--quiet")
    run(folder, straight, *more)
    read = Folder.__getitem__

    def stopping(self, i):
        if i == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, i)

    monkeypatch.setattr(Folder, "__getitem__", stopping)
    assert run(folder, out, *more) == search.STOPPED
    assert "--resume goes on from" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found.part", "straight"]
    monkeypatch.setattr(Folder, "__getitem__", read)
    assert run(folder, out, *more) == search.WRONG
    assert "found.part holds an unfinished search" in capsys.readouterr().err
    assert run(folder, out, *more, "--resume", "--top", 2) == search.WRONG
    assert "with k 2, got found.part with 5" in capsys.readouterr().err
    seen = []
    monkeypatch.setattr(Folder, "__getitem__", lambda self, i: seen.append(i) or read(self, i))
    assert run(folder, out, *more, "--resume") == search.SOME_UNREADABLE
    assert 12 in seen
    assert not {5, 6, 7, 8, 9, 10, 11} & set(seen)
    same(Ranking.load(out), Ranking.load(straight))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found", "straight"]


# ---- as a command


def command(folder, out, *more, ranks=1, **options) -> subprocess.Popen:
    start = [sys.executable, "-m"]
    if ranks > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    arguments = [str(folder), "--model", "petnet", "--layer", LAYER, "--out", str(out), "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*start, "lecture7_utils.search", *arguments, *map(str, more)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_gives_bitwise_the_same(folder, tmp_path):
    several = command(folder, tmp_path / "two", "--batch-size", 4, ranks=2)
    said = several.communicate(timeout=240)
    one = command(folder, tmp_path / "one", "--batch-size", 4)
    alone = one.communicate(timeout=240)
    assert one.returncode == search.SOME_UNREADABLE, alone
    assert several.returncode == 1, said
    assert "exitcode: 3" in said[1]
    assert said[0].replace("two", "one") == alone[0]  # only the first process reports
    same(Ranking.load(tmp_path / "two"), Ranking.load(tmp_path / "one"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_command_goes_on(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(60):
        picture(i, size=(700, 500)).save(folder / f"{i}.jpg")
    # the last bits of a convolution depend on the number of threads
    more = ("--batch-size", 2, "--save-every", 0, "--quiet", "--threads", 1)
    killed = command(folder, tmp_path / "found", *more)
    deadline = time.monotonic() + 120
    while not (tmp_path / "found.part").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "found").exists()
    assert 0 < Ranking.load(tmp_path / "found.part").count < 60
    assert run(folder, tmp_path / "found", *more, "--resume") == search.DONE
    assert run(folder, tmp_path / "straight", *more) == search.DONE
    same(Ranking.load(tmp_path / "found"), Ranking.load(tmp_path / "straight"))
