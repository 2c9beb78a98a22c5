"""Profile the CIFAR-10 models packed, beside the same architectures in float32.

    python -m benchmarks.packed_model [--rounds 7] [--output FOLDER]

It is `tribin profile model` of both recipes. The reports go to
``benchmarks/results/<device>/packed_model/<recipe>``. Weights are random.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.results_folder import results_folder
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.model.arms import arms_of, initialize_on_noise
from tribin.profiling.model.memory import peak_memory_of_arms
from tribin.profiling.model.profile import profile_model
from tribin.profiling.report import table, write_report
from tribin.recipe import load_recipe
from tribin.training.run_folder import build_model, default_device

RECIPES = ("resnet_vae/cifar10_w1a1", "flowpp/cifar10_w1a1")
BATCH_SIZES = (16, 1)


def main() -> None:
    """Profile each recipe, print its table and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="folder, in place of the committed one")
    arguments = parser.parse_args()
    device = default_device()
    output = arguments.output or results_folder("packed_model", device)
    ceilings = measure_ceilings(device)
    for recipe in RECIPES:
        torch.manual_seed(0)
        arms = arms_of(initialize_on_noise(build_model(load_recipe(recipe)).to(device)))
        result = profile_model(
            arms,
            device,
            batch_sizes=BATCH_SIZES,
            ceilings=ceilings,
            rounds=arguments.rounds,
            settings={"source": recipe, "overrides": []},
            memory=peak_memory_of_arms(arms, device, BATCH_SIZES[0]),
            progress=lambda problem: print(f"timing {problem}", flush=True),
        )
        print(table(result), end="\n\n")
        write_report(result, output / recipe.replace("/", "_"))


if __name__ == "__main__":
    main()
