"""What is behind the animals: six places of the shop, each drawn for many scenes at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from lecture7_utils.shop.drawing import (
    CLOUD,
    FUR,
    GRAIN,
    Dice,
    colours,
    column,
    coverage,
    paint,
    smooth,
    texture,
    wave,
)

_WALLS = colours(
    "f0dcb8", "e8cfae", "cfd6bd", "b9cfc9", "c4cfdd", "ecc9b6", "e3c9cf", "e6d28f", "a9bfae", "d9b99a", "8fb0b0", "c98f72"
)  # fmt: skip
_TRIMS = colours("fbf3e2", "f4ead6", "e9ddc6", "8a6246", "6f8f86")
_WOODS = colours("c98f57", "b67a45", "d8a870", "9a6840", "e2bd8c", "a9805c", "7f563a")
_SKIES = colours("a9d3ea", "bfe0ee", "f3d9b8", "c9dcef", "f5c9ae")
_GRASS = colours("7fae4c", "8fb55a", "6d9f4f", "a3b858", "85a35c")
_BRIGHT = colours("d9694f", "e8a948", "5f9f95", "7f8fc0", "c9748f", "8fae5a", "e9d3a0", "a9745a", "5f7f9f")


class _Board:
    """The pictures of one place while they are painted.

    u, v: the pixels' centres, 0 to 1 to the right and down, [1, 1, 1, S] and [1, 1, S, 1].
    back, front: [N, 1, 1, 1], where the ground starts at the wall and where its nearest animals stand.
    """

    def __init__(
        self, dice: Dice, back: Tensor, front: Tensor, light: Tensor, size: int, device: torch.device
    ):
        self.dice, self.device, self.size = dice, device, size
        at = (torch.arange(size, device=device) + 0.5) / size
        self.u, self.v = at[None, None, None, :], at[None, None, :, None]
        self.back, self.front, self.light = (column(value, device) for value in (back, front, light))
        self.image = torch.zeros(len(back), 3, size, size, device=device)

    def add(self, draw: Callable[["_Board"], None], share: float) -> None:
        """Let `draw` paint on this share of the scenes."""
        rows = (self.dice.one(draw.__name__) < share).nonzero()[:, 0]
        if not len(rows):
            return
        at = rows.to(self.device)
        part = object.__new__(_Board)
        part.dice, part.device, part.size, part.u, part.v = (
            self.dice.at(rows),
            self.device,
            self.size,
            self.u,
            self.v,
        )
        part.back, part.front, part.light = self.back[at], self.front[at], self.light[at]
        part.image = self.image[at]
        draw(part)
        self.image[at] = part.image

    def number(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        return column(self.dice.one(name, low, high), self.device)

    def colour(self, name: str, palette: Tensor, spread: float = 0.03) -> Tensor:
        return column(self.dice.colour(name, palette, spread), self.device)

    def where(self, name: str, share: float) -> Tensor:
        """1 for this share of the scenes and 0 for the others, [N, 1, 1, 1]."""
        return column((self.dice.one(name) < share).double(), self.device)

    def cover(self, distance: Tensor, blur: float = 0.0) -> Tensor:
        """Coverage of a shape from a signed distance in picture units, with an edge of that width."""
        return coverage(distance * (1 / max(blur, 1 / self.size)))

    def paint(self, colour: Tensor, alpha: Tensor) -> None:
        paint(self.image, colour, alpha)

    def box(self, left, right, top, bottom) -> Tensor:
        """Signed distance to a rectangle."""
        return torch.minimum(
            torch.minimum(self.u - left, right - self.u), torch.minimum(self.v - top, bottom - self.v)
        )

    def disc(self, x, y, rx, ry) -> Tensor:
        """About the signed distance to an ellipse."""
        du, dv = (self.u - x) / rx, (self.v - y) / ry
        return (1 - du * du - dv * dv) * ((rx + ry) * 0.25)

    def line(self, at: Tensor, unit, width: float) -> Tensor:
        """Coverage of lines at whole numbers of `at`, of which `unit` make up a picture's side."""
        gap = (at - (at + 0.5).floor()).abs_()
        return ((width - gap / unit) * self.size + 0.5).clamp_(0, 1)


