"""Torch's own layer with real weights: the same product by oneDNN, cuDNN or cuBLAS."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tribin.profiling.kernels.candidate import Candidate, direct, epilogue, product
from tribin.profiling.kernels.operands import UNIT, Layer
from tribin.profiling.kernels.packed_operands import residual
from tribin.profiling.kernels.problem import Problem
from tribin_kernels import reference


def library_layer(dtype: torch.dtype) -> Callable[[Problem, Layer], Candidate | None]:
    """The baseline in that dtype: its x is that of the product, its weights are α·sign(v)."""

    def baseline(problem: Problem, layer: Layer) -> Candidate | None:
        if problem.op == "pack_signs":
            return None
        return (_backward if problem.is_backward else _forward)(problem, layer, dtype)

    return baseline


def _forward(problem: Problem, layer: Layer, dtype: torch.dtype) -> Candidate:
    added = residual(layer, problem.options)

    def run(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None) -> Tensor:
        return epilogue(product(x, weight, bias, layer.geometry), added, problem.options)

    return _candidate(
        (_x(problem, layer, dtype), _weight(layer, dtype), layer.bias.to(dtype),
         None if added is None else added.to(dtype)),
        run, lambda y: {"y": y}, dtype,
    )  # fmt: skip


def _backward(problem: Problem, layer: Layer, dtype: torch.dtype) -> Candidate:
    """Its weight is real, so that a gradient is α times as large, and x has no estimator."""
    x_passes = reference.activation_mask(layer.x) if problem.binary_input else 1

    def results(gradients: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        grad_x, grad_weight, grad_bias = (gradient.double() for gradient in gradients)
        scale = layer.scale.double().view(-1, *[1] * (grad_weight.ndim - 1))
        return {"x": grad_x * x_passes, "latent_weight": grad_weight * scale, "bias": grad_bias}

    def run(grad_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        if not layer.geometry:
            return grad_y @ weight, grad_y.T @ x, grad_y.sum(0)
        gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            grad_y, x, weight, [len(weight)], *layer.geometry, [1, 1], False, [0, 0], 1,
            [True, True, True],
        )  # fmt: skip
        return gradients

    operands = layer.grad_y.to(dtype), _x(problem, layer, dtype), _weight(layer, dtype)
    return _candidate(operands, run, results, dtype)


def _candidate(
    operands: tuple[Tensor | None, ...],
    run: Callable[..., Any],
    results: Callable[[Any], Mapping[str, Tensor]],
    dtype: torch.dtype,
) -> Candidate:
    """Roundings: of the weight, of the result and of each step that follows."""
    name = str(dtype).removeprefix("torch.")
    return Candidate(operands, direct(run), results, name, 8 * UNIT[dtype])


def _x(problem: Problem, layer: Layer, dtype: torch.dtype) -> Tensor:
    return reference.sign(layer.x, dtype) if problem.binary_input else layer.x.to(dtype)


def _weight(layer: Layer, dtype: torch.dtype) -> Tensor:
    scale = layer.scale.view(-1, *[1] * (layer.latent_weight.ndim - 1))
    weight = (reference.sign(layer.latent_weight) * scale).to(dtype)
    return weight.contiguous(memory_format=reference.memory_format(layer.latent_weight))


def copy(problem: Problem, layer: Layer) -> Candidate | None:
    """Of what is packed: the scale for a problem without products."""
    if problem.op != "pack_signs":
        return None
    return Candidate(
        operands=(torch.empty_like(layer.x), layer.x),
        prepare=lambda target, x: lambda: target.copy_(x),
        results=lambda x: {"x": x},
        arithmetic=None,
        rounding=None,
    )
