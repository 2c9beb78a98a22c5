"""Binary convolutions normalized in other ways, to compare binary weight normalization with."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tribin.nn.binary import BinaryConv2d
from tribin.ops.signs import sign_activation, sign_weight

EPSILON = 1e-5
"""That of torch's batch norm."""


class WeightNormBinaryConv2d(BinaryConv2d):
    """w = s·g/‖s‖ with s = sign(v), where gradients pass the norm too (Salimans and Kingma, 2016).

    Its output is that of `BinaryConv2d`, as ‖s‖ = √n; the gradient for v has no part along s. It
    multiplies real numbers.
    """

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        signs = sign_weight(self.latent_weight)
        weight = signs * (gain / signs.square().sum((1, 2, 3)).sqrt())[:, None, None, None]
        x = sign_activation(x) if self.binary_input else x
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class BatchNormBinaryConv2d(BinaryConv2d):
    """The product with sign(v)/√n, standardized over the batch (Ioffe and Szegedy, 2015).

    Gain and bias come after it. In eval mode the mean and the variance are running averages.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, in_channels: int, out_channels: int, *args: Any, **others: Any) -> None:
        super().__init__(in_channels, out_channels, *args, **others)
        self.register_buffer("running_mean", torch.zeros(out_channels))
        self.register_buffer("running_var", torch.ones(out_channels))

    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        y = self._unnormalized(x)
        return F.batch_norm(y, self.running_mean, self.running_var, gain, bias, self.training)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Take the statistics of x, and the gain `init_std`."""
        y = self._unnormalized(x)
        variance, mean = torch.var_mean(y, (0, 2, 3))
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
        self.gain.fill_(self.init_std)

    def _unnormalized(self, x: Tensor) -> Tensor:
        return super().transform(x, torch.ones_like(self.gain), None)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Gain and bias of a `BinaryConv2d` that does what this one does in eval mode, [out]."""
        gain = self.gain / (self.running_var + EPSILON).sqrt()
        bias = -gain * self.running_mean
        return gain, bias if self.bias is None else bias + self.bias
