"""The rates of the device that bound the kernels, measured."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from triton.testing import do_bench

from tribin_kernels.bit_mma_assembly import multiply_tiles
from tribin_kernels.target import target_of

SIZE = 8192
"""Of the matrices of the library's product."""

COPY_BYTES = 2**30

WARPS, TILES, STEPS = 4, 8, 4096
PROGRAMS_PER_PROCESSOR = 4


def ceilings() -> dict[str, float]:
    """Bytes/s of a copy ("copy"), operations/s of cuBLAS ("bfloat16") and of bare 1-bit MMAs."""
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = {
        "copy": 2 * COPY_BYTES / _seconds(lambda: target.copy_(source)),
        "bfloat16": 2 * SIZE**3 / _seconds(lambda: a @ b),
    }
    if target_of(source.device).has_bit_mma:
        rates["bit"] = _bit_rate()
    return rates


def _bit_rate() -> float:
    """1-bit operations/s of a loop of matrix instructions whose operands stay in registers."""
    processors = torch.cuda.get_device_properties("cuda").multi_processor_count
    programs = PROGRAMS_PER_PROCESSOR * processors
    out = torch.empty(programs * WARPS * 128, dtype=torch.int32, device="cuda")
    seconds = _seconds(
        lambda: _multiply_registers[(programs,)](out, STEPS, WARPS, TILES, num_warps=WARPS)
    )
    operations = 2 * 16 * 16 * 256
    return programs * WARPS * TILES * STEPS * operations / seconds


@triton.jit
def _multiply_registers(out, steps, WARPS: tl.constexpr, TILES: tl.constexpr):
    element = tl.arange(0, 128 * WARPS)
    a, b = element * 0x9E3779B, element * 0x5851F42
    zero = tl.zeros((128 * WARPS,), tl.int32)
    sums = ()
    for _ in tl.static_range(2 * TILES):
        sums += (zero,)
    for _ in range(steps):
        more = ()
        for i in tl.static_range(TILES):
            first, second = multiply_tiles(a, b + i, sums[2 * i], sums[2 * i + 1])
            more += (first, second)
        sums = more
    total = zero
    for i in tl.static_range(2 * TILES):
        total += sums[i]
    tl.store(out + tl.program_id(0) * 128 * WARPS + element, total)


def _seconds(function: Callable[[], object]) -> float:
    return do_bench(function, return_mode="median") / 1000
