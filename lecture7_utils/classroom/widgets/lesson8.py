"""The explorer of lesson 8: a walk from one vector to another, and what a generator draws on the way."""

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lecture7_utils.classroom.plots import picture
from lecture7_utils.classroom.widgets.pieces import (
    WIDE,
    Explorer,
    as_jpeg,
    panels,
    paragraph,
    percent,
    predictions_of,
    scores_of,
    table_html,
)
from lecture7_utils.kernels.arguments import describe, require_int
from lecture7_utils.shop.decoders import Generator, latents, walk
from lecture7_utils.shop.models import Classifier

WAYS = {"great circle": True, "straight line": False}
STOPS = 40  # the walk's pictures; t moves in steps of 1 / 40
LARGE, SMALL, GAP = 248, 76, 12  # pixels that a picture is wide
_EVERY = 5  # each fifth stop is shown in the strip


def explore_latent_walk(
    generator: Generator, net: Classifier | None = None, *, vectors: int = 100, seed: int = 0
) -> Explorer:
    """Lesson 8: go from one random vector to another, and see what the generator makes of each.

    generator: as `load_generator` gives it, or your own. net: who says what is in the picture; None for
    nobody. vectors: how many there are to choose the two ends from, `latents(vectors, seed)`.
    Choose the numbers of both ends, the species at either end, how far to go (t from 0 to 1), and whether
    the way is the great circle of `walk` or the straight line. Above: the start, the place reached and the
    end; below: nine places of the way. The readout gives the vector's length and what the network says.
    Between two species the one-hot vector goes the straight way: t of the one, 1 - t of the other. The
    generator met no such mixture in its training.
    controls: "start", "end", "species", "species at the end", "t", "way", "reset". Returns the root widget.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(generator, Generator):
        raise TypeError(
            f"generator: expected a Generator, as load_generator gives it, got {describe(generator)}"
        )
    if net is not None and not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
    require_int(vectors, "vectors", 2)
    require_int(seed, "seed", 0)
    drawn = latents(vectors, seed, latent=generator.latent)
    species = list(enumerate(generator.categories))

    def slider(name: str, value: int) -> widgets.IntSlider:
        return widgets.IntSlider(value=value, min=0, max=vectors - 1, description=name, style=WIDE)

    def dropdown(name: str) -> widgets.Dropdown:
        options = [(text, i) for i, text in species]
        return widgets.Dropdown(options=options, value=0, description=name, style=WIDE)

    controls = {
        "start": slider("start: vector", 0),
        "end": slider("end: vector", 1),
        "species": dropdown("species"),
        "species at the end": dropdown("species at the end"),
        "t": widgets.SelectionSlider(
            options=[(f"{i / STOPS:.3g}", i) for i in range(STOPS + 1)],
            value=STOPS // 2,
            description="how far: t",
            style=WIDE,
        ),
        "way": widgets.Dropdown(options=list(WAYS), description="way", style=WIDE),
    }
    for control in controls.values():
        control.layout.width = "100%"

    kept: dict[tuple, tuple[Tensor, np.ndarray]] = {}

    def walked() -> tuple[Tensor, np.ndarray]:
        """The vectors [STOPS + 1, latent] and pictures uint8 [STOPS + 1, S, S, 3] of the present walk."""
        key = tuple(controls[n].value for n in ("start", "end", "species", "species at the end", "way"))
        if key not in kept:
            kept.clear()  # one walk is enough: going along it moves t only
            kept[key] = _pictures(generator, drawn[key[0]], drawn[key[1]], key[2], key[3], WAYS[key[4]])
        return kept[key]

    def follow(name: str) -> None:
        if name == "species":  # the end goes with it, until another one is chosen there
            controls["species at the end"].value = controls["species"].value

    def draw() -> tuple[bytes, str]:
        z, pictures = walked()
        at = controls["t"].value
        sheet = _sheet(pictures, at, controls["start"].value, controls["end"].value)
        length = z[at].norm().item()
        ends = f"start {z[0].norm():.2f}, end {z[-1].norm():.2f}"
        usual = f"random vectors of {generator.latent} numbers: about {generator.latent**0.5:.1f}"
        text = paragraph(
            f"length of the vector at t = {at / STOPS:.3g}: <b>{length:.2f}</b> ({ends}; {usual})"
        )
        if net is not None:
            images = net.preprocess(Image.fromarray(pictures[at]))
            best = predictions_of(net, scores_of(net, images)[0], 3)
            rows = [(p.category, percent(p.probability)) for p in best]
            text += table_html(("the network says", "probability"), *rows)
        return as_jpeg(sheet), text

    return Explorer(controls, draw, follow=follow)


@torch.no_grad()
def _pictures(
    generator: Generator, start: Tensor, end: Tensor, first: int, last: int, circle: bool
) -> tuple[Tensor, np.ndarray]:
    """Each stop's vector, and its picture as uint8."""
    t = torch.linspace(0, 1, STOPS + 1)[:, None]
    z = walk(start, end, STOPS + 1) if circle else (1 - t) * start + t * end
    shares = torch.zeros(STOPS + 1, len(generator.categories))
    shares[:, first] += 1 - t[:, 0]
    shares[:, last] += t[:, 0]
    weight = next(generator.parameters())
    flags = [(module, module.training) for module in generator.modules()]
    try:
        generator.eval()
        made = generator(z.to(weight), shares.to(weight))
    finally:
        for module, flag in flags:
            module.training = flag
    return z, np.stack([picture(image) for image in made.float().cpu()])


def _sheet(pictures: np.ndarray, at: int, start: int, end: int) -> Image.Image:
    """Start, the place reached and end, and under them places of the way; the nearest one has a frame."""
    large = panels(
        [
            (f"start: vector {start}", pictures[0]),
            (f"t = {at / STOPS:.3g}", pictures[at]),
            (f"end: vector {end}", pictures[-1]),
        ],
        LARGE,
    )
    stops = list(range(0, STOPS + 1, _EVERY))
    strip = panels([(f"{stop / STOPS:.3g}", pictures[stop]) for stop in stops], SMALL)
    sheet = Image.new("RGB", (max(large.width, strip.width), large.height + GAP + strip.height), "white")
    sheet.paste(large, (0, 0))
    sheet.paste(strip, (0, large.height + GAP))
    left = round(at / _EVERY) * (SMALL + GAP)
    pen, top = ImageDraw.Draw(sheet), sheet.height - SMALL
    for inset, colour in ((0, "white"), (1, "black"), (2, "black"), (3, "white")):
        pen.rectangle(
            (left + inset, top + inset, left + SMALL - 1 - inset, sheet.height - 1 - inset), outline=colour
        )
    return sheet
