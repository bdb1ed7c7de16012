"""What every test of a public function leans on: clear errors, and nothing left changed."""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def refuses(argument: str, call: Callable, *args, says: str | None = None, **kwargs) -> str:
    """Assert that the call raises `TypeError` or `ValueError` that names the argument, what was expected
    and what came, in one short line; return that line. says: a regular expression it has to hold as well.
    """
    with pytest.raises((TypeError, ValueError)) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert caught.type in (TypeError, ValueError), f"{caught.type.__name__}: {message}"
    assert re.match(rf"{re.escape(argument)}\b[^:]*: ", message), message
    assert "expected" in message, message
    assert "got" in message, message
    assert "\n" not in message, message
    assert len(message) < 400, message
    assert says is None or re.search(says, message), message
    return message


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if a.dtype != b.dtype or a.device != b.device or a.shape != b.shape:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


@contextmanager
def unchanged(*things: nn.Module | Tensor) -> Iterator[None]:
    """Assert, on leaving, that these models and tensors and all global random states are as they were.

    Of a model: its modules and their hooks, training flags and instance attributes' names; its parameters
    (the very objects, bitwise, `requires_grad`, `.grad`) and its buffers. Of a tensor: its values,
    `requires_grad` and `.grad`. And grad mode, default dtype and torch's stack of function modes.
    """
    models = [thing for thing in things if isinstance(thing, nn.Module)]
    tensors = [thing for thing in things if isinstance(thing, Tensor)]
    modules = [(m, m.training, _hooks(m), set(m.__dict__)) for m in _parts(models)]
    values = [(t, t.requires_grad, _copy(t), _copy(t.grad)) for t in [*_held(models), *tensors]]
    states, modes = _states(), _modes()
    yield
    assert len(_parts(models)) == len(modules), "a sub-module came or went"
    for module, flag, hooks, names in modules:
        kind = type(module).__name__
        assert module.training == flag, f"the training flag of a {kind} changed"
        assert _hooks(module) == hooks, f"a hook stayed on a {kind}"
        assert set(module.__dict__) == names, f"an attribute stayed on a {kind}"
    now = [*_held(models), *tensors]
    assert len(now) == len(values), "a parameter or a buffer came or went"
    for tensor, (before, needs, value, gradient) in zip(now, values, strict=True):
        assert tensor is before, "a parameter or a buffer was replaced"
        assert tensor.requires_grad == needs, "requires_grad changed"
        assert _same(tensor.detach(), value), "a value changed"
        assert _same(tensor.grad, gradient), "a .grad changed"
    for name, before, after in zip(("torch", "numpy", "random"), states, _states(), strict=True):
        assert after == before, f"the random state of {name} changed"
    assert _modes() == modes, "a mode of torch stayed on"


def _parts(models: list[nn.Module]) -> list[nn.Module]:
    return [module for model in models for module in model.modules()]


def _held(models: list[nn.Module]) -> list[Tensor]:
    return [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]


def _hooks(module: nn.Module) -> dict[str, list]:
    return {name: list(getattr(module, name)) for name in _HOOKS}


def _states() -> tuple:
    """The global random states of torch, numpy and Python, comparable with ==."""
    kind, words, *rest = np.random.get_state()  # noqa: NPY002, it is the global state that is watched
    return torch.get_rng_state().tolist(), (kind, words.tolist(), *rest), random.getstate()


def _modes() -> tuple:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
        torch.is_anomaly_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
