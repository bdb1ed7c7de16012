"""A folder of pictures: which files count, their order and names, what reading them raises."""

import os
import pickle
import sys

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lecture7_utils.shop.folder import Folder
from lecture7_utils.shop.photos import Photo
from tests.guards import refuses


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "pictures"
    for i, name in enumerate(("b.jpg", "a/z.PNG", "a/b/c.jpeg", "a/b/c.webp", "a.gif", "B.tif")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i, 6), (30 * i, 0, 0)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "jpg").write_text("no ending")
    (folder / "._b.jpg").write_bytes(b"what macOS leaves beside files")
    (folder / ".cache").mkdir()
    Image.new("RGB", (3, 3)).save(folder / ".cache" / "x.png")
    (folder / "empty").mkdir()
    return folder


def test_pictures_in_the_order_of_their_paths(tree):
    data = Folder(tree)
    assert data.names == ("B.tif", "a.gif", "a/b/c.jpeg", "a/b/c.webp", "a/z.PNG", "b.jpg")
    assert len(data) == 6
    assert repr(data) == "Folder('pictures', 6 pictures)"
    item = data[4]
    assert isinstance(item, Photo)
    assert (item.name, item.image.size, item.image.mode) == ("a/z.PNG", (9, 6), "RGB")
    assert [photo.name for photo in data] == list(data.names)
    with pytest.raises(IndexError):
        data[6]


def test_it_goes_to_workers(tree):
    again = pickle.loads(pickle.dumps(Folder(str(tree))))
    assert again.names == Folder(tree).names
    read = DataLoader(again, batch_size=2, num_workers=1, collate_fn=list)
    assert [photo.name for batch in read for photo in batch] == list(again.names)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_folders_behind_links_are_not_entered(tree):
    (tree / "loop").symlink_to(tree)
    (tree / "linked.jpg").symlink_to(tree / "b.jpg")
    assert Folder(tree).names == (
        "B.tif", "a.gif", "a/b/c.jpeg", "a/b/c.webp", "a/z.PNG", "b.jpg", "linked.jpg",
    )  # fmt: skip


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_name_that_is_no_text(tree):
    os.rename(tree / "b.jpg", os.fsencode(tree) + b"/\xff.jpg")
    data = Folder(tree)
    assert data.names[-1] == "\ufffd.jpg"
    assert data[5].image.size == (8, 6)


def test_a_file_that_is_gone_or_torn(tree):
    data = Folder(tree)
    (tree / "b.jpg").unlink()
    (tree / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(FileNotFoundError):
        data[5]
    with pytest.raises(ValueError, match=r"a\.gif"):
        data[1]


def test_refused_arguments(tree):
    refuses("path", Folder, 3)
    refuses("path", Folder, tree / "b.jpg", says="got a file")
    refuses("path", Folder, tree / "missing", says="got nothing")
    refuses("path", Folder, tree / "empty", says="with pictures, got none")
