"""Crops of photos: where they lie, that they cover everything; pictures as numbers at their own size."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lecture7_utils.shop.crops import Crops, at_own_size
from lecture7_utils.shop.models import Classifier, load_model
from lecture7_utils.shop.photos import Photo, photo
from tests.guards import refuses, unchanged


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("side", "stride", "size"), [(20, 7, 50), (50, 3, 50), (16, 16, 48), (1, 5, 11)])
def test_crops_cover_every_photo_once_in_order(side, stride, size):
    photos = [Photo("wide", picture(90, 60), None, ""), picture(40, 80, 1), picture(33, 33, 2)]
    crops = Crops(photos, side=side, stride=stride, size=size)
    covered = {}
    for i in range(len(crops)):
        crop = crops[i]
        top, left, bottom, right = crop.box
        assert (bottom - top, right - left) == (side, side)
        assert crop.image.size == (side, side)
        assert (crops.photo_of[i], crops.names[i]) == (crop.photo, crop.name)
        covered.setdefault(crop.photo, []).append(crop)
    assert list(covered) == [0, 1, 2]
    for number, (width, height) in enumerate(((90, 60), (40, 80), (33, 33))):
        scale = size / min(width, height)
        shape = (round(height * scale), round(width * scale))
        whole = np.zeros((*shape, 3), np.uint8)
        seen = np.zeros(shape, bool)
        for crop in covered[number]:
            top, left, bottom, right = crop.box
            pixels, before = np.asarray(crop.image), seen[top:bottom, left:right].copy()
            # where crops overlap they agree
            assert (whole[top:bottom, left:right][before] == pixels[before]).all()
            whole[top:bottom, left:right] = pixels
            seen[top:bottom, left:right] = True
        assert seen.all() == (stride <= side)
        places = [crop.box[:2] for crop in covered[number]]
        assert places == sorted(set(places))
        assert places[-1] == (shape[0] - side, shape[1] - side)
    assert crops[0].name == "wide at row 0, column 0"
    assert repr(crops) == f"Crops({len(crops)} of {side} × {side} from 3 photos)"
    assert len(list(crops)) == len(crops)


def test_photos_of_the_right_size_are_not_changed():
    given = picture(64, 48)
    crop = Crops([given], side=48, size=48)[0]
    assert np.array_equal(np.asarray(crop.image), np.asarray(given)[:, :48])


def test_the_courses_photos_give_enough():
    from lecture7_utils.shop.photos import photos

    crops = Crops(photos())
    assert len(crops) >= 2000
    assert len(set(crops.photo_of)) == 21


def test_refused_arguments():
    refuses("photos", Crops, "dalmatian")
    refuses("photos", Crops, [])
    refuses("photos", Crops, 3)
    for name in ("side", "stride", "size"):
        for wrong in (0, -1, 2.5, None, "large"):
            refuses(name, Crops, [picture(9, 9)], **{"side": 4, "size": 8} | {name: wrong})
    refuses("size", Crops, [picture(9, 9)], side=10, size=9)
    with pytest.raises(IndexError):
        Crops([picture(9, 9)], side=8, size=8)[1]
    with pytest.raises(TypeError):
        Crops([None])


def test_at_own_size_changes_colours_as_preprocess_does():
    net = load_model("efficientnet_lite0", "cpu")
    square = picture(256, 256)
    with unchanged(net):
        prepare = at_own_size(net)
        got = prepare(square)
    assert got.shape == (1, 3, 256, 256)
    assert got.dtype == torch.float32
    assert (got[:, :, 16:240, 16:240] - net.preprocess(square)).abs().max() < 1e-5
    assert prepare(picture(30, 7)).shape == (1, 3, 7, 30)
    assert torch.equal(pickle.loads(pickle.dumps(prepare))(square), got)
    assert torch.equal(prepare("dalmatian"), prepare(photo("dalmatian")))


def test_at_own_size_of_a_network_that_mixes_the_channels():
    def swapped(image):
        rgb = v2.functional.pil_to_tensor(image).float()
        return torch.stack([rgb[2] / 50, rgb.mean(0) - 3, rgb[0]])

    net = Classifier(torch.nn.Conv2d(3, 2, 1), ("a", "b"), swapped)
    small = picture(9, 5)
    assert (at_own_size(net)(small)[0] - swapped(small)).abs().max() < 1e-3
    refuses("net", at_own_size, torch.nn.Conv2d(3, 2, 1))
