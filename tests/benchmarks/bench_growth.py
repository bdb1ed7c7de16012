"""How the cost grows: occlusion with positions and image size, the search with images and channels."""

from collections.abc import Iterator
from functools import partial

from lecture7_utils.kernels.occlusion import occlusion_map
from lecture7_utils.kernels.search import top_activations
from tests.benchmarks.measure import Row, rate
from tests.benchmarks.networks import network, pictures

NETWORK, TARGET = "efficientnet_lite0", 207
STRIDES = (32, 16, 8)  # 49, 169 and about 700 positions of 224 × 224
SIDES = (160, 224, 320)
IMAGES = (256, 1024, 4096)  # of 64 × 64
CHANNELS = (1, 16, None)  # of the layer's, None for all


def rows() -> Iterator[Row]:
    """Positions, or images, a second at three sizes each; no targets."""
    net = network(NETWORK)
    for stride in STRIDES:
        images = pictures(1, 224)
        yield from _occlusion(net, images, 32, stride)
    for side in SIDES:  # window and stride grow with the image: as many positions each time
        yield from _occlusion(net, pictures(1, side), side // 7, side // 14)
    for count in IMAGES:
        images = pictures(count, 64)
        run = partial(top_activations, net, "blocks.2", images, 5)
        yield from rate(
            "top_activations", f"{NETWORK}, blocks.2, {count} images of 64 × 64", run, count, "/s"
        )
    for channels in CHANNELS:
        images = pictures(1024, 64)
        given = None if channels is None else list(range(channels))
        run = partial(top_activations, net, "blocks.2", images, 5, given)
        what = "all channels" if channels is None else f"{channels} channels"
        yield from rate("top_activations", f"{NETWORK}, blocks.2, {what}, 1024 images", run, 1024, "/s")


def _occlusion(net, images, window: int, stride: int) -> Iterator[Row]:
    run = partial(occlusion_map, net, images, TARGET, window=window, stride=stride)
    found = run()
    count, side = found.scores[0].numel(), images.shape[2]
    yield from rate(
        "occlusion_map",
        f"{NETWORK}, {side} × {side}, window {window} stride {stride}, {count} positions",
        run,
        count,
        "/s",
        note=found.how[:60],
    )
