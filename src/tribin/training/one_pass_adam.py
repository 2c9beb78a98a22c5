"""Adam on a GPU, in one pass over the memory and without the host waiting for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tribin.nn import latent_weights
from tribin_kernels.reference import AdamSettings, AdamTensors


def takes_one_pass(model: nn.Module) -> bool:
    """Whether the kernel `adam_step` can update the model: float32 on a GPU, with Triton."""
    kernel_can = all(x.is_cuda and x.dtype == torch.float32 for x in model.parameters())
    return kernel_can and find_spec("triton") is not None


class OnePassAdam(torch.optim.Adam):
    """Adam whose `update` does all that a step does once the norm of the gradient is known.

    The state is that of torch's Adam.

    Args:
        model: whose parameters to train; its latent weights are clipped.
        others: keyword arguments of torch's Adam.
    """

    def __init__(self, model: nn.Module, **others: Any) -> None:
        from tribin_kernels.adam_step import AdamStep  # Triton takes its time

        super().__init__(model.parameters(), **others)
        self._step = AdamStep()
        self._latent = {id(parameter) for parameter in latent_weights(model).values()}

    @torch.no_grad()
    def update(
        self,
        gradient_norm: Tensor,
        finite: Tensor,
        average: AveragedModel | None,
        *,
        max_norm: float,
        decay: float,
    ) -> None:
        """Clip the gradients, step, clip the latent weights, and average; or, not finite, nothing.

        Args:
            gradient_norm: of all gradients together, a scalar.
            finite: whether to take the step: bool, a scalar.
            average: of the model, with its counter on the device.
            max_norm: of the clipped gradients.
            decay: of the average.
        """
        (group,) = self.param_groups
        parameters = group["params"]
        averages = [None] * len(parameters) if average is None else average.parameters()
        self._step(
            [self._tensors(*pair) for pair in zip(parameters, averages, strict=True)],
            gradient_norm,
            finite,
            None if average is None else average.n_averaged,
            AdamSettings(group["lr"], group["betas"], group["eps"], max_norm, decay),
        )

    def _tensors(self, parameter: Tensor, average: Tensor | None) -> AdamTensors:
        if parameter.grad is not None and not self.state[parameter]:
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        latent = id(parameter) in self._latent
        state = self.state.get(parameter, {})
        return AdamTensors(parameter, parameter.grad, **state, average=average, latent=latent)
