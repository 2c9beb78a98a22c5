"""Adam, its learning rate over the images seen, the weights' average, and Adam's state by name.

Of a recipe, its attributes alone are read, so that these functions work where pydantic is not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tribin.training.one_pass_adam import OnePassAdam, takes_one_pass

if TYPE_CHECKING:
    from tribin.recipe import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Adam over all parameters, latent weights included (Bird et al., 2021)."""
    section = recipe.optimizer
    settings: dict[str, Any] = {
        "lr": section.learning_rate,
        "betas": section.betas,
        "eps": section.epsilon,
        "fused": True,
    }
    if takes_one_pass(model):
        return OnePassAdam(model, **settings)
    return torch.optim.Adam(model.parameters(), **settings)


def learning_rate(recipe: Recipe, images_seen: int) -> float:
    """The learning rate of the step that starts after `images_seen` images.

    It rises linearly over the warm-up. Afterwards the exponential schedule multiplies by ``decay``
    each step down to the floor, and the cosine reaches the final rate at the end of training.
    """
    section, training = recipe.optimizer, recipe.training
    if images_seen < section.warmup_images:
        return (
            section.learning_rate
            * (images_seen + training.batch_size)
            / (section.warmup_images + training.batch_size)
        )
    images = images_seen - section.warmup_images
    if section.schedule == "exponential":
        decayed = section.learning_rate * section.decay ** (images / training.batch_size)
        return max(decayed, section.final_learning_rate)
    if section.schedule == "cosine":
        progress = images / (training.images - section.warmup_images)
        share = (1 + math.cos(math.pi * progress)) / 2
        return section.final_learning_rate + share * (
            section.learning_rate - section.final_learning_rate
        )
    return section.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, images_seen: int) -> float:
    """Give the optimizer the `learning_rate` of the step that starts there, and return it."""
    rate = learning_rate(recipe, images_seen)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def build_average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The exponential average of the weights over the steps, where the recipe asks for one."""
    decay = recipe.training.ema_decay
    if decay is None:
        return None
    device = next(model.parameters()).device  # of the counter too, which the kernel increases
    return AveragedModel(model, device, multi_avg_fn=get_ema_multi_avg_fn(decay))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``<parameter>:<quantity>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}:{quantity}": value
        for index, (name, _) in enumerate(model.named_parameters())
        for quantity, value in state.get(index, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    indices = {name: index for index, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, quantity = key.rpartition(":")
        if value.ndim:  # the fused update asks for the parameter's memory format
            value = torch.empty_like(parameters[name]).copy_(value)
        state.setdefault(indices[name], {})[quantity] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
