"""What CreateTrainingJob refuses is found before the call: nothing passes that AWS's own model of the API refuses."""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws.request_check import faults, unknowns
from gpuplan.core import names
from gpuplan.testing import model_rules, request_rules
from gpuplan.testing.errors import ApiError

ROOT = "s3://gpuplan-123456789012/gpuplan/runs/digits-0000000000001/train/1"
BODY: dict[str, Any] = {
    "TrainingJobName": "digits-0000000000001-train-1",
    "AlgorithmSpecification": {
        "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.14",
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/payload.pyz"],
    },
    "RoleArn": "arn:aws:iam::123456789012:role/gpuplan-execution",
    "HyperParameters": {"train": '{"learning_rate":0.05}'},
    "InputDataConfig": [
        {
            "ChannelName": "code",
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://gpuplan-123456789012/code/"}},
        }
    ],
    "OutputDataConfig": {"S3OutputPath": f"{ROOT}/output/"},
    "CheckpointConfig": {"S3Uri": f"{ROOT}/checkpoints/", "LocalPath": "/opt/ml/checkpoints"},
    "ResourceConfig": {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    "EnableManagedSpotTraining": False,
    "EnableNetworkIsolation": True,
    "Environment": {"GPUPLAN_GPUS": "4"},
    "Tags": [{"Key": "gpuplan:owner", "Value": "ada"}],
}
DAYS_28 = 28 * 24 * 3600
CHANNEL = BODY["InputDataConfig"][0]
FAST = CHANNEL | {"InputMode": "FastFile"}
MANIFEST = {"S3DataSource": CHANNEL["DataSource"]["S3DataSource"] | {"S3DataType": "ManifestFile"}}
Place = tuple[str | int, ...]
NAME: Place = ("TrainingJobName",)
OWNER: Place = ("Tags", 0, "Value")
CODE: Place = ("InputDataConfig", 0, "DataSource", "S3DataSource", "S3Uri")
TEXTS: list[Place] = [
    NAME,
    OWNER,
    CODE,
    ("AlgorithmSpecification", "TrainingImage"),
    ("HyperParameters", "train"),
    ("InputDataConfig", 0, "ChannelName"),
    ("OutputDataConfig", "S3OutputPath"),
    ("CheckpointConfig", "S3Uri"),
    ("Environment", "GPUPLAN_GPUS"),
]


def changed(*changes: tuple[Place, object]) -> dict[str, Any]:
    """Return the healthy request with other values at some places."""
    body = copy.deepcopy(BODY)
    for place, value in changes:
        at: Any = body
        for part in place[:-1]:
            at = at[part]
        at[place[-1]] = value
    return body


def accepted(body: dict[str, Any]) -> bool:
    """Tell whether the API would take the request, as its model and its reference have it."""
    try:
        model_rules.check("CreateTrainingJobRequest", body)
        request_rules.check_request(body)
    except ApiError:
        return False
    return True


def test_a_healthy_request_has_no_fault() -> None:
    assert faults(BODY) == []
    assert accepted(BODY)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (NAME, "", "job's name"),
        (NAME, "-x", "job's name"),
        (NAME, "x-", "job's name"),
        (NAME, "a_b", "job's name"),
        (NAME, "x" * 64, "1 to 63"),
        (NAME, "x" + "-" * 62 + "x", "1 to 63"),
        (("InputDataConfig",), [CHANNEL, CHANNEL], "two channels have one name"),
        (("InputDataConfig", 0, "ChannelName"), "co de", "channel 'co de'"),
        (("InputDataConfig", 0, "ChannelName"), "", "channel ''"),
        (("HyperParameters",), {str(number): "" for number in range(101)}, "101 hyperparameters"),
        (("HyperParameters", "train"), "x" * 2501, "train has 2501 characters"),
        (("HyperParameters", "train"), "one\u2028two", "train holds a line break"),
        (("AlgorithmSpecification", "TrainingImage"), "", "'' is no image"),
        (("Environment", "GPUPLAN_GPUS"), "4" * 513, "variable GPUPLAN_GPUS"),
        (("AlgorithmSpecification", "TrainingImage"), "x" * 256, "is no image"),
        (("AlgorithmSpecification", "TrainingImage"), "pytorch:2.14 ", "is no image"),
        (("Tags",), [{"Key": str(number), "Value": ""} for number in range(51)], "51 tags"),
        (OWNER, "x" * 257, "tag gpuplan:owner"),
        (OWNER, "ada; rm", "tag gpuplan:owner"),
        (OWNER, "ada\nrm", "tag gpuplan:owner"),
        (CODE, "s3://bucket", "is no S3 URL"),
        (CODE, "https://bucket/code/", "is no S3 URL"),
        (CODE, "s3:///code/", "is no S3 URL"),
        (CODE, "s3://Bucket/code/", "is no S3 URL"),
        (CODE, "s3://bucket/" + "x" * 1024, "is no S3 URL"),
        (("OutputDataConfig", "S3OutputPath"), "", "is no S3 URL"),
        (("CheckpointConfig", "S3Uri"), "/opt/ml", "is no S3 URL"),
        (("StoppingCondition", "MaxRuntimeInSeconds"), 0, "MaxRuntimeInSeconds 0"),
        (("StoppingCondition", "MaxRuntimeInSeconds"), DAYS_28 + 1, "28 days"),
        (("StoppingCondition", "MaxWaitTimeInSeconds"), 7200, "for spot only"),
        (("EnableManagedSpotTraining",), True, "spot needs MaxWaitTimeInSeconds"),
        (("ResourceConfig", "InstanceCount"), 0, "InstanceCount is below 1"),
        (("ResourceConfig", "VolumeSizeInGB"), 0, "VolumeSizeInGB is below 1"),
        (("InputDataConfig", 0, "InputMode"), "Pipe", "input mode 'Pipe'"),
        (("InputDataConfig", 0, "InputMode"), "fastfile", "input mode 'fastfile'"),
        (("InputDataConfig", 0), FAST | {"DataSource": MANIFEST}, "FastFile reads an S3Prefix, not ManifestFile"),
    ],
)
def test_each_rule_is_kept(place: Place, value: object, says: str) -> None:
    found = faults(changed((place, value)))
    assert len(found) == 1
    assert says in found[0]


