"""Which pixels a unit can see: receptive fields, by one forward pass in which every sum is a maximum.

Four images go through the network. The pixels of the first hold minus their row, of the second their row
plus 1, and the other two the same for columns. Whatever mixes values (a convolution, a pooling, a sum) is
replaced by the maximum of what it mixes, whatever moves them (padding, concatenation, view) is left as it is,
and what works on each value alone (ReLU, batch norm) is left out. So what arrives at a unit is minus the
first row, the last row plus 1, minus the first column and the last column plus 1 of all pixels that lead to
it: whole numbers, exact at the image's borders, with asymmetric padding, ceil mode, dilation, shortcuts and
for each channel of a concatenation. The tensors are of a class of their own and know how to do that; the
network's weights play no part, and nothing of it is changed.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import describe, require_int, require_model
from lecture7_utils.kernels.layers import activations_with_grad, evaluation

_IMAGES = 4  # minus the first row, last row + 1, minus the first column, last column + 1
_LARGEST = 2**24  # whole numbers up to here are exact in float32


def receptive_field(model: nn.Module, layer: str, size: int | Sequence[int]) -> Tensor:
    """The rectangle of the image that each unit of a layer can see.

    A convolution with kernel k, stride s, padding p and dilation d sees, at place i of its output, the
    places i s - p + d t, t = 0 … k - 1, of its input; the field of a unit is what that leads back to (Le and
    Borji, "What are the Receptive, Effective Receptive, and Projective Fields of Neurons in Convolutional
    Neural Networks?", 2017, arXiv 1705.07049, section 2; Araujo, Norris, Sim, "Computing Receptive Fields of
    Convolutional Neural Networks", Distill 2019). It is the smallest rectangle around all pixels that the
    architecture lets through to the unit, clipped to the image; the weights may well use less of it.

    model: any `nn.Module` of which the layer is reached by convolutions, poolings, activations, sums,
    products, concatenations, averages and views. Another step counts as one that sees, for every place it
    gives, all that goes into it.
    layer: the name of a layer that gives [N, C, h, w] or [N, C]. size: of the images in pixels, (height,
    width) or one number for both.
    Returns int64 [C, h, w, 4] on the CPU (h = w = 1 where the layer gives [N, C]): top, left, bottom, right,
    in pixels, bottom and right exclusive; all 0 for a unit that sees padding only. The model is left as it
    was.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came; `ValueError` for
    a network that can't be followed, which says where.
    """
    require_model(model)
    size = _checked_size(size)
    return receptive_fields(model, [layer], size)[layer]


def receptive_fields(model: nn.Module, layers: Sequence[str], size: tuple[int, int]) -> dict[str, Tensor]:
    """As `receptive_field` for several layers, by one pass, for kernels."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
            how = "TorchScript" if isinstance(module, torch.jit.ScriptModule) else "torch.compile"
            raise ValueError(
                f"model: expected one that can be followed step by step, got a part compiled by {how}; use "
                "the network that it was compiled from"
            )
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = torch.device("cpu") if weight is None else weight.device
    with torch.inference_mode(False), torch.no_grad(), evaluation(model, device):
        found = activations_with_grad(model, _coordinates(size, device), list(layers))
    return {name: _rectangles(found[name], name) for name in layers}


def _checked_size(size: object) -> tuple[int, int]:
    if isinstance(size, Sequence) and not isinstance(size, str):
        if len(size) != 2:
            raise ValueError(f"size: expected (height, width) or one number, got {describe(size)}")
        return require_int(size[0], "size", 1, _LARGEST), require_int(size[1], "size", 1, _LARGEST)
    return (require_int(size, "size", 1, _LARGEST),) * 2


def _coordinates(size: tuple[int, int], device: torch.device) -> "_Reach":
    rows = torch.arange(size[0], device=device, dtype=torch.float32)[:, None].expand(size)
    columns = torch.arange(size[1], device=device, dtype=torch.float32).expand(size)
    ends = torch.stack([-rows, rows + 1, -columns, columns + 1])
    return ends[:, None].expand(-1, 3, -1, -1).contiguous().as_subclass(_Reach)


def _rectangles(ends: Tensor, layer: str) -> Tensor:
    if not isinstance(ends, _Reach):
        raise ValueError(
            "model: expected one that can be followed step by step, got a step before "
            f"{layer!r} whose result can't be traced to the image"
        )
    ends = ends.as_subclass(Tensor).cpu()
    if ends.ndim not in (2, 4) or len(ends) != _IMAGES:
        raise ValueError(f"layer: expected {layer!r} to give [N, C, h, w] or [N, C], got {describe(ends)}")
    ends = ends if ends.ndim == 4 else ends[:, :, None, None]
    top, bottom, left, right = ends
    found = torch.stack([-top, -left, bottom, right], -1)
    return torch.where(found.isfinite(), found, 0).long()


# ------------------------------------------------------------------------------------------ what steps do


class _Reach(Tensor):
    """The first and last pixels that lead to each place, as a batch of four; see the module.

    Operands of other classes (weights, constants) lead to no pixel and count as minus infinity.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        rule = _RULES.get(name.strip("_") if name.startswith("__") else name.removesuffix("_"), _unknown)
        with torch._C.DisableTorchFunctionSubclass():
            got = rule(func, args, kwargs)
            first = args[0] if args else None
            in_place = (name.endswith("_") and not name.startswith("__")) or name.startswith("__i")
            if (in_place or kwargs.get("inplace")) and isinstance(first, _Reach) and isinstance(got, Tensor):
                first.copy_(got)
                return first
            return _wrapped(got)


def _wrapped(value: object) -> object:
    if isinstance(value, Tensor):
        return value.as_subclass(_Reach) if value.is_floating_point() else value
    if isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
        parts = [_wrapped(part) for part in value]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    return value


def _plain(value: object) -> object:
    """The same values as ordinary tensors; constants lead to no pixel."""
    if isinstance(value, _Reach):
        return value.as_subclass(Tensor)
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.full_like(value, -math.inf)
    if isinstance(value, tuple | list):
        return type(value)(_plain(part) for part in value) if type(value) in (tuple, list) else value
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value


def _tracked(value: object) -> Iterator[Tensor]:
    """Every operand that leads to pixels, as an ordinary tensor."""
    if isinstance(value, _Reach):
        yield value.as_subclass(Tensor)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tracked(part)
    elif isinstance(value, dict):
        yield from _tracked(list(value.values()))


def _named(args: tuple, kwargs: dict, order: str) -> dict:
    return {**dict(zip(order.split(), args, strict=False)), **kwargs}


def _moved(func, args, kwargs):
    """Values change their places only: the step itself."""
    return func(*_plain(args), **_plain(kwargs))


def _alone(func, args, kwargs):
    """Each value by itself: as it came. A copy, as a later step in place must not change what came in."""
    return next(_tracked((args, kwargs))).clone()


def _cast(func, args, kwargs):
    # half precision would lose the coordinates
    return next(_tracked((args, kwargs)))


def _together(func, args, kwargs):
    """Several operands, place by place, one of them maybe broadcast."""
    parts = torch.broadcast_tensors(*_tracked((args, kwargs)), *_shapes((args, kwargs)))
    most = parts[0]
    for part in parts[1:]:
        most = torch.maximum(most, part)
    return most.clone() if most is parts[0] else most


def _shapes(value: object) -> Iterator[Tensor]:
    """The constants among the operands, which may enlarge the result by broadcasting."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _shapes(part)
    elif isinstance(value, dict):
        yield from _shapes(list(value.values()))
    elif isinstance(value, Tensor) and not isinstance(value, _Reach):
        yield torch.full(value.shape, -math.inf, device=value.device)


def _constant(func, args, kwargs):
    made = func(*_plain(args), **_plain(kwargs))
    return made.fill_(-math.inf) if made.is_floating_point() else made


def _unknown(func, args, kwargs):
    """A step that isn't known sees, for every place it gives, all that goes into it."""
    parts = list(_tracked((args, kwargs)))
    made = func(*_plain(args), **_plain(kwargs))
    outputs = made if isinstance(made, tuple | list) else (made,)
    tensors = [part for part in outputs if isinstance(part, Tensor)]
    if not tensors:  # a number, a flag
        return made
    for tensor in (*parts, *tensors):
        if tensor.ndim == 0 or len(tensor) != _IMAGES:
            raise ValueError(
                "model: expected one that can be followed step by step, got the step "
                f"{getattr(func, '__name__', 'of its own')!r} from {describe(parts[0])} to {describe(tensor)}"
            )
    most = torch.stack([part.flatten(1).amax(1) for part in parts]).amax(0)

    def filled(part):
        if not isinstance(part, Tensor) or not (part.is_floating_point() or part.is_complex()):
            return part
        return most.view(-1, *[1] * (part.ndim - 1)).expand(part.shape).to(torch.float32, copy=True)

    if isinstance(made, Tensor):
        return filled(made)
    return made._make(map(filled, made)) if hasattr(made, "_make") else type(made)([filled(p) for p in made])


def _windows(x: Tensor, kernel, stride, before, after, dilation) -> Tensor:
    """The largest value under each window; beyond the border there is nothing."""
    if any((*before, *after)):
        x = F.pad(x, (before[1], after[1], before[0], after[0]), value=-math.inf)
    if tuple(kernel) == (1, 1):
        return x[:, :, :: stride[0], :: stride[1]]
    return F.max_pool2d(x, kernel, stride, 0, dilation)


def _conv2d(func, args, kwargs):
    given = _named(args, kwargs, "input weight bias stride padding dilation groups")
    x, weight = given["input"], given["weight"]
    if not isinstance(x, _Reach) or x.ndim != 4 or isinstance(weight, _Reach):
        return _unknown(func, args, kwargs)
    stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
    kernel, padding, groups = tuple(weight.shape[2:]), given.get("padding", 0), given.get("groups", 1)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        before, after = [t // 2 for t in total], [t - t // 2 for t in total]
    else:
        before = after = _pair(padding)
    # a filter sees all channels of its group
    x = x.as_subclass(Tensor).unflatten(1, (groups, -1)).amax(2)
    x = _windows(x, kernel, stride, before, after, dilation)
    return x.repeat_interleave(weight.shape[0] // groups, 1)


def _avg_pool2d(func, args, kwargs):
    order = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
    given = _named(args, kwargs, order)
    x = given["input"].as_subclass(Tensor)
    stride = given.get("stride") or given["kernel_size"]
    return F.max_pool2d(
        x, given["kernel_size"], stride, given.get("padding", 0), ceil_mode=given.get("ceil_mode", False)
    )


def _adaptive(func, args, kwargs):
    given = _named(args, kwargs, "input output_size return_indices")
    return F.adaptive_max_pool2d(given["input"].as_subclass(Tensor), given["output_size"])


def _reduced(func, args, kwargs):
    given = _named(args, kwargs, "input dim keepdim")
    x, dim, keep = given.pop("input").as_subclass(Tensor), given.get("dim"), given.get("keepdim", False)
    dims = [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim or range(x.ndim))]
    if 0 in dims or not isinstance(keep, bool):
        return _unknown(func, args, kwargs)
    return x.amax(dims, keepdim=keep)


def _along(func, args, kwargs):
    """A softmax: each value sees all along one dimension."""
    given = _named(args, kwargs, "input dim")
    x, dim = given["input"].as_subclass(Tensor), given.get("dim")
    if not isinstance(dim, int) or dim % x.ndim == 0:
        return _unknown(func, args, kwargs)
    return x.amax(dim, keepdim=True).expand(x.shape).clone()


def _layer_norm(func, args, kwargs):
    given = _named(args, kwargs, "input normalized_shape")
    x, over = given["input"].as_subclass(Tensor), len(given["normalized_shape"])
    if over >= x.ndim:
        return _unknown(func, args, kwargs)
    return x.amax(tuple(range(-over, 0)), keepdim=True).expand(x.shape).clone()


def _linear(func, args, kwargs):
    given = _named(args, kwargs, "input weight bias")
    x, weight = given["input"], given["weight"]
    if not isinstance(x, _Reach) or x.ndim < 2 or isinstance(weight, _Reach):
        return _unknown(func, args, kwargs)
    return x.as_subclass(Tensor).amax(-1, keepdim=True).repeat_interleave(weight.shape[0], -1)


def _pad(func, args, kwargs):
    given = _named(args, kwargs, "input pad mode value")
    x, mode = given["input"].as_subclass(Tensor), given.get("mode", "constant")
    return F.pad(x, given["pad"], mode, -math.inf if mode == "constant" else None)


def _enlarged(func, args, kwargs):
    given = _named(args, kwargs, "input size scale_factor mode")
    return (_moved if given.get("mode", "nearest") in ("nearest", "nearest-exact") else _unknown)(
        func, args, kwargs
    )


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (tuple(value) * 2)[:2]


def _rules() -> dict[str, Callable]:
    kinds = {
        _moved: """
            view view_as reshape reshape_as flatten unflatten permute transpose swapaxes movedim squeeze
            unsqueeze expand expand_as repeat tile cat concat concatenate stack hstack vstack chunk split
            tensor_split unbind narrow select getitem setitem copy roll flip contiguous pixel_shuffle
            pixel_unshuffle channel_shuffle max_pool2d max_pool2d_with_indices
            get set size dim ndimension numel nelement len stride data_ptr is_contiguous is_floating_point
            is_complex element_size get_device
        """,
        _alone: """
            relu relu6 hardtanh threshold leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid
            hardsigmoid hardswish logsigmoid softplus softsign tanh tanhshrink hardshrink softshrink exp
            expm1 log log1p sqrt rsqrt square reciprocal abs neg negative sin cos erf clamp clip clamp_min
            clamp_max round floor ceil sign nan_to_num batch_norm dropout dropout1d dropout2d
            alpha_dropout feature_alpha_dropout clone
        """,
        _cast: "to float double half bfloat16 type type_as detach requires_grad as_subclass cpu cuda",
        _together: """
            add sub subtract mul multiply div divide true_divide rsub radd rmul rdiv rtruediv truediv iadd
            isub imul itruediv pow rpow maximum minimum where gt ge lt le eq ne logical_and logical_or
            floor_divide fmod remainder lerp addcmul addcdiv atan2
        """,
        _constant: """
            zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full
            new_empty zero fill
        """,
        _conv2d: "conv2d",
        _avg_pool2d: "avg_pool2d",
        _adaptive: "adaptive_avg_pool2d adaptive_max_pool2d",
        _reduced: "mean sum amax amin std var prod logsumexp",
        _along: "softmax log_softmax",
        _layer_norm: "layer_norm",
        _linear: "linear",
        _pad: "pad",
        _enlarged: "interpolate",
    }
    return {name: rule for rule, names in kinds.items() for name in names.split()}


_RULES = _rules()
