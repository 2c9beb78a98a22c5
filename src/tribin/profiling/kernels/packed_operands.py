"""The packed twin of a layer with random operands, and what must come out."""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tribin.profiling.kernels.operands import Expected, Layer
from tribin_kernels import reference

SCALE = 1 / 64
"""Of every output: with the values of a `Layer`, float32 adds y up without rounding."""

EXPONENTIALS = 2.0**-16
"""How far a sigmoid or an exponential, which errs by less than 2⁻²⁰ of its value, may take y."""


def packed_layer(layer: Layer, options: Collection[str]) -> Layer:
    """The layer whose twin the packed one is: its scale is `SCALE`, but for a rounding.

    Its grad_y, which is of y's size with a gate too, stands for the residual.
    """
    length = layer.latent_weight[0].numel()
    gain = torch.full_like(layer.gain, SCALE * math.sqrt(length))
    outputs = len(gain) // 2 if "gate" in options else len(gain)
    return replace(layer, gain=gain, grad_y=layer.grad_y[:, :outputs].contiguous())


def row_bits(layer: Layer) -> Tensor:
    """Of the signs of x."""
    return reference.pack_signs(layer.x.movedim(1, -1))


def residual(layer: Layer, options: Collection[str]) -> Tensor | None:
    """What a packed layer with these options adds."""
    return layer.grad_y if "residual" in options else None


def packed_arguments(
    layer: Layer, x: Tensor, binary_input: bool, options: Collection[str]
) -> tuple[Any, ...]:
    """Of `packed_conv2d`.

    Args:
        layer: a convolution, of `packed_layer`.
        x: the layer's, or `row_bits`.
        binary_input: W1A1.
        options: of ``residual``, ``gate``, ``elu`` and ``to_bits``.
    """
    weight_bits = reference.pack_signs(layer.latent_weight.permute(0, 2, 3, 1))
    return (
        x, weight_bits, torch.full_like(layer.gain, SCALE), layer.bias, None,
        residual(layer, options), layer.latent_weight.shape[1], *layer.geometry, binary_input,
        "gate" in options, "elu" in options, "to_bits" in options,
    )  # fmt: skip


def expected_packed(layer: Layer, binary_input: bool, options: Collection[str]) -> Expected:
    """What the packed layer gives: ``"y"``, and ``"signs"``, those of y.

    Args:
        layer: of `packed_layer`.
        binary_input: W1A1.
        options: of `packed_arguments`.
    """
    exact = layer.to(torch.float64, torch.float64, layer.x.device)
    options = set(options) - {"to_bits"}
    y = _packed(exact, binary_input, options)
    slack = 0.0 if options.isdisjoint({"gate", "elu"}) else EXPONENTIALS
    return Expected(
        values={"y": y, "signs": reference.sign(y)},
        magnitudes={"y": _magnitudes(exact, binary_input, options)},
        terms={"y": layer.latent_weight[0].numel()},
        slack={"y": slack, "signs": 2.0 * (y.abs() < slack)},
    )


def _magnitudes(exact: Layer, binary_input: bool, options: Collection[str]) -> Tensor:
    """With a gate, a·sigmoid(b): a sigmoid is below 1 and its slope at most 1/4."""
    z = _packed(exact, binary_input, ())
    magnitude = _packed(exact.magnitudes(), binary_input, ())
    if "gate" in options:
        a, _ = z.chunk(2, dim=1)
        of_a, of_b = magnitude.chunk(2, dim=1)
        magnitude = of_a + a.abs() * (1 + of_b / 4)
    added = residual(exact, options)
    return magnitude if added is None else magnitude + added.abs()


def _packed(layer: Layer, binary_input: bool, options: Collection[str]) -> Tensor:
    pixels = layer.as_conv2d()
    y = reference.packed_conv2d(*packed_arguments(pixels, pixels.x, binary_input, options))
    return y if layer.geometry else y.flatten(1)