def test_every_fault_is_told() -> None:
    found = faults(changed((NAME, "-"), (OWNER, ";"), (("ResourceConfig", "InstanceCount"), 0), (CODE, "x")))
    assert len(found) == 4


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (NAME, "x"),
        (NAME, "x" * 63),
        (NAME, "a" + "-" * 61 + "b"),
        (OWNER, ""),
        (OWNER, "Ada Lovelace-Müller @example.org"),
        (OWNER, "x" * 256),
        (("HyperParameters", "train"), "x" * 2500),
        (("HyperParameters", "train"), 'it\'s "quoted" and \\ slashed'),
        (("Environment", "GPUPLAN_GPUS"), "4" * 512),
        (("StoppingCondition", "MaxRuntimeInSeconds"), DAYS_28),
        (("InputDataConfig", 0), CHANNEL | {"InputMode": "File"}),
        (("InputDataConfig", 0), FAST),
    ],
)
def test_what_the_api_takes_to_the_last_character_passes(place: Place, value: object) -> None:
    body = changed((place, value))
    assert faults(body) == []
    assert accepted(body)


@given(st.sampled_from(TEXTS), st.text(max_size=80))
def test_no_text_passes_that_the_api_refuses(place: Place, text: str) -> None:
    body = changed((place, text))
    assert faults(body) or accepted(body)


@given(st.sampled_from(TEXTS), st.from_regex(r"(s3://)?[a-z0-9./-]{0,90}", fullmatch=True))
def test_no_likely_text_passes_that_the_api_refuses(place: Place, text: str) -> None:
    body = changed((place, text))
    assert faults(body) or accepted(body)


@given(st.text(alphabet="aZ9-_", max_size=70))
def test_a_name_passes_when_and_only_when_the_api_takes_it(name: str) -> None:
    body = changed((NAME, name))
    assert (faults(body) == []) == accepted(body)


@given(st.text(max_size=300))
def test_a_tag_passes_when_and_only_when_the_api_takes_it(value: str) -> None:
    body = changed((OWNER, value))
    assert (faults(body) == []) == accepted(body)


@given(
    runtime=st.integers(-1, DAYS_28 + 2),
    wait=st.none() | st.integers(1, DAYS_28 * 2),
    count=st.integers(-1, 3),
    volume=st.integers(-1, 3),
    spot=st.booleans(),
)
def test_limits_pass_when_and_only_when_the_api_takes_them(
    runtime: int, wait: int | None, count: int, volume: int, *, spot: bool
) -> None:
    stopping = {"MaxRuntimeInSeconds": runtime} | ({} if wait is None else {"MaxWaitTimeInSeconds": wait})
    resources = BODY["ResourceConfig"] | {"InstanceCount": count, "VolumeSizeInGB": volume}
    body = changed(
        (("StoppingCondition",), stopping), (("ResourceConfig",), resources), (("EnableManagedSpotTraining",), spot)
    )
    assert (faults(body) == []) == accepted(body)


@given(
    st.text(max_size=60),
    st.datetimes(datetime(2020, 1, 1), datetime(2080, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    st.integers(0, 2**20 - 1),
    st.sampled_from(["lr-find", "train", "find-batch"]),
    st.integers(1, 999),
)
def test_every_name_that_gpuplan_makes_passes(text: str, now: datetime, entropy: int, step: str, attempt: int) -> None:
    name = f"{names.run_id(text, now, entropy)}-{step}-{attempt}"
    assert faults(changed((NAME, name), (OWNER, names.slug(text)))) == []


def test_what_an_offline_plan_does_not_know_is_no_fault_and_is_listed() -> None:
    unknown = {"unknown": "no bucket given"}
    body = changed((CODE, unknown), (OWNER, unknown), (("AlgorithmSpecification", "TrainingImage"), unknown))
    assert faults(body) == []
    assert dict(unknowns(body)) == {
        "AlgorithmSpecification.TrainingImage": "no bucket given",
        "InputDataConfig[0].DataSource.S3DataSource.S3Uri": "no bucket given",
        "Tags[0].Value": "no bucket given",
    }


def test_a_healthy_request_has_no_unknowns() -> None:
    assert list(unknowns(BODY)) == []
    # A job may well have a hyperparameter of that name.
    assert list(unknowns({"HyperParameters": {"unknown": "1", "known": "2"}})) == []


@given(
    st.recursive(
        st.text(max_size=5) | st.integers() | st.none(),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    )
)
def test_any_document_can_be_searched_for_what_is_unknown(document: object) -> None:
    for path, _ in unknowns({"it": document, "gap": {"unknown": "because"}}):
        assert re.match(r"it|gap$", path)
