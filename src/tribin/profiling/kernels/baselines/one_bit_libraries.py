"""Other libraries' linear layers with 1-bit weights and real activations, where installed."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tribin.profiling.kernels.candidate import Candidate, UnavailableError, direct, epilogue, on_gpu
from tribin.profiling.kernels.operands import UNIT, Layer
from tribin.profiling.kernels.packed_operands import residual
from tribin.profiling.kernels.problem import Problem


def gemlite(problem: Problem, layer: Layer) -> Candidate | None:
    """Gemlite's 1-bit product (mobiusml/gemlite): w = (q − ½)·(−2α) with the bits q."""
    return _by_library("gemlite.core", _gemlite, problem, layer)


def bitblas(problem: Problem, layer: Layer) -> Candidate | None:
    """BitBLAS's product of real rows with int1 weights (microsoft/BitBLAS)."""
    return _by_library("bitblas", _bitblas, problem, layer)


def _by_library(
    module: str,
    candidate: Callable[[Any, Problem, Layer], Candidate],
    problem: Problem,
    layer: Layer,
) -> Candidate | None:
    linear = problem.op in ("binary_linear", "packed_linear") and not problem.binary_input
    half = layer.x.dtype in (torch.float16, torch.bfloat16)
    if not (on_gpu(layer) and linear and half):
        return None
    try:
        library = import_module(module)
    except ImportError as error:
        raise UnavailableError("it is not installed") from error
    try:
        found = candidate(library, problem, layer)
        found.prepare(*found.operands)()  # it may be compiled now, and fail
    except Exception as error:  # whatever the library raises for a shape, or in another version
        raise UnavailableError(f"{problem.name}: {type(error).__name__}: {error}") from error
    return found


def _gemlite(library: Any, problem: Problem, layer: Layer) -> Candidate:
    outputs, length = layer.latent_weight.shape
    dtype = {torch.float16: library.DType.FP16, torch.bfloat16: library.DType.BF16}[layer.x.dtype]
    linear = library.GemLiteLinearTriton(1, length, length, outputs, dtype, dtype)
    bits = (layer.latent_weight < 0).to(torch.uint8)
    steps = (-2 * layer.scale).to(layer.x.dtype).view(-1, 1)
    linear.pack(bits, steps, torch.full_like(steps, 0.5), layer.bias.to(layer.x.dtype))
    return _candidate(problem, layer, linear, ())


def _bitblas(library: Any, problem: Problem, layer: Layer) -> Candidate:
    outputs, length = layer.latent_weight.shape
    dtype = str(layer.x.dtype).removeprefix("torch.")
    matmul = _bitblas_matmul(library, len(layer.x), length, outputs, dtype)
    # An int1 is given as −1 for −1, and as 0 for +1.
    weight = matmul.transform_weight(-(layer.latent_weight < 0).to(torch.int8))

    def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = matmul(x, weight) * scale + bias
        return y

    affine = layer.scale.to(layer.x.dtype), layer.bias.to(layer.x.dtype)
    return _candidate(problem, layer, linear, (weight, *affine))


@cache
def _bitblas_matmul(library: Any, rows: int, length: int, outputs: int, dtype: str) -> Any:
    """It is tuned when it is made; fast decoding packs 1-bit weights wrongly (its issue 311)."""
    config = library.MatmulConfig(
        M=rows, N=outputs, K=length, A_dtype=dtype, W_dtype="int1", accum_dtype="float32",
        out_dtype=dtype, layout="nt", fast_decoding=False,
    )  # fmt: skip
    return library.Matmul(config)


def _candidate(
    problem: Problem, layer: Layer, linear: Callable[..., Tensor], weights: tuple[Tensor, ...]
) -> Candidate:
    def run(linear: Callable[..., Tensor], added: Tensor | None, *arguments: Tensor) -> Tensor:
        with torch.no_grad():
            return epilogue(linear(*arguments), added, problem.options)

    operands = (linear, residual(layer, problem.options), layer.x, *weights)
    arithmetic = str(layer.x.dtype).removeprefix("torch.")
    return Candidate(operands, direct(run), lambda y: {"y": y}, arithmetic, 8 * UNIT[layer.x.dtype])
