"""The list of Colab's versions is read strictly: a lost line would be a package that no one watches."""

import pytest

from tests.colab.runtime import published


def test_the_list_holds_what_the_course_must_not_disturb():
    versions = published()
    assert {
        "python",
        "torch",
        "torchvision",
        "numpy",
        "ipywidgets",
        "ipykernel",
        "ipython",
    } <= versions.keys()
    assert all(version[0].isdigit() for version in versions.values())


def test_comments_and_empty_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# all of it\n\npython==3.13.15  # the patch too\nscikit-image==0.25.2\n")
    assert published(path) == {"python": "3.13.15", "scikit-image": "0.25.2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torch>=2.11", "line 2: expected name==version, got 'torch>=2.11'"),
        ("torch", "line 2: expected name==version, got 'torch'"),
        ("torch==", "line 2: expected name==version, got 'torch=='"),
        ("python==3.13.14", "line 2: expected each name once, got python again"),
    ],
)
def test_anything_else_is_refused(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(f"python==3.13.15\n{text}\n")
    with pytest.raises(ValueError, match=message):
        published(path)
