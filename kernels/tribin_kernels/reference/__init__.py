"""The executable specification: what every kernel computes, in plain torch.

It is the CPU implementation of the ops in `tribin.ops` and what the tests of the kernels compare
with. Sources: "Reducing the Computational Cost of Deep Generative Models with Binary Neural
Networks" (Bird, Kingma and Barber, ICLR 2021).
"""

from tribin_kernels.reference.adam_step import AdamSettings, AdamTensors, adam_step
from tribin_kernels.reference.binary_conv2d import (
    binary_conv2d,
    binary_conv2d_backward,
    binary_conv2d_w1a1,
    binary_conv2d_w1a1_backward,
    memory_format,
)
from tribin_kernels.reference.binary_linear import (
    binary_linear,
    binary_linear_backward,
    binary_linear_w1a1,
    binary_linear_w1a1_backward,
)
from tribin_kernels.reference.packed_conv2d import packed_conv2d
from tribin_kernels.reference.packing import (
    WORD_BITS,
    pack_bits,
    pack_signs,
    unpack_bits,
    unpack_signs,
    words_per_row,
)
from tribin_kernels.reference.signs import activation_mask, sign, weight_scale

__all__ = [
    "WORD_BITS",
    "AdamSettings",
    "AdamTensors",
    "activation_mask",
    "adam_step",
    "binary_conv2d",
    "binary_conv2d_backward",
    "binary_conv2d_w1a1",
    "binary_conv2d_w1a1_backward",
    "binary_linear",
    "binary_linear_backward",
    "binary_linear_w1a1",
    "binary_linear_w1a1_backward",
    "memory_format",
    "pack_bits",
    "pack_signs",
    "packed_conv2d",
    "sign",
    "unpack_bits",
    "unpack_signs",
    "weight_scale",
    "words_per_row",
]
