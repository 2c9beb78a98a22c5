"""A stage's process: what it prints, and what becomes of one that does not end well."""

import os
import time
from functools import partial
from pathlib import Path

import pytest
from benchmarks.gpu.campaign import OutOfTimeError, StageError
from benchmarks.gpu.stage_process import run_in_process


def text_with(file: Path, wanted: str) -> str:
    """What is in the log, which another process writes, once it has that text."""
    deadline = time.monotonic() + 20
    while wanted not in file.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    return file.read_text()


def speak(text: str) -> None:
    print(text)
    os.system(f"echo {text} from a child")


def fail() -> None:
    raise ValueError("of two\nlines")


def test_what_a_process_prints_is_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    run_in_process(partial(speak, "hello"), 60, log)
    assert text_with(log, "a child\n") == "before\nhello\nhello from a child\n"


def test_an_exception_is_an_error_of_one_line_and_its_traceback_is_in_the_log(
    tmp_path: Path,
) -> None:
    with pytest.raises(StageError, match=r"^ValueError: of two lines$"):
        run_in_process(fail, 60, tmp_path / "log")
    assert "Traceback" in text_with(tmp_path / "log", "lines\n")


@pytest.mark.parametrize(
    ("run", "cause"), [(os.abort, "SIGABRT"), (partial(os._exit, 7), "exit code 7")]
)
def test_a_process_that_dies_is_an_error(tmp_path: Path, run: partial[None], cause: str) -> None:
    with pytest.raises(StageError, match=f"its process died: {cause}"):
        run_in_process(run, 60, tmp_path / "log")


def test_a_process_that_hangs_is_killed_and_the_log_has_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(OutOfTimeError):
        run_in_process(partial(time.sleep, 60), 1, tmp_path / "log")
    assert "most recent call first" in text_with(tmp_path / "log", "_run")
