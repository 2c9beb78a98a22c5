import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels.formats import to_paired
from tribin_kernels.launch import record
from tribin_kernels.pack_activations import pack_activations, pack_rows
from tribin_kernels.reference import (
    activation_mask,
    pack_bits,
    pack_signs,
    unpack_bits,
    unpack_signs,
)
from tribin_kernels.unpack_rows import unpack_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The smallest positive float32 is to be seen as what it is, not flushed to zero.
SPECIAL = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1.01, -1.01]

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 10**6)


def activations(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers of about 1, one in five of them special."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.2, special, x).to(dtype)


def as_contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def as_slice_of_channels(x: Tensor) -> Tensor:
    wide = torch.full((x.shape[0], *x.shape[2:], x.shape[1] + 3), math.nan, dtype=x.dtype)
    wide[..., 1:-2] = x.permute(0, 2, 3, 1)
    return wide.permute(0, 3, 1, 2)[:, 1:-2]


def as_crop(x: Tensor) -> Tensor:
    large = x.new_full((*x.shape[:2], 2 * x.shape[2], x.shape[3] + 1), math.nan)
    large[:, :, ::2, 1:] = x
    return large[:, :, ::2, 1:]


STRIDES = [as_contiguous, as_channels_last, as_slice_of_channels, as_crop]


def row_bits(bits: Tensor) -> Tensor:
    return pack_bits(bits.permute(0, 2, 3, 1))


def paired_bits(signs: Tensor, height: int, width: int) -> Tensor:
    """`to_paired` of the pixels laid out anew as images, with zeros behind the last."""
    rows = signs.flatten(0, 2)
    images = math.ceil(len(rows) / (height * width))
    filled = rows.new_zeros(images * height * width, rows.shape[1])
    filled[: len(rows)] = rows
    return to_paired(filled.view(images, height, width, -1))


@settings(max_examples=25)
@given(
    seed=seeds,
    shape=st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 5)),
    strides=st.sampled_from(STRIDES),
    dtype=dtypes,
)
def test_row_bits_of_signs_and_mask(
    seed: int, shape: tuple[int, ...], strides: object, dtype: torch.dtype
) -> None:
    x = strides(activations(seed, *shape, dtype=dtype))
    signs, mask, paired = pack_activations(x)
    assert torch.equal(signs, row_bits(x < 0))
    assert torch.equal(mask, row_bits(activation_mask(x)))
    assert paired is None


