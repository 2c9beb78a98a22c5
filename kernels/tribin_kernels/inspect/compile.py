"""Compile a recorded launch for a GPU that need not be there, and report what came out of it."""

from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from tribin_kernels.inspect.conversions import loop_conversions
from tribin_kernels.inspect.machine_code import read_amdgcn, read_cubin
from tribin_kernels.launch import Launch
from tribin_kernels.target import Target


@dataclass(frozen=True)
class Report:
    """What the compiler made of one launch.

    Args:
        case: that recorded the launch.
        kernel: the file of the Triton function.
        target: "sm_90", "gfx942".
        registers: 32-bit ones of a thread; on AMD's GPUs those of a lane, accumulators included.
        stack_bytes: of a thread; spilled registers lie there.
        shared_bytes: of a program.
        tensor_memory_columns: of a program, on sm_100.
        instructions: how often each kind of `machine_code` is in the code, which is not how often
            it runs.
        loop_conversions: changes of a tensor's layout inside loops.
        shared_loop_conversions: those of them that go through shared memory; the others move
            values between registers, or between the lanes of a warp.
    """

    case: str
    kernel: str
    target: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    tensor_memory_columns: int
    instructions: dict[str, int]
    loop_conversions: int
    shared_loop_conversions: int

    @property
    def tensor_core(self) -> dict[str, int]:
        """The tensor core's part of the instructions."""
        return {
            kind: n for kind, n in self.instructions.items() if kind.partition(" ")[0].isupper()
        }


def compile_launch(launch: Launch, target: Target, case: str = "") -> Report:
    """Compile a launch as it would be compiled on `target` at its first run.

    Raises:
        RuntimeError: Triton interprets kernels in this process, so it cannot compile them.
    """
    compiled = compile_kernel(launch, target)
    read = read_cubin if target.backend == "cuda" else read_amdgcn
    code = read(compiled.asm["cubin" if target.backend == "cuda" else "amdgcn"])
    conversions = loop_conversions(compiled.asm["ttgir"], gpu_target(target))
    return Report(
        case=case,
        kernel=launch.kernel.__module__.rpartition(".")[2],
        target=target.device_name or target.label,
        registers=code.registers,
        stack_bytes=code.stack_bytes,
        shared_bytes=compiled.metadata.shared,
        tensor_memory_columns=getattr(compiled.metadata, "tmem_size", 0),
        instructions=code.instructions,
        loop_conversions=len(conversions),
        shared_loop_conversions=sum(conversions),
    )


def compile_kernel(launch: Launch, target: Target) -> Any:
    """Triton's compiled kernel, made by the code that specialises arguments at a real launch."""
    if not isinstance(launch.kernel, JITFunction):
        raise RuntimeError("kernels can only be compiled in a process without TRITON_INTERPRET")
    backend = make_backend(gpu_target(target))
    values = {
        **launch.arguments,
        **launch.constants,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    bound, specialization, _ = bind(**values)
    options, signature, constants, attributes = launch.kernel._pack_args(
        backend, values, bound, specialization, None
    )
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=gpu_target(target), options=options.__dict__)


def gpu_target(target: Target) -> GPUTarget:
    """Triton's name of a target."""
    return GPUTarget(target.backend, target.arch, 32 if target.backend == "cuda" else 64)
