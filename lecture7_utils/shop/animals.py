"""The shop's animals in their poses: the dice move a species' parts, and the parts are painted in order."""

import functools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lecture7_utils.shop.drawing import (
    CLOUD,
    FUR,
    Dice,
    colours,
    column,
    coverage,
    paint,
    rotation,
    texture,
    wave,
)
from lecture7_utils.shop.species import COMMON, PATTERNS, RIGS

_SHADE_REACH = 0.075  # how far the shade of a part falls on those beneath, in the animal's units


@dataclass
class Figures:
    """M animals of one species in their poses, at unit size, standing on (0, 0), y up, facing +x.

    rows: float64 [M, R, 5], centre x, centre y, radius x, radius y, degrees of the rows of `_Table`.
    reach: float64 [M, R, 4], left, right, bottom, top of what each row's part can cover.
    bounds: float64 [M, 4], left, right, bottom, top of the outline once the animal faces where it does.
    colours: {key: float64 [M, 3]}. pattern: float64 [M, 7] as in `PATTERNS`; coat: float64 [M, 2], where
    in the texture the coat starts. facing: float64 [M], +1 to the right or -1. stance: float64 [M], 0 to 1.
    """

    species: str
    rows: Tensor
    reach: Tensor
    bounds: Tensor
    colours: dict[str, Tensor]
    pattern: Tensor
    coat: Tensor
    facing: Tensor
    stance: Tensor

    def at(self, chosen: Tensor) -> "Figures":
        """The animals of these positions, int64 [K]."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Figures(
            **{key: value[chosen] if isinstance(value, Tensor) else value for key, value in values.items()}
            | {"colours": {key: value[chosen] for key, value in self.colours.items()}}
        )


@dataclass(frozen=True)
class _Table:
    """A rig as tensors. Rows: the ellipses of all parts (cuts after), then two circles for each leaf."""

    ellipses: Tensor  # [2, E, 5], both poses
    leaves: Tensor  # [2, L, 5]
    heads: Tensor  # [2, 2]
    ellipse_owner: tuple[int, ...]  # the part of each ellipse row
    leaf_owner: tuple[int, ...]
    row: tuple[int, ...]  # the first row of each part
    cut_row: tuple[int, ...]  # the row of its cut, or -1


@functools.cache
def _table(species: str) -> _Table:
    rig = RIGS[species]
    ellipses, leaves, ellipse_owner, leaf_owner, row, cut_row = [], [], [], [], [], []

    def five(values: tuple) -> tuple:
        return (*values, *(0.0,) * (5 - len(values)))

    for i, part in enumerate(rig.parts):
        if part.kind == "leaf":
            row.append(-1 - len(leaves))
            leaves.append((five(part.rest), five(part.other)))
            leaf_owner.append(i)
            cut_row.append(-1)
            continue
        row.append(len(ellipses))
        ellipses.append((five(part.rest), five(part.other)))
        ellipse_owner.append(i)
        cut_row.append(len(ellipses) if part.cut else -1)
        if part.cut:
            shift = (part.other[0] - part.rest[0], part.other[1] - part.rest[1])
            cut = five(part.cut)
            ellipses.append((cut, (cut[0] + shift[0], cut[1] + shift[1], *cut[2:])))
            ellipse_owner.append(i)
    row = [r if r >= 0 else len(ellipses) + 2 * (-1 - r) for r in row]
    return _Table(
        torch.tensor(ellipses, dtype=torch.float64).transpose(0, 1),
        torch.tensor(leaves, dtype=torch.float64).reshape(-1, 2, 5).transpose(0, 1),
        torch.tensor(rig.head, dtype=torch.float64),
        tuple(ellipse_owner),
        tuple(leaf_owner),
        tuple(row),
        tuple(cut_row),
    )


def _of_rows(species: str, leaves: bool, read) -> Tensor:
    """A property of the parts, float64, one value for each ellipse row or each leaf."""
    table = _table(species)
    owner = table.leaf_owner if leaves else table.ellipse_owner
    return torch.tensor([read(RIGS[species].parts[i]) for i in owner], dtype=torch.float64)


def pose(species: str, dice: Dice) -> Figures:
    """Throw the dice for animals of one species: pose, build, direction, colours and coat."""
    rig, table = RIGS[species], _table(species)
    stance = dice.one("stance")
    stance = torch.where(stance < 0.5, stance * 0.3, 1 - (1 - stance) * 0.3)  # seldom half way
    facing = torch.where(dice.one("facing") < 0.5, -1.0, 1.0).double()
    turn, plump, size = (
        dice.one("turn", *rig.turn),
        dice.one("plump", *rig.plump),
        dice.one("head", *rig.big_head),
    )
    nod, lean = dice.one("nod", -rig.nod, rig.nod), dice.one("lean", -rig.tilt, rig.tilt)
    neck = table.heads[0] + stance[:, None] * (table.heads[1] - table.heads[0])
    present = torch.stack([dice.one(part.group or part.name) < part.chance for part in rig.parts], 1)

    turn, plump, size, nod, lean, neck_x, neck_y = (
        value[:, None] for value in (turn, plump, size, nod, lean, neck[:, 0] * plump, neck[:, 1])
    )
    nod_cos, nod_sin = rotation(nod)
    lean_cos, lean_sin = rotation(lean)

    def join(x: Tensor, y: Tensor, on_head: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """From a part's own coordinates to the leaning animal's."""
        turned = x + turn * depth
        head_x = neck_x + size * (turned * nod_cos - y * nod_sin)
        head_y = neck_y + size * (turned * nod_sin + y * nod_cos)
        x, y = torch.where(on_head, head_x, x * plump), torch.where(on_head, head_y, y)
        return x * lean_cos - y * lean_sin, x * lean_sin + y * lean_cos

    # ellipses
    owner = list(table.ellipse_owner)
    at = table.ellipses[0] + stance[:, None, None] * (table.ellipses[1] - table.ellipses[0])
    on_head = _of_rows(species, False, lambda part: part.head) > 0
    x, y = join(at[..., 0], at[..., 1], on_head, _of_rows(species, False, lambda part: part.depth))
    seen = torch.where(present[:, owner], 1.0, 1e-3)
    rx, ry = (
        at[..., 2] * torch.where(on_head, size, plump) * seen,
        at[..., 3] * torch.where(on_head, size, 1.0) * seen,
    )
    degrees = at[..., 4] + lean + on_head * nod
    rows = [torch.stack([x, y, rx, ry, degrees], 2)]
    cos, sin = rotation(degrees)
    across, up = (
        (rx * rx * cos * cos + ry * ry * sin * sin).sqrt(),
        (rx * rx * sin * sin + ry * ry * cos * cos).sqrt(),
    )
    reach = [torch.stack([x - across, x + across, y - up, y + up], 2)]

    if table.leaf_owner:  # each the overlap of two discs
        owner = list(table.leaf_owner)
        at = table.leaves[0] + stance[:, None, None] * (table.leaves[1] - table.leaves[0])
        on_head = _of_rows(species, True, lambda part: part.head) > 0
        depth = _of_rows(species, True, lambda part: part.depth)
        ear = _of_rows(species, True, lambda part: "ear" in part.name or "inner" in part.name) > 0
        long = torch.where(ear, dice.one("ears", 0.9, 1.12)[:, None], 1.0)
        foot_x, foot_y = join(at[..., 0], at[..., 1], on_head, depth)
        tip_x, tip_y = join(
            at[..., 0] + (at[..., 2] - at[..., 0]) * long,
            at[..., 1] + (at[..., 3] - at[..., 1]) * long,
            on_head,
            depth,
        )
        seen = present[:, owner]
        tip_x, tip_y = torch.where(seen, tip_x, foot_x + 1e-3), torch.where(seen, tip_y, foot_y)
        width = torch.where(seen, at[..., 4] * torch.where(on_head, size, 1.0), 1e-3)
        along_x, along_y = tip_x - foot_x, tip_y - foot_y
        length = (along_x * along_x + along_y * along_y).sqrt()
        radius = (length * length + width * width) / (4 * width)
        x, y, off = (foot_x + tip_x) / 2, (foot_y + tip_y) / 2, (radius - width / 2) / length
        zero = torch.zeros_like(radius)
        discs = [
            torch.stack([x - side * along_y * off, y + side * along_x * off, radius, radius, zero], 2)
            for side in (1, -1)
        ]
        rows.append(torch.stack(discs, 2).flatten(1, 2))
        across = torch.maximum(along_x.abs() / 2, along_y.abs() / length * width / 2)
        up = torch.maximum(along_y.abs() / 2, along_x.abs() / length * width / 2)
        box = torch.stack([x - across, x + across, y - up, y + up], 2)
        reach.append(box.repeat_interleave(2, 1))

    rows, reach = torch.cat(rows, 1), torch.cat(reach, 1)
    outline = [row for part, row in zip(rig.parts, table.row, strict=True) if part.solid]
    left, right, bottom, top = reach[:, outline].unbind(2)
    left, right, bottom, top = left.amin(1), right.amax(1), bottom.amin(1), top.amax(1)
    rows[..., 1] -= bottom[:, None]  # it stands on the ground
    reach[..., 2:] -= bottom[:, None, None]
    ahead = facing > 0
    bounds = torch.stack(
        [
            torch.where(ahead, left, -right),
            torch.where(ahead, right, -left),
            torch.zeros_like(left),
            top - bottom,
        ],
        1,
    )
    patterns = torch.tensor([PATTERNS[name] for name in rig.patterns], dtype=torch.float64)
    pattern = patterns[dice.pick("pattern", len(patterns))]
    return Figures(
        species,
        rows,
        reach,
        bounds,
        _colours(species, dice),
        pattern,
        dice("coat x", "coat y"),
        facing,
        stance,
    )


def _colours(species: str, dice: Dice) -> dict[str, Tensor]:
    """One palette for each animal, moved a little: {key: float64 [M, 3]}."""
    palettes = RIGS[species].palettes
    chosen = dice.pick("palette", len(palettes))
    shift = 0.07 * (dice.one("bright")[:, None] - 0.55) + 0.025 * (2 * dice("red", "green", "blue") - 1)
    found = {key: colours(code).expand(len(chosen), 3) for key, code in COMMON.items()}
    for key in palettes[0]:
        found[key] = (colours(*(palette[key] for palette in palettes))[chosen] + shift).clamp(0, 1)
    return found


@dataclass
class Drawn:
    """Animals painted in windows of their pictures, of one size.

    colour: float32 [M, 3, h, w], already multiplied by `cover`; cover: float32 [M, 1, h, w] in 0 to 1; top,
    left: the window's first row and column in the picture, ints that may lie outside of it.
    """

    colour: Tensor
    cover: Tensor
    top: list[int]
    left: list[int]


def draw(figures: Figures, centre: Tensor, scale: Tensor, light: Tensor, device: torch.device) -> Drawn:
    """Paint animals of one species, each in its own window.

    centre: float64 [M, 2], where (0, 0) of the animal lies, in pixels (x, y down); scale: float64 [M],
    pixels per unit; light: float64 [M], where the light comes from, -1 (left) to 1.
    It is fastest for animals of like size and stance: a part is painted in the smallest window that holds
    it in all of them. What is painted does not depend on the other animals.
    """
    rig, table = RIGS[figures.species], _table(figures.species)
    origin = centre.floor()
    facing, one = figures.facing, scale[:, None]
    # pixels are counted from the origin: k columns ahead of it, i rows below it
    shift = torch.stack([facing * (origin[:, 0] + 0.5 - centre[:, 0]), origin[:, 1] + 0.5 - centre[:, 1]], 1)
    x, y, rx, ry, degrees = figures.rows.unbind(2)
    x, y, rx, ry = x * one, -y * one, (rx * one).clamp(min=1e-3), (ry * one).clamp(min=1e-3)
    cos, sin = rotation(degrees)
    wide, high = 1 / (rx * rx), 1 / (ry * ry)
    a, b, c = (
        cos * cos * wide + sin * sin * high,
        sin * sin * wide + cos * cos * high,
        2 * cos * sin * (high - wide),
    )
    mean = (rx * ry).sqrt()
    look = _look(figures.species)
    sharp = mean / 2 / (look.soft * one).clamp(min=1.0)
    window, rects = _windows(figures, table, look, scale, shift, sharp)
    top, bottom, left, right = window

    def load(*values: Tensor) -> list[Tensor]:  # [M, R] to [M, R, 1, 1]
        return list(torch.stack(values).float().to(device)[..., None, None].unbind(0))

    ahead, below = (
        torch.arange(low, high, device=device).float() + shift[:, i].float().to(device)[:, None]
        for i, (low, high) in enumerate(((left, right), (top, bottom)))
    )  # [M, w], [M, h]: the pixels' centres from (0, 0), in pixels
    lx, ly = 0.55 * (light * facing)[:, None], -0.75
    x, y, a, b, c, sharp_, slope_x, slope_y, level, bulge = load(
        x, y, sharp * a, sharp * b, sharp * c, sharp,
        look.slope * lx / mean, look.slope * ly / mean, look.level.expand_as(mean), look.bulge / sharp,
    )  # fmt: skip
    dx, dy = ahead[:, None, None, :] - x, below[:, None, :, None] - y
    by_row, by_column = (sharp_ - b * dy * dy).split(1, 1), (a * dx * dx).split(1, 1)
    cross, along = (c * dy).split(1, 1), dx.split(1, 1)
    shade_row, shade_column, bulge = (
        (slope_y * dy + level).split(1, 1),
        (slope_x * dx).split(1, 1),
        bulge.split(1, 1),
    )

    def ellipse(row: int, rows: slice, cols: slice) -> Tensor:
        """The signed distance, about in pixels, positive inside: sharp * (1 - k), k = 1 on the outline."""
        rest = by_row[row][:, :, rows] - by_column[row][..., cols]
        return rest.addcmul_(cross[row][:, :, rows], along[row][..., cols])

    palette = {key: column(value, device) for key, value in figures.colours.items()}
    hair, weight = _coat(figures, scale, ahead, below)
    ragged, gloss = hair * column(rig.hair * 2 * scale, device), hair * 0.16
    coats = {
        key: torch.lerp(palette[key], palette["mark"], weight)
        for key in {part.colour for part in rig.parts if part.coat}
    }
    bare = torch.ones(1, 1, 1, 1, device=device)
    fade = column(1 / (_SHADE_REACH * scale), device)
    image = palette[next(iter(rig.palettes[0]))].expand(-1, -1, bottom - top, right - left).clone()
    lit = torch.full_like(hair, 0.5)  # the light on what is painted; the outline's rim stays dark
    outline = torch.full_like(hair, -1e3)
    clips = {part.within: torch.zeros_like(hair) for part in rig.parts if part.within}

    for part, row, cut, rect in zip(rig.parts, table.row, table.cut_row, rects, strict=True):
        if rect is None:
            continue
        rows, cols = rect
        field = ellipse(row, rows, cols)
        if part.kind == "leaf":
            torch.minimum(field, ellipse(row + 1, rows, cols), out=field)
        elif cut >= 0:
            torch.minimum(field, ellipse(cut, rows, cols).neg_(), out=field)
        shade = bare
        if part.volume:
            shade = shade_row[row][:, :, rows] + shade_column[row][..., cols]
            if part.kind == "ellipse":
                shade.addcmul_(field.clamp(min=0), bulge[row])
        if part.coat and rig.hair:
            field += ragged[:, :, rows, cols]
            if part.volume:
                shade += gloss[:, :, rows, cols]
        alpha = coverage(field)
        if part.within:
            alpha *= clips[part.within][:, :, rows, cols]
        if part.name in clips:
            clips[part.name][:, :, rows, cols] = alpha
        light_here = lit[:, :, rows, cols]
        if part.under:
            dark = (field * fade).add_(1).clamp_(0, 1)
            light_here.addcmul_(light_here, dark.mul_(dark), value=-part.under)
        if part.solid:
            here = outline[:, :, rows, cols]
            torch.maximum(here, field, out=here)
        if part.opacity != 1:
            alpha *= part.opacity
        paint(light_here, shade, alpha)
        paint(
            image[:, :, rows, cols],
            coats[part.colour][:, :, rows, cols] if part.coat else palette[part.colour],
            alpha,
        )

    cover = coverage(outline)
    colour = image.mul_(lit).clamp_(0, 1).mul_(cover)
    back = (facing < 0).nonzero()[:, 0].to(device)
    colour.index_copy_(0, back, colour.index_select(0, back).flip(3))
    cover.index_copy_(0, back, cover.index_select(0, back).flip(3))
    first = origin[:, 0] + torch.where(facing < 0, float(1 - right), float(left))
    return Drawn(colour, cover, (origin[:, 1] + top).long().tolist(), first.long().tolist())


@dataclass(frozen=True)
class _Look:
    """How the rows of a table are painted, float64 [R] each: edge and shading, margins around the outline."""

    soft: Tensor
    slope: Tensor
    level: Tensor
    bulge: Tensor
    margin: Tensor  # in pixels
    margin_units: Tensor  # in the animal's units


@functools.cache
def _look(species: str) -> _Look:
    rig, table = RIGS[species], _table(species)
    count = len(table.ellipse_owner) + 2 * len(table.leaf_owner)
    values = {field.name: torch.zeros(count, dtype=torch.float64) for field in fields(_Look)}
    values["level"] += 1
    for part, row in zip(rig.parts, table.row, strict=True):
        leaf = part.kind == "leaf"
        values["soft"][row] = part.soft
        values["slope"][row] = part.volume * (0.25 if leaf else 0.15)
        values["level"][row] = 1 - part.volume * (0.10 if leaf else 0.30)
        values["bulge"][row] = part.volume * 0.38
        values["margin"][row] = 0.5
        values["margin_units"][row] = max(rig.hair if part.coat else 0.0, _SHADE_REACH if part.under else 0.0)
    return _Look(**values)


def _windows(
    figures: Figures, table: _Table, look: _Look, scale: Tensor, shift: Tensor, sharp: Tensor
) -> tuple[tuple[int, int, int, int], list[tuple[slice, slice] | None]]:
    """The window of all animals, (top, bottom, left, right) from their origins, and each part's in it."""
    margin = (
        look.margin + look.margin_units * scale[:, None]
    )  # of the field, which falls by 1 in about a pixel
    left, right, low, high = (figures.reach * scale[:, None, None]).unbind(2)
    # where sharp * (1 - k) = -margin, an ellipse is larger by this factor; so is a disc, and so a leaf's box
    grow = (1 + margin / sharp).sqrt()
    rx, ry = (right - left) / 2 * grow, (high - low) / 2 * grow
    discs = len(table.ellipse_owner)
    radius = figures.rows[:, discs:, 2] * scale[:, None]
    spread = radius * (grow[:, discs:] - 1)
    length = (radius * 2 * spread + spread * spread + 1).sqrt()  # a pointed tip moves by more than its sides
    rx[:, discs:] = (right - left)[:, discs:] / 2 + length
    ry[:, discs:] = (high - low)[:, discs:] / 2 + length
    x, y = (left + right) / 2 - shift[:, :1], -(low + high) / 2 - shift[:, 1:]
    reach = torch.stack(
        [
            (y - ry).amin(0).floor(),
            (y + ry).amax(0).ceil() + 1,
            (x - rx).amin(0).floor(),
            (x + rx).amax(0).ceil() + 1,
        ],
        1,
    )
    reach = reach.long()
    solid = [row for part, row in zip(RIGS[figures.species].parts, table.row, strict=True) if part.solid]
    # the outline itself needs no room for the shade it casts
    tight = look.margin + RIGS[figures.species].hair * scale[:, None] + 1.5
    top = int((y - (high - low) / 2 - tight)[:, solid].amin().floor())
    bottom = int((y + (high - low) / 2 + tight)[:, solid].amax().ceil()) + 1
    first = int((x - (right - left) / 2 - tight)[:, solid].amin().floor())
    last = int((x + (right - left) / 2 + tight)[:, solid].amax().ceil()) + 1
    rects: list[tuple[slice, slice] | None] = []
    for row in table.row:
        r0, r1, c0, c1 = reach[row].tolist()
        r0, r1, c0, c1 = (
            max(r0, top) - top,
            min(r1, bottom) - top,
            max(c0, first) - first,
            min(c1, last) - first,
        )
        rects.append((slice(r0, r1), slice(c0, c1)) if r1 > r0 and c1 > c0 else None)
    return (top, bottom, first, last), rects


def _coat(figures: Figures, scale: Tensor, ahead: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Hair, -0.5 to 0.5, and the pattern's weight, 0 to 1: [M, 1, h, w] both, fixed to the animal."""
    values = torch.cat([1 / scale[:, None], figures.coat, figures.pattern], 1).float().to(ahead.device)
    unit, off_x, off_y, stripe, cloud, threshold, sharpness, across, along, texels = values[
        ..., None, None, None
    ].unbind(1)
    x, y = ahead[:, None, None, :] * unit, below[:, None, :, None] * -unit
    hair = texture(FUR, (y + off_y) * 250 + x * 60, (x + off_x) * 250 - y * 40).sub_(0.5)
    soft = texture(CLOUD, (y + off_y * 4) * texels, (x + off_x * 4) * texels)
    weight = wave(x * across + y * along + (soft - 0.5) * 0.5).mul_(stripe).add_(soft * cloud)
    return hair, weight.sub_(threshold).mul_(sharpness).add_(0.5).clamp_(0, 1)
