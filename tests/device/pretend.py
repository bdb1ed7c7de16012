"""The device "pretend": a stand-in for a GPU where there is none.

It computes on the CPU and refuses what a GPU refuses: an operation with tensors of two devices, a generator
of the other device, `.numpy()`. `pretend.cpp` is the whole of it; it is compiled when it is first installed.
It says nothing about a GPU's speed, memory or rounding.
"""

import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

NAME = "pretend"


def install(build: Path) -> torch.device:
    """Give torch the device in this process; returns it. The compiled file is kept in the folder `build`.

    Raises `RuntimeError` or `OSError` if it can't be compiled (it takes a C++ compiler and ninja).
    """
    from torch.utils.cpp_extension import load

    build.mkdir(parents=True, exist_ok=True)
    torch.utils.rename_privateuse1_backend(NAME)
    source = Path(__file__).with_suffix(".cpp")
    load(f"{NAME}_device", [str(source)], build_directory=str(build), extra_cflags=["-O1"]).register_hooks()
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    # its random numbers are the CPU's, which is seeded, saved and restored anyway
    module.manual_seed_all = module.manual_seed = lambda seed: None
    module.get_rng_state = lambda device=None: torch.get_rng_state()
    module.set_rng_state = lambda state, device=None: None
    module.synchronize = lambda device=None: None
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device(NAME, 0)


def take_for_auto(device: torch.device) -> None:
    """Make it what device="auto" means in the package; to be called before the rest of it is imported."""
    from lecture7_utils.shop import models

    of_a_name = models.pick_device
    models.pick_device = lambda name: device if isinstance(name, str) and name == "auto" else of_a_name(name)


def check(device: torch.device) -> None:
    """Try the device itself: the same values as on the CPU, and refusals where a GPU refuses.

    Raises `AssertionError` with the first thing that is not so.
    """
    here = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    there, weight = here.to(device), torch.ones(4, 3, 3, 3)
    refused: dict[str, Callable] = {
        "a sum of both": lambda: there + here,
        "weights on the CPU": lambda: F.conv2d(there, weight),
        "a list of both": lambda: torch.cat([there, here]),
        "a condition on the CPU": lambda: torch.where(here > 0, there, there),
        "an index on the device": lambda: here[torch.tensor([0], device=device)],
        "a generator of the CPU": lambda: torch.rand(3, device=device, generator=torch.Generator()),
        "numpy": there.numpy,
    }
    for name, attempt in refused.items():
        try:
            attempt()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError(f"{name}: expected a refusal, got none")

    def slope(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        images = images.detach().requires_grad_()
        score = F.max_pool2d(F.relu(F.conv2d(images, weight, padding=1)), 2).square().mean()
        return torch.autograd.grad(score, images)[0]

    found = slope(there, weight.to(device))
    assert found.device == device, f"a gradient: expected one on {device}, got {found.device}"
    assert torch.equal(found.cpu(), slope(here, weight)), "a gradient: expected the CPU's values"
    there[:, 0].mul_(2)  # through a view
    assert torch.equal(there.cpu()[:, 0], here[:, 0] * 2), "a view: expected that it shares its memory"
