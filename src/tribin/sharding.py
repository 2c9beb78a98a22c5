"""Noise, and means over the batch, where this process may have only some rows of the batch.

Models draw and average here, so that processes that share a batch compute what one would: each
draws the noise of the whole batch, and uses its own rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tribin import distributed


@dataclass(frozen=True)
class Shard:
    """The rows of a batch that this process has.

    Attributes:
        start: the first.
        stop: after the last.
        batch_size: rows of the whole batch.
        weight: of this process's mean in the sum that gives the batch's mean.
    """

    start: int
    stop: int
    batch_size: int
    weight: float

    @classmethod
    def of_this_process(cls, batch_size: int) -> Shard:
        """An even share of the rows; where there are too few, one row that has no weight."""
        count, this = distributed.world_size(), distributed.rank()
        start, stop = this * batch_size // count, (this + 1) * batch_size // count
        if start == stop:
            row = min(start, batch_size - 1)
            return cls(row, row + 1, batch_size, 0.0)
        return cls(start, stop, batch_size, (stop - start) / batch_size)

    @property
    def rows(self) -> slice:
        """The rows in the batch."""
        return slice(self.start, self.stop)


_shard: Shard | None = None


@contextmanager
def sharded(shard: Shard) -> Iterator[None]:
    """Inside, what a model computes is for these rows of a batch."""
    global _shard
    _shard = shard
    try:
        yield
    finally:
        _shard = None


def rand_like(x: Tensor) -> Tensor:
    """Uniform noise in [0, 1) for x [N, …], in its dtype and memory format."""
    if _shard is None:
        return torch.rand_like(x)
    return torch.rand_like(_batch_like(x))[_shard.rows]


def randn(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Gaussian noise [N, …]."""
    if _shard is None:
        return torch.randn(*shape, dtype=dtype, device=device)
    batch = torch.randn(_shard.batch_size, *shape[1:], dtype=dtype, device=device)
    return batch[_shard.rows]


class Dropout(nn.Dropout):
    """torch's, on x [N, …]."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop some values, in training."""
        if _shard is None or not self.training:
            return super().forward(x)
        kept = F.dropout(torch.ones_like(_batch_like(x)), self.p)
        return x * kept[_shard.rows]


def batch_mean(mean: Tensor) -> Tensor:
    """The mean over the batch, from the mean over this process's rows; without gradient."""
    if _shard is None:
        return mean.detach()
    return distributed.sum_over_processes(_shard.weight * mean)


def _batch_like(x: Tensor) -> Tensor:
    """Memory for the whole batch, in the order that x would have if it were that."""
    assert _shard is not None
    row_strides = torch.empty_like(x).stride()[1:]
    size = (_shard.batch_size, *x.shape[1:])
    return torch.empty_strided(size, (x[0].numel(), *row_strides), dtype=x.dtype, device=x.device)
