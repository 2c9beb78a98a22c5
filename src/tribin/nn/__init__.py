"""Layers of networks with 1-bit weights, the weight-normalized layers around them, packed twins."""

from tribin.nn.binarize import BinarizationReport, binarize
from tribin.nn.binary import (
    BinaryConv2d,
    BinaryLinear,
    clip_after_step,
    clip_latent_weights,
    latent_weights,
)
from tribin.nn.gated import GatedBlock
from tribin.nn.initialization import InitializedFromData, initialize_from_data, standardization
from tribin.nn.layer_norm import LayerNorm2d
from tribin.nn.normalized_layer import NormalizedLayer
from tribin.nn.outer import outer_conv2d, outer_upsampling_conv2d
from tribin.nn.packed import PackedConv2d, PackedLinear
from tribin.nn.packed_blocks import PackedGatedBlock, PackedResidualBlock
from tribin.nn.packing import (
    needs_full_precision,
    pack,
    packed_twin,
    packed_when_registered,
    roundable_tensors,
)
from tribin.nn.precision import Precision
from tribin.nn.residual import ResidualBlock
from tribin.nn.threshold_pair import ThresholdPair
from tribin.nn.weight_norm import WeightNormConv2d, WeightNormConvTranspose2d, WeightNormLinear

__all__ = [
    "BinarizationReport",
    "BinaryConv2d",
    "BinaryLinear",
    "GatedBlock",
    "InitializedFromData",
    "LayerNorm2d",
    "NormalizedLayer",
    "PackedConv2d",
    "PackedGatedBlock",
    "PackedLinear",
    "PackedResidualBlock",
    "Precision",
    "ResidualBlock",
    "ThresholdPair",
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormLinear",
    "binarize",
    "clip_after_step",
    "clip_latent_weights",
    "initialize_from_data",
    "latent_weights",
    "needs_full_precision",
    "outer_conv2d",
    "outer_upsampling_conv2d",
    "pack",
    "packed_twin",
    "packed_when_registered",
    "roundable_tensors",
    "standardization",
]
