"""Tensors that do not fit a kernel are named before anything is launched."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tribin_kernels import bit_mma, int8_mma
from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.launch import record
from tribin_kernels.pack_activations import pack_activations
from tribin_kernels.pack_weights import pack_weights
from tribin_kernels.popcount import linear_w1a1
from tribin_kernels.real_mma import conv2d_w1a16
from tribin_kernels.weight_gradient import product_gradient

SHAPE = Conv2dShape(2, 70, 8, 8, 40, (3, 3), (1, 1), (1, 1))
X = torch.randn(2, 70, 8, 8).contiguous(memory_format=torch.channels_last)
LATENT_WEIGHT = torch.randn(40, 70, 3, 3)
SIGNS, _, PAIRED = pack_activations(X, paired_size=(8, 8))
ROWS, FRAGMENTS, QUADS = (pack_weights(LATENT_WEIGHT, f) for f in ("rows", "fragments", "quads"))
FLAT, FLAT_ROWS = SIGNS.flatten(0, 2), ROWS[:, 0].contiguous()


def by_bit_mma(paired: Tensor, fragments: Tensor) -> Any:
    table = border_table(FRAGMENTS, SHAPE)
    return bit_mma.conv2d_w1a1(paired, fragments, table, None, 1.0, None, SHAPE)


def by_int8_mma(signs: Tensor, weights: Tensor) -> Any:
    return int8_mma.conv2d_w1a1(signs, weights, None, 1.0, None, SHAPE, dtype=torch.float32)


def by_popcount(signs: Tensor, weights: Tensor) -> Any:
    return linear_w1a1(signs, weights, None, 1.0, None, 70, dtype=torch.float32)


def by_real_mma(x: Tensor, quads: Tensor) -> Any:
    return conv2d_w1a16(x, quads, None, 1.0, None, SHAPE, dtype=torch.bfloat16)


def weight_gradient(grad_y: Tensor, signs: Tensor) -> Any:
    return product_gradient(grad_y, signs, SHAPE)


CASES: list[tuple[Callable[..., Any], dict[str, Tensor]]] = [
    (by_bit_mma, {"paired": PAIRED, "fragments": FRAGMENTS}),
    (by_int8_mma, {"signs": SIGNS, "weights": ROWS}),
    (by_popcount, {"signs": FLAT, "weights": FLAT_ROWS}),
    (by_real_mma, {"x": X.bfloat16(), "quads": QUADS}),
    (weight_gradient, {"grad_y": X[:, :40].bfloat16(), "signs": SIGNS}),
]
each = pytest.mark.parametrize(
    ("product", "name"),
    [(product, name) for product, arguments in CASES for name in arguments],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


def refused(product: Callable[..., Any], name: str, wrong: Tensor, error: type[Exception]) -> str:
    arguments = next(arguments for function, arguments in CASES if function is product)
    with record() as launches:
        product(**arguments)
        expected = len(launches)
        with pytest.raises(error) as caught:
            product(**(arguments | {name: wrong}))
    assert len(launches) <= 2 * expected - 1
    return str(caught.value)


def right(product: Callable[..., Any], name: str) -> Tensor:
    return next(arguments for function, arguments in CASES if function is product)[name]


@each
def test_another_shape(product: Callable[..., Any], name: str) -> None:
    tensor = right(product, name)
    wrong = torch.cat([tensor, tensor[:, :1]], 1)
    message = refused(product, name, wrong, ValueError)
    assert message.startswith(f"{name} has the shape {list(wrong.shape)}, wanted ")


@each
def test_another_dtype(product: Callable[..., Any], name: str) -> None:
    tensor = right(product, name)
    if tensor.dtype == torch.int32:
        message = refused(product, name, tensor.long(), TypeError)
        assert message == f"{name} is torch.int64, packed tensors are torch.int32"


@each
def test_another_device(product: Callable[..., Any], name: str) -> None:
    message = refused(product, name, right(product, name).to("meta"), ValueError)
    assert " is on meta, " in message or message.endswith(" is on meta")
