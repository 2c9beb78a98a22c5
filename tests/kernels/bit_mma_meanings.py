"""What the inline assembly of `tribin_kernels.bit_mma_assembly` computes, after the PTX ISA.

An array is [warps · 32 lanes, 4], and its columns are the registers that a snippet numbers.
"""

import numpy as np
from tests.kernels.interpreter import meaning

LANES = np.arange(32)
GROUP, THREAD = LANES // 4, LANES % 4
"""groupID and threadID_in_group of the ISA."""


def matrix_multiply_accumulate(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """mma.m16n8k256.and.popc of registers a [warps, 32, 4], b [warps, 32, 2], d [warps, 32, 4]."""
    warps = len(a)
    rows, columns = np.zeros((warps, 16, 8), np.uint32), np.zeros((warps, 8, 8), np.uint32)
    for i in range(4):  # a1 and a3 hold row g + 8; a2 and a3 the second half of K
        rows[:, GROUP + 8 * (i % 2), THREAD + 4 * (i // 2)] = a[..., i].view(np.uint32)
    for i in range(2):
        columns[:, GROUP, THREAD + 4 * i] = b[..., i].view(np.uint32)
    product = np.zeros((warps, 16, 8), np.int32)
    for word in range(8):
        both = rows[:, :, None, word] & columns[:, None, :, word]
        product += np.bitwise_count(both).astype(np.int32)
    gathered = [product[:, GROUP + 8 * (i // 2), 2 * THREAD + i % 2] for i in range(4)]
    return d + np.stack(gathered, -1)


@meaning("MMA")
def mma(
    a: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    a, b, low, high = (x.reshape(-1, 32, 4) for x in (a, b, low, high))
    first, second = (
        matrix_multiply_accumulate(
            a, b[..., i : i + 2], np.concatenate([low[..., i : i + 2], high[..., i : i + 2]], -1)
        )
        for i in (0, 2)
    )
    return (
        np.concatenate([first[..., :2], second[..., :2]], -1),
        np.concatenate([first[..., 2:], second[..., 2:]], -1),
    )


@meaning("COUNT")
def count(a: np.ndarray, ones: np.ndarray) -> np.ndarray:
    found = np.bitwise_count(a.view(np.uint32)).astype(np.int32)
    low = ones[:, 0] + found[:, 0] + found[:, 2]
    high = ones[:, 2] + found[:, 1] + found[:, 3]
    return np.stack([low, low, high, high], -1)


@meaning("TOTAL")
def total(ones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    quads = ones.reshape(-1, 4, 4).sum(1, dtype=np.int32)
    low, high = (np.repeat(quads[:, i], 16).reshape(-1, 4) for i in (0, 2))
    return low, high


def push(words: np.ndarray, results: np.ndarray, word: int) -> None:
    """shf.l.wrap of one place for each of four results: the sign bit comes in at the bottom."""
    shifted = words[:, word].view(np.uint32)
    for i in (3, 2, 1, 0):
        shifted = shifted << np.uint32(1) | results[:, i].view(np.uint32) >> np.uint32(31)
    words[:, word] = shifted.view(np.int32)


@meaning("PUSH 0 1")
def push_01(words: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    words = words.copy()
    push(words, low, 0)
    push(words, high, 1)
    return words


@meaning("PUSH 2 3")
def push_23(words: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    words = words.copy()
    push(words, low, 2)
    push(words, high, 3)
    return words


@meaning("TWICE")
def twice(words: np.ndarray) -> np.ndarray:
    return words[:, [0, 1, 0, 1]]


@meaning("EACH")
def each(words: np.ndarray) -> np.ndarray:
    return words[:, [0, 0, 1, 1]]
