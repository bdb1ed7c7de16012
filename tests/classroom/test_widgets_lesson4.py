"""The explorer of gradient ascent: every control from end to end, nothing climbed twice, errors seen."""

import io
import math
import time

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image

from lecture7_utils.classroom import widgets as explorers
from lecture7_utils.classroom.plots import picture
from lecture7_utils.classroom.widgets.lesson4 import SETTINGS
from lecture7_utils.kernels.ascent import ascend
from lecture7_utils.kernels.targets import class_probability, class_score, evaluate, unit
from lecture7_utils.shop.models import Classifier
from tests.classroom import test_widgets as driving
from tests.classroom.test_widgets import (
    CLASSES,
    SIDE,
    _changes,
    _differs,
    _numbers,
    _progress_of,
    drive_all,
    passes,
)
from tests.guards import refuses, unchanged

net = driving.net  # the fixture: a small classifier
OPTIONS = {"size": SIDE, "steps": 6, "keep_every": 2, "lambdas": (0.0, 1e-3, 1e-1)}


def make(net, objective=3, **changes):
    return explorers.explore_ascent(net, objective, **{**OPTIONS, **changes})


@pytest.mark.parametrize("objective", [3, class_score([2]), class_probability(1), unit("left.0", 0, "mean")])
def test_every_control_moves_from_end_to_end(objective, net):
    with unchanged(net):
        explorer = make(net, objective)
        seen = drive_all(explorer)
    assert list(seen) == ["lambda", "setting", "step", "climb", "reset"]
    expected = {
        "lambda": (True, True),
        "setting": (True, True),
        "step": (True, True),
        "climb": (False, False),
    }
    for control, (in_picture, in_readout) in expected.items():
        pictures, readouts = _changes(seen[control])
        assert (pictures > 1) == in_picture, control
        assert (readouts > 1) == in_readout, control


def test_reset_puts_everything_back_with_one_redraw(net):
    explorer = make(net)
    first = {n: c.value for n, c in explorer.controls.items() if not isinstance(c, widgets.Button)}
    view = explorer.picture.value, explorer.readout.value
    for name in first:
        explorer.controls[name].value = explorer.controls[name].options[0][1]
    assert (explorer.picture.value, explorer.readout.value) != view
    drawn = []
    explorer.readout.observe(drawn.append, "value")
    with passes(net) as count:
        explorer.controls["reset"].click()
    assert {name: explorer.controls[name].value for name in first} == first
    assert (explorer.picture.value, explorer.readout.value) == view
    assert len(drawn) == 1
    assert count == []


def test_only_the_button_climbs_and_never_twice(net):
    with passes(net) as count:
        explorer = make(net)
    once = [1] * 6 + [4] * 2  # the steps; the kept frames, for their scores and for s
    assert count == once
    with passes(net) as count:
        for name in ("lambda", "setting", "step"):
            for _, value in explorer.controls[name].options:
                explorer.controls[name].value = value
        explorer.controls["reset"].click()
        explorer.controls["climb"].click()
    assert count == []
    assert "steps" in explorer.readout.value
    explorer.controls["lambda"].value = 0.0
    assert "press <b>Climb</b>" in explorer.readout.value
    blank = explorer.picture.value
    with passes(net) as count:
        explorer.controls["climb"].click()
        explorer.controls["climb"].click()
        explorer.controls["lambda"].value = 1e-3
        explorer.controls["lambda"].value = 0.0
    assert count == once
    assert explorer.picture.value != blank
    assert not explorer.failures


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("penalty", [0.0, 1e-1])
@pytest.mark.parametrize("i", [0, 1, 3])
def test_it_shows_the_kernels_images_and_numbers(setting, penalty, i, net):
    explorer = make(net, seed=5)
    explorer.controls["lambda"].value = penalty
    explorer.controls["setting"].value = setting
    explorer.controls["climb"].click()
    explorer.controls["step"].value = i
    regularise, rate = SETTINGS[setting]
    bounds = net.colour(0, 0, 0), net.colour(255, 255, 255)
    made = ascend(
        net, 3, steps=6, rate=rate, l2=penalty, size=SIDE, bounds=bounds, regularise=regularise, keep_every=2,
        generator=5,
    )  # fmt: skip
    frame = made.frames[i]
    assert made.frame_steps == (0, 2, 4, 6)
    s = evaluate(net, frame, 3).item()
    off = penalty * frame.double().square().sum().item()
    p = 100 * evaluate(net, frame, class_probability(3)).item()
    first = net.top(frame, 1)[0][0]
    expected = [s, off, s - off, p, 100 * first.probability]
    assert _numbers(explorer.readout.value) == pytest.approx(expected, abs=0.06)
    for c in (3, first.index):
        assert CLASSES[c].replace("&", "&amp;") in explorer.readout.value
    assert _differs(explorer, 0, picture(net.display(frame)[0])) < 5


