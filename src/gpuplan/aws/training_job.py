"""The CreateTrainingJob request of one attempt: exactly what a dry run prints and `submit` sends. Pure.

Called by `backends.sagemaker`. What is not known offline (role, bucket, image) stands as `{"unknown": reason}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpuplan.core.frozen import Unknown
from gpuplan_job import data
from gpuplan_job.contract import ATTEMPT_VARIABLE, PROCESSES_VARIABLE, JobInput
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gpuplan.aws.layout import AttemptPlace
    from gpuplan.planning.plan import Limits

CHECKPOINT_FOLDER = "/opt/ml/checkpoints"
ENTRYPOINT = ("python3", "/opt/ml/input/data/code/payload.pyz")
RUN_TAG = "gpuplan:run"
FINGERPRINT_TAG = "gpuplan:fingerprint"
LEARNING_RATE_AT = ("HyperParameters", "train")
NO_BUCKET = "no bucket given: --bucket, or gpuplan infra deploy"
InputMode = Literal["File", "FastFile"]
"""Copied to the instance before the job starts, or read from S3 as the job opens it."""


@dataclass(frozen=True)
class Site:
    """Where in the account a job runs and keeps its files."""

    bucket: str | None
    role_arn: str | Unknown
    image: str | Unknown
    code: str
    """Key of the folder of code and wheels, ending in a slash."""
    network_isolation: bool

    def uri(self, key: str) -> str | dict[str, str]:
        """Return the S3 URL of a key, or why it is not known."""
        if self.bucket is None:
            return {"unknown": f"s3://BUCKET/{key}: {NO_BUCKET}"}
        return f"s3://{self.bucket}/{key}"


@dataclass(frozen=True)
class Machine:
    """The instances of a job and what ends it."""

    instance_type: str
    instances: int
    spot: bool
    limits: Limits


def request(
    name: str, job: JobInput, machine: Machine, site: Site, place: AttemptPlace, training_data: str | None
) -> dict[str, Any]:
    """Return the request without its tags; `training_data` is the s3:// URL of the data set, if it has one.

    A search opens a small part of a data set, so SageMaker must not copy all of it first; a training opens every
    sample in every epoch, so it is copied once, as are samples that lie many in an object.
    """
    channels = [_channel("code", site.uri(site.code))]
    if training_data is not None:
        channels.append(_channel("training", training_data, _mode(job)))
    stopping = {"MaxRuntimeInSeconds": machine.limits.max_runtime_seconds}
    if machine.limits.max_wait_seconds is not None:
        stopping["MaxWaitTimeInSeconds"] = machine.limits.max_wait_seconds
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": _known(site.image),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": list(ENTRYPOINT),
        },
        "RoleArn": _known(site.role_arn),
        "HyperParameters": hyperparameters(job),
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": site.uri(place.output)},
        "CheckpointConfig": {"S3Uri": site.uri(place.checkpoints), "LocalPath": CHECKPOINT_FOLDER},
        "ResourceConfig": {
            "InstanceType": machine.instance_type,
            "InstanceCount": machine.instances,
            "VolumeSizeInGB": machine.limits.volume_gb,
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": machine.spot,
        "EnableNetworkIsolation": site.network_isolation,
        "Environment": {
            PROCESSES_VARIABLE: str(job.batch.world_size // machine.instances),
            ATTEMPT_VARIABLE: str(job.attempt),
        },
    }


def hyperparameters(job: JobInput) -> dict[str, str]:
    """Return the job's input as hyperparameters: each top-level key with its value as JSON text.

    The container puts the same canonical document together again, so its digest is the one the client knows.
    """
    document: dict[str, Any] = json.loads(job.to_json())
    return {key: canonical_json(value) for key, value in document.items()}


def tags(job: JobInput, body: Mapping[str, Any], owner: str, expires_at: datetime | None) -> list[dict[str, Any]]:
    """Return the job's tags; the fingerprint is the sha256 of the request without them."""
    expires = (
        {"unknown": "when the job is submitted, plus its limits"}
        if expires_at is None
        else expires_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    )
    values = {
        RUN_TAG: job.run_id,
        "gpuplan:step": job.step,
        "gpuplan:attempt": str(job.attempt),
        "gpuplan:plan": job.plan_id,
        "gpuplan:owner": owner,
        "gpuplan:expires-at": expires,
        FINGERPRINT_TAG: sha256_hex(canonical_json(body)),
    }
    return [{"Key": key, "Value": value} for key, value in values.items()]


def _mode(job: JobInput) -> InputMode:
    return "FastFile" if not job.train and data.streams(job.workload.data) else "File"


def _channel(name: str, uri: str | dict[str, str], mode: InputMode = "File") -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def _known(value: str | Unknown) -> object:
    return {"unknown": value.unknown} if isinstance(value, Unknown) else value


def told(body: Mapping[str, Any]) -> JobInput:
    """Return the job's input in a request's hyperparameters.

    Raises:
        ContractError: a value of it is not known yet.
    """
    return JobInput.from_json(canonical_json({key: json.loads(text) for key, text in body["HyperParameters"].items()}))
