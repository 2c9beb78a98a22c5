"""What is raced on a GPU: tribin's kernels and layers, and what one would use without them."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.layers import Layer
from benchmarks.gpu.race import Contender, Race
from tribin import ops
from tribin_kernels import bit_mma, reference
from tribin_kernels.border_table import border_table
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.epilogue import Epilogue
from tribin_kernels.launch_table import choose
from tribin_kernels.pack_activations import pack_activations
from tribin_kernels.pack_weights import pack_weights
from tribin_kernels.real_mma import RealMmaConfig, conv2d_w1a16

DEVICE = "cuda"
BFLOAT16 = torch.bfloat16
COLD_BYTES = 200e6
"""Inputs that take turns hold at least this much together: more than any L2 cache."""


def races() -> Iterator[Race]:
    """All of them, the packed products first."""
    for kernel in (3, 5):
        yield packed_convolution(kernel)
        yield packed_convolution(kernel, mask=True)
        yield packed_convolution(kernel, mask=True, stream=True)
    yield bit_matmul(8192)
    for rows in (1, 16, 4096, 8192):
        yield real_matmul(rows, 8192, 8192)
    yield pack(128, 256, 16)
    for name, arguments in LAYERS.items():
        yield training_step(name, *arguments)


LAYERS: dict[str, tuple[int, ...]] = {
    "ResNet VAE 256→256 3×3, 128×16×16": (128, 256, 16, 16, 256, 3),
    "ResNet VAE 256→256 5×5, 128×16×16": (128, 256, 16, 16, 256, 5),
    "Flow++ 240→120 3×3, 64×32×16": (64, 240, 32, 16, 120, 3),
    "Flow++ 240→240 1×1, 64×16×16": (64, 240, 16, 16, 240, 1),
    "Flow++ 64→120 1×1, 64×16×8": (64, 64, 16, 8, 120, 1),
}


def packed_convolution(
    kernel: int, batch: int = 128, *, mask: bool = False, stream: bool = False
) -> Race:
    """W1A1 convolution 256→256 of 16×16 images, bits in and bits out.

    Args:
        kernel: height and width.
        batch: images.
        mask: write the mask of the straight-through estimator as well.
        stream: add a bf16 residual and write the bf16 result as well.
    """
    layer = _on_device(Layer.conv2d(batch, 256, 16, 16, 256, kernel))
    shape = Conv2dShape.of(layer.x.shape, layer.latent_weight, *layer.geometry)
    _, _, paired = pack_activations(layer.x, paired_size=(16, 16))
    assert paired is not None
    fragments = pack_weights(layer.latent_weight, "fragments")
    table = border_table(fragments, shape)
    residual = layer.grad_y if stream else None
    epilogue = Epilogue(residual=residual, real=stream, signs=True, mask=mask)
    x, weight = reference.sign(layer.x), reference.sign(layer.latent_weight, BFLOAT16)
    scale = (layer.gain * shape.gain_factor).view(-1, 1, 1)
    bias = layer.bias.view(-1, 1, 1)

    def product() -> Tensor:
        _, signs, _ = bit_mma.conv2d_w1a1(
            paired, fragments, table, layer.gain, shape.gain_factor, layer.bias, shape,
            epilogue=epilogue,
        )  # fmt: skip
        assert signs is not None
        return signs

    def library() -> Tensor:
        return F.conv2d(x, weight, padding=kernel // 2)

    def agree() -> None:
        y = F.conv2d(x.double(), weight.double(), padding=kernel // 2) * scale + bias
        y = y if residual is None else y + residual
        # results this near to 0 may round to either side
        sure, possible = (
            pack_activations((y + shift).float(), paired_size=(16, 16))[2]
            for shift in (1e-4, -1e-4)
        )
        signs = product()
        assert sure is not None
        assert possible is not None
        assert not (sure & ~signs).any(), "a negative result has no bit"
        assert not (signs & ~possible).any(), "a positive result has a bit"

    parts = ["bits", *["mask"] * mask, *["bf16 + residual"] * stream]
    written = paired.numel() * 4 * (1 + mask) + (4 * layer.x.numel() if stream else 0)
    return Race(
        f"W1A1 conv {kernel}×{kernel} 256→256, {batch}×16×16, bits → {', '.join(parts)}",
        2 * shape.pixels * shape.terms * shape.outputs,
        paired.numel() * 4 + fragments.numel() * 4 + written,
        (
            Contender("tribin", (product,)),
            Contender("cuDNN bf16 on ±1", (library,)),
        ),
        "bit",
        agree,
    )


def bit_matmul(size: int) -> Race:
    """W1A1 size³ product of packed operands, bf16 out."""
    x, weight = (torch.randn(size, size, device=DEVICE) for _ in range(2))
    tiles = Conv2dShape(2, size, size // 16, 8, size)
    pixels = x.view(size, size, 1, 1)
    _, _, paired = pack_activations(pixels, paired_size=(tiles.height, tiles.width))
    fragments = pack_weights(weight.view(size, size, 1, 1), "fragments")
    table = border_table(fragments, tiles)
    signs, weight_signs = (reference.sign(t, torch.int8) for t in (x, weight))
    half, weight_half = signs.to(BFLOAT16), weight_signs.to(BFLOAT16)

    def product() -> Tensor:
        assert paired is not None
        y, _, _ = bit_mma.conv2d_w1a1(
            paired, fragments, table, None, 1.0, None, tiles, rows=size, dtype=BFLOAT16
        )
        assert y is not None
        return y

    def agree() -> None:
        wanted = torch._int_mm(signs, weight_signs.T)
        assert torch.equal(product(), wanted.to(BFLOAT16))

    return Race(
        f"W1A1 matmul {size}³",
        2 * size**3,
        2 * size * size / 8 + 2 * size * size,
        (
            Contender("tribin", (product,)),
            Contender("torch._int_mm", (lambda: torch._int_mm(signs, weight_signs.T),)),
            Contender("cuBLAS bf16", (lambda: F.linear(half, weight_half),)),
        ),
        "bit",
        agree,
    )


def real_matmul(rows: int, length: int, outputs: int) -> Race:
    """W1A16 product with packed weights."""
    x = torch.randn(rows, length, device=DEVICE, dtype=BFLOAT16)
    copies = max(1, round(COLD_BYTES / (length * outputs / 8)) if rows <= 16 else 1)
    latents = [torch.randn(outputs, length, device=DEVICE) for _ in range(min(copies, 4))]
    quads = [pack_weights(v.view(outputs, length, 1, 1), "quads") for v in latents]
    quads = [quads[i % len(quads)].clone() for i in range(copies)]
    weights = [reference.sign(v, BFLOAT16) for v in latents]
    shape = Conv2dShape(rows, length, 1, 1, outputs)
    config = choose(RealMmaConfig, x.device, rows=rows, outputs=outputs)

    def product(one: Tensor) -> Tensor:
        y, _, _ = conv2d_w1a16(
            x.view(rows, length, 1, 1), one, None, 1.0, None, shape, dtype=BFLOAT16, config=config
        )
        assert y is not None
        return y.view(rows, outputs)

    def agree() -> None:
        exact = x.double() @ reference.sign(latents[0]).double().T
        error = (product(quads[0]).double() - exact).norm() / exact.norm()
        assert error < 2**-8, f"relative error {error}"

    return Race(
        f"W1A16 matmul {rows}×{length}×{outputs}",
        2 * rows * length * outputs,
        length * outputs / 8 + 2 * rows * (length + outputs),
        (
            Contender("tribin", tuple(lambda one=one: product(one) for one in quads)),
            Contender("cuBLAS bf16", tuple(lambda w=w: F.linear(x, w) for w in weights)),
            *_gemlite(x, weights[0]),
        ),
        "bfloat16",
        agree,
    )


def _gemlite(x: Tensor, weight: Tensor) -> tuple[Contender, ...]:
    """Gemlite's 1-bit product where it is installed."""
    try:
        from gemlite.core import DType, GemLiteLinearTriton
    except ImportError:
        return ()
    outputs, length = weight.shape
    layer = GemLiteLinearTriton(1, length, length, outputs, DType.BF16, DType.BF16)
    bits = (weight < 0).to(torch.uint8)
    minus_two = torch.full((outputs, 1), -2.0, device=DEVICE, dtype=BFLOAT16)
    layer.pack(bits, minus_two, torch.full_like(minus_two, 0.5), None)
    return (Contender("gemlite", (lambda: layer(x),)),)


