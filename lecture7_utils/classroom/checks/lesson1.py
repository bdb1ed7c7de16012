"""The exercises of lesson 1, saliency maps."""

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    compare,
    gradients,
    map_hints,
    named_or_scaled,
    no_parameter_gradients,
    randint,
    small_net,
)
from lecture7_utils.kernels.arguments import describe


def _judge_saliency(call: Caller, g: torch.Generator) -> None:
    for n, h, w, k in ((4, 7, 9, 5), (1, 8, 6, 3), (2, 10, 10, 7)):
        net, twin = small_net(g, k)
        images = torch.randn(n, 3, h, w, generator=g)
        with torch.no_grad():
            best = twin(images.double()).argmax(1)
        # never the class that wins, so that a gradient of the winner is found out
        classes = (best + randint(g, 1, k, (n,))) % k
        rows = torch.arange(n)
        gradient = gradients(twin, images, lambda s, r=rows, c=classes: s[r, c])
        post = gradients(twin, images, lambda s, r=rows, c=classes: s.softmax(1)[r, c])
        log_post = gradients(twin, images, lambda s, r=rows, c=classes: s.log_softmax(1)[r, c])
        winner = gradients(twin, images, lambda s: s.amax(1))
        every = gradients(twin, images, lambda s: s.sum(1))
        first = gradients(twin, images, lambda s, c=classes: s[:, c[0]])
        crossed = gradients(twin, images, lambda s, c=classes: s[:, c])
        want = gradient.abs().amax(1)
        got = as_tensor(call(net, images, classes), "saliency", (n, h, w), map_hints(n, h, w))
        mistakes = {
            "no absolute value: the largest signed gradient of the channels": gradient.amax(1),
            "the absolute value comes after the maximum: take it first": gradient.amax(1).abs(),
            "the mean over the channels is taken, not the largest": gradient.abs().mean(1),
            "the sum over the channels is taken, not the largest": gradient.abs().sum(1),
            "the channels are averaged with their signs: they cancel": gradient.mean(1),
            "the channels are summed with their signs: they cancel": gradient.sum(1),
            "the absolute value of the channels' sum: opposite signs cancel": gradient.sum(1).abs(),
            "the absolute value of the channels' mean: opposite signs cancel": gradient.mean(1).abs(),
            "the norm of the channels is taken (reduce='l2'), not the largest": gradient.norm(dim=1),
            "this is the gradient of the probability, after the softmax; the score before it is asked for": (
                post.abs().amax(1)
            ),
            "this is the gradient of the log-probability (a cross-entropy); the score is asked for": (
                log_post.abs().amax(1)
            ),
            "this is the gradient of the winning class; the class in `classes` is asked for": (
                winner.abs().amax(1)
            ),
            "this is the gradient of all scores together; that of one class is asked for": (
                every.abs().amax(1)
            ),
            "the first image's class was used for all; each image has its own": first.abs().amax(1),
            "scores[:, classes] picks all these classes for every image: scores[torch.arange(N), classes] "
            "picks one for each": crossed.abs().amax(1),
            "this is gradient × input; the gradient alone is asked for": (
                (gradient * images.double()).abs().amax(1)
            ),
        }
        if n > 1:
            only = torch.zeros_like(want)
            only[0] = want[0]
            mistakes["only the first image was done"] = only
            mistakes[f"divided by the {n} images: sum the scores, don't average them"] = want / n
        named_or_scaled(got, want, mistakes)
        no_parameter_gradients(net)


