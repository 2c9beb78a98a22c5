"""The order in which training sees the images: a pure function of the seed and the position.

Both orders come from ``RandomState``, whose stream numpy has frozen for good: a run resumed, or a
split cut again, under another version of numpy or torch sees the same images.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def batch_indices(seed: int, images_seen: int, batch_size: int, dataset_size: int) -> Tensor:
    """Return the training images of one batch.

    The epochs' permutations, each a function of (seed, epoch) alone, follow one another in one
    endless stream; the batch is its slice from ``images_seen`` on. Nothing else is remembered, so a
    resumed run needs only that integer. A batch may cross epochs.

    Args:
        seed: The run's seed, 0 to 2³² − 1.
        images_seen: Images the run has trained on before this batch.
        batch_size: Images in the batch, at least 1.
        dataset_size: Images in the training set, at least 1.

    Returns:
        Indices into the training set, int64 [batch_size].
    """
    import torch

    positions = np.arange(images_seen, images_seen + batch_size)
    epochs, places = np.divmod(positions, dataset_size)
    parts = [
        _epoch_order(seed, int(epoch), dataset_size)[places[epochs == epoch]]
        for epoch in np.unique(epochs)
    ]
    return torch.from_numpy(np.concatenate(parts))


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, dataset_size: int) -> NDArray[np.int64]:
    return np.random.RandomState([seed, epoch]).permutation(dataset_size)


def validation_mask(train_images: int, validation_images: int) -> Tensor:
    """Mark the train images that form the validation split, bool [train_images].

    The choice depends on the two counts alone: every run, seed and resume has the same split, and a
    larger one contains the smaller ones.
    """
    import torch

    mask = torch.zeros(train_images, dtype=torch.bool)
    order = np.random.RandomState(0).permutation(train_images)
    mask[torch.from_numpy(order[:validation_images])] = True
    return mask
