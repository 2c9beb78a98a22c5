"""The fused ops: 1-bit linear and convolution layers, differentiable and packed, and packed signs.

Each is a `torch.library` op of the namespace ``tribin``, with an implementation in plain torch for
CPU tensors (`tribin_kernels.reference`), one of Triton kernels for CUDA tensors, and a fake one, so
that it survives `torch.compile`.
"""

from tribin.ops.binary_conv2d import binary_conv2d
from tribin.ops.binary_linear import binary_linear
from tribin.ops.packed_conv2d import packed_conv2d, packed_linear
from tribin.ops.packing import pack_signs, unpack_signs
from tribin.ops.signs import sign_activation, sign_weight

__all__ = [
    "binary_conv2d",
    "binary_linear",
    "pack_signs",
    "packed_conv2d",
    "packed_linear",
    "sign_activation",
    "sign_weight",
    "unpack_signs",
]
