"""The gradients of the latent weight and the gain, from that of the unscaled weight.

With G the gradient for sign(v) of the layer without its scale α = gain · gain_factor, the
straight-through estimator makes dv = α·G, and d(gain) = gain_factor · Σ sign(v)·G needs no product
of the forward pass. One program sums up one output, in a fixed order.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from tribin_kernels.launch import launch
from tribin_kernels.reference import memory_format

MAX_BLOCK_TERMS = 1024
"""Elements of an output that its program takes at a time: 8 a thread, 32 bytes in float32."""


def finish_weight_gradient(
    partial_sums: Tensor, latent_weight: Tensor, gain: Tensor, gain_factor: float
) -> tuple[Tensor, Tensor]:
    """Gradients of latent_weight and gain, the same from run to run.

    Args:
        partial_sums: [split, outputs, channels, height, width], floating point; G is their sum,
            in float32. Copied where they are neither contiguous nor channels-last.
        latent_weight: v, [outputs, channels, height, width], floating point.
        gain: [outputs], floating point.
        gain_factor: 1/√n, n = channels · height · width.

    Returns:
        The gradients, each of the dtype of what it is for; that of latent_weight is channels-last
        where only that describes latent_weight, else contiguous.
    """
    sums = partial_sums.flatten(0, 1)
    sums_format, latent_format = memory_format(sums), memory_format(latent_weight)
    sums = sums.contiguous(memory_format=sums_format)
    latent_weight = latent_weight.contiguous(memory_format=latent_format)
    grad_latent, grad_gain = torch.empty_like(latent_weight), torch.empty_like(gain)
    outputs, channels, height, width = latent_weight.shape
    terms = channels * height * width
    columns = channels if sums_format == torch.channels_last else height * width
    launch(
        _finish_weight_gradient_kernel,
        (outputs,),
        {
            "partial_sums": sums,
            "latent_weight": latent_weight,
            "gain": gain,
            "gain_factor": gain_factor,
            "grad_latent": grad_latent,
            "grad_gain": grad_gain,
            "outputs": outputs,
        },
        {
            "SPLIT": partial_sums.shape[0],
            "TERMS": terms,
            "COLUMNS": 1 if sums_format == latent_format else columns,
            "BLOCK_TERMS": min(MAX_BLOCK_TERMS, triton.next_power_of_2(terms)),
        },
    )
    return grad_latent, grad_gain


def finish_product(
    product: Tensor, latent_weight: Tensor, gain: Tensor, gain_factor: float
) -> tuple[Tensor, Tensor]:
    """`finish_weight_gradient` of a G that is whole, [outputs, channels, height, width]."""
    return finish_weight_gradient(product.unsqueeze(0), latent_weight, gain, gain_factor)


@triton.jit
def _finish_weight_gradient_kernel(
    partial_sums,
    latent_weight,
    gain,
    gain_factor,
    grad_latent,
    grad_gain,
    outputs,
    SPLIT: tl.constexpr,
    TERMS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_TERMS: tl.constexpr,
):
    output = tl.program_id(0).to(tl.int64)
    scale = tl.load(gain + output).to(tl.float32) * gain_factor
    signed_sum = tl.zeros((BLOCK_TERMS,), tl.float32)
    for first in tl.range(0, TERMS, BLOCK_TERMS):
        term = first + tl.arange(0, BLOCK_TERMS)
        mask = term < TERMS
        # The sums, SPLIT times as many, are read in their order; in memory they are [rows, COLUMNS]
        # and the latent weight is their transpose, or is like them.
        weight = output * TERMS + term % COLUMNS * (TERMS // COLUMNS) + term // COLUMNS
        product = tl.zeros((BLOCK_TERMS,), tl.float32)
        for part in tl.static_range(SPLIT):
            partial_sum = partial_sums + (part * outputs + output) * TERMS + term
            product += tl.load(partial_sum, mask=mask, other=0).to(tl.float32)
        latent = tl.load(latent_weight + weight, mask=mask, other=0)
        tl.store(grad_latent + weight, product * scale, mask=mask)
        signed_sum += tl.where(latent < 0, -product, product)
    tl.store(grad_gain + output, tl.sum(signed_sum) * gain_factor)
