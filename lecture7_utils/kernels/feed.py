"""A data set as batches of fixed size: unreadable images become empty places with a reason."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lecture7_utils.kernels.arguments import describe

AT_ONCE = 512  # items that are asked for together of a data set that can give several, at most
PIXELS = 5_000_000  # and at most so many of their pixels: 60 MB in float32


@dataclass(frozen=True)
class Batch:
    """Images [B, 3, H, W], those without a picture 0; for the first len(numbers) of them their numbers in
    the data set, their names, and why one has no picture (None where it has one). The rest fills up."""

    images: Tensor
    numbers: list[int]
    names: list[str]
    reasons: list[str | None]

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory; the DataLoader asks for it by this name."""
        return Batch(self.images.pin_memory(), self.numbers, self.names, self.reasons)


@dataclass(frozen=True)
class _Read:
    """One item: a picture, or why there is none, or what came that no picture can be made of."""

    number: int
    name: str
    image: Tensor | None
    reason: str | None = None
    wrong: str | None = None


def is_stream(dataset: object) -> bool:
    """Whether it can only be read from its beginning."""
    return isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    )


def names_of(dataset: object) -> Sequence | None:
    """The names that a data set gives its images, in `.names`; None if it gives none."""
    # the `.names` that a tensor has in older torch (2.11) are those of its axes
    names = None if isinstance(dataset, Tensor) else getattr(dataset, "names", None)
    return names if isinstance(names, Sequence) and not isinstance(names, str) else None


class Reader(Dataset):
    """Items of a data set, by lists of their numbers, as tensors [3, H, W] or with the reason why not.

    prepare: makes a tensor of an item's picture, or None if it is one.
    """

    def __init__(self, dataset: object, prepare: Callable | None):
        self._dataset, self._prepare = dataset, prepare
        self.gives_several = hasattr(dataset, "__getitems__")

    def __getitems__(self, numbers: Sequence[int]) -> list[_Read]:
        together = getattr(self._dataset, "__getitems__", None)
        if together is not None:
            try:
                items = together(list(numbers))
                return [self.made(n, item) for n, item in zip(numbers, items, strict=True)]
            except Exception:  # one of them: find out which
                pass
        return [self[n] for n in numbers]

    def __getitem__(self, number: int) -> _Read:
        try:
            item = self._dataset[number]
        except Exception as error:  # decoders raise nearly every kind there is
            return _Read(number, self._name_of(number), None, why(error))
        return self.made(number, item)

    def _name_of(self, number: int) -> str:
        names = names_of(self._dataset)
        return "" if names is None else str(names[number])

    def made(self, number: int, item: object) -> _Read:
        """An item that the data set gave: the picture itself, something with it in `.image`, or a tuple with
        one of them in the first place."""
        name = getattr(item, "name", "")
        name = name if isinstance(name, str) else ""
        picture = item[0] if isinstance(item, tuple | list) and item else item
        picture = getattr(picture, "image", picture)
        if self._prepare is not None:
            try:
                picture = self._prepare(picture)
            except Exception as error:
                return _Read(number, name, None, why(error))
        if isinstance(picture, Tensor) and picture.ndim == 4 and len(picture) == 1:
            picture = picture[0]
        if not isinstance(picture, Tensor) or not picture.is_floating_point():
            hint = "" if self._prepare else "; preprocess=net.preprocess makes them from pictures"
            return _Read(number, name, None, wrong=f"float tensors [3, H, W], got {describe(picture)}{hint}")
        if picture.ndim != 3 or len(picture) != 3 or 0 in picture.shape:
            return _Read(number, name, None, wrong=f"float tensors [3, H, W], got {describe(picture)}")
        # the sum tells in a fraction of the time; it may overflow
        if not math.isfinite(picture.sum()) and not picture.isfinite().all():
            return _Read(number, name, None, "it holds NaN or infinity")
        return _Read(number, name, picture.detach())


