"""The exercises of lesson 8: the plan of a generator, a walk through the latent space, outlines."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    close,
    compare,
    randint,
)
from lecture7_utils.kernels.arguments import describe

Layer = tuple[int, int, int, int, int]  # channels in, channels out, f, s, p
_COLUMNS = ("side", "weights", "fully connected")


def _plan(side: int, layers: list[Layer], *, larger: Callable | None = None) -> list[tuple[int, int, int]]:
    """For each layer the side of its maps, its weights, and those of a fully connected layer."""
    larger = larger or (lambda n, f, s, p: s * (n - 1) + f - 2 * p)
    found = []
    for a, b, f, s, p in layers:
        after = larger(side, f, s, p)
        found.append((after, a * b * f * f, a * side**2 * b * after**2))
        side = after
    return found


def _as_plan(got: object, count: int) -> list[list[float]]:
    """The answer as `count` lists of three numbers; what is said otherwise."""
    each = "for each layer (side, weights, weights fully connected)"
    if hasattr(got, "tolist"):
        got = got.tolist()
    if not isinstance(got, list | tuple):
        raise Wrong(f"expected a list with {each}, got {describe(got)}.")
    if len(got) == 3 and all(isinstance(value, int | float) for value in got):
        raise Wrong(f"expected a list with {each}, got the three numbers of one layer.")
    if len(got) != count:
        hint = ": the maps at the start are no layer's" if len(got) == count + 1 else ""
        raise Wrong(f"expected {count} entries, one for each layer, got {len(got)}{hint}.")
    rows = []
    for row in got:
        values = row.tolist() if hasattr(row, "tolist") else row
        if not isinstance(values, list | tuple) or len(values) != 3:
            raise Wrong(f"expected {each}, got {values!r}.")
        try:
            rows.append([float(value) for value in values])
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"expected three numbers for each layer, got {values!r}.") from None
    return rows


def _judge_plan(call: Caller, g: torch.Generator) -> None:
    plans: list[tuple[int, list[Layer]]] = [
        (4, [(3, 5, 4, 3, 1), (5, 2, 5, 2, 2)]),  # tells all the wrong sides below apart
        (4, [(160, 96, 4, 2, 1), (96, 48, 4, 2, 1)]),  # as in the lesson
    ]
    for count in (3, 2, 4):
        channels = (2 + torch.randperm(8, generator=g)[: count + 1]).tolist()  # all different
        steps = [(randint(g, 3, 6).item(), randint(g, 2, 4).item(), 1) for _ in range(count)]
        layers = [(a, b, *step) for a, b, step in zip(channels[:-1], channels[1:], steps, strict=True)]
        plans.append((randint(g, 3, 7).item(), layers))
    for side, layers in plans:
        want, rows = _plan(side, layers), _as_plan(call(side, list(layers)), len(layers))
        before = [side, *(after for after, _, _ in want[:-1])]
        sides = {
            "the side is s times as large only where f - 2p is s": lambda n, f, s, p: s * n,
            "this is the size after an ordinary convolution": lambda n, f, s, p: (n + 2 * p - f) // s + 1,
            "the padding goes off at both ends, 2p": lambda n, f, s, p: s * (n - 1) + f - p,
            "the padding is left out": lambda n, f, s, p: s * (n - 1) + f,
            "the padding is taken off, not added": lambda n, f, s, p: s * (n - 1) + f + 2 * p,
            "n entries lie n - 1 steps apart": lambda n, f, s, p: s * n + f - 2 * p,
            "the filter's f is missing: s (n - 1) + f - 2p": lambda n, f, s, p: s * (n - 1) - 2 * p,
        }
        mistakes: tuple[dict[str, list[int]], ...] = (
            {name: [r[0] for r in _plan(side, layers, larger=way)] for name, way in sides.items()}
            | {
                "each layer begins with the side that the one before has made": [
                    _plan(side, [layer])[0][0] for layer in layers
                ]
            },
            {
                "the filter has f rows and f columns": [a * b * f for a, b, f, _, _ in layers],
                "each pair of channels, in and out, has a filter": [f * f for _, _, f, _, _ in layers],
                "the channels that go out are missing": [a * f * f for a, _, f, _, _ in layers],
                "the channels that go in are missing": [b * f * f for _, b, f, _, _ in layers],
                "the biases are counted too": [a * b * f * f + b for a, b, f, _, _ in layers],
                "the channels multiply: in times out": [(a + b) * f * f for a, b, f, _, _ in layers],
                "the same weights serve at every place: count them once": [
                    a * b * f * f * n * n for (a, b, f, _, _), n in zip(layers, before, strict=True)
                ],
                "these are the weights of all layers up to here; each layer's own are asked for": [
                    sum(r[1] for r in want[: k + 1]) for k in range(len(want))
                ],
            },
            {
                "the channels are left out": [
                    n**2 * r[0] ** 2 for n, r in zip(before, want, strict=True)
                ],
                "the maps have rows and columns: the sides count squared": [
                    a * n * b * r[0] for (a, b, *_), n, r in zip(layers, before, want, strict=True)
                ],
                "the biases are counted too": [
                    r[2] + b * r[0] ** 2 for (_, b, *_), r in zip(layers, want, strict=True)
                ],
                "every number that goes in is tied to every one that goes out: multiply, don't add": [
                    a * n**2 + b * r[0] ** 2 for (a, b, *_), n, r in zip(layers, before, want, strict=True)
                ],
                "these are the numbers that go out; each is tied to every one that goes in": [
                    b * r[0] ** 2 for (_, b, *_), r in zip(layers, want, strict=True)
                ],
                "each layer goes from the maps of the one before, not from the first ones": [
                    layers[0][0] * side**2 * b * r[0] ** 2 for (_, b, *_), r in zip(layers, want, strict=True)
                ],
                "these are the weights of all layers up to here; each layer's own are asked for": [
                    sum(r[2] for r in want[: k + 1]) for k in range(len(want))
                ],
            },
        )  # fmt: skip
        for column, (name, known) in enumerate(zip(_COLUMNS, mistakes, strict=True)):
            got, right = [row[column] for row in rows], [row[column] for row in want]
            if got == right:
                continue
            k = next(k for k, (x, y) in enumerate(zip(got, right, strict=True)) if x != y)
            a, b, f, s, p = layers[k]
            said = f"{got[k]:,.12g}"
            why = next((f": {words}" for words, values in known.items() if got == values), "")
            raise Wrong(
                f"plan({side}, {layers}), layer {k + 1}, which is {a} to {b} channels, f = {f}, s = {s}, "
                f"p = {p}, from {before[k]} × {before[k]}: {name}: expected {right[k]:,}, got {said}{why}."
            )


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
        "plan(side, layers)",
        "from n to s (n - 1) + f - 2p; a filter of f × f for each pair of channels; fully connected, every "
        "number of the maps before is tied to every number of the maps after. The new side is the next "
        "layer's old one.",
        "sides, weights, and what fully connected layers would cost.",
        _judge_plan,
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
