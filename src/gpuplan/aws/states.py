"""What SageMaker's words for a training job mean to gpuplan; an unknown word is UNKNOWN and still billing. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.core.errors import ExitCode
from gpuplan.core.job_state import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

_TERMINAL = {"Completed": JobState.SUCCEEDED, "Failed": JobState.FAILED, "Stopped": JobState.STOPPED}
_SECONDARY = {
    "Pending": JobState.PENDING,
    "Starting": JobState.STARTING,
    "LaunchingMLInstances": JobState.STARTING,
    "PreparingTrainingStack": JobState.STARTING,
    "Interrupted": JobState.STARTING,
    "Restarting": JobState.STARTING,
    "Downloading": JobState.RUNNING,
    "DownloadingTrainingImage": JobState.RUNNING,
    "Training": JobState.RUNNING,
    "Updating": JobState.RUNNING,
    "Uploading": JobState.RUNNING,
    "Stopping": JobState.STOPPING,
    # The job has met a limit or its end, and its status says InProgress for a moment longer: it is being ended.
    "MaxRuntimeExceeded": JobState.STOPPING,
    "MaxWaitTimeExceeded": JobState.STOPPING,
    "Stopped": JobState.STOPPING,
    "Completed": JobState.STOPPING,
    "Failed": JobState.STOPPING,
}
"""Every SecondaryStatus of the API model of botocore 1.44.5."""
LIMITS = {"MaxRuntimeExceeded": "its time limit", "MaxWaitTimeExceeded": "its limit of waiting for spot capacity"}


def job_state(status: str, secondary: str) -> JobState:
    """Return the state of a job from its TrainingJobStatus and SecondaryStatus."""
    if status in _TERMINAL:
        return _TERMINAL[status]
    if status == "Stopping":
        return JobState.STOPPING
    if status == "InProgress":
        return _SECONDARY.get(secondary, JobState.UNKNOWN)
    return JobState.UNKNOWN


def detail(job: Mapping[str, Any]) -> str:
    """Return a described job's state in the service's words, with the reason of a failure."""
    secondary = str(job.get("SecondaryStatus", "")) or str(job.get("TrainingJobStatus", ""))
    reason = str(job.get("FailureReason", "")).strip()
    if secondary in LIMITS:
        return f"{secondary}: AWS ended it at {LIMITS[secondary]}"
    return f"{secondary}: {reason}" if reason else secondary


def exit_code(job: Mapping[str, Any]) -> ExitCode | None:
    """Return what the end of a job means where AWS itself caused it, else None."""
    if job.get("SecondaryStatus") == "MaxRuntimeExceeded":
        return ExitCode.OVER_BUDGET
    capacity = job.get("SecondaryStatus") == "MaxWaitTimeExceeded" or "CapacityError" in str(job.get("FailureReason"))
    return ExitCode.CAPACITY if capacity else None
