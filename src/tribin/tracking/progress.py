"""How far a run is, on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from tqdm import tqdm

from tribin.distributed import is_first
from tribin.tracking.strict_json import Scalar

METRICS_SHOWN = 4
"""Only the first metrics of a report fit beside the bar."""


class Progress:
    """Progress of a run in images, with its latest metrics.

    Args:
        total_images: images after which the run is done.
        start_images: images seen before this process, by the run that it resumes.
        description: the few words before the bar.
    """

    def __init__(self, total_images: int, start_images: int, description: str) -> None:
        self._total = total_images
        self._images_seen = start_images
        self._time = time.perf_counter()
        self._speed = 0.0
        self._bar: tqdm[Any] = tqdm(
            desc=description,
            total=total_images,
            initial=start_images,
            unit=" images",
            dynamic_ncols=True,
            disable=None,  # tqdm's word for: only on a terminal
        )

    def update(self, images_seen: int, metrics: Mapping[str, Scalar]) -> float:
        """Show that ``images_seen`` images are done, and the first few of ``metrics``.

        Returns:
            Images per second since the last update.
        """
        text = format_metrics(dict(islice(metrics.items(), METRICS_SHOWN)))
        speed = self._images_per_second(images_seen)
        if self._bar.disable:
            digits = 2 if speed < 10 else 0
            done = f"{images_seen:,}/{self._total:,} images  {images_seen / self._total:.1%}"
            print_line(
                "  ".join(part for part in (done, text, f"{speed:,.{digits}f} images/s") if part)
            )
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(images_seen - self._bar.n)
        return speed

    def close(self) -> None:
        """Leave the bar as it stands and go to the next line."""
        self._bar.close()

    def _images_per_second(self, images_seen: int) -> float:
        if images_seen > self._images_seen:  # a second report of the same images says nothing
            now = time.perf_counter()
            self._speed = (images_seen - self._images_seen) / max(now - self._time, 1e-9)
            self._images_seen, self._time = images_seen, now
        return self._speed


def print_line(text: str) -> None:
    """Print a line on standard error, above the bar where there is one; by rank 0 alone."""
    if is_first():
        tqdm.write(text, file=sys.stderr)


def format_metrics(metrics: Mapping[str, Scalar]) -> str:
    """Write metrics in one line for a person to read: four digits, thousands separated."""
    return "  ".join(f"{name} {_format(value)}" for name, value in metrics.items())


def _format(value: Scalar) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
