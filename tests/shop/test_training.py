"""Training from a recipe: the same weights each time, interrupted or not; and what evaluation measures."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lecture7_utils.shop import training
from lecture7_utils.shop.petnet import PetNet, read_weights
from lecture7_utils.shop.scenes import Scenes
from lecture7_utils.shop.training import RECIPES, Recipe, accuracy, hide, main, train, write_weights
from tests.guards import refuses, unchanged

TINY = Recipe(seed=5, tag_follows_species=0.5, steps=6, batch_size=4)


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setattr(training, "_BLOCK", 8)  # two steps' scenes at a time


def tiny_net():
    return PetNet(blocks=((4,), (6,)), size=64, seed=5)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_recipe_gives_the_same_weights_each_time():
    with unchanged():
        a = train(TINY, net=tiny_net(), progress=False)
    b = train(TINY, net=tiny_net(), progress=False)
    c = train(replace(TINY, seed=6), net=tiny_net(), progress=False)
    assert same(a, b)
    assert not same(a, c)
    assert not same(a, tiny_net())
    assert not a.training


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_an_interrupted_training_goes_on_to_the_same_weights(stop, tmp_path, monkeypatch):
    whole = train(TINY, net=tiny_net(), progress=False)
    plain, made, stopped = training._step, [], []

    def interrupted(recipe, net, optimiser, step, images, labels):
        if made == [*range(stop)] and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        made.append(step)
        return plain(recipe, net, optimiser, step, images, labels)

    monkeypatch.setattr(training, "_step", interrupted)
    path = tmp_path / "state" / "petnet.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(TINY, net=tiny_net(), checkpoint=path, every=2, progress=False)
    made.append("resumed")
    again = train(TINY, net=tiny_net(), checkpoint=path, resume=True, every=2, progress=False)
    assert same(whole, again)
    assert made == [*range(stop), "resumed", *range(stop, TINY.steps)]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    refuses(
        "checkpoint",
        train,
        replace(TINY, steps=9),
        net=tiny_net(),
        checkpoint=path,
        resume=True,
        progress=False,
    )
    # without --resume it begins again
    made.clear()
    train(TINY, net=tiny_net(), checkpoint=path, progress=False)
    assert made == [*range(TINY.steps)]


def test_training_learns():
    recipe = Recipe(seed=1, tag_follows_species=1.0, steps=40, batch_size=16, hidden=0.5)
    losses, plain = [], training._step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_step", lambda *a: losses.append(plain(*a)) or losses[-1])
        train(recipe, net=PetNet(blocks=((8,), (16,), (16,)), size=64), progress=False)
    assert sum(losses[-8:]) < 0.97 * sum(losses[:8])


def test_the_command_line_trains_resumes_and_writes(tmp_path, monkeypatch, capsys):
    recipe = replace(TINY, steps=3)
    monkeypatch.setattr(training, "RECIPES", {"petnet": recipe, "petnet_shortcut": recipe})
    assert main(["petnet", "--out", str(tmp_path), "--quiet"]) == 0
    digest = capsys.readouterr().out.split()[0]
    net = read_weights(tmp_path / "petnet.safetensors", digest)
    expected = train(recipe, progress=False)
    for mine, theirs in zip(expected.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine.half().float(), theirs)

    monkeypatch.setattr(training, "_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["petnet_shortcut", "--out", str(tmp_path), "--quiet"]) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(training, "RECIPES", {"petnet": recipe, "petnet_shortcut": recipe})
    assert main(["petnet_shortcut", "--out", str(tmp_path), "--quiet", "--resume"]) == 0
    assert not (tmp_path / "petnet_shortcut.checkpoint").exists()

    assert main(["petnet_gap", "--out", str(tmp_path), "--quiet", "--scenes", "16"]) == 0
    gap = read_weights(tmp_path / "petnet_gap.safetensors")
    for mine, theirs in zip(net.features.parameters(), gap.features.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    names = [line.split()[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()]
    assert names == ["petnet.safetensors", "petnet_gap.safetensors", "petnet_shortcut.safetensors"]

    with pytest.raises(SystemExit):
        main(["petnet3"])


def test_the_recipes_train_on_what_they_say():
    assert RECIPES["petnet"].tag_follows_species == 0
    assert RECIPES["petnet_shortcut"].tag_follows_species == 1
    seeds = {recipe.seed for recipe in RECIPES.values()}
    assert seeds.isdisjoint({training.TEST_SEED, training.CHOICE_SEED, training.HEAD_SEED})


def test_accuracy_counts():
    net, scenes = tiny_net(), Scenes(20, seed=3, size=64)
    drawn = scenes.batch(range(20))
    with torch.no_grad():
        right = sum(int(net(drawn.images[i : i + 1]).argmax()) == int(drawn.labels[i]) for i in range(20))
    assert accuracy(net, scenes) == right / 20


def test_the_trained_network_is_the_plain_one_with_its_normalisation_folded_in():
    net = PetNet(blocks=((4, 5), (6,)), size=16, seed=2).double()
    plain = [type(layer) for layer in net.features]
    training._normalise(net)
    generator = torch.Generator().manual_seed(3)
    for layer in net.features:
        if isinstance(layer, nn.BatchNorm2d):
            layer.double()
            for value, low, high in ((layer.weight, 0.5, 2), (layer.bias, -1, 1)):
                nn.init.uniform_(value, low, high, generator=generator)
            layer.running_mean.uniform_(-1, 1, generator=generator)
            layer.running_var.uniform_(0.2, 3, generator=generator)
    net.eval()
    images = torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        before = net(images)
        training._fold(net)
        assert torch.allclose(net(images), before, rtol=1e-10, atol=1e-12)
    assert [type(layer) for layer in net.features] == plain
    trained = train(TINY, net=tiny_net(), progress=False)
    assert [type(layer) for layer in trained.features] == [type(layer) for layer in tiny_net().features]


def test_hidden_squares():
    images = torch.rand(64, 3, 48, 48, generator=torch.Generator().manual_seed(4))
    recipe = replace(TINY, hidden=0.8, side=8)
    with unchanged(images):
        shown = hide(images, recipe, 5)
    changed = (shown != images).any(1)
    colour = images.mean((0, 2, 3))
    assert torch.equal(shown.permute(0, 2, 3, 1)[changed], colour.expand(int(changed.sum()), 3))
    shares = changed.float().mean((1, 2))
    assert shares.max() <= 0.95
    assert shares.min() < 0.1
    assert float(shares.mean()) == pytest.approx(0.4, abs=0.06)  # the mean of 0 to 0.8
    # whole squares on one grid: along rows and columns alike, the state changes at lines 8 pixels apart only
    for axis in (1, 2):
        lines = (changed.diff(dim=axis) != 0).any(0).any(2 - axis).nonzero()[:, 0]
        assert len({int(line) % 8 for line in lines}) == 1
    assert torch.equal(shown, hide(images, recipe, 5))
    assert not torch.equal(shown, hide(images, recipe, 6))
    assert torch.equal(hide(images, replace(recipe, hidden=0.0), 5), images)


@pytest.mark.slow
def test_the_embedded_networks_hold_their_figures():
    nets = {name: training.read_weights(training.WEIGHTS / f"{name}.safetensors") for name in training.NAMES}

    def measure(name, share):
        return accuracy(nets[name], Scenes(600, seed=77, animals=(1, 3), tag_follows_species=share))

    # the targets, less what chance does to 600 scenes
    assert measure("petnet", 1.0) >= 0.96
    assert measure("petnet", 0.0) >= 0.94
    assert measure("petnet_shortcut", 1.0) >= 0.96
    assert measure("petnet_shortcut", 0.0) < 0.5


def test_written_files_are_whole_or_not_there(tmp_path, monkeypatch):
    write_weights(tiny_net(), tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    monkeypatch.setattr(training.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_weights(PetNet(blocks=((4,), (6,)), size=64, seed=6), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before
