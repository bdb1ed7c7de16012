"""The start of a lesson: seeds, style, one line; the projector's mode; photos leave a notebook as JPEG."""

import mmap
import platform
import random
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import torchvision

from lecture7_utils import __version__
from lecture7_utils.classroom import lecture
from tests.guards import refuses


@pytest.fixture(autouse=True)
def _as_it_was():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    with plt.rc_context():
        yield
    lecture._lecture = False
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


def _draws():
    return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002


def test_start_prints_one_line_that_says_what_runs(capsys):
    device = lecture.start(device="cpu")
    printed = capsys.readouterr().out
    assert device == torch.device("cpu")
    assert printed.endswith("\n")
    assert printed.count("\n") == 1
    parts = (f"lecture7_utils {__version__}", f"torch {torch.__version__}", "torchvision ", "device cpu")
    assert all(part in printed for part in parts)
    assert torchvision.__version__.split("+")[0] in printed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_start_keeps_the_memory_of_large_tensors():
    # in a process of its own, as the setting holds for a whole process
    code = """if True:
        from pathlib import Path
        import torch, lecture7_utils as l7

        def returned():  # to the system, when a tensor of 100 MB is freed; in pages
            resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
            tensor = torch.ones(25_000_000)
            there = resident()
            del tensor
            return there - resident()

        before = returned()
        l7.start(device="cpu")
        print(before, returned())
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split()[-2:])
    whole = 100_000_000 / mmap.PAGESIZE
    assert before > whole / 2 > 10 * after, (before, after, whole)


def test_start_picks_a_device_by_itself():
    assert lecture.start().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_start_seeds_every_generator_and_again_gives_the_same():
    lecture.start(seed=5)
    first, style = _draws(), dict(plt.rcParams)
    assert _draws() != first
    lecture.start(seed=5)
    assert _draws() == first
    assert dict(plt.rcParams) == style
    lecture.start(seed=6)
    assert _draws() != first


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "0", None, True])
def test_start_refuses_a_seed_before_it_changes_anything(seed):
    before, style = torch.get_rng_state(), dict(plt.rcParams)
    refuses("seed", lecture.start, seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(plt.rcParams) == style


@pytest.mark.parametrize("device", ["gpu7", "cuda:99", 3.5])
def test_start_refuses_a_device_before_it_changes_anything(device):
    if device == "cuda:99" and torch.cuda.is_available():
        pytest.skip("with a GPU the number is judged by torch, at the first use")
    before = torch.get_rng_state()
    refuses("device", lecture.start, 0, device)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_font_of_the_style_is_below_ten_points_and_all_grow_for_a_projector():
    ends = ("font.size", "labelsize", "titlesize", "fontsize")
    sizes = [name for name in lecture.style() if name.endswith(ends)]
    assert len(sizes) >= 6
    small = lecture.style()
    lecture.lecture_mode()
    large = lecture.style()
    assert all(small[name] >= 10 for name in sizes)
    assert all(large[name] > small[name] for name in sizes)
    assert large["figure.dpi"] > small["figure.dpi"]
    assert plt.rcParams["font.size"] == large["font.size"]
    lecture.lecture_mode(False)
    assert lecture.style() == small
    assert plt.rcParams["font.size"] == small["font.size"]


def test_outside_a_notebook_lecture_mode_prints_nothing(capsys):
    lecture.lecture_mode()
    lecture.lecture_mode(False)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_page_gets_one_style_sheet_and_loses_it_again():
    from nbclient import NotebookClient

    cells = [
        "from lecture7_utils.classroom.lecture import lecture_mode",
        "lecture_mode()",
        "lecture_mode()",
        "lecture_mode(False)",
    ]

    def pages(count):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells[:count]])
        NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
        return [[o["data"].get("text/html", "") for o in cell.outputs] for cell in notebook.cells]

    first, again, off = pages(2), pages(3), pages(4)
    assert "display: none" in first[1][0]
    assert again[1] == [""]  # the second call moves it to its own cell
    assert again[2] == first[1]
    assert off == [[], [""], [""], []]


@pytest.mark.parametrize("on", [1, "yes", None])
def test_lecture_mode_refuses_what_is_no_bool(on):
    refuses("on", lecture.lecture_mode, on)


def test_curves_differ_by_more_than_colour():
    assert len(set(lecture.COLOURS)) == len(set(lecture.DASHES)) == len(set(lecture.MARKERS)) == 7


def test_the_colours_are_told_apart_by_colour_blind_eyes():
    """Simulated as Viénot, Brettel and Mollon (1999) do, on linear RGB; the distance is CIELAB's."""
    from skimage.color import rgb2lab

    def linear(rgb):
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)

    def encoded(rgb):
        rgb = rgb.clip(0, 1)
        return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055)

    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    colours = np.array([matplotlib.colors.to_rgb(c) for c in lecture.COLOURS])
    for eyes in (np.eye(3), protan, deutan):
        seen = rgb2lab(encoded(linear(colours) @ eyes.T)[None])[0]
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 1000 * np.eye(len(colours))
        assert apart.min() > 10


@pytest.mark.slow
def test_a_notebook_gets_photos_as_jpeg_and_curves_as_png_from_the_first_cell_on(monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel picks its own, as in JupyterLab
    cells = [
        "from lecture7_utils.classroom.lecture import start\ndevice = start(device='cpu')",
        "import matplotlib.pyplot as plt\nfrom lecture7_utils.classroom import plots\n"
        "import numpy as np\nnoise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype='uint8')\n"
        "plots.plot_images([noise])\nplt.show()",
        "plots.plot_curves({'a': ([0, 1], [1, 2])}, xlabel='x', ylabel='y')\nplt.show()",
        "device = start(device='cpu')",
        "plots.plot_images([noise])\nplt.show()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert [len(o) for o in outputs] == [1, 1, 1, 1, 1]
    assert outputs[0][0].text.count("\n") == outputs[3][0].text.count("\n") == 1
    kinds = [{kind for kind in o[0].get("data", {}) if kind.startswith("image/")} for o in outputs]
    assert kinds == [set(), {"image/jpeg"}, {"image/png"}, set(), {"image/jpeg"}]