def _wall(board: _Board) -> Tensor:
    """A painted wall, lighter towards the light; returns its colour."""
    colour = board.colour("wall", _WALLS)
    board.image += colour
    board.image *= (1.05 - 0.10 * board.v) + board.light * (0.5 - board.u) * -0.14
    return colour


def _wallpaper(board: _Board, colour: Tensor) -> None:
    """Stripes, or a trellis with dots, in a neighbour of the wall's colour."""
    other = colour * (1 + column(torch.where(board.dice.one("paper tone") < 0.5, -0.13, 0.10), board.device))
    count = board.number("paper count", 5, 11)
    across = (board.u + board.number("paper u")) * count
    stripes = smooth((wave(across) - 0.5) * (0.25 * board.size / count) + 0.5)
    rise = (board.v + board.number("paper v")) * count
    trellis = wave(across) * wave(rise) + (1 - wave(across)) * (1 - wave(rise))
    dots = ((trellis - 0.82) * (0.35 * board.size / count) + 0.5).clamp_(0, 1)
    kind = board.dice.one("paper")
    board.paint(
        other,
        stripes * column((kind < 0.4).double(), board.device)
        + dots * column(((kind >= 0.4) & (kind < 0.8)).double(), board.device),
    )


def _skirting(board: _Board) -> None:
    """The board along the foot of the wall, and its shadow on the floor."""
    height = board.number("skirting", 0.03, 0.055)
    trim = board.colour("trim", _TRIMS)
    above = board.back - board.v
    board.paint(trim, board.cover(torch.minimum(height - above, above + 1)))
    board.paint(trim * 0.75, board.cover(torch.minimum(above - height, height + 0.008 - above)) * 0.6)


def _floor(board: _Board) -> None:
    """Boards that run away from the eye."""
    wood = board.colour("wood", _WOODS)
    depth = (board.v - board.back).clamp(min=0)
    near = 1 / (depth + 0.24)
    count = board.number("boards", 2.2, 3.6) * near  # boards over a picture's width, by row
    across = (board.u - board.number("vanish", 0.2, 0.8)) * count + board.number("board shift")
    lane = across.floor()
    tone = lane * 0.618034 + board.number("tone")
    tone = tone - tone.floor()
    away = near * 1.9
    along = tone * 5 + away
    grain = texture(GRAIN, across * 110, (away + tone * 3) * 220)
    plank = wood * (((tone * 0.20 + grain * 0.17) + 0.76) * (0.88 + 0.35 * depth))
    seams = board.line(across, count, 0.0022)
    seams = torch.maximum(seams, board.line(along, 1.9 * near * near, 0.0016))
    plank *= 1 - seams * 0.45
    alpha = board.cover(board.v - board.back)
    board.paint(plank, alpha)
    shadow = (1 - depth * 14).clamp(0, 1) * alpha
    board.image *= 1 - 0.28 * shadow


