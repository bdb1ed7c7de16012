"""The pet shop, drawn: animals whose place is known, and a price tag that can mislead.

Everything in scene `index` of `seed` comes from a hash of the two, so it is the same picture at any size,
on any device and in any batch. `Scenes` is a data set of them, `draw_scenes` draws a batch at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lecture7_utils.shop import animals as figures
from lecture7_utils.shop import backdrops
from lecture7_utils.shop.arguments import choice, flag, number, whole
from lecture7_utils.shop.drawing import Dice, colours, column, coverage, paint, rotation
from lecture7_utils.shop.samples import Sample

SPECIES = tuple(figures.RIGS)
"""The species' names; a scene's label is an index into them."""

PLACES = tuple(backdrops.PLACES)
"""The names of the places a scene can be set in."""

PARTS = ("animals", "shadows", "tag")

# the card's colour of each species, in the order of SPECIES; none is its animal's usual colour
_TAGS = colours("2f6fd0", "e0483e", "8b4fb8", "f08a24", "17a6a6", "ec5fa0", "3fa34d", "f2c11f")
_CORD, _INK = colours("5a4632"), colours("fff6e4")
_MOST = 3  # animals in a scene
_SIDES = {1: (0.29, 0.68), 2: (0.29, 0.46), 3: (0.25, 0.36)}  # sqrt(area of an animal's box) over the side
_CHUNK = 60_000  # pixels of animals drawn at once: a few planes of them fit the cache
_SHADOW_CHUNK = 400_000
_BACKDROP_CHUNK = 300_000  # the same for backdrops


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """N scenes of up to A animals, on one device.

    images: float32 [N, 3, S, S] in 0 to 1. labels: int64 [N], the species of animal 0, the one in front.
    species: int64 [N, A], of each animal, -1 where there is none. masks: bool [N, A, S, S], the pixels
    each owns: those it covers by half or more and that nothing in front of it does. boxes: float32
    [N, A, 4], (x1, y1, x2, y2) around each mask in pixels, x2 and y2 exclusive. tags: int64 [N], the
    species whose tag hangs in the scene, or -1. tag_masks: bool [N, S, S]. indices: int64 [N].
    """

    images: Tensor
    labels: Tensor
    species: Tensor
    masks: Tensor
    boxes: Tensor
    tags: Tensor
    tag_masks: Tensor
    indices: Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, position: int) -> Sample:
        """The scene at this position of the batch as a `Sample`."""
        there = self.species[position] >= 0
        index, label = int(self.indices[position]), int(self.labels[position])
        return Sample(
            image=self.images[position],
            label=label,
            masks=self.masks[position][there],
            boxes=self.boxes[position][there],
            labels=self.species[position][there],
            tag_mask=self.tag_masks[position],
            name=f"scene {index} of seed {self.seed}: {SPECIES[label]}",
            tag=int(self.tags[position]),
        )


@dataclass(frozen=True)
class _Options:
    """The options of a scene, checked."""

    seed: int
    size: int
    animals: tuple[int, int]
    mixed: bool
    species: int | tuple[int, ...] | None
    place: str | None
    tag: bool | int | tuple[int, ...]
    tag_follows_species: float
    leave_out: frozenset
    device: torch.device


def _options(
    seed: int = 0,
    size: int = 96,
    animals: int | tuple[int, int] = 1,
    mixed: bool = False,
    species: str | int | Sequence[int] | Tensor | None = None,
    place: str | None = None,
    tag: bool | str | Sequence[int] | Tensor = True,
    tag_follows_species: float = 0.0,
    leave_out: Collection[str] = (),
    device: str | torch.device = "cpu",
) -> _Options:
    if isinstance(animals, tuple | list):
        if len(animals) != 2:
            raise ValueError(f"animals: expected a number or (fewest, most), got {animals!r}")
        fewest, most = (whole(value, "animals", 1, _MOST) for value in animals)
        if fewest > most:
            raise ValueError(f"animals: expected (fewest, most) in this order, got {animals!r}")
    else:
        fewest = most = whole(animals, "animals", 1, _MOST)
    if isinstance(leave_out, str) or not isinstance(leave_out, Collection):
        raise TypeError(f"leave_out: expected a collection of {', '.join(PARTS)}, got {leave_out!r}")
    for part in leave_out:
        choice(part, "leave_out", PARTS)
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected a device such as 'cpu' or 'cuda', got {device!r}") from None
    return _Options(
        whole(seed, "seed", 0, 2**63 - 1),
        whole(size, "size", 64, 256),
        (fewest, most),
        flag(mixed, "mixed"),
        None if species is None else _species(species, "species"),
        None if place is None else choice(place, "place", PLACES),
        tag if isinstance(tag, bool) else _species(tag, "tag"),
        number(tag_follows_species, "tag_follows_species", 0, 1),
        frozenset(leave_out),
        device,
    )


def _species(value: object, name: str) -> int | tuple[int, ...]:
    """One species for all scenes, by name or number, or one for each."""
    if isinstance(value, str):
        return SPECIES.index(choice(value, name, SPECIES))
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.dtype == torch.bool or value.ndim > 1:
            raise TypeError(
                f"{name}: expected a species or an int for each scene, got {value.dtype} {list(value.shape)}"
            )
        value = value.tolist()
    if isinstance(value, Sequence):
        return tuple(
            _species(v, name) if isinstance(v, str) else whole(v, name, 0, len(SPECIES) - 1) for v in value
        )
    return whole(value, name, 0, len(SPECIES) - 1)


def _each(value: int | tuple[int, ...], count: int, name: str) -> Tensor:
    if isinstance(value, tuple) and len(value) != count:
        raise ValueError(f"{name}: expected one species for each of the {count} scenes, got {len(value)}")
    return torch.tensor(value if isinstance(value, tuple) else [value] * count)


def draw_scenes(indices: Sequence[int] | Tensor, **options) -> SceneBatch:
    """Draw a batch of scenes. Scene i of a seed is the same whatever else is in the batch.

    indices: the scenes' numbers, int [N], from 0.
    seed: which world of scenes. size: side of the pictures in pixels, 64 to 256; the scene stays the same.
    animals: how many, or (fewest, most); at most 3. mixed: whether a scene's animals are of different
        species; of one otherwise.
    species: of the animals (of animal 0 if `mixed`), a name for all scenes or one of them for each; None
        leaves it to the dice, each species as often as another.
    place: where the scenes are set, one of `PLACES`; None leaves it to the dice.
    tag: True hangs up a price tag, False none; a species' name (or one for each scene) hangs up that
        species' tag and changes nothing else.
    tag_follows_species: the share of the scenes, 0 to 1, whose tag is sure to be that of animal 0's
        species; in the others it is any species', by chance.
    leave_out: "animals", "shadows" or "tag" are left out of the picture and of its masks; all else stays.
    device: where to draw and where the batch is.
    Raises `TypeError` or `ValueError` naming the argument.
    """
    return _draw(_indices(indices), _options(**options))


def _indices(indices: object) -> Tensor:
    if isinstance(indices, Tensor):
        if indices.is_floating_point() or indices.dtype == torch.bool or indices.ndim != 1:
            raise TypeError(f"indices: expected ints [N], got {indices.dtype} {list(indices.shape)}")
        found = indices.long().cpu()
    elif isinstance(indices, Sequence) and not isinstance(indices, str):
        found = torch.tensor([whole(index, "indices", 0, 2**63 - 1) for index in indices], dtype=torch.long)
    else:
        raise TypeError(f"indices: expected a sequence of ints, got {indices!r}")
    if not len(found):
        raise ValueError("indices: expected at least one, got none")
    if int(found.min()) < 0:
        raise ValueError(f"indices: expected at least 0, got {int(found.min())}")
    return found


def scene(index: int, **options) -> Sample:
    """Draw one scene. The options and errors are those of `draw_scenes`."""
    return draw_scenes([whole(index, "index", 0, 2**63 - 1)], **options).sample(0)


class Scenes(Dataset):
    """A data set of `count` drawn scenes; each item is a `Sample`, drawn when it is asked for.

    count: how many; scenes start … start + count - 1 of the seed. start: the first scene's number, so
    that training and test scenes can be kept apart. The options and errors are those of `draw_scenes`.
    `classes` names the labels. `batch(indices)` draws several items at once, many times as fast, as does a
    `DataLoader` (use `collate_fn=list` or your own: samples are no tensors).
    """

    classes = SPECIES

    def __init__(self, count: int, *, start: int = 0, **options):
        self.count = whole(count, "count", 1)
        self.start = whole(start, "start", 0)
        self.options = _options(**options)
        for name in ("species", "tag"):
            given = getattr(self.options, name)
            if isinstance(given, tuple):
                _each(given, self.count, name)

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        o = self.options
        return f"Scenes({self.count}, start={self.start}, seed={o.seed}, size={o.size}, animals={o.animals})"

    def batch(self, positions: Sequence[int] | Tensor) -> SceneBatch:
        """Draw the items at these positions, 0 … count - 1, as one `SceneBatch`."""
        at = _indices(positions)
        if int(at.max()) >= self.count:
            raise IndexError(f"positions: expected below {self.count}, got {int(at.max())}")
        given = {}
        for name in ("species", "tag"):
            value = getattr(self.options, name)
            if isinstance(value, tuple):
                given[name] = tuple(value[i] for i in at.tolist())
        return _draw(at + self.start, replace(self.options, **given))

    def __getitem__(self, position: int) -> Sample:
        position = whole(position, "position")
        if not -self.count <= position < self.count:
            raise IndexError(f"position: expected below {self.count}, got {position}")
        return self.batch([position % self.count]).sample(0)

    def __getitems__(self, positions: list[int]) -> list[Sample]:
        drawn = self.batch(positions)
        return [drawn.sample(i) for i in range(len(drawn))]


# ---------------------------------------------------------------- the plan: numbers only, on the CPU


@dataclass
class _Animal:
    """The animals of one species in the batch: scene and slot of each, figures, where they stand."""

    scene: Tensor  # int64 [M]
    slot: Tensor  # int64 [M]
    figures: figures.Figures
    centre: Tensor = None  # float64 [M, 2], of (0, 0) of the figure, over the side
    scale: Tensor = None  # float64 [M], side of the picture per unit


@dataclass
class _Plan:
    dice: Dice
    count: Tensor  # int64 [N]
    species: Tensor  # int64 [N, A]
    groups: list[_Animal]
    place: Tensor  # int64 [N]
    back: Tensor  # float64 [N]
    front: Tensor
    light: Tensor
    tag: Tensor  # int64 [N], -1 for none
    card: Tensor  # float64 [N, 5]: centre x, y, half width, half height, degrees


def _plan(indices: Tensor, options: _Options) -> _Plan:
    n = len(indices)
    dice = Dice(options.seed, indices)
    fewest, most = options.animals
    count = fewest + dice.pick("animals", most - fewest + 1)
    species = _cast(dice, count, options)
    light = torch.where(dice.one("side") < 0.5, -1.0, 1.0) * dice.one("slant", 0.55, 1.0)

    groups, left, right, height = [], *torch.zeros(3, n, most, dtype=torch.float64).unbind(0)
    for kind in range(len(SPECIES)):
        at, slot = (species == kind).nonzero(as_tuple=True)
        if len(at):
            drawn = figures.pose(SPECIES[kind], Dice(options.seed, indices[at], slot + 1))
            groups.append(_Animal(at, slot, drawn))
            left[at, slot], right[at, slot], height[at, slot] = (
                drawn.bounds[:, 0],
                drawn.bounds[:, 1],
                drawn.bounds[:, 3],
            )

    scale, x, base = _places(dice, count, left, right, height)
    there = torch.arange(most) < count[:, None]
    lowest = torch.where(there, base, 0.0).amax(1)
    highest = torch.where(there, base, 1.0).amin(1)
    place = dice.pick("place", len(PLACES))
    if options.place is not None:
        place = torch.full_like(place, PLACES.index(options.place))
    on_shelf = place == PLACES.index("shelf")
    back = highest - torch.where(on_shelf, dice.one("back", 0.02, 0.04), dice.one("back", 0.04, 0.30))
    for group in groups:
        group.centre = torch.stack([x[group.scene, group.slot], base[group.scene, group.slot]], 1)
        group.scale = scale[group.scene, group.slot]

    boxes = torch.stack([x + left * scale, base - height * scale, x + right * scale, base], 2)
    boxes = torch.where(there[..., None], boxes, 0.0)
    return _Plan(
        dice, count, species, groups, place, back.clamp(min=0.16), lowest, light,
        _tags(dice, species[:, 0], options), _card(dice, boxes),
    )  # fmt: skip


def _cast(dice: Dice, count: Tensor, options: _Options) -> Tensor:
    """The species of each animal, int64 [N, most], -1 where there is none."""
    n, most = len(count), options.animals[1]
    first = dice.pick("species", len(SPECIES))
    if options.species is not None:
        first = _each(options.species, n, "species")
    cast = first[:, None].repeat(1, most)
    if options.mixed and most > 1:
        # the others are drawn from those that are left
        order = dice(*(f"order {name}" for name in SPECIES))
        order[torch.arange(n), first] = -1.0
        cast = order.argsort(1)[:, :most]
    return torch.where(torch.arange(most) < count[:, None], cast, -1)


def _places(
    dice: Dice, count: Tensor, left: Tensor, right: Tensor, height: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, x and base row of each animal, float64 [N, most], over the side; slot 0 is in front."""
    most = left.shape[1]
    names = range(most)
    width = (right - left).clamp(min=1e-6)
    low, high = (
        torch.tensor([_SIDES[i][k] for i in (1, 2, 3)], dtype=torch.float64)[count - 1] for k in (0, 1)
    )
    side = low[:, None] + (high - low)[:, None] * dice(*(f"side {i}" for i in names))
    scale = side / (width * height).clamp(min=1e-6).sqrt()
    room = torch.tensor([0.92, 0.54, 0.42], dtype=torch.float64)[count - 1][:, None]
    scale = torch.minimum(scale, torch.minimum(room / width, 0.84 / height.clamp(min=1e-6)))

    depth = dice(*(f"depth {i}" for i in names)) * 0.05 + 0.02
    depth[:, 0] = 0
    depth = depth.cumsum(1)
    there = torch.arange(most) < count[:, None]
    least = torch.where(there, height * scale + depth + 0.03, 0.0).amax(1).clamp(min=0.38)
    base = (least + (0.965 - least).clamp(min=0) * dice.one("base"))[:, None] - depth

    wide = width * scale
    free = 0.03 + (0.94 - wide).clamp(min=0) * dice(*(f"x {i}" for i in names))
    # with several animals, each keeps to a lane of its own
    lanes = torch.where(there, dice(*(f"lane {i}" for i in names)), 2.0).argsort(1).argsort(1)
    jitter = (dice(*(f"x {i}" for i in names)) - 0.5) * 0.14
    middle = (lanes + 0.5) / count[:, None] + jitter
    laned = torch.minimum((middle - wide / 2).clamp(min=0.03), 0.97 - wide)
    x = torch.where(count[:, None] == 1, free, laned)
    return scale, x - left * scale, base


