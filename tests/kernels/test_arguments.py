"""The shared validators: what they take, and that each refusal names argument, expectation and what came."""

import math
import operator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lecture7_utils.kernels.arguments import (
    as_generator,
    describe,
    require_choice,
    require_images,
    require_int,
    require_map,
    require_model,
    require_number,
)
from tests.guards import refuses, unchanged
from tests.nets import random_images, random_net

NO_NUMBERS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=80),
    st.binary(max_size=5),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=9),
    st.dictionaries(st.integers(), st.integers(), max_size=2),
    st.just(np.zeros((2, 3))),
    st.just(np.array([1])),
    st.just(np.array([[1]])),
    st.just(np.bool_(True)),
    st.just(torch.zeros(2)),
    st.just(torch.zeros(1, 1)),
    st.just(torch.tensor(True)),
    st.just(torch.tensor([[3]])),
    st.just(object()),
    st.just(int),
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), "uint8 [2, 3]"),
        (torch.tensor(1.5), "float32 []"),
        (np.zeros((4, 5), np.float32), "ndarray float32 [4, 5]"),
        (np.float64(2.5), "np.float64(2.5)"),
        ("dog", "'dog'"),
        (None, "None"),
        ([1, 2, 3], "[1, 2, 3]"),
        (list(range(10**6)), "a list of 1000000"),
        ("x" * 100, "str 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"),
    ],
)
def test_describe(value, text):
    assert describe(value) == text


@given(st.recursive(NO_NUMBERS, lambda inner: st.lists(inner, max_size=8)))
def test_describe_is_one_short_line(value):
    assert "\n" not in describe(value)
    assert len(describe(value)) <= 120


@given(st.one_of(NO_NUMBERS, st.just(nn.Linear), st.just(torch.relu)))
def test_model_refused(value):
    refuses("model", require_model, value, says="torch.nn.Module")


def test_a_bool_that_acts_as_an_int_is_refused():
    """numpy's bools do before numpy 2.3."""

    class Old(np.ndarray):
        def __index__(self):
            return 1

    value = np.array(True).view(Old)
    assert operator.index(value) == 1
    refuses("stride", require_int, value, "stride")


@given(NO_NUMBERS)
def test_int_refused(value):
    refuses("stride", require_int, value, "stride")


@given(st.floats())
def test_float_is_no_int(value):
    refuses("stride", require_int, value, "stride")
    refuses("stride", require_int, torch.tensor(value), "stride")
    refuses("stride", require_int, np.float64(value), "stride")


@pytest.mark.parametrize("make", [int, np.int8, np.uint64, torch.tensor, np.array])
def test_int_taken(make):
    value = require_int(make(7), "stride", 7, 7)
    assert type(value) is int
    assert value == 7


@given(st.integers(), st.integers(), st.integers())
def test_int_bounds(value, a, b):
    low, high = min(a, b), max(a, b)
    if low <= value <= high:
        assert require_int(value, "stride", low, high) == value
    else:
        refuses(
            "stride", require_int, value, "stride", low, high, says=f"between {low} and {high}, got {value}"
        )
    if value < low:
        refuses("stride", require_int, value, "stride", low, says=f"at least {low}")
    if value > high:
        refuses("stride", require_int, value, "stride", None, high, says=f"at most {high}")


@given(NO_NUMBERS)
def test_number_refused(value):
    refuses("noise", require_number, value, "noise")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, np.float32("nan")])
def test_number_not_finite(value):
    refuses("noise", require_number, value, "noise", says="finite")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), Fraction(4, 2)])
def test_number_taken(value):
    number = require_number(value, "noise", 0, 2)
    assert type(number) is float
    assert number == 2
    refuses("noise", require_number, value, "noise", 0, 1.5, says="between 0 and 1.5, got 2")


@given(st.one_of(NO_NUMBERS.filter(lambda v: v is not None), st.floats(), st.integers()))
def test_choice_refused(value):
    refuses("reduce", require_choice, value, "reduce", ("max", "l2", None), says="'max', 'l2', None")


def test_choice_does_not_mix_types():
    require_choice("max", "reduce", ("max", None))
    require_choice(None, "reduce", ("max", None))
    refuses("times_input", require_choice, 1, "times_input", (False, True))
    refuses("times_input", require_choice, 0.0, "times_input", (False, True))


