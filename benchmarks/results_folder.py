"""Where committed results lie: ``benchmarks/results/<device>/<suite>``."""

import re
from pathlib import Path

import torch

from tribin.provenance import device_name

RESULTS = Path(__file__).parent / "results"


def results_folder(suite: str, device: torch.device | str = "cpu") -> Path:
    """The folder of a suite's results on a device of this machine; nothing is made."""
    return RESULTS / slug(device_name(torch.device(device))) / suite


def slug(name: str) -> str:
    """A device's name in lower case with hyphens, such as ``amd-epyc-2-threads``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
