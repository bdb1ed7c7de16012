"""DeconvNet and guided backpropagation beside one bare forward and backward pass; and beside captum."""

import copy
import warnings
from collections.abc import Iterator

import torch

from lecture7_utils.kernels.deconvnet import deconvnet
from lecture7_utils.kernels.targets import unit
from tests.benchmarks.measure import Row, compare
from tests.benchmarks.networks import network, pictures

# a network, its class score or a unit (layer, channel)
CASES = (
    ("efficientnet_lite0", None),
    ("efficientnet_lite0", ("blocks.3", 5)),
    ("resnet18", None),
    ("resnet18", ("layer2", 5)),
    ("vgg16", None),
)
BATCH, TARGET = 8, 207


def rows() -> Iterator[Row]:
    """deconvnet ≤ 1.05 × one bare forward and backward pass, from a batch of 8."""
    images = pictures(BATCH)
    for name, place in CASES:
        net = network(name).requires_grad_(False)
        target = TARGET if place is None else unit(*place)

        def bare(net=net, place=place):
            leaf = images.clone().requires_grad_()
            return torch.autograd.grad(_value(net, leaf, place).sum(), leaf)[0]

        for rule in ("deconvnet", "guided"):
            yield from compare(
                f"deconvnet, {rule}",
                f"{name}, {'class score' if place is None else place[0]}, batch {BATCH}",
                lambda net=net, target=target, rule=rule: deconvnet(net, images, target, rule=rule),
                {
                    "bare passes": bare,
                    **(_captum(net, rule, images) if name == "resnet18" and not place else {}),
                },
                at_most={"bare passes": 1.05},
            )


def _value(net: torch.nn.Module, leaf: torch.Tensor, place: tuple[str, int] | None) -> torch.Tensor:
    """The class score, or the unit's largest activation with the network stopped there by an exception."""
    if place is None:
        return net(leaf)[:, TARGET]
    found = []

    def stop(_module, _inputs, output):
        found.append(output[:, place[1]].flatten(1).amax(1))
        raise _Stop

    handle = net.get_submodule(place[0]).register_forward_hook(stop)
    try:
        net(leaf)
    except _Stop:
        return found[0]
    finally:
        handle.remove()
    raise RuntimeError(f"{place[0]} was not called")


class _Stop(Exception):
    pass


def _captum(net: torch.nn.Module, rule: str, images: torch.Tensor) -> dict:
    """captum's own, which looks for ReLU as modules."""
    from captum.attr import Deconvolution, GuidedBackprop

    peer = {"deconvnet": Deconvolution, "guided": GuidedBackprop}[rule](copy.deepcopy(net))

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it sets hooks
            return peer.attribute(images.clone(), target=TARGET)

    return {"captum": run}
