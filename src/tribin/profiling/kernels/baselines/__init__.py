"""What one would use without tribin, by name; each gives the problem's results, or those it has.

A baseline gets its operands as it wants them: signs, rounded or transposed weights are made before
the clock starts.
"""

from collections.abc import Callable

import torch

from tribin.profiling.kernels.baselines.integer import int_mm, onednn_int8
from tribin.profiling.kernels.baselines.library import copy, library_layer
from tribin.profiling.kernels.baselines.one_bit_libraries import bitblas, gemlite
from tribin.profiling.kernels.baselines.simulation import simulated, simulated_compiled
from tribin.profiling.kernels.candidate import Candidate
from tribin.profiling.kernels.operands import Layer
from tribin.profiling.kernels.problem import Problem

Baseline = Callable[[Problem, Layer], Candidate | None]
"""Of the problem's layer on the device; None where it doesn't apply.

It raises `UnavailableError` where it would apply, and can't be had.
"""


BASELINES: dict[str, Baseline] = {
    "torch float32": library_layer(torch.float32),
    "torch bfloat16": library_layer(torch.bfloat16),
    "simulated": simulated,
    "simulated, compiled": simulated_compiled,
    "oneDNN int8": onednn_int8,
    "torch._int_mm": int_mm,
    "gemlite": gemlite,
    "BitBLAS": bitblas,
    "copy": copy,
}

__all__ = ["BASELINES", "Baseline"]
