"""Lesson 7: from one activation back to the pixels. DeconvNet, guided backpropagation and the gradient."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import describe, require_choice, require_images, require_model
from lecture7_utils.kernels.layers import constant, evaluation, find_layer
from lecture7_utils.kernels.rules import RULES, ReluRule, require_python, require_seen
from lecture7_utils.kernels.targets import Target, TargetLike, Unit, as_target, read, run_for
from lecture7_utils.kernels.unpooling import OVERLAPS, Switches, switches, unpool

STARTS = ("activation", "one")


def deconvnet(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    *,
    rule: str = "deconvnet",
    start: str = "activation",
    overlap: str = "add",
) -> Tensor:
    """One activation of each image, all others set to zero, traced back to the pixels.

    Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv 1311.2901),
    section 2.1: the inverse of each step in reverse order: max pooling by its switches (`unpool`), ReLU by
    rectifying the signal, convolution by the transposed filters. Biases play no part. Batch norm passes the
    signal times its factor; sums, concatenations and average poolings pass it back by their transposes.

    model: any `nn.Module` made of such steps; images: float [N, 3, H, W]; target: a class index (its
    pre-softmax score), one index for each image, or `class_score`, `class_probability`, `unit`. A unit stops
    the network at its layer. Many units go in one batch: `unit(layer, [3, 5, 8])` with three images, or with
    one image repeated by `image.expand(3, -1, -1, -1)`.
    rule: what ReLU does to the signal R on its way back, the one point in which three methods differ:
        "deconvnet": max(R, 0), whatever the ReLU's input x was; for ReLU6 too. So in a network without
            max pooling, which has no switches, the trace depends on the image only through the value and
            the place of the activation (Springenberg et al., as below).
        "guided": max(R, 0) where 0 < x (and x < 6 for ReLU6), 0 elsewhere: guided backpropagation
            (Springenberg, Dosovitskiy, Brox, Riedmiller, 2015, arXiv 1412.6806, section 3.4).
        "gradient": R where 0 < x: backpropagation. It takes any differentiable step.
    start: "activation" begins with the activation's value, as in the paper; "one" with 1, so that
        rule="gradient" is the plain gradient. The one is the other times the value, if that is positive;
        a negative activation (a class score can be) goes back negative. position="max" keeps the channel's
        largest activation (several equal ones share), "mean" all of it: each by its part in the mean.
    overlap: where max pooling windows overlap: "add" sums what they send to one pixel, as the backward pass
        does, "last" keeps what the last window sends; see `unpool`. For "last" two-dimensional pooling only,
        and not with rule="gradient".
    Returns [N, 3, H, W], signed, with the dtype and device of `images`; not normalised. One forward and one
    backward pass; no gradient is computed for parameters; eval mode; the model is left as it was. It works
    inside `no_grad` and `inference_mode` too.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came. A step that a
    rule has no inverse for (sigmoid, GELU, a product of two signals as in squeeze-and-excitation, layer norm,
    `where`, a clamp to other bounds than 0 and a positive number, batch norm in training mode) raises
    `ValueError` that names the step and the layer, so that the plain gradient does not pass for a trace.
    Networks compiled by TorchScript or torch.compile raise `TypeError`.
    """
    target = _checked(model, images, target, rule, start, overlap)
    if rule != "gradient":
        require_python(model, rule)
    elif overlap != "add":
        raise ValueError(
            f"overlap: expected 'add' with rule='gradient', as that is what a gradient does, got {overlap!r}"
        )
    with torch.inference_mode(False), evaluation(model, images.device), constant(model):
        with torch.enable_grad():
            # the leaf shares its memory with `images`; a copy goes in: a network whose first step is in place
            # must neither fail nor change them
            leaf = (images.clone() if images.is_inference() else images.detach()).requires_grad_(True)
            mode = nullcontext() if rule == "gradient" else ReluRule(model, rule, overlap)
            with mode:
                output = run_for(model, leaf.clone(), target)
            if rule != "gradient":
                if mode.refused is not None:
                    raise mode.refused
                require_seen(output, rule)
            trace = None
            if output.requires_grad:
                signal = _kept(output, target, start)
                (trace,) = torch.autograd.grad(output, leaf, signal, allow_unused=True)
        if trace is None:
            raise ValueError(
                "target: expected a value that depends on the images through differentiable steps, "
                "got one that does not"
            )
        return trace


def _kept(output: Tensor, target: Target, start: str) -> Tensor:
    """The signal that goes back: of the output's shape, the target's activation (or 1) kept, 0 elsewhere."""
    with torch.enable_grad():
        leaf = output.detach().requires_grad_(True)
        value = read(leaf, target)
        first = value.detach() if start == "activation" else torch.ones_like(value)
        (signal,) = torch.autograd.grad(value, leaf, first)
    return signal


def _checked(
    model: object, images: object, target: object, rule: object, start: object, overlap: object
) -> Target:
    require_model(model)
    require_images(images, model)
    require_choice(rule, "rule", RULES)
    require_choice(start, "start", STARTS)
    require_choice(overlap, "overlap", OVERLAPS)
    return as_target(target)


# ---- the same, written out


class Step(NamedTuple):
    """One step on the way back: the layer, the inverse that was applied, and the signal that came out."""

    layer: str
    inverse: str
    signal: Tensor


def explicit_deconvnet(
    sequential: nn.Sequential,
    images: Tensor,
    target: TargetLike,
    *,
    rule: str = "deconvnet",
    start: str = "activation",
    overlap: str = "add",
    steps: bool = False,
) -> Tensor | tuple[Tensor, list[Step]]:
    """`deconvnet` for a plain chain of layers, written out: each layer's inverse, one after the other.

    On the way forwards what each ReLU and each pooling has to remember is kept; on the way back convolution
    becomes transposed convolution, max pooling becomes `unpool` with the `switches`, ReLU applies the rule,
    a linear layer its transposed matrix; flatten is undone, dropout and identity do nothing.

    sequential: an `nn.Sequential`, also of `nn.Sequential`s, of Conv2d (padded with zeros), BatchNorm2d,
    ReLU, ReLU6, MaxPool2d, AdaptiveAvgPool2d, Flatten (from dimension 1), Linear, Dropout, Identity. A unit's
    layer is named as in it: `unit("6", channel)`; the chain stops there.
    steps: also give back the list of `Step`s (layer, inverse, signal [N, …]), from the target to the pixels.
    All else, what is returned and what is raised, as in `deconvnet`; here overlap="last" goes with every
    rule. A layer of another kind raises `ValueError` that names it.
    """
    if not isinstance(sequential, nn.Module):
        raise TypeError(f"sequential: expected a torch.nn.Sequential, got {describe(sequential)}")
    target = _checked(sequential, images, target, rule, start, overlap)
    require_choice(steps, "steps", (False, True))
    chain = list(_chain(sequential, ""))
    if isinstance(target, Unit):
        find_layer(sequential, target.layer)
        inside = [i for i, (name, _) in enumerate(chain) if f"{name}.".startswith(f"{target.layer}.")]
        if not inside:
            raise ValueError(f"layer: expected one with layers inside, got {target.layer!r}")
        chain = chain[: inside[-1] + 1]
    with torch.inference_mode(False), torch.no_grad(), evaluation(sequential, images.device):
        x, inputs = images.detach().clone(), []
        for _, layer in chain:
            inputs.append(x)
            x = layer(x.clone())  # a copy goes in: a layer in place must not change what is kept
        # from here on the signal: the activation kept, all others zero
        signal = _kept(_as_output(x, target, len(images)), target, start)
        done = []
        for (name, layer), x in zip(reversed(chain), reversed(inputs), strict=True):
            inverse, signal = _backwards(layer, x, signal, rule, overlap)
            done.append(Step(name, inverse, signal))
    return (signal, done) if steps else signal


def _as_output(x: Tensor, target: Target, n: int) -> Tensor:
    if not isinstance(target, Unit) and (x.ndim != 2 or x.shape[0] != n):
        raise ValueError(
            f"target: expected a unit, as the chain ends in no class scores [{n}, K] but in {describe(x)}, "
            "got a class"
        )
    return x


def _backwards(layer: nn.Module, x: Tensor, signal: Tensor, rule: str, overlap: str) -> tuple[str, Tensor]:
    """What the inverse of the layer is called, and the signal behind it; x is what went in forwards."""
    if isinstance(layer, nn.Conv2d):
        return "transposed convolution", _transposed(layer, x, signal)
    if isinstance(layer, nn.ReLU | nn.ReLU6):
        return f"ReLU, {rule}", _ruled(layer, x, signal, rule)
    if isinstance(layer, nn.MaxPool2d):
        return "unpooling", unpool(signal, _switches(layer, x), overlap=overlap)
    if isinstance(layer, nn.BatchNorm2d):
        factor = (layer.running_var + layer.eps).rsqrt()
        if layer.weight is not None:
            factor = factor * layer.weight
        return "batch norm's factor", signal * factor[:, None, None]
    if isinstance(layer, nn.Linear):
        return "transposed matrix", signal @ layer.weight
    if isinstance(layer, nn.Flatten):
        return "unflatten", signal.view(x.shape)
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return "spreading evenly", _spread(x, signal)
    return "nothing", signal


def _ruled(layer: nn.Module, x: Tensor, signal: Tensor, rule: str) -> Tensor:
    passed = (x > 0) & (x < 6) if isinstance(layer, nn.ReLU6) else x > 0
    if rule == "deconvnet":
        return signal.clamp(min=0)
    if rule == "guided":
        return signal.clamp(min=0) * passed
    return signal * passed


def _transposed(layer: nn.Conv2d, x: Tensor, signal: Tensor) -> Tensor:
    """The transpose of the convolution: of the padded map first, then without the padding."""
    full = F.conv_transpose2d(signal, layer.weight, None, layer.stride, 0, 0, layer.groups, layer.dilation)
    (height, width), (top, left) = x.shape[2:], _before(layer)
    # what no window reached, at the end of rows and columns, gets nothing
    missing = [max(0, left + width - full.shape[3]), max(0, top + height - full.shape[2])]
    full = F.pad(full, (0, missing[0], 0, missing[1]))
    return full[:, :, top : top + height, left : left + width]


def _before(layer: nn.Conv2d) -> tuple[int, int]:
    """The zeros that the convolution puts above and to the left."""
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        return tuple(d * (f - 1) // 2 for d, f in zip(layer.dilation, layer.kernel_size, strict=True))
    return tuple(layer.padding)


def _switches(layer: nn.MaxPool2d, x: Tensor) -> Switches:
    return switches(
        x,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        dilation=layer.dilation,
        ceil_mode=layer.ceil_mode,
    )


def _spread(x: Tensor, signal: Tensor) -> Tensor:
    """Each average's signal, divided evenly among the entries that it was the average of."""
    out = torch.zeros_like(x)
    (height, width), (rows, columns) = x.shape[2:], signal.shape[2:]
    for i in range(rows):
        for j in range(columns):
            part = out[
                :,
                :,
                i * height // rows : -(-(i + 1) * height // rows),
                j * width // columns : -(-(j + 1) * width // columns),
            ]
            part += signal[:, :, i : i + 1, j : j + 1] / (part.shape[2] * part.shape[3])
    return out


_KINDS = (
    nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear,
    nn.Dropout, nn.Identity,
)  # fmt: skip


def _chain(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a chain in order, with their names; raises for what has no inverse here."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for key, child in module._modules.items():
            yield from _chain(child, f"{name}.{key}" if name else key)
        return
    problem = None
    if not name:
        problem = f"a {type(module).__name__}"
    elif type(module) not in _KINDS:
        problem = f"{name!r}, a {type(module).__name__}"
    elif isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        problem = f"{name!r}, a convolution padded by {module.padding_mode!r}"
    elif isinstance(module, nn.BatchNorm2d) and module.running_var is None:
        problem = f"{name!r}, a batch norm without statistics of its own"
    elif isinstance(module, nn.MaxPool2d) and module.return_indices:
        problem = f"{name!r}, a max pooling that gives its indices"
    elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
        problem = f"{name!r}, a flatten of other dimensions"
    if problem is not None:
        raise ValueError(
            "sequential: expected an nn.Sequential of "
            f"{', '.join(kind.__name__ for kind in _KINDS)}, got {problem}; deconvnet takes more"
        )
    yield name, module
