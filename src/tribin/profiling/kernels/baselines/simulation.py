"""The binary layer as frameworks simulate it: signs with straight-through estimators, as reals."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from tribin import ops
from tribin.profiling.kernels.candidate import (
    Candidate,
    Run,
    UnavailableError,
    epilogue,
    per_output,
    product,
)
from tribin.profiling.kernels.operands import RESULTS, UNIT, Layer
from tribin.profiling.kernels.packed_operands import residual
from tribin.profiling.kernels.problem import Problem
from tribin_kernels import reference

Signs = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""Of weights and of activations, with their straight-through estimators."""


def simulated(problem: Problem, layer: Layer) -> Candidate | None:
    """In eager mode, in the dtype of the activations."""
    if problem.op == "pack_signs":
        return None
    return _candidate(problem, layer, simulated_layer, (ops.sign_weight, ops.sign_activation))


def simulated_compiled(problem: Problem, layer: Layer) -> Candidate | None:
    """By ``torch.compile``, forward and backward, for this shape alone."""
    if problem.op == "pack_signs":
        return None
    candidate = _candidate(problem, layer, _compiled(problem), (_chosen_weight, _chosen_activation))
    try:
        candidate.prepare(*copy.deepcopy(candidate.operands))()  # which compiles it
    except RuntimeError as error:
        reason, _, _ = str(error).partition("\n")
        raise UnavailableError(f"torch.compile: {reason}") from error
    return candidate


@cache
def _compiled(problem: Problem) -> Callable[..., Tensor]:
    """For the problem alone: what is compiled for all shapes of one code is looked up by trying."""
    function = FunctionType(simulated_layer.__code__.replace(), simulated_layer.__globals__)
    compiled: Callable[..., Tensor] = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled


def simulated_layer(
    x: Tensor,
    latent_weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    added: Tensor | None,
    geometry: tuple[list[int], ...],
    binary_input: bool,
    options: Collection[str],
    signs: Signs,
) -> Tensor:
    """y of a binary layer, and of a packed one with these options and residual; differentiable."""
    sign_weight, sign_activation = signs
    weight = sign_weight(latent_weight).to(x.dtype)
    scale = per_output(reference.weight_scale(gain, latent_weight).to(x.dtype), geometry)
    x = sign_activation(x) if binary_input else x
    z = product(x, weight, None, geometry) * scale + per_output(bias.to(x.dtype), geometry)
    return epilogue(z, added, options)


class _Chosen(torch.autograd.Function):
    """Signs for the compiler, which makes slow loops of those of `tribin.ops`.

    In eager mode those are the faster ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (passes,) = ctx.saved_tensors
        return grads[0] if passes is None else torch.where(passes, grads[0], 0.0), None


def _chosen_weight(latent_weight: Tensor) -> Tensor:
    signs: Tensor = _Chosen.apply(latent_weight, None)
    return signs


def _chosen_activation(x: Tensor) -> Tensor:
    signs: Tensor = _Chosen.apply(x, x.abs() <= 1)
    return signs


def _candidate(
    problem: Problem, layer: Layer, function: Callable[..., Tensor], signs: Signs
) -> Candidate:
    """Roundings: of the scale, the product and each step that follows; a gradient has less."""
    rest = layer.geometry, problem.binary_input, problem.options, signs

    def inference(*operands: Tensor | None) -> Run:
        return lambda: function(*operands, *rest)

    def forward(*operands: Tensor) -> Run:
        leaves = _leaves(operands)
        return lambda: function(*leaves, None, *rest)

    def backward(grad_y: Tensor, *operands: Tensor) -> Run:
        leaves = _leaves(operands)
        with _captured_stream(grad_y.device):
            y = function(*leaves, None, *rest)
        return lambda: torch.autograd.grad(y, leaves, grad_y, retain_graph=True)

    operands = layer.x, layer.latent_weight, layer.gain, layer.bias
    how = str(layer.x.dtype).removeprefix("torch."), 8 * UNIT[layer.x.dtype]
    if problem.is_backward:
        return Candidate((layer.grad_y, *operands), backward, _gradients, *how)
    if problem.is_packed:
        added = residual(layer, problem.options)
        return Candidate((*operands, added), inference, lambda y: {"y": y}, *how)
    return Candidate(operands, forward, lambda y: {"y": y.detach()}, *how)


def _leaves(operands: Iterable[Tensor]) -> list[Tensor]:
    return [operand.detach().requires_grad_() for operand in operands]


def _gradients(gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return dict(zip(RESULTS[1:], gradients, strict=True))


@contextmanager
def _captured_stream(device: torch.device) -> Iterator[None]:
    """The stream that graphs are captured on: a backward pass runs on its forward pass's stream."""
    if device.type != "cuda":
        yield
        return
    graph: Any = torch.cuda.graph
    stream = graph.default_capture_stream = graph.default_capture_stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
