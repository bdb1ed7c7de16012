"""Lesson 3: where the network sees a class. Class activation maps, Grad-CAM, and boxes from a map."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    describe,
    require_choice,
    require_images,
    require_int,
    require_map,
    require_model,
    require_number,
)
from lecture7_utils.kernels.layers import constant, evaluation, find_layer, hooked, run_on_copy
from lecture7_utils.kernels.tails import AveragedMap, LastMap, Late, NoAverage, attach, find_averaged_map
from lecture7_utils.kernels.targets import ClassScore, Target, TargetLike, Unit, as_target, read_class, values

Size = str | tuple[int, int] | None


def class_activation_map(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    *,
    layer: str | None = None,
    size: Size = "images",
) -> Tensor:
    """The class activation map: how much each place of the last map adds to the score of a class.

    Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization",
    CVPR 2016 (arXiv 1512.04150), eq. 2: M_c(i, j) = sum_k w_k^c f_k(i, j), for a network whose scores are
    s_c = sum_k w_k^c F_k + b_c with F_k the average of f_k over its positions. So, with `size=None`,
    the mean of M_c over (i, j) plus b_c, the linear layer's bias, is the class score exactly.

    Such a network is recognised by what it computes, not by the names of its layers: a global average
    (pooling or mean), then one linear layer; nothing but dropout, flatten, view and identity beside them.
    Where the average itself is the scores (SqueezeNet: convolution, ReLU, average) M_c is the averaged map
    of class c; it is rectified if the network rectifies it, holds the bias, and its mean is the score.

    model: any such `nn.Module`; images: float [N, 3, H, W]; target: a class index, one index for each
    image, or `class_score`: a map is linear in the score only, so no probability and no unit.
    layer: the name of the layer that gives the averaged map; None finds the map. No other is possible.
    size: "images" for bilinear interpolation (align_corners=False) to [N, H, W], (height, width) for that
        size, None for the method's own grid [N, h, w].
    Returns signed values in the score's units, with the dtype and device of `images`; not normalised. One
    forward pass, no gradients; the model is left as it was. On a CPU in single or half precision the pass
    runs in PyTorch's channels-last memory format, which is faster; a network with a step that refuses it
    (a `view` over channels and places) runs again in the plain one.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came; for a network
    with another end, `ValueError` that says which end was found and what to do.
    """
    require_model(model)
    require_images(images, model)
    target = as_target(target)
    if not isinstance(target, ClassScore):
        kind = "a unit" if isinstance(target, Unit) else "a class probability"
        raise ValueError(
            f"target: expected a class score, in which the map is linear, got {kind}; grad_cam takes it"
        )
    size = _checked_size(size, images)
    given: list[tuple[Tensor, int]] = []
    with evaluation(model, images.device), torch.inference_mode(False), torch.no_grad():
        with nullcontext() if layer is None else hooked(find_layer(model, layer), _keep(given)):
            try:
                scores, tail = run_on_copy(lambda copy: find_averaged_map(model, copy), images)
            except NoAverage as found:
                raise ValueError(
                    "model: expected a network that ends in a global average of a map [N, C, h, w] and one "
                    f"linear layer, got {found}; grad_cam works without, and to_global_average_pooling with "
                    "fit_head gives PetNet such an end"
                ) from None
        if layer is not None and not _is_given(tail.map, given):
            raise ValueError(
                f"layer: expected the layer whose map {list(tail.map.shape)} is averaged, as it is averaged, "
                f"got {layer!r}; leave layer=None to have the map found"
            )
        return _resized(_class_map(tail, scores, target, images.dtype), size)


def _keep(given: list[tuple[Tensor, int]]):
    def hook(_module, _inputs, output):
        if isinstance(output, Tensor):
            given.append((output, _version(output)))

    return hook


def _is_given(features: Tensor, given: list[tuple[Tensor, int]]) -> bool:
    """Whether the map is what the layer gave, and not changed in place since."""
    return any(tensor is features and version == _version(features) for tensor, version in given)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _class_map(tail: AveragedMap, scores: Tensor, target: ClassScore, dtype: torch.dtype) -> Tensor:
    """M_c of each image's class: [N, h, w]."""
    features, (n, count) = tail.map.to(dtype), scores.shape
    if isinstance(target.classes, int) and target.classes < count:
        one = target.classes
        if tail.weight is None:
            return features[:, one].clone()
        with _exact(features):
            return torch.matmul(tail.weight[one].to(dtype), features.flatten(2)).view(n, *features.shape[2:])
    # the classes, read out of their own numbers: so that wrong ones are refused as everywhere
    classes = read_class(torch.arange(count, device=scores.device).expand(n, count), target)
    if tail.weight is None:
        return features[torch.arange(n, device=classes.device), classes]
    return _weighted(features, tail.weight[classes].to(dtype))


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights[n, k] features[n, k]: [N, h, w], as one product of matrices for each image."""
    with _exact(features):
        return torch.bmm(weights[:, None], features.flatten(2)).view(-1, *features.shape[2:])


def _exact(features: Tensor):
    """Autocast off, where it is on."""
    kind = features.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    layer: str | None = None,
    *,
    size: Size = "images",
    relu: bool = True,
) -> Tensor:
    """Grad-CAM: the last map's channels, weighted by how the target answers to each of them.

    Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM", ICCV 2017 (arXiv 1610.02391), eq. 1 and
    2: alpha_k = 1/Z sum_ij dy/dA_k(i, j) and L = ReLU(sum_k alpha_k A_k), with A [N, C, h, w] what the
    layer gives and Z = h w. Where A is averaged globally and the scores are linear in the average,
    alpha_k = w_k / Z: with relu=False, L is the class activation map / (h w).

    model: any `nn.Module`; images: float [N, 3, H, W]; target: a class index (its pre-softmax score), one
    index for each image, or `class_score`, `class_probability`, `unit`.
    layer: the name of a layer that gives [N, C, h, w] on the way to the target (the first call counts if
        it is called several times); None for the last convolution's map as the paper takes it: with the
        normalisation, sum, concatenation and ReLU that follow at the same size, before any pooling. That
        is 14 × 14 for a VGG at 224 × 224, and the averaged map for a ResNet.
    size: "images" for bilinear interpolation (align_corners=False) to [N, H, W], (height, width) for that
        size, None for the layer's own grid [N, h, w].
    relu: False keeps the places that speak against the target, as negative values.
    Returns values in units of target, with the dtype and device of `images`; not normalised. One forward
    pass, with a graph from the layer on only, and one backward pass to the layer; no gradient is computed
    for parameters; the model is left as it was. It works inside `no_grad` and `inference_mode` too. The
    memory format is chosen as in `class_activation_map`, so the channels' weights may differ from those of a
    pass in the plain format by more than the last digit: rounding may turn a ReLU behind the layer.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    require_model(model)
    require_images(images, model)
    target = as_target(target)
    size = _checked_size(size, images)
    require_choice(relu, "relu", (True, False))
    if layer is not None:
        find_layer(model, layer)
    with evaluation(model, images.device), constant(model), torch.inference_mode(False), torch.enable_grad():
        features, weights = run_on_copy(
            lambda copy: _answer(*_tapped(model, copy, target, layer), layer), images.detach()
        )
    with torch.inference_mode(False), torch.no_grad():
        maps = _weighted(features.to(images.dtype), weights.to(images.dtype))
        return _resized(maps.clamp_(min=0) if relu else maps, size)


