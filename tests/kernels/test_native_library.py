"""The library of CPU kernels: its instruction sets, its cache, and machines that can't make it."""

import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernels.cpu_calls import (
    STRIDED,
    check,
    environment,
    require_library,
    same,
    signs_or_bits,
)
from tests.kernels.packed_arguments import Case, arguments

from tribin_kernels import reference
from tribin_kernels.cpu import int8, native
from tribin_kernels.cpu import packed_conv2d as cpu
from tribin_kernels.cpu.native import native_library


@pytest.fixture(name="library", scope="module")
def _library() -> None:
    require_library()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize("architecture", ["haswell", "x86-64"])
@pytest.mark.usefixtures("library")
def test_any_instruction_set_gives_the_same(tmp_path: Path, architecture: str) -> None:
    """AVX2, and what every x86-64 has; AVX-512 is what the other tests run where it is there."""
    if architecture == "haswell" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine has no AVX2")
    with environment(CXXFLAGS=f"-march={architecture}", XDG_CACHE_HOME=str(tmp_path)):
        assert native_library() is not None
        slope_and_residual = {"has_slope": True, "has_residual": True}
        for steps in ({}, slope_and_residual, {"to_bits": True, "integers": True}):
            for case in signs_or_bits(**steps):
                check("xnor", arguments(case))
    assert len(list(tmp_path.glob("tribin/*.so"))) == 1


NO_LIBRARY = {
    "no compiler": ({"CXX": "/nonexistent"}, "No such file or directory: '/nonexistent'"),
    "a compiler that fails": ({"CXX": "false"}, "returned non-zero exit status 1"),
    "a bad option": ({"CXXFLAGS": "--nonsense"}, ".*--nonsense"),
    "a cache that can't be written": ({"XDG_CACHE_HOME": __file__}, "Not a directory"),
}


@pytest.mark.parametrize(("variables", "reason"), NO_LIBRARY.values(), ids=NO_LIBRARY)
def test_without_a_library_one_warning_says_why_and_int8_stands_in(
    tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    if "CXXFLAGS" in variables:
        require_library()
    given = [arguments(case) for case in signs_or_bits(has_residual=True)]
    with environment(XDG_CACHE_HOME=str(tmp_path)), environment(**variables):
        with pytest.warns(UserWarning, match=f"can't compile.*{reason}") as caught:
            results = [cpu.packed_conv2d(*each) for each in given]
        assert len(caught) == 1
        route = "int8" if int8.is_available() else "real"
        assert cpu.choose_route(torch.ones(1, 1, 32, 32), torch.ones(1), True) == route
    for result, each in zip(results, given, strict=True):
        same(result, reference.packed_conv2d(*each))
    assert not list(tmp_path.glob("**/*.so"))


def test_without_a_home_folder_there_is_a_warning_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with environment(XDG_CACHE_HOME=""), pytest.warns(UserWarning, match="home directory"):
        assert native_library() is None


def test_the_cache_is_in_the_home_folder_unless_it_has_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for home in ({"HOME": "/home/me", "XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "/home/me/.cache"}):
        for name, value in home.items():
            monkeypatch.setenv(name, value)
        assert native._cache_folder() == Path("/home/me/.cache/tribin")


class CopyingCompiler:
    """In place of `subprocess.run`: writes a library that is there already, in two halves."""

    def __init__(self, library: Path, compilers: int = 1) -> None:
        self.content = library.read_bytes()
        self.halfway = threading.Barrier(compilers)
        self.visible: list[list[Path]] = []

    def __call__(self, command: list[Any], **options: Any) -> None:
        output, half = Path(command[-1]), len(self.content) // 2
        output.write_bytes(self.content[:half])
        self.halfway.wait(timeout=60)
        self.visible.append(list(output.parent.parent.glob("*.so")))
        self.halfway.wait(timeout=60)
        output.write_bytes(self.content)


@pytest.mark.usefixtures("library")
def test_two_may_compile_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = CopyingCompiler(native.compiled(native.SOURCE), compilers=2)
    monkeypatch.setattr(native.subprocess, "run", compiler)
    with environment(XDG_CACHE_HOME=str(tmp_path)):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(native.compiled, native.SOURCE) for _ in range(2)]
        libraries = [future.result() for future in futures]
        check("xnor", arguments(Case(STRIDED)))
    assert compiler.visible == [[], []]
    assert libraries[0] == libraries[1]
    assert list((tmp_path / "tribin").iterdir()) == libraries[:1]


@pytest.mark.usefixtures("library")
def test_another_command_source_or_machine_makes_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native.subprocess, "run", CopyingCompiler(native.compiled(native.SOURCE)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    libraries = [native.compiled(native.SOURCE)]
    source = tmp_path / "xnor.cpp"
    source.write_text(native.SOURCE.read_text() + "\n")
    for change in (
        lambda: monkeypatch.setenv("CXXFLAGS", "-O2"),
        lambda: monkeypatch.setenv("CXX", "another"),
        lambda: monkeypatch.setattr(native, "_instruction_sets", lambda: "flags: none"),
        lambda: monkeypatch.setattr(torch, "__version__", "0"),
        lambda: monkeypatch.setattr(native, "SOURCE", source),
    ):
        change()
        libraries.append(native.compiled(native.SOURCE))
        assert libraries[-1] not in libraries[:-1]
    assert len(list((tmp_path / "tribin").iterdir())) == len(libraries)
    monkeypatch.delattr(native.subprocess, "run")
    assert native.compiled(native.SOURCE) == libraries[-1]