def pack(batch: int, channels: int, size: int) -> Race:
    """Bf16 activations to bits, mask and MMA layout."""
    shape = (batch, channels, size, size)
    copies = max(1, round(COLD_BYTES / (2 * batch * channels * size * size)))
    inputs = [
        torch.randn(shape, device=DEVICE, dtype=BFLOAT16).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(copies)
    ]
    targets = [torch.empty_like(x) for x in inputs]
    moved = inputs[0].numel() * (2 + 3 / 8)

    def agree() -> None:
        signs, mask, _ = pack_activations(inputs[0], paired_size=(size, size))
        x = inputs[0].permute(0, 2, 3, 1)
        assert torch.equal(signs, reference.pack_signs(x))
        assert mask is not None
        assert torch.equal(mask, reference.pack_bits(reference.activation_mask(x)))

    return Race(
        f"pack {batch}×{size}×{size}×{channels} bf16",
        0,
        moved,
        (
            Contender(
                "tribin",
                tuple(lambda x=x: pack_activations(x, paired_size=(size, size)) for x in inputs),
            ),
            Contender(
                "copy, for scale",
                tuple(lambda x=x, y=y: y.copy_(x) for x, y in zip(inputs, targets, strict=True)),
            ),
        ),
        "copy",
        agree,
    )


