"""Evaluate and sample a recipe's model packed, beside the same architecture in float32.

    python -m benchmarks.packed_model [--recipe resnet_vae/cifar10_w1a1] [--batch-sizes 16 1]

The arms take turns in one process, so that a slow phase of the machine hits all of them. Before
the clock starts, the packed model's density is compared with that of the model it was packed from.
Peak memory is that of a process for each arm, which builds or loads its model and evaluates once.
Weights are random: they change no time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import tribin
from tribin.comparison.measurement import peak_memory
from tribin.models import GenerativeModel
from tribin.nn import initialize_from_data
from tribin.provenance import provenance
from tribin.recipe import load_recipe
from tribin.seeding import seed_noise
from tribin.training.run_folder import build_model, default_device

FLOAT, FOLDED, PACKED = "float32", "float32, norms folded", "packed"
FLOAT_PRECISION = "model.precision={weights: 32, activations: 32}"
# Of one density on the same noise; on one machine they are the same bits.
BITS_PER_DIM_TOLERANCE = 1e-4


def main() -> None:
    """Run the benchmark, print its tables and, where asked, write its result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="resnet_vae/cifar10_w1a1")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_memory_of:
        print(memory_of_this_process(arguments))
        return
    with TemporaryDirectory() as folder:
        arguments.file = Path(folder) / "packed.safetensors"
        arms = build_arms(arguments.recipe, arguments.file)
        seconds = measure(arms, arguments.batch_sizes, arguments.rounds)
        memory = {arm: memory_in_a_process(arm, arguments) for arm in ("nothing", FLOAT, PACKED)}
    record = provenance(default_device())
    print(f"{arguments.recipe}, {record['device']}, torch {record['torch']}, {record['date']}")
    print_times(seconds)
    print_memory(memory)
    if arguments.output:
        result = {
            "benchmark": "packed_model",
            "recipe": arguments.recipe,
            "seconds": {" | ".join(map(str, key)): values for key, values in seconds.items()},
            "peak_memory_bytes": memory,
            **record,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def build_arms(recipe: str, file: Path) -> dict[str, GenerativeModel]:
    """The models, of which the packed one comes from a file and is checked."""
    device = default_device()
    seed_noise(0, "initialization")
    trained = build_model(load_recipe(recipe)).to(device).eval()
    initialize_from_data(trained, random_images(trained, 8))
    tribin.save(trained, file)
    packed = tribin.load(file).to(device)
    images = random_images(trained, 4)
    difference = bits_per_dim(trained, images) - bits_per_dim(packed, images)
    if abs(difference) > BITS_PER_DIM_TOLERANCE:
        raise SystemExit(f"the packed model's density is off by {difference} bits/dim")
    float_model = build_model(load_recipe(recipe, [FLOAT_PRECISION])).to(device).eval()
    return {
        FLOAT: float_model,
        FOLDED: tribin.pack(float_model),
        "trained": trained,
        PACKED: packed,
    }


def random_images(model: GenerativeModel, count: int) -> Tensor:
    """Noise of the shape and the levels of the model's images."""
    shape = (count, *model.image_shape)
    return torch.randint(0, model.levels, shape, dtype=torch.uint8).to(model.device)


@torch.inference_mode()
def bits_per_dim(model: GenerativeModel, images: Tensor) -> float:
    """The mean of one draw for each image."""
    seed_noise(0, "evaluation")
    return model.to_bits_per_dim(-model.log_weight(images)).mean().item()


Key = tuple[str, int, str]
"""``evaluate`` or ``sample``, the batch size, and the arm."""


@torch.inference_mode()
def measure(
    arms: dict[str, GenerativeModel], batch_sizes: list[int], rounds: int
) -> dict[Key, list[float]]:
    """Seconds a batch, of each arm in each round, after a round to warm up."""
    seconds: dict[Key, list[float]] = {}
    for batch_size, turn, (arm, model) in product(batch_sizes, range(1 + rounds), arms.items()):
        images = random_images(model, batch_size)
        for work, run, argument in (
            ("evaluate", model.log_weight, images),
            ("sample", model.sample, batch_size),
        ):
            start = time.perf_counter()
            run(argument).cpu()  # waits for a GPU
            if turn:
                taken = time.perf_counter() - start
                seconds.setdefault((work, batch_size, arm), []).append(taken)
    return seconds


def memory_in_a_process(arm: str, arguments: argparse.Namespace) -> int:
    """Peak resident bytes of a process that evaluates one batch with this arm."""
    command = [sys.executable, "-m", "benchmarks.packed_model", "--recipe", arguments.recipe]
    command += ["--peak-memory-of", arm, "--file", str(arguments.file)]
    command += ["--batch-sizes", str(arguments.batch_sizes[0])]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.inference_mode()
def memory_of_this_process(arguments: argparse.Namespace) -> int:
    """What `memory_in_a_process` asks the process for; without a model, that of the imports."""
    model: GenerativeModel | None = None
    if arguments.peak_memory_of == PACKED:
        model = tribin.load(arguments.file).to(default_device())
    elif arguments.peak_memory_of == FLOAT:
        recipe = load_recipe(arguments.recipe, [FLOAT_PRECISION])
        model = build_model(recipe).to(default_device()).eval()
    if model is not None:
        model.log_weight(random_images(model, arguments.batch_sizes[0]))
    return peak_memory(default_device())


def print_times(seconds: dict[Key, list[float]]) -> None:
    """Print median, spread and rate of each arm, and how many times as fast as float32 it is."""
    print(f"{'':<34}{'median':>10}{'fastest':>10}{'slowest':>10}{'images/s':>10}{'speed-up':>10}")
    for (work, batch_size, arm), values in seconds.items():
        median = statistics.median(values)
        speed_up = statistics.median(seconds[work, batch_size, FLOAT]) / median
        print(
            f"{f'{work} {batch_size}, {arm}':<34}{median:>8.3f} s{min(values):>8.3f} s"
            f"{max(values):>8.3f} s{batch_size / median:>10.1f}{speed_up:>9.2f}x"
        )


def print_memory(memory: dict[str, int]) -> None:
    """Print peak resident memory, and what of it is more than the imports take."""
    imports = memory["nothing"]
    for arm, peak in memory.items():
        print(f"peak memory, {arm:<22}{peak / 1e6:>9.0f} MB, {(peak - imports) / 1e6:.0f} MB more")


if __name__ == "__main__":
    main()
