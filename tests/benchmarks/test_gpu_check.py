"""The campaign's checks: they pass on a CPU, and notice what is wrong."""

from typing import Any

import pytest
import torch
from benchmarks.gpu import check
from benchmarks.gpu.bench import Bench, strict
from torch import Tensor

BENCH = Bench(torch.device("cpu"), tiny=True)


@pytest.mark.parametrize("name", check.checks(BENCH.device))
def test_a_check_passes_on_a_cpu_and_says_what_it_saw(name: str) -> None:
    with strict():
        assert list(check.checks(BENCH.device)[name](BENCH))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_has_more_checks() -> None:
    more = check.checks(torch.device("cuda")).keys() - check.checks(torch.device("cpu")).keys()
    assert more == {"bit_mma", "adam_step", "graph", "packed_graph"}


@pytest.mark.parametrize("latents_clipped", [True, False])
def test_the_update_is_checked(monkeypatch: pytest.MonkeyPatch, latents_clipped: bool) -> None:
    monkeypatch.setattr(check, "ADAM_SIZES", (1, 1000, 1025))
    if latents_clipped:
        assert list(check.adam_step(BENCH))
        return
    monkeypatch.setattr(torch.Tensor, "clamp_", lambda tensor, *limits: tensor)
    with pytest.raises(AssertionError, match="not close"):
        list(check.adam_step(BENCH))


class OffByALittle:
    """Ops with one wrong element in what a layer gives."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops

    def __getattr__(self, name: str) -> Any:
        def wrong(*arguments: Any) -> Any:
            result = getattr(self.ops, name)(*arguments)
            y = result if isinstance(result, Tensor) else result[0]
            if y.is_floating_point() and y.numel():
                y.view(-1)[-1] += 1
            return result

        return wrong


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("real_layers", "W1A16 float32"),
        ("ragged_layers", "seed 0, x "),
        ("packed_layers", "not equal"),
    ],
)
def test_a_wrong_element_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(torch.ops, "tribin", OffByALittle(torch.ops.tribin))
    with pytest.raises(AssertionError, match=message):
        list(check.checks(BENCH.device)[name](BENCH))
