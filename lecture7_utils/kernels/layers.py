"""Naming, finding and reading layers; stopping the forward pass at one; leaving a model as it was."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import describe, require_images, require_model


@contextmanager
def evaluation(model: nn.Module, device: torch.device | None = None) -> Iterator[nn.Module]:
    """Inside, `model` is in eval mode; after, every sub-module's flag and the RNG states are as before.

    device: where the images are; the state of that device's random generator is kept as well as the CPU's.
    Raises `TypeError` if `model` is no `nn.Module`. What is raised inside is passed on.
    """
    require_model(model)
    flags = [(module, module.training) for module in model.modules()]
    cuda = device if device is not None and device.type == "cuda" else None
    cpu_state = torch.get_rng_state()
    cuda_state = None if cuda is None else torch.cuda.get_rng_state(cuda)
    try:
        model.eval()
        yield model
    finally:
        for module, flag in flags:
            module.training = flag
        torch.set_rng_state(cpu_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)


def layer_names(model: nn.Module) -> list[str]:
    """The names of all layers of `model`, as PyTorch names them ("features.12"), in order of definition."""
    require_model(model)
    return [name for name, _ in model.named_modules() if name]


def find_layer(model: nn.Module, name: str, argument: str = "layer") -> nn.Module:
    """The layer of that name.

    Raises `TypeError` if `name` is no string and `ValueError`, with the nearest right names, if no layer
    has it. `argument` is how the message calls it.
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected a layer's name such as 'features.12', got {describe(name)}")
    modules = {key: module for key, module in model.named_modules() if key}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.4) or list(modules)[:3]
        listed = ", ".join(map(repr, near)) if near else "none: the model has no sub-modules"
        raise ValueError(f"{argument}: no layer is named {name!r}; the nearest names are {listed}")
    return modules[name]


@contextmanager
def hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    """Inside, `hook(module, inputs, output)` is called after each forward pass of `module`."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Reached(Exception):
    """Thrown by a hook to leave the forward pass; it never leaves this module."""


def run_to(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """What `layer` gives for `images`; the network stops there and computes nothing after it.

    The caller decides about gradients and eval mode. Of a module that is called several times in one
    pass, the first call counts (`Classifier.layers` shows the number of calls).
    Returns the layer's output, with its graph if gradients are on.
    Raises `ValueError` for an unknown layer or one that the pass never reaches, `TypeError` for a layer
    that does not give one tensor.
    """
    return activations_with_grad(model, images, [layer])[layer]


def activations_with_grad(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of `layers` as in `run_to`, with their graph if gradients are on; stops at the deepest."""
    modules = {name: find_layer(model, name, "layers" if len(layers) > 1 else "layer") for name in layers}
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            if name in found:
                return None
            if not isinstance(output, Tensor):
                raise TypeError(f"layer: expected {name!r} to give one tensor, got {describe(output)}")
            found[name] = output
            if len(found) == len(modules):
                raise _Reached
            # a copy goes on, so that an in-place step after the layer cannot change what was read
            return output.clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        model(images)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in modules if name not in found]
    if missing:
        raise ValueError(f"layer: {missing[0]!r} exists but the forward pass never calls it")
    return found


def activations(model: nn.Module, images: Tensor, layers: str | Sequence[str]) -> Tensor | dict[str, Tensor]:
    """Read what one or several layers give for `images`, without gradients.

    model: any `nn.Module`; images: float [N, 3, H, W]; layers: a name, or a sequence of names.
    Returns one tensor for a name, {name: tensor} for a sequence. The network runs in eval mode, stops at
    the deepest layer asked for, and is left as it was.
    Raises `TypeError` and `ValueError` as `run_to` does, and for bad `images`.
    """
    require_model(model)
    require_images(images, model)
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise ValueError("layers: expected at least one name, got none")
    with evaluation(model, images.device), torch.no_grad():
        found = activations_with_grad(model, images, names)
    return found[layers] if isinstance(layers, str) else {name: found[name] for name in names}
