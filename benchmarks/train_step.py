"""Profile the training step of the CIFAR-10 models, binary and real, in float32 and bfloat16.

    python -m benchmarks.train_step [--rounds 7] [--output FOLDER]

Before the clock starts, the loss of each bfloat16 arm is compared with its float32 twin's. The
reports go to ``benchmarks/results/<device>/train_step/<recipe>``.
"""

import argparse
from itertools import product
from pathlib import Path

import torch

from benchmarks.results_folder import results_folder
from tribin.nn import initialize_from_data
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.report import table, write_report
from tribin.profiling.step.profile import StepArm, profile_step
from tribin.recipe import load_recipe
from tribin.seeding import seed_noise
from tribin.training.run_folder import build_model, default_device
from tribin.training.step import forward

BATCH_SIZES = {"resnet_vae/cifar10_w1a1": 8, "flowpp/cifar10_w1a1": 4}
PRECISIONS = {"W1A1": (1, 1), "W1A32": (1, 32), "W32A32": (32, 32)}
AUTOCAST = {"float32": "none", "bfloat16": "bfloat16"}
# Two losses that differ by more than bfloat16's rounding explains are not the same computation.
LOSS_TOLERANCE = 0.02


def main() -> None:
    """Profile each recipe, print its table and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="folder, in place of the committed one")
    arguments = parser.parse_args()
    device = default_device()
    output = arguments.output or results_folder("train_step", device)
    ceilings = measure_ceilings(device)
    for recipe, batch_size in BATCH_SIZES.items():
        arms = arms_of(recipe)
        check(arms, device, batch_size)
        result = profile_step(
            arms,
            device,
            batch_size=batch_size,
            ceilings=ceilings,
            rounds=arguments.rounds,
            settings={"recipe": recipe},
        )
        print(table(result), end="\n\n")
        write_report(result, output / recipe.replace("/", "_"))


def arms_of(recipe_name: str, *overrides: str) -> dict[str, StepArm]:
    """The recipe in every precision and dtype, from the same seed."""
    arms = {}
    for (dtype, autocast), (precision, (weights, activations)) in product(
        AUTOCAST.items(), PRECISIONS.items()
    ):
        bits = f"model.precision={{weights: {weights}, activations: {activations}}}"
        recipe = load_recipe(recipe_name, [*overrides, bits, f"training.autocast={autocast}"])
        seed_noise(recipe.seed, "initialization")
        arms[f"{precision} {dtype}"] = StepArm(build_model(recipe), recipe)
    return arms


def check(arms: dict[str, StepArm], device: torch.device, batch_size: int) -> None:
    """Stop if a bfloat16 arm does not compute what its float32 twin does."""
    losses = {name: loss(arm, device, batch_size) for name, arm in arms.items()}
    for name, value in losses.items():
        precision, _ = name.split()
        expected = losses[f"{precision} float32"]
        if not abs(value - expected) <= LOSS_TOLERANCE * abs(expected):
            raise SystemExit(f"{name}: loss {value}, in float32 {expected}")


@torch.no_grad()
def loss(arm: StepArm, device: torch.device, batch_size: int) -> float:
    """On images and with noise that are the same for all arms, in nats or as the model has it."""
    model = arm.model.to(device).eval()
    seed_noise(0, "check")
    shape = (batch_size, *model.image_shape)
    images = torch.randint(model.levels, shape, dtype=torch.uint8, device=device)
    initialize_from_data(model, images)
    return forward(model, images, arm.recipe).loss.item()


if __name__ == "__main__":
    main()
