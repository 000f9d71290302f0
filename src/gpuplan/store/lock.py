"""One driver a run: an operating-system lock that dies with its holder, and a note that says who holds it.

Taken by launch and resume. `cancel` and readers never need it.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from gpuplan.core.errors import LockedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpuplan.core.clock import Clock

_LOCK = "client.lock"
_HOLDER = "client.json"
_PATIENCE_SECONDS = 0.5


@contextlib.contextmanager
def hold(folder: Path, run_id: str, clock: Clock) -> Iterator[None]:
    """Hold a run for as long as the block lasts.

    Raises:
        LockedError: another process holds it; the message says which.
    """
    # A reader that asks `is_held` takes the lock for an instant: wait that long.
    lock = FileLock(folder / _LOCK, timeout=_PATIENCE_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(
            f"{run_id} is being driven by {_holder(folder)}",
            why="one client drives a run at a time",
            fix=f"gpuplan watch {run_id}    or    gpuplan cancel {run_id}",
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        _write_holder(folder, clock)
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Tell whether a live client drives the run."""
    if not (folder / _LOCK).exists():
        return False
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True


def _write_holder(folder: Path, clock: Clock) -> None:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        user = f"user {os.getuid()}"
    note = {
        "user": user,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": clock.now().isoformat(timespec="seconds"),
    }
    try:
        (folder / _HOLDER).write_text(json.dumps(note), encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot lock the run in {folder}: {error.strerror or error}",
        why="the disk is full or the folder is not writable; nothing was started",
        fix="free space, or: export GPUPLAN_HOME=<a writable folder>",
    )


def _holder(folder: Path) -> str:
    try:
        note = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return f"{note['user']}@{note['host']}, process {note['pid']}, since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
