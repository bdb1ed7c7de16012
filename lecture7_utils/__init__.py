"""Lecture 7, Interpretability of Neural Networks: the helper package of the course.

Three floors: `shop` (what is looked at), `kernels` (what looks) and `classroom` (what people see).
The names below are in the order of the lecture. They resolve when first used, so that importing the
package costs nothing beyond torch.
"""

import importlib

__version__ = "0.1.0"

# public name -> the module that owns it, in the order of the lecture
_HOME = {
    # before the first lesson
    "start": "classroom.lecture",
    "lecture_mode": "classroom.lecture",
    # shop
    "photos": "shop.photos",
    "photo": "shop.photos",
    "Photo": "shop.photos",
    "collage": "shop.photos",
    "load_model": "shop.models",
    "Classifier": "shop.models",
    "Scenes": "shop.scenes",
    "draw_scenes": "shop.scenes",
    "scene": "shop.scenes",
    "SPECIES": "shop.scenes",
    "Sample": "shop.samples",
    "pets": "shop.pets",
    "PetNet": "shop.petnet",
    "to_global_average_pooling": "shop.petnet",
    "fit_head": "shop.petnet",
    "Segmenter": "shop.segmenter",
    "train_segmenter": "shop.segmenter",
    "offers": "shop.offers",
    # what is explained, and where in the network
    "class_score": "kernels.targets",
    "class_probability": "kernels.targets",
    "unit": "kernels.targets",
    "evaluate": "kernels.targets",
    "activations": "kernels.layers",
    "layer_names": "kernels.layers",
    # lesson 1
    "saliency_map": "kernels.saliency",
    "smooth_grad": "kernels.saliency",
    "segment": "kernels.saliency",
    # lesson 2
    "occlusion_map": "kernels.occlusion",
    "occlude": "kernels.occlusion",
    "dirty_rectangles": "kernels.dirty",
    # is the map right?
    "share_inside": "kernels.metrics",
    "pointing_game": "kernels.metrics",
    "iou": "kernels.metrics",
    "boundary_error": "kernels.metrics",
    "box_iou": "kernels.metrics",
    "localisation_accuracy": "kernels.metrics",
    "best_constant_box": "kernels.metrics",
    "deletion_curve": "kernels.metrics",
    "insertion_curve": "kernels.metrics",
    # lesson 3
    "class_activation_map": "kernels.cam",
    "grad_cam": "kernels.cam",
    "boxes": "kernels.cam",
    "largest_box": "kernels.cam",
    # lesson 4
    "ascend": "kernels.ascent",
    "NATURAL": "kernels.ascent",
    "jitter": "kernels.regularisers",
    "rotate_and_scale": "kernels.regularisers",
    "gaussian_blur": "kernels.regularisers",
    "total_variation": "kernels.regularisers",
    "fourier": "kernels.regularisers",
    # lesson 5
    "top_activations": "kernels.search",
    "Ranking": "kernels.ranking",
    "receptive_field": "kernels.receptive",
    "Folder": "shop.folder",
    "Crops": "shop.crops",
    "at_own_size": "shop.crops",
    # lesson 6
    "convolution_matrix": "kernels.deconv",
    "transposed_convolution": "kernels.deconv",
    "sub_pixel": "kernels.deconv",
    "pixel_shuffle_form": "kernels.deconv",
    "counts": "kernels.deconv",
    # lesson 7
    "switches": "kernels.unpooling",
    "unpool": "kernels.unpooling",
    "deconvnet": "kernels.deconvnet",
    "explicit_deconvnet": "kernels.deconvnet",
    "randomisation_check": "kernels.sanity",
    # lesson 8
    "Generator": "shop.decoders",
    "load_generator": "shop.decoders",
    "latents": "shop.decoders",
    "walk": "shop.decoders",
    "grid_share": "shop.decoders",
    "train_generator": "shop.adversarial",
    "portraits": "shop.adversarial",
    # lesson 9
    "managers_report": "classroom.report",
    # figures
    "overlay": "classroom.plots",
    "normalise": "classroom.plots",
    "plot_images": "classroom.plots",
    "plot_map": "classroom.plots",
    "plot_maps": "classroom.plots",
    "plot_masks": "classroom.plots",
    "plot_rectangles": "classroom.plots",
    "plot_top": "classroom.plots",
    "plot_curves": "classroom.plots",
    "save_animation": "classroom.animation",
    "plot_hits": "classroom.sheets",
    "plot_traces": "classroom.traces",
    "trace_picture": "classroom.traces",
    "plot_matrices": "classroom.matrices",
    "plot_growth": "classroom.growth",
    # explorers
    "explore_predictions": "classroom.widgets",
    "explore_saliency": "classroom.widgets",
    "explore_occlusion": "classroom.widgets",
    "explore_ascent": "classroom.widgets",
    "explore_units": "classroom.widgets",
    "explore_convolution": "classroom.widgets",
    "explore_trace": "classroom.widgets",
    "explore_latent_walk": "classroom.widgets",
    "explore_offers": "classroom.widgets",
    "explore_cam": "classroom.widgets",
    "upload_photo": "classroom.widgets",
    # exercises
    "check": "classroom.checks",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'lecture7_utils' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lecture7_utils.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
