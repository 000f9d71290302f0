"""Runs training jobs, each in a thread and its containers, and ends them all with the emulator. Used by `Emulator`.

A FastFile channel is filled before the job starts, as a File channel is: the job sees the same folder, but neither the
time of reading from S3 nor the disk that is saved. That a job reads only what it needs has to be shown elsewhere.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from gpuplan.testing import sandbox
from gpuplan.testing.cluster import Platform
from gpuplan.testing.errors import EmulatorError
from gpuplan.testing.job_run import JobRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpuplan.testing.clients import Clients
    from gpuplan.testing.job_faults import JobFaults
    from gpuplan.testing.states import TrainingJob
    from gpuplan.testing.timing import Timing


class Executor:
    """The emulated machines."""

    def __init__(
        self, python: str, image: Mapping[str, str], timing: Timing, clients: Clients, faults: JobFaults
    ) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="gpuplan-emulator-"))
        self._platform = Platform(python, image, timing, clients, faults, self._root)
        self._runs: dict[str, tuple[JobRun, Thread]] = {}
        self._lock = Lock()

    def start(self, job: TrainingJob) -> None:
        """Run a job; EmulatorError if this machine cannot make containers."""
        sandbox.check()
        run = JobRun(job, self._platform)
        thread = Thread(target=run.live, name=f"job {job.name}", daemon=True)
        with self._lock:
            self._runs[job.name] = (run, thread)
        thread.start()

    def interrupt(self, name: str, *, notice: bool) -> None:
        """Take a spot job's machines away; EmulatorError if the job is not one, or has no machines any more."""
        with self._lock:
            run, _ = self._runs.get(name, (None, None))
        if run is None or run.job.ended:
            raise EmulatorError(f"{name} has no machines", why="it has ended")
        if not run.job.request.get("EnableManagedSpotTraining"):
            raise EmulatorError(f"{name} does not run on spot capacity", why="only a spot job can be interrupted")
        run.interrupt(notice=notice)

    def close(self) -> None:
        """End every container and thread, and remove their folders."""
        with self._lock:
            runs = list(self._runs.values())
        for run, _ in runs:
            run.abandoned.set()
        for _, thread in runs:
            thread.join()
        shutil.rmtree(self._root, ignore_errors=True)
