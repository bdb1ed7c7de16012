"""From a vector to a picture: the generator of lesson 8, and how much of a picture is a grid.

The generator is the second half of a GAN (Goodfellow et al. 2014, "Generative Adversarial Nets"): what it
learned, it learned from a discriminator, which stays in `shop/adversarial.py`, where the training is.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.shop.arguments import choice, whole
from lecture7_utils.shop.models import pick_device
from lecture7_utils.shop.petnet import WEIGHTS, checksum, read_file
from lecture7_utils.shop.scenes import SPECIES

GENERATORS = ("generator",)
"""The names of the trained generators that come with the package."""

SIZES = (16, 32, 64)
UPSAMPLINGS = ("transposed", "resize")


class Generator(nn.Module):
    """A network that turns a vector and a species into a picture, by transposed convolutions.

    It is the generator of Radford, Metz and Chintala 2016 ("Unsupervised representation learning with deep
    convolutional generative adversarial networks", figure 1), given the class as in Mirza and Osindero 2014
    ("Conditional generative adversarial nets", equation 2): a one-hot vector is put behind the latent one.
    A linear layer makes 4 × 4 feature maps of it; each step after that doubles the side and is followed
    by a ReLU, the last one by a sigmoid. `blocks` is the whole of it as an `nn.Sequential`; `shapes()` lists
    what each of its layers gives.

    seed: of the weights (He et al. 2015); the global random state is not touched. None means 0.
    latent: length of the vector. size: side of the pictures in pixels, 16, 32 or 64.
    upsampling: what doubles the side. "transposed": a transposed convolution of stride 2. "resize": each
        pixel becomes 2 × 2 equal ones, then an ordinary convolution of stride 1, the cure for checkerboards
        of Odena, Dumoulin and Olah 2016 ("Deconvolution and checkerboard artifacts").
    kernel: side of the filters; 3, 4 or 5 for "transposed" (4 unless given: stride 2 divides it, so that all
        pixels are covered equally often; 3 and 5 show what happens if it does not), 3 or 5 for "resize" (3).
    widths: channels of the feature maps at 4 × 4, 8 × 8 and so on, up to half the size; as many
        numbers as the side is doubled. None takes 32, 64, 128 and 192 from the end.
    categories: the names of the classes, in the order of their numbers.

    Input: see `forward`. Output: float [N, 3, size, size] in 0 to 1.
    Raises `TypeError` or `ValueError` naming the argument.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        latent: int = 64,
        size: int = 64,
        upsampling: str = "transposed",
        kernel: int | None = None,
        widths: Sequence[int] | None = None,
        categories: Sequence[str] = SPECIES,
    ):
        super().__init__()
        seed = 0 if seed is None else whole(seed, "seed", 0, 2**63 - 1)
        self.latent = whole(latent, "latent", 1)
        self.size = whole(size, "size")
        if self.size not in SIZES:
            raise ValueError(f"size: expected one of {', '.join(map(str, SIZES))}, got {size}")
        self.upsampling = choice(upsampling, "upsampling", UPSAMPLINGS)
        allowed = (3, 4, 5) if upsampling == "transposed" else (3, 5)
        self.kernel = (4 if upsampling == "transposed" else 3) if kernel is None else whole(kernel, "kernel")
        if self.kernel not in allowed:
            raise ValueError(
                f"kernel: expected one of {', '.join(map(str, allowed))} for {upsampling!r}, got {kernel}"
            )
        doublings = self.size.bit_length() - 3
        self.widths = _widths(widths, doublings)
        if isinstance(categories, str) or not isinstance(categories, Sequence) or not categories:
            raise ValueError(f"categories: expected the names of the classes, got {categories!r}")
        self.categories = tuple(categories)

        first = self.widths[0]
        layers: list[nn.Module] = [
            _bare(nn.Linear, self.latent + len(self.categories), first * 16),
            nn.Unflatten(1, (first, 4, 4)),
            nn.ReLU(),
        ]
        channels = (*self.widths, 3)
        for i in range(doublings):
            layers += _doubling(channels[i], channels[i + 1], self.upsampling, self.kernel)
            layers.append(nn.ReLU() if i < doublings - 1 else nn.Sigmoid())
        self.blocks = nn.Sequential(*layers)
        dice = torch.Generator().manual_seed(seed)
        for layer in self.blocks:
            _draw_weights(layer, dice)

    def forward(self, z: Tensor, labels: Tensor | Sequence | int | str) -> Tensor:
        """The pictures, float [N, 3, size, size] in 0 to 1.

        z: float [N, latent], usually drawn from the standard normal distribution (`latents`).
        labels: the class of each, an int [N], or a number or name for all, or a sequence of these; or float
            [N, classes], shares of the classes, to mix them.
        Raises `TypeError` or `ValueError` naming the argument.
        """
        return self.blocks(self.vector(z, labels))

    def vector(self, z: Tensor, labels: Tensor | Sequence | int | str) -> Tensor:
        """What `blocks` begins with: `z` and the class behind it, float [N, latent + classes].

        The class is one-hot, times the square root of `latent`: as long as `z` usually is, so that fresh
        weights heed the class as much as the vector.
        """
        if not isinstance(z, Tensor) or not z.is_floating_point():
            found = f"{z.dtype} {list(z.shape)}" if isinstance(z, Tensor) else repr(z)
            raise TypeError(f"z: expected a float tensor [N, {self.latent}], got {found}")
        if z.ndim != 2 or z.shape[1] != self.latent or not len(z):
            raise ValueError(f"z: expected [N, {self.latent}] with N at least 1, got {list(z.shape)}")
        return torch.cat([z, self._classes(labels, len(z)).to(z) * self.latent**0.5], 1)

    def _classes(self, labels: object, count: int) -> Tensor:
        """Shares of the classes [count, classes]; one-hot unless shares were given."""
        classes = len(self.categories)
        if isinstance(labels, Tensor) and labels.is_floating_point():
            if list(labels.shape) != [count, classes]:
                raise ValueError(
                    f"labels: expected shares of the classes [{count}, {classes}], got {list(labels.shape)}"
                )
            return labels
        if isinstance(labels, Tensor):
            if labels.dtype == torch.bool or labels.ndim > 1:
                raise TypeError(f"labels: expected ints [{count}], got {labels.dtype} {list(labels.shape)}")
            numbers = labels.tolist()
        else:
            numbers = labels
        if isinstance(numbers, str) or not isinstance(numbers, Sequence):
            numbers = [numbers] * count
        if len(numbers) != count:
            raise ValueError(f"labels: expected one for each of the {count} vectors, got {len(numbers)}")
        found = [
            self.categories.index(choice(value, "labels", self.categories))
            if isinstance(value, str)
            else whole(value, "labels", 0, classes - 1)
            for value in numbers
        ]
        return F.one_hot(torch.tensor(found), classes)

    def latents(self, count: int, seed: int | torch.Generator = 0) -> Tensor:
        """`count` vectors for this generator, as `latents` draws them, on its device."""
        return latents(count, seed, latent=self.latent).to(next(self.parameters()))

    @torch.no_grad()
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """What each layer of `blocks` gives for one vector: [("vector", (72,)), ("Linear", (3072,)), …]."""
        weight = next(self.parameters())
        x = weight.new_zeros(1, self.latent + len(self.categories))
        found = [("vector", tuple(x.shape[1:]))]
        for layer in self.blocks:
            x = layer(x)
            found.append((type(layer).__name__, tuple(x.shape[1:])))
        return found

    def multiply_adds(self) -> int:
        """Multiplications with an addition for one picture, those by the zeros outside counted."""
        side, total = 4, 0
        for layer in self.blocks:
            if isinstance(layer, nn.Linear):
                total += layer.weight.numel()
            elif isinstance(layer, nn.ConvTranspose2d):
                total += layer.weight.numel() * side**2  # each input pixel lays down its filters
                side *= 2
            elif isinstance(layer, nn.Conv2d):
                side *= 2
                total += layer.weight.numel() * side**2
        return total

    def settings(self) -> dict:
        """The arguments, without the seed, that make a generator of the same form."""
        return {
            "latent": self.latent,
            "size": self.size,
            "upsampling": self.upsampling,
            "kernel": self.kernel,
            "widths": self.widths,
            "categories": self.categories,
        }


