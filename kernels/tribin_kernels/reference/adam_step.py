"""A step of Adam with all that follows it: clipping of gradients and latents, and the average."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamTensors:
    """A parameter and what a step reads and writes of it; all float32, of one shape.

    Attributes:
        parameter: is updated, and clamped to [−1, 1] where `latent`.
        gradient: None where there is none: the parameter is then only clamped and averaged, and
            has no moments and no step.
        exp_avg, exp_avg_sq: Adam's moments.
        step: a scalar, the updates behind it.
        average: the parameter's exponential average over the steps, if there is one.
        latent: whether it is a latent weight.
    """

    parameter: Tensor
    gradient: Tensor | None = None
    exp_avg: Tensor | None = None
    exp_avg_sq: Tensor | None = None
    step: Tensor | None = None
    average: Tensor | None = None
    latent: bool = False


@dataclass(frozen=True)
class AdamSettings:
    """The numbers of a step.

    Attributes:
        learning_rate, betas, epsilon: those of Adam (Kingma and Ba, 2015).
        max_norm: the gradients are scaled down to this norm; may be infinite.
        decay: of the average.
    """

    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    max_norm: float = math.inf
    decay: float = 0.0


@torch.no_grad()
def adam_step(
    tensors: Sequence[AdamTensors],
    gradient_norm: Tensor,
    finite: Tensor,
    averaged_steps: Tensor | None,
    settings: AdamSettings,
) -> None:
    """Update parameters, moments, steps and averages in place; nothing where not `finite`.

    The formulas are those of `torch.nn.utils.clip_grad_norm_`, `torch.optim.Adam` and
    `torch.optim.swa_utils.get_ema_multi_avg_fn`; the first average is a copy.

    Args:
        tensors: of all parameters; averages for all or none.
        gradient_norm: of all gradients together, a scalar.
        finite: a scalar, bool.
        averaged_steps: the steps in the averages, an int64 scalar; None where there are none.
        settings: the step's numbers.
    """
    if not finite:
        return
    scale = (settings.max_norm / (gradient_norm + 1e-6)).clamp(max=1)
    first = averaged_steps is not None and averaged_steps == 0
    for each in tensors:
        if each.gradient is not None:
            _adam(each, each.gradient * scale, settings)
        if each.latent:
            each.parameter.clamp_(-1, 1)
        if each.average is not None:
            each.average.lerp_(each.parameter, 1.0 if first else 1 - settings.decay)
    if averaged_steps is not None:
        averaged_steps.add_(1)


def _adam(each: AdamTensors, gradient: Tensor, settings: AdamSettings) -> None:
    assert each.exp_avg is not None
    assert each.exp_avg_sq is not None
    assert each.step is not None
    beta1, beta2 = settings.betas
    each.step.add_(1)
    each.exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
    each.exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    step = each.step.double()
    step_size = settings.learning_rate / (1 - beta1**step)
    root = each.exp_avg_sq.sqrt() / (1 - beta2**step).sqrt()
    each.parameter.sub_(step_size * each.exp_avg / (root + settings.epsilon))
