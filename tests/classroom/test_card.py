"""The card of the embedded networks: what it measures, and that the committed one belongs to the files."""

import hashlib
import re

import pytest
import torch

from lecture7_utils.classroom import card as module
from lecture7_utils.classroom.card import card, localisation, main
from lecture7_utils.shop.adversarial import write_generator
from lecture7_utils.shop.decoders import GENERATORS, Generator
from lecture7_utils.shop.petnet import NAMES, WEIGHTS, PetNet, checksum, load_petnet
from lecture7_utils.shop.scenes import Scenes
from lecture7_utils.shop.training import CHOICE_SEED, TEST_SEED, accuracy, write_weights


class _Oracle(PetNet):
    """Its features are the animals' masks themselves, looked up by the picture."""

    def features(self, images):
        return torch.stack([self.known[_key(image)] for image in images]) * 1.0


def _key(image) -> bytes:
    """The picture's own bytes, whatever memory format it comes in."""
    return image.contiguous().numpy().tobytes()


def _oracle(*batches) -> PetNet:
    net = PetNet(blocks=((1,), (1,)), size=64, average=True)
    del net.features
    net.__class__ = _Oracle
    net.known = {_key(image): m for b in batches for image, m in zip(b.images, b.masks, strict=True)}
    net.classifier.weight.data.fill_(1.0)
    return net


def test_localisation_measures_boxes_and_their_baselines():
    batches = [
        Scenes(n, seed=seed, size=64).batch(range(n)) for n, seed in ((24, TEST_SEED), (12, CHOICE_SEED))
    ]
    net = _oracle(*batches)
    with pytest.MonkeyPatch.context() as patch:
        # the oracle has no gradient: its saliency is noise
        noise = torch.Generator().manual_seed(1)
        patch.setattr(module, "saliency_map", lambda _net, x, _c: torch.rand(len(x), 64, 64, generator=noise))
        found = localisation(net, 24, 12)
    assert found["class activation map"] >= 0.95  # a tag may cut an animal in two
    assert found["saliency map, as many pixels"] < found["class activation map"]
    truth = batches[0].boxes[:, 0]
    whole = (truth[:, 2:] - truth[:, :2]).prod(1) / 64**2
    assert found["the whole picture"] == pytest.approx(float((whole >= 0.5).double().mean()))
    assert found["the best constant box"] >= found["a centred box of the mean size"]
    assert found["the best constant box"] >= found["the whole picture"]
    assert found["threshold"] in module.THRESHOLDS


def test_boxes_of_an_area_keep_that_many_pixels():
    maps = torch.rand(20, 9, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    area = torch.randint(1, 99, (20,), generator=torch.Generator().manual_seed(3))
    for values, n, box in zip(maps, area, module._boxes_of_area(maps, area), strict=True):
        kept = torch.zeros(99, dtype=torch.bool)
        kept[values.flatten().argsort(descending=True)[:n]] = True
        x1, y1, x2, y2 = box.long().tolist()
        inside = torch.zeros(9, 11, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        rows, columns = (kept.view(9, 11) & inside).nonzero(as_tuple=True)
        tight = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert tight == [x1, y1, x2, y2]


def test_the_card_says_what_was_measured(tmp_path, monkeypatch, capsys):
    for seed, name in enumerate(NAMES):
        write_weights(PetNet(blocks=((2,), (3,)), seed=seed, average=name == "petnet_gap"),
                      tmp_path / f"{name}.safetensors")  # fmt: skip
    for name in GENERATORS:
        write_generator(Generator(7, latent=6, widths=(4, 4, 4, 4)), tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(
        module, "localisation", lambda net, count: {"threshold": 0.2, "on other scenes": 0.5, "x": 0.25}
    )
    few = ["--scenes", "16", "--boxes", "7", "--samples", "16", "--known", "24"]
    assert main(["--folder", str(tmp_path), *few]) == 0
    assert "CARD.md written" in capsys.readouterr().out
    text = (tmp_path / "CARD.md").read_text(encoding="utf-8")
    assert text == card(tmp_path, count=16, boxes=7, samples=16, known=24, progress=False)
    assert "| x | 25.0% |" in text
    for name in (*NAMES, *GENERATORS):
        data = (tmp_path / f"{name}.safetensors").read_bytes()
        assert hashlib.sha256(data).hexdigest() in text
    net = module.read_weights(tmp_path / "petnet_shortcut.safetensors")
    followed = accuracy(net, Scenes(16, seed=TEST_SEED, animals=(1, 3), tag_follows_species=1.0))
    assert re.search(rf"\| petnet_shortcut \| {followed:.1%} \|", text)
    (tmp_path / "CARD.md").unlink()
    assert main(["--folder", str(tmp_path), *few, "--print"]) == 0
    assert capsys.readouterr().out.strip() == text.strip()
    assert not (tmp_path / "CARD.md").exists()


def test_the_committed_card_belongs_to_the_files():
    text = (WEIGHTS / "CARD.md").read_text(encoding="utf-8")
    total = 0
    for name in (*NAMES, *GENERATORS):
        data = (WEIGHTS / f"{name}.safetensors").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert checksum(name) == digest
        assert re.search(rf"{name}\.safetensors \| `{digest}` \| {len(data):,} \|", text)
        total += len(data)
    assert total < 5_000_000


@pytest.mark.slow
def test_the_figures_that_the_course_stands_on():
    """On other scenes than the card's, less what chance does to this many."""
    text = (WEIGHTS / "CARD.md").read_text(encoding="utf-8")

    def said(pattern: str) -> list[float]:
        return [float(value) for value in re.search(pattern, text).groups()]

    followed, shuffled = said(r"\| petnet \| ([\d.]+)% \| ([\d.]+)% \|")
    short_followed, short_shuffled = said(r"\| petnet_shortcut \| ([\d.]+)% \| ([\d.]+)% \|")
    assert min(followed, short_followed) >= 97
    assert abs(followed - short_followed) <= 1
    assert shuffled >= 95
    assert short_shuffled < 50
    (right,) = said(r"\| class activation map \| ([\d.]+)% \|")
    (constant,) = said(r"\| the best constant box \| ([\d.]+)% \|")
    assert right >= 80
    assert constant <= 35
    found = localisation(load_petnet("petnet_gap"), 200, 100)
    assert found["class activation map"] >= 0.73
