"""The exercises of lesson 7, unpooling and the three rules for ReLU and ReLU6."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lecture7_utils.classroom.checks.judging import Caller, Exercise, as_tensor, compare


def _windows(map: Tensor, f: int) -> list[tuple[tuple[int, int, int], list[tuple[int, int]]]]:
    """For each place of the pooled map, (channel, row, column), its window's entries in reading order."""
    channels, h, w = map.shape
    inside = [(a, b) for a in range(f) for b in range(f)]
    return [
        ((c, i, j), [(f * i + a, f * j + b) for a, b in inside])
        for c in range(channels)
        for i in range(h // f)
        for j in range(w // f)
    ]


def _placed(
    x: Tensor, signal: Tensor, f: int, choose: Callable[[list[float], int], list[int]]
) -> Tensor:  # fmt: skip
    """The signal, put at those entries of each window that `choose(values, channel)` names."""
    out = torch.zeros(x.shape, dtype=signal.dtype)
    for (c, i, j), entries in _windows(x, f):
        for n in choose([x[c, a, b].item() for a, b in entries], c):
            out[c, entries[n][0], entries[n][1]] = signal[c, i, j]
    return out


def _unpooled(x: Tensor, signal: Tensor, f: int) -> Tensor:
    return _placed(x, signal, f, lambda values, _: [values.index(max(values))])


def _last_of(values: list[float]) -> int:
    return len(values) - 1 - values[::-1].index(max(values))


def _judge_unpool(call: Caller, g: torch.Generator) -> None:
    # the second and the last map have windows with equal entries, as after a ReLU
    for (channels, h, w, f), rectified in (((3, 6, 8, 2), False), ((2, 8, 6, 2), True), ((2, 6, 9, 3), True)):
        x = torch.randn(channels, h, w, generator=g)
        if rectified:
            x = (x - 0.7).clamp(min=0)
        signal = torch.randn(channels, h // f, w // f, generator=g)
        hints = {
            (channels, h // f, w // f): f"this is the signal's size; {h} × {w}, that of x, is asked for",
            (h, w): "the channels are missing; each channel has switches of its own",
            (1, channels, h, w): "take the batch dimension of the pooling off again",
            (channels, h * w): "bring the rows back: `.view(x.shape)`",
            (channels, w, h): "rows and columns are swapped",
        }
        hints.pop((channels, h, w), None)
        got = as_tensor(call(x, signal, f), "the unpooled signal", (channels, h, w), hints)
        s = signal.double()
        want = _unpooled(x, s, f)
        large = s.repeat_interleave(f, 1).repeat_interleave(f, 2)
        peaks = F.max_pool2d(x.double(), f)
        together = x.sum(0, keepdim=True).expand_as(x)
        turned = _placed(x, s, f, lambda v, _, f=f: [v.index(max(v)) % f * f + v.index(max(v)) // f])
        mistakes = {
            "the signal is in the first entry of each window; it goes to where the maximum was": _placed(
                x, s, f, lambda *_: [0]
            ),
            "every entry of the window gets the signal; the maximum alone does, the others get 0": large,
            "the signal is shared out over the window; the maximum gets all of it": large / f**2,
            "of several equal maxima all get the signal; only the first one does": _placed(
                x, s, f, lambda v, _: [n for n, value in enumerate(v) if value == max(v)]
            ),
            "of several equal maxima the last one gets the signal; the first one does": _placed(
                x, s, f, lambda v, _: [_last_of(v)]
            ),
            "these are the maxima of x; the signal is to be put in their places": _unpooled(x, peaks, f),
            "the signal is multiplied by the maximum; x says only where it goes": _unpooled(x, s * peaks, f),
            "the signal goes to the smallest entry; it goes to the largest": _placed(
                x, s, f, lambda v, _: [v.index(min(v))]
            ),
            "the largest |x| is taken; the pooling takes the largest x": _unpooled(x.abs(), s, f),
            "row and column are swapped inside the window": turned,
            "all channels have the same switches; each has its own": _unpooled(together, s, f),
        }
        # what gives the right answer on this map is no mistake on it
        compare(got, want, mistakes, ("channel", "row", "column"))


_BY_RULE = {
    "gradient": "where 0 < x < 6 the signal passes, whatever its sign",
    "deconvnet": "max(signal, 0), whatever x was",
    "guided": "max(signal, 0) where 0 < x < 6, 0 elsewhere",
}
_NAMES = {"gradient": "the gradient", "deconvnet": "DeconvNet", "guided": "guided backpropagation"}


def _judge_rules(call: Caller, g: torch.Generator) -> None:
    for shape in ((20,), (2, 3, 5)):
        x, signal = 4 * torch.randn(shape, generator=g), 3 * torch.randn(shape, generator=g)
        # inputs at both ends and beyond the upper one, under a signal of either sign; and a large signal
        x.view(-1)[:7] = torch.tensor([0.0, 0, 6, 6, 9, 9, 2])
        signal.view(-1)[:7] = torch.tensor([1.5, -1.5, 1.5, -1.5, 2, -2, 8])
        z, r = x.double(), signal.double()
        on, up, zero = (z > 0) & (z < 6), r > 0, torch.zeros_like(r)
        right = {"gradient": r * on, "deconvnet": r * up, "guided": r * (on & up)}
        for rule, want in right.items():
            hints = {(): "one number; a signal of the same shape is asked for"}
            got = as_tensor(call(signal, x, rule), f"rule={rule!r}", shape, hints)
            mistakes = {
                f"this is the rule of {_NAMES[other]}": value
                for other, value in right.items()
                if other != rule
            }
            bounded = z.clamp(0, 6)
            times_x = {"gradient": r * bounded, "deconvnet": want * z, "guided": r.clamp(min=0) * bounded}
            absolute = {"gradient": r.abs() * on, "deconvnet": r.abs(), "guided": r.abs() * on}
            negative = {"gradient": r * on, "deconvnet": r, "guided": r * on}
            mistakes |= {
                "the signal comes back as it was": r,
                "this is ReLU6's forward pass, min(max(x, 0), 6)": z.clamp(0, 6),
                "the signal is multiplied by x: what counts is whether 0 < x < 6": times_x[rule],
                "1 and 0 come back in place of the signal": (want != 0).double(),
                "the sign is dropped by abs(); what is negative becomes 0": absolute[rule],
                "negative signals pass and positive ones do not": torch.where(up, zero, negative[rule]),
                "either condition is enough here; both have to hold": r * (on | up),
                "the signal is cut at 6; the upper end is one of x, not of the signal": want.clamp(max=6),
            }
            if rule == "deconvnet":
                mistakes["the signal is dropped where x is 6 or more; the upper end plays no part here"] = (
                    want * (z < 6)
                )
            else:
                passing = right["deconvnet"] if rule == "guided" else r
                mistakes |= {
                    "above 6 the signal passes, as with ReLU; ReLU6 is flat there": passing * (z > 0),
                    "above 6 the signal passes, as with ReLU; ReLU6 is flat there, and at 0": (
                        passing * (z >= 0)
                    ),
                    "the upper end alone is looked at; below 0 ReLU6 is flat, too": passing * (z < 6),
                    "it passes where ReLU6 is flat; it is the other way round": passing * ~on,
                    "where x is exactly 0 nothing passes: x > 0, not x >= 0": passing * ((z >= 0) & (z < 6)),
                    "where x is exactly 6 nothing passes: x < 6, not x <= 6": passing * ((z > 0) & (z <= 6)),
                    "where x is exactly 0 or 6 nothing passes: 0 < x < 6": passing * ((z >= 0) & (z <= 6)),
                }
            mistakes = {f"rule={rule!r}: {name}; {_BY_RULE[rule]}": m for name, m in mistakes.items()}
            axes = ("entry",) if len(shape) == 1 else ("image", "row", "column")
            compare(got, want, mistakes, axes)


def _coarse(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Random numbers in eighths: their sums are exact in float32, so that no switch is in doubt."""
    return (8 * torch.randn(shape, generator=g)).round() / 8


def _stamped(signal: Tensor, weight: Tensor) -> Tensor:
    """The transpose of a convolution with padding 1: each entry of the signal lays down its filter."""
    n, filters, h, w = signal.shape
    out = torch.zeros(n, weight.shape[1], h + 2, w + 2, dtype=signal.dtype)
    for k in range(filters):
        for i in range(h):
            for j in range(w):
                out[:, :, i : i + 3, j : j + 3] += signal[:, k, i, j, None, None, None] * weight[k]
    return out[:, :, 1:-1, 1:-1]


def _judge_way_back(call: Caller, g: torch.Generator) -> None:
    for n, channels, filters, h, w in ((2, 3, 4, 6, 8), (1, 3, 5, 8, 4), (3, 3, 3, 4, 6)):
        # positive pictures, and filters that are positive or negative on the whole: the bias evens it out,
        # and many windows are 0 after the ReLU with it and others without it
        x, weight = _coarse((n, channels, h, w), g).abs(), _coarse((filters, channels, 3, 3), g)
        side = torch.arange(filters) % 2 - 0.5
        weight = weight + side[:, None, None, None]
        bias = (_coarse((filters,), g) - side * 6 * channels).contiguous()
        signal = torch.randn(n, filters, h // 2, w // 2, generator=g)
        hints = {
            (n, channels, h + 2, w + 2): "the convolution has padding 1, so its transpose has it too",
            (n, channels, h - 2, w - 2): "this convolution has no padding; its transpose has padding 1",
            (n, channels, h // 2, w // 2): "the way back through the pooling is missing",
            (n, filters, h, w): "the way back through the convolution is missing",
            (n, filters, h // 2, w // 2): "the signal is still at the pooling",
            (channels, h, w): "the batch dimension is missing",
        }
        hints.pop((n, channels, h, w), None)
        got = as_tensor(call(signal, x, weight, bias), "the signal at the input", (n, channels, h, w), hints)
        s, z, filter_ = signal.double(), x.double(), weight.double()
        before = F.conv2d(z, filter_, bias.double(), padding=1)
        after = before.clamp(min=0)

        def unpool(map: Tensor, s: Tensor = s) -> Tensor:
            return torch.stack([_unpooled(a, b, 2) for a, b in zip(map, s, strict=True)])

        up = unpool(after)
        ruled = up.clamp(min=0)
        want = _stamped(ruled, filter_)
        large = s.repeat_interleave(2, 2).repeat_interleave(2, 3).clamp(min=0)
        first = unpool(torch.zeros_like(after)).clamp(min=0)
        flipped = filter_.flip(2, 3)
        mistakes = {
            "the ReLU step is missing: max(signal, 0) after the unpooling": _stamped(
                up, filter_
            ),
            "the ReLU step comes after the convolution's; in reverse order it comes before it": _stamped(
                up, filter_
            ).clamp(min=0),
            "ReLU's step is done twice, before and after the convolution's; once is asked for": want.clamp(
                min=0
            ),
            "the signal passes where ReLU's input was positive: that is the gradient's rule": _stamped(
                up * (before > 0), filter_
            ),
            "ReLU's own input cuts the signal off as well: that is guided backpropagation": _stamped(
                ruled * (before > 0), filter_
            ),
            "the filters are not turned round: conv_transpose2d with `weight` as it is does it": _stamped(
                ruled, flipped
            ),
            "the pooling saw the map after the ReLU: its switches are of that map": _stamped(
                unpool(before).clamp(min=0), filter_
            ),
            "the switches are of a map without the bias; forwards it counts": _stamped(
                unpool((before - bias.double()[:, None, None]).clamp(min=0)).clamp(min=0), filter_
            ),
            "without switches: every signal is in the first entry of its window": _stamped(first, filter_),
            "without switches: every entry of a window gets the signal": _stamped(large, filter_),
            "without switches: the signal is shared out over the window": _stamped(large / 4, filter_),
            "the bias is taken off on the way back; it plays no part there": _stamped(
                ruled - bias.double()[:, None, None], filter_
            ),
            "the bias is added on the way back; it plays no part there": _stamped(
                ruled + bias.double()[:, None, None], filter_
            ),
        }  # fmt: skip
        compare(got, want, mistakes, ("image", "channel", "row", "column"))


EXERCISES = {
    "7a": Exercise(
        "unpooled(x, signal, f)",
        "F.max_pool2d(x, f, return_indices=True) gives the switches, counted through each channel's h · w "
        "entries; zeros of x's size, flatten(1), and scatter_ the signal to the switches.",
        "each signal is where its maximum was, and everything else is 0.",
        _judge_unpool,
    ),
    "7b": Exercise(
        "through_relu6(signal, x, rule)",
        "signal > 0 is one condition; that ReLU6 is not flat at x is another: one rule takes the first, one "
        "the second, one both.",
        "three methods, and one line apart.",
        _judge_rules,
    ),
    "7c": Exercise(
        "way_back(signal, x, weight, bias)",
        "forwards: conv2d with padding 1, ReLU, and max_pool2d with return_indices. Backwards: max_unpool2d, "
        "max(signal, 0), conv_transpose2d with padding 1.",
        "a whole block of the network, run backwards.",
        _judge_way_back,
    ),
}
