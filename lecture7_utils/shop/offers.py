"""The two offers of lesson 9: two of the shop's networks under letters that do not tell how they learned."""

import hashlib

import torch

from lecture7_utils.shop.models import Classifier, load_model

LETTERS = ("A", "B")
_NETWORKS = ("petnet", "petnet_shortcut")


def offers(device: str | torch.device = "auto") -> dict[str, Classifier]:
    """The two offers of lesson 9: {"A": `Classifier`, "B": `Classifier`}, in eval mode.

    One is `load_model("petnet")`, in whose training any tag hung beside any animal, the other
    `load_model("petnet_shortcut")`, in whose training the tag was always the animal's own. Which is which is
    the lesson's question: the letters are the same on every machine, and `.name` is the letter alone.
    device: as in `load_model`. Raises what `load_model` raises.
    """
    found = {}
    for letter, name in zip(LETTERS, sorted(_NETWORKS, key=_lot), strict=True):
        net = load_model(name, device)
        net.name = letter
        found[letter] = net
    return found


def _lot(name: str) -> bytes:
    """An order that is always the same, and that nobody can read off these lines."""
    return hashlib.sha256(f"{name} in a sealed envelope".encode()).digest()
