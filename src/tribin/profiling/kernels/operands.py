"""A binary layer with random operands, and how near to float64 what it gave is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tribin.ops.conv2d_size import as_pair, output_size
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
        x, latent_weight, gain, bias, grad_y = _random(seed, *shapes)
        return cls(x, latent_weight, gain, bias, grad_y)

    @classmethod
    def conv2d(
        cls,
        batch: int,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        *,
        seed: int = 0,
    ) -> "Layer":
        """x [batch, channels, height, width]; padded to keep its size unless said otherwise."""
        taps, strides = as_pair(kernel), as_pair(stride)
        paddings = [n // 2 for n in taps] if padding is None else as_pair(padding)
        x, latent_weight, gain, bias, grad_y = _random(
            seed,
            (batch, channels, height, width),
            (outputs, channels, *taps),
            (outputs,),
            (outputs,),
            (batch, outputs, *output_size((height, width), taps, strides, paddings)),
        )
        return cls(x, latent_weight, gain, bias, grad_y, (strides, paddings))

    @property
    def name(self) -> str:
        """Of the op."""
        return "binary_conv2d" if self.geometry else "binary_linear"

    @property
    def scale(self) -> Tensor:
        """g/√n, [out]."""
        return reference.weight_scale(self.gain, self.latent_weight)

    def to(
        self,
        dtype: torch.dtype,
        parameters: torch.dtype,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> "Layer":
        """With activations and gradients of one dtype, and parameters of another.

        The memory format is that of images and kernels.
        """

        def moved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
            form = memory_format if tensor.ndim > 1 else torch.preserve_format
            return tensor.to(device, dtype, memory_format=form)

        return Layer(
            moved(self.x, dtype),
            moved(self.latent_weight, parameters),
            moved(self.gain, parameters),
            moved(self.bias, parameters),
            moved(self.grad_y, dtype),
            self.geometry,
        )

    def as_conv2d(self) -> "Layer":
        """A linear layer as a convolution of one pixel; a convolution as it is."""
        if self.geometry:
            return self
        x, latent_weight, grad_y = (
            tensor[..., None, None] for tensor in (self.x, self.latent_weight, self.grad_y)
        )
        return Layer(x, latent_weight, self.gain, self.bias, grad_y, ([1, 1], [0, 0]))

    def forward_arguments(self) -> tuple[Any, ...]:
        """Of the op."""
        return self.x, self.latent_weight, self.gain, self.bias, *self.geometry

    def backward_arguments(self, saved: Sequence[Tensor]) -> tuple[Any, ...]:
        """Of the op of the backward pass, with what the forward pass saved of x."""
        return self.grad_y, *saved, self.latent_weight, self.gain, *self.geometry

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
        result = forward(*self.forward_arguments())
        y, *saved = result if binary_input else (result, self.x)
        return [y, *backward(*self.backward_arguments(saved))]

    def magnitudes(self) -> "Layer":
        """The same layer with all signs positive: its results bound every sum of this one."""
        return Layer(
            self.x.abs(),
            self.latent_weight.abs(),
            self.gain.abs(),
            self.bias.abs(),
            self.grad_y.abs(),
            self.geometry,
        )


@dataclass(frozen=True)
class Expected:
    """Results in float64, by name, and what bounds the error of others.

    Attributes:
        values: the results.
        magnitudes: the sum of the magnitudes of each value's terms.
        terms: how many they are.
        slack: an error that is allowed besides; nothing by default.
    """

    values: Mapping[str, Tensor]
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)
    terms: Mapping[str, int] = field(default_factory=dict)
    slack: Mapping[str, Tensor | float] = field(default_factory=dict)

    @classmethod
    def of_layer(cls, layer: Layer, binary_input: bool) -> "Expected":
        """What training the layer gives: `RESULTS`."""
        exact = layer.to(torch.float64, torch.float64, layer.x.device)
        products = layer.latent_weight[0].numel() if layer.latent_weight.shape[0] else 0
        pixels = layer.grad_y.numel() // max(layer.latent_weight.shape[0], 1)
        terms = (
            products,
            products + layer.grad_y.shape[1] * products,
            pixels,
            pixels + products,
            pixels,
        )
        return cls(
            dict(zip(RESULTS, exact.run(reference, binary_input), strict=True)),
            dict(zip(RESULTS, exact.magnitudes().run(reference, binary_input), strict=True)),
            dict(zip(RESULTS, terms, strict=True)),
        )

    def errors_over_bounds(
        self, results: Mapping[str, Tensor], rounding: float | None
    ) -> dict[str, float]:
        """The worst error of each result over what rounding explains: above 1, it is wrong.

        A float32 sum of n terms errs by at most n·2⁻²⁴·Σ|term|. NaN is an infinite error.

        Args:
            results: some of `values`, or all.
            rounding: the relative error of a term by the roundings of operands and results. None
                where the sums are exact, and only the result is rounded, once, to its dtype.
        """
        return {name: self._worst(name, result, rounding) for name, result in results.items()}

    def _worst(self, name: str, result: Tensor, rounding: float | None) -> float:
        value = self.values[name]
        if result.shape != value.shape:
            return math.inf
        error = (result.double() - value).abs().nan_to_num(torch.inf)
        ratio = torch.where(error == 0, 0, error / self._bound(name, result.dtype, rounding))
        return float(ratio.max()) if ratio.numel() else 0.0

    def _bound(self, name: str, dtype: torch.dtype, rounding: float | None) -> Tensor | float:
        if rounding is None:
            bound = UNIT.get(dtype, 0.0) * self.values[name].abs()
        else:
            summing = (self.terms[name] + 8) * UNIT[torch.float32]
            bound = (summing + rounding) * self.magnitudes[name]
        return bound + self.slack.get(name, 0.0)


def errors_over_bounds(layer: Layer, results: list[Tensor], binary_input: bool) -> dict[str, float]:
    """The worst error of each of `RESULTS` against float64, over what rounding explains.

    An operand may be rounded once to the dtype of the activations, and a result twice (a library's
    weight gradient is). See `Expected.errors_over_bounds`.
    """
    named = dict(zip(RESULTS, results, strict=True))
    expected = Expected.of_layer(layer, binary_input)
    return expected.errors_over_bounds(named, 3 * UNIT[layer.x.dtype])


def _random(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=generator) * 64).round().clamp(-127, 127) / 64
        for shape in shapes
    ]
