"""Host to device, without the host waiting for what the device has still to do, and back."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; from pinned memory to a GPU, as any other copy waits for its work."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def on_host(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Scalars of one dtype and device as numbers, by one transfer."""
    if not scalars:
        return {}
    return dict(zip(scalars, torch.stack([*scalars.values()]).tolist(), strict=True))
