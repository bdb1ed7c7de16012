"""The contact sheet of a ranking: which pixels lie where, from every kind of picture."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lecture7_utils.kernels.search import top_activations
from tests.guards import refuses
from tests.kernels.test_search import Images
from tests.nets import random_images, random_net


@pytest.fixture(scope="module")
def pictures():
    return random_images(6, 6, (24, 20), torch.float32).sigmoid()


@pytest.fixture(scope="module")
def ranking(pictures):
    return top_activations(
        random_net(1, (24, 20), dtype=torch.float32), "left", Images(pictures), 3, batch_size=4
    )


def cells(sheet, rows, columns, cell):
    """The cells of a sheet, after a look at what is between them."""
    step = cell + 2
    assert list(sheet.shape) == [3, rows * step - 2, columns * step - 2]
    assert sheet.dtype == torch.uint8
    between = torch.ones(sheet.shape[1:], dtype=torch.bool)
    found = {}
    for i in range(rows):
        for j in range(columns):
            between[i * step : i * step + cell, j * step : j * step + cell] = False
            found[i, j] = sheet[:, i * step : i * step + cell, j * step : j * step + cell]
    assert (sheet[:, between] == 255).all()
    return found


def test_each_cell_holds_the_receptive_field(ranking, pictures):
    channels = ranking.channels()[:2]
    found = cells(ranking.sheet(pictures, channels, cell=48), 2, 3, 48)
    for i, channel in enumerate(channels):
        for j, hit in enumerate(ranking.top(channel)):
            top, left, bottom, right = hit.rectangle
            cut = (pictures[hit.image, :, top:bottom, left:right] * 255).round().to(torch.uint8)
            h, w = (round(n * 48 / max(cut.shape[1:])) for n in cut.shape[1:])
            y, x = (48 - h) // 2, (48 - w) // 2
            inside = found[i, j][:, y : y + h, x : x + w]
            # each pixel of the cell is the pixel of the field that lies over its middle
            rows = ((torch.arange(h) + 0.5) * cut.shape[1] / h).long()
            columns = ((torch.arange(w) + 0.5) * cut.shape[2] / w).long()
            assert torch.equal(inside, cut[:, rows][:, :, columns])
            rest = torch.ones(48, 48, dtype=torch.bool)
            rest[y : y + h, x : x + w] = False
            assert (found[i, j][:, rest] == 255).all()


def test_a_field_larger_than_a_cell_is_averaged_down(ranking):
    grey = torch.full((6, 3, 24, 20), 0.2)
    sheet = ranking.sheet(grey, ranking.channels()[0], cell=8)
    field = sheet[:, 4, 4]
    assert (field == 51).all()


def test_all_kinds_of_pictures_give_the_same_sheet(ranking, pictures):
    whole = (pictures * 255).round().to(torch.uint8)
    arrays = [np.ascontiguousarray(one.permute(1, 2, 0).numpy()) for one in whole]
    wanted = ranking.sheet(whole)
    assert len(ranking.channels()) <= 20
    for data in (
        whole[:, None],
        arrays,
        [Image.fromarray(one) for one in arrays],
        [(one, 3) for one in arrays],
        [SimpleNamespace(image=one) for one in whole],
        whole.double() / 255,
    ):
        assert torch.equal(ranking.sheet(data), wanted)
    assert torch.equal(ranking.sheet(whole.float() - 300, show=lambda item: (item + 300) / 255), wanted)


def test_bad_arguments_are_named(ranking, pictures):
    refuses("cell", ranking.sheet, pictures, cell=4)
    refuses("channels", ranking.sheet, pictures, [])
    refuses("channels", ranking.sheet, pictures, "left")
    refuses("channel", ranking.sheet, pictures, 999)
    refuses("layer", ranking.sheet, pictures, layer="nowhere")
    refuses("data", ranking.sheet, pictures * 4, says="display")
    refuses("data", ranking.sheet, [torch.zeros(2, 24, 20)] * 6)
    refuses("data", ranking.sheet, [torch.zeros(3, 24, 20, dtype=torch.int32)] * 6)
    refuses("data", ranking.sheet, [np.zeros((24, 20), np.uint8)] * 6)
    refuses("data", ranking.sheet, ["a path"] * 6)
    refuses("data", ranking.sheet, pictures[:, :, :3, :3], says="that the search saw")