def _tags(dice: Dice, species: Tensor, options: _Options) -> Tensor:
    if options.tag is False:
        return torch.full_like(species, -1)
    if options.tag is not True:
        return _each(options.tag, len(species), "tag")
    follows = dice.one("tag follows") < options.tag_follows_species
    return torch.where(follows, species, dice.pick("tag", len(SPECIES)))


def _card(dice: Dice, boxes: Tensor, tries: int = 10) -> Tensor:
    """Where the tag hangs: of some places by chance, the one that hides least of the animals."""
    half = dice.one("tag size", 0.080, 0.098)
    size = torch.stack([half, half * 1.28], 1)
    x = dice(*(f"tag x {i}" for i in range(tries))) * 0.76 + 0.12
    y = dice(*(f"tag y {i}" for i in range(tries))) * 0.42 + 0.17

    def overlap(left, right, top, bottom) -> Tensor:
        boxes_ = boxes[:, :, None]
        across = torch.minimum(right[:, None], boxes_[..., 2]) - torch.maximum(left[:, None], boxes_[..., 0])
        down = torch.minimum(bottom[:, None], boxes_[..., 3]) - torch.maximum(top[:, None], boxes_[..., 1])
        return (across.clamp(min=0) * down.clamp(min=0)).sum(1)

    w, h = size[:, :1] + 0.02, size[:, 1:] + 0.02
    cost = overlap(x - w, x + w, y - h, y + h) + 0.5 * overlap(x - 0.02, x + 0.02, torch.zeros_like(y), y)
    best = (cost * 1e6).floor().argmin(1, keepdim=True)
    return torch.cat([x.gather(1, best), y.gather(1, best), size, dice.one("tag lean", -11, 11)[:, None]], 1)


