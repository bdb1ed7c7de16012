"""The explorer of the latent walk: every control from end to end, what it shows, nothing drawn twice."""

import io
import re
import time

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lecture7_utils.classroom.plots import picture
from lecture7_utils.classroom.widgets import explore_latent_walk, lesson8
from lecture7_utils.classroom.widgets.pieces import Explorer
from lecture7_utils.shop.decoders import Generator, latents
from tests.classroom import test_widgets as driving
from tests.classroom.explorers import resets_with_one_redraw
from tests.classroom.test_widgets import _changes, drive_all, ends_and_between
from tests.guards import refuses, unchanged

net = driving.net  # the fixture: a small classifier

NAMES = ("cat & co", "dog", "frog")


@pytest.fixture
def generator() -> Generator:
    """Untrained, with weights large enough that each vector has a picture of its own."""
    made = Generator(3, latent=6, size=16, widths=(8, 6), categories=NAMES)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.6)
    return made.train()


def plain(explorer) -> str:
    return re.sub("<[^>]*>", " ", explorer.readout.value)


def setting(explorer, **values) -> None:
    for name, value in values.items():
        explorer.controls[name.replace("_", " ")].value = value


def shown(explorer) -> list[np.ndarray]:
    """The three pictures of the upper row, at the generator's own size."""
    with Image.open(io.BytesIO(explorer.picture.value)) as image:
        sheet = image.convert("RGB")
    found = []
    for i in range(3):
        left = i * (lesson8.LARGE + 12)
        part = sheet.crop((left, 26, left + lesson8.LARGE, 26 + lesson8.LARGE))
        found.append(np.asarray(part.resize((16, 16), Image.Resampling.BOX)).astype(float))
    return found


def enlarged_and_back(pixels: np.ndarray) -> np.ndarray:
    large = Image.fromarray(pixels).resize((lesson8.LARGE, lesson8.LARGE), Image.Resampling.BICUBIC)
    return np.asarray(large.resize((16, 16), Image.Resampling.BOX)).astype(float)


def by_hand(generator, start, end, first, last, t, circle, vectors=100) -> tuple[torch.Tensor, np.ndarray]:
    """The vector, and its picture, from the definition."""
    z = latents(vectors, 0, latent=6).double()
    a, b = z[start], z[end]
    angle = torch.arccos(a @ b / (a.norm() * b.norm()))
    if circle:
        at = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    else:
        at = a + t * (b - a)
    shares = torch.zeros(1, 3)
    shares[0, first] += 1 - t
    shares[0, last] += t
    with torch.no_grad():
        return at, picture(generator(at.float()[None], shares)[0])


def test_every_control_moves_from_end_to_end(generator, net):
    with unchanged(generator, net):
        explorer = explore_latent_walk(generator, net)
        seen = drive_all(explorer)
    assert isinstance(explorer, Explorer)
    assert list(seen) == ["start", "end", "species", "species at the end", "t", "way", "reset"]
    for control in ("start", "end", "species", "species at the end", "t", "way"):
        pictures, readouts = _changes(seen[control])
        assert pictures > 1, control
        assert readouts > 1, control
    assert all(0 < len(control.description) <= 24 for control in explorer.controls.values())


def test_reset_puts_everything_back_with_one_redraw(generator, net):
    resets_with_one_redraw(explore_latent_walk(generator, net))


def test_all_controls_work_with_the_keyboard(generator):
    kinds = (widgets.IntSlider, widgets.SelectionSlider, widgets.Dropdown, widgets.Button)
    for control in explore_latent_walk(generator).controls.values():
        assert isinstance(control, kinds)
        assert not control.disabled


