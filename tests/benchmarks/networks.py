"""The networks that benchmarks run on: torchvision's with random weights, and the embedded one."""

import torch
from torch import Tensor, nn


def network(name: str) -> nn.Module:
    """A network by name, in eval mode on the CPU: the embedded ones with their weights, others random."""
    if name in ("efficientnet_lite0", "petnet", "petnet_gap"):
        from lecture7_utils import load_model

        return load_model(name, device="cpu")
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.get_model(name, weights=None).eval()


def pictures(n: int = 1, size: int = 224) -> Tensor:
    """Images [n, 3, size, size], the same each time."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
