"""The binary layers as they run on a GPU, from float tensors to gradients, against float64."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin.profiling.kernels.operands import UNIT, Layer, errors_over_bounds
from tribin_kernels import binary_conv2d, binary_linear, bit_product, real_product, reference
from tribin_kernels.launch_table import TUNABLE

KERNELS = {"binary_linear": binary_linear, "binary_conv2d": binary_conv2d}
ROUTES = ["bit_mma", "int8_mma", "popcount"]
dtypes = pytest.mark.parametrize("dtype", UNIT, ids=str)
precisions = pytest.mark.parametrize("binary_input", [False, True], ids=["w1a16", "w1a1"])


def run(layer: Layer, binary_input: bool) -> list[Tensor]:
    return layer.run(KERNELS[layer.name], binary_input)


def check(layer: Layer, dtype: torch.dtype, binary_input: bool) -> None:
    layer = layer.to(dtype, torch.float32)
    worst = errors_over_bounds(layer, run(layer, binary_input), binary_input)
    assert all(ratio <= 1 for ratio in worst.values()), worst


def check_strides(layer: Layer, binary_input: bool) -> None:
    """Dtypes and strides are the reference's, which the fake implementation promises."""
    expected = layer.run(reference, binary_input)
    for result, want in zip(run(layer, binary_input), expected, strict=True):
        assert (result.dtype, result.stride()) == (want.dtype, want.stride())


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to multiply bits; popcounts are for linear layers alone."""
    monkeypatch.setattr(bit_product, "w1a1_route", lambda device, shape: request.param)
    return str(request.param)


@dtypes
def test_linear_w1a1(route: str, dtype: torch.dtype) -> None:
    check(Layer.linear(5, 77, 9), dtype, binary_input=True)


@dtypes
def test_linear_w1a16(dtype: torch.dtype) -> None:
    check(Layer.linear(5, 77, 9), dtype, binary_input=False)


@dtypes
@precisions
def test_conv2d(dtype: torch.dtype, binary_input: bool) -> None:
    check(Layer.conv2d(3, 37, 5, 6, 10, kernel=3), dtype, binary_input)


@precisions
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_strides_of_a_convolution(memory_format: torch.memory_format, binary_input: bool) -> None:
    layer = Layer.conv2d(3, 37, 5, 6, 10, kernel=3)
    layer = layer.to(torch.bfloat16, torch.float32, memory_format=memory_format)
    check_strides(layer, binary_input)
    assert all(
        ratio <= 1
        for ratio in errors_over_bounds(layer, run(layer, binary_input), binary_input).values()
    )


@precisions
def test_strides_of_a_linear_layer(binary_input: bool) -> None:
    check_strides(Layer.linear(5, 77, 9).to(torch.bfloat16, torch.float32), binary_input)


ragged = given(
    sizes=st.tuples(
        st.integers(0, 3),
        st.integers(1, 40),
        st.integers(3, 7),
        st.integers(3, 9),
        st.integers(1, 12),
        st.sampled_from([1, 3, 5]),
        st.integers(1, 2),
        st.integers(1, 2),
    )
)


@pytest.mark.parametrize("route", ["bit_mma", "int8_mma"], indirect=True)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@ragged
def test_ragged_conv2d_w1a1(route: str, sizes: tuple[int, ...]) -> None:
    check(Layer.conv2d(*sizes), torch.float16, binary_input=True)


@settings(max_examples=6)
@ragged
def test_ragged_conv2d_w1a16(sizes: tuple[int, ...]) -> None:
    check(Layer.conv2d(*sizes), torch.float16, binary_input=False)


@precisions
def test_an_empty_batch(binary_input: bool) -> None:
    check(Layer.linear(0, 40, 3), torch.float32, binary_input)
    check(Layer.conv2d(0, 8, 4, 4, 3, kernel=3), torch.float32, binary_input)


def test_leading_dimensions_are_kept() -> None:
    x, grad_y = torch.randn(2, 3, 40), torch.randn(2, 3, 5)
    latent_weight, gain = torch.randn(5, 40), torch.ones(5)
    y, signs, mask = binary_linear.binary_linear_w1a1(x, latent_weight, gain, None)
    assert (y.shape, signs.shape, mask.shape) == ((2, 3, 5), (2, 3, 2), (2, 3, 2))
    backward = binary_linear.binary_linear_w1a1_backward
    assert backward(grad_y, signs, mask, latent_weight, gain)[0].shape == x.shape


@precisions
def test_float64_is_left_to_the_reference(binary_input: bool) -> None:
    for layer in (Layer.linear(4, 40, 3), Layer.conv2d(2, 5, 4, 4, 3, kernel=3)):
        layer = layer.to(torch.float64, torch.float64)
        expected = layer.run(reference, binary_input)
        assert all(map(torch.equal, run(layer, binary_input), expected))


def test_not_a_number_counts_as_plus_one(route: str) -> None:
    x, latent_weight, gain = torch.randn(2, 40), torch.randn(3, 40), torch.ones(3)
    x[0, 5] = torch.nan
    y, signs, mask = binary_linear.binary_linear_w1a1(x, latent_weight, gain, None)
    x[0, 5] = 1
    expected, same_signs, _ = binary_linear.binary_linear_w1a1(x, latent_weight, gain, None)
    assert torch.equal(y, expected)
    assert torch.equal(signs, same_signs)
    assert not reference.unpack_bits(mask, 40)[0, 5]


def test_every_tunable_kernel_of_a_layer_is_asked_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: set[str] = set()

    def choose(config_class: type, device: torch.device, **sizes: int) -> Any:
        asked.add(config_class.__module__.rpartition(".")[2])
        return config_class()

    for module in (bit_product, real_product):
        monkeypatch.setattr(module, "choose", choose)
    for route in ROUTES:
        monkeypatch.setattr(bit_product, "w1a1_route", lambda device, shape, route=route: route)
        run(Layer.linear(2, 40, 3), binary_input=True)
    assert asked == set(TUNABLE)


@pytest.mark.parametrize("planted", [0.0, torch.nan, 1.01], ids=["zero", "nan", "one percent"])
def test_a_wrong_result_is_outside_its_bound(planted: float) -> None:
    layer = Layer.linear(5, 77, 9)
    results = layer.run(reference, True)
    for position in range(5):
        wrong = [r.clone() for r in results]
        wrong[position] *= planted
        assert max(errors_over_bounds(layer, wrong, True).values()) > 1
