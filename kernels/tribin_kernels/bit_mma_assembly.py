"""The inline assembly of `bit_mma`: what Triton has no word for.

Each snippet works on the four elements that a lane holds of each flat tensor, `pack=4`; operands
are numbered after results.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


def _constraints(outputs: int, inputs: int) -> tl.constexpr:
    return tl.constexpr(",".join(["=&r"] * outputs + ["r"] * inputs))


# 16 pixels × 16 outputs. Columns 2t and 2t + 1 of two n8 tiles become a lane's four neighbours;
# row g of the tensor core, the first image, comes out first, row g + 8 second.
MMA = tl.constexpr("""{
// MMA
mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc
    {$0, $1, $4, $5}, {$8, $9, $10, $11}, {$12, $13}, {$16, $17, $20, $21};
mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc
    {$2, $3, $6, $7}, {$8, $9, $10, $11}, {$14, $15}, {$18, $19, $22, $23};
}""")
MMA_REGISTERS = _constraints(8, 16)

# The ones of a lane's operand are added to its counts, which are in 0 for row g, 2 for row g + 8.
COUNT = tl.constexpr("""{
// COUNT
.reg .b32 ones;
popc.b32 ones, $4; add.s32 $0, $8, ones;
popc.b32 ones, $6; add.s32 $0, $0, ones; mov.b32 $1, $0;
popc.b32 ones, $5; add.s32 $2, $10, ones;
popc.b32 ones, $7; add.s32 $2, $2, ones; mov.b32 $3, $2;
}""")
COUNT_REGISTERS = _constraints(4, 8)

# The counts of the four lanes of a pixel are added up and given to all its results.
TOTAL = tl.constexpr("""{
// TOTAL
.reg .b32 other;
shfl.sync.bfly.b32 other, $8, 1, 31, -1; add.s32 $0, $8, other;
shfl.sync.bfly.b32 other, $0, 2, 31, -1; add.s32 $0, $0, other;
mov.b32 $1, $0; mov.b32 $2, $0; mov.b32 $3, $0;
shfl.sync.bfly.b32 other, $10, 1, 31, -1; add.s32 $4, $10, other;
shfl.sync.bfly.b32 other, $4, 2, 31, -1; add.s32 $4, $4, other;
mov.b32 $5, $4; mov.b32 $6, $4; mov.b32 $7, $4;
}""")
TOTAL_REGISTERS = _constraints(8, 4)


def _push(first: int, second: int) -> tl.constexpr:
    """Shift the sign bits of four results of each image into that image's word, the last first."""
    lines = [f"mov.b32 ${i}, ${4 + i};" for i in range(4)]
    for i in (3, 2, 1, 0):
        lines.append(f"shf.l.wrap.b32 ${first}, ${8 + i}, ${first}, 1;")
        lines.append(f"shf.l.wrap.b32 ${second}, ${12 + i}, ${second}, 1;")
    return tl.constexpr("\n".join(["{", f"// PUSH {first} {second}", *lines, "}"]))


PUSH_01, PUSH_23 = _push(0, 1), _push(2, 3)
PUSH_REGISTERS = _constraints(4, 12)

TWICE = tl.constexpr("""{
// TWICE
mov.b32 $0, $4; mov.b32 $1, $5; mov.b32 $2, $4; mov.b32 $3, $5;
}""")
EACH = tl.constexpr("""{
// EACH
mov.b32 $0, $4; mov.b32 $1, $4; mov.b32 $2, $5; mov.b32 $3, $5;
}""")
REPEAT_REGISTERS = _constraints(4, 4)


@triton.jit
def multiply_tiles(a, b, first, second):
    """first, second += popcounts of a & b: a tile of 16 pixels × 16 outputs × 256 channels."""
    return tl.inline_asm_elementwise(
        MMA, MMA_REGISTERS, [a, b, first, second], (tl.int32, tl.int32), is_pure=True, pack=4
    )


@triton.jit
def count_ones(a, ones):
    """Ones += the ones of a lane's share of its two pixels."""
    return tl.inline_asm_elementwise(
        COUNT, COUNT_REGISTERS, [a, ones], tl.int32, is_pure=True, pack=4
    )


@triton.jit
def total_ones(ones):
    """The ones of the first and of the second pixel, from the shares of four lanes."""
    return tl.inline_asm_elementwise(
        TOTAL, TOTAL_REGISTERS, [ones], (tl.int32, tl.int32), is_pure=True, pack=4
    )


@triton.jit
def push_signs(words, first, second, HALF: tl.constexpr):
    """Shift four sign bits of each image into its word of that half of 256 channels."""
    push: tl.constexpr = PUSH_01 if HALF == 0 else PUSH_23
    first, second = first.to(tl.int32, bitcast=True), second.to(tl.int32, bitcast=True)
    return tl.inline_asm_elementwise(
        push, PUSH_REGISTERS, [words, first, second], tl.int32, is_pure=True, pack=4
    )


@triton.jit
def repeat(words, assembly: tl.constexpr):
    """A lane's first two words in all its four places, as TWICE or EACH has it."""
    return tl.inline_asm_elementwise(
        assembly, REPEAT_REGISTERS, [words], tl.int32, is_pure=True, pack=4
    )
