"""The exercises of lesson 8: enlarging without checkerboards, a walk through the latent space, outlines."""

import math

import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import Caller, Exercise, Wrong, as_tensor, close, compare


def _filtered(x: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's convolution with zeros around: [N, C, H, W] and [D, C, k, k] give [N, D, H, W]."""
    n, channels, height, width = x.shape
    outputs, _, k, _ = weight.shape
    wide = x.new_zeros(n, channels, height + k - 1, width + k - 1)
    wide[:, :, k // 2 : k // 2 + height, k // 2 : k // 2 + width] = x
    found = x.new_zeros(n, outputs, height, width)
    for i in range(k):
        for j in range(k):
            part = wide[:, :, i : i + height, j : j + width]
            found += torch.einsum("nchw,dc->ndhw", part, weight[:, :, i, j])
    return found


def _spread(x: Tensor, every: bool) -> Tensor:
    """Both sides doubled: each value four times, or once with zeros to its right and below."""
    n, c, h, w = x.shape
    wide = x.new_zeros(n, c, 2 * h, 2 * w)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)) if every else ((0, 0),):
        wide[:, :, i::2, j::2] = x
    return wide


def _judge_enlarge(call: Caller, g: torch.Generator) -> None:
    for n, c, d, h, w, k in ((2, 3, 4, 4, 6, 3), (1, 2, 5, 5, 3, 5), (3, 4, 2, 3, 4, 1)):
        x, weight = torch.randn(n, c, h, w, generator=g), torch.randn(d, c, k, k, generator=g)
        a, v = x.double(), weight.double()
        large = _spread(a, True)
        want = _filtered(large, v)
        small = k - 1
        hints = {
            (n, d, h, w): "the sides are not doubled",
            (n, c, 2 * h, 2 * w): "enlarged, but not convolved: the channels become those of the filter",
            (n, d, 2 * h - small, 2 * w - small): f"padding of {k // 2} keeps the sides at twice those of x",
            (n, d, 2 * (h - small), 2 * (w - small)): "the convolution comes last, and is padded",
            (n, d, 2 * h, w): "the columns are not doubled",
            (n, d, h, 2 * w): "the rows are not doubled",
            (n, d, 4 * h, 4 * w): "each side is doubled, not made four times as long",
            (n, d, 2 * h + small, 2 * w + small): "the padding is too large",
            (n, d, 2 * (h - 1) + k, 2 * (w - 1) + k): "a transposed convolution gives this size",
            (d, 2 * h, 2 * w): "the batch dimension is missing",
        }
        hints.pop((n, d, 2 * h, 2 * w), None)
        got = as_tensor(call(x, weight), "the enlarged maps", (n, d, 2 * h, 2 * w), hints)
        holes = _spread(a, False)
        moved = torch.zeros_like(holes)
        moved[:, :, 1::2, 1::2] = a
        tiled = torch.cat([torch.cat([a, a], 3)] * 2, 2)
        smooth = torch.nn.functional.interpolate(a, scale_factor=2, mode="bilinear")
        turned = v.flip(2, 3)
        mistakes = {
            "zeros are put between the pixels, as in a transposed convolution: repeat each pixel": _filtered(
                holes, v
            ),
            "this is a transposed convolution of stride 2: enlarge first, then convolve with stride 1": (
                _filtered(holes, turned)
            ),
            "zeros are put between the pixels; repeat each of them ": _filtered(moved, v),
            "the convolution comes first; enlarge first": _spread(_filtered(a, v), True),
            "the filter is turned round: conv2d takes it as it is": _filtered(large, turned),
            "the filter's rows and columns are swapped": _filtered(large, v.transpose(2, 3)),
            "the whole picture is repeated; each pixel has to be": _filtered(tiled, v),
            "the pixels are blended (bilinear); the exercise repeats them": _filtered(smooth, v),
            "the result is divided by 4: each pixel is repeated, not shared out": want / 4,
            "a ReLU is applied: the convolution is the last step": want.clamp(min=0),
        }
        if n > 1:
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first picture was done"] = only
        compare(got, want, mistakes, ("image", "channel", "row", "column"))


