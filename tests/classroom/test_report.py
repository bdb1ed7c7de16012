"""The manager's report: its numbers against slow ones, what it refuses, the page that it makes."""

import math
import re
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import lecture7_utils as l7
from lecture7_utils.classroom.report import METHODS, Finding, _accuracies, _advice, managers_report
from lecture7_utils.shop.samples import Sample

matplotlib.use("Agg")
SIDE = 24
PREPARE = v2.Compose(
    [
        v2.Resize((SIDE, SIDE)),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.25] * 3),
    ]
)


def samples(count: int, seed: int) -> list[Sample]:
    """Noise with a bright square for an animal and, in all but the first, a small one for a tag."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        image = torch.rand(3, SIDE, SIDE, generator=g) * 0.3
        y, x = torch.randint(0, SIDE - 10, (2,), generator=g).tolist()
        mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
        mask[0, y : y + 9, x : x + 9] = True
        tag = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        if k:
            tag[0:4, 0:5] = True
        label = int(torch.randint(0, 3, (1,), generator=g))
        image[label][mask[0]] = 1.0
        box = torch.tensor([[x, y, x + 9.0, y + 9.0]])
        made.append(Sample(image, label, mask, box, torch.tensor([label]), tag, f"square {k}"))
    return made


class ColourNet(nn.Module):
    """Scores are the mean colours: it looks at whatever is coloured."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.features[0].bias.zero_()
            self.head.weight.copy_(20 * torch.eye(3))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(self.pool(self.features(x)).flatten(1))


def flat_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE * SIDE, 3)
    )


@pytest.fixture
def classifiers():
    return {
        name: l7.load_model(net, categories=("red", "green", "blue"), preprocess=PREPARE)
        for name, net in (("sound <1>", ColourNet()), ("flat", flat_net()))
    }


@pytest.fixture
def report(classifiers):
    return managers_report(
        classifiers, samples(5, 0), shuffled=samples(5, 1), count=5, batch=2, deletion_steps=4
    )


def test_numbers_against_a_plain_loop(classifiers, report):
    net, data = classifiers["sound <1>"], samples(5, 0)
    images = torch.cat([net.preprocess(s.image) for s in data])
    labels = [s.label for s in data]
    right = [net.top(x[None], 1)[0][0].index == c for x, c in zip(images, labels, strict=True)]
    assert report.accuracy["sound <1>"] == pytest.approx(sum(right) / 5)
    on_animal, on_tag, pointed = [], [], []
    for x, s in zip(images, data, strict=True):
        heat = l7.saliency_map(net, x[None], s.label)[0]
        on_animal.append(float(heat[s.mask].sum() / heat.sum()))
        if s.tag_mask.any():
            on_tag.append(float(heat[s.tag_mask].sum() / heat.sum()))
        pointed.append(bool(s.mask.flatten()[heat.flatten().argmax()]))
    found = next(f for f in report.findings if f.classifier == "sound <1>" and f.method == "saliency")
    assert found.on_animal == pytest.approx(sum(on_animal) / 5, abs=1e-5)
    assert found.on_tag == pytest.approx(sum(on_tag) / 4, abs=1e-5)
    assert found.pointed == pytest.approx(sum(pointed) / 5)
    assert report.animal_area == pytest.approx(81 / SIDE**2)
    assert report.tag_area == pytest.approx(4 / 5 * 20 / SIDE**2)


def test_each_picture_has_its_own_numbers(report):
    found = report.finding("flat", "SmoothGrad")
    assert set(found.each) == {"on_animal", "on_tag", "pointed", "deletion"}
    assert all(len(values) == 5 for values in found.each.values())
    for name in ("on_animal", "pointed", "deletion"):
        assert sum(found.each[name]) / 5 == pytest.approx(getattr(found, name), abs=1e-6)
    # the first picture has no tag
    assert math.isnan(found.each["on_tag"][0])
    assert sum(found.each["on_tag"][1:]) / 4 == pytest.approx(found.on_tag, abs=1e-6)
    assert report.finding("flat", "CAM").each == {}
    with pytest.raises(ValueError, match=r"expected .*'flat' and 'CAM'.*, got 'flat' and 'X-ray'"):
        report.finding("flat", "X-ray")


def test_the_figure_shows_every_finding(report):
    figure = report.plot()
    assert [ax.get_title() for ax in figure.axes] == ["sound <1>", "flat"]
    for ax in figure.axes:
        rows = [f for f in report.findings if f.classifier == ax.get_title() and f.on_animal is not None]
        widths = [patch.get_width() for patch in ax.patches]
        assert widths == pytest.approx([100 * f.on_animal for f in rows] + [100 * f.on_tag for f in rows])
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]  # both panels share it
        assert labels == list(METHODS)
        # each bar lies beside its method's name
        assert [labels[round(patch.get_y() + patch.get_height() / 2)] for patch in ax.patches] == [
            f.method for f in rows
        ] * 2
        assert [text.get_text() for text in ax.texts].count("not defined") == len(labels) - len(rows)
    plt.close(figure)


