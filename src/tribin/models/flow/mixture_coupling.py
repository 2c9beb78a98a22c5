"""Coupling by the distribution function of a mixture of logistics (Ho et al., 2019)."""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from tribin.models.flow.base import Flow
from tribin.models.logistic_mixture import LogisticMixture

MINIMUM_LOG_SCALE = -7.0
"""Floor of the components' log-scales: a narrower component makes the density explode."""


class MixtureCoupling(Flow):
    """The second half of [N, 2, C, H, W] mapped elementwise, as the first half says.

    y = logit(F(x))·exp(s) + t, where F is the distribution function of a mixture; s is in (−1, 1).
    The conditioner runs in the dtype of its parameters, or in autocast's, the rest in that of x.

    Args:
        conditioner: from the first half, [N, C, H, W], and the context to the parameters of the
            map, [N, C·`parameters_per_channel(components)`, H, W].
        components: K, of the mixture.
    """

    def __init__(self, conditioner: nn.Module, components: int) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.components = components

    @staticmethod
    def parameters_per_channel(components: int) -> int:
        """How many numbers describe the map of one element."""
        return 2 + 3 * components

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the second half."""
        given, x = x.unbind(1)
        mixture, log_scale, shift = self._map(given, context)
        logit, log_slope = mixture.logit_cdf(x)
        y = logit * log_scale.exp() + shift
        return torch.stack((given, y), 1), _sum(log_slope + log_scale)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map it back, by finding the root of each element's equation."""
        given, y = y.unbind(1)
        mixture, log_scale, shift = self._map(given, context)
        x = mixture.inverse_logit_cdf((y - shift) * (-log_scale).exp())
        _, log_slope = mixture.logit_cdf(x)
        return torch.stack((given, x), 1), -_sum(log_slope + log_scale)

    def _map(self, given: Tensor, context: Tensor | None) -> tuple[LogisticMixture, Tensor, Tensor]:
        """The mixture [N, C, H, W, K], s and t [N, C, H, W]."""
        dtype = next(self.conditioner.parameters()).dtype
        raw = self.conditioner(given.to(dtype), context).to(given.dtype)
        raw = rearrange(raw, "n (c parameter) h w -> n c h w parameter", c=given.shape[1])
        log_scale, shift, logits, mean, log_scales = raw.split([1, 1, *[self.components] * 3], -1)
        mixture = LogisticMixture(logits, mean, log_scales.clamp(min=MINIMUM_LOG_SCALE))
        return mixture, log_scale.squeeze(-1).tanh(), shift.squeeze(-1)


def _sum(log_slopes: Tensor) -> Tensor:
    return reduce(log_slopes, "n c h w -> n", "sum")
