"""One forward pass, written down step by step, so that parts of it can be computed again for other images.

A `TorchFunctionMode` sees every function that the network calls, at the image's own shape: padding and
branches that depend on the shape are settled then, functional calls count like modules, and nothing of the
network is rewritten. Afterwards each batch norm is folded into the convolution before it, each activation
joined to the step before it, each padding to the step after it.
"""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lecture7_utils.kernels.arguments import describe, tensors_in

Pair = tuple[int, int]
KEPT = 2**30  # bytes, of all maps that a trace holds: no more than occlusion may put into tables


class Untraceable(Exception):
    """The network can't be written down as steps; the text says why."""


@dataclass(frozen=True)
class Window:
    """What a step sees of its input: place i of its output sees i · stride - before + t · dilation, on each
    axis, for t = 0 … kernel - 1. value: what stands beyond the border. Pairs are (down, across)."""

    kernel: Pair
    stride: Pair
    before: Pair
    dilation: Pair
    value: float = 0.0

    @property
    def trivial(self) -> bool:
        """Whether each place sees the same place of the input, and nothing else."""
        return (self.kernel, self.stride, self.before) == ((1, 1), (1, 1), (0, 0))


@dataclass(eq=False)
class Step:
    """One step of a pass.

    role: "image", the images themselves; "window", see `Window`; "place", each place of the map by itself;
        "union", several maps, place by place; "average", over all places of a map; "whole", anything else
        that treats the images of a batch alike and by themselves.
    inputs: the steps whose outputs it takes. shape: of its output for one image, (C, H, W) for a map.
    run: its output from whole inputs [B, …]; for "place" and "union" from parts of maps [B, C, h, w] too.
    part: for "window", its output from the input with all that the windows see around it, and no padding.
    after: functions of single values that come after it; they may work in place. joins: what such a step adds
    to `after` of the one before it, None for other steps. padding: what `F.pad` does before `run`.
    cost: multiplications, about, for each place of the output. map: the output for the image traced,
    [1, *shape], where another step needs what lies around a part of it.
    """

    role: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    run: Callable[..., Tensor] | None = None
    window: Window | None = None
    part: Callable[[Tensor], Tensor] | None = None
    after: list[Callable[[Tensor], Tensor]] = field(default_factory=list)
    cost: float = 0.0
    map: Tensor | None = None
    divisors: tuple[Tensor, Tensor] | None = None  # of an average pooling: values under each window, per axis
    conv: "_Convolution | None" = None
    affine: tuple[Tensor, Tensor] | None = None
    joins: list[Callable[[Tensor], Tensor]] | None = None
    padding: tuple[tuple[int, ...], float] | None = None
    fresh: bool = True  # whether the output shares no memory with an input

    @property
    def is_map(self) -> bool:
        """Whether it gives a map with more than one place."""
        return len(self.shape) == 3 and self.shape[1] * self.shape[2] > 1

    @property
    def key(self) -> Hashable:
        """All that a plan depends on."""
        return self.role, self.inputs, self.shape, self.window, self.cost


