"""A folder tree of pictures as a data set."""

import os
from pathlib import Path

from torch.utils.data import Dataset

from lecture7_utils.shop.photos import Photo, photo

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .avif .tif .tiff .ppm .pgm .pbm .heic .heif".split()
)
"""The endings of the files that count as pictures, in lower case."""


class Folder(Dataset):
    """The pictures in a folder and in all folders below it, in the order of their paths.

    path: the folder. Files whose names end as those of pictures do (`SUFFIXES`) count; hidden files and
    folders don't, nor do folders behind links. An item is a `Photo` called by its path below the folder,
    with / between the parts; it is read when it is asked for. `names` are these paths.
    Reading an item raises what `photo` raises for a file that is no whole picture, is too large, or is gone.
    Raises `TypeError` or `ValueError` naming the argument if `path` is no folder or holds no pictures.
    """

    def __init__(self, path: str | os.PathLike):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path: expected a folder, got {path!r}")
        self.path = Path(path)
        if not self.path.is_dir():
            kind = "a file" if self.path.exists() else "nothing"
            raise ValueError(f"path: expected a folder, got {kind} at {str(self.path)!r}")
        self._files = sorted(_pictures(self.path))
        if not self._files:
            raise ValueError(f"path: expected a folder with pictures, got none below {str(self.path)!r}")
        # names that are no text in the file system's encoding still have to be printed and stored
        self.names = tuple(os.fsencode(name).decode("utf-8", "replace") for name in self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"Folder({self.path.name!r}, {len(self)} pictures)"

    def __getitem__(self, index: int) -> Photo:
        return photo(self.path / self._files[index], self.names[index])


def _pictures(folder: Path) -> list[str]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        found += [
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return found
