"""Registers, stack and instructions, read from NVIDIA's SASS and from AMD's assembly.

The kinds of instructions that are counted: the tensor core's by their own names (BMMA, HMMA, IMMA,
HGMMA, IGMMA, UTCHMMA, MFMA, ...; "HGMMA register A" are those whose left operand is in
registers); "load 128", "store 32", "async load 128" to and from global memory by the bits that a
thread moves, and "bulk load"; "shared load", "shared store"; "local load", "local store", which
are spills; "shuffle", "barrier" and "popcount".
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

_SASS_LINE = re.compile(
    r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z]\w*)((?:\.\w+)*) *([^;]*);", re.MULTILINE
)
_SASS_KINDS = {
    "LDG": "load", "STG": "store", "LDGSTS": "async load", "UTMALDG": "bulk load",
    "LDS": "shared load", "LDSM": "shared load", "STS": "shared store", "STSM": "shared store",
    "LDL": "local load", "STL": "local store",
    "SHFL": "shuffle", "BAR": "barrier", "POPC": "popcount",
}  # fmt: skip
_AMDGCN_LINE = re.compile(r"^\s+([a-z]+_\w+)([^;\n]*)", re.MULTILINE)
_AMDGCN_KINDS = {
    r"v_mfma": "MFMA",
    r"(global|buffer|flat)_load": "load", r"(global|buffer|flat)_store": "store",
    r"ds_(read|load)": "shared load", r"ds_(write|store)": "shared store",
    r"scratch_load": "local load", r"scratch_store": "local store",
    r"ds_(bpermute|permute|swizzle)|v_permlane": "shuffle",
    r"s_barrier": "barrier", r"[sv]_bcnt": "popcount",
}  # fmt: skip
_AMDGCN_BITS = {"ubyte": 8, "sbyte": 8, "byte": 8, "ushort": 16, "sshort": 16, "short": 16}
_WITH_BITS = ("load", "store", "async load")


@dataclass(frozen=True)
class MachineCode:
    """What is read of a kernel's machine code, see `compile.Report`."""

    registers: int
    stack_bytes: int
    instructions: dict[str, int]


def read_cubin(cubin: bytes) -> MachineCode:
    """Read a binary for one of NVIDIA's GPUs."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", "--dump-sass", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return read_sass(listing)


def read_sass(listing: str) -> MachineCode:
    """Read what cuobjdump prints of a binary's resources and code."""
    usage = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    assert usage is not None
    kinds = Counter(kind for line in _SASS_LINE.findall(listing) for kind in _sass_kinds(*line))
    return MachineCode(int(usage[1]), int(usage[2]), dict(sorted(kinds.items())))


def read_amdgcn(assembly: str) -> MachineCode:
    """Read the assembly text for one of AMD's GPUs."""
    usage = re.search(r"^; TotalNumVgprs: (\d+)\n; ScratchSize: (\d+)", assembly, re.MULTILINE)
    assert usage is not None
    kinds = Counter(
        kind for line in _AMDGCN_LINE.findall(assembly) for kind in _amdgcn_kinds(*line)
    )
    return MachineCode(int(usage[1]), int(usage[2]), dict(sorted(kinds.items())))


def _sass_kinds(name: str, modifiers: str, operands: str) -> list[str]:
    if re.fullmatch(r"\w*MMA", name):
        from_registers = re.match(r"R\d+, R\d+", operands) and name.endswith("GMMA")
        return [name, f"{name} register A"] if from_registers else [name]
    kind = _SASS_KINDS.get(name)
    if kind not in _WITH_BITS:
        return [kind] if kind else []
    bits = re.search(r"\.(?:ENL2\.)?[US]?(8|16|64|128|256)\b", modifiers)
    return [f"{kind} {bits[1] if bits else 32}"]


def _amdgcn_kinds(name: str, operands: str) -> list[str]:
    kind = next((k for pattern, k in _AMDGCN_KINDS.items() if re.match(pattern, name)), None)
    if kind not in _WITH_BITS:
        return [kind] if kind else []
    if "_lds" in name or re.search(r"\blds\b", operands):
        kind = "async load"
    words = re.search(r"dword(?:x(\d))?", name)
    if words:
        return [f"{kind} {32 * int(words[1] or 1)}"]
    size = name.split("_")[2]
    return [f"{kind} {_AMDGCN_BITS[size]}"]
