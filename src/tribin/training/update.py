"""The update of a step: clipping of the gradient, Adam, clipping of the latents, and the average.

Of a recipe, its attributes alone are read, so that these functions work where pydantic is not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tribin.nn import clip_latent_weights
from tribin.training.one_pass_adam import OnePassAdam
from tribin.training.phases import phase

if TYPE_CHECKING:
    from tribin.recipe import Recipe


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    loss: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, Tensor]:
    """Update the model and its average by the gradients, unless these or the loss are not finite.

    Latent weights are clipped to [−1, 1] after it (Bird et al., 2021). By a `OnePassAdam` the
    host does not wait for the device.

    Returns:
        The norm of the gradient before clipping, and whether it and the loss are finite; scalars
        on the device.
    """
    if isinstance(optimizer, OnePassAdam):
        gradient_norm, finite = _in_one_pass(model, optimizer, average, loss, recipe)
    else:
        gradient_norm, finite = _in_parts(model, optimizer, average, loss, recipe)
    with phase("optimizer"):
        optimizer.zero_grad()
    return gradient_norm, finite


def _in_one_pass(
    model: nn.Module,
    optimizer: OnePassAdam,
    average: AveragedModel | None,
    loss: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, Tensor]:
    with phase("clip"):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        gradient_norm = nn.utils.get_total_norm(gradients)
        finite = (gradient_norm + loss).isfinite()
    with phase("optimizer"):
        optimizer.update(
            gradient_norm,
            finite,
            average,
            max_norm=recipe.optimizer.gradient_clip or math.inf,
            decay=recipe.training.ema_decay or 0.0,
        )
        if average is not None:
            _copy_buffers(average.module, model, where=finite)
    return gradient_norm, finite


def _in_parts(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    loss: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, Tensor]:
    with phase("clip"):
        max_norm = recipe.optimizer.gradient_clip or math.inf
        gradient_norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        finite = (gradient_norm + loss).isfinite()
    if finite:
        with phase("optimizer"):
            optimizer.step()
        with phase("clip"):
            clip_latent_weights(model)
        if average is not None:
            with phase("optimizer"):
                average.update_parameters(model)
    return gradient_norm, finite


@torch.no_grad()
def _copy_buffers(target: nn.Module, source: nn.Module, *, where: Tensor) -> None:
    """As `AveragedModel` does: buffers are not averaged."""
    for ours, theirs in zip(target.buffers(), source.buffers(), strict=True):
        ours.copy_(torch.where(where, theirs, ours))
