"""Layers of networks with 1-bit weights, and the weight-normalized layers around them."""

from tribin.nn.binary import BinaryConv2d, BinaryLinear, clip_latent_weights, latent_weights
from tribin.nn.gated import GatedBlock
from tribin.nn.initialization import InitializedFromData, initialize_from_data, standardization
from tribin.nn.layer_norm import LayerNorm2d
from tribin.nn.normalized_layer import NormalizedLayer
from tribin.nn.precision import Precision
from tribin.nn.residual import ResidualBlock
from tribin.nn.weight_norm import WeightNormConv2d, WeightNormConvTranspose2d, WeightNormLinear

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "GatedBlock",
    "InitializedFromData",
    "LayerNorm2d",
    "NormalizedLayer",
    "Precision",
    "ResidualBlock",
    "WeightNormConv2d",
    "WeightNormConvTranspose2d",
    "WeightNormLinear",
    "clip_latent_weights",
    "initialize_from_data",
    "latent_weights",
    "standardization",
]
