"""How a signal goes back through ReLU: the rules of DeconvNet and of guided backpropagation.

A `TorchFunctionMode` sees every function that a network calls in its forward pass, so ReLUs are caught
whether they are modules or plain functions, in place or not. All other steps that may come on the way from
the images to the output are listed here: those that are linear in the signal, or that pick entries of it
(max pooling). A step that is not listed raises: it may be a rectifier in disguise, and the plain gradient
must not pass for a trace.
"""

import math
import re
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lecture7_utils.kernels.arguments import tensors_in
from lecture7_utils.kernels.unpooling import put_back

RULES = ("deconvnet", "guided", "gradient")

# linear in all their arguments together
_LINEAR = frozenset(
    """add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __isub__ rsub __rsub__ subtract neg neg_ positive
    __neg__ __pos__
    clone contiguous to float double half bfloat16 type type_as copy_ alias
    cat concat concatenate stack hstack vstack split split_with_sizes chunk tensor_split unbind
    __getitem__ __setitem__ select narrow index_select
    flatten unflatten view view_as reshape reshape_as squeeze squeeze_ unsqueeze unsqueeze_ expand expand_as
    repeat tile permute transpose transpose_ movedim moveaxis swapaxes swapdims t roll flip rot90
    sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold fold
    im2col col2im interpolate upsample upsample_nearest upsample_bilinear
    dropout dropout_ dropout1d dropout2d dropout3d feature_dropout alpha_dropout
    feature_alpha_dropout""".split()
)
# linear in one argument, if the others do not depend on the images
_LINEAR_IN_ONE = frozenset(
    """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear matmul __matmul__
    __rmatmul__ mm bmm mv addmm baddbmm einsum tensordot mul mul_ __mul__ __rmul__ __imul__ multiply
    grid_sample""".split()
)
_DIVISIONS = frozenset({"div", "div_", "__truediv__", "__itruediv__", "true_divide", "divide"})
# they pick entries; the indices, if they give any, are switches
_POOLS_2D = frozenset({"max_pool2d", "max_pool2d_with_indices"})
_POOLS_MAYBE_OVERLAPPING = frozenset(
    """max_pool1d max_pool1d_with_indices max_pool3d max_pool3d_with_indices adaptive_max_pool1d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d
    adaptive_max_pool3d_with_indices""".split()
)
_LARGEST = frozenset({"amax", "max"})
_PICKS = _LARGEST | _POOLS_2D | _POOLS_MAYBE_OVERLAPPING
_UNPOOLS = frozenset({"max_unpool1d", "max_unpool2d", "max_unpool3d"})
# they read a tensor's form, not its values
_FORMS = frozenset(
    """size dim ndimension stride numel nelement element_size get_device data_ptr storage_offset
    is_floating_point is_complex is_contiguous __len__ is_inference _is_view new_zeros new_ones
    new_full new_empty zeros_like ones_like full_like empty_like rand_like randn_like""".split()
)
# of their second argument they take the form only: constant.to(x)
_LIKE = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})
_VIEWS_AS_ATTRIBUTES = frozenset({"T", "mT", "H", "mH"})

# an identity that PyTorch puts around a module with a backward hook of the user's
_BackwardHook = nn.modules._functions.BackwardHookFunction

_SWITCHES = "_lecture7_switches"


