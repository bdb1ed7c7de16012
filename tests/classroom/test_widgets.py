"""Explorers: every control from end to end, nothing computed twice, errors seen, both ipywidgets alike."""

import io
import math
import re
from contextlib import contextmanager
from datetime import UTC, datetime

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lecture7_utils.classroom import widgets as explorers
from lecture7_utils.classroom.plots import overlay, picture
from lecture7_utils.classroom.widgets.pieces import signed_text
from lecture7_utils.kernels.cam import boxes, class_activation_map, grad_cam
from lecture7_utils.kernels.occlusion import occlude, occlusion_map
from lecture7_utils.kernels.saliency import saliency_map, smooth_grad
from lecture7_utils.kernels.targets import class_probability, class_score, evaluate, unit
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import Photo
from lecture7_utils.shop.scenes import SPECIES, draw_scenes
from tests.guards import refuses, unchanged
from tests.nets import random_net

SIDE = 28
CLASSES = tuple(f"animal {chr(97 + i)} & co" for i in range(8))


def _photo(seed: int) -> Photo:
    """Coloured blobs that differ from photo to photo, so that every photo has its own scores."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Photo(f"photo {seed}", Image.fromarray(small).resize((40, 36), Image.Resampling.BICUBIC), None, "")


PHOTOS = [_photo(seed) for seed in range(3)]


@pytest.fixture
def net():
    steps = v2.Compose([v2.Resize((SIDE, SIDE)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    network = random_net(3, (SIDE, SIDE), classes=8, dtype=torch.float32, head="average")
    with torch.no_grad():
        network.head.weight.mul_(3)
    return Classifier(network, CLASSES, steps, "small").eval()


@contextmanager
def passes(net):
    """Counts the forward passes inside, as a list with one batch size for each."""
    seen = []
    handle = net.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------- driving them


def ends_and_between(control: widgets.Widget) -> list:
    """The values of a control from one end to the other; all of them where there are few."""
    if hasattr(control, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in control.options]
    steps = round((control.max - control.min) / control.step)
    places = sorted({0, 1, steps // 3, steps // 2, steps - 1, steps})
    return [type(control.value)(control.min + place * control.step) for place in places]


def drive_all(explorer: widgets.VBox) -> dict[str, list[tuple[bytes, str]]]:
    """Move every control from one end to the other and press every button; what was seen at each step.

    Each control begins where Reset puts it. Fails on what a callback raised, which ipywidgets would swallow.
    """
    seen = {}
    for name, control in explorer.controls.items():
        explorer.controls["reset"].click()
        seen[name] = [(explorer.picture.value, explorer.readout.value)]
        if isinstance(control, widgets.Button):
            control.click()
            seen[name].append((explorer.picture.value, explorer.readout.value))
        else:
            for value in ends_and_between(control):
                control.value = value
                assert control.value == value
                seen[name].append((explorer.picture.value, explorer.readout.value))
        assert not explorer.failures, f"{name}: {explorer.failures[-1]!r}"
        assert explorer.problem.value == ""
    for pixels, text in (step for steps in seen.values() for step in steps):
        with Image.open(io.BytesIO(pixels)) as image:
            image.load()
        assert len(pixels) < 400_000
        assert "nan" not in text
    return seen


def _changes(steps):
    """How many different pictures, and how many different readouts."""
    return len({pixels for pixels, _ in steps}), len({text for _, text in steps})


MAKERS = {
    "predictions": lambda net: explorers.explore_predictions(net, PHOTOS),
    "saliency": lambda net: explorers.explore_saliency(net, PHOTOS),
    "saliency of given classes": lambda net: explorers.explore_saliency(net, PHOTOS, [7, 0]),
    "occlusion": lambda net: explorers.explore_occlusion(net, PHOTOS[0]),
    "occlusion of a class": lambda net: explorers.explore_occlusion(net, PHOTOS[1], class_probability([5])),
    "cam": lambda net: explorers.explore_cam(net, PHOTOS),
    "offers": lambda net: explorers.explore_offers({"A": net, "B": net}, [3, 4, 5], seed=1),
}

# control: whether the picture and whether the readout has to change on its way
EXPECTED = {
    "predictions": {"photo": (True, True), "shift": (False, True), "rivals": (False, True)},
    "saliency": {
        "photo": (True, True),
        "class": (True, True),
        "reduce": (True, True),
        "quantile": (True, True),
        "blend": (True, False),
        "samples": (False, True),
        "compute": (False, False),  # n = 1 needs no button
    },
    "occlusion": {
        "row": (True, True),
        "column": (True, True),
        "window": (True, True),
        "fill": (True, True),
        "sweep": (True, False),
    },
    "cam": {
        "photo": (True, True),
        "class": (True, True),
        "threshold": (True, True),
        "blend": (True, False),
    },
    "offers": {
        "photo": (True, True),
        "tag": (True, True),
        "without": (True, True),
        "method": (True, False),
    },
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_control_moves_from_end_to_end(name, net):
    with unchanged(net):
        explorer = MAKERS[name](net)
        seen = drive_all(explorer)
    expected = EXPECTED[name.split(" of ")[0]]
    assert set(seen) == {*expected, "reset"}
    for control, (in_picture, in_readout) in expected.items():
        pictures, readouts = _changes(seen[control])
        assert (pictures > 1) == in_picture, control
        assert (readouts > 1) == in_readout, control


@pytest.mark.parametrize("name", MAKERS)
def test_reset_puts_everything_back_with_one_redraw(name, net):
    explorer = MAKERS[name](net)
    first = {n: c.value for n, c in explorer.controls.items() if hasattr(c, "value")}
    view = explorer.picture.value, explorer.readout.value
    for n, c in explorer.controls.items():
        if n in first:
            c.value = ends_and_between(c)[-1]
    assert (explorer.picture.value, explorer.readout.value) != view
    pictures, readouts = [], []  # one of them may stay: two places can read the same
    explorer.picture.observe(pictures.append, "value")
    explorer.readout.observe(readouts.append, "value")
    with passes(net) as count:
        explorer.controls["reset"].click()
    assert {n: c.value for n, c in explorer.controls.items() if n in first} == first
    assert (explorer.picture.value, explorer.readout.value) == view
    assert max(len(pictures), len(readouts)) == 1
    assert count == []


@pytest.mark.parametrize("name", MAKERS)
def test_an_explorer_is_made_of_core_widgets_and_can_be_found(name, net):
    explorer = MAKERS[name](net)
    assert isinstance(explorer, widgets.VBox)
    assert "l7-explorer" in explorer._dom_classes
    assert "l7-picture" in explorer.picture._dom_classes
    assert "l7-readout" in explorer.readout._dom_classes

    def parts(widget):
        return [widget, *(part for child in getattr(widget, "children", ()) for part in parts(child))]

    inside = parts(explorer)
    for widget in inside:
        assert widget._model_module in ("@jupyter-widgets/controls", "@jupyter-widgets/base")
        assert (
            widget._model_name == f"{type(widget).__mro__[0 if widget is not explorer else 1].__name__}Model"
        )
    for part in (*explorer.controls.values(), explorer.picture, explorer.readout, explorer.problem):
        assert part in inside
    for control in explorer.controls.values():
        assert 0 < len(control.description) <= 24, control.description


@pytest.mark.parametrize("name", ["occlusion"])
def test_what_needs_a_forward_pass_waits_until_the_slider_is_let_go(name, net):
    sliders = [c for c in MAKERS[name](net).controls.values() if isinstance(c, widgets.IntSlider)]
    assert len(sliders) == 3
    assert not any(slider.continuous_update for slider in sliders)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", MAKERS)
def test_an_error_in_a_callback_is_shown_kept_and_raised(name, net):
    explorer = MAKERS[name](net)
    control = explorer.controls["row" if "row" in explorer.controls else "photo"]
    value = control.value
    good = explorer.readout.value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "forward", lambda self, images: images.reshape(-1, 7777))
        with pytest.raises(RuntimeError, match="7777"):
            control.value = ends_and_between(control)[-1]
    assert len(explorer.failures) == 1
    assert "RuntimeError" in explorer.problem.value
    assert "7777" in explorer.problem.value
    control.value = value
    assert explorer.problem.value == ""
    assert explorer.readout.value == good


@pytest.mark.parametrize(("name", "button"), [("saliency", "compute"), ("occlusion", "sweep")])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_button_whose_work_fails_can_be_pressed_again(name, button, error, net):
    explorer = MAKERS[name](net)
    if name == "saliency":
        explorer.controls["samples"].value = 4
    view = explorer.picture.value
    forward, left = Classifier.forward, [2]

    def failing(self, images):
        left[0] -= 1
        if left[0] < 0:
            raise error("out of memory")
        return forward(self, images)

    with pytest.MonkeyPatch.context() as patch, unchanged(net):
        patch.setattr(Classifier, "forward", failing)
        explorer.controls[button].click()  # ipywidgets itself swallows what a click raises
    assert bool(explorer.failures) == (error is RuntimeError)
    assert ("out of memory" if error is RuntimeError else "press again") in explorer.problem.value
    assert not explorer.controls[button].disabled
    assert _progress_of(explorer).layout.visibility == "hidden"
    assert explorer.picture.value == view
    explorer.controls[button].click()
    assert explorer.problem.value == ""
    assert explorer.picture.value != view


def test_driving_fails_on_what_a_click_swallows(net, monkeypatch):
    explorer = MAKERS["occlusion"](net)
    monkeypatch.setattr(explorers.lesson2, "running", lambda *_: 1 / 0)
    with pytest.raises(AssertionError, match=r"sweep: ZeroDivisionError"):
        drive_all(explorer)


def _progress_of(explorer):
    (found,) = (
        widget
        for row in explorer.children
        for widget in getattr(row, "children", ())
        if isinstance(widget, widgets.IntProgress)
    )
    return found


# ------------------------------------------------------------------------------------------- lesson 0


def _numbers(text):
    plain = re.sub("<[^>]*>", " ", text).replace("\N{MINUS SIGN}", "-")
    return [float(v) for v in re.findall(r"[-+]?\d+\.\d+", plain)]


def test_predictions_run_the_network_once_for_each_photo(net):
    with passes(net) as count:
        drive_all(explorers.explore_predictions(net, PHOTOS))
    assert count == [1] * len(PHOTOS)


@pytest.mark.parametrize(("shift", "rivals"), [(0.0, 0.0), (7.5, 0.0), (0.0, -6.0), (-10.0, 10.0)])
def test_predictions_show_the_scores_and_their_softmax(shift, rivals, net):
    explorer = explorers.explore_predictions(net, PHOTOS)
    explorer.controls["photo"].value = 1
    explorer.controls["shift"].value = shift
    explorer.controls["rivals"].value = rivals
    with torch.no_grad():
        scores = net(net.preprocess(PHOTOS[1]))[0].double()
    winner = int(scores.argmax())
    moved = scores + shift + rivals * (torch.arange(8) != winner)
    before, after = (float((s - s.max()).exp()[winner] / (s - s.max()).exp().sum()) for s in (scores, moved))
    shown = _numbers(explorer.readout.value)[-4:]
    expected = [float(scores[winner]), float(moved[winner]), 100 * before, 100 * after]
    assert shown == pytest.approx(expected, abs=0.051)
    if rivals == 0:
        assert shown[2] == shown[3]
    elif shift == 0:
        assert shown[0] == shown[1]
        assert shown[2] != shown[3]
    assert explorer.readout.value.count("animal ") == 5 + 1  # the top 5, and the watched class below
    assert "&amp;" in explorer.readout.value


# ------------------------------------------------------------------------------------------- lesson 1


def test_saliency_computes_a_gradient_once_and_shows_it_many_times(net):
    with passes(net) as count:
        explorer = explorers.explore_saliency(net, PHOTOS)
    first = len(count)
    with passes(net) as count:
        for name in ("blend", "quantile", "reduce", "samples"):
            for value in ends_and_between(explorer.controls[name]):
                explorer.controls[name].value = value
    assert first == 2  # the scores, and the gradient's own pass
    assert count == []
    classes = ends_and_between(explorer.controls["class"])
    with passes(net) as count:
        for value in [*classes, *classes]:
            explorer.controls["class"].value = value
    assert count == [1] * 4
    explorer.controls["class"].value = classes[0]
    explorer.controls["samples"].value = 8
    with passes(net) as count:
        explorer.controls["compute"].click()
    assert sum(count) == 8
    with passes(net) as count:
        explorer.controls["compute"].click()
        explorer.controls["samples"].value = 1
        explorer.controls["samples"].value = 8
    assert count == []


def _differs(explorer, number, pixels):
    """How far a panel of the explorer's picture is from these pixels, enlarged: the mean of 0 to 255."""
    size = explorers.pieces.PANEL
    enlarged = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    with Image.open(io.BytesIO(explorer.picture.value)) as image:
        left = number * (size + 12)
        panel = np.asarray(image.crop((left, 26, left + size, 26 + size))).astype(float)
    return np.abs(panel - np.asarray(enlarged)).mean()


