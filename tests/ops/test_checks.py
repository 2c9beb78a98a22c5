"""Bad arguments of the ops are named before anything is computed."""

import pytest
import torch
from torch import Tensor

from tribin import ops

WEIGHTS = {
    ops.binary_linear: (torch.randn(4, 8), torch.randn(3, 8)),
    ops.binary_conv2d: (torch.randn(2, 8, 5, 5), torch.randn(3, 8, 3, 3)),
}
cases = pytest.mark.parametrize("op", WEIGHTS, ids=lambda op: op.__name__)


def arguments(op) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    x, latent_weight = WEIGHTS[op]
    return {"x": x, "latent_weight": latent_weight, "gain": torch.ones(3), "bias": torch.ones(3)}


@cases
@pytest.mark.parametrize("name", ["x", "latent_weight", "gain", "bias"])
def test_integers_are_refused(op, name: str) -> None:  # type: ignore[no-untyped-def]
    values = arguments(op)
    values[name] = values[name].to(torch.int32)
    with pytest.raises(TypeError, match=rf"{op.__name__}: {name} is torch.int32, .* floating"):
        op(**values)


@cases
@pytest.mark.parametrize("name", ["latent_weight", "gain", "bias"])
def test_devices_may_not_differ(op, name: str) -> None:  # type: ignore[no-untyped-def]
    values = arguments(op)
    values[name] = values[name].to("meta")
    with pytest.raises(ValueError, match=rf"{op.__name__}: {name} is on meta, x is on cpu"):
        op(**values)


@pytest.mark.parametrize(("stride", "padding"), [(0, 1), (1, -1), ((1, 0), 0)])
def test_stride_and_padding_are_named(stride: int, padding: int) -> None:
    with pytest.raises(ValueError, match=r"binary_conv2d: stride \[.*\] must be at least 1"):
        ops.binary_conv2d(**arguments(ops.binary_conv2d), stride=stride, padding=padding)


def test_only_row_bits_are_unpacked() -> None:
    with pytest.raises(TypeError, match=r"bits is torch.int64, row bits are torch.int32"):
        ops.unpack_signs(torch.zeros(2, 1, dtype=torch.int64), 20)