def _angle(cosine: float) -> float:
    return math.acos(max(-1.0, min(1.0, cosine)))


def _judge_walk(call: Caller, g: torch.Generator) -> None:
    for size, t, scale in ((5, 0.25, 1.0), (8, 0.5, 1.4), (3, 0.8, 0.6), (6, 0.0, 1.0), (6, 1.0, 1.0)):
        start = torch.randn(size, generator=g)
        # of another length, and neither in line with the first nor at a right angle to it
        end = scale * (0.9 * start + torch.randn(size, generator=g))
        a, b = start.double(), end.double()
        length = float(a.norm()), float(b.norm())
        cosine = sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / (length[0] * length[1])
        angle = _angle(cosine)

        def on_circle(t: float, angle: float, a: Tensor = a, b: Tensor = b) -> Tensor:
            return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)

        want = on_circle(t, angle)
        hints = {
            (1, size): "take the batch dimension off: two vectors go in, one comes out",
            (): "a vector is asked for, not a number",
            (2 * size,): "the two are put one behind the other; a mixture of them is asked for",
        }
        got = as_tensor(call(start, end, t), "z", (size,), hints)
        unnormalised = cosine * length[0] * length[1]
        straight = (1 - t) * a + t * b
        unit_a, unit_b = a / length[0], b / length[1]
        mistakes = {
            "this is the straight line; the great circle is asked for": straight,
            "start and end are swapped: t = 0 is the start": on_circle(1 - t, angle),
            "this is the straight line, with start and end swapped": t * a + (1 - t) * b,
            "the division by sin(angle) is missing": want * math.sin(angle),
            "the ends are scaled to length 1 and not back: only for the angle": on_circle(
                t, angle, unit_a, unit_b
            ),
            "the result is scaled to length 1": want / want.norm(),
            "the straight line is scaled to length 1": straight / straight.norm(),
            "the straight line is stretched to the length of the ends; the great circle is asked for": (
                straight / straight.norm() * ((1 - t) * length[0] + t * length[1])
            ),
            "cosines stand where the sines belong": (
                (math.cos((1 - t) * angle) * a + math.cos(t * angle) * b) / math.cos(angle)
            ),
            "the angle is that of a right angle for every pair; measure it": on_circle(t, math.pi / 2),
            "the angle is in degrees; sin takes radians": on_circle(t, math.degrees(angle)),
            "the angle is left out of the cosine's inverse: arccos gives it": on_circle(t, cosine),
        }
        if abs(unnormalised) < 1:
            other = _angle(unnormalised)
            mistakes["the product of start and end has to be divided by both lengths"] = on_circle(t, other)
        elif not bool(torch.isfinite(got).all()):
            raise Wrong(
                "got NaN: the product of start and end is no cosine before it is divided by both lengths."
            )
        try:
            compare(got, want, mistakes, ("entry",))
        except Wrong as wrong:
            raise Wrong(f"t = {t}, {math.degrees(angle):.0f}° between the ends: {wrong}") from None


