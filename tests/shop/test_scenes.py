"""The drawn scenes: the same in every batch, true masks and boxes, and a tag that follows when told to."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lecture7_utils.shop import scenes as shop
from lecture7_utils.shop.drawing import Dice, textures
from lecture7_utils.shop.samples import Sample
from lecture7_utils.shop.scenes import PLACES, SPECIES, Scenes, draw_scenes, scene
from tests.guards import refuses, unchanged

CROWD = {"animals": (1, 3), "mixed": True}


def dilate(masks, by):
    """Masks [N, H, W] grown by `by` pixels in each direction."""
    return F.max_pool2d(masks[:, None].float(), 2 * by + 1, 1, by)[:, 0] > 0


def boxes_around(mask):
    """Plain loops over rows and columns."""
    rows = [i for i in range(mask.shape[0]) if mask[i].any()]
    columns = [j for j in range(mask.shape[1]) if mask[:, j].any()]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows else [0, 0, 0, 0]


def iou(a, b):
    """IoU of boxes [P, 4] with boxes [N, 4]: [P, N]."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return both / (areas[0][:, None] + areas[1][None] - both)


@pytest.mark.parametrize("size", [64, 83])
def test_a_scene_is_the_same_in_every_batch(size):
    together = draw_scenes(range(14), size=size, **CROWD)
    for chosen in ([7], [13, 0, 11], [3, 3], list(range(5, 12))):
        part = draw_scenes(chosen, size=size, **CROWD)
        # equal to the last bit where multiplication and addition round alike in all lanes, as they do here
        assert (together.images[chosen] - part.images).abs().max() < 1e-6
        for name in ("labels", "species", "masks", "boxes", "tags", "tag_masks"):
            assert torch.equal(getattr(together, name)[chosen], getattr(part, name)), name


def test_seeds_and_indices_give_different_scenes():
    a, b = draw_scenes(range(6), size=64), draw_scenes(range(6), size=64, seed=1)
    pictures = torch.cat([a.images, b.images]).flatten(1)
    apart = torch.cdist(pictures, pictures, p=1) / pictures.shape[1]
    assert (apart + torch.eye(12)).min() > 0.02


@pytest.mark.gpu
def test_a_scene_is_the_same_on_both_devices():
    here, there = draw_scenes(range(40), **CROWD), draw_scenes(range(40), device="cuda", **CROWD)
    assert there.images.device.type == "cuda"
    assert (here.images - there.images.cpu()).abs().max() < 1e-3
    assert (here.masks != there.masks.cpu()).float().mean() < 1e-5
    assert torch.equal(here.tag_masks, there.tag_masks.cpu())
    assert torch.equal(here.labels, there.labels.cpu())


def test_the_size_changes_the_resolution_and_not_the_scene():
    small, large = draw_scenes(range(5), size=64, **CROWD), draw_scenes(range(5), size=256, **CROWD)
    assert torch.equal(small.species, large.species)
    assert torch.equal(small.tags, large.tags)
    coarse = F.avg_pool2d(large.images, 4)
    assert (small.images - coarse).abs().mean() < 0.03
    covered = F.avg_pool2d(large.masks.float(), 4) >= 0.5
    both, either = (small.masks & covered).sum((2, 3)), (small.masks | covered).sum((2, 3))
    assert (both / either.clamp(min=1))[small.species >= 0].min() > 0.85


@pytest.mark.parametrize(("count", "wrong"), [(1, 0.0), (3, 0.002)])
def test_masks_are_the_pixels_that_the_animals_cover(count, wrong):
    # the same animals before two backdrops: image = (1 - c) * backdrop + c * colour gives the coverage c
    # (Smith and Blinn 1996, "Blue screen matting"), with no use of the masks; where the soft edges of two
    # animals meet, both together may cover half of a pixel that neither owns
    options = {"tag": False, "animals": count}
    images, backdrops = [], []
    for place in ("meadow", "shelf"):
        drawn = draw_scenes(range(10), place=place, leave_out=["shadows"], **options)
        images.append(drawn.images)
        backdrops.append(
            draw_scenes(range(10), place=place, leave_out=["shadows", "animals"], **options).images
        )
    apart = (backdrops[0] - backdrops[1]).double()
    weight = apart.square().sum(1)
    cover = 1 - ((images[0] - images[1]).double() * apart).sum(1) / weight
    sure = weight > 0.02
    assert sure.double().mean() > 0.9
    mask = drawn.masks.any(1)
    assert ((mask != (cover >= 0.5)) & sure).sum() <= wrong * mask.sum()
    assert 0.01 < ((cover > 0.02) & (cover < 0.98))[sure].double().mean() < 0.1  # soft edges, no steps


