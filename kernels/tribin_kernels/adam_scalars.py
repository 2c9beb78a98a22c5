"""What a step of Adam needs beside its tensors: the factors of this step, made on the device.

They depend on what only the device knows: the norm of the gradient, whether the step is finite,
and how many steps were before it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math
import sys

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.launch import launch
from tribin_kernels.reference import AdamSettings

_BLOCK = 128


def adam_scalars(
    table: Tensor,
    gradient_norm: Tensor,
    finite: Tensor,
    averaged_steps: Tensor | None,
    settings: AdamSettings,
) -> tuple[Tensor, Tensor]:
    """Count the step, of each tensor and in the averages, unless it is not `finite`.

    Args:
        table: that of `adam_step`, int64 [tensors, 8].
        gradient_norm, finite, averaged_steps, settings: see `reference.adam_step`.

    Returns:
        The factor of the gradients and the weight of the new value in the averages, float32 [2];
        and for each tensor the step size and √(1 − β₂ᵗ), float32 [tensors, 2].
    """
    scales = torch.empty(2, dtype=torch.float32, device=table.device)
    corrections = torch.empty(len(table), 2, dtype=torch.float32, device=table.device)
    launch(
        _adam_scalars,
        (triton.cdiv(len(table), _BLOCK),),
        {
            "table": table,
            "gradient_norm": gradient_norm,
            "finite": finite.view(torch.uint8),
            "averaged_steps": averaged_steps,
            "scales": scales,
            "corrections": corrections,
            "tensors": len(table),
            "learning_rate": settings.learning_rate,
            "max_norm": settings.max_norm,
            "new_weight": 1 - settings.decay,
        },
        {
            "LOG_BETA1": _log(settings.betas[0]),
            "LOG_BETA2": _log(settings.betas[1]),
            "COLUMNS": table.shape[1],
            "BLOCK": _BLOCK,
        },
    )
    return scales, corrections


def _log(beta: float) -> float:
    return math.log(max(beta, sys.float_info.min))  # 0 makes no correction


@triton.jit
def _adam_scalars(
    table, gradient_norm, finite, averaged_steps, scales, corrections, tensors,
    learning_rate, max_norm, new_weight,
    LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    counts = (tl.load(finite) != 0).to(tl.float32)
    if tl.program_id(0) == 0:
        scale = max_norm / (tl.load(gradient_norm) + 1e-6)
        tl.store(scales, tl.minimum(scale, 1.0))
        if averaged_steps is not None:
            averaged = tl.load(averaged_steps)
            tl.store(scales + 1, tl.where(averaged == 0, 1.0, new_weight))
            tl.store(averaged_steps, averaged + counts.to(tl.int64))
    tensor = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    address = tl.load(table + tensor * COLUMNS + 5, tensor < tensors, 0)
    steps = address.to(tl.pointer_type(tl.float32))
    step = tl.load(steps, address != 0, 0.0) + counts
    tl.store(steps, step, address != 0)
    step = tl.maximum(step, 1.0)  # none has a correction of 0
    step_size = learning_rate / _correction(step, LOG_BETA1)
    corrected = corrections + 2 * tensor
    tl.store(corrected, step_size.to(tl.float32), tensor < tensors)
    tl.store(corrected + 1, tl.sqrt(_correction(step, LOG_BETA2)).to(tl.float32), tensor < tensors)


@triton.jit
def _correction(step, LOG_BETA: tl.constexpr):
    """1 − βᵗ in float64: float32 loses it where β is near 1."""
    return 1 - tl.exp(step.to(tl.float64) * tl.full(step.shape, LOG_BETA, tl.float64))
