"""The rates of the device that bound the kernels, measured."""

import torch
from triton.testing import do_bench

from tribin_kernels.target import target_of

SIZE = 8192
STEPS = 4096


def ceilings() -> dict[str, float]:
    """Bytes/s of a copy ("copy"), operations/s of cuBLAS ("bfloat16") and of bare 1-bit MMAs."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = {
        "copy": 2 * source.numel() * 4 / _seconds(lambda: target.copy_(source)),
        "bfloat16": 2 * SIZE**3 / _seconds(lambda: a @ b),
    }
    if target_of(source.device).has_bit_mma:
        rates["bit"] = _bit_rate()
    return rates


def _seconds(function) -> float:  # type: ignore[no-untyped-def]
    return do_bench(function, return_mode="median") / 1000