BAD_IMAGES = {
    "none": None,
    "list": [[1.0]],
    "array": np.zeros((1, 3, 4, 4), np.float32),
    "ints": torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
    "bools": torch.zeros(1, 3, 4, 4, dtype=torch.bool),
    "complex": torch.zeros(1, 3, 4, 4, dtype=torch.complex64),
    "no batch": torch.zeros(3, 4, 4),
    "grey": torch.zeros(1, 1, 4, 4),
    "alpha": torch.zeros(1, 4, 4, 4),
    "channels last": torch.zeros(1, 4, 4, 3),
    "video": torch.zeros(1, 3, 2, 4, 4),
    "vector": torch.zeros(3),
    "number": torch.tensor(1.0),
    "no images": torch.zeros(0, 3, 4, 4),
    "no rows": torch.zeros(1, 3, 0, 4),
    "no columns": torch.zeros(1, 3, 4, 0),
    "nan": torch.full((1, 3, 4, 4), math.nan),
    "infinity": torch.full((1, 3, 4, 4), math.inf),
    "one infinity": torch.zeros(1, 3, 4, 4).index_fill_(3, torch.tensor(2), -math.inf),
    "sparse": torch.zeros(1, 3, 4, 4).to_sparse(),
    "meta": torch.zeros(1, 3, 4, 4, device="meta"),
    "another dtype": torch.zeros(1, 3, 4, 4, dtype=torch.float64),
    "half": torch.zeros(1, 3, 4, 4, dtype=torch.float16),
    "float8": torch.zeros(1, 3, 4, 4).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_images_refused(kind):
    net = nn.Conv2d(3, 2, 1)
    refuses("images", require_images, BAD_IMAGES[kind], net)
    refuses("photo", require_images, BAD_IMAGES[kind], net, "photo")


@given(st.lists(st.integers(0, 4), max_size=6))
def test_images_shapes(shape):
    images = torch.zeros(shape)
    if len(shape) == 4 and shape[1] == 3 and 0 not in shape:
        assert require_images(images) is images
    else:
        refuses("images", require_images, images)


def test_images_hints():
    refuses("images", require_images, torch.zeros(3, 4, 4), says=r"images\[None\] adds it")
    refuses("images", require_images, torch.zeros(4, 4), says="Classifier.preprocess")
    net = nn.Conv2d(3, 2, 1, device="meta")
    refuses(
        "images", require_images, torch.zeros(1, 3, 4, 4), net, says=r"device meta, got cpu; .*\.to\('meta'\)"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_taken(dtype):
    net, images = random_net(0, dtype=dtype), random_images(0, dtype=dtype)
    with unchanged(net, images):
        assert require_images(images, net) is images
        assert require_images(images, nn.ReLU()) is images  # a model without weights takes any dtype
        assert require_images(images) is images


@pytest.mark.parametrize(
    "value",
    [
        None,
        np.zeros((1, 2, 2)),
        torch.zeros(1, 2, 2, dtype=torch.int64),
        torch.zeros(2, 2),
        torch.zeros(1, 3, 2, 2),
        torch.zeros(1, 0, 2),
        torch.full((1, 2, 2), math.nan),
        torch.zeros(1, 2, 3),
    ],
    ids=str,
)
def test_map_refused(value):
    refuses("saliency", require_map, value, "saliency", torch.zeros(1, 2, 2))


def test_map_taken():
    value = torch.zeros(1, 2, 2)
    assert require_map(value, "saliency") is value
    assert require_map(value, "saliency", torch.ones(1, 2, 2)) is value


@given(st.one_of(NO_NUMBERS, st.floats(), st.integers(max_value=-1), st.integers(min_value=2**63)))
def test_generator_refused(value):
    refuses("generator", as_generator, value, torch.device("cpu"))


def test_generator():
    cpu = torch.device("cpu")
    given_one = torch.Generator()
    assert as_generator(given_one, cpu) is given_one
    with unchanged():
        one, other = as_generator(5, cpu), as_generator(np.int64(5), cpu)
        assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))
        third = as_generator(6, cpu)
        assert not torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=third))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_whose_sum_overflows(dtype):
    """The quick look at the sum must not refuse what is finite, nor let through what is not."""
    images = torch.full((1, 3, 8, 8), torch.finfo(dtype).max, dtype=dtype)
    assert require_images(images) is images
    images[0, 0] = -images[0, 1]
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = images.clone()
        broken[0, 2, 7, 7] = value
        refuses("images", require_images, broken, says="finite")
    broken[0, 0, 0, 0] = float("inf")  # the two infinities must not cancel
    refuses("images", require_images, broken, says="finite")
