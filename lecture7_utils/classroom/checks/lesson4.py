"""The exercises of lesson 4, gradient ascent."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    Wrong,
    as_tensor,
    compare,
    gradients,
    no_parameter_gradients,
    randint,
    small_net,
)


def _judge_step(call: Caller, g: torch.Generator) -> None:
    for n, h, w, k, rate, l2 in ((4, 5, 6, 5, 8.0, 0.05), (1, 6, 4, 3, 5.0, 0.03), (2, 5, 5, 6, 10.0, 0.08)):
        net, twin = small_net(g, k)
        images = torch.randn(n, 3, h, w, generator=g)
        x, rows = images.double(), torch.arange(n)
        with torch.no_grad():
            best = twin(x).argmax(1)
        # a class that does not win on the first image, so that a gradient of the winner is found out
        c = int((best[0] + randint(g, 1, k)) % k)
        score = gradients(twin, images, lambda s, c=c: s[:, c])
        probability = gradients(twin, images, lambda s, c=c: s.softmax(1)[:, c])
        log_probability = gradients(twin, images, lambda s, c=c: s.log_softmax(1)[:, c])
        winner = gradients(twin, images, lambda s, r=rows, b=best: s[r, b])
        every = gradients(twin, images, lambda s: s.sum(1))
        norm = x.flatten(1).norm(dim=1).view(n, 1, 1, 1)
        count = 3 * h * w

        def moved(gradient: Tensor, x_=x, rate_=rate) -> Tensor:
            return x_ + rate_ * gradient

        penalty = 2 * l2 * x
        want = moved(score - penalty)
        hints = {
            (3, h, w): "the batch dimension is missing; images come as [N, 3, H, W]",
            (n,): "this is the objective of each image; the changed images are asked for",
            (): "this is one number; the changed images are asked for",
            (n, h, w): "all three channels are asked for",
        }
        if n > 1:
            hints[(1, 3, h, w)] = "only one image was done; all of the batch are asked for"
        answer = call(net, images, c, rate, l2)
        got = as_tensor(answer, "images", (n, 3, h, w), hints)
        mistakes = {
            "this goes downhill: the gradient is added, not taken off": x - rate * (score - penalty),
            "the penalty is missing from L": moved(score),
            "the penalty is added to the score; it is taken off": moved(score + penalty),
            "the derivative of ‖x‖² is 2 x, not x": moved(score - penalty / 2),
            "the norm is not squared: L has ‖x‖²": moved(score - l2 * x / norm),
            "the mean of the squares is taken; ‖x‖² is their sum": moved(score - penalty / count),
            "the mean of the squares is taken, over all images; ‖x‖² is the sum, image by image": (
                moved(score - penalty / (count * n))
            ),
            "the norm is that of the whole batch, and not squared": moved(score - l2 * x / x.norm()),
            "the absolute values are penalised, not the squares": moved(score - l2 * x.sign()),
            "this climbs the probability; the score before the softmax is asked for": (
                moved(probability - penalty)
            ),
            "this climbs the log-probability (a cross-entropy); the score is asked for": (
                moved(log_probability - penalty)
            ),
            f"this climbs the winning class; class {c} is asked for": moved(winner - penalty),
            "this climbs the sum of all scores; that of one class is asked for": moved(every - penalty),
            "this is the step alone: add it to the images": moved(score - penalty) - x,
            "this is the gradient alone: the images plus rate times the gradient are asked for": (
                score - penalty
            ),
            "the rate is missing": x + score - penalty,
            "the gradient is divided by the rate; multiply": x + (score - penalty) / rate,
            "only the sign of the gradient is used": moved((score - penalty).sign()),
            "the images come back as they were": x,
        }
        if n > 1:
            mistakes |= {
                f"divided by the {n} images: sum the objectives, don't average them": (
                    moved((score - penalty) / n)
                ),
                f"the scores are divided by the {n} images: sum them": moved(score / n - penalty),
                "only the first image was moved": torch.cat([want[:1], x[1:]]),
            }
        compare(got, want, mistakes, ("image", "channel", "row", "column"))
        no_parameter_gradients(net)
        if isinstance(answer, Tensor) and answer.requires_grad:
            raise Wrong(
                "the values are right, but the result still hangs on the graph of this step: give back "
                "`.detach()`, so that the next step starts afresh."
            )


def _judge_variation(call: Caller, g: torch.Generator) -> None:
    for n, h, w, beta in ((3, 5, 7, 1.5), (1, 6, 4, 1.0), (4, 4, 4, 2.0)):
        images = torch.rand(n, 3, h, w, generator=g)
        x = images.double()
        down, right = F.pad(x.diff(dim=2), (0, 0, 0, 1)), F.pad(x.diff(dim=3), (0, 1))

        def total(values: Tensor) -> Tensor:
            return values.sum((1, 2, 3))

        def of(down: Tensor, right: Tensor, beta: float = beta) -> Tensor:
            return total((down**2 + right**2) ** (beta / 2))

        want, nothing = of(down, right), torch.zeros_like(x)
        grey = x.mean(1, keepdim=True)
        hints = {
            (): "one number for the whole batch; one for each image is asked for",
            (1,): "one number for the whole batch; one for each image is asked for",
            (n, 3): "the channels are not summed yet",
            (n, 1, 1, 1): "without the other dimensions, so no keepdim",
            (n, 3, h, w): "the places are not summed yet",
            (n, 3, h - 1, w - 1): "the places are not summed yet",
        }
        if n == 1:
            del hints[(1,)]
        got = as_tensor(call(images, beta), "the total variation of each image", (n,), hints)
        mistakes = {
            "only neighbours in a row are compared; those in a column count too": of(nothing, right),
            "only neighbours in a column are compared; those in a row count too": of(down, nothing),
            "the exponent is left out: raise the sum of the two squares of each place to beta / 2": (
                of(down, right, 2)
            ),
            "each difference is raised to beta by itself: sum the two squares of a place first": (
                total(down.abs() ** beta) + total(right.abs() ** beta)
            ),
            "the exponent is beta; the squares are there already, so it is beta / 2": (
                of(down, right, 2 * beta)
            ),
            "the power is taken of the sum over all places: take it at each place, then sum": (
                total(down**2 + right**2) ** (beta / 2)
            ),
            "the differences are summed with their signs: square them first": total(down) + total(right),
            "the root is taken of the sum; leave it as it is": want.sqrt(),
            "the mean is taken; the sum is asked for": want / (3 * h * w),
            "the first and the last row and column are compared too: images don't wrap around": (
                of(x - x.roll(-1, 2), x - x.roll(-1, 3))
            ),
            "the last row and the last column are left out: one of their two differences is there": (
                of(down[:, :, :-1, :-1], right[:, :, :-1, :-1])
            ),
            "differences of different places are paired: x[i, j] with x[i + 1, j] and with x[i, j + 1]": (
                of(down.roll(1, 2), right.roll(1, 3))
            ),
            "each pair is counted twice": 2 * want,
            "the channels are averaged; sum over them": want / 3,
            "the channels are averaged before the differences: take each on its own": of(
                F.pad(grey.diff(dim=2), (0, 0, 0, 1)), F.pad(grey.diff(dim=3), (0, 1))
            ),
            "the channels are summed before the power: take each on its own": (
                ((down**2 + right**2).sum(1) ** (beta / 2)).sum((1, 2))
            ),
            "the absolute differences are summed: square them, and raise their sum to beta / 2": (
                total(down.abs() + right.abs())
            ),
            "pixels two apart are compared; neighbours are next to each other": of(
                F.pad(x[:, :, 2:] - x[:, :, :-2], (0, 0, 0, 2)), F.pad(x[..., 2:] - x[..., :-2], (0, 2))
            ),
            "the square of the sum is taken; sum the squares": total(down) ** 2 + total(right) ** 2,
            "the squares of the pixels are summed; their differences are asked for": total(x**2),
        }
        if n > 1:
            mistakes["every image has the sum of the whole batch"] = want.sum().expand(n)
            mistakes["only the first image was done"] = torch.cat([want[:1], torch.zeros(n - 1).double()])
        compare(got, want, mistakes, ("image",))


def _judge_one_each(call: Caller, g: torch.Generator) -> None:
    for n, k, h, w in ((4, 7, 3, 5), (1, 5, 4, 2), (3, 3, 6, 4)):
        features = torch.randn(n, k, h, w, generator=g)
        # neither all alike nor in order, and not the last: one too many is still a channel
        channels = (torch.arange(n) * 2 + 1) % (k - 1)
        f, rows = features.double(), torch.arange(n)
        chosen = f[rows, channels]
        want = chosen.mean((1, 2))
        hints = {
            (n, n): "every image has every channel; image n has channel channels[n] only",
            (n, n, h, w): "every image has every channel; image n has channel channels[n] only",
            (n, h, w): "the places are not averaged yet",
            (n, k): "every channel is here; one for each image is asked for",
            (n, 1): "without the channel dimension, so no keepdim",
            (): "one number for the whole batch; one for each image is asked for",
        }
        if n == 1:
            hints = {key: text for key, text in hints.items() if key not in ((1, 1), (1, 1, h, w))}
        got = as_tensor(call(features, channels), "one value for each image", (n,), hints)
        mistakes = {
            "the places are summed; take their mean": chosen.sum((1, 2)),
            "the largest place is taken; the mean of the channel is asked for": chosen.amax((1, 2)),
            "only the middle is read; the mean of the channel is asked for": chosen[:, h // 2, w // 2],
            "only the first place is read; the mean of the channel is asked for": chosen[:, 0, 0],
            "the first image's channel is read for all; each image has its own": (
                f[:, int(channels[0])].mean((1, 2))
            ),
            "channel n is read for image n; its channel is channels[n]": f[rows, rows % k].mean((1, 2)),
            "channels count from 0: this is the one after": f[rows, channels + 1].mean((1, 2)),
            "all channels are averaged": f.mean((1, 2, 3)),
            "negative places are set to 0 first: take the channel as it is": (
                chosen.clamp(min=0).mean((1, 2))
            ),
        }
        if n > 1:
            mistakes["the channels are right, the images are not: image 0 is read each time"] = f[
                0, channels
            ].mean((1, 2))
            mistakes["the values of all images are averaged; give one for each"] = want.mean().expand(n)
            mistakes["the channels of all images are averaged; image n has channel channels[n] only"] = f[
                :, channels
            ].mean((1, 2, 3))
        compare(got, want, mistakes, ("image",))


EXERCISES = {
    "4a": Exercise(
        "ascent_step(model, x, c, rate, l2)",
        "compute L = score of class c − l2 · ‖x‖² for each image, ask torch.autograd.grad for dL/dx, and "
        "give back x + rate · dL/dx.",
        "every image takes the right step uphill.",
        _judge_step,
    ),
    "4b": Exercise(
        "total_variation(x, beta)",
        "at each place add the squares of the step down and of the step to the right (0 beyond the border), "
        "raise this to beta / 2, and sum over places and channels.",
        "the total variation agrees with the reference for every beta.",
        _judge_variation,
    ),
    "4c": Exercise(
        "one_each(features, channels)",
        "pick channel channels[n] of image n, for all n at once, and take its mean over the places.",
        "each image climbs a unit of its own.",
        _judge_one_each,
    ),
}
