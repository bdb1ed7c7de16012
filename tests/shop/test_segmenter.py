"""The encoder/decoder: what it computes, that unpooling is what its name says, and its training."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.shop import segmenter as module
from lecture7_utils.shop.segmenter import UNPOOLINGS, Segmenter, train_segmenter
from tests.guards import refuses, unchanged


def small(unpooling="switches", seed=0, widths=(4, 6)) -> Segmenter:
    return Segmenter(unpooling, widths=widths, seed=seed)


def pictures(count: int, size=(16, 24), seed: int = 0, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, *size, generator=generator, dtype=torch.float64).to(dtype)


def squares(count: int, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bright squares on a dark ground, and where they are: float32 and bool."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.rand(count, 3, size, size, generator=generator)
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for n, (y, x) in enumerate(torch.randint(size // 2, (count, 2), generator=generator).tolist()):
        masks[n, y : y + size // 2, x : x + size // 2] = True
    return images + 0.5 * masks[:, None], masks


# ---------------------------------------------------------------- what it computes


def by_hand(net: Segmenter, images: Tensor) -> Tensor:
    """The whole network from its weights, the pooling and the unpooling one window after the other."""

    def step(layers, x):
        convolution, norm, _ = layers
        x = F.conv2d(x, convolution.weight, padding=1)
        mean, variance = (v[None, :, None, None] for v in (norm.running_mean, norm.running_var))
        gain, shift = (v[None, :, None, None] for v in (norm.weight, norm.bias))
        return torch.relu((x - mean) / torch.sqrt(variance + norm.eps) * gain + shift)

    x, kept = images - 0.5, []
    for layers in net.encoder:
        x = step(layers, x)
        n, c, h, w = x.shape
        pooled = torch.zeros(n, c, h // 2, w // 2, dtype=x.dtype)
        where = {}
        for a, b, i, j in torch.cartesian_prod(*(torch.arange(v) for v in pooled.shape)).tolist():
            window = x[a, b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
            k = window.tolist().index(max(window.tolist()))
            pooled[a, b, i, j], where[a, b, i, j] = window[k], (2 * i + k // 2, 2 * j + k % 2)
        x = pooled
        kept.append(where)
    x = step(net.middle, x)
    for layers in net.decoder:
        n, c, h, w = x.shape
        where, wide = kept.pop(), torch.zeros(n, c, 2 * h, 2 * w, dtype=x.dtype)
        for (a, b, i, j), (y, z) in where.items():
            if net.unpooling == "switches":
                wide[a, b, y, z] = x[a, b, i, j]
            elif net.unpooling == "corner":
                wide[a, b, 2 * i, 2 * j] = x[a, b, i, j]
            else:
                wide[a, b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = x[a, b, i, j]
        x = step(layers, wide)
    return F.conv2d(x, net.head.weight, net.head.bias, padding=1)[:, 0]


@pytest.mark.parametrize("unpooling", UNPOOLINGS)
@pytest.mark.parametrize(
    ("seed", "size", "widths"), [(1, (8, 12), (3, 5)), (2, (16, 8), (4, 3, 2)), (3, (4, 6), (5,))]
)
def test_the_network_is_what_it_says(unpooling, seed, size, widths):
    net = small(unpooling, seed, widths).double()
    images = pictures(2, size, seed)
    with torch.no_grad():
        net.train()(pictures(8, size, seed + 1))  # so that the normalisations are not the identity
        net.eval()
        with unchanged(net, images):
            scores = net(images)
        assert scores.shape == (2, *size)
        assert torch.allclose(scores, by_hand(net, images), atol=1e-12)


def test_only_the_unpooling_differs():
    nets = {kind: small(kind, seed=4).double().eval() for kind in UNPOOLINGS}
    first = nets["switches"].state_dict()
    for net in nets.values():
        assert net.state_dict().keys() == first.keys()
        assert all(torch.equal(value, first[name]) for name, value in net.state_dict().items())
    images = pictures(2)
    with torch.no_grad():
        codes = [net.encode(images)[0] for net in nets.values()]
        scores = [net(images) for net in nets.values()]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])
    assert not torch.allclose(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])
    assert not torch.allclose(scores[1], scores[2])


def test_the_decoder_reads_the_switches_it_is_given():
    net = small(seed=5).double().eval()
    a, b = pictures(1, seed=1), pictures(1, seed=2)
    with torch.no_grad():
        code, switches = net.encode(a)
        _, others = net.encode(b)
        assert torch.equal(net.decode(code, switches), net(a))
        assert not torch.allclose(net.decode(code, others), net(a))
        without = small("nearest", seed=5).double().eval()
        assert torch.equal(without.decode(code, others), without.decode(code, []))
    assert [list(s.shape) for s in switches] == [[1, 4, 8, 12], [1, 6, 4, 6]]
    assert list(code.shape) == [1, 6, 4, 6]


def test_gradients_pass_and_agree_with_finite_differences():
    net = small(seed=6, widths=(2,)).double().eval()
    images = pictures(1, (4, 4), 3).requires_grad_()
    for kind in UNPOOLINGS:
        net.unpooling = kind
        assert torch.autograd.gradcheck(net, (images,))


def test_weights_come_from_the_seed_and_no_global_state():
    with unchanged():
        a, b, c = small(seed=1), small(seed=1), small(seed=2)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, c.head.weight)
    wide = Segmenter(widths=(64,)).middle[0].weight
    assert float(wide.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_channels_last_changes_nothing():
    for kind in UNPOOLINGS:
        net = small(kind, seed=7).double().eval()
        images = pictures(3, seed=4)
        with torch.no_grad():
            plain = net(images)
            last = net.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
        assert torch.allclose(plain, last, atol=1e-12)


def test_errors_of_the_network():
    refuses("unpooling", Segmenter, "bilinear")
    refuses("unpooling", Segmenter, True)
    refuses("widths", Segmenter, widths=())
    refuses("widths", Segmenter, widths="16")
    refuses("widths", Segmenter, widths=(4, 0))
    refuses("widths", Segmenter, widths=(4, 2.5))
    refuses("seed", Segmenter, seed=-1)
    net = small().eval()
    refuses("images", net, torch.zeros(1, 3, 16, 18, dtype=torch.uint8))
    refuses("images", net, torch.zeros(1, 3, 16, 18), says="multiples of 4")
    refuses("images", net, torch.zeros(3, 16, 16))
    refuses("images", net, torch.zeros(1, 1, 16, 16))
    refuses("images", net, None)
    code, switches = net.encode(torch.zeros(1, 3, 16, 16))
    refuses("switches", net.decode, code, switches[:1])
    refuses("switches", net.decode, code, switches[::-1])


# ---------------------------------------------------------------- training


def test_training_equals_a_plain_loop():
    images, masks = (v[:22] for v in squares(22, 8, seed=1))
    images = images.double()
    net, plain = small(seed=3).double(), small(seed=3).double()
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "weight_decay": 0.05, "seed": 9}
    fit = train_segmenter(net, images, masks, **options, progress=False)

    dice = torch.Generator().manual_seed(9)
    plain.train()
    rates, losses, steps = [], [], 9
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    for step in range(steps):
        if step % 3 == 0:
            order, total = torch.randperm(22, generator=dice), 0.0
        chosen = order[8 * (step % 3) : 8 * (step % 3) + 8]
        mirrored = (torch.rand(len(chosen), generator=dice) < 0.5).tolist()
        x = torch.stack(
            [images[i].flip(2) if m else images[i] for i, m in zip(chosen, mirrored, strict=True)]
        )
        y = torch.stack([masks[i].flip(1) if m else masks[i] for i, m in zip(chosen, mirrored, strict=True)])
        p = torch.sigmoid(plain(x))
        loss = -torch.where(y, p, 1 - p).log().mean()
        total += loss.item() * len(chosen)
        at = step / steps
        rate = 0.02 * (0.04 + 0.96 * at / 0.2 if at < 0.2 else (1 + math.cos(math.pi * (at - 0.2) / 0.8)) / 2)
        rates.append(rate)
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        with torch.no_grad():  # AdamW, algorithm 2 of the paper
            for value, g, (m, v) in zip(plain.parameters(), gradients, moments, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.99).add_(0.01 * g * g)
                first, second = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
                value.sub_(rate * 0.05 * value).sub_(rate * first / (second.sqrt() + 1e-8))
        if step % 3 == 2:
            losses.append(total / 22)
    for (name, mine), theirs in zip(net.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(mine.double(), theirs.double(), rtol=1e-6, atol=1e-9), name
    assert fit.losses == pytest.approx(losses, rel=1e-8)
    assert max(rates) > 0.015
    assert (fit.steps, fit.complete) == (9, True)


@pytest.mark.parametrize("unpooling", UNPOOLINGS)
def test_training_learns_squares(unpooling):
    images, masks = squares(96, seed=1)
    unseen, truth = squares(32, seed=2)
    net = small(unpooling, seed=1, widths=(8, 12))
    fit = train_segmenter(net, images, masks, epochs=16, batch_size=8, progress=False)
    assert fit.losses[-1] < 0.5 * fit.losses[0]
    with torch.no_grad():
        found = net(unseen) > 0
    overlap = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
    assert float(overlap.mean()) > 0.8
    assert not net.training
    assert all(p.grad is None for p in net.parameters())


def test_training_is_seeded_and_touches_no_global_state_nor_the_data():
    images, masks = squares(20, 8)
    nets = [small(seed=1) for _ in range(3)]
    with unchanged(images, masks):
        for net, seed in zip(nets, (5, 5, 6), strict=True):
            train_segmenter(net, images, masks, epochs=2, seed=seed, progress=False)
    assert all(torch.equal(x, y) for x, y in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert not torch.equal(nets[0].head.weight, nets[2].head.weight)


def test_an_interrupt_keeps_what_was_learned(monkeypatch):
    images, masks = squares(24, 8)
    net, twin = small(seed=1), small(seed=1)
    calls, loss = [], F.binary_cross_entropy_with_logits

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(module.F, "binary_cross_entropy_with_logits", interrupted)
    with unchanged(), pytest.warns(UserWarning, match="interrupted after 4 of 9 steps"):
        fit = train_segmenter(net, images, masks, epochs=3, batch_size=8, progress=False)
    assert (fit.steps, fit.complete, len(fit.losses)) == (4, False, 1)
    assert not net.training
    assert not torch.equal(net.head.weight, twin.head.weight)
    assert all(p.grad is None for p in net.parameters())
    calls[:] = [None] * 4  # now the very first step
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            train_segmenter(twin, images, masks, progress=False)


def test_it_trains_inside_no_grad_and_inference_mode():
    images, masks = squares(8, 8)
    a, b = small(), small()
    train_segmenter(a, images, masks, epochs=1, progress=False)
    with torch.no_grad():
        train_segmenter(b, images, masks, epochs=1, progress=False)
    assert torch.equal(a.head.weight, b.head.weight)


def test_errors_of_the_training():
    images, masks = squares(4, 8)
    net, other = small(), nn.Conv2d(3, 1, 1)
    with unchanged(net):
        refuses("net", train_segmenter, other, images, masks)
        refuses("images", train_segmenter, net, images[:, :1], masks)
        refuses("images", train_segmenter, net, images[:, :, :7], masks)
        refuses("masks", train_segmenter, net, images, masks.float())
        refuses("masks", train_segmenter, net, images, masks[:3])
        refuses("masks", train_segmenter, net, images, masks[:, None])
        refuses("epochs", train_segmenter, net, images, masks, epochs=0)
        refuses("batch_size", train_segmenter, net, images, masks, batch_size=1.5)
        refuses("learning_rate", train_segmenter, net, images, masks, learning_rate=-1)
        refuses("weight_decay", train_segmenter, net, images, masks, weight_decay=math.nan)
        refuses("seed", train_segmenter, net, images, masks, seed=-1)
        refuses("progress", train_segmenter, net, images, masks, progress=1)
