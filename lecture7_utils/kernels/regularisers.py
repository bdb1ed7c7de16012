"""What keeps the images of gradient ascent natural: small parts that `ascend` puts together as it is told.

Four kinds. A `Transform` changes what the network sees, anew at each step; a `Penalty` is taken off the
objective; a `Correction` changes the images themselves after every so many steps; a `Parametrisation` says in
which numbers the ascent moves. The functions here make one each; parts of your own are made the same way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lecture7_utils.kernels.arguments import describe, require_choice, require_int, require_number

# The covariance of R, G and B (0 to 1) over the 21 photos of the course, each counted alike: what the colours
# are decorrelated by. A test measures it anew.
COLOUR_COVARIANCE = ((0.0553, 0.0493, 0.0471), (0.0493, 0.0568, 0.0515), (0.0471, 0.0515, 0.0624))

# a photo's black and white are at infinity for a sigmoid: half a grey level inside they are not
MARGIN = 0.5 / 255

Bounds = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Transform:
    """apply(images [N, 3, H, W], generator) gives what the network sees instead: of any size, differentiable.

    One draw a step for all images, so that an image does not depend on which others are climbed beside it.
    """

    name: str
    apply: Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Penalty:
    """weight × value(images [N, 3, H, W]) is taken off the objective; value gives [N], differentiable."""

    name: str
    weight: float
    value: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Correction:
    """After each `every` steps the images are replaced by apply(images [N, 3, H, W]), of the same shape."""

    name: str
    every: int
    apply: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Parametrisation:
    """make(height, width, bounds, like) gives `Pixels` or another object with the same four methods.

    bounds: (low, high), each [1, 3, 1, 1], or None; like: a tensor whose dtype and device it works with.
    """

    name: str
    make: Callable[[int, int, Bounds, Tensor], "Pixels"]


Regulariser = Transform | Penalty | Correction | Parametrisation


def jitter(pixels: int = 16) -> Transform:
    """Roll the images by up to `pixels` rows and columns at each step, either way; they wrap around.

    So no pixel can be made for one place of the network's grid. Mordvintsev, Olah, Tyka, "Inceptionism:
    Going Deeper into Neural Networks", 2015; Olah, Mordvintsev, Schubert, "Feature Visualization", Distill
    2017, section "Transformation robustness".
    Raises `TypeError` or `ValueError` if `pixels` is no int of at least 0.
    """
    require_int(pixels, "pixels", 0)

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(-pixels, pixels + 1, (2,), generator=generator, device=generator.device)
        return images.roll(drawn.tolist(), (2, 3))

    return Transform("jitter", apply)


def rotate_and_scale(degrees: float = 10.0, scale: float = 0.15) -> Transform:
    """Turn the images by up to `degrees`, either way, and enlarge them by a factor in 1 - scale to 1 + scale.

    Bilinear, about the middle; what comes in from outside is the mirror image. Olah, Mordvintsev, Schubert,
    "Feature Visualization", Distill 2017, section "Transformation robustness".
    degrees: 0 to 180. scale: 0 to 0.9. Raises `TypeError` or `ValueError` for others.
    """
    require_number(degrees, "degrees", 0, 180)
    require_number(scale, "scale", 0, 0.9)

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        turn, enlarge = (
            2 * torch.rand(2, generator=generator, device=generator.device, dtype=torch.float64) - 1
        ).tolist()
        return turned(images, math.radians(degrees * turn), 1 + scale * enlarge)

    return Transform("rotation and scale", apply)


def turned(images: Tensor, angle: float, factor: float) -> Tensor:
    """`images` turned by `angle` (radians, from x towards y) and enlarged by `factor` about their middle."""
    height, width = images.shape[2:]
    # where each pixel of the result comes from: the opposite turn, in units of half a side
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    where = [[cos, sin * height / width, 0.0], [-sin * width / height, cos, 0.0]]
    theta = torch.tensor(where, dtype=images.dtype, device=images.device)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def gaussian_blur(sigma: float = 0.5, every: int = 4) -> Correction:
    """Blur the images by a Gaussian of `sigma` pixels after each `every` steps.

    High frequencies, which a gradient is full of, have to be earned again each time. Yosinski, Clune, Nguyen,
    Fuchs, Lipson, "Understanding Neural Networks Through Deep Visualization", 2015 (arXiv 1506.06579),
    section 3. The Gaussian is cut at 3 sigma, the borders are mirrored.
    Raises `TypeError` or `ValueError` for a sigma that is no number of at least 0 or an `every` that is no
    int of at least 1.
    """
    require_number(sigma, "sigma", 0)
    require_int(every, "every", 1)
    return Correction("Gaussian blur", every, lambda images: blurred(images, sigma))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """`images` under a Gaussian of `sigma` pixels, cut at 3 sigma (and at the image's size)."""
    for side in (2, 3):
        radius = min(math.ceil(3 * sigma), images.shape[side] - 1)
        if radius == 0:
            continue
        offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
        kernel = (kernel / kernel.sum()).view(1, 1, *((-1, 1) if side == 2 else (1, -1))).expand(3, 1, -1, -1)
        pad = (0, 0, radius, radius) if side == 2 else (radius, radius, 0, 0)
        images = F.conv2d(F.pad(images, pad, mode="reflect"), kernel, groups=3)
    return images


def total_variation(weight: float = 1e-3, beta: float = 2.0) -> Penalty:
    """Take weight × the total variation off the objective: neighbours are to be alike.

    Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015 (arXiv
    1412.0035), section 2: R(x) = sum_ij ((x_i,j+1 - x_ij)^2 + (x_i+1,j - x_ij)^2)^(beta / 2), summed over the
    channels too; beyond the border there is no difference.
    weight: at least 0, in units of the objective. beta: 1 to 4; 1 allows edges, 2 spreads them out.
    Raises `TypeError` or `ValueError` for others.
    """
    require_number(weight, "weight", 0)
    require_number(beta, "beta", 1, 4)
    return Penalty("total variation", float(weight), lambda images: variation(images, beta))


def variation(images: Tensor, beta: float = 2.0) -> Tensor:
    """The total variation R of each image: [N]."""
    down = F.pad(images[:, :, 1:] - images[:, :, :-1], (0, 0, 0, 1))
    right = F.pad(images[:, :, :, 1:] - images[:, :, :, :-1], (0, 1))
    if beta == 2:
        return (down.square() + right.square()).sum((1, 2, 3))
    # the norm, unlike a square root, has a gradient (0) where there is no difference at all
    length = torch.linalg.vector_norm(torch.stack([down, right]), dim=0)
    return length.pow(beta).sum((1, 2, 3))


def fourier(decay: float = 1.75, *, decorrelate: bool = True, spread: float = 0.1) -> Parametrisation:
    """Climb in the image's spectrum, its low frequencies faster, and in decorrelated colours.

    Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017, section "Preconditioning and
    parameterization". The numbers that move are z(f) of u = F^-1[z(f) / max(f, 1 / N)^decay], with f in
    cycles a pixel and N the longer side; u are colours without correlation, C u those of photos (C Cᵀ is
    `COLOUR_COVARIANCE` but for a factor). With bounds, the pixels are low + (high - low) / (1 + exp(-C u)):
    between black and white by themselves. Without, they are C u.

    decay: 0 to 3. 0 treats all frequencies alike; with 1, noise has the spectrum of photos (amplitudes as
        1 / f); more makes smoother images.
    decorrelate: False leaves R, G and B as they are (C = 1).
    spread: the standard deviation of u of the images that it starts from.
    Raises `TypeError` or `ValueError` for arguments of another kind.
    """
    require_number(decay, "decay", 0, 3)
    require_choice(decorrelate, "decorrelate", (True, False))
    require_number(spread, "spread", 0)

    def make(height: int, width: int, bounds: Bounds, like: Tensor) -> Spectrum:
        return Spectrum(height, width, bounds, like, decay, decorrelate, spread)

    return Parametrisation("Fourier", make)


class Pixels:
    """The pixels themselves as what moves; kept within the bounds by clipping."""

    def __init__(self, height: int, width: int, bounds: Bounds, like: Tensor):
        self.size, self.bounds, self.like = (height, width), bounds, like

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """What stands for n images of noise around grey, a tenth of the range strong (0.1 without bounds)."""
        noise = 0.1 * normal(n, (3, *self.size), generator, self.like)
        if self.bounds is None:
            return noise
        low, high = self.bounds
        return self.settled((low + high) / 2 + (high - low) * noise)

    def inverse(self, images: Tensor) -> Tensor:
        """What stands for these images."""
        return self.settled(images.clone())

    def images(self, parameters: Tensor) -> Tensor:
        """The images [N, 3, H, W] that it stands for, differentiable."""
        return parameters

    def settled(self, parameters: Tensor) -> Tensor:
        """The nearest that is allowed."""
        return parameters if self.bounds is None else parameters.clamp(*self.bounds)


class Spectrum(Pixels):
    """The spectrum as what moves: real [N, 3, H, W // 2 + 1, 2]. See `fourier`."""

    def __init__(
        self,
        height: int,
        width: int,
        bounds: Bounds,
        like: Tensor,
        decay: float,
        decorrelate: bool,
        spread: float,
    ):
        super().__init__(height, width, bounds, like)
        self.spread = spread
        rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        columns = torch.fft.rfftfreq(width, dtype=torch.float64)
        weight = torch.hypot(rows, columns).clamp(min=1 / max(height, width)) ** -decay
        # so that numbers z of standard deviation 1 give colours u of about 1: each column but the first (and
        # the last of an even width) stands for its mirror image as well
        twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        mean = (weight.square() * twice).sum() / (height * width)
        self.weight = (weight / mean.sqrt())[:, :, None].to(like)
        colours = torch.eye(3, dtype=torch.float64)
        if decorrelate:
            covariance = torch.tensor(COLOUR_COVARIANCE, dtype=torch.float64)
            values, vectors = torch.linalg.eigh(covariance / covariance.diagonal().mean())
            colours = vectors @ torch.diag(values.sqrt()) @ vectors.T
        self.mix, self.unmix = colours.to(like), torch.linalg.inv(colours).to(like)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        height, width = self.size
        return self.spread * normal(n, (3, height, width // 2 + 1, 2), generator, self.like) / math.sqrt(2)

    def inverse(self, images: Tensor) -> Tensor:
        if self.bounds is not None:
            low, high = self.bounds
            images = torch.logit((images - low) / (high - low), eps=MARGIN)
        colours = mixed(self.unmix, images)
        return torch.view_as_real(torch.fft.rfft2(colours, norm="ortho")) / self.weight

    def images(self, parameters: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(parameters * self.weight)
        images = mixed(self.mix, torch.fft.irfft2(spectrum, s=self.size, norm="ortho"))
        if self.bounds is None:
            return images
        low, high = self.bounds
        return low + (high - low) * torch.sigmoid(images)

    def settled(self, parameters: Tensor) -> Tensor:
        return parameters


def mixed(matrix: Tensor, images: Tensor) -> Tensor:
    """The 3 × 3 matrix times each pixel's colour."""
    return (matrix @ images.flatten(2)).view_as(images)


def normal(n: int, shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """n standard normal tensors, one drawn after the other: the first is the same whatever n is."""
    drawn = [
        torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype)
        for _ in range(n)
    ]
    return torch.stack(drawn).to(like.device)


def sorted_out(
    regularise: object,
) -> tuple[list[Transform], list[Penalty], list[Correction], Parametrisation]:
    """The parts by kind, each kind in the order given; the pixels themselves where no parametrisation is.

    Raises `TypeError` for what is no part, `ValueError` for two parametrisations or penalties of one name.
    """
    expected = "regularise: expected a sequence of regularisers such as jitter(16)"
    if isinstance(regularise, str) or not isinstance(regularise, Sequence):
        raise TypeError(f"{expected}, got {describe(regularise)}")
    parts: dict[type, list] = {Transform: [], Penalty: [], Correction: [], Parametrisation: []}
    for part in regularise:
        kind = next((kind for kind in parts if isinstance(part, kind)), None)
        if kind is None:
            hint = "; call it" if callable(part) else ""
            raise TypeError(f"{expected}, got {describe(part)} among them{hint}")
        parts[kind].append(part)
    spaces = parts[Parametrisation]
    if len(spaces) > 1:
        raise ValueError(f"regularise: expected one parametrisation at most, got {len(spaces)}")
    names = ["L", "objective", "l2", *(penalty.name for penalty in parts[Penalty])]
    if len(set(names)) < len(names):
        raise ValueError(f"regularise: expected penalties of different names, got {', '.join(names[3:])}")
    space = spaces[0] if spaces else Parametrisation("pixels", Pixels)
    return parts[Transform], parts[Penalty], parts[Correction], space
