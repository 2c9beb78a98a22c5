"""The reference against definitions written out element by element."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tribin_kernels import reference


def bit_of(words: torch.Tensor, index: int) -> int:
    word = int(words[index // 32]) & 0xFFFFFFFF
    return word >> (index % 32) & 1


def test_sign_of_zeros_and_nan_is_plus_one() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0, float("nan"), float("-inf")])
    assert reference.sign(x).tolist() == [-1, 1, 1, 1, 1, -1]
    assert reference.sign(x, torch.int8).dtype == torch.int8


def test_activation_mask_includes_its_borders() -> None:
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.0001, float("nan")])
    assert reference.activation_mask(x).tolist() == [False, True, True, True, False, False]


@given(st.lists(st.booleans(), max_size=130))
def test_bits_are_little_endian_and_padded_with_zeros(row: list[bool]) -> None:
    words = reference.pack_bits(torch.tensor(row, dtype=torch.bool))
    assert words.dtype == torch.int32
    assert len(words) == math.ceil(len(row) / 32)
    padded = row + [False] * (len(words) * 32 - len(row))
    assert [bit_of(words, i) for i in range(len(padded))] == padded


@given(
    shape=st.lists(st.integers(0, 3), min_size=0, max_size=3),
    length=st.integers(1, 100),
    seed=st.integers(0, 1000),
)
def test_unpacking_inverts_packing(shape: list[int], length: int, seed: int) -> None:
    x = torch.randn(*shape, length, generator=torch.Generator().manual_seed(seed))
    words = reference.pack_signs(x)
    assert words.shape == (*shape, reference.words_per_row(length))
    assert torch.equal(reference.unpack_signs(words, length, x.dtype), torch.where(x < 0, -1.0, 1))


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_all_equal_and_one_hot_rows(value: float) -> None:
    rows = torch.full((33, 33), -value) + 2 * value * torch.eye(33)
    words = reference.pack_signs(rows)
    assert torch.equal(reference.unpack_signs(words, 33, torch.float32), rows)


def test_weight_scale_makes_each_row_of_signs_weigh_its_gain() -> None:
    latent_weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    gain = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    scale = reference.weight_scale(gain, latent_weight)
    weight = reference.sign(latent_weight) * scale.view(-1, 1, 1, 1)
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), gain.abs())
