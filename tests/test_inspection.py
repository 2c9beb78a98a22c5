"""Sizes of models against counts by hand."""

import pytest
import torch
from torch import nn

from tribin.inspection import model_size
from tribin.models import ResNetVAE, ResNetVAEConfig
from tribin.nn import BinaryConv2d, BinaryLinear, WeightNormLinear


def test_sizes_counted_by_hand() -> None:
    """Rows of bits are padded to whole words of 32: 2·9 = 18 bits take 1, and 33 bits take 2."""
    model = nn.Sequential(BinaryConv2d(2, 5, 3), nn.ReLU(), BinaryLinear(33, 4))
    model.append(WeightNormLinear(4, 3))
    model.scale = nn.Parameter(torch.zeros(()))
    size = model_size(model)
    found = [
        (x.name, x.kind, x.parameters, x.binary_parameters, x.float_bytes, x.packed_bytes)
        for x in size.layers
    ]
    assert found == [
        ("", "Sequential", 1, 0, 4, 4),
        ("0", "BinaryConv2d", 100, 90, 400, 4 * (5 * 1 + 10)),
        ("2", "BinaryLinear", 140, 132, 560, 4 * (4 * 2 + 8)),
        ("3", "WeightNormLinear", 18, 0, 72, 72),
    ]
    assert (size.parameters, size.binary_parameters) == (259, 222)
    assert (size.float_bytes, size.packed_bytes) == (1036, 60 + 64 + 72 + 4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_on_the_meta_device_has_the_same_size(device: str) -> None:
    config = ResNetVAEConfig(width=8, latent_layers=2, extra_blocks=1)
    with torch.device(device):
        model = ResNetVAE(config, (1, 8, 8), 17)
    assert {parameter.device.type for parameter in model.parameters()} == {device}
    size = model_size(model)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert size.float_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    for field in ("parameters", "binary_parameters", "float_bytes", "packed_bytes"):
        assert getattr(size, field) == sum(getattr(layer, field) for layer in size.layers)
