"""A stage in a process of its own: what crashes or hangs there takes nothing else with it."""

import faulthandler
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals
from typing import cast

from benchmarks.gpu.campaign import OutOfTimeError, StageError

# A bare process that has imported torch and used no device is forked for each stage.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["benchmarks.gpu.stages"])

TRACEBACK_BEFORE_LIMIT = 2
"""Seconds before it is killed that a stage shows where it is."""


def run_in_process(run: Callable[[], None], limit: float, log: Path) -> None:
    """Call a function, which must be picklable, in a process; what it prints goes to a log, too.

    Raises:
        StageError: if it raised, or the process died.
        OutOfTimeError: if it took longer than the limit, in seconds, and was killed.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(run, limit, log, sender))
    process.start()
    sender.close()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise OutOfTimeError
    if process.exitcode:
        raise StageError(f"its process died: {_cause(process.exitcode)}")
    with suppress(EOFError):  # it ended without a word
        if receiver.poll():
            raise StageError(receiver.recv())


def _run(run: Callable[[], None], limit: float, log: Path, sender: Connection) -> None:
    _print_to(log)
    threading.Thread(target=_end_with_campaign, daemon=True).start()
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(limit - TRACEBACK_BEFORE_LIMIT, limit / 2))
    try:
        run()
    except Exception as error:  # whatever it is, the next stage goes on
        traceback.print_exc()
        sender.send(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    faulthandler.cancel_dump_traceback_later()


def _end_with_campaign() -> None:
    """A stage that nobody waits for must not be in the way of the next campaign."""
    campaign = multiprocessing.parent_process()
    assert campaign is not None
    campaign.join()
    os._exit(1)


def _print_to(log: Path) -> None:
    """Whatever this process prints, down to the output of libraries, is appended to a file."""
    tee = subprocess.Popen(["tee", "-a", log], stdin=subprocess.PIPE)
    assert tee.stdin is not None
    for stream in (sys.stdout, sys.stderr):
        os.dup2(tee.stdin.fileno(), stream.fileno())
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)


def _cause(exitcode: int) -> str:
    return Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
