"""The runner of a campaign's stages: budget, resumption, failures; with stages that do nothing."""

from pathlib import Path

import pytest
from benchmarks.gpu import campaign
from benchmarks.gpu.campaign import (
    Outcome,
    OutOfTimeError,
    Stage,
    StageError,
    exit_code,
    run_stages,
)


def nothing(folder: Path, seconds: float) -> None:
    pass


class Recorder:
    """Notes which stages are done, and with how many seconds and which limit."""

    def __init__(self, faults: dict[str, Exception] | None = None) -> None:
        self.faults = faults or {}
        self.done: dict[str, tuple[float, float]] = {}

    def __call__(self, stage: Stage, folder: Path, seconds: float, limit: float) -> None:
        assert folder.is_dir()
        self.done[stage.name] = (seconds, limit)
        if stage.name in self.faults:
            raise self.faults[stage.name]


def run(stages: list[Stage], folder: Path, recorder: Recorder, minutes: float = 1) -> list[Outcome]:
    return run_stages(stages, folder, minutes=minutes, execute=recorder, report=lambda text: None)


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.stage: outcome.state for outcome in outcomes}


def test_stages_run_in_order_and_only_once(tmp_path: Path) -> None:
    stages = [Stage(name, 1, nothing) for name in "cab"]
    first, second = Recorder(), Recorder()
    assert set(states(run(stages, tmp_path, first)).values()) == {"done"}
    assert list(first.done) == ["c", "a", "b"]
    assert set(states(run(stages, tmp_path, second)).values()) == {"done before"}
    assert second.done == {}


def test_a_failure_is_reported_and_does_not_stop_the_next_and_is_done_again(tmp_path: Path) -> None:
    stages = [Stage(name, 1, nothing) for name in "ab"]
    outcomes = run(stages, tmp_path, Recorder({"a": StageError("ValueError: no")}))
    assert states(outcomes) == {"a": "failed", "b": "done"}
    assert outcomes[0].remark == "ValueError: no"
    assert exit_code(outcomes) == 1
    again = run(stages, tmp_path, Recorder())
    assert states(again) == {"a": "done", "b": "done before"}
    assert exit_code(again) == 0


def test_a_stage_that_does_not_fit_is_left_and_a_shorter_one_behind_it_is_not(
    tmp_path: Path,
) -> None:
    stages = [Stage("long", 61, nothing), Stage("short", 59, nothing)]
    outcomes = run(stages, tmp_path, Recorder())
    assert states(outcomes) == {"long": "left", "short": "done"}
    assert exit_code(outcomes) == 75


def test_without_time_nothing_starts(tmp_path: Path) -> None:
    recorder = Recorder()
    assert exit_code(run([Stage("a", 1, nothing)], tmp_path, recorder, minutes=0)) == 75
    assert recorder.done == {}
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_is_shared_by_the_stages_that_can_use_it(tmp_path: Path) -> None:
    rest = [Stage(f"rest {i}", 1, nothing, takes_the_rest=True) for i in range(4)]
    recorder = Recorder()
    run([Stage("fixed", 5, nothing), *rest], tmp_path, recorder)
    assert recorder.done["fixed"] == (5, campaign.OVERRUN * 5)
    # nothing takes time here, so that each has a share of the whole minute
    shares = [recorder.done[stage.name][0] for stage in rest]
    assert shares == pytest.approx([60 / 4, 60 / 3, 60 / 2, 60], rel=0.02)


def test_the_rest_is_never_less_than_a_stage_needs(tmp_path: Path) -> None:
    rest = [Stage(f"rest {i}", 40, nothing, takes_the_rest=True) for i in range(4)]
    recorder = Recorder()
    run(rest, tmp_path, recorder)
    assert recorder.done["rest 0"][0] == 40


@pytest.mark.parametrize(("seconds", "state"), [(1, "failed"), (50, "left")])
def test_a_stage_that_is_cut_off_is_left_if_the_budget_was_to_blame(
    tmp_path: Path, seconds: float, state: str
) -> None:
    recorder = Recorder({"a": OutOfTimeError()})
    outcomes = run([Stage("a", seconds, nothing)], tmp_path, recorder)
    assert states(outcomes) == {"a": state}
    _, limit = recorder.done["a"]
    assert limit == pytest.approx(min(campaign.OVERRUN * seconds, 60), rel=0.02)
    again = run([Stage("a", seconds, nothing)], tmp_path, Recorder())
    assert states(again) == {"a": "done"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["check"], True), (["check.graph"], True), (["che"], False), (["x", "check"], True)],
)
def test_a_stage_is_chosen_by_its_name_or_its_group(names: list[str], chosen: bool) -> None:
    assert Stage("check.graph", 1, nothing).is_of(names) is chosen
