"""Checks of the kernels that need the real device: each returns lines of what it saw, or raises."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.library import opcheck

from benchmarks.gpu.layers import UNIT, Layer, errors_over_bounds
from tribin import ops
from tribin_kernels import reference, self_check

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
RAGGED_LAYERS = 200


def check_all() -> bool:
    """Run every check, print what it saw, and say whether all passed."""
    checks = (
        bit_mma, real_layers, ragged_layers, packed_layers, layouts, reproducible, dispatch, graph,
        packed_graph,
    )  # fmt: skip
    passed = [_passes(check) for check in checks]
    return all(passed)


def bit_mma() -> Iterator[str]:
    """The fragment map of the 1-bit tensor core."""
    if not torch.equal(*self_check.small_products(torch.device("cuda", 0))):
        raise AssertionError("the 1-bit tensor core disagrees with float64")
    yield "exact"


def real_layers() -> Iterator[str]:
    """Output and every gradient at the real shapes, W1A16 and W1A1, in three dtypes."""
    for name, make in REAL_LAYERS.items():
        layer = make()
        for dtype in UNIT:
            worst = _check_layer(layer, dtype)
            yield f"{name} {_short(dtype)}: worst error {worst:.2f} of its bound"


def ragged_layers() -> Iterator[str]:
    """The same at ragged shapes."""
    worst = 0.0
    for seed in range(RAGGED_LAYERS):
        layer, dtype = ragged_layer(seed), list(UNIT)[seed % len(UNIT)]
        try:
            worst = max(worst, _check_layer(layer, dtype))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, x {list(layer.x.shape)}: {error}") from error
    yield f"{RAGGED_LAYERS} shapes: worst error {worst:.2f} of its bound"


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


def packed_layers() -> Iterator[str]:
    """Packed layers at real and ragged shapes, from real x, signs or bits, to real y or bits."""
    for name, make in REAL_LAYERS.items():
        for dtype in UNIT:
            check_packed(as_conv2d(make()).to(dtype, torch.float32, "cuda"))
        yield f"{name}: equal, and where there is a gate within its rounding"
    for seed in range(RAGGED_LAYERS):
        layer, dtype = as_conv2d(ragged_layer(seed)), list(UNIT)[seed % len(UNIT)]
        try:
            check_packed(layer.to(dtype, torch.float32, "cuda"))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, x {list(layer.x.shape)}: {error}") from error
    yield f"{RAGGED_LAYERS} ragged shapes"


def as_conv2d(layer: Layer) -> Layer:
    """A linear layer as a convolution of one pixel."""
    if layer.geometry:
        return layer
    x, latent_weight, grad_y = (
        tensor[..., None, None] for tensor in (layer.x, layer.latent_weight, layer.grad_y)
    )
    return Layer(x, latent_weight, layer.gain, layer.bias, grad_y, ([1, 1], [0, 0]))


def check_packed(layer: Layer) -> None:
    """Against float64: y is a sum of multiples of 2⁻¹² that float32 adds exactly.

    A gate and ELU take exponentials, which err by less than 2⁻²⁰ of a result below 16.
    """
    op, exact = torch.ops.tribin.packed_conv2d, layer.to(torch.float64, torch.float64)
    row_bits = reference.pack_signs(layer.x.movedim(1, -1))
    for x, binary_input in ((layer.x, False), (layer.x, True), (row_bits, True)):
        for to_bits in (False, True):
            y = _packed(op, layer, x, binary_input, to_bits=to_bits)
            wanted = _packed(reference.packed_conv2d, exact, exact.x, binary_input, to_bits=to_bits)
            torch.testing.assert_close(y, wanted.to(y.dtype), rtol=0, atol=0)
        if layer.latent_weight.shape[0] % 2 == 0:
            y = _packed(op, layer, x, binary_input, gate=True)
            wanted = _packed(reference.packed_conv2d, exact, exact.x, binary_input, gate=True)
            unit = UNIT[y.dtype]
            torch.testing.assert_close(y.double(), wanted, rtol=2 * unit, atol=2.0**-16)


def layouts() -> Iterator[str]:
    """Memory formats, views and autocast through the public ops."""
    layer = Layer.conv2d(4, 64, 16, 16, 32, 3).to(torch.float32, torch.float32, "cuda")
    arguments = layer.latent_weight, layer.gain, layer.bias
    expected = ops.binary_conv2d(layer.x, *arguments, padding=1, binary_input=True)
    wide = torch.randn(4, 64, 16, 32, device="cuda")
    wide[..., ::2] = layer.x
    for x in (layer.x.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        y = ops.binary_conv2d(x, *arguments, padding=1, binary_input=True)
        torch.testing.assert_close(y, expected, rtol=0, atol=0)
    with torch.autocast("cuda", torch.bfloat16):
        y = ops.binary_conv2d(layer.x, *arguments, padding=1, binary_input=True)
    assert y.dtype == torch.bfloat16
    yield "channels-last, strided and autocast agree"


def reproducible() -> Iterator[str]:
    """The same call gives the same bits."""
    for binary_input in (False, True):
        layer = Layer.conv2d(32, 256, 16, 16, 256, 3).to(torch.bfloat16, torch.float32, "cuda")
        first, second = (_run(layer, binary_input) for _ in range(2))
        assert all(map(torch.equal, first, second))
    yield "bit for bit, W1A16 and W1A1, forward and backward"


def dispatch() -> Iterator[str]:
    """`opcheck` of every op, and `torch.compile(fullgraph=True)` equal to eager."""
    tribin = torch.ops.tribin
    layer = Layer.conv2d(2, 33, 4, 6, 3, 3).to(torch.bfloat16, torch.float32, "cuda")
    forward = (layer.x, layer.latent_weight, layer.gain, layer.bias, *layer.geometry)
    saved = (layer.latent_weight, layer.gain, *layer.geometry)
    _, signs, mask = tribin.binary_conv2d_w1a1(*forward)
    opcheck(tribin.binary_conv2d.default, forward)
    opcheck(tribin.binary_conv2d_w1a1.default, forward)
    opcheck(tribin.binary_conv2d_backward.default, (layer.grad_y, layer.x, *saved))
    opcheck(tribin.binary_conv2d_w1a1_backward.default, (layer.grad_y, signs, mask, *saved))
    opcheck(tribin.pack_signs.default, (layer.x,))
    compiled = torch.compile(ops.binary_conv2d, fullgraph=True)
    for binary_input in (False, True):
        results = _gradients(layer, binary_input, compiled)
        assert all(map(torch.equal, results, _gradients(layer, binary_input)))
    packed = _packed_arguments(layer, layer.x, True)
    opcheck(tribin.packed_conv2d.default, packed)
    compiled = torch.compile(lambda: tribin.packed_conv2d(*packed), fullgraph=True)
    assert torch.equal(compiled(), tribin.packed_conv2d(*packed))
    yield "opcheck and torch.compile"


def graph() -> Iterator[str]:
    """A captured training step replays to the same bits on new input."""
    layer = Layer.conv2d(4, 64, 16, 16, 32, 3).to(torch.bfloat16, torch.float32, "cuda")
    other = torch.randn_like(layer.x)
    expected = _gradients(_with_input(layer, other), True)
    fixed = _with_input(layer, layer.x.clone())
    _gradients(fixed, True)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = _gradients(fixed, True)
    fixed.x.copy_(other)
    captured.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, results, expected))
    yield "a captured step replays exactly"


def packed_graph() -> Iterator[str]:
    """A captured packed layer replays to the same bits on new input."""
    layer = Layer.conv2d(4, 64, 16, 16, 32, 3).to(torch.bfloat16, torch.float32, "cuda")
    x, op = layer.x.clone(), torch.ops.tribin.packed_conv2d
    arguments = _packed_arguments(layer, x, True)
    op(*arguments)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        y = op(*arguments)
    x.copy_(torch.randn_like(x))
    captured.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, op(*arguments))
    yield "a captured layer replays exactly"


def _packed(
    implementation: Callable[..., Tensor], layer: Layer, x: Tensor, binary_input: bool, **then: bool
) -> Tensor:
    return implementation(*_packed_arguments(layer, x, binary_input, **then))


def _packed_arguments(
    layer: Layer, x: Tensor, binary_input: bool, *, gate: bool = False, to_bits: bool = False
) -> tuple[Any, ...]:
    """Of `packed_conv2d`, on x or its row bits, with a residual, and ELU where there is a gate."""
    weight_bits = reference.pack_signs(layer.latent_weight.permute(0, 2, 3, 1))
    residual = layer.grad_y[:, : layer.grad_y.shape[1] // 2] if gate else layer.grad_y
    return (
        x, weight_bits, torch.full_like(layer.gain, 1 / 64), layer.bias, residual,
        layer.latent_weight.shape[1], *layer.geometry, binary_input, gate, gate, to_bits,
    )  # fmt: skip


def _gradients(
    layer: Layer, binary_input: bool, op: Callable[..., Tensor] = ops.binary_conv2d
) -> list[Tensor]:
    leaves = [
        tensor.detach().requires_grad_()
        for tensor in (layer.x, layer.latent_weight, layer.gain, layer.bias)
    ]
    stride, padding = (tuple(pair) for pair in layer.geometry)
    y = op(*leaves, stride=stride, padding=padding, binary_input=binary_input)
    return list(torch.autograd.grad(y, leaves, layer.grad_y))


def _with_input(layer: Layer, x: Tensor) -> Layer:
    tensors = layer.latent_weight, layer.gain, layer.bias, layer.grad_y
    return Layer(x, *tensors, layer.geometry)


def _run(layer: Layer, binary_input: bool) -> list[Tensor]:
    return layer.run(torch.ops.tribin, binary_input)


def _check_layer(layer: Layer, dtype: torch.dtype) -> float:
    """The worst error of both precisions over its bound, which must be at most 1."""
    layer = layer.to(dtype, torch.float32, "cuda")
    worst = 0.0
    for binary_input in (False, True):
        ratios = errors_over_bounds(layer, _run(layer, binary_input), binary_input)
        if max(ratios.values()) > 1:
            raise AssertionError(f"{'W1A1' if binary_input else 'W1A16'} {dtype}: {ratios}")
        worst = max(worst, *ratios.values())
    return worst


def _passes(check: Callable[[], Iterator[str]]) -> bool:
    print(f"\n{check.__name__}: {check.__doc__}")
    try:
        for line in check():
            print(f"  {line}", flush=True)
    except Exception as error:  # each check is reported, whatever became of the one before
        print(f"  FAILED: {type(error).__name__}: {error}", flush=True)
        return False
    return True


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
