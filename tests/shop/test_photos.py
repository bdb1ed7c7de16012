"""Photos: the embedded ones as they lie in the wheels, and one's own in every form and state of decay."""

import importlib.metadata
import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, features
from torchvision.models import ResNet18_Weights

from lecture7_utils.shop.photos import Photo, collage, photo, photos, wheel_file
from tests.guards import refuses, unchanged

EMBEDDED = {p.name for p in photos()}
CATEGORIES = ResNet18_Weights.DEFAULT.meta["categories"]


def pixels(found: Photo) -> np.ndarray:
    assert found.image.mode == "RGB"
    return np.asarray(found.image)


def noise(height=6, width=8, channels=3, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def on_white(colour, alpha):
    """What is seen of a colour of that opacity (0 to 255) on white paper."""
    return np.asarray(colour) * (alpha / 255) + 255 * (1 - alpha / 255)


def installed(file: str) -> Path:
    """The only file of that name below the installed packages, found by walking."""
    site = Path(np.__file__).parents[1]
    (path,) = [p for top in ("foolbox", "skimage") for p in (site / top).rglob(file)]
    return path


# --- the embedded photos


@pytest.fixture(scope="module")
def embedded():
    return photos()


def test_all_of_them(embedded):
    assert len(embedded) == 21
    assert len({p.name for p in embedded}) == 21
    assert [p.name for p in embedded[:3]] == ["dalmatian", "bull mastiff", "cat"]
    for p in embedded:
        package, file = p.source.split(": ")
        assert package == ("scikit-image" if p.name == "cat" else "foolbox")
        with Image.open(installed(file)) as plain:
            assert np.array_equal(pixels(p), np.asarray(plain.convert("RGB")))
        assert min(p.image.size) >= 200
        assert pixels(p).std() > 20


def test_labels(embedded):
    for p in embedded:
        category = CATEGORIES[p.label].lower()
        assert p.name.split()[-1] in category if p.name != "cat" else category == "tabby"
        if p.name != "cat":  # foolbox writes the label into the name: imagenet_16_251.jpg
            assert p.label == int(p.source.removesuffix(".jpg").split("_")[-1])


def test_some_of_them_in_order(embedded):
    some = photos(["cat", "jeep", "cat"])
    assert [p.name for p in some] == ["cat", "jeep", "cat"]
    assert photos([]) == ()
    by_name = {p.name: p for p in embedded}
    assert all(np.array_equal(pixels(p), pixels(by_name[p.name])) for p in some)
    one = photo("jeep")
    assert (one.name, one.label, one.source) == ("jeep", 609, by_name["jeep"].source)


def test_each_call_gives_its_own_picture():
    first = photo("cat")
    first.image.paste("red", (0, 0, *first.image.size))
    assert pixels(photo("cat")).std() > 20


def test_repr():
    assert repr(photo("cat")) == "Photo('cat', 451 × 300, label=281, source='scikit-image: chelsea.png')"


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    for name, package in (("dalmatian", "foolbox"), ("cat", "scikit-image")):
        with pytest.raises(FileNotFoundError, match=f"'{package}' is missing.* pip install {package}$"):
            photo(name)
    with pytest.raises(FileNotFoundError, match="pip install foolbox"):
        photos()


@pytest.mark.parametrize("files", [None, [], [importlib.metadata.PackagePath("foolbox/data/other.jpg")]])
def test_a_wheel_without_its_file(monkeypatch, files):
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: files)
    with pytest.raises(
        FileNotFoundError, match=r"'foolbox' .*without its file imagenet_16_251.jpg;.*reinstall"
    ):
        photo("dalmatian")
    with pytest.raises(FileNotFoundError, match=r"without its file notes\.txt"):
        wheel_file("foolbox", "notes.txt")


def test_a_file_that_was_deleted(monkeypatch, tmp_path):
    gone = importlib.metadata.PackagePath("data/chelsea.png")
    gone.dist = importlib.metadata.distribution("scikit-image")
    monkeypatch.setattr(gone.dist, "locate_file", lambda path: tmp_path / path)
    monkeypatch.setattr(importlib.metadata, "files", lambda _name: [gone])
    with pytest.raises(FileNotFoundError, match="without its file"):
        photo("cat")


