"""Jobs that no process runs: a test puts them where it wants them. For fast tests with many jobs.

Used through the emulator's `advance`, `complete`, `fail` and `log`; acts on held jobs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.testing.errors import EmulatorError
from gpuplan.testing.log_stream import LogStream
from gpuplan.testing.request_rules import s3_location

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpuplan.testing.clients import Clients
    from gpuplan.testing.job_faults import JobFaults
    from gpuplan.testing.states import TrainingJob
    from gpuplan.testing.training_jobs import TrainingJobs

_BEFORE = ("Starting", "Downloading", "Training", "Uploading")


@dataclass(frozen=True)
class Script:
    """The hand that moves held jobs."""

    jobs: TrainingJobs
    clients: Clients
    faults: JobFaults

    def advance(self, name: str, secondary: str, reason: str) -> None:
        """Put a job into a secondary state; a last one ends it."""
        self._held(name).enter(secondary, reason)

    def complete(self, name: str, files: Mapping[str, bytes], billed_seconds: int | None) -> None:
        """Publish files under the job's checkpoint URI, then end it well."""
        job = self._held(name)
        self.publish(name, files)
        self._bill(job, billed_seconds)
        for secondary in _BEFORE[_BEFORE.index(job.secondary) + 1 if job.secondary in _BEFORE else 1 :]:
            job.enter(secondary)
        job.enter("Completed")

    def fail(self, name: str, reason: str, files: Mapping[str, bytes], billed_seconds: int | None) -> None:
        """Publish files, then let the job fail for a reason."""
        job = self._held(name)
        self.publish(name, files)
        self._bill(job, billed_seconds)
        job.enter("Failed", reason)

    def publish(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write files under the job's checkpoint URI, as its container would."""
        job = self._held(name)
        if not files:
            return
        if "CheckpointConfig" not in job.request:
            raise EmulatorError(f"{name} has no CheckpointConfig: there is nowhere to publish {sorted(files)}")
        bucket, prefix = s3_location(job.request["CheckpointConfig"]["S3Uri"])
        s3 = self.clients.client("s3", job.account, job.region)
        for file, data in files.items():
            s3.put_object(Bucket=bucket, Key=f"{prefix.rstrip('/')}/{file}".lstrip("/"), Body=data)

    def log(self, name: str, lines: tuple[str, ...]) -> None:
        """Write lines to the job's log stream of its first host."""
        job = self._held(name)
        if not self.faults.drops_logs(name):
            LogStream(self.clients.client("logs", job.account, job.region), name, "algo-1", job.created_at).write(lines)

    def _held(self, name: str) -> TrainingJob:
        job = self.jobs.named(name)
        if not job.held:
            raise EmulatorError(
                f"{name} runs for real", why="only a job created while `hold` is set can be moved by hand"
            )
        return job

    @staticmethod
    def _bill(job: TrainingJob, seconds: int | None) -> None:
        if seconds is not None:
            job.bill(seconds)
