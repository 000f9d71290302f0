"""The states of a job, the same for every backend and in every record."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; an unknown raw state of a service is UNKNOWN, never a crash."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED}

    @property
    def billing(self) -> bool:
        """Whether time costs money: a job that is stopping, or that we cannot see, still bills."""
        return self in {JobState.STARTING, JobState.RUNNING, JobState.STOPPING, JobState.UNKNOWN}