@dataclass(eq=False)
class _Convolution:
    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair  # where it is the same on both sides, else 0 and `Step.padding` has it
    dilation: Pair
    groups: int
    folded: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self._by_place and len(x) < _FEW and x.is_contiguous(memory_format=torch.channels_last):
            # one thread and few images: PyTorch takes a slower kernel; rows of places are more "images"
            rows = x.permute(0, 2, 3, 1).flatten(0, 1)[:, None].permute(0, 3, 1, 2)
            out = F.conv2d(rows, self.weight, self.bias, groups=self.groups)
            out = out.permute(0, 2, 3, 1).reshape(len(x), x.shape[2], x.shape[3], -1)
            return out.permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    @property
    def _by_place(self) -> bool:
        trivial = self.weight.shape[2:] == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
        return trivial and torch.get_num_threads() == 1

    def part(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """Put a batch norm, x · scale + shift (float64 [C]), into weight and bias."""
        dtype = self.weight.dtype
        bias = shift if self.bias is None else self.bias.double() * scale + shift
        self.weight = (self.weight.double() * scale[:, None, None, None]).to(dtype)
        self.bias, self.folded = bias.to(dtype), True


@dataclass(eq=False)
class Trace:
    """The steps of a pass up to `output`, the last of them; `raw`: what the network itself gave, [1, …].

    index: the step that stands for what a function gave, by the order in which the functions ran.
    """

    steps: list[Step]
    raw: Tensor
    index: dict[int, int]

    @property
    def folds(self) -> int:
        """How many batch norms were folded."""
        return sum(step.conv is not None and step.conv.folded for step in self.steps)


def trace(
    model: nn.Module, image: Tensor, run: Callable[[Tensor], Tensor], noted: dict[str, int] | None = None
) -> Trace:
    """Write down what `run` computes from `image` [1, 3, H, W] by `model`, in eval mode, without gradients.

    run: gives one tensor, [1, …]. noted: filled, in the order of the pass, with the number in `Trace.index`
    of what each module gave, by the module's name; of several calls the first counts.
    Raises `Untraceable` for a network with a step that isn't known, that reads values, mixes images, holds a
    part compiled by TorchScript or torch.compile, or has a hook, as that wants to see every pass. The model
    is left as it was; what it raises is passed on.
    """
    _refuse_unseen(model)
    image = image.clone()
    recorder = _Recorder(image)
    handles = []
    try:
        if noted is not None:
            for name, module in model.named_modules():
                if name:
                    handles.append(module.register_forward_hook(_noting(recorder, name, noted)))
        with recorder:
            raw = run(image)
    except _Leave:
        raise Untraceable(recorder.failure) from None
    finally:
        for handle in handles:
            handle.remove()
    if recorder.failure:  # the network caught what was to leave it
        raise Untraceable(recorder.failure)
    output = recorder.number(raw) if isinstance(raw, Tensor) else None
    if output is None or output in recorder.squeezed:
        raise Untraceable("its output does not come from the image by steps that are known")
    recorder.keep(output, raw)
    return _tidied(recorder.steps, output, raw.clone())


def _noting(recorder: "_Recorder", name: str, noted: dict[str, int]) -> Callable:
    def hook(_module, _inputs, output):
        number = recorder.number(output) if isinstance(output, Tensor) else None
        if number is not None:
            noted.setdefault(name, number)

    return hook


def _refuse_unseen(model: nn.Module) -> None:
    shared = torch.nn.modules.module
    if shared._global_forward_hooks or shared._global_forward_pre_hooks:
        raise Untraceable("a hook on all modules, which wants to see every pass")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
            raise Untraceable(f"a compiled part, {type(module).__name__}, which can't be looked into")
        if module._forward_hooks or module._forward_pre_hooks:
            raise Untraceable(f"a hook on {name or 'the model'!r}, which wants to see every pass")


_FEW = 16  # images, as PyTorch's choice of a kernel counts them

# --------------------------------------------------------------------------------------------- writing down


class _Leave(BaseException):
    """Thrown to leave a forward pass; it never leaves this module.

    Not an `Exception`: a network that catches those in its forward pass must not catch this one.
    """


class _Slot:
    """Where an operand of a step stands among the arguments of its function."""

    def __init__(self, place: int):
        self.place = place


class _Recorder(TorchFunctionMode):
    def __init__(self, image: Tensor):
        super().__init__()
        self.steps = [Step("image", (), tuple(image.shape[1:]))]
        self.failure = ""
        self.squeezed: set[int] = set()  # maps whose one channel was left out of their shape
        self._image = image
        self._numbers: dict[int, tuple[weakref.ref, int]] = {}
        self._read: set[int] = set()
        self._kept = 0
        self.attach(image, 0)
        self.steps[0].map = image

    def number(self, tensor: Tensor) -> int | None:
        """The step that gave this tensor."""
        reference, number = self._numbers.get(id(tensor), (None, None))
        return number if reference is not None and reference() is tensor else None

    def attach(self, tensor: Tensor, number: int) -> None:
        self._numbers[id(tensor)] = weakref.ref(tensor), number

    def keep(self, number: int, tensor: Tensor) -> None:
        if self.steps[number].map is None:
            self._kept += tensor.numel() * tensor.element_size()
            if self._kept > KEPT:
                self.leave(f"maps of more than {KEPT / 2**30:.2g} GiB")
        self.steps[number].map = tensor

    def leave(self, why: str):
        self.failure = self.failure or why
        for step in self.steps:  # the memory is needed, and the error keeps this object alive for a while
            step.map = None
        raise _Leave(why)

    def add(self, step: Step, tensor: Tensor, squeezed: bool = False) -> None:
        self.steps.append(step)
        self.attach(tensor, len(self.steps) - 1)
        if squeezed:
            self.squeezed.add(len(self.steps) - 1)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operands = [t for t in tensors_in((args, kwargs)) if self.number(t) is not None]
        if not operands:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        dunder = name.startswith("__")
        plain = name.strip("_") if dunder else name.removesuffix("_")
        if plain in _SEEN:
            return func(*args, **kwargs)
        if plain == "get":
            found = func(*args, **kwargs)
            if isinstance(found, Tensor):
                self.leave("an attribute of a map that is a tensor itself")
            return found
        rule = _RULES.get(plain)
        if rule is None or kwargs.get("out") is not None:
            self.leave(f"the step {name!r}, which isn't known")
        may_change = (
            (name.endswith("_") and not dunder)
            or (dunder and plain in _CHANGING)
            or bool(kwargs.get("inplace"))
            or any(value is True for value in args[1:])
        )
        if may_change:
            self._before_a_change(operands[0])
        # the sum of several maps may be written over one of them, and what lies around a part of it is needed
        before = operands[0].clone() if may_change and len(operands) > 1 else None
        numbers = [self.number(t) for t in operands]
        if any(n in self.squeezed for n in numbers) and plain != "unsqueeze":
            self.leave(f"the step {name!r} on a map without its channel dimension")
        output = func(*args, **kwargs)
        call = _Call(self, plain, func, args, kwargs, operands, numbers, output, before)
        if output is operands[0] and plain not in _RETURN_ITSELF:
            if not may_change:
                self.leave(f"the step {name!r}, which changed its operand without notice")
            call.changes = True
        rule(call)
        return output

    def _before_a_change(self, tensor: Tensor) -> None:
        """A step in place: keep what others need of the old values, refuse what shares their memory."""
        number = self.number(tensor)
        if self.steps[number].map is tensor:
            self.keep(number, tensor.clone())
        memory = tensor.untyped_storage().data_ptr()
        for reference, _ in self._numbers.values():
            other = reference()
            if other is not None and other is not tensor and other.untyped_storage().data_ptr() == memory:
                self.leave("a step in place on memory that two tensors share")


@dataclass
class _Call:
    """A function that was just called, and what a rule needs to write it down."""

    recorder: _Recorder
    name: str
    func: Callable
    args: tuple
    kwargs: dict
    operands: list[Tensor]
    numbers: list[int]
    output: object
    before: Tensor | None  # the first operand, if the function may have changed it and there are others
    changes: bool = False

    def given(self, order: str) -> dict:
        return {**dict(zip(order.split(), self.args, strict=False)), **self.kwargs}

    def leave(self, why: str):
        self.recorder.leave(why)

    def replay(self) -> Callable[..., Tensor]:
        """The function with the operands left open; it changes none of them."""
        places = iter(range(len(self.operands)))
        known = [id(t) for t in self.operands]

        def opened(value):
            if isinstance(value, Tensor):
                return _Slot(next(places)) if id(value) in known else value
            if isinstance(value, tuple | list):
                return type(value)([opened(v) for v in value]) if type(value) in (tuple, list) else value
            if isinstance(value, dict):
                return {k: opened(v) for k, v in value.items()}
            return value

        args, kwargs, func, changes = opened(self.args), opened(self.kwargs), self.func, self.changes

        def filled(value, given):
            if isinstance(value, _Slot):
                return given[value.place]
            if isinstance(value, tuple | list):
                return type(value)(filled(v, given) for v in value) if type(value) in (tuple, list) else value
            if isinstance(value, dict):
                return {k: filled(v, given) for k, v in value.items()}
            return value

        def run(*given: Tensor) -> Tensor:
            if changes:
                given = (given[0].clone(), *given[1:])
            return func(*filled(args, given), **filled(kwargs, given))

        return run

    def step(self, role: str, *, output: Tensor | None = None, squeezed: bool = False, **parts) -> None:
        output = self.output if output is None else output
        if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[0] != 1:
            got = describe(output) if isinstance(output, Tensor) else type(output).__name__
            self.leave(f"the step {self.name!r}, which gives {got} for one image")
        if output.dtype != self.operands[0].dtype:
            self.leave(f"the step {self.name!r}, which changes the kind of numbers")
        if role != "place":
            for tensor, number in zip(self.operands, self.numbers, strict=True):
                written_over = self.changes and tensor is self.output
                self.recorder.keep(number, self.before if written_over else tensor)
        shape = tuple(output.shape[1:])
        if squeezed:
            shape = (1, *shape)
        parts.setdefault("cost", float(shape[0]))
        self.recorder.add(Step(role, tuple(self.numbers), shape, **parts), output, squeezed)

    def require_maps(self) -> None:
        for tensor in self.operands:
            if tensor.ndim != 4 or tensor.shape[0] != 1:
                self.leave(f"the step {self.name!r} on {describe(tensor)}")


def _same(call: _Call) -> None:
    """The same values: a copy, or the tensor itself."""
    out = call.output
    if not isinstance(out, Tensor) or out.dtype != call.operands[0].dtype or len(call.operands) != 1:
        call.leave(f"the step {call.name!r}, which changes the kind of numbers")
    call.recorder.attach(out, call.numbers[0])


def _conv2d(call: _Call) -> None:
    given = call.given("input weight bias stride padding dilation groups")
    call.require_maps()
    if len(call.operands) != 1 or call.operands[0] is not given["input"]:
        call.leave("a convolution whose weights depend on the image")
    weight, padding = given["weight"], given.get("padding", 0)
    stride, dilation = pair(given.get("stride", 1)), pair(given.get("dilation", 1))
    kernel, groups = tuple(weight.shape[2:]), given.get("groups", 1)
    extra = None
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        before = (total[0] // 2, total[1] // 2)
        own = (0, 0)
        if any(total):
            extra = ((before[1], total[1] - before[1], before[0], total[0] - before[0]), 0.0)
    else:
        before = own = pair(padding)
    bias = None if given.get("bias") is None else given["bias"].detach()
    conv = _Convolution(weight.detach(), bias, stride, own, dilation, groups)
    cost = float(weight.numel())
    window = Window(kernel, stride, before, dilation)
    call.step("window", run=conv, part=conv.part, window=window, conv=conv, cost=cost, padding=extra)


def _batch_norm(call: _Call) -> None:
    given = call.given("input running_mean running_var weight bias training momentum eps")
    mean, variance = given.get("running_mean"), given.get("running_var")
    if given.get("training", False) or mean is None or variance is None or len(call.operands) != 1:
        call.leave("a batch norm by the statistics of the batch itself")
    x = call.operands[0]
    scale = (variance.double() + given.get("eps", 1e-5)).rsqrt()
    if given.get("weight") is not None:
        scale = scale * given["weight"].detach().double()
    shift = -mean.double() * scale
    if given.get("bias") is not None:
        shift = shift + given["bias"].detach().double()
    shape = (-1, *[1] * (x.ndim - 2))
    a, b = scale.to(x.dtype).view(shape), shift.to(x.dtype).view(shape)

    def run(v: Tensor) -> Tensor:
        return torch.addcmul(b, v, a)

    call.step("place", run=run, joins=[run], affine=(scale, shift))


def _max_pool2d(call: _Call) -> None:
    given = call.given("input kernel_size stride padding dilation ceil_mode return_indices")
    call.require_maps()
    if not isinstance(call.output, Tensor):
        call.leave("a max pooling that gives its switches too")
    kernel, dilation = pair(given["kernel_size"]), pair(given.get("dilation", 1))
    stride = pair(given.get("stride") or kernel)
    window = Window(kernel, stride, pair(given.get("padding", 0)), dilation, -torch.inf)
    cost = float(call.output.shape[1] * kernel[0] * kernel[1]) / 4

    def part(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel, stride, 0, dilation)

    call.step("window", run=call.replay(), part=part, window=window, cost=cost)


def _avg_pool2d(call: _Call) -> None:
    order = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
    given = call.given(order)
    call.require_maps()
    kernel = pair(given["kernel_size"])
    stride, padding = pair(given.get("stride") or kernel), pair(given.get("padding", 0))
    override, include = given.get("divisor_override"), given.get("count_include_pad", True)
    x, out = call.operands[0], call.output
    divisors = []
    for axis in (0, 1):
        start = torch.arange(out.shape[2 + axis]) * stride[axis] - padding[axis]
        length = x.shape[2 + axis]
        end = (start + kernel[axis]).clamp(max=length + padding[axis])
        # with ceil mode a window may reach beyond the padding: what lies there is never counted
        count = end - start if include else end.clamp(max=length) - start.clamp(min=0)
        divisors.append(torch.ones_like(count) if override else count)
    _average_window(call, kernel, stride, padding, divisors, override or 1)


def _average_window(call: _Call, kernel, stride, padding, divisors, override=1) -> None:
    window = Window(kernel, stride, padding, (1, 1))
    cost = float(call.output.shape[1] * kernel[0] * kernel[1]) / 4

    def part(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel, stride, 0, divisor_override=override)

    down, across = divisors
    if override == 1 and bool((down == kernel[0]).all()) and bool((across == kernel[1]).all()):

        def part(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, kernel, stride)

        divisors = None
    elif override != 1:
        divisors = None
    parts = None if divisors is None else (down, across)
    call.step("window", run=call.replay(), part=part, window=window, cost=cost, divisors=parts)


def _adaptive_avg_pool2d(call: _Call) -> None:
    call.require_maps()
    (height, width), (h, w) = call.operands[0].shape[2:], call.output.shape[2:]
    if (h, w) == (height, width):
        _same(call)
    elif (h, w) == (1, 1):
        call.step("average", run=call.replay())
    elif height % h == 0 and width % w == 0:
        kernel = (height // h, width // w)
        count = [torch.full((n,), k) for n, k in zip((h, w), kernel, strict=True)]
        _average_window(call, kernel, kernel, (0, 0), count)
    else:
        call.step("whole", run=call.replay())


def _reduced(call: _Call) -> None:
    given = call.given("input dim keepdim")
    x, dim = call.operands[0], given.get("dim")
    dims = [dim] if isinstance(dim, int) else dim
    known = isinstance(dims, tuple | list) and all(isinstance(d, int) for d in dims)
    if not known or len(call.operands) > 1:
        call.leave(f"the step {call.name!r} over all dimensions")
    dims = {d % x.ndim for d in dims}
    if 0 in dims:
        call.leave(f"the step {call.name!r}, which mixes images")
    if call.name == "mean" and x.ndim == 4 and dims == {2, 3}:
        call.step("average", run=call.replay())
    elif not isinstance(call.output, Tensor):
        call.leave(f"the step {call.name!r} along one dimension")
    else:
        call.step("whole", run=call.replay())


def _cat(call: _Call) -> None:
    given = call.given("tensors dim")
    parts, dim = given["tensors"], given.get("dim", 0)
    ndim = call.operands[0].ndim
    if len(call.operands) != len(parts) or dim % ndim == 0:
        call.leave("a concatenation of images, or with something that isn't computed from the image")
    if ndim == 4 and dim % 4 == 1:
        call.step("union", run=lambda *maps: torch.cat(maps, 1))
    else:
        call.step("whole", run=call.replay())


def _pad(call: _Call) -> None:
    given = call.given("input pad mode value")
    x, pad, value = call.operands[0], tuple(given["pad"]), given.get("value")
    value = 0.0 if value is None else float(value)
    call.require_maps()
    if given.get("mode", "constant") != "constant":
        call.step("whole", run=call.replay())
        return
    if len(pad) == 2:
        pad = (*pad, 0, 0)
    if len(pad) != 4:
        call.leave("a padding of images or channels")
    if call.output is x:
        return
    if value not in (0.0, -torch.inf):
        call.step("whole", run=call.replay())
        return
    window = Window((1, 1), (1, 1), (pad[2], pad[0]), (1, 1), value)
    call.step("window", run=_itself, part=_itself, window=window, padding=(pad, value), fresh=False)


def _itself(x: Tensor) -> Tensor:
    return x


_IN_PLACE = {"relu": lambda x: x.relu_(), "relu6": lambda x: x.clamp_(0, 6)}


def _by_value(call: _Call) -> None:
    """Each value by itself, or several operands place by place; constants may differ between channels."""
    shapes = {tuple(t.shape[2:]) for t in call.operands}
    ndims = {t.ndim for t in call.operands}
    out = call.output
    if not isinstance(out, Tensor):
        call.leave(f"the step {call.name!r}")
    if len(shapes) > 1 or len(ndims) > 1:
        call.leave(
            "a gate, computed from the whole map, that changes every place of it (squeeze-and-excitation)"
            if call.name in ("mul", "imul", "multiply") and ndims == {4}
            else f"the step {call.name!r} on maps of several sizes"
        )
    ids = {id(t) for t in call.operands}
    constants = [t for t in tensors_in((call.args, call.kwargs)) if id(t) not in ids]
    if call.name == "prelu":
        constants = []  # one for each channel
    differ = any(c.numel() > 1 and (c.ndim < 3 or c.shape[-2:] != (1, 1)) for c in constants)
    if (4 in ndims and differ) or out.shape[2:] != call.operands[0].shape[2:] or ndims != {out.ndim}:
        call.leave(f"the step {call.name!r} with a constant that differs between places")
    if len(call.operands) > 1:
        call.step("union" if ndims == {4} else "whole", run=call.replay())
        return
    run = call.replay()
    if call.name == "hardtanh":
        given = call.given("input min_val max_val")
        low, high = given.get("min_val", -1.0), given.get("max_val", 1.0)
        call.step("place", run=run, joins=[lambda x: x.clamp_(low, high)])
    elif call.name in _IN_PLACE:
        call.step("place", run=run, joins=[_IN_PLACE[call.name]])
    else:
        call.step("place", run=run, joins=[run])


def _dropout(call: _Call) -> None:
    if call.given("input p training").get("training", True):
        call.leave("a dropout that is on")
    _same(call)


def _reshaped(call: _Call) -> None:
    """The same values in the same order, for each image."""
    x, out = call.operands[0], call.output
    if call.name == "unsqueeze" and call.numbers[0] in call.recorder.squeezed:
        if out.ndim != 4 or out.shape[1] != 1:
            call.leave("a channel that comes back in another place")
        number = call.numbers[0]
        call.recorder.steps.append(Step("place", (number,), tuple(out.shape[1:]), run=_itself, fresh=False))
        call.recorder.attach(out, len(call.recorder.steps) - 1)
        return
    if len(call.operands) != 1 or not isinstance(out, Tensor) or out.numel() != x.numel():
        call.leave(f"the step {call.name!r}")
    if out.ndim < 2 or out.shape[0] != 1:
        call.leave(f"the step {call.name!r}, which leaves out the dimension of the images")
    if out.shape == x.shape:
        _same(call)
        return
    shape = tuple(out.shape[1:])
    call.step("whole", run=lambda v: v.reshape(len(v), *shape), fresh=False, cost=0.0)


def _getitem(call: _Call) -> None:
    x, index = call.operands[0], call.args[1]
    index = index if isinstance(index, tuple) else (index,)
    if len(call.operands) != 1 or not all(isinstance(i, int | slice) and i is not True for i in index):
        call.leave("a selection by anything but numbers and ranges")
    if not isinstance(index[0], slice) or index[0] != slice(None) or x.ndim < 2:
        call.leave("a selection of images")
    whole = all(i == slice(None) for i in index[2:])
    if x.ndim == 4 and len(index) > 1 and whole:
        chosen = index[1]
        if isinstance(chosen, int):
            chosen %= x.shape[1]
            one = slice(chosen, chosen + 1)
            call.step("place", run=lambda v: v[:, one], squeezed=True, fresh=False, cost=0.0)
        else:
            call.step("place", run=lambda v: v[:, chosen], fresh=False, cost=0.0)
    else:
        call.step("whole", run=call.replay(), fresh=False, cost=0.0)


def _pieces(call: _Call) -> None:
    """A map cut into groups of channels."""
    given = call.given("input sizes dim")
    x, dim = call.operands[0], given.get("dim", 0)
    if x.ndim != 4 or dim % 4 != 1 or len(call.operands) != 1:
        call.leave(f"the step {call.name!r} along anything but the channels")
    first = 0
    for piece in call.output:
        chosen = slice(first, first + piece.shape[1])
        call.step("place", output=piece, run=lambda v, c=chosen: v[:, c], fresh=False, cost=0.0)
        first = chosen.stop


def _linear(call: _Call) -> None:
    given = call.given("input weight bias")
    if len(call.operands) != 1 or call.operands[0] is not given["input"] or call.operands[0].ndim < 2:
        call.leave("a linear layer whose weights depend on the image")
    call.step("whole", run=call.replay(), cost=float(given["weight"].numel()))


def _along(call: _Call) -> None:
    given = call.given("input dim")
    dim, x = given.get("dim"), call.operands[0]
    if not isinstance(dim, int) or dim % x.ndim == 0 or len(call.operands) != 1:
        call.leave(f"the step {call.name!r}, which mixes images")
    call.step("whole", run=call.replay())


def _whole(call: _Call) -> None:
    call.require_maps()
    call.step("whole", run=call.replay())


def pair(value: object) -> Pair:
    """One number for both axes, or a pair."""
    if isinstance(value, int):
        return value, value
    numbers = tuple(int(v) for v in value)
    return numbers if len(numbers) == 2 else numbers * 2


# reading these says nothing of a tensor's values
_SEEN = frozenset(
    "dim size ndimension numel nelement len stride is_contiguous is_floating_point is_complex element_size "
    "get_device _assert hash".split()
)
_CHANGING = frozenset({"iadd", "isub", "imul", "itruediv", "idiv"})
# in eval mode, or where nothing is to be done, these give the very tensor that came in
_RETURN_ITSELF = frozenset(
    "contiguous to float double half bfloat16 type type_as dropout dropout1d dropout2d alpha_dropout "
    "feature_alpha_dropout reshape view flatten pad".split()
)
_KINDS: dict[Callable, str] = {
    _same: "contiguous clone detach to float double half bfloat16 type type_as",
    _dropout: "dropout dropout1d dropout2d alpha_dropout feature_alpha_dropout",
    _conv2d: "conv2d",
    _batch_norm: "batch_norm",
    _max_pool2d: "max_pool2d",
    _avg_pool2d: "avg_pool2d",
    _adaptive_avg_pool2d: "adaptive_avg_pool2d",
    _reduced: "mean sum amax amin",
    _cat: "cat concat concatenate",
    _pad: "pad",
    _by_value: """
        relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish sigmoid hardsigmoid hardswish logsigmoid
        softplus softsign tanh tanhshrink hardshrink softshrink exp sqrt square abs neg clamp clip clamp_min
        clamp_max threshold prelu add sub subtract mul multiply div divide true_divide radd rmul rsub truediv
        iadd isub imul itruediv maximum minimum
    """,
    _reshaped: "flatten view reshape squeeze unsqueeze",
    _getitem: "getitem",
    _pieces: "chunk split",
    _linear: "linear",
    _along: "softmax log_softmax",
    _whole: "adaptive_max_pool2d local_response_norm",
}
_RULES = {name: rule for rule, names in _KINDS.items() for name in names.split()}


# --------------------------------------------------------------------------------------------- tidying up


def _tidied(steps: list[Step], output: int, raw: Tensor) -> Trace:
    """Batch norms, activations and paddings joined to their neighbours; what does not lead on left out."""
    needed, stack = set(), [output]
    while stack:
        number = stack.pop()
        if number not in needed:
            needed.add(number)
            stack.extend(steps[number].inputs)
    readers = dict.fromkeys(range(len(steps)), 0)
    for number in needed:
        for i in steps[number].inputs:
            readers[i] += 1
    readers[output] += 1

    stands_for = {number: number for number in range(len(steps))}
    kept: list[int] = []
    for number, step in enumerate(steps):
        if number not in needed:
            continue
        step.inputs = tuple(stands_for[i] for i in step.inputs)
        before = steps[step.inputs[0]] if step.inputs else None
        alone = before is not None and len(step.inputs) == 1 and readers[step.inputs[0]] == 1
        if alone and step.role == "place" and step.conv is None and _joined(before, step):
            before.map = step.map
            stands_for[number] = step.inputs[0]
            readers[step.inputs[0]] = readers[number]
            continue
        if alone and step.role == "window" and _padded(before, step):
            kept.remove(step.inputs[0])
            step.inputs = before.inputs
        if step.role == "window" and step.window.trivial and step.divisors is None and step.padding is None:
            step.role = "place"
        kept.append(number)
    order = {number: place for place, number in enumerate(kept)}
    for number in kept:
        steps[number].inputs = tuple(order[i] for i in steps[number].inputs)
    index = {n: order[stands_for[n]] for n in needed if stands_for[n] in order}
    return Trace([steps[number] for number in kept], raw, index)


def _joined(before: Step, step: Step) -> bool:
    """Join a step on single values to the one before it."""
    if before.role == "image" or not before.fresh:
        return False
    if step.affine is not None:
        if before.conv is not None and not before.after:
            before.conv.fold(*step.affine)
        else:
            before.after += step.joins
        before.after += step.after
        return True
    if step.joins is None:
        return False
    before.after += step.joins + step.after
    return True


def _padded(before: Step, step: Step) -> bool:
    """Join a padding to the step that takes it, if there is nothing else beyond the border."""
    if before.padding is None or before.conv is not None or before.after or before.window is None:
        return False
    pad, value = before.padding
    own, window = step.window.before, step.window
    if step.padding is not None or (own != (0, 0) and value != window.value):
        return False
    step.padding = before.padding
    first = (own[0] + pad[2], own[1] + pad[0])
    step.window = Window(window.kernel, window.stride, first, window.dilation, value)
    return True