class ReluRule(TorchFunctionMode):
    """Inside, each ReLU of a forward pass gets the rule for its backward pass; unlisted steps raise.

    The images must require gradients, the network's parameters must not: what requires a gradient is then
    what depends on the images.
    rule: "deconvnet": R_in = max(R_out, 0), whatever the ReLU's own input was; the upper bound of ReLU6
        plays no part. "guided": R_in = max(R_out, 0) where 0 < x (and x < 6 for ReLU6), else 0.
    overlap: as in `unpool`; "add" leaves poolings as they are.
    `refused`: the first error that was raised inside the pass: a network may swallow it.
    """

    def __init__(self, model: nn.Module, rule: str, overlap: str):
        super().__init__()
        self._model = model
        self._rule = rule
        self._rectifier = _Deconvnet if rule == "deconvnet" else _Guided
        self._overlap = overlap
        self.refused: Exception | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        depending = [t for t in tensors_in((args, kwargs)) if t.requires_grad or hasattr(t, _SWITCHES)]
        if not depending:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args)
        if name in _FORMS and len(depending) == 1:
            return func(*args, **kwargs)
        if name in _LIKE and isinstance(args[0], Tensor) and all(t is not args[0] for t in depending):
            return func(*args, **kwargs)
        found = _relu(name, args, kwargs)
        if found is not None:
            x, high, in_place = found if not isinstance(found, str) else self._refuse(found)
            if not x.requires_grad:
                self._refuse(f"{name} of a pooling's switches")
            self._require_graph(name)
            return self._rectifier.apply(x, high, in_place)
        self._check(name, args, kwargs, depending)
        if name in _POOLS_2D and self._overlap == "last":
            pooled, indices = _LastWins.apply(args[0] if args else kwargs["input"], *_pooling(args, kwargs))
            out = (pooled, indices) if name.endswith("indices") else pooled
        else:
            out = func(*args, **kwargs)
        for tensor in tensors_in(args[:1] if name == "__setitem__" else (out,)):
            if tensor.requires_grad:
                continue
            self._require_graph(name)
            if name not in _PICKS:
                self._refuse(f"{name} to {_kind(tensor)}, which takes no signal back,")
            setattr(tensor, _SWITCHES, True)
        return out

    def _attribute(self, func, args):
        out = func(*args)
        if isinstance(out, Tensor) and getattr(func.__self__, "__name__", "") not in _VIEWS_AS_ATTRIBUTES:
            self._refuse(f"the attribute {getattr(func.__self__, '__name__', 'of a tensor')!r}")
        return out

    def _check(self, name: str, args: tuple, kwargs: dict, depending: list[Tensor]) -> None:
        """Refuse the step unless it is linear in what depends on the images, or picks entries of it."""
        if kwargs.get("out") is not None:
            self._refuse(f"{name} with out=")
        used = any(hasattr(t, _SWITCHES) for t in depending)
        if name in _UNPOOLS:
            first = args[0] if args else kwargs.get("input")
            if not hasattr(first, _SWITCHES):
                return
        if used:
            self._refuse(f"{name} of a pooling's switches")
        if name in _LINEAR or name in _POOLS_2D:
            return
        if name in _LARGEST:
            # over other dimensions it may be a ReLU: stack([x, zeros]).amax(0)
            if not _over_positions(name, args, kwargs):
                self._refuse(f"{name} over anything but the positions of a map")
            return
        if name in _LINEAR_IN_ONE:
            if len(depending) > 1:
                self._refuse(f"{name} of two tensors that both depend on the images")
            return
        if name in _DIVISIONS:
            below = args[1] if len(args) > 1 else kwargs.get("other")
            if kwargs.get("rounding_mode") is not None or any(t is below for t in depending):
                self._refuse(f"{name} by a tensor that depends on the images, or rounded,")
            return
        if name == "batch_norm":
            training = args[5] if len(args) > 5 else kwargs.get("training", False)
            if training:
                self._refuse("batch_norm with the statistics of the batch")
            return
        if name in _POOLS_MAYBE_OVERLAPPING:
            if self._overlap == "last":
                self._refuse(f"{name}, for which overlap='last' is not there,")
            return
        self._refuse(name or "a function without a name")

    def _require_graph(self, name: str) -> None:
        if not torch.is_grad_enabled():
            self._refuse(f"{name} without gradients")

    def _refuse(self, what: str):
        error = ValueError(
            f"model: expected steps that the rule {self._rule!r} knows how to trace back (ReLU, ReLU6, "
            f"linear steps, max pooling), got {what} in {_where(self._model)}; rule='gradient' takes any step"
        )
        self.refused = self.refused or error
        raise error


def require_python(model: nn.Module, rule: str) -> None:
    """Raise `TypeError` if TorchScript or torch.compile made a part of `model`: no rule reaches into it."""
    for name, module in model.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        compiled = "_orig_mod" in module._modules or module.__dict__.get("_compiled_call_impl") is not None
        if scripted or compiled:
            what, by = repr(name) if name else "one", "TorchScript" if scripted else "torch.compile"
            raise TypeError(
                f"model: expected a network in Python, on which the rule {rule!r} can be imposed, got {what} "
                f"compiled by {by}; use the network that it was compiled from"
            )


