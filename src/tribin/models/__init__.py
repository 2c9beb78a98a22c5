"""The generative models, by the name that a recipe gives them."""

from tribin.models.generative import GenerativeModel, Objective
from tribin.models.resnet_vae import ResNetVAE, ResNetVAEConfig

MODELS = {"resnet_vae": ResNetVAE}

__all__ = ["MODELS", "GenerativeModel", "Objective", "ResNetVAE", "ResNetVAEConfig"]
