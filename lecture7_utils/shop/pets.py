"""Oxford-IIIT Pet (Parkhi et al. 2012): photos of 37 breeds of cats and dogs, as samples like scenes."""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import OxfordIIITPet

from lecture7_utils.shop.arguments import choice, flag, whole
from lecture7_utils.shop.samples import Sample

SPECIES = ("cat", "dog")
_BACKGROUND = 2  # of a trimap: 1 is the animal, 3 its outline, which nobody drew a line through


def pets(
    root: str | os.PathLike,
    split: str = "trainval",
    *,
    label: str = "breed",
    boxes: str | None = None,
    size: int | None = None,
    download: bool = False,
) -> "Pets":
    """Oxford-IIIT Pet as a data set of `Sample`s, one animal in each; an option wherever scenes are used.

    root: the folder that holds, or is to hold, torchvision's folder `oxford-iiit-pet`.
    split: "trainval" (3,680 photos) or "test" (3,669).
    label: what is to be answered, "breed" (37 classes) or "species" (2).
    boxes: "head", the head's box from the annotations, which only "trainval" has, or "animal", the box
        around the mask; None takes "head" where the split has it.
    size: None leaves the photos as they are; a number scales the short side to it and cuts a square out of
        the middle, of the picture as of its mask and its box.
    download: whether to fetch the archives (800 MB) if the folder is not there.
    The mask is the trimap's animal with its outline. A sample is read when it is asked for.
    Raises `TypeError` or `ValueError` naming the argument; `FileNotFoundError` or `RuntimeError` naming the
    file that is missing or damaged: an archive, a list, a photo, a trimap or a head box.
    """
    return Pets(root, split, label=label, boxes=boxes, size=size, download=download)


class Pets(Dataset):
    """What `pets` gives. `classes` names the labels, `breeds` and `species` say what each photo shows."""

    def __init__(self, root, split="trainval", *, label="breed", boxes=None, size=None, download=False):
        if not isinstance(root, str | os.PathLike):
            raise TypeError(f"root: expected a folder, got {root!r}")
        self.split = choice(split, "split", ("trainval", "test"))
        self.label = choice(label, "label", ("breed", "species"))
        if boxes is None:
            boxes = "head" if split == "trainval" else "animal"
        self.boxes = choice(boxes, "boxes", ("head", "animal"))
        self.size = None if size is None else whole(size, "size", 16, 4096)
        self.folder = Path(root) / "oxford-iiit-pet"
        self._photos = _open(Path(root), self.folder, split, flag(download, "download"))
        self.species = tuple(self._photos._bin_labels)
        self.breeds = tuple(self._photos._labels)
        names = {}
        for path, breed in zip(self._photos._images, self.breeds, strict=True):
            names[breed] = path.stem.rsplit("_", 1)[0].replace("_", " ")
        breeds = tuple(names.get(i, f"breed {i + 1}") for i in range(max(names, default=-1) + 1))
        self.classes = breeds if label == "breed" else SPECIES

    def __len__(self) -> int:
        return len(self.breeds)

    def __repr__(self) -> str:
        return f"Pets({len(self)} photos, split={self.split!r}, label={self.label!r}, boxes={self.boxes!r})"

    def __getitem__(self, position: int) -> Sample:
        position = whole(position, "position")
        if not -len(self) <= position < len(self):
            raise IndexError(f"position: expected below {len(self)}, got {position}")
        position %= len(self)
        path = self._photos._images[position]
        photo = _picture(path).convert("RGB")
        trimap_path = self._photos._segs[position]
        trimap = _picture(trimap_path)
        if trimap.size != photo.size:
            raise RuntimeError(f"{trimap_path}: expected the photo's size {photo.size}, got {trimap.size}")
        mask = torch.from_numpy(np.array(trimap)) != _BACKGROUND
        if mask.ndim != 2 or not mask.any():
            raise RuntimeError(f"{trimap_path}: expected a trimap with an animal, got none")
        box = (
            _head(self.folder / "annotations" / "xmls" / f"{path.stem}.xml", photo.size)
            if self.boxes == "head"
            else _around(mask)
        )
        image = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
        if self.size is not None:
            image, mask, box = _square(photo, mask, box, self.size)
        label = self.breeds[position] if self.label == "breed" else self.species[position]
        return Sample(
            image=image,
            label=label,
            masks=mask[None],
            boxes=box[None],
            labels=torch.tensor([label]),
            tag_mask=torch.zeros_like(mask),
            name=f"{path.name}: {SPECIES[self.species[position]]}",
        )

    def batch(self, positions: Sequence[int]) -> list[Sample]:
        """The samples at these positions."""
        return [self[position] for position in positions]


