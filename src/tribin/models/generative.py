"""What the trainer, the evaluation and the sampler ask of a generative model."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Objective:
    """What one training batch gives.

    Attributes:
        loss: scalar with gradient, bits per dimension, what the optimizer minimizes.
        metrics: detached scalars to log, among them ``bits_per_dim``.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class GenerativeModel(nn.Module, ABC):
    """A density over images of one shape, whose pixels are integers in [0, levels).

    The noise that a model draws comes from torch's global generator.

    Args:
        image_shape: channels, height, width.
        levels: number of pixel values.
    """

    def __init__(self, image_shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.levels = levels

    @abstractmethod
    def forward(self, images: Tensor) -> Objective:
        """The training objective on uint8 images [N, C, H, W]."""

    @abstractmethod
    def log_weight(self, images: Tensor) -> Tensor:
        """One draw of the log importance weight of each image: float32 [N], in nats.

        Its mean is the evidence lower bound, and the log-mean-exp of K draws the importance
        weighted bound (Burda et al., 2016).
        """

    @abstractmethod
    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        """Draw `count` images, uint8 [count, C, H, W]; the noise is scaled by `temperature`."""

    @abstractmethod
    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode uint8 images [N, C, H, W]."""

    def to_bits_per_dim(self, nats: Tensor) -> Tensor:
        """From a negative log-likelihood in nats per image to bits per dimension."""
        return nats / (math.prod(self.image_shape) * math.log(2))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
