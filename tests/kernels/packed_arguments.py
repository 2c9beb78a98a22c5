"""Arguments of packed_conv2d, drawn at random, for its specification and its CPU routes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels.conv2d_shape import Conv2dShape

LAYOUTS = ["contiguous", "channels_last", "every second column", "one image for all"]


@dataclass(frozen=True)
class Case:
    """What a call asks for.

    Args:
        input: "real", "signs" of a real x, or "bits".
        integers: all that follows the product is in small integers, so that results often are 0.
        x_layout, residual_layout: one of `LAYOUTS`.
    """

    shape: Conv2dShape
    input: str = "signs"
    has_bias: bool = True
    has_slope: bool = False
    has_residual: bool = False
    gate: bool = False
    elu: bool = False
    to_bits: bool = False
    integers: bool = False
    x_layout: str = "contiguous"
    residual_layout: str = "contiguous"
    seed: int = 0

    @property
    def results(self) -> int:
        return self.shape.outputs // 2 if self.gate else self.shape.outputs


@dataclass(frozen=True)
class Operands:
    """The tensors of a call, with x and the weight [out, C, kh, kw] as floats."""

    x: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    slope: Tensor | None
    residual: Tensor | None


def operands(case: Case, dtype: torch.dtype = torch.float32) -> Operands:
    shape, generator = case.shape, torch.Generator().manual_seed(case.seed)

    def random(*size: int) -> Tensor:
        values = torch.randn(size, generator=generator)
        return values.round() if case.integers else values

    x = torch.randn(shape.batch, shape.channels, shape.height, shape.width, generator=generator)
    if case.input != "real":  # whose signs are +1
        for i, value in enumerate((0.0, -0.0, torch.nan)):
            x[torch.rand(x.shape, generator=generator) < 0.03 * (i + 1)] = value
    weight = torch.randn(shape.outputs, shape.channels, *shape.kernel, generator=generator)
    scale, bias = random(shape.outputs), random(shape.outputs)
    residual = random(shape.batch, case.results, *shape.output_size)
    slope = random(shape.outputs)
    for value in (0.0, 1.0):
        slope[torch.rand(slope.shape, generator=generator) < 0.2] = value
    return Operands(
        laid_out(x.to(dtype), case.x_layout),
        torch.where(weight < 0, -1.0, 1.0),
        (scale if case.integers else scale * shape.gain_factor).to(dtype),
        bias.to(dtype) if case.has_bias else None,
        slope.to(dtype) if case.has_slope else None,
        laid_out(residual.to(dtype), case.residual_layout) if case.has_residual else None,
    )


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The values, or the first image's for every one, in another order in memory."""
    match layout:
        case "contiguous":
            return values
        case "channels_last":
            return values.contiguous(memory_format=torch.channels_last)
        case "every second column":
            return values.repeat_interleave(2, dim=3)[..., ::2]
    return values[:1].expand_as(values)


def row_bits(values: Tensor) -> Tensor:
    """The bits of [N, C, H, W] along its channels, int32 [N, H, W, ceil(C/32)], by NumPy."""
    negative = (values.permute(0, 2, 3, 1) < 0).numpy()
    padding = -negative.shape[-1] % 32
    padded = np.pad(negative, [(0, 0)] * 3 + [(0, padding)])
    octets = np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little"))
    return torch.from_numpy(octets.view(np.int32))


def arguments(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """As the op's schema has them."""
    given = operands(case, dtype)
    return (
        row_bits(given.x) if case.input == "bits" else given.x,
        row_bits(given.weight),
        given.scale,
        given.bias,
        given.slope,
        given.residual,
        case.shape.channels,
        list(case.shape.stride),
        list(case.shape.padding),
        case.input == "signs",
        case.gate,
        case.elu,
        case.to_bits,
    )


@st.composite
def shapes(draw: st.DrawFn, max_channels: int, max_outputs: int) -> Conv2dShape:
    """Ragged ones; their padding may be larger than the kernel."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    height, width = (
        draw(st.integers(max(1, k - 2 * p), 20)) for k, p in zip(kernel, padding, strict=True)
    )
    return Conv2dShape(
        batch=draw(st.integers(0, 3)),
        channels=draw(st.integers(1, max_channels)),
        height=height,
        width=width,
        outputs=draw(st.integers(1, max_outputs)),
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
    )


@st.composite
def cases(
    draw: st.DrawFn,
    inputs: tuple[str, ...] = ("real", "signs", "bits"),
    max_channels: int = 300,
    max_outputs: int = 140,
) -> Case:
    shape = draw(shapes(max_channels, max_outputs))
    return Case(
        shape,
        input=draw(st.sampled_from(inputs)),
        has_bias=draw(st.booleans()),
        has_slope=draw(st.booleans()),
        has_residual=draw(st.booleans()),
        gate=shape.outputs % 2 == 0 and draw(st.booleans()),
        elu=draw(st.booleans()),
        to_bits=draw(st.booleans()),
        integers=draw(st.booleans()),
        x_layout=draw(st.sampled_from(LAYOUTS)),
        residual_layout=draw(st.sampled_from(LAYOUTS)),
        seed=draw(st.integers(0, 10**6)),
    )
