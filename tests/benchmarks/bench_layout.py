"""The layout of the weights: channels last, as `load_model` gives them on a CPU, beside PyTorch's default."""

import copy
from collections.abc import Iterator

import torch

from tests.benchmarks.measure import Row, compare
from tests.benchmarks.networks import network, pictures

CASES = (
    ("efficientnet_lite0", 224, 1),
    ("efficientnet_lite0", 224, 8),
    ("petnet", 96, 1),
    ("petnet", 96, 32),
)


def rows() -> Iterator[Row]:
    """One forward pass, and the gradient by the pixels; no targets."""
    for name, size, count in CASES:
        last, images = network(name).requires_grad_(False), pictures(count, size)
        plain = copy.deepcopy(last).to(memory_format=torch.contiguous_format)

        def forward(net, images=images):
            with torch.no_grad():
                return net(images)

        def gradient(net, images=images):
            leaf = images.clone().requires_grad_()
            return torch.autograd.grad(net(leaf).sum(), leaf)[0]

        for what, run in (("forward pass", forward), ("gradient", gradient)):
            yield from compare(
                f"{what}, channels last",
                f"{name}, {count} of {size} × {size}",
                lambda run=run, last=last: [run(last) for _ in range(4)],
                {"the default layout": lambda run=run, plain=plain: [run(plain) for _ in range(4)]},
                note="4 calls",
            )
