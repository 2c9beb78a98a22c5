"""How gradients pass a sign: for which inputs, and relative to what (Bird et al., 2021)."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from einops import reduce
from torch import Tensor


@dataclass(frozen=True)
class StraightThrough:
    """Gradients pass the sign of an activation x where |x| ≤ window, or |x| ≤ window·σ.

    σ is the root mean square of an image's activations, as in ReCU (Xu et al., 2021), and counts
    as a constant. The sign itself is the same, and so is the packed model. The defaults are the
    paper's estimator.

    Raises:
        ValueError: for a window that is not positive.
    """

    window: float = field(
        default=1.0, metadata={"gt": 0, "description": "largest |x| whose gradient passes the sign"}
    )
    scale: Literal["none", "sample_std"] = field(
        default="none", metadata={"description": "what the window is a multiple of; none: of 1"}
    )

    def __post_init__(self) -> None:
        if not self.window > 0:
            raise ValueError(f"a window of {self.window} passes no gradient: make it positive")

    def to_unit_window(self, x: Tensor) -> Tensor:
        """Divide so that the window becomes [−1, 1], and let gradients pass unchanged.

        Args:
            x: [N, …], any real dtype.

        Returns:
            x itself where it has that window already.
        """
        if self == PAPERS_ESTIMATOR:
            return x
        scaled: Tensor = _Divide.apply(x, self._largest(x))
        return scaled

    @torch.no_grad()
    def share_passed(self, x: Tensor) -> Tensor:
        """The share of x whose gradients pass, a scalar."""
        return (x.abs() <= self._largest(x)).float().mean()

    @torch.no_grad()
    def _largest(self, x: Tensor) -> Tensor:
        """The largest |x| in the window, [1, …] or [N, 1, …]."""
        if self.scale == "none":
            return x.new_full((), self.window)
        shape = (len(x), *[1] * (x.ndim - 1))
        mean_square = reduce(x.detach().float().square(), "n ... -> n", "mean")
        # An image of zeros is in any window.
        sigma = mean_square.sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        return (self.window * sigma).reshape(shape).to(x.dtype)


PAPERS_ESTIMATOR = StraightThrough()


class _Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, divisor: Tensor) -> Tensor:
        return x / divisor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