def _neighbours(i: int, j: int, height: int, width: int, diagonal: bool) -> list[tuple[int, int]]:
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    if diagonal:
        steps += [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    return [(i + a, j + b) for a, b in steps if 0 <= i + a < height and 0 <= j + b < width]


def _outline(mask: list[list[bool]], diagonal: bool = False, sides: tuple = (True, False)) -> set:
    """The pixels (i, j) with a neighbour of the other kind; sides: which kind they are themselves."""
    height, width = len(mask), len(mask[0])
    return {
        (i, j)
        for i in range(height)
        for j in range(width)
        if mask[i][j] in sides
        and any(mask[a][b] != mask[i][j] for a, b in _neighbours(i, j, height, width, diagonal))
    }


def _judge_outline(call: Caller, g: torch.Generator) -> None:
    for height, width in ((8, 11), (12, 7), (9, 9)):
        truth = torch.zeros(height, width, dtype=torch.bool)
        truth[2 : height - 2, 1 : width - 3] = True
        truth[2:4, width - 4] = False  # a step, so that diagonal neighbours are told from the others
        truth[height - 3 :, width - 3 :] = True  # at the picture's edge: what is outside does not count
        mask = truth ^ (torch.rand(height, width, generator=g) < 0.25)
        for i in (0, -1):  # two wrong pixels at least that are not at the outline, one of either kind
            mask[i, i] = ~truth[i, i]
        true, said = truth.tolist(), mask.tolist()
        every = [(i, j) for i in range(height) for j in range(width)]

        def wrong_share(cells, true=true, said=said) -> Tensor:
            cells = list(cells)
            wrong = sum(true[i][j] != said[i][j] for i, j in cells)
            return torch.tensor(wrong / len(cells) if cells else 0.0, dtype=torch.float64)

        band = _outline(true)
        want = wrong_share(band)
        wrong = round(float(want) * len(band))
        got = call(mask, truth)
        if isinstance(got, int | float) and not isinstance(got, bool):
            got = torch.tensor(float(got))
        hints = {
            (height, width): "one number for the picture is asked for, not one for each pixel",
            (1,): "one number without a dimension",
        }
        got = as_tensor(got, "one share", (), hints)
        share_in = sum(said[i][j] for i, j in band) / len(band)
        mistakes = {
            "all wrong pixels are counted; only those at the outline are asked for": wrong_share(every),
            "the outline is taken from the mask; the truth's is asked for": wrong_share(_outline(said)),
            "the pixels that touch at a corner are counted too": wrong_share(_outline(true, True)),
            "only the animal's side of the outline is judged; the background's counts too": wrong_share(
                _outline(true, sides=(True,))
            ),
            "only the background's side of the outline is judged; the animal's counts too": wrong_share(
                _outline(true, sides=(False,))
            ),
            "the share that is right was given; the wrong one is asked for": 1 - want,
            "a count was given; divide by the number of pixels at the outline": torch.tensor(float(wrong)),
            "divided by all pixels; divide by those at the outline": torch.tensor(wrong / len(every)),
            "divided by the mask's pixels; divide by those at the outline": torch.tensor(
                wrong / int(truth.sum())
            ),
            "the share of the outline that the mask covers was given": torch.tensor(share_in),
            "what is outside the picture is taken as background": wrong_share(
                band
                | {(i, j) for i, j in every if true[i][j] and (i in (0, height - 1) or j in (0, width - 1))}
            ),
        }
        if close(got, want):
            continue
        # mistakes that come to the right number on these masks are no help
        named = {name: value.double() for name, value in mistakes.items()}
        compare(got, want, {name: v for name, v in named.items() if not close(v, want)}, ())


EXERCISES = {
    "8a": Exercise(
        "enlarge(x, weight)",
        "repeat_interleave(2, dim) on rows and on columns, then F.conv2d with half of the filter's side, "
        "weight.shape[-1] // 2, as padding.",
        "enlarged first, convolved then: every pixel is covered equally often.",
        _judge_enlarge,
    ),
    "8b": Exercise(
        "walk(start, end, t)",
        "the cosine of the angle a is start · end over both lengths; "
        "z = (sin((1 − t) a) start + sin(t a) end) / sin(a).",
        "on the great circle, at every t.",
        _judge_walk,
    ),
    "8c": Exercise(
        "outline_error(mask, truth)",
        "truth[1:] != truth[:-1] finds the neighbours above and below that differ; mark both of each pair, "
        "do the same for the columns, and take the share of wrong pixels among the marked ones.",
        "the share of wrong pixels at the outline, and only there.",
        _judge_outline,
    ),
}
