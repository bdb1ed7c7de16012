"""Running a network on many altered copies of its images: in chunks, by the fastest way that is exact.

The ways: channels last where the device computes convolutions faster so, and each batch norm folded into
the convolution before it. Neither touches the model: the folded weights are put in while a pass runs. A
way is taken only if it gives, on the images as they are, what the network gives by itself.
"""

import textwrap
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lecture7_utils.kernels.arguments import as_int, describe, require_int, tensors_in
from lecture7_utils.kernels.layers import prefers_channels_last, run_to
from lecture7_utils.kernels.targets import Target, Unit, class_scores, read_class, read_unit, target_count

# pixels in one pass: 4 images of 224 × 224 keep to a CPU's caches better than more, 64 fill a GPU
ROOM = {"cpu": 4 * 224 * 224}
ROOM_ELSEWHERE = 64 * 224 * 224


def chunk_size(chunk: object, images: Tensor, *, graph: bool = False) -> int:
    """The number of images in one pass: `chunk` itself, or what suits the device for "auto".

    graph: whether the pass keeps its graph for a backward one; on a CPU smaller parts are faster then.
    Raises `TypeError` or `ValueError` for anything else.
    """
    if isinstance(chunk, str) and chunk == "auto":
        room = ROOM.get(images.device.type, ROOM_ELSEWHERE)
        if graph and images.device.type == "cpu":
            room //= 2
        return max(1, room // (images.shape[2] * images.shape[3]))
    return require_int(as_int(chunk, "chunk", "'auto' or an int"), "chunk", 1)


def bar(steps: range, progress: bool, what: str) -> Iterable[int]:
    """`steps`, with a progress bar named `what` if `progress`."""
    if not progress:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc=what)


def values_per_copy(target: Target, n: int) -> int:
    """How many values each copy of one of `n` images gives: several if one image has several targets.

    Raises `ValueError` if the target was written for another number of images.
    """
    count = target_count(target)
    if count is not None and n > 1 and count != n:
        noun = "channel" if isinstance(target, Unit) else "class"
        raise ValueError(f"target: expected one {noun} for each of the {n} images, got {count}")
    return count if n == 1 and count else 1


def read_copies(raw: Tensor, target: Target, owners: Sequence[int], per_copy: int) -> Tensor:
    """Pick the target's values [B, per_copy] out of what the network gives for a batch of copies.

    owners: for each copy, the index of its image.
    """
    if isinstance(target, Unit):
        if per_copy > 1:
            return torch.stack([read_unit(raw, replace(target, channel=c)) for c in target.channel], 1)
        if isinstance(target.channel, tuple):
            target = replace(target, channel=tuple(target.channel[o] for o in owners))
        return read_unit(raw, target)[:, None]
    if per_copy > 1:
        classes = target.classes * len(owners)
        repeated = raw.repeat_interleave(per_copy, 0)
        return read_class(repeated, replace(target, classes=classes)).view(-1, per_copy)
    if isinstance(target.classes, tuple):
        target = replace(target, classes=tuple(target.classes[o] for o in owners))
    return read_class(raw, target)[:, None]


