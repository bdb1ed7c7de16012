"""Naming, finding and reading layers; stopping the forward pass at one; leaving a model as it was."""

import difflib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import describe, require_images, require_model

Result = TypeVar("Result")


@contextmanager
def evaluation(model: nn.Module, device: torch.device | None = None) -> Iterator[nn.Module]:
    """Inside, `model` is in eval mode; after, every sub-module's flag and the RNG states are as before.

    The states kept are torch's on the CPU, numpy's and Python's: a network may draw random numbers in its
    forward pass. device: where the images are; a GPU's state is kept as well.
    Raises `TypeError` if `model` is no `nn.Module`. What is raised inside is passed on.
    """
    require_model(model)
    modules, flags = _modules(model)
    cuda = device if device is not None and device.type == "cuda" else None
    # as a dict: numpy reads and writes that faster than its old tuple
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    cpu_state, python_state = torch.get_rng_state(), random.getstate()
    cuda_state = None if cuda is None else torch.cuda.get_rng_state(cuda)
    try:
        if any(flags):
            model.eval()
        yield model
    finally:
        for module, flag in zip(modules, flags, strict=True):
            if module.training is not flag:  # writing to a module costs more than reading
                module.training = flag
        torch.set_rng_state(cpu_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)


def _modules(model: nn.Module) -> tuple[list[nn.Module], list[bool]]:
    """`model` and all inside, each once, and their flags: `model.modules()` takes its time for names."""
    found, flags, known = [model], [model.training], {model}
    for module in found:  # it grows on the way
        inside = module._modules
        if inside:
            for child in inside.values():
                if child is not None and child not in known:
                    known.add(child)
                    found.append(child)
                    flags.append(child.training)
    return found, flags


def prefers_channels_last(images: Tensor) -> bool:
    """Whether the device computes convolutions of these images faster in that layout."""
    # measured: oneDNN in single and half precision, 1.1 to 2.3 times; on CUDA only where tensor cores work
    if images.device.type == "cpu":
        return images.dtype != torch.float64 and torch.backends.mkldnn.is_available()
    return images.device.type == "cuda" and images.dtype in (torch.float16, torch.bfloat16)


def run_on_copy(run: Callable[[Tensor], Result], images: Tensor) -> Result:
    """`run(copy)` of a copy of `images`, as the first step may be in place; in channels last where the device
    prefers it, and once more in the plain format if a step refuses that one.

    A view over channels and places ("view size is not compatible") is such a step; what fails for another
    reason fails again. The random states are the caller's to keep.
    """
    if prefers_channels_last(images):
        try:
            return run(images.clone(memory_format=torch.channels_last))
        except RuntimeError:
            pass
    return run(images.clone())


@contextmanager
def constant(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter of `model` asks for a gradient; after, those that did do again."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def layer_names(model: nn.Module) -> list[str]:
    """The names of all layers of `model`, as PyTorch names them ("features.12"), in order of definition.

    A layer that the model holds under several names is listed once, under the first.
    Raises `TypeError` if `model` is no `nn.Module`.
    """
    require_model(model)
    return [name for name, _ in model.named_modules() if name]


def find_layer(model: nn.Module, name: str, argument: str = "layer") -> nn.Module:
    """The layer of that name.

    Raises `TypeError` if `name` is no string or the layer is compiled by TorchScript, which can't be read,
    and `ValueError`, with the nearest right names, if no layer has it. `argument` is how the message calls
    it.
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected a layer's name such as 'features.12', got {describe(name)}")
    modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.4) or list(modules)[:3]
        listed = f"the nearest are {', '.join(map(repr, near))}" if near else "the model has no layers inside"
        raise ValueError(f"{argument}: expected the name of a layer, got {describe(name)}; {listed}")
    if isinstance(modules[name], torch.jit.ScriptModule):
        raise TypeError(
            f"{argument}: expected a layer in Python, got {name!r} compiled by TorchScript, which can't be "
            "read or stopped at; use the network that it was compiled from"
        )
    return modules[name]


@contextmanager
def hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    """Inside, `hook(module, inputs, output)` is called after each forward pass of `module`."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Reached(BaseException):
    """Thrown by a hook to leave the forward pass; it never leaves this module.

    Not an `Exception`: a network that catches those in its forward pass must not catch this one.
    """


def run_to(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What `layer` gives for `images`; the network stops there and computes nothing after it.

    The caller decides about gradients and eval mode. Of a module that is called several times in one
    pass, the first call counts (`Classifier.layers` shows the number of calls).
    Returns the layer's output, with its graph if gradients are on.
    Raises `ValueError` for an unknown layer or one that the pass never reaches, `TypeError` for a layer
    that does not give one tensor or that TorchScript compiled.
    """
    return activations_with_grad(model, images, [layer])[layer]


def activations_with_grad(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of `layers` as in `run_to`, with their graph if gradients are on; stops at the deepest.

    With gradients on, what is returned lies on the way to all that comes later, so that the gradient of a
    deeper layer by a shallower one exists.
    """
    with reading(model, layers) as read:
        return read(images)


@contextmanager
def reading(
    model: nn.Module, layers: Sequence[str], *, whole: bool = False
) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
    """Inside, `read(images)` is `activations_with_grad(model, images, layers)`, pass after pass: the layers
    are looked up and hooked once.

    whole: the network does not stop; its own output is there too, under the name "".
    """
    modules = {name: find_layer(model, name, "layers" if len(layers) > 1 else "layer") for name in layers}
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            if name in found:
                return None
            if not isinstance(output, Tensor):
                raise TypeError(f"layer: expected {name!r} to give one tensor, got {describe(output)}")
            if not whole and len(found) == len(modules) - 1:
                found[name] = output
                raise _Reached
            # copies, so that no later step in place can change what was read; the network goes on with its
            # own tensor where it can: other tensors may share its memory
            found[name] = output.clone()
            return found[name].clone() if found[name].requires_grad else None

        return hook

    def read(images: Tensor) -> dict[str, Tensor]:
        found.clear()
        try:
            output = model(images)
        except _Reached:
            return dict(found)
        missing = [name for name in modules if name not in found]
        if missing:
            raise ValueError(f"layer: expected one that the forward pass calls, got {missing[0]!r}")
        return {**found, "": output}

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(hooked(module, keep(name)))
        yield read


def activations(model: nn.Module, images: Tensor, layers: str | Sequence[str]) -> Tensor | dict[str, Tensor]:
    """Read what one or several layers give for `images`, without gradients.

    model: any `nn.Module`; images: float [N, 3, H, W]; layers: a name, or a sequence of names.
    Returns one tensor for a name, {name: tensor} for a sequence. The network runs in eval mode, stops at
    the deepest layer asked for, and is left as it was.
    Raises `TypeError` and `ValueError` as `run_to` does, and for bad `images`.
    """
    require_model(model)
    require_images(images, model)
    if not isinstance(layers, str | Iterable):
        raise TypeError(f"layers: expected a layer's name or a sequence of them, got {describe(layers)}")
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise ValueError("layers: expected at least one name, got none")
    with evaluation(model, images.device), torch.no_grad():
        # a copy goes in: the first step may be in place
        found = activations_with_grad(model, images.clone(), names)
    return found[layers] if isinstance(layers, str) else {name: found[name] for name in names}
