"""The 1-bit tensor core's convolution, against convolutions in float64: equal, not close.

A product is an integer, and float64 rounds product · scale + bias as the mended interpreter's fma
does, so float32 results have one right value, and so have the bits made of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.kernels import bit_mma_meanings  # noqa: F401
from torch import Tensor

from tribin_kernels import formats, reference
from tribin_kernels.bit_mma import BitMmaConfig, conv2d_w1a1
from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.launch import record

CONFIGS = {2: BitMmaConfig(2, 4, 4, 2), 4: BitMmaConfig(), 8: BitMmaConfig(4, 1, 1, 8)}
"""By groups_n, which decides how bits are stored."""

ALL = Epilogue(signs=True, mask=True)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Elements that no kernel writes are NaN or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def images(
    batch: int, channels: int, size: tuple[int, int], outputs: int, kernel: int, stride: int = 1
) -> Conv2dShape:
    padding = (kernel // 2, kernel // 2)
    return Conv2dShape(batch, channels, *size, outputs, (kernel, kernel), (stride, stride), padding)


@dataclass
class Layer:
    """Operands of a convolution in floating point."""

    shape: Conv2dShape
    x: Tensor
    weight: Tensor
    gain: Tensor | None
    bias: Tensor | None

    def run(
        self,
        epilogue: Epilogue = ALL,
        *,
        paired: Tensor | None = None,
        config: BitMmaConfig = CONFIGS[4],
        dtype: torch.dtype = torch.float32,
        rows: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the kernel makes of them; for what the epilogue does not ask, an empty tensor."""
        bits = reference.pack_signs(self.weight.permute(0, 2, 3, 1).flatten(1, 2))
        if epilogue.gate:
            bits = torch.cat([F.pad(x, (0, 0, 0, 0, 0, -len(x) % 32)) for x in bits.chunk(2)])
        fragments = formats.to_fragments(bits)
        if paired is None:
            paired = formats.to_paired(reference.pack_signs(self.x.permute(0, 2, 3, 1)))
        y, signs, mask = conv2d_w1a1(
            paired, fragments, border_table(fragments, self.shape), self.gain,
            self.shape.gain_factor, self.bias, self.shape,
            rows=rows, epilogue=epilogue, dtype=dtype, config=config,
        )  # fmt: skip
        asked = (epilogue.real, epilogue.signs, epilogue.mask)
        assert asked == tuple(result is not None for result in (y, signs, mask))
        nothing = torch.empty(0)
        return (
            nothing if y is None else y,
            nothing if signs is None else signs,
            nothing if mask is None else mask,
        )

    def wanted(self, x: Tensor | None = None) -> Tensor:
        """Product · scale + bias, rounded once to float32."""
        shape, x = self.shape, self.x if x is None else x
        signs, weight = reference.sign(x).double(), reference.sign(self.weight).double()
        product = F.conv2d(signs, weight, None, shape.stride, shape.padding)
        gain = torch.ones(shape.outputs) if self.gain is None else self.gain
        scale = gain.float() * torch.tensor(shape.gain_factor, dtype=torch.float32)
        bias = torch.zeros(shape.outputs) if self.bias is None else self.bias
        y = product * scale.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)
        return y.float()


def random_layer(shape: Conv2dShape, seed: int = 0) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    sizes = (
        (shape.batch, shape.channels, shape.height, shape.width),
        (shape.outputs, shape.channels, *shape.kernel),
        (shape.outputs,),
        (shape.outputs,),
    )
    return Layer(shape, *(torch.randn(size, generator=generator) for size in sizes))


def signs_of(y: Tensor) -> Tensor:
    return formats.to_paired(reference.pack_signs(y.permute(0, 2, 3, 1)))


def mask_of(y: Tensor) -> Tensor:
    return formats.to_paired(reference.pack_bits(reference.activation_mask(y).permute(0, 2, 3, 1)))


def check(layer: Layer, config: BitMmaConfig = CONFIGS[4]) -> None:
    y, signs, mask = layer.run(config=config)
    wanted = layer.wanted()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, wanted)
    assert torch.equal(signs, signs_of(wanted))
    assert torch.equal(mask, mask_of(wanted))


RAGGED = images(3, 240, (3, 9), 240, 3)
STRIDED = images(2, 40, (9, 9), 70, 3, stride=2)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        pytest.param(images(2, 256, (8, 8), 256, 3), 4, id="256 channels"),
        pytest.param(RAGGED, 2, id="240 channels, odd batch, by 2"),
        pytest.param(RAGGED, 4, id="240 channels, odd batch, by 4"),
        pytest.param(RAGGED, 8, id="240 channels, odd batch, by 8"),
        pytest.param(STRIDED, 2, id="stride 2, by 2"),
        pytest.param(STRIDED, 4, id="stride 2, by 4"),
        pytest.param(STRIDED, 8, id="stride 2, by 8"),
        pytest.param(images(2, 64, (3, 3), 33, 5), 4, id="5x5 of 3x3"),
        pytest.param(images(1, 300, (5, 5), 120, 1), 4, id="1x1"),
        pytest.param(images(2, 513, (2, 2), 30, 2), 4, id="even kernel"),
    ],
)
def test_convolutions(shape: Conv2dShape, groups: int) -> None:
    check(random_layer(shape), CONFIGS[groups])


