"""The shop's eight animals: each a table of parts, with its colours and its coats."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One painted part. Lengths are in units of about the animal's height, y up, ground at 0, facing +x.

    kind: "ellipse" (centre x, centre y, radius x, radius y, degrees) or "leaf" (foot x, foot y, tip x,
    tip y, width), a shape pointed at both ends.
    rest, other: the geometry in the two poses; what is in between is in between.
    colour: a key of the animal's colours. head: whether it moves with the head, and is given relative to
    its centre. depth: how far it shifts sideways when the head turns. solid: whether it is outline, and so
    part of the mask. volume: strength of the rounding shade. under: strength of the shadow it casts on the
    parts beneath. within: the part that clips it. cut: an ellipse taken away. soft: width of its edge.
    coat: whether it has the animal's pattern and hair. chance: the share of animals that have it; parts of
    one `group` come and go together.
    """

    name: str
    colour: str
    kind: str
    rest: tuple
    other: tuple
    head: bool = False
    depth: float = 0.0
    solid: bool = True
    volume: float = 0.0
    under: float = 0.0
    within: str = ""
    cut: tuple = ()
    soft: float = 0.0
    coat: bool = False
    chance: float = 1.0
    group: str = ""
    opacity: float = 1.0


def _body(name, colour, rest, other=None, kind="ellipse", **options) -> Part:
    """A solid, rounded part with the animal's coat."""
    given = {"volume": 1.0, "under": 0.22, "coat": True, **options}
    return Part(name, colour, kind, rest, other or rest, **given)


def _mark(name, colour, rest, other=None, kind="ellipse", **options) -> Part:
    """A flat part on top of others."""
    return Part(name, colour, kind, rest, other or rest, **{"solid": False, **options})


def _eyes(
    x: float, y: float, rx: float, ry: float, depth: float, iris: str = "", pupil: float = 0.62
) -> list:
    """Two eyes, each with a glint; with an iris where a colour for it is named."""
    parts = []
    for side, at in (("left", -x), ("right", x)):
        options = {"head": True, "depth": depth}
        parts.append(_mark(f"{side} eye", "dark", (at, y, rx, ry), **options))
        if iris:
            parts.append(_mark(f"{side} iris", iris, (at, y, rx * 0.84, ry * 0.84), **options))
            parts.append(_mark(f"{side} pupil", "dark", (at, y, rx * pupil * 0.8, ry * 0.72), **options))
        parts.append(
            _mark(f"{side} glint", "glint", (at + 0.3 * rx, y + 0.36 * ry, rx * 0.3, ry * 0.3), **options)
        )
    return parts


@dataclass(frozen=True)
class Rig:
    """A species: its parts in painting order, where its head sits in both poses, its colours and coat."""

    head: tuple[tuple, tuple]
    parts: tuple[Part, ...]
    palettes: tuple[dict, ...]
    hair: float = 0.009  # raggedness of the outline, in the animal's units
    patterns: tuple[str, ...] = ("plain",)
    turn: tuple[float, float] = (-0.3, 0.7)  # how far the head looks to the front (0) or ahead (1)
    tilt: float = 6.0  # degrees the whole animal may lean
    nod: float = 9.0  # degrees the head may lean
    plump: tuple[float, float] = (0.92, 1.1)
    big_head: tuple[float, float] = (0.94, 1.08)


def _fur(*rows: str) -> tuple[dict, ...]:
    """Palettes from rows "fur mark belly" of hexadecimal colours."""
    return tuple(dict(zip(("fur", "mark", "belly"), row.split(), strict=True)) for row in rows)


COMMON = {
    "dark": "2a211d",
    "glint": "ffffff",
    "pink": "e8a09a",
    "blush": "edc3b4",
    "nose": "4a3530",
    "white": "fdf6ea",
}

