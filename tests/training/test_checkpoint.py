"""Checkpoints: bit for bit, complete or not at all, verified, and never unpickled."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from tests.runs import Cut
from torch import Tensor

from tribin.errors import InputError, NonFiniteError
from tribin.training import checkpoint as checkpoint_module
from tribin.training import verified_file
from tribin.training.checkpoint import CheckpointStore
from tribin.training.manifest import DamagedCheckpointError
from tribin.training.snapshot import Snapshot
from tribin.training.verified_file import write_verified

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.uint8, torch.bool,
]  # fmt: skip
METADATA = {"wandb_run_id": "ab12", "skipped_steps": 3, "recipe": {"betas": [0.9, 0.999]}}


def make_tensors(images_seen: int) -> dict[str, dict[str, Tensor]]:
    """Tensors that tell which checkpoint they are of."""
    weight = torch.arange(6.0).view(2, 3) + images_seen
    return {"model": {"weight": weight, "bias": torch.tensor(0.5)}, "optimizer": {"w:step": weight}}


def save(store: CheckpointStore, *images_seen: int) -> None:
    for images in images_seen:
        store.save(images, make_tensors(images), METADATA)
    store.wait()


def newest(store: CheckpointStore) -> tuple[int | None, list[str]]:
    """The images seen of the newest intact checkpoint, whose content is checked, and reports."""
    reports: list[str] = []
    checkpoint = store.newest_intact(reports.append)
    if checkpoint is None:
        return None, reports
    assert checkpoint.metadata == METADATA
    for name, group in make_tensors(checkpoint.images_seen).items():
        loaded = checkpoint.tensors(name)
        assert loaded.keys() == group.keys()
        assert all(torch.equal(loaded[key], value) for key, value in group.items())
    return checkpoint.images_seen, reports


def folders(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.name != "latest")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


# Contents


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype, shape (scalars and empty ones as well) and memory layout; finite values."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if dtype.is_floating_point:
        limits = torch.finfo(dtype)
        special = [0.0, -0.0, limits.max, limits.min, limits.tiny, limits.smallest_normal / 4, 1.0]
        values = torch.tensor(special, dtype=torch.float64).to(dtype)
    else:
        values = torch.tensor([0, 1, 2, 255]).to(dtype)
    tensor = values[torch.randint(len(values), shape, generator=generator)]
    layout = draw(st.sampled_from(["contiguous", "channels last", "transposed", "every second"]))
    if layout == "channels last" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.permute(list(reversed(range(tensor.ndim))))
    return tensor[::2] if layout == "every second" and tensor.ndim else tensor


@settings(max_examples=60)
@given(group=st.dictionaries(st.sampled_from(["a.weight", "a.weight:step", "ünïcode"]), tensors()))
def test_tensors_come_back_bit_for_bit(group: dict[str, Tensor]) -> None:
    with TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(1, {"model": group}, {})
        checkpoint = store.newest_intact(pytest.fail)
        assert checkpoint is not None
        loaded = checkpoint.tensors("model")
    assert loaded.keys() == group.keys()
    for name, value in group.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        assert _bytes(loaded[name]) == _bytes(value)


def _bytes(tensor: Tensor) -> list[int]:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.flatten())
    return flat.view(torch.uint8).tolist()


def test_metadata_and_groups(store: CheckpointStore) -> None:
    save(store, 100)
    checkpoint = store.newest_intact(pytest.fail)
    assert checkpoint is not None
    assert (checkpoint.images_seen, checkpoint.metadata) == (100, METADATA)
    assert checkpoint.holds("optimizer")
    assert not checkpoint.holds("ema")


def test_files_are_safetensors_and_json_alone(trained_run: Path) -> None:
    """The format is read by hand: a length, a JSON header, and the bytes of the tensors."""
    for folder in (trained_run / "checkpoints").glob("*00"):
        manifest, *files = sorted(folder.iterdir(), key=lambda path: path.name != "manifest.json")
        assert manifest.name == "manifest.json"
        json.loads(manifest.read_text())
        expected = {"model.safetensors", "optimizer.safetensors", "ema.safetensors"}
        assert {file.name for file in files} == expected
        for file in files:
            content = file.read_bytes()
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            end = max(entry["data_offsets"][1] for entry in header.values())
            assert 8 + length + end == len(content)


@given(group=st.dictionaries(st.text(max_size=3), tensors(), max_size=4))
def test_a_snapshot_is_a_safetensors_file(group: dict[str, Tensor]) -> None:
    """As the library reads it from memory, and the tensors lie where their elements must."""
    header, block = Snapshot(group).file_content
    assert len(header) % 8 == 0
    loaded = load(bytes(header) + bytes(block))
    assert loaded.keys() == group.keys()
    assert all(_bytes(loaded[name]) == _bytes(value) for name, value in group.items())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_never_saved(
    store: CheckpointStore, bad: float, dtype: torch.dtype
) -> None:
    store.keep = 1
    save(store, 100)
    tensors = make_tensors(200)
    tensors["optimizer"]["w:exp_avg"] = torch.tensor([0.0, bad], dtype=dtype)
    store.save(200, tensors, METADATA)
    with pytest.raises(NonFiniteError, match="w:exp_avg of the optimizer is not finite"):
        store.wait()
    assert folders(store) == ["100"]
    assert newest(store) == (100, [])


# In the background


@contextmanager
def held_up() -> Iterator[Event]:
    """Let no file of a checkpoint be written before the event that this yields."""
    go_on = Event()

    def write(path: Path, content: Any) -> dict[str, Any]:
        assert go_on.wait(timeout=60)
        return write_verified(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "write_verified", write)
        yield go_on
        go_on.set()


def test_what_is_saved_may_change_before_it_is_written(store: CheckpointStore) -> None:
    tensors, metadata = make_tensors(100), {**METADATA, "recipe": {"betas": [0.9, 0.999]}}
    with held_up() as go_on:
        store.save(100, tensors, metadata)
        tensors["model"]["weight"].zero_()
        tensors["optimizer"]["new"] = torch.ones(1)
        metadata["recipe"]["betas"].append(1.0)
        assert not (store.folder / "100").exists()
        go_on.set()
        assert newest(store) == (100, [])


def test_a_second_save_waits_and_raises_what_failed(store: CheckpointStore) -> None:
    tensors = make_tensors(100)
    tensors["model"]["weight"][0, 0] = torch.nan
    store.save(100, tensors, METADATA)
    with pytest.raises(NonFiniteError):
        store.save(200, make_tensors(200), METADATA)
    assert newest(store) == (None, [])
    save(store, 200)  # said once
    assert newest(store) == (200, [])


def test_whoever_lists_checkpoints_waits_for_them(store: CheckpointStore) -> None:
    store.save(100, make_tensors(100), METADATA)
    assert [folder.name for folder in store.verify_all()] == ["100"]


# Which are kept


def test_the_newest_are_kept_by_number(store: CheckpointStore) -> None:
    assert newest(store) == (None, [])
    save(store, 9, 10, 90, 100, 1000)
    assert folders(store) == ["100", "1000", "90"]
    assert newest(store) == (1000, [])


def test_a_damaged_checkpoint_ahead_of_the_run_never_prunes_a_good_one(
    store: CheckpointStore,
) -> None:
    """After a fallback to 100 the run saves at 150, before it reaches the damaged 200 again."""
    store.keep = 1
    save(store, 100, 200)
    truncate(store.folder / "200" / "model.safetensors")
    save(store, 150)
    assert newest(store)[0] == 150
    save(store, 200)
    assert newest(store) == (200, [])
    assert folders(store) == ["200"]


def test_no_damaged_checkpoint_is_kept_in_the_place_of_an_intact_one(
    store: CheckpointStore,
) -> None:
    store.keep = 2
    save(store, 100, 200)
    truncate(store.folder / "200" / "model.safetensors")
    save(store, 300)
    assert folders(store) == ["100", "200", "300"]
    flip_a_bit(store.folder / "300" / "optimizer.safetensors")
    save(store, 400)
    assert folders(store) == ["100", "200", "300", "400"]
    save(store, 500)
    assert folders(store) == ["400", "500"]


def test_what_a_killed_process_left_is_removed_at_the_next_save(store: CheckpointStore) -> None:
    save(store, 100)
    (store.folder / "150.tmp").mkdir()
    (store.folder / "150.tmp" / "model.safetensors").write_bytes(b"half")
    shutil.copytree(store.folder / "100", store.folder / "90.old.tmp")
    (store.folder / ".latest.7.tmp").write_text("")
    assert newest(store) == (100, [])
    save(store, 200)
    assert folders(store) == ["100", "200"]


def test_the_pointer_names_the_newest_and_nothing_depends_on_it(store: CheckpointStore) -> None:
    pointer = store.folder / "latest"
    save(store, 100, 200)
    assert pointer.read_text() == "200\n"
    truncate(store.folder / "200" / "model.safetensors")
    for content in (b"200\n", b"777\n", b"", b"\xff"):
        pointer.write_bytes(content)
        assert newest(store)[0] == 100
    pointer.unlink()
    assert newest(store)[0] == 100


def test_all_are_listed_with_what_is_wrong(store: CheckpointStore) -> None:
    assert store.verify_all() == {}
    save(store, 90, 100, 1000)
    Path.unlink(store.folder / "100" / "optimizer.safetensors")
    found = store.verify_all()
    assert [folder.name for folder in found] == ["90", "100", "1000"]
    damaged = found.pop(store.folder / "100")
    assert isinstance(damaged, DamagedCheckpointError)
    assert damaged.damage == "damaged or missing optimizer.safetensors"
    assert not any(isinstance(state, DamagedCheckpointError) for state in found.values())


# Damage


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def make_empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = [truncate, flip_a_bit, make_empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    store: CheckpointStore, file: str, damage: Any
) -> None:
    save(store, 100, 200, 300)
    damage(store.folder / "300" / file)
    damage(store.folder / "200" / file)
    images_seen, reports = newest(store)
    assert images_seen == 100
    assert len(reports) == 2
    for report, folder in zip(reports, ("300", "200"), strict=True):
        assert str(store.folder / folder) in report
        assert file.removesuffix(".json") in report
        assert report.endswith("falling back to 100")


def test_every_flipped_bit_of_the_manifest_is_noticed(store: CheckpointStore) -> None:
    """Or means the same, as a space that became a tab does."""
    save(store, 100)
    manifest = store.folder / "100" / "manifest.json"
    content = manifest.read_bytes()
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        manifest.write_bytes(flipped)
        with suppress(InputError):
            assert newest(store) == (100, [])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    store = CheckpointStore(tmp_path_factory.mktemp("two") / "checkpoints", keep=2)
    save(store, 100, 200)
    return store


FILES = ["200/model.safetensors", "200/optimizer.safetensors", "200/manifest.json", "latest"]


@settings(max_examples=200)
@given(data=st.data(), name=st.sampled_from(FILES), cut=st.booleans())
def test_any_damage_to_the_newest_falls_back_and_is_said(
    two: CheckpointStore, data: st.DataObject, name: str, cut: bool
) -> None:
    """A file cut anywhere, or with one bit flipped; what is loaded is always what was saved."""
    file = two.folder / name
    content = file.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content[:position] if cut else content)
    if not cut:
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(damaged)
    try:
        images_seen, reports = newest(two)
    finally:
        file.write_bytes(content)
    harmless = name == "latest" or _same_json(content, bytes(damaged))
    assert images_seen == (200 if harmless else 100)
    assert [report.endswith("falling back to 100") for report in reports] == [True] * (not harmless)


def _same_json(first: bytes, second: bytes) -> bool:
    try:
        return bool(json.loads(first) == json.loads(second))
    except ValueError:
        return False


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '{"format": 1}', "\x00" * 99])
def test_any_other_manifest_is_damaged(store: CheckpointStore, content: str) -> None:
    save(store, 100)
    (store.folder / "100" / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="manifest is damaged"):
        newest(store)


def test_a_manifest_of_another_format(store: CheckpointStore) -> None:
    save(store, 100)
    manifest = store.folder / "100" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(InputError, match="format 2, this tribin reads 1"):
        newest(store)


def test_all_damaged_is_one_message_that_names_them_all(store: CheckpointStore) -> None:
    save(store, 100, 200)
    truncate(store.folder / "100" / "model.safetensors")
    flip_a_bit(store.folder / "200" / "optimizer.safetensors")
    with pytest.raises(InputError, match="no intact checkpoint") as caught:
        store.newest_intact(pytest.fail)
    assert "200: damaged or missing optimizer.safetensors" in str(caught.value)
    assert "100: damaged or missing model.safetensors" in str(caught.value)


# Crashes


OPERATIONS: list[tuple[Any, str]] = [
    (Path, "open"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (shutil, "rmtree"),
]


@contextmanager
def crash_before(operation: int) -> Iterator[list[str]]:
    """Cut the process before the n-th operation on the disk; yields those that were begun."""
    begun: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            begun.append(name)
            if len(begun) > operation:
                raise Cut
            return function(*arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, counted(name, getattr(owner, name)))
        yield begun


def operations_of_a_save() -> int:
    with TemporaryDirectory() as folder, crash_before(10**6) as begun:
        store = CheckpointStore(Path(folder) / "store")
        save(store, 100)
        before = len(begun)
        save(store, 200)
        return len(begun) - before


OPERATIONS_OF_A_SAVE = 19


@pytest.mark.parametrize("operation", range(OPERATIONS_OF_A_SAVE))
def test_a_crash_at_any_moment_leaves_an_intact_checkpoint(
    store: CheckpointStore, operation: int
) -> None:
    store.keep = 1
    save(store, 100)
    with crash_before(operation) as begun, pytest.raises(Cut):
        save(store, 200)
    renamed = "rename" in begun[:-1]
    assert newest(store) == (200 if renamed else 100, [])

    save(store, 200)
    assert newest(store) == (200, [])
    assert folders(store) == ["200"]


def test_the_crashes_are_at_every_operation() -> None:
    assert operations_of_a_save() == OPERATIONS_OF_A_SAVE


# Disks that fail


@contextmanager
def fail_at(operation: int, code: int) -> Iterator[None]:
    """Let the n-th operation on the disk fail, and no other."""
    count, fsync = 0, os.fsync

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == operation + 1:
                named = [str(arguments[0])] if function is not fsync else []  # as the system does
                raise OSError(code, os.strerror(code), *named)
            return function(*arguments, **keywords)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


@pytest.mark.parametrize("operation", range(OPERATIONS_OF_A_SAVE))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_operation_that_fails_is_raised_and_costs_no_checkpoint(
    store: CheckpointStore, operation: int, code: int
) -> None:
    store.keep = 1
    save(store, 100)
    with fail_at(operation, code), pytest.raises(OSError, match=str(store.folder)) as caught:
        save(store, 200)
    assert caught.value.errno in (code, errno.EIO)  # EIO: what can't be read back
    images_seen, reports = newest(store)
    assert images_seen in (100, 200)
    assert reports == []
    save(store, 300)
    assert newest(store) == (300, [])
    assert folders(store) == ["300"]


def test_a_failed_write_leaves_the_older_checkpoints_and_nothing_else(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 100)

    def fail(path: Path, content: object) -> None:
        path.write_bytes(b"half a")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_verified", fail)
        with pytest.raises(OSError, match=r"No space left on device: '.*/200\.tmp/model"):
            save(store, 200)
    assert folders(store) == ["100"]
    assert newest(store) == (100, [])


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_a_disk_that_keeps_something_else_is_noticed_before_an_older_one_is_removed(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    store.keep = 1
    save(store, 100)
    fsync = os.fsync

    def fsync_and_flip(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == file:
            flip_a_bit(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_and_flip)
        with pytest.raises(OSError, match=f"what is read back is not .*{file}"):
            save(store, 200)
    assert folders(store) == ["100"]
    assert newest(store) == (100, [])


def test_a_file_that_is_removed_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    monkeypatch.setattr(verified_file, "_forget_cached", lambda descriptor: file.unlink())
    with pytest.raises(FileNotFoundError) as caught:
        write_verified(file, [b"content"])
    assert caught.value.filename == str(file)
