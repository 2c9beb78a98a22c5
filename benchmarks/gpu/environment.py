"""Where a campaign runs: versions, the device and its driver, and what decides on launches."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tribin.profiling.clocks import clocks
from tribin.provenance import provenance
from tribin_kernels.launch_table import COMMITTED
from tribin_kernels.target import target_of

PACKAGES = ("torch", "triton", "einops", "numpy", "gemlite", "bitblas")

VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS",
    "TRIBIN_LAUNCH_TABLE", "TRITON_CACHE_DIR",
)  # fmt: skip

NVIDIA_SMI = ["nvidia-smi", "-q", "-d", "MEMORY,ECC,TEMPERATURE,POWER,CLOCK,PERFORMANCE"]


def environment(device: torch.device) -> dict[str, Any]:
    """What a result may depend on, as JSON; on a GPU also the ``"gpu"`` and ``"nvidia_smi"``."""
    report = {
        "provenance": provenance(device),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": sys.version,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "clocks": clocks(device),
        "triton_cache": _triton_cache(),
        "launch_table": _launch_table(device),
    }
    return report | (_gpu(device) if device.type == "cuda" else {})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _triton_cache() -> dict[str, Any]:
    """The folder, and how many kernels were compiled into it before."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    return {"folder": str(folder), "kernels": len(list(folder.glob("*/*.json")))}


def _launch_table(device: torch.device) -> dict[str, Any]:
    """The file, and the sections of it that hold here, the first ones before the others."""
    file = Path(os.environ.get("TRIBIN_LAUNCH_TABLE") or COMMITTED)
    table = json.loads(file.read_text(encoding="utf-8"))
    target = target_of(device)
    names = (target.device_name, target.label, "default")
    return {"file": str(file), "sections": {name: table[name] for name in names if name in table}}


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    names = [name for name in dir(properties) if not name.startswith("_")]
    return {
        "gpu": {name: str(getattr(properties, name)) for name in names},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nvidia_smi": _output_of(NVIDIA_SMI),
    }


def _output_of(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
