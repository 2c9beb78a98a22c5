"""Small kernels, good and faulty, and what a process that can compile says of them.

`python -m tests.kernels.toy_kernels` prints the reports as JSON; it must not run in the
interpreter.
"""

# ruff: noqa: N803

import json
from dataclasses import asdict

import torch
import triton
import triton.language as tl

from tribin_kernels.inspect.compile import compile_kernel, compile_launch
from tribin_kernels.launch import Launch
from tribin_kernels.target import Target

TARGETS = (Target("cuda", 80), Target("cuda", 90), Target("cuda", 100), Target("hip", "gfx942"))


@triton.jit
def product(x, y, z, steps, SIZE: tl.constexpr, FAULT: tl.constexpr):
    """Sum of products of SIZE × SIZE matrices."""
    i = tl.arange(0, SIZE)
    offsets = i[:, None] * SIZE + i[None, :]
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for step in range(steps):
        a = tl.load(x + step * SIZE * SIZE + offsets)
        b = tl.load(y + step * SIZE * SIZE + offsets)
        if FAULT == "no tensor core":
            total += a.to(tl.float32) * b.to(tl.float32)
        elif FAULT == "register conversion":
            total = tl.dot(tl.dot(a, b).to(tl.bfloat16), b, total)
        else:
            total = tl.dot(a, b, total)
        if FAULT == "shared conversion":
            total += tl.trans(total)
    tl.store(z + offsets, total)


@triton.jit(do_not_specialize=["plain"])
def arguments(aligned, shifted, none, one, sixteen, odd, large, plain, real, flag, out):
    """Uses all its arguments, so that each that is no constant is seen in the IR."""
    value = one + sixteen + odd + large + plain + real + flag
    if none is not None:
        value += 1
    tl.store(out, value + tl.load(aligned) + tl.load(shifted))


def product_launch(fault: str) -> Launch:
    """A launch of `product`; with the fault "spills", of a size that no thread's registers hold."""
    halves = torch.empty(1 << 20, dtype=torch.bfloat16, device="meta")
    tensors = {"x": halves, "y": halves, "z": torch.empty(1 << 20, device="meta"), "steps": 100}
    size = 256 if fault == "spills" else 64
    return Launch(product, (1,), tensors, {"SIZE": size, "FAULT": fault}, 4, 3)


def arguments_launch() -> Launch:
    """A launch of `arguments` with one value of each kind that Triton tells apart."""
    x = torch.empty(64, device="meta")
    integers = {"one": 1, "sixteen": 48, "odd": 17, "large": 2**40 + 1, "plain": 1}
    values = {"aligned": x, "shifted": x[1:], "none": None, "real": 0.5, "flag": True, "out": x[4:]}
    return Launch(arguments, (1,), {**values, **integers}, {}, 4, 3)


def main() -> None:
    """Print {fault: {target: report}} of `product`, and the first IR of `arguments`."""
    faults = ("", "spills", "no tensor core", "shared conversion", "register conversion")
    reports = {
        fault: {
            target.label: asdict(compile_launch(product_launch(fault), target, fault))
            for target in (TARGETS if fault == "" else TARGETS[1:2])
        }
        for fault in faults
    }
    ir = compile_kernel(arguments_launch(), TARGETS[1]).asm["ttir"]
    print(json.dumps({"reports": reports, "arguments": ir}))


if __name__ == "__main__":
    main()
