"""Noise and means of a batch's rows against those of the whole batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tribin import distributed, sharding
from tribin.sharding import Shard, sharded


def shard_of(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int, batch_size: int) -> Shard:
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    return Shard.of_this_process(batch_size)


@given(batch_size=st.integers(1, 40), processes=st.integers(1, 12))
def test_shards_partition_a_batch(batch_size: int, processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shards = [shard_of(patch, rank, processes, batch_size) for rank in range(processes)]
    rows = [row for shard in shards if shard.weight for row in range(batch_size)[shard.rows]]
    assert rows == list(range(batch_size))
    assert sum(shard.weight for shard in shards) == pytest.approx(1)
    assert all(len(range(batch_size)[shard.rows]) > 0 for shard in shards)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 4), slice(4, 7)])
def test_rows_have_the_noise_that_they_have_in_the_batch(
    memory_format: torch.memory_format, rows: slice
) -> None:
    batch = torch.rand(7, 6, 4, 5).contiguous(memory_format=memory_format) + 1
    dropout = sharding.Dropout(0.4)

    def noise(x: Tensor) -> list[Tensor]:
        torch.manual_seed(1)
        # As the models do: of a slice of the channels, which has gaps in memory.
        draws = [sharding.rand_like(x), sharding.rand_like(x.chunk(3, dim=1)[1]), dropout(x)]
        return [*draws, sharding.randn(len(x), 2, 3, dtype=x.dtype, device=x.device)]

    whole = noise(batch)
    with sharded(Shard(rows.start, rows.stop, 7, (rows.stop - rows.start) / 7)):
        part = noise(batch[rows])
    for of_whole, of_part in zip(whole, part, strict=True):
        torch.testing.assert_close(of_part, of_whole[rows], rtol=1e-6, atol=0)


def test_noise_outside_a_shard_is_that_of_torch() -> None:
    x = torch.rand(4, 3)
    draws = []
    for rand_like, dropout in (
        (torch.rand_like, torch.nn.Dropout(0.4)),
        (sharding.rand_like, sharding.Dropout(0.4)),
    ):
        torch.manual_seed(1)
        draws.append((rand_like(x), dropout(x)))
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


def test_dropout_of_evaluation_drops_nothing() -> None:
    x = torch.rand(2, 3)
    with sharded(Shard(0, 2, 5, 0.4)):
        assert torch.equal(sharding.Dropout(0.4).eval()(x), x)


def test_the_shard_ends_with_an_error() -> None:
    with pytest.raises(KeyError), sharded(Shard(0, 1, 5, 0.2)):
        raise KeyError
    assert sharding.randn(3, dtype=torch.float32, device=torch.device("cpu")).shape == (3,)