def test_without_the_animals_nothing_changes_outside_masks_and_shadows():
    drawn = draw_scenes(range(12), **CROWD)
    empty = draw_scenes(range(12), leave_out=["animals"], **CROWD)
    bare = draw_scenes(range(12), leave_out=["animals", "shadows"], **CROWD)
    changed = (drawn.images - empty.images).abs().amax(1) > 1e-6
    mask = drawn.masks.any(1)
    assert not (changed & ~dilate(mask | drawn.tag_masks, 2)).any()
    assert (changed & mask).sum() > 0.99 * mask.sum()
    # shadows only take light away
    assert (empty.images <= bare.images + 1e-6).all()
    shadow = (bare.images - empty.images).amax(1) > 1e-6
    assert 0.01 < shadow.float().mean() < 0.4
    assert not empty.masks.any()
    assert not empty.boxes.any()


def test_each_pixel_has_one_owner_and_the_front_wins():
    drawn = draw_scenes(range(24), size=64, animals=3)
    assert (drawn.masks.sum(1) + drawn.tag_masks.long()).max() == 1
    assert drawn.masks.flatten(2).any(2).all()
    # slot 0 stands in front: its lowest row is the lowest
    assert (drawn.boxes[:, 0, 3] >= drawn.boxes[:, 1:, 3].amax(1) - 2).float().mean() > 0.9


def test_boxes_are_tight_and_animals_are_inside_and_visible():
    drawn = draw_scenes(range(24), tag=False, **CROWD)
    for n in range(24):
        for a in range(3):
            there = bool(drawn.species[n, a] >= 0)
            assert drawn.boxes[n, a].tolist() == boxes_around(drawn.masks[n, a])
            assert bool(drawn.masks[n, a].any()) == there
            if there:
                assert drawn.masks[n, a].sum() > 0.008 * 96 * 96
                assert 0 < drawn.boxes[n, a, 0]
                assert drawn.boxes[n, a, 2] < 96


def test_animals_counts_species_and_labels():
    mixed = draw_scenes(range(60), size=64, **CROWD)
    counts = (mixed.species >= 0).sum(1)
    assert set(counts.tolist()) == {1, 2, 3}
    assert torch.equal(mixed.species[:, 0], mixed.labels)
    for row, count in zip(mixed.species.tolist(), counts.tolist(), strict=True):
        assert row[count:] == [-1] * (3 - count)
        assert len(set(row[:count])) == count
    alike = draw_scenes(range(20), size=64, animals=2)
    assert torch.equal(alike.species[:, 0], alike.species[:, 1])
    assert (
        draw_scenes(range(5), size=64, species="frog", animals=2).species.tolist()
        == [[SPECIES.index("frog")] * 2] * 5
    )
    given = ["cat", "dog", 7]
    assert draw_scenes(range(3), size=64, species=given, mixed=True, animals=2).labels.tolist() == [0, 1, 7]
    assert len({place for place in PLACES}) >= 5


def test_each_species_place_and_tag_as_often_as_another():
    options = shop._options()
    plan = shop._plan(torch.arange(8000), options)  # the numbers only: nothing is drawn
    for values, count in (
        (plan.species[:, 0], len(SPECIES)),
        (plan.place, len(PLACES)),
        (plan.tag, len(SPECIES)),
    ):
        expected = 8000 / count
        assert ((torch.bincount(values, minlength=count) - expected).abs() < 5 * expected**0.5).all()
    # with the knob at 0 the tag says nothing about the species
    table = torch.bincount(plan.species[:, 0] * 8 + plan.tag, minlength=64).double()
    assert ((table - 125).square() / 125).sum() < 130  # chi squared, 63 degrees of freedom: 1e-6 above


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_tag_follows_the_species_as_often_as_told(share):
    plan = shop._plan(torch.arange(4000), shop._options(tag_follows_species=share))
    agree = float((plan.tag == plan.species[:, 0]).double().mean())
    assert agree == pytest.approx(share + (1 - share) / 8, abs=0.03)
    assert share < 1 or agree == 1


