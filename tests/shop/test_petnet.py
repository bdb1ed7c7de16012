"""PetNet, its conversion to a global average, and fitting its last layer."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from lecture7_utils.shop import petnet as module
from lecture7_utils.shop.petnet import (
    NAMES,
    PetNet,
    fit_head,
    load_petnet,
    read_weights,
    to_global_average_pooling,
)
from lecture7_utils.shop.scenes import SPECIES, Scenes, scene
from lecture7_utils.shop.training import multiply_adds, write_weights
from tests.guards import refuses, unchanged

SMALL = {"blocks": ((4,), (6, 6)), "size": 16}


def small(seed=0, **options):
    return PetNet(("a", "b", "c"), seed=seed, **SMALL, **options)


def pairs(count, seed=0, classes=3):
    """Pictures whose class is the brightest channel."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 16, 16, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    images[torch.arange(count), labels] += 0.3
    return list(zip(images, labels.tolist(), strict=True))


def test_the_network_is_a_small_vgg_within_its_budget():
    net = PetNet()
    assert net.categories == SPECIES
    kinds = [type(layer) for layer in net.features]
    assert set(kinds) == {nn.Conv2d, nn.ReLU, nn.MaxPool2d}
    assert all(layer.kernel_size == (3, 3) for layer in net.features if isinstance(layer, nn.Conv2d))
    assert isinstance(net.flatten, nn.Flatten)
    assert isinstance(net.classifier, nn.Linear)
    # counted from what each layer really gives
    counted = []

    def count(layer, _inputs, output):
        cost = layer.weight[0].numel()
        counted.append(cost * output[0].numel())

    handles = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    scores = net(torch.rand(2, 3, 96, 96))
    for handle in handles:
        handle.remove()
    assert scores.shape == (2, 8)
    assert sum(counted) == multiply_adds(net) <= 100_000_000
    assert net.features(torch.rand(1, 3, 96, 96)).shape[2:] == (12, 12)


