"""The product of signs by oneDNN's int8 convolution: exact, and there without a compiler."""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d_w1a1(negative: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """conv2d of ±1 with ±1, padded with the value 0.

    Args:
        negative: bool [N, C, H, W], where the input is −1, else +1.
        weight: int8 ±1, [out, C, kh, kw].
        stride: vertical and horizontal.
        padding: rows and columns of zeros on each side.

    Returns:
        float32 [N, out, H', W'].
    """
    # −1 and 1 as the bytes 0 and 2, of which 1 is the zero. oneDNN leaves results unwritten whose
    # window is all padding, so it is given none.
    vertical, horizontal = padding
    borders, zero_point = (horizontal, horizontal, vertical, vertical), 1
    x = F.pad(2 - 2 * negative.view(torch.uint8), borders, value=zero_point)
    if weight.shape[1] == 1:  # for which oneDNN errs with some strides: a second one, of zeros
        second = (0, 0, 0, 0, 0, 1)
        x, weight = F.pad(x, second, value=zero_point), F.pad(weight, second, value=1)
    ones = torch.ones(len(weight))
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    dilation, groups = [1, 1], 1
    prepacked = torch.ops.onednn.qconv_prepack(
        weight, ones, 1.0, zero_point, stride, [0, 0], dilation, groups, list(x.shape)
    )
    product: Tensor = torch.ops.onednn.qconv2d_pointwise(
        x, 1.0, zero_point, prepacked, ones, zeros, None, stride, [0, 0], dilation, groups,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return product


def is_available() -> bool:
    """Whether torch was built with it, for this kind of machine."""
    return (
        torch.backends.mkldnn.is_available() and "x86" in torch.backends.quantized.supported_engines
    )