_CAT = Rig(
    head=((0.07, 0.72), (0.33, 0.43)),
    parts=(
        _body(
            "tail",
            "fur",
            (-0.26, 0.11, 0.25, 0.15, 20),
            (-0.44, 0.15, 0.24, 0.15, 25),
            cut=(-0.20, 0.20, 0.22, 0.13, 25),
        ),
        _body("body", "fur", (-0.03, 0.31, 0.22, 0.31), (-0.10, 0.20, 0.42, 0.20), under=0.3),
        _mark("chest", "belly", (0.08, 0.36, 0.12, 0.22), (0.26, 0.20, 0.13, 0.13), soft=0.07, within="body"),
        _body("haunch", "fur", (-0.13, 0.17, 0.19, 0.17), (-0.32, 0.17, 0.21, 0.17), under=0.18),
        _body("hind paw", "fur", (-0.07, 0.045, 0.13, 0.05), (-0.20, 0.045, 0.15, 0.05)),
        _body("far leg", "fur", (0.05, 0.18, 0.06, 0.17), (0.26, 0.07, 0.17, 0.055)),
        _body("near leg", "fur", (0.16, 0.18, 0.065, 0.18), (0.34, 0.05, 0.20, 0.06)),
        _body("far paw", "belly", (0.07, 0.04, 0.08, 0.042), (0.44, 0.06, 0.07, 0.04), coat=False),
        _body("near paw", "belly", (0.19, 0.04, 0.09, 0.045), (0.52, 0.045, 0.08, 0.045), coat=False),
        _body(
            "left ear",
            "fur",
            (-0.13, 0.02, -0.215, 0.34, 0.21),
            kind="leaf",
            head=True,
            depth=-0.02,
            volume=0.6,
        ),
        _body(
            "right ear",
            "fur",
            (0.13, 0.02, 0.215, 0.34, 0.21),
            kind="leaf",
            head=True,
            depth=-0.02,
            volume=0.6,
        ),
        _mark("left inner", "pink", (-0.14, 0.08, -0.20, 0.29, 0.11), kind="leaf", head=True, depth=-0.01),
        _mark("right inner", "pink", (0.14, 0.08, 0.20, 0.29, 0.11), kind="leaf", head=True, depth=-0.01),
        _body("skull", "fur", (0, 0.0, 0.24, 0.20), head=True, under=0.4),
        _body("cheeks", "fur", (0, -0.06, 0.265, 0.145), head=True, under=0.0, volume=0.7),
        _mark("brow", "mark", (0.0, 0.14, 0.022, 0.06), head=True, depth=0.05, opacity=0.75),
        _mark("brow left", "mark", (-0.06, 0.135, 0.018, 0.05, -14), head=True, depth=0.05, opacity=0.75),
        _mark("brow right", "mark", (0.06, 0.135, 0.018, 0.05, 14), head=True, depth=0.05, opacity=0.75),
        *_eyes(0.105, 0.02, 0.056, 0.06, 0.05, "iris", pupil=0.36),
        _mark("muzzle left", "belly", (-0.045, -0.105, 0.065, 0.055), head=True, depth=0.09, soft=0.02),
        _mark("muzzle right", "belly", (0.045, -0.105, 0.065, 0.055), head=True, depth=0.09, soft=0.02),
        _mark(
            "smile", "nose", (0, -0.115, 0.055, 0.035), head=True, depth=0.10, cut=(0, -0.095, 0.075, 0.036)
        ),
        _mark("nose", "pink", (0, -0.065, 0.034, 0.024), head=True, depth=0.11),
    ),
    palettes=tuple(
        {**coat, "iris": iris}
        for coat in _fur(
            "e09a50 8f4f1e fbe8cb",
            "a3886c 4f3a2a ece0cc",
            "a7adb3 4c5258 f1f2f3",
            "ecd9b4 b07c42 fff6e4",
            "6b5648 2f231d d8c6b2",
            "f4ead8 b5713a fffaf0",
            "c28a58 5f3518 f4e2c8",
        )
        for iris in ("9ac24a", "e9b33a", "6fb3c9")
    ),
    patterns=("stripes",),
)

