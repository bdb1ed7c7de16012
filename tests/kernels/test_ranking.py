"""A ranking as a value: joined in any order, merged, printed, kept in a file."""

import itertools
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from lecture7_utils.kernels.ranking import (
    NO_IMAGE,
    Fields,
    Hit,
    Places,
    Ranking,
    Skipped,
    covered,
    fingerprint,
    hashes_of,
)
from lecture7_utils.kernels.search import top_activations
from tests.guards import refuses, unchanged
from tests.kernels.test_search import Images, Stops, same
from tests.nets import random_images, random_net


def found(images, layer="left", k=3, seed=1, **options) -> Ranking:
    return top_activations(random_net(seed), layer, Images(images), k, **{"batch_size": 4} | options)


# ---- the order


@given(
    data=st.data(),
    channels=st.integers(1, 4),
    count=st.integers(1, 12),
    k=st.integers(1, 12),
    grouped=st.booleans(),
)
def test_the_first_of_the_candidates_are_those_of_a_plain_sort(data, channels, count, k, grouped):
    draw = random.Random(data.draw(st.integers(0, 10**6)))
    k = min(k, count)
    rows = []
    for _ in range(channels):
        numbers = draw.sample(range(30), count)
        rows.append([(draw.choice([0.0, 1.0, 2.5]), n, draw.randrange(9), n % 4) for n in numbers])
    parts = [torch.tensor([[entry[i] for entry in row] for row in rows]) for i in range(4)]
    got = Places(*parts).first(k, one_per_group=grouped)
    for c, row in enumerate(rows):
        want, seen = [], set()
        for entry in sorted(row, key=lambda e: (-e[0], e[1])):
            if not grouped or entry[3] not in seen:
                want.append(entry)
                seen.add(entry[3])
        want = want[:k]
        have = list(zip(*(part[c].tolist() for part in got), strict=True))
        assert have[: len(want)] == want
        for value, image, _, group in have[len(want) :]:
            assert (value, image, group) == (-torch.inf, NO_IMAGE, NO_IMAGE)


def test_hashes_are_spread_and_do_not_depend_on_what_is_beside_them():
    numbers = torch.arange(5000)
    one = hashes_of(numbers, 3)
    assert torch.equal(one[777:779], hashes_of(torch.tensor([777, 778]), 3))
    assert len(set(one.tolist())) == 5000
    assert int(one.min()) >= 0
    assert not (one == hashes_of(numbers, 4)).any()
    assert np.abs(np.histogram(one.numpy() / 2**63, 10, (0, 1))[0] - 500).max() < 4 * (5000 * 0.09) ** 0.5


def test_the_fingerprint_of_parts_is_not_that_of_their_sum():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("a", b"b") == fingerprint("a", "b")


def test_fields_are_kept_once_for_equal_channels():
    fields = torch.randint(0, 9, (1, 3, 4, 4)).repeat(5, 1, 1, 1)
    assert len(Fields.of(fields).tables) == 1
    fields[3] += 1
    kept = Fields.of(fields)
    assert len(kept.tables) == 2
    assert torch.equal(kept.tables[kept.table_of].long(), fields)


# ---- parts of one search


