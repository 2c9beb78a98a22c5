"""What the checks are done on: layers, where they are, and how torch is set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tribin.profiling.kernels.operands import Layer

REAL_LAYERS: dict[str, Callable[[], Layer]] = {
    "ResNet VAE 256→256 3×3, 128×16×16": lambda: Layer.conv2d(128, 256, 16, 16, 256, 3),
    "ResNet VAE 256→256 5×5, 128×16×16": lambda: Layer.conv2d(128, 256, 16, 16, 256, 5),
    "Flow++ 240→120 3×3, 64×32×16": lambda: Layer.conv2d(64, 240, 32, 16, 120, 3),
    "Flow++ 240→240 1×1, 64×16×16": lambda: Layer.conv2d(64, 240, 16, 16, 240, 1),
    "Flow++ 64→120 1×1, 64×16×8": lambda: Layer.conv2d(64, 64, 16, 8, 120, 1),
    "256→256 3×3 stride 2, 32×16×16": lambda: Layer.conv2d(32, 256, 16, 16, 256, 3, 2),
    "linear 1×8192×8192": lambda: Layer.linear(1, 8192, 8192),
    "linear 4096×4096×4096": lambda: Layer.linear(4096, 4096, 4096),
}
TINY_LAYERS: dict[str, Callable[[], Layer]] = {
    "16→16 3×3, 2×8×8": lambda: Layer.conv2d(2, 16, 8, 8, 16, 3),
    "linear 1×64×32": lambda: Layer.linear(1, 64, 32),
}
RAGGED_LAYERS, TINY_RAGGED_LAYERS = 200, 4


@dataclass(frozen=True)
class Bench:
    """What checks are done on.

    Attributes:
        device: where.
        tiny: few and small layers, compiled without generating code.
    """

    device: torch.device
    tiny: bool = False

    @property
    def layers(self) -> dict[str, Callable[[], Layer]]:
        """Layers of given shapes, by name."""
        return TINY_LAYERS if self.tiny else REAL_LAYERS

    @property
    def ragged_layers(self) -> dict[str, Callable[[], Layer]]:
        """Layers of random shapes, by seed."""
        count = TINY_RAGGED_LAYERS if self.tiny else RAGGED_LAYERS
        return {f"seed {seed}": partial(ragged_layer, seed) for seed in range(count)}

    def place(self, layer: Layer, dtype: torch.dtype) -> Layer:
        """A layer on the device, its parameters in float32."""
        return layer.to(dtype, torch.float32, self.device)

    def small_layer(self, dtype: torch.dtype) -> Layer:
        """For checks that are not of arithmetic."""
        return self.place(Layer.conv2d(4, 64, 16, 16, 32, 3), dtype)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """By torch.compile, in one graph."""
        backend = "aot_eager" if self.tiny else "inductor"
        return torch.compile(function, fullgraph=True, backend=backend)


def ragged_layer(seed: int) -> Layer:
    """A small layer whose sizes are multiples of nothing."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    if seed % 4 == 0:
        return Layer.linear(between(0, 70), between(1, 900), between(1, 300), seed=seed)
    kernel, stride, padding = (1, 3, 5)[seed % 3], between(1, 2), between(0, 2)
    size = between(kernel, 20), between(kernel, 20)
    return Layer.conv2d(
        between(0, 5), between(1, 600), *size, between(1, 300), kernel, stride, padding, seed=seed
    )


@contextmanager
def strict() -> Iterator[None]:
    """Poison every uninitialized output, see torch.utils.deterministic, and forbid tf32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
