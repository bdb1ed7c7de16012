"""What is behind the animals: six places of the shop, each drawn for many scenes at once."""

import copy
import math
from collections.abc import Callable, Hashable, Iterator

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
    "f0dcb8", "e8cfae", "cfd6bd", "b9cfc9", "c4cfdd", "ecc9b6",
    "e3c9cf", "e6d28f", "a9bfae", "d9b99a", "8fb0b0", "c98f72",
)  # fmt: skip
_TRIMS = colours("fbf3e2", "f4ead6", "e9ddc6", "8a6246", "6f8f86")
_PALE_TRIMS = _TRIMS[:3]
_LEAVES = colours("6f9a5a", "5c8a60", "86a65a", "4f7a58")
_LEAF_TIPS = torch.tensor([(-0.16, -0.14), (0.16, -0.12), (-0.11, -0.25), (0.12, -0.23), (0.01, -0.31)])
_POTS = colours("c4704a", "d98e62", "efe0c8", "7f9fa5")
_PETALS = colours("fff6e0", "f6d258", "f0a0a0", "c9a0e0")
_FENCES = colours("fbf3e2", "b98a5c", "e8dcc6", "9fb0a0")
_WOODS = colours("c98f57", "b67a45", "d8a870", "9a6840", "e2bd8c", "a9805c", "7f563a")
_SKIES = colours("a9d3ea", "bfe0ee", "f3d9b8", "c9dcef", "f5c9ae")
_GRASS = colours("7fae4c", "8fb55a", "6d9f4f", "a3b858", "85a35c")
_BRIGHT = colours("d9694f", "e8a948", "5f9f95", "7f8fc0", "c9748f", "8fae5a", "e9d3a0", "a9745a", "5f7f9f")


