"""What is no packed file, or not a sound one: one clear message, before a tensor is made."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.packed.packed_bytes import (
    CHECKSUM,
    flipped,
    header_of,
    put_together,
    take_apart,
    with_entry,
    with_header,
)

from tribin.errors import InputError
from tribin.packed.format import PackedFormatError, read_packed, write_packed


def refusal(path: Path) -> str:
    """The message, without the path, of the error that reading the file raises."""
    with pytest.raises(PackedFormatError) as caught:
        read_packed(path)
    assert isinstance(caught.value, InputError)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def refusal_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return refusal(path)


# --- what is no packed model


def test_a_missing_file_is_named(path: Path) -> None:
    assert refusal(path) == "there is no such file"


def test_a_folder_is_named(tmp_path: Path) -> None:
    assert "this is a folder" in refusal(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_it(path: Path) -> None:
    os.mkfifo(path)
    assert refusal(path) == "this is not a regular file"


def test_an_unreadable_file_is_refused(
    path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refusal(path)


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (1,)


def test_a_pickle_is_recognized_and_not_unpickled(path: Path) -> None:
    for protocol in range(2, 6):
        assert "looks like a pickle" in refusal_of(path, pickle.dumps([Bomb()], protocol))
    torch.save({"weight": Bomb()}, path)
    assert "looks like a pickle or a file of torch.save" in refusal(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"tribin": "{}"}])
def test_a_safetensors_file_of_others_is_recognized(
    path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"weight": torch.zeros(3)}, path, metadata)
    assert "a safetensors file, but not like one of a packed model" in refusal(path)


def test_what_is_nothing_of_these_is_refused(path: Path) -> None:
    assert refusal_of(path, b"") == "the file is empty"
    for content in (b"x", b"12345678", b"a text\n" * 100, b"\x00" * 200, os.urandom(200) + b"\n"):
        assert "not a safetensors file" in refusal_of(path, content)


# --- damage


def test_every_byte_of_the_file_is_guarded(path: Path, data: bytes) -> None:
    for position in range(len(data)):
        path.write_bytes(flipped(data, position, bit=position % 8))
        with pytest.raises(PackedFormatError):
            read_packed(path)


def test_every_cut_of_the_file_is_noticed(path: Path, data: bytes) -> None:
    for length in range(len(data)):
        message = refusal_of(path, data[:length])
        if length > 8:
            assert "cut off" in message


def test_cut_off_and_trailing_bytes_are_counted(path: Path, data: bytes) -> None:
    payload = len(take_apart(data)[1])
    assert refusal_of(path, data[:-3]) == (
        f"the file is cut off: its tensors have {payload} bytes, it has {payload - 3}"
    )
    assert refusal_of(path, data + b"12345") == (
        f"bytes follow the tensors: its tensors have {payload} bytes, it has {payload + 5}"
    )


def test_a_changed_payload_is_damage(path: Path, data: bytes) -> None:
    assert "damaged" in refusal_of(path, flipped(data, len(data) - 1))


def test_a_checksum_spelled_otherwise_is_refused(path: Path, data: bytes) -> None:
    checksum = header_of(data)["sha256"]
    capitals = data.replace(checksum.encode(), checksum.upper().encode())
    assert "checksum" in refusal_of(path, capitals)
    index, payload = take_apart(data)
    longer = put_together(index.replace(checksum, checksum + "00"), payload)
    assert "checksum" in refusal_of(path, longer)


def test_a_checksum_that_is_right_only_as_json_is_refused(path: Path, data: bytes) -> None:
    """Its last digit is escaped; readers that look at the bytes would not accept it."""
    index, payload = take_apart(data)
    checksum = header_of(data)["sha256"]
    for attempt in range(1000):  # one in 16 ends with the digit that is escaped
        escaped = index.replace(checksum, "0" * 63 + r"\\u0061").replace("[256", f"[{attempt}")
        forged = put_together(escaped, payload)
        digest = forged[CHECKSUM]
        if digest.endswith(b"a"):
            break
    forged = forged[: CHECKSUM.stop - 1] + b"\\" + forged[CHECKSUM.stop :]
    assert header_of(forged)["sha256"].encode() == digest
    assert "checksum" in refusal_of(path, forged)


# --- wrong in itself, with the checksum that its bytes have


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_format_is_called_so(path: Path, data: bytes, version: int) -> None:
    assert refusal_of(path, with_header(data, format_version=version)) == (
        f"a newer tribin wrote it: its format_version is {version}, and this tribin reads 1"
    )


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, [1]])
def test_a_format_version_that_is_none_is_refused(path: Path, data: bytes, version: Any) -> None:
    message = refusal_of(path, with_header(data, format_version=version))
    assert message == f"its format_version is {version!r}; this tribin reads 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "F16"}, "dtype 'F16', not of I32, I64, F32, BF16"),
        ({"dtype": ["F32"]}, "dtype ['F32'], not of"),
        ({"shape": [7]}, "has 28 bytes by its shape [7] and dtype F32, but data_offsets"),
        ({"shape": [-2, -3]}, "has shape [-2, -3], which no tensor can have"),
        ({"shape": [2.0, 3]}, "has shape [2.0, 3], which no tensor can have"),
        ({"shape": [True, 6]}, "has shape [True, 6], which no tensor can have"),
        ({"shape": "23"}, "has shape '23', which no tensor can have"),
        ({"shape": [2**62, 0]}, "which no tensor can have"),
        ({"shape": [0] * 17}, "which no tensor can have"),
        ({"data_offsets": [0]}, "has data_offsets [0], not two byte counts"),
        ({"data_offsets": [0, 24.0]}, "has data_offsets [0, 24.0], not two byte counts"),
        ({"data_offsets": [-24, 0]}, "has data_offsets [-24, 0], not two byte counts"),
        ({"data_offsets": [24, 0]}, "has 24 bytes by its shape [2, 3]"),
        ({"data_offsets": [2**70, 2**70 + 24]}, "tensors before it end at byte"),
        ({"data_offsets": [4, 28]}, "begins at byte 4 of the payload, and the tensors before it"),
        ({"device": "cpu"}, "should have dtype, shape and data_offsets, no more"),
    ],
)
def test_an_entry_that_is_wrong_is_named(
    path: Path, data: bytes, changes: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(path, with_entry(data, "stem.1.weight", **changes))


def index_with(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    index, payload = take_apart(data)
    entries = json.loads(index)
    change(entries)
    return put_together(entries, payload)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["__metadata__"].update(format="pt"), "metadata holds more than"),
        (lambda e: e.update(extra=None), "'extra' should have dtype, shape and data_offsets"),
        (lambda e: e["temperature"].pop("dtype"), "'temperature' should have dtype"),
        (lambda e: e.pop("temperature"), "tensors before it end at byte"),
        (lambda e: e.update({"": e.pop("temperature")}), "name has 0 characters"),
        (lambda e: e.update({"a\nb": e.pop("temperature")}), "'a\\nb' holds a control character"),
        (lambda e: e.update({"*": e.pop("temperature")}), "stacks no tensors"),
        (lambda e: e.update({"stem.*": e.pop("stem.1.weight"), "stem.1": e["nothing"]}), "two"),
    ],
)
def test_an_index_that_is_wrong_is_refused(
    path: Path, data: bytes, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    assert message in refusal_of(path, index_with(data, change))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"nothing":{', '"temperature":{', "its index is damaged: the key 'temperature'"),
        ('"dtype":"F32",', '"dtype":"F32","dtype":"F32",', "the key 'dtype' is there twice"),
        ('\\"model\\":null', '\\"tribin\\":null', "its header is damaged: the key 'tribin'"),
        ("[256,0.5]", '{\\"a\\":1,\\"a\\":1}', "the key 'a' is there twice"),
        ("[256,0.5]", "NaN", "NaN is not a finite number"),
        ("[256,0.5]", "-Infinity", "-Infinity is not a finite number"),
        ("[256,0.5]", "1e999", "1e999 is not a finite number"),
        ("[256,0.5]", "[256,]", "its header is damaged"),
        ("[256,0.5]", "9" * 5000, "its header is damaged"),
        ("[256,0.5]", "[" * 100000, "its header is damaged"),
        ("[256,0.5]", "[" * 40 + "]" * 40, "its header is nested 41 deep, and may be 32"),
        ("[256,0.5]", '\\"\\\\ud800\\"', "surrogates not allowed"),
        ('"temperature"', '"\\udfff"', "surrogates not allowed"),
        ('"nothing":{', '"nothing":' + "[" * 100000, "its index is damaged"),
        ('"nothing":{', '"nothing":{{', "its index is damaged"),
        ('"nothing":{', '"\udfff":{', "its index is damaged: 'utf-8' codec can't decode"),
        ("}}", "}}}", "its index is damaged"),
        ("}}", "}} 1", "its index is damaged"),
    ],
)
def test_json_that_could_be_misread_is_refused(
    path: Path, data: bytes, old: str, new: str, message: str
) -> None:
    index, payload = take_apart(data)
    assert old in index
    assert message in refusal_of(path, put_together(index.replace(old, new, 1), payload))


def test_an_index_of_odd_length_is_refused(path: Path, data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    odd = (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    assert "which is not a multiple of 8" in refusal_of(path, odd)


def test_tensors_that_are_not_aligned_are_refused(path: Path) -> None:
    write_packed(path, {"a": torch.ones(1), "b": torch.ones(1).bfloat16()}, {})
    changed = index_with(
        path.read_bytes(),
        lambda e: (e["a"].update(data_offsets=[2, 6]), e["b"].update(data_offsets=[0, 2])),
    )
    assert refusal_of(path, changed) == "tensor 'a' begins at byte 2, not aligned"


def test_a_number_that_is_not_finite_is_refused_by_the_tensors_own_name(
    path: Path, data: bytes
) -> None:
    index, payload = take_apart(data)
    begin = json.loads(index)["blocks.*.parts.*.scale"]["data_offsets"][0]
    position = begin + 2 * (2 * 4 + 1)  # the last element of the tensor
    name = "blocks.1.parts.1.scale"
    for value in (b"\xc0\x7f", b"\x80\xff"):  # NaN, -inf
        changed = put_together(index, payload[:position] + value + payload[position + 2 :])
        assert refusal_of(path, changed) == f"tensor {name!r} is not finite everywhere"


def test_a_message_stays_short_whatever_the_file_holds(path: Path, data: bytes) -> None:
    changed = with_entry(data, "temperature", shape=[1] * 500_000)
    assert "has shape [1, 1, 1" in refusal_of(path, changed)
    assert len(refusal(path)) <= 400
