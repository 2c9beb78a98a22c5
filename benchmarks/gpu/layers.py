"""A binary layer with random arguments, and how near to float64 an implementation of it is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tribin_kernels import reference

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half the distance from 1 to the next number: the worst rounding, relative."""

RESULTS = ("y", "x", "latent_weight", "gain", "bias")
"""The output, and the arguments whose gradients are checked."""


@dataclass(frozen=True)
class Layer:
    """Arguments of a linear layer, or of a convolution where `geometry` gives stride and padding.

    Every value is a multiple of 1/64 below 2, so that each dtype computes on the same numbers.
    """

    x: Tensor
    latent_weight: Tensor
    gain: Tensor
    bias: Tensor
    grad_y: Tensor
    geometry: tuple[list[int], ...] = ()

    @classmethod
    def linear(cls, rows: int, length: int, outputs: int, *, seed: int = 0) -> "Layer":
        """x [rows, length] and `outputs` outputs."""
        shapes = (rows, length), (outputs, length), (outputs,), (outputs,), (rows, outputs)
        return cls(*_random(seed, *shapes))

    @classmethod
    def conv2d(
        cls,
        batch: int,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int | None = None,
        *,
        seed: int = 0,
    ) -> "Layer":
        """x [batch, channels, height, width]; padded to keep its size unless said otherwise."""
        padding = kernel // 2 if padding is None else padding
        size = [(n + 2 * padding - kernel) // stride + 1 for n in (height, width)]
        tensors = _random(
            seed,
            (batch, channels, height, width),
            (outputs, channels, kernel, kernel),
            (outputs,),
            (outputs,),
            (batch, outputs, *size),
        )
        return cls(*tensors, ([stride, stride], [padding, padding]))

    @property
    def name(self) -> str:
        """Of the op."""
        return "binary_conv2d" if self.geometry else "binary_linear"

    def to(
        self,
        dtype: torch.dtype,
        parameters: torch.dtype,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> "Layer":
        """With activations and gradients of one dtype, and parameters of another."""
        moved = {"device": device, "dtype": dtype, "memory_format": memory_format}
        kept = {"device": device, "dtype": parameters}
        return Layer(
            self.x.to(**moved),
            self.latent_weight.to(**kept),
            self.gain.to(**kept),
            self.bias.to(**kept),
            self.grad_y.to(**moved),
            self.geometry,
        )

    def run(self, implementation: Any, binary_input: bool) -> list[Tensor]:
        """y and the gradients for x, latent_weight, gain and bias; see RESULTS.

        Args:
            implementation: has the functions of `tribin_kernels.reference`.
            binary_input: W1A1.
        """
        name = f"{self.name}_w1a1" if binary_input else self.name
        forward, backward = (
            getattr(implementation, name),
            getattr(implementation, f"{name}_backward"),
        )
        result = forward(self.x, self.latent_weight, self.gain, self.bias, *self.geometry)
        y, *saved = result if binary_input else (result, self.x)
        return [y, *backward(self.grad_y, *saved, self.latent_weight, self.gain, *self.geometry)]

    def magnitudes(self) -> "Layer":
        """The same layer with all signs positive: its results bound every sum of this one."""
        tensors = self.x, self.latent_weight, self.gain, self.bias, self.grad_y
        return Layer(*(tensor.abs() for tensor in tensors), self.geometry)


def errors_over_bounds(layer: Layer, results: list[Tensor], binary_input: bool) -> dict[str, float]:
    """The worst error of each result against float64, over what rounding explains.

    A float32 sum of n terms errs by at most n·2⁻²⁴·Σ|term|. Besides, an operand may be rounded once
    to the dtype of the activations, and a result twice (a library's weight gradient is). Above 1,
    something is wrong. NaN is an infinite error.
    """
    exact = layer.to(torch.float64, torch.float64, layer.x.device)
    expected = exact.run(reference, binary_input)
    magnitudes = exact.magnitudes().run(reference, binary_input)
    unit = UNIT[layer.x.dtype]
    products = layer.latent_weight[0].numel() if layer.latent_weight.shape[0] else 0
    pixels = layer.grad_y.numel() // max(layer.latent_weight.shape[0], 1)
    lengths = (
        products,
        products + layer.grad_y.shape[1] * products,
        pixels,
        pixels + products,
        pixels,
    )
    worst = {}
    for name, result, wanted, magnitude, length in zip(
        RESULTS, results, expected, magnitudes, lengths, strict=True
    ):
        bound = ((length + 8) * UNIT[torch.float32] + 3 * unit) * magnitude
        error = (result.double() - wanted).abs().nan_to_num(torch.inf)
        ratio = torch.where(error == 0, 0, error / bound)
        worst[name] = float(ratio.max()) if ratio.numel() else 0.0
    return worst


def _random(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=generator) * 64).round().clamp(-127, 127) / 64
        for shape in shapes
    ]
