"""Finds bad data in a job's first minute: a process beside it opens samples, and the first bad one ends the job.

Started by `lr_find`, by `find_batch` on a GPU, and by `train` in one process. A process, because decoding would hold up
the steps; the job waits for nothing but the labels. It must not keep a job alive, nor end one that has its result.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gpuplan_job import process_tree
from gpuplan_job.data import DataError
from gpuplan_job.failures import report
from gpuplan_job.sample_check import SampleCheck, refuse_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from gpuplan_job.contract import DataDescription, JobInput
    from gpuplan_job.data import Samples

_MOST = 2000
_SECONDS = 10.0
_AFTER_BAD_SECONDS = 3.0
"""The look at some samples, at full priority while the job starts up: so many, so long, and less once one is bad."""
_LOWEST_PRIORITY = 19


class DataCheck:
    """A check under way; without a process there is nothing more to find."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._process: multiprocessing.process.BaseProcess | None = None

    def run(
        self,
        sets: tuple[Samples, Samples],
        classes: int,
        on_bad: Callable[[DataError], None],
        *,
        everything: bool,
    ) -> None:
        """Start the process, and the thread that calls `on_bad` for what it finds."""
        receiving, sending = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.Process(target=_look, args=(sets, classes, sending, everything), daemon=True)
        self._process.start()
        sending.close()  # the process has its own; with it the last one goes, and the thread's wait ends
        threading.Thread(target=self._listen, args=(receiving, on_bad), daemon=True).start()

    def stop(self) -> None:
        """End the check: the job has what it came for, or ends by itself."""
        with self._lock:
            self._over = True
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _listen(self, receiving: Connection, on_bad: Callable[[DataError], None]) -> None:
        with suppress(EOFError, OSError):
            while True:
                bad, text = receiving.recv()
                with self._lock:
                    if self._over:
                        return
                    if bad:
                        on_bad(DataError(text))
                        return
                    sys.stderr.write(f"data check: {text}\n")


def start(
    sets: tuple[Samples, Samples],
    description: DataDescription,
    job: tuple[Path, JobInput],
    *,
    everything: bool,
) -> DataCheck:
    """Check labels at once, then start to open samples: some first, then with `everything` all, as far as time goes.

    `job` is its output folder and its input: a bad sample writes the failure there and ends this process. Data that lie
    in memory or are made up have no files that could be bad.

    Raises:
        DataError: a label is of no class of the model, or a class is not trained on.
    """
    refuse_labels(sets, description.classes)
    check = DataCheck()
    if description.storage != "tensors":
        check.run(sets, description.classes, lambda error: _end(job, error), everything=everything)
    return check


def _end(job: tuple[Path, JobInput], error: DataError) -> None:
    """Report and leave without a teardown: other ranks may wait in a collective that this one will not join."""
    folder, job_input = job
    report(folder, job_input, error, rank=0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _look(sets: tuple[Samples, Samples], classes: int, sending: Connection, everything: bool) -> None:  # noqa: FBT001 - a process takes its arguments by position
    import torch

    process_tree.die_with_parent()
    torch.set_num_threads(1)  # a process forked from one with a thread pool has the pool's locks and not its threads
    check = SampleCheck(sets, classes, time.monotonic)
    check.some(_MOST, _SECONDS, _AFTER_BAD_SECONDS)
    if check.error() is None and everything and check.looked < check.total:
        sending.send((False, f"{check.so_far()}, none is bad; the others follow beside the sweeps"))
        with suppress(OSError):
            os.nice(_LOWEST_PRIORITY)
        check.rest()
    error = check.error()
    with suppress(BrokenPipeError):
        sending.send((True, str(error)) if error else (False, f"{check.so_far()}, none is bad"))
