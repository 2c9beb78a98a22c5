"""ResNet VAE with bidirectional inference (Kingma et al., 2016; Bird et al., 2021)."""

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from tribin.errors import InputError
from tribin.models.generative import GenerativeModel, Objective
from tribin.models.logistic import DiscretizedLogistic, Logistic, to_pixels, to_unit_range
from tribin.nn import Precision, ResidualBlock, outer_conv2d, outer_upsampling_conv2d
from tribin.nn.residual import Shortcut
from tribin.sharding import batch_mean


@dataclass(frozen=True)
class ResNetVAEConfig:
    """The recipe's ``model`` section for a ResNet VAE; the defaults are the paper's model."""

    precision: Precision = field(
        default_factory=Precision, metadata={"description": "bits of the residual layers"}
    )
    width: int = field(
        default=256, metadata={"ge": 1, "le": 65_536, "description": "residual channels"}
    )
    latent_layers: int = field(
        default=12, metadata={"ge": 1, "le": 1024, "description": "stochastic layers"}
    )
    latent_channels: int = field(
        default=8, metadata={"ge": 1, "le": 65_536, "description": "channels of each latent layer"}
    )
    extra_blocks: int = field(
        default=4,
        metadata={
            "ge": 0,
            "le": 1024,
            "description": "5x5 residual blocks after the stem and before the head",
        },
    )
    shortcut: Shortcut = field(
        default="block",
        metadata={"description": "what a skip goes around: a block, or each convolution in it"},
    )
    prelu: bool = field(
        default=False,
        metadata={"description": "a PReLU with learned slopes follows each convolution of a block"},
    )
    residual: bool = field(
        default=True, metadata={"description": "false: the baseline without residual layers"}
    )
    activation: Literal["elu", "tanh"] = field(
        default="elu", metadata={"description": "of residual layers with real activations"}
    )
    free_bits: float = field(
        default=0.1,
        metadata={
            "ge": 0,
            "description": "nats of KL each latent channel has free, in the mean of a micro-batch",
        },
    )