_DOG = Rig(
    head=((0.10, 0.73), (0.33, 0.44)),
    parts=(
        _body("tail", "fur", (-0.16, 0.10, -0.44, 0.44, 0.14), (-0.44, 0.18, -0.70, 0.40, 0.13), kind="leaf"),
        _body("body", "fur", (-0.03, 0.32, 0.24, 0.32), (-0.12, 0.21, 0.43, 0.20), under=0.3),
        _mark("chest", "belly", (0.09, 0.36, 0.13, 0.22), (0.26, 0.20, 0.13, 0.14), soft=0.07, within="body"),
        _body("haunch", "fur", (-0.14, 0.18, 0.21, 0.18), (-0.34, 0.18, 0.22, 0.175), under=0.18),
        _body("hind paw", "fur", (-0.08, 0.05, 0.15, 0.055), (-0.20, 0.05, 0.16, 0.055)),
        _body("far leg", "fur", (0.05, 0.18, 0.07, 0.17), (0.26, 0.075, 0.18, 0.06)),
        _body("near leg", "fur", (0.17, 0.19, 0.075, 0.19), (0.36, 0.055, 0.21, 0.065)),
        _body("far paw", "belly", (0.08, 0.045, 0.095, 0.047), (0.46, 0.065, 0.08, 0.045), coat=False),
        _body("near paw", "belly", (0.21, 0.045, 0.105, 0.05), (0.55, 0.05, 0.09, 0.05), coat=False),
        _mark("collar", "collar", (0.07, 0.535, 0.19, 0.05, 4), (0.28, 0.265, 0.16, 0.05, 4), volume=0.6),
        _body("skull", "fur", (0, 0.02, 0.215, 0.205), head=True, under=0.4),
        _mark(
            "eye patch",
            "mark",
            (0.10, 0.06, 0.095, 0.12),
            head=True,
            depth=0.03,
            soft=0.02,
            within="skull",
            chance=0.5,
        ),
        _mark("blaze", "belly", (0, 0.08, 0.05, 0.16), head=True, depth=0.06, soft=0.03, within="skull"),
        _body("muzzle", "belly", (0, -0.10, 0.145, 0.12), head=True, depth=0.10, under=0.25, coat=False),
        _mark(
            "tongue",
            "tongue",
            (0.0, -0.19, 0.042, 0.075),
            head=True,
            depth=0.10,
            chance=0.6,
            solid=True,
            group="tongue",
        ),
        _mark("smile", "nose", (0, -0.13, 0.085, 0.055), head=True, depth=0.11, cut=(0, -0.105, 0.11, 0.058)),
        _mark("nose", "dark", (0, -0.035, 0.062, 0.045), head=True, depth=0.14),
        _mark("nose glint", "glint", (0.012, -0.02, 0.02, 0.011), head=True, depth=0.14, opacity=0.7),
        *_eyes(0.088, 0.055, 0.040, 0.047, 0.05),
        _body(
            "left ear",
            "mark",
            (-0.205, 0.0, 0.070, 0.185, -16),
            head=True,
            depth=-0.02,
            under=0.3,
            coat=False,
            volume=0.8,
        ),
        _body(
            "right ear",
            "mark",
            (0.205, 0.0, 0.070, 0.185, 16),
            head=True,
            depth=0.045,
            under=0.3,
            coat=False,
            volume=0.8,
        ),
    ),
    palettes=tuple(
        {**coat, "collar": collar, "tongue": "e2767a"}
        for coat in _fur(
            "f3e6cf 8a5226 fffaf0",
            "c4713a fbe9d2 fdf0de",
            "5a4638 e3c08c efdcc0",
            "ead2a8 8f5f30 fff6e4",
            "f5efe6 4a403a ffffff",
            "8a5a3a efd9b4 f3e3c9",
            "b9a58c 54443a f3ebe1",
        )
        for collar in ("b5473c", "3f7a78", "c9a23c")
    ),
    patterns=("dapples",),
)

