"""packed_conv2d and packed_linear: fake tensors, compilation, and linear products."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.packed_arguments import LAYOUTS, Case, arguments, cases
from tests.ops.packed_keywords import SHAPE, convolution, linear
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from tribin import ops

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
_packed_conv2d = torch.ops.tribin.packed_conv2d.default


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
    x, weight, scale, bias, slope, residual = (
        keywords[name].double().numpy() if keywords[name].is_floating_point() else keywords[name]
        for name in ("x", "weight_bits", "scale", "bias", "slope", "residual")
    )
    if input == "bits":
        x = signs_of(x, 35)
    elif input == "signs":
        x = np.where(x < 0, -1.0, 1.0)
    z = x @ signs_of(weight, 35).T * scale + bias
    eps = 2.0**-23
    bound = 37 * eps * (abs(x).sum(-1, keepdims=True) * abs(scale) + abs(bias))
    z = np.where(z > 0, z, slope * z)
    bound = bound * np.maximum(1, abs(slope)) + eps * abs(z)
    if gate:
        (a, b), (bound_a, bound_b) = np.split(z, 2, axis=-1), np.split(bound, 2, axis=-1)
        z = a / (1 + np.exp(-b))
        bound = bound_a + (abs(a) + bound_a) * (bound_b / 4 + 8 * eps)
    z = z + residual
    wanted = np.where(z < 0, np.expm1(np.minimum(z, 0)), z)
    y = ops.packed_linear(**keywords, elu=True)
    assert (y.shape, y.dtype) == (z.shape, torch.float32)
    assert (abs(y.numpy() - wanted) <= bound + eps * (abs(z) + 4)).all()
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
    "all": {"has_slope": True, "has_residual": True, "gate": True, "elu": True},
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
