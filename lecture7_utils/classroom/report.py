"""Lesson 9: every tool put to several classifiers, on pictures with known truth; one page for the manager."""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lecture7_utils.classroom import plots
from lecture7_utils.kernels.arguments import describe, require_int, require_number
from lecture7_utils.kernels.cam import class_activation_map, grad_cam
from lecture7_utils.kernels.deconvnet import deconvnet
from lecture7_utils.kernels.layers import evaluation
from lecture7_utils.kernels.metrics import deletion_curve, pointing_game, share_inside
from lecture7_utils.kernels.occlusion import occlusion_map
from lecture7_utils.kernels.saliency import saliency_map, smooth_grad
from lecture7_utils.kernels.targets import class_probability, class_scores
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.samples import Sample

SHOWN = 3  # pictures of each classifier on the page

Method = Callable[[Classifier, Tensor, Tensor], Tensor]


def _smooth(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    return smooth_grad(model, images, classes, samples=8)


def _occlusion(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    side = min(images.shape[2:])
    grey = model.colour(127, 127, 127)
    found = occlusion_map(
        model, images, classes, window=max(1, side // 4), stride=max(1, side // 8), baseline=grey
    )
    return found.map("drop")


def _cam(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    return class_activation_map(model, images, classes)


def _grad_cam(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    return grad_cam(model, images, classes)


def _deconvnet(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    return deconvnet(model, images, classes).abs().amax(1)


def _guided(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    return deconvnet(model, images, classes, rule="guided").abs().amax(1)


METHODS: dict[str, Method] = {
    "saliency": saliency_map,
    "SmoothGrad": _smooth,
    "occlusion": _occlusion,
    "CAM": _cam,
    "Grad-CAM": _grad_cam,
    "DeconvNet": _deconvnet,
    "guided": _guided,
}


@dataclass(frozen=True)
class Finding:
    """What one method says about one classifier: means over the pictures, all in 0 to 1 but the count.

    on_animal, on_tag: share of the map's positive part inside the animals' masks, and inside the tag's.
    pointed: share of the pictures in which the map's largest value lies on an animal.
    deletion: area under the deletion curve of the class probability, less is better.
    All four are None, and `why` says so, where the method is not defined for the classifier.
    each: the same four picture by picture, {field: one number a picture}; NaN for a share of a map that is
    nowhere positive, and for a share on the tag where there is none. Empty where the four are None.
    """

    classifier: str
    method: str
    on_animal: float | None = None
    on_tag: float | None = None
    pointed: float | None = None
    deletion: float | None = None
    why: str = ""
    each: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)


# what a table shows of a finding: heading on the page, heading in text, field, format
_MEASURES = (
    ("on the animals", "on the animal", "on_animal", ".0%"),
    ("on the tag", "on the tag", "on_tag", ".0%"),
    ("points at an animal", "pointing game", "pointed", ".0%"),
    ("left after deletion", "deletion area", "deletion", ".2f"),
)


@dataclass(frozen=True)
class Report:
    """The findings, each classifier's accuracies in 0 to 1, the areas of the truth, and the page as HTML.

    accuracy: on the pictures as they are. shuffled: on the same shop's pictures with the tags shuffled, or
    None where no such pictures were given. animal_area, tag_area: mean share of a picture that animals and
    tag cover: what a map that knows nothing scores.
    """

    findings: tuple[Finding, ...]
    accuracy: dict[str, float]
    shuffled: dict[str, float] | None
    animal_area: float
    tag_area: float
    count: int
    html: str

    def __str__(self) -> str:
        """A row for each method; under each measure a column for each classifier."""
        names = list(self.accuracy)
        width = max(-(-15 // len(names)), *(len(name) + 2 for name in names))
        first = max(12, *(len(method) + 1 for method in self._by_method()))
        heads = [f"{short:>{width * len(names)}s}" for _, short, _, _ in _MEASURES]
        lines = [
            f"{'':{first}s}{''.join(heads)}",
            f"{'':{first}s}{''.join(f'{n:>{width}s}' for n in names) * len(heads)}",
        ]
        for method, found in self._by_method().items():
            cells = []
            for *_, key, form in _MEASURES:
                for name in names:
                    value = getattr(found[name], key)
                    cells.append(f"{'-' if value is None else format(value, form):>{width}s}")
            lines.append(f"{method:{first}s}{''.join(cells)}")
        even = {"on_animal": self.animal_area, "on_tag": self.tag_area, "pointed": self.animal_area}
        cells = [format(even[key], form) if key in even else "" for *_, key, form in _MEASURES for _ in names]
        lines.append(f"{'even map':{first}s}{''.join(f'{cell:>{width}s}' for cell in cells)}".rstrip())
        missing = [f"{f.method}: not defined for {f.classifier}" for f in self.findings if f.why]
        return "\n".join([*lines, *missing])

    def finding(self, classifier: str, method: str) -> Finding:
        """What this method says about this classifier. Raises `ValueError` for names that are not here."""
        for found in self.findings:
            if (found.classifier, found.method) == (classifier, method):
                return found
        known = ", ".join(f"{f.classifier!r} and {f.method!r}" for f in self.findings)
        raise ValueError(f"classifier, method: expected {known}, got {classifier!r} and {method!r}")

    def plot(self):
        """The figure of the page: each map's share on the animals and on the tag. Returns it, unshown."""
        return _bars(self, list(self.accuracy))

    def _by_method(self) -> dict[str, dict[str, Finding]]:
        """{method: {classifier: finding}}."""
        table: dict[str, dict[str, Finding]] = {}
        for found in self.findings:
            table.setdefault(found.method, {})[found.classifier] = found
        return table

    def __repr__(self) -> str:
        return (
            f"Report({len(self.accuracy)} classifiers, {len(self.findings)} findings, {self.count} pictures)"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to `path` and return it. Raises `OSError` where that can't be written."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path


def managers_report(
    classifiers: Mapping[str, Classifier],
    samples: Sequence,
    *,
    shuffled: Sequence | None = None,
    count: int = 200,
    methods: Mapping[str, Method] = METHODS,
    asks: Mapping[str, str] | None = None,
    deletion_steps: int = 8,
    batch: int = 50,
    threshold: float = 0.03,
    progress: bool = False,
) -> Report:
    """Put every method to every classifier on pictures with masks; give a table and one HTML page.

    classifiers: {name: `Classifier`}, at least one, all with the same classes as `samples`.
    samples: a sequence or data set of `Sample` (image, label, animals' masks, tag's mask); the first `count`.
    shuffled: the same kind of pictures with tags that say nothing, for the second accuracy.
    methods: {name: f(model, images [N, 3, H, W], classes [N]) -> maps [N, H, W]}; a method that raises
        `ValueError` for a classifier is listed as not defined there. The positive part of a map counts.
    asks: {method: the question it asks, in a sentence}, for the page; the methods of the course have one.
    deletion_steps: steps of the deletion curve, at least 1. batch: pictures in one call of a method.
    threshold: the drop of accuracy (0 to 1) with shuffled tags up to which the page calls a network sound.
    progress: show a bar.
    Raises `TypeError` or `ValueError` naming the argument, what was expected and what came.
    """
    if not isinstance(classifiers, Mapping) or not all(
        isinstance(c, Classifier) for c in classifiers.values()
    ):
        raise TypeError(f"classifiers: expected a dict of name to Classifier, got {describe(classifiers)}")
    if not classifiers:
        raise ValueError("classifiers: expected at least one, got none")
    if not isinstance(methods, Mapping) or not methods or not all(map(callable, methods.values())):
        raise TypeError(f"methods: expected a dict of name to function, got {describe(methods)}")
    if asks is not None and (
        not isinstance(asks, Mapping) or not all(isinstance(words, str) for words in asks.values())
    ):
        raise TypeError(f"asks: expected a dict of method to sentence, got {describe(asks)}")
    require_int(count, "count", 1)
    require_int(batch, "batch", 1)
    require_int(deletion_steps, "deletion_steps", 1)
    require_number(threshold, "threshold", 0, 1)
    for name, data in (("samples", samples), ("shuffled", shuffled)):
        if data is not None and (not hasattr(data, "__getitem__") or not hasattr(data, "__len__")):
            raise TypeError(f"{name}: expected a sequence of samples, got {describe(data)}")
        if data is not None and len(data) < count:
            raise ValueError(f"{name}: expected at least count = {count} samples, got {len(data)}")

    truth = _drawn(samples, count, batch)
    exchanged = None if shuffled is None else _drawn(shuffled, count, batch)
    findings: list[Finding] = []
    accuracy: dict[str, float] = {}
    after: dict[str, float] = {}
    examples: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    areas = (0.0, 0.0)
    from tqdm.auto import tqdm

    with tqdm(total=len(classifiers) * len(methods), disable=not progress, desc="methods") as bar:
        for name, net in classifiers.items():
            data = _prepared(net, truth)
            areas = (data.animals.float().mean().item(), data.tags.float().mean().item())
            accuracy[name] = _accuracy(net, data.images, data.labels, batch)
            if exchanged is not None:
                after[name] = _accuracy(net, *_pictures(net, exchanged), batch)
            shown: dict[str, Tensor] = {}
            for method_name, method in methods.items():
                bar.set_postfix_str(f"{name}: {method_name}")
                maps = _maps(net, data, method, batch)
                if isinstance(maps, str):
                    findings.append(Finding(name, method_name, why=maps))
                else:
                    findings.append(_finding(net, data, maps, name, method_name, deletion_steps, batch))
                    shown[method_name] = maps[:SHOWN].cpu()
                bar.update()
            examples[name] = (net.display(data.images[:SHOWN]).cpu(), shown)

    report = Report(tuple(findings), accuracy, after if shuffled is not None else None, *areas, count, "")
    return replace(report, html=_page(report, examples, {**_ASKS, **(asks or {})}, threshold))


@dataclass(frozen=True)
class _Data:
    images: Tensor
    labels: Tensor
    animals: Tensor
    tags: Tensor


def _drawn(samples: Sequence, count: int, batch: int) -> list[Sample]:
    """The first `count` samples; a data set that gives many at once, as `Scenes` does, is asked for many."""
    if not hasattr(samples, "__getitems__"):
        return [samples[k] for k in range(count)]
    parts = (samples.__getitems__(list(range(k, min(k + batch, count)))) for k in range(0, count, batch))
    return [sample for part in parts for sample in part]


def _pictures(net: Classifier, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    images = torch.cat([net.preprocess(sample.image) for sample in samples])
    return images, torch.tensor([sample.label for sample in samples], device=images.device)


def _prepared(net: Classifier, samples: Sequence[Sample]) -> _Data:
    """The samples as the network sees them; the masks go the way of the images, whatever that way is."""

    def seen(masks: list[Tensor]) -> Tensor:
        white = [net.preprocess(mask.float().expand(3, *mask.shape)) for mask in masks]
        return net.display(torch.cat(white))[:, 0] > 0.5

    images, labels = _pictures(net, samples)
    return _Data(images, labels, seen([s.mask for s in samples]), seen([s.tag_mask for s in samples]))


def _accuracy(net: Classifier, images: Tensor, labels: Tensor, batch: int) -> float:
    right = 0
    with evaluation(net, images.device), torch.no_grad():
        for part, wanted in zip(images.split(batch), labels.split(batch), strict=True):
            right += (class_scores(net, part.clone()).argmax(1) == wanted).sum().item()
    return right / len(labels)


def _maps(net: Classifier, data: _Data, method: Method, batch: int) -> Tensor | str:
    """The maps [N, H, W], or why the method gives none for this classifier."""
    parts = zip(data.images.split(batch), data.labels.split(batch), strict=True)
    try:
        return torch.cat([method(net, images, labels) for images, labels in parts])
    except ValueError as error:
        return str(error)


def _finding(
    net: Classifier, data: _Data, maps: Tensor, name: str, method: str, steps: int, batch: int
) -> Finding:
    positive = maps.clamp(min=0)
    grey = net.colour(127, 127, 127)
    areas = []
    for images, labels, part in zip(
        data.images.split(batch), data.labels.split(batch), maps.split(batch), strict=True
    ):
        curve = deletion_curve(net, images, class_probability(labels), part, steps=steps, baseline=grey)
        areas.append(curve.area)
    on_tag = share_inside(positive, data.tags)
    on_tag[~data.tags.flatten(1).any(1)] = torch.nan
    each = {
        "on_animal": share_inside(positive, data.animals),
        "on_tag": on_tag,
        "pointed": pointing_game(maps, data.animals, tolerance=0).float(),
        "deletion": torch.cat(areas),
    }
    means = {key: values.nanmean().item() for key, values in each.items()}
    if math.isnan(means["on_tag"]):  # not one tag
        means["on_tag"] = 0.0
    return Finding(name, method, **means, each={key: tuple(values.tolist()) for key, values in each.items()})


def _img(figure, alt: str, kind: str = "png") -> str:
    """A figure as an <img> that carries its own bytes."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    options = {"pil_kwargs": {"quality": 88}} if kind == "jpeg" else {}
    figure.savefig(buffer, format=kind, dpi=96, **options)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{html.escape(alt, quote=True)}' src='data:image/{kind};base64,{data}'>"


# what the bars are of: words, field of a finding, field of a report, colour, hatch
_BARS = (
    ("animals", "on_animal", "animal_area", plots.COLOURS[0], ""),
    ("price tag", "on_tag", "tag_area", plots.COLOURS[1], "//"),
)


def _bars(report: Report, names: Sequence[str], legend: bool = True):
    """Share of each map on the animals and on the tag: a panel for each of these classifiers, and in it a
    row for each method."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.patheffects import withStroke

    methods = list(report._by_method())
    known = [getattr(f, key) for f in report.findings for _, key, *_ in _BARS]
    most = max((v for v in known if v is not None), default=0.0)
    size = (plots.WIDTH if len(names) > 1 else 0.56 * plots.WIDTH, 0.9 + 0.52 * len(methods) + 0.4 * legend)
    rim = [withStroke(linewidth=3, foreground="white")]  # between a letter and the lines that pass under it
    with plt.rc_context(plots.style()):
        figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False)
        for ax, name in zip(axes[0], names, strict=True):
            found = [report.finding(name, method) for method in methods]
            for words, key, area, colour, hatch in _BARS:
                there = [k for k, f in enumerate(found) if getattr(f, key) is not None]
                width = [getattr(found[k], key) * 100 for k in there]
                place = np.array(there) + (-0.2 if key == "on_animal" else 0.2)
                bars = ax.barh(place, width, 0.38, color=colour, hatch=hatch, edgecolor="white",
                               label=f"map on the {words}")  # fmt: skip
                ax.bar_label(bars, [f"{v:.0f}" for v in width], padding=2, path_effects=rim, zorder=5)
                ax.axvline(getattr(report, area) * 100, color=colour, linestyle=":", label=f"{words}: area")
            for k, f in enumerate(found):
                if f.on_animal is None:
                    ax.text(0.5, k, "not defined", va="center", color="0.35", path_effects=rim)
            ax.set_xlim(0, max(112 * most, 1))
            ax.set_yticks(range(len(methods)), methods)
            ax.tick_params(axis="y", length=0)
            ax.set_title(name)
            ax.set_xlabel("share of the map (%)")
        axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
        if legend:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            order = [
                labels.index(text)
                for words, *_ in _BARS
                for text in (f"map on the {words}", f"{words}: area")
            ]
            figure.legend(
                [handles[k] for k in order], [labels[k] for k in order], loc="outside lower center", ncols=4
            )
    return figure


def _sheet(images: Tensor, maps: dict[str, Tensor]):
    """A few pictures and what each method makes of them."""
    rows, titles = [], []
    for k, image in enumerate(images):
        rows.append(image)
        titles.append("photo" if k == 0 else "")
        for method, found in maps.items():
            rows.append(plots.overlay(image, found[k].clamp(min=0)))
            titles.append(method if k == 0 else "")
    return plots.plot_images(rows, titles, columns=len(maps) + 1)


_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; line-height: 1.2; }
h2 { margin: 2.2rem 0 .6rem; }
img { max-width: 100%; height: auto; }
.advice { font-size: 1.2rem; border-left: .3rem solid #222; padding-left: 1rem; }
.cards, .bars { display: flex; flex-wrap: wrap; gap: 1rem; }
.card { flex: 1 1 18rem; padding: .6rem 1.2rem; border: 1px solid #bbb; border-left: .6rem solid; }
.card h3 { margin: .3rem 0; color: #222; }
.card p { margin: .3rem 0; color: #222; }
.sound { border-left-color: #0072b2; }
.unsound { border-left-color: #d55e00; }
.bars img { flex: 1 1 20rem; min-width: 0; max-width: min(100%, 35rem); }
.scroll { overflow-x: auto; }
.scroll img { min-width: 40rem; }
.key { display: inline-block; width: 1.6rem; margin: 0 .4rem 0 1rem; vertical-align: middle; }
.key { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.block { height: .8rem; }
.line { border-top: 3px dotted; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .8rem; text-align: right; }
th { border-bottom: 2px solid #444; vertical-align: bottom; }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff; padding-left: 0; }
.words { text-align: left; }
tr.last td { border-top: 1px solid #999; }
tr.over th { border-bottom: 1px solid #999; text-align: center; }
dl { columns: 2 22rem; }
dt { font-weight: 600; break-after: avoid; }
dd { margin: 0 0 .3rem 1.2rem; break-inside: avoid; }
.small { font-size: .9em; color: #444; }
h3 { margin: 1.2rem 0 .2rem; }
@media print {
  body { margin: 0; max-width: none; font-size: 11px; }
  .advice { font-size: 14px; }
  h2, h3 { break-after: avoid; }
  h2 { margin-top: 1.2rem; }
  img, table, .cards, .bars { break-inside: avoid; }
  .bars { flex-wrap: nowrap; }
  .bars img { flex: 1 1 0; }
  .scroll { overflow: visible; }
  .scroll img { min-width: 0; max-height: 21rem; }
}
"""

# what the methods of the course ask, for a reader who was not there
_ASKS = {
    "saliency": "Where would a small change move the score most?",
    "SmoothGrad": "Where would a small change move the score most, averaged over noisy copies?",
    "occlusion": "What is lost when a grey square covers the place?",
    "CAM": "What does the place add to the score?",
    "Grad-CAM": "What does the place add to the score, estimated from the gradient?",
    "DeconvNet": "Where does the score come out when it is traced back through the layers?",
    "guided": "The same, but only through units that were on (guided backpropagation)?",
}

_LIMITS = """<h2>What this page does not say</h2>
<p>A map says where a network reacts. It does not say why, and light on the animal is no proof that the answer
comes from the animal: changing one thing and asking again is. Here that thing was the price tag, because
somebody thought of it. What nobody thought of was not tested.</p>"""


def _page(report: Report, examples: dict, asks: Mapping[str, str], threshold: float) -> str:
    names = list(report.accuracy)
    one = len(names) == 1
    bars = [
        _img(_bars(report, [name], False), f"Bars: share of each map of {name} on the animals and on the tag")
        for name in names
    ]
    return "\n".join(
        [
            "<!doctype html>",
            "<html lang='en'><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>Is it looking at the animal?</title><style>{_STYLE}</style></head><body>",
            f"<h1>{'Is it' if one else 'Are they'} looking at the animal?</h1>",
            f"<p>{html.escape(_introduced(names))}, asked about {report.count} pictures of the shop. Where "
            "the animals are in each picture, and where the price tag hangs, is known.</p>",
            *_advice(report, threshold),
            f"<h2>How often {'is it' if one else 'are they'} right?</h2>",
            *_accuracies(report, threshold),
            f"<h2>Where {'does it' if one else 'do they'} look?</h2>",
            "<p>Each method lays a map over a picture: bright where, by the question that it asks, the "
            "network reacts. How much of the map lies on the animals, and how much on the price tag?</p>",
            "<div class='bars'>",
            *bars,
            "</div>",
            *_legend(),
            *_findings(report, asks),
            "<h2>A few of the pictures</h2>",
            *(
                f"<h3>{html.escape(name)}</h3><div class='scroll'>"
                + _img(_sheet(images, maps), f"Test pictures and the maps of {name}", "jpeg")
                + "</div>"
                for name, (images, maps) in examples.items()
                if maps
            ),
            "<p class='small'>Bright: the method's largest values in this picture.</p>",
            _LIMITS,
            "</body></html>",
        ]
    )


_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six")


def _introduced(names: Sequence[str]) -> str:
    count = _NUMBERS[len(names)] if len(names) < len(_NUMBERS) else str(len(names))
    return f"{count} network{'s' if len(names) > 1 else ''}, {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sound(report: Report, name: str, threshold: float) -> bool:
    """Whether shuffling the tags costs this classifier no more than the threshold."""
    return report.accuracy[name] - report.shuffled[name] <= threshold


def _advice(report: Report, threshold: float) -> list[str]:
    """What follows for the manager, in a sentence or two; nothing where the tags were not shuffled."""
    if report.shuffled is None:
        return []
    good = [name for name in report.accuracy if _sound(report, name, threshold)]
    bad = [name for name in report.accuracy if name not in good]

    def say(names: Sequence[str]) -> str:
        return f"<b>{html.escape(_listed(names))}</b>"

    if not bad:
        words = f"the answers of {say(good)} do not depend on the price tag."
    elif not good:
        words = f"do not use {say(bad)} as {'it is' if len(bad) == 1 else 'they are'}: "
    else:
        words = f"use {say(good)}. Do not use {say(bad)}: "
    if bad:
        words += f"{'it reads' if len(bad) == 1 else 'they read'} the price tag."
    return [f"<p class='advice'>Our advice: {words}</p>"]


def _legend() -> list[str]:
    keys = []
    for words, _, _, colour, hatch in _BARS:
        fill = f"repeating-linear-gradient(135deg, {colour} 0 4px, #fff 4px 5px)" if hatch else colour
        keys += [
            f"<span class='key block' style='background: {fill}'></span>map on the {words}",
            f"<span class='key line' style='border-color: {colour}'></span>{words}: area",
        ]
    return [
        f"<p class='small'>{' '.join(keys)}</p>",
        "<p class='small'>Each bar is a mean over all pictures. A map that knows nothing reaches the dotted "
        "lines: the share of the picture that animals and tag cover.</p>",
    ]


def _row(words: Sequence[str], numbers: Sequence[str], tag: str = "td", kind: str = "") -> str:
    scope = " scope='col'" if tag == "th" else ""
    cells = [f"<{tag}{scope} class='words'>{html.escape(w)}</{tag}>" for w in words]
    cells += [f"<{tag}{scope}>{n}</{tag}>" for n in numbers]
    return f"<tr{f' class={kind!r}' if kind else ''}>{''.join(cells)}</tr>"


def _accuracies(report: Report, threshold: float) -> list[str]:
    if report.shuffled is None:
        rows = [_row([name], [f"{right:.1%}"]) for name, right in report.accuracy.items()]
        return ["<table>", _row(["network"], ["right"], "th"), *rows, "</table>"]
    cards = []
    for name, right in report.accuracy.items():
        after = report.shuffled[name]
        sound = _sound(report, name, threshold)
        words = "does not depend on the tag" if sound else "depends on the tag"
        cards += [
            f"<div class='card {'sound' if sound else 'unsound'}'>",
            f"<h3>{html.escape(name)} {words}</h3>",
            f"<p>Right on <b>{right:.1%}</b> of the pictures as the shop is, and on <b>{after:.1%}</b> with "
            f"the price tags shuffled: {max(right - after, 0) * 100:.1f} points lost.</p></div>",
        ]
    return [
        "<div class='cards'>",
        *cards,
        "</div>",
        "<p class='small'>Shuffled: in each picture hangs the tag of any species, drawn at random. Up to "
        f"{threshold * 100:g} points lost count as not depending on the tag.</p>",
    ]


def _findings(report: Report, asks: Mapping[str, str]) -> list[str]:
    names, table = list(report.accuracy), report._by_method()
    spans = "".join(f"<th scope='colgroup' colspan='{len(names)}'>{words}</th>" for words, *_ in _MEASURES)
    heads = [html.escape(name) for name in names] * len(_MEASURES)
    rows = [f"<tr class='over'><td></td>{spans}</tr>", _row(["method"], heads, "th")]
    for method, found in table.items():
        values = [(getattr(found[name], key), form) for *_, key, form in _MEASURES for name in names]
        rows.append(_row([method], ["–" if v is None else format(v, form) for v, form in values]))
    even = {"on_animal": report.animal_area, "on_tag": report.tag_area, "pointed": report.animal_area}
    chance = [format(even[key], form) if key in even else "" for *_, key, form in _MEASURES for _ in names]
    rows.append(_row(["a map that knows nothing"], chance, kind="last"))
    asked = [f"<dt>{html.escape(m)}</dt><dd>{html.escape(asks[m])}</dd>" for m in table if m in asks]
    without = {m: [name for name, f in found.items() if f.on_animal is None] for m, found in table.items()}
    missing = [
        f"{html.escape(method)} is not defined for {html.escape(_listed(who))}."
        for method, who in without.items()
        if who
    ]
    return [
        "<div class='scroll'><table>",
        *rows,
        "</table></div>",
        f"<p class='small'>{' '.join(missing)}</p>" if missing else "",
        "<dl class='small'>",
        *asked,
        "<dt>on the animals, on the tag</dt><dd>The part of the map's positive values inside the true "
        "outline.</dd>",
        "<dt>points at an animal</dt><dd>In how many pictures the map's highest value lies on one.</dd>",
        "<dt>left after deletion</dt><dd>The mean probability of the right answer while the map's brightest "
        "pixels are greyed first, from none to all. A map that finds what the network uses leaves "
        "little.</dd>",
        "</dl>",
    ]