def training_step(name: str, *sizes: int) -> Race:
    """Forward and backward of a W1A1 layer, bf16 activations, float32 parameters."""
    layer = _on_device(Layer.conv2d(*sizes))
    padding = sizes[-1] // 2
    leaves = [
        tensor.detach().requires_grad_()
        for tensor in (layer.x, layer.latent_weight, layer.gain, layer.bias)
    ]

    def step(forward: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(forward(*leaves), leaves, layer.grad_y)

    def fused(*arguments: Tensor) -> Tensor:
        return ops.binary_conv2d(*arguments, padding=padding, binary_input=True)

    def simulated(x: Tensor, latent_weight: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        weight = ops.sign_weight(latent_weight).to(x.dtype)
        scale = reference.weight_scale(gain, latent_weight).to(x.dtype).view(-1, 1, 1)
        product = F.conv2d(ops.sign_activation(x), weight, padding=padding)
        return product * scale + bias.to(x.dtype).view(-1, 1, 1)

    def agree() -> None:
        for ours, theirs in zip(step(fused)(), step(simulated)(), strict=True):
            error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
            assert error < 0.02, f"relative difference {error}"

    shape = Conv2dShape.of(layer.x.shape, layer.latent_weight, *layer.geometry)
    activations, results = layer.x.numel(), layer.grad_y.numel()
    compiled = torch.compile(simulated)
    return Race(
        f"W1A1 forward and backward, {name}",
        3 * 2 * shape.pixels * shape.terms * shape.outputs,
        2 * (2 * activations + 3 * results) + 2 * activations / 4,
        (
            Contender("tribin", (step(fused),)),
            Contender("simulated, bf16", (step(simulated),)),
            Contender("simulated, torch.compile", (step(compiled),)),
            Contender("tribin, eager", (step(fused),), captured=False),
            Contender("simulated, eager", (step(simulated),), captured=False),
        ),
        "bfloat16",
        agree,
    )


def _on_device(layer: Layer) -> Layer:
    return layer.to(BFLOAT16, torch.float32, DEVICE, torch.channels_last)
