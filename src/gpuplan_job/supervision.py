"""A child process and the signal that stops it: waits for its end, and once asked to stop ends its tree within a grace.

A child may have a way to be asked that is gentler than a signal; its grace is the same.

Called by `launch` and `sagemaker`. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gpuplan_job import process_tree
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL; SageMaker leaves 120 s, spot capacity about as much, a container engine often 10."""
CODE_STOPPED = 128 + signal.SIGTERM
_POLL_SECONDS = 0.1


class StoppedError(JobError):
    """A training was asked to stop, and has saved its state."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(
            "killed",
            f"the job was stopped; its state after step {done:,} of {total:,} is saved",
            "start it again, or resume the run",
        )


class Stop:
    """Remembers that a signal asked this process to stop; whoever waits for a child acts on it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number

    def error(self) -> JobError | None:
        """Return what to report of a job that was asked to stop, None of one that was not."""
        if self.signal is None:
            return None
        name = signal.Signals(self.signal).name
        return JobError("killed", f"the job was stopped by {name}", "start it again, or resume the run")


def _nobody_listens() -> bool:
    return False


def wait(
    child: subprocess.Popen[bytes],
    stop: Stop,
    ask: Callable[[], bool] = _nobody_listens,
    grace_seconds: float = GRACE_SECONDS,
) -> int:
    """Return the exit code of a child that leads a process group; once asked to stop, end this process's whole tree.

    `ask` asks the child to end by itself and returns whether it listens; one that does not gets SIGTERM.
    """
    deadline: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=_POLL_SECONDS)
        if stop.signal is None:
            continue
        if deadline is None:
            deadline = time.monotonic() + grace_seconds
            if not ask():
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
        elif time.monotonic() >= deadline:
            process_tree.kill(process_tree.descendants(os.getpid()))
