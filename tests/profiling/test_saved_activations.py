"""Bytes that autograd saves, against counts by hand."""

import pytest
import torch
from torch import Tensor, nn

from tribin.nn import BinaryConv2d, WeightNormConv2d
from tribin.profiling.step.saved_activations import SavedActivations, saved_activations

N, C, OUT, H, W = 2, 64, 5, 6, 7
ACTIVATIONS = N * C * H * W
FLOAT = 4  # bytes


def saved(model: nn.Module, x: Tensor) -> list[tuple[str, str, int]]:
    layers = saved_activations(model, lambda: model(x))
    assert all(isinstance(layer, SavedActivations) for layer in layers)
    return [(layer.name, layer.kind, layer.bytes) for layer in layers]


def images(*shape: int) -> Tensor:
    return torch.randn(shape or (N, C, H, W)).requires_grad_()


def test_a_w1a1_layer_keeps_two_bits_of_each_activation() -> None:
    """The sign, and whether the gradient passes; weight and gain are parameters."""
    model = nn.Sequential(BinaryConv2d(C, OUT, 3, padding=1, binary_input=True))
    assert saved(model, images()) == [("0", "BinaryConv2d", 2 * ACTIVATIONS // 8)]


def test_a_w1a32_layer_keeps_its_input() -> None:
    model = nn.Sequential(BinaryConv2d(C, OUT, 3, padding=1))
    assert saved(model, images()) == [("0", "BinaryConv2d", FLOAT * ACTIVATIONS)]


def test_a_real_layer_keeps_its_input_and_what_it_computes_from_its_parameters() -> None:
    """The normalized weight, the norm of each row, and the gain over it."""
    model = nn.Sequential(WeightNormConv2d(C, OUT, 3, padding=1))
    computed = OUT * C * 9 + 2 * OUT
    assert saved(model, images()) == [("0", "WeightNormConv2d", FLOAT * (ACTIVATIONS + computed))]


class Both(nn.Module):
    """Two layers that read the same, and a product outside of both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 3)
        self.register_buffer("mask", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x) * self.second(x)) * self.mask


def test_a_tensor_that_two_save_counts_for_the_first() -> None:
    """The buffer doesn't count at all, and a module that saves nothing is not there."""
    assert saved(Both(), images(4, 5)) == [
        ("", "Both", FLOAT * 2 * 4 * 3),
        ("first", "Linear", FLOAT * 4 * 5),
    ]


def test_a_view_keeps_its_whole_storage() -> None:
    class Row(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (2 * x)[0].square()

    assert saved(Row(), images(4, 5)) == [("", "Row", FLOAT * 20)]


@pytest.mark.parametrize("count", [1, 3])
def test_memory_that_is_used_again_counts_again(count: int) -> None:
    """Here each square's input is free, and another's, as soon as the loss is computed."""

    class Repeated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(count):
                (2 * x).square().sum()
            return x.sum()

    assert saved(Repeated(), images(1000)) == [("", "Repeated", count * FLOAT * 1000)]
