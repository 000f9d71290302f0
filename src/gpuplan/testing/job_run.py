"""The life of one training job: machines, download, containers, upload, end; again after a spot interruption.

Runs in a thread of its own, started by `executor`. It only reports states; the API shows them.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NoReturn

from gpuplan.testing.cluster import TICK_SECONDS, Cluster, Platform
from gpuplan.testing.endings import Cause, Ended

if TYPE_CHECKING:
    from gpuplan.testing.states import TrainingJob

_DEFAULT_RUNTIME_SECONDS = 86400


@dataclass
class JobRun:
    """One job on its emulated machines."""

    job: TrainingJob
    platform: Platform
    abandoned: Event = field(default_factory=Event)
    _taken: Cause | None = None
    _ran_seconds: float = 0.0
    _running_since: float | None = None

    def live(self) -> None:
        """Take the job from Starting to its end. The emulator's own failure fails the job and says so."""
        timing = self.platform.timing
        try:
            self._pause(timing.starting_seconds)
            if timing.pending_seconds:
                self._enter("Pending")
                self._pause(timing.pending_seconds)
            while self._interrupted():
                self._enter("Interrupted")
                self._pause(timing.restart_seconds)
                self._enter("Restarting")
                self._pause(timing.starting_seconds)
        except Ended as end:
            self._finish(end.cause)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the one who waits for the job must learn of it
            if not self.abandoned.is_set():
                self.job.enter("Failed", f"InternalServerError: the emulator failed: {error!r}")

    def interrupt(self, *, notice: bool) -> None:
        """Take the machines away at the next look, or if there are none yet, as soon as they are there."""
        self._taken = Cause.INTERRUPTED if notice else Cause.LOST

    def _interrupted(self) -> bool:
        """Make an attempt; tell whether an interruption ended it."""
        scratch = Path(tempfile.mkdtemp(dir=self.platform.root))
        self._running_since = time.monotonic()
        try:
            self._attempt(scratch)
        except Ended as end:
            if end.cause not in {Cause.INTERRUPTED, Cause.LOST}:
                raise
            self._taken = None
            return True
        finally:
            self._ran_seconds += time.monotonic() - self._running_since
            self._running_since = None
            shutil.rmtree(scratch, ignore_errors=True)
        return False

    def _attempt(self, scratch: Path) -> None:
        timing = self.platform.timing
        self._enter("Downloading")
        cluster = Cluster(self.job, self.platform, scratch, self._check)
        if reason := cluster.download():
            self._enter("Failed", reason)
            return
        self._pause(timing.downloading_seconds)
        self._enter("Training")
        try:
            reason = cluster.train()
        except Ended as end:
            if end.cause in {Cause.STOPPED, Cause.MAX_RUNTIME, Cause.MAX_WAIT}:
                self.job.enter("Uploading")
                self.job.model_uri = cluster.upload(with_model=True)
            raise
        finally:
            self.job.metrics = cluster.metrics()
        self._enter("Uploading")
        self._pause(timing.uploading_seconds)
        self.job.model_uri = cluster.upload(with_model=not reason)
        self._enter("Failed" if reason else "Completed", reason)

    def _finish(self, cause: Cause) -> None:
        if cause is Cause.ABANDONED:
            return
        if cause is Cause.STOPPED:
            self.abandoned.wait(self.platform.faults.stopping_seconds(self.job.name))
        self.job.enter(cause.value)

    def _enter(self, secondary: str, reason: str = "") -> None:
        """Go on to a state, unless the job was stopped before it got there."""
        with self.job.lock:
            if self.job.stop_requested.is_set():
                raise Ended(Cause.STOPPED)
            self.job.enter(secondary, reason)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._check()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(TICK_SECONDS, left))
            self._check()

    def _check(self) -> None:
        """Raise Ended if something ends the job, or takes its machines away."""
        limits, now = self.job.request["StoppingCondition"], time.monotonic()
        if self.abandoned.is_set():
            raise Ended(Cause.ABANDONED)
        if self.job.stop_requested.is_set():
            raise Ended(Cause.STOPPED)
        if now - self.job.created_monotonic > limits.get("MaxWaitTimeInSeconds", float("inf")):
            self._too_long(Cause.MAX_WAIT)
        if self._running_since is None:
            return
        if self._taken is not None:
            raise Ended(self._taken)
        if self._ran_seconds + now - self._running_since > limits.get("MaxRuntimeInSeconds", _DEFAULT_RUNTIME_SECONDS):
            self._too_long(Cause.MAX_RUNTIME)

    def _too_long(self, cause: Cause) -> NoReturn:
        with self.job.lock:
            if self.job.status != "Stopping":
                self.job.enter("Stopping")
        raise Ended(cause)
