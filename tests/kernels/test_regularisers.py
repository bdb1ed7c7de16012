"""The regularisers, each against a slow reference written from its definition, one pixel at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lecture7_utils.kernels import regularisers
from lecture7_utils.kernels.regularisers import (
    COLOUR_COVARIANCE,
    MARGIN,
    Correction,
    Parametrisation,
    Penalty,
    Pixels,
    Transform,
    blurred,
    fourier,
    gaussian_blur,
    jitter,
    normal,
    rotate_and_scale,
    sorted_out,
    total_variation,
    turned,
    variation,
)
from tests.guards import refuses, unchanged
from tests.nets import random_images

SIZES = [(5, 6), (6, 5), (7, 7), (4, 8), (1, 5), (2, 2)]
LIKE = torch.zeros(0, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- jitter


@given(
    seed=st.integers(0, 10**6), height=st.integers(1, 7), width=st.integers(1, 7), pixels=st.integers(0, 9)
)
@settings(max_examples=25)
def test_jitter_moves_each_pixel_round_the_borders(seed, height, width, pixels):
    images = random_images(seed, 2, (height, width))
    with unchanged(images):
        got = jitter(pixels).apply(images, seeded(seed))
    down, right = torch.randint(-pixels, pixels + 1, (2,), generator=seeded(seed)).tolist()
    for i in range(height):
        for j in range(width):
            want = images[:, :, i, j]
            assert torch.equal(got[:, :, (i + down) % height, (j + right) % width], want)


def test_jitter_draws_every_offset():
    image = torch.arange(49.0).view(1, 1, 7, 7).expand(1, 3, 7, 7)
    part, generator = jitter(2), seeded()
    seen = set()
    for _ in range(400):
        moved = part.apply(image, generator)[0, 0]
        down, right = (moved == 0).nonzero()[0].tolist()
        seen.add(((down + 3) % 7 - 3, (right + 3) % 7 - 3))
    assert seen == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


# --- rotation and scale


def slow_turn(image, angle, factor):
    """Every pixel of the result, found in the image by the opposite turn: bilinear, mirrored outside."""
    height, width = image.shape[1:]

    def mirrored(v, n):
        """The borders of the first and the last pixel are mirrors."""
        v = (v + 0.5) % (2 * n)
        return min(max((2 * n - v if v > n else v) - 0.5, 0), n - 1)

    result = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = i - (height - 1) / 2, j - (width - 1) / 2
            # back by the angle: (x, y) = R(angle) (x', y') × factor
            from_x = (math.cos(angle) * x + math.sin(angle) * y) / factor
            from_y = (-math.sin(angle) * x + math.cos(angle) * y) / factor
            v = mirrored(from_y + (height - 1) / 2, height)
            u = mirrored(from_x + (width - 1) / 2, width)
            top, left = math.floor(v), math.floor(u)
            for a, share_a in ((top, 1 - v + top), (top + 1, v - top)):
                for b, share_b in ((left, 1 - u + left), (left + 1, u - left)):
                    if share_a * share_b > 0:
                        result[:, i, j] += share_a * share_b * image[:, a, b]
    return result


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(2, 8),
    width=st.integers(2, 8),
    angle=st.floats(-math.pi, math.pi),
    factor=st.floats(0.2, 1.9),
)
@settings(max_examples=25)
def test_turned_equals_the_slow_turn(seed, height, width, angle, factor):
    images = random_images(seed, 2, (height, width))
    with unchanged(images):
        got = turned(images, angle, factor)
    for image, one in zip(images, got, strict=True):
        torch.testing.assert_close(one, slow_turn(image, angle, factor), rtol=1e-6, atol=1e-8)


def test_turned_by_quarters_and_not_at_all():
    images = random_images(0, 2, (6, 6))
    torch.testing.assert_close(turned(images, 0, 1), images)
    # a quarter from x towards y: rows point down, so it is clockwise as one looks at it
    torch.testing.assert_close(turned(images, math.pi / 2, 1), images.rot90(-1, (2, 3)))
    torch.testing.assert_close(turned(images, math.pi, 1), images.flip(2, 3))


def test_turned_enlarges():
    x = torch.linspace(-1, 1, 41, dtype=torch.float64).expand(1, 3, 41, 41)
    assert (turned(x, 0, 2.0)[0, 0, 20, 21] - turned(x, 0, 2.0)[0, 0, 20, 20]).item() == pytest.approx(0.025)


def test_rotate_and_scale_draws_within_its_limits(monkeypatch):
    seen = []
    monkeypatch.setattr(regularisers, "turned", lambda images, *by: seen.append(by) or images)
    part, generator, images = rotate_and_scale(20, 0.3), seeded(), random_images(0)
    for _ in range(500):
        part.apply(images, generator)
    degrees, factors = np.rad2deg([angle for angle, _ in seen]), np.array([factor for _, factor in seen])
    for values, low, high in ((degrees, -20, 20), (factors, 0.7, 1.3)):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.05 * (high - low)
    assert abs(np.corrcoef(degrees, factors)[0, 1]) < 0.15


@pytest.mark.parametrize("part", [jitter(3), rotate_and_scale(30, 0.5)], ids=lambda part: part.name)
def test_a_transform_draws_once_for_all_images(part):
    images = random_images(0, 3, (8, 9))
    got = part.apply(images, seeded(5))
    for n in range(3):
        assert torch.equal(got[n : n + 1], part.apply(images[n : n + 1], seeded(5)))
    again = part.apply(images, generator := seeded(5))
    assert torch.equal(again, got)
    assert not torch.equal(part.apply(images, generator), got)


@pytest.mark.parametrize("part", [jitter(3), rotate_and_scale(30, 0.5)], ids=lambda part: part.name)
def test_a_transform_is_linear_and_differentiable(part):
    images = random_images(1, 1, (5, 6)).requires_grad_()
    torch.autograd.gradcheck(lambda x: part.apply(x, seeded(3)), images)
    plain = part.apply(images.detach(), seeded(3))
    torch.testing.assert_close(part.apply(2 * images.detach(), seeded(3)), 2 * plain)


# --- Gaussian blur


def slow_blur(image, sigma):
    """A weighted mean around every pixel, cut at 3 sigma; beyond a border lies the mirror image, the border
    pixel itself not doubled."""
    height, width = image.shape[1:]
    down, right = (min(math.ceil(3 * sigma), n - 1) for n in (height, width))

    def mirrored(v, n):
        v = abs(v)
        return v if v < n else 2 * (n - 1) - v

    result = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            total = 0.0
            for a in range(-down, down + 1):
                for b in range(-right, right + 1):
                    share = math.exp(-(a * a + b * b) / (2 * sigma**2))
                    total += share
                    result[:, i, j] += share * image[:, mirrored(i + a, height), mirrored(j + b, width)]
            result[:, i, j] /= total
    return result


@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES), sigma=st.floats(0.2, 3))
@settings(max_examples=20)
def test_blur_equals_the_slow_mean(seed, size, sigma):
    images = random_images(seed, 2, size)
    with unchanged(images):
        got = blurred(images, sigma)
    for image, one in zip(images, got, strict=True):
        torch.testing.assert_close(one, slow_blur(image, sigma), rtol=1e-10, atol=1e-12)


def test_blur_keeps_its_interval_and_a_flat_picture():
    part = gaussian_blur(1.2, 3)
    assert (part.every, part.name) == (3, "Gaussian blur")
    images = random_images(2)
    assert torch.equal(part.apply(images), blurred(images, 1.2))
    assert torch.equal(gaussian_blur(0).apply(images), images)
    flat = torch.full((1, 3, 9, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(part.apply(flat), flat)


# --- total variation


def slow_variation(image, beta):
    total = 0.0
    channels, height, width = image.shape
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                right = (image[k, i, j + 1] - image[k, i, j]).item() if j + 1 < width else 0.0
                down = (image[k, i + 1, j] - image[k, i, j]).item() if i + 1 < height else 0.0
                total += (right**2 + down**2) ** (beta / 2)
    return total


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from(SIZES),
    beta=st.sampled_from([1, 1.5, 2, 2.0, 3]),
    weight=st.floats(0, 5),
)
@settings(max_examples=25)
def test_total_variation_equals_the_slow_sum(seed, size, beta, weight):
    images = random_images(seed, 3, size)
    part = total_variation(weight, beta)
    with unchanged(images):
        got = part.value(images)
    assert got.tolist() == pytest.approx([slow_variation(image, beta) for image in images])
    assert part.weight == weight


@pytest.mark.parametrize("beta", [1, 1.3, 2, 4])
def test_total_variation_has_a_gradient_even_where_nothing_varies(beta):
    images = random_images(0, 2, (4, 5)).requires_grad_()
    torch.autograd.gradcheck(lambda x: variation(x, beta), images)
    flat = torch.ones(1, 3, 4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(variation(flat, beta).sum(), flat)
    assert torch.equal(gradient, torch.zeros_like(flat))


# --- Fourier


def colour_mix():
    """The symmetric C with C C = the colours' covariance, its mean variance 1."""
    covariance = np.array(COLOUR_COVARIANCE)
    values, vectors = np.linalg.eigh(covariance / np.diag(covariance).mean())
    return torch.from_numpy(vectors @ np.diag(np.sqrt(values)) @ vectors.T)


