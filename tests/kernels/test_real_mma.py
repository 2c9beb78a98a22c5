"""W1A16 products against float64 convolutions, within bounds derived from the roundings."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.kernels import real_mma_meanings  # noqa: F401
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.formats import to_quads
from tribin_kernels.real_mma import RealMmaConfig, conv2d_w1a16
from tribin_kernels.reference import activation_mask, pack_bits, pack_signs, sign, unpack_bits
from tribin_kernels.target import Target
from tribin_kernels.target import assume as assume_target

EPS = 2.0**-23
"""Of float32; twice the error of one rounding, which leaves room for products of errors."""

SMALL = RealMmaConfig(block_outputs=64, block_pixels=32)


@dataclass
class Problem:
    """Random operands; `x` is the gradient of the result where transposed."""

    shape: Conv2dShape
    dtype: torch.dtype
    x: Tensor
    weight: Tensor
    gain: Tensor | None = None
    bias: Tensor | None = None
    transposed: bool = False
    gain_factor: float = 0.125

    @classmethod
    def random(
        cls,
        seed: int,
        shape: Conv2dShape,
        dtype: torch.dtype,
        with_vectors: bool = True,
        transposed: bool = False,
    ) -> "Problem":
        generator = torch.Generator().manual_seed(seed)
        below = (shape.batch, shape.channels, shape.height, shape.width)
        above = (shape.batch, shape.outputs, *shape.output_size)
        x = torch.randn(above if transposed else below, generator=generator).to(dtype)
        weight = torch.randn(shape.outputs, shape.channels, *shape.kernel, generator=generator)
        weight[:, 0] = 0.0  # counts as positive
        outputs = shape.channels if transposed else shape.outputs
        gain, bias = torch.randn(2, outputs, generator=generator)
        vectors = (gain, bias.bfloat16()) if with_vectors else (None, None)
        return cls(shape, dtype, x, weight, *vectors, transposed)

    @property
    def operand(self) -> Tensor:
        """The activations as the kernel takes them."""
        x = channels_last(self.x)
        if self.dtype != torch.float32:
            return x
        high = x.bfloat16()
        middle = (x - high.float()).bfloat16()
        low = (x - high.float() - middle.float()).bfloat16()
        terms = torch.stack([channels_last(t).movedim(-3, -1) for t in (high, middle, low)])
        return terms.movedim(-1, -3)

    @property
    def quads(self) -> Tensor:
        weight = self.weight.transpose(0, 1) if self.transposed else self.weight
        return to_quads(pack_signs(weight.movedim(1, -1).flatten(1, 2)))

    def run(
        self, config: RealMmaConfig = SMALL, *, dtype: torch.dtype | None = None, **options: Any
    ) -> tuple[Any, Any, Any]:
        return conv2d_w1a16(
            self.operand, self.quads, self.gain, self.gain_factor, self.bias, self.shape,
            transposed=self.transposed, dtype=dtype or self.dtype, config=config, **options,
        )  # fmt: skip

    def exact(self) -> tuple[Tensor, Tensor]:
        """The result before the epilogue in float64, and a bound of the error of float32 sums.

        Products ±x are exact, so n additions, in any order, are off by n·eps·Σ|x| at most; the
        scale, its product and the bias are three more roundings.
        """
        weight = sign(self.weight.double())
        z, magnitude = self._product(self.x, weight), self._product(self.x.abs(), weight.abs())
        scale, bias = torch.ones(1), torch.zeros(1)
        if self.gain is not None and self.bias is not None:
            scale, bias = self.gain.view(-1, 1, 1), self.bias.view(-1, 1, 1)
        scale, bias = scale.double() * self.gain_factor, bias.double()
        channels = self.shape.outputs if self.transposed else self.shape.channels
        additions = channels * self.shape.taps * (3 if self.dtype == torch.float32 else 1)
        bound = (additions + 3) * EPS * magnitude * scale.abs() + EPS * bias.abs()
        return z * scale + bias, bound

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        shape = self.shape
        if not self.transposed:
            return F.conv2d(x.double(), weight, None, shape.stride, shape.padding)
        size = (shape.batch, shape.channels, shape.height, shape.width)
        return torch.nn.grad.conv2d_input(size, weight, x.double(), shape.stride, shape.padding)


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def assert_within(y: Tensor, exact: Tensor, bound: Tensor) -> None:
    """Within the bound and one rounding to the dtype of y."""
    info = torch.finfo(y.dtype)
    bound = bound + info.eps * (exact.abs() + bound) + info.smallest_normal * info.eps
    assert y.shape == exact.shape
    assert y.movedim(-3, -1).is_contiguous()
    excess = (y.double() - exact).abs() - bound
    assert bool((excess <= 0).all()), f"beyond the bound by {float(excess.max())}"


@st.composite
def shapes(draw: st.DrawFn) -> Conv2dShape:
    size, stride = st.integers(1, 6), st.integers(1, 3)
    kernel, padding = st.sampled_from([1, 2, 3, 5]), st.integers(0, 2)
    shape = Conv2dShape(
        draw(st.integers(0, 3)), draw(st.integers(1, 140)), draw(size), draw(size),
        draw(st.integers(1, 70)), (draw(kernel), draw(kernel)), (draw(stride), draw(stride)),
        (draw(padding), draw(padding)),
    )  # fmt: skip
    assume(min(shape.output_size) > 0)
    return shape


seeds = st.integers(0, 10**6)
dtypes = st.sampled_from([torch.bfloat16, torch.float16, torch.float32])


@settings(max_examples=15)
@given(seeds, shapes(), dtypes, st.booleans())
def test_product_of_ragged_shapes(
    seed: int, shape: Conv2dShape, dtype: torch.dtype, with_vectors: bool
) -> None:
    problem = Problem.random(seed, shape, dtype, with_vectors)
    y, signs, mask = problem.run()
    assert_within(y, *problem.exact())
    assert signs is None
    assert mask is None


@settings(max_examples=15)
@given(seeds, shapes(), dtypes)
def test_input_gradient_with_its_mask(seed: int, shape: Conv2dShape, dtype: torch.dtype) -> None:
    problem = Problem.random(seed, shape, dtype, transposed=True)
    passes = torch.rand(shape.batch, shape.height, shape.width, shape.channels) < 0.5
    y, _, _ = problem.run(mask=pack_bits(passes))
    exact, bound = problem.exact()
    passes = passes.permute(0, 3, 1, 2)
    assert_within(y, exact * passes, bound * passes)


@pytest.mark.parametrize(("kernel", "dtype"), [(3, torch.float32), (5, torch.bfloat16)])
def test_several_tiles_of_images_and_outputs(kernel: int, dtype: torch.dtype) -> None:
    shape = Conv2dShape(3, 140, 4, 5, 70, (kernel, kernel), (1, 1), (kernel // 2, kernel // 2))
    problem = Problem.random(kernel, shape, dtype)
    assert_within(problem.run()[0], *problem.exact())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("split", [2, 3, 5])
def test_split_sums_of_few_rows(split: int, dtype: torch.dtype) -> None:
    """Parts of equal length, of unequal length, and parts beyond the last step."""
    problem = Problem.random(split, Conv2dShape(2, 500, 1, 1, 300), dtype)
    config = replace(SMALL, split=split)
    y, _, _ = problem.run(config)
    assert_within(y, *problem.exact())
    assert torch.equal(y, problem.run(config)[0])


@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("has_slope", "gate", "residual", "elu"),
    [
        (False, True, False, False),
        (False, False, True, True),
        (True, False, True, False),
        (True, True, True, True),
    ],
)
def test_epilogue(
    has_slope: bool, gate: bool, residual: bool, elu: bool, dtype: torch.dtype, split: int
) -> None:
    problem = Problem.random(3, Conv2dShape(2, 40, 3, 4, 150, (3, 3), (1, 1), (1, 1)), dtype)
    z, bound = problem.exact()
    slope = torch.randn(150) if has_slope else None
    if slope is not None:
        z = F.prelu(z, slope.double())
        bound = bound * slope.abs().clamp(min=1).view(-1, 1, 1) + EPS * z.abs()
    if gate:
        (a, b), (bound_a, bound_b) = z.chunk(2, 1), bound.chunk(2, 1)
        z = a * torch.sigmoid(b)
        # the sigmoid's slope is 1/4 at most; exponential, sum and quotient are roundings
        bound = bound_a + (a.abs() + bound_a) * (bound_b / 4 + 8 * EPS)
    added = channels_last(torch.randn(z.shape).to(dtype)) if residual else None
    if added is not None:
        z = z + added.double()
        bound = bound + EPS * (z.abs() + bound)
    if elu:
        z, bound = F.elu(z), bound + 4 * EPS
    y, _, _ = problem.run(
        replace(SMALL, split=split), epilogue=Epilogue(slope, gate, residual=added, elu=elu)
    )
    assert_within(y, z, bound)


@pytest.mark.parametrize("split", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bits_are_those_of_the_float32_result(dtype: torch.dtype, split: int) -> None:
    shape = Conv2dShape(2, 30, 3, 5, 75, (3, 3), (2, 1), (1, 0))
    problem = replace(Problem.random(1, shape, dtype), gain_factor=0.02)
    config = replace(SMALL, split=split)
    y, signs, mask = problem.run(config, epilogue=Epilogue(signs=True, mask=True))
    exact, _, _ = problem.run(config, dtype=torch.float32)
    assert torch.equal(y, exact.to(dtype))
    pixels = exact.permute(0, 2, 3, 1)
    assert torch.equal(signs, pack_signs(pixels))
    assert torch.equal(mask, pack_bits(activation_mask(pixels)))
    assert 0 < unpack_bits(mask, shape.outputs).double().mean() < 1
    bits = problem.run(config, epilogue=Epilogue(real=False, signs=True, mask=True))
    assert bits[0] is None
    assert torch.equal(bits[1], signs)
    assert torch.equal(bits[2], mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_expansion_without_inline_assembly_is_the_same(dtype: torch.dtype) -> None:
    problem = Problem.random(0, Conv2dShape(2, 150, 2, 3, 20), dtype)
    with assume_target(Target("hip", "gfx942")):
        plain, _, _ = problem.run()
    assert torch.equal(plain, problem.run()[0])


def test_each_weight_meets_its_channel_and_tap() -> None:
    """Exactly: one nonzero activation picks one weight of every output."""
    shape = Conv2dShape(1, 200, 3, 3, 33, (3, 3))
    problem = replace(Problem.random(5, shape, torch.bfloat16, with_vectors=False), gain_factor=1.0)
    weight = sign(problem.weight)
    for channel, tap in [(0, 0), (9, 3), (77, 5), (128, 1), (199, 8)]:
        x = torch.zeros_like(problem.x)
        x.view(1, 200, 9)[0, channel, tap] = 1.0
        y, _, _ = replace(problem, x=x).run()
        assert torch.equal(y.flatten().float(), weight.flatten(2)[:, channel, tap])


def test_results_without_scale_are_exact_integers() -> None:
    """±1 activations: sums of 1,800 terms are exact in float32, and in the order of any split."""
    shape = Conv2dShape(2, 200, 4, 4, 40, (3, 3), (1, 1), (1, 1))
    problem = replace(Problem.random(2, shape, torch.float32, with_vectors=False), gain_factor=1.0)
    problem = replace(problem, x=sign(problem.x))
    for config in (SMALL, replace(SMALL, split=4)):
        assert torch.equal(problem.run(config)[0].double(), problem.exact()[0])


def test_operands_of_another_kind_are_refused() -> None:
    problem = Problem.random(0, Conv2dShape(2, 8, 3, 3, 4), torch.bfloat16)
    arguments = (problem.quads, None, 1.0, None, problem.shape)
    with pytest.raises(ValueError, match="x must be channels-last, its strides are"):
        conv2d_w1a16(problem.x, *arguments, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"x is torch\.float32, it must be one of"):
        conv2d_w1a16(channels_last(problem.x.float()), *arguments, dtype=torch.bfloat16)
    residual = Epilogue(residual=torch.zeros(2, 4, 3, 3))
    with pytest.raises(ValueError, match="residual must be channels-last, its strides are"):
        conv2d_w1a16(problem.operand, *arguments, dtype=torch.bfloat16, epilogue=residual)


def test_sizes_beyond_32_bits_are_refused() -> None:
    x = torch.empty(2**31, 1, 1, 1, dtype=torch.bfloat16, device="meta")
    quads = torch.empty(4, 1, 1, 4, dtype=torch.int32, device="meta")
    shape = Conv2dShape(2**31, 1, 1, 1, 4)
    with pytest.raises(ValueError, match="there are 2147483648 pixels, the limit is 2147418112"):
        conv2d_w1a16(x, quads, None, 1.0, None, shape, dtype=torch.bfloat16)
