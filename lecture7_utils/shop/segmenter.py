"""From a picture to a mask: the encoder/decoder of lesson 8, and its training."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from lecture7_utils.shop.arguments import choice, flag, number, whole

UNPOOLINGS = ("switches", "corner", "nearest")
WIDTHS = (16, 32, 64)


class Segmenter(nn.Module):
    """A network that says of each pixel whether it is an animal's, in the form of SegNet.

    Badrinarayanan, Kendall and Cipolla 2017, "SegNet: a deep convolutional encoder-decoder architecture for
    image segmentation" (arXiv 1511.00561), section 3, smaller: one convolution where SegNet has two or three.
    `encoder`: for each of `widths` a 3 × 3 convolution, a batch normalisation and a ReLU, each followed by a
    2 × 2 max pooling. `middle`: one more such convolution without pooling. `decoder`: the same in reverse
    order, each pooling undone by an unpooling, which has no weights, and then a convolution. `head`: a 3 × 3
    convolution to one number for each pixel. Only the unpooling differs between the three kinds, so all of
    them have the same weights at the beginning and the same number of them.

    unpooling: what is done with each pooled value. "switches": it goes to the place of its window where the
        maximum was, the other three are 0 (SegNet, figure 3). Without the switches: "corner": it goes to the
        upper left place, the other three are 0; "nearest": all four get it.
    widths: channels after each pooling, from the first on. seed: of the weights (He et al. 2015); the
        global random state is not touched.
    Input: float [N, 3, H, W] in 0 to 1, H and W multiples of 2 ** len(widths). Output: one score for each
    pixel before the sigmoid, float [N, H, W]; `net(images) > 0` is the mask.
    Raises `TypeError` or `ValueError` naming the argument.
    """

    def __init__(self, unpooling: str = "switches", *, widths: Sequence[int] = WIDTHS, seed: int = 0):
        super().__init__()
        self.unpooling = choice(unpooling, "unpooling", UNPOOLINGS)
        if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
            raise ValueError(f"widths: expected the channels after each pooling, got {widths!r}")
        self.widths = tuple(whole(width, "widths", 1) for width in widths)
        back = (self.widths[0], *self.widths[:-1])
        self.encoder = nn.ModuleList(
            _step(i, o) for i, o in zip((3, *self.widths[:-1]), self.widths, strict=True)
        )
        self.middle = _step(self.widths[-1], self.widths[-1])
        self.decoder = nn.ModuleList(_step(i, o) for i, o in zip(self.widths[::-1], back[::-1], strict=True))
        self.head = nn.utils.skip_init(nn.Conv2d, self.widths[0], 1, 3, padding=1)
        dice = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5, generator=dice)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(*self.encode(images))

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The code and the switches of each pooling.

        The code: float [N, widths[-1], H / s, W / s], s = 2 ** len(widths). The switches: for each pooling,
        from the first on, the place of each maximum in the map that was pooled, int64 (row · width + column),
        as in `torch.nn.functional.max_pool2d`.
        Raises `TypeError` or `ValueError` naming the argument.
        """
        self._require_images(images)
        x, switches = images - 0.5, []
        for step in self.encoder:
            x, places = F.max_pool2d(step(x), 2, return_indices=True)
            switches.append(places)
        return self.middle(x), switches

    def decode(self, code: Tensor, switches: Sequence[Tensor]) -> Tensor:
        """The scores, float [N, H, W], of a code and switches in the form that `encode` gives.

        Without switches ("corner", "nearest") the second argument is not read.
        Raises `ValueError` if there are not as many switches as poolings, or one of them has another shape
        than the map that it unpools.
        """
        if self.unpooling == "switches" and len(switches) != len(self.widths):
            raise ValueError(
                f"switches: expected those of the {len(self.widths)} poolings, got {len(switches)}"
            )
        x = code
        for i, step in enumerate(self.decoder):
            x = step(self._unpool(x, switches[-1 - i] if self.unpooling == "switches" else None))
        return self.head(x)[:, 0]

    def _unpool(self, x: Tensor, places: Tensor | None) -> Tensor:
        """Each side doubled, as `unpooling` says."""
        if self.unpooling == "switches":
            if places.shape != x.shape:
                raise ValueError(
                    f"switches: expected the shape {list(x.shape)} of what they unpool, "
                    f"got {list(places.shape)}"
                )
            return F.max_unpool2d(x, places, 2)
        if self.unpooling == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        n, c, h, w = x.shape
        # in the memory order of x, or the convolution after it would have to turn it round
        wide = torch.empty(
            (n, c, 2 * h, 2 * w), dtype=x.dtype, device=x.device, memory_format=_memory_format(x)
        ).zero_()
        wide[:, :, ::2, ::2] = x
        return wide

    def _require_images(self, images: object) -> None:
        step = 2 ** len(self.widths)
        expected = f"images: expected a float tensor [N, 3, H, W], H and W multiples of {step}"
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise TypeError(f"{expected}, got {_what(images)}")
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"{expected}, got {_what(images)}")
        if images.shape[2] % step or images.shape[3] % step:
            raise ValueError(f"{expected}, got {_what(images)}")


