import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels import launch
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.int8_mma import Int8MmaConfig, conv2d_w1a1
from tribin_kernels.reference import activation_mask, pack_bits, pack_signs, sign

SMALL = Int8MmaConfig(block_pixels=32, block_outputs=32, block_words=2)

FACTOR = 0.0625


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def operands(shape: Conv2dShape, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = random(seed, shape.batch, shape.channels, shape.height, shape.width)
    return x, random(seed + 1, shape.outputs, shape.channels, *shape.kernel)


def row_bits(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return pack_signs(x.permute(0, 2, 3, 1)), pack_signs(weight.flatten(2).transpose(1, 2))


def dots(x: Tensor, weight: Tensor, shape: Conv2dShape) -> Tensor:
    """Float64: every sum of signs is exact."""
    signs, weights = sign(x).double(), sign(weight).double()
    return F.conv2d(signs, weights, None, shape.stride, shape.padding)


def assert_dots_are_exact(shape: Conv2dShape, config: Int8MmaConfig = SMALL, seed: int = 0) -> None:
    x, weight = operands(shape, seed)
    y, signs, mask = conv2d_w1a1(
        *row_bits(x, weight), None, 1.0, None, shape, dtype=torch.float32, config=config
    )
    assert y is not None
    assert (signs, mask) == (None, None)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y.double(), dots(x, weight, shape))


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    channels=st.integers(1, 140),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    outputs=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    block_words=st.sampled_from([1, 2, 8]),
)
def test_dots_are_exact(
    seed: int,
    batch: int,
    channels: int,
    size: tuple[int, int],
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    block_words: int,
) -> None:
    shape = Conv2dShape(batch, channels, *size, outputs, kernel, stride, padding)
    assume(min(shape.output_size) > 0)
    assert_dots_are_exact(shape, Int8MmaConfig(32, 32, block_words), seed)


@pytest.mark.parametrize(
    "shape",
    [
        Conv2dShape(1, 1, 1, 1, 1),
        Conv2dShape(3, 1, 4, 5, 2, (3, 3), (1, 1), (1, 1)),
        Conv2dShape(1, 33, 3, 3, 5, (5, 5), (1, 1), (2, 2)),
        Conv2dShape(2, 40, 6, 5, 3, (3, 3), (2, 2), (1, 1)),
        Conv2dShape(1, 8, 3, 3, 3, (1, 1), (1, 1), (2, 2)),  # outputs that see no pixel
        Conv2dShape(37, 100, 1, 1, 70),
    ],
    ids=str,
)
def test_edge_shapes(shape: Conv2dShape) -> None:
    assert_dots_are_exact(shape)


def test_the_default_configuration() -> None:
    assert_dots_are_exact(Conv2dShape(2, 240, 9, 8, 136, (3, 3), (1, 1), (1, 1)), Int8MmaConfig())


@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch(batch: int) -> None:
    shape = Conv2dShape(batch, 3, 2, 2, 4, (3, 3), (1, 1), (1, 1))
    assert_dots_are_exact(shape)


def test_equal_signs_sum_to_the_taps_inside() -> None:
    shape = Conv2dShape(1, 45, 3, 3, 2, (3, 3), (1, 1), (1, 1))
    ones = row_bits(torch.ones(1, 45, 3, 3), -torch.ones(2, 45, 3, 3))
    y, _, _ = conv2d_w1a1(*ones, None, 1.0, None, shape, dtype=torch.float32, config=SMALL)
    assert y is not None
    taps = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]])
    assert torch.equal(y, (-45 * taps).expand(1, 2, 3, 3))


