"""Does a map depend on what the network has learned? How alike it stays while layers are randomised."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    as_generator,
    describe,
    require_choice,
    require_images,
    require_model,
)
from lecture7_utils.kernels.dense import bar
from lecture7_utils.kernels.layers import evaluation, find_layer

SIMILARITIES = ("rank", "cosine", "ssim")
Explain = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How similar maps stay while a network is randomised from the top. Made by `randomisation_check`.

    layers: the names of the L layers in the order in which they were randomised, the top one first.
    similarity: float64 [N, L + 1], of each image's map to that of the network as it is; column 0 is that
        network itself, column k the one with the first k layers randomised. NaN where it is not defined.
    maps: [L + 1, N, …], the maps themselves. measure: "rank", "cosine" or "ssim".
    complete: False if it was interrupted; layers that were not reached are left out then.
    """

    layers: tuple[str, ...]
    similarity: Tensor
    maps: Tensor
    measure: str
    complete: bool = True

    def __repr__(self) -> str:
        n, steps = self.similarity.shape
        state = "" if self.complete else ", interrupted"
        last = self.similarity[:, -1].nanmean()
        return f"Randomisation({n} images, {steps - 1} layers, {self.measure} {last:.3f} at the end{state})"


def randomisation_check(
    model: nn.Module,
    images: Tensor,
    explain: Explain,
    *,
    layers: Sequence[str] | None = None,
    similarity: str = "rank",
    generator: torch.Generator | int = 0,
    progress: bool = False,
) -> Randomisation:
    """Randomise a copy of the network layer by layer from the top, and compare the maps it gives on the way.

    Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, "Sanity Checks for Saliency Maps", NeurIPS 2018 (arXiv
    1810.03292), section 3.1, "cascading randomization": a map that stays the same when the weights are
    gone does not show what they have learned.

    model: any `nn.Module` that can be copied; images: float [N, 3, H, W].
    explain: (model, images) -> float [N, H, W] or [N, 3, H, W], such as
        `lambda net, x: deconvnet(net, x, class_score(3))`. It is called with the copy. What is compared is
        what it gives: for a map without its sign let it give `.abs()`.
    layers: names, in the order of randomising, each with all that is inside it; None for every layer with
        weights that the forward pass runs, the last one first.
    similarity: "rank": Spearman's rank correlation of the values, ties by their mean rank, -1 to 1 (in the
        paper, too). "cosine": of the two maps as vectors, -1 to 1. "ssim": structural similarity (Wang,
        Bovik, Sheikh, Simoncelli 2004, with their Gaussian window of sigma 1.5), each map scaled to 0 to 1
        before and the mean over channels taken; maps of at least 11 × 11. The first two do not change when a
        map is multiplied by a positive number. None is defined for a constant map: NaN.
    generator: a `torch.Generator` or a seed. A layer's weights and biases are drawn anew from the normal
        distribution with their own mean and standard deviation, so that its scale stays as it was; batch
        norms keep what they have, unless they are inside a layer named in `layers`.
    progress: show a bar.
    Interrupted, it warns and gives back what it has. The model is left as it was.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came, and what
    `explain` raises.
    """
    require_model(model)
    require_images(images, model)
    if not callable(explain) or isinstance(explain, type):
        raise TypeError(f"explain: expected a function (model, images) -> maps, got {describe(explain)}")
    require_choice(similarity, "similarity", SIMILARITIES)
    require_choice(progress, "progress", (False, True))
    names = None if layers is None else _checked_layers(model, layers)
    generator = as_generator(generator, images.device)
    with torch.inference_mode(False), torch.no_grad():
        # kernels put flags back to what they were: of the copy too
        twin = copy.deepcopy(model)
        if names is None:
            names = _from_the_top(twin, images)
        maps = [_explained(explain, twin, images)]
        values = [_similarities(maps[0], maps[0], similarity)]
        complete = True
        try:
            for k in bar(range(len(names)), progress, "randomising"):
                _randomise(twin.get_submodule(names[k]), generator)
                new = _explained(explain, twin, images)
                if new.shape != maps[0].shape:
                    raise ValueError(
                        f"explain: expected maps of one shape, got {describe(maps[0])} and {describe(new)}"
                    )
                value = _similarities(maps[0], new, similarity)
                maps.append(new)
                values.append(value)
        except KeyboardInterrupt:
            complete = False
            warnings.warn(
                f"randomisation_check was interrupted after {len(values) - 1} of {len(names)} layers",
                stacklevel=2,
            )
            del maps[len(values) :]
    done = tuple(names[: len(values) - 1])
    return Randomisation(done, torch.stack(values, 1), torch.stack(maps), similarity, complete)