def test_the_tag_changes_nothing_but_itself():
    plain = draw_scenes(range(10), tag=False)
    assert not plain.tag_masks.any()
    assert plain.tags.tolist() == [-1] * 10
    cats, dogs = draw_scenes(range(10), tag="cat"), draw_scenes(range(10), tag=[1] * 10)
    assert cats.tags.tolist() == [0] * 10
    assert dogs.tags.tolist() == [1] * 10
    assert torch.equal(cats.tag_masks, dogs.tag_masks)
    area = cats.tag_masks.flatten(1).sum(1)
    assert (area > 0.015 * 96 * 96).all()
    assert (area < 0.08 * 96 * 96).all()
    swapped = (cats.images - dogs.images).abs().amax(1) > 1e-6
    assert not (swapped & ~dilate(cats.tag_masks, 1)).any()
    assert (swapped & cats.tag_masks).sum() > 0.3 * cats.tag_masks.sum()
    # beside its pixels it only casts a shadow
    beside = ~dilate(cats.tag_masks, 1)[:, None].expand_as(cats.images)
    assert (cats.images <= plain.images + 1e-6)[beside].all()
    # an animal behind the tag keeps the pixels that are not the tag's
    assert torch.equal(cats.masks, plain.masks & ~cats.tag_masks[:, None])
    left_out = draw_scenes(range(10), leave_out=["tag"])
    assert torch.equal(left_out.images, plain.images)
    assert left_out.tags.tolist() == [-1] * 10


def test_tags_can_be_told_apart_by_colour_and_by_mark():
    tags = [draw_scenes([4], tag=name, size=128) for name in SPECIES]
    mask = tags[0].tag_masks[0]
    means = torch.stack([drawn.images[0][:, mask].mean(1) for drawn in tags])
    assert (torch.cdist(means, means) + torch.eye(8)).min() > 0.08
    pictures = [drawn.images[0][:, mask] for drawn in tags]
    ink = torch.stack([picture.amin(0) > 0.85 for picture in pictures]).float()  # card's rim, mark and print
    assert ((ink[:, None] != ink[None]).float().mean(2) + torch.eye(8)).min() > 0.02


@pytest.mark.slow
def test_no_constant_box_is_right_often():
    boxes = draw_scenes(range(1200), size=64, tag=False).boxes[:, 0] * 1.5
    edges = torch.arange(0, 97, 6.0)
    candidates = torch.cartesian_prod(edges, edges, edges, edges)
    candidates = candidates[(candidates[:, 2:] - candidates[:, :2]).amin(1) >= 24]
    best = max(float((iou(part, boxes) >= 0.5).double().mean(1).max()) for part in candidates.split(2000))
    assert 0.1 < best <= 0.35


def test_samples_and_the_data_set_protocol():
    data = Scenes(12, start=5, seed=2, size=64, tag_follows_species=1.0, **CROWD)
    assert len(data) == 12
    assert data.classes == SPECIES
    assert "12" in repr(data)
    sample, alone = data[3], scene(8, seed=2, size=64, tag_follows_species=1.0, **CROWD)
    assert isinstance(sample, Sample)
    assert (sample.image - alone.image).abs().max() < 1e-6
    assert torch.equal(sample.masks, alone.masks)
    assert sample.image.shape == (3, 64, 64)
    assert sample.image.dtype == torch.float32
    assert 0 <= sample.image.min()
    assert sample.image.max() <= 1
    assert sample.tag == sample.label == int(sample.labels[0])
    assert len(sample.masks) == len(sample.boxes) == len(sample.labels)
    assert torch.equal(sample.mask, sample.masks.any(0))
    assert SPECIES[sample.label] in sample.name
    assert torch.equal(data[-1].image, data[11].image)
    for wrong in (12, -13):
        with pytest.raises(IndexError):
            data[wrong]
    with pytest.raises(IndexError):
        data.batch([0, 12])
    loaded = [item for batch in DataLoader(data, batch_size=5, collate_fn=list) for item in batch]
    assert [item.label for item in loaded] == data.batch(range(12)).labels.tolist()
    assert (loaded[3].image - sample.image).abs().max() < 1e-6
    chosen = Scenes(3, size=64, species=["cat", "frog", "turtle"], tag=["turtle", "cat", "dog"])
    assert [(item.label, item.tag) for item in (chosen[2], chosen[0])] == [(7, 1), (0, 7)]


def test_drawing_touches_no_global_state():
    with unchanged():
        draw_scenes(range(3), size=64)


