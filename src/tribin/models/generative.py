"""What the trainer, the evaluation and the sampler ask of a generative model."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tribin.errors import InputError


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

    Its noise, and its means over the batch, come from `tribin.sharding`.

    Attributes:
        config: what it was built from, of its class's `Config`; a packed file keeps it.

    Args:
        image_shape: channels, height, width.
        levels: number of pixel values.
    """

    config: Any

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

    def interpolate(self, first: Tensor, second: Tensor, steps: int) -> Tensor:
        """Images between two by way of their latents.

        Args:
            first: uint8 [N, C, H, W].
            second: uint8 [N, C, H, W].
            steps: how many images in each row, the two ends among them.

        Returns:
            uint8 [N, steps, C, H, W].

        Raises:
            InputError: if the model has no such latents.
        """
        raise InputError(f"{type(self).__name__} does not interpolate between images")

    def to_bits_per_dim(self, nats: Tensor) -> Tensor:
        """From a negative log-likelihood in nats per image to bits per dimension."""
        return nats / (math.prod(self.image_shape) * math.log(2))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(self.parameters()).dtype


class ModelClass(Protocol):
    """A `GenerativeModel` that a recipe can name: built from its configuration and the data's."""

    @property
    def Config(self) -> type:  # noqa: N802 (a class)
        """The frozen dataclass that the recipe's ``model`` section describes."""

    def __call__(
        self, config: Any, image_shape: tuple[int, int, int], levels: int
    ) -> GenerativeModel:
        """Build the model."""
