"""Signs to row bits and back."""

import torch
from torch import Tensor

from tribin.ops.registration import register_op
from tribin_kernels import reference


def pack_signs(x: Tensor) -> Tensor:
    """Pack the signs of x into row bits along the last dimension.

    Args:
        x: [..., K], real.

    Returns:
        int32 [..., ceil(K/32)]: bit i of word w is element 32·w + i, 1 means negative, pad bits
        are 0.
    """
    bits: Tensor = _pack_signs(x)
    return bits


def unpack_signs(bits: Tensor, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unpack row bits into signs.

    Args:
        bits: int32 [..., ceil(K/32)].
        length: K.
        dtype: of the result.

    Returns:
        ±1, [..., K].

    Raises:
        TypeError: if `bits` is not int32.
        ValueError: if rows of `bits` don't have ceil(K/32) words.
    """
    if bits.dtype != torch.int32:
        raise TypeError(f"unpack_signs: bits is {bits.dtype}, row bits are torch.int32")
    if bits.shape[-1] != reference.words_per_row(length):
        raise ValueError(
            f"unpack_signs: {length} bits take {reference.words_per_row(length)} words a row, "
            f"bits has {bits.shape[-1]}"
        )
    signs: Tensor = _unpack_signs(bits, length, dtype)
    return signs


def _fake_pack_signs(x: Tensor) -> Tensor:
    shape = (*x.shape[:-1], reference.words_per_row(x.shape[-1]))
    return x.new_empty(shape, dtype=torch.int32)


def _fake_unpack_signs(bits: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    return bits.new_empty((*bits.shape[:-1], length), dtype=dtype)


_KERNELS = "tribin_kernels.packing"

_pack_signs = register_op(
    "pack_signs(Tensor x) -> Tensor", reference.pack_signs, _fake_pack_signs, kernels=_KERNELS
)
_unpack_signs = register_op(
    "unpack_signs(Tensor bits, SymInt length, ScalarType dtype) -> Tensor",
    reference.unpack_signs,
    _fake_unpack_signs,
    kernels=_KERNELS,
)