@pytest.mark.parametrize("reduce", ["max", "l2"])
@pytest.mark.parametrize("samples", [1, 8])
def test_saliency_shows_the_kernels_map(reduce, samples, net):
    explorer = explorers.explore_saliency(net, PHOTOS)
    controls = explorer.controls
    controls["photo"].value = 2
    c = ends_and_between(controls["class"])[3]
    controls["class"].value = c
    controls["reduce"].value = reduce
    controls["samples"].value = samples
    controls["compute"].click()
    controls["quantile"].value = 95.0
    images = net.preprocess(PHOTOS[2])
    if samples == 1:
        map_ = saliency_map(net, images, c, reduce=reduce)[0]
    else:
        map_ = smooth_grad(net, images, c, samples=8, reduce=reduce, generator=0)[0]
    top = np.percentile(map_.numpy(), 95)
    shown = re.search(r"stands for (\S+) and above: (\S+) %", explorer.readout.value)
    assert float(shown.group(1)) == pytest.approx(top, rel=6e-3)
    assert float(shown.group(2)) == pytest.approx(5, abs=0.2)
    pixels = picture(net.display(images)[0])
    expected = overlay(pixels, map_, alpha=controls["blend"].value, limits=(0.0, float(top)))
    assert _differs(explorer, 1, expected) < 4
    assert _differs(explorer, 0, pixels) < 4
    controls["blend"].value = 0.0
    assert _differs(explorer, 1, pixels) < 4 < _differs(explorer, 1, expected)


