"""The share of training that logging and checkpoints take, at a recipe's own intervals.

    python -m benchmarks.overhead [RECIPE] [key=value …] [-o FILE]

A whole run is trained into a temporary folder. What is counted is what its steps wait for: a
checkpoint's copy, and the writing of the one before where it isn't done. The writing itself goes on
beside the steps, and so shows in them.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from tribin.atomic_file import write_atomically
from tribin.provenance import provenance
from tribin.recipe import Recipe, load_recipe
from tribin.training.phases import listening
from tribin.training.run_folder import default_device
from tribin.training.trainer import train

COUNTED = ("logging", "checkpoint")
NOT_COUNTED = ("tracking.wandb=disabled", "evaluation.images=2", "samples.count=1")
"""What is not in question takes no time."""


def main() -> None:
    """Train the run and print the shares."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("recipe", nargs="?", default="resnet_vae/digits_w1a1")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the result")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, [*NOT_COUNTED, *arguments.overrides])
    result = measure(recipe) | {"recipe": arguments.recipe, **provenance(default_device())}
    print(text(result))
    if arguments.output:
        write_atomically(arguments.output, f"{json.dumps(result, indent=1)}\n".encode())


def measure(recipe: Recipe) -> dict[str, Any]:
    """Seconds and calls of each phase of the recipe's run, and the share of the seconds."""
    seconds, calls = Counter[str](), Counter[str]()

    @contextmanager
    def clocked(name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        seconds[name] += perf_counter() - start
        calls[name] += 1

    with TemporaryDirectory() as folder, listening(clocked):
        train(recipe, Path(folder) / "run")
    shares = {name: seconds[name] / seconds.total() for name in seconds}
    return {"seconds": dict(seconds), "calls": dict(calls), "shares": shares}


def text(result: dict[str, Any]) -> str:
    """A line for each phase, and one for what is in question."""
    lines = [
        f"{name:<12}{result['calls'][name]:>8,} calls{seconds:>10.3f} s{share:>8.2%}"
        for (name, seconds), share in zip(
            result["seconds"].items(), result["shares"].values(), strict=True
        )
    ]
    together = sum(result["shares"].get(name, 0.0) for name in COUNTED)
    return "\n".join([*lines, f"{' and '.join(COUNTED)}: {together:.2%} of the steps"])


if __name__ == "__main__":
    main()