def why(error: Exception) -> str:
    """An exception in one line of a report."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Stack:
    """Items to batches of fixed size, the last one maybe short; of a class, so that it goes to workers."""

    def __init__(self, batch_size: int, size: tuple[int, int], layout: torch.memory_format):
        self._batch_size, self._size, self._layout = batch_size, size, layout

    def __call__(self, items: Sequence[_Read]) -> list[Batch] | str:
        batches = []
        for start in range(0, len(items), self._batch_size):
            made = self._batch(items[start : start + self._batch_size])
            if isinstance(made, str):
                return made
            batches.append(made)
        return batches

    def _batch(self, items: Sequence[_Read]) -> Batch | str:
        dtype = next((item.image.dtype for item in items if item.image is not None), torch.float32)
        images = torch.empty(self._batch_size, 3, *self._size, dtype=dtype, memory_format=self._layout)
        images[len(items) :] = 0
        for place, item in enumerate(items):
            if item.wrong is not None:
                return f"dataset: expected {item.wrong} (image {item.number})"
            if item.image is None:
                images[place] = 0
                continue
            if tuple(item.image.shape[1:]) != self._size:
                h, w = self._size
                return (
                    f"dataset: expected all images as large as the first, {h} × {w}, got "
                    f"{item.image.shape[1]} × {item.image.shape[2]} (image {item.number})"
                )
            images[place] = item.image
        return Batch(
            images,
            [item.number for item in items],
            [item.name for item in items],
            [item.reason for item in items],
        )


def first_image(items: Iterable, reader: Reader) -> tuple[Tensor, Iterator]:
    """The first readable image [3, H, W], and all items again from the beginning, also of a stream.

    Raises `ValueError` if there is none or if something else comes.
    """
    rest, seen, reason = iter(items), [], ""
    for number, item in enumerate(rest):
        seen.append(item)
        read = item if isinstance(item, _Read) else reader.made(number, item)
        if read.wrong is not None:
            raise ValueError(f"dataset: expected {read.wrong} (image {number})")
        if read.image is not None:
            return read.image, chain(seen, rest)
        reason = reason or f"; the first, {read.name or 'image 0'}: {read.reason}"
    raise ValueError(f"dataset: expected at least one readable image, got none among {len(seen)}{reason}")


def batches(
    reader: Reader,
    numbers: Iterable[list[int]],
    batch_size: int,
    size: tuple[int, int],
    layout: torch.memory_format,
    workers: int,
    pin: bool,
) -> Iterator[Batch]:
    """The images with these numbers, a list for each batch, read by `workers` other processes.

    Raises `ValueError` if an item is no picture of that size.
    """
    # a data set that gives several items at once may do that the faster, the more there are
    most = min(AT_ONCE, PIXELS // math.prod(size)) if reader.gives_several else 1
    at_once = max(1, most // batch_size)
    loader = DataLoader(
        reader,
        batch_sampler=_Lists(numbers, at_once),
        collate_fn=_Stack(batch_size, size, layout),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # its own: it would draw from the global one
    )
    return _checked(loader)


class _Lists:
    """So many lists at a time as one."""

    def __init__(self, numbers: Iterable[list[int]], at_once: int):
        self._numbers, self._at_once = numbers, at_once

    def __iter__(self) -> Iterator[list[int]]:
        left = iter(self._numbers)
        while several := list(islice(left, self._at_once)):
            yield list(chain.from_iterable(several))


def stream_batches(
    items: Iterable, reader: Reader, batch_size: int, size: tuple[int, int], layout: torch.memory_format
) -> Iterator[Batch]:
    """The same of a stream, in the order in which it comes."""
    read = (reader.made(n, item) for n, item in enumerate(items))
    stack = _Stack(batch_size, size, layout)

    def parts():
        while part := list(islice(read, batch_size)):
            yield stack(part)

    return _checked(parts())


def _checked(parts: Iterable[list[Batch] | str]) -> Iterator[Batch]:
    for part in parts:
        if isinstance(part, str):
            raise ValueError(part)
        yield from part
