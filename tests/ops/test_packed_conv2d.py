"""packed_conv2d and packed_linear: their checks, fake tensors, compilation, and linear products."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.packed_arguments import LAYOUTS, Case, arguments, cases
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from tribin import ops
from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape

SHAPE = Conv2dShape(2, 35, 5, 4, 6, kernel=(3, 2), stride=(2, 1), padding=(1, 2))
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
_packed_conv2d = torch.ops.tribin.packed_conv2d.default


def convolution(input: str = "signs", **changes: Any) -> dict[str, Any]:
    """Keywords of ops.packed_conv2d, whose result is [2, 3, 3, 7] with a gate."""
    case = Case(SHAPE, input, has_residual=True, gate=True)
    x, weight_bits, scale, bias, residual, channels, stride, padding, *_ = arguments(case)
    keywords = {
        "x": x,
        "weight_bits": weight_bits,
        "scale": scale,
        "bias": bias,
        "residual": residual,
        "channels": channels,
        "stride": tuple(stride),
        "padding": tuple(padding),
        "binary_input": input == "signs",
        "gate": True,
    }
    return keywords | changes


def linear(input: str = "signs", rows: tuple[int, ...] = (2, 3), **changes: Any) -> dict[str, Any]:
    """Keywords of ops.packed_linear, of 35 features, whose result is [2, 3, 3] with a gate."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*size, 35, generator=generator) for size in (rows, (6,)))
    scale, bias = torch.randn(2, 6, generator=generator)
    keywords = {
        "x": reference.pack_signs(x) if input == "bits" else x,
        "weight_bits": reference.pack_signs(weight),
        "scale": scale,
        "bias": bias,
        "residual": torch.randn(*rows, 3, generator=generator),
        "in_features": 35,
        "binary_input": input == "signs",
        "gate": True,
    }
    return keywords | changes


EITHER: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x": ({"x": torch.zeros(2, 35, 5, 4).long()}, TypeError, "x is torch.int64, it must be float"),
    "weight": ({"weight_bits": torch.zeros(6, 3, 2, 2)}, TypeError, "weight_bits is torch.float32"),
    "scale": ({"scale": torch.zeros(6).int()}, TypeError, "scale is torch.int32, it must be float"),
    "bias": ({"bias": torch.zeros(6).long()}, TypeError, "bias is torch.int64, it must be float"),
    "residual": ({"residual": torch.zeros(2).int()}, TypeError, "residual is torch.int32, it must"),
    "scales": ({"scale": torch.zeros(5)}, ValueError, "scale has the shape [5], weight_bits asks"),
    "biases": ({"bias": torch.zeros(6, 1)}, ValueError, "bias has the shape [6, 1], weight_bits"),
}
CONVOLUTION: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x of 3 dimensions": (
        {"x": torch.zeros(35, 5, 4), "channels": None},
        ValueError,
        "x is [35, 5, 4], it must be [N, channels, H, W]",
    ),
    "channels": ({"channels": 34}, ValueError, "x is [2, 35, 5, 4], it must be [N, 34, H, W]"),
    "weight's channels": (
        {"x": torch.zeros(2, 65, 5, 4), "channels": None},
        ValueError,
        "weight_bits is [6, 3, 2, 2], it must be [out, kh, kw, 3]",
    ),
    "weight of 2 dimensions": (
        {"weight_bits": torch.zeros(6, 2).int()},
        ValueError,
        "weight_bits is [6, 2], it must be [out, kh, kw, 2]",
    ),
    "bits without channels": (
        {"x": torch.zeros(2, 5, 4, 2).int(), "channels": None},
        ValueError,
        "x is row bits, so channels, how many they are of, is needed",
    ),
    "bits of other channels": (
        {"x": torch.zeros(2, 5, 4, 1).int()},
        ValueError,
        "x is [2, 5, 4, 1], it must be [N, H, W, 2]",
    ),
    "stride": ({"stride": (0, 1)}, ValueError, "stride [0, 1] must be at least 1"),
    "padding": ({"padding": -1}, ValueError, "padding [-1, -1] at least 0"),
    "size": (
        {"padding": 0, "x": torch.zeros(2, 35, 2, 4)},
        ValueError,
        "an image of [2, 4] with padding [0, 0] is smaller than the kernel [3, 2]",
    ),
    "residual's size": (
        {"residual": torch.zeros(2, 6, 3, 7)},
        ValueError,
        "residual is [2, 6, 3, 7], it must be [2, 3, 3, 7]",
    ),
}
LINEAR: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a number": ({"x": torch.tensor(1.0)}, ValueError, "x is [], it must be [35]"),
    "features": ({"in_features": 34}, ValueError, "x is [2, 3, 35], it must be [2, 3, 34]"),
    "weight of 4 dimensions": (
        {"weight_bits": torch.zeros(6, 1, 1, 2).int()},
        ValueError,
        "weight_bits is [6, 1, 1, 2], it must be [out, 2]",
    ),
    "weight's features": (
        {"weight_bits": torch.zeros(6, 1).int()},
        ValueError,
        "weight_bits is [6, 1], it must be [out, 2]",
    ),
    "bits without features": (
        {"x": torch.zeros(2, 3, 2).int(), "in_features": None},
        ValueError,
        "x is row bits, so in_features, how many they are of, is needed",
    ),
    "bits of other features": (
        {"x": torch.zeros(2, 3, 1).int()},
        ValueError,
        "x is [2, 3, 1], it must be [2, 3, 2]",
    ),
    "residual's rows": (
        {"residual": torch.zeros(3, 2, 3)},
        ValueError,
        "residual is [3, 2, 3], it must be [2, 3, 3]",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), EITHER.values(), ids=EITHER)
