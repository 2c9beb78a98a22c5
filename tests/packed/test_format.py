"""Packed files: what is written comes back, always in the same bytes, and others can read it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tests.packed.packed_bytes import as_item, flipped, header_of, items_of, small_tensors
from torch import Tensor

from tribin import ops
from tribin.packed.format import PackedFile, PackedFormatError, read_packed, write_packed

ROOT = Path(__file__).parents[2]
HEADER = {"tribin": "0.1.0", "model": None, "recipe": {"lr": 1e-3, "betas": [0.9, "α\n\"'\\"]}}


def assert_holds(file: PackedFile, tensors: dict[str, Tensor]) -> None:
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert as_item(file.tensors[name]) == as_item(tensor)
        assert file.tensors[name].is_contiguous()


# --- what is written comes back


def test_tensors_and_header_come_back(path: Path) -> None:
    write_packed(path, small_tensors(), HEADER)
    file = read_packed(path)
    assert_holds(file, small_tensors())
    checksum = file.header.pop("sha256")
    assert file.header == HEADER | {"format_version": 1}
    assert re.fullmatch("[0-9a-f]{64}", checksum)


def test_a_file_may_hold_no_tensors(path: Path) -> None:
    write_packed(path, {}, {})
    assert read_packed(path).tensors == {}


tensors_of = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="*"), min_size=1),
    st.tuples(
        st.sampled_from([torch.int32, torch.int64, torch.float32, torch.bfloat16]),
        st.lists(st.integers(0, 4), max_size=4),
        st.integers(-(2**31), 2**31 - 1),
    ),
    max_size=6,
)


@given(tensors_of)
@settings(max_examples=60)
def test_any_names_and_shapes_come_back(
    kinds: dict[str, tuple[torch.dtype, list[int], int]],
) -> None:
    tensors = {
        name: torch.full(shape, fill, dtype=dtype) for name, (dtype, shape, fill) in kinds.items()
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        write_packed(path, tensors, {})
        assert_holds(read_packed(path), tensors)


def test_extreme_finite_values_come_back_bit_for_bit(path: Path) -> None:
    tensors = {}
    for dtype in (torch.float32, torch.bfloat16):
        info = torch.finfo(dtype)
        values = [info.max, info.min, info.smallest_normal, info.smallest_normal / 2, 0.0, -0.0]
        tensors[str(dtype)] = torch.tensor(values, dtype=dtype)
    tensors["bits"] = torch.tensor([-1, 0, 2**31 - 1, -(2**31)], dtype=torch.int32)
    write_packed(path, tensors, {})
    assert_holds(read_packed(path), tensors)


def test_any_memory_layout_can_be_written_and_comes_back_dense(path: Path) -> None:
    matrix = torch.arange(12.0).view(3, 4)
    tensors = {
        "transposed": matrix.T,
        "part": matrix[:, 1:3],
        "same part": matrix[:, 1:3],
        "expanded": torch.tensor(2.0).expand(2, 2),
        "channels last": torch.rand(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(matrix),
    }
    write_packed(path, tensors, {})
    dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    assert_holds(read_packed(path), dense)


def test_tensors_that_were_read_are_the_readers_own(path: Path, data: bytes) -> None:
    for tensor in read_packed(path).tensors.values():
        tensor.zero_()
    assert path.read_bytes() == data
    assert_holds(read_packed(path), small_tensors())


def test_lists_of_a_thousand_tensors_cost_one_entry(path: Path) -> None:
    write_packed(path, {f"blocks.{i}.weight": torch.ones(2) for i in range(1000)}, {})
    assert int.from_bytes(path.read_bytes()[:8], "little") < 300
    assert len(read_packed(path).tensors) == 1000


# --- always the same bytes


def test_order_does_not_change_the_bytes(path: Path) -> None:
    header = {"b": {"y": 1, "x": 2}, "a": [], "c": None}
    tensors = {"w.1": torch.ones(2), "w.0": torch.zeros(2), "b": torch.ones(3).bfloat16()}
    written = set()
    for order in permutations(range(3)):
        keys, names = list(header), list(tensors)
        reordered = {keys[i]: header[keys[i]] for i in order}
        if isinstance(reordered["b"], dict):
            reordered["b"] = dict(reversed(reordered["b"].items()))
        write_packed(path, {names[i]: tensors[names[i]] for i in order}, reordered)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_writing_what_was_read_gives_the_same_bytes(path: Path, data: bytes) -> None:
    file = read_packed(path)
    write_packed(path, file.tensors, file.header)
    assert path.read_bytes() == data


FRESH_PROCESS = """
import sys
for name in ("numpy", "pydantic", "tqdm", "PIL", "wandb", "datasets"):
    sys.modules[name] = None  # importing it fails
