"""Flow++ without attention (Ho et al., 2019; Bird et al., 2021)."""

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from tribin.errors import InputError
from tribin.models.flow import (
    Chain,
    ChannelSplit,
    Conditioner,
    ContextNetwork,
    Dequantizer,
    Flip,
    Flow,
    Inverse,
    MixtureCoupling,
    Norm,
    PixelLogit,
    Pointwise,
    Sigmoid,
    SpaceToDepth,
    StripeSplit,
)
from tribin.models.generative import GenerativeModel, Objective
from tribin.nn import Precision
from tribin.sharding import randn


@dataclass(frozen=True)
class FlowPPConfig:
    """The recipe's ``model`` section for Flow++; the defaults are the paper's model."""

    precision: Precision = field(
        default_factory=Precision, metadata={"description": "bits of the residual layers"}
    )
    width: int = field(
        default=120, metadata={"ge": 1, "le": 65_536, "description": "residual channels"}
    )
    blocks: int = field(
        default=10,
        metadata={"ge": 1, "le": 1024, "description": "residual blocks of each coupling"},
    )
    dequantization_blocks: int = field(
        default=2,
        metadata={
            "ge": 1,
            "le": 1024,
            "description": "residual blocks of each coupling of the dequantizer",
        },
    )
    mixture_components: int = field(
        default=8,
        metadata={"ge": 1, "le": 1024, "description": "logistic distributions in each mixture"},
    )
    dropout: float = field(
        default=0.0,
        metadata={"ge": 0, "lt": 1, "description": "share of activations dropped in training"},
    )
    threshold_pair: bool = field(
        default=False,
        metadata={"description": "two learned thresholds where binary blocks take signs of x, −x"},
    )
    residual: bool = field(
        default=True, metadata={"description": "false: the baseline without residual layers"}
    )

    def __post_init__(self) -> None:
        if self.threshold_pair and self.precision.activations == 32:
            raise ValueError(
                "threshold_pair: true is for signs, and needs precision.activations: 1"
            )


# Of the published model, by stage: columns of the image, channels, columns at half resolution.
COUPLINGS = (4, 2, 3)
DEQUANTIZATION_COUPLINGS = 4
CONTEXT_CHANNELS = 32
CONTEXT_BLOCKS = 3

PARALLEL = 1e-3
"""The sine of the angle between two latents below which they count as parallel."""