def _checked_layers(model: nn.Module, layers: object) -> list[str]:
    if isinstance(layers, str | bytes) or not isinstance(layers, Sequence):
        raise TypeError(f"layers: expected a sequence of layers' names, got {describe(layers)}")
    if not layers:
        raise ValueError("layers: expected at least one name, got none")
    for name in layers:
        layer = find_layer(model, name, "layers")
        if not any(parameter.is_floating_point() for parameter in layer.parameters()):
            raise ValueError(f"layers: expected layers with weights, got {name!r}, which has none")
    return list(layers)


def _from_the_top(model: nn.Module, images: Tensor) -> list[str]:
    """The layers with a matrix or filters of their own that the forward pass calls, the last one first."""
    called: dict[str, None] = {}

    def note(name: str):
        def hook(_module, _inputs, _output):
            called.pop(name, None)  # of several calls the last counts
            called[name] = None

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if name and any(p.ndim >= 2 for p in module.parameters(recurse=False)):
                handles.append(module.register_forward_hook(note(name)))
        with evaluation(model, images.device):
            model(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ValueError("model: expected layers with weights that the forward pass calls, got none")
    return list(called)[::-1]


def _randomise(layer: nn.Module, generator: torch.Generator) -> None:
    """All weights and biases drawn anew, each tensor with its own mean and standard deviation."""
    for parameter in layer.parameters():
        if parameter.is_floating_point():
            drawn = torch.randn(
                parameter.shape, generator=generator, device=generator.device, dtype=parameter.dtype
            ).to(parameter.device)
            parameter.copy_(parameter.mean() + parameter.std(correction=0) * drawn)


def _explained(explain: Explain, model: nn.Module, images: Tensor) -> Tensor:
    maps = explain(model, images)
    expected = (
        f"explain: expected a function that gives maps [{len(images)}, H, W] or [{len(images)}, 3, H, W]"
    )
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError(f"{expected}, got one that gives {describe(maps)}")
    if maps.ndim not in (3, 4) or len(maps) != len(images) or 0 in maps.shape:
        raise ValueError(f"{expected}, got one that gives {describe(maps)}")
    if not torch.isfinite(maps).all():
        raise ValueError(f"{expected}, all finite, got one that gives NaN or infinity")
    return maps.detach().clone()


def _similarities(first: Tensor, second: Tensor, measure: str) -> Tensor:
    """Image by image: float64 [N], on the CPU."""
    compare = {"rank": _rank_correlation, "cosine": _cosine, "ssim": _ssim}[measure]
    pairs = zip(first.cpu().double(), second.cpu().double(), strict=True)
    return torch.tensor([compare(a, b) for a, b in pairs], dtype=torch.float64)


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    a, b = (_ranks(map.flatten()) for map in (a, b))
    return _cosine(a - a.mean(), b - b.mean())


def _ranks(values: Tensor) -> Tensor:
    """Each value's rank; equal values share the mean of their ranks."""
    _, which, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten(), b.flatten()
    # scaled first: the squares of very small values would vanish
    a, b = (v / v.abs().max() for v in (a, b))
    return float((a @ b) / (a.norm() * b.norm()))


def _ssim(a: Tensor, b: Tensor) -> float:
    from skimage.metrics import structural_similarity

    if min(a.shape[-2:]) < 11:
        raise ValueError(f"explain: expected maps of at least 11 × 11 for 'ssim', got {list(a.shape)}")
    a, b = ((map - map.min()) / (map.max() - map.min()) for map in (a, b))
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("nan")
    return float(
        structural_similarity(
            a.numpy(),
            b.numpy(),
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
            channel_axis=0 if a.ndim == 3 else None,
        )
    )
