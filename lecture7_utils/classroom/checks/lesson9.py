"""The exercises of lesson 9, the manager's report."""

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.classroom.checks.judging import (
    Caller,
    Exercise,
    NotYet,
    Wrong,
    as_tensor,
    compare,
    randint,
    small_net,
)
from lecture7_utils.kernels.arguments import describe
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.scenes import SPECIES, draw_scenes

_FRESH, _SEED = 100, 9009  # photos on which an offer is tried, of a world that nobody trained on


class _Offer:
    """The network that the learner decided for; takes the place of `Caller`."""

    def __init__(self, answer: object, signature: str):
        if answer is None or answer is Ellipsis:
            raise NotYet
        if not isinstance(answer, Classifier):
            raise Wrong(f"expected one of the two networks itself, {signature}, got {describe(answer)}.")
        self.net = answer


def _judge_offer(offer: _Offer, g: torch.Generator) -> None:
    net = offer.net
    indices, species = list(range(_FRESH)), len(SPECIES)
    try:
        known = torch.tensor([net.index(name) for name in SPECIES])
    except ValueError as error:
        raise Wrong(f"this network doesn't know the shop's animals: {error}.") from None
    shop = draw_scenes(indices, seed=_SEED, tag_follows_species=1.0)
    other = (shop.labels + randint(g, 1, species, (_FRESH,))) % species
    scenes = (shop, draw_scenes(indices, seed=_SEED, tag=other))
    with evaluation(net, net.device), torch.no_grad():
        as_it_is, swapped = (
            net(torch.cat([net.preprocess(image) for image in batch.images])).argmax(1).cpu()
            for batch in scenes
        )
    right = as_it_is == known[shop.labels]
    if right.sum() < 0.9 * _FRESH:
        raise Wrong(
            f"this network is right on {int(right.sum())} of {_FRESH} fresh photos: it is neither of the two "
            "offers, which are right on almost all."
        )
    changed = right & (as_it_is != swapped)
    if changed.sum() > 0.25 * _FRESH:
        raise Wrong(
            f"{_FRESH} fresh photos, each once more with the tag of another species and all else as it was: "
            f"this network changes {int(changed.sum())} of its {int(right.sum())} right answers. Which "
            "methods tell the two offers apart on almost every photo, and what do their maps lie on?"
        )


def _judge_share_on(call: Caller, g: torch.Generator) -> None:
    for n, h, w in ((4, 5, 7), (1, 6, 6), (3, 8, 4)):
        maps = torch.randn(n, h, w, generator=g) + 0.3  # of either sign
        masks = torch.rand(n, h, w, generator=g) < 0.35
        m, inside = maps.double(), masks.double()
        mass = m.clamp(min=0)

        def total(values: Tensor) -> Tensor:
            return values.sum((1, 2))

        want = total(mass * inside) / total(mass)
        hints = {
            (h, w): "one value a pixel; one for each map is asked for",
            (n, h, w): "one value a pixel; one for each map is asked for",
            (n, h): "summed over the columns only; rows and columns both have to go",
            (n, w): "summed over the rows only; rows and columns both have to go",
            (): "one number for all maps together; one for each is asked for",
            (n, 1): "without the last dimension, so no keepdim",
            (n, 1, 1): "without the last two dimensions, so no keepdim",
        }
        got = as_tensor(call(maps, masks), "shares", (n,), {k: v for k, v in hints.items() if k != (n,)})
        ones = torch.ones(n, dtype=torch.float64)
        mistakes = {
            "negative values are counted with their sign: only the positive part is the map's mass": (
                total(m * inside) / total(m)
            ),
            "negative values are left out above the fraction line, but not below it": (
                total(mass * inside) / total(m)
            ),
            "negative values are left out below the fraction line, but not above it": (
                total(m * inside) / total(mass)
            ),
            "absolute values are taken: what speaks against the class counts as if it spoke for it": (
                total(m.abs() * inside) / total(m.abs())
            ),
            "this is the share outside the mask": 1 - want,
            "this is the ratio of inside to outside; divide by the whole map's sum": want / (1 - want),
            "the sum inside is not divided by the whole map's sum": total(mass * inside),
            "the sum inside is divided by the pixels of the mask, not by the whole map's sum": (
                total(mass * inside) / total(inside)
            ),
            "the sum inside is divided by the map's maximum, not by its sum": (
                total(mass * inside) / mass.amax((1, 2))
            ),
            "the mean inside is divided by the mean of the map: take sums": want / inside.mean((1, 2)),
            "this is the mask's share of the picture; the map isn't used": inside.mean((1, 2)),
            "pixels are counted: their values have to be summed": (
                total((m > 0) * inside) / total((m > 0).double())
            ),
            "this is the share of the mask that is above 0; the share of the map inside is asked for": (
                total((m > 0) * inside) / total(inside)
            ),
            "these are per cent; a share is from 0 to 1": 100 * want,
            "all maps are summed together; each has its own share": ones * (mass * inside).sum() / mass.sum(),
            "the sum inside each mask is divided by that of all maps together": (
                total(mass * inside) / mass.sum()
            ),
        }
        compare(got, want, mistakes, ("map",))


