"""What a search of a data set found: the top k images of every channel, and a sample of all the others.

Both are kept so that parts of a search can be joined in any order, and joined twice, with the same result:
the top k are ordered by value, ties by the image's number; the sample holds the images whose numbers have the
smallest hashes. So memory is channels × (k + sample), whatever the size of the data set.
"""

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lecture7_utils.kernels.arguments import as_int, describe, require_int, require_number
from lecture7_utils.kernels.contact import contact_sheet

NO_IMAGE = torch.iinfo(torch.int64).max  # number of no image: it sorts behind all others
_FORMAT = "lecture7_utils ranking 1"
_ROWS = 20  # channels that a printed table shows


class Hit(NamedTuple):
    """One image's answer in one channel.

    image: its number in the data set; name: what the data set calls it ("" if nothing); value: the largest
    activation over all positions; position: (row, column) of that in the layer's map; rectangle: the
    receptive field there, (top, left, bottom, right) in pixels of the image as the network took it, the last
    two exclusive; group: the number of what the image belongs to (its own if nothing else was said).
    """

    image: int
    name: str
    value: float
    position: tuple[int, int]
    rectangle: tuple[int, int, int, int]
    group: int


class Skipped(NamedTuple):
    """An image that could not be used: its number in the data set, its name, and why."""

    image: int
    name: str
    reason: str


@dataclass(frozen=True)
class Searched:
    """What was searched, and how: two parts of one search agree in all of it.

    model, weights: the network's name and a fingerprint of its weights. layers: names. channels: for each
    layer the numbers of its channels. grids: for each layer (h, w) of its map. data: what the data set is
    called; content: a fingerprint of its images' names; size: how many images it holds, None if that is not
    known. image_size: (height, width) in pixels. k, sample, seed, batch_size: as given to the search.
    grouped: whether one entry for each group was asked for.
    """

    model: str
    weights: str
    layers: tuple[str, ...]
    channels: tuple[tuple[int, ...], ...]
    grids: tuple[tuple[int, int], ...]
    data: str
    content: str
    size: int | None
    image_size: tuple[int, int]
    k: int
    sample: int
    seed: int
    batch_size: int
    grouped: bool

    @classmethod
    def from_json(cls, read: Mapping) -> "Searched":
        def tuples(value):
            return tuple(tuples(v) for v in value) if isinstance(value, list) else value

        return cls(**{name: tuples(value) for name, value in read.items()})


class Places(NamedTuple):
    """Candidates for the top of C channels: values [C, m], and int64 [C, m] each: numbers of images,
    positions (row by row) and groups."""

    values: Tensor
    images: Tensor
    positions: Tensor
    groups: Tensor

    @classmethod
    def none(cls, channels: int, k: int, dtype: torch.dtype) -> "Places":
        empty = torch.zeros(channels, k, dtype=torch.int64)
        return cls(
            torch.full((channels, k), -torch.inf, dtype=dtype), empty + NO_IMAGE, empty, empty + NO_IMAGE
        )

    def beside(self, other: "Places") -> "Places":
        return Places(*(torch.cat(pair, 1) for pair in zip(self, other, strict=True)))

    def first(self, k: int, *, one_per_group: bool) -> "Places":
        """The k highest of each channel, ties by the image's number; of each group the first."""
        order = self.images.argsort(dim=1, stable=True)
        order = order.gather(1, self.values.gather(1, order).argsort(dim=1, descending=True, stable=True))
        if one_per_group:
            groups = self.groups.gather(1, order)
            by_group = groups.argsort(dim=1, stable=True)
            groups = groups.gather(1, by_group)
            again = torch.zeros_like(groups, dtype=torch.bool)
            again[:, 1:] = (groups[:, 1:] == groups[:, :-1]) & (groups[:, 1:] != NO_IMAGE)
            again = torch.empty_like(again).scatter_(1, by_group, again)
            cleared = self._without(order, again)
            return Places(*(part[:, :k].contiguous() for part in cleared))
        return Places(*(part.gather(1, order[:, :k]) for part in self))

    def _without(self, order: Tensor, out: Tensor) -> "Places":
        """In that order, with those entries emptied and moved to the end."""
        kept = out.int().argsort(dim=1, stable=True)
        order, out = order.gather(1, kept), out.gather(1, kept)
        values, images, positions, groups = (part.gather(1, order) for part in self)
        return Places(
            values.masked_fill(out, -torch.inf),
            images.masked_fill(out, NO_IMAGE),
            positions.masked_fill(out, 0),
            groups.masked_fill(out, NO_IMAGE),
        )


