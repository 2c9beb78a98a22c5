"""Where a result came from: versions, device, commit and date."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def provenance(device: torch.device) -> dict[str, str | None]:
    """Describe this process: kept in the run folder and beside every checkpoint and result."""
    return {
        "tribin": tribin_version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(device),
        "platform": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def tribin_version() -> str | None:
    """The installed version; None for a checkout that is not installed."""
    try:
        return version("tribin")
    except PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU and its number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that tribin runs from, ``-dirty`` where files differ from it."""
    if not _git("ls-files", Path(__file__).name):
        return None  # installed, perhaps somewhere inside the checkout of another project
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
