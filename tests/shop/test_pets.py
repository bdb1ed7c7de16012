"""Oxford-IIIT Pet as samples, on a tiny data set of the same file format."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import OxfordIIITPet
from torchvision.datasets import utils as downloads

from lecture7_utils.shop.pets import pets
from lecture7_utils.shop.samples import Sample
from tests.guards import refuses

# name, breed's number, species' number (1 cat, 2 dog), size (w, h), head's box as the files have it
PHOTOS = (
    ("Abyssinian_1", 1, 1, (40, 30), (9, 5, 20, 16)),
    ("american_bulldog_7", 2, 2, (24, 36), (1, 1, 12, 9)),
    ("Bengal_100", 3, 1, (50, 20), (30, 2, 50, 20)),
)
HEAD = "<annotation><object><name>cat</name><bndbox>{}</bndbox></object></annotation>"


def trimap(size, box):
    """The animal where the head is, a rim of one pixel that nobody decided on, background elsewhere."""
    width, height = size
    values = np.full((height, width), 2, dtype=np.uint8)
    x1, y1, x2, y2 = box
    values[max(0, y1 - 2) : y2 + 1, max(0, x1 - 2) : x2 + 1] = 3
    values[y1 - 1 : y2, x1 - 1 : x2] = 1
    return values


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    for part in ("images", "annotations/trimaps", "annotations/xmls"):
        (folder / part).mkdir(parents=True)
    lines = []
    for i, (name, breed, species, size, box) in enumerate(PHOTOS):
        colour = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        colour[..., i] = 200
        Image.fromarray(colour).save(folder / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(trimap(size, box)).save(folder / "annotations" / "trimaps" / f"{name}.png")
        corners = "".join(
            f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        (folder / "annotations" / "xmls" / f"{name}.xml").write_text(HEAD.format(corners))
        lines.append(f"{name} {breed} {species} 1\n")
    (folder / "annotations" / "trainval.txt").write_text("".join(lines))
    (folder / "annotations" / "test.txt").write_text("".join(lines[::2]))
    return tmp_path


def test_samples_hold_what_the_files_say(root):
    data = pets(root)
    assert len(data) == 3
    assert data.classes == ("Abyssinian", "american bulldog", "Bengal")
    for i, (name, breed, species, size, box) in enumerate(PHOTOS):
        sample = data[i]
        assert isinstance(sample, Sample)
        assert sample.label == breed - 1
        assert sample.labels.tolist() == [breed - 1]
        assert sample.image.shape == (3, size[1], size[0])
        assert sample.image[i].mean() > 0.7
        assert 0 <= sample.image.min()
        assert sample.image.max() <= 1
        x1, y1, x2, y2 = box
        assert sample.boxes.tolist() == [[x1 - 1, y1 - 1, x2, y2]]
        expected = torch.from_numpy(trimap(size, box) != 2)
        assert torch.equal(sample.masks, expected[None])
        assert torch.equal(sample.mask, expected)
        assert not sample.tag_mask.any()
        assert sample.tag == -1
        assert name in sample.name
        assert ("cat", "dog")[species - 1] in sample.name
    assert torch.equal(data[-1].image, data[2].image)
    assert [s.label for s in data.batch([2, 0])] == [2, 0]
    with pytest.raises(IndexError, match="position"):
        data[3]


def test_species_as_labels_and_boxes_around_the_animal(root):
    data = pets(root, "test", label="species")
    assert data.classes == ("cat", "dog")
    assert [data[i].label for i in range(len(data))] == [0, 0]
    for i in range(len(data)):
        rows, columns = np.nonzero(data[i].mask.numpy())
        assert data[i].boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    dog = pets(root, label="species", boxes="animal")[1]
    assert dog.label == 1


def test_a_square_is_cut_out_of_picture_mask_and_box_alike(root):
    # 40 × 30 to a short side of 60: twice as large, 10 columns cut off at either side
    plain, square = pets(root)[0], pets(root, size=60)[0]
    assert square.image.shape == (3, 60, 60)
    doubled = plain.mask.repeat_interleave(2, 0).repeat_interleave(2, 1)[:, 10:70]
    assert (square.mask != doubled).float().mean() < 0.02
    assert square.boxes[0].tolist() == [2 * 8 - 10, 2 * 4, 2 * 20 - 10, 2 * 16]
    # 50 × 20 to 20: columns 15 to 35 stay; the head, 29 to 50, is cut off at the right
    assert pets(root, size=20)[2].boxes[0].tolist() == [14, 1, 20, 20]
    # 24 × 36 to 24: rows 6 to 30
    assert pets(root, size=24)[1].boxes[0].tolist() == [0, 0, 12, 3]


def test_a_head_outside_the_square_has_an_empty_box(root):
    path = root / "oxford-iiit-pet" / "annotations" / "xmls" / "Bengal_100.xml"
    path.write_text(HEAD.format("<xmin>40</xmin><ymin>2</ymin><xmax>50</xmax><ymax>9</ymax>"))
    assert pets(root, size=20)[2].boxes[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "annotations/xmls/Abyssinian_1.xml").unlink(),
            r"xmls.Abyssinian_1\.xml.*no such file",
        ),
        (
            lambda f: (f / "annotations/xmls/Abyssinian_1.xml").write_text("<annotation"),
            r"Abyssinian_1\.xml.*box",
        ),
        (lambda f: (f / "annotations/xmls/Abyssinian_1.xml").write_text("<a/>"), r"Abyssinian_1\.xml.*box"),
        (
            lambda f: (f / "annotations/xmls/Abyssinian_1.xml").write_text(
                HEAD.format("<xmin>9</xmin><ymin>9</ymin><xmax>4</xmax><ymax>20</ymax>")
            ),
            r"Abyssinian_1\.xml.*inside the photo",
        ),
        (
            lambda f: (f / "annotations/trimaps/Abyssinian_1.png").unlink(),
            r"trimaps.Abyssinian_1\.png.*no such file",
        ),
        (
            lambda f: (f / "annotations/trimaps/Abyssinian_1.png").write_bytes(b"no"),
            r"Abyssinian_1\.png.*damaged",
        ),
        (
            lambda f: Image.fromarray(np.full((30, 40), 2, np.uint8)).save(
                f / "annotations/trimaps/Abyssinian_1.png"
            ),
            r"Abyssinian_1\.png.*animal",
        ),
        (
            lambda f: Image.fromarray(np.full((3, 4), 1, np.uint8)).save(
                f / "annotations/trimaps/Abyssinian_1.png"
            ),
            r"Abyssinian_1\.png.*size",
        ),
        (lambda f: (f / "images/Abyssinian_1.jpg").unlink(), r"Abyssinian_1\.jpg.*no such file"),
        (
            lambda f: (f / "images/Abyssinian_1.jpg").write_bytes(
                (f / "images/Abyssinian_1.jpg").read_bytes()[:300]
            ),
            r"Abyssinian_1\.jpg.*damaged",
        ),
    ],
)
def test_a_missing_or_damaged_file_is_named(root, damage, message):
    damage(root / "oxford-iiit-pet")
    data = pets(root)
    with pytest.raises((FileNotFoundError, RuntimeError), match=message):
        data[0]
    assert data[1].label == 1  # the others are still there


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "annotations/trainval.txt").unlink(), r"trainval\.txt.*no such file"),
        (
            lambda f: (f / "annotations/trainval.txt").write_text("Abyssinian_1 1\n"),
            r"trainval\.txt.*three numbers",
        ),
        (lambda f: (f / "annotations/trainval.txt").write_text(""), r"trainval\.txt.*empty"),
        (lambda f: (f / "images").rename(f / "pictures"), r"images.*download=True"),
    ],
)
def test_a_missing_or_damaged_list_or_folder_is_named(root, damage, message):
    damage(root / "oxford-iiit-pet")
    with pytest.raises((FileNotFoundError, RuntimeError), match=message):
        pets(root)


@pytest.fixture
def archives(root, tmp_path_factory, monkeypatch):
    """The data set as two archives on a server that is a folder; the download copies from there."""
    source, folder = tmp_path_factory.mktemp("server"), root / "oxford-iiit-pet"
    resources = []
    for name in ("images", "annotations"):
        archive = source / f"{name}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder / name, name)
        resources.append((f"https://server.invalid/{name}.tar.gz", downloads.calculate_md5(archive)))
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", tuple(resources))

    def fetch(url, filename, *_, **__):
        data = io.BytesIO((source / url.rsplit("/", 1)[1]).read_bytes())
        with open(filename, "wb") as file:
            file.write(data.getvalue())

    monkeypatch.setattr(downloads, "_urlretrieve", fetch)
    monkeypatch.setattr(downloads, "_get_redirect_url", lambda url, **_: url)
    return source


def test_a_download_unpacks_both_archives(archives, tmp_path):
    data = pets(tmp_path / "new", download=True)
    assert [data[i].label for i in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["images.tar.gz", "annotations.tar.gz"])
def test_a_damaged_archive_is_named(archives, tmp_path, name):
    whole = (archives / name).read_bytes()
    (archives / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match=rf"{name}: expected an archive.*damaged"):
        pets(tmp_path / "new", download=True)


def test_arguments_are_checked(root):
    refuses("root", pets, 3)
    refuses("split", pets, root, "train")
    refuses("label", pets, root, label="colour")
    refuses("boxes", pets, root, boxes="body")
    refuses("size", pets, root, size=1)
    refuses("size", pets, root, size=96.5)
    refuses("download", pets, root, download="yes")