def _tapped(
    model: nn.Module, images: Tensor, target: Target, layer: str | None
) -> tuple["LastMap | _NamedMap", Tensor]:
    """The map, with the start of its graph, and the target's value [N]. Copies of the images go in, as there
    may be a second pass and the first step may be in place."""
    if layer is not None:
        with _NamedMap(model, layer, len(images)) as tap:
            return tap, values(model, images.clone(), target)
    tap = LastMap(len(images))
    if not isinstance(target, Unit):
        with Late(model, tap, last=4) as late:
            value = values(model, images.clone(), target)
        if tap.features is not None or not late.missed_some:
            return tap, value
    # a unit's layer may be anywhere; or the convolutions defined last were not used
    with tap:
        return tap, values(model, images.clone(), target)


def _answer(tap: "LastMap | _NamedMap", value: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """The map A [N, C, h, w] and its weights alpha [N, C] (eq. 1)."""
    if layer is None and tap.features is None:
        raise ValueError(
            "layer: expected a name, as no convolution that gives a map [N, C, h, w] of more than one place "
            "was found, got None"
        )
    if layer is None and tap.attention > 1:
        raise ValueError(
            f"layer: expected a name, as {tap.attention} steps of attention follow the last map "
            f"{list(tap.features.shape)}, which so tells little about the target, got None"
        )
    name = "the last map" if layer is None else repr(layer)
    if tap.features is None:
        raise ValueError(
            f"layer: expected a layer on the way to the target, got {name}, which the forward pass does not "
            "call before it reaches the target"
        )
    gradient = None
    if tap.offset is not None and value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), tap.offset, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"target: expected one that depends on {name} {list(tap.features.shape)} through differentiable "
            "steps, got one that does not"
        )
    return tap.features, gradient.flatten(1) / (tap.features.shape[2] * tap.features.shape[3])


