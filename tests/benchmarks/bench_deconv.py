"""The forms of a transposed convolution beside PyTorch's own, layers as a generator or a decoder has them."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from lecture7_utils.kernels.deconv import pixel_shuffle_form, sub_pixel, transposed_convolution
from tests.benchmarks.measure import Row, compare

# channels of y and of x, filter size, stride, padding, rows of y, calls in one round
LAYERS = (
    (64, 32, 4, 2, 1, 16, 8),
    (64, 64, 4, 2, 1, 32, 2),
    (128, 64, 3, 2, 1, 14, 8),
    (32, 16, 8, 4, 2, 14, 8),
    (3, 3, 4, 2, 1, 112, 4),
)
BATCH = 8


def rows() -> Iterator[Row]:
    """No target: the forms are for teaching, and the course's networks use PyTorch's."""
    g = torch.Generator().manual_seed(0)
    for d, c, f, s, p, n, calls in LAYERS:
        weight = torch.randn(d, c, f, f, generator=g)
        y = torch.randn(BATCH, d, n, n, generator=g)
        form = pixel_shuffle_form(weight, s, p)
        ways = {
            "pixel_shuffle_form": form,
            "sub_pixel": lambda y, weight=weight, s=s, p=p: sub_pixel(y, weight, s, p),
            "transposed_convolution": lambda y, weight=weight, s=s, p=p: transposed_convolution(
                y, weight, s, p
            ),
        }

        def peer(weight=weight, y=y, s=s, p=p, calls=calls):
            with torch.no_grad():
                return [F.conv_transpose2d(y, weight, stride=s, padding=p) for _ in range(calls)]

        for name, way in ways.items():

            def ours(way=way, y=y, calls=calls):
                with torch.no_grad():
                    return [way(y) for _ in range(calls)]

            yield from compare(
                name,
                f"{d} → {c} channels, f = {f}, s = {s}, p = {p}, {n} × {n}, batch {BATCH}",
                ours,
                {"torch conv_transpose2d": peer},
                note=f"{calls} calls",
            )
