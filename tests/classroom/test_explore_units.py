"""The explorer of lesson 5: every control from end to end, the right pictures, nothing read twice, errors."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lecture7_utils.classroom.widgets import explore_units, lesson5
from lecture7_utils.classroom.widgets.lesson5 import TOP
from lecture7_utils.classroom.widgets.pieces import Explorer
from lecture7_utils.kernels.search import top_activations
from tests.classroom.explorers import resets_with_one_redraw
from tests.classroom.test_widgets import _changes, drive_all
from tests.guards import refuses, unchanged
from tests.kernels.test_search import Images
from tests.nets import random_net

COUNT, SIDE = 60, 20


class Watched(Images):
    """Smooth coloured pictures in 0 to 1; counts what is read."""

    def __init__(self):
        blobs = np.random.default_rng(5).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
        large = [Image.fromarray(b).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for b in blobs]
        super().__init__(
            torch.from_numpy(np.stack([np.asarray(p) for p in large])).permute(0, 3, 1, 2).float() / 255
        )


@pytest.fixture(scope="module")
def net():
    return random_net(4, (SIDE, SIDE), dtype=torch.float32)


@pytest.fixture(scope="module")
def ranking(net):
    return top_activations(net, ["stem", "left"], Watched(), 5)


def test_every_control_moves_from_end_to_end(net, ranking):
    with unchanged(net):
        explorer = explore_units(ranking, Watched())
        seen = drive_all(explorer)
    assert set(seen) == {"layer", "channel", "shown", "view", "reset"}
    for control in ("layer", "channel", "shown"):
        assert _changes(seen[control])[0] > 1, control
        assert _changes(seen[control])[1] > 1, control
    assert _changes(seen["view"])[0] == 2
    assert isinstance(explorer, Explorer)
    assert all(0 < len(control.description) <= 24 for control in explorer.controls.values())


def test_reset_puts_everything_back_with_one_redraw(ranking):
    resets_with_one_redraw(explore_units(ranking, Watched()))


def _cells(explorer) -> list[np.ndarray]:
    pixels = np.asarray(Image.open(io.BytesIO(explorer.picture.value)))
    step = lesson5.CELL + lesson5.GAP
    return [pixels[24 : 24 + lesson5.CELL, i * step : i * step + lesson5.CELL] for i in range(5)]


@pytest.mark.parametrize("shown", [TOP, (0.9, 1.0), (0.4, 0.6), (0.0, 0.1)])
@pytest.mark.parametrize("layer", ["stem", "left"])
def test_it_shows_what_was_found(layer, shown, ranking):
    data = Watched()
    explorer = explore_units(ranking, data)
    explorer.controls["layer"].value = layer
    channel = ranking.channels(layer)[-1]
    explorer.controls["channel"].value = channel
    explorer.controls["shown"].value = shown
    hits = ranking.top(channel, layer) if shown == TOP else ranking.sample(channel, *shown, 5, layer)
    assert hits
    plain = re.sub("<[^>]*>", " ", explorer.readout.value)
    for hit in hits:
        assert f"{hit.image}  {hit.position[0]}, {hit.position[1]} " in plain
    median = ranking.quantiles(0.5, layer)[ranking.channels(layer).index(channel)].item()
    assert f"median {lesson5.value_text(median)}" in plain
    assert f"over {COUNT} images" in plain
    sides = [max(h.rectangle[2] - h.rectangle[0], h.rectangle[3] - h.rectangle[1]) for h in hits]
    for cell, hit in zip(_cells(explorer), hits, strict=False):
        top, left, bottom, right = hit.rectangle
        want = (data.images[hit.image, :, top:bottom, left:right].permute(1, 2, 0).numpy() * 255).round()
        h, w = (round(n * lesson5.CELL / max(sides)) for n in want.shape[:2])
        y, x = (lesson5.CELL - h) // 2, (lesson5.CELL - w) // 2
        large = Image.fromarray(want.astype(np.uint8)).resize((w, h), Image.Resampling.NEAREST)
        difference = np.abs(cell[y : y + h, x : x + w].astype(float) - np.asarray(large))
        assert difference.mean() < 4


def test_the_field_is_marked_on_the_whole_picture(ranking):
    explorer = explore_units(ranking, Watched())
    explorer.controls["view"].value = True
    hit = ranking.top(explorer.controls["channel"].value, "stem")[0]
    scale = lesson5.CELL / SIDE
    top, left, bottom, right = (round(v * scale) for v in hit.rectangle)
    cell = _cells(explorer)[0].astype(float)
    middle = (top + bottom) // 2
    assert cell[middle, left + 1].mean() < 90  # the black line, inside the first white one
    assert cell[middle, right - 2].mean() < 90
    assert cell[top + 1, (left + right) // 2].mean() < 90


def test_a_picture_is_read_once(ranking):
    data = Watched()
    explorer = explore_units(ranking, data)
    for _ in range(2):
        drive_all(explorer)
    assert len(data.asked) == len(set(data.asked))


def test_old_pictures_are_let_go(ranking, monkeypatch):
    monkeypatch.setattr(lesson5, "KEPT", 7)
    data = Watched()
    kept = lesson5._Kept(data)
    for i in [*range(10), 9, 3]:
        assert torch.equal(kept[i], data.images[i])
    assert data.asked == list(range(10))
    assert len(kept._items) == 7


def test_without_a_sample_there_is_the_top_only(net):
    ranking = top_activations(net, "stem", Watched(), 7, sample=0)
    explorer = explore_units(ranking, Watched())
    assert [value for _, value in explorer.controls["shown"].options] == [TOP]
    assert explorer.controls["shown"].label == "the top 7"
    assert "no sample was kept" in explorer.readout.value
    drive_all(explorer)


def test_an_error_while_drawing_is_shown_kept_and_raised(ranking):
    data = Watched()
    explorer = explore_units(ranking, data)
    good = explorer.readout.value
    data.broken = dict.fromkeys(range(COUNT), OSError("the disk is gone"))
    with pytest.raises(OSError, match="disk"):
        explorer.controls["layer"].value = "left"
    assert len(explorer.failures) == 1
    assert "the disk is gone" in explorer.problem.value
    data.broken = {}
    explorer.controls["layer"].value = "stem"
    assert explorer.problem.value == ""
    assert explorer.readout.value == good


def test_names_are_escaped(net):
    ranking = top_activations(net, "stem", Watched(), 2, names=[f"<b>{i} & co" for i in range(COUNT)])
    explorer = explore_units(ranking, Watched())
    assert "&lt;b&gt;" in explorer.readout.value
    assert "&amp; co" in explorer.readout.value


def test_pictures_of_a_network_are_turned_back_by_show(net):
    data = Watched()
    moved = [image * 2 - 1 for image in data.images]
    ranking = top_activations(net, "stem", moved, 3)
    explorer = explore_units(ranking, moved, show=lambda image: (image + 1) / 2)
    assert explorer.failures == []
    with pytest.raises(ValueError, match="data: expected pictures with values in 0 to 1"):
        explore_units(ranking, moved)


def test_refused_arguments(ranking):
    refuses("ranking", explore_units, None, Watched())
    refuses("data", explore_units, ranking, None)
