"""Sizes of a convolution, as several ops check and use them."""

from collections.abc import Sequence


def as_pair(value: int | tuple[int, int]) -> list[int]:
    """One number for both directions, or two."""
    return [value, value] if isinstance(value, int) else list(value)


def output_size(
    input_size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """Height and width of the result, of those of the input and the kernel."""
    return [(input_size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]


def check_conv2d_size(
    op: str,
    input_size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> None:
    """Raise a ValueError unless there is at least one pixel of the result."""
    if min(stride) < 1 or min(padding) < 0:
        raise ValueError(f"{op}: stride {stride} must be at least 1, padding {padding} at least 0")
    if min(output_size(input_size, kernel, stride, padding)) < 1:
        raise ValueError(
            f"{op}: an image of {list(input_size)} with padding {padding} is smaller than the "
            f"kernel {list(kernel)}"
        )