class Passes:
    """The target's value for altered copies of `images`, as many as wanted, one pass after another.

    Made and used inside `evaluation` and inference mode. The target is one for all images or one for each;
    with a single image it may hold K, and each copy then gives K values.

    clean: the values of the unaltered images, [N] or [K] for a single image, by the network as it stands.
    layout: the memory format in which copies are best made. how: the way taken, in words.
    Raises `ValueError` if the target was written for another number of images, and what the network or
    the target raises.
    """

    def __init__(self, model: nn.Module, images: Tensor, target: Target, chunk: int):
        n = images.shape[0]
        self._model, self._target, self._chunk = model, target, chunk
        self.per_copy = values_per_copy(target, n)
        self.layout, self._folds = torch.contiguous_format, {}

        first = images[:chunk].clone()
        watch = None if _compiled(model) else _Watch(model)
        if watch is None:
            raw = self._raw(first)
        else:
            with watch:
                raw = self._raw(first)
        parts = [self._read(raw, range(raw.shape[0]))]
        for start in range(chunk, n, chunk):
            part = images[start : start + chunk].clone()
            parts.append(self._read(self._raw(part), range(start, start + part.shape[0])))
        self.clean = torch.cat(parts).flatten()
        misfit = self._choose(images[:chunk], raw, {} if watch is None else watch.folds())
        self.how = self._words(misfit)

    def __call__(self, make: Callable[[], Tensor], owners: Sequence[int]) -> Tensor:
        """The values of a batch of copies: [B, K], K = 1 unless a single image has several targets.

        make: gives the batch [B, 3, H, W], anew at each call, as a network's first step may be in place.
        owners: for each copy, the index of its image.
        """
        if self._folds:
            try:
                with _Folded(self._folds):
                    return self._read(self._raw(make()), owners)
            except _Misfit:
                # it branches on its data: no fold can be trusted from here on
                self._folds = {}
                self.how = self._words("")
        return self._read(self._raw(make()), owners)

    def _raw(self, batch: Tensor) -> Tensor:
        """What the target is read from: class scores, or the output of the unit's layer."""
        batch = batch.contiguous(memory_format=self.layout)
        if not isinstance(self._target, Unit):
            return class_scores(self._model, batch)
        raw = run_to(self._model, batch, self._target.layer)
        if raw.ndim == 0 or raw.shape[0] != batch.shape[0]:
            raise ValueError(
                f"layer: expected {self._target.layer!r} to give one row for each of the {batch.shape[0]} "
                f"images, got {describe(raw)}"
            )
        return raw

    def _read(self, raw: Tensor, owners: Sequence[int]) -> Tensor:
        return read_copies(raw, self._target, owners, self.per_copy)

    def _choose(self, images: Tensor, expected: Tensor, folds: dict[int, "_Fold"]) -> str:
        """Take the first way that agrees with `expected` on `images`; say why a faster one did not."""
        layouts = [torch.channels_last] if prefers_channels_last(images) else []
        misfit = ""
        for self.layout in (*layouts, torch.contiguous_format):
            if self.layout is torch.contiguous_format and not folds:
                break
            # a weight's format decides that of a convolution's output
            self._folds = {
                key: replace(fold, weight=fold.weight.contiguous(memory_format=self.layout))
                for key, fold in folds.items()
            }
            try:
                with _Folded(self._folds):
                    raw = self._raw(images.clone(memory_format=self.layout))
                if agree(raw, expected):
                    return misfit
                misfit = misfit or "other results"
            except (Exception, _Misfit) as error:
                misfit = misfit or textwrap.shorten(str(error), 80, placeholder=" …") or type(error).__name__
        self.layout, self._folds = torch.contiguous_format, {}
        return misfit

    def _words(self, misfit: str) -> str:
        unit = isinstance(self._target, Unit)
        network = f"the network up to {self._target.layer!r}" if unit else "the whole network"
        layout = ", channels last" if self.layout is torch.channels_last else ""
        count = len(self._folds)
        folds = f", {count} batch norm{'s' * (count > 1)} folded" if count else ""
        why = f" (the faster way did not fit this network: {misfit})" if misfit else ""
        return f"dense: {network} for every copy, up to {self._chunk} in a pass{layout}{folds}{why}"


def _compiled(model: nn.Module) -> bool:
    """Whether torch.compile made a part of it: watching that would compile it anew."""
    return any("_orig_mod" in module._modules for module in model.modules())


def agree(raw: Tensor, expected: Tensor) -> bool:
    """Whether two outputs of a network are the same up to rounding."""
    if raw.shape != expected.shape:
        return False
    tolerance = min(1000 * torch.finfo(expected.dtype).eps, 0.05)
    return bool((raw - expected).abs().max() <= tolerance * expected.abs().max())


# ------------------------------------------------------------------------- batch norm into the convolution


class _Misfit(BaseException):
    """A pass took another path than the one watched; it never leaves this module.

    Not an `Exception`: a network that catches those in its forward pass must not catch this one.
    """


