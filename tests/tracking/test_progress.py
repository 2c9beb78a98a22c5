import io
import re
import sys
import time

import pytest

from tribin.tracking.progress import Progress, format_metrics, print_line
from tribin.tracking.strict_json import Scalar

METRICS: dict[str, Scalar] = {
    "bits_per_dim": 2.134567,
    "kl": 0.5,
    "images": 12800,
    "weights": "ema",
    "hidden": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_report_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(230_400, 0, "train")
    progress.update(12_800, METRICS)
    progress.update(25_600, {})
    progress.close()

    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert re.fullmatch(
        r"12,800/230,400 images  5\.6%  "
        r"bits_per_dim 2\.135  kl 0\.5  images 12,800  weights ema  [\d,]+ images/s",
        first,
    )
    assert re.fullmatch(r"25,600/230,400 images  11\.1%  [\d,]+ images/s", second)


def test_speed_is_that_since_the_last_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 14.0, 16.0])
    monkeypatch.setattr("tribin.tracking.progress.time.perf_counter", lambda: next(clock))
    progress = Progress(10_000, 1_000, "train")
    progress.update(3_000, {})
    progress.update(5_000, {})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["500 images/s", "1,000 images/s"]


def test_on_a_terminal_a_bar_shows_images_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(100, 20, "quickstart")
    progress.update(60, {"bits_per_dim": 2.25})
    print_line("a message")
    progress.close()

    assert "a message\n" in terminal.getvalue()
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("quickstart:  60%|")
    assert "60/100" in last
    assert "bits_per_dim 2.25" in last


def test_metrics_are_written_for_people() -> None:
    assert format_metrics(METRICS | {"loss": float("nan")}) == (
        "bits_per_dim 2.135  kl 0.5  images 12,800  weights ema  hidden 1  loss nan"
    )


def test_the_clock_of_the_wall_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does when it is set; tqdm, which measures by it, has to bear that too."""
    clock = iter((1e9, *(1e9 - 86_400 * (-1) ** n for n in range(1000))))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(100, 0, "run")
    speeds = [progress.update(images, {"loss": 1.0}) for images in (10, 20, 30)]
    progress.close()
    assert all(speed > 0 for speed in speeds)
