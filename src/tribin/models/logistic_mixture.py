"""Mixtures of logistic distributions, as a monotone map of the real line (Ho et al., 2019)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Of a root, relative to its size or to 1; in float64, where a Newton step squares the error.
_ROOT_TOLERANCE = 1e-12
_MAXIMUM_ITERATIONS = 200


@dataclass(frozen=True)
class LogisticMixture:
    """Independent variables, each a mixture of K logistic ones; three tensors [..., K].

    Attributes:
        logits: of the components' weights, not normalized.
        mean: locations.
        log_scale: logarithms of the scales.
    """

    logits: Tensor
    mean: Tensor
    log_scale: Tensor

    def logit_cdf(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of the distribution function at x, and the logarithm of its derivative.

        Both hold in the tails too, where the distribution function itself rounds to 0 or 1.

        Args:
            x: [...].

        Returns:
            Two tensors [...].
        """
        centred = (x.unsqueeze(-1) - self.mean) * (-self.log_scale).exp()
        log_weight = F.log_softmax(self.logits, dim=-1)
        below, above = F.logsigmoid(centred), F.logsigmoid(-centred)
        log_cdf = (log_weight + below).logsumexp(-1)
        log_survival = (log_weight + above).logsumexp(-1)
        log_density = (log_weight + below + above - self.log_scale).logsumexp(-1)
        # d logit(F) = dF / (F·(1 − F))
        return log_cdf - log_survival, log_density - log_cdf - log_survival

    def inverse_logit_cdf(self, logit: Tensor) -> Tensor:
        """The x at which `logit_cdf` is `logit`; differentiable, solved in float64.

        Args:
            logit: [...].
        """
        exact = LogisticMixture(self.logits.double(), self.mean.double(), self.log_scale.double())
        target = logit.double()
        with torch.no_grad():
            root = exact._solve(target)
        value, log_slope = exact.logit_cdf(root)
        # A last Newton step, which has the derivatives of the inverse function. On a plateau, where
        # rounding alone makes it long, it goes no further than the root is uncertain.
        slope = log_slope.detach().exp().clamp(min=torch.finfo(torch.float64).tiny)
        step = (target - value) / slope
        limit = _ROOT_TOLERANCE * root.abs().clamp(min=1)
        step = step + (step.clamp(-limit, limit) - step).detach()
        return (root + step).to(logit.dtype)

    def _solve(self, target: Tensor) -> Tensor:
        """Newton's method, with bisection where it leaves the bracket or is slow.

        Where each component has the target as its logit, the mixture's is at most the target at
        the lowest of these points, and at least the target at the highest.
        """
        ends = self.mean + target.unsqueeze(-1) * self.log_scale.exp()
        lower, upper = ends.amin(-1), ends.amax(-1)
        root, last_step = (lower + upper) / 2, upper - lower
        for _ in range(_MAXIMUM_ITERATIONS):
            value, log_slope = self.logit_cdf(root)
            lower = torch.where(value <= target, root, lower)
            upper = torch.where(value >= target, root, upper)
            newton = root - (value - target) * (-log_slope).exp()
            step = (newton - root).abs()
            tolerance = _ROOT_TOLERANCE * root.abs().clamp(min=1)
            fast = (step < last_step / 2) & (newton >= lower) & (newton <= upper)
            # A root that is found stays, while others of the batch are still sought.
            is_newton = fast | (step <= tolerance)
            following = torch.where(is_newton, newton, (lower + upper) / 2)
            last_step = (following - root).abs()
            root = following
            if not (last_step > tolerance).any():
                break
        return root
