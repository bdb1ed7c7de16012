"""Recomputing only what an occluder touched: the exact occlusion map at a fraction of its cost.

A rectangle in front of the image changes, at each layer, only a rectangle that grows with the receptive
field. The network runs once on the image as it is; for each position of the occluder only the dirty
rectangles are computed again. Nakandala, Kumar, Papakonstantinou, "Incremental and Approximate Inference
for Faster Occlusion-based Deep CNN Explanations", SIGMOD 2019, sections 3 and 4, give the exact form. Here
many positions make a batch (see `plans`), and what a step needs of its input, the patch and what lies around
it, is one gather from a table of rows of C values: two of padding, the map's H · W, the batch's patches.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import as_int, describe, require_images, require_int, require_model
from lecture7_utils.kernels.dense import agree, read_copies
from lecture7_utils.kernels.layers import evaluation, find_layer, prefers_channels_last, run_on_copy, run_to
from lecture7_utils.kernels.plans import Interval, PairPlan, Patch, intervals, make_plan, plan_key
from lecture7_utils.kernels.targets import Target, Unit, class_scores
from lecture7_utils.kernels.tracing import Step, Trace, Untraceable, trace

WORTH = 0.97  # of the multiplications: above, nothing is saved
# values in the largest step of a batch: on a CPU what its caches like, elsewhere few large batches
ROOM, ROOM_ELSEWHERE = 2**22, 2**26
LARGEST_BATCH, LARGEST_BATCH_ELSEWHERE = 64, 1024
TABLES = 2**30  # bytes, of all maps that patches are put into
TAIL = 2**22  # values that are collected before the last layers run
_NOWHERE = -(2**29)
_PADDING = 2  # rows in front of each table: zeros, minus infinity


class NotFaster(Exception):
    """Dirty rectangles can't be used, or save nothing; the text says why."""


class Differs(NotFaster):
    """Dirty rectangles gave another result than the network itself."""


@dataclass(frozen=True, eq=False)
class _Edge:
    """How one step's input is put together, for every position of a pair: rows of the table, on each axis.

    base, patch: int32 [positions, count] for rows and for columns; the sum of the two is the row in the
    table, far below 0 where there is none. pad: the row for what lies beyond the border.
    """

    source: int
    base: tuple[Tensor, Tensor]
    patch: tuple[Tensor, Tensor]
    size: int  # places in one patch
    pad: int

    def rows(self, down: Tensor, across: Tensor) -> Tensor:
        """The rows of the table for a batch of positions: int32 [B, count down, count across]."""
        batch = torch.arange(len(down), dtype=torch.int32, device=down.device)[:, None] * self.size
        # rows of patches come last in the table: where there is one, it is the largest
        patch = (self.patch[0][down] + batch)[:, :, None] + self.patch[1][across][:, None, :]
        base = self.base[0][down][:, :, None] + self.base[1][across][:, None, :]
        return torch.maximum(patch, base, out=patch).clamp_(min=self.pad)

    @property
    def places(self) -> int:
        return self.base[0].shape[1] * self.base[1].shape[1]


@dataclass(frozen=True, eq=False)
class _Operation:
    """One step for a batch. edges: for each input None where it is taken as it is. lasts: whose values are
    not needed afterwards. divide: for an average pooling, for rows and columns. corners: for an average over
    a map, where its patches start."""

    number: int
    edges: tuple[_Edge | None, ...]
    patch: Patch | None
    lasts: tuple[int, ...]
    divide: tuple[Tensor, Tensor] | None = None
    corners: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class _Program:
    """What is to be done for a batch of positions of one pair of classes."""

    pair: PairPlan
    operations: tuple[_Operation, ...]
    image: tuple[Tensor, ...]  # rows and columns of the image's patch, and whether each is in the window
    batch: int


@dataclass(frozen=True, eq=False)
class _Programs:
    programs: tuple[_Program, ...]
    share: float
    tail: int  # the first step that runs on many batches together
    sources: dict[int, int]  # steps that are put into a table, and how many rows of patches that needs


_CACHE: OrderedDict = OrderedDict()
_CACHED = 8


