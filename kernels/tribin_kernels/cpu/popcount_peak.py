"""How fast a CPU multiplies signs whose operands never leave its registers."""

import ctypes
from functools import cache
from pathlib import Path

from tribin_kernels.cpu.native import compiled


def popcount_peak(steps: int) -> int:
    """Multiply signs on every thread of torch's, in the instructions of the native kernel.

    Args:
        steps: how long, at most 2²⁶; a thousand take microseconds.

    Returns:
        How many multiply-adds it was.

    Raises:
        OSError, subprocess.CalledProcessError: as `compiled`, if it can't be compiled.
    """
    return int(_library().popcount_peak(ctypes.c_int64(steps)))


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled(Path(__file__).with_suffix(".cpp"))))
    library.popcount_peak.restype = ctypes.c_int64
    return library
