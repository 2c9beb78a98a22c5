"""The specification of packed_conv2d against float64 sums over the taps, in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.packed_arguments import Case, Operands, arguments, cases, operands, row_bits
from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPE = Conv2dShape(2, 35, 5, 4, 6, kernel=(3, 2), stride=(2, 1), padding=(1, 2))


def conv2d(x: np.ndarray, weight: np.ndarray, shape: Conv2dShape) -> np.ndarray:
    (rows, columns), (down, right) = shape.output_size, shape.stride
    padded = np.pad(x, ((0, 0), (0, 0), *((size, size) for size in shape.padding)))
    y = np.zeros((len(x), shape.outputs, rows, columns))
    for i in range(shape.kernel[0]):
        for j in range(shape.kernel[1]):
            pixels = padded[:, :, i : i + down * rows : down, j : j + right * columns : right]
            y += np.einsum("nchw,oc->nohw", pixels[:, :, :rows, :columns], weight[:, :, i, j])
    return y


def exact(case: Case, given: Operands, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Y in float64, and how far from it a computation may be that rounds by `eps`."""
    shape, per_channel = case.shape, (slice(None), None, None)
    x, weight = given.x.double().numpy(), given.weight.double().numpy()
    scale = given.scale.double().numpy()[per_channel]
    if case.input == "real":
        # A sum of n products, in any order.
        terms = conv2d(abs(x), abs(weight), shape)
        bound = shape.terms * eps * terms * abs(scale)
    else:
        x = np.where(x < 0, -1.0, 1.0)  # and the sum is an integer
        bound = 0.0
    z = conv2d(x, weight, shape) * scale
    bound = bound + eps * abs(z)
    if given.bias is not None:
        z = z + given.bias.double().numpy()[per_channel]
        bound = bound + eps * abs(z)
    if given.slope is not None:
        slope = given.slope.double().numpy()[per_channel]
        bound = bound * np.maximum(1, abs(slope)) + eps * abs(slope * z)
        z = np.where(z > 0, z, slope * z)
    if case.gate:
        (a, b), (bound_a, bound_b) = np.split(z, 2, axis=1), np.split(bound, 2, axis=1)
        z = a / (1 + np.exp(-b))
        # The sigmoid's slope is 1/4 at most; exponential, sum, quotient and product round.
        bound = bound_a + (abs(a) + bound_a) * (bound_b / 4 + 8 * eps)
    if given.residual is not None:
        z = z + given.residual.double().numpy()
        bound = bound + eps * (abs(z) + bound)
    if case.elu:
        z, bound = np.where(z < 0, np.expm1(np.minimum(z, 0)), z), bound + 4 * eps
    return z, bound


def check_real(y: Tensor, wanted: np.ndarray, bound: np.ndarray) -> None:
    info = torch.finfo(y.dtype)
    rounding = info.eps * (abs(wanted) + bound) + info.smallest_normal * info.eps
    assert y.shape == wanted.shape
    assert (abs(y.double().numpy() - wanted) <= bound + rounding).all()


def check_bits(bits: Tensor, wanted: np.ndarray, bound: np.ndarray) -> None:
    expected = row_bits(torch.from_numpy(wanted))
    assert (bits.dtype, bits.shape) == (expected.dtype, expected.shape)
    uncertain = row_bits(torch.from_numpy(np.where(abs(wanted) <= bound, -1.0, 1.0)))
    assert not ((bits ^ expected) & ~uncertain).any()


def check(case: Case, dtype: torch.dtype) -> None:
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    result = reference.packed_conv2d(*arguments(case, dtype))
    if case.to_bits:
        check_bits(result, *exact(case, operands(case, dtype), eps))
        return
    assert result.dtype == dtype
    check_real(result, *exact(case, operands(case, dtype), eps))


@settings(max_examples=150)
@given(cases(max_channels=70, max_outputs=40), st.sampled_from(DTYPES))
def test_ragged_shapes(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("input", ["real", "signs", "bits"])
@pytest.mark.parametrize("to_bits", [False, True])
def test_every_step_at_once(dtype: torch.dtype, input: str, to_bits: bool) -> None:
    case = Case(
        SHAPE, input, has_slope=True, has_residual=True, gate=True, elu=True, to_bits=to_bits
    )
    check(case, dtype)


def test_bits_are_of_the_signs_that_exact_results_have() -> None:
    """Of integers, many of them 0, whose sign is +1."""
    case = Case(
        SHAPE, "bits", has_slope=True, has_residual=True, elu=True, to_bits=True, integers=True
    )
    wanted, _ = exact(case, operands(case), eps=0.0)
    assert (wanted == 0).mean() > 0.02
    assert torch.equal(
        reference.packed_conv2d(*arguments(case)), row_bits(torch.from_numpy(wanted))
    )


@pytest.mark.parametrize("input", ["real", "signs", "bits"])
@pytest.mark.parametrize("x_layout", ["contiguous", "channels_last", "every second column"])
def test_the_result_is_channels_last_where_x_is_or_is_bits(input: str, x_layout: str) -> None:
    y = reference.packed_conv2d(*arguments(Case(SHAPE, input, x_layout=x_layout)))
    channels_last = input == "bits" or x_layout == "channels_last"
    assert y.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert y.is_contiguous() != channels_last


def test_bits_give_a_result_of_the_scales_dtype() -> None:
    case = Case(SHAPE, "bits")
    x, weight_bits, scale, bias, *others = arguments(case)
    for dtype in DTYPES:
        y = reference.packed_conv2d(x, weight_bits, scale.to(dtype), bias, *others)
        assert y.dtype == dtype
    x, weight_bits, scale, bias, *others = arguments(replace(case, input="signs"))
    y = reference.packed_conv2d(x, weight_bits, scale.double(), bias, *others)
    assert y.dtype == torch.float32


def test_autocast_does_not_lower_it() -> None:
    given = arguments(Case(SHAPE, "real", has_slope=True))
    with torch.autocast("cpu", torch.bfloat16):
        lowered = reference.packed_conv2d(*given)
    assert torch.equal(lowered, reference.packed_conv2d(*given))