def slow_images(parameters, height, width, decay, decorrelate, bounds):
    """The inverse transform as the sum over all frequencies that it is, in complex numbers of numpy."""
    half = torch.view_as_complex(parameters).numpy()
    n = len(half)
    spectrum = np.zeros((n, 3, height, width), complex)
    weight = np.zeros((height, width))
    for a in range(height):
        for b in range(width):
            fy, fx = (v / m if v <= m // 2 else (v - m) / m for v, m in ((a, height), (b, width)))
            f = math.hypot(fy, fx)
            weight[a, b] = 1 / max(f, 1 / max(height, width)) ** decay
            if b <= width // 2:
                spectrum[:, :, a, b] = half[:, :, a, b]
            else:  # of a real picture
                spectrum[:, :, a, b] = half[:, :, -a % height, width - b].conj()
    # columns that are their own mirror image: the part that a real picture can have
    for b in {0, width // 2} if width % 2 == 0 else {0}:
        for a in range(height):
            pair = (half[:, :, a, b] + half[:, :, -a % height, b].conj()) / 2
            spectrum[:, :, a, b] = pair
    weight /= math.sqrt((weight**2).mean())
    colours = np.zeros((n, 3, height, width))
    for i in range(height):
        for j in range(width):
            wave = np.exp(
                2j * math.pi * (np.arange(height)[:, None] * i / height + np.arange(width) * j / width)
            )
            colours[:, :, i, j] = (spectrum * weight * wave).sum((2, 3)).real / math.sqrt(height * width)
    colours = torch.from_numpy(colours)
    if decorrelate:
        colours = torch.einsum("rc,nchw->nrhw", colour_mix(), colours)
    if bounds is None:
        return colours
    low, high = bounds
    return low + (high - low) / (1 + torch.exp(-colours))


BOUNDS = (
    torch.tensor([-1.0, -2.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1),
    torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64).view(1, 3, 1, 1),
)


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from(SIZES),
    decay=st.floats(0, 2),
    decorrelate=st.booleans(),
    bounds=st.sampled_from([None, BOUNDS]),
)
@settings(max_examples=20)
def test_fourier_equals_the_slow_sum_over_frequencies(seed, size, decay, decorrelate, bounds):
    space = fourier(decay, decorrelate=decorrelate).make(*size, bounds, LIKE)
    parameters = torch.randn(2, 3, size[0], size[1] // 2 + 1, 2, generator=seeded(seed), dtype=torch.float64)
    got = space.images(parameters)
    want = slow_images(parameters, *size, decay, decorrelate, bounds)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from(SIZES),
    decay=st.floats(0, 2),
    decorrelate=st.booleans(),
    bounded=st.booleans(),
)
@settings(max_examples=20)
def test_fourier_finds_the_parameters_of_images(seed, size, decay, decorrelate, bounded):
    images = random_images(seed, 2, size)
    low, high = BOUNDS
    if bounded:
        images = low + (high - low) * (0.01 + 0.98 * torch.sigmoid(images))
    space = fourier(decay, decorrelate=decorrelate).make(*size, BOUNDS if bounded else None, LIKE)
    with unchanged(images):
        parameters = space.inverse(images)
    torch.testing.assert_close(space.images(parameters), images, rtol=1e-8, atol=1e-8)
    assert space.settled(parameters) is parameters


def test_fourier_takes_black_and_white_for_nearly_so():
    low, high = BOUNDS
    space = fourier().make(6, 6, BOUNDS, LIKE)
    photo = torch.where(random_images(0, 1, (6, 6)) > 0, low, high)
    found = space.images(space.inverse(photo))
    # half a grey level at most, and never at a bound itself
    assert ((found - photo).abs() <= 1.001 * MARGIN * (high - low)).all()
    assert ((found > low) & (found < high)).all()


def test_fourier_is_differentiable():
    space = fourier().make(5, 6, BOUNDS, LIKE)
    parameters = space.draw(1, seeded()).requires_grad_()
    torch.autograd.gradcheck(space.images, parameters)


@pytest.mark.parametrize(("decay", "decorrelate", "size"), [(0, True, (32, 32)), (1.0, False, (33, 48))])
def test_the_noise_of_fourier_has_the_colours_and_the_spectrum_it_says(decay, decorrelate, size):
    space = fourier(decay, decorrelate=decorrelate, spread=0.2).make(*size, None, LIKE)
    images = space.images(space.draw(200, seeded()))
    covariance = torch.cov(images.transpose(0, 1).flatten(1))
    want = torch.eye(3, dtype=torch.float64)
    if decorrelate:
        want = torch.tensor(COLOUR_COVARIANCE, dtype=torch.float64)
        want = want / want.diagonal().mean()
    torch.testing.assert_close(covariance / 0.04, want, rtol=0.1, atol=0.06)
    power = torch.fft.fft2(images).abs().square().mean((0, 1))
    # twice the frequency, well inside the spectrum: the power falls by 2^(2 decay)
    ratio = (power[0, 4:6] / power[0, 8:12:2]).mean().item()
    assert ratio == pytest.approx(4**decay, rel=0.15)


def test_the_covariance_is_that_of_the_courses_photos():
    from lecture7_utils.shop.photos import photos

    moments, means = [], []
    for photo in photos():
        pixels = np.asarray(photo.image, dtype=np.float64).reshape(-1, 3) / 255
        moments.append(pixels.T @ pixels / len(pixels))
        means.append(pixels.mean(0))
    mean = np.mean(means, axis=0)
    measured = np.mean(moments, axis=0) - np.outer(mean, mean)
    assert len(means) == 21
    np.testing.assert_allclose(measured, COLOUR_COVARIANCE, atol=6e-5)


# --- pixels


def test_pixels_are_themselves_within_the_bounds():
    images = 3 * random_images(0, 2, (4, 5))
    free, bounded = Pixels(4, 5, None, LIKE), Pixels(4, 5, BOUNDS, LIKE)
    low, high = BOUNDS
    assert torch.equal(free.images(free.inverse(images)), images)
    clipped = torch.maximum(torch.minimum(images, high), low)
    assert torch.equal(bounded.inverse(images), clipped)
    assert torch.equal(bounded.settled(images), clipped)
    assert free.inverse(images).data_ptr() != images.data_ptr()


def test_the_noise_of_pixels():
    large = Pixels(40, 50, BOUNDS, LIKE).draw(4, seeded())
    low, high = BOUNDS
    inside = (large - (low + high) / 2) / (high - low)
    assert abs(inside.mean()) < 0.005
    assert inside.std().item() == pytest.approx(0.1, rel=0.03)
    free = Pixels(40, 50, None, LIKE).draw(4, seeded())
    torch.testing.assert_close(free, inside, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [Pixels, fourier().make])
def test_the_first_noise_is_the_same_however_many_there_are(make):
    space = make(5, 7, None, LIKE)
    few, many = space.draw(1, seeded(3)), space.draw(6, seeded(3))
    assert torch.equal(few, many[:1])
    assert len({tuple(noise.flatten().tolist()) for noise in many}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    like = torch.zeros(0, dtype=dtype)
    assert normal(2, (3, 4), seeded(), like).dtype == dtype
    for make in (Pixels, fourier().make):
        space = make(6, 7, tuple(b.to(dtype) for b in BOUNDS), like)
        parameters = space.draw(2, seeded())
        images = space.images(parameters)
        assert parameters.dtype == images.dtype == space.inverse(images).dtype == dtype
        assert images.shape == (2, 3, 6, 7)


# --- sorting


def test_parts_are_sorted_by_kind_in_their_order():
    parts = [
        jitter(1), fourier(), gaussian_blur(), total_variation(), rotate_and_scale(), jitter(4),
        Penalty("mine", 1.0, lambda images: images.sum((1, 2, 3))),
    ]  # fmt: skip
    transforms, penalties, corrections, space = sorted_out(parts)
    assert transforms == [parts[0], parts[4], parts[5]]
    assert penalties == [parts[3], parts[6]]
    assert corrections == [parts[2]]
    assert space is parts[1]
    assert sorted_out(()) == ([], [], [], Parametrisation("pixels", Pixels))
    assert isinstance(jitter(), Transform)
    assert isinstance(gaussian_blur(), Correction)


@pytest.mark.parametrize(
    "regularise",
    [
        None,
        "jitter",
        jitter(),
        {jitter()},
        [None],
        [3],
        [lambda images: images],
        [fourier(), fourier(0.5)],
        [total_variation(), total_variation(0.1)],
        [Penalty("l2", 1.0, lambda images: images.sum((1, 2, 3)))],
    ],
    ids=range(10),
)
def test_regularise_refused(regularise):
    refuses("regularise", sorted_out, regularise)


def test_a_part_that_was_not_called():
    refuses("regularise", sorted_out, [jitter], says="call it")


NO_NUMBERS = [None, "3", [1], torch.ones(1), math.nan, math.inf, True]


@pytest.mark.parametrize(
    ("name", "make", "values"),
    [
        ("pixels", jitter, [None, 1.5, -1, "2", True, [3]]),
        ("degrees", lambda v: rotate_and_scale(v), [*NO_NUMBERS, -1, 181]),
        ("scale", lambda v: rotate_and_scale(1, v), [*NO_NUMBERS, -0.1, 0.95]),
        ("sigma", lambda v: gaussian_blur(v), [*NO_NUMBERS, -0.1]),
        ("every", lambda v: gaussian_blur(1, v), [None, 0, 1.0, "1", False]),
        ("weight", lambda v: total_variation(v), [*NO_NUMBERS, -1]),
        ("beta", lambda v: total_variation(1, v), [*NO_NUMBERS, 0.5, 4.5]),
        ("decay", lambda v: fourier(v), [*NO_NUMBERS, -1, 3.5]),
        ("decorrelate", lambda v: fourier(decorrelate=v), [None, 1, "yes"]),
        ("spread", lambda v: fourier(spread=v), [*NO_NUMBERS, -1]),
    ],
)
def test_arguments_refused(name, make, values):
    for value in values:
        refuses(name, make, value)