def test_saliency_says_what_waits_for_the_button(net):
    explorer = explorers.explore_saliency(net, PHOTOS)
    explorer.controls["samples"].value = 16
    assert "press" in explorer.readout.value
    explorer.controls["compute"].click()
    assert "press" not in explorer.readout.value


def test_saliency_offers_the_top_five_of_each_photo_or_the_given_classes(net):
    explorer = explorers.explore_saliency(net, PHOTOS)
    for i, photo in enumerate(PHOTOS):
        explorer.controls["photo"].value = i
        expected = [p.index for p in net.top(net.preprocess(photo))[0]]
        assert ends_and_between(explorer.controls["class"]) == expected
        assert explorer.controls["class"].value == expected[0]
    explorer = explorers.explore_saliency(net, PHOTOS, classes=[6, 2])
    assert ends_and_between(explorer.controls["class"]) == [6, 2]


# ------------------------------------------------------------------------------------------- lesson 2


def test_occlusion_runs_the_network_once_for_each_new_place(net):
    with passes(net) as count:
        explorer = explorers.explore_occlusion(net, PHOTOS[0])
    assert count == [1, 1]  # the whole photo, and the first place
    rows = ends_and_between(explorer.controls["row"])
    first = explorer.controls["row"].value
    with passes(net) as count:
        for value in [*rows, *rows]:
            explorer.controls["row"].value = value
    assert count == [1] * len(set(rows) - {first})


