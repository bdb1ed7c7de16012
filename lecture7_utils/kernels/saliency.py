"""Lesson 1: which pixels would change the score most, by its gradient; and a segmentation from that."""

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from lecture7_utils.kernels.arguments import (
    as_generator,
    describe,
    require_choice,
    require_images,
    require_int,
    require_map,
    require_model,
    require_number,
)
from lecture7_utils.kernels.dense import bar, chunk_size
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.targets import Target, TargetLike, Unit, as_target, target_count, values

REDUCTIONS = ("max", "l2", None)


def saliency_map(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    *,
    reduce: str | None = "max",
    times_input: bool = False,
) -> Tensor:
    """The saliency map |ds/dx|: how much the target changes with each pixel, to first order.

    Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", 2013 (arXiv 1312.6034), section 3:
    w = ds_c/dx at the image, and M_ij = max_c |w_ijc|. It is local: no attribution of the score.

    model: any `nn.Module`; images: float [N, 3, H, W]; target: a class index (its pre-softmax score), one
    index for each image, or `class_score`, `class_probability`, `unit`.
    reduce: "max", the largest |gradient| of the three channels (as in the paper); "l2", their norm; None,
        the signed gradient of each channel.
    times_input: gradient × input instead of the gradient (Shrikumar et al., 2016, arXiv 1605.01713).
    Returns [N, H, W], or [N, 3, H, W] for reduce=None, in the target's units per unit of `images`, with
    the dtype and device of `images`; not normalised. One forward and one backward pass; no gradient is
    computed for parameters; the model is left as it was.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    target = _checked(model, images, target, reduce, times_input)
    # not in inference mode: the map is to be an ordinary tensor afterwards
    with torch.inference_mode(False), torch.no_grad(), evaluation(model, images.device):
        gradient = input_gradient(model, images, target)
        return _reduced(gradient * images.detach() if times_input else gradient, reduce)


def smooth_grad(
    model: nn.Module,
    images: Tensor,
    target: TargetLike,
    *,
    samples: int = 32,
    noise: float = 0.15,
    reduce: str | None = "max",
    times_input: bool = False,
    generator: torch.Generator | int = 0,
    chunk: int | str = "auto",
    progress: bool = False,
) -> Tensor:
    """SmoothGrad: the mean of the gradients at noisy copies of each image, then reduced as in `saliency_map`.

    Smilkov, Thorat, Kim, Viégas, Wattenberg, "SmoothGrad: removing noise by adding noise", 2017 (arXiv
    1706.03825): M(x) = 1/n sum_k ds/dx (x + e_k), e_k normal with sigma = noise × (max x - min x).

    samples: n, at least 1. noise: sigma as a share of each image's range, at least 0.
    generator: a `torch.Generator` or a seed; the result does not depend on `chunk` beyond rounding.
    chunk: the most noisy images in one pass; "auto" takes 2 of 224 × 224 on a CPU and 64 elsewhere.
    progress: show a bar.
    Interrupted (Ctrl-C, the notebook's stop button), it warns and gives back the mean over the samples that
    are done. The rest, what is returned and what is raised, as in `saliency_map`.
    """
    target = _checked(model, images, target, reduce, times_input)
    require_int(samples, "samples", 1)
    require_number(noise, "noise", 0)
    generator = as_generator(generator, images.device)
    chunk = chunk_size(chunk, images, graph=True)
    require_choice(progress, "progress", (False, True))
    count = images.shape[0]
    per_pass = max(1, chunk // count)
    parts = [slice(i, i + chunk) for i in range(0, count, chunk)]  # one, unless the batch is beyond a chunk

    with torch.inference_mode(False), torch.no_grad():
        clean = images.detach()
        sigma = noise * (clean.amax((1, 2, 3), keepdim=True) - clean.amin((1, 2, 3), keepdim=True))
        # half precision would lose the small terms of a long sum
        total = torch.zeros_like(clean, dtype=torch.promote_types(clean.dtype, torch.float32))
        done = 0
        with evaluation(model, images.device):
            try:
                for first in bar(range(0, samples, per_pass), progress, "SmoothGrad"):
                    n = min(per_pass, samples - first)
                    # the noise of the whole batch, one sample after the other: the same whatever the chunk
                    drawn = [_normal(clean, generator) for _ in range(n)]
                    sums = []
                    for part in parts:
                        noisy = torch.cat([clean[part] + sigma[part] * e[part] for e in drawn])
                        gradient = input_gradient(model, noisy, _repeated(target, part, n))
                        terms = gradient * noisy if times_input else gradient
                        sums.append(terms.view(n, -1, *clean.shape[1:]).sum(0, dtype=total.dtype))
                    total, done = total + torch.cat(sums), first + n
            except KeyboardInterrupt:
                if not done:
                    raise
                warnings.warn(
                    f"smooth_grad was interrupted after {done} of {samples} samples; the map is their mean",
                    stacklevel=2,
                )
        return _reduced((total / done).to(clean.dtype), reduce)


def input_gradient(model: nn.Module, images: Tensor, target: Target) -> Tensor:
    """d(sum of the targets)/d(images), [N, 3, H, W], for kernels: eval mode and checks are the caller's.

    It works inside `no_grad` and `inference_mode` too, and leaves no `.grad` anywhere.
    Raises `ValueError` if the target does not depend on the images.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # the leaf shares its memory with `images`; a clone goes in: a network whose first step is in place
        # must neither fail nor change them
        leaf = (images.clone() if images.is_inference() else images.detach()).requires_grad_(True)
        value = values(model, leaf.clone(), target)
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "target: expected a value that depends on the images through differentiable steps, "
            "got one that does not"
        )
    return gradient


