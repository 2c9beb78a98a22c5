"""Small Flow++ models, as they are built, moved from there, and after a few steps."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tribin.models import FlowPP, FlowPPConfig
from tribin.models.flow import (
    Flow,
    Norm,
)
from tribin.nn import Precision, clip_latent_weights, initialize_from_data

W32A32, W1A32, W1A1 = Precision(32, 32), Precision(1, 32), Precision(1, 1)
VARIANTS: dict[str, dict[str, Any]] = {
    "W32A32": {"precision": W32A32},
    "W1A32": {"precision": W1A32},
    "W1A1": {"precision": W1A1},
    "without residual layers": {"residual": False},
}
Shape = tuple[int, int, int]


def make_model(
    variant: str = "W1A1", image_shape: Shape = (1, 4, 8), levels: int = 17, **fields: Any
) -> FlowPP:
    torch.manual_seed(0)
    small = {"width": 8, "blocks": 1, "dequantization_blocks": 2, "mixture_components": 3}
    return FlowPP(FlowPPConfig(**small | VARIANTS[variant] | fields), image_shape, levels)


def images_of(model: FlowPP, count: int = 4) -> Tensor:
    return torch.randint(0, model.levels, (count, *model.image_shape), dtype=torch.uint8)


def last_norm(flow: Flow) -> Norm:
    return [module for module in flow.modules() if isinstance(module, Norm)][-1]


@torch.no_grad()
def perturbed(variant: str = "W1A1", image_shape: Shape = (1, 4, 8), **fields: Any) -> FlowPP:
    """An initialized model with every parameter moved away from there."""
    model = make_model(variant, image_shape, **fields)
    initialize_from_data(model, images_of(model, 16))
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@cache
@torch.enable_grad()
def trained(variant: str = "W1A1", image_shape: Shape = (1, 4, 8)) -> FlowPP:
    """A model after a few steps; not to be changed."""
    model = make_model(variant, image_shape)
    images = images_of(model, 16)
    initialize_from_data(model, images)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(images).loss.backward()
        optimizer.step()
        clip_latent_weights(model)
    return model.eval()


each_variant = pytest.mark.parametrize("variant", VARIANTS)
