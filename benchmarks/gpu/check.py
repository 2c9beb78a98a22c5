"""What the ops must do on the device at hand: each check yields lines of what it saw, or raises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.library import opcheck

from benchmarks.gpu.bench import Bench
from tribin import ops
from tribin.profiling.kernels.operands import UNIT, Layer, errors_over_bounds
from tribin_kernels import reference, self_check

ADAM_SIZES = (1, 1000, 1024, 1025, 3_000_000)

Check = Callable[[Bench], Iterator[str]]


def checks(device: torch.device) -> dict[str, Check]:
    """Those that there are for a device, by name."""
    found = [real_layers, ragged_layers, packed_layers, layouts, reproducible, dispatch]
    if device.type == "cuda":
        found = [bit_mma, *found, adam_step, graph, packed_graph]
    return {check.__name__: check for check in found}


def bit_mma(bench: Bench) -> Iterator[str]:
    """The fragment map of the 1-bit tensor core."""
    if not torch.equal(*self_check.small_products(bench.device)):
        raise AssertionError("the 1-bit tensor core disagrees with float64")
    yield "exact"


def real_layers(bench: Bench) -> Iterator[str]:
    """Output and every gradient at given shapes, W1A16 and W1A1, in three dtypes."""
    for name, make in bench.layers.items():
        layer = make()
        for dtype in UNIT:
            worst = _check_layer(bench.place(layer, dtype))
            yield f"{name} {_short(dtype)}: worst error {worst:.2f} of its bound"


def ragged_layers(bench: Bench) -> Iterator[str]:
    """The same at ragged shapes."""
    worst = 0.0
    for seed, (name, make) in enumerate(bench.ragged_layers.items()):
        layer, dtype = make(), list(UNIT)[seed % len(UNIT)]
        with _naming(f"{name}, x {list(layer.x.shape)}"):
            worst = max(worst, _check_layer(bench.place(layer, dtype)))
    yield f"{len(bench.ragged_layers)} shapes: worst error {worst:.2f} of its bound"


def packed_layers(bench: Bench) -> Iterator[str]:
    """Packed layers at given and ragged shapes, from real x, signs or bits, to real y or bits."""
    for name, make in bench.layers.items():
        layer = make().as_conv2d()
        for dtype in UNIT:
            check_packed(bench.place(layer, dtype))
        yield f"{name}: equal, and where there is a gate within its rounding"
    for seed, (name, make) in enumerate(bench.ragged_layers.items()):
        layer, dtype = make().as_conv2d(), list(UNIT)[seed % len(UNIT)]
        with _naming(f"{name}, x {list(layer.x.shape)}"):
            check_packed(bench.place(layer, dtype))
    yield f"{len(bench.ragged_layers)} ragged shapes"


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


def layouts(bench: Bench) -> Iterator[str]:
    """Memory formats, views and autocast through the public ops."""
    layer = bench.small_layer(torch.float32)
    arguments = layer.latent_weight, layer.gain, layer.bias
    expected = ops.binary_conv2d(layer.x, *arguments, padding=1, binary_input=True)
    wide = torch.randn(4, 64, 16, 32, device=bench.device)
    wide[..., ::2] = layer.x
    for x in (layer.x.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
        y = ops.binary_conv2d(x, *arguments, padding=1, binary_input=True)
        torch.testing.assert_close(y, expected, rtol=0, atol=0)
    with torch.autocast(bench.device.type, torch.bfloat16):
        y = ops.binary_conv2d(layer.x, *arguments, padding=1, binary_input=True)
    assert y.dtype == torch.bfloat16
    yield "channels-last, strided and autocast agree"


def reproducible(bench: Bench) -> Iterator[str]:
    """The same call gives the same bits."""
    layer = bench.place(next(iter(bench.layers.values()))(), torch.bfloat16)
    for binary_input in (False, True):
        first, second = (layer.run(torch.ops.tribin, binary_input) for _ in range(2))
        assert all(map(torch.equal, first, second))
    yield "bit for bit, W1A16 and W1A1, forward and backward"


def dispatch(bench: Bench) -> Iterator[str]:
    """`opcheck` of every op, and `torch.compile(fullgraph=True)` equal to eager."""
    tribin = torch.ops.tribin
    layer = bench.place(Layer.conv2d(2, 33, 4, 6, 3, 3), torch.bfloat16)
    forward = layer.forward_arguments()
    _, *saved = tribin.binary_conv2d_w1a1(*forward)
    opcheck(tribin.binary_conv2d.default, forward)
    opcheck(tribin.binary_conv2d_w1a1.default, forward)
    opcheck(tribin.binary_conv2d_backward.default, layer.backward_arguments([layer.x]))
    opcheck(tribin.binary_conv2d_w1a1_backward.default, layer.backward_arguments(saved))
    opcheck(tribin.pack_signs.default, (layer.x,))
    compiled = bench.compiled(ops.binary_conv2d)
    for binary_input in (False, True):
        results = _gradients(layer, binary_input, compiled)
        assert all(map(torch.equal, results, _gradients(layer, binary_input)))
    packed = _packed_arguments(layer, layer.x, True)
    opcheck(tribin.packed_conv2d.default, packed)
    compiled = bench.compiled(lambda: tribin.packed_conv2d(*packed))
    assert torch.equal(compiled(), tribin.packed_conv2d(*packed))
    yield "opcheck and torch.compile"


def adam_step(bench: Bench) -> Iterator[str]:
    """The update of a step: three of them, of which one is not finite, against the reference."""
    from tribin_kernels.adam_step import AdamStep

    numbers = reference.AdamSettings(0.1, (0.9, 0.999), 1e-8, max_norm=1.0, decay=0.9)
    states = []
    for step in (AdamStep(), reference.adam_step):
        torch.manual_seed(0)
        tensors = [_adam_tensors(size, bench.device) for size in ADAM_SIZES]
        averaged = torch.zeros((), dtype=torch.int64, device=bench.device)
        for finite in (True, False, True):
            gradients = [torch.randn_like(each.parameter) for each in tensors]
            norm = torch.nn.utils.get_total_norm(gradients)
            given = [
                replace(each, gradient=gradient)
                for each, gradient in zip(tensors, gradients, strict=True)
            ]
            step(given, norm, torch.tensor(finite, device=bench.device), averaged, numbers)
        states.append([x for each in tensors for x in vars(each).values() if isinstance(x, Tensor)])
        assert int(averaged) == 2
    for got, wanted in zip(*states, strict=True):  # within a dozen roundings a step
        torch.testing.assert_close(got, wanted, rtol=24 * 2.0**-24, atol=24 * 2.0**-24)
    yield f"{len(ADAM_SIZES)} tensors, two steps and one that is not finite"


def _adam_tensors(size: int, device: torch.device) -> reference.AdamTensors:
    parameter = torch.randn(size, device=device)
    moments = (torch.zeros_like(parameter) for _ in range(2))
    step, average = torch.zeros((), device=device), torch.zeros_like(parameter)
    return reference.AdamTensors(parameter, None, *moments, step, average, latent=size % 2 == 0)


def graph(bench: Bench) -> Iterator[str]:
    """A captured training step replays to the same bits on new input."""
    layer = bench.small_layer(torch.bfloat16)
    other = torch.randn_like(layer.x)
    expected = _gradients(replace(layer, x=other), True)
    fixed = replace(layer, x=layer.x.clone())
    _gradients(fixed, True)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = _gradients(fixed, True)
    fixed.x.copy_(other)
    captured.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, results, expected))
    yield "a captured step replays exactly"


def packed_graph(bench: Bench) -> Iterator[str]:
    """A captured packed layer replays to the same bits on new input."""
    layer = bench.small_layer(torch.bfloat16)
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
    """Of `packed_conv2d`, on x or its row bits, with a residual, and gate and ELU, or a PReLU."""
    weight_bits = reference.pack_signs(layer.latent_weight.permute(0, 2, 3, 1))
    residual = layer.grad_y[:, : layer.grad_y.shape[1] // 2] if gate else layer.grad_y
    slope = None if gate else torch.where(layer.bias > 0, 0.25, 0.5).to(layer.gain.dtype)
    return (
        x, weight_bits, torch.full_like(layer.gain, 1 / 64), layer.bias, slope, residual,
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


def _check_layer(layer: Layer) -> float:
    """The worst error of both precisions over its bound, which must be at most 1."""
    worst = 0.0
    for binary_input in (False, True):
        results = layer.run(torch.ops.tribin, binary_input)
        ratios = errors_over_bounds(layer, results, binary_input)
        if max(ratios.values()) > 1:
            precision = "W1A1" if binary_input else "W1A16"
            raise AssertionError(f"{precision} {_short(layer.x.dtype)}: {ratios}")
        worst = max(worst, *ratios.values())
    return worst


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Say which layer it was that an AssertionError is about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{layer}: {error}") from error


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
