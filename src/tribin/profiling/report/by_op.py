"""The entries of a profile of kernels by op, shape and contender."""

from collections.abc import Mapping

from tribin.profiling.result import Entry, Result

TRIBIN = "tribin"
"""The contender that the others are compared with."""

Problem = Mapping[str, Entry]
"""The entries of one op at one shape, by contender."""


def problems_by_op(result: Result) -> dict[str, dict[str, Problem]]:
    """By op and shape, in the order of the result."""
    ops: dict[str, dict[str, dict[str, Entry]]] = {}
    for entry in result.entries:
        op, _, shape = entry.problem.partition(" ")
        ops.setdefault(op, {}).setdefault(shape, {})[entry.contender] = entry
    return {op: dict(problems) for op, problems in ops.items()}


def ratios(problem: Problem) -> dict[str, float]:
    """How many times as long as tribin the baselines take."""
    tribin = problem[TRIBIN].timing.median
    return {name: entry.timing.median / tribin for name, entry in problem.items() if name != TRIBIN}


def contenders(result: Result) -> list[str]:
    """Their names, each once."""
    return list(dict.fromkeys(entry.contender for entry in result.entries))