def test_what_either_op_refuses(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    for op, keywords in ((ops.packed_conv2d, convolution()), (ops.packed_linear, linear())):
        with pytest.raises(error, match=re.escape(f"{op.__name__}: {message}")):
            op(**keywords | changes)


@pytest.mark.parametrize(("changes", "error", "message"), CONVOLUTION.values(), ids=CONVOLUTION)
def test_what_a_convolution_refuses(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^packed_conv2d: .*{re.escape(message)}"):
        ops.packed_conv2d(**convolution(**changes))


@pytest.mark.parametrize(("changes", "error", "message"), LINEAR.values(), ids=LINEAR)
def test_what_a_linear_layer_refuses(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^packed_linear: {re.escape(message)}"):
        ops.packed_linear(**linear(**changes))


@pytest.mark.parametrize("name", ["weight_bits", "scale", "bias", "residual"])
def test_devices_may_not_differ(name: str) -> None:
    for op, keywords in ((ops.packed_conv2d, convolution()), (ops.packed_linear, linear())):
        keywords[name] = keywords[name].to("meta")
        with pytest.raises(ValueError, match=rf"{op.__name__}: {name} is on meta, x is on cpu"):
            op(**keywords)


def test_a_gate_needs_an_even_number_of_outputs() -> None:
    for op, keywords in ((ops.packed_conv2d, convolution()), (ops.packed_linear, linear())):
        for name in ("weight_bits", "scale", "bias"):
            keywords[name] = keywords[name][:5]
        with pytest.raises(ValueError, match="a gate takes an even number of outputs, not 5"):
            op(**keywords)


def test_one_number_is_for_both_directions_and_channels_are_those_of_x() -> None:
    keywords = convolution(residual=None)
    wanted = ops.packed_conv2d(**keywords | {"stride": (2, 2), "padding": (1, 1)})
    keywords |= {"stride": 2, "padding": 1, "channels": None}
    assert torch.equal(ops.packed_conv2d(**keywords), wanted)


@pytest.mark.parametrize("input", ["real", "signs", "bits"])
def test_no_gradient_comes_of_it(input: str) -> None:
    for op, keywords in (
        (ops.packed_conv2d, convolution(input)),
        (ops.packed_linear, linear(input)),
    ):
        for value in keywords.values():
            if isinstance(value, Tensor) and value.is_floating_point():
                value.requires_grad_()
        assert not op(**keywords).requires_grad


def signs_of(bits: Tensor, length: int) -> np.ndarray:
    octets = bits.contiguous().numpy().view(np.uint8)
    negative = np.unpackbits(octets, axis=-1, bitorder="little", count=length)
    return 1.0 - 2.0 * negative


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("input", ["real", "signs", "bits"])
@pytest.mark.parametrize("rows", [(), (5,), (2, 3), (0,), (2, 0), (2, 3, 1)], ids=str)
def test_linear_layers_are_products_in_float64(
    rows: tuple[int, ...], input: str, gate: bool
) -> None:
    keywords = linear(input, rows, gate=gate)
    if not gate:
        keywords["residual"] = torch.randn(*rows, 6)
    x, weight, scale, bias, residual = (
        keywords[name].double().numpy() if keywords[name].is_floating_point() else keywords[name]
        for name in ("x", "weight_bits", "scale", "bias", "residual")
    )
    if input == "bits":
        x = signs_of(x, 35)
    elif input == "signs":
        x = np.where(x < 0, -1.0, 1.0)
    z = x @ signs_of(weight, 35).T * scale + bias
    if gate:
        z = z[..., :3] / (1 + np.exp(-z[..., 3:]))
    z = z + residual
    y = ops.packed_linear(**keywords, elu=True)
    wanted = np.where(z < 0, np.expm1(np.minimum(z, 0)), z)
    assert (y.shape, y.dtype) == (z.shape, torch.float32)
    # 35 terms below 4 and what follows them: fewer than 100 roundings of numbers below 200.
    np.testing.assert_allclose(y.double().numpy(), wanted, rtol=0, atol=100 * 200 * 2.0**-24)
    bits = ops.packed_linear(**keywords, to_bits=True)
    assert (bits.shape, bits.dtype) == ((*rows, 1), torch.int32)
    assert (signs_of(bits, z.shape[-1]) == np.where(z < 0, -1.0, 1.0)).all()


def test_a_linear_layer_keeps_the_dtype_and_takes_any_strides() -> None:
    keywords = linear(residual=None)
    for dtype in DTYPES:
        assert ops.packed_linear(**keywords | {"x": keywords["x"].to(dtype)}).dtype == dtype
    x = keywords["x"].transpose(0, 1)
    y = ops.packed_linear(**keywords | {"x": x})
    assert torch.equal(y, ops.packed_linear(**keywords | {"x": x.contiguous()}))


STEPS = {
    "plain": {},
    "bits out": {"to_bits": True},
    "all": {"has_residual": True, "gate": True, "elu": True},
}


@pytest.mark.parametrize("input", ["real", "signs", "bits"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_opcheck(input: str, steps: dict[str, bool]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        opcheck(_packed_conv2d, arguments(Case(SHAPE, input, **steps), dtype))


@settings(max_examples=60)
@given(cases(max_channels=70, max_outputs=40), st.sampled_from(DTYPES))
def test_the_fake_result_has_the_form_of_the_real_one(case: Case, dtype: torch.dtype) -> None:
    given = arguments(case, dtype)
    with FakeTensorMode() as mode:
        fake = _packed_conv2d(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in given))
    assert form(fake) == form(_packed_conv2d(*given))


def form(y: Tensor) -> tuple[torch.dtype, torch.Size, list[int]]:
    """Dtype, shape, and the strides that mean something."""
    strides = [stride for size, stride in zip(y.shape, y.stride(), strict=True) if size > 1]
    return y.dtype, y.shape, strides if y.numel() else []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_layers_equal_eager_ones(layout: str) -> None:
    """Two layers that pass bits on, and a linear one."""
    first = convolution(residual=None, gate=False, to_bits=True)
    first["x"] = arguments(Case(SHAPE, x_layout=layout))[0]
    second = convolution(input="bits", channels=6, residual=None, gate=False, elu=True)
    second["weight_bits"] = second["weight_bits"][..., :1] & 0b111111
    last = linear("real", residual=None, gate=False)
    last |= {"weight_bits": last["weight_bits"][:, :1] & 0b111111, "in_features": 6}

    def layers(x: Tensor) -> Tensor:
        hidden = ops.packed_conv2d(**first | {"x": x})
        y = ops.packed_conv2d(**second | {"x": hidden})
        return ops.packed_linear(**last | {"x": y.mean((2, 3))})

    compiled = torch.compile(layers, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(first["x"]), layers(first["x"]))
