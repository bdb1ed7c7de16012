"""The two offers of lesson 9, and turning a classifier's flatten head into a global average."""

import pytest
import torch
from torch import nn

import lecture7_utils as l7
from lecture7_utils.shop import models
from lecture7_utils.shop.models import Classifier, load_model
from lecture7_utils.shop.offers import offers
from lecture7_utils.shop.petnet import PetNet, fit_head, to_global_average_pooling
from lecture7_utils.shop.scenes import SPECIES, Scenes
from tests.guards import refuses, unchanged


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_the_offers_are_the_two_networks_each_once():
    found = offers("cpu")
    assert list(found) == ["A", "B"]
    known = {name: load_model(name, "cpu") for name in ("petnet", "petnet_shortcut")}
    origin = {letter: [n for n, other in known.items() if same(net, other)] for letter, net in found.items()}
    assert sorted(origin.values()) == [["petnet"], ["petnet_shortcut"]]
    assert not any(module.training for net in found.values() for module in net.modules())


def test_an_offer_does_not_say_which_it_is():
    for letter, net in l7.offers("cpu").items():
        assert isinstance(net, Classifier)
        assert net.name == letter
        for text in (repr(net), str(net.layers()), type(net).__name__):
            assert "petnet" not in text.lower()
            assert "shortcut" not in text.lower()
        assert net.categories == SPECIES


def test_the_letters_are_the_same_every_time(monkeypatch):
    first = offers("cpu")
    again = offers("cpu")
    assert all(same(first[letter], again[letter]) for letter in first)
    # they hang on the names alone: other weights keep their letters
    asked = []

    def other(name, device):
        asked.append(name)
        return models.Classifier(PetNet(seed=len(asked)), SPECIES, lambda image: image)

    monkeypatch.setattr("lecture7_utils.shop.offers.load_model", other)
    offers("cpu")
    letters = dict(zip(first, asked, strict=True))
    assert all(same(first[letter], load_model(name, "cpu")) for letter, name in letters.items())


def test_a_device_that_is_not_here_is_refused():
    refuses("device", offers, "nowhere")


def small(average: bool = False) -> Classifier:
    network = PetNet(blocks=((4,), (6,)), size=64, average=average, seed=1).eval()
    return Classifier(network, SPECIES, load_model("petnet", "cpu").__dict__["_preprocess"], "small")


def test_a_classifier_is_converted_as_its_network_is():
    net = small()
    with unchanged(net):
        converted = to_global_average_pooling(net, seed=2)
    assert isinstance(converted, Classifier)
    assert converted.name == "small, averaged"
    assert converted.categories == net.categories
    assert same(converted, to_global_average_pooling(net.__dict__["_network"], seed=2))
    image = Scenes(1)[0].image
    assert torch.equal(converted.preprocess(image), net.preprocess(image))
    images = torch.rand(2, 3, 64, 64)
    assert l7.class_activation_map(converted, images, 0).shape == (2, 64, 64)
    refuses("net", to_global_average_pooling, converted, says="global average")


def test_a_classifiers_head_is_fitted_as_its_networks_is():
    data = Scenes(24, size=64)
    nets = [to_global_average_pooling(small()) for _ in range(2)]
    fits = [fit_head(net, data, epochs=3, progress=False) for net in (nets[0], nets[1].__dict__["_network"])]
    assert fits[0] == fits[1]
    assert same(*nets)
    assert same(nets[0].features, small().features)


@pytest.mark.parametrize("convert", [to_global_average_pooling, lambda net: fit_head(net, Scenes(4))])
def test_a_classifier_of_another_network_is_refused(convert):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8))
    refuses("net", convert, Classifier(network, SPECIES, lambda image: image), says="expected a PetNet")
