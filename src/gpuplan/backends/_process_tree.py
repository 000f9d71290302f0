"""All processes of one local job, wherever they moved to: found by the job's folder in their environment.

A process group is not enough: torchrun puts each rank into a session of its own. Called by `local` only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psutil

from gpuplan_job.contract import JOB_DIR_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

_KILL_SECONDS = 5.0


def members(folder: Path) -> list[psutil.Process]:
    """Return the live processes that carry the folder, oldest first: the launcher leads."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(JOB_DIR_VARIABLE) == str(folder):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def end(folder: Path, grace_seconds: float) -> None:
    """Ask the launcher to end its job, wait, then kill whatever is left of the tree until none is."""
    tree = members(folder)
    if tree:
        with contextlib.suppress(psutil.Error):
            tree[0].terminate()
        psutil.wait_procs(tree, timeout=grace_seconds)
    for _ in range(3):  # a process may fork while we kill: look again
        left = members(folder)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=_KILL_SECONDS)