def _widths(widths: object, doublings: int) -> tuple[int, ...]:
    if widths is None:
        return (192, 128, 64, 32)[-doublings:]
    if isinstance(widths, str) or not isinstance(widths, Sequence) or len(widths) != doublings:
        raise ValueError(f"widths: expected {doublings} numbers of channels, got {widths!r}")
    return tuple(whole(width, "widths", 1) for width in widths)


def _doubling(inputs: int, outputs: int, upsampling: str, kernel: int) -> list[nn.Module]:
    """The layers that double the side."""
    if upsampling == "resize":
        convolution = _bare(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2)
        return [nn.Upsample(scale_factor=2, mode="nearest"), convolution]
    # the side grows to 2 (n - 1) - 2 padding + kernel + output_padding = 2 n
    padding = (kernel - 1) // 2
    return [
        _bare(
            nn.ConvTranspose2d, inputs, outputs, kernel, stride=2, padding=padding, output_padding=kernel % 2
        )
    ]


def _bare(kind: type[nn.Module], *arguments, **options) -> nn.Module:
    """A layer whose own initialisation, which would draw from the global state, is left out."""
    return nn.utils.skip_init(kind, *arguments, **options)


def _draw_weights(layer: nn.Module, dice: torch.Generator) -> None:
    """Normal weights with variance 2 / (number of inputs of an output), no bias."""
    if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        return
    with torch.no_grad():
        if isinstance(layer, nn.ConvTranspose2d):
            # an output pixel gets kernel² / stride² of the filter's entries from each input channel
            fan = layer.in_channels * layer.kernel_size[0] ** 2 / layer.stride[0] ** 2
        else:
            fan = layer.weight[0].numel()
        layer.weight.normal_(std=(2 / fan) ** 0.5, generator=dice)
        layer.bias.zero_()