@pytest.mark.parametrize("fill", explorers.lesson2.FILLS)
def test_occlusion_reads_what_the_kernel_gives(fill, net):
    explorer = explorers.explore_occlusion(net, PHOTOS[1], class_score(5))
    explorer.controls["fill"].value = fill
    explorer.controls["row"].value = 20
    explorer.controls["column"].value = 4
    explorer.controls["window"].value = 12
    images = net.preprocess(PHOTOS[1])
    colour = {"grey": 127, "black": 0, "white": 255}
    baseline = net.colour(*[colour[fill]] * 3) if fill in colour else fill.split()[0]
    copy = occlude(images, (20, 4, 32, 16), baseline)
    score = [evaluate(net, x, 5).item() for x in (images, copy)]
    share = [100 * evaluate(net, x, class_probability(5)).item() for x in (images, copy)]
    winner = net.top(copy, 1)[0][0]
    expected = [*score, score[1] - score[0], *share, share[1] - share[0], 100 * winner.probability]
    assert _numbers(explorer.readout.value) == pytest.approx(expected, abs=0.051)
    assert winner.category.replace("&", "&amp;") in explorer.readout.value
    assert CLASSES[5].replace("&", "&amp;") in explorer.readout.value
    assert _differs(explorer, 0, picture(net.display(copy)[0])) < 4


