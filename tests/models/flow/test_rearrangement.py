"""Each rearrangement against slices written by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tribin.models.flow import ChannelSplit, Flip, Flow, SpaceToDepth, StripeSplit


def columns(x: Tensor) -> Tensor:
    return torch.stack((x[..., 0::2], x[..., 1::2]), dim=1)


def halves_of_the_channels(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return torch.stack((x[:, :half], x[:, half:]), dim=1)


def pixels_of_each_block(x: Tensor) -> Tensor:
    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    return torch.cat([x[:, :, row::2, column::2] for row, column in corners], dim=1)


def swapped_halves(x: Tensor) -> Tensor:
    return torch.stack((x[:, 1], x[:, 0]), dim=1)


@pytest.mark.parametrize(
    ("flow", "shape", "expected"),
    [
        (StripeSplit(), (3, 5, 6), columns),
        (ChannelSplit(), (6, 5, 3), halves_of_the_channels),
        (SpaceToDepth(), (3, 4, 6), pixels_of_each_block),
        (Flip(), (2, 3, 5, 7), swapped_halves),
    ],
)
def test_elements_go_where_the_slices_say(
    flow: Flow, shape: tuple[int, ...], expected: Callable[[Tensor], Tensor]
) -> None:
    x = torch.randn(2, *shape)
    y, log_det = flow(x)
    assert torch.equal(y, expected(x))
    assert torch.equal(log_det, torch.zeros(2))
    back, log_det = flow.inverse(y)
    assert torch.equal(back, x)
    assert torch.equal(log_det, torch.zeros(2))
