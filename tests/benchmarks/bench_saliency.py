"""Saliency and SmoothGrad beside the bare gradient, which is the least that they can cost."""

from collections.abc import Iterator

import torch

from lecture7_utils.kernels.saliency import saliency_map, smooth_grad
from tests.benchmarks.measure import Row, compare
from tests.benchmarks.networks import network, pictures

NETWORKS = ("efficientnet_lite0", "resnet18", "vgg16")
TARGET, SAMPLES = 207, 32


def rows() -> Iterator[Row]:
    """saliency_map ≤ 1.03 × one bare gradient; smooth_grad of 32 ≤ 1.05 × 32 bare gradients."""
    for name in NETWORKS:
        net, images = network(name).requires_grad_(False), pictures()

        def bare(net=net, images=images):
            leaf = images.clone().requires_grad_()
            return torch.autograd.grad(net(leaf)[:, TARGET].sum(), leaf)[0]

        def ours(net=net, images=images):
            return saliency_map(net, images, TARGET)

        yield from compare(
            "saliency_map",
            f"{name}, one image",
            lambda: [ours() for _ in range(4)],
            {"bare gradient": lambda: [bare() for _ in range(4)]},
            at_most={"bare gradient": 1.03},
            note="4 calls",
        )
    for name in NETWORKS:
        net, images = network(name).requires_grad_(False), pictures()

        def gradients(net=net, images=images):
            for _ in range(SAMPLES):
                leaf = images.clone().requires_grad_()
                torch.autograd.grad(net(leaf)[:, TARGET].sum(), leaf)

        yield from compare(
            "smooth_grad",
            f"{name}, {SAMPLES} samples",
            lambda net=net, images=images: smooth_grad(net, images, TARGET, samples=SAMPLES),
            {f"{SAMPLES} bare gradients": gradients},
            at_most={f"{SAMPLES} bare gradients": 1.05},
        )
