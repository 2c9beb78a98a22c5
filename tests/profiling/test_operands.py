"""Operands, and the bounds that results are held to, against plain float64 and planted faults."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tribin.profiling.kernels import caches
from tribin.profiling.kernels.caches import cold_bytes
from tribin.profiling.kernels.operands import UNIT, Expected, Layer, errors_over_bounds
from tribin.profiling.kernels.packed_operands import (
    SCALE,
    expected_packed,
    packed_arguments,
    packed_layer,
    row_bits,
)
from tribin_kernels import reference

CPU = torch.device("cpu")
LAYERS = {
    "linear": lambda: Layer.linear(5, 77, 10),
    "conv2d": lambda: Layer.conv2d(2, 37, 5, 6, 10, (3, 5), (2, 1)),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
binary = pytest.mark.parametrize("binary_input", [False, True])


def signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).double()


@layers
def test_each_dtype_has_the_same_numbers(make) -> None:  # type: ignore[no-untyped-def]
    layer = make()
    for dtype in UNIT:
        for name in ("x", "latent_weight", "gain", "bias", "grad_y"):
            value = getattr(layer, name)
            assert torch.equal(value.to(dtype).double(), value.double())
            assert torch.equal(value * 64, (value * 64).round())
            assert value.abs().max() < 2
    assert (layer.x < 0).any()
    assert (layer.x.abs() > 1).any()


def test_sizes_of_a_convolution() -> None:
    layer = Layer.conv2d(2, 37, 5, 6, 10, (3, 5), (2, 1))
    assert layer.geometry == ([2, 1], [1, 2])
    assert layer.grad_y.shape == (2, 10, 3, 6)
    pixel = Layer.linear(5, 77, 10).as_conv2d()
    assert (pixel.x.shape, pixel.grad_y.shape) == ((5, 77, 1, 1), (5, 10, 1, 1))
    assert pixel.geometry == ([1, 1], [0, 0])


def test_images_and_kernels_have_the_memory_format() -> None:
    layer = Layer.conv2d(2, 37, 5, 6, 10, 3)
    layer = layer.to(torch.bfloat16, torch.float32, memory_format=torch.channels_last)
    for value in (layer.x, layer.latent_weight, layer.grad_y):
        assert value.is_contiguous(memory_format=torch.channels_last)
    assert (layer.x.dtype, layer.latent_weight.dtype) == (torch.bfloat16, torch.float32)


@layers
@binary
def test_what_a_layer_gives_by_autograd(make, binary_input: bool) -> None:  # type: ignore[no-untyped-def]
    """Float64's autograd of real layers; the estimators are those of Bird et al. (2021)."""
    layer = make().to(torch.float64, torch.float64)
    x = (signs(layer.x) if binary_input else layer.x.clone()).requires_grad_()
    weight = signs(layer.latent_weight).requires_grad_()
    gain, bias = layer.gain.clone().requires_grad_(), layer.bias.clone().requires_grad_()
    length = layer.latent_weight[0].numel()
    if layer.geometry:
        z = F.conv2d(x, weight, None, *layer.geometry)
        y = z * gain.view(-1, 1, 1) / math.sqrt(length) + bias.view(-1, 1, 1)
    else:
        y = x @ weight.T * gain / math.sqrt(length) + bias
    y.backward(layer.grad_y)
    grad_x = x.grad * (layer.x.abs() <= 1) if binary_input else x.grad
    found = Expected.of_layer(layer, binary_input).values
    wanted = {"y": y, "x": grad_x, "latent_weight": weight.grad, "gain": gain.grad,
              "bias": bias.grad}  # fmt: skip
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-12, atol=1e-10)


def test_a_shape_or_a_number_that_is_none_is_infinitely_wrong() -> None:
    expected = Expected({"y": torch.ones(3)}, {"y": torch.ones(3)}, {"y": 1})
    assert expected.errors_over_bounds({"y": torch.ones(1)}, 1.0) == {"y": math.inf}
    assert expected.errors_over_bounds({"y": torch.tensor([1, math.nan, 1])}, 1.0)["y"] == math.inf
    assert expected.errors_over_bounds({"y": torch.ones(3)}, 0.0) == {"y": 0.0}


def test_exact_sums_are_rounded_once() -> None:
    """A number one step beside the nearest is wrong, the nearest is not."""
    expected = Expected({"y": torch.tensor([1 + 2**-10, 3.0], dtype=torch.float64)})
    for dtype, unit in UNIT.items():
        nearest = expected.values["y"].to(dtype)
        assert expected.errors_over_bounds({"y": nearest}, None)["y"] <= 1
        beside = nearest * (1 + 4 * unit)
        assert expected.errors_over_bounds({"y": beside}, None)["y"] > 1


