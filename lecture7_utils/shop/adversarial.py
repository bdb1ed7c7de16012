"""How the generator was made: against a critic, on portraits of the shop's animals.

    python -m lecture7_utils.shop.training generator            # also generator_resize
    python -m lecture7_utils.shop.training generator --resume   # goes on where it was interrupted

The generator never sees a picture. A second network, the critic (the discriminator of Goodfellow et al.
2014), learns to tell drawn portraits from generated ones, and the generator follows the critic's gradient.
No other network has a part in it: PetNet only judges afterwards. A step's random numbers depend on the
recipe's seed and the step's number alone, so that a resumed training ends in the same weights.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm

from lecture7_utils.shop.arguments import flag, whole
from lecture7_utils.shop.decoders import Generator, latents
from lecture7_utils.shop.petnet import PetNet
from lecture7_utils.shop.scenes import SPECIES, Scenes
from lecture7_utils.shop.training import TEST_SEED, write_file

_DRAWN = 1024  # scenes drawn at a time
_CLOSE = 0.85  # the longer side of an animal over the side of its portrait
_SETTLING = 64  # batches for the statistics of the normalisations


@dataclass(frozen=True)
class AdversarialRecipe:
    """How a `Generator` is trained.

    seed: of the first weights, the portraits and the latent vectors. portraits: how many are drawn, once;
        the critic sees them again and again.
    size, latent, upsampling, widths: of the `Generator`. critic: channels of the critic's convolutions.
    steps, batch_size: how many steps with how many portraits and as many generated pictures.
    learning_rate: of both networks, by Adam (Kingma and Ba 2015) with `betas`; it falls to a tenth along a
        line over the last third of the steps.
    penalty: the gradient penalty on portraits, (penalty / 2) E |d D / d x|², made every `penalty_every`-th
        step and then as many times as strong: R1 of Mescheder, Geiger and Nowozin 2018, "Which training
        methods for GANs do actually converge?", equation 9; lazily as in Karras et al. 2020, appendix B.
    averaging: what is kept is a moving average of the generator's weights, this share of it old at each
        step (Yazıcı et al. 2019).
    bfloat16: whether convolutions are computed in bfloat16, up to three times as fast on CPUs that have it.
    """

    seed: int = 1
    portraits: int = 12_000
    size: int = 64
    latent: int = 32
    upsampling: str = "transposed"
    widths: tuple[int, ...] = (160, 96, 48, 32)
    critic: tuple[int, ...] = (32, 64, 96, 160)
    steps: int = 15_000
    batch_size: int = 32
    learning_rate: float = 7e-4
    betas: tuple[float, float] = (0.5, 0.99)
    penalty: float = 0.5
    penalty_every: int = 8
    averaging: float = 0.995
    bfloat16: bool = True


GENERATOR_RECIPES = {
    "generator": AdversarialRecipe(),
    "generator_resize": AdversarialRecipe(upsampling="resize"),
}
SHORT = AdversarialRecipe(
    seed=3,
    portraits=800,
    size=32,
    widths=(64, 48, 24),
    critic=(24, 48, 64),
    steps=400,
    batch_size=16,
    learning_rate=2e-3,
    betas=(0.5, 0.9),
    penalty=0.2,
    averaging=0.9,
    bfloat16=False,
)
"""A training of seconds, for a lesson."""


@dataclass
class History:
    """What happened at each step: the losses of the critic and of the generator, lists of floats; and
    `samples`, {steps made: pictures [N, 3, size, size] of the same vectors}, where they were asked for."""

    critic: list[float] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)
    samples: dict[int, Tensor] = field(default_factory=dict)


# ---------------------------------------------------------------- portraits


def portraits(count: int, *, seed: int = 0, size: int = 64, start: int = 0) -> tuple[Tensor, Tensor]:
    """Portraits of single animals: uint8 [N, 3, size, size], and their species int64 [N].

    A portrait is a square window of a drawn scene without a price tag, so close that the animal's longer
    side is 85 % of the window's where the scene can be drawn large enough; what is behind the animal
    is out of focus. Portrait i of a seed is the same whatever the count.
    count, start: scenes start … start + count - 1 of the seed. size: 16, 32 or 64.
    Raises `TypeError` or `ValueError` naming the argument.
    """
    count, start, size = whole(count, "count", 1), whole(start, "start", 0), whole(size, "size")
    if size not in (16, 32, 64):
        raise ValueError(f"size: expected one of 16, 32, 64, got {size}")
    side, options = 64, {"seed": seed, "tag": False, "start": start}
    boxes, labels, backs = [], [], []
    small = Scenes(count, size=side, **options)
    empty = Scenes(count, size=side, leave_out=["animals"], **options)
    for part in torch.arange(count).split(_DRAWN):
        drawn = small.batch(part)
        boxes.append(drawn.boxes[:, 0] / side)
        labels.append(drawn.labels)
        back = F.pad(F.avg_pool2d(empty.batch(part).images, 4), (4, 4, 4, 4), mode="replicate")
        backs.append(gaussian_blur(back, 9, 1.5)[:, :, 4:-4, 4:-4])
    box, back = torch.cat(boxes), torch.cat(backs)
    found = torch.empty(count, 3, size, size, dtype=torch.uint8)
    # the whole scene is drawn so large that the window has `side` pixels: nothing is enlarged
    wanted = side * _CLOSE / (box[:, 2:] - box[:, :2]).amax(1).clamp(min=1e-3)
    sides = (wanted / 8).round().mul(8).clamp(side, 256).long()
    for large in sides.unique().tolist():
        scenes = Scenes(count, size=large, **options)
        for part in (sides == large).nonzero()[:, 0].split(_DRAWN // 4):
            drawn = scenes.batch(part)
            behind = F.interpolate(back[part], (large, large), mode="bilinear", align_corners=False)
            images = torch.where(drawn.masks[:, :1], drawn.images, behind)
            centre = (drawn.boxes[:, 0, :2] + drawn.boxes[:, 0, 2:]) / 2
            corner = (centre - side / 2).round().clamp(0, large - side).long().tolist()
            near = torch.stack(
                [image[:, y : y + side, x : x + side] for image, (x, y) in zip(images, corner, strict=True)]
            )
            if size < side:
                near = F.avg_pool2d(near, side // size)
            found[part] = (near * 255).round().to(torch.uint8)
    return found, torch.cat(labels)


# ---------------------------------------------------------------- the critic


class Critic(nn.Module):
    """How much a picture looks like a portrait of the species asked for.

    `body`: convolutions that halve the side down to 4 × 4 (Radford et al. 2016), without normalisation;
    `last`: one more, then the mean over places, h. The score is the linear w · h + b + e(species) · h: the
    projection of Miyato and Koyama 2018, "cGANs with projection discriminator", equation 3. One of the maps
    that `last` sees says how much the pictures of a batch differ, so that the generator cannot make the same
    one again and again: the minibatch standard deviation of Karras et al. 2018, "Progressive growing of
    GANs", section 3, over groups of 4.
    Input: images float [N, 3, size, size] in 0 to 1, labels int [N]. Output: scores float32 [N].
    """

    def __init__(self, size: int, widths: Sequence[int], classes: int, dice: torch.Generator):
        super().__init__()
        if size != 4 * 2 ** len(widths):
            raise ValueError(f"critic: expected {size.bit_length() - 3} widths for size {size}, got {widths}")
        layers, inputs = [], 3
        for width in widths:
            layers += [
                nn.utils.skip_init(nn.Conv2d, inputs, width, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
            ]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.last = nn.utils.skip_init(nn.Conv2d, inputs + 1, inputs, 3, padding=1)
        self.score = nn.utils.skip_init(nn.Linear, inputs, 1)
        self.species = nn.utils.skip_init(nn.Linear, classes, inputs, bias=False)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    gain = 2 if isinstance(layer, nn.Conv2d) else 1
                    layer.weight.normal_(std=(gain / layer.weight[0].numel()) ** 0.5, generator=dice)
                    if layer.bias is not None:
                        layer.bias.zero_()
            self.species.weight.mul_(self.species.in_features**0.5)  # one-hot: one input is 1, not all

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.body(images * 2 - 1)
        h = (
            F.leaky_relu(self.last(torch.cat([h, _spread(h)], 1)), 0.2)
            .to(self.score.weight.dtype)
            .mean((2, 3))
        )
        with torch.autocast(h.device.type, enabled=False):
            asked = self.species.weight.T[labels]
            return self.score(h)[:, 0] + (asked * h).sum(1)


def _spread(h: Tensor) -> Tensor:
    """The mean standard deviation in each group of 4 pictures, as a map for each, [N, 1, 4, 4]."""
    group = 4 if len(h) % 4 == 0 else 1
    groups = h.float().reshape(group, -1, *h.shape[1:])
    variance = (groups - groups.mean(0)).square().mean(0)
    spread = (variance + 1e-8).sqrt().mean((1, 2, 3)).repeat(group)
    return spread.to(h.dtype)[:, None, None, None].expand(-1, 1, *h.shape[2:])


# ---------------------------------------------------------------- training


def train_generator(
    recipe: AdversarialRecipe = SHORT,
    *,
    steps: int | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    show_at: Sequence[int] = (),
    checkpoint: Path | None = None,
    resume: bool = False,
    every: int = 200,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> tuple[Generator, History]:
    """Train a `Generator` against a critic by a recipe; returns it in eval mode, in float32, and the history.

    The losses are the non-saturating ones of Goodfellow et al. 2014, section 3: softplus(-D(x)) +
    softplus(D(G(z))) for the critic, softplus(-D(G(z))) for the generator; the recipe says what is added.
    While it trains, the generator's feature maps are batch-normalised (Radford et al. 2016); at the end the
    normalisations get their statistics from the averaged generator and are folded into its layers, so
    that it is the plain one that `Generator` says.

    recipe: `SHORT`, a training of seconds, or one of `GENERATOR_RECIPES`. steps: another number of steps.
    data: portraits uint8 [N, 3, size, size] and their species int64 [N]; None draws the recipe's.
    show_at: after how many steps 16 pictures of the same vectors are kept in the history, 0 to `steps`.
    checkpoint: a file that holds the state after each `every` steps, and when it is interrupted; None keeps
        none. resume: go on from that file if it is there.
    Raises `TypeError` or `ValueError` naming the argument; `ValueError` if the checkpoint is of another
    recipe. An interrupt is passed on after saving.
    """
    if not isinstance(recipe, AdversarialRecipe):
        raise TypeError(f"recipe: expected an AdversarialRecipe, got {type(recipe).__name__}")
    if steps is not None:
        recipe = replace(recipe, steps=whole(steps, "steps", 1))
    flag(progress, "progress")
    shown = sorted({whole(value, "show_at", 0, recipe.steps) for value in show_at})
    images, labels = _data(recipe, data, device)
    state = _State(recipe, device)
    if resume and checkpoint is not None and checkpoint.is_file():
        _load(checkpoint, state)

    def look() -> None:
        if state.done in shown:
            with torch.no_grad():
                generator = state.finished()
                z = generator.latents(16, recipe.seed)
                state.history.samples[state.done] = generator(z, torch.arange(16) % len(SPECIES)).cpu()

    try:
        with tqdm(
            total=recipe.steps, initial=state.done, desc="generator and critic", unit="step",
            disable=not progress,
        ) as bar:  # fmt: skip
            look()
            while state.done < recipe.steps:
                losses = _step(state, images, labels)
                state.history.critic.append(losses[0])
                state.history.generator.append(losses[1])
                state.done += 1
                bar.update()
                if state.done % 10 == 0:
                    bar.set_postfix(critic=f"{losses[0]:.2f}", generator=f"{losses[1]:.2f}")
                if checkpoint is not None and state.done % every == 0:
                    _save(checkpoint, state)
                look()
    except KeyboardInterrupt:
        if checkpoint is not None:
            _save(checkpoint, state)
        raise
    return state.finished(), state.history


def _data(recipe: AdversarialRecipe, data: object, device) -> tuple[Tensor, Tensor]:
    if data is None:
        images, labels = portraits(recipe.portraits, seed=recipe.seed, size=recipe.size)
    else:
        if (
            not isinstance(data, tuple | list)
            or len(data) != 2
            or not all(isinstance(v, Tensor) for v in data)
        ):
            raise TypeError(f"data: expected (images, labels), two tensors, got {type(data).__name__}")
        images, labels = data
        size = recipe.size
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(
                f"data: expected images uint8 [N, 3, {size}, {size}], got {images.dtype} {list(images.shape)}"
            )
        if labels.dtype != torch.long or labels.shape != images.shape[:1]:
            raise ValueError(
                f"data: expected labels int64 [{len(images)}], got {labels.dtype} {list(labels.shape)}"
            )
    return images.to(device), labels.to(device)


class _State:
    """Everything a training goes on from."""

    def __init__(self, recipe: AdversarialRecipe, device):
        self.recipe, self.device, self.done, self.history = recipe, torch.device(device), 0, History()
        generator = Generator(
            recipe.seed,
            latent=recipe.latent,
            size=recipe.size,
            upsampling=recipe.upsampling,
            widths=recipe.widths,
        )
        _normalise(generator)
        dice = torch.Generator().manual_seed(recipe.seed)
        critic = Critic(recipe.size, recipe.critic, len(SPECIES), dice)
        self.generator, self.critic = (
            net.to(device=self.device, memory_format=torch.channels_last).train()
            for net in (generator, critic)
        )
        self.average = copy.deepcopy(self.generator)
        self.optimisers = {
            name: torch.optim.Adam(net.parameters(), recipe.learning_rate, recipe.betas, fused=True)
            for name, net in (("generator", self.generator), ("critic", self.critic))
        }

    def finished(self) -> Generator:
        """The plain generator of the averaged weights, in eval mode."""
        net = copy.deepcopy(self.average)
        _settle(net, self.recipe)
        _fold(net.eval())
        return net.to(memory_format=torch.contiguous_format)


def _normalise(net: Generator) -> None:
    """Put a batch normalisation before each ReLU, in place."""
    layers: list[nn.Module] = []
    channels = 0
    for layer in net.blocks:
        if isinstance(layer, nn.ReLU):
            layers.append(nn.BatchNorm2d(channels, device=next(net.parameters()).device))
        layers.append(layer)
        channels = layer.unflattened_size[0] if isinstance(layer, nn.Unflatten) else channels
        channels = layer.out_channels if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else channels
    net.blocks = nn.Sequential(*layers)


@torch.no_grad()
def _settle(net: Generator, recipe: AdversarialRecipe) -> None:
    """Give the normalisations the statistics of the net's own feature maps, over many vectors."""
    for layer in net.blocks:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
    dice = torch.Generator().manual_seed(recipe.seed)
    labels = torch.arange(recipe.batch_size) % len(net.categories)
    net.train()
    for _ in range(_SETTLING):
        net(latents(recipe.batch_size, dice, latent=recipe.latent).to(next(net.parameters())), labels)