@settings(max_examples=12)
@given(st.data(), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_any_convolution(data: st.DataObject, seed: int, gain: bool, bias: bool) -> None:
    def draw(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    kernel, size = (draw(1, 3), draw(1, 3)), (draw(1, 4), draw(1, 9))
    stride, padding = (draw(1, 3), draw(1, 3)), (draw(0, 2), draw(0, 2))
    shape = Conv2dShape(draw(1, 3), draw(1, 300), *size, draw(1, 140), kernel, stride, padding)
    assume(min(shape.output_size) > 0)
    layer = random_layer(shape, seed)
    layer.gain = layer.gain if gain else None
    layer.bias = layer.bias if bias else None
    check(layer, CONFIGS[data.draw(st.sampled_from([2, 4]))])


@pytest.mark.parametrize("config", [BitMmaConfig(1, 4, 3, 4), BitMmaConfig(2, 2, 2, 8)])
def test_programs_wider_than_the_outputs(config: BitMmaConfig) -> None:
    check(random_layer(images(2, 32, (3, 4), 260, 3)), config)


def test_layers_pass_bits_on_without_a_step_between() -> None:
    first = random_layer(images(3, 256, (4, 5), 240, 3))
    second = random_layer(images(3, 240, (4, 5), 40, 3), seed=1)
    _, signs, _ = first.run(Epilogue(real=False, signs=True))
    y, _, _ = second.run(Epilogue(), paired=signs)
    assert torch.equal(y, second.wanted(first.wanted()))


@pytest.mark.parametrize(
    ("rows", "channels", "outputs"), [(1, 256, 256), (37, 600, 50), (48, 32, 256)]
)
def test_linear_layers(rows: int, channels: int, outputs: int) -> None:
    layer = random_layer(Conv2dShape(2, channels, -(-rows // 16), 8, outputs))
    y, signs, mask = layer.run(rows=rows)
    wanted = layer.wanted()
    assert torch.equal(y, wanted.permute(0, 2, 3, 1).reshape(-1, outputs)[:rows])
    exists = (torch.arange(16 * layer.shape.height) < rows).view(2, 1, -1, 8)
    assert torch.equal(signs, signs_of(wanted.where(exists, 0)))
    assert torch.equal(mask, mask_of(wanted.where(exists, 2)))


@pytest.mark.parametrize(
    ("outputs", "dtype"), [(256, torch.bfloat16), (30, torch.float16), (100, torch.float32)]
)
def test_residual_and_dtypes(outputs: int, dtype: torch.dtype) -> None:
    layer = random_layer(images(1, 64, (5, 5), outputs, 3))
    wanted = layer.wanted()
    residual = torch.randn_like(wanted).to(dtype).contiguous(memory_format=torch.channels_last)
    y, signs, mask = layer.run(Epilogue(residual=residual, signs=True, mask=True), dtype=dtype)
    wanted = wanted + residual.float()
    assert torch.equal(y, wanted.to(dtype))
    assert torch.equal(signs, signs_of(wanted))
    assert torch.equal(mask, mask_of(wanted))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gain_bias_and_slope_of_half_precision(dtype: torch.dtype) -> None:
    layer = random_layer(images(2, 32, (3, 3), 40, 1))
    assert layer.gain is not None
    assert layer.bias is not None
    layer.gain, layer.bias = layer.gain.to(dtype), layer.bias.to(dtype)
    check(layer)
    check_slope(layer, torch.randn(40).to(dtype))


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("shape", [RAGGED, STRIDED], ids=["odd batch", "stride 2"])
def test_slope(shape: Conv2dShape, groups: int) -> None:
    slope = torch.randn(shape.outputs)
    slope[::4], slope[1::4], slope[2] = 0, 1, -0.0
    check_slope(random_layer(shape), slope, CONFIGS[groups])


def check_slope(layer: Layer, slope: Tensor, config: BitMmaConfig = CONFIGS[4]) -> None:
    """Then a residual: the product with the slope rounds before the sum."""
    z = F.prelu(layer.wanted(), slope.float())
    residual = torch.randn_like(z).contiguous(memory_format=torch.channels_last)
    for wanted, added in ((z, None), (z + residual, residual)):
        epilogue = Epilogue(slope=slope, residual=added, signs=True, mask=True)
        y, signs, mask = layer.run(epilogue, config=config)
        assert torch.equal(y, wanted)
        assert torch.equal(signs, signs_of(wanted))
        assert torch.equal(mask, mask_of(wanted))


@pytest.mark.parametrize(("half", "groups"), [(32, 4), (40, 8), (120, 4), (256, 8)])
def test_gate(half: int, groups: int) -> None:
    layer = random_layer(images(1, 64, (4, 4), 2 * half, 3))
    epilogue = Epilogue(gate=True, signs=True, mask=True)
    y, signs, mask = layer.run(epilogue, config=CONFIGS[groups])
    a, b = layer.wanted().double().chunk(2, dim=1)
    wanted = a * b.sigmoid()
    assert y.shape == wanted.shape
    # In units of 2⁻²³: NumPy's exponential errs by 2.6, 1 + it and the quotient by half of one.
    assert ((y - wanted).abs() <= 4 * 2.0**-23 * wanted.abs()).all()
    assert torch.equal(signs, signs_of(y))
    assert torch.equal(mask, mask_of(y))


def test_slope_then_gate_then_residual_then_elu() -> None:
    layer = random_layer(images(2, 64, (4, 4), 80, 3))
    residual = torch.randn(2, 40, 4, 4).contiguous(memory_format=torch.channels_last)
    slope = torch.randn(80)
    epilogue = Epilogue(slope, gate=True, residual=residual, elu=True, signs=True, mask=True)
    y, signs, mask = layer.run(epilogue)
    a, b = F.prelu(layer.wanted(), slope).double().chunk(2, dim=1)
    wanted = F.elu(a * b.sigmoid() + residual.double())
    # The gate errs by 4 units of |a|, the sum by half of one of |a| + |r|, the exponential and the
    # difference by 3.1 of 1.
    bound = 6 * 2.0**-23 * (a.abs() + residual.abs() + 1)
    assert ((y - wanted).abs() <= bound).all()
    assert torch.equal(signs, signs_of(y))
    assert torch.equal(mask, mask_of(y))


def test_zeros_of_either_sign_are_positive() -> None:
    layer = random_layer(images(2, 256, (2, 2), 64, 1))
    layer.gain = torch.tensor([-0.0, 0.0, -1.0, 1.0]).repeat(16)
    layer.bias = torch.tensor([-0.0, 0.0]).repeat_interleave(32)
    y, signs, _ = layer.run()
    assert (y == 0).sum() >= y.numel() // 2
    assert not y[y == 0].signbit().any()
    assert torch.equal(signs, signs_of(y))


def test_a_product_of_zero_with_a_negative_scale_is_positive() -> None:
    layer = random_layer(images(2, 2, (4, 8), 32, 1))
    layer.gain, layer.bias = -torch.ones(32), None
    y, signs, _ = layer.run()
    assert (y == 0).any()
    assert torch.equal(signs, signs_of(y))


def test_a_gate_that_underflows_is_positive() -> None:
    layer = random_layer(images(2, 32, (2, 2), 64, 1))
    layer.gain = torch.zeros(64)
    layer.bias = torch.tensor([-1e-30, -80.0]).repeat_interleave(32)
    y, signs, _ = layer.run(Epilogue(gate=True, signs=True))
    assert (y == 0).all()
    assert not signs.any()


def test_nan_is_positive_and_outside_the_mask() -> None:
    layer = random_layer(images(2, 32, (2, 2), 64, 1))
    assert layer.bias is not None
    layer.bias[5] = torch.nan
    _, signs, mask = layer.run()
    assert torch.equal(signs, signs_of(layer.wanted()))
    assert torch.equal(mask, mask_of(layer.wanted()))


def test_one_is_inside_the_mask_and_the_next_float_outside() -> None:
    layer = random_layer(images(2, 32, (1, 1), 4, 1))
    layer.gain = torch.zeros(4)
    layer.bias = torch.tensor([1, -1, 1 + 2.0**-23, -1 - 2.0**-23])
    _, _, mask = layer.run()
    assert formats.from_paired(mask, 2, 4).flatten().tolist() == [0b0011, 0b0011]


@pytest.mark.parametrize(
    ("shape", "rows"), [(images(0, 32, (4, 4), 16, 3), None), (Conv2dShape(2, 32, 0, 8, 16), 0)]
)
def test_nothing_in_nothing_out(shape: Conv2dShape, rows: int | None) -> None:
    size = (-(-shape.batch // 2), 1, shape.height, shape.width, 4, 2, 2)
    y, signs, mask = random_layer(shape).run(paired=torch.empty(size, dtype=torch.int32), rows=rows)
    assert y.numel() == signs.numel() == mask.numel() == 0


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        ({"warps_m": 3}, "warps_m [*] warps_n is 6"),
        ({"warps_n": 4}, "warps_m [*] warps_n is 16"),
        ({"groups_n": 3}, "groups_n is 3"),
    ],
)
def test_impossible_tiles_are_refused(tile: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitMmaConfig(**tile)


def test_a_gate_needs_two_groups_for_each_half() -> None:
    with pytest.raises(ValueError, match="groups_n is 2; with a gate"):
        random_layer(images(2, 32, (2, 2), 64, 1)).run(Epilogue(gate=True), config=CONFIGS[2])


def test_operands_too_large_for_their_offsets_are_refused() -> None:
    shape = Conv2dShape(2, 256, 2**24, 8, 256)
    paired = torch.empty(1, 1, 2**24, 8, 4, 2, 2, dtype=torch.int32, device="meta")
    fragments = torch.empty(1, 1, 16, 32, 4, dtype=torch.int32, device="meta")
    with record(), pytest.raises(ValueError, match="paired has 2147483648 words"):
        conv2d_w1a1(paired, fragments, border_table(fragments, shape), None, 1.0, None, shape)
