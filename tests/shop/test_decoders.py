"""The generator: what it computes, what it refuses, the walk, the grid's share, and the trained weights."""

import hashlib
import math
import shutil

import pytest
import torch
from torch import nn

import lecture7_utils as l7
from lecture7_utils.shop import decoders, petnet
from lecture7_utils.shop.decoders import (
    GENERATORS,
    Generator,
    grid_share,
    latents,
    load_generator,
    read_generator,
    walk,
)
from lecture7_utils.shop.petnet import WEIGHTS, checksum
from lecture7_utils.shop.scenes import SPECIES
from tests.guards import refuses, unchanged

FORMS = [("transposed", 3), ("transposed", 4), ("transposed", 5), ("resize", 3), ("resize", 5)]


def small(**options):
    return Generator(**{"latent": 5, "size": 16, "widths": (6, 4), **options})


def spread_out(x, weight, padding, output_padding):
    """A transposed convolution of stride 2 in plain loops: each input pixel lays down its filter."""
    n, _, h, w = x.shape
    outputs, k = weight.shape[1], weight.shape[2]
    full = x.new_zeros(n, outputs, 2 * (h - 1) + k + output_padding, 2 * (w - 1) + k + output_padding)
    for i in range(h):
        for j in range(w):
            laid = (x[:, :, i, j][:, :, None, None, None] * weight[None]).sum(1)
            full[:, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += laid
    return full[:, :, padding : full.shape[2] - padding, padding : full.shape[3] - padding]


def resized(x, weight):
    """Each pixel twice in each direction, then a correlation with zeros outside, in plain loops."""
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    k, (n, _, h, w) = weight.shape[2], x.shape
    padded = x.new_zeros(n, x.shape[1], h + k - 1, w + k - 1)
    padded[:, :, k // 2 : k // 2 + h, k // 2 : k // 2 + w] = x
    found = x.new_zeros(n, len(weight), h, w)
    for i in range(h):
        for j in range(w):
            window = padded[:, None, :, i : i + k, j : j + k]
            found[:, :, i, j] = (window * weight[None]).sum((2, 3, 4))
    return found


@pytest.mark.parametrize(("upsampling", "kernel"), FORMS)
def test_pictures_are_those_of_the_layers_written_out(upsampling, kernel):
    net = small(seed=3, upsampling=upsampling, kernel=kernel).double()
    dice = torch.Generator().manual_seed(kernel)
    for value in net.parameters():
        value.data.normal_(std=0.4, generator=dice)
    z = torch.randn(3, 5, generator=dice, dtype=torch.float64)
    labels = torch.tensor([7, 0, 4])
    with unchanged(net, z, labels), torch.no_grad():
        images = net(z, labels)
    one_hot = torch.zeros(3, 8, dtype=torch.float64)
    one_hot[range(3), labels] = math.sqrt(5)
    linear = net.blocks[0]
    x = torch.cat([z, one_hot], 1) @ linear.weight.T + linear.bias
    x = x.reshape(3, 6, 4, 4).clamp(min=0)
    steps = [layer for layer in net.blocks if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(steps) == 2
    for i, layer in enumerate(steps):
        if upsampling == "resize":
            x = resized(x, layer.weight)
        else:
            x = spread_out(x, layer.weight, (kernel - 1) // 2, kernel % 2)
        x = x + layer.bias[None, :, None, None]
        x = x.clamp(min=0) if i == 0 else 1 / (1 + (-x).exp())
    assert images.shape == (3, 3, 16, 16)
    assert torch.allclose(images, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_shapes_step_by_step(size, upsampling):
    net = Generator(upsampling=upsampling, size=size)
    with unchanged(net):
        found = net.shapes()
    assert found[0] == ("vector", (64 + len(SPECIES),))
    assert found[2][1][1:] == (4, 4)
    assert found[-1] == ("Sigmoid", (3, size, size))
    sides = [shape[1] for name, shape in found if name == "ReLU"]
    assert sides == [4 * 2**i for i in range(len(sides))]
    images = net(latents(2), "cat")
    assert images.shape == (2, 3, size, size)
    assert images.dtype == torch.float32
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1
    again = Generator(seed=5, **net.settings())
    assert again.settings() == net.settings()
    assert again.shapes() == found


@pytest.mark.parametrize(("upsampling", "kernel"), FORMS)
def test_multiply_adds(upsampling, kernel):
    net = small(upsampling=upsampling, kernel=kernel)
    # 4 × 4 → 8 × 8 → 16 × 16: a transposed convolution works at the side before, the other at the side after
    first, second = (16, 64) if upsampling == "transposed" else (64, 256)
    expected = (5 + 8) * 6 * 16 + kernel**2 * (6 * 4 * first + 4 * 3 * second)
    assert net.multiply_adds() == expected


def test_weights_come_from_the_seed():
    with unchanged():
        a, b, c = Generator(4, size=32), Generator(4, size=32), Generator(5, size=32)
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y)
        assert x.ndim == 1 or not torch.equal(x, z)
    assert torch.equal(Generator(None, size=16).blocks[0].weight, Generator(0, size=16).blocks[0].weight)
    z = latents(4, 1)
    assert torch.equal(a(z, 2), b(z, 2))


def test_labels_in_every_form():
    net = small(seed=1)
    z = latents(3, 2, latent=5)
    wanted = net(z, torch.tensor([1, 1, 1]))
    for form in ("dog", 1, ["dog"] * 3, [1, "dog", 1], torch.tensor(1), torch.tensor([1, 1, 1]).int()):
        assert torch.equal(net(z, form), wanted)
    shares = torch.zeros(3, 8)
    shares[:, 1] = 1
    assert torch.equal(net(z, shares), wanted)
    shares[:, 1], shares[:, 6] = 0.5, 0.5
    assert not torch.equal(net(z, shares), wanted)
    # each picture from its own vector and label alone
    mixed = net(z, ["cat", "dog", "turtle"])
    assert torch.allclose(mixed[1:2], net(z[1:2], "dog"), atol=1e-6)
    assert not torch.allclose(mixed[0], wanted[0], atol=1e-3)


def test_what_the_generator_refuses():
    refuses("seed", Generator, "a")
    refuses("seed", Generator, -1)
    refuses("latent", Generator, latent=0)
    refuses("size", Generator, size=48, says="16, 32, 64")
    refuses("upsampling", Generator, upsampling="bilinear", says="transposed")
    refuses("kernel", Generator, kernel=2, says="3, 4, 5")
    refuses("kernel", Generator, upsampling="resize", kernel=4, says="3, 5")
    refuses("widths", Generator, widths=(4, 4), says="4 numbers")
    refuses("widths", Generator, size=16, widths=(4, 0))
    refuses("categories", Generator, categories="cat")
    net, z = small(), latents(3, latent=5)
    with unchanged(net):
        refuses("z", net, z.int(), 0)
        refuses("z", net, [1.0] * 5, 0)
        refuses("z", net, z[0], 0, says=r"\[N, 5\]")
        refuses("z", net, latents(3, latent=6), 0)
        refuses("z", net, z[:0], 0)
        refuses("labels", net, z, 8, says="between 0 and 7")
        refuses("labels", net, z, "horse", says="'cat'")
        refuses("labels", net, z, [0, 1], says="3 vectors")
        refuses("labels", net, z, torch.zeros(3, 7), says=r"\[3, 8\]")
        refuses("labels", net, z, torch.zeros(3, 1, dtype=torch.long))
        refuses("labels", net, z, torch.ones(3, dtype=torch.bool))
        refuses("labels", net, z, None)


def test_latents():
    with unchanged():
        a = latents(2000, 3, latent=7)
    assert a.shape == (2000, 7)
    assert a.dtype == torch.float32
    assert torch.equal(a, latents(2000, 3, latent=7))
    assert not torch.equal(a, latents(2000, 4, latent=7))
    assert float(a.mean()) == pytest.approx(0, abs=0.03)
    assert float(a.std()) == pytest.approx(1, abs=0.03)
    dice = torch.Generator().manual_seed(3)
    parts = torch.cat([latents(1000, dice, latent=7), latents(1000, dice, latent=7)])
    assert parts.shape == a.shape
    assert not torch.equal(parts[:1000], parts[1000:])
    net = small().double()
    mine = net.latents(4, 9)
    assert mine.dtype == torch.float64
    assert torch.equal(mine.float(), latents(4, 9, latent=5))
    refuses("count", latents, 0)
    refuses("latent", latents, 3, latent=0)
    refuses("seed", latents, 3, 1.5)


def test_walk_follows_the_great_circle():
    dice = torch.Generator().manual_seed(8)
    a, b = (torch.randn(6, generator=dice, dtype=torch.float64) for _ in range(2))
    a, b = a / a.norm(), b / b.norm()
    way = walk(a, b, 9)
    assert torch.allclose(way[0], a)
    assert torch.allclose(way[-1], b)
    assert torch.allclose(way.norm(dim=1), torch.ones(9, dtype=torch.float64))
    turns = (way[1:] * way[:-1]).sum(1)
    assert torch.allclose(turns, turns[0].expand(8))  # equal steps
    assert torch.linalg.matrix_rank(way) == 2  # in the plane of the two
    straight = walk(a, 3 * a, 3)
    assert torch.allclose(straight[1], 2 * a)
    assert torch.isfinite(walk(a, -a, 4)).all()
    assert walk(a.float(), b.float(), 2).dtype == torch.float32
    refuses("start", walk, [1.0], b, 3)
    refuses("start", walk, a[None], b[None], 3)
    refuses("end", walk, a, b[:5], 3)
    refuses("end", walk, a, b.int(), 3)
    refuses("steps", walk, a, b, 1)


@pytest.mark.parametrize("period", [2, 4])
def test_grid_share_is_the_power_at_the_grid_s_frequencies(period):
    dice = torch.Generator().manual_seed(period)
    images = torch.rand(5, 3, 16, 24, generator=dice, dtype=torch.float64)
    images[0] += 0.7 * (torch.arange(24) % period == 0)
    images[4] = 0.3
    power = torch.fft.fft2(images).abs().square()
    power[:, :, 0, 0] = 0
    there = power[:, :, :: 16 // period, :: 24 // period].sum((1, 2, 3))
    expected = there / power.sum((1, 2, 3)).clamp(min=1e-9)
    with unchanged(images):
        found = grid_share(images, period)
    assert torch.allclose(found[:4], expected[:4], rtol=1e-9)
    assert float(found[4]) == 0
    assert found[0] > 0.3 > 0.1 > found[1]


def test_grid_share_of_a_board_is_one_and_refusals():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 1.0
    assert float(grid_share(board.expand(1, 3, 8, 8))) == pytest.approx(1)
    refuses("images", grid_share, board.int())
    refuses("images", grid_share, board)
    refuses("images", grid_share, [1])
    refuses("period", grid_share, board[None, None], 3, says="divisor")
    refuses("period", grid_share, board[None, None], 1)


def test_fresh_weights_draw_a_grid_unless_resized():
    """Odena et al. 2016: the checkerboard is in the operation before anything is learned."""
    shares = {}
    for upsampling, kernel in FORMS[:4]:
        found = []
        for seed in range(4):
            net = Generator(seed, size=32, upsampling=upsampling, kernel=kernel)
            with torch.no_grad():
                found.append(grid_share(net(latents(16, seed), torch.arange(16) % 8)).mean())
        shares[upsampling, kernel] = float(sum(found) / 4)
    resize = shares.pop(("resize", 3))
    assert resize < 0.02
    assert min(shares.values()) > 5 * resize


# ---------------------------------------------------------------- trained weights


@pytest.fixture(scope="module")
def trained():
    return load_generator(device="cpu")


def test_the_trained_generator_loads_by_name(trained):
    assert not trained.training
    assert trained.categories == SPECIES
    assert (trained.size, trained.upsampling) == (64, "transposed")
    assert all(value.dtype == torch.float32 for value in trained.parameters())
    assert l7.load_generator is load_generator
    assert l7.Generator is Generator
    refuses("name", load_generator, "painter", says="'generator'")
    refuses("device", load_generator, device="gpu9")


def test_the_files_are_the_listed_ones_and_small():
    total = 0
    for name in GENERATORS:
        data = (WEIGHTS / f"{name}.safetensors").read_bytes()
        assert hashlib.sha256(data).hexdigest() == checksum(name)
        total += len(data)
    assert total <= 3_000_000
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 10_000_000


def test_a_damaged_or_missing_generator_is_refused(tmp_path, monkeypatch):
    for name in ("generator.safetensors", "SHA256SUMS"):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    monkeypatch.setattr(decoders, "WEIGHTS", tmp_path)
    monkeypatch.setattr(petnet, "WEIGHTS", tmp_path)
    load_generator(device="cpu")
    path = tmp_path / "generator.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match="expected the SHA-256"):
        load_generator(device="cpu")
    assert isinstance(read_generator(path), Generator)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"generator\.safetensors"):
        load_generator(device="cpu")
