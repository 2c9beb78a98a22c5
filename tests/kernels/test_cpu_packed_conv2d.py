"""packed_conv2d on a CPU: every route gives what the specification gives, to the bit.

The product of signs is an integer, and what follows it rounds as torch does, so nothing may differ.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from tests.kernels.cpu_calls import (
    SHAPES,
    STRIDED,
    WIDE,
    by_route,
    check,
    require_library,
    same,
    signs_or_bits,
)
from tests.kernels.packed_arguments import LAYOUTS, Case, arguments, cases, laid_out

from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.cpu import int8
from tribin_kernels.cpu import packed_conv2d as cpu

each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture(params=["xnor", "int8", "real"], scope="module")
def route(request: pytest.FixtureRequest) -> str:
    """Each way to compute a layer, where this machine has it."""
    if request.param == "xnor":
        require_library()
    if request.param == "int8" and not int8.is_available():
        pytest.skip("torch has no int8 convolution for this machine")
    return request.param


@settings(max_examples=120)
@given(cases(inputs=("signs", "bits")))
def test_ragged_shapes(route: str, case: Case) -> None:
    check(route, arguments(case))


@pytest.mark.parametrize(
    "shape",
    [
        Conv2dShape(3, 1, 4, 2, 9, kernel=(1, 2), stride=(1, 2)),
        Conv2dShape(1, 1, 9, 3, 35, kernel=(2, 2), stride=(1, 2), padding=(1, 0)),
    ],
    ids=str,
)
def test_a_single_channel_and_a_stride(route: str, shape: Conv2dShape) -> None:
    check(route, arguments(Case(shape, "signs")))


@pytest.mark.parametrize("input", ["signs", "bits"])
@each_shape
def test_every_step(route: str, shape: Conv2dShape, input: str) -> None:
    for to_bits in (False, True):
        for integers in (False, True):
            case = Case(shape, input, has_residual=True, to_bits=to_bits, integers=integers)
            for has_slope, gate, elu in product((False, True), repeat=3):
                check(route, arguments(replace(case, has_slope=has_slope, gate=gate, elu=elu)))


def test_a_slope_is_that_of_torch(route: str) -> None:
    """To the bit: a product with the slope rounds before the residual is added."""
    for case in signs_or_bits(has_slope=True, has_residual=True):
        x, weight_bits, scale, bias, slope, residual, *others = arguments(case)
        z = by_route(route, (x, weight_bits, scale, bias, None, None, *others))
        y = by_route(route, (x, weight_bits, scale, bias, slope, residual, *others))
        assert torch.equal(y, residual + F.prelu(z, slope))


@pytest.mark.parametrize("steps", [{}, {"gate": True}, {"to_bits": True}], ids=str)
def test_slopes_of_one_change_nothing(route: str, steps: dict[str, bool]) -> None:
    for case in signs_or_bits(has_residual=True, **steps):
        x, weight_bits, scale, bias, none, *others = arguments(case)
        y = by_route(route, (x, weight_bits, scale, bias, torch.ones_like(scale), *others))
        assert torch.equal(y, by_route(route, (x, weight_bits, scale, bias, none, *others)))


@pytest.mark.parametrize("value", [0.0, -0.0, float("nan")])
def test_zeros_and_nan_are_plus_one(route: str, value: float) -> None:
    _, *others = arguments(Case(STRIDED))
    shape = (STRIDED.batch, STRIDED.channels, STRIDED.height, STRIDED.width)
    expected = by_route(route, (torch.ones(shape), *others))
    assert torch.equal(by_route(route, (torch.full(shape, value), *others)), expected)


@pytest.mark.parametrize("to_bits", [False, True])
def test_results_that_are_nan_or_zero(route: str, to_bits: bool) -> None:
    for case in signs_or_bits(has_slope=True, has_residual=True, elu=True, to_bits=to_bits):
        x, weight_bits, scale, bias, slope, residual, *others = arguments(case)
        scale[::3], bias[::3], residual[:, ::3] = 0, -0.0, -0.0
        bias[1], residual[0, 2], slope[4] = torch.nan, torch.nan, torch.nan
        given = x, weight_bits, scale, bias, slope, residual, *others
        check(route, given)
        assert to_bits or by_route(route, given)[:, 1].isnan().all()


def test_small_results_keep_their_sign_through_elu(route: str) -> None:
    x, weight_bits, scale, bias, *others = arguments(Case(STRIDED, elu=True, to_bits=True))
    bits = by_route(route, (x, weight_bits, 0 * scale, torch.full_like(bias, -1e-30), *others))
    assert reference.unpack_bits(bits, STRIDED.outputs).all()


@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", LAYOUTS)
def test_any_layout(route: str, x_layout: str, residual_layout: str) -> None:
    layouts = {"x_layout": x_layout, "residual_layout": residual_layout}
    for case in signs_or_bits(has_slope=True, has_residual=True, **layouts):
        x, weight_bits, scale, bias, slope, *others = arguments(case)
        scale, slope = (t[:1].expand_as(t) for t in (scale, slope))
        check(route, (x, weight_bits, scale, bias, slope, *others))


@pytest.mark.parametrize("layout", LAYOUTS[1:3])
def test_bits_in_any_layout(route: str, layout: str) -> None:
    x, weight_bits, *others = arguments(Case(WIDE, "bits"))
    strided = laid_out(x, layout), laid_out(weight_bits, layout)
    assert not any(bits.is_contiguous() for bits in strided)
    assert torch.equal(
        by_route(route, (*strided, *others)), by_route(route, (x, weight_bits, *others))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("to_bits", [False, True])
def test_what_follows_the_product_in_other_dtypes(
    route: str, dtype: torch.dtype, to_bits: bool
) -> None:
    x, weight_bits, scale, bias, slope, residual, *others = arguments(
        Case(STRIDED, has_slope=True, has_residual=True, elu=True, to_bits=to_bits)
    )
    reals = (t.to(dtype) for t in (scale, bias, slope, residual))
    check(route, (x, weight_bits, *reals, *others))


@pytest.mark.parametrize("to_bits", [False, True])
def test_the_number_of_threads_changes_nothing(route: str, to_bits: bool) -> None:
    steps = {"has_slope": True, "has_residual": True, "to_bits": to_bits}
    given = [arguments(case) for case in signs_or_bits(**steps)]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([by_route(route, each) for each in given])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("to_bits", [False, True])
def test_an_image_gives_the_same_in_any_batch(route: str, to_bits: bool) -> None:
    for case in signs_or_bits(to_bits=to_bits):
        x, *others = arguments(case)
        y = by_route(route, (x, *others))
        assert torch.equal(by_route(route, (x[-1:], *others)), y[-1:])
        assert torch.equal(by_route(route, (x.flip(0), *others)), y.flip(0))


@pytest.mark.parametrize("to_bits", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_real_input_and_other_dtypes_are_the_specifications(
    dtype: torch.dtype, to_bits: bool
) -> None:
    for input in ("real", "signs", "bits"):
        steps = {"has_slope": True, "has_residual": True, "elu": True, "to_bits": to_bits}
        given = arguments(Case(STRIDED, input, **steps), dtype)
        same(cpu.packed_conv2d(*given), reference.packed_conv2d(*given))


@pytest.mark.parametrize(
    ("x", "scale", "binary_input", "routes"),
    [
        (torch.float32, torch.float32, True, ["xnor", "int8", "real"]),
        (torch.float32, torch.bfloat16, True, ["xnor", "int8", "real"]),
        (torch.int32, torch.float32, False, ["xnor", "int8", "real"]),
        (torch.int32, torch.float32, True, ["xnor", "int8", "real"]),
        (torch.int32, torch.float64, True, ["real", "real", "real"]),
        (torch.float32, torch.float32, False, ["real", "real", "real"]),
        (torch.bfloat16, torch.float32, True, ["real", "real", "real"]),
        (torch.float16, torch.float16, True, ["real", "real", "real"]),
        (torch.float64, torch.float64, True, ["real", "real", "real"]),
    ],
)
def test_the_route_of_a_layer(
    monkeypatch: pytest.MonkeyPatch,
    x: torch.dtype,
    scale: torch.dtype,
    binary_input: bool,
    routes: list[str],
) -> None:
    """With a compiler, without one, and where torch has no int8 convolution either."""
    tensors = torch.zeros(4, 16, 16, 16, dtype=x), torch.zeros(2, dtype=scale)
    chosen = []
    for has_library, has_int8 in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(
            cpu, "native_library", lambda has=has_library: object() if has else None
        )
        monkeypatch.setattr(int8, "is_available", lambda has=has_int8: has)
        chosen.append(cpu.choose_route(*tensors, binary_input))
    assert chosen == routes


def test_few_pixels_are_not_worth_the_preparation_of_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "native_library", lambda: None)
    monkeypatch.setattr(int8, "is_available", lambda: True)
    scale = torch.zeros(2)
    for pixels, route in ((cpu.INT8_PIXELS - 1, "real"), (cpu.INT8_PIXELS, "int8")):
        assert cpu.choose_route(torch.zeros(1, 3, 1, pixels), scale, True) == route
        bits = torch.zeros(1, pixels, 1, 3, dtype=torch.int32)
        assert cpu.choose_route(bits, scale, True) == route
