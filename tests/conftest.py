"""What all tests share: no windows, no GPU without a reason, the same examples in every CI run."""

import os

import hypothesis
import matplotlib
import pytest
import torch

# not by the environment: the kernels that run notebooks would inherit it and draw nothing
matplotlib.use("agg")

# a test's time says more about the machine than about the code
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "course")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and there is none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
