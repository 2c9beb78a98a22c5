"""The weight gradient from bits, against float64 convolutions."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.grad import conv2d_weight

from tribin_kernels import launch, reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.finish_weight_gradient import finish_product, finish_weight_gradient
from tribin_kernels.weight_gradient import WeightGradientConfig, product_gradient

BITS_PER_THREAD = {  # block_channels and num_warps make it
    2: WeightGradientConfig(64, 16, 16, split=3, num_warps=4),
    4: WeightGradientConfig(64, 32, 32, split=2, num_warps=2),
    8: WeightGradientConfig(128, 16, 64, split=1, num_warps=2),
}
UNIT = 2.0**-24  # the most that float32 errs in rounding 1
DTYPES = [torch.bfloat16, torch.float16, torch.float32]  # float32 goes in as three terms

seeds = st.integers(0, 10**6)
configs = st.sampled_from(list(BITS_PER_THREAD.values()))


@st.composite
def shapes(draw: st.DrawFn) -> Conv2dShape:
    one_to_three = st.tuples(st.integers(1, 3), st.integers(1, 3))
    shape = Conv2dShape(
        batch=draw(st.integers(0, 3)),
        channels=draw(st.integers(1, 80)),
        height=draw(st.integers(1, 6)),
        width=draw(st.integers(1, 6)),
        outputs=draw(st.integers(1, 20)),
        kernel=draw(one_to_three),
        stride=draw(one_to_three),
        padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
    )
    assume(min(shape.output_size) > 0)
    return shape


def random_input(shape: Conv2dShape, generator: torch.Generator) -> Tensor:
    return torch.randn(shape.batch, shape.channels, shape.height, shape.width, generator=generator)


def random_gradient(shape: Conv2dShape, generator: torch.Generator) -> Tensor:
    return torch.randn(shape.batch, shape.outputs, *shape.output_size, generator=generator)


def operand(grad_y: Tensor, dtype: torch.dtype) -> Tensor:
    """What the kernel takes of a gradient of this dtype, channels-last."""
    rows = grad_y.permute(0, 2, 3, 1).contiguous()
    if dtype != torch.float32:
        return rows.to(dtype).permute(0, 3, 1, 2)
    terms, rest = [], rows
    for _ in range(3):
        terms.append(rest.bfloat16())
        rest = rest - terms[-1].float()
    return torch.stack(terms).permute(0, 1, 4, 2, 3)


def expected_product(grad_y: Tensor, x: Tensor, shape: Conv2dShape) -> Tensor:
    size = (shape.outputs, shape.channels, *shape.kernel)
    if shape.batch == 0:
        return torch.zeros(size, dtype=torch.float64)
    signs = torch.where(x < 0, -1.0, 1.0).double()
    return conv2d_weight(signs, size, grad_y.double(), shape.stride, shape.padding)


def bits_of(x: Tensor) -> Tensor:
    return reference.pack_signs(x.permute(0, 2, 3, 1))


def check_exact(
    shape: Conv2dShape, config: WeightGradientConfig, dtype: torch.dtype, seed: int
) -> None:
    """Integers have exact sums in any order."""
    generator = torch.Generator().manual_seed(seed)
    x, grad_y = random_input(shape, generator), (4 * random_gradient(shape, generator)).round()
    if dtype == torch.float32:
        grad_y = grad_y * 259  # in need of two bfloat16 terms
    partial_sums = product_gradient(operand(grad_y, dtype), bits_of(x), shape, config)
    assert partial_sums.shape[0] <= config.split
    assert torch.equal(partial_sums.sum(0).double(), expected_product(grad_y, x, shape))


@settings(max_examples=25)
@given(shapes(), configs, st.sampled_from(DTYPES), seeds)
def test_gradients_of_integers_are_exact(
    shape: Conv2dShape, config: WeightGradientConfig, dtype: torch.dtype, seed: int
) -> None:
    check_exact(shape, config, dtype, seed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", BITS_PER_THREAD)
def test_each_number_of_bits_per_thread(bits: int, dtype: torch.dtype) -> None:
    config = BITS_PER_THREAD[bits]
    assert config.block_channels // (8 * config.num_warps) == bits
    check_exact(Conv2dShape(2, 70, 5, 3, 20, (1, 3), (1, 1), (0, 1)), config, dtype, bits)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Conv2dShape(1, 256, 8, 8, 256, (3, 3), (1, 1), (1, 1)), id="resnet_vae"),
        pytest.param(Conv2dShape(1, 240, 16, 8, 120, (3, 3), (1, 1), (1, 1)), id="flowpp"),
        pytest.param(Conv2dShape(2, 32, 5, 5, 8, (5, 5), (1, 1), (2, 2)), id="5x5"),
        pytest.param(Conv2dShape(2, 40, 7, 5, 6, (3, 3), (2, 2), (1, 1)), id="stride 2"),
        pytest.param(Conv2dShape(1, 1, 1, 1, 1, (3, 3), (1, 1), (1, 1)), id="one pixel"),
        pytest.param(Conv2dShape(77, 300, 1, 1, 130), id="linear"),
        pytest.param(Conv2dShape(0, 64, 4, 4, 16, (3, 3), (1, 1), (1, 1)), id="empty batch"),
    ],
)
def test_default_config(shape: Conv2dShape) -> None:
    check_exact(shape, WeightGradientConfig(), torch.bfloat16, 0)


@pytest.mark.parametrize("rows", [64, 95, 96, 97, 112])
def test_parts_of_several_steps(rows: int) -> None:
    """At most three parts share 4 to 7 steps; the last part may have fewer than the others."""
    config = WeightGradientConfig(32, 16, 16, split=3, num_warps=2)
    check_exact(Conv2dShape(rows, 20, 1, 1, 9), config, torch.bfloat16, rows)
    check_exact(Conv2dShape(1, 20, rows, 1, 9, (3, 1), (1, 1), (1, 0)), config, torch.float32, rows)


@settings(max_examples=10)
@given(shapes(), configs, st.sampled_from(DTYPES), seeds)
def test_random_gradients_err_as_their_sums_in_float32_may(
    shape: Conv2dShape, config: WeightGradientConfig, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, grad_y = random_input(shape, generator), random_gradient(shape, generator).to(dtype)
    actual = product_gradient(operand(grad_y.float(), dtype), bits_of(x), shape, config).sum(0)
    expected = expected_product(grad_y, x, shape)
    magnitude = expected_product(grad_y.abs(), torch.ones_like(x), shape)
    additions = shape.pixels * (3 if dtype == torch.float32 else 1) + config.split
    # The terms of a float32 are at most 1.01 times as large together.
    assert bool(((actual - expected).abs() <= 1.01 * additions * UNIT * magnitude).all())


def test_any_memory_order_of_the_gradient() -> None:
    shape = Conv2dShape(2, 33, 3, 4, 5, (3, 1), (1, 1), (1, 0))
    generator = torch.Generator().manual_seed(0)
    signs, grad_y = bits_of(random_input(shape, generator)), random_gradient(shape, generator)
    config = BITS_PER_THREAD[2]
    expected = product_gradient(operand(grad_y, torch.float16), signs, shape, config)
    assert torch.equal(product_gradient(grad_y.half(), signs, shape, config), expected)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        (Conv2dShape(128, 256, 16, 16, 256, (3, 3), (1, 1), (1, 1)), (18, 7)),
        (Conv2dShape(4096, 8192, 1, 1, 8192), (2048, 1)),
        (Conv2dShape(100, 64, 1, 1, 8), (1, 2)),
        (Conv2dShape(0, 64, 1, 1, 8), (1, 1)),
    ],
)
def test_programs_of_the_default_config(shape: Conv2dShape, grid: tuple[int, int]) -> None:
    pixels = (shape.batch, shape.height, shape.width)
    signs = torch.empty(*pixels, shape.channels // 32, dtype=torch.int32, device="meta")
    grad_y = torch.empty(*pixels, shape.outputs, dtype=torch.bfloat16, device="meta")
    with launch.record() as launches:
        partial_sums = product_gradient(grad_y.permute(0, 3, 1, 2), signs, shape)
    assert [each.grid for each in launches] == [grid]
    assert partial_sums.shape == (grid[1], shape.outputs, shape.channels, *shape.kernel)


def test_too_many_pixels() -> None:
    shape = Conv2dShape(2**31, 1, 1, 1, 1)
    signs = torch.empty(2**31, 1, 1, 1, dtype=torch.int32, device="meta")
    grad_y = torch.empty(2**31, 1, 1, 1, dtype=torch.float16, device="meta")
    with pytest.raises(ValueError, match="shape: 2147483648 pixels are not fewer than"):
        product_gradient(grad_y, signs, shape)


formats = st.sampled_from([torch.contiguous_format, torch.channels_last])


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3), formats, formats, st.sampled_from(DTYPES), st.sampled_from(DTYPES), seeds,
)  # fmt: skip
def test_finish_is_exact_for_integers(
    size: tuple[int, int, int, int],
    split: int,
    sums_format: torch.memory_format,
    latent_format: torch.memory_format,
    latent_dtype: torch.dtype,
    sums_dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randint(-1, 2, size, generator=generator).to(latent_dtype)
    latent = torch.where(latent == 0, -0.0, latent).contiguous(memory_format=latent_format)
    sums = torch.randint(-4, 5, (split, *size), generator=generator).to(sums_dtype)
    sums = sums.flatten(0, 1).contiguous(memory_format=sums_format).unflatten(0, (split, size[0]))
    gain = torch.randint(-2, 3, size[:1], generator=generator).to(latent_dtype)
    grad_latent, grad_gain = finish_weight_gradient(sums, latent, gain, 0.25)
    product = sums.double().sum(0)
    signs = torch.where(latent < 0, -1.0, 1.0).double()
    expected = product * gain.double().view(-1, 1, 1, 1) * 0.25
    assert torch.equal(grad_latent, expected.to(latent_dtype))
    assert torch.equal(grad_gain, ((product * signs).sum((1, 2, 3)) * 0.25).to(latent_dtype))
    assert grad_latent.is_contiguous(memory_format=reference.memory_format(latent))


@pytest.mark.parametrize("latent_format", [torch.contiguous_format, torch.channels_last])
def test_finish_of_a_library_product(latent_format: torch.memory_format) -> None:
    """More elements than a program takes at a time; the product is transposed and strided."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(3, 240, 3, 3, generator=generator).contiguous(memory_format=latent_format)
    product = torch.randn(3, 3, 480, 3, generator=generator)[:, :, ::2].permute(0, 2, 3, 1)
    gain = torch.rand(3, generator=generator)
    grad_latent, grad_gain = finish_product(product, latent, gain, 1 / math.sqrt(2160))
    scale = gain.double().view(-1, 1, 1, 1) / math.sqrt(2160)
    expected = product.double() * scale
    assert bool(((grad_latent - expected).abs() <= 3 * UNIT * expected.abs()).all())
    expected_gain = (product.double() * latent.sign()).sum((1, 2, 3)) / math.sqrt(2160)
    bound = 2162 * UNIT * product.abs().sum((1, 2, 3)) / math.sqrt(2160)
    assert bool(((grad_gain - expected_gain).abs() <= bound).all())


