"""The sizes of a convolution, and the classes of its border."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Conv2dShape:
    """What a launch must know of a convolution; a linear layer is one of 1×1 pixels and one tap.

    Args:
        batch, channels, height, width: of the input.
        outputs: channels of the output.
        kernel, stride, padding: vertical and horizontal.
    """

    batch: int
    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    @classmethod
    def of(
        cls,
        input_size: Sequence[int],
        weight: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> "Conv2dShape":
        """The shape of conv2d(x, weight) with x of the size [N, C, H, W]."""
        batch, channels, height, width = input_size
        outputs, _, kernel_height, kernel_width = weight.shape
        return cls(
            batch,
            channels,
            height,
            width,
            outputs,
            (kernel_height, kernel_width),
            (stride[0], stride[1]),
            (padding[0], padding[1]),
        )

    @classmethod
    def of_bits(
        cls,
        row_bits: Tensor,
        weight_bits: Tensor,
        channels: int,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> "Conv2dShape":
        """The shape with x as [N, H, W, ceil(C/32)] and the weight as [out, kh, kw, ceil(C/32)]."""
        batch, height, width, _ = row_bits.shape
        size = (batch, channels, height, width)
        return cls.of(size, weight_bits.permute(0, 3, 1, 2), stride, padding)

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self._output_size(0), self._output_size(1)

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def terms(self) -> int:
        """n, the products that make one output: channels times taps."""
        return self.channels * self.taps

    @property
    def gain_factor(self) -> float:
        """1/√n, which makes the scale of the gain."""
        return 1 / math.sqrt(self.terms)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel depends on the input pixel at its place alone."""
        return (self.kernel, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch: the rows of the product."""
        height, width = self.output_size
        return self.batch * height * width

    def in_full_tiles(self) -> "Conv2dShape":
        """A pointwise problem with its pixels as two images of 8 columns; others as they are.

        The tiles of the 1-bit tensor core, 8 pixels of two images, are full then.
        """
        if not self.is_pointwise or not self.pixels:
            return self
        return Conv2dShape(2, self.channels, -(-self.pixels // 16), 8, self.outputs)

    def border(self, axis: int) -> tuple[int, int]:
        """How many outputs at the start and the end of an axis have a class of their own.

        Outputs between them see every tap and share one class, so there are start + 1 + end
        classes. Output o is of class min(o, start) + max(0, o − (size − 1 − end)). Where the two
        borders meet, every output is a class: start = size − 1, end = 0.
        """
        size, padding, stride = self._output_size(axis), self.padding[axis], self.stride[axis]
        inside = (self.height, self.width)[axis] + padding - self.kernel[axis]
        start = -(-padding // stride)
        end = size - 1 - max(inside // stride, -1)
        return (start, end) if start + end < size else (size - 1, 0)

    def _output_size(self, axis: int) -> int:
        filled = (self.height, self.width)[axis] + 2 * self.padding[axis]
        return (filled - self.kernel[axis]) // self.stride[axis] + 1