import torch
from pathlib import Path
from tribin.packed.format import read_packed, write_packed
file = read_packed(Path(sys.argv[1]))
write_packed(Path(sys.argv[2]), file.tensors, file.header)
"""


def test_a_fresh_process_without_numpy_reads_and_writes_the_same_bytes(
    path: Path, data: bytes
) -> None:
    copy = path.with_name("copy.safetensors")
    command = [sys.executable, "-c", FRESH_PROCESS, str(path), str(copy)]
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert result.returncode == 0, result.stderr
    assert copy.read_bytes() == data


# --- others can read it


def test_safetensors_itself_reads_the_file(path: Path) -> None:
    weight, bias = torch.rand(2, 3), torch.rand(3).bfloat16()
    write_packed(path, {"a.0": weight[0], "a.1": weight[1], "b": bias}, HEADER)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"a.*", "b"}
        assert torch.equal(file.get_tensor("a.*"), weight)
        assert torch.equal(file.get_tensor("b"), bias)
        header = json.loads(file.metadata()["tribin"])
    assert header.items() >= HEADER.items()


def test_the_file_spells_what_was_written(data: bytes) -> None:
    assert items_of(data) == {name: as_item(tensor) for name, tensor in small_tensors().items()}
    assert header_of(data).items() >= {"tribin": "0.1.0", "levels": [256, 0.5]}.items()


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(data: bytes) -> None:
    checksum = header_of(data)["sha256"].encode()
    assert data.count(checksum) == 1
    assert hashlib.sha256(data.replace(checksum, b"0" * 64)).hexdigest().encode() == checksum


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What the code of docs/packed_format.md defines."""
    [code] = re.findall(
        "^```python\n(.*?)^```$", (ROOT / "docs/packed_format.md").read_text("utf-8"), re.M | re.S
    )
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_documented_reader_reads_what_was_written(
    path: Path, data: bytes, documented: dict[str, Any]
) -> None:
    header, tensors = documented["read"](path)
    assert header == header_of(data)
    assert tensors.keys() == small_tensors().keys()
    for name, tensor in small_tensors().items():
        expected = tensor if tensor.dtype == torch.int32 else tensor.float()
        assert tensors[name].dtype == expected.numpy().dtype
        assert np.array_equal(tensors[name], expected.numpy())


def test_the_documented_reader_finds_any_damaged_byte(
    path: Path, data: bytes, documented: dict[str, Any]
) -> None:
    for position in range(8, len(data), 7):
        path.write_bytes(flipped(data, position))
        with pytest.raises(ValueError, match="damaged"):
            documented["read"](path)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 70])
def test_the_documented_signs_are_those_of_the_ops(length: int, documented: dict[str, Any]) -> None:
    x = torch.randn(3, length)
    row_bits = ops.pack_signs(x)
    signs = documented["signs"](row_bits.numpy(), length)
    assert np.array_equal(signs, np.where(x.numpy() < 0, -1, 1))
    for row, of_row in zip(row_bits.tolist(), signs.tolist(), strict=True):
        assert of_row == [1 - 2 * (row[k // 32] >> k % 32 & 1) for k in range(length)]


# --- what can't be read is not written


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("a.0.w", torch.zeros(2, dtype=torch.float64), "'a.0.w' is torch.float64, not int32"),
        ("w", torch.zeros(2, dtype=torch.float16), "'w' is torch.float16, not int32"),
        ("w", torch.zeros(2, dtype=torch.int16), "'w' is torch.int16, not int32"),
        ("w", torch.zeros(2, dtype=torch.bool), "'w' is torch.bool, not int32"),
        ("a.0.w", torch.tensor([0, torch.nan]), "'a.0.w' is not finite everywhere"),
        ("w", torch.tensor(-torch.inf), "'w' is not finite everywhere"),
        ("w", torch.tensor([torch.inf]).bfloat16(), "'w' is not finite everywhere"),
        ("", torch.zeros(2), "name has 0 characters"),
        ("x" * 513, torch.zeros(2), "name has 513 characters"),
        ("a\tb", torch.zeros(2), "holds a control character"),
        ("a\x85b", torch.zeros(2), "holds a control character"),
        ("\udc00", torch.zeros(2), "surrogates not allowed"),
        ("a.*", torch.zeros(2), "'a.*' holds a '*'"),
        ("__metadata__", torch.zeros(2), "'__metadata__' is there twice"),
        ("w", torch.zeros([1] * 17), "which no tensor can have"),
    ],
)
def test_a_tensor_that_cannot_be_written_is_named_and_leaves_the_old_file(
    path: Path, data: bytes, name: str, tensor: Tensor, message: str
) -> None:
    with pytest.raises(PackedFormatError, match=re.escape(message)) as caught:
        write_packed(path, {"good": torch.zeros(3), name: tensor}, HEADER)
    assert str(caught.value).startswith(f"{path}: ")
    assert [(file, file.read_bytes()) for file in path.parent.iterdir()] == [(path, data)]


def nested(levels: int) -> dict[str, Any]:
    header: dict[str, Any] = {}
    for _ in range(levels - 1):
        header = {"in": header}
    return header


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"loss": float("nan")}, "not JSON compliant"),
        ({"loss": [float("inf")]}, "not JSON compliant"),
        (nested(33), "nested 33 deep, and may be 32"),
        ({"name": "\ud800"}, "surrogates not allowed"),
        ({"notes": "x" * 2**21}, "2097152 are allowed"),
    ],
)
def test_a_header_that_cannot_be_written_leaves_no_file(
    path: Path, header: dict[str, Any], message: str
) -> None:
    with pytest.raises(PackedFormatError, match=message):
        write_packed(path, {}, header)
    assert not list(path.parent.iterdir())


def test_the_deepest_header_comes_back(path: Path) -> None:
    write_packed(path, {}, nested(32))
    assert read_packed(path).header["in"] == nested(31)


def test_a_missing_folder_is_an_os_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_packed(path / "inside", {}, {})