class Drawn(NamedTuple):
    """A random sample of m images: int64 numbers, groups and hashes, [m] each; of C channels the values
    [m, C] and the positions of the maxima, int32 [m, C]."""

    images: Tensor
    groups: Tensor
    hashes: Tensor
    values: Tensor
    positions: Tensor

    @classmethod
    def none(cls, channels: int, dtype: torch.dtype) -> "Drawn":
        numbers = torch.zeros(0, dtype=torch.int64)
        return cls(
            numbers,
            numbers,
            numbers,
            torch.zeros(0, channels, dtype=dtype),
            torch.zeros(0, channels, dtype=torch.int32),
        )

    def joined(self, other: "Drawn", most: int) -> "Drawn":
        """The images with the smallest hashes of both, each once."""
        both = Drawn(*(torch.cat(pair) for pair in zip(self, other, strict=True)))
        order = both.images.argsort(stable=True)
        order = order[both.hashes[order].argsort(stable=True)]
        images = both.images[order]
        new = torch.ones(len(images), dtype=torch.bool)
        new[1:] = images[1:] != images[:-1]
        order = order[new][:most]
        return Drawn(*(part[order] for part in both))


def hashes_of(images: Tensor, seed: int) -> Tensor:
    """A hash in 0 … 2**63 - 1 of each image's number and the seed (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = images.numpy().astype(np.uint64) + np.uint64(seed % 2**64) * np.uint64(0xD1342543DE82EF95)
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return torch.from_numpy((x >> np.uint64(1)).astype(np.int64))


@dataclass(frozen=True)
class Fields:
    """The receptive fields of a layer: tables int32 [u, h, w, 4] and, for each channel, which of them."""

    tables: Tensor
    table_of: Tensor

    @classmethod
    def of(cls, fields: Tensor) -> "Fields":
        """From int64 [C, h, w, 4]; most layers have one table for all channels."""
        fields = fields.int()
        if bool((fields == fields[:1]).all()):
            return cls(fields[:1].clone(), torch.zeros(len(fields), dtype=torch.int64))
        tables, table_of = fields.unique(dim=0, return_inverse=True)
        return cls(tables, table_of)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The result of `top_activations`: for each channel of each layer the k images that excite it most.

    searched: what was searched, and how. count: how many images were looked at. skipped: those that could not
    be used. date: when the search ended, ISO 8601. note: anything else to know, "" if nothing.
    `top` gives the images of one channel, `quantiles` and `sample` tell of all the others, `values` and
    `images` give the numbers of a whole layer. It prints as a table, `save` and `load` keep it in one file,
    `merge` joins it with that of another data set. `sheet` draws the crops that excite channels most.
    """

    searched: Searched
    count: int
    skipped: tuple[Skipped, ...]
    date: str
    note: str
    best: Places
    drawn: Drawn
    fields: tuple[Fields, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    done: np.ndarray | None = None  # bool, for each batch of an unfinished search whether it is in

    # ---- reading

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers."""
        return self.searched.layers

    @property
    def k(self) -> int:
        """How many images each channel has at most."""
        return self.searched.k

    def channels(self, layer: str | None = None) -> tuple[int, ...]:
        """The numbers of a layer's channels that were searched. layer: None if there is one only.

        Raises `ValueError` for a layer that wasn't searched, as all that take one do.
        """
        return self.searched.channels[self._layer(layer)]

    def values(self, layer: str | None = None) -> Tensor:
        """The values [channels, k], the highest first; minus infinity where there are fewer images.

        Raises `ValueError` as `channels` does.
        """
        return self.best.values[self._rows(layer)].clone()

    def images(self, layer: str | None = None) -> Tensor:
        """The numbers of the images, int64 [channels, k], in the order of `values`; -1 where there are fewer.

        Raises `ValueError` as `channels` does.
        """
        found = self.best.images[self._rows(layer)]
        return torch.where(found == NO_IMAGE, -1, found)

    def top(self, channel: int, layer: str | None = None) -> list[Hit]:
        """The images that excite a channel most, the highest first: at most k.

        Raises `ValueError` for a layer or a channel that wasn't searched.
        """
        at, row = self._row(channel, layer)
        values, images, positions, groups = (part[row] for part in self.best)
        return [
            self._hit(at, row, int(images[i]), values[i].item(), int(positions[i]), int(groups[i]))
            for i in range(self.k)
            if images[i] != NO_IMAGE
        ]

    def quantiles(self, q: float | Sequence[float], layer: str | None = None) -> Tensor:
        """Quantiles of each channel's values over the images: [channels], or [len(q), channels] for several.

        They are those of the random sample, with linear interpolation: exact where it holds all images, else
        within about 1 / sqrt(sample) of the rank. q: in 0 to 1.
        Raises `TypeError` or `ValueError` for other q, a layer that wasn't searched, or an empty sample.
        """
        several = isinstance(q, Sequence)
        wanted = [require_number(one, "q", 0, 1) for one in (q if several else [q])]
        values = self.drawn.values[:, self._rows(layer)].double().sort(0).values
        if not len(values):
            raise ValueError("q: expected a search with a sample, got one with sample=0")
        places = torch.tensor(wanted, dtype=torch.float64) * (len(values) - 1)
        below = places.floor().long()
        above = (below + 1).clamp(max=len(values) - 1)
        found = torch.lerp(values[below], values[above], (places - below)[:, None])
        return found if several else found[0]

    def sample(
        self, channel: int, low: float, high: float, n: int = 5, layer: str | None = None
    ) -> list[Hit]:
        """Up to n random images whose value in this channel lies between two quantiles, the highest first.

        low, high: in 0 to 1, low < high; 0.4 and 0.6 give images that excite the channel as the median does.
        The images are the same each time, and those of all channels come from one sample.
        Raises `TypeError` or `ValueError` for other arguments.
        """
        at, row = self._row(channel, layer)
        low, high = require_number(low, "low", 0, 1), require_number(high, "high", 0, 1)
        require_int(n, "n", 1)
        if low >= high:
            raise ValueError(f"low: expected below high = {high}, got {low}")
        values = self.drawn.values[:, row]
        ranks = torch.empty(len(values), dtype=torch.float64)
        ranks[values.argsort(stable=True)] = (torch.arange(len(values), dtype=torch.float64) + 0.5) / max(
            1, len(values)
        )
        inside = ((ranks >= low) & (ranks < high if high < 1 else ranks <= 1)).nonzero()[:, 0][:n]
        inside = inside[values[inside].argsort(descending=True, stable=True)].tolist()
        return [
            self._hit(
                at,
                row,
                int(self.drawn.images[i]),
                values[i].item(),
                int(self.drawn.positions[i, row]),
                int(self.drawn.groups[i]),
            )
            for i in inside
        ]

    def _hit(self, at: int, row: int, image: int, value: float, position: int, group: int) -> Hit:
        columns = self.searched.grids[at][1]
        i, j = divmod(position, columns)
        fields = self.fields[at]
        rectangle = fields.tables[fields.table_of[row - self._start(at)], i, j]
        return Hit(image, self.names.get(image, ""), value, (i, j), tuple(rectangle.tolist()), group)

    def _layer(self, layer: str | None) -> int:
        known = self.searched.layers
        if layer is None and len(known) == 1:
            return 0
        if layer not in known:
            raise ValueError(f"layer: expected one of {', '.join(map(repr, known))}, got {describe(layer)}")
        return known.index(layer)

    def _start(self, at: int) -> int:
        return sum(map(len, self.searched.channels[:at]))

    def _rows(self, layer: str | None) -> slice:
        at = self._layer(layer)
        start = self._start(at)
        return slice(start, start + len(self.searched.channels[at]))

    def _row(self, channel: int, layer: str | None) -> tuple[int, int]:
        at = self._layer(layer)
        known = self.searched.channels[at]
        channel = require_int(channel, "channel", 0)
        if channel not in known:
            few = ", ".join(map(str, known[:5])) + (", …" if len(known) > 5 else "")
            raise ValueError(
                f"channel: expected one of the {len(known)} searched in {self.layers[at]!r} ({few}), got "
                f"{channel}"
            )
        return at, self._start(at) + known.index(channel)

    # ---- as a table, as a sheet

    def sheet(
        self,
        data: object,
        channels: int | Sequence[int] | None = None,
        layer: str | None = None,
        *,
        cell: int = 64,
        show: Callable | None = None,
    ) -> Tensor:
        """A contact sheet: for each channel a row with the receptive fields of its top k, the highest first.

        data: the pictures that the search saw, as `data[number]`: a picture (a tensor [3, h, w] in 0 to 1 or
        uint8, an array uint8 [h, w, 3], a PIL image), something with it in `.image`, or a tuple that begins
        with it. show: makes that of an item where it is none; for photos that the network got scaled and
        cropped it is `lambda item: net.display(net.preprocess(item))[0]`.
        channels: which, one or several; None for the first 20 searched. cell: pixels of a cell's side; a
        field is scaled until its longer side fills the cell.
        Returns uint8 [3, H, W], white between the cells; `torchvision.io.write_png` keeps it. A figure with
        values and titles is `plot_hits`.
        Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
        """
        if channels is None:
            channels = self.channels(layer)[:_ROWS]
        several = channels if isinstance(channels, Sequence | Tensor | np.ndarray) else [channels]
        if not len(several):
            raise ValueError("channels: expected at least one, got none")
        require_int(cell, "cell", 8)
        hits = [self.top(as_int(c, "channels", "an int or several"), layer) for c in several]
        rows = [[(hit.image, hit.rectangle) for hit in row] for row in hits]
        return contact_sheet(rows, data, cell, show)

    def __str__(self) -> str:
        s = self.searched
        images = "1 image" if self.count == 1 else f"{self.count:,} images"
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        lines = [f"{s.model}: top {s.k} of {images} of {s.data}{skipped}"]
        if self.note:
            lines.append(self.note)
        for layer in s.layers:
            lines += ["", *self._table(layer)]
        return "\n".join(lines)

    __repr__ = __str__

    def _table(self, layer: str) -> list[str]:
        channels, values, images = self.channels(layer), self.values(layer), self.images(layer)
        h, w = self.searched.grids[self._layer(layer)]
        rows = [["channel", *(f"{i + 1}." for i in range(self.k))]]
        for channel, row, numbers in zip(channels[:_ROWS], values.tolist(), images.tolist(), strict=False):
            cells = [f"{v:.3g} (#{n})" if n >= 0 else "–" for v, n in zip(row, numbers, strict=True)]
            rows.append([str(channel), *cells])
        widths = [max(len(row[i]) for row in rows) for i in range(self.k + 1)]
        lines = []
        for first, *rest in rows:
            cells = [first.rjust(widths[0]), *(c.ljust(w) for c, w in zip(rest, widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        more = len(channels) - _ROWS
        head = f"{layer}, {len(channels)} channels of {h} × {w}: value (image)"
        return [head, *lines, *([f"… {more} more channels"] if more > 0 else [])]

    # ---- joining

    def merge(self, other: "Ranking") -> "Ranking":
        """The ranking of both data sets together: the other's images are numbered on after this one's.

        Both must come from the same network, layers, channels and k, at the same size of images.
        Groups of the two count as different. Returns a new one.
        Raises `TypeError` if `other` is no `Ranking`, `ValueError` if it is one of another search, or if the
        size of this one's data set is not known.
        """
        if not isinstance(other, Ranking):
            raise TypeError(f"other: expected a Ranking, got {describe(other)}")
        a, b = self.searched, other.searched
        for name in (
            "model",
            "weights",
            "layers",
            "channels",
            "grids",
            "image_size",
            "k",
            "sample",
            "grouped",
        ):
            mine, its = getattr(a, name), getattr(b, name)
            if mine != its:
                raise ValueError(f"other: expected the same {name}, {_short(mine)}, got {_short(its)}")
        if a.size is None:
            raise ValueError("other: expected to follow a data set of known size, got one after a stream")
        shift = a.size
        groups = self.best.groups[self.best.groups != NO_IMAGE]
        group_shift = max(shift, int(groups.max()) + 1) if a.grouped and len(groups) else shift
        theirs = other.best
        empty = theirs.images == NO_IMAGE
        theirs = Places(
            theirs.values,
            torch.where(empty, NO_IMAGE, theirs.images + shift),
            theirs.positions,
            torch.where(empty, NO_IMAGE, theirs.groups + group_shift),
        )
        best = self.best.beside(theirs).first(a.k, one_per_group=a.grouped)
        drawn = self.drawn.joined(
            other.drawn._replace(images=other.drawn.images + shift, groups=other.drawn.groups + group_shift),
            a.sample,
        )
        size = None if b.size is None else a.size + b.size
        notes = dict.fromkeys(note for note in (self.note, other.note) if note)
        return replace(
            self,
            searched=replace(
                a, data=f"{a.data} + {b.data}", content=fingerprint(a.content, b.content), size=size
            ),
            count=self.count + other.count,
            skipped=self.skipped + tuple(s._replace(image=s.image + shift) for s in other.skipped),
            date=max(self.date, other.date),
            note=" ".join(notes),
            best=best,
            drawn=drawn,
            names=_retained(
                {**self.names, **{i + shift: name for i, name in other.names.items()}}, best, drawn
            ),
            done=None,
        )

    def joined(self, other: "Ranking") -> "Ranking":
        """Two parts of one search put together, for kernels: in any order, what is in both counts once."""
        for name in self.searched.__dataclass_fields__:
            mine, its = getattr(self.searched, name), getattr(other.searched, name)
            if mine != its:
                raise ValueError(f"expected the same {name}, {_short(mine)}, got {_short(its)}")
        best = self.best.beside(other.best).first(self.k, one_per_group=True)
        drawn = self.drawn.joined(other.drawn, self.searched.sample)
        skipped = {s.image: s for s in (*self.skipped, *other.skipped)}
        done = self.done | other.done
        return replace(
            self,
            count=covered(done, self.searched) - len(skipped),
            skipped=tuple(skipped[i] for i in sorted(skipped)),
            date=max(self.date, other.date),
            best=best,
            drawn=drawn,
            names=_retained({**self.names, **other.names}, best, drawn),
            done=done,
        )

    # ---- in a file

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it to one safetensors file; what is no tensor is JSON in the file's metadata.

        A file that is there already is replaced at the last moment, so that a torn one is never left.
        Raises `OSError` if it can't be written.
        """
        from safetensors.torch import save_file

        about = {
            "format": _FORMAT,
            "searched": self.searched.__dict__,
            "count": self.count,
            "skipped": self.skipped,
            "date": self.date,
            "note": self.note,
            "names": {str(i): self.names[i] for i in sorted(self.names)},
            "batches": None if self.done is None else len(self.done),
        }
        tensors = {f"best.{n}": part.contiguous() for n, part in self.best._asdict().items()}
        tensors |= {f"drawn.{n}": part.contiguous() for n, part in self.drawn._asdict().items()}
        for i, layer in enumerate(self.fields):
            tensors[f"fields.{i}.tables"], tensors[f"fields.{i}.table_of"] = layer.tables, layer.table_of
        if self.done is not None:
            tensors["done"] = torch.from_numpy(np.packbits(self.done))
        path = Path(path)
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
        try:
            save_file(tensors, draft, {"ranking": json.dumps(about, ensure_ascii=False, sort_keys=True)})
            with open(draft, "rb") as written:
                os.fsync(written.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Ranking":
        """Read what `save` wrote.

        Raises `FileNotFoundError` for a missing file and `ValueError` for one that is no ranking or is torn.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"path: expected a file that Ranking.save wrote, got none at {str(path)!r}"
            )
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["ranking"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")
            count = about["batches"]
            done = None
            if count is not None:
                done = np.unpackbits(tensors["done"].numpy(), count=count).astype(bool)
            return cls(
                Searched.from_json(about["searched"]),
                about["count"],
                tuple(Skipped(*entry) for entry in about["skipped"]),
                about["date"],
                about["note"],
                Places(*(tensors[f"best.{name}"] for name in Places._fields)),
                Drawn(*(tensors[f"drawn.{name}"] for name in Drawn._fields)),
                tuple(
                    Fields(tensors[f"fields.{i}.tables"], tensors[f"fields.{i}.table_of"])
                    for i in range(len(about["searched"]["layers"]))
                ),
                {int(i): name for i, name in about["names"].items()},
                done,
            )
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            why = " ".join(str(error).split())[:120]
            raise ValueError(
                f"path: expected a file that Ranking.save wrote, got {path.name} ({why})"
            ) from None


def covered(done: np.ndarray, searched: Searched) -> int:
    """How many images the batches that are done hold; the last batch may be short."""
    whole = int(done.sum()) * searched.batch_size
    last_is_in = len(done) and bool(done[-1])
    return whole - (len(done) * searched.batch_size - searched.size if last_is_in else 0)


def fingerprint(*parts: str | bytes) -> str:
    """A short hash of texts and bytes, in that order."""
    made = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()[:16]


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _retained(names: Mapping[int, str], best: Places, drawn: Drawn) -> dict[int, str]:
    """The names of the images that are still there."""
    kept = {*best.images.unique().tolist(), *drawn.images.tolist()}
    return {i: name for i, name in names.items() if i in kept}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:50]}…"