class _NamedMap:
    """What a named layer gives on its first call, and the start of the graph there; as `LastMap`."""

    def __init__(self, model: nn.Module, layer: str, images: int):
        self._module = find_layer(model, layer)
        self._name = layer
        self._images = images
        self.features: Tensor | None = None
        self.offset: Tensor | None = None

    def __enter__(self) -> "_NamedMap":
        self._handle = self._module.register_forward_hook(self._read)
        return self

    def __exit__(self, *_) -> None:
        self._handle.remove()

    def _read(self, _module, _inputs, output):
        if self.features is not None:
            return None
        expected = f"layer: expected one that gives a float tensor [{self._images}, C, h, w]"
        if not isinstance(output, Tensor):
            raise TypeError(f"{expected}, got {self._name!r}, which gives {describe(output)}")
        if output.ndim != 4 or len(output) != self._images or not output.is_floating_point():
            raise ValueError(f"{expected}, got {self._name!r}, which gives {describe(output)}")
        # a copy is kept: the network may go on in place
        self.features = output.detach().clone()
        if output._is_view():  # of a tensor that may live in a no_grad block: not to be marked
            output = output.detach()
        self.offset = attach(output)
        return output


def _checked_size(size: object, images: Tensor) -> tuple[int, int] | None:
    """The size to interpolate to, (height, width), or None for the method's own."""
    if size is None:
        return None
    if isinstance(size, str):
        require_choice(size, "size", ("images", None))
        return images.shape[2], images.shape[3]
    if not isinstance(size, Sequence) or len(size) != 2:
        raise TypeError(f"size: expected 'images', None or (height, width), got {describe(size)}")
    return require_int(size[0], "size", 1), require_int(size[1], "size", 1)


def _resized(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


class Boxes(NamedTuple):
    """The connected regions of one map, the largest first.

    boxes: float32 [K, 4], (x1, y1, x2, y2) in pixels, x to the right, y down; x2 and y2 are exclusive, so
    x2 - x1 is the width. areas: int64 [K], the pixels in each region (not in its box).
    """

    boxes: Tensor
    areas: Tensor


def boxes(
    maps: Tensor, threshold: float = 0.2, *, relative: bool = True, diagonal: bool = True
) -> list[Boxes]:
    """Boxes around the connected regions where a map is high.

    Zhou et al., CVPR 2016, section 3.2: threshold the map at 20 % of its maximum, and box the largest
    connected region. Here all regions come back; the first is theirs.

    maps: float [N, H, W].
    threshold: a share in 0 to 1 of each map's own maximum (a map with no positive value has no regions),
        or, with relative=False, a value of the map. A pixel belongs if it is at least that.
    diagonal: whether pixels that touch at a corner only are connected.
    Returns one `Boxes` for each map, on the device of `maps`, by falling area; regions of the same area in
    the order in which their first pixel is read, row by row. K is 0 where nothing is high enough.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    return [
        Boxes(
            torch.tensor([b for _, b in found], dtype=torch.float32, device=maps.device).reshape(-1, 4),
            torch.tensor([a for a, _ in found], dtype=torch.int64, device=maps.device),
        )
        for found in _regions(maps, threshold, relative, diagonal)
    ]


def largest_box(
    maps: Tensor, threshold: float = 0.2, *, relative: bool = True, diagonal: bool = True
) -> Tensor:
    """The box around the largest connected region of each map: the first that `boxes` gives.

    Arguments and errors as in `boxes`. Returns float32 [N, 4], (x1, y1, x2, y2) with x2 and y2 exclusive;
    (0, 0, 0, 0), a box without area, where nothing is high enough.
    """
    found = _regions(maps, threshold, relative, diagonal)
    first = [regions[0][1] if regions else (0, 0, 0, 0) for regions in found]
    return torch.tensor(first, dtype=torch.float32, device=maps.device)


def _regions(
    maps: object, threshold: object, relative: object, diagonal: object
) -> list[list[tuple[int, tuple[int, int, int, int]]]]:
    """For each map its regions as (area, box), the largest first."""
    require_map(maps, "maps")
    require_choice(relative, "relative", (True, False))
    require_choice(diagonal, "diagonal", (True, False))
    require_number(threshold, "threshold", *((0, 1) if relative else ()))

    import numpy as np
    from skimage.measure import label, regionprops

    maps = maps.detach()
    if relative:
        top = maps.amax((1, 2), keepdim=True)
        high = (maps >= threshold * top) & (top > 0)
    else:
        high = maps >= threshold
    result = []
    for mask in high.cpu().numpy():
        labels = label(mask, connectivity=2 if diagonal else 1)
        areas = np.bincount(labels.ravel())
        found = []
        for region in regionprops(labels):
            y1, x1, y2, x2 = region.bbox
            found.append((int(areas[region.label]), (x1, y1, x2, y2)))
        # labels count in reading order, and the sort keeps it where areas are equal
        result.append(sorted(found, key=lambda entry: -entry[0]))
    return result