_RABBIT = Rig(
    head=((0.13, 0.52), (0.30, 0.40)),
    parts=(
        _body("tail", "white", (-0.29, 0.14, 0.10, 0.10), (-0.42, 0.16, 0.10, 0.10), coat=False),
        _body("body", "fur", (-0.05, 0.25, 0.27, 0.25), (-0.10, 0.20, 0.36, 0.20), under=0.3),
        _mark("saddle", "mark", (-0.25, 0.27, 0.22, 0.30, 8), (-0.36, 0.22, 0.26, 0.26, 12), within="body"),
        _body("haunch", "mark", (-0.12, 0.17, 0.19, 0.17), (-0.24, 0.16, 0.20, 0.16), under=0.2),
        _mark("chest", "belly", (0.12, 0.24, 0.11, 0.17), (0.20, 0.18, 0.12, 0.13), soft=0.07, within="body"),
        _body("hind foot", "fur", (-0.06, 0.04, 0.17, 0.045), (-0.14, 0.04, 0.18, 0.045), under=0.2),
        _body("far paw", "belly", (0.10, 0.06, 0.055, 0.06), (0.26, 0.05, 0.09, 0.045), coat=False),
        _body("near paw", "belly", (0.20, 0.06, 0.06, 0.065), (0.34, 0.045, 0.10, 0.045), coat=False),
        _body(
            "far ear",
            "fur",
            (-0.05, 0.28, 0.068, 0.19, 10),
            (-0.10, 0.25, 0.068, 0.19, 34),
            head=True,
            depth=-0.04,
            under=0.1,
        ),
        _mark(
            "far inner",
            "blush",
            (-0.05, 0.28, 0.030, 0.14, 10),
            (-0.10, 0.25, 0.030, 0.14, 34),
            head=True,
            depth=-0.035,
        ),
        _body(
            "near ear",
            "fur",
            (0.09, 0.28, 0.070, 0.19, -10),
            (0.03, 0.27, 0.070, 0.19, 16),
            head=True,
            depth=-0.04,
            under=0.25,
        ),
        _mark(
            "near inner",
            "blush",
            (0.09, 0.28, 0.032, 0.14, -10),
            (0.03, 0.27, 0.032, 0.14, 16),
            head=True,
            depth=-0.035,
        ),
        _body("skull", "fur", (0, 0.0, 0.185, 0.165), head=True, under=0.4),
        _body("cheeks", "fur", (0, -0.05, 0.20, 0.125), head=True, under=0.0, volume=0.7),
        *_eyes(0.088, 0.025, 0.038, 0.047, 0.045),
        _mark("muzzle left", "belly", (-0.04, -0.085, 0.06, 0.055), head=True, depth=0.09, soft=0.02),
        _mark("muzzle right", "belly", (0.04, -0.085, 0.06, 0.055), head=True, depth=0.09, soft=0.02),
        _mark("teeth", "glint", (0.0, -0.125, 0.02, 0.022), head=True, depth=0.10),
        _mark("smile", "nose", (0, -0.10, 0.05, 0.03), head=True, depth=0.10, cut=(0, -0.084, 0.066, 0.031)),
        _mark("nose", "pink", (0, -0.05, 0.032, 0.023), head=True, depth=0.11),
    ),
    palettes=_fur(
        "f1dfc0 b8763a fff6e4",
        "f6efe4 6a4a34 ffffff",
        "f3eee8 8a8178 ffffff",
        "efe2cc 93592c fff6e4",
        "d9cdbf 4f4037 f3ebe1",
        "fbf3e6 c98f58 ffffff",
        "e9c9a2 8a4a22 fdf0de",
    ),
    hair=0.013,
    patterns=("plain",),
)

_SPIKES = tuple(
    _body(f"spike {i}", "mark", rest, kind="leaf", volume=0.3, under=0.1)
    for i, rest in enumerate(
        (
            round(-0.07 + 0.28 * c, 4),
            round(0.20 + 0.24 * s, 4),
            round(-0.07 + r * 0.50 * c - 0.02, 4),
            round(max(0.03, 0.20 + r * 0.42 * s), 4),
            0.12,
        )
        for c, s, r in (
            (-0.99, -0.10, 1.0), (-0.98, 0.17, 1.04), (-0.90, 0.42, 1.0), (-0.77, 0.64, 1.05),
            (-0.57, 0.82, 1.0), (-0.34, 0.94, 1.05), (-0.09, 1.0, 1.0), (0.17, 0.98, 1.05),
            (0.42, 0.91, 1.0), (0.64, 0.77, 1.03),
        )
    )
)  # fmt: skip

_HEDGEHOG = Rig(
    head=((0.36, 0.19), (0.34, 0.26)),
    parts=(
        *_SPIKES,
        _body("far foot", "skin", (0.22, 0.04, 0.07, 0.045), coat=False),
        _body("hind foot", "skin", (-0.26, 0.04, 0.08, 0.045), coat=False),
        _body("dome", "spikes", (-0.06, 0.27, 0.37, 0.27), under=0.0, volume=1.1),
        _body(
            "belly",
            "belly",
            (0.06, 0.13, 0.30, 0.11),
            (0.05, 0.13, 0.30, 0.11),
            coat=False,
            under=0.25,
            volume=0.8,
        ),
        _body("near foot", "skin", (0.13, 0.04, 0.075, 0.045), coat=False),
        _body("ear", "skin", (-0.08, 0.12, 0.065, 0.07), head=True, coat=False, under=0.25),
        _body("face", "belly", (0, 0.0, 0.17, 0.145), head=True, coat=False, under=0.35),
        _body(
            "snout",
            "belly",
            (0.0, -0.02, 0.32, 0.0, 0.17),
            (0.0, -0.02, 0.32, 0.03, 0.17),
            kind="leaf",
            head=True,
            coat=False,
            under=0.0,
        ),
        _mark("cheek", "pink", (0.03, -0.05, 0.055, 0.045), head=True, soft=0.05, opacity=0.7),
        _mark("nose", "dark", (0.285, 0.0, 0.043, 0.04), (0.285, 0.025, 0.043, 0.04), head=True, solid=True),
        _mark("nose glint", "glint", (0.295, 0.014, 0.014, 0.011), head=True),
        _mark("eye", "dark", (0.075, 0.045, 0.042, 0.047), head=True),
        _mark("glint", "glint", (0.088, 0.062, 0.014, 0.015), head=True),
        _mark(
            "smile",
            "nose",
            (0.13, -0.055, 0.06, 0.035),
            head=True,
            cut=(0.125, -0.04, 0.075, 0.036),
            opacity=0.8,
        ),
    ),
    palettes=tuple(
        dict(zip(("spikes", "fur", "mark", "belly", "skin"), row.split(), strict=True))
        for row in (
            "6a4a34 6a4a34 4a3222 f0d6b0 c99a78",
            "8a6a4c 8a6a4c 644a34 f8e6c8 d8a888",
            "57504c 57504c 38322f e6dccf b59a8c",
            "b08a5c b08a5c 7d5c38 fdf0d8 dcae90",
            "c9b8a4 c9b8a4 93806c fff4e4 e0b8a4",
        )
    ),
    hair=0.016,
    patterns=("quills",),
    turn=(0.0, 0.0),
    nod=7.0,
)