def _plant(board: _Board) -> None:
    """A potted plant at one side, standing at the foot of the wall."""
    side = board.where("plant side", 0.5)
    x = side * board.number("plant x", 0.02, 0.16) + (1 - side) * (1 - board.number("plant x", 0.02, 0.16))
    foot = board.back + 0.03
    scale = board.number("plant size", 0.8, 1.3)
    green = board.colour("leaf", colours("6f9a5a", "5c8a60", "86a65a", "4f7a58"))
    for i, (dx, dy) in enumerate(
        ((-0.16, -0.14), (0.16, -0.12), (-0.11, -0.25), (0.12, -0.23), (0.01, -0.31))
    ):
        # a leaf is where two discs overlap
        tx, ty = dx * scale, dy * scale
        mx, my, nx, ny = x + tx * 0.5, foot - 0.09 * scale + ty * 0.5, -ty, tx
        reach = (nx * nx + ny * ny).sqrt()
        radius = reach * 0.92
        off = 0.75
        leaf = torch.minimum(
            board.disc(mx + nx * off, my + ny * off, radius, radius),
            board.disc(mx - nx * off, my - ny * off, radius, radius),
        )
        board.paint(green * (0.78 + 0.09 * i), board.cover(leaf, 0.012))
    width = 0.065 * scale - (board.v - foot) * -0.22
    pot = torch.minimum(
        torch.minimum(board.v - (foot - 0.12 * scale), foot - board.v), width - (board.u - x).abs()
    )
    clay = board.colour("pot", colours("c4704a", "d98e62", "efe0c8", "7f9fa5"))
    board.paint(clay * (1 - (board.u - x) * 3 * 1.0), board.cover(pot, 0.006))


def _frame(board: _Board) -> None:
    """A picture on the wall."""
    x, y = board.number("frame x", 0.2, 0.8), board.back * board.number("frame y", 0.25, 0.5)
    w, h = board.number("frame w", 0.09, 0.15), board.number("frame h", 0.08, 0.13)
    board.paint(
        board.image * 0.78, board.cover(board.box(x - w, x + w + 0.02, y - h, y + h + 0.025), 0.03) * 0.8
    )
    board.paint(board.colour("frame wood", _WOODS) * 0.85, board.cover(board.box(x - w, x + w, y - h, y + h)))
    inside = board.cover(board.box(x - w + 0.016, x + w - 0.016, y - h + 0.016, y + h - 0.016))
    sky = board.colour("frame sky", _SKIES)
    board.paint(sky, inside)
    board.paint(
        board.colour("frame hill", _BRIGHT),
        inside * board.cover(board.disc(x - 0.05, y + h, w * 0.9, h * 1.1), 0.01),
    )
    board.paint(
        board.colour("frame far", _GRASS),
        inside * board.cover(board.disc(x + 0.06, y + h, w * 0.8, h * 0.7), 0.01),
    )


def _room(board: _Board) -> None:
    _wallpaper(board, _wall(board))
    board.add(_frame, 0.45)
    _skirting(board)
    _floor(board)
    board.add(_plant, 0.45)


def _pane(board: _Board) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The window's middle, half width, top and bottom."""
    x, w = board.number("window x", 0.22, 0.78), board.number("window w", 0.15, 0.24)
    return x, w, board.number("window top", -0.12, 0.06), board.back * board.number("window foot", 0.62, 0.82)


def _curtains(board: _Board) -> None:
    x, w, _, bottom = _pane(board)
    fold, cloth = board.number("curtain", 0.05, 0.09), board.colour("cloth", _BRIGHT, 0.02)
    across = (board.u - x).abs() - (w + 0.03)
    hang = torch.minimum(fold - across.abs() - (board.v - bottom) * 0.03, bottom + 0.09 - board.v)
    board.paint(cloth * (0.84 + 0.2 * wave(across * 26)), board.cover(hang, 0.008))