def test_occlusion_sweeps_once_for_each_window_and_fill(net):
    explorer = explorers.explore_occlusion(net, PHOTOS[0], 3)
    window = explorer.controls["window"].value
    stride = round(SIDE / 14)
    images = net.preprocess(PHOTOS[0])
    swept = occlusion_map(net, images, 3, window=window, stride=stride, baseline=net.colour(127, 127, 127))
    with passes(net) as count:
        explorer.controls["sweep"].click()
    assert sum(count) == swept.scores.numel()
    assert len(count) == math.ceil(swept.scores.numel() / 8)
    drops = swept.map("drop")[0]
    most = float(drops.abs().max())
    pixels = picture(net.display(images)[0])
    expected = overlay(pixels, drops, alpha=0.75, colours="RdBu_r", limits=(-most, most))
    explorer.controls["row"].value = explorer.controls["row"].max  # the outline out of the way
    assert _differs(explorer, 1, expected) < 4
    view = explorer.picture.value
    with passes(net) as count:
        explorer.controls["sweep"].click()
    assert count == []
    explorer.controls["fill"].value = "black"
    with passes(net) as count:
        explorer.controls["fill"].value = "grey"
    assert count == []
    assert explorer.picture.value == view
    explorer.controls["fill"].value = "black"
    with passes(net) as count:
        explorer.controls["sweep"].click()
    assert sum(count) == swept.scores.numel()


@pytest.mark.parametrize("window", [1, 3, 9, 27, 28])
def test_occlusion_announces_as_many_passes_as_the_kernel_has_places(window, net):
    explorer = explorers.explore_occlusion(net, PHOTOS[0])
    explorer.controls["window"].value = window
    images = net.preprocess(PHOTOS[0])
    swept = occlusion_map(net, images, 0, window=window, stride=2)
    starts = explorers.lesson2._starts(SIDE, window, 2)
    assert starts == sorted({top for top, *_ in swept.rectangles.flatten(0, 1).tolist()})


# ------------------------------------------------------------------------------------------- lesson 3


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "+0.00"), (0.0, "+0.00"), (-0.31, "\N{MINUS SIGN}0.31")]
)
def test_a_difference_that_rounds_to_zero_has_no_minus(value, text):
    assert signed_text(value) == text


def test_cam_runs_the_network_once_for_each_photo_and_each_class_looked_at(net):
    explorer = explorers.explore_cam(net, PHOTOS)
    with passes(net) as count:
        for name in ("threshold", "blend"):
            for value in ends_and_between(explorer.controls[name]):
                explorer.controls[name].value = value
    assert count == []
    classes = ends_and_between(explorer.controls["class"])
    with passes(net) as count:
        for value in [*classes, *classes]:
            explorer.controls["class"].value = value
    assert count == [1] * (len(classes) - 1)
    with passes(net) as count:
        for photo in (1, 2, 0, 1, 2):
            explorer.controls["photo"].value = photo
    assert count == [1] * 4  # the scores and the first class of each of the other two


