"""Time one training step of a recipe, in float32 and bfloat16, binary and real, side by side.

    python -m benchmarks.train_step [--recipe resnet_vae/cifar10_w1a1] [--batch-size 8] [--steps 7]

The arms take turns, so that a slow phase of the machine hits all of them. Before the clock starts,
the loss of each bfloat16 arm is compared with its float32 twin's.
"""

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from tribin.nn import initialize_from_data
from tribin.provenance import provenance
from tribin.recipe import Recipe, load_recipe
from tribin.seeding import seed_noise
from tribin.training.optimizer import build_optimizer
from tribin.training.run_folder import build_model, default_device
from tribin.training.step import train_step

PRECISIONS = {"W1A1": (1, 1), "W1A32": (1, 32), "W32A32": (32, 32)}
AUTOCAST = {"float32": "none", "bfloat16": "bfloat16"}
# Two losses that differ by more than bfloat16's rounding explains are not the same computation.
LOSS_TOLERANCE = 0.02


class Arm:
    """One way to run the model, stepping on the same images again and again."""

    def __init__(self, recipe: Recipe, batch_size: int) -> None:
        seed_noise(0, "initialization")
        self.recipe = recipe
        self.model = build_model(recipe).to(default_device())
        self.images = self._images(batch_size)
        initialize_from_data(self.model, self.images)
        self.optimizer = build_optimizer(self.model, recipe)

    def step(self) -> tuple[float, float]:
        """Take one step; return its seconds and its loss in bits/dim."""
        seed_noise(0, "step")
        start = time.perf_counter()
        result = train_step(self.model, self.optimizer, self.images, self.recipe)
        loss = result.metrics["loss"].item()  # waits for a GPU
        return time.perf_counter() - start, loss

    def _images(self, batch_size: int) -> Tensor:
        shape = (batch_size, *self.model.image_shape)
        images = torch.randint(0, self.model.levels, shape, dtype=torch.uint8)
        return images.to(self.model.device)


def main() -> None:
    """Run the benchmark, print its table and, where asked, write its result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="resnet_vae/cifar10_w1a1")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()

    arms = {}
    for (precision, (weights, activations)), (dtype, autocast) in product(
        PRECISIONS.items(), AUTOCAST.items()
    ):
        bits = f"model.precision={{weights: {weights}, activations: {activations}}}"
        recipe = load_recipe(arguments.recipe, [bits, f"training.autocast={autocast}"])
        arms[precision, dtype] = Arm(recipe, arguments.batch_size)
    check({name: arm.step()[1] for name, arm in arms.items()})
    rounds = [{name: arm.step()[0] for name, arm in arms.items()} for _ in range(arguments.steps)]
    seconds = {name: [times[name] for times in rounds] for name in arms}

    print_table(seconds, arguments.batch_size)
    if arguments.output:
        result = {
            "benchmark": "train_step",
            "recipe": arguments.recipe,
            "batch_size": arguments.batch_size,
            "seconds": {" ".join(name): values for name, values in seconds.items()},
            **provenance(default_device()),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def check(losses: dict[tuple[str, str], float]) -> None:
    """Stop if a bfloat16 arm does not compute what its float32 twin does."""
    for (precision, dtype), loss in losses.items():
        expected = losses[precision, "float32"]
        if abs(loss - expected) > LOSS_TOLERANCE * abs(expected):
            raise SystemExit(f"{precision} {dtype}: loss {loss}, in float32 {expected}")


def print_table(seconds: dict[tuple[str, str], list[float]], batch_size: int) -> None:
    """Print median, spread and rate of each arm."""
    record = provenance(default_device())
    print(f"{record['device']}, torch {record['torch']}, {record['date']}, batch {batch_size}")
    print(f"{'arm':<18}{'median':>9}{'fastest':>9}{'slowest':>9}{'images/s':>10}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{' '.join(name):<18}{median:>7.2f} s{min(values):>7.2f} s{max(values):>7.2f} s"
            f"{batch_size / median:>10.2f}"
        )


if __name__ == "__main__":
    main()
