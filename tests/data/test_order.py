import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tribin.data import batch_indices
from tribin.data.order import validation_mask

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)


@given(seed=seeds, size=sizes, epoch=st.integers(0, 1000))
def test_every_epoch_holds_every_image_once(seed: int, size: int, epoch: int) -> None:
    indices = batch_indices(seed, epoch * size, size, size)
    assert indices.dtype == torch.int64
    assert sorted(indices.tolist()) == list(range(size))


@given(seed=seeds, size=sizes, batch=st.integers(1, 100), images_seen=st.integers(0, 200))
def test_a_batch_is_a_slice_of_the_stream(
    seed: int, size: int, batch: int, images_seen: int
) -> None:
    stream = [int(batch_indices(seed, position, 1, size)) for position in range(300)]
    assert (
        batch_indices(seed, images_seen, batch, size).tolist()
        == (stream[images_seen : images_seen + batch])
    )


@given(seed=st.integers(0, 2**32 - 2), epoch=st.integers(0, 1000))
@settings(max_examples=20)
def test_epochs_and_seeds_differ(seed: int, epoch: int) -> None:
    order = batch_indices(seed, epoch * 50, 50, 50).tolist()
    assert order != batch_indices(seed, (epoch + 1) * 50, 50, 50).tolist()
    assert order != batch_indices(seed + 1, epoch * 50, 50, 50).tolist()
    # One seed's next epoch must not be the next seed's present one.
    assert batch_indices(seed, (epoch + 1) * 50, 50, 50).tolist() != (
        batch_indices(seed + 1, epoch * 50, 50, 50).tolist()
    )


def test_the_order_never_changes() -> None:
    """A resumed run relies on it, whatever the version of numpy or torch."""
    assert batch_indices(7, 0, 12, 10).tolist() == [0, 1, 5, 7, 6, 9, 4, 3, 2, 8, 9, 8]


def test_returned_indices_are_the_callers_own() -> None:
    batch_indices(3, 0, 10, 10).zero_()
    assert sorted(batch_indices(3, 0, 10, 10).tolist()) == list(range(10))


@given(size=st.integers(1, 200), data=st.data())
def test_validation_mask_is_fixed_and_nested(size: int, data: st.DataObject) -> None:
    larger = data.draw(st.integers(0, size))
    smaller = data.draw(st.integers(0, larger))
    mask = validation_mask(size, larger)
    assert (mask.dtype, mask.shape, int(mask.sum())) == (torch.bool, (size,), larger)
    assert torch.equal(mask, validation_mask(size, larger))
    assert not (validation_mask(size, smaller) & ~mask).any()


def test_validation_images_come_from_the_whole_train_set() -> None:
    chosen = validation_mask(1000, 100).nonzero().flatten()
    assert chosen.min() < 100
    assert chosen.max() > 900
    assert chosen.tolist() != sorted(range(chosen[0], chosen[0] + 100))
