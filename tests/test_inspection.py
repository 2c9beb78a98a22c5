"""Sizes of models against counts by hand, and against a packed file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import tiny_recipe
from torch import nn

import tribin
from tribin.inspection import ModelSize, model_size
from tribin.models import ResNetVAE, ResNetVAEConfig
from tribin.nn import BinaryConv2d, BinaryLinear, ResidualBlock, WeightNormLinear, pack
from tribin.packed import read_packed
from tribin.training.run_folder import build_model


def rows(size: ModelSize) -> list[tuple[Any, ...]]:
    return [
        (x.name, x.kind, x.parameters, x.binary_parameters, x.bits, x.float_bytes, x.packed_bytes)
        for x in size.layers
    ]


def test_sizes_counted_by_hand() -> None:
    """Rows of bits are padded to whole words of 32: 2·9 = 18 bits take 1, and 33 bits take 2."""
    model = nn.Sequential(BinaryConv2d(2, 5, 3), nn.ReLU(), BinaryLinear(33, 4))
    model.append(WeightNormLinear(4, 3))
    model.scale = nn.Parameter(torch.zeros(()))
    size = model_size(model)
    assert rows(size) == [
        ("", "Sequential", 1, 0, 32, 4, 4),
        ("0", "BinaryConv2d", 100, 90, 1, 400, 4 * (5 * 1 + 10)),
        ("2", "BinaryLinear", 140, 132, 1, 560, 4 * (4 * 2 + 8)),
        ("3", "WeightNormLinear", 18, 0, 32, 72, 72),
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


def test_a_packed_model_has_the_same_bits_and_no_gains_of_real_layers() -> None:
    model = nn.Sequential(BinaryConv2d(40, 5, 3, bias=False), BinaryLinear(33, 4))
    model.append(WeightNormLinear(4, 3))
    assert rows(model_size(pack(model))) == [
        # 9·40 = 360 bits take 12 words; each tap alone would take 2, so that a row took 18.
        ("0", "PackedConv2d", 1805, 1800, 1, 7220, 4 * (5 * 12 + 5)),
        ("1", "PackedLinear", 140, 132, 1, 560, 4 * (4 * 2 + 8)),
        ("2", "Linear", 15, 0, 32, 60, 60),
    ]
    assert model_size(model).parameters == 1805 + 140 + 18


def test_buffers_have_bytes_but_are_no_parameters() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Flatten(), BinaryLinear(6, 2))
    model.register_buffer("scratch", torch.zeros(1000), persistent=False)
    for kind, twin in (("BinaryLinear", model), ("PackedLinear", pack(model))):
        batch_norm = 4 * 4 * 6 + 8  # two vectors of parameters, two of statistics, an int64 count
        assert rows(model_size(twin)) == [
            ("0", "BatchNorm1d", 12, 0, 32, batch_norm, batch_norm),
            ("2", kind, 16, 12, 1, 64, 4 * (2 + 4)),
        ]
    assert rows(model_size(model, real_bits=16)) == [
        ("0", "BatchNorm1d", 12, 0, 16, batch_norm, 2 * 4 * 6 + 8),
        ("2", "BinaryLinear", 16, 12, 1, 64, 4 * 2 + 2 * 4),
    ]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("width", [5, 32])
def test_packed_bytes_are_those_of_the_tensors_in_a_file(
    tmp_path: Path, width: int, half: bool
) -> None:
    model = build_model(tiny_recipe(f"model.width={width}"))
    tribin.save(model, tmp_path / "model.safetensors", half=half)
    tensors = read_packed(tmp_path / "model.safetensors").tensors
    size = model_size(pack(model), real_bits=16 if half else 32)
    assert size.packed_bytes == sum(x.numel() * x.itemsize for x in tensors.values())
    assert size.binary_parameters == model_size(model).binary_parameters


def test_a_packed_block_counts_its_layers_once() -> None:
    block = ResidualBlock(8, 3, tiny_recipe().model.config().precision, "elu")
    size, packed = model_size(block), model_size(pack(block))
    assert [x.name for x in packed.layers] == [x.name for x in size.layers] == ["first", "second"]
    assert (packed.parameters, packed.packed_bytes) == (size.parameters, size.packed_bytes)