_PARROT = Rig(
    head=((0.08, 0.80), (0.16, 0.76)),
    parts=(
        _body(
            "tail",
            "tail",
            (-0.06, 0.36, -0.44, -0.06, 0.15),
            (-0.10, 0.34, -0.60, 0.05, 0.15),
            kind="leaf",
            coat=False,
        ),
        _body(
            "tail 2",
            "wing",
            (-0.02, 0.36, -0.32, -0.05, 0.13),
            (-0.06, 0.34, -0.48, 0.01, 0.13),
            kind="leaf",
            coat=False,
        ),
        _body("far foot", "beak", (0.11, 0.035, 0.075, 0.035), coat=False),
        _body("near foot", "beak", (0.0, 0.035, 0.08, 0.035), coat=False),
        _body("body", "fur", (0.0, 0.40, 0.20, 0.36, 8), (0.0, 0.38, 0.20, 0.36, 22), under=0.3),
        _mark(
            "chest",
            "belly",
            (0.09, 0.42, 0.10, 0.25, 8),
            (0.11, 0.38, 0.10, 0.25, 22),
            soft=0.06,
            within="body",
        ),
        _body(
            "wing",
            "wing",
            (-0.02, 0.66, -0.19, 0.12, 0.26),
            (0.0, 0.63, -0.27, 0.13, 0.26),
            kind="leaf",
            coat=False,
            under=0.3,
        ),
        _mark(
            "band",
            "band",
            (-0.10, 0.40, 0.16, 0.045, -14),
            (-0.12, 0.39, 0.16, 0.045, -4),
            within="wing",
            soft=0.012,
        ),
        _mark(
            "band 2",
            "tail",
            (-0.13, 0.28, 0.16, 0.05, -14),
            (-0.18, 0.27, 0.16, 0.05, -4),
            within="wing",
            soft=0.012,
        ),
        _body(
            "crest",
            "band",
            (-0.06, 0.08, -0.22, 0.27, 0.10),
            kind="leaf",
            head=True,
            coat=False,
            chance=0.5,
            group="crest",
            under=0.0,
        ),
        _body(
            "crest 2",
            "band",
            (-0.01, 0.10, -0.10, 0.32, 0.10),
            kind="leaf",
            head=True,
            coat=False,
            chance=0.5,
            group="crest",
            under=0.0,
        ),
        _body("lower beak", "dark", (0.15, -0.085, 0.055, 0.05), head=True, coat=False),
        _body("skull", "fur", (0, 0.0, 0.175, 0.17), head=True, under=0.35),
        _mark("cheek", "white", (0.055, -0.01, 0.085, 0.09), head=True, soft=0.015, within="skull"),
        _body(
            "beak",
            "beak",
            (0.175, -0.02, 0.115, 0.125, -20),
            head=True,
            coat=False,
            under=0.25,
            cut=(0.10, -0.15, 0.11, 0.11, 0),
        ),
        _mark("eye", "dark", (0.055, 0.03, 0.042, 0.045), head=True),
        _mark("iris", "band", (0.055, 0.03, 0.035, 0.037), head=True),
        _mark("pupil", "dark", (0.058, 0.03, 0.023, 0.026), head=True),
        _mark("glint", "glint", (0.068, 0.046, 0.012, 0.013), head=True),
    ),
    palettes=tuple(
        dict(zip(("fur", "mark", "belly", "wing", "tail", "band", "beak"), row.split(), strict=True))
        for row in (
            "d8453a a82f2a e8703f 3f77b5 2c5690 f2c23e 4a4541",
            "4f9e4a 377a3c a5c94e 2f7f5a d0503c e9c94a e8b04a",
            "3f7fc0 2c5f9c f2c444 2f62a5 24508a f0b53a 3f3b38",
            "f0c94a cf9f30 fbe38a 7fb04a 5a8f3c e8703f d98a3a",
            "efe7da d5c8b4 fff9ee dccfba e8b77a f2c95a 5a544e",
            "9aa2aa 767e86 c9ced2 6d757d c8453a dfe3e6 48443f",
        )
    ),
    hair=0.005,
    patterns=("feathers",),
    turn=(0.0, 0.0),
    tilt=8.0,
)

