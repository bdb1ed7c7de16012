"""The search beside the bare truncated network, beside zennit-crp, and on two processes beside one.

zennit-crp is on no list of dependencies: `pip install zennit-crp` brings it (it looks for the images that
maximise a channel's activation or relevance, by a forward and a backward pass of the whole network).
"""

import contextlib
import copy
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.dense import ROOM
from lecture7_utils.kernels.layers import reading
from lecture7_utils.kernels.search import top_activations
from tests.benchmarks.measure import Row, Timing, compare
from tests.benchmarks.networks import network, pictures

# network, layer, images, their side: enough of them for a throughput, some seconds
CASES = (
    ("petnet", "features.10", 6144, 96),
    ("efficientnet_lite0", "blocks.2", 2048, 128),
    ("efficientnet_lite0", "blocks.4", 768, 224),
    ("resnet18", "layer2", 768, 224),
    ("vgg16", "features.16", 128, 224),
)
PEER = (("resnet18", "layer2", 64, 224), ("resnet18", "layer4", 64, 224), ("vgg16", "features.16", 32, 224))


def rows() -> Iterator[Row]:
    """≥ 0.95 × the bare pass; ≥ 3 × as fast as zennit-crp in CPU time; two processes ≥ 1.8 × one."""
    for name, layer, count, side in CASES:
        net, images = _network(name), pictures(count, side)

        def ours(net=net, layer=layer, images=images):
            return top_activations(net, layer, images, 5)

        bare = {
            # what the user would run, and the same in the layout that the search takes
            "bare pass": lambda n=net, la=layer, i=images: _bare(n, la, i, torch.contiguous_format),
            "bare pass, channels last": lambda n=net, la=layer, i=images: _bare(
                n, la, i, torch.channels_last
            ),
        }
        yield from compare(
            "top_activations",
            f"{name}, {layer}, {count} images of {side} × {side}",
            ours,
            bare,
            at_least={"bare pass": 0.95},
            note=f"batches of {_batch(side)}",
        )
    if find_spec("crp") is not None:
        for name, layer, count, side in PEER:
            net, images = network(name), pictures(count, side)
            yield from compare(
                "top_activations",
                f"{name}, {layer}, {count} images of {side} × {side}",
                lambda net=net, layer=layer, images=images: top_activations(net, layer, images, 40),
                {"zennit-crp": _zennit_crp(net, layer, images)},
                at_least={"zennit-crp": 3},
                note="top 40, as zennit-crp keeps",
            )
    yield from _two_processes()


def _network(name: str) -> nn.Module:
    if name != "petnet":
        return network(name)
    from lecture7_utils.shop.petnet import PetNet

    return PetNet().eval()


def _batch(side: int) -> int:
    """As many images as the search takes at once."""
    return max(1, ROOM["cpu"] // side**2)


def _bare(net: nn.Module, layer: str, images: Tensor, layout: torch.memory_format) -> None:
    """The network up to the layer, and nothing else."""
    with torch.inference_mode(), reading(net, [layer]) as read:
        for part in images.split(_batch(images.shape[3])):
            read(part.contiguous(memory_format=layout))


def _zennit_crp(net: nn.Module, layer: str, images: Tensor) -> Callable[[], object]:
    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept
    from crp.visualization import FeatureVisualization

    net = copy.deepcopy(net)
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # its hooks do not bear steps in place

    class Labelled:
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            return images[i].clone(), 0

    def run():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            with contextlib.redirect_stdout(io.StringIO()):
                peer = FeatureVisualization(
                    CondAttribution(net), Labelled(), {layer: ChannelConcept()}, max_target="max", path=folder
                )
                peer.run(None, 0, len(images), _batch(images.shape[3]))

    return run


# ------------------------------------------------------------------------------------------ processes

_SEARCH = """
import sys, time, torch
import torch.distributed as dist
from lecture7_utils.kernels.search import top_activations
from tests.benchmarks.bench_search import _network
from tests.benchmarks.networks import pictures

rank, world, meeting, name, layer, count, side = sys.argv[1:]
torch.set_num_threads(1)
if int(world) > 1:
    dist.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=int(world))
net, images = _network(name), pictures(int(count), int(side))
top_activations(net, layer, images[:64], 5)
if int(world) > 1:
    dist.barrier()
cpu, wall = time.process_time(), time.perf_counter()
top_activations(net, layer, images, 5)
print(time.process_time() - cpu, time.perf_counter() - wall)
if int(world) > 1:
    dist.destroy_process_group()
"""


def _two_processes(case: tuple = ("petnet", "features.10", 6400, 96), rounds: int = 3) -> Iterator[Row]:
    """One process of one thread against two; the time begins when network and images are there."""
    name, layer, count, side = case
    one, two = [], []
    for _ in range(rounds):
        one.append(_timed(1, case))
        two.append(_timed(2, case))
    middle = rounds // 2
    walls = sorted(b[1] / a[1] for a, b in zip(two, one, strict=True))
    cpus = sorted(b[0] / a[0] for a, b in zip(two, one, strict=True))

    def timing(taken: list[tuple[float, float]]) -> Timing:
        ordered = sorted(wall for _, wall in taken)
        return Timing(ordered[middle], ordered[0], ordered[-1], sorted(cpu for cpu, _ in taken)[middle])

    yield Row(
        "top_activations",
        f"two processes of one thread, {name}, {layer}, {count} images of {side} × {side}",
        "one process of one thread",
        timing(two),
        timing(one),
        walls[middle],
        "× faster",
        cpus[middle],
        at_least=1.8,
        note="CPU ratio: that of one process to the slower of two, what two free cores would give",
    )


def _timed(world: int, case: tuple) -> tuple[float, float]:
    """CPU and wall seconds of the slowest process."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", _SEARCH, str(rank), str(world), meeting, *map(str, case)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(world)
        ]
        said = [process.communicate()[0].split() for process in started]
    return max(float(cpu) for cpu, _ in said), max(float(wall) for _, wall in said)
