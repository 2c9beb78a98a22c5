"""How precisions that train side by side stand: results, a table and learning curves."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.contender import Progress
from tribin.atomic_file import write_atomically
from tribin.profiling.report.text import amount, columns
from tribin.profiling.result import FILE_NAME
from tribin.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = {
    "resnet_vae": {"w32a32": 3.45, "w1a32": 3.60, "w1a1": 3.73},
    "flowpp": {"w32a32": 3.21, "w1a32": 3.29, "w1a1": 3.43},
}
"""Bits/dim on the test images of CIFAR-10 at the end of training (Bird et al., ICLR 2021)."""

HEADER = ("precision", "images seen", "images/s", "peak memory", "bits/dim", "paper, final")


@dataclass(frozen=True)
class Standing:
    """How one precision stands.

    Attributes:
        recipe: what it trains by.
        progress: how far it is.
        curve: see `Training.curve`.
        evaluation: what `bits_per_dim` measured, if it did, and which images it was asked for.
        fault: what was wrong in this sitting, in one line.
    """

    recipe: SimpleNamespace
    progress: Progress
    curve: list[dict[str, float]]
    evaluation: dict[str, Any]
    fault: str | None

    def values(self) -> dict[str, Any]:
        """As JSON."""
        found = asdict(self.progress) | self.evaluation | {"fault": self.fault}
        return {**found, "recipe": self.recipe}


def write_training_report(
    model: str, standings: Mapping[str, Standing], folder: Path, device: torch.device
) -> str:
    """Write ``results.json``, ``table.txt`` and, with matplotlib, ``curves.png``.

    Args:
        model: one of `PAPER`.
        standings: by precision.
        folder: where to.
        device: that they are trained on.

    Returns:
        The table.
    """
    source = provenance(device)
    precisions = {name: standing.values() for name, standing in standings.items()}
    results = {"model": model, "precisions": precisions, "paper": PAPER[model], **source}
    heading = f"{model} on {source['device']}, {source['date']}"
    text = f"{heading}\n\n{table(model, standings)}"
    write_atomically(
        folder / FILE_NAME, f"{json.dumps(results, indent=1, default=vars)}\n".encode()
    )
    write_atomically(folder / "table.txt", f"{text}\n".encode())
    if image := curves_image(model, standings):
        write_atomically(folder / "curves.png", image)
    return text


def table(model: str, standings: Mapping[str, Standing]) -> str:
    """A line for each precision; below, what the numbers are, and what failed."""
    rows = [_cells(name, standing, PAPER[model][name]) for name, standing in standings.items()]
    evaluations = [s.evaluation for s in standings.values() if "bits_per_dim" in s.evaluation]
    sets = dict.fromkeys(f"{e['images']:,} {e['evaluated_on']}" for e in evaluations)
    lines = [
        f"Bits/dim: mean ± standard error over {' or '.join(sets) or 'no images'}, by one draw of "
        "the bound for each.",
        "Paper: Bird et al., ICLR 2021, test images at the end of training.",
    ]
    faults = [f"{name} failed: {s.fault}" for name, s in standings.items() if s.fault]
    return "\n".join([columns([HEADER, *rows]), "", *lines, *faults])


def _cells(name: str, standing: Standing, final: float) -> list[str]:
    progress, evaluation = standing.progress, standing.evaluation
    rate, memory = progress.images_per_second, progress.peak_memory_bytes
    bits = "{bits_per_dim:.4f} ± {standard_error:.4f}"
    return [
        name,
        f"{progress.images_seen:,}",
        "" if rate is None else f"{rate:,.0f}",
        "" if memory is None else amount(memory, "B"),
        bits.format(**evaluation) if "bits_per_dim" in evaluation else "",
        f"{final:.2f}",
    ]


def curves_image(model: str, standings: Mapping[str, Standing]) -> bytes | None:
    """The learning curves as PNG; None without matplotlib."""
    try:
        import_module("matplotlib")
    except ImportError:
        return None
    image = BytesIO()
    curves(model, standings).savefig(image, format="png", dpi=150)
    return image.getvalue()


def curves(model: str, standings: Mapping[str, Standing]) -> "Figure":
    """Training bits/dim against the images seen, and the paper's finals as horizontal lines."""
    from matplotlib.figure import Figure  # takes its time, and only this needs it

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="images seen", ylabel="bits/dim of training batches")
    shown = [*PAPER[model].values()]
    for index, (name, standing) in enumerate(standings.items()):
        curve, final = standing.curve, PAPER[model][name]
        images, bits = ([point[key] for point in curve] for key in ("images_seen", "bits_per_dim"))
        axes.plot(images, bits, color=f"C{index}", linewidth=1, label=name)
        label = f"{name}, the paper's final test bits/dim"
        axes.axhline(final, color=f"C{index}", linewidth=1, linestyle="--", label=label)
        shown += bits[len(bits) // 10 :]  # beside the first steps the others would be flat
    axes.set_ylim(min(shown) - 0.1, max(shown) + 0.1)
    axes.legend()
    axes.grid(alpha=0.2)
    return figure