_DUCK = Rig(
    head=((0.24, 0.70), (0.22, 0.55)),
    parts=(
        _body("tail", "fur", (-0.26, 0.30, -0.54, 0.56, 0.24), (-0.28, 0.22, -0.56, 0.44, 0.24), kind="leaf"),
        _body("far foot", "beak", (0.10, 0.03, 0.10, 0.03), (0.10, 0.03, 0.06, 0.02), coat=False),
        _body("near foot", "beak", (-0.02, 0.03, 0.11, 0.033), (0.0, 0.03, 0.06, 0.02), coat=False),
        _body("far leg", "beak", (0.06, 0.09, 0.028, 0.07), (0.06, 0.09, 0.028, 0.05), coat=False),
        _body("near leg", "beak", (-0.06, 0.09, 0.03, 0.07), (-0.05, 0.09, 0.03, 0.05), coat=False),
        _body(
            "neck", "neck", (0.20, 0.48, 0.12, 0.22, -8), (0.18, 0.38, 0.13, 0.19, -8), coat=False, under=0.1
        ),
        _body("body", "fur", (-0.06, 0.31, 0.36, 0.21, 4), (-0.06, 0.20, 0.38, 0.20, 4), under=0.2),
        _mark("chest", "belly", (0.12, 0.24, 0.17, 0.12), (0.12, 0.13, 0.17, 0.10), soft=0.08, within="body"),
        _body(
            "wing",
            "wing",
            (0.17, 0.36, -0.40, 0.38, 0.26),
            (0.17, 0.25, -0.40, 0.28, 0.26),
            kind="leaf",
            under=0.3,
        ),
        _mark(
            "wing edge",
            "mark",
            (-0.16, 0.30, 0.25, 0.05, 8),
            (-0.16, 0.19, 0.25, 0.05, 8),
            within="wing",
            soft=0.03,
            opacity=0.8,
        ),
        _mark(
            "ring",
            "belly",
            (0.20, 0.54, 0.16, 0.028, -6),
            (0.19, 0.41, 0.17, 0.028, -6),
            within="neck",
            chance=0.5,
        ),
        _body("lower bill", "bill2", (0.20, -0.075, 0.13, 0.035, -4), head=True, coat=False),
        _body("skull", "neck", (0, 0.0, 0.18, 0.17), head=True, under=0.25, coat=False),
        _body("bill", "beak", (0.20, -0.025, 0.16, 0.055, -8), head=True, coat=False, under=0.25),
        _mark("nostril", "bill2", (0.19, -0.002, 0.022, 0.011, -8), head=True),
        _mark("cheek", "pink", (0.05, -0.06, 0.05, 0.035), head=True, soft=0.04, opacity=0.6),
        _mark("eye", "dark", (0.06, 0.045, 0.037, 0.045), head=True),
        _mark("glint", "glint", (0.072, 0.062, 0.013, 0.014), head=True),
    ),
    palettes=tuple(
        dict(zip(("fur", "neck", "mark", "belly", "wing", "beak", "bill2"), row.split(), strict=True))
        for row in (
            "f6d24e f8d95c e0ae34 fdeea6 efc340 ef8a34 c9651f",
            "fbf4e6 fdf8ee d8c7ac ffffff efe4d0 f09a3c cc7422",
            "b39a80 3f7a58 7a6450 e6d8c4 97795c e8b83c b98a24",
            "8f7256 7a5f46 5f4a36 d6bd98 a2835f d98a3a ab6424",
            "c98a5a f3e2c8 a86c40 fbeedc dba070 e6a23c b87a24",
        )
    ),
    hair=0.004,
    patterns=("feathers",),
    turn=(0.0, 0.0),
)

