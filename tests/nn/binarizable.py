"""A classifier in plain torch that the tests binarize, and its images."""

import torch
from torch import Tensor, nn


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Flatten()),
        nn.Linear(4 * 6 * 6, 3),
    )


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
