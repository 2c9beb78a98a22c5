"""What the cost model and the machine's ceilings say a run takes."""

from collections.abc import Iterable, Mapping

from tribin.cost import OperationCost


def predicted_seconds(
    costs: Iterable[OperationCost] | None, ceilings: Mapping[str, float]
) -> float | None:
    """The seconds that operations take one after the other, each at its ceiling.

    An operation takes as long as its bytes at the rate of a copy, or as its multiplications and
    additions at the rate of its arithmetic, whichever is longer.

    Args:
        costs: of `tribin.cost.operation_costs`.
        ceilings: rates, as `tribin.profiling.result.Result` has them.

    Returns:
        None where the costs, or the ceiling of one of them, are not known.
    """
    if costs is None:
        return None
    try:
        return sum(_seconds(cost, ceilings) for cost in costs)
    except KeyError:
        return None


def _seconds(cost: OperationCost, ceilings: Mapping[str, float]) -> float:
    moving = cost.bytes / ceilings["copy"]
    if cost.arithmetic is None:
        return moving
    return max(moving, 2 * cost.multiply_adds / ceilings[cost.arithmetic])