class _Board:
    """The pictures of one place while they are painted, or a window of them.

    u, v: the pixels' centres, 0 to 1 to the right and down, [1, 1, 1, w] and [1, 1, h, 1].
    back, front: [N, 1, 1, 1], where the ground starts at the wall and where its nearest animals stand.
    image: [N, 3, h, w], colours without light; lit: [N, 1, h, w], the light on them, multiplied in last.
    """

    def __init__(
        self, dice: Dice, back: Tensor, front: Tensor, light: Tensor, size: int, device: torch.device
    ):
        self.dice, self.device, self.size = dice, device, size
        centres = (torch.arange(size, device=device) + 0.5) / size
        self.u, self.v = centres[None, None, None, :], centres[None, None, :, None]
        # what the dice say, as columns for all scenes; a board of some of them picks its rows
        self._thrown = {
            "back": column(back, device),
            "front": column(front, device),
            "light": column(light, device),
        }
        self._chosen: slice | Tensor = slice(None)
        self.rows, self.cols = slice(0, size), slice(0, size)
        self.image = self.lit = torch.empty(0)
        self._whole: _Board | None = None  # where a copied window comes from
        self._at = torch.empty(0)
        self._copies: list[_Board] = []

    @property
    def back(self) -> Tensor:
        return self._thrown["back"][self._chosen]

    @property
    def front(self) -> Tensor:
        return self._thrown["front"][self._chosen]

    @property
    def light(self) -> Tensor:
        return self._thrown["light"][self._chosen]

    def only(self, rows: slice) -> "_Board":
        """A fresh board for these scenes."""
        part = copy.copy(self)
        part._chosen = rows
        count = len(part.back)
        part.image = torch.empty(count, 3, self.size, self.size, device=self.device)
        part.lit = torch.ones(count, 1, self.size, self.size, device=self.device)
        return part

    def window(self, left=0.0, right=1.0, top=0.0, bottom=1.0) -> "_Board":
        """The part of the pictures between these lines, the outermost of all; painting it paints them."""

        def pixels(low, high) -> slice:
            low, high = (
                float(value.aminmax()[i]) if isinstance(value, Tensor) else value
                for i, value in enumerate((low, high))
            )
            first = min(max(0, math.floor(low * self.size) - 1), self.size - 1)
            return slice(first, max(first + 1, min(self.size, math.ceil(high * self.size) + 1)))

        part = copy.copy(self)
        part.rows, part.cols = pixels(top, bottom), pixels(left, right)
        part.u, part.v = self.u[..., part.cols], self.v[:, :, part.rows]
        part.image, part.lit = self.image[:, :, part.rows, part.cols], self.lit[:, :, part.rows, part.cols]
        if self._whole is not None:
            part.image, part.lit = part.image.index_select(0, self._at), part.lit.index_select(0, self._at)
            self._copies.append(part)
        return part

    def add(self, draw: Callable[["_Board"], None], name: str, low: float, high: float) -> None:
        """Let `draw` paint on the scenes whose number of this name is in [low, high), in a window."""
        thrown = self.number(name).flatten()
        at = ((thrown >= low) & (thrown < high)).nonzero()[:, 0]
        if not len(at):
            return
        part = copy.copy(self)
        part._whole, part._at, part._copies = self, at, []
        part._chosen = torch.arange(len(self._thrown["back"]), device=self.device)[self._chosen][at]
        draw(part)
        for copied in part._copies:
            self.image[:, :, copied.rows, copied.cols].index_copy_(0, at, copied.image)
            self.lit[:, :, copied.rows, copied.cols].index_copy_(0, at, copied.lit)

    def _read(self, key: Hashable, throw: Callable[[], Tensor]) -> Tensor:
        if key not in self._thrown:
            self._thrown[key] = column(throw(), self.device)
        return self._thrown[key][self._chosen]

    def number(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self._read((name, low, high), lambda: self.dice.one(name, low, high))

    def colour(self, name: str, palette: Tensor, spread: float = 0.03) -> Tensor:
        return self._read((name, id(palette)), lambda: self.dice.colour(name, palette, spread))

    def where(self, name: str, share: float) -> Tensor:
        """1 for this share of the scenes and 0 for the others, [N, 1, 1, 1]."""
        return self._read((name, share), lambda: (self.dice.one(name) < share).double())

    def cover(self, distance: Tensor, blur: float = 0.0) -> Tensor:
        """Coverage of a shape from a signed distance in picture units, with an edge of that width."""
        return coverage(distance * (1 / max(blur, 1 / self.size)))

    def paint(self, colour: Tensor, alpha: Tensor, shade: Tensor | float = 1.0) -> None:
        """Lay a colour in a light over the pictures; all broadcast."""
        paint(self.image, colour, alpha)
        if not isinstance(shade, Tensor):
            shade = torch.full((1, 1, 1, 1), shade, device=self.device)
        paint(self.lit, shade, alpha)

    def box(self, left, right, top, bottom) -> Tensor:
        """Signed distance to a rectangle."""
        across = torch.minimum(self.u - left, right - self.u)
        return torch.minimum(across, torch.minimum(self.v - top, bottom - self.v))

    def disc(self, x, y, rx, ry) -> Tensor:
        """About the signed distance to an ellipse."""
        du, dv, unit = (self.u - x) / rx, (self.v - y) / ry, (rx + ry) * 0.25
        return (unit - du * du * unit) - dv * dv * unit

    def line(self, at: Tensor, unit, width: float) -> Tensor:
        """Coverage of lines at whole numbers of `at`, of which `unit` make up a picture's side."""
        gap = (at - (at + 0.5).floor_()).abs_()
        return gap.mul_(-self.size / unit).add_(width * self.size + 0.5).clamp_(0, 1)


def _wall(board: _Board) -> Tensor:
    """A painted wall, lighter towards the light; returns its colour."""
    colour = board.colour("wall", _WALLS)
    board.image.copy_(colour.expand_as(board.image))
    board.lit *= (1.05 - 0.10 * board.v) + board.light * (0.5 - board.u) * -0.14
    return colour


def _skirting(board: _Board) -> None:
    """The board along the foot of the wall."""
    height = board.number("skirting", 0.03, 0.055)
    board = board.window(top=board.back - 0.07, bottom=board.back)
    above = board.back - board.v
    board.paint(board.colour("trim", _TRIMS), board.cover(height - above))
    board.lit *= 1 - 0.2 * board.cover(torch.minimum(above - height, height + 0.008 - above))


def _ground(board: _Board) -> tuple[_Board, Tensor, Tensor, Tensor]:
    """The window below the wall: its board, depth from the wall, rows' nearness, and coverage."""
    board = board.window(top=board.back)
    depth = (board.v - board.back).clamp(min=0)
    alpha = board.cover(board.v - board.back)
    return board, depth, 1 / (depth + 0.24), alpha


def _floor(board: _Board) -> None:
    """Boards that run away from the eye."""
    board, depth, near, alpha = _ground(board)
    count = board.number("boards", 2.2, 3.6) * near  # boards over a picture's width, by row
    across = (board.u - board.number("vanish", 0.2, 0.8)) * count + board.number("board shift")
    tone = across.floor().mul_(0.618034).add_(board.number("tone"))
    tone -= tone.floor()
    away = near * 1.9
    grain = texture(GRAIN, across * 110, (tone * 3 + away) * 220)
    seams = board.line(across, count, 0.0022)
    seams = torch.maximum(seams, board.line(tone * 5 + away, away * near, 0.0016))
    shade = (0.88 + 0.35 * depth) * (1 - 0.28 * (1 - depth * 14).clamp(0, 1))
    plank = (tone.mul_(0.20).add_(grain.mul_(0.17)).add_(0.76)).mul_(shade)
    board.paint(board.colour("wood", _WOODS), alpha, plank.mul_(1 - seams.mul_(0.45)))


def _plants(board: _Board, share: float) -> None:
    """A potted plant at one side, standing at the foot of the wall, in this share of the scenes."""
    board.add(lambda part: _plant(part, 0.0, 0.44, 0), "plant", 0, share / 2)
    board.add(lambda part: _plant(part, 0.56, 1.0, 1), "plant", share / 2, share)


def _plant(board: _Board, left: float, right: float, side: int) -> None:
    scale, foot = board.number("plant size", 0.8, 1.3), board.back + 0.03
    board = board.window(left, right, foot - scale * 0.46, foot)
    x = (board.number("plant x", 0.02, 0.16) - side).abs()
    # a leaf is where two discs overlap; all at once, [N, 5, h, w]
    tip = _LEAF_TIPS.to(board.device)
    tx, ty = tip[:, 0][None, :, None, None] * scale, tip[:, 1][None, :, None, None] * scale
    mx, my, nx, ny = x + tx * 0.5, foot - 0.09 * scale + ty * 0.5, -0.75 * ty, 0.75 * tx
    radius = (tx * tx + ty * ty).sqrt() * 0.92
    leaves = board.disc(mx + nx, my + ny, radius, radius).minimum(
        board.disc(mx - nx, my - ny, radius, radius)
    )
    green = board.colour("leaf", _LEAVES)
    for i, alpha in enumerate(board.cover(leaves, 0.012).split(1, 1)):
        board.paint(green, alpha, 0.78 + 0.09 * i)
    width = 0.065 * scale - (board.v - foot) * -0.22
    pot = torch.minimum(board.v - (foot - 0.12 * scale), foot - board.v).minimum(width - (board.u - x).abs())
    board.paint(board.colour("pot", _POTS), board.cover(pot, 0.006), 1 - (board.u - x) * 3)


def _frame(board: _Board) -> None:
    """A picture on the wall."""
    x, y = board.number("frame x", 0.2, 0.8), board.back * board.number("frame y", 0.25, 0.5)
    w, h = board.number("frame w", 0.09, 0.15), board.number("frame h", 0.08, 0.13)
    board = board.window(x - w - 0.05, x + w + 0.05, y - h - 0.05, y + h + 0.05)
    board.lit *= 1 - 0.18 * board.cover(board.box(x - w, x + w + 0.02, y - h, y + h + 0.025), 0.03)
    board.paint(board.colour("frame wood", _WOODS), board.cover(board.box(x - w, x + w, y - h, y + h)), 0.85)
    inside = board.cover(board.box(x - w + 0.016, x + w - 0.016, y - h + 0.016, y + h - 0.016))
    board.paint(board.colour("frame sky", _SKIES), inside)
    hill = board.cover(board.disc(x - 0.05, y + h, w * 0.9, h * 1.1), 0.01)
    board.paint(board.colour("frame hill", _BRIGHT), hill.mul_(inside))
    hill = board.cover(board.disc(x + 0.06, y + h, w * 0.8, h * 0.7), 0.01)
    board.paint(board.colour("frame far", _GRASS), hill.mul_(inside))


def _wallpaper(board: _Board, dotted: bool) -> None:
    """Stripes, or a trellis with dots, in a neighbour of the wall's colour."""
    board = board.window(bottom=board.back)
    tone = 1.10 - 0.23 * board.where("paper tone", 0.5)
    count = board.number("paper count", 5, 11)
    across = wave((board.u + board.number("paper u")) * count)
    if dotted:
        rise = wave((board.v + board.number("paper v")) * count)
        trellis = across * rise + (1 - across) * (1 - rise)
        marks = ((trellis - 0.82) * (0.35 * board.size / count) + 0.5).clamp_(0, 1)
    else:
        marks = smooth((across - 0.5) * (0.25 * board.size / count) + 0.5)
    board.lit *= 1 + (tone - 1) * marks


def _room(board: _Board) -> None:
    _wall(board)
    board.add(lambda part: _wallpaper(part, False), "paper", 0, 0.4)
    board.add(lambda part: _wallpaper(part, True), "paper", 0.4, 0.8)
    board.add(_frame, "frame", 0, 0.45)
    _skirting(board)
    _floor(board)
    _plants(board, 0.45)


def _pane(board: _Board) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The window's middle, half width, top and bottom."""
    x, w = board.number("window x", 0.22, 0.78), board.number("window w", 0.15, 0.24)
    return x, w, board.number("window top", -0.12, 0.06), board.back * board.number("window foot", 0.62, 0.82)


def _curtains(board: _Board) -> None:
    x, w, _, bottom = _pane(board)
    board = board.window(x - w - 0.15, x + w + 0.15, 0, bottom + 0.1)
    fold, cloth = board.number("curtain", 0.05, 0.09), board.colour("cloth", _BRIGHT, 0.02)
    across = (board.u - x).abs() - (w + 0.03)
    hang = (fold - across.abs() - (board.v - bottom) * 0.03).minimum(bottom + 0.09 - board.v)
    board.paint(cloth, board.cover(hang, 0.008), 0.84 + 0.2 * wave(across * 26))


def _glass(board: _Board) -> None:
    x, w, top, bottom = _pane(board)
    board = board.window(x - w - 0.06, x + w + 0.06, 0, bottom + 0.08)
    trim = board.colour("trim", _PALE_TRIMS)
    board.lit *= 1 - 0.15 * board.cover(board.box(x - w - 0.01, x + w + 0.05, top, bottom + 0.05), 0.05)
    board.paint(trim, board.cover(board.box(x - w - 0.022, x + w + 0.022, top - 0.02, bottom + 0.02)))
    board.paint(trim, board.cover(board.box(x - w - 0.045, x + w + 0.045, bottom, bottom + 0.028)), 0.93)
    pane = board.cover(board.box(x - w, x + w, top, bottom))
    sky, white = board.colour("sky", _SKIES), torch.ones(1, 1, 1, 1, device=board.device)
    board.paint(sky, pane)
    cloud = texture(
        CLOUD, (board.v + board.number("cloud v")) * 420, (board.u + board.number("cloud u")) * 260
    )
    paint(board.image, white, smooth(cloud * 2.2 - 1.1).mul_(pane).mul_(0.75))
    ground = top + (bottom - top) * board.number("hill", 0.55, 0.8)
    roll = wave((board.u - board.number("hill u")) * 2.2) * 0.05
    board.paint(
        board.colour("hill green", _GRASS), board.cover(board.v - ground - roll, 0.012).mul_(pane), 0.95
    )
    bar = torch.maximum(0.007 - (board.u - x).abs(), 0.007 - (board.v - (top + bottom) * 0.5).abs())
    board.paint(trim, board.cover(bar).mul_(pane))


def _window(board: _Board) -> None:
    _wall(board)
    _glass(board)
    board.add(_curtains, "curtains", 0, 0.55)
    _skirting(board)
    _floor(board)
    # the window's light on the floor, leaning away from it
    x, w, _, _ = _pane(board)
    sun = board.window(top=board.back, bottom=board.back + 0.37)
    lean = (sun.v - sun.back) * sun.light * -0.9
    patch = (w * 1.15 - (sun.u - x - lean).abs()).minimum(
        torch.minimum(sun.v - sun.back - 0.03, sun.back + 0.34 - sun.v)
    )
    sun.image *= 1 + column(torch.tensor([[0.34, 0.29, 0.16]]), board.device) * board.cover(patch, 0.035)
    _plants(board, 0.3)


def _shelf(board: _Board) -> None:
    wood, depth = board.colour("wood", _WOODS), board.v - board.back
    edge, thick = board.front + 0.035, board.number("thickness", 0.05, 0.075)
    board.image.copy_(wood.expand_as(board.image))
    # the wall behind, darker deep in the shelf, and dark below it
    count = board.number("planks", 4, 8)
    across = (board.u + board.number("plank shift")) * count
    tone = across.floor() * 0.618034 + board.number("tone")
    tone = tone - tone.floor()
    grain = texture(GRAIN, across * 120, board.v * 130 + tone * 300)
    below = board.v - edge - thick
    shade = 0.78 + 0.5 * smooth(board.back * 1.1 - depth.abs())
    shade += (0.62 + 1.6 * below.clamp(min=0) - shade) * board.cover(below)
    board.lit.copy_(tone * 0.10 + 0.50 + grain * 0.12)
    board.lit *= (1 - 0.4 * board.line(across, count, 0.003)) * shade
    for i in range(5):
        board.add(lambda part, i=i: _jar(part, i), f"jar {i}", 0, 0.8)
    # the board the animals stand on, and its front edge
    board = board.window(top=board.back - 0.02, bottom=edge + thick)
    depth = board.v - board.back
    face = texture(GRAIN, board.v * 900, (board.u + board.number("face")) * 150)
    rim = board.cover(board.v - edge)
    level = (0.84 + 1.2 * depth).clamp(max=1.12) * (1 - 0.35 * (1 - depth * 16).clamp(0, 1))
    level = level + (0.72 - level) * rim + 0.4 * board.cover(0.004 - (board.v - edge).abs())
    wide = torch.minimum(board.cover(depth, 0.012), board.cover(edge + thick - board.v))
    board.paint(wood, wide, face.mul_(0.15).add_(level))


def _jar(board: _Board, i: int) -> None:
    """A jar or a box on the shelf, out of focus."""
    x = (i + board.number(f"jar x {i}", 0.1, 0.9)) / 5
    w, h = board.number(f"jar w {i}", 0.045, 0.085), board.number(f"jar h {i}", 0.10, 0.30)
    board = board.window(x - w - 0.02, x + w + 0.02, board.back - h - 0.02, board.back + 0.04)
    tint, blur = board.colour(f"jar {i}", _BRIGHT, 0.05), 0.02
    jar = board.box(x - w, x + w, board.back - h, board.back + 0.02)
    across = (board.u - x) / w + board.light * -0.3
    board.paint(tint, board.cover(jar, blur), (0.93 - across * across * 0.28))
    label = board.box(x - w * 0.66, x + w * 0.66, board.back - h * 0.62, board.back - h * 0.3)
    paint(board.image, tint * 0.3 + 0.66, board.cover(label, blur).mul_(0.8))


def _fence(board: _Board) -> None:
    board = board.window(top=board.back - 0.12, bottom=board.back + 0.03)
    count = board.number("fence count", 7, 11)
    posts = (0.16 - wave(board.u * count) * 0.5) / count
    posts = posts.minimum(torch.minimum(board.v - board.back + 0.10, board.back + 0.02 - board.v))
    rails = torch.maximum(
        0.009 - (board.v - board.back + 0.072).abs(), 0.009 - (board.v - board.back + 0.03).abs()
    )
    plank = board.colour("fence", _FENCES)
    board.paint(plank, board.cover(rails), 0.9)
    board.paint(plank, board.cover(posts))


def _flowers(board: _Board) -> None:
    """One cell of the lawn in three has a flower, somewhere in the cell."""
    board, _, near, _ = _ground(board)
    across, away = (board.u - 0.5) * (near * 5) + board.number("flower u") * 9, near * 5
    cell_u, cell_v = across.floor(), away.floor()
    chance = cell_u * 0.618034 + (cell_v * 0.7548777 + board.number("flower chance"))
    chance -= chance.floor()
    jitter = chance * 7
    jitter -= jitter.floor()
    jitter *= 0.4
    du = (across - cell_u).sub_(jitter).sub_(0.3).div_(near * 5)
    dv = (jitter + (away - cell_v - 0.7)).div_(near * near * 5)
    bloom = board.cover(0.011 - (du * du).addcmul_(dv, dv).sqrt_())
    board.paint(
        board.colour("petal", _PETALS, 0.0), bloom.mul_(chance > 0.62).mul_(board.v > board.back + 0.012)
    )


def _meadow(board: _Board) -> None:
    sky, green = board.colour("sky", _SKIES), board.colour("grass", _GRASS)
    air = board.window(bottom=board.back)
    board.image.copy_((sky + (1 - sky) * ((board.v / board.back).clamp(max=1) * 0.55)).expand_as(board.image))
    cloud = texture(CLOUD, (air.v + board.number("cloud v")) * 330, (air.u + board.number("cloud u")) * 170)
    paint(air.image, torch.ones(1, 1, 1, 1, device=board.device), smooth(cloud * 2.4 - 1.25).mul_(0.85))
    for i, (height, blend) in enumerate(((0.17, 0.25), (0.09, 0.6))):
        hills = board.window(top=board.back - height, bottom=board.back)
        roll = smooth(wave((board.u + board.number(f"hill {i}")) * (1.1 + 0.7 * i)))
        ridge = board.back - height * (0.35 + 0.65 * roll)
        haze = sky * 0.5 + green * 0.45
        paint(hills.image, haze + (green * 0.92 - haze) * blend, board.cover(hills.v - ridge, 0.008))
    board.add(_fence, "fence", 0, 0.5)
    lawn = board.window(top=board.back - 0.02)
    depth = (lawn.v - lawn.back).clamp(min=0)
    near = 1 / (depth + 0.2)
    ragged = texture(FUR, lawn.v * 10, lawn.u * 420) * 0.022
    alpha = lawn.cover(lawn.v - lawn.back - 0.008 + ragged)
    across = (lawn.u - 0.5) * near
    blades = texture(FUR, near * 420, across * 330 + board.number("blades") * 300)
    swell = texture(CLOUD, near * 180, across * 110 + board.number("swell") * 300)
    lawn.paint(green, alpha, blades.mul_(0.34).add_(swell.mul_(0.22)).add_(0.64 + 0.4 * depth))
    board.add(_flowers, "flowers", 0, 0.75)


def _border(board: _Board) -> None:
    line = board.back * board.number("border v", 0.35, 0.7)
    board = board.window(top=line - 0.024, bottom=line + 0.024)
    board.paint(board.colour("border", _BRIGHT), board.cover(0.022 - (board.v - line).abs()))


def _tiles(board: _Board) -> None:
    colour = _wall(board)
    wall = board.window(bottom=board.back)
    count = board.number("tiles", 5, 9)
    rows = wall.v * count * 1.6
    level = rows.floor()
    across = wall.u * count + (level * 0.5 - (level * 0.5).floor() + board.number("tile shift"))
    tile = across.floor()
    tone = tile * 0.618034 + level * 0.7548777
    tone -= tone.floor()
    sheen = (across - tile) * -0.04 + ((rows - level) * -0.04 + 0.98)
    wall.lit *= tone.mul_(0.12).add_(sheen)
    grout = torch.maximum(board.line(across, count, 0.0045), board.line(rows, count * 1.6, 0.0045))
    paint(wall.image, colour * 0.5 + 0.42, grout.mul_(0.8))
    board.add(_border, "border", 0, 0.6)
    _skirting(board)
    ground, depth, near, alpha = _ground(board)
    unit = board.number("slabs", 2.0, 3.2) * near
    slabs, away = (
        (ground.u - board.number("vanish", 0.25, 0.75)) * unit,
        near * board.number("slab rows", 2.0, 2.8),
    )
    fleck = texture(CLOUD, away * 400, slabs * 400)
    shade = (0.84 + 0.25 * depth) * (1 - 0.26 * (1 - depth * 14).clamp(0, 1))
    shade = fleck.mul_(0.10).add_(shade).mul_(1 - board.line(slabs, unit, 0.002).mul_(0.3))
    ground.paint(board.colour("slab", _PALE_TRIMS), alpha, shade)
    odd = slabs.floor_().add_(away.floor()).mul_(0.5)
    odd -= odd.floor()
    paint(ground.image, board.colour("slab 2", _BRIGHT) * 0.55 + 0.3, odd.mul_(2).mul_(alpha))
    _plants(board, 0.3)


def _rug(board: _Board) -> None:
    _wall(board)
    rail = board.back * board.number("rail", 0.45, 0.7)
    wall = board.window(top=rail - 0.02, bottom=board.back)
    count = board.number("panels", 6, 12)
    panel = board.cover(wall.v - rail) * (0.14 + 0.16 * board.line(board.u * count, count, 0.004))
    wall.lit *= 1 - panel
    wall = board.window(top=rail - 0.02, bottom=rail + 0.02)
    wall.paint(board.colour("trim", _TRIMS), board.cover(0.011 - (wall.v - rail).abs()))
    board.add(_frame, "frame", 0, 0.7)
    _skirting(board)
    _floor(board)
    x, rx = board.number("rug x", 0.3, 0.7), board.number("rug w", 0.42, 0.62)
    ry = torch.minimum(board.number("rug h", 0.12, 0.2), board.front - 0.02 - board.back).clamp(min=0.05)
    y = torch.maximum(board.front - 0.02, board.back + ry + 0.03)
    rug = board.window(top=y - ry - 0.03, bottom=y + ry + 0.03)
    du, dv = (rug.u - x) / rx, (rug.v - y) / ry
    k = du * du + dv * dv
    edge = (1 - k).mul_(ry * 0.6)
    rug.lit *= 1 - 0.3 * board.cover(edge + 0.012, 0.03)
    rings = smooth((wave(k * board.number("rings", 1.5, 3.0)) - 0.5) * 6 + 0.5)
    cloth, other = board.colour("rug", _BRIGHT), board.colour("rug 2", _BRIGHT) * 0.5 + 0.42
    weave = texture(FUR, rug.v * 700, rug.u * 700 + board.number("weave") * 300)
    on = board.cover(edge, 0.006)
    rug.paint(cloth, on, weave.mul_(0.18).add_(0.88))
    paint(rug.image, other, rings.mul_(on))
    _plants(board, 0.3)


PLACES: dict[str, Callable[[_Board], None]] = {
    "room": _room,
    "window": _window,
    "shelf": _shelf,
    "meadow": _meadow,
    "tiles": _tiles,
    "rug": _rug,
}


def draw(
    place: str,
    dice: Dice,
    back: Tensor,
    front: Tensor,
    light: Tensor,
    size: int,
    device: torch.device,
    chunk: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Draw N pictures of one place, `chunk` at a time: (which of them, float32 [chunk, 3, size, size]).

    dice: of the scenes; back, front: float64 [N], the rows (0 to 1) where the ground meets the wall and
    where its nearest animals stand; light: float64 [N], where the light comes from, -1 (left) to 1. It is
    fastest if `back` rises from scene to scene.
    """
    everything = _Board(dice, back, front, light, size, device)
    for start in range(0, len(back), chunk):
        rows = slice(start, start + chunk)
        board = everything.only(rows)
        PLACES[place](board)
        du, dv = board.u - 0.5 - 0.25 * board.light, board.v - 0.42
        board.lit *= (1.10 - du * du * 0.5) - dv * dv * 0.5
        yield rows, board.image.mul_(board.lit).clamp_(0, 1)
