"""The table against products of input that is positive everywhere: those need no other counts."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tribin_kernels import formats, reference
from tribin_kernels.border_table import FLOAT_OFFSET, border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.launch import record

OFFSET = 1.5 * 2**23


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Elements that no kernel writes are NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def check(shape: Conv2dShape, latent_weight: torch.Tensor) -> None:
    row_bits = reference.pack_signs(latent_weight.permute(0, 2, 3, 1).flatten(1, 2))
    table = border_table(formats.to_fragments(row_bits), shape)
    image = torch.ones(1, shape.channels, shape.height, shape.width)
    filled = F.pad(latent_weight, (0, 0) * 3 + (0, table.shape[1] - shape.outputs), value=1)
    wanted = F.conv2d(image, reference.sign(filled), None, shape.stride, shape.padding)[0]
    classes_x = sum(shape.border(1)) + 1
    classes = class_of(shape, 0)[:, None] * classes_x + class_of(shape, 1)
    assert torch.equal(table.double()[classes] + OFFSET, wanted.permute(1, 2, 0).double())
    assert set(classes.flatten().tolist()) == set(range(len(table)))


def class_of(shape: Conv2dShape, axis: int) -> torch.Tensor:
    """The class of each output along an axis, as `Conv2dShape.border` defines it."""
    (start, end), size = shape.border(axis), shape.output_size[axis]
    return torch.tensor([min(o, start) + max(0, o - (size - 1 - end)) for o in range(size)])


@pytest.mark.parametrize(
    "shape",
    [
        Conv2dShape(2, 256, 6, 5, 256, (3, 3), (1, 1), (1, 1)),
        Conv2dShape(2, 40, 3, 2, 300, (5, 5), (1, 1), (2, 2)),
        Conv2dShape(2, 9000, 1, 1, 20),
        Conv2dShape(2, 300, 7, 6, 33, (3, 3), (2, 2), (1, 1)),
    ],
    ids=["3x3", "an image smaller than the kernel", "more steps than a block", "stride 2"],
)
def test_entries_are_the_products_of_positive_input(shape: Conv2dShape) -> None:
    generator = torch.Generator().manual_seed(0)
    check(shape, torch.randn(shape.outputs, shape.channels, *shape.kernel, generator=generator))


@settings(max_examples=8)
@given(st.data(), st.integers(0, 10**6))
def test_entries_of_any_convolution(data: st.DataObject, seed: int) -> None:
    def draw(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    kernel, size = (draw(1, 4), draw(1, 4)), (draw(1, 3), draw(1, 3))
    stride, padding = (draw(1, 3), draw(1, 3)), (draw(0, 2), draw(0, 2))
    shape = Conv2dShape(1, draw(1, 300), *size, draw(1, 300), kernel, stride, padding)
    assume(min(shape.output_size) > 0)
    generator = torch.Generator().manual_seed(seed)
    check(shape, torch.randn(shape.outputs, shape.channels, *kernel, generator=generator))


def test_the_offset_is_that_of_the_product_kernel() -> None:
    assert FLOAT_OFFSET.value == OFFSET
    assert torch.tensor(OFFSET).view(torch.int32).item() == 0x4B400000


@pytest.mark.parametrize(("channels", "refused"), [(2**20 - 1, False), (2**20, True)])
def test_products_too_long_for_exact_floats_are_refused(channels: int, refused: bool) -> None:
    fragments = torch.zeros(1, -(-channels // 256), 16, 32, 4, dtype=torch.int32, device="meta")
    shape = Conv2dShape(2, channels, 1, 1, 256)
    if refused:
        with pytest.raises(ValueError, match=r"channels \* taps is 1048576"):
            border_table(fragments, shape)
    else:
        with record() as launches:
            border_table(fragments, shape)
        assert len(launches) == 1
