"""The public packing ops; the format itself is tested with the reference."""

import pytest
import torch
from torch.library import opcheck

from tribin import ops


def test_round_trip_and_opcheck() -> None:
    x = torch.randn(2, 3, 45)
    bits = ops.pack_signs(x)
    assert bits.shape == (2, 3, 2)
    assert torch.equal(ops.unpack_signs(bits, 45), torch.where(x < 0, -1.0, 1.0))
    opcheck(torch.ops.tribin.pack_signs.default, (x,))
    opcheck(torch.ops.tribin.unpack_signs.default, (bits, 45, torch.bfloat16))


def test_a_wrong_length_is_named() -> None:
    with pytest.raises(ValueError, match="33 bits take 2 words a row, bits has 1"):
        ops.unpack_signs(torch.zeros(4, 1, dtype=torch.int32), 33)
