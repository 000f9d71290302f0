from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.checks.base import Check, InstanceNeed, Needs, Status, exit_code, guarded
from gpuplan.aws.checks.run import doctor, preflight
from gpuplan.aws.location import Location
from gpuplan.aws.session import Identity, Session
from gpuplan.core.errors import CredentialsError, ExitCode, JobFailedError
from gpuplan.profiles.schema import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unit.aws.checks.conftest import StubbedSession

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HERE = Location("us-east-1", "AWS_REGION", None, "AWS_ACCESS_KEY_ID")
ROLE = "arn:aws:iam::123456789012:role/gpuplan"
NEEDS = Needs(
    instance_types=(InstanceNeed("ml.g5.xlarge", 1, spot=False, compute_capability="8.6"),),
    role_arn=ROLE,
    bucket="gpuplan-123456789012",
    stack="gpuplan",
    image=None,
    lifecycle=Lifecycle(state="current", as_of=date(2026, 10, 27)),
)
NO_INSTANCE = replace(NEEDS, instance_types=(), lifecycle=None)


def ready(session: StubbedSession) -> StubbedSession:
    """Queue what an account answers in which nothing is wrong."""
    trust = {"Statement": {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}}
    trust["Statement"]["Action"] = "sts:AssumeRole"
    named = {"Path": "/", "RoleName": "gpuplan", "RoleId": "AROA0123456789ABCDEF", "Arn": ROLE, "CreateDate": NOW}
    session.stub("iam").add_response("get_role", {"Role": named | {"AssumeRolePolicyDocument": json.dumps(trust)}})
    session.stub("s3").add_response("head_bucket", {"BucketRegion": "us-east-1"})
    session.stub("s3").add_response("get_bucket_versioning", {"Status": "Enabled"})
    blocks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    closed = {"PublicAccessBlockConfiguration": dict.fromkeys(blocks, True)}
    session.stub("s3").add_response("get_public_access_block", closed)
    session.stub("ecr").add_response("describe_images", {"imageDetails": []})
    row = {"QuotaName": "ml.g5.xlarge for training job usage", "QuotaCode": "L-00000001", "Value": 1.0}
    session.stub("service-quotas").add_response("list_service_quotas", {"Quotas": [row]})
    offered = {"InstanceType": "g5.xlarge", "LocationType": "availability-zone", "Location": "us-east-1a"}
    session.stub("ec2").add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": [offered]})
    session.stub("logs").add_response("describe_log_streams", {"logStreams": []})
    return session


def test_a_ready_account_has_every_check_in_order_and_exit_0(stubbed: StubbedSession) -> None:
    diagnosis = doctor(ready(stubbed), HERE, NEEDS, NOW)
    assert [(check.name, check.status.value) for check in diagnosis.checks] == [
        ("identity", "ok"),
        ("credentials", "ok"),
        ("region", "ok"),
        ("profile", "ok"),
        ("role", "ok"),
        ("bucket", "ok"),
        ("bucket-versioning", "ok"),
        ("bucket-public-access", "ok"),
        ("image", "ok"),
        ("quota", "ok"),
        ("offering", "ok"),
        ("lifecycle", "ok"),
        ("logs", "ok"),
    ]
    assert diagnosis.exit_code == ExitCode.OK
    assert diagnosis.caller == stubbed.identity()


def test_preflight_makes_the_checks_of_what_a_run_needs(stubbed: StubbedSession) -> None:
    names = [check.name for check in preflight(ready(stubbed), NEEDS)]
    assert names[:2] == ["identity", "role"]
    assert {"credentials", "region", "profile"}.isdisjoint(names)


def test_everything_but_who_is_calling_may_be_denied_without_an_end(stubbed: StubbedSession) -> None:
    for service, operation, action in (
        ("iam", "get_role", "iam:GetRole"),
        ("s3", "head_bucket", "s3:ListBucket"),
        ("ecr", "describe_images", "ecr:DescribeImages"),
        ("service-quotas", "list_service_quotas", "servicequotas:ListServiceQuotas"),
        ("ec2", "describe_instance_type_offerings", "ec2:DescribeInstanceTypeOfferings"),
        ("logs", "describe_log_streams", "logs:DescribeLogStreams"),
    ):
        stubbed.denied(service, operation, action)
    diagnosis = doctor(stubbed, HERE, NEEDS, NOW)
    status = {check.name: check.status for check in diagnosis.checks}
    assert (status["role"], status["logs"]) == (Status.WARNING, Status.WARNING)
    assert (status["image"], status["quota"], status["offering"]) == (Status.UNKNOWN,) * 3
    assert status["bucket"] is Status.ERROR
    assert "bucket-versioning" not in status
    assert diagnosis.exit_code == ExitCode.CREDENTIALS


