"""The packed convolution, from float tensors or bits to either, against float64.

Results that only a product of bits, an affine map, a PReLU and a residual make are equal, not
close: each step rounds once, as the mended interpreter does. Elsewhere the bound is derived from
the roundings.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels import packed_conv2d as module
from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.launch_table import TUNABLE
from tribin_kernels.reference import pack_bits, pack_signs, sign, unpack_bits

EPS = 2.0**-23
"""Of float32; twice the error of one rounding, which leaves room for products of errors."""

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Steps = tuple[bool, bool, bool, bool]
INPUTS = ["real", "signs", "bits"]
ROUTES = ["bit_mma", "int8_mma", "popcount"]
EPILOGUES = [
    (False, False, False, False),
    (False, True, False, False),
    (False, False, True, True),
    (True, False, True, False),
    (True, True, True, True),
]
"""Slope, gate, residual and ELU."""

CONVOLUTION = Conv2dShape(3, 37, 4, 3, 70, (2, 1), (1, 1), (1, 0))
POINTWISE = Conv2dShape(3, 70, 3, 3, 74)


@dataclass(frozen=True)
class Layer:
    """Float tensors that make the arguments; `input` is real, its signs, or their bits."""

    x: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    slope: Tensor | None
    residual: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    input: str
    gate: bool = False
    elu: bool = False

    @classmethod
    def random(
        cls,
        shape: Conv2dShape,
        input: str,
        slope: bool = False,
        gate: bool = False,
        residual: bool = False,
        elu: bool = False,
        *,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> "Layer":
        generator = torch.Generator().manual_seed(seed)

        def random(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        x = random(shape.batch, shape.channels, shape.height, shape.width).to(dtype)
        weight = random(shape.outputs, shape.channels, *shape.kernel)
        scale, bias = random(shape.outputs) * shape.gain_factor, random(shape.outputs)
        results = shape.outputs // 2 if gate else shape.outputs
        added = random(shape.batch, results, *shape.output_size).to(dtype)
        slopes = random(shape.outputs)
        slopes[::4], slopes[1::4] = 0, 1
        return cls(
            x, weight, scale, bias, slopes if slope else None, added if residual else None,
            shape.stride, shape.padding, input, gate, elu,
        )  # fmt: skip

    def run(
        self,
        *,
        to_bits: bool = False,
        row_bits: Tensor | None = None,
        weight_bits: Tensor | None = None,
        implementation: Any = module,
    ) -> Tensor:
        """By `implementation`; bits are those of x and weight unless they are given."""
        bits = self.row_bits if row_bits is None else row_bits
        return implementation.packed_conv2d(
            bits if self.input == "bits" else self.x,
            self.weight_bits if weight_bits is None else weight_bits,
            self.scale,
            self.bias,
            self.slope,
            self.residual,
            self.weight.shape[1],
            list(self.stride),
            list(self.padding),
            self.input == "signs",
            self.gate,
            self.elu,
            to_bits,
        )

    @property
    def row_bits(self) -> Tensor:
        return pack_signs(self.x.permute(0, 2, 3, 1))

    @property
    def weight_bits(self) -> Tensor:
        return pack_signs(self.weight.permute(0, 2, 3, 1))

    def exact(self) -> tuple[Tensor, Tensor]:
        """Y in float64, each step of a bit product rounded to float32, and the error around it."""
        x = self.x.double() if self.input == "real" else sign(self.x).double()
        z = self._affine(F.conv2d(x, sign(self.weight).double(), None, self.stride, self.padding))
        bound = torch.zeros_like(z)
        if self.input == "real":
            # A float32 is three terms; the affine map rounds twice, or once.
            terms = self.weight[0].numel() * (3 if self.x.dtype == torch.float32 else 1)
            ones = torch.ones_like(self.weight).double()
            sums = F.conv2d(x.abs(), ones, None, self.stride, self.padding)
            bound = (terms + 3) * EPS * sums * self.scale.double().abs().view(-1, 1, 1)
            bound = bound + EPS * z.abs()
        if self.slope is not None:
            z, bound = _prelu(z, bound, self.slope)
        if self.gate:
            (a, b), (bound_a, bound_b) = z.chunk(2, 1), bound.chunk(2, 1)
            z = a * b.sigmoid()
            # The sigmoid's slope is 1/4 at most; exponential, sum and quotient round.
            bound = bound_a + (a.abs() + bound_a) * (bound_b / 4 + 8 * EPS)
        if self.residual is not None:
            z = _rounded(z + self.residual.double())
            bound = bound + (EPS * (z.abs() + bound)).where(bound > 0, 0)
        if self.elu:
            z, bound = F.elu(z), bound + (4 * EPS * (z <= 0))
        return z, bound

    def _affine(self, product: Tensor) -> Tensor:
        z = product * self.scale.double().view(-1, 1, 1)
        return _rounded(z if self.bias is None else z + self.bias.double().view(-1, 1, 1))


def _prelu(z: Tensor, bound: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """An error grows with the slope, or, if it leaves the sign open, with the steeper side."""
    slope = slope.double().view(-1, 1, 1)
    steepness = torch.where(z > 0, 1, slope.abs())
    steepness = steepness.where(z.abs() > bound, slope.abs().clamp(min=1))
    z, bound = _rounded(torch.where(z > 0, z, slope * z)), bound * steepness
    return z, (bound + EPS * z.abs()).where(bound > 0, 0)


def _rounded(z: Tensor) -> Tensor:
    return z.float().double()


def check(layer: Layer) -> None:
    """Both results; dtypes and memory formats are the reference's, which the fake op promises."""
    for to_bits in (False, True):
        result = layer.run(to_bits=to_bits)
        like = layer.run(to_bits=to_bits, implementation=reference)
        assert form(result) == form(like)
        if to_bits:
            check_bits(result, *replace(layer, elu=False).exact())
        else:
            check_real(result, *layer.exact())