_TURTLE = Rig(
    head=((0.46, 0.30), (0.40, 0.21)),
    parts=(
        _body("tail", "skin", (-0.34, 0.12, -0.56, 0.04, 0.09), kind="leaf", coat=False),
        _body(
            "far hind leg",
            "skin",
            (-0.18, 0.07, 0.09, 0.09),
            (-0.2, 0.05, 0.12, 0.06),
            coat=False,
            volume=0.8,
        ),
        _body(
            "far leg", "skin", (0.29, 0.07, 0.08, 0.09), (0.32, 0.05, 0.12, 0.06, 0), coat=False, volume=0.8
        ),
        _body("neck", "skin", (0.34, 0.21, 0.15, 0.09, 32), (0.30, 0.16, 0.14, 0.09, 20), coat=False),
        _body("skull", "skin", (0, 0.0, 0.14, 0.12), head=True, coat=False, under=0.2),
        _mark(
            "smile",
            "nose",
            (0.055, -0.045, 0.075, 0.04),
            head=True,
            cut=(0.05, -0.025, 0.09, 0.042),
            opacity=0.8,
        ),
        _mark("cheek", "pink", (0.0, -0.035, 0.04, 0.03), head=True, soft=0.035, opacity=0.5),
        _mark("eye", "dark", (0.05, 0.03, 0.033, 0.04), head=True),
        _mark("glint", "glint", (0.06, 0.046, 0.012, 0.013), head=True),
        _body("rim", "mark", (-0.04, 0.16, 0.42, 0.075, -2), coat=False, under=0.3, volume=0.7),
        _body(
            "shell",
            "fur",
            (-0.04, 0.28, 0.38, 0.26),
            cut=(-0.04, -0.02, 0.6, 0.17),
            under=0.0,
            coat=True,
            volume=1.1,
        ),
        _mark("plate 1", "plate", (-0.05, 0.42, 0.12, 0.075), within="shell", volume=0.8),
        _mark("plate 2", "plate", (0.16, 0.35, 0.075, 0.085, -28), within="shell", volume=0.8),
        _mark("plate 3", "plate", (-0.26, 0.35, 0.075, 0.085, 28), within="shell", volume=0.8),
        _mark("plate 4", "plate", (-0.05, 0.255, 0.10, 0.075), within="shell", volume=0.8),
        _mark("plate 5", "plate", (0.16, 0.215, 0.085, 0.055, -8), within="shell", volume=0.8),
        _mark("plate 6", "plate", (-0.26, 0.215, 0.085, 0.055, 8), within="shell", volume=0.8),
        _mark("plate 7", "plate", (0.29, 0.235, 0.04, 0.055, -30), within="shell", volume=0.8),
        _mark("plate 8", "plate", (-0.38, 0.235, 0.04, 0.055, 30), within="shell", volume=0.8),
        _body(
            "near hind leg",
            "skin",
            (-0.28, 0.065, 0.105, 0.09),
            (-0.34, 0.05, 0.13, 0.06, 10),
            coat=False,
            under=0.25,
            volume=0.8,
        ),
        _body(
            "near leg",
            "skin",
            (0.20, 0.065, 0.10, 0.09),
            (0.24, 0.05, 0.14, 0.06, -6),
            coat=False,
            under=0.25,
            volume=0.8,
        ),
    ),
    palettes=tuple(
        dict(zip(("fur", "plate", "mark", "skin"), row.split(), strict=True))
        for row in (
            "6b7a3a a3a852 8a7a42 a8b562",
            "7a5a36 b98a4e 94703f b6a060",
            "4a6a52 7fa070 5f7a55 8fb07a",
            "8a6a48 d8b070 a8824f d0b884",
            "9a5a3c d09460 b0704a c9a070",
        )
    ),
    hair=0.0,
    patterns=("plain", "spots"),
    turn=(0.0, 0.0),
    nod=10.0,
)

