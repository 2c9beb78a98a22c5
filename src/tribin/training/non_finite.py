"""Where a step that is not finite went wrong: it is run again, and every value is looked at."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tribin.models import GenerativeModel, Objective
from tribin.models.flow import Flow
from tribin.recipe import Recipe
from tribin.training.step import backward


def first_non_finite(model: GenerativeModel, images: Tensor, recipe: Recipe) -> str:
    """Run the micro-batches of a step again, and say what was the first not to be finite.

    The forward pass shows each layer's parameters, input and output, the backward pass the
    gradients for outputs and parameters. If the first bad gradient is that of a parameter, its own
    layer is at fault; if it is that for an output, what reads the output is.

    The caller seeds the noise, so that the step is the same bit for bit. Nothing is updated, and
    neither hooks nor gradients are left.

    Args:
        model: with the weights, and in the mode, that it had before the step.
        images: all of the step, uint8 [N, C, H, W].
        recipe: of the run.

    Returns:
        Such as "first not finite is the output of stem (WeightNormConv2d), 12 of 384 values".
    """
    search = _Search()
    with ExitStack() as cleanup:
        cleanup.callback(model.zero_grad)
        cleanup.enter_context(torch.compiler.set_stance("force_eager"))  # what is compiled hides
        for path, module in model.named_modules():
            layer = f"{path} ({type(module).__name__})" if path else type(module).__name__
            before, after = partial(search.before, path, layer), partial(search.after, layer)
            cleanup.enter_context(module.register_forward_pre_hook(before))
            cleanup.enter_context(module.register_forward_hook(after))
        for name, parameter in model.named_parameters():
            look = partial(search.look, f"the gradient of parameter {name}")
            cleanup.enter_context(parameter.register_hook(look))
        backward(model, images, recipe)
        return f"first not finite is {search.first}" if search.first else _about_norm(model)


class _Search:
    """Is shown every value when it is computed, and keeps the first that is not finite."""

    def __init__(self) -> None:
        self.first: str | None = None

    def look(self, what: str, values: Tensor) -> None:
        if self.first is None and (bad := int((~values.isfinite()).sum())):
            count = f", {bad:,} of {values.numel():,} values" if values.numel() > 1 else ""
            self.first = what + count

    def before(self, path: str, layer: str, module: nn.Module, inputs: Any) -> None:
        for name, parameter in module.named_parameters(path, recurse=False):
            self.look(f"parameter {name}", parameter)
        for values in inputs:  # what the parent computed was no layer's output
            if isinstance(values, Tensor):
                self.look(f"the input of {layer}", values)

    def after(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for part, values in _parts(module, output):
            self.look(f"the {part} of {layer}", values)
            if values.requires_grad:
                values.register_hook(partial(self.look, f"the gradient for the {part} of {layer}"))


def _parts(module: nn.Module, output: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module returned, and what they are."""
    match output:
        case Tensor():
            yield "output", output
        case Objective(loss, metrics):
            bad = [name for name, value in metrics.items() if not value.isfinite()]
            yield f"loss ({', '.join(bad)})" if bad else "loss", loss
        case (y, log_det) if isinstance(module, Flow):
            yield "output", y
            yield "log-determinant", log_det


def _about_norm(model: nn.Module) -> str:
    """What remains where every value was finite: the norm of the gradients overflowed, or none."""
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    if nn.utils.get_total_norm(gradients.values()).isfinite():
        return "run again, the step was finite"
    largest = {name: gradient.abs().max().item() for name, gradient in gradients.items()}
    name = max(largest, key=lambda name: largest[name])
    return (
        f"each gradient is finite, and their norm is not: the largest, {largest[name]:.3g}, "
        f"is that of parameter {name}"
    )