@settings(max_examples=15)
@given(
    seed=seeds,
    batch=st.integers(1, 5),
    channels=st.sampled_from([1, 31, 64, 120, 240, 256, 257, 300]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.sampled_from(STRIDES),
)
def test_paired_images(
    seed: int, batch: int, channels: int, size: tuple[int, int], strides: object
) -> None:
    x = strides(activations(seed, batch, channels, *size))
    signs, mask, paired = pack_activations(x, mask=False, paired_size=size)
    assert mask is None
    assert torch.equal(signs, row_bits(x < 0))
    assert torch.equal(paired, to_paired(row_bits(x < 0)))


@pytest.mark.parametrize("rows", [0, 1, 7, 16, 17, 40])
def test_paired_rows_of_a_linear_layer_are_filled_with_zeros(rows: int) -> None:
    x = activations(rows, rows, 290, 1, 1)
    size = math.ceil(rows / 16), 8
    _, mask, paired = pack_activations(x, paired_size=size)
    assert paired.shape == (min(rows, 1), 2, *size, 4, 2, 2)
    if rows:
        assert torch.equal(paired, paired_bits(row_bits(x < 0), *size))
    assert torch.equal(mask, row_bits(activation_mask(x)))


def test_paired_images_of_another_size_than_those_of_x() -> None:
    x = as_channels_last(activations(0, 3, 40, 5, 3))
    _, _, paired = pack_activations(x, paired_size=(2, 4))
    assert torch.equal(paired, paired_bits(row_bits(x < 0), 2, 4))


@pytest.mark.parametrize("strides", [as_contiguous, as_channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_is_one_fused_multiply_add(strides: object, dtype: torch.dtype) -> None:
    x = strides(activations(1, 2, 45, 3, 4, dtype=dtype))
    scale, shift = torch.randn(2, 45, generator=torch.Generator().manual_seed(2))
    # Fused, −(1 + 2⁻¹²)² + 1 + 2⁻¹¹ is −2⁻²⁴ and negative; with a rounded product it is 0.
    x[0, 0, 0, 0], scale[0], shift[0] = -(1 + 2**-12), 1 + 2**-12, 1 + 2**-11
    # Of a float32's and a float32's product, float64 is exact; one rounding remains.
    exact = x.double() * scale.view(-1, 1, 1).double() + shift.view(-1, 1, 1).double()
    signs, mask, _ = pack_activations(x, affine=(scale, shift))
    assert torch.equal(signs, row_bits(exact.float() < 0))
    assert torch.equal(mask, row_bits(activation_mask(exact.float())))


def test_fill_bits_are_zero() -> None:
    x = torch.full((1, 33, 1, 3), -0.5)
    shift = torch.full((33,), -0.25)
    signs, mask, paired = pack_activations(x, paired_size=(1, 3), affine=(-shift, shift))
    assert signs.flatten().tolist() == mask.flatten().tolist() == [-1, 1] * 3
    assert int(unpack_bits(paired.flatten(), paired.numel() * 32).sum()) == 3 * 33


@settings(max_examples=15)
@given(
    seed=seeds,
    outer=st.lists(st.integers(0, 4), max_size=3),
    length=st.integers(1, 300),
    dtype=dtypes,
)
def test_rows_and_back(seed: int, outer: list[int], length: int, dtype: torch.dtype) -> None:
    x = activations(seed, *outer, length, dtype=dtype)
    bits = pack_rows(x)
    assert torch.equal(bits, pack_signs(x))
    assert torch.equal(unpack_rows(bits, length, dtype), unpack_signs(bits, length, dtype))


def test_rows_of_any_strides() -> None:
    x = activations(3, 6, 5, 130)
    for view in (x.transpose(0, 1), x.transpose(0, 2), x[::2, :, 3:], x[:, 1:2, ::3]):
        assert torch.equal(pack_rows(view), pack_signs(view))
    bits = pack_rows(x).transpose(0, 1)
    assert torch.equal(unpack_rows(bits, 130, x.dtype), unpack_signs(bits, 130, x.dtype))


def test_a_single_launch_reads_x_in_place() -> None:
    for strides in (as_contiguous, as_channels_last, as_slice_of_channels):
        x = strides(activations(0, 2, 64, 4, 4)).to("meta")
        with record() as launches:
            pack_activations(x, paired_size=(4, 4))
        assert [launch.arguments["x"]._base is not None for launch in launches] == [True]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.zeros(1, 2, 3, 4).double()}, TypeError, "x has the dtype torch.float64"),
        ({"x": torch.zeros(3, 4)}, ValueError, r"x has the shape \[3, 4\], wanted \[N, C, H, W\]"),
        ({"paired_size": (0, 4)}, ValueError, r"paired_size is \(0, 4\), wanted"),
        ({"paired_size": (2**20, 2**20)}, ValueError, "wanted at most"),
        (
            {"affine": (torch.ones(2), torch.ones(3))},
            ValueError,
            r"shift of affine has the shape \[3\], wanted \[2\]",
        ),
    ],
)
def test_bad_input(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pack_activations(**({"x": torch.zeros(1, 2, 3, 4)} | arguments))


def test_bad_rows() -> None:
    with pytest.raises(ValueError, match="wanted"):
        pack_rows(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"shape \[3, 2\], wanted \[..., 3\] for length 70"):
        unpack_rows(torch.zeros(3, 2, dtype=torch.int32), 70, torch.float32)
    with pytest.raises(TypeError, match="int64"):
        unpack_rows(torch.zeros(3, 2, dtype=torch.int64), 64, torch.float32)