@pytest.mark.parametrize("way", ["great circle", "straight line"])
@pytest.mark.parametrize(
    ("start", "end", "first", "last", "stop"),
    [(0, 1, 0, 0, 20), (7, 3, 1, 1, 0), (7, 3, 2, 1, 13), (5, 99, 0, 2, 40)],
)
def test_it_shows_the_generators_pictures_and_the_vectors_length(
    start, end, first, last, stop, way, generator, net
):
    explorer = explore_latent_walk(generator, net)
    setting(explorer, start=start, end=end, species=first, species_at_the_end=last, t=stop, way=way)
    t = stop / lesson8.STOPS
    for panel, at in zip(shown(explorer), (0.0, t, 1.0), strict=True):
        _, want = by_hand(generator, start, end, first, last, at, way == "great circle")
        _, other = by_hand(generator, start, end, first, last, abs(at - 0.2), way == "great circle")
        # saved as JPEG, so not to the last bit
        assert np.abs(panel - enlarged_and_back(want)).mean() < 3
        assert np.abs(panel - enlarged_and_back(other)).mean() > 6
    z, want = by_hand(generator, start, end, first, last, t, way == "great circle")
    numbers = [float(v) for v in re.findall(r"\d+\.\d+", plain(explorer).split(":", 1)[1])]
    assert numbers[0] == pytest.approx(float(z.norm()), abs=0.006)
    with torch.no_grad():
        p = torch.softmax(net(net.preprocess(Image.fromarray(want))), 1)[0]
    percents = [float(v) for v in re.findall(r"(\d+\.\d+) %", plain(explorer))]
    assert percents == pytest.approx((100 * p.topk(3).values).tolist(), abs=0.3)


def test_without_a_network_nobody_says_anything(generator):
    explorer = explore_latent_walk(generator)
    assert "network says" not in plain(explorer)
    assert "length" in plain(explorer)


def test_the_end_takes_the_species_until_it_gets_its_own(generator):
    explorer = explore_latent_walk(generator)
    setting(explorer, species=2)
    assert explorer.controls["species at the end"].value == 2
    setting(explorer, species_at_the_end=1)
    assert explorer.controls["species"].value == 2
    assert [name for name, _ in explorer.controls["species"].options] == list(NAMES)


def test_going_along_a_walk_draws_nothing_anew(generator, monkeypatch):
    explorer = explore_latent_walk(generator)
    calls, forward = [], Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda self, *args: calls.append(1) or forward(self, *args))
    for value in ends_and_between(explorer.controls["t"]):
        explorer.controls["t"].value = value
    assert calls == []
    explorer.controls["start"].value = 9
    assert calls == [1]


def test_vectors_and_seed_choose_what_there_is(generator):
    explorer = explore_latent_walk(generator, vectors=5, seed=1)
    assert (explorer.controls["end"].min, explorer.controls["end"].max) == (0, 4)
    drive_all(explorer)
    assert explorer.picture.value != explore_latent_walk(generator, vectors=5, seed=2).picture.value


def test_a_redraw_is_quick():
    explorer = explore_latent_walk(Generator())  # the size of the trained one
    explorer.controls["start"].value = 3
    spent = []
    for start in (4, 5, 6):
        begin = time.process_time()
        explorer.controls["start"].value = start
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.6  # seconds of one core; two cores have half of it to do


def test_an_error_in_a_callback_is_shown_kept_and_raised(generator, monkeypatch):
    explorer = explore_latent_walk(generator)

    def broken(*_):
        raise RuntimeError("no such walk")

    with monkeypatch.context() as patch:
        patch.setattr(lesson8, "walk", broken)
        with unchanged(generator), pytest.raises(RuntimeError, match="no such walk"):
            explorer.controls["start"].value = 3
    assert len(explorer.failures) == 1
    assert "no such walk" in explorer.problem.value
    explorer.controls["start"].value = 0
    assert explorer.problem.value == ""


def test_what_is_wrong_is_refused(generator, net):
    refuses("generator", explore_latent_walk, nn.Identity())
    refuses("generator", explore_latent_walk, "generator")
    refuses("net", explore_latent_walk, generator, nn.Identity())
    refuses("vectors", explore_latent_walk, generator, vectors=1)
    refuses("vectors", explore_latent_walk, generator, vectors=2.5)
    refuses("seed", explore_latent_walk, generator, seed=-1)
