"""Layout conversions inside loops, read from the last IR that has tensors."""

import tempfile
from typing import Any

from triton._C.libtriton import ir, passes
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend


def loop_conversions(ttgir: str, target: GPUTarget) -> list[bool]:
    """One item for each `ttg.convert_layout` inside a loop: whether it goes through shared memory.

    Triton's own allocation tells: it gives an offset to the conversions that need shared memory.
    """
    context = ir.context()
    ir.load_dialects(context)
    make_backend(target).load_dialects(context)
    module = _parse(ttgir, context)
    allocation = ir.pass_manager(context)
    passes.ttgpuir.add_allocate_shared_memory(allocation)
    allocation.run(module, "allocate_shared_memory")
    return _walk(module)


def _parse(ttgir: str, context: Any) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".ttgir") as file:
        file.write(ttgir)
        file.flush()
        module = ir.parse_mlir_module(file.name, context)
    module.context = context  # keeps it alive as long as the module
    return module


def _walk(module: Any) -> list[bool]:
    loops: set[int] = set()
    conversions: list[Any] = []

    def visit(operation: Any) -> None:
        if operation.get_name() in ("scf.for", "scf.while"):
            regions = range(operation.get_num_regions())
            loops.update(operation.get_region(i).id for i in regions)
        if operation.get_name() == "ttg.convert_layout":
            conversions.append(operation)

    module.walk(visit)
    inside = [operation for operation in conversions if _enclosing_regions(operation) & loops]
    return [operation.get_int_attr("allocation.offset") is not None for operation in inside]


def _enclosing_regions(operation: Any) -> set[int]:
    found, region = set(), operation.get_block().get_parent()
    while region is not None:
        found.add(region.id)
        region = region.get_parent_region()
    return found
