"""The generative models, by the name that a recipe gives them."""

from tribin.models.flowpp import FlowPP, FlowPPConfig
from tribin.models.generative import GenerativeModel, ModelClass, Objective
from tribin.models.resnet_vae import ResNetVAE, ResNetVAEConfig

MODELS: dict[str, ModelClass] = {"resnet_vae": ResNetVAE, "flowpp": FlowPP}

__all__ = [
    "MODELS",
    "FlowPP",
    "FlowPPConfig",
    "GenerativeModel",
    "Objective",
    "ResNetVAE",
    "ResNetVAEConfig",
]
