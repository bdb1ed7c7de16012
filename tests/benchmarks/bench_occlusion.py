"""The occlusion map beside captum's at its best setting and beside the loop that anyone would write."""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.occlusion import occlude, occlusion_map
from tests.benchmarks.measure import Row, compare, timed
from tests.benchmarks.networks import network, pictures

# network, image side, window, stride, and how many times as fast as captum it is to be
CASES = (
    ("petnet", 96, 12, 4, 3.0),
    ("petnet_gap", 96, 12, 4, 3.0),
    ("squeezenet1_1", 224, 16, 8, 4.5),
    ("mobilenet_v2", 224, 16, 8, 3.2),
    ("efficientnet_lite0", 224, 16, 8, 2.6),
    ("efficientnet_lite0", 224, 32, 16, 1.0),
    ("resnet18", 224, 16, 8, 2.5),
    ("resnet18", 224, 32, 16, 1.0),
    ("vgg16", 224, 32, 16, 5.0),
    ("vgg16", 224, 16, 8, 6.5),
)
TARGET, BATCHES, LOOP = 3, (1, 4, 8, 16, 32), 8


def captum(net: nn.Module, images: Tensor, window: int, stride: int, batch: int) -> Tensor:
    from captum.attr import Occlusion

    return Occlusion(net).attribute(
        images,
        target=TARGET,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        perturbations_per_eval=batch,
    )


def loop(net: nn.Module, images: Tensor, rectangles: Tensor) -> Tensor:
    """What anyone would write, with a network in channels-last format."""
    with torch.inference_mode():
        parts = [occlude(images, part) for part in rectangles.split(LOOP)]
        return torch.cat([net(p.contiguous(memory_format=torch.channels_last))[:, TARGET] for p in parts])


def best_batch(net: nn.Module, images: Tensor) -> int:
    """captum's fastest `perturbations_per_eval`, by the better of two sweeps each over 49 positions."""
    window = images.shape[-1] // 7
    seconds = {
        batch: min(timed(lambda b=batch: captum(net, images, window, window, b))[0] for _ in range(2))
        for batch in BATCHES
    }
    return min(seconds, key=seconds.get)


def rows() -> Iterator[Row]:
    """Beside captum with issue 6's targets, and beside the loop, not to be behind."""
    for name, side, window, stride, target in CASES:
        net, images = network(name), pictures(1, side)
        found = occlusion_map(net, images, TARGET, window=window, stride=stride)
        batch = best_batch(net, images)
        peer = captum(net, images, window, stride, batch)[:, 0]
        difference = float((found.map("drop") - peer).abs().max() / found.clean.abs().max())
        if difference > 1e-4:
            raise RuntimeError(f"{name}: captum and we differ by {difference:.1e} of the score")
        rectangles = found.rectangles.flatten(0, 1)
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        beside, plain = f"captum, {batch} per pass", f"plain loop, channels last, {LOOP} per pass"
        yield from compare(
            "occlusion_map",
            f"{name}, window {window} stride {stride}, {len(rectangles)} positions",
            partial(occlusion_map, net, images, TARGET, window=window, stride=stride),
            {
                beside: partial(captum, net, images, window, stride, batch),
                plain: partial(loop, last, images, rectangles),
            },
            at_least={beside: target, plain: 1.0},
            note=found.how.split(", up to")[0].replace(": only what the window changes in the network", ""),
        )