class ResNetVAE(GenerativeModel):
    """A hierarchy of logistic latents at half the image's resolution.

    Args:
        config: the architecture.
        image_shape: channels (any number), height and width (even).
        levels: number of pixel values.

    Raises:
        InputError: if height or width is odd.
    """

    Config = ResNetVAEConfig

    def __init__(
        self, config: ResNetVAEConfig, image_shape: tuple[int, int, int], levels: int
    ) -> None:
        super().__init__(image_shape, levels)
        channels, height, width = image_shape
        if height % 2 or width % 2:
            raise InputError(
                f"a ResNet VAE halves its images, so height and width must be even, "
                f"not {height}x{width}"
            )
        self.config = config
        self.stem = outer_conv2d(channels, config.width, 5, config.precision, stride=2)
        self.stem_blocks = _blocks(config, config.extra_blocks, kernel_size=5)
        self.latent_layers = nn.ModuleList(LatentLayer(config) for _ in range(config.latent_layers))
        self.head_blocks = _blocks(config, config.extra_blocks, kernel_size=5)
        self.head = outer_upsampling_conv2d(
            config.width, channels, 5, config.precision, init_std=0.1
        )
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        # As the streams are: otherwise each convolution copies its weight into this order.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Objective:
        """The negative evidence lower bound, with free bits, on uint8 images [N, C, H, W]."""
        log_likelihood, kl = self._evidence(images)
        reconstruction = -log_likelihood.mean()
        channel_kl = kl.mean(1)
        # One draw's KL may be below 0, where free bits of 0 must not hold it.
        free_bits = self.config.free_bits or -math.inf
        held = batch_mean(channel_kl) < free_bits
        free = self.to_bits_per_dim(reconstruction + channel_kl.masked_fill(held, free_bits).sum())
        layer_kl = self.to_bits_per_dim(channel_kl.detach().sum(1))
        metrics = {
            "bits_per_dim": self.to_bits_per_dim(reconstruction.detach()) + layer_kl.sum(),
            "reconstruction": self.to_bits_per_dim(reconstruction.detach()),
            "log_scale": self.log_scale.detach(),
        }
        metrics |= {f"kl/layer_{i:02}": value for i, value in enumerate(layer_kl)}
        return Objective(free, metrics)

    def log_weight(self, images: Tensor) -> Tensor:
        """log p(x|z)·p(z)/q(z|x) for one z of the posterior: float32 [N], in nats."""
        log_likelihood, kl = self._evidence(images)
        return log_likelihood - kl.sum((0, 2))

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        """Draw images, uint8 [count, C, H, W]; latents and pixels are scaled by `temperature`."""
        start = self._start(count)
        for layer in reversed(self._layers()):
            start = layer.generate(start, temperature)
        return self._pixel_distribution(start).sample(temperature)

    def reconstruct(self, images: Tensor) -> Tensor:
        """The mean image given latents drawn from the posterior, uint8 [N, C, H, W]."""
        stream, _ = self._infer(images)
        return to_pixels(self._pixel_distribution(stream).mean, self.levels)

    def _evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) [N] and log q(z|x)/p(z) [layers, N, latent channels] for one z, in nats."""
        stream, kl = self._infer(images)
        log_probability = self._pixel_distribution(stream).log_probability(images)
        return reduce(log_probability, "n c h w -> n", "sum"), kl

    def _infer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = to_unit_range(images, self.levels).contiguous(memory_format=torch.channels_last)
        # A binary stem takes images of one channel for the other format.
        up = F.elu(self.stem(x)).contiguous(memory_format=torch.channels_last)
        up = self.stem_blocks(up)
        posteriors = []
        for layer in self._layers():
            # Nothing reads what the topmost block gives; it is part of the published model.
            up, posterior = layer.encode(up)
            posteriors.append(posterior)
        down, kl = self._start(len(images)), []
        for layer in reversed(self._layers()):
            down, layer_kl = layer.infer(down, posteriors.pop())
            kl.append(layer_kl)
        return down, torch.stack(kl[::-1])

    def _start(self, count: int) -> Tensor:
        _, height, width = self.image_shape
        shape = (count, self.config.width, height // 2, width // 2)
        return torch.zeros(shape, device=self.device).contiguous(memory_format=torch.channels_last)

    def _layers(self) -> list["LatentLayer"]:
        return cast("list[LatentLayer]", list(self.latent_layers))

    def _pixel_distribution(self, stream: Tensor) -> DiscretizedLogistic:
        mean = self.head(F.elu(self.head_blocks(F.elu(stream))))
        return DiscretizedLogistic(mean.float(), self.log_scale, self.levels)


class LatentLayer(nn.Module):
    """One layer of latents, passed on the way up (inference) and on the way down (generation).

    Streams are [N, width, H/2, W/2], latents [N, latent_channels, H/2, W/2].
    """

    def __init__(self, config: ResNetVAEConfig) -> None:
        super().__init__()
        width, latent, precision = config.width, config.latent_channels, config.precision
        self.up_parameters = outer_conv2d(width, 2 * latent, 3, precision, init_std=0.1)
        self.up_block = _blocks(config, 1, kernel_size=3)
        self.down_parameters = outer_conv2d(width, 4 * latent, 3, precision, init_std=0.1)
        self.down_block = _blocks(config, 1, kernel_size=3)
        self.from_latent = outer_conv2d(latent, width, 3, precision)

    def encode(self, up: Tensor) -> tuple[Tensor, Tensor]:
        """The next upward stream, and this one's part of the posterior's parameters."""
        return self.up_block(up), self.up_parameters(F.elu(up)).float()

    def infer(self, down: Tensor, up_parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from the posterior: the next downward stream, and log q/p [N, latent], in nats."""
        prior, mean, raw_scale = self._down_parameters(down)
        up_mean, up_raw_scale = up_parameters.chunk(2, dim=1)
        posterior = _logistic(mean + up_mean, raw_scale + up_raw_scale)
        z = posterior.sample()
        log_ratio = posterior.log_density(z) - prior.log_density(z)
        return self._descend(down, z), reduce(log_ratio, "n c h w -> n c", "sum")

    def generate(self, down: Tensor, temperature: float) -> Tensor:
        """Draw from the prior: the next downward stream."""
        prior, _, _ = self._down_parameters(down)
        return self._descend(down, prior.sample(temperature))

    def _down_parameters(self, down: Tensor) -> tuple[Logistic, Tensor, Tensor]:
        parameters = self.down_parameters(F.elu(down)).float()
        prior_mean, prior_raw_scale, mean, raw_scale = parameters.chunk(4, dim=1)
        return _logistic(prior_mean, prior_raw_scale), mean, raw_scale

    def _descend(self, down: Tensor, z: Tensor) -> Tensor:
        stream: Tensor = self.down_block(down) + self.from_latent(F.elu(z))
        return stream


def _logistic(mean: Tensor, raw_scale: Tensor) -> Logistic:
    return Logistic(mean, 0.01 + F.softplus(raw_scale))


def _blocks(config: ResNetVAEConfig, count: int, kernel_size: int) -> nn.Sequential:
    if not config.residual:
        return nn.Sequential()
    return nn.Sequential(
        *(
            ResidualBlock(
                config.width,
                kernel_size,
                config.precision,
                config.activation,
                shortcut=config.shortcut,
                prelu=config.prelu,
            )
            for _ in range(count)
        )
    )
