"""Time the 1-bit convolutions of the paper's models on a CPU, by every route there is.

    python -m benchmarks.packed_layers [--rounds 15] [--output FILE]

It is what `tribin_kernels.cpu.packed_conv2d.choose_route` rests on. Each route takes signs and
weights as a running model has them: real signs, and the weights as bits, which all but the native
kernel expand. The routes take turns. Before the clock starts, each product is compared with
float64's. The floor is the time that the multiply-adds take at the rate of popcounts on registers
(popcount_peak.cpp), for AVX-512 with VPOPCNTDQ.
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tribin.provenance import provenance
from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.cpu import int8, xnor
from tribin_kernels.cpu.native import compiled

# Batch, channels, outputs, kernel and size of the images.
LAYERS = {
    "ResNet VAE 3x3, batch 16": (16, 256, 256, 3, 16),
    "ResNet VAE 5x5, batch 16": (16, 256, 256, 5, 16),
    "ResNet VAE 3x3, batch 1": (1, 256, 256, 3, 16),
    "ResNet VAE 5x5, batch 1": (1, 256, 256, 5, 16),
    "Flow++ 3x3, batch 16": (16, 240, 120, 3, 16),
    "Flow++ 1x1, batch 16": (16, 240, 240, 1, 16),
    "classifier 3x3, batch 1": (1, 64, 64, 3, 8),
}
PEAK_STEPS = 20_000_000
BITS_A_STEP = 16 * 512


class Layer:
    """A layer's operands, and its product by each route."""

    def __init__(self, batch: int, channels: int, outputs: int, kernel: int, size: int) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last)
        self.weight_bits = reference.pack_signs(torch.randn(outputs, kernel, kernel, channels))
        self.padding = kernel // 2
        self.channels = channels
        self.shape = Conv2dShape.of_bits(
            self.x.permute(0, 2, 3, 1), self.weight_bits, channels, [1, 1], [self.padding] * 2
        )
        self.multiply_adds = self.shape.pixels * outputs * self.shape.terms

    def real(self, dtype: torch.dtype) -> Tensor:
        """By a real convolution of signs."""
        weight = self._weight(dtype)
        return F.conv2d(reference.sign(self.x, dtype), weight, padding=self.padding)

    def int8(self) -> Tensor:
        """By oneDNN's int8 convolution."""
        return int8.conv2d_w1a1(self.x < 0, self._weight(torch.int8), [1, 1], [self.padding] * 2)

    def xnor(self) -> Tensor:
        """By the native kernel."""
        signs = xnor.pack_signs(self.x.permute(0, 2, 3, 1))
        scale = torch.ones(self.shape.outputs)
        return xnor.conv2d_w1a1(
            signs, self.weight_bits, scale, None, None, self.shape, to_bits=False
        )

    def _weight(self, dtype: torch.dtype) -> Tensor:
        return reference.unpack_signs(self.weight_bits, self.channels, dtype).permute(0, 3, 1, 2)


def main() -> None:
    """Run the benchmark, print its table and, where asked, write its result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()
    record = provenance(torch.device("cpu"))
    peak = popcount_peak()
    print(f"{record['device']}, torch {record['torch']}, {record['date']}")
    print(f"popcounts on registers: {peak / 1e12:.2f} T multiply-adds/s")
    results = {}
    for name, sizes in LAYERS.items():
        layer = Layer(*sizes)
        routes: dict[str, Callable[[], Tensor]] = {
            "float32": lambda layer=layer: layer.real(torch.float32),
            "bfloat16": lambda layer=layer: layer.real(torch.bfloat16),
            "int8": layer.int8,
            "xnor": layer.xnor,
        }
        wrong = check(layer, routes)
        seconds = measure(routes, arguments.rounds)
        print_layer(name, layer, seconds, wrong, peak)
        results[name] = {"multiply_adds": layer.multiply_adds, "seconds": seconds, "wrong": wrong}
    if arguments.output:
        result = {"benchmark": "packed_layers", "popcount_peak": peak, "layers": results, **record}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def popcount_peak() -> float:
    """Multiply-adds a second on registers, of all threads; the best of three."""
    library = ctypes.CDLL(str(compiled(Path(__file__).with_name("popcount_peak.cpp"))))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        library.popcount_peak(ctypes.c_int64(PEAK_STEPS))
        times.append(time.perf_counter() - start)
    return torch.get_num_threads() * PEAK_STEPS * BITS_A_STEP / min(times)


def check(layer: Layer, routes: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The share of each route's sums that are not exact; only bfloat16 may have any."""
    expected = layer.real(torch.float64)
    wrong = {name: (run() != expected).double().mean().item() for name, run in routes.items()}
    for name in wrong.keys() - {"bfloat16"}:
        if wrong[name]:
            raise SystemExit(f"{name}: {wrong[name]:.1%} of the sums are wrong")
    return wrong


def measure(routes: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each route in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(rounds):
        for name, run in routes.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def print_layer(
    name: str,
    layer: Layer,
    seconds: dict[str, list[float]],
    wrong: dict[str, float],
    peak: float,
) -> None:
    """Print each route's median and spread, how it compares with float32, and with the floor."""
    floor = layer.multiply_adds / peak
    print(f"\n{name}: {layer.multiply_adds / 1e6:,.0f} M multiply-adds, floor {1e3 * floor:.3f} ms")
    print(f"{'':<10}{'median':>11}{'fastest':>11}{'slowest':>11}{'speed-up':>10}{'of floor':>10}")
    base = statistics.median(seconds["float32"])
    for route, values in seconds.items():
        median = statistics.median(values)
        note = f"  {wrong[route]:.1%} of the sums are rounded" if wrong[route] else ""
        print(
            f"{route:<10}{1e3 * median:>8.3f} ms{1e3 * min(values):>8.3f} ms"
            f"{1e3 * max(values):>8.3f} ms{base / median:>9.1f}x{floor / median:>9.0%}{note}"
        )


if __name__ == "__main__":
    main()