# what an escaped rectifier or another bent step leaves in the graph
_BENT = re.compile(
    r"(?:Native|Fused|Thnn)?(?:Relu|Threshold|Hardtanh|Clamp\w*|LeakyRelu|Elu|Celu|Selu|Gelu|Silu|Mish|Glu|Prelu"
    r"|Rrelu\w*|Sigmoid|LogSigmoid|Tanh|Softplus|Softsign|Softmax|LogSoftmax|Hardswish|Hardsigmoid|Hardshrink"
    r"|Softshrink|Where|MaskedFill|MaskedScatter|Exp|Expm1|Log|Log1P|Pow|Sqrt|Rsqrt|Abs|Sin|Cos|Atan|Erf|Sgn"
    r"|Maximum|Minimum|LayerNorm|GroupNorm|Var\w*|Std\w*|LinalgVectorNorm|Norm|Reciprocal|Prod|Cumprod"
    r"|ScaledDotProduct\w*)Backward\d*"
)


def require_seen(output: Tensor, rule: str) -> None:
    """Raise `ValueError` if the graph of `output` has a step that the mode has not seen.

    So do functions compiled by TorchScript, C++ extensions and autograd functions of the network's own.
    """
    nodes, known = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in known:
            continue
        known.add(node)
        name = node.name()
        followers = [follower for follower, _ in node.next_functions if follower is not None]
        own = getattr(node, "_forward_cls", None)
        foreign = own is not None and own not in (_Deconvnet, _Guided, _LastWins, _BackwardHook)
        foreign = foreign or "CppNode" in name or "jit::" in name
        product = name.startswith("MulBackward") and len(followers) > 1
        if foreign or product or _BENT.fullmatch(name):
            raise ValueError(
                f"model: expected steps on which the rule {rule!r} can be imposed, got one that PyTorch "
                f"calls {name} and that went past it (compiled by TorchScript, of an extension, or an "
                "autograd function of the network's own); rule='gradient' takes any step"
            )
        nodes += followers


# ---- the rules themselves


class _Deconvnet(torch.autograd.Function):
    """ReLU (to `high` at most) forwards; backwards the signal itself is rectified, and nothing else."""

    @staticmethod
    def forward(ctx, x, high, in_place):
        return _rectified(ctx, x, high, in_place)

    @staticmethod
    def backward(ctx, signal):
        return signal.relu(), None, None


class _Guided(torch.autograd.Function):
    """ReLU (to `high` at most) forwards; backwards the signal is rectified, and passes where x did."""

    @staticmethod
    def forward(ctx, x, high, in_place):
        y = _rectified(ctx, x, high, in_place)
        ctx.save_for_backward(y)
        ctx.high = high
        return y

    @staticmethod
    def backward(ctx, signal):
        (y,) = ctx.saved_tensors
        if ctx.high == math.inf:
            passed = torch.ops.aten.threshold_backward(signal, y, 0)
        else:
            passed = torch.ops.aten.hardtanh_backward(signal, y, 0, ctx.high)
        return passed.relu_(), None, None  # the mask first: its result is new, and may be written to


def _rectified(ctx, x: Tensor, high: float, in_place: bool) -> Tensor:
    if in_place:
        ctx.mark_dirty(x)
        return x.relu_() if high == math.inf else F.hardtanh(x, 0, high, inplace=True)
    return x.relu() if high == math.inf else F.hardtanh(x, 0, high)


class _LastWins(torch.autograd.Function):
    """Max pooling forwards; backwards the last window wins where several have one maximum."""

    @staticmethod
    def forward(ctx, x, kernel, stride, padding, dilation, ceil_mode):
        pooled, indices = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
        ctx.save_for_backward(indices)
        ctx.mark_non_differentiable(indices)
        ctx.size = x.shape[-2:]
        return pooled, indices

    @staticmethod
    def backward(ctx, signal, _):
        (indices,) = ctx.saved_tensors
        return put_back(signal, indices, ctx.size, "last"), None, None, None, None, None


# ---- reading calls


