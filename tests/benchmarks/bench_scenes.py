"""Scenes drawn in a second, at the size that PetNet takes."""

from collections.abc import Iterator

from lecture7_utils.shop.scenes import draw_scenes
from tests.benchmarks.measure import Row, rate

COUNT = 1024
CASES = {"one animal": {}, "one to three animals": {"animals": (1, 3)}}


def rows() -> Iterator[Row]:
    """At least 1,000 scenes a second on 2 CPU cores."""
    for name, options in CASES.items():
        yield from rate(
            "draw_scenes",
            f"96 × 96, {name}",
            lambda options=options: draw_scenes(range(COUNT), seed=9, **options),
            COUNT,
            "scenes/s",
            at_least=1000,
        )