class FlowPP(GenerativeModel):
    """An invertible map from dequantized images to Gaussian noise of the same number of elements.

    Args:
        config: the architecture.
        image_shape: channels (any number), height (even) and width (divisible by 4).
        levels: number of pixel values.

    Raises:
        InputError: if height or width can't be split so.
    """

    Config = FlowPPConfig

    def __init__(
        self, config: FlowPPConfig, image_shape: tuple[int, int, int], levels: int
    ) -> None:
        super().__init__(image_shape, levels)
        channels, height, width = image_shape
        if height % 2 or width % 4:
            raise InputError(
                "Flow++ halves its images and splits their columns twice, so height must be even "
                f"and width divisible by 4, not {height}x{width}"
            )
        self.config = config
        self.latent_shape = (4 * channels, height // 2, width // 2)
        self.dequantizer = _dequantizer(config, image_shape, levels)
        self.main_flow = _main_flow(config, image_shape, levels)

    def forward(self, images: Tensor) -> Objective:
        """The negative bound on uint8 images [N, C, H, W]."""
        noise, noise_entropy = self._dequantization_noise(images)
        log_weight = self._log_density(images + noise) + noise_entropy
        bits_per_dim = self.to_bits_per_dim(-log_weight.mean())
        metrics = {
            "bits_per_dim": bits_per_dim.detach(),
            "dequantization": self.to_bits_per_dim(-noise_entropy.detach().mean()),
        }
        return Objective(bits_per_dim, metrics)

    def log_weight(self, images: Tensor) -> Tensor:
        """log p(x + u)/q(u|x) for one u of the dequantizer: float32 [N], in nats."""
        noise, noise_entropy = self._dequantization_noise(images)
        return self._log_density(images + noise) + noise_entropy

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        """Draw images, uint8 [count, C, H, W]; the latents are scaled by `temperature`."""
        return self.decode(temperature * self._gaussian(count, self.latent_shape))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode and decode: the images themselves."""
        return self.decode(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """The latents of uint8 images [N, C, H, W], which are dequantized at random.

        Returns:
            float64 [N, 4·C, H/2, W/2]. In float32, `decode` would give the conditioners inputs
            that differ in their last bits, and some of their binary activations would flip; so
            may they where images are decoded in other batches than they were encoded in.
        """
        return self._encode(images, self._gaussian(len(images), self.image_shape))

    def decode(self, latents: Tensor) -> Tensor:
        """The images, uint8 [N, C, H, W], of latents [N, 4·C, H/2, W/2]; solved in float64."""
        dequantized, _ = self.main_flow.inverse(latents.double())
        return dequantized.floor().clamp(0, self.levels - 1).to(torch.uint8)

    def interpolate(self, first: Tensor, second: Tensor, steps: int) -> Tensor:
        """Images between two, along the great circle through their latents."""
        gaussian = self._gaussian(len(first), self.image_shape)
        start, end = (self._encode(images, gaussian) for images in (first, second))
        shares = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
        rows = [self.decode(_between(start, end, share)) for share in shares]
        return torch.stack(rows, dim=1)

    def _encode(self, images: Tensor, gaussian: Tensor) -> Tensor:
        noise, _ = self.dequantizer(gaussian.double(), images.to(self.dtype))
        latents: Tensor = self.main_flow(images + noise)[0]
        return latents

    def _dequantization_noise(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """u in [0, 1] of the images' shape, and −log q(u|x), [N], in nats."""
        gaussian = self._gaussian(len(images), self.image_shape)
        noise, log_det = self.dequantizer(gaussian, images.to(self.dtype))
        return noise, log_det - _log_normal(gaussian)

    def _log_density(self, dequantized: Tensor) -> Tensor:
        latents, log_det = self.main_flow(dequantized)
        log_density: Tensor = _log_normal(latents) + log_det
        return log_density

    def _gaussian(self, count: int, shape: tuple[int, int, int]) -> Tensor:
        return randn(count, *shape, dtype=self.dtype, device=self.device)


def _log_normal(x: Tensor) -> Tensor:
    """Log of the standard normal density of images, [N], in nats."""
    return reduce(-(x.square() + math.log(2 * math.pi)) / 2, "n c h w -> n", "sum")


def _between(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation: Gaussian noise stays as far from 0 as it typically is."""
    cosine = F.cosine_similarity(start.flatten(1), end.flatten(1)).clamp(-1, 1)
    angle = rearrange(cosine.acos(), "n -> n 1 1 1")
    arc = ((1 - share) * angle).sin() * start + (share * angle).sin() * end
    straight = start + share * (end - start)
    # Of one direction, or of opposite ones, there is no arc between them.
    return torch.where(angle.sin() > PARALLEL, arc / angle.sin(), straight)


def _main_flow(config: FlowPPConfig, image_shape: tuple[int, int, int], levels: int) -> Flow:
    channels, height, width = image_shape
    columns, halves, coarse_columns = COUPLINGS
    return Chain(
        logit=PixelLogit(levels),
        columns=_couplings(config, StripeSplit(), columns, (channels, height, width // 2)),
        space_to_depth=SpaceToDepth(),
        channels=_couplings(
            config, ChannelSplit(), halves, (2 * channels, height // 2, width // 2)
        ),
        coarse_columns=_couplings(
            config, StripeSplit(), coarse_columns, (4 * channels, height // 2, width // 4)
        ),
    )


def _dequantizer(
    config: FlowPPConfig, image_shape: tuple[int, int, int], levels: int
) -> Dequantizer:
    channels, height, width = image_shape
    context_network = ContextNetwork(
        2 * channels,
        CONTEXT_CHANNELS,
        blocks=CONTEXT_BLOCKS if config.residual else 0,
        precision=config.precision,
        dropout=config.dropout,
        threshold_pair=config.threshold_pair,
    )
    columns = _couplings(
        replace(config, blocks=config.dequantization_blocks),
        StripeSplit(),
        DEQUANTIZATION_COUPLINGS,
        (channels, height, width // 2),
        context_channels=CONTEXT_CHANNELS,
    )
    return Dequantizer(context_network, Chain(columns=columns, sigmoid=Sigmoid()), levels)


def _couplings(
    config: FlowPPConfig,
    split: Flow,
    count: int,
    shape: tuple[int, int, int],
    context_channels: int = 0,
) -> Chain:
    """Split an image into halves of `shape`, couple them `count` times, and merge them."""
    steps = {
        f"step_{i}": _coupling_step(config, shape, context_channels) for i in range(1, count + 1)
    }
    return Chain(split=split, **steps, merge=Inverse(split))


def _coupling_step(
    config: FlowPPConfig, shape: tuple[int, int, int], context_channels: int
) -> Chain:
    channels, components = shape[0], config.mixture_components
    conditioner = Conditioner(
        channels,
        channels * MixtureCoupling.parameters_per_channel(components),
        width=config.width,
        blocks=config.blocks,
        precision=config.precision,
        context_channels=context_channels,
        dropout=config.dropout,
        residual=config.residual,
        threshold_pair=config.threshold_pair,
    )
    return Chain(
        norm=Norm((2, *shape)),
        pointwise=Pointwise(channels),
        coupling=MixtureCoupling(conditioner, components),
        flip=Flip(),
    )
