"""What every data set of the shop gives: one picture with the truth about it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and the truth about it, the same for drawn scenes and for Oxford-IIIT Pet.

    image: float [3, H, W] in 0 to 1.
    label: what a classifier has to answer, an index into the data set's `classes`.
    masks: bool [A, H, W], for each animal the pixels it owns.
    boxes: float [A, 4], for each animal (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
    labels: int64 [A], the class of each animal; animal 0 is the one that `label` names.
    tag_mask: bool [H, W], the pixels of the price tag; all False where there is none.
    name: where the picture comes from, in words.
    tag: the class whose tag hangs in the picture, -1 where there is none.
    """

    image: Tensor
    label: int
    masks: Tensor
    boxes: Tensor
    labels: Tensor
    tag_mask: Tensor
    name: str
    tag: int = -1

    def __post_init__(self):
        if self.image.ndim != 3 or self.image.shape[0] != 3 or not self.image.is_floating_point():
            raise ValueError(f"image: expected a float tensor [3, H, W], got {list(self.image.shape)}")
        height, width = self.image.shape[1:]
        count = self.labels.shape[0]
        for name, value, shape in (
            ("masks", self.masks, (count, height, width)),
            ("boxes", self.boxes, (count, 4)),
            ("tag_mask", self.tag_mask, (height, width)),
        ):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name}: expected the shape {list(shape)}, got {list(value.shape)}")
        if self.masks.dtype != torch.bool or self.tag_mask.dtype != torch.bool:
            raise TypeError("masks, tag_mask: expected bool tensors")

    @property
    def mask(self) -> Tensor:
        """Bool [H, W]: the pixels of all animals together."""
        return self.masks.any(0)
