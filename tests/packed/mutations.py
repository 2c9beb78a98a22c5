"""Ways to damage a packed file, and to forge one whose checksum is right."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.packed.packed_bytes import (
    CHECKSUM,
    put_together,
    take_apart,
    with_checksum,
    with_entry,
    with_header,
)

Mutation = Callable[[Random, bytes], bytes]

ODD: list[Any] = [
    -1, 0, 1, 2, 6, 24, 2**31, 2**62, 2**63, 2**64, 10**40, 0.0, 1.5, 1e308, True, False, None,
    "", "3", "F32", "I16", [], [0], [1], [-1], [2**40, 2**40], [0, 2**63], [[]], {}, {"a": 1},
]  # fmt: skip
JUNK = '{}[]",:\\ 0123456789-+.eEtfnu*\x00\x7fé\ud800'


# --- damage, which the checksum finds


def cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def extend(random: Random, data: bytes) -> bytes:
    return data + random.randbytes(random.randint(1, 64))


def flip_bits(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(random: Random, data: bytes) -> bytes:
    start, length = random.randrange(len(data)), random.randint(1, 64)
    filling = random.choice([bytes(length), random.randbytes(length), b"\xff" * length])
    return data[:start] + filling + data[start + length :]


def leave_out(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randint(1, 64) :]


def repeat(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    stop = start + random.randint(1, 64)
    return data[:stop] + data[start:stop] + data[stop:]


def replace_length(random: Random, data: bytes) -> bytes:
    length = random.choice([0, 8, 2**23, 2**31, 2**63, 2**64 - 8, random.getrandbits(64)])
    return length.to_bytes(8, "little") + data[8:]


def replace_all(random: Random, data: bytes) -> bytes:
    return random.choice([b"", data[:8], data[:49], data[:113]]) + random.randbytes(200)


DAMAGES = [cut, extend, flip_bits, overwrite, leave_out, repeat, replace_length, replace_all]


# --- forgery, with the checksum that the forged bytes have


def entries_of(data: bytes) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads(take_apart(data)[0])
    del entries["__metadata__"]
    return entries


def a_name(random: Random, data: bytes) -> str:
    """A tensor that has elements."""
    return random.choice([name for name in entries_of(data) if name != "nothing"])


def cut_payload(random: Random, data: bytes) -> bytes:
    return with_checksum(data[: -random.randint(1, 50)])


def extend_payload(random: Random, data: bytes) -> bytes:
    return with_checksum(extend(random, data))


def length_of_index(random: Random, data: bytes) -> bytes:
    return with_checksum(replace_length(random, data))


def no_index(random: Random, data: bytes) -> bytes:
    noise = random.choice([random.randbytes(80), b"[" * 2000, b'{"a":' * 2000, b"{}"])
    return with_checksum(data[: CHECKSUM.stop] + noise + data[CHECKSUM.stop + len(noise) :])


def no_dtype(random: Random, data: bytes) -> bytes:
    odd = random.choice(["F64", "F16", "I16", "U8", "BOOL", "f32", "", None, 1, [], ["F32"], {}])
    return with_entry(data, a_name(random, data), dtype=odd)


def no_shape(random: Random, data: bytes) -> bytes:
    shape = random.choice(
        [[-1], [-2, -3], [2**63], [2**63, 0], [1.0], [True], ["1"], [[1]], None, 1]
    )
    return with_entry(data, a_name(random, data), shape=shape)


def other_size(random: Random, data: bytes) -> bytes:
    name = a_name(random, data)
    return with_entry(data, name, shape=[random.randint(2, 9), *entries_of(data)[name]["shape"]])


def no_offsets(random: Random, data: bytes) -> bytes:
    name = a_name(random, data)
    begin, end = entries_of(data)[name]["data_offsets"]
    odd = [[begin], [begin, end, end], [end, begin], [float(begin), end], [begin, str(end)], None,
           [-1, end], [begin, 2**63], [begin, 2**64 + end], {"0": begin, "1": end}]  # fmt: skip
    return with_entry(data, name, data_offsets=random.choice(odd))


def shifted(random: Random, data: bytes) -> bytes:
    """A gap on one side and an overlap on the other."""
    name = a_name(random, data)
    shift = random.choice([-8, -4, -2, -1, 1, 2, 4, 8, 2**40])
    offsets = [offset + shift for offset in entries_of(data)[name]["data_offsets"]]
    return with_entry(data, name, data_offsets=offsets)


def field_too_many(random: Random, data: bytes) -> bytes:
    return with_entry(data, a_name(random, data), **{random.choice(["x", "Dtype"]): None})


def no_entry(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    entries = json.loads(index)
    name = a_name(random, data)
    if random.random() < 0.5:
        del entries[name][random.choice(list(entries[name]))]
    else:
        entries[name] = random.choice(ODD)
    return put_together(entries, payload)


def key_twice(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    name = a_name(random, data)
    twice = random.choice([f'"{name}":{{}},"{name}":', f'"{name}":{{"shape":[],"shape":[]}},"x":'])
    return put_together(index.replace(f'"{name}":', twice), payload)


def no_version(random: Random, data: bytes) -> bytes:
    return with_header(
        data, format_version=random.choice([odd for odd in ODD if odd != 1] + [True])
    )


def deep_header(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    depth = random.choice([33, 100, 900, 5000, 50_000])
    opening, closing = random.choice([("[", "]"), ('{\\"a\\":', "}")])
    deep = opening * depth + "1" + closing * random.choice([0, depth])
    return put_together(index.replace("[256,0.5]", deep), payload)


def no_number(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    odd = random.choice(["NaN", "Infinity", "-Infinity", "1e999", "01", "+1", ".5", "9" * 5000])
    return put_together(index.replace("[256,0.5]", odd), payload)


REFUSED = [
    cut_payload, extend_payload, length_of_index, no_index, no_dtype, no_shape, other_size,
    no_offsets, shifted, field_too_many, no_entry, key_twice, no_version, deep_header, no_number,
]  # fmt: skip


def edit_index(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    start = random.randrange(len(index))
    new = "".join(random.choices(JUNK, k=random.randint(0, 2)))
    return put_together(index[:start] + new + index[start + random.randint(0, 2) :], payload)


def edit_header(random: Random, data: bytes) -> bytes:
    return with_header(data, **{random.choice(["levels", "model", "x", ""]): random.choice(ODD)})


def edit_entry(random: Random, data: bytes) -> bytes:
    field = random.choice(["dtype", "shape", "data_offsets"])
    name = random.choice(list(entries_of(data)))
    return with_entry(data, name, **{field: random.choice(ODD)})


def rename(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    entries = json.loads(index)
    names = ["*", "a.*", "*.*", "blocks.0.weight_bits", "stem.1.weight", "stem.*.weight", "a*", "",
             "{}", "x" * 600, "\n", "é", "🙂", "__metadata__", *entries]  # fmt: skip
    entries[random.choice(names)] = entries.pop(random.choice(list(entries_of(data))))
    return put_together(entries, payload)


def swap_entries(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    entries = json.loads(index)
    first, second = random.sample(list(entries_of(data)), 2)
    fields = random.sample(["dtype", "shape", "data_offsets"], random.randint(1, 3))
    for field in fields:
        swapped = entries[second][field], entries[first][field]
        entries[first][field], entries[second][field] = swapped
    return put_together(entries, payload)


def reorder(random: Random, data: bytes) -> bytes:
    index, payload = take_apart(data)
    entries = json.loads(index)
    names = random.sample(list(entries_of(data)), len(entries) - 1)
    return put_together({name: entries[name] for name in ["__metadata__", *names]}, payload)


def reinterpret(random: Random, data: bytes) -> bytes:
    """Other shapes and dtypes of as many bytes."""
    name = a_name(random, data)
    entry = entries_of(data)[name]
    entry["dtype"] = random.choice(["I32", "F32"]) if entry["dtype"] != "BF16" else "BF16"
    entry["shape"] = random.choice([entry["shape"][::-1], [*entry["shape"], 1], entry["shape"]])
    return with_entry(data, name, **entry)


def damage_and_seal(random: Random, data: bytes) -> bytes:
    return with_checksum(random.choice(DAMAGES)(random, data))


READ = [edit_header, reorder]
JUDGED = [edit_index, edit_entry, rename, swap_entries, reinterpret, damage_and_seal]


def reweigh(random: Random, data: bytes) -> bytes:
    """Other bytes in the payload, or the same in another order."""
    payload = bytearray(take_apart(data)[1])
    for _ in range(random.randint(1, 3)):
        start, other = random.sample(range(0, len(payload) - 16), 2)
        length = random.randint(1, 16)
        parts = [payload[other : other + length], random.randbytes(length), b"\xff" * length]
        payload[start : start + length] = random.choice(parts)
    return with_checksum(data[: -len(payload)] + payload)
