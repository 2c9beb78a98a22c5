"""Fixtures that several packages' tests share."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class WandbSegment:
    """What one process wrote of an offline W&B run, as W&B's own inspector prints it."""

    folder: Path
    run: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        update = self.run["config"]["update"]
        return {name: value for name, value in update.items() if name != "_wandb"}


@pytest.fixture
def read_wandb_run() -> Callable[[Path], list[WandbSegment]]:
    """Read the offline segments of a run folder, oldest first; needs no network."""

    def read(run_dir: Path) -> list[WandbSegment]:
        return [_read(folder) for folder in sorted((run_dir / "wandb").glob("offline-run-*"))]

    return read


def _read(folder: Path) -> WandbSegment:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    segment = WandbSegment(folder)
    for record in map(json.loads, output.splitlines()):
        match record["type"]:
            case "run":
                segment.run = record["run"]
            case "history":
                segment.history.append(record["history"]["item"])
            case "summary":
                segment.summary.update(record["summary"].get("update", {}))
            case "metric":
                segment.metrics.append(record["metric"])
            case "exit":
                segment.exit_code = record["exit"]["exit_code"]
    return segment
