"""The bundle holds the course and nothing else; its wheel is the package as it is now."""

import zipfile

import nbformat
import pytest

from tests.colab import bundle, course
from tests.notebooks.anatomy import ROOT

SOURCE = course.Source("someone/lecture7", "v1.0")


@pytest.fixture
def wheels(tmp_path):
    made = []
    for name in ("lecture7_utils-0.1.0-py3-none-any.whl", "foolbox-3.3.4-py3-none-any.whl"):
        (tmp_path / name).write_bytes(name.encode())
        made.append(tmp_path / name)
    return made


def test_it_holds_wheels_notebooks_and_pictures_side_by_side(tmp_path, wheels):
    before = {path: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    path = tmp_path / "dist" / course.BUNDLE
    names = bundle.pack(path, wheels, ROOT / "notebooks", SOURCE, ("04",))
    expected = {notebook.name for notebook in before} | {wheel.name for wheel in wheels} | {"README.txt"}
    pictures = {f"pictures/{p.name}" for p in (ROOT / "notebooks" / "pictures").iterdir()}
    assert set(names) == expected | pictures
    assert [p.name for p in path.parent.iterdir()] == [course.BUNDLE]
    with zipfile.ZipFile(path) as packed:
        assert packed.testzip() is None
        for wheel in wheels:
            assert packed.read(wheel.name) == wheel.read_bytes()
        assert course.BUNDLE in packed.read("README.txt").decode()
        for notebook in before:
            held = nbformat.reads(packed.read(notebook.name).decode(), as_version=4)
            assert held.cells[1].source == course.setup_source(SOURCE)
            assert ("accelerator" in held.metadata) == notebook.name.startswith("04")
    assert {p: p.read_bytes() for p in before} == before, "the course's own notebooks are only read"


def test_a_bundle_that_can_not_be_made_leaves_the_old_one(tmp_path, wheels):
    path = tmp_path / course.BUNDLE
    path.write_bytes(b"old")
    broken = tmp_path / "notebooks"
    broken.mkdir()
    cells = [nbformat.v4.new_markdown_cell("# 1"), nbformat.v4.new_code_cell("print(1)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), broken / "x.ipynb")
    with pytest.raises(ValueError, match=r"x\.ipynb: expected the setup cell"):
        bundle.pack(path, wheels, broken, course.Source())
    assert path.read_bytes() == b"old"


@pytest.mark.slow
def test_the_wheel_holds_the_package_as_it_is_now(tmp_path):
    """Built for real, without a network: every module and weight, no test, nothing of an earlier build."""
    wheel = bundle.build_wheel(ROOT, tmp_path)
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        package = ROOT / "lecture7_utils"
        modules = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
        weights = {path.relative_to(ROOT).as_posix() for path in package.glob("shop/weights/*")}
        assert held == modules | weights
        for name in weights:
            assert packed.read(name) == (ROOT / name).read_bytes()


def test_a_failed_build_says_what_pip_says(tmp_path):
    (tmp_path / "lecture7_utils").mkdir()
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).touch()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = 'no version'\n")
    with pytest.raises(RuntimeError, match=r"(?s)pip wheel failed:.*version"):
        bundle.build_wheel(tmp_path, tmp_path / "out")
