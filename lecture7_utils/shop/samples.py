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
        def is_(value: Tensor) -> str:
            return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"

        if self.image.ndim != 3 or self.image.shape[0] != 3 or not self.image.is_floating_point():
            raise ValueError(f"image: expected a float tensor [3, H, W], got {is_(self.image)}")
        size, count = list(self.image.shape[1:]), len(self.labels)
        for name, shape in (("masks", [count, *size]), ("boxes", [count, 4]), ("tag_mask", size)):
            value = getattr(self, name)
            kind = "float" if name == "boxes" else "bool"
            right = value.is_floating_point() if name == "boxes" else value.dtype == torch.bool
            if list(value.shape) != shape or not right:
                raise ValueError(f"{name}: expected a {kind} tensor {shape}, got {is_(value)}")

    @property
    def mask(self) -> Tensor:
        """Bool [H, W]: the pixels of all animals together."""
        return self.masks.any(0)