def test_a_map_that_knows_the_truth_scores_one(classifiers):
    data = samples(4, 2)
    net = classifiers["sound <1>"]
    masks = {tuple(net.preprocess(s.image).flatten()[:6].tolist()): s.mask for s in data}

    def truth(_model, images, _classes):
        return torch.stack([masks[tuple(x.flatten()[:6].tolist())].float() for x in images])

    (found,) = managers_report({"net": net}, data, count=4, methods={"truth": truth}).findings
    assert (found.on_animal, found.pointed) == (1.0, 1.0)


def test_masks_go_the_way_of_the_images():
    """A preprocessing that crops and scales must crop and scale the truth as well."""
    prepare = v2.Compose([v2.CenterCrop(12), v2.Resize((SIDE, SIDE)), PREPARE])
    net = l7.load_model(ColourNet(), categories=("red", "green", "blue"), preprocess=prepare)
    sample = samples(1, 3)[0]
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[0, 6:12, 6:18] = True  # the upper half of the middle 12 × 12
    sample = Sample(
        sample.image, 0, mask, torch.tensor([[6.0, 6, 18, 12]]), torch.tensor([0]), sample.tag_mask, "s"
    )

    def even(_model, images, _classes):
        return torch.ones_like(images[:, 0])

    result = managers_report({"net": net}, [sample], count=1, methods={"even": even})
    assert result.animal_area == pytest.approx(0.5, abs=0.03)
    assert result.findings[0].on_animal == pytest.approx(result.animal_area, abs=1e-6)


def test_every_method_has_a_row_or_says_why_not(report):
    assert {(f.classifier, f.method) for f in report.findings} == {
        (c, m) for c in ("sound <1>", "flat") for m in METHODS
    }
    missing = [f for f in report.findings if f.on_animal is None]
    assert [(f.classifier, f.method) for f in missing] == [("flat", "CAM")]
    assert "global average" in missing[0].why
    assert "CAM: not defined for flat" in str(report)
    for f in report.findings:
        if f.on_animal is not None:
            assert all(0 <= v <= 1 for v in (f.on_animal, f.on_tag, f.pointed, f.deletion))


def test_scenes_are_drawn_once_whatever_the_number_of_classifiers(classifiers):
    asked = []

    class Drawn(list):
        def __getitems__(self, positions):
            asked.extend(positions)
            return [self[k] for k in positions]

    data = samples(5, 0)
    one_by_one = managers_report(classifiers, data, count=5, methods={"saliency": l7.saliency_map}, batch=2)
    at_once = managers_report(
        classifiers, Drawn(data), count=5, methods={"saliency": l7.saliency_map}, batch=2
    )
    assert asked == [0, 1, 2, 3, 4]
    assert [f.on_animal for f in at_once.findings] == [f.on_animal for f in one_by_one.findings]


def test_text_has_a_row_for_each_method_and_a_column_for_each_classifier(report):
    head, names, *rows = str(report).splitlines()
    assert re.split(r"\s{2,}", head.strip()) == [
        "on the animal",
        "on the tag",
        "pointing game",
        "deletion area",
    ]
    assert names.split() == ["sound", "<1>", "flat"] * 4
    found = next(f for f in report.findings if f.classifier == "flat" and f.method == "saliency")
    row = next(row for row in rows if row.startswith("saliency")).split()
    assert row[2::2] == [
        f"{found.on_animal:.0%}", f"{found.on_tag:.0%}", f"{found.pointed:.0%}", f"{found.deletion:.2f}"
    ]  # fmt: skip
    cam = next(row for row in rows if row.startswith("CAM "))
    assert cam.split()[2::2] == ["-"] * 4
    assert max(map(len, (head, names, *rows))) <= 110


def test_a_long_name_keeps_the_columns(classifiers):
    made = {"the gradient of the score": l7.saliency_map, "saliency": l7.saliency_map}
    made_of = managers_report(classifiers, samples(2, 0), count=2, methods=made, deletion_steps=1)
    _, names, *rows = str(made_of).splitlines()
    assert len(names) == len(rows[0]) == len(rows[1])
    assert rows[0].startswith("the gradient of the score ")


