import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels.scale_gradient import scale_gradient, split_float32

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FACTOR = 0.3

seeds = st.integers(0, 10**6)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def as_expanded_sum(x: Tensor) -> Tensor:
    """The gradient that a sum over the pixels hands back."""
    return x[:, :, :1, :1].expand(x.shape)


def as_crop(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x, (1, 0, 2, 1, 3, 1), value=math.nan)[:, 3:-1, 2:-1, 1:]


STRIDES = [as_contiguous, as_channels_last, as_expanded_sum, as_crop]


def product(grad_y: Tensor, gain: Tensor) -> Tensor:
    """Rounded where the docstring says: the scale, and the product, to float32."""
    scale = gain.float() * torch.tensor(FACTOR, dtype=torch.float32)
    return grad_y.float() * scale.view(-1, 1, 1)


def assert_is_sum_of(grad_bias: Tensor, grad_y: Tensor) -> None:
    exact = grad_y.double().sum((0, 2, 3))
    pixels = grad_y[:, 0].numel()
    bound = (pixels / 128 + 128) * 2**-24 * grad_y.double().abs().sum((0, 2, 3))
    assert grad_bias.dtype == torch.float32
    assert bool(((grad_bias - exact).abs() <= bound).all())


@settings(max_examples=25)
@given(
    seed=seeds,
    shape=st.tuples(st.integers(0, 3), st.integers(1, 80), st.integers(1, 9), st.integers(1, 9)),
    strides=st.sampled_from(STRIDES),
    given_dtype=st.sampled_from(DTYPES),
    gain_dtype=st.sampled_from(DTYPES),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_product_and_sum(
    seed: int,
    shape: tuple[int, ...],
    strides: object,
    given_dtype: torch.dtype,
    gain_dtype: torch.dtype,
    dtype: torch.dtype,
) -> None:
    grad_y = strides(normal(seed, *shape).to(given_dtype))
    gain = normal(seed + 1, shape[1]).to(gain_dtype)
    scaled, grad_bias = scale_gradient(grad_y, gain, FACTOR, dtype=dtype)
    assert scaled.permute(0, 2, 3, 1).is_contiguous()
    assert scaled.dtype == dtype
    assert torch.equal(scaled, product(grad_y, gain).to(dtype))
    assert_is_sum_of(grad_bias, grad_y)


@settings(max_examples=10)
@given(
    seed=seeds,
    shape=st.tuples(st.integers(0, 3), st.integers(1, 80), st.integers(1, 5), st.integers(1, 5)),
    strides=st.sampled_from(STRIDES),
)
def test_terms_of_the_product(seed: int, shape: tuple[int, ...], strides: object) -> None:
    grad_y, gain = strides(normal(seed, *shape)), normal(seed + 1, shape[1])
    terms, grad_bias = scale_gradient(grad_y, gain, FACTOR, dtype=torch.bfloat16, terms=True)
    assert terms.permute(0, 1, 3, 4, 2).is_contiguous()
    assert torch.equal(terms.double().sum(0), product(grad_y, gain).double())
    assert_is_sum_of(grad_bias, grad_y)


def test_sum_over_many_pixels_is_the_same_in_every_run() -> None:
    grad_y = as_channels_last(normal(0, 5, 3, 33, 31)) + 1000
    gain = torch.ones(3)
    sums = [scale_gradient(grad_y, gain, 1.0, dtype=torch.bfloat16)[1] for _ in range(2)]
    assert torch.equal(*sums)
    assert_is_sum_of(sums[0], grad_y)


def test_not_finite_gradients_stay_so() -> None:
    grad_y = torch.tensor([math.inf, -math.inf, math.nan, -0.0]).view(1, 4, 1, 1)
    scaled, grad_bias = scale_gradient(grad_y, torch.full((4,), -2.0), 1.0, dtype=torch.float16)
    expected = torch.tensor([-math.inf, math.inf, math.nan, 0.0])
    assert torch.equal(scaled.flatten().float().nan_to_num(7), expected.nan_to_num(7))
    assert torch.equal(grad_bias.nan_to_num(7), grad_y.flatten().nan_to_num(7))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # inf − inf
@given(bits=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40))
@example(bits=[0x7F800000, -0x800000, 0x7F7FFFFF, 0x7F7F7FFF, 0x7FC00000])  # ±inf, largest, NaN
@example(bits=[0, -(2**31), 1, 0x007FFFFF, 0x087FFFFF, 0x08800001])  # ±0, denormal, about 2⁻¹¹⁰
def test_split_of_any_float32(bits: list[int]) -> None:
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    hi, mid, lo = terms = split_float32(x)
    total, exact = terms.double().sum(0), x.double()
    overflow, nan = hi.isinf(), x.isnan()
    large = ((exact.abs() >= 2**-110) | (x == 0)) & ~overflow & ~nan
    assert torch.equal(hi[~nan], x.bfloat16()[~nan])
    assert bool(terms[:, nan].isnan().all())
    assert bool(((mid == 0) & (lo == 0))[overflow].all())
    assert torch.equal(total[large], exact[large])
    small = ~large & ~overflow & ~nan
    assert bool(((total - exact).abs() <= 2**-134)[small].all())


@settings(max_examples=15)
@given(
    seed=seeds,
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)),
    strides=st.sampled_from(STRIDES),
)
def test_split_keeps_the_memory_order(seed: int, shape: tuple[int, ...], strides: object) -> None:
    x = strides(normal(seed, *shape))
    terms = split_float32(x)
    assert terms.dtype == torch.bfloat16
    assert torch.equal(terms.double().sum(0), x.double())
    if strides in (as_contiguous, as_channels_last):
        assert terms.stride() == (x.numel(), *x.stride())


@pytest.mark.parametrize("shape", [(), (5,), (3, 700), (2, 0)])
def test_split_of_any_shape(shape: tuple[int, ...]) -> None:
    x = normal(0, *shape)
    assert torch.equal(split_float32(x).double().sum(0), x.double())


@pytest.mark.parametrize(
    ("grad_y", "gain", "error", "message"),
    [
        (torch.zeros(1, 2, 3, 4).double(), torch.ones(2), TypeError, "the dtype torch.float64"),
        (torch.zeros(1, 2), torch.ones(2), ValueError, r"the shape \[1, 2\], wanted \[N, out,"),
        (torch.zeros(1, 2, 3, 4), torch.ones(3), ValueError, r"shape \[3\], wanted \[2\]"),
    ],
)
def test_bad_input(grad_y: Tensor, gain: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        scale_gradient(grad_y, gain, 1.0, dtype=torch.bfloat16)


def test_split_takes_float32_alone() -> None:
    with pytest.raises(TypeError, match="bfloat16, wanted float32"):
        split_float32(torch.zeros(3, dtype=torch.bfloat16))
