"""packed_conv2d on a CPU: every route gives what the specification gives, to the bit.

The product of signs is an integer, and what follows it rounds as torch does, so nothing may differ.
"""

import platform
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from tests.kernels.packed_arguments import LAYOUTS, Case, arguments, cases, laid_out
from torch import Tensor

from tribin_kernels import reference
from tribin_kernels.conv2d_shape import Conv2dShape
from tribin_kernels.cpu import int8, native
from tribin_kernels.cpu import packed_conv2d as cpu
from tribin_kernels.cpu.native import native_library

# Three lines of two pieces each, blocks of outputs that are cut short, a border on every side.
WIDE = Conv2dShape(2, 70, 3, 90, 74, kernel=(3, 5), padding=(1, 2))
POINTWISE = Conv2dShape(3, 70, 5, 7, 74)
STRIDED = Conv2dShape(2, 33, 9, 8, 40, kernel=(4, 3), stride=(3, 2), padding=(2, 3))
SHAPES = {"wide": WIDE, "pointwise": POINTWISE, "strided": STRIDED}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """The library is made anew, as these variables say."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        native_library.cache_clear()
        yield
    native_library.cache_clear()


def require_library() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        native_library.cache_clear()
        if native_library() is None:
            pytest.skip(str(caught[0].message))


@pytest.fixture(name="library", scope="module")
def _library() -> None:
    require_library()


@pytest.fixture(params=["xnor", "int8", "real"], scope="module")
def route(request: pytest.FixtureRequest) -> str:
    """Each way to compute a layer, where this machine has it."""
    if request.param == "xnor":
        require_library()
    if request.param == "int8" and not int8.is_available():
        pytest.skip("torch has no int8 convolution for this machine")
    return request.param


def by_route(route: str, given: tuple[Any, ...]) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "choose_route", lambda *arguments: route)
        return cpu.packed_conv2d(*given)


def check(route: str, given: tuple[Any, ...]) -> None:
    same(by_route(route, given), reference.packed_conv2d(*given))


def same(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    assert reference.memory_format(result) == reference.memory_format(expected)


def signs_or_bits(**steps: Any) -> Iterator[Case]:
    """Of each shape and binary input."""
    for shape in SHAPES.values():
        for input in ("signs", "bits"):
            yield Case(shape, input, **steps)


@settings(max_examples=120)
@given(cases(inputs=("signs", "bits")))
def test_ragged_shapes(route: str, case: Case) -> None:
    check(route, arguments(case))


@pytest.mark.parametrize("input", ["signs", "bits"])
@each_shape
def test_every_step(route: str, shape: Conv2dShape, input: str) -> None:
    for to_bits in (False, True):
        for integers in (False, True):
            case = Case(shape, input, has_residual=True, to_bits=to_bits, integers=integers)
            for gate, elu in ((False, False), (False, True), (True, False), (True, True)):
                check(route, arguments(replace(case, gate=gate, elu=elu)))


@pytest.mark.parametrize("value", [0.0, -0.0, float("nan")])
def test_zeros_and_nan_are_plus_one(route: str, value: float) -> None:
    _, *others = arguments(Case(STRIDED))
    shape = (STRIDED.batch, STRIDED.channels, STRIDED.height, STRIDED.width)
    expected = by_route(route, (torch.ones(shape), *others))
    assert torch.equal(by_route(route, (torch.full(shape, value), *others)), expected)


@pytest.mark.parametrize("to_bits", [False, True])
def test_results_that_are_nan_or_zero(route: str, to_bits: bool) -> None:
    for case in signs_or_bits(has_residual=True, elu=True, to_bits=to_bits):
        x, weight_bits, scale, bias, residual, *others = arguments(case)
        scale[::3], bias[::3], residual[:, ::3] = 0, -0.0, -0.0
        bias[1], residual[0, 2] = torch.nan, torch.nan
        check(route, (x, weight_bits, scale, bias, residual, *others))


def test_small_results_keep_their_sign_through_elu(route: str) -> None:
    x, weight_bits, scale, bias, *others = arguments(Case(STRIDED, elu=True, to_bits=True))
    bits = by_route(route, (x, weight_bits, 0 * scale, torch.full_like(bias, -1e-30), *others))
    assert reference.unpack_bits(bits, STRIDED.outputs).all()


@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", LAYOUTS)
def test_any_layout(route: str, x_layout: str, residual_layout: str) -> None:
    layouts = {"x_layout": x_layout, "residual_layout": residual_layout}
    for case in signs_or_bits(has_residual=True, **layouts):
        x, weight_bits, scale, bias, *others = arguments(case)
        check(route, (x, weight_bits, scale[:1].expand_as(scale), bias, *others))


@pytest.mark.parametrize("layout", LAYOUTS[1:3])
def test_bits_in_any_layout(route: str, layout: str) -> None:
    x, weight_bits, *others = arguments(Case(WIDE, "bits"))
    strided = laid_out(x, layout), laid_out(weight_bits, layout)
    assert not any(bits.is_contiguous() for bits in strided)
    assert torch.equal(
        by_route(route, (*strided, *others)), by_route(route, (x, weight_bits, *others))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("to_bits", [False, True])
def test_scale_bias_and_residual_of_other_dtypes(
    route: str, dtype: torch.dtype, to_bits: bool
) -> None:
    x, weight_bits, scale, bias, residual, *others = arguments(
        Case(STRIDED, has_residual=True, elu=True, to_bits=to_bits)
    )
    reals = scale.to(dtype), bias.to(dtype), residual.to(dtype)
    check(route, (x, weight_bits, *reals, *others))


@pytest.mark.parametrize("to_bits", [False, True])
def test_the_number_of_threads_changes_nothing(route: str, to_bits: bool) -> None:
    given = [arguments(case) for case in signs_or_bits(has_residual=True, to_bits=to_bits)]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([by_route(route, each) for each in given])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("to_bits", [False, True])
def test_an_image_gives_the_same_in_any_batch(route: str, to_bits: bool) -> None:
    for case in signs_or_bits(to_bits=to_bits):
        x, *others = arguments(case)
        y = by_route(route, (x, *others))
        assert torch.equal(by_route(route, (x[-1:], *others)), y[-1:])
        assert torch.equal(by_route(route, (x.flip(0), *others)), y.flip(0))


@pytest.mark.parametrize("to_bits", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_real_input_and_other_dtypes_are_the_specifications(
    dtype: torch.dtype, to_bits: bool
) -> None:
    for input in ("real", "signs", "bits"):
        given = arguments(Case(STRIDED, input, has_residual=True, elu=True, to_bits=to_bits), dtype)
        same(cpu.packed_conv2d(*given), reference.packed_conv2d(*given))


@pytest.mark.parametrize(
    ("x", "scale", "binary_input", "routes"),
    [
        (torch.float32, torch.float32, True, ["xnor", "int8", "real"]),
        (torch.float32, torch.bfloat16, True, ["xnor", "int8", "real"]),
        (torch.int32, torch.float32, False, ["xnor", "int8", "real"]),
        (torch.int32, torch.float32, True, ["xnor", "int8", "real"]),
        (torch.int32, torch.float64, True, ["real", "real", "real"]),
        (torch.float32, torch.float32, False, ["real", "real", "real"]),
        (torch.bfloat16, torch.float32, True, ["real", "real", "real"]),
        (torch.float16, torch.float16, True, ["real", "real", "real"]),
        (torch.float64, torch.float64, True, ["real", "real", "real"]),
    ],
)
def test_the_route_of_a_layer(
    monkeypatch: pytest.MonkeyPatch,
    x: torch.dtype,
    scale: torch.dtype,
    binary_input: bool,
    routes: list[str],
) -> None:
    """With a compiler, without one, and where torch has no int8 convolution either."""
    tensors = torch.zeros(1, 2, 2, 2, dtype=x), torch.zeros(2, dtype=scale)
    chosen = []
    for has_library, has_int8 in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(
            cpu, "native_library", lambda has=has_library: object() if has else None
        )
        monkeypatch.setattr(int8, "is_available", lambda has=has_int8: has)
        chosen.append(cpu.choose_route(*tensors, binary_input))
    assert chosen == routes


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize("architecture", ["haswell", "x86-64"])
@pytest.mark.usefixtures("library")
def test_any_instruction_set_gives_the_same(tmp_path: Path, architecture: str) -> None:
    """AVX2, and what every x86-64 has; AVX-512 is what the other tests run where it is there."""
    if architecture == "haswell" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine has no AVX2")
    with environment(CXXFLAGS=f"-march={architecture}", XDG_CACHE_HOME=str(tmp_path)):
        assert native_library() is not None
        for steps in ({}, {"has_residual": True}, {"to_bits": True, "integers": True}):
            for case in signs_or_bits(**steps):
                check("xnor", arguments(case))
    assert len(list(tmp_path.glob("tribin/*.so"))) == 1


NO_LIBRARY = {
    "no compiler": ({"CXX": "/nonexistent"}, "No such file or directory: '/nonexistent'"),
    "a compiler that fails": ({"CXX": "false"}, "returned non-zero exit status 1"),
    "a bad option": ({"CXXFLAGS": "--nonsense"}, "unrecognized .* option .*--nonsense"),
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
        assert cpu.choose_route(torch.ones(1), torch.ones(1), True) == route
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
    compiler = CopyingCompiler(native._compiled(), compilers=2)
    monkeypatch.setattr(native.subprocess, "run", compiler)
    with environment(XDG_CACHE_HOME=str(tmp_path)):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(native._compiled) for _ in range(2)]
        libraries = [future.result() for future in futures]
        check("xnor", arguments(Case(STRIDED)))
    assert compiler.visible == [[], []]
    assert libraries[0] == libraries[1]
    assert list((tmp_path / "tribin").iterdir()) == libraries[:1]


@pytest.mark.usefixtures("library")
def test_another_command_source_or_machine_makes_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native.subprocess, "run", CopyingCompiler(native._compiled()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    libraries = [native._compiled()]
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
        libraries.append(native._compiled())
        assert libraries[-1] not in libraries[:-1]
    assert len(list((tmp_path / "tribin").iterdir())) == len(libraries)
    monkeypatch.delattr(native.subprocess, "run")
    assert native._compiled() == libraries[-1]