@dataclass(frozen=True)
class _Fold:
    """A convolution's own weight (kept alive, as it is known by its id), and what is put in its place."""

    own_weight: Tensor
    mean: Tensor
    weight: Tensor
    bias: Tensor


@dataclass
class _Convolution:
    """One call of a convolution: its output, how often that was read, and the batch norm that read it."""

    output: weakref.ref
    weight: Tensor
    bias: Tensor | None
    reads: int = 0
    norm: tuple | None = None


def _conv(input, weight, bias=None, *_options, **_named):
    return input, weight, bias


def _norm(input, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    return input, mean, variance, weight, bias, training, eps


# reading these says nothing of a tensor's values
_METADATA = {Tensor.dim, Tensor.size, Tensor.is_contiguous, Tensor.is_floating_point} | {
    getattr(Tensor, name).__get__
    for name in ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cuda", "is_quantized")
}


class _Watch(TorchFunctionMode):
    """Notes, in one pass, each convolution whose output goes into a batch norm and nowhere else."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._calls: list[_Convolution] = []
        self._latest: dict[int, _Convolution] = {}
        # whoever hooked a convolution wants to see its own output
        self._hooked = {
            id(parameter)
            for module in model.modules()
            if module._forward_hooks
            for parameter in module.parameters(recurse=False)
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _METADATA:
            return func(*args, **kwargs)
        for tensor in tensors_in((args, kwargs)):
            call = self._latest.get(id(tensor))
            if call is not None and call.output() is tensor:
                call.reads += 1
        if func is F.batch_norm:
            input, *norm = _norm(*args, **kwargs)
            call = self._latest.get(id(input))
            if call is not None and call.output() is input:
                call.norm = tuple(norm)
        output = func(*args, **kwargs)
        if func is F.conv2d:
            _, weight, bias = _conv(*args, **kwargs)
            call = _Convolution(weakref.ref(output), weight, bias)
            self._calls.append(call)
            self._latest[id(output)] = call
        return output

    def folds(self) -> dict[int, _Fold]:
        """What to put in place of which convolution's weight (by its id)."""
        ids = [id(call.weight) for call in self._calls]
        found = {}
        for call in self._calls:
            key = id(call.weight)
            if call.norm is None or call.reads != 1 or ids.count(key) > 1 or key in self._hooked:
                continue
            mean, variance, weight, bias, training, eps = call.norm
            if training or mean is None or variance is None:
                continue
            wide = torch.promote_types(call.weight.dtype, torch.float32)
            scale = (variance.to(wide) + eps).rsqrt()
            scale = scale if weight is None else scale * weight.to(wide)
            shift = -mean.to(wide) if call.bias is None else call.bias.to(wide) - mean.to(wide)
            shift = shift * scale if bias is None else shift * scale + bias.to(wide)
            folded = (call.weight.to(wide) * scale[:, None, None, None]).to(call.weight.dtype)
            found[key] = _Fold(call.weight, mean, folded, shift.to(call.weight.dtype))
        return found


class _Folded(TorchFunctionMode):
    """Runs the convolutions of `folds` with their folded weights, and skips the batch norms after them.

    Raises `_Misfit` on leaving if the output of one did not meet its batch norm.
    """

    def __init__(self, folds: dict[int, _Fold]):
        super().__init__()
        self._folds = folds
        self._waiting: dict[int, tuple[Tensor, _Fold]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.conv2d:
            input, weight, _ = _conv(*args, **kwargs)
            fold = self._folds.get(id(weight))
            if fold is not None:
                options = {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}
                output = func(input, fold.weight, fold.bias, *args[3:], **options)
                self._waiting[id(output)] = output, fold
                return output
        elif func is F.batch_norm:
            input, mean, *_ = _norm(*args, **kwargs)
            output, fold = self._waiting.get(id(input), (None, None))
            if output is input and fold.mean is mean:
                del self._waiting[id(input)]
                return input
        return func(*args, **kwargs)

    def __exit__(self, kind, error, traceback):
        super().__exit__(kind, error, traceback)
        if kind is None and self._waiting:
            raise _Misfit("a convolution's output did not meet its batch norm")