_FROG = Rig(
    head=((0.0, 0.44), (0.0, 0.40)),
    parts=(
        _body("left thigh", "fur", (-0.31, 0.17, 0.15, 0.19, 18), (-0.34, 0.15, 0.17, 0.17, 24), volume=0.9),
        _body("right thigh", "fur", (0.31, 0.17, 0.15, 0.19, -18), (0.34, 0.15, 0.17, 0.17, -24), volume=0.9),
        _body("left foot", "fur", (-0.33, 0.035, 0.17, 0.038), (-0.38, 0.035, 0.18, 0.038), under=0.15),
        _body("right foot", "fur", (0.33, 0.035, 0.17, 0.038), (0.38, 0.035, 0.18, 0.038), under=0.15),
        _body("body", "fur", (0, 0.27, 0.30, 0.26), (0, 0.24, 0.33, 0.23), under=0.2),
        _mark("belly", "belly", (0, 0.19, 0.21, 0.17), (0, 0.16, 0.23, 0.15), soft=0.05, within="body"),
        _body("left arm", "fur", (-0.15, 0.15, 0.055, 0.14, -6), (-0.17, 0.13, 0.055, 0.12, -8)),
        _body("right arm", "fur", (0.15, 0.15, 0.055, 0.14, 6), (0.17, 0.13, 0.055, 0.12, 8)),
        _body("left hand", "fur", (-0.16, 0.03, 0.085, 0.033), (-0.18, 0.03, 0.09, 0.033)),
        _body("right hand", "fur", (0.16, 0.03, 0.085, 0.033), (0.18, 0.03, 0.09, 0.033)),
        _body("left bump", "fur", (-0.17, 0.15, 0.115, 0.12), head=True, depth=0.0, under=0.0),
        _body("right bump", "fur", (0.17, 0.15, 0.115, 0.12), head=True, depth=0.0, under=0.0),
        _body("skull", "fur", (0, 0.0, 0.32, 0.19), head=True, under=0.35),
        _mark("throat", "belly", (0, -0.13, 0.23, 0.08), head=True, depth=0.03, soft=0.05, within="skull"),
        _mark(
            "smile",
            "nose",
            (0, -0.02, 0.235, 0.115),
            head=True,
            depth=0.03,
            cut=(0, 0.02, 0.27, 0.14),
            within="skull",
        ),
        _mark(
            "left cheek", "pink", (-0.22, -0.035, 0.05, 0.035), head=True, depth=0.02, soft=0.04, opacity=0.7
        ),
        _mark(
            "right cheek", "pink", (0.22, -0.035, 0.05, 0.035), head=True, depth=0.02, soft=0.04, opacity=0.7
        ),
        _mark("left nostril", "nose", (-0.03, 0.055, 0.012, 0.01), head=True, depth=0.05),
        _mark("right nostril", "nose", (0.03, 0.055, 0.012, 0.01), head=True, depth=0.05),
        *(
            part
            for side, at in (("left", -0.17), ("right", 0.17))
            for part in (
                _mark(f"{side} eyeball", "iris", (at, 0.165, 0.085, 0.09), head=True, depth=0.02, volume=0.5),
                _mark(f"{side} pupil", "dark", (at, 0.165, 0.055, 0.05), head=True, depth=0.04),
                _mark(f"{side} glint", "glint", (at + 0.02, 0.19, 0.018, 0.018), head=True, depth=0.04),
            )
        ),
    ),
    palettes=tuple(
        dict(zip(("fur", "mark", "belly", "iris"), row.split(), strict=True))
        for row in (
            "79b04a 4d8038 e9eeb4 f6d968",
            "5f9a58 3f6e42 dfe8bc f2e6a0",
            "a8b04a 74783a f4efc0 f0b848",
            "b5834a 80582f f3e2bc f2d478",
            "5fa596 3c766c e2efdf f7dc7a",
            "d0a03e 94682a fbeec4 fbf0c8",
        )
    ),
    hair=0.0,
    patterns=("spots", "spots", "patches"),
    turn=(-0.6, 1.0),
    tilt=7.0,
)

RIGS = {
    "cat": _CAT,
    "dog": _DOG,
    "duck": _DUCK,
    "frog": _FROG,
    "hedgehog": _HEDGEHOG,
    "parrot": _PARROT,
    "rabbit": _RABBIT,
    "turtle": _TURTLE,
}

# stripe weight, cloud weight, threshold, sharpness, stripes across, stripes along, cloud texels per unit
PATTERNS = {
    "plain": (0.0, 0.0, 9.0, 1.0, 1.0, 0.0, 120.0),
    "stripes": (1.0, 0.0, 0.62, 4.0, 4.6, 3.2, 220.0),
    "patches": (0.0, 1.0, 0.56, 14.0, 1.0, 0.0, 200.0),
    "dapples": (0.0, 1.0, 0.58, 14.0, 1.0, 0.0, 420.0),
    "spots": (0.0, 1.0, 0.72, 11.0, 1.0, 0.0, 400.0),
    "quills": (0.9, 0.35, 0.70, 2.6, 7.0, -9.0, 500.0),
    "feathers": (0.7, 0.4, 0.68, 2.6, 5.0, 9.0, 400.0),
}
