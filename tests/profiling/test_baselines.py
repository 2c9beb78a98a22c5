"""Every baseline computes what the op does, and is found out where it doesn't."""

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tribin.profiling.kernels.baselines import BASELINES, integer, one_bit_libraries, simulation
from tribin.profiling.kernels.candidate import Candidate, UnavailableError
from tribin.profiling.kernels.operands import UNIT
from tribin.profiling.kernels.problem import OPS, Problem
from tribin.profiling.kernels.work import expected, layer_of, tribin
from tribin_kernels.cpu import int8

CPU = torch.device("cpu")
SHAPES = {
    op: "2x37x5x6:10x3x5,stride=2x1" if "conv2d" in op else "17x80:16" for op in OPS
} | {"pack_signs": "3x4x77"}  # fmt: skip
PACKED_OPTIONS = ("", ",signs", ",bits,to_bits", ",residual,gate", ",signs,residual,elu",
                  ",bits,residual,gate,elu,to_bits")  # fmt: skip
PROBLEMS = [
    Problem.parse(op, shape + options)
    for op, shape in SHAPES.items()
    for options in (PACKED_OPTIONS if op.startswith("packed") else ("",))
]
dtypes = pytest.mark.parametrize("dtype", UNIT, ids=str)


def errors(problem: Problem, candidate: Candidate, dtype: torch.dtype) -> dict[str, float]:
    layer = layer_of(problem, dtype, CPU)
    results = candidate.results(candidate.prepare(*candidate.operands)())
    return expected(problem, layer).errors_over_bounds(results, candidate.rounding)


@dtypes
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_everyone_gives_the_same(problem: Problem, dtype: torch.dtype) -> None:
    layer = layer_of(problem, dtype, CPU)
    candidates = {"tribin": tribin(problem, layer)}
    for name in BASELINES.keys() - {"simulated, compiled"}:
        candidate = BASELINES[name](problem, layer)
        if candidate is not None:
            candidates[name] = candidate
    wanted = {"tribin", "torch float32", "torch bfloat16", "simulated"}
    if problem.op == "pack_signs":
        wanted = {"tribin", "copy"}
    elif problem.is_packed and problem.binary_input and int8.is_available():
        wanted.add("oneDNN int8")
    assert candidates.keys() == wanted
    for name, candidate in candidates.items():
        worst = errors(problem, candidate, dtype)
        assert max(worst.values()) <= 1, name
        assert worst, name


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_someone_elses_result_is_found_out(problem: Problem) -> None:
    """The result of a layer with other weights, or of another input to pack, is out of bounds."""
    layer = layer_of(problem, torch.float32, CPU)
    for baseline in ("torch float32", "torch bfloat16", "simulated", "oneDNN int8", "copy"):
        candidate = BASELINES[baseline](problem, layer)
        if candidate is not None:
            for index, operand in enumerate(candidate.operands):
                unread = {"copy": 0, "simulated": 4 if problem.is_backward else None}
                if operand is None or index == unread.get(baseline):
                    continue
                changed = [*candidate.operands]
                changed[index] = ~operand if operand.dtype == torch.bool else -operand - 1
                results = candidate.results(candidate.prepare(*changed)())
                worst = expected(problem, layer).errors_over_bounds(results, candidate.rounding)
                assert max(worst.values()) > 1, (baseline, index)


def test_what_a_baseline_multiplies() -> None:
    problem = Problem.parse("packed_linear", "17x80:16,signs")
    layer = layer_of(problem, torch.bfloat16, CPU)
    arithmetic = {}
    for name in ("torch float32", "torch bfloat16", "simulated", "oneDNN int8"):
        candidate = BASELINES[name](problem, layer)
        arithmetic[name] = candidate.arithmetic if candidate else None
    assert arithmetic == {
        "torch float32": "float32", "torch bfloat16": "bfloat16", "simulated": "bfloat16",
        "oneDNN int8": "int8",
    }  # fmt: skip
    assert tribin(problem, layer).arithmetic == "bit"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch.compile that traces forward and backward and leaves the C++ compiler alone."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    simulation._compiled.cache_clear()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "name",
    ["binary_linear_w1a1 5x40:6", "binary_conv2d_w1a1_backward 2x9x5x6:4x3",
     "packed_linear 5x40:6,bits,residual,gate"],
)  # fmt: skip
def test_the_compiled_layer(name: str) -> None:
    problem = Problem.parse(*name.split())
    layer = layer_of(problem, torch.float32, CPU)
    for _ in range(2):  # in each round
        candidate = BASELINES["simulated, compiled"](problem, layer)
        assert candidate is not None
        run = candidate.prepare(*candidate.operands)
        first, again = candidate.results(run()), candidate.results(run())
        for results in (first, again):
            worst = expected(problem, layer).errors_over_bounds(results, candidate.rounding)
            assert max(worst.values()) <= 1


