"""What is made of packed weights is right, and is made once."""

import gc
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels import packed_weights
from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.pack_weights import pack_weights
from tribin_kernels.packed_weights import fragments_of, quads_of
from tribin_kernels.reference import pack_signs

SHAPE = Conv2dShape(2, 40, 6, 5, 70, (2, 1), (1, 1), (1, 0))


def random_weight(shape: Conv2dShape = SHAPE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape.outputs, shape.channels, *shape.kernel, generator=generator)


def bits_of(weight: Tensor) -> Tensor:
    return pack_signs(weight.permute(0, 2, 3, 1))


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "_kept", type(packed_weights._kept)())


@pytest.mark.parametrize("gate", [False, True])
def test_they_are_as_the_trained_layers_pack_theirs(gate: bool) -> None:
    weight = random_weight()
    fragments, _ = fragments_of(bits_of(weight), SHAPE, gate=gate)
    assert torch.equal(fragments, pack_weights(weight, "fragments", gate=gate))
    assert torch.equal(quads_of(bits_of(weight)), pack_weights(weight, "quads"))


@settings(max_examples=12)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.booleans())
def test_the_border_table_is_that_of_the_image(
    size: int, kernel: int, stride: int, padding: int, down: bool
) -> None:
    """Along one axis, the other having one pixel and tap."""
    pairs = ((size, 1), (kernel, 1), (stride, 1), (padding, 0))
    sizes, *geometry = pairs if down else [pair[::-1] for pair in pairs]
    shape = Conv2dShape(1, 8, *sizes, 32, *geometry)
    assume(min(shape.output_size) > 0)
    fragments, table = fragments_of(bits_of(random_weight(shape)), shape)
    assert torch.equal(table, border_table(fragments, shape))


def test_images_of_all_sizes_share_few_tables() -> None:
    weight_bits = bits_of(random_weight())
    shapes = [replace(SHAPE, batch=n, height=n, width=2 * n, stride=(2, 2)) for n in range(4, 40)]
    tables = {id(fragments_of(weight_bits, shape)[1]) for shape in shapes}
    assert len(tables) <= 4  # an even or odd height, and width


def test_the_gate_has_fragments_of_its_own() -> None:
    weight_bits = bits_of(random_weight())
    plain, gated = (fragments_of(weight_bits, SHAPE, gate=gate) for gate in (False, True))
    assert not torch.equal(plain[0], gated[0])
    assert not torch.equal(plain[1], gated[1])


def made_of(weight_bits: Tensor) -> list[Tensor]:
    return [quads_of(weight_bits), *fragments_of(weight_bits, SHAPE)]


def are_the_same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(a is b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_they_are_made_once(mode: type) -> None:
    weight_bits = bits_of(random_weight())
    first = made_of(weight_bits)
    with mode():
        assert are_the_same(made_of(weight_bits), first)
        assert are_the_same(made_of(weight_bits.view(-1).view(weight_bits.shape)), first)


def test_inference_tensors_too() -> None:
    with torch.inference_mode():
        weight_bits = bits_of(random_weight())
        assert weight_bits.is_inference()
        assert are_the_same(made_of(weight_bits), made_of(weight_bits))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_write_to_the_weights_makes_them_again(mode: type) -> None:
    """As `load_state_dict` writes, even where the layer passes a view."""
    weight_bits, other = bits_of(random_weight()), bits_of(random_weight(seed=1))
    made_of(weight_bits)
    with mode():
        weight_bits.copy_(other)
        again = made_of(weight_bits.view(weight_bits.shape))
    assert all(map(torch.equal, again, made_of(other)))


def test_new_memory_makes_them_again() -> None:
    """As moving a parameter to another device gives it."""
    weight_bits = torch.nn.Parameter(bits_of(random_weight()), requires_grad=False)
    made_of(weight_bits)
    other = bits_of(random_weight(seed=1))
    weight_bits.data = other.clone()
    assert all(map(torch.equal, made_of(weight_bits), made_of(other)))


def test_weights_in_one_memory_are_told_apart() -> None:
    """Those of equal shape and of others."""
    both = torch.cat([bits_of(random_weight(seed=seed)) for seed in (0, 1)])
    first, second = both.chunk(2)
    assert torch.equal(quads_of(second), quads_of(second.clone()))
    assert torch.equal(quads_of(first), quads_of(first.clone()))
    assert torch.equal(quads_of(both), quads_of(both.clone()))


def test_nothing_outlives_the_weights() -> None:
    weight_bits = bits_of(random_weight())
    made_of(weight_bits)
    assert len(packed_weights._kept) == 1
    view = weight_bits.view(-1)
    del weight_bits
    gc.collect()
    assert len(packed_weights._kept) == 1
    del view
    gc.collect()
    assert len(packed_weights._kept) == 0