def _step(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, a batch normalisation (which has the bias of both) and a ReLU."""
    return nn.Sequential(
        nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),  # the normalisation's backward pass needs its input only
    )


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


@dataclass(frozen=True)
class SegmenterFit:
    """What `train_segmenter` did. losses: the mean loss of each epoch, those left out by an interrupt
    missing. steps: how many were made. complete: False if it was interrupted."""

    losses: tuple[float, ...]
    steps: int
    complete: bool = True


def train_segmenter(
    net: Segmenter,
    images: Tensor,
    masks: Tensor,
    *,
    epochs: int = 4,
    batch_size: int = 8,
    learning_rate: float = 0.02,
    weight_decay: float = 0.01,
    seed: int = 0,
    progress: bool = True,
) -> SegmenterFit:
    """Train a `Segmenter` on pictures and their masks, in place.

    It is AdamW (Loshchilov and Hutter 2019; betas 0.9 and 0.99, since a thousand steps are few) on the binary
    cross entropy, its mean over all pixels. The learning rate rises over the first fifth of the steps and
    falls to 0 as a half cosine (Smith and Topin 2018, "Super-convergence"). Each picture is mirrored with a
    chance of one half each time it is met.

    images: float [N, 3, H, W] in 0 to 1. masks: bool [N, H, W], True where an animal is. Both on one device;
    the network works on its own. seed: of the batches' order and the mirroring; the same seed gives the same
    network on the same machine. progress: whether to show a bar.
    Leaves the network in eval mode. If it is interrupted it warns, keeps what was learned so far, and says
    so in the result.
    Raises `TypeError` or `ValueError` naming the argument.
    """
    if not isinstance(net, Segmenter):
        raise TypeError(f"net: expected a Segmenter, got {type(net).__name__}")
    net._require_images(images)
    expected = f"masks: expected a bool tensor {[len(images), *images.shape[2:]]}, got {_what(masks)}"
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        raise TypeError(expected)
    if masks.shape != images[:, 0].shape or masks.device != images.device:
        raise ValueError(f"{expected} on {masks.device}")
    epochs, batch_size = whole(epochs, "epochs", 1), whole(batch_size, "batch_size", 1)
    learning_rate = number(learning_rate, "learning_rate", 0)
    weight_decay = number(weight_decay, "weight_decay", 0)
    dice = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
    flag(progress, "progress")

    count, weight = len(images), net.head.weight
    steps = epochs * -(-count // batch_size)
    net.to(memory_format=torch.channels_last).train()
    losses, done = [], 0
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            tqdm(
                total=steps, desc=f"training, {net.unpooling}", unit="step", disable=not progress, leave=False
            ) as bar,
        ):
            optimiser = torch.optim.AdamW(
                net.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
            )
            for _ in range(epochs):
                total = 0.0
                for chosen in torch.randperm(count, generator=dice).split(batch_size):
                    mirrored = torch.rand(len(chosen), generator=dice) < 0.5
                    chosen, mirrored = chosen.to(images.device), mirrored.to(images.device)
                    x, truth = images[chosen], masks[chosen]
                    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
                    truth = torch.where(mirrored[:, None, None], truth.flip(2), truth)
                    x = x.to(weight).contiguous(memory_format=torch.channels_last)
                    scores = net(x)
                    loss = F.binary_cross_entropy_with_logits(scores, truth.to(scores))
                    for group in optimiser.param_groups:
                        group["lr"] = learning_rate * _share_of_rate(done / steps)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    done += 1
                    total += float(loss.detach()) * len(chosen)
                    bar.update()
                losses.append(total / count)
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
    except KeyboardInterrupt:
        if not done:
            raise
        warnings.warn(
            f"interrupted after {done} of {steps} steps: the network keeps what it learned so far; "
            "call train_segmenter again to train it further",
            stacklevel=2,
        )
    finally:
        net.zero_grad(set_to_none=True)
        net.eval()
    return SegmenterFit(tuple(losses), done, done == steps)


def _share_of_rate(at: float, warm: float = 0.2) -> float:
    """The learning rate over its highest, `at` from 0 to 1: up, then down as a half cosine."""
    if at < warm:
        return 0.04 + 0.96 * at / warm
    return 0.5 * (1 + math.cos(math.pi * (at - warm) / (1 - warm)))
