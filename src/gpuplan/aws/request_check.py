"""What CreateTrainingJob refuses, found before it is called: names, lengths, limits, what is still unknown. Pure.

Called by `backends.sagemaker`. The rules are those of the API reference of CreateTrainingJob, read 2026-11-24.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_TAG_SIGNS = frozenset("_.:/=+-@")
_TAG_CATEGORIES = frozenset("LZN")
"""Unicode's letters, separators and numbers."""
_IMAGE = re.compile(r"\S{1,255}")
_CHANNEL = re.compile(r"[A-Za-z0-9.\-_]{1,64}")
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.*")
_LONGEST_NAME = 63
_MOST_HYPERPARAMETERS, _LONGEST_HYPERPARAMETER = 100, 2500
_LONGEST_VARIABLE = 512
_MOST_TAGS, _LONGEST_TAG = 50, 256
_LONGEST_URI = 1024
_LONGEST_RUN_SECONDS = 28 * 24 * 3600
_INPUT_MODES = ("File", "FastFile")
"""Those that give the payload a folder. The API also has Pipe, which gives it a stream."""


def faults(body: Mapping[str, Any]) -> list[str]:
    """Return what the service would refuse, a sentence each; values that are unknown in an offline plan are passed."""
    return [
        *_names(body),
        *_texts(body),
        *_tags(body),
        *_limits(body),
        *_paths(body),
        *_modes(body),
    ]


def unknowns(body: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the reason of each value that is not known."""
    if isinstance(body, dict):
        if set(body) == {"unknown"}:
            yield path, body["unknown"]
            return
        for key, value in body.items():
            yield from unknowns(value, f"{path}.{key}".lstrip("."))
    elif isinstance(body, list):
        for index, value in enumerate(body):
            yield from unknowns(value, f"{path}[{index}]")


def _names(body: Mapping[str, Any]) -> Iterator[str]:
    name = body["TrainingJobName"]
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        yield f"the job's name {name!r} is not 1 to {_LONGEST_NAME} letters, digits and inner hyphens"
    channels = [channel["ChannelName"] for channel in body["InputDataConfig"]]
    if len(set(channels)) < len(channels):
        yield "two channels have one name"
    for channel in channels:
        if not _CHANNEL.fullmatch(channel):
            yield f"channel {channel!r} is no name"


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    parameters = body["HyperParameters"]
    if len(parameters) > _MOST_HYPERPARAMETERS:
        yield f"{len(parameters)} hyperparameters are more than {_MOST_HYPERPARAMETERS}"
    for key, value in parameters.items():
        if isinstance(value, str) and len(value) > _LONGEST_HYPERPARAMETER:
            yield f"{key} has {len(value)} characters, a hyperparameter at most {_LONGEST_HYPERPARAMETER}"
        if isinstance(value, str) and value.splitlines() not in ([], [value]):
            yield f"{key} holds a line break"
    for key, value in body["Environment"].items():
        if len(value) > _LONGEST_VARIABLE:
            yield f"variable {key} is over {_LONGEST_VARIABLE} characters"
    image = body["AlgorithmSpecification"]["TrainingImage"]
    if isinstance(image, str) and not _IMAGE.fullmatch(image):
        yield f"{image[:60]!r} is no image"


def _tags(body: Mapping[str, Any]) -> Iterator[str]:
    tags = body.get("Tags", [])
    if len(tags) > _MOST_TAGS:
        yield f"{len(tags)} tags are more than {_MOST_TAGS}"
    for tag in tags:
        value = tag["Value"]
        if isinstance(value, str) and (len(value) > _LONGEST_TAG or not all(map(_in_tags, value))):
            yield f"tag {tag['Key']} may not be {value[:60]!r}"


def _in_tags(character: str) -> bool:
    return character in _TAG_SIGNS or unicodedata.category(character)[0] in _TAG_CATEGORIES


def _limits(body: Mapping[str, Any]) -> Iterator[str]:
    stopping = body["StoppingCondition"]
    runtime, wait = stopping["MaxRuntimeInSeconds"], stopping.get("MaxWaitTimeInSeconds")
    if not 1 <= runtime <= _LONGEST_RUN_SECONDS:
        yield f"MaxRuntimeInSeconds {runtime} is not 1 s to 28 days"
    if body["EnableManagedSpotTraining"] and (wait is None or wait < runtime):
        yield "spot needs MaxWaitTimeInSeconds of at least MaxRuntimeInSeconds"
    if not body["EnableManagedSpotTraining"] and wait is not None:
        yield "MaxWaitTimeInSeconds is for spot only"
    for key in ("InstanceCount", "VolumeSizeInGB"):
        if body["ResourceConfig"][key] < 1:
            yield f"{key} is below 1"


def _paths(body: Mapping[str, Any]) -> Iterator[str]:
    uris = [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in body["InputDataConfig"]]
    uris += [body["OutputDataConfig"]["S3OutputPath"], body["CheckpointConfig"]["S3Uri"]]
    for uri in uris:
        if isinstance(uri, str) and (not _S3.fullmatch(uri) or len(uri) > _LONGEST_URI):
            yield f"{uri[:60]!r} is no S3 URL of at most {_LONGEST_URI} characters"


def _modes(body: Mapping[str, Any]) -> Iterator[str]:
    for channel in body["InputDataConfig"]:
        name, mode = channel["ChannelName"], channel.get("InputMode", "File")
        if mode not in _INPUT_MODES:
            yield f"channel {name!r} has the input mode {mode!r}, and the job reads {' and '.join(_INPUT_MODES)} only"
        kind = channel["DataSource"]["S3DataSource"]["S3DataType"]
        if mode == "FastFile" and kind != "S3Prefix":
            yield f"channel {name!r}: FastFile reads an S3Prefix, not {kind}"
