"""The explorer of lesson 7: every control from end to end, the right activation, field and trace, errors."""

import io
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from lecture7_utils.classroom.traces import trace_picture
from lecture7_utils.classroom.widgets import explore_trace, lesson7
from lecture7_utils.classroom.widgets.pieces import Explorer
from lecture7_utils.kernels.deconvnet import deconvnet
from lecture7_utils.kernels.layers import activations
from lecture7_utils.kernels.receptive import receptive_field
from lecture7_utils.kernels.targets import unit
from lecture7_utils.shop.models import Classifier, load_model
from lecture7_utils.shop.photos import Photo
from tests.classroom.explorers import resets_with_one_redraw
from tests.classroom.test_widgets import _changes, drive_all
from tests.guards import refuses, unchanged

SIDE = 24
MINUS = "\N{MINUS SIGN}"


def _photo(seed: int) -> Photo:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Photo(f"photo {seed}", Image.fromarray(small).resize((30, 28), Image.Resampling.BICUBIC), None, "")


PHOTOS = [_photo(seed) for seed in range(3)]


def chain(*, sigmoid: bool = False) -> Classifier:
    """A small chain with two poolings, its maps 12 × 12 and 6 × 6."""
    generator = torch.Generator().manual_seed(4)
    layers = [
        nn.Conv2d(3, 5, 3, padding=1), nn.Sigmoid() if sigmoid else nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(7 * 36, 4),
    ]  # fmt: skip
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    steps = v2.Compose([v2.Resize((SIDE, SIDE)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    return Classifier(network, ("a", "b", "c", "d & co"), steps, "chain").eval()


@pytest.fixture(scope="module")
def net():
    return chain()


def plain(explorer) -> str:
    return re.sub("<[^>]*>", "", explorer.readout.value.replace("<br>", "\n")).replace(MINUS, "-")


def setting(explorer, **values) -> None:
    for name, value in values.items():
        explorer.controls[name].value = value


def panel(explorer, which: int) -> np.ndarray:
    with Image.open(io.BytesIO(explorer.picture.value)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    left = which * (lesson7.PANEL + lesson7.GAP)
    return pixels[lesson7.ABOVE : lesson7.ABOVE + lesson7.PANEL, left : left + lesson7.PANEL]


def large(pixels: np.ndarray) -> np.ndarray:
    """A square picture as large as a panel, by repeating pixels."""
    how = Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((lesson7.PANEL, lesson7.PANEL), how)).astype(float)


def where(explorer) -> tuple[int, int]:
    return explorer.controls["row"].value, explorer.controls["column"].value


def largest(net, photo: int, layer: str, channel: int) -> tuple[int, int]:
    map = activations(net, net.preprocess(PHOTOS[photo]), layer)[0, channel]
    best = max((map[i, j].item(), -i, -j) for i, j in np.ndindex(*map.shape))
    return -best[1], -best[2]


# ---- driving


def test_every_control_moves_from_end_to_end(net):
    with unchanged(net):
        explorer = explore_trace(net, PHOTOS)
        seen = drive_all(explorer)
    assert isinstance(explorer, Explorer)
    names = {"photo", "layer", "channel", "row", "column", "rule", "view", "next", "reset"}
    assert set(seen) == names
    for control in ("photo", "layer", "channel", "row", "column"):
        pictures, readouts = _changes(seen[control])
        assert pictures > 1, control
        assert readouts > 1, control
    assert _changes(seen["view"])[0] == 2
    texts = [c.description for n, c in explorer.controls.items() if n != "reset"]
    assert all(0 < len(text) <= 24 for text in texts)


def test_controls_are_core_widgets_that_a_keyboard_moves(net):
    kinds = {type(c).__name__ for c in explore_trace(net, PHOTOS).controls.values()}
    assert kinds <= {"Dropdown", "IntSlider", "Button"}


def test_it_begins_with_the_strongest_activation_of_the_last_layer(net):
    explorer = explore_trace(net, PHOTOS)
    maps = activations(net, net.preprocess(PHOTOS[0]), "5")[0]
    channel = explorer.controls["channel"].value
    assert explorer.controls["layer"].value == "5"
    assert maps[channel].max() == maps.max()
    assert where(explorer) == largest(net, 0, "5", channel)
    assert "number 1 of 36" in plain(explorer)


def test_photo_layer_and_channel_go_to_the_largest_activation(net):
    explorer = explore_trace(net, PHOTOS)
    setting(explorer, layer="2", channel=3)
    assert where(explorer) == largest(net, 0, "2", 3)
    setting(explorer, row=0, column=0, photo=2)
    assert where(explorer) == largest(net, 2, "2", 3)
    setting(explorer, layer="4")
    assert where(explorer) == largest(net, 2, "4", 3)
    setting(explorer, row=1, column=11)
    assert where(explorer) == (1, 11)


def test_the_button_goes_through_the_activations_above_0_in_the_order_of_their_size(net):
    explorer = explore_trace(net, PHOTOS)
    setting(explorer, layer="4", channel=3)
    map = activations(net, net.preprocess(PHOTOS[0]), "4")[0, 3]
    places = [(-map[i, j].item(), i, j) for i, j in np.ndindex(*map.shape) if map[i, j] > 0]
    order = [(i, j) for _, i, j in sorted(places)]
    assert 3 < len(order) < map.numel()
    drawn = []
    explorer.picture.observe(drawn.append, "value")
    met = []
    for _ in range(len(order) + 1):
        met.append(where(explorer))
        explorer.controls["next"].click()
    assert met == [*order, order[0]]
    assert len(drawn) == len(order) + 1
    off = (map == 0).nonzero()[-1].tolist()
    setting(explorer, row=off[0], column=off[1])
    explorer.controls["next"].click()
    assert where(explorer) == order[0]


def test_sliders_end_where_the_layer_does(net):
    explorer = explore_trace(net, PHOTOS)
    for layer in ("1", "2", "4", "5"):
        setting(explorer, layer=layer)
        shape = activations(net, net.preprocess(PHOTOS[0]), layer).shape[1:]
        assert tuple(explorer.controls[n].max + 1 for n in ("channel", "row", "column")) == tuple(shape)
    setting(explorer, layer="5", channel=6)
    setting(explorer, layer="1")  # has 5 channels
    assert explorer.controls["channel"].value == 4
    assert "Channel 4 of 1" in plain(explorer)


def test_reset_puts_everything_back_with_one_redraw(net):
    resets_with_one_redraw(explore_trace(net, PHOTOS), ("reset", "next"))


# ---- what it shows


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize(
    ("layer", "channel", "row", "column"), [("1", 2, 3, 20), ("2", 0, 11, 0), ("4", 6, 5, 7)]
)
def test_the_trace_is_that_of_the_activation(net, layer, channel, row, column, rule):
    explorer = explore_trace(net, PHOTOS)
    setting(explorer, photo=1, layer=layer, channel=channel, row=row, column=column, rule=rule)
    images = net.preprocess(PHOTOS[1])
    want = deconvnet(net, images, unit(layer, channel, (row, column)), rule=rule)[0]
    box = receptive_field(net, layer, SIDE)[channel, row, column].tolist()
    value = activations(net, images, layer)[0, channel, row, column].item()
    text = plain(explorer)
    assert f"Channel {channel} of {layer}, row {row}, column {column}" in text
    assert float(re.search(r"activation (\S+),", text)[1]) == pytest.approx(value, rel=0.01)
    assert f"rows {box[0]} to {box[2] - 1} and columns {box[1]} to {box[3] - 1}" in text
    assert ("Nothing comes back" in text) == bool((want == 0).all())
    shown, expected = panel(explorer, 2), large(trace_picture(want))
    # the frame lies over a few pixels, and JPEG is not exact
    assert np.quantile(np.abs(shown - expected), 0.8) < 25


def test_an_activation_of_0_sends_nothing_back(net):
    explorer = explore_trace(net, PHOTOS)
    maps = activations(net, net.preprocess(PHOTOS[0]), "1")[0]
    channel, row, column = (maps == 0).nonzero()[0].tolist()
    setting(explorer, layer="1", channel=channel, row=row, column=column)
    assert "Nothing comes back: the activation is 0" in plain(explorer)
    assert np.abs(panel(explorer, 2)[100:150, 100:150] - 128).max() < 60


def test_the_map_is_drawn_and_the_activation_framed(net):
    explorer = explore_trace(net, PHOTOS)
    setting(explorer, layer="5", channel=2, row=3, column=1)
    map = activations(net, net.preprocess(PHOTOS[0]), "5")[0, 2].numpy()
    cell, shown = lesson7.PANEL / 6, panel(explorer, 1)
    brightness = [
        [shown[int((i + 0.5) * cell), int((j + 0.5) * cell)].sum() for j in range(6)] for i in range(6)
    ]
    order = np.corrcoef(np.argsort(np.argsort(map.flatten())), np.argsort(np.argsort(np.ravel(brightness))))
    assert order[0, 1] > 0.9
    edge = shown[int(3 * cell) - lesson7.RIM : int(3 * cell) + 1, int(1.5 * cell)].sum(1)
    assert edge.max() > 600  # white
    assert edge.min() < 200  # and black


def test_the_receptive_field_is_cut_out_on_request(net):
    explorer = explore_trace(net, PHOTOS)
    setting(explorer, layer="4", channel=6, row=5, column=7, view=True)
    images = net.preprocess(PHOTOS[0])
    top, left, bottom, right = receptive_field(net, "4", SIDE)[6, 5, 7].tolist()
    want = deconvnet(net, images, unit("4", 6, (5, 7)))[0, :, top:bottom, left:right]
    shown, expected = panel(explorer, 2), large(trace_picture(want))
    assert np.quantile(np.abs(shown - expected), 0.9) < 25
    pixels = (images[0, :, top:bottom, left:right].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.quantile(np.abs(panel(explorer, 0) - large(pixels)), 0.9) < 12


def test_layers_of_ones_own_choice(net):
    explorer = explore_trace(net, PHOTOS, ["3", "2"])
    assert [*explorer.controls["layer"].options] == ["3", "2"]
    assert explorer.controls["layer"].value == "2"
    setting(explorer, layer="3")  # before the ReLU: negative activations too
    map = activations(net, net.preprocess(PHOTOS[0]), "3")[0, 0]
    place = map.flatten().argmin().item()
    setting(explorer, channel=0, row=place // 12, column=place % 12)
    assert "number 144 of 144" in plain(explorer)
    assert "activation -" in plain(explorer)


def test_a_network_whose_fields_are_not_known_is_shown_all_the_same(net, monkeypatch):
    def lost(*_):
        raise ValueError("model: expected one that can be followed, got another")

    monkeypatch.setattr(lesson7, "receptive_fields", lost)
    explorer = explore_trace(net, PHOTOS)
    assert "is not known" in plain(explorer)
    drive_all(explorer)


def test_nothing_is_computed_twice(net, monkeypatch):
    calls, real = [], lesson7.deconvnet

    def counted(*args, **kwargs):
        calls.append(args[2:])
        return real(*args, **kwargs)

    monkeypatch.setattr(lesson7, "deconvnet", counted)
    monkeypatch.setattr(lesson7, "KEPT", 4)
    explorer = explore_trace(net, PHOTOS)
    for rule in ("guided", "deconvnet", "guided"):
        setting(explorer, rule=rule)
    setting(explorer, view=True)
    assert len(calls) == 2
    for row in range(6):
        setting(explorer, row=row)
    setting(explorer, rule="deconvnet", row=0)
    assert len(calls) > 7  # the first ones were let go


def test_a_redraw_takes_at_most_a_third_of_a_second():
    pet = load_model("petnet", "cpu")
    photos = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (96, 96, 3), dtype=np.uint8))
        for i in (0, 1)
    ]
    explorer = explore_trace(pet, photos)
    taken = []
    for name, value in (
        ("row", 3),
        ("channel", 40),
        ("layer", "features.2"),
        ("photo", 1),
        ("rule", "guided"),
    ):
        begin = time.process_time()
        setting(explorer, **{name: value})
        taken.append(time.process_time() - begin)
    assert max(taken) < 0.3


# ---- errors


def test_an_error_in_a_callback_is_shown_kept_and_raised(net, monkeypatch):
    explorer = explore_trace(net, PHOTOS)

    def broken(*_, **__):
        raise RuntimeError("no way back")

    with monkeypatch.context() as patch:
        patch.setattr(lesson7, "deconvnet", broken)
        with pytest.raises(RuntimeError, match="no way back"):
            explorer.controls["rule"].value = "guided"
    assert len(explorer.failures) == 1
    assert "no way back" in explorer.problem.value
    explorer.controls["rule"].value = "gradient"
    assert explorer.problem.value == ""


def test_a_step_without_an_inverse_is_named():
    with pytest.raises(ValueError, match="sigmoid"):
        explore_trace(chain(sigmoid=True), PHOTOS)


def test_wrong_arguments_are_refused(net):
    refuses("net", explore_trace, nn.Identity(), PHOTOS)
    refuses("photos", explore_trace, net, [])
    refuses("photos", explore_trace, net, "dalmatian")
    refuses("layers", explore_trace, net, PHOTOS, "5")
    refuses("layers", explore_trace, net, PHOTOS, [])
    refuses("layers", explore_trace, net, PHOTOS, ["9"])
    refuses("layers", explore_trace, net, PHOTOS, ["7"], says="maps")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2))
    smooth = Classifier(flat, ("a", "b"), net.__dict__["_preprocess"], "flat")
    refuses("layers", explore_trace, smooth, PHOTOS, says="has no ReLU")
