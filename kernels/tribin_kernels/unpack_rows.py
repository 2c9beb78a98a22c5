"""Row bits back to signs ±1."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.known_multiple import known_multiple
from tribin_kernels.launch import launch
from tribin_kernels.reference.packing import words_per_row

_TILE_BYTES = 256
"""Packed bytes that a program unpacks."""

_ROW_BYTES = 32
"""At most so many of them from one row."""


def unpack_rows(bits: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Unpack row bits into signs ±1, the inverse of `pack_rows`.

    Args:
        bits: int32 [..., ceil(length/32)].
        length: K, elements of a row.
        dtype: of the result, floating point.

    Returns:
        [..., K], contiguous.

    Raises:
        TypeError: if bits are not int32.
        ValueError: if a row of bits has another number of words.
    """
    if bits.dtype != torch.int32:
        raise TypeError(f"unpack_rows: bits has the dtype {bits.dtype}, wanted int32")
    if bits.ndim == 0 or bits.shape[-1] != words_per_row(length):
        raise ValueError(
            f"unpack_rows: bits has the shape {list(bits.shape)}, wanted "
            f"[..., {words_per_row(length)}] for length {length}"
        )
    signs = bits.new_empty((*bits.shape[:-1], length), dtype=dtype)
    rows = bits.shape[:-1].numel()
    bytes_ = min(triton.next_power_of_2(max(4 * bits.shape[-1], 4)), _ROW_BYTES)
    rows_ = _TILE_BYTES // bytes_
    launch(
        _unpack_rows,
        (triton.cdiv(rows, rows_), triton.cdiv(length, 8 * bytes_)),
        {
            "bits": bits.contiguous().view(torch.uint8),
            "signs": signs,
            "rows": rows,
            "length": length,
            "row_bytes": 4 * bits.shape[-1],
        },
        {"MULTIPLE": math.gcd(8, length), "ROWS": rows_, "BYTES": bytes_},
    )
    return signs


@triton.jit
def _unpack_rows(
    bits,
    signs,
    rows,
    length,
    row_bytes,
    MULTIPLE: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    start = tl.program_id(0) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    in_rows = row < rows - start
    byte = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)[:, None, None]
    element = 8 * byte + bit
    length = known_multiple(length, MULTIPLE)
    source = bits + start.to(tl.int64) * row_bytes + row * row_bytes + byte
    packed = tl.load(source, in_rows & (byte < row_bytes), other=0).to(tl.int32)
    values = (1 - 2 * (packed >> bit & 1)).to(tl.float32)
    target = signs + start.to(tl.int64) * length + row.to(tl.int64) * length + element
    tl.store(target, values.to(signs.dtype.element_ty), in_rows & (element < length))
