"""The rates that bound what a machine computes, measured in this process."""

import math
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F

from tribin.profiling.device_clock import clock_of
from tribin_kernels.bit_mma_peak import bit_mma_peak
from tribin_kernels.cpu import int8
from tribin_kernels.cpu.popcount_peak import popcount_peak
from tribin_kernels.target import target_of

COPY_BYTES, QUICK_COPY_BYTES = 2**28, 2**24
"""Of the tensor that is copied: far more than a cache keeps, except for a quick look."""

MATRIX_SIZES = (512, 1024, 2048, 4096, 8192)
"""Rows, columns and length of the matrix products."""

BATCHES = (1, 4, 16, 64, 256)
"""Images of the convolutions, which have 256 channels of 32x32 and a kernel of 3x3."""

POPCOUNT_STEPS, MMA_STEPS = 1_000_000, 4096
PROGRAMS_PER_PROCESSOR = 4

ROUNDS = 3
"""How often everything is measured: other programs slow a machine down for seconds at a time."""

PROBE_SECONDS = 0.03
"""How long each work is repeated in a round."""

SAMPLE_SECONDS = 5e-3
"""A sample is as many calls as take this long together; nothing larger follows such a call."""


@dataclass(frozen=True)
class _Work:
    """What a call gets done: so many bytes moved, or operations."""

    amount: int
    run: Callable[[], object]


def measure_ceilings(device: torch.device, *, quick: bool = False) -> dict[str, float]:
    """Measure how much a device does a second at best, in about four seconds.

    A rate is the best of several sizes, calls and rounds. float32 is float32, not tf32.

    Args:
        device: a CPU, with torch's threads, or a GPU.
        quick: a look at the smallest sizes alone, well under a second on a CPU.

    Returns:
        Under ``"copy"`` the bytes read and written a second, by a copy or a sum, which only reads.
        Operations, two a multiply-add, a second: under ``"float32"``, ``"bfloat16"``, on a GPU
        ``"float16"``, and ``"int8"`` those of a matrix product or a convolution of torch's; under
        ``"bit"`` those of products of signs on registers. What can't be had is absent.
    """
    rounds = [_measure_once(device, quick) for _ in range(1 if quick else ROUNDS)]
    best = {name: max(rates[name] for rates in rounds) for name in rounds[0]}
    return {name: rate for name, rate in best.items() if rate}


def _measure_once(device: torch.device, quick: bool) -> dict[str, float]:
    """All rates, 0 where one can't be had."""
    fastest = partial(_fastest_rate, device=device, quick=quick)
    dtypes = [torch.float32, torch.bfloat16, *[torch.float16] * (device.type == "cuda")]
    copies = _copies(device, QUICK_COPY_BYTES if quick else COPY_BYTES)
    rates = {"copy": max(fastest([work]) for work in copies)}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for dtype in dtypes:
            products = _matrix_products(device, dtype), _convolutions(device, dtype)
            rates[str(dtype).removeprefix("torch.")] = max(map(fastest, products))
    products = _int8_matrix_products(device), _int8_convolutions(device)
    rates["int8"] = max(map(fastest, products))
    rates["bit"] = fastest(_bit_products(device))
    return rates


def _fastest_rate(works: Iterable[_Work], device: torch.device, quick: bool) -> float:
    """The highest rate of works that become larger and larger; 0 without any."""
    rate = 0.0
    for work in islice(works, 1 if quick else None):
        seconds = _fastest_seconds(work.run, device, 0 if quick else PROBE_SECONDS)
        rate = max(rate, work.amount / seconds)
        if seconds > SAMPLE_SECONDS:
            break
    return rate


def _fastest_seconds(run: Callable[[], object], device: torch.device, probe: float) -> float:
    """Seconds of a call, in the fastest of at least two samples."""
    now = clock_of(device)

    def sample(calls: int) -> float:
        start = now()
        for _ in range(calls):
            run()
        return (now() - start) / calls

    sample(1)
    seconds = [sample(1)]
    calls = math.ceil(SAMPLE_SECONDS / seconds[0])
    end = now() + probe
    while len(seconds) < 2 or now() < end:
        seconds.append(sample(calls))
    return min(seconds)


def _copies(device: torch.device, size: int) -> list[_Work]:
    source = torch.rand(2**20, device=device).repeat(size // 2**22)
    target = torch.empty_like(source)
    return [_Work(2 * size, lambda: target.copy_(source)), _Work(size, source.sum)]


def _matrix_products(device: torch.device, dtype: torch.dtype) -> Iterator[_Work]:
    for size in MATRIX_SIZES:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        yield _Work(2 * size**3, partial(torch.mm, a, b))


def _convolutions(device: torch.device, dtype: torch.dtype) -> Iterator[_Work]:
    weight = torch.randn(256, 256, 3, 3, device=device).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    for batch in BATCHES:
        x = torch.randn(batch, 256, 32, 32, device=device).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        yield _Work(_operations(batch), partial(F.conv2d, x, weight, padding=1))


def _int8_matrix_products(device: torch.device) -> Iterator[_Work]:
    for size in MATRIX_SIZES:
        a, b = (
            torch.randint(-1, 2, (size, size), dtype=torch.int8, device=device) for _ in range(2)
        )
        try:
            torch._int_mm(a, b.T)
        except RuntimeError:  # not on this device
            return
        yield _Work(2 * size**3, partial(torch._int_mm, a, b.T))


def _int8_convolutions(device: torch.device) -> Iterator[_Work]:
    """By oneDNN, as packed layers have them; torch has none for a GPU."""
    if device.type != "cpu" or not int8.is_available():
        return
    weight = 2 * torch.randint(2, (256, 256, 3, 3), dtype=torch.int8) - 1
    for batch in BATCHES:
        negative = torch.rand(batch, 256, 32, 32) < 0.5
        negative = negative.contiguous(memory_format=torch.channels_last)
        yield _Work(_operations(batch), partial(int8.conv2d_w1a1, negative, weight, [1, 1], [1, 1]))


def _operations(batch: int) -> int:
    """Of the convolution of so many images."""
    return 2 * batch * 32 * 32 * 256 * 256 * 3 * 3


def _bit_products(device: torch.device) -> Iterator[_Work]:
    if device.type == "cpu":
        run = partial(popcount_peak, POPCOUNT_STEPS)
    elif target_of(device).has_bit_mma:
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        run = partial(bit_mma_peak, device, PROGRAMS_PER_PROCESSOR * processors, MMA_STEPS)
    else:
        return
    try:
        multiply_adds = run()
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no compiler
        return
    yield _Work(2 * multiply_adds, run)
