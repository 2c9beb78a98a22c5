"""Bad arguments of packed_conv2d and packed_linear are named before anything is computed."""

import re
from typing import Any

import pytest
import torch
from tests.ops.packed_keywords import convolution, linear

from tribin import ops

Refusals = dict[str, tuple[dict[str, Any], type[Exception], str]]

EITHER: Refusals = {
    "x": ({"x": torch.zeros(2, 35, 5, 4).long()}, TypeError, "x is torch.int64, it must be float"),
    "weight": ({"weight_bits": torch.zeros(6, 3, 2, 2)}, TypeError, "weight_bits is torch.float32"),
    "scale": ({"scale": torch.zeros(6).int()}, TypeError, "scale is torch.int32, it must be float"),
    "bias": ({"bias": torch.zeros(6).long()}, TypeError, "bias is torch.int64, it must be float"),
    "slope": ({"slope": torch.zeros(6).int()}, TypeError, "slope is torch.int32, it must be float"),
    "residual": ({"residual": torch.zeros(2).int()}, TypeError, "residual is torch.int32, it must"),
    "scales": ({"scale": torch.zeros(5)}, ValueError, "scale has the shape [5], weight_bits asks"),
    "biases": ({"bias": torch.zeros(6, 1)}, ValueError, "bias has the shape [6, 1], weight_bits"),
    "slopes": ({"slope": torch.zeros(1)}, ValueError, "slope has the shape [1], weight_bits asks"),
}
CONVOLUTION: Refusals = {
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
LINEAR: Refusals = {
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


@pytest.mark.parametrize("name", ["weight_bits", "scale", "bias", "slope", "residual"])
def test_devices_may_not_differ(name: str) -> None:
    for op, keywords in ((ops.packed_conv2d, convolution()), (ops.packed_linear, linear())):
        keywords[name] = keywords[name].to("meta")
        with pytest.raises(ValueError, match=rf"{op.__name__}: {name} is on meta, x is on cpu"):
            op(**keywords)


def test_a_gate_needs_an_even_number_of_outputs() -> None:
    for op, keywords in ((ops.packed_conv2d, convolution()), (ops.packed_linear, linear())):
        for name in ("weight_bits", "scale", "bias", "slope"):
            keywords[name] = keywords[name][:5]
        with pytest.raises(ValueError, match="a gate takes an even number of outputs, not 5"):
            op(**keywords)
