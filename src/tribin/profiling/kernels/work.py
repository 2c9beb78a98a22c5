"""A problem with numbers in it: random operands, tribin's computation, and what must come out."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_leaves

from tribin.profiling.kernels.candidate import Candidate, direct
from tribin.profiling.kernels.operands import RESULTS, UNIT, Expected, Layer
from tribin.profiling.kernels.packed_operands import (
    expected_packed,
    packed_arguments,
    packed_layer,
    row_bits,
)
from tribin.profiling.kernels.problem import Problem
from tribin_kernels import reference


def layer_of(problem: Problem, dtype: torch.dtype, device: torch.device) -> Layer:
    """Its layer, images and kernels channels-last; without outputs where signs are packed.

    Args:
        problem: the problem.
        dtype: of the activations; parameters are float32.
        device: where they are.
    """
    if problem.is_conv2d:
        batch, channels, height, width = problem.x
        layer = Layer.conv2d(
            batch, channels, height, width,
            problem.outputs, problem.kernel, problem.stride, problem.padding,
        )  # fmt: skip
        memory_format = torch.channels_last
    else:
        *rows, length = problem.x
        layer = Layer.linear(math.prod(rows), length, problem.outputs)
        layer = replace(layer, x=layer.x.view(problem.x))
        memory_format = torch.preserve_format
    if problem.is_packed:
        layer = packed_layer(layer, problem.options)
    return layer.to(dtype, torch.float32, device, memory_format)


def tribin(problem: Problem, layer: Layer) -> Candidate:
    """The problem by its op."""
    op = getattr(torch.ops.tribin, _registered(problem)).default
    dtype = str(layer.x.dtype).removeprefix("torch.")
    arithmetic = "bit" if problem.binary_input else dtype
    rounding = 3 * UNIT[layer.x.dtype]
    if problem.op == "pack_signs":
        return Candidate((layer.x,), direct(op), _named("bits"), None, None)
    if problem.is_packed:
        operands, results = _packed_arguments(problem, layer), _packed_results(problem)
        return Candidate(operands, direct(op), results, arithmetic, None)
    if problem.is_backward:
        operands = layer.backward_arguments(_saved(problem, layer))
        return Candidate(operands, direct(op), _named(*RESULTS[1:]), dtype, rounding)
    names = ("y", "signs", "mask") if problem.binary_input else ("y",)
    return Candidate(layer.forward_arguments(), direct(op), _named(*names), arithmetic, rounding)


def _registered(problem: Problem) -> str:
    return "packed_conv2d" if problem.op == "packed_linear" else problem.op


def _packed_arguments(problem: Problem, layer: Layer) -> tuple[Any, ...]:
    pixels = layer.as_conv2d()
    x = row_bits(pixels) if "bits" in problem.options else pixels.x
    arguments = packed_arguments(pixels, x, problem.binary_input, problem.options)
    x, weight_bits, scale, bias, *rest = arguments
    return x, weight_bits, scale.to(layer.x.dtype), bias.to(layer.x.dtype), *rest


def _packed_results(problem: Problem) -> Callable[[Tensor], dict[str, Tensor]]:
    outputs = problem.outputs // 2 if "gate" in problem.options else problem.outputs

    def results(y: Tensor) -> dict[str, Tensor]:
        name = "y"
        if "to_bits" in problem.options:
            name, y = "signs", reference.unpack_signs(y, outputs, torch.float32).movedim(-1, 1)
        return {name: y if problem.is_conv2d else y.flatten(1)}

    return results


def _saved(problem: Problem, layer: Layer) -> tuple[Tensor, ...]:
    """Of x, for the backward pass."""
    if not problem.binary_input:
        return (layer.x,)
    mask = reference.activation_mask(layer.x).movedim(1, -1)
    return row_bits(layer), reference.pack_bits(mask)


def _named(*names: str) -> Callable[[Any], dict[str, Tensor]]:
    """Names for what an op returns: a tensor, or several."""
    return lambda results: dict(zip(names, tree_leaves(results), strict=True))


def expected(problem: Problem, layer: Layer) -> Expected:
    """What must come out of the problem, by the names of its candidates' results."""
    if problem.op == "pack_signs":
        return Expected({"bits": _bits(layer.x < 0), "x": layer.x.double()})
    if problem.is_packed:
        return expected_packed(layer, problem.binary_input, problem.options)
    found = Expected.of_layer(layer, problem.binary_input)
    x = layer.x.movedim(1, -1)
    bits = {"signs": _bits(x < 0), "mask": _bits(x.abs() <= 1)}
    return Expected(
        {**found.values, **bits},
        {**found.magnitudes, **{name: torch.zeros(()) for name in bits}},
        {**found.terms, **dict.fromkeys(bits, 0)},
    )


def _bits(values: Tensor) -> Tensor:
    """Row bits, added up power by power."""
    padded = pad(values, (0, -values.shape[-1] % 32)).unflatten(-1, (-1, 32))
    powers = 2 ** torch.arange(32, device=values.device)
    return (padded * powers).sum(-1).to(torch.int32)  # 2³¹ wraps