@layers
@pytest.mark.parametrize("dtype", UNIT, ids=str)
def test_the_reference_is_within_its_bounds(make, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    layer = make().to(dtype, torch.float32)
    for binary_input in (False, True):
        results = layer.run(reference, binary_input)
        assert max(errors_over_bounds(layer, results, binary_input).values()) <= 1
        wrong = [result.clone() for result in results]
        wrong[2].view(-1)[0] += 1
        errors = errors_over_bounds(layer, wrong, binary_input)
        assert [name for name, error in errors.items() if error > 1] == ["latent_weight"]


PACKED = [set(), {"residual"}, {"gate"}, {"elu"}, {"residual", "gate", "elu"}]


def packed(layer: Layer, binary_input: bool, options: set[str]) -> Tensor:
    """In plain float64."""
    layer = layer.to(torch.float64, torch.float64)
    x = signs(layer.x) if binary_input else layer.x
    if layer.geometry:
        z = F.conv2d(x, signs(layer.latent_weight), None, *layer.geometry)
        z = z / 64 + layer.bias.view(-1, 1, 1)
    else:
        z = x @ signs(layer.latent_weight).T / 64 + layer.bias
    if "gate" in options:
        half = z.shape[1] // 2
        z = z[:, :half] * torch.sigmoid(z[:, half:])
    if "residual" in options:
        z = z + layer.grad_y
    return torch.where(z > 0, z, z.exp() - 1) if "elu" in options else z


@layers
@binary
@pytest.mark.parametrize("options", PACKED, ids=str)
def test_what_a_packed_layer_gives(make, binary_input: bool, options: set[str]) -> None:  # type: ignore[no-untyped-def]
    layer = packed_layer(make(), options)
    expected = expected_packed(layer, binary_input, options | {"to_bits"})
    y = packed(layer, binary_input, options)
    torch.testing.assert_close(expected.values["y"], y, rtol=1e-12, atol=1e-12)
    assert torch.equal(expected.values["signs"], signs(y))
    assert (expected.magnitudes["y"] >= y.abs() - 1e-12).all()
    assert torch.allclose(layer.scale, torch.tensor(SCALE))


@pytest.mark.parametrize("options", PACKED, ids=str)
def test_a_wrong_sign_is_wrong_unless_an_exponential_explains_it(options: set[str]) -> None:
    layer = packed_layer(Layer.linear(40, 9, 10), options)
    layer = replace(layer, bias=torch.zeros_like(layer.bias))
    expected = expected_packed(layer, True, options)
    right = expected.values["signs"].float()
    assert expected.errors_over_bounds({"signs": right}, None)["signs"] <= 1
    near = expected.values["y"].abs() < 2.0**-16
    for position in ((~near).nonzero()[0], near.nonzero()[0] if near.any() else None):
        if position is not None:
            wrong = right.clone()
            wrong[tuple(position)] *= -1
            forgiven = bool(near[tuple(position)]) and bool(options & {"gate", "elu"})
            errors = expected.errors_over_bounds({"signs": wrong}, None)
            assert (errors["signs"] <= 1) == forgiven


def test_a_residual_is_dense_beside_a_gate_too() -> None:
    linear, conv2d = (packed_layer(make(), {"gate"}) for make in LAYERS.values())
    assert linear.grad_y.shape == (5, 5)
    assert linear.grad_y.is_contiguous()
    conv2d = conv2d.to(torch.float32, torch.float32, memory_format=torch.channels_last)
    assert conv2d.grad_y.shape == (2, 5, 3, 6)
    assert conv2d.grad_y.is_contiguous(memory_format=torch.channels_last)


def test_arguments_of_a_packed_layer() -> None:
    layer = packed_layer(Layer.conv2d(2, 37, 5, 6, 10, 3), {"gate"})
    x = row_bits(layer)
    assert torch.equal(reference.unpack_signs(x, 37, torch.float32).movedim(-1, 1).double(),
                       signs(layer.x))  # fmt: skip
    arguments = packed_arguments(layer, x, True, {"residual", "gate", "to_bits"})
    assert arguments[0] is x
    assert arguments[5].shape == (2, 5, 5, 6)
    assert arguments[6:] == (37, [1, 1], [1, 1], True, True, False, True)


def test_cold_is_twice_the_last_level_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(caches, "CPU_CACHES", tmp_path)
    assert cold_bytes(CPU) == 2 * caches.UNKNOWN
    for index, size in enumerate(["32K", "1024K", "3M"]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert cold_bytes(CPU) == 2 * 3 * 2**20
