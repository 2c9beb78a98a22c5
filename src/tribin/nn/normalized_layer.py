"""What every layer with a normalized weight shares: gain, bias and their initialization."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from tribin.nn.initialization import InitializedFromData, standardization

# Of every weight at the start of training, before normalization (the authors' code).
WEIGHT_STD = 0.05


class NormalizedLayer(InitializedFromData):
    """A linear map whose weight vectors have unit norm, times a gain, plus a bias, per output.

    Args:
        out_channels: number of outputs.
        init_std: the standard deviation that `initialize` gives to each output channel.
        bias: whether there is one.
    """

    bias: nn.Parameter | None

    def __init__(self, out_channels: int, init_std: float, *, bias: bool = True) -> None:
        super().__init__()
        self.init_std = init_std
        self.gain = nn.Parameter(torch.ones(out_channels))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

    @abstractmethod
    def transform(self, x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another gain and bias, [out] each."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; channels are dimension 1 of images and the last one otherwise."""
        return self.transform(x, self.gain, self.bias)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set gain and bias so that each output channel on x has mean 0 and std `init_std`.

        A channel that is constant on x keeps the gain `init_std`. With an `init_std` of 0 gain and
        bias are 0 (Salimans and Kingma, 2016). Without a bias only the std is `init_std`.
        """
        y = self.transform(x, torch.ones_like(self.gain), None)
        y = y.movedim(1 if y.ndim == 4 else -1, 0).flatten(1)
        gain, bias = standardization(y, dim=1, std=self.init_std)
        self.gain.copy_(gain)
        if self.bias is not None:
            self.bias.copy_(bias)