def _window(board: _Board) -> None:
    _wall(board)
    x, w, top, bottom = _pane(board)
    trim = board.colour("trim", _TRIMS[:3])
    board.paint(
        board.image * 0.8, board.cover(board.box(x - w - 0.01, x + w + 0.05, top, bottom + 0.05), 0.05) * 0.7
    )
    board.paint(trim, board.cover(board.box(x - w - 0.022, x + w + 0.022, top - 0.02, bottom + 0.02)))
    board.paint(trim * 0.93, board.cover(board.box(x - w - 0.045, x + w + 0.045, bottom, bottom + 0.028)))
    pane = board.cover(board.box(x - w, x + w, top, bottom))
    sky = board.colour("sky", _SKIES)
    cloud = smooth(
        texture(CLOUD, (board.v + board.number("cloud v")) * 420, (board.u + board.number("cloud u")) * 260)
        * 2.2
        - 1.1
    )
    board.paint(sky + (1.0 - sky) * (cloud * 0.75), pane)
    hill = board.number("hill", 0.55, 0.8)
    ground = top + (bottom - top) * hill
    roll = (board.u - board.number("hill u")) * 2.2
    board.paint(
        board.colour("hill green", _GRASS) * 0.95,
        pane * board.cover(board.v - ground - wave(roll) * 0.05, 0.012),
    )
    bar = torch.maximum(0.007 - (board.u - x).abs(), 0.007 - (board.v - (top + bottom) * 0.5).abs())
    board.paint(trim, pane * board.cover(bar))
    board.add(_curtains, 0.55)
    _skirting(board)
    _floor(board)
    # the window's light on the floor, leaning away from it
    lean = (board.v - board.back) * board.light * -0.9
    patch = torch.minimum(w * 1.15 - (board.u - x - lean).abs(), board.v - board.back - 0.03)
    patch = torch.minimum(patch, board.back + 0.34 - board.v)
    board.image *= 1 + column(torch.tensor([[0.34, 0.29, 0.16]]), board.device) * board.cover(patch, 0.035)
    board.add(_plant, 0.3)


def _shelf(board: _Board) -> None:
    wood = board.colour("wood", _WOODS)
    count = board.number("planks", 4, 8)
    across = (board.u + board.number("plank shift")) * count
    tone = across.floor() * 0.618034 + board.number("tone")
    tone = tone - tone.floor()
    grain = texture(GRAIN, across * 120, board.v * 130 + tone * 300)
    board.image += wood * ((tone * 0.10 + grain * 0.12) + 0.50)
    board.image *= 1 - 0.4 * board.line(across, count, 0.003)
    board.image *= 0.78 + 0.5 * smooth(
        board.back * 1.1 - (board.back - board.v).abs()
    )  # deep in the shelf it is darker
    for i in range(5):  # boxes and jars, out of focus
        here = board.where(f"jar {i}", 0.8)
        x = (i + board.number(f"jar x {i}", 0.1, 0.9)) / 5
        w, h = board.number(f"jar w {i}", 0.045, 0.085), board.number(f"jar h {i}", 0.10, 0.30)
        tint = board.colour(f"jar {i}", _BRIGHT, 0.05) * 0.86
        jar = board.box(x - w, x + w, board.back - h, board.back + 0.02)
        roundness = 1.08 - ((board.u - x) / w + board.light * -0.3).square() * 0.32
        board.paint(tint * roundness, board.cover(jar, 0.028) * here)
        label = board.box(x - w * 0.66, x + w * 0.66, board.back - h * 0.62, board.back - h * 0.3)
        board.paint(tint * 0.35 + 0.6, board.cover(label, 0.028) * here * 0.8)
    top = board.cover(board.v - board.back, 0.012)
    depth = board.v - board.back
    face = texture(GRAIN, board.v * 900, (board.u + board.number("face")) * 150)
    board.paint(wood * ((0.84 + 1.2 * depth).clamp(max=1.12) + face * 0.14), top)
    board.image *= 1 - 0.35 * top * (1 - depth * 16).clamp(0, 1)
    edge = board.front + 0.035
    thick = board.number("thickness", 0.05, 0.075)
    rim = board.cover(board.v - edge)
    board.paint(wood * (0.72 + face * 0.16), rim)
    board.paint(wood * 1.18, board.cover(0.005 - (board.v - edge).abs()) * 0.7)
    under = board.cover(board.v - edge - thick)
    below = (board.v - edge - thick).clamp(min=0)
    board.paint(wood * (0.30 + 0.9 * below + grain * 0.1), under)


