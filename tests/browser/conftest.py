"""A JupyterLab for all browser tests of a run, and a page for each."""

import os

import pytest

from tests.browser.lab import browser_page, chromium, lab_server


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    if chromium() is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium: install the package chromium, or name one in the variable CHROMIUM")
    with lab_server(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture
def page(lab):
    with browser_page() as page:
        yield page
    lab.end_kernels()
