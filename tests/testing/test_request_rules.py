"""What CreateTrainingJob refuses, and in whose words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.testing import model_rules
from gpuplan.testing.errors import ApiError

if TYPE_CHECKING:
    from gpuplan.testing import Emulator
    from testing.conftest import MakeRequest

SPOT = "EnableManagedSpotTraining"
WAIT = "StoppingCondition.MaxWaitTimeInSeconds"


def refusal(aws: Emulator, body: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        aws.client("sagemaker").create_training_job(**body)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"TrainingJobName": "-a"}, "'-a' at 'trainingJobName' failed .* regular expression pattern"),
        ({"TrainingJobName": "a" * 64}, "'trainingJobName' failed .* length less than or equal to 63"),
        ({"RoleArn": "arn:aws:iam::1:role/short"}, "'roleArn' failed .* regular expression pattern"),
        ({"HyperParameters": {"a": "x" * 2501}}, "'hyperParameters' failed .* Map value must .* equal to 2500"),
        ({"HyperParameters": {str(n): "" for n in range(101)}}, "'hyperParameters' failed .* equal to 100"),
        ({"HyperParameters": {"a": "two\nlines"}}, "'hyperParameters' failed .* regular expression pattern"),
        ({"Environment": {"1A": ""}}, "'environment' failed .* Map keys must satisfy"),
        ({"Environment": {"A": "x" * 513}}, "'environment' failed .* equal to 512"),
        ({"Tags": [{"Key": "a", "Value": "x" * 257}]}, "'tags.1.member.value' failed .* equal to 256"),
        ({"Tags": [{"Key": "a#", "Value": ""}]}, "'tags.1.member.key' failed .* regular expression pattern"),
        ({"Tags": [{"Key": "aws:a", "Value": ""}]}, "reserved for system use"),
        ({"Tags": [{"Key": "a", "Value": ""}] * 2}, "Duplicate tag keys"),
        ({"ResourceConfig.InstanceType": "ml.none"}, "Value 'ml.none' at .*instanceType.* enum value set"),
        ({"ResourceConfig.InstanceCount": 0}, "'resourceConfig.instanceCount' failed .* greater than or equal to 1"),
        ({"ResourceConfig.VolumeSizeInGB": 0}, "'resourceConfig.volumeSizeInGB' failed .* or equal to 1"),
        ({"StoppingCondition.MaxRuntimeInSeconds": 28 * 86400 + 1}, "less than or equal to 2419200"),
        ({"StoppingCondition": None}, "Value null at 'stoppingCondition'"),
        ({SPOT: True}, "Invalid MaxWaitTimeInSeconds"),
        ({SPOT: True, WAIT: 599}, "Invalid MaxWaitTimeInSeconds"),
        ({WAIT: 600}, "only be specified when EnableManagedSpotTraining"),
        ({"AlgorithmSpecification.TrainingImage": None}, "Exactly one of TrainingImage and AlgorithmName"),
        ({"AlgorithmSpecification.ContainerEntrypoint": ["x" * 257]}, "'algorithm.*1.member' failed .* equal to 256"),
        ({"OutputDataConfig.S3OutputPath": "bucket/key"}, "'outputDataConfig.s3OutputPath' failed"),
        ({"OutputDataConfig.S3OutputPath": "s3://UPPER/key"}, "Invalid S3 URI"),
        ({"OutputDataConfig.S3OutputPath": "s3://gpuplan-none/key"}, "does not exist in the selected region"),
        ({"CheckpointConfig.LocalPath": "/checkpoints"}, "only folders under /opt/ml"),
    ],
)
def test_a_broken_rule_is_refused_in_aws_words(
    held: Emulator, make_request: MakeRequest, changes: dict[str, Any], expected: str
) -> None:
    code, message = refusal(held, make_request("refused", changes))
    assert code == "ValidationException"
    assert re.search(expected, message)
    assert not [job for job in held.jobs() if job.name == "refused"]


def test_every_broken_constraint_is_named_at_once(held: Emulator, make_request: MakeRequest) -> None:
    _, message = refusal(held, make_request("a--", {"RoleArn": "arn:aws:iam::1:role/no"}))
    assert message.startswith("2 validation errors detected: ")
    assert message.count("failed to satisfy constraint") == 2


def test_a_name_is_taken_for_good(held: Emulator, make_request: MakeRequest) -> None:
    held.client("sagemaker").create_training_job(**make_request("twice"))
    held.complete("twice")
    code, message = refusal(held, make_request("twice"))
    assert code == "ResourceInUse"
    assert message == (
        "Training job names must be unique within an AWS account and region, and a training job with this name already "
        "exists (arn:aws:sagemaker:us-east-1:123456789012:training-job/twice)"
    )


def test_a_channel_without_objects_is_refused(held: Emulator, make_request: MakeRequest) -> None:
    body = make_request("no-objects")
    body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://gpuplan-test/nothing/"
    code, message = refusal(held, body)
    assert code == "ValidationException"
    assert message.startswith(
        'No S3 objects found under S3 URL "s3://gpuplan-test/nothing/" given in input data source'
    )


def test_two_channels_need_two_names(held: Emulator, make_request: MakeRequest) -> None:
    body = make_request("channels")
    body["InputDataConfig"] *= 2
    assert "unique" in refusal(held, body)[1]


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("Fast", "S3Prefix", "inputMode.*enum value set"),
        ("Pipe", "S3Prefix", "must be File or FastFile"),
        ("FastFile", "ManifestFile", "supports S3DataType S3Prefix only"),
    ],
)
def test_an_input_mode_that_gives_no_folder_of_the_prefix_is_refused(
    held: Emulator, make_request: MakeRequest, mode: str, kind: str, expected: str
) -> None:
    body = make_request("modes")
    body["InputDataConfig"][0]["InputMode"] = mode
    body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3DataType"] = kind
    assert re.search(expected, refusal(held, body)[1])


def test_a_bucket_elsewhere_is_refused(held: Emulator, make_request: MakeRequest) -> None:
    west = {"LocationConstraint": "us-west-2"}
    held.client("s3", region="us-west-2").create_bucket(Bucket="gpuplan-west", CreateBucketConfiguration=west)
    body = make_request("elsewhere", {"OutputDataConfig.S3OutputPath": "s3://gpuplan-west/o"})
    assert "must be in the same region as the job" in refusal(held, body)[1]


def test_a_role_that_sagemaker_cannot_assume_is_refused(held: Emulator, make_request: MakeRequest) -> None:
    unknown = make_request("no-role", {"RoleArn": "arn:aws:iam::123456789012:role/gpuplan-nobody"})
    assert "Could not assume role" in refusal(held, unknown)[1]
    trust = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}]}'
    )
    role = held.client("iam").create_role(RoleName="for-ec2", AssumeRolePolicyDocument=trust)["Role"]
    assert "Could not assume role" in refusal(held, make_request("ec2-role", {"RoleArn": role["Arn"]}))[1]


def test_a_retired_type_is_refused_until_it_is_offered(held: Emulator, make_request: MakeRequest) -> None:
    body = make_request("p3", {"ResourceConfig.InstanceType": "ml.p3.16xlarge"})
    code, message = refusal(held, body)
    assert (code, message) == (
        "ResourceLimitExceeded",
        "The requested resource training-job/ml.p3.16xlarge is not available in this region",
    )
    held.not_offered.discard("ml.p3.16xlarge")
    held.client("sagemaker").create_training_job(**body)


def test_a_member_of_the_wrong_type_is_a_serialization_error() -> None:
    with pytest.raises(ApiError, match="SerializationException"):
        model_rules.check("StopTrainingJobRequest", {"TrainingJobName": 1})
    with pytest.raises(ApiError, match="SerializationException"):
        model_rules.check("ListTrainingJobsRequest", {"MaxResults": True})


def test_every_pattern_of_the_request_is_understood() -> None:
    shapes = model_rules.service_model()["shapes"]
    waiting, seen = ["CreateTrainingJobRequest"], set[str]()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        shape = shapes[name]
        inner = [each["shape"] for each in shape.get("members", {}).values()]
        inner += [shape[part]["shape"] for part in ("member", "key", "value") if part in shape]
        waiting += [each for each in inner if each not in seen]
        if "pattern" in shape:
            assert "\\p" not in model_rules.compiled(shape["pattern"]).pattern
    assert len(seen) > 100


def accepted(shape: str, body: dict[str, Any]) -> bool:
    try:
        model_rules.check(shape, body)
    except ApiError:
        return False
    return True


@given(st.text(st.sampled_from("aZ0-_. "), max_size=70))
def test_a_name_is_accepted_exactly_if_it_is_alphanumeric_with_inner_hyphens(name: str) -> None:
    fits = re.fullmatch(r"[aZ0]([aZ0-]*[aZ0])?", name) is not None and len(name) <= 63
    assert accepted("StopTrainingJobRequest", {"TrainingJobName": name}) is fits


@given(st.text(st.characters(categories=["L", "Nd", "Zs", "P", "S"]), max_size=300))
def test_a_tag_value_is_letters_digits_spaces_and_a_few_signs(value: str) -> None:
    fits = len(value) <= 256 and all(each.isalnum() or each.isspace() or each in "_.:/=+-@" for each in value)
    assert accepted("Tag", {"Key": "a", "Value": value}) is fits
