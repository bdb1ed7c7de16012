"""PetNet: its form, its size, the global average in place of the flattening, and fitting the last layer."""

import pytest
import torch
from torch import nn

from lecture7_utils.shop.petnet import HeadFit, PetNet, fit_head, to_global_average_pooling
from lecture7_utils.shop.scenes import SPECIES, Scenes


def small(**options) -> PetNet:
    return PetNet(("a", "b", "c"), blocks=((4,), (6, 6)), size=16, **options)


def pairs(count: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    """Pictures in which one colour is brighter: separable by a mean over the picture."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        image = torch.rand(3, 16, 16, generator=g) * 0.5
        image[k % 3] += 0.4
        made.append((image, k % 3))
    return made


def test_multiply_adds_and_form():
    net = PetNet()
    counted = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            counted.append(output[0].numel() * module.weight[0].numel())
        elif isinstance(module, nn.Linear):
            counted.append(module.weight.numel())

    for module in net.modules():
        module.register_forward_hook(count)
    scores = net.eval()(torch.rand(2, 3, 96, 96))
    assert scores.shape == (2, len(SPECIES))
    assert 10e6 < sum(counted) < 2 * 100e6 / 2
    kinds = [type(m) for m in net.features]
    assert set(kinds) == {nn.Conv2d, nn.ReLU, nn.MaxPool2d}
    assert all(m.kernel_size == (3, 3) for m in net.features if isinstance(m, nn.Conv2d))


def test_a_seed_gives_the_weights_and_the_global_state_is_not_touched():
    state = torch.get_rng_state()
    one, same, other = small(seed=3), small(seed=3), small(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_conversion_keeps_the_features_and_leaves_the_net_alone():
    net = small().double().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    converted = to_global_average_pooling(net)
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    maps = net.features(x)
    assert torch.equal(converted.features(x), maps)
    # the definition, from the maps alone
    want = maps.mean((2, 3)) @ converted.classifier.weight.T + converted.classifier.bias
    assert torch.allclose(converted(x), want, atol=1e-12)
    assert converted.training
    assert isinstance(net.flatten, nn.Flatten)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with pytest.raises(ValueError, match="net: expected a PetNet with a flatten head"):
        to_global_average_pooling(converted)
    with pytest.raises(TypeError, match="net: expected a PetNet, got Linear"):
        to_global_average_pooling(nn.Linear(1, 1))


def test_fit_head_against_a_plain_loop():
    """The same batches, the same schedule, the whole network run each time, torch's own Linear."""
    data = pairs(30, 0)
    net, twin = (to_global_average_pooling(small(seed=1)).double() for _ in range(2))
    data = [(image.double(), label) for image, label in data]
    fit = fit_head(
        net, data, epochs=3, batch_size=7, learning_rate=0.05, weight_decay=0.01, seed=5, progress=False
    )

    images, labels = torch.stack([i for i, _ in data]), torch.tensor([c for _, c in data])
    generator = torch.Generator().manual_seed(5)
    head = twin.classifier
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3 * 5)
    for _ in range(3):
        for chosen in torch.randperm(30, generator=generator).split(7):
            loss = nn.functional.cross_entropy(twin(images[chosen]), labels[chosen])
            optimiser.zero_grad()
            (loss + 0.005 * head.weight.square().sum()).backward()
            optimiser.step()
            schedule.step()
    assert torch.allclose(net.classifier.weight, head.weight, atol=1e-9)
    assert torch.allclose(net.classifier.bias, head.bias, atol=1e-9)
    right = (net(images).argmax(1) == labels).double().mean().item()
    assert isinstance(fit, HeadFit)
    assert fit.accuracy == pytest.approx(right)
    assert len(fit.losses) == 3


def test_fit_head_learns_and_touches_nothing_else():
    wide = PetNet(("a", "b", "c"), blocks=((16,), (24,)), size=16, seed=2)
    net = to_global_average_pooling(wide).train()
    net.features[0].eval()
    before = {k: v.clone() for k, v in net.features.state_dict().items()}
    state = torch.get_rng_state()
    fit = fit_head(net, pairs(90, 1), epochs=150, learning_rate=0.1, progress=False)
    assert fit.accuracy > 0.9
    assert fit.losses[-1] < fit.losses[0]
    assert all(torch.equal(v, before[k]) for k, v in net.features.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert net.training
    assert not net.features[0].training
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_head_on_scenes():
    net = to_global_average_pooling(PetNet())
    fit = fit_head(net, Scenes(16), epochs=2, progress=False)
    assert 0 <= fit.accuracy <= 1


def test_an_interrupted_fit_leaves_the_net_as_it_was():
    class Stops(list):
        def __getitem__(self, place):
            if place == 5:
                raise KeyboardInterrupt
            return super().__getitem__(place)

    net = to_global_average_pooling(small()).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        fit_head(net, Stops(pairs(9, 0)), progress=False)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: PetNet("abc"), ValueError, "categories: expected"),
        (lambda: PetNet(("a",)), ValueError, "categories: expected"),
        (lambda: PetNet(blocks=()), ValueError, "blocks: expected"),
        (lambda: PetNet(blocks=((0,),)), ValueError, "blocks: expected"),
        (lambda: PetNet(size=50), ValueError, "size: expected a multiple"),
        (lambda: PetNet(average=1), TypeError, "average: expected"),
        (lambda: PetNet(seed=-1), ValueError, "seed: expected"),
        (lambda: fit_head(nn.Linear(1, 1), []), TypeError, "net: expected a PetNet"),
        (lambda: fit_head(small(), []), ValueError, "dataset: expected at least one"),
        (lambda: fit_head(small(), 3), TypeError, "dataset: expected a data set"),
        (lambda: fit_head(small(), [1]), TypeError, "dataset: expected samples or pairs"),
        (lambda: fit_head(small(), [(torch.rand(3, 16, 16), 7)]), ValueError, "dataset: expected labels"),
        (lambda: fit_head(small(), pairs(3, 0), epochs=0), ValueError, "epochs: expected"),
        (lambda: fit_head(small(), pairs(3, 0), batch_size=0), ValueError, "batch_size: expected"),
        (lambda: fit_head(small(), pairs(3, 0), learning_rate=-1), ValueError, "learning_rate: expected"),
    ],
)
def test_bad_arguments(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
