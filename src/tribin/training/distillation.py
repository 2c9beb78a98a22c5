"""Distillation from a trained model of the same shape: its streams are matched, less and less."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tribin.models import GenerativeModel, Objective
from tribin.models.flow import MixtureCoupling
from tribin.nn import clip_latent_weights
from tribin.training.run_folder import RunFolder, build_model

LATENT_STD = 0.05


class Distillation:
    """The teacher of a run, and how much it counts."""

    def __init__(self, model: GenerativeModel, teacher: Path, weight: float, images: float) -> None:
        run = RunFolder.open(teacher)
        self.teacher = build_model(run.recipe)
        self.teacher.load_state_dict(run.newest_checkpoint().tensors("model"))
        self.teacher.to(model.device).eval().requires_grad_(False)
        self.weight, self.images, self.images_seen = weight, images, 0

    @torch.no_grad()
    def start(self, model: GenerativeModel) -> None:
        """Give the model the teacher's weights."""
        ours = dict(model.named_parameters())
        for name, value in self.teacher.named_parameters():
            latent = name.replace("direction", "latent_weight")
            if name in ours:
                ours[name].copy_(value)
            elif latent in ours:
                ours[latent].copy_(value / value.std() * LATENT_STD)
        clip_latent_weights(model)

    def __call__(self, model: GenerativeModel, images: Tensor) -> Objective:
        """The objective with the distance from the teacher added."""
        share = self.weight * max(0.0, 1 - self.images_seen / self.images)
        if not share:
            return model(images)
        state = torch.get_rng_state()
        theirs, _ = _streams(self.teacher, images)
        torch.set_rng_state(state)
        ours, objective = _streams(model, images)
        distances = [
            (a - b).square().mean() / b.square().mean().clamp(min=1e-6)
            for a, b in zip(ours, theirs, strict=True)
        ]
        distance = torch.stack(distances).mean()
        metrics = {**objective.metrics, "distance": distance.detach()}
        return Objective(objective.loss + share * distance, metrics)


def _streams(model: nn.Module, images: Tensor) -> tuple[list[Tensor], Any]:
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(
            lambda _, __, y: found.append((y[0] if isinstance(y, tuple) else y).float())
        )
        for name, module in model.named_modules()
        if isinstance(module, MixtureCoupling)
        or name.endswith(("up_parameters", "down_parameters"))
        or name == "head"
    ]
    try:
        with torch.set_grad_enabled(model.training):
            result = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found, result
