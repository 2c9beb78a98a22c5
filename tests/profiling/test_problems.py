"""Problems against their text, and against what small models are known to call."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.runs import FLOWPP, tiny_recipe
from torch import Tensor

from tribin.errors import InputError
from tribin.models import GenerativeModel, Objective
from tribin.nn import BinaryLinear
from tribin.profiling.kernels.problem import OPS, OPTIONS, Problem
from tribin.profiling.kernels.problems import in_order, problems_of
from tribin.recipe import load_recipe
from tribin.training.run_folder import build_model

CONV2D = [op for op in OPS if "conv2d" in op]
LINEAR = [op for op in OPS if "linear" in op]
sizes = st.integers(1, 500)
options = st.sets(st.sampled_from(OPTIONS)).filter(lambda chosen: not {"signs", "bits"} <= chosen)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    op = draw(st.sampled_from(OPS))
    if op == "pack_signs":
        return Problem(op, tuple(draw(st.lists(sizes, min_size=1, max_size=8))))
    outputs = 2 * draw(sizes)
    chosen = frozenset(draw(options)) if op.startswith("packed") else frozenset()
    if op in LINEAR:
        return Problem(op, (draw(sizes), draw(sizes)), outputs, options=chosen)
    kernel, stride = (draw(st.tuples(st.integers(1, 7), st.integers(1, 7))) for _ in range(2))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    height, width = (draw(st.integers(n, 40)) for n in kernel)
    x = draw(sizes), draw(sizes), height, width
    return Problem(op, x, outputs, kernel, stride, padding, chosen)


@given(problems())
def test_a_shape_is_read_as_it_is_written(problem: Problem) -> None:
    assert Problem.parse(problem.op, str(problem)) == problem


def test_shapes_by_hand() -> None:
    read = Problem.parse
    conv = read("binary_conv2d", "16x256x8x9:64x3")
    assert conv == Problem("binary_conv2d", (16, 256, 8, 9), 64, (3, 3), (1, 1), (1, 1))
    assert str(conv) == "16x256x8x9:64x3"
    conv = read("packed_conv2d", "2x3x8x9:4x3x5,stride=2,padding=0x1,to_bits,bits")
    chosen = frozenset({"bits", "to_bits"})
    assert conv == Problem("packed_conv2d", (2, 3, 8, 9), 4, (3, 5), (2, 2), (0, 1), chosen)
    assert str(conv) == "2x3x8x9:4x3x5,stride=2,padding=0x1,bits,to_bits"
    assert str(read("packed_conv2d", "2x3x8x9:4x3x5,padding=1x2")) == "2x3x8x9:4x3x5"
    assert read("binary_linear", "5x6:7") == Problem("binary_linear", (5, 6), 7)
    assert read("pack_signs", "3x4x5").name == "pack_signs 3x4x5"


@pytest.mark.parametrize(
    ("op", "text", "wanted"),
    [
        ("binary_conv2d", "", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "16x256x16x16", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "16x256x16x16:256", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "4x3x9x9:8x3,bits", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "4x3x9x9:8x3,stride", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "4x3x9x9:8x3,stride=1,stride=2", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "4x3x-9x9:8x3", "such as 16x256x16x16:256x3"),
        ("binary_conv2d", "4x3x9x9:8x3,stride=0", "stride (0, 0) must be at least 1"),
        ("binary_conv2d", "4x3x2x2:8x5,padding=0", "smaller than the kernel [5, 5]"),
        ("binary_linear", "5x6:7,stride=2", "such as 4096x1024:512"),
        ("binary_linear", "5x0:7", "every size must be at least 1"),
        ("binary_linear", "5x6:0", "every size must be at least 1"),
        ("binary_linear", "5 x6:7", "such as 4096x1024:512"),
        ("packed_linear", "5x6:7,relu", "any of signs, bits, residual, gate, elu, to_bits"),
        ("packed_linear", "5x6:7,elu,elu", "any of signs, bits, residual, gate, elu, to_bits"),
        ("packed_linear", "5x6:7,gate", "a gate takes an even number of outputs, not 7"),
        ("packed_linear", "5x6:8,signs,bits", "x is either signs or bits"),
        ("pack_signs", "5:6", "such as 16x16x16x256"),
        ("pack_signs", "5,bits", "such as 16x16x16x256"),
    ],
)
def test_what_is_no_shape(op: str, text: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        Problem.parse(op, text)
    message = str(caught.value)
    assert message.startswith(f"--shape: {text!r}: {op}: ")
    assert wanted in message
    assert "\n" not in message


def names(*overrides: str) -> list[str]:
    with torch.device("meta"):
        model = build_model(tiny_recipe(*overrides))
    return [problem.name for problem in problems_of(model, 3)]


def test_what_a_resnet_vae_calls() -> None:
    """Its blocks have 8 channels of 4x4; packed, bits go from the first convolution to the next."""
    assert names() == [
        "binary_conv2d_w1a1 3x8x4x4:8x3",
        "binary_conv2d_w1a1_backward 3x8x4x4:8x3",
        "packed_conv2d 3x8x4x4:8x3,bits,residual",
        "packed_conv2d 3x8x4x4:8x3,signs,to_bits",
    ]
    assert names("model.precision={weights: 1, activations: 32}") == [
        "binary_conv2d 3x8x4x4:8x3",
        "binary_conv2d_backward 3x8x4x4:8x3",
        "packed_conv2d 3x8x4x4:8x3,elu",
        "packed_conv2d 3x8x4x4:8x3,residual",
    ]


def test_what_the_papers_resnet_vae_calls() -> None:
    """256 channels of 16x16; the extra blocks have kernels of 5."""
    with torch.device("meta"):
        model = build_model(load_recipe("resnet_vae/cifar10_w1a1"))
    assert [problem.name for problem in problems_of(model, 16)] == [
        f"{op} 16x256x16x16:256x{kernel}{options}"
        for op, all_options in (
            ("binary_conv2d_w1a1", [""]),
            ("binary_conv2d_w1a1_backward", [""]),
            ("packed_conv2d", [",bits,residual", ",signs,to_bits"]),
        )
        for kernel in (5, 3)
        for options in all_options
    ]


def test_what_a_flowpp_calls() -> None:
    """Blocks of width 8 see both signs of their input, 16 channels, at three scales.

    Those that dequantize project a context of 32 channels, which blocks of that width make.
    """
    scales = ["8x4", "4x4", "4x2"]
    layers = {
        *(f"3x16x{scale}:8x3" for scale in scales),
        *(f"3x16x{scale}:16x1" for scale in scales),
        "3x64x8x4:8x1",
        "3x64x8x4:32x3",
        "3x64x8x4:64x3",
    }
    found = names(FLOWPP)
    for op in ("binary_conv2d_w1a1", "binary_conv2d_w1a1_backward"):
        assert {name.split()[1] for name in found if name.startswith(f"{op} ")} == layers
    packed = {name.split()[1] for name in found if name.startswith("packed_conv2d ")}
    assert packed == {
        *(f"3x16x{scale}:8x3,signs" for scale in scales),
        *(f"3x16x{scale}:16x1,signs,residual,gate" for scale in scales),
        "3x64x8x4:8x1,signs,residual",
        "3x64x8x4:32x3,signs",
        "3x64x8x4:64x3,signs,residual,gate",
    }


class Linear(GenerativeModel):
    """A density of two binary linear layers, the second on rows of rows."""

    def __init__(self) -> None:
        super().__init__((1, 4, 4), 16)
        self.first = BinaryLinear(16, 6, binary_input=True)
        self.second = BinaryLinear(3, 5)

    def forward(self, images: Tensor) -> Objective:
        return Objective(self.log_weight(images).mean(), {})

    def log_weight(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1).float())
        return self.second(hidden.view(-1, 2, 3)).sum((1, 2))

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def test_what_linear_layers_call() -> None:
    assert [problem.name for problem in problems_of(Linear(), 7)] == [
        "binary_linear_w1a1 7x16:6",
        "binary_linear_w1a1_backward 7x16:6",
        "binary_linear 14x3:5",
        "binary_linear_backward 14x3:5",
        "packed_conv2d 7x16x1x1:6x1,signs",
        "packed_conv2d 14x3x1x1:5x1",
    ]


def test_the_model_stays_as_it_is() -> None:
    model = Linear().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    problems_of(model, 2)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_whose_calls_depend_on_values() -> None:
    class Undecided(Linear):
        def log_weight(self, images: Tensor) -> Tensor:
            return super().log_weight(images) if images.sum().item() else images.float()

    with pytest.raises(InputError, match="Undecided calls depends on values; give --shape"):
        problems_of(Undecided(), 2)


def test_each_problem_once_the_largest_of_an_op_first() -> None:
    small, large = (Problem.parse("binary_linear", text) for text in ("2x3:4", "20x3:4"))
    first = Problem.parse("binary_conv2d_w1a1", "2x3x4x4:5x3")
    assert in_order([small, large, small, first]) == [first, large, small]
