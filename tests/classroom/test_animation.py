"""The GIF of a climb: the frames in their order, at the speed and the size asked for, and played for ever."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from lecture7_utils.classroom.animation import save_animation
from tests.guards import refuses, unchanged

FRAMES = torch.stack([torch.full((3, 20, 30), v) for v in (0.1, 0.5, 0.9)])


def read(path):
    """Every frame as RGB, and how long each stays, in milliseconds."""
    with Image.open(path) as gif:
        pictures, lasts = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            pictures.append(np.asarray(gif.convert("RGB")))
            lasts.append(gif.info["duration"])
        return pictures, lasts, gif.info.get("loop"), gif.format


@pytest.mark.parametrize("as_list", [False, True])
def test_the_frames_come_in_their_order(tmp_path, as_list):
    frames = [frame.permute(1, 2, 0).mul(255).byte().numpy() for frame in FRAMES] if as_list else FRAMES
    with unchanged():
        path = save_animation(frames, tmp_path / "climb.gif", fps=5, width=120, hold=4)
    pictures, lasts, loop, kind = read(path)
    assert kind == "GIF"
    assert loop == 0, "0 stands for ever"
    assert pictures[0].shape == (80, 120, 3)
    # equal frames in a row may be stored as one that lasts longer
    assert [round(p.mean() / 255, 1) for p in pictures[:3]] == [0.1, 0.5, 0.9]
    assert sum(lasts) == 200 * (3 + 3)
    assert lasts[:2] == [200, 200]


def test_pictures_fill_the_frame_and_titles_stand_above(tmp_path):
    ramp = torch.linspace(0, 1, 64).expand(3, 32, 64)
    plain = read(save_animation([ramp, 1 - ramp], tmp_path / "a.gif", width=256))[0]
    assert plain[0].shape == (128, 256, 3)
    want = np.asarray(
        Image.fromarray((ramp.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).resize((256, 128))
    )
    assert np.abs(plain[0].astype(int) - want).mean() < 6
    titled = read(save_animation([ramp, ramp], tmp_path / "b.gif", titles=["step 0", "step 8"], width=256))[0]
    assert titled[0].shape == (156, 256, 3)
    above = [frame[:28].astype(int) for frame in titled[:2]]
    assert np.abs(above[0] - above[1]).max() > 100
    assert above[0].min() < 100 < 250 < above[0].max()
    assert np.abs(titled[0][28:].astype(int) - want).mean() < 6


def test_no_figure_and_no_setting_stays(tmp_path):
    import matplotlib.pyplot as plt

    before, settings = plt.get_fignums(), dict(matplotlib.rcParams)
    save_animation(FRAMES, str(tmp_path / "c.gif"))
    assert plt.get_fignums() == before
    assert dict(matplotlib.rcParams) == settings


def test_bad_input_is_refused_by_name(tmp_path):
    def refused(argument, frames=FRAMES, path=tmp_path / "x.gif", **options):
        refuses(argument, save_animation, frames, path, **options)
        assert not (tmp_path / "x.gif").exists()

    for frames in (None, "frames", [], FRAMES[0], FRAMES[:0], [FRAMES[0], FRAMES[0][:, 1:]], [3]):
        refused("frames", frames)
    for path in (None, 3, tmp_path / "x.png", tmp_path / "nowhere" / "x.gif"):
        refused("path", path=path)
    refused("titles", titles=["one"])
    for fps in (0, -1, 51, math.nan, "6", True):
        refused("fps", fps=fps)
    for width in (31, 1025, 64.0, None):
        refused("width", width=width)
    for hold in (0, 1.5, None):
        refused("hold", hold=hold)
