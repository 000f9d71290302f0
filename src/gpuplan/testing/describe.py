"""A training job in the words of DescribeTrainingJob and ListTrainingJobs. Called by the training-job API; pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpuplan.testing.model_rules import members

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from gpuplan.testing.states import TrainingJob

_CHANNEL_DEFAULTS = {"CompressionType": "None", "RecordWrapperType": "None"}
_FLAGS = ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining")


def describe(job: TrainingJob, shown: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return the Describe document; `shown` are states to show instead of the real ones."""
    kept = members("CreateTrainingJobRequest") & members("DescribeTrainingJobResponse")
    with job.lock:
        document: dict[str, Any] = {key: value for key, value in job.request.items() if key in kept}
        document = json.loads(json.dumps(document))
        document |= {flag: bool(job.request.get(flag)) for flag in _FLAGS}
        primary, secondary = shown or (job.status, job.secondary)
        document |= {
            "TrainingJobArn": job.arn,
            "TrainingJobStatus": primary,
            "SecondaryStatus": secondary,
            "CreationTime": job.created_at.timestamp(),
            "LastModifiedTime": job.modified_at.timestamp(),
            "SecondaryStatusTransitions": [_transition(each) for each in job.transitions],
            "ModelArtifacts": {"S3ModelArtifacts": job.model_uri} if job.model_uri else {},
        }
        if job.started_at:
            document["TrainingStartTime"] = job.started_at.timestamp()
        if job.ended_at:
            document["TrainingEndTime"] = job.ended_at.timestamp()
            document["TrainingTimeInSeconds"] = job.training_seconds()
            document["BillableTimeInSeconds"] = job.billable_seconds()
        if job.failure_reason:
            document["FailureReason"] = job.failure_reason
        if job.metrics:
            document["FinalMetricDataList"] = list(job.metrics)
    _fill_in(document)
    return document


def summary(job: TrainingJob, shown: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return the entry in a list of jobs."""
    with job.lock:
        primary, secondary = shown or (job.status, job.secondary)
        ended = {"TrainingEndTime": job.ended_at.timestamp()} if job.ended_at else {}
        return {
            "TrainingJobName": job.name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.created_at.timestamp(),
            "LastModifiedTime": job.modified_at.timestamp(),
            "TrainingJobStatus": primary,
            "SecondaryStatus": secondary,
        } | ended


def chosen(jobs: Iterable[TrainingJob], body: dict[str, Any]) -> list[TrainingJob]:
    """Return the jobs that a ListTrainingJobs body asks for, whatever their status, in its order, all pages."""
    found = [job for job in jobs if _matches(job, body)]
    keys = {"Name": lambda job: job.name, "Status": lambda job: job.status}
    by = keys.get(body.get("SortBy", "CreationTime"), lambda job: job.order)
    return sorted(found, key=by, reverse=body.get("SortOrder") == "Descending")


def _matches(job: TrainingJob, body: dict[str, Any]) -> bool:
    return (
        body.get("NameContains", "").lower() in job.name.lower()
        and _within(job.created_at, body.get("CreationTimeAfter"), body.get("CreationTimeBefore"))
        and _within(job.modified_at, body.get("LastModifiedTimeAfter"), body.get("LastModifiedTimeBefore"))
    )


def _within(moment: datetime, after: float | None, before: float | None) -> bool:
    return (after is None or moment.timestamp() > after) and (before is None or moment.timestamp() < before)


def _transition(each: Any) -> dict[str, Any]:  # noqa: ANN401
    document = {"Status": each.status, "StartTime": each.started_at.timestamp(), "StatusMessage": each.message}
    return document | ({"EndTime": each.ended_at.timestamp()} if each.ended_at else {})


def _fill_in(document: dict[str, Any]) -> None:
    """Add what AWS adds to a request when it shows it."""
    document["AlgorithmSpecification"].setdefault("EnableSageMakerMetricsTimeSeries", False)
    document["OutputDataConfig"].setdefault("KmsKeyId", "")
    document["OutputDataConfig"].setdefault("CompressionType", "GZIP")
    document["StoppingCondition"].setdefault("MaxRuntimeInSeconds", 86400)
    for channel in document.get("InputDataConfig", []):
        for key, value in _CHANNEL_DEFAULTS.items():
            channel.setdefault(key, value)
        if "S3DataSource" in channel["DataSource"]:
            channel["DataSource"]["S3DataSource"].setdefault("S3DataDistributionType", "FullyReplicated")
