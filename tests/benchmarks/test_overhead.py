from benchmarks.overhead import NOT_COUNTED, measure, text
from tests.runs import tiny_recipe


def test_the_phases_of_a_run_are_counted() -> None:
    overrides = ("training.images=80", "training.log_every_images=16")
    result = measure(tiny_recipe(*NOT_COUNTED, *overrides, "checkpoints.every_images=40"))
    assert result["calls"]["forward"] == 10
    assert result["calls"]["logging"] == 10 + 5  # before each step, and after those that log
    assert result["calls"]["checkpoint"] == 2
    assert abs(sum(result["shares"].values()) - 1) < 1e-9
    lines = text(result).splitlines()
    assert len(lines) == len(result["seconds"]) + 1
    together = result["shares"]["logging"] + result["shares"]["checkpoint"]
    assert lines[-1] == f"logging and checkpoint: {together:.2%} of the steps"
