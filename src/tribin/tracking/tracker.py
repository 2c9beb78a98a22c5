"""Everything a run reports, to everyone who listens."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tribin.atomic_file import write_atomically
from tribin.tracking.metrics_file import MetricsFile
from tribin.tracking.progress import Progress, print_line
from tribin.tracking.strict_json import Scalar, dump_scalars
from tribin.tracking.wandb_run import WandbMode, WandbRun


class Tracker:
    """Reports a run to ``metrics.jsonl``, to Weights & Biases and to the terminal.

    Use it as a context manager. Left without `finish` (an error, or a signal after which the run
    can be resumed), W&B shows the run as failed.

    Args:
        run_dir: the run's folder, which exists.
        recipe: the resolved recipe, W&B's config.
        total_images: images after which the run is done.
        start_images: images seen at the checkpoint that the run resumes from; 0 for a new run.
        wandb_mode: ``online``, ``offline`` or ``disabled``.
        wandb_project: W&B project; W&B's default where None.
        wandb_entity: W&B user or team; W&B's default where None.
        wandb_run_id: `Tracker.wandb_run_id` of the run that this one resumes, from its checkpoint.
        resume: continue the metrics and the W&B run instead of starting new ones.

    Raises:
        InputError: ``metrics.jsonl`` of a resumed run is damaged.
    """

    def __init__(
        self,
        run_dir: Path,
        recipe: Mapping[str, Any],
        *,
        total_images: int,
        start_images: int = 0,
        wandb_mode: WandbMode = "disabled",
        wandb_project: str | None = None,
        wandb_entity: str | None = None,
        wandb_run_id: str | None = None,
        resume: bool = False,
    ) -> None:
        self.wandb_run_id = wandb_run_id or secrets.token_hex(4)
        self._run_dir = run_dir
        self._metrics_file = MetricsFile(run_dir / "metrics.jsonl")
        if resume:
            self._metrics_file.truncate_after(start_images, print_line)
        self._wandb = WandbRun(report=print_line)
        self._wandb.start(
            wandb_mode,
            project=wandb_project,
            entity=wandb_entity,
            run_dir=run_dir,
            run_id=self.wandb_run_id,
            name=run_dir.name,
            config=recipe,
            resume=resume,
        )
        self._progress = Progress(total_images, start_images, run_dir.name)

    def log(self, images_seen: int, metrics: Mapping[str, Scalar]) -> None:
        """Report metrics after ``images_seen`` images, the most telling ones first.

        The speed goes to W&B and the terminal alone: ``metrics.jsonl`` holds what a repeated run
        gives again.
        """
        self._metrics_file.append({"images_seen": images_seen, **metrics})
        images_per_second = self._progress.update(images_seen, metrics)
        self._wandb.log(images_seen, {**metrics, "images_per_second": images_per_second})

    def sync(self) -> None:
        """Bring the metrics to the disk: a checkpoint that follows must not know more than they."""
        self._metrics_file.sync()

    def image(self, key: str, images_seen: int, png_path: Path) -> None:
        """Report an image grid that is on disk as a PNG file."""
        self._wandb.image(key, images_seen, png_path)

    def message(self, text: str) -> None:
        """Print one line on the terminal."""
        print_line(text)

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Report the final numbers of a run that reached its end; write ``summary.json``."""
        write_atomically(self._run_dir / "summary.json", f"{dump_scalars(summary, 2)}\n".encode())
        self._wandb.finish(summary)
        self._progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.close()
        self._wandb.finish({}, failed=True)