def test_an_unknown_caller_ends_the_examination_with_exit_3() -> None:
    class Nobody(Session):
        def identity(self) -> Identity:
            raise CredentialsError("expired", fix="aws sso login")

    session = Nobody("us-east-1")
    diagnosis = doctor(session, HERE, NEEDS, NOW)
    assert [check.name for check in diagnosis.checks] == ["identity", "region", "profile", "everything else"]
    assert (diagnosis.caller, diagnosis.exit_code) == (None, ExitCode.CREDENTIALS)
    assert [check.name for check in preflight(session, NEEDS)] == ["identity", "everything else"]


def stack_outputs(session: StubbedSession, *, exists: bool = True) -> None:
    if not exists:
        session.stub("cloudformation").add_client_error(
            "describe_stacks", "ValidationError", "Stack with id gpuplan does not exist", 400
        )
        return
    given = {"BucketName": "gpuplan-123456789012", "ExecutionRoleArn": ROLE, "LauncherPolicyArn": f"{ROLE}-policy"}
    stack = {
        "StackName": "gpuplan",
        "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/gpuplan/1",
        "Description": "gpuplan: bucket and role",
        "CreationTime": NOW,
        "StackStatus": "CREATE_COMPLETE",
        "Tags": [{"Key": "gpuplan:stack", "Value": "gpuplan"}],
        "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in given.items()],
    }
    session.stub("cloudformation").add_response("describe_stacks", {"Stacks": [stack]})


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (replace(NEEDS, role_arn=None), "gpuplan gives role"),
        (replace(NEEDS, bucket=None), "gpuplan gives bucket"),
        (replace(NEEDS, role_arn=None, bucket=None), "gpuplan gives role and bucket"),
    ],
)
def test_a_role_or_bucket_left_out_comes_from_the_stack(stubbed: StubbedSession, needs: Needs, said: str) -> None:
    stack_outputs(stubbed)
    found = {check.name: check for check in preflight(ready(stubbed), needs)}
    assert (found["stack"].status, found["stack"].message) == (Status.OK, said)
    assert (found["role"].status, found["bucket"].status) == (Status.OK, Status.OK)


def test_without_role_bucket_and_stack_the_next_step_is_to_deploy_one(stubbed: StubbedSession) -> None:
    stack_outputs(stubbed, exists=False)
    stubbed.stub("logs").add_response("describe_log_streams", {"logStreams": []})
    _, stack, logs = preflight(stubbed, replace(NO_INSTANCE, role_arn=None, bucket=None))
    assert (stack.status, stack.exit_code) == (Status.ERROR, ExitCode.USAGE)
    assert stack.message.startswith("--role and --bucket not given, and there is no stack gpuplan in us-east-1")
    assert stack.fix == "gpuplan infra deploy --region us-east-1"
    assert logs.name == "logs"


def test_a_stack_that_may_not_be_seen_leaves_what_was_given_to_be_checked(stubbed: StubbedSession) -> None:
    stubbed.denied("cloudformation", "describe_stacks", "cloudformation:DescribeStacks")
    found = {check.name: check for check in preflight(ready(stubbed), replace(NEEDS, bucket=None))}
    assert (found["stack"].status, found["stack"].exit_code) == (Status.ERROR, ExitCode.CREDENTIALS)
    assert found["role"].status is Status.OK
    assert "bucket" not in found


def error(code: ExitCode) -> Check:
    return Check("x", Status.ERROR, "m", exit_code=code)


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], ExitCode.OK),
        ([ExitCode.USAGE], ExitCode.USAGE),
        ([ExitCode.USAGE, ExitCode.CAPACITY], ExitCode.CAPACITY),
        ([ExitCode.CAPACITY, ExitCode.PLAN_REFUSED, ExitCode.USAGE], ExitCode.PLAN_REFUSED),
        ([ExitCode.PLAN_REFUSED, ExitCode.CREDENTIALS, ExitCode.CAPACITY], ExitCode.CREDENTIALS),
    ],
)
def test_the_worst_finding_gives_the_exit_status(codes: list[ExitCode], worst: ExitCode) -> None:
    harmless = [Check("w", Status.WARNING, "m"), Check("u", Status.UNKNOWN, "m"), Check("o", Status.OK, "m")]
    assert exit_code([*harmless, *map(error, codes)]) == worst


def test_what_was_found_before_a_look_failed_gives_way_to_the_failure() -> None:
    def look() -> Iterator[Check]:
        yield Check("x", Status.OK, "fine so far")
        raise JobFailedError("broke", fix="mend it")

    assert guarded("x", look) == [Check("x", Status.ERROR, "broke", "mend it", ExitCode.JOB_FAILED)]
