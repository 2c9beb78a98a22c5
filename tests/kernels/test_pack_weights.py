import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tribin_kernels.formats import to_fragments, to_quads
from tribin_kernels.pack_weights import pack_weights
from tribin_kernels.reference import pack_bits, unpack_bits

FORMATS = {"rows": lambda bits: bits, "fragments": to_fragments, "quads": to_quads}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def latents(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers, one in five of them a zero of either sign, NaN, infinite or denormal."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, -1e-45])
    chosen = special[torch.randint(len(special), shape, generator=generator)]
    is_special = torch.rand(shape, generator=generator) < 0.2
    return torch.where(is_special, chosen, torch.randn(shape, generator=generator)).to(dtype)


def as_contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def as_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def as_transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def as_crop(x: Tensor) -> Tensor:
    return F.pad(x, (1, 2, 0, 0, 3, 1, 1, 0), value=math.nan)[1:, 3:-1, :, 1:-2]


STRIDES = [as_contiguous, as_channels_last, as_transposed, as_crop]


def row_bits(latent_weight: Tensor) -> Tensor:
    """int32 [outputs, taps, ceil(C/32)]."""
    return pack_bits((latent_weight < 0).flatten(2).transpose(1, 2))


@settings(max_examples=25)
@given(
    layout=st.sampled_from(list(FORMATS)),
    seed=st.integers(0, 10**6),
    outputs=st.integers(1, 40),
    channels=st.integers(1, 300),
    kernel=st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]),
    strides=st.sampled_from(STRIDES),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
)
def test_layouts(
    layout: str,
    seed: int,
    outputs: int,
    channels: int,
    kernel: tuple[int, int],
    strides: object,
    dtype: torch.dtype,
    transposed: bool,
) -> None:
    latent = strides(latents(seed, outputs, channels, *kernel, dtype=dtype))
    packed = pack_weights(latent, layout, transposed=transposed)
    bits = row_bits(latent.transpose(0, 1) if transposed else latent)
    assert torch.equal(packed, FORMATS[layout](bits))


@pytest.mark.parametrize(
    ("layout", "transposed", "shape"),
    [
        ("rows", False, (120, 240, 3, 3)),
        ("rows", True, (9, 40, 7, 7)),
        ("quads", False, (20, 256, 5, 5)),
        ("quads", True, (240, 24, 3, 3)),
        ("fragments", False, (120, 240, 3, 3)),
        ("fragments", True, (290, 257, 1, 1)),
        ("fragments", False, (0, 40, 3, 3)),
        ("rows", False, (0, 40, 3, 3)),
    ],
)
def test_sizes_of_layers(layout: str, transposed: bool, shape: tuple[int, ...]) -> None:
    latent = latents(0, *shape)
    packed = pack_weights(latent, layout, transposed=transposed)
    bits = row_bits(latent.transpose(0, 1) if transposed else latent)
    assert torch.equal(packed, FORMATS[layout](bits))


@pytest.mark.parametrize("half", [1, 5, 32, 33, 120, 128, 150])
def test_halves_of_a_gate_are_each_filled_up(half: int) -> None:
    latent = latents(half, 2 * half, 40, 2, 1)
    filled = F.pad(row_bits(latent).unflatten(0, (2, half)), (0, 0, 0, 0, 0, -half % 32))
    packed = pack_weights(latent, "fragments", gate=True)
    assert torch.equal(packed, to_fragments(filled.flatten(0, 1)))


def test_a_gate_with_transposed_weights_is_of_their_rows() -> None:
    latent = latents(0, 40, 6, 1, 3)
    gated = pack_weights(latent.transpose(0, 1), "fragments", gate=True)
    assert torch.equal(pack_weights(latent, "fragments", transposed=True, gate=True), gated)


@pytest.mark.parametrize("layout", list(FORMATS))
def test_fill_bits_are_zero(layout: str) -> None:
    packed = pack_weights(torch.full((3, 33, 1, 3), -1.0), layout)
    assert int(unpack_bits(packed.flatten(), 32 * packed.numel()).sum()) == 3 * 33 * 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"latent_weight": torch.zeros(4, 4, 1, 1).int()}, TypeError, "has the dtype torch.int32"),
        ({"latent_weight": torch.zeros(4, 4)}, ValueError, r"has the shape \[4, 4\], wanted"),
        (
            {"layout": "words"},
            ValueError,
            "layout is 'words', wanted one of rows, fragments, quads",
        ),
        ({"layout": "quads", "gate": True}, ValueError, "gate is set for 4 rows of quads"),
        ({"latent_weight": torch.zeros(3, 4, 1, 1), "gate": True}, ValueError, "gate is set for 3"),
    ],
)
def test_bad_input(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    usual = {"latent_weight": torch.zeros(4, 4, 1, 1), "layout": "fragments"}
    with pytest.raises(error, match=message):
        pack_weights(**(usual | arguments))
