"""The logistic distribution, of latents and, discretized, of pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin.sharding import rand_like

# Half the step of torch.rand in float32: keeps the quantile function finite.
_SMALLEST_UNIFORM = 2.0**-25


@dataclass(frozen=True)
class Logistic:
    """Independent logistic variables; float32 mean and scale of one shape.

    Attributes:
        mean: location.
        scale: positive; the standard deviation is scale·π/√3.
    """

    mean: Tensor
    scale: Tensor

    def sample(self, temperature: float = 1.0) -> Tensor:
        """Draw by the inverse of the distribution function, differentiable in mean and scale."""
        uniform = rand_like(self.mean).clamp(min=_SMALLEST_UNIFORM)
        return self.mean + temperature * self.scale * torch.logit(uniform)

    def log_density(self, x: Tensor) -> Tensor:
        """Log of the density at x, elementwise, in nats."""
        centred = (x - self.mean) / self.scale
        return -centred - 2 * F.softplus(-centred) - self.scale.log()


@dataclass(frozen=True)
class DiscretizedLogistic:
    """A logistic variable rounded to `levels` even values from −1 to 1 (Kingma et al., 2016).

    Attributes:
        mean: float32, of each pixel, in the units of [−1, 1].
        log_scale: float32, broadcast with mean.
        levels: number of bins; the first and the last take the tails.
    """

    mean: Tensor
    log_scale: Tensor
    levels: int

    def log_probability(self, pixels: Tensor) -> Tensor:
        """Log of the probability of integer pixels in [0, levels), elementwise, in nats."""
        half_bin = 1 / (self.levels - 1)
        inverse_scale = (-self.log_scale).exp()
        centred = to_unit_range(pixels, self.levels) - self.mean
        upper = (centred + half_bin) * inverse_scale
        lower = (centred - half_bin) * inverse_scale
        below_upper, above_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
        # σ(a) − σ(b) = σ(a)·σ(−b)·(1 − exp(b − a)), without cancellation.
        bin_width = -torch.expm1(-2 * half_bin * inverse_scale)
        inside = below_upper + above_lower + bin_width.log()
        at_top = torch.where(pixels == self.levels - 1, above_lower, inside)
        return torch.where(pixels == 0, below_upper, at_top)

    def sample(self, temperature: float = 1.0) -> Tensor:
        """Draw pixels, uint8."""
        scale = self.log_scale.exp().expand_as(self.mean)
        return to_pixels(Logistic(self.mean, scale).sample(temperature), self.levels)


def to_unit_range(pixels: Tensor, levels: int) -> Tensor:
    """Map pixels 0 … levels − 1 linearly onto [−1, 1], float32."""
    half = (levels - 1) / 2
    return (pixels.float() - half) / half


def to_pixels(x: Tensor, levels: int) -> Tensor:
    """The pixel, uint8 in [0, levels), whose bin holds x."""
    half = (levels - 1) / 2
    return (x * half + half).round().clamp(0, levels - 1).to(torch.uint8)
