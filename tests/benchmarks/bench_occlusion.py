"""The occlusion map beside captum's at its best setting and beside the loop that anyone would write."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.occlusion import occlude, occlusion_map
from tests.benchmarks.measure import Row, compare, timed
from tests.benchmarks.networks import network, pictures

# network, image side, window, stride: 169 positions, 49 for the slowest, so that rounds stay short
CASES = (
    ("efficientnet_lite0", 224, 32, 16),
    ("resnet18", 224, 32, 16),
    ("mobilenet_v2", 224, 32, 16),
    ("squeezenet1_1", 224, 32, 16),
    ("vgg16", 224, 32, 32),
)
TARGET, BATCHES = 207, (1, 4, 8, 16, 32)


def captum(net: nn.Module, images: Tensor, window: int, stride: int, batch: int) -> Tensor:
    from captum.attr import Occlusion

    return Occlusion(net).attribute(
        images,
        target=TARGET,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        perturbations_per_eval=batch,
    )


def loop(net: nn.Module, images: Tensor, rectangles: Tensor, batch: int) -> Tensor:
    with torch.inference_mode():
        return torch.cat([net(occlude(images, part))[:, TARGET] for part in rectangles.split(batch)])


def best_batch(net: nn.Module, images: Tensor, window: int) -> int:
    """captum's fastest `perturbations_per_eval`, by the better of two sweeps each at stride = window."""
    seconds = {
        batch: min(timed(lambda b=batch: captum(net, images, window, window, b))[0] for _ in range(2))
        for batch in BATCHES
    }
    return min(seconds, key=seconds.get)


def rows() -> Iterator[Row]:
    """No target of its own yet but not to be behind: the dense way is what issue 6 builds on."""
    for name, side, window, stride in CASES:
        net, images = network(name), pictures(1, side)
        found = occlusion_map(net, images, TARGET, window=window, stride=stride)
        peer = captum(net, images, window, stride, 8)[:, 0]
        difference = float((found.map("drop") - peer).abs().max() / found.clean.abs().max())
        if difference > 1e-4:
            raise RuntimeError(f"{name}: captum and we differ by {difference:.1e} of the score")
        rectangles = found.rectangles.flatten(0, 1)
        batch = best_batch(net, images, window)
        ours = partial(occlusion_map, net, images, TARGET, window=window, stride=stride)
        beside = f"captum, {batch} per pass"
        yield from compare(
            "occlusion_map",
            f"{name}, window {window} stride {stride}, {len(rectangles)} positions",
            ours,
            {
                beside: partial(captum, net, images, window, stride, batch),
                "plain loop, 8 per pass": partial(loop, net, images, rectangles, 8),
            },
            at_least={beside: 1.0, "plain loop, 8 per pass": 1.0},
            note=found.how.split(", up to")[0],
        )