@torch.no_grad()
def _fold(net: Generator) -> None:
    """Take the normalisations out again and into the layers before them, in place: in eval mode
    (w * x + b - m) * g + c = (w g) * x + (b - m) g + c, with g = gamma / sqrt(variance + eps)."""
    layers: list[nn.Module] = []
    for layer in net.blocks:
        if not isinstance(layer, nn.BatchNorm2d):
            layers.append(layer)
            continue
        gain = layer.weight * (layer.running_var + layer.eps).rsqrt()
        shift = layer.bias - layer.running_mean * gain
        before = next(old for old in reversed(layers) if hasattr(old, "weight"))
        if isinstance(before, nn.Linear):  # its outputs are channels × 4 × 4
            gain, shift = gain.repeat_interleave(16), shift.repeat_interleave(16)
            before.weight.mul_(gain[:, None])
        elif isinstance(before, nn.ConvTranspose2d):
            before.weight.mul_(gain[None, :, None, None])
        else:
            before.weight.mul_(gain[:, None, None, None])
        before.bias.mul_(gain).add_(shift)
    net.blocks = nn.Sequential(*layers)


def _step(state: _State, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """One step of both networks, `state.done` steps having been made; returns the losses without penalty."""
    recipe, generator, critic, step = state.recipe, state.generator, state.critic, state.done
    falling = min(1.0, 3 * (1 - step / recipe.steps))
    for optimiser in state.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * max(0.1, falling)
    dice = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    chosen = torch.randint(len(images), (recipe.batch_size,), generator=dice).to(state.device)
    z = latents(recipe.batch_size, dice, latent=recipe.latent).to(state.device)
    real = images[chosen].float().div(255).contiguous(memory_format=torch.channels_last)
    species = labels[chosen]  # the same for the generated ones

    with torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        made = generator(z, species)
        loss = F.softplus(-critic(real, species)).mean()
        loss = loss + F.softplus(critic(made.detach().float(), species)).mean()
    critic_loss = float(loss.detach())
    if recipe.penalty and step % recipe.penalty_every == 0:
        real.requires_grad_()
        with torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            score = critic(real, species)
        (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
        loss = loss + recipe.penalty * recipe.penalty_every / 2 * slope.square().sum((1, 2, 3)).mean()
    _follow(state.optimisers["critic"], loss)

    critic.requires_grad_(False)
    with torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        loss = F.softplus(-critic(made, species)).mean()
    _follow(state.optimisers["generator"], loss)
    critic.requires_grad_(True)

    old = min(recipe.averaging, step / (step + 20))  # the first steps are soon forgotten
    with torch.no_grad():
        for kept, new in zip(state.average.parameters(), generator.parameters(), strict=True):
            kept.lerp_(new, 1 - old)
    return critic_loss, float(loss.detach())


def _follow(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _save(path: Path, state: _State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "recipe": _plain(state.recipe),
        "step": state.done,
        "nets": {name: getattr(state, name).state_dict() for name in ("generator", "critic", "average")},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in state.optimisers.items()},
        "history": asdict(state.history),
    }
    part = path.with_suffix(".part")
    torch.save(held, part)
    os.replace(part, path)  # a checkpoint is whole or not there


def _load(path: Path, state: _State) -> None:
    held = torch.load(path, map_location=state.device, weights_only=True)
    mine, theirs = _plain(state.recipe), held["recipe"]
    other = [key for key in mine if mine[key] != theirs.get(key)]
    if other:
        expected = ", ".join(f"{key} {mine[key]}" for key in other)
        found = ", ".join(f"{key} {theirs.get(key)}" for key in other)
        raise ValueError(f"checkpoint: expected one of a recipe with {expected}, got {found} in {path.name}")
    for name, values in held["nets"].items():
        getattr(state, name).load_state_dict(values)
    for name, values in held["optimisers"].items():
        state.optimisers[name].load_state_dict(values)
    state.done, state.history = held["step"], History(**held["history"])


def _plain(recipe: AdversarialRecipe) -> dict:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(recipe).items()}


def write_generator(net: Generator, path: Path) -> str:
    """Write a generator in float16 with what rebuilds it, and its SHA-256 beside it; return that."""
    about = {
        key: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for key, value in net.settings().items()
    }
    return write_file(net, about, path)


# ---------------------------------------------------------------- how good its pictures are


@torch.no_grad()
def recognised(generator: Generator, judge: PetNet, count: int = 500, seed: int = TEST_SEED) -> Tensor:
    """Whether `judge` names the species asked for, bool [count]; species i % classes is asked for.

    The pictures are enlarged to the judge's size by taking the nearest pixel: smoothing them takes away
    the fine strokes by which it tells dogs from cats, from drawn portraits just as from generated ones.
    """
    images, labels = samples(generator, count, seed)
    return named_species(judge, images) == labels.to(images.device)


@torch.no_grad()
def samples(generator: Generator, count: int, seed: int = TEST_SEED) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, S, S] of vectors drawn from the seed, and the species asked for, i % classes."""
    z, labels = generator.latents(count, seed), torch.arange(count) % len(generator.categories)
    parts = zip(z.split(100), labels.split(100), strict=True)
    return torch.cat([generator(some, asked) for some, asked in parts]), labels


@torch.no_grad()
def named_species(judge: PetNet, images: Tensor) -> Tensor:
    """The species, int [N], that `judge` names in float [N, 3, S, S], enlarged by the nearest pixel."""
    return torch.cat(
        [judge(F.interpolate(some, (judge.size, judge.size))).argmax(1) for some in images.split(100)]
    )


@torch.no_grad()
def variety(generator: Generator, judge: PetNet, train: tuple[Tensor, Tensor], count: int = 500) -> dict:
    """How far `count` samples are from each other and from the training portraits, beside what the same
    measure says of as many unseen portraits; always within a species.

    train: portraits uint8 [M, 3, S, S] and their species. Two distances: "pixels", the root mean square
    difference of the values (0 to 1), and "features", the Euclidean distance of the means over places of
    `judge`'s last feature maps.
    Returns for each distance and for "samples" and "unseen portraits" {"each other", "nearest other",
    "nearest training"}: medians over the pictures of the mean and the least distance to another one, and of
    the least distance to a training portrait.
    """
    kinds = {
        "samples": samples(generator, count),
        "unseen portraits": _floats(portraits(count, seed=TEST_SEED, size=generator.size)),
    }
    train = _floats(train)
    found: dict = {"pixels": {}, "features": {}}
    for distance, describe in (
        ("pixels", lambda x: x.flatten(1) / x[0].numel() ** 0.5),
        ("features", lambda x: _features(judge, x)),
    ):
        known = describe(train[0])
        for kind, (images, labels) in kinds.items():
            points = describe(images)
            found[distance][kind] = _medians(points, labels, known, train[1])
    return found


def _floats(drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return drawn[0].float() / 255, drawn[1]


def _features(judge: PetNet, images: Tensor) -> Tensor:
    parts = [F.interpolate(some, (judge.size, judge.size)) for some in images.split(100)]
    return torch.cat([judge.features(part).mean((2, 3)) for part in parts])


def _medians(points: Tensor, labels: Tensor, known: Tensor, known_labels: Tensor) -> dict[str, float]:
    """Medians over the points [N, D] of distances within the label, to each other and to those known."""
    other = torch.cdist(points, points)
    other.fill_diagonal_(torch.nan)
    other[labels[:, None] != labels] = torch.nan
    training = torch.cdist(points, known).masked_fill(labels[:, None] != known_labels, torch.inf)
    return {
        "each other": float(other.nanmean(1).nanmedian()),
        "nearest other": float(other.nan_to_num(torch.inf).amin(1).median()),
        "nearest training": float(training.amin(1).median()),
    }