def latents(count: int, seed: int | torch.Generator = 0, *, latent: int = 64) -> Tensor:
    """`count` vectors from the standard normal distribution, float32 [count, latent], on the CPU.

    seed: an int, or a `torch.Generator` of the CPU, which moves on; the global random state is not touched.
    Raises `TypeError` or `ValueError` naming the argument.
    """
    count, latent = whole(count, "count", 1), whole(latent, "latent", 1)
    if not isinstance(seed, torch.Generator):
        seed = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
    return torch.randn(count, latent, generator=seed)


def walk(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """`steps` vectors from one to the other, both included, float [steps, latent].

    start, end: float [latent]. The way is the great circle of White 2016 ("Sampling generative networks",
    section 2.1): a straight line would pass nearer to 0 than vectors of a normal distribution ever
    come, sin((1 - t) a) / sin(a) · start + sin(t a) / sin(a) · end, with a the angle between them.
    Raises `TypeError` or `ValueError` naming the argument.
    """
    for name, value in (("start", start), ("end", end)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name}: expected a float tensor [latent], got {type(value).__name__}")
        if value.ndim != 1 or value.shape != start.shape:
            raise ValueError(f"{name}: expected a vector [{start.shape[0] if start.ndim else 'latent'}], "
                             f"got {list(value.shape)}")  # fmt: skip
    steps = whole(steps, "steps", 2)
    t = torch.linspace(0, 1, steps, dtype=torch.float64, device=start.device)[:, None]
    a, b = start.double()[None], end.double()[None]
    cosine = F.cosine_similarity(a, b).clamp(-1, 1)
    angle = cosine.arccos()
    if float(angle.sin()) < 1e-6:  # the same or the opposite direction: no great circle to choose
        found = (1 - t) * a + t * b
    else:
        found = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return found.to(start.dtype)


def grid_share(images: Tensor, period: int = 2) -> Tensor:
    """The share of each picture's variance that one tile of `period` × `period` pixels explains, [N], 0 to 1.

    images: float [N, C, S, S], S a multiple of `period`. Each pixel is predicted by the mean of all pixels at
    its place in the tile; in the spectrum these are the frequencies that are multiples of 1 / period, the
    constant left out. The checkerboards of transposed convolutions lie there (Odena, Dumoulin and Olah 2016):
    of the last layer at period 2, of the one before it at period 4. A grey picture has 0.
    Raises `TypeError` or `ValueError` naming the argument.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"images: expected a float tensor [N, C, S, S], got {type(images).__name__}")
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images: expected [N, C, S, S], got {list(images.shape)}")
    period = whole(period, "period", 2)
    if images.shape[2] % period or images.shape[3] % period:
        raise ValueError(
            f"period: expected a divisor of {images.shape[2]} and {images.shape[3]}, got {period}"
        )
    n, c, h, w = images.shape
    x = images.double()
    x = x - x.mean((2, 3), keepdim=True)
    tile = x.reshape(n, c, h // period, period, w // period, period).mean((2, 4))
    grid, total = tile.square().mean((1, 2, 3)), x.square().mean((1, 2, 3))
    return torch.where(total > 1e-12, grid / total.clamp(min=1e-12), 0.0).to(images.dtype)


# ---------------------------------------------------------------- trained weights


def load_generator(name: str = "generator", device: str | torch.device = "auto") -> Generator:
    """One of the trained generators that come with the package, in eval mode.

    name: one of `GENERATORS`. device: "auto" takes the GPU where there is one. `weights/CARD.md` says how it
    was made and how good its pictures are.
    Raises `ValueError` for another name, `FileNotFoundError` if the weights are missing, and `RuntimeError`
    if their SHA-256 is not the one that was written down when they were made.
    """
    choice(name, "name", GENERATORS)
    return read_generator(WEIGHTS / f"{name}.safetensors", checksum(name)).to(pick_device(device))


def read_generator(path: Path, sha256: str | None = None) -> Generator:
    """The `Generator` in a file that `training` wrote, on the CPU, in eval mode and float32.

    sha256: what the file's SHA-256 has to be; None leaves it unchecked.
    Raises `FileNotFoundError` if there is no such file, `RuntimeError` if the checksum is another one.
    """
    about, tensors = read_file(path, "Generator", sha256)
    net = Generator(
        latent=int(about["latent"]),
        size=int(about["size"]),
        upsampling=about["upsampling"],
        kernel=int(about["kernel"]),
        widths=[int(width) for width in about["widths"].split(",")],
        categories=about["categories"].split(","),
    )
    net.load_state_dict(tensors)
    return net.eval()
