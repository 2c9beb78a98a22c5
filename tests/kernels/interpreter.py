"""Triton's interpreter, mended: kernels then run on the CPU as they would on a GPU.

`install` gives the interpreter what it lacks: the meaning of the kernels' inline assembly, bfloat16
products and conversions, and a fused multiply-add that rounds once. TRITON_INTERPRET=1 must be set
before triton is imported.

A snippet of inline assembly starts with a comment line that names it, `// NAME`. Its meaning is a
function decorated with `@meaning("NAME")`: it takes one array [..., pack] for each operand, `pack`
being the elements that one thread holds, and returns an array of that shape, or a tuple of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

MEANINGS: dict[str, Callable[..., Any]] = {}


def meaning(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as what the snippet `// name` computes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        MEANINGS[name] = function
        return function

    return register


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 → the bits of its bfloat16, rounded to nearest even, as uint16."""
    rounded = torch.from_numpy(np.ascontiguousarray(x, np.float32)).bfloat16()
    return rounded.view(torch.int16).numpy().view(np.uint16)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 as uint16 → float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def install() -> None:
    """Replace the interpreter's operations that are missing or inexact."""
    InterpreterBuilder.create_inline_asm = _inline_asm
    InterpreterBuilder.create_fma = _fma
    InterpreterBuilder.create_dot = _dot
    InterpreterBuilder.cast_impl = _cast
    InterpreterBuilder.create_fp_to_fp = lambda self, x, dtype, rounding: _cast(self, x, dtype)


class _Results:
    def __init__(self, handles: list[TensorHandle]) -> None:
        self.handles = handles

    def get_result(self, i: int) -> TensorHandle:
        return self.handles[i]


def _inline_asm(
    self: Any, asm: str, constraints: str, values: Any, types: Any, is_pure: bool, pack: int
) -> _Results:
    name = asm.replace("{", "").strip().splitlines()[0].removeprefix("//").strip()
    operands = [np.ascontiguousarray(v.data).reshape(*v.data.shape[:-1], -1, pack) for v in values]
    results = MEANINGS[name](*operands)
    results = results if isinstance(results, tuple) else (results,)
    shape = values[0].data.shape
    return _Results(
        [TensorHandle(r.reshape(shape), t.scalar) for r, t in zip(results, types, strict=True)]
    )


def _values(x: TensorHandle) -> np.ndarray:
    return bfloat16_values(x.data) if x.dtype.scalar == tl.bfloat16 else x.data


def _dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> TensorHandle:
    product = np.matmul(_values(a).astype(d.data.dtype), _values(b).astype(d.data.dtype))
    return TensorHandle(product + d.data, d.dtype.scalar)


def _fma(self: Any, x: Any, y: Any, z: Any) -> TensorHandle:
    exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
    return TensorHandle(exact.astype(x.data.dtype), z.dtype.scalar)


def _cast(self: Any, x: Any, dtype: Any) -> TensorHandle:
    values, wanted = _values(x), dtype.scalar
    if wanted == tl.bfloat16:
        return TensorHandle(bfloat16_bits(values), wanted)
    return TensorHandle(values.astype(interpreter._get_np_dtype(wanted)), wanted)