@pytest.mark.parametrize("latent_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_a_layer(latent_format: torch.memory_format) -> None:
    """Both steps together are what autograd makes of sign(v)·α."""
    shape = Conv2dShape(2, 37, 5, 4, 19, (3, 3), (2, 1), (1, 2))
    generator = torch.Generator().manual_seed(0)
    x, grad_y = random_input(shape, generator), (8 * random_gradient(shape, generator)).round()
    latent = torch.randn(19, 37, 3, 3, generator=generator).contiguous(memory_format=latent_format)
    gain = torch.tensor([0.5, -1.0, 2.0] * 6 + [0.0])
    partial_sums = product_gradient(operand(grad_y, torch.bfloat16), bits_of(x), shape)
    grad_latent, grad_gain = finish_weight_gradient(partial_sums, latent, gain, 0.125)

    signs = torch.where(latent < 0, -1.0, 1.0).double().requires_grad_()
    leaf = gain.double().requires_grad_()
    weight = signs * leaf.view(-1, 1, 1, 1) * 0.125
    x_signs = torch.where(x < 0, -1.0, 1.0).double()
    y = torch.nn.functional.conv2d(x_signs, weight, None, shape.stride, shape.padding)
    y.backward(grad_y.double())
    assert torch.equal(grad_latent.double(), signs.grad)
    assert torch.equal(grad_gain.double(), leaf.grad)