@pytest.mark.parametrize("threshold", [5, 50, 95])
def test_cam_reads_the_identity_and_the_box_of_the_kernels(threshold, net):
    explorer = explorers.explore_cam(net, PHOTOS)
    explorer.controls["photo"].value = 1
    c = ends_and_between(explorer.controls["class"])[1]
    explorer.controls["class"].value = c
    explorer.controls["threshold"].value = threshold
    images = net.preprocess(PHOTOS[1])
    grid = class_activation_map(net, images, c, size=None)
    score, bias = evaluate(net, images, c).item(), net.head.bias[c].item()
    text = explorer.readout.value
    assert CLASSES[c].replace("&", "&amp;") in text
    read = _numbers(text)
    sign = 1 if "+ bias" in text else -1
    expected = [grid.mean().item(), sign * bias, score, score]
    assert read[:4] == pytest.approx(expected, abs=6e-4)
    large = class_activation_map(net, images, c)
    found = boxes(large, threshold / 100)[0]
    x1, y1, x2, y2 = (int(v) for v in found.boxes[0])
    assert f"x {x1} to {x2}, y {y1} to {y2}" in text
    assert f"{len(found.boxes)} region" in text
    assert read[-1] == pytest.approx(100 * (x2 - x1) * (y2 - y1) / SIDE**2, abs=0.051)
    explorer.controls["blend"].value = 1.0
    top = max(grid.max().item(), large.max().item())
    pixels = picture(net.display(images)[0])
    assert (
        _differs(explorer, 1, overlay(pixels, large, alpha=1.0, limits=(0.0, top))) < 12
    )  # the box is drawn
    explorer.controls["blend"].value = 0.0
    assert _differs(explorer, 1, pixels) < 12


def test_cam_shows_the_maps_own_numbers_as_cells(net):
    explorer = explorers.explore_cam(net, PHOTOS)
    c = explorer.controls["class"].value
    images = net.preprocess(PHOTOS[0])
    grid = class_activation_map(net, images, c, size=None)[0]
    top = max(grid.max().item(), class_activation_map(net, images, c).max().item())
    cells = np.kron(grid.numpy(), np.ones((8, 8)))
    blank = np.zeros((*cells.shape, 3), np.uint8)
    enlarged = overlay(blank, cells, alpha=1.0, limits=(0.0, top))
    size = explorers.pieces.PANEL
    expected = np.asarray(Image.fromarray(enlarged).resize((size, size), Image.Resampling.NEAREST))
    with Image.open(io.BytesIO(explorer.picture.value)) as image:
        panel = np.asarray(image.crop((0, 26, size, 26 + size))).astype(float)
    assert np.abs(panel - expected).mean() < 6


def test_cam_says_where_a_map_is_nowhere_above_zero(net):
    with torch.no_grad():
        net.head.weight.zero_()
    explorer = explorers.explore_cam(net, PHOTOS)
    assert "no box" in explorer.readout.value
    assert "mean of the map 0.000" in explorer.readout.value
    drive_all(explorer)