def _fence(board: _Board) -> None:
    count = board.number("fence count", 7, 11)
    posts = (0.16 - ((board.u * count) - (board.u * count + 0.5).floor()).abs()) / count
    top = board.back - 0.10
    posts = torch.minimum(posts, torch.minimum(board.v - top, board.back + 0.02 - board.v))
    rails = torch.maximum(
        0.009 - (board.v - board.back + 0.072).abs(), 0.009 - (board.v - board.back + 0.03).abs()
    )
    plank = board.colour("fence", colours("fbf3e2", "b98a5c", "e8dcc6", "9fb0a0"))
    board.paint(plank * 0.9, board.cover(rails))
    board.paint(plank, board.cover(posts))


def _meadow(board: _Board) -> None:
    sky = board.colour("sky", _SKIES)
    board.image += sky + (1 - sky) * ((board.v / board.back).clamp(max=1) * 0.55)
    cloud = texture(
        CLOUD, (board.v + board.number("cloud v")) * 330, (board.u + board.number("cloud u")) * 170
    )
    board.paint(torch.ones(1, 3, 1, 1, device=board.device), smooth(cloud * 2.4 - 1.25) * 0.85)
    green = board.colour("grass", _GRASS)
    haze = sky * 0.5 + green * 0.45
    for i, (height, blend) in enumerate(((0.17, 0.25), (0.09, 0.6))):
        t = (board.u + board.number(f"hill {i}")) * (1.1 + 0.7 * i)
        roll = wave(t)
        roll = roll * roll * (3 - 2 * roll)
        ridge = board.back - height * (0.35 + 0.65 * roll)
        board.paint(haze + (green * 0.92 - haze) * blend, board.cover(board.v - ridge, 0.008))
    board.add(_fence, 0.5)
    depth = (board.v - board.back).clamp(min=0)
    near = 1 / (depth + 0.2)
    ragged = texture(FUR, board.v * 10, board.u * 420) * 0.022
    lawn = board.cover(board.v - board.back + ragged - 0.008)
    blades = texture(FUR, near * 260, (board.u - 0.5) * near * 120 + board.number("blades") * 300)
    swell = texture(CLOUD, near * 90, (board.u - 0.5) * near * 60 + board.number("swell") * 300)
    board.paint(green * ((blades * 0.34 + swell * 0.22) + (0.64 + 0.4 * depth)), lawn)
    # flowers: one cell of the lawn in three has one, somewhere in the cell
    across, away = (board.u - 0.5) * near * 5 + board.number("flower u") * 9, near * 5
    cell_u, cell_v = across.floor(), away.floor()
    chance = cell_u * 0.618034 + cell_v * 0.7548777 + board.number("flower chance")
    chance = chance - chance.floor()
    jitter = chance * 7 - (chance * 7).floor()
    du, dv = (
        (across - cell_u - 0.3 - 0.4 * jitter) / (near * 5),
        (away - cell_v - 0.7 + 0.4 * jitter) / (near * near * 5),
    )
    bloom = board.cover(0.011 - (du * du + dv * dv).sqrt()) * lawn
    petal = board.colour("petal", colours("fff6e0", "f6d258", "f0a0a0", "c9a0e0"), 0.0)
    board.paint(petal, bloom * (chance > 0.62) * board.where("flowers", 0.75))


