"""Faults of the wire: what reaches the caller, and what was carried out all the same."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from gpuplan.testing.clients import session
from gpuplan.testing.wire_faults import WireFaults

if TYPE_CHECKING:
    from gpuplan.testing import Emulator
    from testing.conftest import MakeRequest


class Once(Protocol):
    """Return a client that tries once, so that a fault is seen and not retried away."""

    def __call__(self, service: str) -> Any: ...  # noqa: ANN401 -- boto3's clients are untyped


@pytest.fixture(scope="module")
def once(_held_emulator: Emulator) -> Once:
    variables = _held_emulator.environment()

    @cache
    def client(service: str) -> Any:  # noqa: ANN401 -- as above
        return session().create_client(
            service,
            region_name=variables["AWS_REGION"],
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
        )

    return client


def test_a_lost_reply_is_a_cut_connection_after_the_job_was_made(
    held: Emulator, once: Once, make_request: MakeRequest
) -> None:
    held.faults.lose_reply("CreateTrainingJob")
    with pytest.raises(ConnectionClosedError):
        once("sagemaker").create_training_job(**make_request("lost"))
    assert held.job("lost").status == "InProgress"


def test_the_retry_after_a_lost_reply_meets_its_own_job(held: Emulator, make_request: MakeRequest) -> None:
    before = held.calls_of("CreateTrainingJob")
    held.faults.lose_reply("CreateTrainingJob", times=2)
    with pytest.raises(ClientError, match="ResourceInUse"):
        held.client("sagemaker").create_training_job(**make_request("lost-twice"))
    assert held.calls_of("CreateTrainingJob") - before == 3


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("ThrottlingException", 400, "Rate exceeded"),
        ("InternalFailure", 500, "unknown error"),
        ("ServiceUnavailable", 503, "Service is unable"),
        ("ExpiredTokenException", 400, "expired"),
        ("AccessDeniedException", 400, "not authorized to perform: sagemaker:CreateTrainingJob"),
    ],
)
def test_a_refused_call_is_not_carried_out(
    held: Emulator, once: Once, make_request: MakeRequest, code: str, status: int, text: str
) -> None:
    held.faults.refuse("CreateTrainingJob", code)
    with pytest.raises(ClientError, match=text) as caught:
        once("sagemaker").create_training_job(**make_request("refused"))
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert "refused" not in {job.name for job in held.jobs()}


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("s3", "PutObject", {"Bucket": "gpuplan-test", "Key": "k", "Body": b"x"}),
        ("ec2", "DescribeInstanceTypeOfferings", {}),
        ("iam", "GetRole", {"RoleName": "gpuplan-execution"}),
        ("sts", "GetCallerIdentity", {}),
        ("logs", "DescribeLogGroups", {}),
        ("service-quotas", "ListServiceQuotas", {"ServiceCode": "sagemaker"}),
        ("cloudformation", "DescribeStacks", {}),
    ],
)
def test_a_refusal_speaks_the_protocol_of_its_service(
    held: Emulator, once: Once, service: str, operation: str, arguments: dict[str, Any]
) -> None:
    client = once(service)
    method = next(name for name, each in client.meta.method_to_api_mapping.items() if each == operation)
    held.faults.refuse(operation, "Weird<Code>", 418, "{braces} & <signs>")
    with pytest.raises(ClientError) as caught:
        getattr(client, method)(**arguments)
    assert caught.value.response["Error"]["Code"] == "Weird<Code>"
    assert caught.value.response["Error"]["Message"] == "{braces} & <signs>"
    assert held.calls[-1].operation == operation


def test_a_refused_head_has_no_body(held: Emulator) -> None:
    held.faults.refuse("HeadObject", "AccessDenied")
    with pytest.raises(ClientError, match="403"):
        held.client("s3").head_object(Bucket="gpuplan-test", Key="code/main.py")


def test_a_cut_reply_reads_as_success_without_its_content(
    held: Emulator, once: Once, make_request: MakeRequest
) -> None:
    client = once("sagemaker")
    held.faults.garbage("CreateTrainingJob")
    assert "TrainingJobArn" not in client.create_training_job(**make_request("cut"))
    held.faults.garbage("DescribeTrainingJob", json.dumps({"TrainingJobStatus": "InProgress"}).encode())
    assert client.describe_training_job(TrainingJobName="cut")["TrainingJobStatus"] == "InProgress"
    assert client.describe_training_job(TrainingJobName="cut")["TrainingJobName"] == "cut"


def test_a_delay_comes_on_top_of_another_fault(held: Emulator, once: Once) -> None:
    held.faults.refuse("ListTrainingJobs", "ThrottlingException")
    held.faults.delay("ListTrainingJobs", 0.2)
    began = time.monotonic()
    with pytest.raises(ClientError, match="ThrottlingException"):
        once("sagemaker").list_training_jobs()
    assert time.monotonic() - began >= 0.2


def test_where_and_skip_say_which_calls(held: Emulator, once: Once) -> None:
    s3 = once("s3")
    held.faults.refuse("s3:Put*", "SlowDown", skip=1, times=None, where="state.json")
    for key, refused in (("other", False), ("state.json", False), ("other", False), ("state.json", True)):
        if refused:
            with pytest.raises(ClientError, match="SlowDown"):
                s3.put_object(Bucket="gpuplan-test", Key=key, Body=b"")
        else:
            s3.put_object(Bucket="gpuplan-test", Key=key, Body=b"")
    held.faults.clear()
    s3.put_object(Bucket="gpuplan-test", Key="state.json", Body=b"")


def test_a_fault_is_used_up_once_however_many_ask(held: Emulator, once: Once) -> None:
    held.faults.refuse("ListTrainingJobs", "ThrottlingException", times=5)
    client = once("sagemaker")

    def refused(_: int) -> bool:
        try:
            client.list_training_jobs()
        except ClientError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(refused, range(16))) == 5


def test_an_unknown_code_is_its_own_text() -> None:
    faults = WireFaults()
    faults.refuse("X", "SomethingElse")
    assert faults._rules[0].error is not None
    assert faults._rules[0].error.message == "SomethingElse"