class DirtyRectangles:
    """The target's value for one image with rectangles of another in front, for all windows rows × columns.

    Made and used inside `evaluation` and inference mode. image, fill: [1, 3, H, W]. owner: the image's index,
    for a target with one class for each. limit: the most copies in a pass, None for what suits.
    clean: the values of the unaltered image [K], by the network as it stands. how: the way taken, in words.
    Raises `NotFaster`; what the network raises is passed on.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Tensor,
        fill: Tensor,
        target: Target,
        rows: Sequence[Interval],
        columns: Sequence[Interval],
        *,
        owner: int = 0,
        per_copy: int = 1,
        limit: int | None = None,
    ):
        self._model, self._image, self._fill, self._target = model, image, fill, target
        self._rows, self._columns, self._owner, self._per_copy = rows, columns, owner, per_copy
        try:
            found = run_on_copy(lambda copy: trace(model, copy, self._raw), image)
        except Untraceable as error:
            raise NotFaster(str(error)) from None
        self.clean = self._read(found.raw)
        self._channels: list[int] | None = None
        self._add_reading(found)
        self._steps = found.steps
        self._programs = _programs(self._steps, rows, columns, image, limit)
        if self._programs.share > WORTH:
            raise NotFaster("a window so large, or a network so deep, that nothing is saved")
        self._prepare()
        self.how = self._words(found.folds)

    def __iter__(self) -> Iterator[tuple[list[int], Tensor]]:
        """The numbers of the positions (row · columns + column) of a batch, and their values [B, K].

        Raises `NotFaster` if the first is not what the network gives by itself.
        """
        first, waiting, numbers = True, [], []
        across = len(self._columns)
        for program in self._programs.programs:
            down, right = (torch.from_numpy(p) for p in program.pair.places)
            grid = torch.cartesian_prod(torch.arange(len(down)), torch.arange(len(right)))
            grid = grid.view(-1, 2)
            for part in grid.split(program.batch):
                waiting.append(self._front(program, part[:, 0], part[:, 1]))
                numbers += (down[part[:, 0]] * across + right[part[:, 1]]).tolist()
                if first or sum(w.numel() for w in waiting) >= TAIL:
                    raw = self._tail(torch.cat(waiting))
                    if first:
                        self._check(raw[:1], numbers[0])
                    yield numbers, self._read(raw)
                    first, waiting, numbers = False, [], []
        if waiting:
            yield numbers, self._read(self._tail(torch.cat(waiting)))

    # ------------------------------------------------------------------------------------- the network

    def _raw(self, batch: Tensor) -> Tensor:
        if isinstance(self._target, Unit):
            return run_to(self._model, batch, self._target.layer)
        return class_scores(self._model, batch)

    def _read(self, raw: Tensor) -> Tensor:
        target, per_copy = self._target, self._per_copy
        if isinstance(target, Unit) and getattr(self, "_channels", None) is not None:
            # only these channels were computed as whole maps
            places = {channel: place for place, channel in enumerate(self._channels)}
            chosen = target.channel
            chosen = tuple(places[c] for c in chosen) if isinstance(chosen, tuple) else places[chosen]
            target = replace(target, channel=chosen)
        return read_copies(raw, target, [self._owner] * len(raw), per_copy)

    def _add_reading(self, found: Trace) -> None:
        """The last step gives a whole output; of a unit's map only the channels that are asked for."""
        last = found.steps[-1]
        if last.is_map:
            chosen = self._target.channel if isinstance(self._target, Unit) else tuple(range(last.shape[0]))
            self._channels = sorted({*chosen} if isinstance(chosen, tuple) else {chosen})
            index = torch.tensor(self._channels, device=self._image.device)
            shape = (len(index), *last.shape[1:])
            number = len(found.steps) - 1
            kept = None if last.map is None else last.map.index_select(1, index)
            found.steps += [
                Step("place", (number,), shape, run=lambda x: x.index_select(1, index), map=kept),
                Step("whole", (number + 1,), shape, run=lambda x: x),
            ]

    def _check(self, raw: Tensor, number: int) -> None:
        (top, bottom), (left, right) = (
            self._rows[number // len(self._columns)],
            self._columns[number % len(self._columns)],
        )
        copy = self._image.clone()
        copy[:, :, top:bottom, left:right] = self._fill[:, :, top:bottom, left:right]
        expected = self._raw(copy)
        if self._channels is not None:
            expected = expected[:, self._channels]
        if not agree(raw, expected):
            raise Differs("dirty rectangles gave another result than the network at a first position")

    def _words(self, folds: int) -> str:
        unit = isinstance(self._target, Unit)
        network = f"the network up to {self._target.layer!r}" if unit else "the network"
        most = max(program.batch for program in self._programs.programs)
        layout = ", channels last" if self._layout is torch.channels_last else ""
        folded = f", {folds} batch norm{'s' * (folds > 1)} folded" if folds else ""
        share = self._programs.share
        part = f"{share * 100:.0f} %" if share >= 0.095 else f"{share * 100:.1f} %"
        return (
            f"dirty rectangles: only what the window changes in {network}, {part} of the multiplications, "
            f"up to {most} in a pass{layout}{folded}"
        )

    # ------------------------------------------------------------------------------------- one image's tables

    def _prepare(self) -> None:
        last = prefers_channels_last(self._image)
        self._layout = torch.channels_last if last else torch.contiguous_format
        for step in self._steps:
            if step.conv is not None:
                step.conv.weight = step.conv.weight.contiguous(memory_format=self._layout)
        size = self._image.element_size()
        needed = 0
        for number, extra in self._programs.sources.items():
            channels, height, width = self._steps[number].shape
            needed += (_PADDING + height * width + extra) * channels * size
        if needed > TABLES:
            raise NotFaster(f"its maps would take {needed / 2**30:.1f} GiB")
        self._tables, self._integrals = {}, {}
        averaged = {o.number for p in self._programs.programs for o in p.operations if o.corners is not None}
        for number in averaged:
            source = self._steps[number].inputs[0]
            sums = self._steps[source].map[0].double().cumsum(1).cumsum(2)
            integral = torch.nn.functional.pad(sums, (1, 0, 1, 0)).permute(1, 2, 0).contiguous()
            self._integrals[number] = integral
        for number, step in enumerate(self._steps):
            map_, step.map = step.map, None  # so that no more than one is held twice
            if number not in self._programs.sources:
                continue
            channels, height, width = step.shape
            rows = _PADDING + height * width
            table = map_.new_empty((rows + self._programs.sources[number], channels))
            table[0], table[1] = 0, -torch.inf
            table[_PADDING:rows] = map_[0].flatten(1).T
            self._tables[number] = table
        both = torch.cat([self._image, self._fill])
        self._pixels = both.permute(0, 2, 3, 1).reshape(-1, both.shape[1])

    # ------------------------------------------------------------------------------------- one batch

    def _front(self, program: _Program, down: Tensor, across: Tensor) -> Tensor:
        """What the tail takes, for positions given by their numbers among the pair's rows and columns."""
        device = self._image.device
        down, across = down.to(device), across.to(device)
        values: dict[int, Tensor] = {}
        filled: set[int] = set()
        for operation in program.operations:
            step = self._steps[operation.number]
            if step.role == "image":
                out = self._occluder(program, down, across)
            elif operation.corners is not None:
                out = self._average(operation, values[step.inputs[0]], down, across)
            else:
                inputs = [
                    values[i] if edge is None else self._gather(edge, values, filled, down, across)
                    for i, edge in zip(step.inputs, operation.edges, strict=True)
                ]
                out = self._apply(step, operation, inputs, down, across)
            values[operation.number] = out
            for number in operation.lasts:
                del values[number]
        return values[self._programs.tail - 1]

    def _occluder(self, program: _Program, down: Tensor, across: Tensor) -> Tensor:
        rows, columns, inside_rows, inside_columns = program.image
        places = rows[down][:, :, None] + columns[across][:, None, :]
        inside = inside_rows[down][:, :, None] & inside_columns[across][:, None, :]
        places += inside * (len(self._pixels) // 2)
        taken = self._pixels.index_select(0, places.flatten())
        return taken.view(*places.shape, -1).permute(0, 3, 1, 2)

    def _gather(self, edge: _Edge, values: dict, filled: set, down: Tensor, across: Tensor) -> Tensor:
        table = self._tables[edge.source]
        if edge.source not in filled:
            patches = values[edge.source].permute(0, 2, 3, 1)
            count = patches.shape[0] * edge.size
            start = len(table) - self._programs.sources[edge.source]
            table[start : start + count].view(patches.shape).copy_(patches)
            filled.add(edge.source)
        rows = edge.rows(down, across)
        taken = table.index_select(0, rows.flatten())
        return taken.view(*rows.shape, -1).permute(0, 3, 1, 2)

    def _apply(self, step: Step, operation: _Operation, inputs: list, down: Tensor, across: Tensor) -> Tensor:
        if operation.patch is None:
            if step.padding is not None:
                pad, value = step.padding
                inputs = [torch.nn.functional.pad(inputs[0], pad, value=value)]
            out = step.run(*inputs)
        elif step.role == "window":
            out = step.part(inputs[0])
            if operation.divide is not None:
                rows, columns = operation.divide
                count = rows[down][:, :, None] * columns[across][:, None, :]
                out = out / count[:, None]
        else:
            out = step.run(*inputs)
        for function in step.after:
            out = function(out)
        return out

    def _average(self, operation: _Operation, patch: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """The average over a map of which only a patch is new: an integral image has the old patch's sum."""
        step = self._steps[operation.number]
        integral = self._integrals[operation.number]
        top, left = operation.corners[0][down], operation.corners[1][across]
        bottom, right = top + patch.shape[2], left + patch.shape[3]
        old = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
        places = (integral.shape[0] - 1) * (integral.shape[1] - 1)
        mean = (patch.sum((2, 3)).double() - old + integral[-1, -1]) / places
        out = mean.to(patch.dtype).view(len(patch), *step.shape)
        for function in step.after:
            out = function(out)
        return out

    def _tail(self, collected: Tensor) -> Tensor:
        values = {self._programs.tail - 1: collected}
        for number in range(self._programs.tail, len(self._steps)):
            step = self._steps[number]
            out = step.run(*[values[i] for i in step.inputs])
            for function in step.after:
                out = function(out)
            values[number] = out
        return values[len(self._steps) - 1]


# --------------------------------------------------------------------------------- plans made into programs


def _programs(
    steps: list[Step],
    rows: Sequence[Interval],
    columns: Sequence[Interval],
    image: Tensor,
    limit: int | None,
) -> _Programs:
    """The programs for all windows of such an image, kept for the next one: no weight is in them."""
    key = plan_key(steps, rows, columns), image.device, limit
    if key in _CACHE:
        _CACHE.move_to_end(key)
        return _CACHE[key]
    plan = make_plan(steps, rows, columns)
    tail = _tail_start(steps)
    made = [_program(steps, pair, tail, rows, columns, image.device, limit) for pair in plan.pairs]
    sources: dict[int, int] = {}
    for program in made:
        for operation in program.operations:
            for edge in operation.edges:
                if edge is not None:
                    most = max(sources.get(edge.source, 0), edge.size * program.batch)
                    sources[edge.source] = most
    _CACHE[key] = _Programs(tuple(made), plan.share, tail, sources)
    while len(_CACHE) > _CACHED:
        _CACHE.popitem(last=False)
    return _CACHE[key]


def _tail_start(steps: list[Step]) -> int:
    """The first step of the tail: no map is computed from there on, from nothing but the step before it."""
    start = len(steps)
    while start > 1 and not steps[start - 1].is_map and steps[start - 1].role in ("whole", "place"):
        reach = [i for step in steps[start - 1 :] for i in step.inputs if i < start - 1]
        if any(i != start - 2 for i in reach) or steps[start - 2].is_map:
            break
        start -= 1
    return start


def _program(steps, pair: PairPlan, tail: int, rows, columns, device, limit) -> _Program:
    used: dict[int, int] = {tail - 1: len(steps)}
    for number in range(tail):
        for i in steps[number].inputs:
            used[i] = max(used.get(i, 0), number)
    operations, work = [], 1
    for number in range(tail):
        step, patch = steps[number], pair.patches[number]
        lasts = tuple(i for i in dict.fromkeys(step.inputs) if used[i] == number)
        edges, divide, corners = [], None, None
        values = int(np.prod(step.shape)) if patch is None else step.shape[0] * patch.size[0] * patch.size[1]
        for i in step.inputs:
            given = pair.patches[i]
            if given is None or (patch is not None and step.role != "window" and patch.same(given)):
                edges.append(None)
            elif step.role == "average":
                edges.append(None)
                corners = tuple(torch.from_numpy(s).to(device) for s in given.starts)
            else:
                edge = _edge(steps, i, step, patch, given, device)
                edges.append(edge)
                values += edge.places * steps[i].shape[0]
        if patch is not None and step.divisors is not None:
            divide = tuple(
                d.to(device)[torch.from_numpy(s[:, None] + np.arange(n)).to(device)]
                for d, s, n in zip(step.divisors, patch.starts, patch.size, strict=True)
            )
        operations.append(_Operation(number, tuple(edges), patch, lasts, divide, corners))
        work = max(work, values)
    room, most = (ROOM, LARGEST_BATCH) if device.type == "cpu" else (ROOM_ELSEWHERE, LARGEST_BATCH_ELSEWHERE)
    batch = max(1, min(room // work, most, pair.count, limit or pair.count))
    return _Program(pair, tuple(operations), _image_patch(steps[0], pair, rows, columns, device), batch)


def _image_patch(step: Step, pair: PairPlan, rows, columns, device) -> tuple[Tensor, ...]:
    patch = pair.patches[0]
    found, inside = [], []
    for axis, windows in enumerate((rows, columns)):
        places = patch.starts[axis][:, None] + np.arange(patch.size[axis])
        low, high = np.array(windows, np.int64)[pair.places[axis]].T[:, :, None]
        inside.append(torch.from_numpy((places >= low) & (places < high)).to(device))
        places = places * step.shape[2] if axis == 0 else places
        found.append(torch.from_numpy(places.astype(np.int32)).to(device))
    return (*found, *inside)


def _edge(steps, source: int, step: Step, patch: Patch | None, given: Patch, device) -> _Edge:
    shape, window = steps[source].shape, step.window
    around = patch is not None and step.role == "window"
    base, dirty = [], []
    for axis in (0, 1):
        length, starts = shape[1 + axis], given.starts[axis]
        if patch is None:
            first, count = np.zeros_like(starts), length
        elif around:
            first = patch.starts[axis] * window.stride[axis] - window.before[axis]
            count = (patch.size[axis] - 1) * window.stride[axis]
            count += window.dilation[axis] * (window.kernel[axis] - 1) + 1
        else:
            first, count = patch.starts[axis], patch.size[axis]
        places = first[:, None] + np.arange(count)
        within = (places >= 0) & (places < length)
        offsets = places - starts[:, None]
        new = within & (offsets >= 0) & (offsets < given.size[axis])
        if axis == 0:
            places = places * shape[2] + _PADDING
            offsets = offsets * given.size[1] + _PADDING + shape[1] * shape[2]
        base.append(torch.from_numpy(np.where(within, places, _NOWHERE).astype(np.int32)).to(device))
        dirty.append(torch.from_numpy(np.where(new, offsets, _NOWHERE).astype(np.int32)).to(device))
    pad = 1 if around and window.value == -torch.inf else 0
    return _Edge(source, tuple(base), tuple(dirty), given.size[0] * given.size[1], pad)


# --------------------------------------------------------------------------------------- how they grow


@dataclass(frozen=True)
class DirtyRectangle:
    """What a rectangle in the image can change of one layer's map. Made by `dirty_rectangles`.

    layer: its name. rectangle: (top, left, bottom, right) in places of the map, bottom and right excluded;
    all four 0 if nothing changes. size: (height, width) of the map.
    """

    layer: str
    rectangle: tuple[int, int, int, int]
    size: tuple[int, int]

    @property
    def share(self) -> float:
        """The part of the map that it covers, 0 to 1."""
        top, left, bottom, right = self.rectangle
        return (bottom - top) * (right - left) / (self.size[0] * self.size[1])


def dirty_rectangles(
    model: nn.Module,
    size: int | Sequence[int] | Tensor,
    rectangle: Sequence[int],
    *,
    layers: Sequence[str] | None = None,
) -> list[DirtyRectangle]:
    """How the part of each map that an occluder can change grows from layer to layer.

    A rectangle around all places of the map with a receptive field that reaches into `rectangle`: what
    `occlusion_map` computes again at each position of its window, at least.

    model: any `nn.Module` that `occlusion_map` can go through by dirty rectangles. size: of the image in
    pixels, (height, width), one number for both, or images [N, 3, H, W] of that size. rectangle: (top, left,
    bottom, right) in pixels, bottom and right excluded. layers: names; None for all that hold no other
    layers, `nn.Identity` left out.
    Returns one entry for each layer that gives a map, in the order of the pass. The model is left as it was.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came; `ValueError` for
    a network that can't be followed, which says where.
    """
    require_model(model)
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if isinstance(size, Tensor):
        image = require_images(size, model)[:1].detach()
    else:
        like = torch.zeros(()) if weight is None else weight.detach()
        image = like.new_zeros((1, 3, *_size(size)))
    height, width = image.shape[2:]
    top, left, bottom, right = _rectangle(rectangle, height, width)
    if layers is not None:
        layers = [layers] if isinstance(layers, str) else list(layers)
        for name in layers:
            find_layer(model, name, "layers")
    noted: dict[str, int] = {}
    with torch.inference_mode(), evaluation(model, image.device):
        try:
            found = trace(model, image, lambda x: _one_tensor(model(x)), noted)
        except Untraceable as error:
            raise ValueError(
                f"model: expected one that can be followed step by step, got one with {error}"
            ) from None
    down, across = (
        intervals(found.steps, axis, [ends]) for axis, ends in enumerate(((top, bottom), (left, right)))
    )
    inner = {
        name
        for name, module in model.named_modules()
        if not any(True for _ in module.children()) and not isinstance(module, nn.Identity)
    }
    rows = []
    for name, number in noted.items():
        step = found.steps[found.index[number]] if number in found.index else None
        if step is None or len(step.shape) != 3 or name not in (inner if layers is None else layers):
            continue
        place = found.index[number]
        lows, highs = ([int(ends[k][place, 0]) for ends in (down, across)] for k in (0, 1))
        empty = any(low >= high for low, high in zip(lows, highs, strict=True))
        rows.append(DirtyRectangle(name, (0,) * 4 if empty else (*lows, *highs), tuple(step.shape[1:])))
    missing = [name for name in layers or () if name not in {row.layer for row in rows}]
    if missing:
        raise ValueError(f"layers: expected layers that give maps [N, C, H, W], got {missing[0]!r}")
    return rows


def _one_tensor(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"model: expected class scores [N, K] as its output, got {type(output).__name__}")
    return output


def _size(size: object) -> tuple[int, int]:
    if isinstance(size, Sequence) and not isinstance(size, str):
        if len(size) != 2:
            raise ValueError(f"size: expected (height, width), one number or images, got {describe(size)}")
        return require_int(size[0], "size", 1), require_int(size[1], "size", 1)
    return (require_int(as_int(size, "size", "(height, width), one number or images"), "size", 1),) * 2


def _rectangle(value: object, height: int, width: int) -> tuple[int, int, int, int]:
    expected = "rectangle: expected (top, left, bottom, right)"
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{expected}, got {describe(value)}")
    if len(value) != 4:
        raise ValueError(f"{expected}, got {describe(value)}")
    top, left, bottom, right = (as_int(v, "rectangle", "ints") for v in value)
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(f"{expected} inside {height} × {width} pixels, got {(top, left, bottom, right)}")
    return top, left, bottom, right
