"""The clocks of the device, as far as the system tells."""

import re
import subprocess
from pathlib import Path

import torch

CPU_INFORMATION = Path("/proc/cpuinfo")
NVIDIA_SMI = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"]


def clocks(device: torch.device) -> dict[str, float]:
    """MHz: of a CPU's fastest core (``"core"``), of a GPU (``"sm"``, ``"memory"``); or nothing."""
    return _gpu_clocks(device) if device.type == "cuda" else _cpu_clocks()


def _gpu_clocks(device: torch.device) -> dict[str, float]:
    try:
        text = subprocess.run(
            [*NVIDIA_SMI, f"--id={device.index or 0}"], capture_output=True, text=True, check=True
        ).stdout
        core, memory = map(float, text.split(","))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"sm": core, "memory": memory}


def _cpu_clocks() -> dict[str, float]:
    if not CPU_INFORMATION.exists():
        return {}
    found = re.findall(r"^cpu MHz\s*: ([\d.]+)$", CPU_INFORMATION.read_text(), re.MULTILINE)
    return {"core": max(map(float, found))} if found else {}
