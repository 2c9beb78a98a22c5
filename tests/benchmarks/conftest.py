"""What campaigns are tested with: a file of images, and a machine that has little installed."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

BLOCKED = (
    "PIL", "click", "datasets", "matplotlib", "numpy", "pyarrow", "pydantic", "safetensors",
    "tqdm", "wandb", "yaml",
)  # fmt: skip
"""What the machine of a campaign need not have."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    return tmp_path / "images.pt"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "blocked"
    folder.mkdir()
    for name in BLOCKED:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})\n")
    path = os.pathsep.join(map(str, (folder, ROOT / "src", ROOT / "kernels")))
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**kept, "PYTHONPATH": path}