def test_cam_refuses_a_network_without_a_global_average():
    steps = v2.Compose([v2.Resize((SIDE, SIDE)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 8))
    net = Classifier(flat, CLASSES, steps, "flat").eval()
    with unchanged(net), pytest.raises(ValueError, match=r"^net: expected a network that ends in a global"):
        explorers.explore_cam(net, PHOTOS)


# ------------------------------------------------------------------------------------------- lesson 9


@pytest.fixture
def offers(net):
    """Two networks that know the shop's species."""
    other = random_net(4, (SIDE, SIDE), classes=8, dtype=torch.float32, head="average")
    steps = net.__dict__["_preprocess"]
    other = Classifier(other, SPECIES, steps, "other").eval()
    return {"first": Classifier(net.__dict__["_network"], SPECIES, steps, "one").eval(), "second": other}


def _rows(readout: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(.*?)</tr>", readout)[1:]
    return [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in lines]


@pytest.mark.parametrize("tag", [None, "cat", "frog", "no tag"])
@pytest.mark.parametrize("without", ["nothing", "the animal"])
def test_offers_read_what_the_networks_say_of_the_changed_scene(tag, without, offers):
    explorer = explorers.explore_offers(offers, [4, 9], seed=2)
    explorer.controls["photo"].value = 1
    own = draw_scenes([9], seed=2).labels[0]
    assert explorer.controls["tag"].value == SPECIES[own]
    if tag is not None:
        explorer.controls["tag"].value = tag
    explorer.controls["without"].value = without
    drawn = draw_scenes(
        [9],
        seed=2,
        tag=False if tag == "no tag" else tag or SPECIES[own],
        leave_out=() if without == "nothing" else ("animals", "shadows"),
    )
    for row, (name, net) in zip(_rows(explorer.readout.value), offers.items(), strict=True):
        first = net.top(net.preprocess(drawn.images[0]), 1)[0][0]
        truth = "" if without != "nothing" else "right" if first.index == own else "wrong"
        assert row == [name, first.category, f"{100 * first.probability:.1f} %", truth]


@pytest.mark.parametrize("method", ["Grad-CAM", "SmoothGrad", "saliency"])
def test_offers_show_the_kernels_map_of_each_networks_answer(method, offers, monkeypatch):
    laid = []
    monkeypatch.setattr(
        explorers.lesson9, "overlay", lambda image, map: laid.append(map) or overlay(image, map)
    )
    explorer = explorers.explore_offers(offers, [4], seed=2)
    laid.clear()
    explorer.controls["tag"].value = "no tag"
    explorer.controls["method"].value = method
    image = draw_scenes([4], seed=2, tag=False).images[0]
    kernels = {
        "Grad-CAM": grad_cam,
        "SmoothGrad": lambda net, images, c: smooth_grad(net, images, c, samples=4),
        "saliency": saliency_map,
    }
    for got, net in zip(laid[-2:], offers.values(), strict=True):
        images = net.preprocess(image)
        want = kernels[method](net, images, net.top(images, 1)[0][0].index)[0]
        torch.testing.assert_close(got, want)


def test_offers_draw_and_ask_once_for_each_photo(offers):
    explorer = explorers.explore_offers(offers, [4, 9], seed=2)
    with passes(offers["first"]) as count:
        explorer.controls["tag"].value = "frog"
        assert len(count) == 2  # the answer and its Grad-CAM
        explorer.controls["method"].value = "saliency"
        assert len(count) == 3
        explorer.controls["method"].value = "Grad-CAM"
        explorer.controls["reset"].click()
        explorer.controls["tag"].value = "frog"
        assert len(count) == 3


# ------------------------------------------------------------------------------------------- your own photo


def _png(seed=0, mode="RGB", size=(50, 30)):
    file = io.BytesIO()
    _photo(seed).image.resize(size).convert(mode).save(file, "PNG")
    return file.getvalue()


def _upload(root, name, content):
    """Put a file into the FileUpload as the installed ipywidgets does it."""
    control = root.controls["upload"]
    if widgets.__version__.startswith("7."):
        value = {name: {"metadata": {"name": name, "type": "image/png"}, "content": content}}
    else:
        value = (
            {
                "name": name,
                "type": "image/png",
                "size": len(content),
                "content": memoryview(content),
                "last_modified": datetime.now(UTC),
            },
        )
    control.set_trait("value", value)


def test_an_uploaded_photo_is_shown(net):
    got = []
    root = explorers.upload_photo(net, lambda photo, images: got.append((photo, images)))
    assert isinstance(root, widgets.VBox)
    assert "Choose a picture" in root.readout.value
    assert got == []
    _upload(root, "my <dog>.png", _png())
    _upload(root, "grey.png", _png(1, "L", (33, 60)))
    (first, images), (second, _) = got
    assert isinstance(first, Photo)
    assert first.name == "my <dog>.png"
    assert first.image.size == (50, 30)
    assert torch.equal(images, net.preprocess(first))
    assert second.image.mode == "RGB"
    assert "grey.png, 33 × 60 pixels" in root.readout.value
    assert root.failures == []
    root.controls["reset"].click()
    assert "Choose a picture" in root.readout.value


@pytest.mark.parametrize("content", [b"", b"not a picture", _png()[:40], _png()[:-200]])
def test_a_broken_file_gets_a_message_and_no_call(content, net):
    root = explorers.upload_photo(net, lambda photo, images: pytest.fail("must not be called"))
    _upload(root, "<b>broken.png", content)
    assert "&lt;b&gt;broken.png" in root.readout.value
    assert "Choose another file" in root.readout.value
    assert "source:" not in root.readout.value
    assert " at 0x" not in root.readout.value


def test_what_show_raises_is_raised_and_kept(net):
    def show(photo, images):
        raise ZeroDivisionError("in show")

    root = explorers.upload_photo(net, show)
    with pytest.raises(ZeroDivisionError, match="in show"):
        _upload(root, "a.png", _png())
    assert [type(error) for error in root.failures] == [ZeroDivisionError]


def test_the_files_of_both_ipywidgets_are_read():
    old = {"a.png": {"metadata": {"name": "a.png"}, "content": b"123"}}
    new = ({"name": "a.png", "type": "", "size": 3, "content": memoryview(b"123")},)
    assert explorers.upload._uploaded(old) == explorers.upload._uploaded(new) == ("a.png", b"123")
    assert explorers.upload._uploaded({}) is explorers.upload._uploaded(()) is None


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("net", lambda net: explorers.explore_predictions(torch.nn.ReLU(), PHOTOS)),
        ("net", lambda net: explorers.explore_saliency(None, PHOTOS)),
        ("net", lambda net: explorers.explore_occlusion("small", PHOTOS[0])),
        ("net", lambda net: explorers.upload_photo(torch.nn.ReLU(), print)),
        ("photos", lambda net: explorers.explore_predictions(net, PHOTOS[0])),
        ("photos", lambda net: explorers.explore_predictions(net, [])),
        ("photos", lambda net: explorers.explore_saliency(net, "dalmatian")),
        ("photos", lambda net: explorers.explore_saliency(net, None)),
        ("classes", lambda net: explorers.explore_saliency(net, PHOTOS, [8])),
        ("classes", lambda net: explorers.explore_saliency(net, PHOTOS, [])),
        ("classes", lambda net: explorers.explore_saliency(net, PHOTOS, [1.5])),
        ("classes", lambda net: explorers.explore_saliency(net, PHOTOS, 3)),
        ("net", lambda net: explorers.explore_cam(torch.nn.ReLU(), PHOTOS)),
        ("photos", lambda net: explorers.explore_cam(net, [])),
        ("offers", lambda net: explorers.explore_offers(net, [0])),
        ("offers", lambda net: explorers.explore_offers({}, [0])),
        ("offers", lambda net: explorers.explore_offers({"A": torch.nn.ReLU()}, [0])),
        ("scenes", lambda net: explorers.explore_offers({"A": net}, [])),
        ("scenes", lambda net: explorers.explore_offers({"A": net}, 3)),
        ("scenes", lambda net: explorers.explore_offers({"A": net}, [-1])),
        ("seed", lambda net: explorers.explore_offers({"A": net}, [0], seed=-1)),
        ("target", lambda net: explorers.explore_occlusion(net, PHOTOS[0], 8)),
        ("target", lambda net: explorers.explore_occlusion(net, PHOTOS[0], [1, 2])),
        ("target", lambda net: explorers.explore_occlusion(net, PHOTOS[0], "dog")),
        ("target", lambda net: explorers.explore_occlusion(net, PHOTOS[0], unit("stem", 0))),
        ("show", lambda net: explorers.upload_photo(net, None)),
    ],
)
def test_bad_input_is_refused_by_name(argument, call, net):
    with unchanged(net):
        refuses(argument, call, net)