def form(y: Tensor) -> tuple[torch.dtype, torch.Size, list[int]]:
    """Dtype, shape, and the strides that mean something."""
    strides = [stride for size, stride in zip(y.shape, y.stride(), strict=True) if size > 1]
    return y.dtype, y.shape, strides if y.numel() else []


def check_real(y: Tensor, wanted: Tensor, bound: Tensor) -> None:
    info = torch.finfo(y.dtype)
    rounding = info.eps * (wanted.abs() + bound) + info.smallest_normal * info.eps
    error = (y.double() - wanted.to(y.dtype).double()).abs()
    assert y.shape == wanted.shape
    assert bool((error <= (bound + rounding).where(bound > 0, 0)).all()), float(error.max())


def check_bits(bits: Tensor, wanted: Tensor, bound: Tensor) -> None:
    """Where the error decides a sign either is right; there are few of these."""
    found = unpack_bits(bits, wanted.shape[1])
    negative, open_ = ((t.permute(0, 2, 3, 1)) for t in (wanted < 0, wanted.abs() < bound))
    # The bound grows with the taps, and of a few results one may be near 0 by chance.
    assert open_.sum() <= 1 + 0.05 * open_.numel()
    assert torch.equal(bits, pack_bits(torch.where(open_, found, negative)))


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to multiply bits; popcounts are for pointwise layers alone."""
    return force(monkeypatch, request.param)


def force(monkeypatch: pytest.MonkeyPatch, route: str) -> str:
    monkeypatch.setattr(module, "w1a1_route", lambda device, shape: route)
    return route


def shape_for(route: str) -> Conv2dShape:
    return POINTWISE if route == "popcount" else CONVOLUTION


@pytest.mark.parametrize("input", ["signs", "bits"])
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
def test_bit_products(route: str, input: str, epilogue: Steps) -> None:
    check(Layer.random(shape_for(route), input, *epilogue))


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
def test_real_products(epilogue: Steps) -> None:
    check(Layer.random(CONVOLUTION, "real", *epilogue))


@pytest.mark.parametrize("input", ["signs", "bits"])
def test_pointwise_layers_in_full_tiles(monkeypatch: pytest.MonkeyPatch, input: str) -> None:
    force(monkeypatch, "bit_mma")
    check(Layer.random(POINTWISE, input, slope=True, gate=True, residual=True, elu=True))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("input", ["real", "signs"])
def test_the_result_has_the_dtype_of_x(input: str, dtype: torch.dtype) -> None:
    layer = Layer.random(CONVOLUTION, input, residual=True, dtype=dtype)
    assert layer.run().dtype == dtype
    check(layer)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_without_a_real_x_it_has_that_of_the_scale(route: str, dtype: torch.dtype) -> None:
    layer = Layer.random(shape_for(route), "bits", slope=True)
    assert layer.slope is not None
    layer = replace(layer, scale=layer.scale.to(dtype), slope=layer.slope.to(dtype))
    assert layer.run().dtype == dtype
    check(layer)


@pytest.mark.parametrize("input", INPUTS)
def test_no_bias(input: str) -> None:
    check(replace(Layer.random(CONVOLUTION, input), bias=None))


@pytest.mark.parametrize("input", INPUTS)
def test_channels_last(monkeypatch: pytest.MonkeyPatch, input: str) -> None:
    force(monkeypatch, "int8_mma")
    layer = Layer.random(CONVOLUTION, input, residual=True)
    assert layer.residual is not None
    x = layer.x.contiguous(memory_format=torch.channels_last)
    residual = layer.residual.contiguous(memory_format=torch.channels_last)
    layer = replace(layer, x=x, residual=residual)
    assert layer.run().is_contiguous(memory_format=torch.channels_last)
    check(layer)


@st.composite
def shapes(draw: st.DrawFn) -> Conv2dShape:
    """Of even outputs, for the gate."""
    stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    kernel = draw(st.sampled_from([1, 2, 3, 5]))
    size = st.integers(max(kernel - 2 * padding, 1), 6)
    return Conv2dShape(
        draw(st.integers(0, 3)), draw(st.integers(1, 70)), draw(size), draw(size),
        2 * draw(st.integers(1, 40)), (kernel, kernel), (stride, stride), (padding, padding),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("input", "route"),
    [("real", ""), ("signs", "bit_mma"), ("bits", "bit_mma"), ("bits", "int8_mma")],
)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes(), st.sampled_from(DTYPES), st.tuples(*[st.booleans()] * 4), st.integers(0, 10**6))
def test_ragged_shapes(
    monkeypatch: pytest.MonkeyPatch,
    input: str,
    route: str,
    shape: Conv2dShape,
    dtype: torch.dtype,
    epilogue: Steps,
    seed: int,
) -> None:
    force(monkeypatch, route)
    check(Layer.random(shape, input, *epilogue, dtype=dtype, seed=seed))


@pytest.mark.parametrize("shape", [CONVOLUTION, POINTWISE], ids=["convolution", "pointwise"])
@pytest.mark.parametrize("input", INPUTS)
def test_an_empty_batch(route: str, input: str, shape: Conv2dShape) -> None:
    if route != "popcount" or shape.is_pointwise:
        check(Layer.random(replace(shape, batch=0), input, gate=True, residual=True))


def test_any_strides(route: str) -> None:
    """Those of views, of one scale for all outputs, and of a model that was made channels-last."""
    layer = Layer.random(shape_for(route), "signs")
    one, outputs = layer.scale[:1], len(layer.scale)
    layer = replace(layer, scale=one.repeat(outputs), slope=one.repeat(outputs))
    y = layer.run()
    expanded = one.expand(outputs)
    strided = replace(layer, x=every_second(layer.x), scale=expanded, slope=expanded)
    weight_bits = layer.weight_bits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(strided.run(weight_bits=weight_bits), y)
    from_bits = replace(layer, input="bits")
    assert torch.equal(from_bits.run(row_bits=every_second(layer.row_bits)), y)


def every_second(values: Tensor) -> Tensor:
    """The values as a view of every second column of a tensor."""
    return values.repeat_interleave(2, dim=3)[..., ::2]


@pytest.mark.parametrize("input", INPUTS)
def test_float64_is_left_to_the_reference(input: str) -> None:
    layer = Layer.random(CONVOLUTION, input, slope=True, dtype=torch.float64)
    layer = replace(layer, scale=layer.scale.double())
    for to_bits in (False, True):
        expected = layer.run(to_bits=to_bits, implementation=reference)
        assert torch.equal(layer.run(to_bits=to_bits), expected)


@pytest.mark.parametrize("gate", [False, True])
def test_signs_of_numbers_too_small_for_their_dtype_and_elu(route: str, gate: bool) -> None:
    layer = Layer.random(shape_for(route), "bits", gate=gate, elu=True)
    outputs = len(layer.scale)
    scale = torch.zeros(outputs, dtype=torch.float16)
    layer = replace(layer, scale=scale, bias=torch.full((outputs,), -1e-10))
    bits = layer.run(to_bits=True)
    assert unpack_bits(bits, outputs // 2 if gate else outputs).all()


@pytest.mark.parametrize("gate", [False, True])
def test_slopes_of_one_change_nothing(route: str, gate: bool) -> None:
    layer = Layer.random(shape_for(route), "bits", gate=gate, residual=True)
    with_slopes = replace(layer, slope=torch.ones_like(layer.scale))
    for to_bits in (False, True):
        assert torch.equal(with_slopes.run(to_bits=to_bits), layer.run(to_bits=to_bits))


@pytest.mark.parametrize(("z", "slope"), [(-1e-30, 1e-30), (-1.0, 0.0), (0.0, -1.0)])
def test_zeros_of_a_slope_are_plus_one(route: str, z: float, slope: float) -> None:
    """Those that are −0.0: the first one underflows."""
    layer = Layer.random(shape_for(route), "bits")
    ones = torch.ones_like(layer.scale)
    layer = replace(layer, scale=0 * ones, bias=z * ones, slope=slope * ones)
    assert not layer.run().any()
    assert not layer.run(to_bits=True).any()


def test_a_result_that_is_not_a_number_stays_so(route: str) -> None:
    layer = Layer.random(shape_for(route), "bits", slope=True, residual=True)
    assert layer.bias is not None
    layer.bias[:4] = torch.nan
    assert layer.run()[:, :4].isnan().all()
    assert not unpack_bits(layer.run(to_bits=True), 4).any()


def test_not_a_number_counts_as_plus_one(route: str) -> None:
    layer = Layer.random(shape_for(route), "signs")
    layer.x[0, 5, 1, 1] = torch.nan
    y = layer.run()
    layer.x[0, 5, 1, 1] = 1
    assert torch.equal(y, layer.run())


@pytest.mark.parametrize("first_route", ["bit_mma", "int8_mma"])
@pytest.mark.parametrize("second_route", ["bit_mma", "int8_mma"])
def test_layers_pass_bits_on(
    monkeypatch: pytest.MonkeyPatch, first_route: str, second_route: str
) -> None:
    """A residual block on integers, of 70 channels between its layers: no step of it rounds."""
    first = integer_layer(CONVOLUTION, "signs")
    force(monkeypatch, first_route)
    bits = first.run(to_bits=True)
    hidden, _ = first.exact()
    assert (hidden == 0).any()
    second = integer_layer(Conv2dShape(3, 70, *hidden.shape[2:], 20, (1, 2)), "bits", seed=1)
    force(monkeypatch, second_route)
    y = second.run(row_bits=bits)
    wanted, _ = replace(second, x=hidden).exact()
    assert torch.equal(y.double(), wanted)


def integer_layer(shape: Conv2dShape, input: str, seed: int = 0) -> Layer:
    layer = Layer.random(shape, input, residual=True, seed=seed)
    assert layer.bias is not None
    assert layer.residual is not None
    return replace(
        layer,
        scale=layer.scale.sign(),
        bias=(3 * layer.bias).round(),
        residual=(3 * layer.residual).round(),
    )


def test_every_tunable_kernel_of_inference_is_asked_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: set[str] = set()

    def choose(config_class: type, device: torch.device, **sizes: int) -> Any:
        asked.add(config_class.__module__.rpartition(".")[2])
        assert sizes == {"rows": POINTWISE.pixels, "outputs": POINTWISE.outputs}
        return config_class()

    monkeypatch.setattr(module, "choose", choose)
    for route, input in product(ROUTES, INPUTS):
        force(monkeypatch, route)
        Layer.random(POINTWISE, input).run()
    assert asked == {*TUNABLE} - {"weight_gradient"}
