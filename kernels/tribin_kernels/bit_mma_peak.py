"""How fast a GPU's tensor cores multiply bits whose operands never leave their registers."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"

import torch
import triton
import triton.language as tl

from tribin_kernels.bit_mma_assembly import multiply_tiles
from tribin_kernels.launch import launch

_WARPS, _TILES = 4, 8
_MULTIPLY_ADDS = 16 * 16 * 256
"""Of one tile of one warp."""


def bit_mma_peak(device: torch.device, programs: int, steps: int) -> int:
    """Multiply bits in a loop of matrix instructions.

    Args:
        device: whose tensor cores multiply bits.
        programs: of four warps each; four of them keep a multiprocessor busy.
        steps: of each.

    Returns:
        How many multiply-adds that takes.
    """
    sums = torch.empty(programs, 128 * _WARPS, dtype=torch.int32, device=device)
    launch(
        _multiply_registers,
        (programs,),
        {"out": sums, "steps": steps},
        {"WARPS": _WARPS, "TILES": _TILES},
        num_warps=_WARPS,
    )
    return programs * _WARPS * _TILES * steps * _MULTIPLY_ADDS


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