# ---------------------------------------------------------------- drawing


def _draw(indices: Tensor, options: _Options) -> SceneBatch:
    plan = _plan(indices, options)
    n, most, size, device = len(indices), plan.species.shape[1], options.size, options.device
    images = torch.empty(n, 3, size, size, device=device)
    for kind, name in enumerate(PLACES):
        at = (plan.place == kind).nonzero()[:, 0]
        at = at[plan.back[at].argsort(stable=True)]
        if len(at):
            drawn = backdrops.draw(
                name, plan.dice.at(at), plan.back[at], plan.front[at], plan.light[at], size, device,
                chunk=max(1, _BACKDROP_CHUNK // size**2),
            )  # fmt: skip
            for rows, pictures in drawn:
                images.index_copy_(0, at[rows].to(device), pictures)
    masks = torch.zeros(n, most, size, size, dtype=torch.bool, device=device)
    layers = _layers(plan, options)
    for slot in reversed(range(most)):  # the animals in front last
        for i in range(n):
            for keep, colour, top, left, mask in layers.get((i, slot), ()):
                bottom, right = top + keep.shape[1], left + keep.shape[2]
                part = images[i, :, top:bottom, left:right].mul_(keep)
                if colour is not None:
                    part.add_(colour)
                    masks[i, slot, top:bottom, left:right] = mask
                    if slot + 1 < most:
                        masks[i, slot + 1 :, top:bottom, left:right] &= ~mask
    tag_masks = torch.zeros(n, size, size, dtype=torch.bool, device=device)
    tagged = (plan.tag >= 0).nonzero()[:, 0] if "tag" not in options.leave_out else plan.tag[:0]
    for part in tagged.split(max(1, 4 * _BACKDROP_CHUNK // size**2)):
        if len(part):
            _hang(images, tag_masks, plan, part, size)
    masks &= ~tag_masks[:, None]
    species = plan.species.to(device)
    tags = plan.tag if "tag" not in options.leave_out else torch.full_like(plan.tag, -1)
    return SceneBatch(
        images, species[:, 0].contiguous(), species, masks, _boxes(masks), tags.to(device), tag_masks,
        indices.to(device), options.seed,
    )  # fmt: skip


def _layers(plan: _Plan, options: _Options) -> dict[tuple[int, int], list[tuple]]:
    """What each animal does to its picture: in a window, picture * keep + colour.

    {(scene, slot): [(keep [1, h, w], colour [3, h, w] or None, top, left, mask [h, w] or None)]}
    """
    size, device = options.size, options.device
    layers: dict[tuple[int, int], list[tuple]] = {}

    def lay(keys: list, keep: Tensor, tops: list[int], lefts: list[int], colour=None, mask=None) -> None:
        height, width = keep.shape[2:]
        for k, (key, top, left) in enumerate(zip(keys, tops, lefts, strict=True)):
            rows = slice(max(0, -top), min(height, size - top))
            cols = slice(max(0, -left), min(width, size - left))
            if rows.start < rows.stop and cols.start < cols.stop:
                paint_ = None if colour is None else colour[k, :, rows, cols]
                owned = None if mask is None else mask[k, 0, rows, cols]
                layers.setdefault(key, []).append(
                    (keep[k, :, rows, cols], paint_, top + rows.start, left + cols.start, owned)
                )

    for group in plan.groups:
        scale, centre, light = group.scale * size, group.centre * size, plan.light[group.scene]
        keys = list(zip(group.scene.tolist(), group.slot.tolist(), strict=True))
        if "shadows" not in options.leave_out:
            for part in _chunks(group.figures.bounds[:, 1] * scale, _SHADOW_CHUNK // size):
                at = [keys[k] for k in part.tolist()]
                lay(
                    at,
                    *_shadow(
                        group.figures.bounds[part] * scale[part, None], centre[part], light[part], device
                    ),
                )
        if "animals" not in options.leave_out:
            for stance in (group.figures.stance < 0.5, group.figures.stance >= 0.5):
                alike = stance.nonzero()[:, 0]
                area = (
                    (group.figures.bounds[:, 1] - group.figures.bounds[:, 0])
                    * group.figures.bounds[:, 3]
                    * scale**2
                )
                for part in _chunks(area[alike], _CHUNK):
                    part = alike[part]
                    drawn = figures.draw(
                        group.figures.at(part), centre[part], scale[part], light[part], device
                    )
                    at = [keys[k] for k in part.tolist()]
                    lay(at, 1 - drawn.cover, drawn.top, drawn.left, drawn.colour, drawn.cover >= 0.5)
    return layers


def _chunks(cost: Tensor, most: float) -> list[Tensor]:
    """Positions in order of cost, as many at a time as cost `most` if each costs as much as the dearest."""
    order, parts, start = cost.argsort(stable=True), [], 0
    costs = cost[order].tolist()
    for k, each in enumerate(costs):
        if k > start and (k + 1 - start) * each > most:
            parts.append(order[start:k])
            start = k
    return [*parts, order[start:]] if len(order) else []


def _shadow(
    bounds: Tensor, centre: Tensor, light: Tensor, device: torch.device
) -> tuple[Tensor, list[int], list[int]]:
    """The light that the ground keeps: float32 [M, 1, h, w], and the windows' first rows and columns.

    bounds: float64 [M, 4], left, right, bottom, top of the outline from the centre, in pixels.
    """
    wide, tall = bounds[:, 1] - bounds[:, 0], bounds[:, 3]
    x = centre[:, 0] + (bounds[:, 0] + bounds[:, 1]) / 2 - 0.07 * wide * light  # away from the light
    y = centre[:, 1] - 0.012 * tall
    rx, ry = 0.56 * wide, 0.05 * wide + 0.06 * tall
    left, top = (x - rx).floor(), (y - ry).floor()
    width, height = int((2 * rx).amax().ceil()) + 2, int((2 * ry).amax().ceil()) + 2
    off_x, off_y, rx, ry = (column(value, device) for value in (left + 0.5 - x, top + 0.5 - y, rx, ry))
    dx = (torch.arange(width, device=device).float()[None, None, None, :] + off_x) / rx
    dy = (torch.arange(height, device=device).float()[None, None, :, None] + off_y) / ry
    k = dx * dx + dy * dy
    core = (1 - k * 1.9).clamp_(min=0) * 0.26
    keep = 1 - (1 - k).clamp_(min=0).mul_(0.32).add_(core)
    return keep, top.long().tolist(), left.long().tolist()


def _boxes(masks: Tensor) -> Tensor:
    """Float32 [N, A, 4] around masks [N, A, S, S]; zeros for an empty one."""
    size = masks.shape[-1]
    ink = masks.view(torch.uint8)
    sides = []
    for line in (ink.amax(2), ink.amax(3)):  # over columns, over rows
        sides.append((line.argmax(2), size - line.flip(2).argmax(2)))
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2], 2).float() * line.amax(2)[..., None]


# ---------------------------------------------------------------- the price tag


def _hang(images: Tensor, tag_masks: Tensor, plan: _Plan, at: Tensor, size: int) -> None:
    """Paint the tags of the scenes `at` over the pictures and note which pixels they own."""
    device = images.device
    x, y, half_w, half_h, degrees = plan.card[at].unbind(1)
    cos, sin = rotation(degrees)
    hole_x, hole_y = x + sin * half_h * 0.74, y - cos * half_h * 0.74
    hook = hole_x + plan.dice.one("tag hook", -0.02, 0.02)[at]  # where the string leaves the picture

    def window(left: Tensor, top: Tensor, width: int, height: int) -> tuple[list[tuple], Tensor, Tensor]:
        """Windows of one size as indices of the pictures, and their pixels' centres, 0 to 1."""
        width, height = min(width, size), min(height, size)
        cols = (left * size).floor().long().clamp(0, size - width)
        rows = (top * size).floor().long().clamp(0, size - height)
        places = [
            (i, slice(r, r + height), slice(c, c + width))
            for i, r, c in zip(at.tolist(), rows.tolist(), cols.tolist(), strict=True)
        ]
        u = (cols.to(device)[:, None] + torch.arange(width, device=device)).float()[:, None, None, :] + 0.5
        v = (rows.to(device)[:, None] + torch.arange(height, device=device)).float()[:, None, :, None] + 0.5
        return places, u / size, v / size

    cord = column(_CORD, device)
    light = column(plan.light[at], device)
    species = plan.tag[at].to(device)
    paper = column(_TAGS[plan.tag[at]], device)
    x_, y_, hw, hh, cos, sin, hole_x_, hole_y_, hook_ = (
        column(value, device) for value in (x, y, half_w, half_h, cos, sin, hole_x, hole_y, hook)
    )

    places, u, v = window(
        torch.minimum(hole_x, hook) - 0.02,
        torch.zeros_like(x),
        int(0.06 * size) + 2,
        int(float(hole_y.max()) * size) + 2,
    )
    string = 0.0055 - (u - hook_ - (hole_x_ - hook_) * (v / hole_y_)).abs()
    string = coverage(string.minimum(hole_y_ + 0.004 - v) * size)
    image = torch.stack([images[i, :, rows, cols] for i, rows, cols in places])
    paint(image, cord, string)
    owned = string[:, 0] >= 0.5
    for k, (i, rows, cols) in enumerate(places):
        images[i, :, rows, cols] = image[k]
        tag_masks[i, rows, cols] = owned[k]

    places, u, v = window(x - 0.145, y - 0.175, int(0.29 * size) + 2, int(0.35 * size) + 2)
    p, q = (u - x_) * cos + (v - y_) * sin, (v - y_) * cos - (u - x_) * sin  # the card's own directions
    card = torch.minimum(hw - p.abs(), hh - q.abs())
    card = card.minimum((hw * 0.5 + hh + q - p.abs()) * 0.7071)  # its upper corners are cut off
    image = torch.stack([images[i, :, rows, cols] for i, rows, cols in places])
    shadow = torch.minimum(hw - (p + 0.016 * light).abs(), hh - (q - 0.022).abs()) * (1 / 0.045) + 0.5
    image *= 1 - 0.34 * shadow.clamp_(0, 1)
    body = coverage(card * size)
    ink = column(_INK, device)
    paint(image, ink, body)
    shade = 1.06 - q / hh * 0.10 + p / hw * light * 0.06
    paint(image, (paper * shade).clamp_(0, 1), coverage((card - hw * 0.09) * size))
    unit = hw * 0.62
    paint(image, ink, coverage(_mark(species, p / unit, (q + hh * 0.02) / unit) * unit * size))
    for row, reach in ((0.60, 0.52), (0.76, 0.34)):  # the price, in small print
        bar = torch.minimum(hw * reach - p.abs(), hh * 0.05 - (q - hh * row).abs())
        paint(image, ink, coverage(bar * size).mul_(0.85))
    hole = hw * 0.15 - ((u - hole_x_).square() + (v - hole_y_).square()).sqrt_()
    paint(image, cord, coverage(hole * size))
    owned = body[:, 0] >= 0.5
    for k, (i, rows, cols) in enumerate(places):
        images[i, :, rows, cols] = image[k]
        tag_masks[i, rows, cols] |= owned[k]


def _mark(species: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The species' mark: signed distance of about unit size, p to the right and q down, [N, 1, h, w]."""
    ap, aq = p.abs(), q.abs()
    square = p * p + q * q
    heart = torch.maximum(
        0.5 - ((ap - 0.43) * (ap - 0.43) + (q + 0.28) * (q + 0.28)).sqrt(),
        torch.minimum((0.98 - ap - (q + 0.02).abs()) * 0.7, q + 0.36),
    )
    step = (q / 0.66 + 0.5).floor() * 0.66
    marks = (
        (0.9 - square) * 0.5,  # cat: a disc
        heart,  # dog
        torch.minimum(0.92 - ap, torch.minimum(0.2 - (q - step).abs(), 0.95 - aq)),  # duck: three bars
        torch.minimum(0.72 - q, 0.52 - (0.866 * ap - 0.5 * q)),  # frog: a triangle
        torch.maximum(
            torch.minimum(0.32 - ap, 0.95 - aq), torch.minimum(0.32 - aq, 0.95 - ap)
        ),  # hedgehog: a cross
        (1.1 - ap - aq) * 0.7,  # parrot: a diamond
        0.27 - (square.sqrt() - 0.68).abs(),  # rabbit: a ring
        torch.minimum(0.78 - ap, 0.78 - aq),  # turtle: a square
    )
    found = marks[0]
    for kind in range(1, len(marks)):
        found = torch.where((species == kind)[:, None, None, None], marks[kind], found)
    return found
