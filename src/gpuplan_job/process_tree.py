"""The processes below the launcher: torchrun gives each worker a session of its own, so a process group is too small.

Called by `launch`, and by `train` to die with its parent. Standard library only. Linux reads /proc; elsewhere `ps` says
who is whose child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""Of prctl(2)."""
_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.02


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies (Linux), so that `descendants` always finds them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux): no training goes on without its launcher."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """Return the ids of the processes below `root`, nearest first."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents().items():
        children.setdefault(parent, []).append(process)
    found: list[int] = []
    level = children.get(root, [])
    while level:
        found += level
        level = [child for process in level for child in children.get(process, [])]
    return found


def kill(processes: list[int]) -> None:
    """Send SIGKILL to processes; one that is gone already is no error."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def end_below_self() -> None:
    """Kill every descendant of this process and return when they are gone; at most a few seconds later."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (found := descendants(os.getpid())) and time.monotonic() < deadline:
        kill(found)
        # What was adopted has to be taken leave of, or it stays a zombie.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_POLL_SECONDS)


def _parents() -> dict[int, int]:
    if Path("/proc/self/stat").exists():
        return dict(filter(None, map(_parent_of, Path("/proc").glob("[0-9]*/stat"))))
    listing = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False
    ).stdout.split()
    return {int(process): int(parent) for process, parent in zip(listing[::2], listing[1::2], strict=True)}


def _parent_of(stat: Path) -> tuple[int, int] | None:
    try:
        text = stat.read_text(errors="replace")
    except OSError:
        return None  # it ended meanwhile
    # The name in parentheses may hold anything; state and parent follow the last one.
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state == "Z" else (int(stat.parent.name), int(parent))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
