"""How much memory this process has had at most."""

import re
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
"""What Linux says of this process."""


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: resident, or on a GPU in tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        # Not ru_maxrss: on Linux a process starts with its parent's.
        peak = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
        if peak:
            return 1024 * int(peak[1])
    from resource import RUSAGE_SELF, getrusage  # Windows has none

    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
