import torch
from hypothesis import given
from hypothesis import strategies as st

from tribin_kernels import formats
from tribin_kernels.reference import pack_signs, unpack_signs, words_per_row

sizes = st.integers(1, 5)
channels = st.integers(1, 520)


def random_bits(seed: int, *shape: int) -> torch.Tensor:
    """Row bits of random signs; every fourth draw holds all ones, one bit, or none."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if seed % 4 == 0:
        x = torch.full(shape, -1.0 if seed % 8 == 0 else 1.0)
        x.view(-1)[seed % x.numel()] = -1
    return pack_signs(x)


seeds = st.integers(0, 10**6)


@given(seeds, st.integers(0, 5), sizes, sizes, channels)
def test_paired_round_trip(seed: int, batch: int, height: int, width: int, length: int) -> None:
    bits = pack_signs(torch.empty(0, height, width, length))
    if batch:
        bits = random_bits(seed, batch, height, width, length)
    paired = formats.to_paired(bits)
    assert paired.shape == (-(-batch // 2), -(-length // 256), height, width, 4, 2, 2)
    assert torch.equal(formats.from_paired(paired, batch, length), bits)


@given(seeds, st.integers(1, 300), st.integers(1, 3), channels)
def test_fragments_round_trip(seed: int, outputs: int, taps: int, length: int) -> None:
    bits = random_bits(seed, outputs, taps, length)
    fragments = formats.to_fragments(bits)
    assert fragments.shape == (taps, -(-length // 256), -(-outputs // 256) * 16, 32, 4)
    assert torch.equal(formats.from_fragments(fragments, outputs, length), bits)


@given(seeds, st.integers(1, 20), st.integers(1, 3), channels)
def test_quads_round_trip(seed: int, outputs: int, taps: int, length: int) -> None:
    bits = random_bits(seed, outputs, taps, length)
    quads = formats.to_quads(bits)
    assert quads.shape == (outputs, taps, -(-length // 128), 4)
    assert torch.equal(formats.from_quads(quads, length), bits)


def bit(word: torch.Tensor, position: int) -> int:
    return int(word) >> position & 1


@given(seeds, st.integers(0, 3), st.integers(0, 2), st.integers(0, 4), st.integers(0, 511))
def test_every_bit_of_paired_is_where_it_is_said_to_be(
    seed: int, image: int, y: int, x: int, channel: int
) -> None:
    bits = random_bits(seed, 4, 3, 5, 512)
    kt, kh, q, t, c = (
        channel // 256, channel // 128 % 2, channel // 32 % 4, channel // 8 % 4, channel % 8,
    )  # fmt: skip
    word = formats.to_paired(bits)[image // 2, kt, y, x, t, kh, image % 2]
    assert bit(word, 8 * q + c) == bit(bits[image, y, x, channel // 32], channel % 32)


@given(seeds, st.integers(0, 299), st.integers(0, 1), st.integers(0, 511))
def test_every_bit_of_fragments_is_where_it_is_said_to_be(
    seed: int, output: int, tap: int, channel: int
) -> None:
    bits = random_bits(seed, 300, 2, 512)
    kt, kh, q, t, c = (
        channel // 256, channel // 128 % 2, channel // 32 % 4, channel // 8 % 4, channel % 8,
    )  # fmt: skip
    group, within = divmod(output, 32)
    column_lane, h, nh, e = within // 8, within // 4 % 2, within // 2 % 2, within % 2
    lane = 4 * (2 * column_lane + e) + t
    word = formats.to_fragments(bits)[tap, kt, 2 * group + h, lane, 2 * nh + kh]
    assert bit(word, 8 * q + c) == bit(bits[output, tap, channel // 32], channel % 32)


@given(seeds, st.integers(0, 255))
def test_every_bit_of_quads_is_where_it_is_said_to_be(seed: int, channel: int) -> None:
    bits = random_bits(seed, 3, 2, 256)
    j, h, t, e = channel // 16 % 8, channel // 8 % 2, channel // 2 % 4, channel % 2
    word = formats.to_quads(bits)[2, 1, channel // 128, t]
    assert bit(word, 15 - (2 * j + h) + 16 * e) == bit(bits[2, 1, channel // 32], channel % 32)


@given(seeds, st.integers(1, 300))
def test_fill_bits_are_zero(seed: int, length: int) -> None:
    negative = pack_signs(-torch.ones(1, 1, length))
    for packed in (formats.to_fragments(negative), formats.to_quads(negative)):
        ones = unpack_signs(packed.unsqueeze(-1), 32, torch.float32) < 0
        assert int(ones.sum()) == length
    assert negative.shape[-1] == words_per_row(length)
