"""Drawing in batches with signed distances: numbers from a counter, textures, shapes, paint.

Everything done per pixel is an addition, a multiplication, a square root, a comparison or a table
look-up. These are rounded the same way however many pictures are drawn at once, which is what makes a
picture the same in every batch.
"""

import functools
import math
import zlib

import torch
from torch import Tensor

TEXTURE = 256  # side of a texture: a power of two, so that it repeats by masking bits, and fits the cache

_MASK = {bits: (1 << (64 - bits)) - 1 for bits in (11, 27, 30, 31)}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & _MASK[bits]  # a logical shift: int64's own one copies the sign


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64 bits in which each bit matters."""
    z = (z ^ _shift(z, 30)) * _FIRST
    z = (z ^ _shift(z, 27)) * _SECOND
    return z ^ _shift(z, 31)


class Dice:
    """Uniform numbers that depend on a seed, on counters and on a name, and on nothing else.

    counters: int64 tensors [N], such as the scenes' indices. Asking for a name twice gives the same
    numbers; the order of asking does not matter, nor which other counters are in the batch.
    """

    def __init__(self, seed: int, *counters: Tensor):
        state = torch.full_like(counters[0], _signed(seed & ((1 << 64) - 1)))
        for counter in counters:
            state = _mix(state * _SECOND + counter * _GOLDEN + _FIRST)
        self._state = state
        self._rows: Tensor | None = None
        self._thrown: dict[str, Tensor] = {}

    def at(self, rows: Tensor) -> "Dice":
        """The dice of these rows only, int64 [K]; what was thrown for all is not thrown again."""
        part = object.__new__(Dice)
        part._state, part._thrown = self._state, self._thrown
        part._rows = rows if self._rows is None else self._rows[rows]
        return part

    def one(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Float64 [N], uniform in [low, high)."""
        if name not in self._thrown:
            bits = _mix(_mix(self._state + _salt(name)))
            self._thrown[name] = _shift(bits, 11).double() * 2.0**-53
        thrown = self._thrown[name]
        if self._rows is not None:
            thrown = thrown[self._rows]
        return thrown if (low, high) == (0.0, 1.0) else low + (high - low) * thrown

    def __call__(self, *names: str) -> Tensor:
        """Float64 [N, len(names)], uniform in [0, 1)."""
        return torch.stack([self.one(name) for name in names], 1)

    def pick(self, name: str, count: int) -> Tensor:
        """Int64 [N], uniform in 0 … count - 1."""
        return (self.one(name) * count).long()

    def colour(self, name: str, palette: Tensor, spread: float = 0.0) -> Tensor:
        """Float64 [N, 3]: a colour of the palette [K, 3], each channel moved by up to `spread`."""
        chosen = palette[self.pick(name, len(palette))]
        if spread:
            chosen = chosen + spread * (2 * self(f"{name} r", f"{name} g", f"{name} b") - 1)
        return chosen.clamp(0, 1)


@functools.cache
def _salt(name: str) -> int:
    return _signed(zlib.crc32(name.encode()) * 0x9E3779B97F4A7C15 & (1 << 64) - 1)


def colours(*codes: str) -> Tensor:
    """Float64 [K, 3] from hexadecimal codes such as "ffcc00"."""
    return torch.tensor(
        [[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes], dtype=torch.float64
    )


# ---------------------------------------------------------------- textures


def _lattice_noise(seed: int, rows: int, columns: int) -> Tensor:
    """Value noise [TEXTURE, TEXTURE] that repeats, from a lattice of random numbers."""
    values = Dice(seed, torch.arange(rows * columns)).one("lattice").reshape(rows, columns)

    def stretch(grid: Tensor, count: int) -> Tensor:  # along dimension 0
        at = torch.arange(TEXTURE, dtype=torch.float64) * count / TEXTURE
        low = at.floor().long()
        t = (at - low)[:, None]
        t = t * t * (3 - 2 * t)
        return grid[low] * (1 - t) + grid[(low + 1) % count] * t

    return stretch(stretch(values, rows).T, columns).T


def _flat(noise: Tensor) -> Tensor:
    """The same texture with values spread evenly over [0, 1): a threshold of t covers a share t."""
    order = noise.flatten().argsort(stable=True)
    ranks = torch.empty(order.numel(), dtype=torch.float64)
    ranks[order] = torch.arange(order.numel(), dtype=torch.float64)
    return (ranks / order.numel()).reshape(noise.shape)


CLOUD, GRAIN, FUR = range(3)


@functools.lru_cache(maxsize=4)
def textures(device: torch.device) -> Tensor:
    """Float32 [3 * TEXTURE * TEXTURE]: soft clouds, wood grain along the columns, short upright hair."""
    cloud = sum(_lattice_noise(11 + i, 4 << i, 4 << i) * 0.5**i for i in range(4))
    grain = sum(_lattice_noise(31 + i, 16 << i, 1 << i) * 0.7**i for i in range(3))
    fur = sum(_lattice_noise(51 + i, 8 << i, 32 << i) * 0.8**i for i in range(2))
    return torch.stack([_flat(t) for t in (cloud, grain, fur)]).flatten().float().to(device)


def texture(kind: int, row: Tensor, column: Tensor) -> Tensor:
    """Look a texture up at float positions, in texels; `row` and `column` broadcast."""
    side = TEXTURE - 1
    row = (row.floor().int() & side) * TEXTURE + kind * TEXTURE * TEXTURE
    index = row + (column.floor().int() & side)
    return textures(index.device).index_select(0, index.flatten()).view(index.shape)


# ---------------------------------------------------------------- shapes and paint


def wave(t: Tensor) -> Tensor:
    """A triangle wave of period 1 between 0 (at whole numbers) and 1 (half way)."""
    return (t - (t + 0.5).floor()).abs_().mul_(2)


def smooth(t: Tensor) -> Tensor:
    """Smoothstep of t clamped to [0, 1]."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def coverage(distance: Tensor) -> Tensor:
    """How much of a pixel a shape covers, from its signed distance in pixels, positive inside."""
    return (distance + 0.5).clamp_(0, 1)


def paint(image: Tensor, colour: Tensor, alpha: Tensor) -> None:
    """Lay `colour` over image [N, C, H, W] in place; both broadcast."""
    if alpha.shape[3] == 1 or alpha.stride(3) == 0:
        alpha = alpha.expand(-1, -1, -1, image.shape[3]).contiguous()  # several times as fast
    image.lerp_(colour, alpha)


def column(values: Tensor, device: torch.device) -> Tensor:
    """Parameters [N] or [N, C] as float32 [N, 1 or C, 1, 1] on `device`."""
    values = values if values.ndim == 2 else values[:, None]
    return values.float()[:, :, None, None].to(device)


def rotation(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of an angle in degrees."""
    radians = degrees * (math.pi / 180)
    return radians.cos(), radians.sin()