@pytest.mark.parametrize("gain_dtype", [None, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias_dtype", [None, torch.float32, torch.bfloat16])
def test_scale_and_bias_round_once_or_twice(
    gain_dtype: torch.dtype | None, bias_dtype: torch.dtype | None
) -> None:
    shape = Conv2dShape(2, 70, 4, 3, 9, (3, 3), (1, 1), (1, 1))
    x, weight = operands(shape)
    gain = None if gain_dtype is None else random(2, 9).to(gain_dtype)
    bias = None if bias_dtype is None else random(3, 9).to(bias_dtype)
    y, _, _ = conv2d_w1a1(
        *row_bits(x, weight), gain, FACTOR, bias, shape, dtype=torch.float32, config=SMALL
    )
    assert y is not None
    z, error = scaled(dots(x, weight, shape), gain, bias)
    assert ((y.double() - z).abs() <= error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slope", [False, True])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("elu", [False, True])
def test_epilogue(dtype: torch.dtype, slope: bool, gate: bool, residual: bool, elu: bool) -> None:
    shape = Conv2dShape(2, 40, 3, 3, 70, (3, 1), (1, 1), (1, 0))
    x, weight = operands(shape)
    gain, bias = random(2, 70), random(3, 70)
    added = random(4, 2, 35 if gate else 70, 3, 3).to(dtype)
    added = added.contiguous(memory_format=torch.channels_last)
    slopes = torch.where(random(5, 70) < -1, 0.0, random(6, 70))
    epilogue = Epilogue(
        slopes if slope else None, gate, added if residual else None, elu, signs=True, mask=True
    )
    (y, signs, mask), (unrounded, _, _) = (
        conv2d_w1a1(
            *row_bits(x, weight), gain, FACTOR, bias, shape,
            epilogue=epilogue, dtype=y_dtype, config=Int8MmaConfig(32, 64, 2),
        )
        for y_dtype in (dtype, torch.float32)
    )  # fmt: skip
    assert y is not None
    assert unrounded is not None
    assert y.dtype == dtype
    wanted, error = finished(*scaled(dots(x, weight, shape), gain, bias), epilogue)
    error += torch.finfo(dtype).eps / 2 * (wanted.abs() + error)
    assert ((y.double() - wanted).abs() <= error).all()
    pixels = unrounded.permute(0, 2, 3, 1)
    assert signs is not None
    assert mask is not None
    assert torch.equal(signs, pack_signs(pixels))
    assert torch.equal(mask, pack_bits(activation_mask(pixels)))


def test_bits_alone() -> None:
    shape = Conv2dShape(1, 40, 3, 3, 33)
    x, weight = operands(shape)
    y, signs, mask = conv2d_w1a1(
        *row_bits(x, weight), None, FACTOR, None, shape,
        epilogue=Epilogue(real=False, signs=True), dtype=torch.bfloat16, config=SMALL,
    )  # fmt: skip
    assert (y, mask) == (None, None)
    assert signs is not None
    assert torch.equal(signs, pack_signs(dots(x, weight, shape).permute(0, 2, 3, 1)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Conv2dShape(1, 2**14, 9, 9, 1, (9, 9)), "1327104 terms"),
        (Conv2dShape(2**11, 1, 2**10, 2**10, 1), "2147483648 pixels"),
    ],
)
def test_sizes_over_a_limit_are_refused(shape: Conv2dShape, message: str) -> None:
    words = torch.empty(0, dtype=torch.int32, device="meta")
    with pytest.raises(ValueError, match=f"shape: {message} are more than"):
        conv2d_w1a1(words, words, None, 1.0, None, shape, dtype=torch.float32)


def test_a_launch_on_meta_tensors_is_recorded() -> None:
    shape = Conv2dShape(128, 256, 16, 16, 200, (3, 3), (1, 1), (1, 1))
    signs, weights = (
        torch.empty(size, dtype=torch.int32, device="meta")
        for size in ((128, 16, 16, 8), (200, 9, 8))
    )
    with launch.record() as launches:
        y, _, _ = conv2d_w1a1(signs, weights, None, 1.0, None, shape, dtype=torch.bfloat16)
    assert y is not None
    assert y.shape == (128, 200, 16, 16)
    assert [launched.grid for launched in launches] == [(256, 2)]


def scaled(dots: Tensor, gain: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Float64 z = dots · scale + bias, and what rounding the product and the sum may change."""
    gain = torch.ones(dots.shape[1]) if gain is None else gain.float()
    product = dots * (gain * FACTOR).double().view(-1, 1, 1)
    z = product if bias is None else product + bias.double().view(-1, 1, 1)
    return z, torch.finfo(torch.float32).eps * 0.51 * (product.abs() + z.abs())


def finished(z: Tensor, error: Tensor, epilogue: Epilogue) -> tuple[Tensor, Tensor]:
    """The epilogue in float64, and the error of its float32: 2 eps for an exp, eps/2 for the rest.

    The derivative of ELU is at most 1, that of the gate's sigmoid sigmoid itself.
    """
    eps = torch.finfo(torch.float32).eps
    if epilogue.slope is not None:
        slope = epilogue.slope.double()
        z = F.prelu(z, slope)
        error = error * slope.abs().clamp(min=1).view(-1, 1, 1) + eps * z.abs()
    if epilogue.gate:
        a, b = z.chunk(2, 1)
        error_a, error_b = error.chunk(2, 1)
        z = a * b.sigmoid()
        error = error_a * b.sigmoid() + z.abs() * (error_b + 4 * eps)
    if epilogue.residual is not None:
        z = z + epilogue.residual.double()
        error = error + eps * z.abs()
    if epilogue.elu:
        z = F.elu(z)
        error = error + 3 * eps
    return z, error
