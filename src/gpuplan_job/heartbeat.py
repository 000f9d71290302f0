"""The sign of life of one rank: a few numbers in shared memory that the launcher reads whatever the rank hangs in.

Written by `pulse` in each training process, read by `stall` in the launcher; both are on one machine. Standard library
only. A beat is a write to memory: no system call, no lock, no thread.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import shutil
import signal
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "heartbeats"
STACK_SIGNAL = signal.SIGUSR2
"""Makes a rank write the stacks of all its threads, also while its main thread is stuck in C."""
_RECORD = struct.Struct("<qqqd16s")


@dataclass(frozen=True)
class Beat:
    """What a rank said last."""

    process: int
    beats: int
    steps: int
    """Optimizer steps done."""
    limit_seconds: float
    """After which silence is a stall."""
    phase: str


class Heart:
    """The writing end, of this process; `rank` names its files below the job's folder."""

    def __init__(self, folder: Path, rank: int) -> None:
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        path = place / str(rank)
        path.write_bytes(bytes(_RECORD.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _RECORD.size)
        self._beats = 0
        # Held open for as long as the process lives: the handler writes to its descriptor and nothing else.
        self._stacks = stacks_path(folder, rank).open("w")
        faulthandler.register(STACK_SIGNAL, self._stacks, all_threads=True)

    def beat(self, phase: str, steps: int, limit_seconds: float) -> None:
        """Say that this process is alive, has done so many steps, and should be heard of again within the limit."""
        self._beats += 1
        _RECORD.pack_into(self._memory, 0, os.getpid(), self._beats, steps, limit_seconds, phase.encode()[:16])


def read(folder: Path, rank: int) -> Beat | None:
    """Return what a rank said last, None where it has said nothing yet."""
    try:
        content = (folder / FOLDER / str(rank)).read_bytes()
    except OSError:
        return None
    if len(content) != _RECORD.size:
        return None
    process, beats, steps, limit, phase = _RECORD.unpack(content)
    return Beat(process, beats, steps, limit, phase.rstrip(b"\0").decode()) if beats else None


def stacks_path(folder: Path, rank: int) -> Path:
    """Return where a rank writes its stacks when it is asked to."""
    return folder / FOLDER / f"{rank}.stacks"


def ask_for_stacks(beat: Beat) -> None:
    """Ask a rank for its stacks; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(beat.process, STACK_SIGNAL)


def clear(folder: Path) -> None:
    """Forget the ranks of an earlier start in the same folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
