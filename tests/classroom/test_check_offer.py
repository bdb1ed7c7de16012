"""Exercise 9a judges a network by what it does when another tag hangs in the photo."""

import re

import pytest
import torch
from torch import nn

from lecture7_utils.classroom.checks import check
from lecture7_utils.shop.models import Classifier, load_model
from lecture7_utils.shop.scenes import SPECIES
from tests.guards import unchanged


class Always(nn.Module):
    """Gives the same answer whatever it sees: no tag ever changes it."""

    def forward(self, images):
        return torch.arange(float(len(SPECIES))).expand(len(images), -1)


def _offer(network: nn.Module, categories=SPECIES) -> Classifier:
    """A network under other names, or in another order of classes, with PetNet's preprocessing."""
    return Classifier(network, categories, load_model("petnet", "cpu").__dict__["_preprocess"])


class Turned(nn.Module):
    """PetNet with its classes in the opposite order."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).flip(1)


def test_the_network_that_looks_at_the_animal_passes(capsys):
    net = load_model("petnet", "cpu").train()
    with unchanged(net):
        assert check("9a", net).ok is True
    printed = capsys.readouterr().out
    assert printed.startswith("9a  ✓ ")
    # the lesson's last section tells which offer is which, the check does not
    assert not re.search(r"\b[AB]\b|petnet", printed)


def test_the_order_of_the_classes_is_the_networks_own():
    assert check("9a", _offer(Turned(load_model("petnet", "cpu")), SPECIES[::-1])).ok is True


WRONG = [
    (lambda: load_model("petnet_shortcut", "cpu"), r"changes \d+ of its \d+ right answers"),
    (lambda: _offer(Always()), "neither of the two offers"),
    (lambda: _offer(Turned(load_model("petnet", "cpu"))), "neither of the two offers"),
    (lambda: _offer(Always(), [f"breed {k}" for k in range(8)]), "doesn't know the shop's animals"),
    (lambda: "A", r"expected one of the two networks itself, offers\['A'\] or offers\['B'\], got 'A'"),
    (lambda: {"A": load_model("petnet", "cpu")}, "expected one of the two networks itself"),
    (lambda: load_model, "expected one of the two networks itself"),
    (lambda: load_model("petnet", "cpu").__dict__["_network"], "expected one of the two networks itself"),
]


@pytest.mark.parametrize(("answer", "says"), WRONG)
def test_a_wrong_answer_is_told_why(answer, says):
    verdict = check("9a", answer())
    assert verdict.ok is False
    assert re.search(says, verdict.message), verdict.message


@pytest.mark.parametrize("stub", [None, ...])
def test_without_a_choice_it_is_not_yet(stub, capsys):
    assert check("9a", stub).ok is None
    assert capsys.readouterr().out.startswith("9a  Not yet: ")