def _open(root: Path, folder: Path, split: str, download: bool) -> OxfordIIITPet:
    """torchvision's data set, with errors that name the file."""
    try:
        photos = OxfordIIITPet(root, split, download=download)
    except (RuntimeError, OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        for url, md5 in OxfordIIITPet._RESOURCES:
            archive = folder / url.rsplit("/", 1)[1]
            if archive.is_file() and not _intact(archive, md5):
                raise RuntimeError(
                    f"{archive}: expected an archive with the MD5 {md5}, got a damaged one; "
                    "delete it and the folder beside it, and download it again"
                ) from error
        for part in (folder / "images", folder / "annotations"):
            if not part.is_dir():
                raise FileNotFoundError(
                    f"{part}: expected the data set's folder, got none; download=True fetches it (800 MB)"
                ) from error
        listed = folder / "annotations" / f"{split}.txt"
        if not listed.is_file():
            raise FileNotFoundError(
                f"{listed}: expected the list of the split's photos, got no such file"
            ) from error
        raise RuntimeError(
            f"{listed}: expected lines of a name and three numbers, got others ({error})"
        ) from error
    if not len(photos):
        raise RuntimeError(
            f"{folder / 'annotations' / f'{split}.txt'}: expected a list of photos, got an empty file"
        )
    return photos


def _intact(archive: Path, md5: str) -> bool:
    digest = hashlib.md5(usedforsecurity=False)
    with archive.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == md5


def _picture(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a picture of the data set, got no such file")
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RuntimeError(f"{path}: expected a readable picture, got a damaged one ({error})") from error


def _head(path: Path, size: tuple[int, int]) -> Tensor:
    """The head's box (x1, y1, x2, y2), x2 and y2 exclusive, from a PASCAL VOC file, which counts from 1."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the annotation of the head, got no such file; boxes='animal' needs none"
        )
    try:
        corners = ElementTree.parse(path).getroot().find("object/bndbox")
        x1, y1, x2, y2 = (float(corners.findtext(name)) for name in ("xmin", "ymin", "xmax", "ymax"))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError, OSError) as error:
        raise RuntimeError(
            f"{path}: expected a box with xmin, ymin, xmax and ymax, got another form ({error})"
        ) from error
    box = torch.tensor([max(x1 - 1, 0), max(y1 - 1, 0), min(x2, size[0]), min(y2, size[1])])
    if not (box[0] < box[2] and box[1] < box[3]):
        raise RuntimeError(f"{path}: expected a box inside the photo of {size}, got {(x1, y1, x2, y2)}")
    return box


def _around(mask: Tensor) -> Tensor:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


def _square(photo: Image.Image, mask: Tensor, box: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale the short side to `size` and cut a square out of the middle."""
    width, height = photo.size
    scale = size / min(width, height)
    wide, tall = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (tall - size) // 2
    cut = (left, top, left + size, top + size)
    photo = photo.resize((wide, tall), Image.Resampling.BICUBIC).crop(cut)
    shape = (
        Image.fromarray(mask.numpy().astype(np.uint8) * 255)
        .resize((wide, tall), Image.Resampling.BILINEAR)
        .crop(cut)
    )
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
    stretch = torch.tensor([wide / width, tall / height] * 2)
    box = (box * stretch - torch.tensor([left, top] * 2)).clamp(0, size)
    if box[2] <= box[0] or box[3] <= box[1]:
        box = torch.zeros(4)
    return image, torch.from_numpy(np.array(shape)) >= 128, box