def _tiles(board: _Board) -> None:
    colour = _wall(board)
    count = board.number("tiles", 5, 9)
    rows = board.v * count * 1.6
    offset = (rows.floor() * 0.5) - (rows.floor() * 0.5).floor()
    across = board.u * count + offset + board.number("tile shift")
    tone = across.floor() * 0.618034 + rows.floor() * 0.7548777
    tone = tone - tone.floor()
    board.image *= 0.94 + 0.12 * tone
    sheen = (across - across.floor()) * 0.5 + (rows - rows.floor()) * 0.5
    board.image *= 1.04 - 0.08 * sheen
    grout = torch.maximum(board.line(across, count, 0.0045), board.line(rows, count * 1.6, 0.0045))
    board.paint(colour * 0.5 + 0.42, grout * 0.8)
    border = board.colour("border", _BRIGHT)
    line = board.back * board.number("border v", 0.35, 0.7)
    board.paint(border, board.cover(0.022 - (board.v - line).abs()) * board.where("border", 0.6))
    _skirting(board)
    depth = (board.v - board.back).clamp(min=0)
    near = 1 / (depth + 0.24)
    unit = board.number("slabs", 2.0, 3.2) * near
    slabs, away = (
        (board.u - board.number("vanish", 0.25, 0.75)) * unit,
        near * board.number("slab rows", 2.0, 2.8),
    )
    odd = (slabs.floor() + away.floor()) * 0.5
    odd = (odd - odd.floor()) * 2
    light, dark = board.colour("slab", _TRIMS[:3]), board.colour("slab 2", _BRIGHT) * 0.55 + 0.3
    fleck = texture(CLOUD, away * 400, slabs * 400)
    floor = (light + (dark - light) * odd) * ((fleck * 0.10 + 0.84) + 0.25 * depth)
    floor *= 1 - 0.3 * board.line(slabs, unit, 0.002)
    alpha = board.cover(board.v - board.back)
    board.paint(floor, alpha)
    board.image *= 1 - 0.26 * (1 - depth * 14).clamp(0, 1) * alpha
    board.add(_plant, 0.3)


def _rug(board: _Board) -> None:
    colour = _wall(board)
    rail = board.back * board.number("rail", 0.45, 0.7)
    panel = board.cover(torch.minimum(board.v - rail, board.back - board.v))
    board.paint(colour * 0.86, panel)
    count = board.number("panels", 6, 12)
    board.paint(colour * 0.70, panel * board.line(board.u * count, count, 0.004))
    board.paint(board.colour("trim", _TRIMS), board.cover(0.011 - (board.v - rail).abs()))
    board.add(_frame, 0.7)
    _skirting(board)
    _floor(board)
    x, rx = board.number("rug x", 0.3, 0.7), board.number("rug w", 0.42, 0.62)
    ry = torch.minimum(board.number("rug h", 0.12, 0.2), board.front - 0.02 - board.back).clamp(min=0.05)
    y = torch.maximum(board.front - 0.02, board.back + ry + 0.03)
    du, dv = (board.u - x) / rx, (board.v - y) / ry
    k = du * du + dv * dv
    edge = (1 - k) * (ry * 0.6)
    cloth, other = board.colour("rug", _BRIGHT), board.colour("rug 2", _BRIGHT) * 0.5 + 0.42
    weave = texture(FUR, board.v * 700, board.u * 700)
    rings = smooth((wave(k * board.number("rings", 1.5, 3.0)) - 0.5) * 6 + 0.5)
    board.image *= 1 - 0.3 * board.cover(edge + 0.012, 0.03)
    board.paint((cloth + (other - cloth) * rings) * (0.88 + 0.18 * weave), board.cover(edge, 0.006))
    board.add(_plant, 0.3)


PLACES: dict[str, Callable[[_Board], None]] = {
    "room": _room,
    "window": _window,
    "shelf": _shelf,
    "meadow": _meadow,
    "tiles": _tiles,
    "rug": _rug,
}


def draw(
    place: str, dice: Dice, back: Tensor, front: Tensor, light: Tensor, size: int, device: torch.device
) -> Tensor:
    """Draw N pictures of one place: float32 [N, 3, size, size].

    dice: of the scenes; back, front: float64 [N], the rows (0 to 1) where the ground meets the wall and
    where its nearest animals stand; light: float64 [N], where the light comes from, -1 (left) to 1.
    """
    board = _Board(dice, back, front, light, size, device)
    PLACES[place](board)
    du, dv = board.u - 0.5 - 0.25 * board.light, board.v - 0.42
    warm = column(torch.tensor([[1.0, 0.97, 0.90]]), device)
    board.image *= (1.10 - 0.50 * (du * du + dv * dv)) * (warm * 0.5 + 0.5)
    return board.image.clamp_(0, 1)
