"""Gradient ascent beside the bare loop on the same layer, and beside lucent where it is installed.

lucent is on no list of dependencies: `pip install torch-lucent kornia decorator` brings it. Its own random
rotation does not run with today's kornia; it is run without transforms, and so are we.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.ascent import NATURAL, ascend
from lecture7_utils.kernels.regularisers import fourier
from lecture7_utils.kernels.targets import Unit, unit
from tests.benchmarks.measure import Row, compare
from tests.benchmarks.networks import network

RATE, L2, SIDE, CHANNEL, CLASS = 0.05, 1e-4, 224, 3, 207


def lite(net: nn.Module) -> nn.Module:
    return nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:2])


def res(net: nn.Module) -> nn.Module:
    return nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)


# network, layer (None for the class score), its beginning up to that layer, steps, images
CASES: tuple[tuple[str, str | None, Callable[[nn.Module], nn.Module], int, int], ...] = (
    ("efficientnet_lite0", "bn1", lambda net: lite(net)[:2], 60, 1),
    ("efficientnet_lite0", "blocks.1", lite, 20, 1),
    ("efficientnet_lite0", "blocks.1", lite, 4, 8),
    ("efficientnet_lite0", None, lambda net: net, 10, 1),
    ("resnet18", "layer1", res, 20, 1),
    ("resnet18", None, lambda net: net, 10, 1),
    ("vgg16", "features.4", lambda net: net.features[:5], 10, 1),
)


def rows() -> Iterator[Row]:
    """ascend ≤ 1.05 × the bare loop; ≥ 1.5 × as fast as lucent at an early layer, per unit and step."""
    for name, layer, part, steps, batch in CASES:
        net = network(name)
        objective = CLASS if layer is None else unit(layer, CHANNEL, "mean")
        begin = part(net).requires_grad_(False)

        def ours(net=net, objective=objective, steps=steps, batch=batch, regularise=(), update="gradient"):
            return ascend(
                net,
                objective,
                steps=steps,
                rate=RATE,
                l2=L2,
                batch=batch,
                regularise=regularise,
                update=update,
            )

        def bare(begin=begin, objective=objective, steps=steps, batch=batch):
            return bare_loop(begin, objective, steps, batch)

        case = f"{name}, {layer or 'class score'}, {batch} of {SIDE}, {steps} steps"
        yield from compare(
            "ascend, as in the notes", case, ours, {"bare loop": bare}, at_most={"bare loop": 1.05}
        )
        if batch == 1 and name == "efficientnet_lite0":
            yield from compare(
                "ascend, default setting",
                case,
                lambda ours=ours: ours(regularise=NATURAL, update="adam"),
                {"bare loop": bare},
                note="Fourier, jitter, rotation and scale, Adam",
            )
    if find_spec("lucent") is None or find_spec("kornia") is None:
        return
    for layer, steps, batch in (("blocks.0", 10, 1), ("blocks.1", 5, 8)):
        net = network("efficientnet_lite0")
        yield from compare(
            "ascend, Fourier and Adam",
            f"efficientnet_lite0, {layer}, {batch} of {SIDE}, {steps} steps",
            lambda net=net, layer=layer, steps=steps, batch=batch: ascend(
                net, unit(layer, CHANNEL, "mean"), steps=steps, rate=RATE, l2=0, batch=batch, bounds=(0, 1),
                regularise=[fourier(1.0)],
            ),
            {"lucent": partial(lucent, net, layer, steps, batch)},
            at_least={"lucent": 1.5},
            note="lucent runs the whole network",
        )  # fmt: skip


def bare_loop(begin: nn.Module, objective: int | Unit, steps: int, batch: int) -> Tensor:
    """Forward, L = s - lambda ||x||^2, backward, update; nothing else."""
    x = 0.1 * torch.randn(batch, 3, SIDE, SIDE)
    for _ in range(steps):
        x.requires_grad_(True)
        y = begin(x)
        s = y[:, CLASS] if isinstance(objective, int) else y[:, CHANNEL].mean((1, 2))
        loss = s - L2 * (x * x).sum((1, 2, 3))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        x = (x + RATE * gradient).detach()
    return x


def lucent(net: nn.Module, layer: str, steps: int, batch: int) -> object:
    from lucent.optvis import objectives, param, render

    held = [*net.parameters(), *net.buffers()]
    # a copy of the modules each time: lucent leaves its hooks on them
    twin = copy.deepcopy(net.__dict__["_network"], {id(tensor): tensor for tensor in held})
    return render.render_vis(
        twin,
        objectives.channel(layer.replace(".", "_"), CHANNEL),
        lambda: param.image(SIDE, batch=batch),
        transforms=[],
        preprocess=False,
        thresholds=(steps,),
        progress=False,
        show_image=False,
    )