@pytest.mark.slow
def test_foolbox_is_never_imported():
    code = """
import sys
from lecture7_utils.shop.photos import photos
assert len(photos()) == 21
assert not {"foolbox", "eagerpy", "skimage"} & set(sys.modules), "imported for a picture"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- your own: where from


def test_from_a_path(tmp_path, monkeypatch):
    array = noise()
    Image.fromarray(array).save(tmp_path / "my dög.png")
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "my dög.png", str(tmp_path / "my dög.png"), "my dög.png", Path("my dög.png")):
        p = photo(source)
        assert np.array_equal(pixels(p), array)
        assert (p.name, p.label, p.source) == ("my dög", None, "my dög.png")
    (tmp_path / "my dög.png").unlink()  # the file is not held open
    assert np.array_equal(pixels(p), array)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("file", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_from_bytes(kind, file):
    options = {"lossless": True} if file == "WEBP" else {}
    p = photo(kind(encoded(Image.fromarray(noise()), file, **options)))
    assert np.array_equal(pixels(p), noise())
    assert (p.name, p.source) == ("your photo", "bytes")


def test_name_and_label():
    p = photo(noise(), name="Rex", label=np.int64(207))
    assert (p.name, p.label) == ("Rex", 207)
    again = photo(p, label=208)
    assert (again.name, again.label, again.image) == ("Rex", 208, p.image)
    assert photo(p).image is p.image
    renamed = photo("cat", name="Chelsea")
    assert (renamed.name, renamed.label) == ("Chelsea", 281)


# --- your own: pictures in every mode


@pytest.mark.parametrize(
    ("mode", "colour", "want"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
        ("LA", (40, 255), (40, 40, 40)),
        ("LA", (40, 0), (255, 255, 255)),
        ("LA", (40, 51), on_white((40, 40, 40), 51)),
        ("La", (20, 51), on_white((100, 100, 100), 51)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 102), on_white((10, 20, 30), 102)),
        ("RGBa", (10, 20, 30, 102), on_white((25, 50, 75), 102)),
        ("RGBX", (10, 20, 30, 0), (10, 20, 30)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 0, 0, 100), (155, 155, 155)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("I;16", 257 * 99, (99, 99, 99)),
        ("I;16B", 257 * 99, (99, 99, 99)),
        ("I", 65535, (255, 255, 255)),
        ("I", 70000, (255, 255, 255)),
        ("F", 99.0, (99, 99, 99)),
    ],
)
def test_modes(mode, colour, want):
    given_one = Image.new(mode, (4, 3), colour)
    before = given_one.tobytes()
    p = photo(given_one)
    assert p.image.size == (4, 3)
    assert np.abs(pixels(p).astype(float) - np.asarray(want)).max() <= 1.5
    assert p.image is not given_one
    p.image.paste("red", (0, 0, 4, 3))
    assert (given_one.mode, given_one.tobytes()) == (mode, before)
    assert p.source == "PIL image"


@pytest.mark.parametrize("keep", [0, 100, 255])
@pytest.mark.parametrize("form", ["as it is", "PNG", "GIF"])
def test_palettes_with_transparency(keep, form):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 100, 50, 9, 9, 9])
    image.paste(2, (0, 0, 2, 2))
    if form == "as it is":
        image.info["transparency"] = bytes([255, keep, 255])
    elif form == "PNG":
        image = encoded(image, "PNG", transparency=bytes([255, keep, 255]))
    elif keep == 0:
        image = encoded(image, "GIF", transparency=1)
    else:
        image, keep = encoded(image, "GIF"), 255
    found = pixels(photo(image)).astype(float)
    assert np.abs(found[:, 2:] - on_white((200, 100, 50), keep)).max() <= 1
    assert np.abs(found[:, :2] - 9).max() == 0


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9))])
def test_one_colour_that_stands_for_transparent(mode, colour):
    image = Image.new(mode, (4, 2), colour)
    image.paste(0 if mode == "L" else (0, 0, 0), (0, 0, 2, 2))
    found = pixels(photo(encoded(image, "PNG", transparency=colour)))
    assert (found[:, 2:] == 255).all()
    assert (found[:, :2] == 0).all()


def test_cmyk_jpeg():
    image = Image.new("CMYK", (16, 16), (0, 200, 0, 0))
    found = pixels(photo(encoded(image, "JPEG", quality=100))).astype(int)
    assert np.abs(found - (255, 55, 255)).max() < 12


def test_sixteen_bits_from_a_file():
    array = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    found = pixels(photo(encoded(Image.fromarray(array))))
    assert np.array_equal(found[:, :, 0], np.round(array / 257))
    assert np.array_equal(found[:, :, 0], found[:, :, 2])


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.n_frames == 3
        assert (pixels(photo(data)) == (255, 0, 0)).all()


# what has to be done to the stored pixels, by the EXIF standard's table (tag 0x0112)
ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_camera_s_orientation(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(noise()), kind, exif=exif, **options)
    want = ORIENTATIONS[orientation](noise())
    assert np.array_equal(pixels(photo(data)), want)
    with Image.open(io.BytesIO(data)) as opened:  # not decoded yet
        assert np.array_equal(pixels(photo(opened)), want)
        if kind != "TIFF":  # Pillow itself turns these when it decodes them
            assert opened.size == (8, 6)  # what is given is not turned
    # a turned picture is not turned again
    assert np.array_equal(pixels(photo(photo(data).image)), want)


# --- your own: arrays and tensors


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays(dtype):
    def array(channels):
        values = noise(channels=channels)
        return values if dtype == np.uint8 else (values / 255).astype(dtype)

    rgb, grey, alpha = array(3), array(1), array(4)
    whole = noise(channels=4).astype(float)
    laid = np.stack([on_white(pixel[:3], pixel[3]) for pixel in whole.reshape(-1, 4)]).reshape(6, 8, 3)
    assert np.array_equal(pixels(photo(rgb)), noise())
    assert np.array_equal(pixels(photo(grey)), noise(channels=1).repeat(3, 2))
    assert np.array_equal(pixels(photo(grey[:, :, 0])), noise(channels=1).repeat(3, 2))
    assert np.abs(pixels(photo(alpha)) - laid).max() <= 1.01
    assert np.array_equal(pixels(photo(rgb[::-1, ::2])), noise()[::-1, ::2])
    assert photo(rgb).source == "array"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(dtype):
    array = noise()
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    if dtype != torch.uint8:
        tensor = (tensor.double() / 255).to(dtype).requires_grad_()
    with unchanged(tensor):
        for given_one in (tensor, tensor[None], tensor * 1):
            difference = np.abs(pixels(photo(given_one)).astype(int) - array).max()
            assert difference <= (1 if dtype == torch.bfloat16 else 0)
        grey = pixels(photo(tensor[:1]))
        four = photo(torch.cat([tensor, torch.ones_like(tensor[:1]) * (255 if dtype == torch.uint8 else 1)]))
    assert np.array_equal(grey[:, :, 0], grey[:, :, 2])
    assert np.array_equal(pixels(four), pixels(photo(tensor)))
    assert photo(tensor).source == "tensor"


def test_an_array_is_copied():
    array = noise()
    p = photo(array)
    array[:] = 0
    assert np.array_equal(pixels(p), noise())


# --- errors


def missing(source) -> str:
    with pytest.raises(FileNotFoundError) as caught:
        photo(source)
    message = str(caught.value)
    assert message.startswith("source: expected a file or the name of an embedded photo, got ")
    assert len(message) < 300
    return message


@given(st.text(max_size=300).filter(lambda text: text not in EMBEDDED and not os.path.exists(text)))
@settings(max_examples=60)
def test_neither_a_file_nor_a_name(text):
    missing(text)


def test_nearest_names(tmp_path):
    assert "'dalmatian'" in missing("dalmation")
    assert "'bull mastiff'" in missing("bull_mastiff")
    assert "'cat'" in missing("Cat")
    missing(tmp_path)  # a folder
    missing(tmp_path / "no.jpg")
    missing("x" * 100_000)
    missing("a\0b")
    missing("https://example.org/dog.jpg")
    refuses("names", photos, ["dalmation"], says="'dalmatian'")
    refuses("names", photos, ["cat", "dog.jpg"], says="got 'dog.jpg'")


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.lists(st.integers(), min_size=1)))
def test_names_refused(names):
    refuses("names", photos, names)


@given(
    st.one_of(
        st.none(), st.integers(), st.floats(), st.booleans(), st.lists(st.integers()), st.sets(st.integers()),
        st.just(object()), st.just(Image), st.dictionaries(st.text(), st.text()),
    )
)  # fmt: skip
def test_source_refused(source):
    refuses("source", photo, source, says="a path, bytes, a PIL image")


@given(
    st.one_of(
        st.floats(),
        st.booleans(),
        st.text(),
        st.lists(st.integers()),
        st.integers(max_value=-1),
        st.integers(1000),
    )
)
def test_label_refused(label):
    refuses("label", photo, "cat", label=label)


@given(st.one_of(st.integers(), st.floats(), st.binary(), st.lists(st.text())))
def test_name_refused(name):
    refuses("name", photo, "cat", name=name)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5, np.uint8),
        np.zeros((), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 5, 5), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 3), complex),
        np.zeros((4, 4, 3), object),
        np.full((4, 4, 3), "a"),
        np.full((4, 4, 3), 255.0),
        np.full((4, 4, 3), -0.1),
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), np.inf),
        np.zeros((1, 500, 3)),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_refused(array):
    refuses("source", photo, array)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 4),
        torch.zeros(5, 5, 3),
        torch.zeros(2, 3, 4, 4),
        torch.zeros(2, 4, 4),
        torch.zeros(3, 0, 4),
        torch.zeros(3, 4, 4, dtype=torch.int64),
        torch.zeros(3, 4, 4, dtype=torch.bool),
        torch.full((3, 4, 4), 2.0),
        torch.full((3, 4, 4), -1.0),
        torch.full((3, 4, 4), torch.nan),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_tensors_refused(tensor):
    refuses("source", photo, tensor)


def png_header(width, height) -> bytes:
    """A PNG that claims that size, with next to nothing in it."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(b"\0" * 100))
        + part(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (12_000, 10_000), (8_001, 8_000)])
