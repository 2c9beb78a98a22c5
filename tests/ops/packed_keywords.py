"""Keywords of packed_conv2d and packed_linear, for the tests to change."""

from typing import Any

import torch
from tests.kernels.packed_arguments import Case, arguments

from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape

SHAPE = Conv2dShape(2, 35, 5, 4, 6, kernel=(3, 2), stride=(2, 1), padding=(1, 2))


def convolution(input: str = "signs", **changes: Any) -> dict[str, Any]:
    """Keywords of ops.packed_conv2d, whose result is [2, 3, 3, 7] with a gate."""
    case = Case(SHAPE, input, has_slope=True, has_residual=True, gate=True)
    x, weight_bits, scale, bias, slope, residual, channels, stride, padding, *_ = arguments(case)
    keywords = {
        "x": x,
        "weight_bits": weight_bits,
        "scale": scale,
        "bias": bias,
        "slope": slope,
        "residual": residual,
        "channels": channels,
        "stride": tuple(stride),
        "padding": tuple(padding),
        "binary_input": input == "signs",
        "gate": True,
    }
    return keywords | changes


def linear(
    input: str = "signs", rows: tuple[int, ...] = (2, 3), gate: bool = True, **changes: Any
) -> dict[str, Any]:
    """Keywords of ops.packed_linear, of 35 features, whose result is [2, 3, 3] with a gate."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*size, 35, generator=generator) for size in (rows, (6,)))
    scale, bias, slope = torch.randn(3, 6, generator=generator)
    keywords = {
        "x": reference.pack_signs(x) if input == "bits" else x,
        "weight_bits": reference.pack_signs(weight),
        "scale": scale,
        "bias": bias,
        "slope": slope,
        "residual": torch.randn(*rows, 3 if gate else 6, generator=generator),
        "in_features": 35,
        "binary_input": input == "signs",
        "gate": gate,
    }
    return keywords | changes
