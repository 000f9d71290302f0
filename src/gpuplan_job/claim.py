"""An attempt is started once: the lock and the marks by which a second launcher of the same folder steps back.

Called by `launch`. A client that wants to know whether the launcher lives tries the same lock, shared, for an instant.
Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gpuplan_job.contract import CLAIM_FILE, EXIT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCK_PATIENCE_SECONDS = 2.0
"""A poller holds its shared lock for an instant; another launcher holds its own for as long as the job lives."""
_RETRY_SECONDS = 0.05


class AlreadyRunningError(Exception):
    """Another launcher runs this attempt."""


class AlreadyDoneError(Exception):
    """This attempt is over: its exit file is there."""


class AttemptDiedError(Exception):
    """A launcher started this attempt and died without an exit file; it must not be started again."""


@contextmanager
def held(
    folder: Path, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Hold the claim on a job's folder: this process's id is in it and it is locked, for as long as the block runs.

    Raises:
        AlreadyRunningError: the lock is taken.
        AlreadyDoneError: the attempt has ended.
        AttemptDiedError: an earlier launcher of the attempt died.
    """
    # Python opens it close-on-exec, so no child keeps the lock when the launcher dies.
    descriptor = os.open(folder / CLAIM_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, sleep, clock)
        if (folder / EXIT_FILE).exists():
            raise AlreadyDoneError
        if os.fstat(descriptor).st_size:
            raise AttemptDiedError
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.fsync(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
    deadline = clock() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if clock() >= deadline:
                raise AlreadyRunningError from error
            sleep(_RETRY_SECONDS)
        else:
            return