def segment(
    image: Tensor,
    saliency: Tensor,
    *,
    foreground: float = 0.95,
    background: float = 0.3,
    blur: float = 4.0,
    iterations: int = 5,
) -> Tensor:
    """A mask of the object from a saliency map: seeds by quantile, then GrabCut on the colours.

    Simonyan et al., 2013, section 3.2: pixels above the 0.95 quantile of the map seed the object, pixels
    below the 0.3 quantile seed the background, a colour model cuts the rest: here GrabCut (Rother,
    Kolmogorov, Blake, SIGGRAPH 2004) by OpenCV.

    image: RGB float [3, H, W] in 0 to 1, as `Classifier.display(images)[0]` gives it.
    saliency: float [H, W], larger where the object is.
    foreground, background: quantiles in 0 to 1, background < foreground.
    blur: standard deviation in pixels of a Gaussian over the map before the seeds are taken, 0 to 1000.
    iterations: of GrabCut, at least 1.
    Returns bool [H, W] on the device of `saliency`. Sets OpenCV's own random seed, which GrabCut needs.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came; `ValueError`
    for a map that is constant, as it has no quantiles to seed from.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point():
        raise TypeError(f"image: expected a float tensor [3, H, W] in 0 to 1, got {describe(image)}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected a float tensor [3, H, W] in 0 to 1, got {describe(image)}")
    if not torch.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise ValueError(
            f"image: expected values in 0 to 1, got {image.min():.4g} to {image.max():.4g}; "
            "Classifier.display turns preprocessed images back"
        )
    if not isinstance(saliency, Tensor) or not saliency.is_floating_point():
        raise TypeError(f"saliency: expected a float tensor [H, W], got {describe(saliency)}")
    if saliency.shape != image.shape[1:]:
        raise ValueError(
            f"saliency: expected a float tensor {list(image.shape[1:])}, as large as the image, "
            f"got {describe(saliency)}"
        )
    require_map(saliency[None], "saliency")
    require_number(foreground, "foreground", 0, 1)
    require_number(background, "background", 0, 1)
    if background >= foreground:
        raise ValueError(f"background: expected below foreground = {foreground}, got {background}")
    require_number(blur, "blur", 0, 1000)
    require_int(iterations, "iterations", 1)

    import cv2
    import numpy as np

    rgb = (image.detach().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    heat = saliency.detach().cpu().double().numpy()
    if blur > 0:
        heat = cv2.GaussianBlur(heat, (0, 0), blur)
    if heat.max() == heat.min():
        raise ValueError("saliency: expected a map that is not constant, got one value everywhere")
    low, high = np.quantile(heat, [background, foreground])
    # where many pixels share one value (a map that is 0 almost everywhere) the quantiles meet or reach the
    # top; GrabCut needs seeds of both kinds
    if low == heat.max():
        low = heat[heat < low].max()
    if high == low:
        high = heat[heat > low].min()
    seeds = np.full(heat.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[heat <= low] = cv2.GC_BGD
    seeds[heat >= high] = cv2.GC_FGD
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    seeds, _, _ = cv2.grabCut(bgr, seeds, None, None, None, iterations, cv2.GC_INIT_WITH_MASK)
    mask = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    return torch.from_numpy(mask).to(saliency.device)


def _checked(model: object, images: object, target: object, reduce: object, times_input: object) -> Target:
    require_model(model)
    require_images(images, model)
    require_choice(reduce, "reduce", REDUCTIONS)
    require_choice(times_input, "times_input", (False, True))
    return as_target(target)


def _reduced(gradient: Tensor, reduce: str | None) -> Tensor:
    if reduce is None:
        return gradient
    return gradient.abs().amax(1) if reduce == "max" else gradient.norm(dim=1)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of that shape and dtype, drawn where the generator is."""
    drawn = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


def _repeated(target: Target, part: slice, times: int) -> Target:
    """The target for `times` copies of that part of the batch, one after the other."""
    if target_count(target) is None:
        return target
    field = "channel" if isinstance(target, Unit) else "classes"
    return replace(target, **{field: getattr(target, field)[part] * times})
