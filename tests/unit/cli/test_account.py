"""The account behind a plan: asked only where something is missing, and never another one than the role's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.fake import FakeBackend
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.cli.account import backend_of, completed, completed_aws, identified, located, runs_in_aws, session
from gpuplan.core.errors import CredentialsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakePlan
    from gpuplan.workload.schema import Aws

ACCOUNT = "123456789012"
"""The one that moto's STS answers with."""
G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def emulated(credentials: None) -> Iterator[None]:
    """AWS inside this process."""
    del credentials
    from moto import mock_aws

    with mock_aws():
        yield


@pytest.mark.parametrize(("backend", "there"), [("sagemaker", True), ("ec2", True), ("local", False), ("fake", False)])
def test_what_aws_bills_runs_in_aws(make_plan: MakePlan, backend: str, *, there: bool) -> None:
    assert runs_in_aws(make_plan(G5 | {"launch.backend": backend})) == there


def test_the_plans_profile_counts_before_the_environments(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    assert located(aws).profile is None
    monkeypatch.setenv("AWS_PROFILE", "research")
    assert (located(aws).profile, located(aws).profile_from) == ("research", "AWS_PROFILE")
    own = aws.model_copy(update={"profile": "own"})
    assert (located(own, "--profile").profile, located(own, "--profile").profile_from) == ("own", "--profile")


def test_the_plans_region_counts_whatever_the_environment_says(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert (located(aws).region, located(aws).region_from) == ("us-east-1", "the plan")
    assert session(aws).region == "us-east-1"


def test_a_backend_is_made_without_asking_anybody(make_plan: MakePlan) -> None:
    # There are no credentials here and no network.
    assert isinstance(backend_of(make_plan(G5)), SageMakerBackend)
    assert isinstance(backend_of(make_plan()), FakeBackend)


def test_what_is_given_is_not_asked_for(make_plan: MakePlan, aws: Aws) -> None:
    settings = make_plan(G5).provenance.settings.model_copy(update={"aws": aws})
    assert completed(settings) is settings
    assert completed_aws(aws) is aws


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(
    ("given", "missing"), [({}, "--role and --bucket"), ({"bucket"}, "--role"), ({"role_arn"}, "--bucket")]
)
def test_without_a_stack_what_is_missing_is_named_with_both_ways_out(aws: Aws, given: set[str], missing: str) -> None:
    left_out = {"role_arn", "bucket"} - set(given)
    with pytest.raises(UsageError, match=f"^{missing} not given") as caught:
        completed_aws(aws.model_copy(update=dict.fromkeys(left_out)))
    assert "gpuplan infra deploy --region us-east-1" in caught.value.fix
    assert missing in caught.value.fix


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("given", [set(), {"bucket"}, {"role_arn"}], ids=str)
def test_what_is_missing_is_taken_from_the_stack_and_what_is_given_is_kept(aws: Aws, given: set[str]) -> None:
    theirs = {"role_arn": f"arn:aws:iam::{ACCOUNT}:role/of-the-stack", "bucket": "bucket-of-the-stack"}
    template = {
        "Resources": {"Bucket": {"Type": "AWS::S3::Bucket"}},
        "Outputs": {
            "BucketName": {"Value": theirs["bucket"]},
            "ExecutionRoleArn": {"Value": theirs["role_arn"]},
            "LauncherPolicyArn": {"Value": f"arn:aws:iam::{ACCOUNT}:policy/launcher"},
        },
    }
    session(aws).client("cloudformation").create_stack(StackName="gpuplan", TemplateBody=json.dumps(template))
    found = completed_aws(aws.model_copy(update=dict.fromkeys({"role_arn", "bucket"} - given)))
    assert found.model_dump() == aws.model_dump() | {name: theirs[name] for name in {"role_arn", "bucket"} - given}


@pytest.mark.usefixtures("emulated")
def test_who_asks_is_told_by_aws(aws: Aws) -> None:
    caller = identified(aws)
    assert caller.account == ACCOUNT
    assert identified(aws.model_copy(update={"role_arn": None})) == caller


@pytest.mark.usefixtures("emulated")
def test_credentials_of_another_account_than_the_roles_are_refused(aws: Aws) -> None:
    other = aws.model_copy(update={"role_arn": "arn:aws:iam::999999999999:role/x"})
    with pytest.raises(CredentialsError, match=f"of account {ACCOUNT}, the plan's role is of 999999999999") as caught:
        identified(other)
    assert "arn:aws" in caught.value.why
    assert "--profile" in caught.value.fix


def test_without_credentials_that_is_said(aws: Aws) -> None:
    with pytest.raises(CredentialsError) as caught:
        identified(aws)
    assert caught.value.fix
