"""Lesson 5: which images of a data set excite a channel most, for all channels of a layer in one pass."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    as_int,
    describe,
    require_choice,
    require_int,
    require_model,
    require_number,
)
from lecture7_utils.kernels.dense import ROOM, ROOM_ELSEWHERE, agree
from lecture7_utils.kernels.feed import (
    Batch,
    Reader,
    batches,
    first_image,
    is_stream,
    names_of,
    stream_batches,
)
from lecture7_utils.kernels.layers import activations, evaluation, find_layer, prefers_channels_last, reading
from lecture7_utils.kernels.ranking import (
    NO_IMAGE,
    Drawn,
    Fields,
    Places,
    Ranking,
    Searched,
    Skipped,
    covered,
    fingerprint,
    hashes_of,
    now,
)
from lecture7_utils.kernels.receptive import receptive_fields

Channels = Sequence[int] | Mapping[str, Sequence[int]] | None


def top_activations(
    model: nn.Module,
    layer: str | Sequence[str],
    dataset: object,
    k: int = 5,
    channels: Channels = None,
    *,
    batch_size: int | str = "auto",
    workers: int = 0,
    preprocess: Callable | None = None,
    groups: Sequence[int] | Tensor | None = None,
    names: Sequence[str] | None = None,
    data: str | None = None,
    sample: int = 1024,
    seed: int = 0,
    resume: str | os.PathLike | None = None,
    save_every: float = 60.0,
    progress: bool = False,
) -> Ranking | None:
    """The k images of a data set that excite each channel of a layer most, by one pass over the images.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv 1311.2901),
    section 4, show the top 9 activations of a feature map; before them Girshick, Donahue, Darrell, Malik,
    CVPR 2014 (arXiv 1311.2524), section 3.1: a channel is shown by the images that maximise it. For channel c
    an image's value is the largest activation over all positions, max_ij a_c(i, j).

    model: any `nn.Module`; it stops at the deepest layer asked. layer: the name of a layer that gives
        [N, C, h, w] or [N, C], or several names.
    dataset: what `dataset[i]` and `len(dataset)` give access to, any `torch.utils.data.Dataset` among them,
        or a stream that is read once from its beginning. Its items are float tensors [3, H, W], all of one
        size, or something with such a tensor in `.image` (a `Sample`), or a tuple that begins with one.
    preprocess: makes such a tensor of an item's picture where it isn't one: `Classifier.preprocess`.
    channels: the numbers of the channels, or {layer: numbers}; None for all.
    batch_size: images in one pass; a last, shorter batch is filled up with zeros. "auto" takes about 4 of
        224 × 224 on a CPU, whose caches then hold them, and 64 elsewhere. workers: processes that read images
        beside this one.
    groups: for each image the number of what it belongs to (the photo that it was cut from); then a channel
        has at most one entry for each group. names: what to call the images; None for what the items call
        themselves (`.name`). data: what to call the data set.
    sample: how many random images to keep the values of, for `Ranking.quantiles` and `Ranking.sample`. seed:
        of that choice. It depends on nothing else.
    resume: a file for what is found so far, written every `save_every` seconds. If it is there the search
        goes on from it; if the search was finished, its result comes back at once.
    progress: show a bar.

    Memory is channels × (k + sample), and what one batch takes, whatever the size of the data set. Ties are
    ordered by the images' numbers. Images that can't be read, or for which a layer gives NaN or infinity, are
    skipped and listed with the reason.

    In a process group of `torch.distributed` each process takes its share of the batches; the first one gets
    the result, the others None. The result is bitwise the same for any number of processes with the same
    batch size and the same number of threads in each.

    Interrupted (Ctrl-C, the notebook's stop button), it writes `resume`, warns, and gives back the ranking of
    the images so far. The model and the random states are left as they were.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_model(model)
    layers = _layers(model, layer)
    stream = is_stream(dataset)
    require_int(k, "k", 1)
    if not (isinstance(batch_size, str) and batch_size == "auto"):
        require_int(as_int(batch_size, "batch_size", "'auto' or an int"), "batch_size", 1)
    require_int(workers, "workers", 0)
    require_int(sample, "sample", 0)
    require_int(seed, "seed", 0, 2**63 - 1)
    save_every = require_number(save_every, "save_every", 0)
    require_choice(progress, "progress", (False, True))
    if preprocess is not None and not callable(preprocess):
        raise TypeError(f"preprocess: expected a callable, picture -> tensor, got {describe(preprocess)}")
    if data is not None and not isinstance(data, str):
        raise TypeError(f"data: expected a text or None, got {describe(data)}")
    if stream:
        _check_stream(dataset, workers, resume, groups, names)
    elif len(dataset) == 0:
        raise ValueError("dataset: expected at least one image, got none")
    size = None if stream else len(dataset)
    groups = _groups(groups, size)
    if names is not None:
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise TypeError(f"names: expected a sequence of texts, got {describe(names)}")
        if len(names) != size:
            raise ValueError(f"names: expected one for each of the {size} images, got {len(names)}")

    reader = Reader(dataset, preprocess)
    items = dataset if stream else (reader[n] for n in range(size))
    with evaluation(model, _device(model)):
        first, items = first_image(items, reader)
        first = _fitting(first, model)
        shape = (first.shape[1], first.shape[2])
        if batch_size == "auto":
            room = ROOM.get(first.device.type, ROOM_ELSEWHERE)
            batch_size = max(1, room // (shape[0] * shape[1]))
        fields, note = _fields(model, layers, first[None])
        chosen = {name: _chosen(channels, name, layers, len(fields[name])) for name in layers}
        searched = Searched(
            model=_called(model),
            weights=_weights(model),
            layers=tuple(layers),
            channels=tuple(chosen.values()),
            grids=tuple(tuple(fields[name].shape[1:3]) for name in layers),
            data=type(dataset).__name__ if data is None else data,
            content=_content(names if names is not None else names_of(dataset)),
            size=size,
            image_size=shape,
            k=k,
            sample=sample,
            seed=seed,
            batch_size=batch_size if stream else min(batch_size, size),
            grouped=groups is not None,
        )
        tables = tuple(Fields.of(fields[name][list(chosen[name])]) for name in layers)
        whole = [chosen[name] == tuple(range(len(fields[name]))) for name in layers]
        running = _Running(searched, tables, note, groups, names, whole)
        layout = _layout(model, layers, first[None])
        if stream:
            parts = stream_batches(items, reader, searched.batch_size, shape, layout)
            return _run(model, layout, running, parts, None, save_every, progress)
        ranks = _Ranks(resume, searched)
        running.begin_with(ranks.old)
        pin = _device(model).type == "cuda"
        parts = batches(reader, ranks.share(searched), searched.batch_size, shape, layout, workers, pin)
        return _run(model, layout, running, parts, ranks, save_every, progress)


def _run(
    model: nn.Module,
    layout: torch.memory_format,
    running: "_Running",
    parts: Iterable[Batch],
    ranks: "_Ranks | None",
    save_every: float,
    progress: bool,
) -> Ranking | None:
    saved = time.monotonic()
    with _bar(running, ranks, progress) as bar:
        try:
            with torch.inference_mode(), reading(model, running.searched.layers) as read:
                for part in parts:
                    images = _fitting(part.images, model).contiguous(memory_format=layout)
                    if not all(part.reasons):
                        running.take(read(images), part)
                    else:
                        running.skip(part)
                    bar(len(part.numbers))
                    if ranks is not None and ranks.path and time.monotonic() - saved >= save_every:
                        running.ranking().save(ranks.path)
                        saved = time.monotonic()
        except KeyboardInterrupt:
            partial = running.ranking()
            if ranks is not None and ranks.path:
                partial.save(ranks.path)
            if not partial.count or (ranks is not None and ranks.world > 1):
                raise
            go_on = "; the same call goes on from there" if ranks is not None and ranks.path else ""
            of = "" if running.searched.size is None else f" of {running.searched.size:,}"
            warnings.warn(
                f"top_activations was interrupted after {partial.count + len(partial.skipped):,}{of} images; "
                f"the ranking is theirs{go_on}",
                stacklevel=3,
            )
            return partial
    whole = running.ranking()
    if ranks is None:
        return whole
    if ranks.path:
        whole.save(ranks.path)
    return ranks.gather(whole)


# ------------------------------------------------------------------------------------------ one process


class _Running:
    """What has been found so far; `take` adds a batch."""

    def __init__(
        self,
        searched: Searched,
        fields: tuple[Fields, ...],
        note: str,
        groups: Tensor | None,
        names: Sequence[str] | None,
        whole: Sequence[bool],
    ):
        self.searched, self._fields, self._note = searched, fields, note
        self._groups, self._given_names = groups, names
        self._channels = [
            None if w else torch.tensor(c) for c, w in zip(searched.channels, whole, strict=True)
        ]
        self._best: Places | None = None
        self._drawn: Drawn | None = None
        self._fresh: list[Drawn] = []  # drawn, and not joined yet: joining costs time
        self._skipped: dict[int, Skipped] = {}
        self._names: dict[int, str] = {}
        self._seen = 0
        size, b = searched.size, searched.batch_size
        self.done = None if size is None else np.zeros(-(-size // b), dtype=bool)

    def begin_with(self, old: Ranking | None) -> None:
        if old is None:
            return
        self._best, self._drawn, self.done = old.best, old.drawn, old.done.copy()
        self._skipped = {s.image: s for s in old.skipped}
        self._names = dict(old.names)

    def skip(self, part: Batch) -> None:
        """A batch without a single picture."""
        self._note_down(part, part.reasons)

    def take(self, outputs: Mapping[str, Tensor], part: Batch) -> None:
        n = len(part.numbers)
        maps = [self._maps(outputs[name], i, n) for i, name in enumerate(self.searched.layers)]
        peaks = torch.cat([m.amax((2, 3)) for m in maps], 1)
        peaks = peaks.cpu().to(torch.promote_types(peaks.dtype, torch.float32))
        reasons = list(part.reasons)
        for place in (~peaks.isfinite().all(1)).nonzero()[:, 0].tolist():
            reasons[place] = reasons[place] or "the network gives NaN or infinity"
        self._note_down(part, reasons)
        kept = [place for place, reason in enumerate(reasons) if reason is None]
        if len(kept) < n:
            maps, peaks = [m[kept] for m in maps], peaks[kept]
        if not kept:
            return
        numbers = torch.tensor(part.numbers)[kept]
        groups = numbers if self._groups is None else self._groups[numbers]
        if self._best is None:
            self._best = Places.none(peaks.shape[1], self.searched.k, peaks.dtype)
            self._drawn = Drawn.none(peaks.shape[1], peaks.dtype)
        self._take_best(maps, peaks, numbers, groups)
        if self.searched.sample:
            self._take_drawn(maps, peaks, numbers, groups)

    def _maps(self, output: Tensor, i: int, n: int) -> Tensor:
        name = self.searched.layers[i]
        if output.ndim not in (2, 4) or len(output) < n or not output.is_floating_point():
            raise ValueError(
                f"layer: expected {name!r} to give float [N, C, h, w] or [N, C] for {n} images, "
                f"got {describe(output)}"
            )
        output = output[:n] if output.ndim == 4 else output[:n, :, None, None]
        if tuple(output.shape[2:]) != self.searched.grids[i]:
            h, w = self.searched.grids[i]
            raise ValueError(
                f"layer: expected {name!r} to give {h} × {w} places for every batch, got {describe(output)}"
            )
        channels = self._channels[i]
        return output if channels is None else output[:, channels.to(output.device)]

    def _take_best(self, maps: list[Tensor], peaks: Tensor, numbers: Tensor, groups: Tensor) -> None:
        best = self._best
        worst, at = best.values[:, -1], best.images[:, -1]
        better = (peaks > worst) | ((peaks == worst) & (numbers[:, None] < at))
        rows = better.any(0).nonzero()[:, 0]
        if not len(rows):
            return
        better = better[:, rows].T
        shape = better.shape
        values = torch.where(better, peaks[:, rows].T, -torch.inf)
        images = torch.where(better, numbers.expand(shape), NO_IMAGE)
        which, place = better.nonzero(as_tuple=True)
        positions = torch.zeros(shape, dtype=torch.int64)
        positions[which, place] = self._positions(maps, place, rows[which])
        found = Places(values, images, positions, torch.where(better, groups.expand(shape), images))
        own = Places(*(part[rows] for part in best)).beside(found)
        new = own.first(self.searched.k, one_per_group=self._groups is not None)
        for mine, its in zip(best, new, strict=True):
            mine[rows] = its

    def _take_drawn(self, maps: list[Tensor], peaks: Tensor, numbers: Tensor, groups: Tensor) -> None:
        hashes, drawn, most = hashes_of(numbers, self.searched.seed), self._drawn, self.searched.sample
        full = len(drawn.hashes) >= most
        enter = (hashes <= drawn.hashes[-1] if full else torch.ones_like(hashes, dtype=torch.bool)).nonzero()
        enter = enter[:, 0]
        if not len(enter):
            return
        channels = peaks.shape[1]
        place = enter.repeat_interleave(channels)
        positions = self._positions(maps, place, torch.arange(channels).repeat(len(enter)))
        self._fresh.append(
            Drawn(
                numbers[enter],
                groups[enter],
                hashes[enter],
                peaks[enter],
                positions.view(-1, channels).int(),
            )
        )
        if sum(len(new.images) for new in self._fresh) >= 128:
            self._join_drawn()

    def _join_drawn(self) -> None:
        if self._fresh:
            new = Drawn(*(torch.cat(parts) for parts in zip(*self._fresh, strict=True)))
            self._drawn, self._fresh = self._drawn.joined(new, self.searched.sample), []

    def _positions(self, maps: list[Tensor], place: Tensor, row: Tensor) -> Tensor:
        """Where the maximum of these maps lies, by the image's place in the batch and the row of the channel;
        of several equal ones the first, row by row."""
        found = torch.zeros(len(place), dtype=torch.int64)
        start = 0
        for m in maps:
            here = ((row >= start) & (row < start + m.shape[1])).nonzero()[:, 0]
            if len(here) and m.shape[2] * m.shape[3] > 1:
                picked = m[place[here].to(m.device), (row[here] - start).to(m.device)]
                found[here] = picked.flatten(1).argmax(1).cpu()
            start += m.shape[1]
        return found

    def _note_down(self, part: Batch, reasons: Sequence[str | None]) -> None:
        for number, name, reason in zip(part.numbers, part.names, reasons, strict=True):
            if self._given_names is not None:
                name = str(self._given_names[number])
            if reason is not None:
                self._skipped[number] = Skipped(number, name, reason)
            elif name:
                self._names[number] = name
        self._seen += len(part.numbers)
        if self.done is not None:
            self.done[part.numbers[0] // self.searched.batch_size] = True
        if len(self._names) > 20_000 + 2 * self._held():
            self._forget()

    def _held(self) -> int:
        return 0 if self._best is None else self._best.images.numel() + len(self._drawn.images)

    def _forget(self) -> None:
        """Names of images that are no longer among the best or in the sample."""
        self._join_drawn()
        if self._best is not None:
            kept = {*self._best.images.unique().tolist(), *self._drawn.images.tolist()}
            self._names = {i: name for i, name in self._names.items() if i in kept}

    def ranking(self) -> Ranking:
        """All there is so far."""
        self._forget()
        s = self.searched
        channels = sum(map(len, s.channels))
        dtype = torch.float32
        best = Places.none(channels, s.k, dtype) if self._best is None else self._best
        drawn = Drawn.none(channels, dtype) if self._drawn is None else self._drawn
        skipped = tuple(self._skipped[i] for i in sorted(self._skipped))
        seen = self._seen if self.done is None else covered(self.done, s)
        return Ranking(
            s,
            seen - len(skipped),
            skipped,
            now(),
            self._note,
            Places(*(part.clone() for part in best)),
            Drawn(*(part.clone() for part in drawn)),
            self._fields,
            dict(self._names),
            None if self.done is None else self.done.copy(),
        )


# ------------------------------------------------------------------------------------------ several processes


class _Ranks:
    """This process's place among all, and the files in which each keeps what it found so far."""

    def __init__(self, resume: str | os.PathLike | None, searched: Searched):
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world = dist.get_world_size() if grouped else 1
        self.path = None if resume is None else Path(resume)
        self.old: Ranking | None = None
        problem, done = None, None
        if self.path is not None and self.rank == 0:
            try:
                self.old = _joined_parts(self.path, searched)
            except ValueError as error:
                problem = str(error)
            done = None if self.old is None else self.old.done
        if self.world > 1:
            said = [(problem, done)]
            dist.broadcast_object_list(said, src=0)
            problem, done = said[0]
        if problem is not None:
            raise ValueError(problem)
        self.done = done  # the batches that need no more be looked at
        if self.path is not None and self.rank:
            self.path = self.path.with_name(f"{self.path.name}.{self.rank}")

    def share(self, searched: Searched) -> Iterator[list[int]]:
        """The batches of this process, each a list of the images' numbers: every world-th of what is left."""
        size, b = searched.size, searched.batch_size
        left = range(-(-size // b)) if self.done is None else np.flatnonzero(~self.done).tolist()
        for batch in left[self.rank :: self.world]:
            yield list(range(batch * b, min((batch + 1) * b, size)))

    def gather(self, mine: Ranking) -> Ranking | None:
        if self.world > 1:
            parts = [None] * self.world if self.rank == 0 else None
            dist.gather_object(mine, parts, dst=0)
            if self.rank:
                return None
            for part in parts[1:]:
                mine = mine.joined(part)
            if self.path:
                mine.save(self.path)
        return mine


def parts_of(path: Path) -> list[Path]:
    """The files in which the processes of a search kept what they found: `path` and its numbered fellows."""
    numbered = [p for p in path.parent.glob(f"{path.name}.*") if p.name[len(path.name) + 1 :].isdigit()]
    return [p for p in (path, *sorted(numbered)) if p.is_file()]


def _joined_parts(path: Path, searched: Searched) -> Ranking | None:
    found = None
    for part in parts_of(path):
        try:
            ranking = Ranking.load(part)
        except ValueError as error:
            raise ValueError(str(error).replace("path:", "resume:", 1)) from None
        for name in searched.__dataclass_fields__:
            mine, its = getattr(searched, name), getattr(ranking.searched, name)
            if mine != its or ranking.done is None:
                raise ValueError(
                    f"resume: expected the beginning of this very search, with {name} "
                    f"{_short(mine)}, got {part.name} with {_short(its)}; remove it to begin anew"
                )
        found = ranking if found is None else found.joined(ranking)
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 50 else f"{text[:40]}…"


@contextmanager
def _bar(running: _Running, ranks: _Ranks | None, progress: bool) -> Iterator[Callable[[int], None]]:
    """Gives what to call with the number of images done; it moves the bar of the first process."""
    if not progress or (ranks is not None and ranks.rank):
        yield lambda n: None
        return
    from tqdm.auto import tqdm

    size = running.searched.size
    start = 0 if running.done is None else covered(running.done, running.searched)
    world = 1 if ranks is None else ranks.world
    with tqdm(total=size, initial=start, unit=" images", desc="search") as bar:

        def move(n: int) -> None:
            # of the other processes it is only known that they do as many
            bar.update(n * world if size is None else min(n * world, size - bar.n))

        yield move


# ------------------------------------------------------------------------------------------ arguments


def _layers(model: nn.Module, layer: object) -> list[str]:
    if isinstance(layer, Sequence) and not isinstance(layer, str):
        if not layer:
            raise ValueError("layer: expected at least one name, got none")
        names = list(layer)
    else:
        names = [layer]
    for name in names:
        find_layer(model, name)
    return list(dict.fromkeys(names))


def _check_stream(dataset, workers, resume, groups, names) -> None:
    if not isinstance(dataset, Iterable):
        raise TypeError(f"dataset: expected a data set or a stream of images, got {describe(dataset)}")
    for name, value in (("workers", workers), ("resume", resume), ("groups", groups), ("names", names)):
        if value:
            raise ValueError(
                f"{name}: expected {0 if name == 'workers' else None} with a stream, which is read once from "
                f"its beginning, got {describe(value)}"
            )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError("dataset: expected one with len() for several processes, got a stream")


def _groups(groups: object, size: int | None) -> Tensor | None:
    if groups is None:
        return None
    try:
        found = torch.as_tensor(groups)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"groups: expected an int for each image, got {describe(groups)}")
    if found.ndim != 1 or len(found) != size:
        raise ValueError(f"groups: expected one for each of the {size} images, got {describe(groups)}")
    if int(found.min()) < 0:
        raise ValueError(f"groups: expected at least 0, got {int(found.min())}")
    return found.cpu().long()


def _chosen(channels: Channels, layer: str, layers: Sequence[str], count: int) -> tuple[int, ...]:
    if isinstance(channels, Mapping):
        unknown = [name for name in channels if name not in layers]
        if unknown:
            raise ValueError(
                f"channels: expected layers that are searched, {', '.join(map(repr, layers))}, "
                f"got {describe(unknown[0])}"
            )
        channels = channels.get(layer)
    elif channels is not None and len(layers) > 1:
        raise TypeError(
            "channels: expected None or a dict of layer to numbers for several layers, got "
            f"{describe(channels)}"
        )
    if channels is None:
        return tuple(range(count))
    if isinstance(channels, Tensor | np.ndarray):
        channels = channels.tolist()
    if isinstance(channels, str) or not isinstance(channels, Sequence):
        raise TypeError(f"channels: expected a sequence of numbers or None, got {describe(channels)}")
    if not channels:
        raise ValueError("channels: expected at least one number, got none")
    found = [require_int(c, "channels", 0, count - 1) for c in channels]
    if len(set(found)) < len(found):
        raise ValueError(f"channels: expected each once, got {describe(channels)}")
    return tuple(found)


def _fields(model: nn.Module, layers: Sequence[str], image: Tensor) -> tuple[dict[str, Tensor], str]:
    """The receptive fields of each layer [C, h, w, 4]; whole images and a note where they can't be told."""
    size = (image.shape[2], image.shape[3])
    try:
        return receptive_fields(model, layers, size), ""
    except ValueError as error:
        if not str(error).startswith("model:"):
            raise
        why = str(error).partition("got ")[2].partition(";")[0]
    found = {}
    for name, output in activations(model, image, list(layers)).items():
        if output.ndim not in (2, 4):
            raise ValueError(
                f"layer: expected {name!r} to give [N, C, h, w] or [N, C], got {describe(output)}"
            )
        grid = tuple(output.shape[1:]) if output.ndim == 4 else (output.shape[1], 1, 1)
        found[name] = torch.tensor([0, 0, *size]).expand(*grid, 4).clone()
    return found, f"Receptive fields are not known, rectangles are whole images: {why}."


def _layout(model: nn.Module, layers: Sequence[str], image: Tensor) -> torch.memory_format:
    """The memory format of the batches: channels last where that is faster and gives the same.

    It is tried on one image, the same in every process.
    """
    if not prefers_channels_last(image):
        return torch.contiguous_format
    try:
        with torch.inference_mode(), reading(model, layers) as read:
            plain = read(image.clone())
            other = read(image.clone(memory_format=torch.channels_last))
    except Exception:  # a view that needs its own layout; what fails in both fails again in the pass
        return torch.contiguous_format
    same = all(agree(other[name], plain[name]) for name in layers)
    return torch.channels_last if same else torch.contiguous_format


def _called(model: nn.Module) -> str:
    name = getattr(model, "name", None)
    return name if isinstance(name, str) else type(model).__name__


def _weights(model: nn.Module) -> str:
    """A fingerprint of the weights: of a few values of each tensor, which is quick for large networks too."""
    parts: list[str | bytes] = []
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            flat = tensor.detach().reshape(-1)
            few = flat[:: max(1, len(flat) // 64)].cpu()
            few = few.double() if few.is_floating_point() else few
            parts += [f"{name} {tensor.dtype} {list(tensor.shape)}", few.numpy().tobytes()]
    return fingerprint(*parts)


def _content(names: object) -> str:
    if isinstance(names, Sequence) and not isinstance(names, str):
        return fingerprint(*map(str, names))
    return ""


def _device(model: nn.Module) -> torch.device:
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return torch.device("cpu") if weight is None else weight.device


def _fitting(images: Tensor, model: nn.Module) -> Tensor:
    """The images on the device and of the dtype of the model's first weight; as they are if it has none."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if weight is None else images.to(weight.device, weight.dtype, non_blocking=True)
