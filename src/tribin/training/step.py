"""One optimizer step: forward, backward, and the update unless it is not finite.

Of a recipe, its attributes alone are read, so that these functions work where pydantic is not.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tribin.distributed import sum_over_processes, world_size
from tribin.models import GenerativeModel, Objective
from tribin.nn import latent_weights
from tribin.sharding import Shard, sharded
from tribin.training.phases import phase
from tribin.training.transfer import on_host
from tribin.training.update import update

if TYPE_CHECKING:
    from tribin.recipe import Recipe

Model = GenerativeModel | DistributedDataParallel


@dataclass(frozen=True)
class StepResult:
    """What a step saw.

    Attributes:
        metrics: of the objective, averaged over the micro-batches; scalars on the device.
        gradient_norm: before clipping.
        finite: whether loss and gradient were; if not, nothing was updated. A scalar on the
            device: who asks for its value waits for the step.
    """

    metrics: dict[str, Tensor]
    gradient_norm: Tensor
    finite: Tensor

    def values(self) -> dict[str, float]:
        """Metrics and gradient norm on the host, by one transfer."""
        return on_host({**self.metrics, "gradient_norm": self.gradient_norm})

    def __str__(self) -> str:
        return f"loss {self.metrics['loss'].item()}, gradient norm {self.gradient_norm.item()}"


def train_step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    recipe: Recipe,
    average: AveragedModel | None = None,
) -> StepResult:
    """Take one step on uint8 images [N, C, H, W], in as many micro-batches as the recipe asks.

    The average of the weights, if there is one, takes it too.
    """
    metrics = backward(model, images, recipe)
    gradient_norm, finite = update(model, optimizer, average, metrics["loss"], recipe)
    return StepResult(metrics, gradient_norm, finite)


def backward(model: Model, images: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Add the gradient of the mean loss over uint8 images [N, C, H, W] to the parameters'.

    Where the model is in DistributedDataParallel, each process computes its rows of each
    micro-batch, and the gradients are exchanged in the last one.

    Returns:
        The metrics and the loss, averaged over the micro-batches; scalars on the device.
    """
    totals: dict[str, Tensor] = {}
    micro_batches = images.chunk(recipe.training.accumulation)
    for index, micro_batch in enumerate(micro_batches):
        share = len(micro_batch) / len(images)
        if not isinstance(model, DistributedDataParallel):
            _add_micro_batch(totals, model, micro_batch, share, recipe)
            continue
        shard = Shard.of_this_process(len(micro_batch))
        exchange = nullcontext() if index + 1 == len(micro_batches) else model.no_sync()
        with sharded(shard), exchange:
            _add_micro_batch(totals, model, micro_batch[shard.rows], share * shard.weight, recipe)
    if isinstance(model, DistributedDataParallel):
        summed = sum_over_processes(torch.stack(list(totals.values())))
        return dict(zip(totals, summed, strict=True))
    return totals


def _add_micro_batch(
    totals: dict[str, Tensor], model: Model, images: Tensor, share: float, recipe: Recipe
) -> None:
    with phase("forward"):
        objective = forward(model, images, recipe)
    # DistributedDataParallel gives the mean of the processes' gradients, not their sum.
    processes = world_size() if isinstance(model, DistributedDataParallel) else 1
    with phase("backward"):
        (share * processes * objective.loss).backward()
    for name, value in {**objective.metrics, "loss": objective.loss.detach()}.items():
        totals[name] = totals.get(name, 0) + share * value


def forward(model: Model, images: Tensor, recipe: Recipe) -> Objective:
    """The objective on uint8 images [N, C, H, W], in the precision that the recipe asks for."""
    bfloat16 = recipe.training.autocast == "bfloat16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        objective: Objective = model(images)
    return objective


class SignFlips:
    """Counts the binary weights that a step flips: made before it, asked after it."""

    def __init__(self, model: nn.Module) -> None:
        self._latent_weights = latent_weights(model)
        self._before = {name: value < 0 for name, value in self._latent_weights.items()}

    def rates(self) -> dict[str, float]:
        """The share of flipped signs, of all binary layers together and of each."""
        if not self._before:
            return {}
        counts = [
            ((value < 0) != self._before[name]).sum()
            for name, value in self._latent_weights.items()
        ]
        flips = dict(zip(self._before, torch.stack(counts).tolist(), strict=True))  # one transfer
        total = sum(value.numel() for value in self._before.values())
        layers = {
            f"sign_flips/{name.removesuffix('.latent_weight')}": flips[name] / value.numel()
            for name, value in self._before.items()
        }
        return {"sign_flips": sum(flips.values()) / total, **layers}
