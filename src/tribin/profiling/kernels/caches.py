"""How much memory pushes what was used before out of every cache."""

from pathlib import Path

import torch

CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN = 2**26
"""Bytes of a CPU's last-level cache where the system does not say."""

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def cold_bytes(device: torch.device) -> int:
    """Twice the bytes of the device's last-level cache: what takes turns in so much is cold."""
    if device.type == "cuda":
        return 2 * int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = (file.read_text().strip() for file in CPU_CACHES.glob("index*/size"))
    return 2 * max((int(size[:-1]) * UNITS[size[-1]] for size in sizes), default=UNKNOWN)
