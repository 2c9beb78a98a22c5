"""Row bits with and without the bits that pad each tap."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tribin.packed.dense_rows import from_dense_rows, pads_with_zeros, to_dense_rows
from tribin_kernels.reference import pack_signs

sizes = st.integers(1, 3)


@given(outputs=sizes, height=sizes, width=sizes, channels=st.integers(1, 70), seed=st.integers(0))
def test_a_dense_row_has_its_bits_one_behind_the_other(
    outputs: int, height: int, width: int, channels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**63)
    weight = torch.randn(outputs, height, width, channels, generator=generator)
    taps = pack_signs(weight)
    rows = to_dense_rows(taps, channels)
    length = height * width * channels
    assert rows.shape == (outputs, -(-length // 32))
    for output, negative in enumerate((weight < 0).flatten(1).tolist()):
        words = [word & 0xFFFFFFFF for word in rows[output].tolist()]
        number = sum(word << 32 * i for i, word in enumerate(words))
        assert number == sum(bit << k for k, bit in enumerate(negative))
    assert torch.equal(from_dense_rows(rows, (height, width), channels), taps)
    assert pads_with_zeros(rows, length)


@given(length=st.integers(1, 100), data=st.data())
def test_a_bit_beyond_the_row_is_seen(length: int, data: st.DataObject) -> None:
    words = -(-length // 32)
    place = data.draw(st.integers(0, 32 * words - 1))
    rows = torch.zeros(2, words, dtype=torch.int32)
    rows[1, place // 32] = torch.tensor(1 << place % 32).to(torch.int32)
    assert pads_with_zeros(rows, length) == (place < length)
