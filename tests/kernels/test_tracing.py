"""A pass written down: its steps give what the network gives, for other images too; and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.kernels.tracing import Trace, Untraceable, Window, trace
from tests.guards import unchanged
from tests.kernels.test_dense import calibrate
from tests.kernels.test_dirty import random_case
from tests.nets import random_images

SIZE = (12, 14)


def traced(net: nn.Module, image: Tensor | None = None, noted=None) -> Trace:
    image = random_images(0, 1, SIZE) if image is None else image
    with torch.inference_mode():
        return trace(net, image, net, noted)


def replay(found: Trace, images: Tensor) -> list[Tensor]:
    """Every step's output, whole."""
    values: list[Tensor] = []
    for step in found.steps:
        inputs = [values[i] for i in step.inputs] if step.inputs else [images]
        if step.padding is not None:
            inputs = [F.pad(inputs[0], step.padding[0], value=step.padding[1])]
        out = images if step.role == "image" else step.run(*inputs)
        if step.after:
            out = out.clone()
        for function in step.after:
            out = function(out)
        values.append(out)
    return values


@pytest.mark.parametrize("seed", range(12))
def test_the_steps_give_what_the_network_gives(seed):
    net, size, _ = random_case(seed)
    net = net.double()
    image, others = random_images(seed, 1, size), random_images(seed + 1, 3, size)
    with unchanged(net, image):
        found = traced(net, image)
    with torch.no_grad():
        assert torch.equal(found.raw, net(image))
        expected = net(others)
    values = replay(found, others)
    assert (values[-1] - expected).abs().max() <= 1e-12 * expected.abs().max()
    for step, value in zip(found.steps, values, strict=True):
        assert step.shape == tuple(value.shape[1:])
    # the maps that were kept are those of the steps, whatever the network wrote over them afterwards
    kept = 0
    for step, value in zip(found.steps, replay(found, image), strict=True):
        if step.map is not None and step.is_map:
            kept += 1
            assert (step.map - value).abs().max() <= 1e-12 * value.abs().max()
    assert kept > 3


class Chain(nn.Sequential):
    def __init__(self, *layers):
        super().__init__(*layers)


def test_what_is_joined():
    net = Chain(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.ZeroPad2d((0, 1, 2, 0)),
        nn.Conv2d(4, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.Dropout(),
        nn.Hardtanh(0, 6),
        nn.Identity(),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    net = calibrate(net).double()
    found = traced(net)
    assert [s.role for s in found.steps] == ["image", "window", "window", "average", "whole"]
    assert found.folds == 2
    assert found.steps[2].window == Window((3, 3), (2, 2), (2, 0), (1, 1))
    images = random_images(1, 2, SIZE)
    with torch.no_grad():
        assert torch.allclose(replay(found, images)[-1], net(images), atol=1e-13)


def test_a_value_that_is_read_twice_is_not_joined():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) + y).mean((2, 3))

    found = traced(calibrate(Net()).double())
    assert found.folds == 0
    assert [s.role for s in found.steps] == ["image", "window", "place", "union", "average"]


def test_names_of_what_each_layer_gave():
    net, size, _ = random_case(3)
    noted: dict[str, int] = {}
    with unchanged(net):
        found = traced(net, random_images(3, 1, size, torch.float32), noted)
    steps = {name: found.steps[found.index[n]] for name, n in noted.items() if n in found.index}
    assert next(iter(noted)) == "stem"
    assert steps["stem"].shape[0] == net.stem.out_channels
    assert steps["last"].shape == (5,)
    assert "blocks" in steps


# --- what is refused


def refused(forward, says: str, net: nn.Module | None = None) -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3).double(), nn.BatchNorm2d(4).double()
            self.register_buffer("place", torch.rand(12, 14).double())

        def forward(self, x):
            return forward(self, x)

    net = (net or Net()).eval()
    image = random_images(0, 1, SIZE)
    with unchanged(net, image), pytest.raises(Untraceable, match=says):
        traced(net, image)


CASES = {
    "a step that isn't known": (lambda n, x: torch.fft.rfft2(x).real, "fft_rfft2"),
    "a value": (lambda n, x: x * x.flatten()[0].item(), "step 'flatten'"),
    "a decision": (lambda n, x: x if x.amax((1, 2, 3), keepdim=True) else -x, "bool"),
    "numpy": (lambda n, x: torch.from_numpy(x.numpy()), "numpy"),
    "out": (lambda n, x: torch.add(x, 1, out=torch.empty(x.shape).double()), "'add'"),
    "batch statistics": (lambda n, x: F.batch_norm(x, None, None, training=True), "statistics"),
    "dropout that is on": (lambda n, x: F.dropout(x, 0.0, True), "dropout that is on"),
    "another image": (lambda n, x: torch.cat([x, x.flip(0)]), "'flip'"),
    "images side by side": (lambda n, x: torch.cat([x, x]), "concatenation of images"),
    "a constant beside it": (lambda n, x: torch.cat([x, torch.ones_like(x) * 2.0], 1), "ones_like"),
    "images chosen": (lambda n, x: x[0:1], "selection of images"),
    "places by a list": (lambda n, x: x[:, [0, 2]], "numbers and ranges"),
    "another dtype": (lambda n, x: x.float(), "kind of numbers"),
    "a position": (lambda n, x: x + n.place, "differs between places"),
    "a gate": (lambda n, x: x * x.mean((2, 3), keepdim=True), "squeeze-and-excitation"),
    "weights from the image": (lambda n, x: F.conv2d(x, x[:, :, :3, :3]), "depend on the image"),
    "switches": (lambda n, x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d_with_indices"),
    "the transposed": (lambda n, x: x.mT, "attribute"),
    "no dimension of images": (lambda n, x: x.squeeze(0), "dimension of the images"),
    "something else": (lambda n, x: torch.zeros(1, 3, dtype=x.dtype), "does not come from the image"),
    "a tuple": (lambda n, x: (n.conv(x),), "does not come from the image"),
    "a channel on its own": (lambda n, x: x[:, 0].relu(), "without its channel dimension"),
    "shared memory": (lambda n, x: (x[:, :1].add_(1), x)[1], "two tensors share"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    refused(*CASES[case])


def test_hooks_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).double()
    handles = [net[1].register_forward_pre_hook(lambda m, x: None)]
    refused(None, "hook on '1'", net)
    handles[0].remove()
    handle = nn.modules.module.register_module_forward_hook(lambda m, x, y: None)
    try:
        refused(None, "hook on all modules", net)
    finally:
        handle.remove()
    assert traced(net).folds == 0


def test_what_the_network_raises_passes_on_and_it_is_left_as_it_was():
    class Fails(nn.Sequential):
        def forward(self, x):
            super().forward(x)
            raise OSError("disk")

    net, image = Fails(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True)).double(), random_images(0, 1, SIZE)
    noted: dict[str, int] = {}
    with unchanged(net, image), pytest.raises(OSError, match="disk"):
        traced(net, image, noted)


def test_no_weight_of_the_model_is_touched_by_folding():
    net = calibrate(Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).double()
    before = copy.deepcopy(net.state_dict())
    found = traced(net)
    assert found.folds == 1
    assert found.steps[1].conv.weight is not net[0].weight
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