def part(images, keep, **options) -> Ranking:
    """What a process would have found that saw these batches of 4 only."""
    data = Images(images, {i: OSError("not mine") for i in range(len(images)) if i // 4 not in keep})
    ranking = top_activations(random_net(1), ["left", "stem"], data, 3, batch_size=4, **options)
    done = np.array([b in keep for b in range(-(-len(images) // 4))])
    return replace(ranking, done=done, skipped=(), count=covered(done, ranking.searched))


@pytest.mark.parametrize("grouped", [False, True])
def test_parts_join_in_any_order_and_twice(grouped):
    images = random_images(3, 22)
    options = {"sample": 9} | ({"groups": [n % 5 for n in range(22)]} if grouped else {})
    whole = top_activations(random_net(1), ["left", "stem"], Images(images), 3, batch_size=4, **options)
    parts = [part(images, keep, **options) for keep in ({0, 3}, {1, 5}, {2, 3, 4})]
    for a, b, c in itertools.permutations(parts):
        joined = a.joined(b).joined(c)
        same(joined, whole)
        same(joined.joined(a).joined(joined), whole)
        same(a.joined(b.joined(c)), whole)
    assert parts[0].joined(parts[1]).count == 14  # four batches, the last of two images
    with pytest.raises(ValueError, match="expected the same seed, 0, got 1"):
        parts[0].joined(part(images, {1}, **options | {"seed": 1}))


# ---- two data sets


@pytest.mark.parametrize("grouped", [False, True])
def test_merge_is_a_search_of_both(grouped):
    images = random_images(5, 31)
    groups = [n % 6 for n in range(31)] if grouped else None
    a = found(images[:18], layer=["left", "stem"], groups=groups and groups[:18], data="first")
    b = found(images[18:], layer=["left", "stem"], groups=groups and groups[18:], data="second")
    both = a.merge(b)
    apart = [g if n < 18 else g + 100 for n, g in enumerate(groups)] if grouped else None
    want = found(images, layer=["left", "stem"], groups=apart)
    for layer in ("left", "stem"):
        assert torch.equal(both.values(layer), want.values(layer))
        assert torch.equal(both.images(layer), want.images(layer))
        for channel in both.channels(layer):
            got = both.top(channel, layer)
            assert [h[:5] for h in got] == [h[:5] for h in want.top(channel, layer)]
            assert len({h.group for h in got}) == len(got)
        peaks = want.quantiles([0.1, 0.5, 0.9], layer)
        assert torch.allclose(both.quantiles([0.1, 0.5, 0.9], layer), peaks)
    assert (both.count, both.searched.size) == (31, 31)
    assert both.searched.data == "first + second"
    assert both.layers == ("left", "stem")


def test_merge_keeps_names_and_what_was_skipped():
    images = random_images(5, 12)
    broken = Images(images[7:], {2: OSError("torn")})
    a = found(images[:7], names=[f"a{n}" for n in range(7)])
    b = top_activations(random_net(1), "left", broken, 3, batch_size=4, names=[f"b{n}" for n in range(5)])
    both = a.merge(b)
    assert both.skipped == (Skipped(9, "b2", "OSError: torn"),)
    assert both.count == 11
    for channel in both.channels():
        for hit in both.top(channel):
            assert hit.name == (f"a{hit.image}" if hit.image < 7 else f"b{hit.image - 7}")
    third = both.merge(found(images[:3]))
    assert third.searched.size == 15
    assert third.count == 14


def test_merge_refuses_what_does_not_belong_together():
    images = random_images(5, 9)
    base = found(images)
    refuses("other", base.merge, None)
    refuses("other", base.merge, found(images, seed=2), says="the same weights")
    refuses("other", base.merge, found(images, layer="stem"), says="the same layers")
    refuses("other", base.merge, found(images, k=2), says="the same k, 3, got 2")
    refuses("other", base.merge, found(images, channels=[0]), says="the same channels")
    refuses("other", base.merge, found(images, sample=5), says="the same sample")
    refuses("other", base.merge, found(images, groups=[0] * 9), says="the same grouped")
    refuses("other", base.merge, found(random_images(0, 3, (18, 16))), says="grids|image_size")
    stream = top_activations(random_net(1), "left", iter(images), 3, batch_size=4)
    refuses("other", stream.merge, base, says="known size")
    assert base.merge(stream).count == 18


# ---- in a file


def test_a_file_gives_back_the_same(tmp_path):
    images = random_images(2, 15)
    data = Images(images, {3: OSError("tørn “file”")})
    first = top_activations(
        random_net(1), ["left", "head"], data, 4, names=[f"n {i}" for i in range(15)], channels={"left": [2]}
    )
    first.save(tmp_path / "one.safetensors")
    again = Ranking.load(str(tmp_path / "one.safetensors"))
    same(first, again)
    assert (again.date, again.layers, again.k) == (first.date, ("left", "head"), 4)
    assert str(again) == str(first)
    assert again.top(2, "left") == first.top(2, "left")
    assert again.sample(0, 0.2, 0.9, 4, "head") == first.sample(0, 0.2, 0.9, 4, "head")
    assert again.skipped[0] == Skipped(3, "n 3", "OSError: tørn “file”")
    assert [p.name for p in tmp_path.iterdir()] == ["one.safetensors"]
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        about = json.loads(file.metadata()["ranking"])
    assert about["searched"]["model"] == "RandomNet"
    assert about["searched"]["layers"] == ["left", "head"]
    assert about["searched"]["data"] == "Images"
    assert about["searched"]["k"] == 4
    assert about["count"] == 14
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["date"])


def test_the_beginning_of_a_search_in_a_file(tmp_path):
    with pytest.warns(UserWarning, match="interrupted"):
        begun = top_activations(random_net(1), "left", Stops(random_images(0, 30), 12), 3, batch_size=3)
    begun.save(tmp_path / "part")
    again = Ranking.load(tmp_path / "part")
    same(again, begun)
    assert again.done.tolist() == [True] * 3 + [False] * 7


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    ranking = found(random_images(0, 3))
    ranking.save(tmp_path / "one")
    before = (tmp_path / "one").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            ranking.save(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_what_is_no_ranking_is_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"path: expected a file that Ranking\.save wrote, got none"):
        Ranking.load(tmp_path / "missing")
    (tmp_path / "text").write_text("not a ranking")
    refuses("path", Ranking.load, tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    refuses("path", Ranking.load, tmp_path / "other")
    save_file({"a": torch.zeros(2)}, tmp_path / "newer", {"ranking": json.dumps({"format": "2"})})
    refuses("path", Ranking.load, tmp_path / "newer", says="format 2")
    ranking = found(random_images(0, 3))
    ranking.save(tmp_path / "torn")
    (tmp_path / "torn").write_bytes((tmp_path / "torn").read_bytes()[:-8])
    refuses("path", Ranking.load, tmp_path / "torn")


# ---- reading and printing


def test_it_prints_as_a_table():
    ranking = found(random_images(0, 4), layer=["stem", "left"], k=5, channels={"stem": [1, 0]}, data="four")
    text = str(ranking)
    assert text == repr(ranking)
    lines = text.split("\n")
    assert lines[0] == "RandomNet: top 5 of 4 images of four"
    at = lines.index(next(line for line in lines if line.startswith("stem")))
    assert lines[at] == "stem, 2 channels of {} × {}: value (image)".format(*ranking.searched.grids[0])
    assert lines[at + 1].split() == ["channel", "1.", "2.", "3.", "4.", "5."]
    hits = ranking.top(1, "stem")
    assert lines[at + 2].split() == [
        "1",
        *(t for h in hits for t in (f"{h.value:.3g}", f"(#{h.image})")),
        "–",
    ]
    assert max(map(len, lines)) < 110


def test_a_long_table_is_cut():
    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 30, 1)

        def forward(self, x):
            return self.conv(x)

    text = str(top_activations(Wide(), "conv", torch.rand(1, 3, 4, 4), 1))
    assert text.endswith("\n… 10 more channels")
    assert "top 1 of 1 image of Tensor" in text


def test_a_layer_has_to_be_named_where_there_are_several():
    ranking = found(random_images(0, 4), layer=["stem", "left"])
    for read in (ranking.values, ranking.images, ranking.channels):
        refuses("layer", read, says="one of 'stem', 'left', got None")
        refuses("layer", read, "body")
    refuses("layer", ranking.top, 0)
    refuses("layer", ranking.quantiles, 0.5)
    refuses("layer", ranking.sample, 0, 0.1, 0.2)
    for wrong in (-1, 99, 0.5, "0", True):
        refuses("channel", ranking.top, wrong, "stem")
    hit = ranking.top(0, "stem")[0]
    assert isinstance(hit, Hit)
    assert hit.name == ""


def test_no_random_state_is_touched(tmp_path):
    ranking = found(random_images(0, 6))
    with unchanged():
        ranking.save(tmp_path / "x")
        Ranking.load(tmp_path / "x").merge(ranking).sample(0, 0.1, 0.9)
        str(ranking)
