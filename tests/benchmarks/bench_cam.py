"""CAM beside the forward pass that it rides on; Grad-CAM beside the packages grad-cam and torchcam."""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.kernels.cam import class_activation_map, grad_cam
from tests.benchmarks.measure import Row, compare
from tests.benchmarks.networks import network, pictures

AVERAGED = ("efficientnet_lite0", "resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121")
LAYERS = {"resnet18": "layer4", "vgg16": "features.29"}
BATCHES = (1, 8)
TARGET = 207


def rows() -> Iterator[Row]:
    """CAM ≤ 1.03 × the forward pass; Grad-CAM ≥ 2.5 × as fast as grad-cam and not behind torchcam."""
    for name in AVERAGED:
        net = network(name)
        for batch in BATCHES:
            images, calls = pictures(batch), 8 // batch

            def forward(net=net, images=images):
                with torch.no_grad():
                    return net(images)

            def ours(net=net, images=images):
                return class_activation_map(net, images, TARGET)

            yield from compare(
                "class_activation_map",
                f"{name}, batch {batch}",
                lambda ours=ours, calls=calls: [ours() for _ in range(calls)],
                {"forward pass": lambda forward=forward, calls=calls: [forward() for _ in range(calls)]},
                at_most={"forward pass": 1.03},
                note=f"{calls} calls",
            )
    for name, layer in LAYERS.items():
        net = network(name)
        for batch in BATCHES:
            images = pictures(batch)
            peers = {"grad-cam": _grad_cam(net, layer, images), "torchcam": _torchcam(net, layer, images)}
            for how, given in (("layer named", layer), ("layer found", None)):
                yield from compare(
                    "grad_cam",
                    f"{name}, batch {batch}, {how}",
                    lambda net=net, images=images, given=given: grad_cam(net, images, TARGET, given),
                    peers,
                    at_least={"grad-cam": 2.5, "torchcam": 1.0},
                )


def _grad_cam(net: nn.Module, layer: str, images: Tensor) -> Callable[[], object]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = _twin(net)
    peer = GradCAM(net, [net.get_submodule(layer)])
    return lambda: peer(images, [ClassifierOutputTarget(TARGET)] * len(images))


def _torchcam(net: nn.Module, layer: str, images: Tensor) -> Callable[[], object]:
    from torchcam.methods import GradCAM

    net = _twin(net)
    peer = GradCAM(net, layer)

    def run():
        maps = peer(TARGET, net(images), normalized=False)[0]
        return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear")

    return run


def _twin(net: nn.Module) -> nn.Module:
    """The network with the same parameters, but without the hooks that peers leave on it."""
    held = [*net.parameters(), *net.buffers()]
    return copy.deepcopy(net, {id(tensor): tensor for tensor in held})
