"""Photos cut into many small crops, and pictures as a network's numbers at their own size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lecture7_utils.shop.arguments import whole
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import PhotoLike, photo


@dataclass(frozen=True, eq=False)
class Crop:
    """A piece of a photo: its picture (PIL), its name, the photo's number, and where it was cut out:
    (top, left, bottom, right) in pixels of the photo as it was scaled, the last two exclusive."""

    image: Image.Image
    name: str
    photo: int
    box: tuple[int, int, int, int]


class Crops(Dataset):
    """Photos, scaled and cut into overlapping squares; an item is a `Crop`, a photo's row by row.

    photos: what `photo` takes, each. side: of the crops in pixels. stride: from one crop to the next; the
    last of a row or a column reaches the border. size: pixels that a photo's shorter side is scaled to.
    `photo_of` gives for each crop the number of its photo, `names` what it is called.
    Raises `TypeError` or `ValueError` naming the argument for other values, and what `photo` raises.
    """

    def __init__(self, photos: Sequence[PhotoLike], *, side: int = 128, stride: int = 32, size: int = 448):
        if isinstance(photos, str | bytes) or not isinstance(photos, Sequence):
            raise TypeError(f"photos: expected a sequence of photos, got {type(photos).__name__}")
        if not photos:
            raise ValueError("photos: expected at least one photo, got none")
        self.side, self.stride = whole(side, "side", 1), whole(stride, "stride", 1)
        self.size = whole(size, "size", self.side)
        self._pictures: list[Image.Image] = []
        self._cuts: list[tuple[int, int, int]] = []
        names = []
        for number, given in enumerate(map(photo, photos)):
            width, height = given.image.size
            scale = self.size / min(width, height)
            scaled = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
            self._pictures.append(given.image.resize(scaled, Image.Resampling.BICUBIC, reducing_gap=3.0))
            for top in self._starts(scaled[1]):
                for left in self._starts(scaled[0]):
                    self._cuts.append((number, top, left))
                    names.append(f"{given.name} at row {top}, column {left}")
        self.names = tuple(names)
        self.photo_of = tuple(number for number, _, _ in self._cuts)

    def _starts(self, length: int) -> list[int]:
        starts = list(range(0, length - self.side + 1, self.stride))
        return starts if starts[-1] == length - self.side else [*starts, length - self.side]

    def __len__(self) -> int:
        return len(self._cuts)

    def __repr__(self) -> str:
        return f"Crops({len(self)} of {self.side} × {self.side} from {len(self._pictures)} photos)"

    def __getitem__(self, index: int) -> Crop:
        number, top, left = self._cuts[index]
        box = top, left, top + self.side, left + self.side
        picture = self._pictures[number].crop((box[1], box[0], box[3], box[2]))
        return Crop(picture, self.names[index], number, box)


def at_own_size(net: Classifier) -> Callable[[PhotoLike], Tensor]:
    """What makes of a picture the numbers that the network takes, without scaling or cutting it.

    `Classifier.preprocess` brings every picture to the network's own size; the layers before the last ones
    take any. The colours are changed as `preprocess` changes them, which has to be an affine map.
    Returns a callable: what `photo` takes -> float32 [1, 3, H, W] on the CPU.
    Raises `TypeError` if `net` is no `Classifier`.
    """
    if not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {type(net).__name__}")
    black, *corners = (
        net.colour(*rgb).detach().cpu().double() for rgb in ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    )
    return _AtOwnSize((torch.stack(corners, 1) - black[:, None]) / 255, black)


@dataclass(frozen=True)
class _AtOwnSize:
    """Of a class, so that it can be sent to workers. matrix [3, 3] and offset [3], for RGB in 0 to 255."""

    matrix: Tensor
    offset: Tensor

    def __call__(self, picture: PhotoLike) -> Tensor:
        rgb = torch.from_numpy(np.array(photo(picture).image)).double()
        return (rgb @ self.matrix.T + self.offset).permute(2, 0, 1)[None].float()