@pytest.mark.parametrize("treatment", ["error", "ignore"])
def test_enormous_files_are_refused_unread(size, treatment, tmp_path):
    data = png_header(*size)
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter(treatment, Image.DecompressionBombWarning)
        refuses("source", photo, path, says="64 million pixels.*bomb.png")
        refuses("source", photo, data, says="64 million pixels")
        if size[0] < 10_000:
            with Image.open(path) as opened:
                refuses("source", photo, opened, says="8001 × 8000 in the given picture")
            refuses("source", photo, np.broadcast_to(np.uint8(0), size), says="the given array")


def test_a_file_that_claims_more_than_it_holds():
    refuses("source", photo, png_header(800, 800), says="can't be read")


@pytest.mark.parametrize("size", [(1, 101), (101, 1), (5, 501), (60_000, 1)])
def test_strips_are_refused(size):
    # scaling the short side to 256 would make a picture of 256 × 15 million pixels
    refuses("source", photo, Image.new("RGB", size), says="100 to 1")
    refuses("source", photo, encoded(Image.new("RGB", size)), says=f"{size[0]} × {size[1]}")
    assert photo(Image.new("RGB", (100, 1))).image.size == (100, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"%PDF-1.4",
        b"<svg/>",
        b"II*\0",
    ],
)
def test_what_is_no_picture(data, tmp_path):
    path = tmp_path / "dog.jpg"
    path.write_bytes(data)
    refuses("source", photo, path, says="expected a whole picture file, got dog.jpg")
    refuses("source", photo, data, says="got the given bytes")