def test_the_chart_marks_the_step(net):
    explorer = make(net)
    places = []
    for i in range(4):
        explorer.controls["step"].value = i
        with Image.open(io.BytesIO(explorer.picture.value)) as image:
            left, right = explorers.pieces.PANEL + 12 + 62, 2 * explorers.pieces.PANEL + 12 - 30
            chart = np.asarray(image.convert("L"), dtype=float)[26 + 12 : 26 + 300, left - 1 : right + 2]
        places.append(int((np.abs(chart - 136) < 25).sum(0).argmax()))
    steps = np.diff(places)
    assert (steps > 0).all()
    assert steps.max() - steps.min() <= 2


def test_a_redraw_is_quick(net):
    explorer = make(net, size=128)
    begin = time.process_time()
    for _ in range(5):
        for i in (0, 1, 2, 3):
            explorer.controls["step"].value = i
    assert (time.process_time() - begin) / 20 < 0.3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_climb_that_breaks_can_be_made_again(error, net):
    explorer = make(net)
    explorer.controls["lambda"].value = 0.0
    view = explorer.picture.value
    forward, left = Classifier.forward, [3]

    def failing(self, images):
        left[0] -= 1
        if left[0] < 0:
            raise error("out of memory")
        return forward(self, images)

    with pytest.MonkeyPatch.context() as patch, unchanged(net):
        patch.setattr(Classifier, "forward", failing)
        explorer.controls["climb"].click()
    assert bool(explorer.failures) == (error is RuntimeError)
    assert ("out of memory" if error is RuntimeError else "press again") in explorer.problem.value
    assert not explorer.controls["climb"].disabled
    assert _progress_of(explorer).layout.visibility == "hidden"
    assert explorer.picture.value == view
    explorer.controls["climb"].click()
    assert explorer.problem.value == ""
    assert explorer.picture.value != view


def test_the_bar_counts_the_steps(net, monkeypatch):
    explorer = make(net)
    explorer.controls["lambda"].value = 0.0
    bar, seen = _progress_of(explorer), []
    bar.observe(lambda change: seen.append((change["new"], bar.max, bar.layout.visibility)), "value")
    explorer.controls["climb"].click()
    assert seen[-6:] == [(i, 6, "visible") for i in range(1, 7)]


def test_it_is_made_of_core_widgets(net):
    explorer = make(net)
    assert "l7-explorer" in explorer._dom_classes
    for control in explorer.controls.values():
        assert control._model_module == "@jupyter-widgets/controls"
        assert 0 < len(control.description) <= 24


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("net", lambda net: explorers.explore_ascent(torch.nn.ReLU(), 3)),
        ("objective", lambda net: make(net, [1, 2])),
        ("objective", lambda net: make(net, "dog")),
        ("objective", lambda net: make(net, 99)),
        ("layer", lambda net: make(net, unit("nowhere", 0))),
        ("lambdas", lambda net: make(net, lambdas=())),
        ("lambdas", lambda net: make(net, lambdas=0.1)),
        ("lambdas", lambda net: make(net, lambdas=[-1.0])),
        ("lambdas", lambda net: make(net, lambdas=[math.nan])),
        ("size", lambda net: make(net, size=0)),
        ("steps", lambda net: make(net, steps=0)),
        ("keep_every", lambda net: make(net, keep_every=0)),
        ("keep_every", lambda net: make(net, keep_every=7)),
        ("generator", lambda net: make(net, seed=-1)),
    ],
)
def test_bad_input_is_refused_by_name(argument, call, net):
    with unchanged(net):
        refuses(argument, call, net)
