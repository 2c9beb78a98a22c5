"""Building blocks of normalizing flows: invertible maps whose log-determinant is known."""

from tribin.models.flow.base import Chain, Flow, Inverse
from tribin.models.flow.conditioner import Conditioner, ContextNetwork
from tribin.models.flow.dequantizer import Dequantizer
from tribin.models.flow.mixture_coupling import MixtureCoupling
from tribin.models.flow.norm import Norm
from tribin.models.flow.pointwise import Pointwise
from tribin.models.flow.rearrangement import ChannelSplit, Flip, SpaceToDepth, StripeSplit
from tribin.models.flow.sigmoid import PixelLogit, Sigmoid

__all__ = [
    "Chain",
    "ChannelSplit",
    "Conditioner",
    "ContextNetwork",
    "Dequantizer",
    "Flip",
    "Flow",
    "Inverse",
    "MixtureCoupling",
    "Norm",
    "PixelLogit",
    "Pointwise",
    "Sigmoid",
    "SpaceToDepth",
    "StripeSplit",
]
