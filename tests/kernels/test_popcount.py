import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tribin_kernels import launch
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.int8_mma import Int8MmaConfig, conv2d_w1a1
from tribin_kernels.popcount import PopcountConfig, linear_w1a1
from tribin_kernels.reference import pack_signs, sign

SMALL = PopcountConfig(block_outputs=4, block_words=4)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dots(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return sign(x).double() @ sign(weight).double().T


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(0, 19),
    st.integers(1, 300),
    st.integers(1, 11),
    st.sampled_from([SMALL, PopcountConfig(2, 8)]),
)
def test_dots_are_exact(
    seed: int, rows: int, length: int, outputs: int, config: PopcountConfig
) -> None:
    x, weight = random(seed, rows, length), random(seed + 1, outputs, length)
    y = linear_w1a1(
        pack_signs(x), pack_signs(weight), None, 1.0, None, length,
        dtype=torch.float32, config=config,
    )  # fmt: skip
    assert y.is_contiguous()
    assert torch.equal(y.double(), dots(x, weight))


@pytest.mark.parametrize("rows", [1, 16])
def test_the_default_configuration(rows: int) -> None:
    x, weight = random(0, rows, 8200), random(1, 20, 8200)
    y = linear_w1a1(pack_signs(x), pack_signs(weight), None, 1.0, None, 8200, dtype=torch.float32)
    assert torch.equal(y.double(), dots(x, weight))


@pytest.mark.parametrize("length", [1, 32, 33])
@pytest.mark.parametrize("factor", [-1.0, 1.0])
def test_all_signs_differ_or_are_equal(length: int, factor: float) -> None:
    x = pack_signs(torch.ones(2, length))
    weights = pack_signs(factor * torch.ones(5, length))
    y = linear_w1a1(x, weights, None, 1.0, None, length, dtype=torch.float32, config=SMALL)
    assert torch.equal(y, torch.full((2, 5), factor * length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slope", [False, True])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("elu", [False, True])
def test_results_are_those_of_the_int8_product(
    dtype: torch.dtype, slope: bool, gate: bool, elu: bool
) -> None:
    x, weight = random(0, 5, 70), random(1, 6, 70)
    gain, bias = random(2, 6), random(3, 6).bfloat16()
    slopes, residual = random(5, 6), random(4, 5, 3 if gate else 6).bfloat16()
    epilogue = Epilogue(slopes if slope else None, gate, residual, elu)
    shape = Conv2dShape(5, 70, 1, 1, 6)
    wanted, _, _ = conv2d_w1a1(
        pack_signs(x)[:, None, None], pack_signs(weight)[:, None], gain, 0.125, bias, shape,
        epilogue=epilogue, dtype=dtype, config=Int8MmaConfig(32, 64, 4),
    )  # fmt: skip
    y = linear_w1a1(
        pack_signs(x), pack_signs(weight), gain, 0.125, bias, 70,
        epilogue=epilogue, dtype=dtype, config=SMALL,
    )  # fmt: skip
    assert wanted is not None
    assert y.dtype == dtype
    assert torch.equal(y, wanted[:, :, 0, 0])


@pytest.mark.parametrize(
    "epilogue", [Epilogue(signs=True), Epilogue(mask=True), Epilogue(real=False)]
)
def test_bits_are_refused(epilogue: Epilogue) -> None:
    bits = pack_signs(torch.ones(1, 8))
    with pytest.raises(ValueError, match="epilogue: popcounts write y"):
        linear_w1a1(bits, bits, None, 1.0, None, 8, epilogue=epilogue, dtype=torch.float32)


def test_a_launch_on_meta_tensors_is_recorded() -> None:
    bits = torch.empty((17, 256), dtype=torch.int32, device="meta")
    with launch.record() as launches:
        y = linear_w1a1(bits, bits, None, 1.0, None, 8192, dtype=torch.bfloat16)
    assert y.shape == (17, 17)
    assert [launched.grid for launched in launches] == [(2, 2)]
