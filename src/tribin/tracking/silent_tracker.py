"""What a process of a distributed run reports to that is not to report."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tribin.tracking.strict_json import Scalar


class SilentTracker:
    """Takes what a `Tracker` takes, and does nothing."""

    wandb_run_id = None

    def log(self, images_seen: int, metrics: Mapping[str, Scalar]) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def image(self, key: str, images_seen: int, png_path: Path) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass
