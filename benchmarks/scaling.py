"""How the time of kernels and models grows with width, batch and image size.

python -m benchmarks.scaling [--tiny] [-o FOLDER]
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.results_folder import results_folder
from tribin.errors import InputError
from tribin.models import FlowPP, FlowPPConfig, GenerativeModel, ResNetVAE, ResNetVAEConfig
from tribin.nn import Precision
from tribin.profiling.ceilings import measure_ceilings
from tribin.profiling.kernels.problem import Problem
from tribin.profiling.report import table, write_report
from tribin.profiling.result import Result
from tribin.profiling.scaling import Sizes, Sweep, profile_scaling

W1A1 = Precision(1, 1)
LEVELS = 256


def resnet_vae(sizes: Sizes) -> GenerativeModel:
    """A ResNet VAE of two latent layers."""
    config = ResNetVAEConfig(W1A1, width=sizes.width, latent_layers=2, extra_blocks=1)
    return ResNetVAE(config, (3, sizes.side, sizes.side), LEVELS)


def flowpp(sizes: Sizes) -> GenerativeModel:
    """A Flow++ of one block in each coupling."""
    config = FlowPPConfig(
        W1A1, width=sizes.width, blocks=1, dequantization_blocks=1, mixture_components=4
    )
    return FlowPP(config, (3, sizes.side, sizes.side), LEVELS)


def convolution(op: str, *options: str) -> Callable[[Sizes], Problem]:
    """A 3×3 convolution that keeps width and image size."""
    return partial(_convolution, op, frozenset(options))


def _convolution(op: str, options: frozenset[str], sizes: Sizes) -> Problem:
    x = (sizes.batch, sizes.width, sizes.side, sizes.side)
    return Problem(op, x, sizes.width, (3, 3), padding=(1, 1), options=options)


KERNELS = {
    "binary_conv2d_w1a1": convolution("binary_conv2d_w1a1"),
    "binary_conv2d_w1a1_backward": convolution("binary_conv2d_w1a1_backward"),
    "packed_conv2d, bits to bits": convolution("packed_conv2d", "bits", "to_bits"),
}
MODELS = {"resnet_vae": resnet_vae, "flowpp": flowpp}

KERNEL_BASE, MODEL_BASE = Sizes(width=128, batch=4, side=16), Sizes(width=64, batch=4, side=16)
KERNEL_SWEEPS = [
    Sweep("width", (32, 64, 128, 256), KERNEL_BASE),
    Sweep("batch", (1, 2, 4, 8), KERNEL_BASE),
    Sweep("side", (8, 16, 32), KERNEL_BASE),
]
MODEL_SWEEPS = [
    Sweep("width", (32, 64, 128, 256), MODEL_BASE),
    Sweep("batch", (1, 2, 4, 8), MODEL_BASE),
    Sweep("side", (8, 16, 32), MODEL_BASE),
]

TINY_BASE = Sizes(width=8, batch=1, side=4)
TINY_SWEEPS = [
    Sweep("width", (8, 16, 32), TINY_BASE),
    Sweep("batch", (1, 2, 4), TINY_BASE),
    Sweep("side", (4, 8, 16), TINY_BASE),
]
TINY_ROUNDS, ROUNDS = 2, 5


def main() -> int:
    """Run the benchmark, print its table and write its report; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, as a test")
    parser.add_argument("-o", "--output", type=Path, help="folder for the report")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    suite = "scaling-tiny" if arguments.tiny else "scaling"
    result = measure(device, tiny=arguments.tiny)
    try:
        write_report(result, arguments.output or results_folder(suite, device))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(result))
    return 0


def measure(device: torch.device, *, tiny: bool) -> Result:
    """All sweeps."""
    torch.manual_seed(0)
    with tqdm(bar_format="{elapsed} {postfix}", disable=None, leave=False) as line:
        return profile_scaling(
            KERNELS,
            TINY_SWEEPS if tiny else KERNEL_SWEEPS,
            MODELS,
            TINY_SWEEPS if tiny else MODEL_SWEEPS,
            device,
            ceilings=measure_ceilings(device, quick=tiny),
            rounds=TINY_ROUNDS if tiny else ROUNDS,
            progress=line.set_postfix_str,
        )


if __name__ == "__main__":
    sys.exit(main())