def test_heic_says_what_to_do(tmp_path):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(data)
    refuses("source", photo, path, says="IMG_0001.HEIC.*saved as JPEG")
    refuses("source", photo, data, says="saved as JPEG")
    assert "HEIC" not in refuses("source", photo, data[4:], says="no known picture format")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files(kind):
    data = encoded(Image.fromarray(noise(40, 50)), kind)
    for share in (0.02, 0.2, 0.5, 0.8):
        refuses("source", photo, data[: int(len(data) * share)], says="can't be read")
    if kind != "WEBP":  # Pillow decodes these when it opens them
        with Image.open(io.BytesIO(data[: len(data) // 2 + 200])) as opened:  # the header is whole
            refuses("source", photo, opened, says="the given picture")


KINDS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "DDS", "SGI", "XBM"]
FILES = {
    kind: encoded(Image.fromarray(noise(20, 30)).convert("1" if kind == "XBM" else "RGB"), kind)
    for kind in [*KINDS, *(["AVIF"] if features.check("avif") else [])]
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_damaged_files_give_a_photo_or_one_clear_error(kind, seed):
    draw = random.Random(seed)
    data = bytearray(FILES[kind])
    for _ in range(draw.choice([1, 2, 5, 20])):
        data[draw.randrange(draw.choice([min(30, len(data)), len(data)]))] = draw.randrange(256)
    try:
        found = photo(bytes(data))
    except ValueError:
        refuses("source", photo, bytes(data))
    else:
        assert found.image.mode == "RGB"


def test_a_mode_that_pillow_cannot_convert(monkeypatch):
    image = Image.new("RGB", (3, 3))

    def convert(*_args, **_kwargs):
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", convert)
    refuses("source", photo, image, says="conversion not supported")


# --- the collage


def test_collage():
    left, right = noise(60, 60, seed=1), noise(60, 60, seed=2)
    both = collage(photo(left, name="a"), right, size=60)
    assert (both.name, both.label, both.image.size) == ("a and your photo", None, (60, 60))
    assert np.array_equal(pixels(both)[:, :30], left[:, 15:45])
    assert np.array_equal(pixels(both)[:, 30:], right[:, 15:45])


def test_collage_of_other_sizes():
    wide = Image.new("RGB", (300, 100), "blue")
    ImageDraw.Draw(wide).rectangle((125, 0, 175, 100), fill="red")  # the middle half of its middle square
    both = pixels(collage(wide, "cat", size=200))
    assert both.shape == (200, 200, 3)
    assert (both[:, 3:97] == (255, 0, 0)).all()
    assert both[:, 100:].std() > 20


@pytest.mark.parametrize("size", [0, -2, 3, 2.0, True, None, "64", [64]])
def test_collage_size_refused(size):
    refuses("size", collage, "cat", "jeep", size=size)
