"""The product of signs by the 8-bit integer kernels of torch: exact."""

import torch
from torch import Tensor

from tribin.profiling.kernels.candidate import (
    Candidate,
    UnavailableError,
    direct,
    epilogue,
    on_gpu,
    per_output,
)
from tribin.profiling.kernels.operands import UNIT, Layer
from tribin.profiling.kernels.packed_operands import SCALE, residual
from tribin.profiling.kernels.problem import Problem
from tribin_kernels import reference
from tribin_kernels.cpu import int8


def onednn_int8(problem: Problem, layer: Layer) -> Candidate | None:
    """A packed layer on a CPU, with weights of 8 bits; a real x loses all but its signs in time."""
    if on_gpu(layer) or not (problem.is_packed and problem.binary_input):
        return None
    if not int8.is_available():
        raise UnavailableError("torch was built without oneDNN's int8 convolution")
    pixels, options = layer.as_conv2d(), problem.options
    added, bias = residual(pixels, options), pixels.bias.float()

    def run(x: Tensor, weight: Tensor, added: Tensor | None) -> Tensor:
        negative = x if x.dtype == torch.bool else x < 0
        z = int8.conv2d_w1a1(negative, weight, *pixels.geometry)
        z = z * SCALE + per_output(bias, pixels.geometry)
        y = epilogue(z, added, options).to(pixels.x.dtype)
        return y if layer.geometry else y.flatten(1)

    x = pixels.x < 0 if "bits" in options else pixels.x
    weight = reference.sign(pixels.latent_weight, torch.int8)
    return Candidate((x, weight, added), direct(run), lambda y: {"y": y}, "int8", None)


def int_mm(problem: Problem, layer: Layer) -> Candidate | None:
    """A linear layer by cuBLAS's product of int8 matrices, of the sizes that it takes."""
    if not (on_gpu(layer) and _takes(problem)):
        return None
    dtype = layer.x.dtype

    def run(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, added: Tensor | None) -> Tensor:
        z = torch._int_mm(x, weight.T).to(dtype) * scale + bias
        return epilogue(z, added, problem.options)

    operands = (
        reference.sign(layer.x, torch.int8), reference.sign(layer.latent_weight, torch.int8),
        layer.scale.to(dtype), layer.bias.to(dtype), residual(layer, problem.options),
    )  # fmt: skip
    return Candidate(operands, direct(run), lambda y: {"y": y}, "int8", 8 * UNIT[dtype])


def _takes(problem: Problem) -> bool:
    if problem.op not in ("binary_linear_w1a1", "packed_linear") or not problem.binary_input:
        return False
    rows, length = problem.x
    return rows > 16 and length % 8 == problem.outputs % 8 == 0
