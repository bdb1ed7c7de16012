"""Small random networks for the tests, with every kind of step that the kernels have to get through."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomNet(nn.Module):
    """Random widths, kernels and strides; calibrated batch norm; its layers, in the order they run:

    `entry` (identity, or an in-place ReLU as the first step), `stem`, `stem_norm`, functional ReLU,
    `body` (with an in-place ReLU) added to its input, `depthwise` with a stride and `pointwise`,
    `left` and `right` concatenated, `pool` (ceil mode), `drop`, functional dropout, then a global average
    or a flatten, and `head`.
    """

    def __init__(self, choose: random.Random, classes: int, head: str, dropout: float, in_place_first: bool):
        super().__init__()
        width, wide = choose.randint(3, 6), choose.randint(4, 8)
        kernel = choose.choice([1, 3, 5])
        self.dropout = dropout
        self.kind = head
        self.entry = nn.ReLU(inplace=True) if in_place_first else nn.Identity()
        self.stem = nn.Conv2d(3, width, kernel, stride=choose.choice([1, 2]), padding=kernel // 2)
        self.stem_norm = nn.BatchNorm2d(width)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, (1, 3), padding=(0, 1)),
        )
        self.depthwise = nn.Conv2d(width, width, 3, stride=choose.choice([1, 2]), padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, wide, 1)
        self.left = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(wide, 3, 3, padding=2, dilation=2), nn.ReLU6())
        self.pool = nn.MaxPool2d(choose.choice([2, 3]), 2, ceil_mode=True)
        self.drop = nn.Dropout2d(dropout)
        self.head = nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(self.entry(x))))
        x = x + self.body(x)
        x = torch.relu(self.pointwise(self.depthwise(x)))
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = self.drop(self.pool(x))
        x = F.dropout(x, self.dropout, self.training)
        return x.mean((2, 3)) if self.kind == "average" else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def random_net(
    seed: int,
    size: tuple[int, int] = (16, 16),
    *,
    classes: int = 5,
    dtype: torch.dtype = torch.float64,
    head: str | None = None,
    dropout: float = 0.3,
    in_place_first: bool = False,
    train: bool = False,
) -> RandomNet:
    """A `RandomNet` for images of that size: the same for the same seed; the global state is not touched.

    head: "average" or "flatten", None for either. train: leave it in train mode.
    """
    choose = random.Random(seed)
    head = head or choose.choice(["average", "flatten"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RandomNet(choose, classes, head, dropout, in_place_first).double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the plain mean over what it has seen: calibrates in one pass
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        with torch.no_grad():
            width = net.features(torch.randn(8, 3, *size, dtype=torch.float64)).shape[1]
            net.head = nn.Linear(width, classes, dtype=torch.float64)
            net.head.weight.normal_(std=width**-0.5)
    return net.train(train).to(dtype)


def random_images(
    seed: int, n: int = 2, size: tuple[int, int] = (16, 16), dtype: torch.dtype = torch.float64
) -> Tensor:
    """Standard normal images [n, 3, *size]: the same for the same seed; the global state is not touched."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, *size, generator=generator, dtype=torch.float64).to(dtype)
