import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from tribin_kernels.conv2d_shape import Conv2dShape


@given(
    st.integers(1, 9), st.integers(1, 7), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3)
)
def test_outputs_of_one_class_see_the_same_taps(
    size: int, kernel: int, stride: int, padding: int, other: int
) -> None:
    assume(size + 2 * padding >= kernel)
    shape = Conv2dShape(1, 1, size, other, 1, (kernel, 1), (stride, 1), (padding, 0))
    outputs = shape.output_size[0]
    start, end = shape.border(0)
    seen: dict[int, tuple[bool, ...]] = {}
    for o in range(outputs):
        taps = tuple(0 <= o * stride + tap - padding < size for tap in range(kernel))
        number = min(o, start) + max(0, o - (outputs - 1 - end))
        assert 0 <= number <= start + end
        assert seen.setdefault(number, taps) == taps


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (2, 2), (3, 0)])
def test_sizes_are_those_of_conv2d(stride: int, padding: int) -> None:
    x, weight = torch.zeros(3, 4, 9, 7), torch.zeros(5, 4, 3, 5)
    shape = Conv2dShape.of(x.shape, weight, [stride, stride], [padding, padding])
    y = F.conv2d(x, weight, None, stride, padding)
    assert shape.output_size == tuple(y.shape[2:])
    assert shape.pixels == y[:, 0].numel()
    assert (shape.taps, shape.terms) == (15, 60)


def test_the_border_of_the_usual_convolution_is_half_its_kernel() -> None:
    shape = Conv2dShape(128, 256, 16, 16, 256, (5, 5), (1, 1), (2, 2))
    assert shape.border(0) == shape.border(1) == (2, 2)


@pytest.mark.parametrize("pixels", [1, 16, 17, 100])
def test_a_pointwise_problem_fills_its_tiles(pixels: int) -> None:
    shape = Conv2dShape(pixels, 33, 1, 1, 5)
    tiles = shape.in_full_tiles()
    assert (tiles.batch, tiles.width, tiles.terms, tiles.outputs) == (2, 8, 33, 5)
    assert pixels <= tiles.pixels < pixels + 16
    assert Conv2dShape(1, 3, 4, 4, 5, (3, 3)).in_full_tiles().batch == 1
    empty = Conv2dShape(0, 33, 1, 1, 5)
    assert empty.in_full_tiles() is empty
