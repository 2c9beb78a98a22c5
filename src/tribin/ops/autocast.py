"""The compute dtype of an op: autocast's where it is on."""

import torch
from torch import Tensor


def to_compute_dtype(x: Tensor) -> Tensor:
    """x in the dtype of the enclosing autocast, or as it is where there is none.

    Float64 is left alone, as autocast itself leaves it.
    """
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))