def test_weights_come_from_the_seed_and_no_global_state():
    with unchanged():
        a, b, c = small(1), small(1), small(2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.features[0].weight, c.features[0].weight)
    scores = a(torch.rand(5, 3, 16, 16))
    assert torch.isfinite(scores).all()
    # the scale of He et al. 2015
    wide = PetNet(blocks=((64,), (64,)), size=16).features[3].weight
    assert float(wide.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_the_conversion_leaves_the_network_and_keeps_its_features():
    net = small().double().train()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    with unchanged(net):
        converted = to_global_average_pooling(net, seed=3)
    assert converted.training
    for (name, mine), theirs in zip(
        net.features.state_dict().items(), converted.features.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
        assert mine.data_ptr() != theirs.data_ptr()
    assert converted.classifier.weight.shape == (3, 6)
    assert converted.classifier.weight.dtype == torch.float64
    maps = net.features(images)
    expected = maps.mean((2, 3)) @ converted.classifier.weight.T + converted.classifier.bias
    assert torch.allclose(converted(images), expected)
    again = to_global_average_pooling(net, seed=3)
    assert torch.equal(again.classifier.weight, converted.classifier.weight)
    assert not torch.equal(to_global_average_pooling(net, seed=4).classifier.weight, again.classifier.weight)
    refuses("net", to_global_average_pooling, converted, says="global average")
    refuses("net", to_global_average_pooling, nn.Linear(2, 2))


@pytest.mark.parametrize("average", [False, True])
def test_fit_head_equals_a_plain_training_loop(average):
    data = pairs(50, seed=1)
    net, plain = small(5, average=average).double(), small(5, average=average).double()
    data = [(image.double(), label) for image, label in data]
    fit = fit_head(
        net, data, epochs=3, batch_size=16, learning_rate=0.05, weight_decay=0.01, seed=7, progress=False
    )

    # the whole network, step by step, with only the last layer's parameters in the optimiser
    images, labels = torch.stack([image for image, _ in data]), torch.tensor([label for _, label in data])
    generator = torch.Generator().manual_seed(7)
    optimiser = torch.optim.Adam(plain.classifier.parameters(), lr=0.05)
    losses, step, steps = [], 0, 3 * 4
    for _ in range(3):
        order, total = torch.randperm(50, generator=generator), 0.0
        for start in range(0, 50, 16):
            chosen = order[start : start + 16]
            loss = F.cross_entropy(plain(images[chosen]), labels[chosen])
            total += loss.item() * len(chosen)
            for group in optimiser.param_groups:
                group["lr"] = (
                    0.05
                    * (1 + torch.cos(torch.tensor(torch.pi * step / steps, dtype=torch.float64)).item())
                    / 2
                )
            optimiser.zero_grad()
            (loss + 0.005 * plain.classifier.weight.pow(2).sum()).backward()
            optimiser.step()
            step += 1
        losses.append(total / 50)
    assert torch.allclose(net.classifier.weight, plain.classifier.weight, rtol=1e-9, atol=1e-12)
    assert torch.allclose(net.classifier.bias, plain.classifier.bias, rtol=1e-9, atol=1e-12)
    assert fit.losses == pytest.approx(losses)
    assert fit.losses[-1] < fit.losses[0]
    assert fit.accuracy == float((net(images).argmax(1) == labels).double().mean())


def test_fit_head_touches_the_last_layer_only():
    net = small().train()
    net.features[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with unchanged(net.features, net.flatten):
        fit_head(net, pairs(20), epochs=1, progress=False)
    assert net.training
    assert net.classifier.weight.requires_grad
    assert net.classifier.weight.grad is None
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("classifier")), name


def test_fit_head_learns_scenes_and_is_repeatable():
    data = Scenes(24, size=64, species=[i % 3 for i in range(24)], tag=False)
    nets = [PetNet(blocks=((4,), (6, 6)), size=64, average=True) for _ in range(3)]
    fits = [
        fit_head(net, data, epochs=40, seed=seed, progress=False)
        for net, seed in zip(nets, (0, 0, 1), strict=True)
    ]
    assert fits[0] == fits[1]
    assert fits[0] != fits[2]
    assert fits[0].losses[-1] < 0.9 * fits[0].losses[0]
    samples = PetNet(blocks=((4,), (6, 6)), size=64, average=True)
    assert (
        fit_head(samples, [data[i] for i in range(24)], epochs=40, seed=0, progress=False).accuracy
        == fits[0].accuracy
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_fit_leaves_the_network_as_it_was(error):
    class Broken(list):
        def __getitem__(self, position):
            if position == 15:
                raise error
            return super().__getitem__(position)

    net = small().train()
    with unchanged(net), pytest.raises(error):
        fit_head(net, Broken(pairs(20)), progress=False)

    # and in the middle of the epochs
    calls = []

    def stop(*_, **__):
        calls.append(1)
        if len(calls) > 3:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stop)
        with unchanged(net), pytest.raises(error):
            fit_head(net, pairs(20), batch_size=4, progress=False)


def test_weights_come_back_from_a_file_in_half_precision(tmp_path):
    for net in (small(3), small(4, average=True)):
        digest = write_weights(net, tmp_path / "small.safetensors")
        back = read_weights(tmp_path / "small.safetensors", digest)
        assert not back.training
        assert back.categories == net.categories
        for mine, theirs in zip(net.state_dict().values(), back.state_dict().values(), strict=True):
            assert theirs.dtype == torch.float32
            assert torch.equal(mine.half().float(), theirs)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  small.safetensors\n"
    data = bytearray((tmp_path / "small.safetensors").read_bytes())
    assert digest == hashlib.sha256(data).hexdigest()
    data[-3] ^= 1
    (tmp_path / "small.safetensors").write_bytes(data)
    with pytest.raises(
        RuntimeError, match=rf"small\.safetensors: expected the SHA-256 {digest}, got [0-9a-f]{{64}}"
    ):
        read_weights(tmp_path / "small.safetensors", digest)
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors"):
        read_weights(tmp_path / "other.safetensors")


def test_a_damaged_embedded_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    write_weights(PetNet(), tmp_path / "petnet.safetensors")
    assert load_petnet().categories == SPECIES
    save_file({"x": torch.zeros(1)}, tmp_path / "petnet.safetensors")
    with pytest.raises(RuntimeError, match="expected the SHA-256"):
        load_petnet()
    refuses("name", load_petnet, "petnet_shortcut", says="SHA256SUMS")


@pytest.mark.parametrize("name", NAMES)
def test_embedded_networks_load_and_know_their_species(name):
    net = load_petnet(name)
    assert not net.training
    assert net.categories == SPECIES
    assert isinstance(net.flatten, nn.Flatten) == (name != "petnet_gap")
    images = torch.stack([scene(i, species=i % 8, tag=SPECIES[i % 8]).image for i in range(16)])
    with torch.no_grad():
        right = net(images).argmax(1) == torch.arange(16) % 8
    assert right.sum() >= 14


def test_arguments_are_checked():
    refuses("categories", PetNet, "cat")
    refuses("categories", PetNet, ("cat",))
    refuses("blocks", PetNet, blocks=())
    refuses("blocks", PetNet, blocks=(16, 32))
    refuses("blocks", PetNet, blocks=((16,), (0,)))
    refuses("size", PetNet, size=90)
    refuses("average", PetNet, average=1)
    refuses("seed", PetNet, seed=-1)
    net, data = small(), pairs(4)
    refuses("seed", to_global_average_pooling, net, seed=1.5)
    refuses("net", fit_head, nn.Linear(2, 2), data)
    refuses("dataset", fit_head, net, [])
    refuses("dataset", fit_head, net, 3, progress=False)
    refuses("dataset", fit_head, net, [1, 2], progress=False)
    refuses("dataset", fit_head, net, [*pairs(4), (data[0][0], 3)], progress=False)
    refuses("epochs", fit_head, net, data, epochs=0)
    refuses("batch_size", fit_head, net, data, batch_size=0)
    refuses("learning_rate", fit_head, net, data, learning_rate=-1)
    refuses("weight_decay", fit_head, net, data, weight_decay="a")
    refuses("seed", fit_head, net, data, seed=-1)
    refuses("progress", fit_head, net, data, progress="no")
    refuses("name", load_petnet, "petnet2")
    refuses("name", load_petnet, 3)
