"""Models to pack, every parameter of which does something, and what is compared of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from tests.models.small_flowpp import W1A1, W1A32, W32A32
from torch import Tensor, nn

from tribin.models import FlowPP, FlowPPConfig, GenerativeModel, ResNetVAE, ResNetVAEConfig
from tribin.nn import (
    BinaryConv2d,
    BinaryLinear,
    WeightNormLinear,
    initialize_from_data,
)

Module = TypeVar("Module", bound=nn.Module)

SHAPE, LEVELS = (1, 4, 8), 17
ALL_W1A1, ALL_W1A32 = (replace(precision, layers="all") for precision in (W1A1, W1A32))
SKIPS = {"shortcut": "conv", "prelu": True}
VAE = {"width": 40, "latent_layers": 2, "latent_channels": 2, "extra_blocks": 1}
FLOW = {"width": 40, "blocks": 1, "dequantization_blocks": 2, "mixture_components": 3}
CONFIGS: dict[str, ResNetVAEConfig | FlowPPConfig] = {
    "vae W32A32": ResNetVAEConfig(precision=W32A32, **VAE),
    "vae W1A32 elu": ResNetVAEConfig(precision=W1A32, **VAE),
    "vae W1A32 tanh": ResNetVAEConfig(precision=W1A32, activation="tanh", **VAE),
    "vae W1A1": ResNetVAEConfig(precision=W1A1, **VAE),
    "vae W1A1 skips": ResNetVAEConfig(precision=W1A1, **SKIPS, **VAE),
    "vae W1A32 skips": ResNetVAEConfig(precision=W1A32, **SKIPS, **VAE),
    "vae W1A1 prelu": ResNetVAEConfig(precision=W1A1, prelu=True, **VAE),
    "vae W1A32 prelu": ResNetVAEConfig(precision=W1A32, prelu=True, **VAE),
    "vae W32A32 skips": ResNetVAEConfig(precision=W32A32, **SKIPS, **VAE),
    "vae W1A1 all layers": ResNetVAEConfig(precision=ALL_W1A1, **VAE),
    "vae without residual layers": ResNetVAEConfig(residual=False, **VAE),
    "flow W32A32": FlowPPConfig(precision=W32A32, **FLOW),
    "flow W1A32": FlowPPConfig(precision=W1A32, dropout=0.2, **FLOW),
    "flow W1A1": FlowPPConfig(precision=W1A1, dropout=0.2, **FLOW),
    "flow W1A1 thresholds": FlowPPConfig(precision=W1A1, threshold_pair=True, **FLOW),
    "flow W1A32 all layers": FlowPPConfig(precision=ALL_W1A32, **FLOW),
    "flow without residual layers": FlowPPConfig(residual=False, **FLOW),
}


@torch.no_grad()
def make_model(name: str) -> GenerativeModel:
    """A model in training, every parameter of which does something."""
    torch.manual_seed(0)
    model = build(name)
    initialize_from_data(model, make_images(16))
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def build(name: str) -> GenerativeModel:
    model_class = ResNetVAE if isinstance(CONFIGS[name], ResNetVAEConfig) else FlowPP
    return model_class(CONFIGS[name], SHAPE, LEVELS)


def make_images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, LEVELS, (count, *SHAPE), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def randomized(module: Module) -> Module:
    """Every parameter drawn at random, as gains and biases of 0 hide much."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_()
    return module


class Classifier(nn.Module):
    """A user's model: layers of torch and of tribin, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 20, 3, padding=1, bias=False),
            nn.BatchNorm2d(20),
            BinaryConv2d(20, 36, (1, 3), stride=(2, 1), padding=(0, 2), bias=False),
            nn.Dropout(),
            BinaryConv2d(36, 20, 3, padding=1, binary_input=True),
        )
        self.shared = BinaryLinear(20, 20, bias=False, binary_input=True)
        self.block = nn.Sequential(self.shared, nn.Tanh(), self.shared)
        self.head = nn.ModuleDict({"real": WeightNormLinear(20, 5), "binary": BinaryLinear(20, 5)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.features(x).mean((2, 3)))
        return self.head["real"](x) + self.head["binary"](x)


def classifier() -> Classifier:
    model = randomized(Classifier())
    model(torch.randn(8, 3, 6, 7))  # gives batch normalization its statistics
    return model


@torch.no_grad()
def results(model: GenerativeModel) -> list[Tensor]:
    images = make_images()
    return [
        after_seed(1, model.log_weight, images),
        after_seed(1, model.sample, 4),
        after_seed(1, model.sample, 4, 0.5),
        after_seed(1, model.reconstruct, images),
    ]


def after_seed(seed: int, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    torch.manual_seed(seed)
    return function(*arguments)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def modules_of(model: nn.Module, *types: type[nn.Module]) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, types)}