def _judge_slope(call: Caller, g: torch.Generator) -> None:
    for h, w, k, step in ((6, 8, 4, 0.5), (9, 7, 3, 0.25), (8, 8, 6, 1.0)):
        net, twin = small_net(g, k)
        image = torch.randn(1, 3, h, w, generator=g)
        c, channel = int(randint(g, 0, k)), int(randint(g, 0, 3))
        # rows and columns that are both inside when swapped
        i, j = int(randint(g, 0, 3)), 3 + int(randint(g, 0, 3))
        what = f"slope_at(model, image, {c}, {channel}, {i}, {j}, {step})"
        point = image.double()

        def at(offset: float, post: bool = False, place=(channel, i, j), x=point, net_=twin, c_=c) -> Tensor:
            x = x.clone()
            x[0, place[0], place[1], place[2]] += offset
            with torch.no_grad():
                s = net_(x)
                return (s.softmax(1) if post else s)[0, c_]

        want = (at(step) - at(-step)) / (2 * step)
        got = call(net, image, c, channel, i, j, step)
        if isinstance(got, Tensor) and tuple(got.shape) == (1, k):
            raise Wrong(f"expected one number, got {k}: the score of class c alone is asked for.")
        if isinstance(got, Tensor | np.ndarray) and np.prod(tuple(got.shape)) != 1:
            raise Wrong(f"expected one number, got {describe(got)}.")
        try:
            got = torch.tensor(float(got), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"expected one number, got {describe(got)}.") from None
        mistakes = {
            "this is the forward difference, (s(x + h) − s(x)) / h": (at(step) - at(0)) / step,
            "this is the backward difference, (s(x) − s(x − h)) / h": (at(0) - at(-step)) / step,
            "the two points are 2 h apart: divide by 2 h, not by h": 2 * want,
            "the difference is not divided by 2 h": want * 2 * step,
            "multiplied by h / 2: brackets are missing around 2 * h": want * 2 * step / 2 * step,
            "the sign is turned round: s(x + h) − s(x − h)": -want,
            "this is the slope of the probability; that of the score is asked for": (
                (at(step, True) - at(-step, True)) / (2 * step)
            ),
            "row and column are swapped: the image is [1, 3, H, W], i is the row": (
                (at(step, place=(channel, j, i)) - at(-step, place=(channel, j, i))) / (2 * step)
            ),
            "the second point is x, not x − h": (at(step) - at(0)) / (2 * step),
        }
        try:
            compare(got, want, mistakes, ())
        except Wrong as wrong:
            raise Wrong(f"{str(wrong)[:-1]} for {what}.") from None
        no_parameter_gradients(net)


def _judge_average_gradient(call: Caller, g: torch.Generator) -> None:
    for n, h, w, k, count in ((3, 7, 9, 5, 4), (1, 8, 6, 3, 3), (2, 6, 6, 4, 5)):
        net, twin = small_net(g, k)
        images = torch.randn(n, 3, h, w, generator=g)
        noises = torch.randn(count, n, 3, h, w, generator=g)
        rows, classes = torch.arange(n), randint(g, 0, k, (n,))

        def at(x: Tensor, net_=twin, r=rows, c=classes) -> Tensor:
            return gradients(net_, x, lambda s: s[r, c])

        x = images.double()
        each = torch.stack([at(x + noise.double()) for noise in noises])
        mean = each.mean(0)
        want = mean.abs().amax(1)
        probability = torch.stack(
            [gradients(twin, x + e.double(), lambda s, r=rows, c=classes: s.softmax(1)[r, c]) for e in noises]
        ).mean(0)
        got = as_tensor(
            call(net, images, classes, noises),
            "averaged gradients",
            (n, h, w),
            {(count, n, h, w): "the average over the noises is missing", **map_hints(n, h, w)},
        )
        mistakes = {
            "the absolute value is taken before the average: average the signed gradients first": (
                each.abs().mean(0).amax(1)
            ),
            "the maps are averaged: average the signed gradients first, then |·| and the maximum": (
                each.abs().amax(2).mean(0)
            ),
            f"the gradients of the {count} noises are summed: divide by their number": want * count,
            "this is the gradient at the image plus the mean noise: average gradients, not images": (
                at(x + noises.double().mean(0)).abs().amax(1)
            ),
            "only the first noise was used": each[0].abs().amax(1),
            "only the last noise was used": each[-1].abs().amax(1),
            "no noise was added": at(x).abs().amax(1),
            "this is the gradient at the noise alone: add it to the images": (
                torch.stack([at(noise.double()) for noise in noises]).mean(0).abs().amax(1)
            ),
            "no absolute value: the largest signed gradient of the channels": mean.amax(1),
            "the mean over the channels is taken, not the largest": mean.abs().mean(1),
            "the sum over the channels is taken, not the largest": mean.abs().sum(1),
            "this is the gradient of the probability; the score before the softmax is asked for": (
                probability.abs().amax(1)
            ),
        }
        if n > 1:
            mistakes[f"divided by the {n} images: sum the scores, don't average them"] = want / n
        named_or_scaled(got, want, mistakes)
        no_parameter_gradients(net)


EXERCISES = {
    "1a": Exercise(
        "saliency(model, images, classes)",
        "pick each image's own class score, ask torch.autograd.grad for its gradient with respect to the "
        "images, and take the largest absolute value of the channels.",
        "the saliency map agrees with the reference on every batch.",
        _judge_saliency,
    ),
    "1b": Exercise(
        "slope_at(model, image, c, channel, i, j, h)",
        "move one pixel of a copy by +h and of another by −h; divide the scores' difference by 2 h.",
        "the central difference agrees with the reference at every pixel tried.",
        _judge_slope,
    ),
    "1c": Exercise(
        "average_gradient(model, images, classes, noises)",
        "take the gradient at images + noise for each noise, average, then |·| and the largest channel.",
        "the averaged gradient agrees with the reference on every batch.",
        _judge_average_gradient,
    ),
}