def _telling_photos(shape: tuple[int, ...], classes: int, g: torch.Generator) -> tuple:
    """A network, images, changed ones, and the scores of both, for which wrong answers give other numbers.

    Near a third of the answers turn, the first and the last among them; the photo with the highest score of
    all is not changed, and keeps that: argmax without a dimension sees nothing.
    """
    while True:  # a network that answers the same to everything is drawn anew, too
        net, twin = small_net(g, classes)
        images, change = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
        with torch.no_grad():
            s = twin(images.double())
            change[s.amax(1).argmax()] = 0
            for factor in (0.1, 0.2, 0.4, 0.7, 1.0, 1.5):
                changed = images + factor * change
                t = twin(changed.double())
                turned = s.argmax(1) != t.argmax(1)
                telling = turned[0] and turned[-1] and s.argmax() == t.argmax()
                if telling and 0.2 < turned.double().mean() < 0.5:
                    return net, images, changed, s, t


def _judge_answers_changed(call: Caller, g: torch.Generator) -> None:
    for n, h, w, k in ((11, 6, 7, 4), (17, 8, 5, 5), (13, 6, 6, 6)):
        net, images, changed, s, t = _telling_photos((n, 3, h, w), k, g)
        flags = s.argmax(1) != t.argmax(1)
        want = flags.double().mean()
        got = call(net, images, changed)
        if isinstance(got, Tensor | np.ndarray) and np.prod(tuple(got.shape)) != 1:
            each = ": one value a photo; their mean is asked for" if tuple(got.shape) == (n,) else ""
            raise Wrong(f"expected one number, got {describe(got)}{each}.")
        try:
            got = torch.tensor(float(got), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"expected one number, got {describe(got)}.") from None
        p, q = s.softmax(1), t.softmax(1)
        own = s.argmax(1)
        rows = torch.arange(n)
        mistakes = {
            "the highest score of all photos together is compared; take that of each photo, dim=1": (
                (s.argmax() != t.argmax()).double()
            ),
            "this is the share of the answers that stay": 1 - want,
            f"this is their number; a share of the {n} photos is asked for": flags.double().sum(),
            "these are per cent; a share is from 0 to 1": 100 * want,
            "this is the share of photos whose scores change; the answer is the highest class": (
                (s != t).any(1).double().mean()
            ),
            "the highest photo of each class is compared; take the highest class of each photo, dim=1": (
                (s.argmax(0) != t.argmax(0)).double().mean()
            ),
            "the mean change of the scores; the answer is the highest class": (s - t).abs().mean(),
            "the mean change of the probabilities; the answer is the highest class": (p - q).abs().mean(),
            "the mean loss of the first answer's probability; count the answers that change": (
                (p[rows, own] - q[rows, own]).mean()
            ),
            "only the first or the last photo was compared, not each of them": flags[:1].double().mean(),
            "the lowest class of each photo is compared; the answer is the highest": (
                (s.argmin(1) != t.argmin(1)).double().mean()
            ),
        }
        try:
            compare(got, want, mistakes, ())
        except Wrong as wrong:
            raise Wrong(f"{str(wrong)[:-1]} for {n} photos.") from None


EXERCISES = {
    "9a": Exercise(
        "offers['A'] or offers['B']",
        "set my_choice to offers['A'] or offers['B'], and be ready to say on which numbers you rely.",
        "on 100 fresh photos it keeps its answers when another species' tag hangs there: it may be bought.",
        _judge_offer,
        _Offer,
    ),
    "9b": Exercise(
        "share_on(maps, masks)",
        "set what is below 0 to 0; divide the sum inside each mask by the sum of its whole map.",
        "every map's share agrees with the reference.",
        _judge_share_on,
    ),
    "9c": Exercise(
        "answers_changed(model, images, swapped)",
        "the answer is the class with the highest score; compare it photo by photo, and take the mean.",
        "the share of changed answers agrees with the reference on every batch.",
        _judge_answers_changed,
    ),
}
