"""Ten thousand damaged and forged files: one clear error, or exactly what the bytes say."""

import json
import os
import re
import tracemalloc
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.packed.mutations import DAMAGES, JUDGED, READ, REFUSED, reweigh
from tests.packed.packed_bytes import (
    Item,
    as_item,
    header_of,
    items_of,
    put_together,
    take_apart,
)

from tribin.packed.format import PackedFormatError, read_packed

SEEDS = range(10)
DAMAGED, FORGED, REWEIGHTED = 400, 500, 100  # files of each kind for one seed: 10,000 in all


def read(path: Path, data: bytes) -> tuple[dict[str, Any], dict[str, Item]] | None:
    """What reading the bytes as a file gives, None for the one error that may be raised."""
    path.write_bytes(data)
    try:
        file = read_packed(path)
    except PackedFormatError as error:
        message = str(error)
    else:
        return file.header, {name: as_item(tensor) for name, tensor in file.tensors.items()}
    assert message.startswith(f"{path}: ")
    assert message.encode()  # no halves of surrogate pairs, which can't be printed
    return None


# --- damage, which the checksum finds


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_is_always_refused(seed: int, path: Path, data: bytes) -> None:
    random = Random(seed)
    for mutate in islice(cycle(DAMAGES), DAMAGED):
        changed = mutate(random, data)
        assert read(path, changed) is None or changed == data, (mutate.__name__, changed)


# --- forgery, with the checksum that the forged bytes have


@pytest.mark.parametrize("seed", SEEDS)
def test_a_forged_file_is_refused_or_read_as_its_bytes_say(
    seed: int, path: Path, data: bytes
) -> None:
    random = Random(seed)
    for mutate in islice(cycle(REFUSED + READ + JUDGED), FORGED):
        changed = mutate(random, data)
        content = read(path, changed)
        if content is None:
            assert mutate not in READ, (mutate.__name__, changed)
        else:
            assert mutate not in REFUSED, (mutate.__name__, changed)
            assert content == (header_of(changed), items_of(changed)), (mutate.__name__, changed)


def is_finite(item: Item) -> bool:
    dtype, _, content = item
    exponents = {
        "F32": lambda: np.frombuffer(content, "<u4") >> 23 & 0xFF,
        "BF16": lambda: np.frombuffer(content, "<u2") >> 7 & 0xFF,
        "I32": lambda: np.zeros(1, int),
    }[dtype]()
    return bool((exponents != 0xFF).all())


@pytest.mark.parametrize("seed", SEEDS)
def test_other_weights_are_read_exactly_where_all_are_finite(
    seed: int, path: Path, data: bytes
) -> None:
    random = Random(seed)
    for _ in range(REWEIGHTED):
        changed = reweigh(random, data)
        items = items_of(changed)
        expected = (header_of(changed), items) if all(map(is_finite, items.values())) else None
        assert read(path, changed) == expected


# --- little memory, whatever a file asks for


def peak_memory(path: Path) -> tuple[str, int]:
    """The refusal of a file, and the most bytes that Python held meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(PackedFormatError) as caught:
            read_packed(path)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("head_bytes", [0, 8, 49, 113, None])
def test_a_terabyte_is_refused_in_little_memory(
    head_bytes: int | None, path: Path, data: bytes
) -> None:
    path.write_bytes(data[:head_bytes])
    os.truncate(path, 2**40)  # a hole, which takes no room on the disk
    _, peak = peak_memory(path)
    assert peak < 16 * 2**20


@pytest.mark.parametrize("length", [2**21 + 8, 2**30, 2**40 - 8])
def test_a_huge_index_is_refused_in_little_memory(length: int, path: Path, data: bytes) -> None:
    path.write_bytes(length.to_bytes(8, "little") + data[8:])
    os.truncate(path, 2**40)
    message, peak = peak_memory(path)
    assert re.search(f"index has {length} bytes; 2097152 are allowed", message)
    assert peak < 16 * 2**20


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("*", [65537, 0]),
        ("*.*.*", [2**16, 2**16, 2**16, 0]),
        (".".join("*" * 12), [8] * 12 + [0]),
        ("x" * 500 + ".*", [2**40, 0]),
    ],
)
def test_names_for_billions_of_empty_tensors_are_refused_in_little_memory(
    name: str, shape: list[int], path: Path, data: bytes
) -> None:
    index, payload = take_apart(data)
    entries = json.loads(index)
    entries[name] = {**entries["nothing"], "shape": shape}
    path.write_bytes(put_together(entries, payload))
    message, peak = peak_memory(path)
    assert "it holds more than 65536 tensors" in message
    assert peak < 2**20


def test_an_index_full_of_empty_lists_costs_a_small_multiple_of_its_size(
    path: Path, data: bytes
) -> None:
    index, payload = take_apart(data)
    filling = ",".join(["[]"] * 100_000)  # 3 bytes each, 64 as a list of Python
    path.write_bytes(put_together(f'{index.rstrip()[:-1]},"x":[{filling}]}}', payload))
    message, peak = peak_memory(path)
    assert "'x' should have dtype" in message
    assert peak < 40 * path.stat().st_size
