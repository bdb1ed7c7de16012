"""How a network ends: which map it averages, which linear layer takes the average, which map comes last.

Both are read off one ordinary forward pass. A `TorchFunctionMode` sees every function that the network
calls, whatever its layers are named and whether they are modules or plain functions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lecture7_utils.kernels.targets import class_scores


@dataclass(frozen=True)
class AveragedMap:
    """The end of a network whose scores are linear in the average of one map.

    map: [N, C, h, w], what is averaged over its positions. weight: [K, C] and bias: [K] or None, of the
    linear layer that takes the average; both None where the average is the scores, then C = K.
    """

    map: Tensor
    weight: Tensor | None
    bias: Tensor | None


class NoAverage(Exception):
    """The network does not end in a global average and one linear layer; the text says in what it does."""


def find_averaged_map(model: nn.Module, images: Tensor) -> tuple[Tensor, AveragedMap]:
    """The scores [N, K] and the map that they are averaged from, by one forward pass (two if the convolution
    that is defined last does not run before the average).

    Between the average and the linear layer, and after it, only steps that change no value may stand:
    dropout (in eval mode), flatten, view, identity. Eval mode and the checks of `images` are the caller's.
    Raises `NoAverage` for any other end.
    """
    watch = _AverageWatch()
    with Late(model, watch, last=1) as late:
        scores = class_scores(model, images)
    if late.missed_some and _note(scores) is None and not watch.found:
        # nothing seen from there on: the average may stand before
        with watch:
            scores = class_scores(model, images)
    note = _note(scores)
    if note is None or note.kind not in ("average", "scores"):
        raise NoAverage(watch.found or _nothing_found(model, scores, watch.last))
    if _version(note.map) != note.map_version:
        raise NoAverage(f"a map {_shape(note.map)} that is overwritten after it was averaged")
    return scores, AveragedMap(note.map, note.weight, note.bias)


def _nothing_found(model: nn.Module, scores: Tensor, last: str) -> str:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "layers compiled by TorchScript, which can't be looked into"
    origin = last or "outside PyTorch"
    return f"no such average on the way to the output {_shape(scores)}, which comes from {origin}"


class Late:
    """Inside, a mode is on from the first of the network's last convolutions on.

    A mode costs microseconds at every function, and only the end of the pass matters here. Which
    convolutions are last is guessed from the order of definition: a wrong guess starts the mode early, or
    too late; so `missed_some` says whether it was off for a part of the pass.

    last: how many convolutions; the network's own forward pass may leave some of them out.
    """

    def __init__(self, model: nn.Module, mode: TorchFunctionMode, last: int):
        self._mode = mode
        self._last = list(islice(_convolutions_backwards(model), last + 1))
        self.missed_some = len(self._last) > last
        self._on = False

    def __enter__(self) -> "Late":
        # the network's own modes have to be left in order: where one is on, wait for the next convolution
        depth = torch._C._len_torch_function_stack()

        def start(_module, _inputs):
            if not self._on and torch._C._len_torch_function_stack() == depth:
                self._start()

        self._handles = []
        if self.missed_some:
            for module in self._last[:-1]:
                self._handles.append(module.register_forward_pre_hook(start))
        else:
            self._start()
        return self

    def _start(self) -> None:
        self._mode.__enter__()
        self._on = True

    def __exit__(self, *raised) -> None:
        for handle in self._handles:
            handle.remove()
        if self._on:
            self._mode.__exit__(*raised)


def _convolutions_backwards(module: nn.Module) -> Iterator[nn.Module]:
    """The convolutions inside, the one defined last first; it looks no further than it is asked for."""
    for child in reversed(module._modules.values()):
        if child is not None:
            yield from _convolutions_backwards(child)
    if isinstance(module, nn.modules.conv._ConvNd):
        yield module


# ---- the global average and the linear layer that takes it

_NOTE = "_lecture7_note"
# steps that keep every value and its place
_VIEWS = frozenset({"flatten", "view", "view_as", "reshape", "squeeze", "unsqueeze", "__getitem__"})
_COPIES = frozenset(
    {"contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type", "type_as"}
)
_DROPOUT = frozenset({"dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"})
_AVERAGES = frozenset({"mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool2d"})


@dataclass(frozen=True)
class _Note:
    """What is known of a tensor: it rides on the tensor itself and goes with it.

    kind: "flat" for a map with its positions flattened among the features, "partly" for one whose
    positions are in one dimension or averaged along one, "average" for the global average, "scores" for
    the linear layer's output. Versions are PyTorch's counters of in-place changes.
    """

    kind: str
    map: Tensor
    map_version: int
    version: int = 0
    weight: Tensor | None = None
    bias: Tensor | None = None


class _AverageWatch(TorchFunctionMode):
    """Writes notes on tensors as they pass. `found`: the last thing that ruled an average out."""

    def __init__(self):
        super().__init__()
        self.found = ""
        self.last = ""
        self._noted = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return func(*args, **kwargs)
        notes = []
        if self._noted:  # looked at before the step: one in place makes a note void
            notes = [note for tensor in _tensors(args, kwargs) if (note := _note(tensor)) is not None]
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor | tuple | list):
            return out
        self.last = name
        if not notes and name not in _AVERAGES and name not in _VIEWS:
            return out
        new = self._step(name, args, kwargs, out, notes) if isinstance(out, Tensor) else None
        if new is not None:
            setattr(out, _NOTE, replace(new, version=_version(out)))
            self._noted = True
        elif notes:
            self._ruled_out(name, notes[0])
            if isinstance(out, Tensor):  # an in-place step gives the tensor that carries the old note
                out.__dict__.pop(_NOTE, None)
        return out

    def _step(self, name: str, args: tuple, kwargs: dict, out: Tensor, notes: list[_Note]) -> _Note | None:
        """The note of `out`, or None if nothing is known of it."""
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or len(notes) > 1:
            return None
        note = _note(x)
        if name in _AVERAGES:
            return _averaged(name, args, kwargs, x, note, out)
        if note is None:
            flattens = name in _VIEWS and x.ndim == 4 and 2 <= out.ndim <= 3 and x.is_floating_point()
            return _flattened(x, out) if flattens else None
        if name in _VIEWS or name in _COPIES:
            whole = out.is_floating_point() and out.numel() == x.numel()
            if name == "__getitem__":
                whole = whole and _plain_index(args[1])
            if note.kind in ("flat", "partly"):
                return note if whole and out.shape == x.shape else None
            width = x.shape[1] if x.ndim > 1 else 0
            return note if whole and out.ndim >= 2 and out.shape[:2] == (x.shape[0], width) else None
        if name in _DROPOUT:
            return note if out.data_ptr() == x.data_ptr() and out.shape == x.shape else None
        if note.kind == "average" and name in ("linear", "conv2d"):
            return _linear(name, args, kwargs, x, note, out)
        return None

    def _ruled_out(self, name: str, note: _Note) -> None:
        at = _shape(note.map)
        if note.kind == "flat" and name == "linear":
            self.found = (
                f"a linear layer that takes a map {at} flattened, with weights of its own for each place"
            )
        elif note.kind == "average":
            self.found = f"an average of a map {at} that goes on into {name}"
        elif note.kind == "scores":
            self.found = f"a linear layer after the average of a map {at} that goes on into {name}"


def _averaged(name, args: tuple, kwargs: dict, x: Tensor, note: _Note | None, out: Tensor) -> _Note | None:
    if note is not None and note.kind in ("flat", "scores"):
        return None
    if note is None:
        if x.ndim != 4 or not x.is_floating_point():
            return None
        note = _Note("partly", x, _version(x))
    if name == "mean":
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = (dims,) if isinstance(dims, int) else dims
        if not isinstance(dims, tuple | list) or any(d % x.ndim < 2 for d in dims):
            return None
    elif name == "avg_pool2d" and not _pools_all(x, args, kwargs):
        return None
    if out.shape[:2] != x.shape[:2]:
        return None
    if out.numel() == x.shape[0] * x.shape[1]:
        return replace(note, kind="average")
    # part of the positions averaged: equal weights only if whole rows or columns were
    return note if name == "mean" else None


def _pools_all(x: Tensor, args: tuple, kwargs: dict) -> bool:
    order = "input kernel_size stride padding ceil_mode count_include_pad divisor_override".split()
    given = {**dict(zip(order, args, strict=False)), **kwargs}
    padding, divisor = given.get("padding", 0), given.get("divisor_override")
    return _pair(given["kernel_size"]) == tuple(x.shape[2:]) and _pair(padding) == (0, 0) and divisor is None


def _flattened(x: Tensor, out: Tensor) -> _Note | None:
    positions = x.shape[2] * x.shape[3]
    if out.shape == (x.shape[0], x.shape[1], positions):
        return _Note("partly", x, _version(x))
    flat = positions > 1 and out.shape == (x.shape[0], x.shape[1] * positions)
    return _Note("flat", x, _version(x)) if flat else None


def _linear(name, args: tuple, kwargs: dict, x: Tensor, note: _Note, out: Tensor) -> _Note | None:
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    if name == "conv2d":
        padding = args[4] if len(args) > 4 else kwargs.get("padding", 0)
        unpadded = isinstance(padding, str) or _pair(padding) == (0, 0)
        if tuple(weight.shape[2:]) != (1, 1) or out.numel() != x.shape[0] * weight.shape[0] or not unpadded:
            return None
        weight = weight.flatten(1)
    elif x.ndim != 2:
        return None
    # a grouped 1 × 1 convolution has fewer columns than the map has channels
    if weight.shape[1] != note.map.shape[1]:
        return None
    return replace(note, kind="scores", weight=weight.detach(), bias=None if bias is None else bias.detach())


def _note(tensor: Tensor) -> _Note | None:
    """The note on a tensor, unless the tensor was changed since."""
    note = tensor.__dict__.get(_NOTE)
    return note if note is not None and note.version == _version(tensor) else None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _plain_index(index: object) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, int | slice) for part in parts)


def _pair(value: int | tuple | list) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (tuple(value) * 2)[:2]


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _tensors(args: tuple, kwargs: dict) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            for part in value:
                if isinstance(part, Tensor):
                    yield part


# ---- the last map


class _Attach(torch.autograd.Function):
    """Ties a map to a leaf `offset` [N, C, 1, 1] of zeros as if the offset were added, and touches no value.

    It marks the very tensor, so every reference that the network holds to it is tied, and steps in place
    after it behave as they always do. The gradient of the offset is the map's, summed over the positions.
    """

    @staticmethod
    def forward(ctx, features, offset):
        ctx.mark_dirty(features)
        return features

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient.sum((2, 3), keepdim=True)


def attach(features: Tensor) -> Tensor:
    """Start a graph at `features` [N, C, h, w], which has none so far; the tensor itself is marked.

    Returns the leaf [N, C, 1, 1] whose gradient is that of `features`, summed over the positions.
    """
    offset = features.new_zeros((*features.shape[:2], 1, 1))
    with torch.enable_grad():  # the network may have made the map in a no_grad block that ends behind it
        _Attach.apply(features, offset.requires_grad_(True))
    return offset


# of a map they give a map of the same size: no need to start a graph before them
_SAME_SIZE = frozenset(
    {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "silu", "gelu", "batch_norm", "__iadd__", "add_"}
)
_ATTENTION = frozenset({"scaled_dot_product_attention", "multi_head_attention_forward", "softmax"})


class LastMap(TorchFunctionMode):
    """Finds the last map [N, C, h, w] of the size that the last convolution gives, and its graph's start.

    Only convolutions with more than one position count, so gates computed from an average do not. The
    graph begins anew at each map: what is before the last one has none when the pass is over.
    images: how many there are. After the pass: `features` (None if no map was met), the values of the last
    map; `offset`, as `attach` gives it, None if nothing took the map; `attention`, how many steps of
    attention come after the map.
    """

    def __init__(self, images: int):
        super().__init__()
        self._images = images
        self._size: tuple[int, int] | None = None
        self._map: Tensor | None = None
        self._values: Tensor | None = None
        self.offset: Tensor | None = None
        self.attention = 0

    @property
    def features(self) -> Tensor | None:
        last = self._map if self._values is None else self._values
        return None if last is None else last.detach()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return func(*args, **kwargs)
        written = args[0] if name == "__setitem__" else None
        if self._map is not None and written is not self._map:
            if self.offset is None:
                if name not in _SAME_SIZE and any(t is self._map for t in _tensors(args, kwargs)):
                    self.offset = attach(self._map)
            elif self._values is None and _in_place(name, kwargs) and self._overwrites(args, kwargs):
                self._values = self._map.detach().clone()
        out = func(*args, **kwargs)
        if written is not None:
            if self._is_map(name, written):
                self._begin(written)
        elif isinstance(out, Tensor) and self._is_map(name, out):
            return self._begin(out)
        elif name in _ATTENTION:
            # a softmax over scores [N, K] is none
            self.attention += not isinstance(out, Tensor) or out.ndim >= 3
        return out

    def _begin(self, new: Tensor) -> Tensor:
        """`new`, without its past, is the last map for now."""
        if new._is_view() and (new.requires_grad or not torch.is_grad_enabled()):
            new = new.detach()  # such a view can neither be cut in place nor be marked later
        elif new.requires_grad:
            new.detach_()
        self._map, self._values, self.offset, self.attention = new, None, None, 0
        return new

    def _is_map(self, name: str, out: Tensor) -> bool:
        if out.ndim != 4 or out.shape[0] != self._images or not out.is_floating_point():
            return False
        size = tuple(out.shape[2:])
        if name.startswith("conv") and size != (1, 1):
            self._size = size
        return size == self._size

    def _overwrites(self, args: tuple, kwargs: dict) -> bool:
        mine = self._map.untyped_storage().data_ptr()
        return any(t.untyped_storage().data_ptr() == mine for t in _tensors(args[:1], kwargs))


def _in_place(name: str, kwargs: dict) -> bool:
    trailing = name.endswith("_") and not name.endswith("__")
    return trailing or name.startswith(("__i", "__set")) or bool(kwargs.get("inplace")) or "out" in kwargs