def test_dice_depend_on_name_and_counters_alone():
    many, one = Dice(3, torch.arange(1000)), Dice(3, torch.tensor([500]))
    assert many.one("x")[500] == one.one("x")[0]
    assert torch.equal(many("y", "x")[:, 1], many.one("x"))
    assert torch.equal(many.at(torch.tensor([7, 500])).one("x"), many.one("x")[[7, 500]])
    assert torch.equal(many.at(torch.tensor([7, 500])).at(torch.tensor([1])).one("z"), many.one("z")[[500]])
    values = torch.stack(
        [many.one(name) for name in ("x", "y", "z")] + [Dice(4, torch.arange(1000)).one("x")]
    )
    assert values.min() >= 0
    assert values.max() < 1
    assert (values.mean(1) - 0.5).abs().max() < 0.05
    assert (torch.corrcoef(values) - torch.eye(4)).abs().max() < 0.15
    assert (torch.bincount((many.one("x") * 10).long(), minlength=10) - 100).abs().max() < 45
    pairs = Dice(3, torch.tensor([1, 2]), torch.tensor([2, 1])).one("x")
    assert pairs[0] != pairs[1]


def test_textures_are_flat_and_repeat():
    bank = textures(torch.device("cpu")).reshape(3, 256, 256)
    for kind in bank:
        assert (torch.histc(kind, 8, 0, 1) / kind.numel() - 1 / 8).abs().max() < 0.01
        steps = (kind - kind.roll(1, 0)).abs().mean(1)
        assert steps[0] < 3 * steps.mean()  # no seam where it repeats


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("seed", {"seed": -1}),
        ("seed", {"seed": 0.5}),
        ("size", {"size": 63}),
        ("size", {"size": 257}),
        ("size", {"size": True}),
        ("animals", {"animals": 0}),
        ("animals", {"animals": 4}),
        ("animals", {"animals": (3, 1)}),
        ("animals", {"animals": (1, 2, 3)}),
        ("animals", {"animals": "two"}),
        ("mixed", {"mixed": 1}),
        ("species", {"species": "horse"}),
        ("species", {"species": 8}),
        ("species", {"species": [0, 1, 2]}),
        ("species", {"species": torch.tensor([0.5, 1.0])}),
        ("species", {"species": 1.5}),
        ("place", {"place": "moon"}),
        ("place", {"place": 3}),
        ("tag", {"tag": "horse"}),
        ("tag", {"tag": ["cat"]}),
        ("tag", {"tag": None}),
        ("tag_follows_species", {"tag_follows_species": 1.01}),
        ("tag_follows_species", {"tag_follows_species": float("nan")}),
        ("tag_follows_species", {"tag_follows_species": "1"}),
        ("leave_out", {"leave_out": "tag"}),
        ("leave_out", {"leave_out": ["floor"]}),
        ("device", {"device": "abacus"}),
    ],
)
def test_options_are_checked(argument, options):
    refuses(argument, draw_scenes, [0, 1], **options)


def test_other_arguments_are_checked():
    refuses("indices", draw_scenes, [])
    refuses("indices", draw_scenes, [-1])
    refuses("indices", draw_scenes, [0.5])
    refuses("indices", draw_scenes, 3)
    refuses("indices", draw_scenes, torch.zeros(3))
    refuses("indices", draw_scenes, torch.tensor([[1]]))
    refuses("indices", draw_scenes, torch.tensor([2, -3]))
    refuses("index", scene, -1)
    refuses("index", scene, "0")
    refuses("count", Scenes, 0)
    refuses("start", Scenes, 3, start=-1)
    refuses("species", Scenes, 3, species=[0, 1])
    refuses("tag", Scenes, 3, tag=["cat"] * 4)
    with pytest.raises(TypeError, match="colour"):
        draw_scenes([0], colour="red")


def test_a_sample_holds_its_shape():
    good = scene(0, size=64)
    fields = {
        name: getattr(good, name)
        for name in ("image", "label", "masks", "boxes", "labels", "tag_mask", "name")
    }
    refuses("image", Sample, **fields | {"image": good.image.byte()})
    refuses("image", Sample, **fields | {"image": good.image[0]})
    refuses("masks", Sample, **fields | {"masks": good.masks[:, :5]})
    refuses("masks", Sample, **fields | {"masks": good.masks.float()})
    refuses("boxes", Sample, **fields | {"boxes": good.boxes[0]})
    refuses("tag_mask", Sample, **fields | {"tag_mask": good.masks})