def _relu(name: str, args: tuple, kwargs: dict) -> tuple[Tensor, float, bool] | str | None:
    """(x, upper bound, whether in place) if the call is a ReLU; a text if it is another kind of clamp; None
    for any other function."""
    reader = _RELUS.get(name)
    return None if reader is None or kwargs.get("out") is not None else reader(name, args, kwargs)


def _plain(name: str, args: tuple, kwargs: dict):
    given = _given("input inplace", args, kwargs)
    high = 6.0 if "6" in name else math.inf
    return given["input"], high, name.endswith("_") or bool(given.get("inplace"))


def _hardtanh(name: str, args: tuple, kwargs: dict):
    given = {"min_val": -1.0, "max_val": 1.0, **_given("input min_val max_val inplace", args, kwargs)}
    low, high = given["min_val"], given["max_val"]
    if low != 0 or not high > 0:
        return f"{name} from {low:g} to {high:g}, which is no ReLU,"
    return given["input"], float(high), name.endswith("_") or bool(given.get("inplace"))


def _threshold(name: str, args: tuple, kwargs: dict):
    given = _given("input threshold value inplace", args, kwargs)
    if given["threshold"] != 0 or given["value"] != 0:
        return f"{name} at {given['threshold']} to {given['value']}, which is no ReLU,"
    return given["input"], math.inf, name.endswith("_") or bool(given.get("inplace"))


def _clamp(name: str, args: tuple, kwargs: dict):
    given = _given("input min" if name.startswith("clamp_min") else "input min max", args, kwargs)
    x, low, high = given["input"], given.get("min"), given.get("max")
    upper = math.inf if high is None else high
    if isinstance(upper, Tensor) or not upper > 0 or not _is_zero(low, x):
        return f"{name} to other bounds than 0 and a number above, which is no ReLU,"
    return x, float(upper), name.endswith("_")


def _maximum(name: str, args: tuple, kwargs: dict):
    other = _other_tensor(args, kwargs)
    if name == "max" and not other:
        return None
    x, y = _given("input other", args, kwargs).values()
    for one, two in ((x, y), (y, x)):
        if one.requires_grad and _is_zero(two, one):
            return one, math.inf, False
    return f"{name} of two tensors, none of them 0,"


_RELUS = {
    **dict.fromkeys(("relu", "relu_", "relu6", "relu6_"), _plain),
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    **dict.fromkeys(("threshold", "_threshold", "threshold_"), _threshold),
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"), _clamp),
    **dict.fromkeys(("maximum", "max", "fmax"), _maximum),
}


def _is_zero(value: object, x: Tensor) -> bool:
    """Whether it is 0 everywhere, does not depend on the images and changes neither shape nor dtype of x."""
    if isinstance(value, Tensor):
        wide = torch.broadcast_shapes(value.shape, x.shape) != x.shape or value.dtype != x.dtype
        return not value.requires_grad and not wide and not bool(value.any())
    return isinstance(value, int | float) and value == 0


def _other_tensor(args: tuple, kwargs: dict) -> bool:
    return (len(args) > 1 and isinstance(args[1], Tensor)) or isinstance(kwargs.get("other"), Tensor)


def _over_positions(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether the largest is taken over positions of a map [N, C, n] or [N, C, h, w]."""
    given = _given("input dim keepdim", args, kwargs)
    x, dims = given["input"], given.get("dim", ())
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    return x.ndim in (3, 4) and bool(dims) and all(dim % x.ndim >= 2 for dim in dims)


def _pooling(args: tuple, kwargs: dict) -> tuple:
    given = _given("input kernel_size stride padding dilation ceil_mode", args, kwargs)
    stride = given.get("stride")
    return (
        given["kernel_size"],
        stride if stride not in ([], ()) else None,
        given.get("padding", 0),
        given.get("dilation", 1),
        given.get("ceil_mode", False),
    )


def _given(order: str, args: tuple, kwargs: dict) -> dict:
    return {**dict(zip(order.split(), args, strict=False)), **kwargs}


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _where(model: nn.Module) -> str:
    """The layer whose forward pass is running, read off the stack: costs nothing where nothing is wrong."""
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        names.setdefault(id(module), name)
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            name = names.get(id(owner), "")
            kind = type(owner).__name__
            return f"{name!r} ({kind})" if name else f"the network's own forward pass ({kind})"
        frame = frame.f_back
    return "the network's own forward pass"
