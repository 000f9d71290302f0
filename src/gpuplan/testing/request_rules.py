"""What SageMaker refuses in CreateTrainingJob beyond its model: spot limits, channels, buckets, tags, the role.

Called by the training-job API before a job exists. The checks that look at S3 and IAM ask through `Estate`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from gpuplan.testing.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RUNTIME_SECONDS = 28 * 24 * 3600
CHECKPOINTS = "/opt/ml/checkpoints"
"""Where SageMaker mirrors checkpoints from unless CheckpointConfig.LocalPath says otherwise."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")


class Estate(Protocol):
    """What the account owns, as far as SageMaker looks at it."""

    def bucket_region(self, bucket: str) -> str | None:
        """Return where a bucket is, or None if there is none of that name."""

    def has_objects(self, bucket: str, prefix: str) -> bool:
        """Tell whether a key starts with the prefix."""

    def may_be_assumed(self, role_arn: str) -> bool:
        """Tell whether the role exists and trusts sagemaker.amazonaws.com."""


def s3_location(uri: str) -> tuple[str, str]:
    """Split an `s3://bucket/prefix` into bucket and prefix; ValidationException if it is none."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not _BUCKET.fullmatch(bucket):
        raise invalid(f"Invalid S3 URI: {uri}")
    return bucket, prefix


def check_request(body: dict[str, Any]) -> None:
    """Raise ValidationException for the first rule that the body breaks on its own."""
    for rule in (_required, _algorithm, _resources, _limits, _channels):
        for complaint in rule(body):
            raise invalid(complaint)
    check_tags(body.get("Tags", []))


def check_estate(body: dict[str, Any], region: str, estate: Estate) -> None:
    """Raise ValidationException if the role cannot be assumed, or a bucket is missing, empty or elsewhere."""
    role = body["RoleArn"]
    if not estate.may_be_assumed(role):
        raise invalid(
            f"Could not assume role {role}. Please ensure that the role exists and allows principal "
            "'sagemaker.amazonaws.com' to assume the role."
        )
    for uri in _input_uris(body):
        bucket, prefix = s3_location(uri)
        if estate.bucket_region(bucket) != region or not estate.has_objects(bucket, prefix):
            raise invalid(no_objects(uri, bucket, region, role))
    for uri in _output_uris(body):
        bucket, _ = s3_location(uri)
        found = estate.bucket_region(bucket)
        if found is None:
            raise invalid(f'The bucket "{bucket}" of {uri} does not exist in the selected region ({region}).')
        if found != region:
            raise invalid(
                f'BucketRegionError: bucket "{bucket}" is in {found}, but must be in the same region as the job'
            )


def no_objects(uri: str, bucket: str, region: str, role: str) -> str:
    """Return AWS's text for a channel without objects."""
    return (
        f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket exists in '
        f"the selected region ({region}), that objects exist under that S3 prefix, and that the role "
        f'"{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
    )


def check_tags(tags: list[dict[str, str]]) -> None:
    """Raise ValidationException for a reserved or repeated tag key."""
    keys = [tag["Key"] for tag in tags]
    for key in keys:
        if key.lower().startswith("aws:"):
            raise invalid(f"Tag keys starting with 'aws:' are reserved for system use: {key}")
        if keys.count(key) > 1:
            raise invalid(f"Duplicate tag keys found. Please note that Tag keys are case insensitive: {key}")


def _required(body: dict[str, Any]) -> Iterator[str]:
    for member in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if not body.get(member):
            path = member[0].lower() + member[1:]
            yield (
                f"1 validation error detected: Value null at '{path}' failed to satisfy constraint: "
                "Member must not be null"
            )


def _algorithm(body: dict[str, Any]) -> Iterator[str]:
    spec = body["AlgorithmSpecification"]
    if bool(spec.get("TrainingImage")) == bool(spec.get("AlgorithmName")):
        yield "Exactly one of TrainingImage and AlgorithmName must be specified in AlgorithmSpecification."


def _resources(body: dict[str, Any]) -> Iterator[str]:
    resources = body["ResourceConfig"]
    if resources.get("InstanceGroups"):
        yield "The emulator runs homogeneous clusters only: InstanceGroups is not supported."
    elif not resources.get("InstanceType"):
        yield "Either InstanceType or InstanceGroups must be specified in ResourceConfig."
    if resources.get("InstanceCount", 0) < 1:
        yield _too_small("instanceCount", resources.get("InstanceCount"))
    if resources.get("VolumeSizeInGB", 1) < 1:
        yield _too_small("volumeSizeInGB", resources["VolumeSizeInGB"])


def _too_small(member: str, value: object) -> str:
    shown = "null" if value is None else f"'{value}'"
    constraint = "Member must not be null" if value is None else "Member must have value greater than or equal to 1"
    return (
        f"1 validation error detected: Value {shown} at 'resourceConfig.{member}' failed to satisfy constraint: "
        f"{constraint}"
    )


def _limits(body: dict[str, Any]) -> Iterator[str]:
    limits = body["StoppingCondition"]
    runtime, wait = limits.get("MaxRuntimeInSeconds", 86400), limits.get("MaxWaitTimeInSeconds")
    if runtime > MAX_RUNTIME_SECONDS:
        yield f"MaxRuntimeInSeconds must be less than or equal to {MAX_RUNTIME_SECONDS}, but is {runtime}."
    if body.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            yield (
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
        if body["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
            yield "KeepAlivePeriodInSeconds cannot be used with managed spot training."
    elif wait is not None:
        yield "MaxWaitTimeInSeconds can only be specified when EnableManagedSpotTraining is true."


def _channels(body: dict[str, Any]) -> Iterator[str]:
    names = [channel["ChannelName"] for channel in body.get("InputDataConfig", [])]
    for name in names:
        if names.count(name) > 1:
            yield f"Channel names must be unique within InputDataConfig: {name}"
    for channel in body.get("InputDataConfig", []):
        yield from _input_mode(channel, body["AlgorithmSpecification"].get("TrainingInputMode", "File"))
    for uri in (*_input_uris(body), *_output_uris(body)):
        s3_location(uri)
    local_path = body.get("CheckpointConfig", {}).get("LocalPath", CHECKPOINTS)
    if not PurePosixPath(local_path).is_relative_to("/opt/ml"):
        yield f"The emulator mirrors only folders under /opt/ml, not CheckpointConfig.LocalPath {local_path}."


def _input_mode(channel: dict[str, Any], default: str) -> Iterator[str]:
    mode, source = channel.get("InputMode", default), channel["DataSource"].get("S3DataSource", {})
    if mode == "Pipe":
        yield f"The emulator fills folders, not pipes: channel {channel['ChannelName']} must be File or FastFile."
    if mode == "FastFile" and source and source["S3DataType"] != "S3Prefix":
        yield f"FastFile input mode supports S3DataType S3Prefix only, but channel {channel['ChannelName']} is not."


def _input_uris(body: dict[str, Any]) -> list[str]:
    sources = [channel["DataSource"].get("S3DataSource") for channel in body.get("InputDataConfig", [])]
    return [source["S3Uri"] for source in sources if source]


def _output_uris(body: dict[str, Any]) -> list[str]:
    checkpoints = body.get("CheckpointConfig")
    return [body["OutputDataConfig"]["S3OutputPath"], *([checkpoints["S3Uri"]] if checkpoints else [])]