@pytest.mark.parametrize(("lost", "words"), [(0.02, "does not depend"), (0.04, "depends on the tag")])
def test_the_threshold_decides_what_the_page_says(report, lost, words):
    changed = replace(report, accuracy={"net": 0.9}, shuffled={"net": 0.9 - lost})
    page = "\n".join(_accuracies(changed, 0.03))
    assert f"net {words}" in page
    assert f"{lost * 100:.1f} points lost" in page


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"a": 0.89, "b": 0.2}, "use <b>a</b>. Do not use <b>b</b>: it reads the price tag."),
        ({"a": 0.3, "b": 0.88}, "use <b>b</b>. Do not use <b>a</b>: it reads the price tag."),
        ({"a": 0.3, "b": 0.2}, "do not use <b>a and b</b> as they are: they read the price tag."),
        ({"a": 0.9, "b": 0.95}, "the answers of <b>a and b</b> do not depend on the price tag."),
        ({"<c>": 0.2}, "do not use <b>&lt;c&gt;</b> as it is: it reads the price tag."),
        ({"c": 0.9}, "the answers of <b>c</b> do not depend on the price tag."),
    ],
)
def test_the_advice_follows_from_the_shuffled_tags(report, after, words):
    changed = replace(report, accuracy=dict.fromkeys(after, 0.9), shuffled=after)
    assert _advice(changed, 0.03) == [f"<p class='advice'>Our advice: {words}</p>"]


def test_methods_of_your_own_say_what_they_ask(classifiers):
    made = {"even": lambda _model, images, _classes: images[:, 0] * 0 + 1, "saliency": l7.saliency_map}
    page = managers_report(
        classifiers, samples(2, 0), count=2, methods=made, asks={"even": "What if x < y?"}, deletion_steps=1
    ).html
    assert "<dt>even</dt><dd>What if x &lt; y?</dd>" in page
    assert "<dt>saliency</dt><dd>Where would a small change" in page
    assert "not defined" not in page


def test_without_shuffled_pictures_the_page_gives_no_verdict(classifiers):
    page = managers_report(classifiers, samples(2, 0), count=2, deletion_steps=1).html
    assert "depend" not in page
    assert "shuffled" not in page


def test_the_page_stands_alone(report, tmp_path):
    path = report.save(tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert page == report.html
    assert not re.search(r"""(?:src|href)=['"](?!data:)""", page)
    assert "http" not in page
    assert "sound &lt;1&gt;" in page
    assert "sound <1>" not in page
    assert page.count("<img alt=") == 4
    for name, right in report.accuracy.items():
        assert f"{right:.1%}" in page
        assert f"{report.shuffled[name]:.1%}" in page


def test_models_and_random_states_are_left_alone(classifiers):
    net = classifiers["flat"].train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()

    def broken(model, images, classes):
        model.eval()
        try:
            raise KeyboardInterrupt
        finally:
            model.train()

    with pytest.raises(KeyboardInterrupt):
        managers_report({"net": net}, samples(2, 0), count=2, methods={"broken": broken})
    managers_report({"net": net}, samples(2, 0), count=2, deletion_steps=2)
    assert all(m.training for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"classifiers": []}, TypeError, "classifiers: expected a dict"),
        ({"classifiers": {"a": nn.Linear(1, 1)}}, TypeError, "classifiers: expected a dict"),
        ({"classifiers": {}}, ValueError, "classifiers: expected at least one"),
        ({"samples": 3}, TypeError, "samples: expected a sequence"),
        ({"samples": []}, ValueError, "samples: expected at least count"),
        ({"shuffled": samples(1, 0)}, ValueError, "shuffled: expected at least count"),
        ({"count": 0}, ValueError, "count: expected at least 1"),
        ({"count": 2.5}, TypeError, "count: expected an int"),
        ({"batch": 0}, ValueError, "batch: expected at least 1"),
        ({"methods": {}}, TypeError, "methods: expected a dict"),
        ({"methods": {"a": 1}}, TypeError, "methods: expected a dict"),
        ({"asks": {"a": 1}}, TypeError, "asks: expected a dict"),
        ({"asks": "why"}, TypeError, "asks: expected a dict"),
        ({"deletion_steps": 0}, ValueError, "deletion_steps: expected at least 1"),
        ({"threshold": 2}, ValueError, "threshold: expected between 0 and 1"),
    ],
)
def test_bad_arguments(classifiers, change, kind, words):
    good = {"classifiers": classifiers, "samples": samples(2, 0), "count": 2}
    arguments = good | change
    positional = [arguments.pop(name) for name in ("classifiers", "samples")]
    with pytest.raises(kind, match=words):
        managers_report(*positional, **arguments)


def test_finding_without_numbers_is_a_finding():
    assert Finding("a", "b", why="c").on_animal is None
