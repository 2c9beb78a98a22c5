"""How long a model's run is in each of its modules."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from tribin.cost import OperationCost
from tribin.profiling.prediction import predicted_seconds
from tribin.running_module import RunningModule

RUNS = 3


def layer_seconds(
    model: nn.Module, run: Callable[[], object], clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds in each module itself, without those in the modules inside it.

    Args:
        model: any torch model.
        run: what is timed: uses the model.
        clock: in seconds, such as `tribin.profiling.device_clock.clock_of` gives.

    Returns:
        The median of some runs, after one to warm up, by the module's name; ``""`` is the model's
        own and what is outside of it. The hooks that watch cost each module some microseconds.
    """
    _, *runs = [_one_run(model, run, clock) for _ in range(1 + RUNS)]
    return {name: statistics.median(seconds[name] for seconds in runs) for name in runs[0]}


def _one_run(
    model: nn.Module, run: Callable[[], object], clock: Callable[[], float]
) -> Mapping[str, float]:
    seconds: defaultdict[str, float] = defaultdict(float)
    last = 0.0

    def left(name: str) -> None:
        nonlocal last
        now = clock()
        seconds[name] += now - last
        last = now

    with RunningModule(model, left):
        last = clock()
        run()
    return seconds


def layer_records(
    model: nn.Module,
    seconds: Mapping[str, float],
    costs: Iterable[OperationCost] | None,
    ceilings: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What a result keeps of each module that ran, in the model's order.

    Args:
        model: whose modules they are.
        seconds: of `layer_seconds`.
        costs: of the same run; None where they depend on values.
        ceilings: rates, as `tribin.profiling.result.Result` has them.

    Returns:
        JSON with ``name``, ``kind``, ``seconds``, ``share`` of the sum of all seconds,
        ``operations``, ``bytes`` and ``predicted_seconds``; the last three are None without costs.
    """
    whole = sum(seconds.values())
    by_module: defaultdict[str, list[OperationCost]] = defaultdict(list)
    for cost in costs or ():
        by_module[cost.module].append(cost)
    return [
        {
            "name": name,
            "kind": type(module).__name__,
            "seconds": seconds[name],
            "share": seconds[name] / whole,
            **_cost_record(None if costs is None else by_module[name], ceilings),
        }
        for name, module in model.named_modules()
        if name in seconds
    ]


def _cost_record(
    costs: list[OperationCost] | None, ceilings: Mapping[str, float]
) -> dict[str, float | None]:
    if costs is None:
        return {"operations": None, "bytes": None, "predicted_seconds": None}
    return {
        "operations": 2 * sum(cost.multiply_adds for cost in costs),
        "bytes": sum(cost.bytes for cost in costs),
        "predicted_seconds": predicted_seconds(costs, ceilings),
    }