def test_shapes_are_compiled_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each problem's graph has its sizes as constants, and no other problem's guards before it."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    simulation._compiled.cache_clear()
    for rows in range(10):  # more than torch keeps of one code
        problem = Problem.parse("packed_linear", f"{rows + 1}x40:6")
        for _ in range(2):
            BASELINES["simulated, compiled"](problem, layer_of(problem, torch.float32, CPU))
    assert len(graphs) == 10


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda function, **_: fail)
    simulation._compiled.cache_clear()
    problem = Problem.parse("binary_linear", "5x40:6")
    with pytest.raises(UnavailableError, match=r"^torch\.compile: no C\+\+ compiler$"):
        BASELINES["simulated, compiled"](problem, layer_of(problem, torch.float32, CPU))
    simulation._compiled.cache_clear()


def test_without_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "is_available", lambda: False)
    problem = Problem.parse("packed_linear", "17x80:16,signs")
    with pytest.raises(UnavailableError, match="without oneDNN's int8"):
        BASELINES["oneDNN int8"](problem, layer_of(problem, torch.float32, CPU))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would be asked, asked of the CPU."""
    for module in (integer, one_bit_libraries):
        monkeypatch.setattr(module, "on_gpu", lambda layer: True)
    one_bit_libraries._bitblas_matmul.cache_clear()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("options", ["", ",signs", ",bits,to_bits", ",signs,residual,gate,elu"])
@pytest.mark.parametrize("shape", ["17x80:16", "16x80:16", "17x81:16", "17x80:12"])
def test_int8_matrices(shape: str, options: str) -> None:
    """More than 16 rows, and multiples of 8 else, are what cuBLAS takes."""
    problem = Problem.parse("packed_linear", shape + options)
    candidate = BASELINES["torch._int_mm"](problem, layer_of(problem, torch.bfloat16, CPU))
    assert (candidate is not None) == (shape == "17x80:16" and options != "")
    if candidate:
        assert max(errors(problem, candidate, torch.bfloat16).values()) <= 1


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", ["torch._int_mm", "gemlite", "BitBLAS"])
def test_what_a_linear_layer_of_a_library_is_for(name: str) -> None:
    """W1A1 for the first, W1A16 for the others, in inference and in the forward pass."""
    applies = set()
    for problem in PROBLEMS:
        try:
            found = BASELINES[name](problem, layer_of(problem, torch.bfloat16, CPU)) is not None
        except UnavailableError as error:
            found = str(error) == "it is not installed"
        if found:
            applies.add((problem.op, problem.binary_input))
    binary = name == "torch._int_mm"
    training = "binary_linear_w1a1" if binary else "binary_linear"
    assert applies == {(training, binary), ("packed_linear", binary)}


class GemLiteLinear(nn.Module):
    """What Gemlite says that its layer computes: (W_q − zeros)·scales."""

    def __init__(
        self, bits: int, group: int, inputs: int, outputs: int, before: str, after: str
    ) -> None:
        super().__init__()
        assert (bits, group, before, after) == (1, inputs, "BF16", "BF16")
        if outputs % 16:
            raise NotImplementedError("Invalid input shapes")

    def pack(self, weight: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor) -> None:
        assert weight.dtype == torch.uint8
        self.weight = nn.Parameter((weight - zeros.float()) * scales.float())
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() @ self.weight.T + self.bias).to(x.dtype)


class BitBLASMatmul:
    """What BitBLAS does with an int1: −1 and 0 become the bits 0 and 1, and these −1 and 1."""

    def __init__(self, config: SimpleNamespace) -> None:
        self.config = config
        assert (config.W_dtype, config.layout, config.A_dtype) == ("int1", "nt", "bfloat16")

    def transform_weight(self, weight: Tensor) -> Tensor:
        assert weight.shape == (self.config.N, self.config.K)
        bits = weight.clamp(-1, 1).char() + 1
        assert set(bits.unique().tolist()) <= {0, 1}
        return bits

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        assert len(x) == self.config.M
        return (x.float() @ (2 * weight - 1).float().T).to(x.dtype)


LIBRARIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemlite": (
        "gemlite.core",
        {
            "GemLiteLinearTriton": GemLiteLinear,
            "DType": SimpleNamespace(BF16="BF16", FP16="FP16"),
        },
    ),
    "BitBLAS": ("bitblas", {"Matmul": BitBLASMatmul, "MatmulConfig": SimpleNamespace}),
}


def installed(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[..., Candidate | None]:
    module, content = LIBRARIES[name]
    library = ModuleType(module)
    vars(library).update(content)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], library)
    monkeypatch.setitem(sys.modules, module, library)
    return BASELINES[name]


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("shape", ["binary_linear 5x40:16", "packed_linear 5x40:16,residual,gate"])
def test_linear_layers_of_other_libraries(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: str
) -> None:
    problem = Problem.parse(*shape.split())
    baseline = installed(monkeypatch, name)
    candidate = baseline(problem, layer_of(problem, torch.bfloat16, CPU))
    assert candidate is not None
    assert max(errors(problem, candidate, torch.bfloat16).values()) <= 1


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_library_that_refuses_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.parse("binary_linear", "5x40:7")
    baseline = installed(monkeypatch, "gemlite")
    with pytest.raises(UnavailableError) as caught:
        baseline(problem, layer_of(problem, torch.bfloat16, CPU))
    assert str(caught.value) == ("binary_linear 5x40:7: NotImplementedError: Invalid input shapes")
