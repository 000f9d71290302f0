from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.aws.checks.base import Status, guarded
from gpuplan.aws.checks.role import role
from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from gpuplan.aws.session import Session
    from unit.aws.checks.conftest import StubbedSession

SAGEMAKER = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}


def make_role(session: Session, *statements: dict[str, Any], name: str = "gpuplan", path: str = "/") -> str:
    trust = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    made = session.client("iam").create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=trust)
    return str(made["Role"]["Arn"])


@pytest.mark.parametrize(
    "statement",
    [
        SAGEMAKER,
        SAGEMAKER | {"Principal": {"Service": ["ec2.amazonaws.com", "sagemaker.amazonaws.com"]}},
        SAGEMAKER | {"Action": ["sts:AssumeRole", "sts:TagSession"]},
        SAGEMAKER | {"Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}}},
    ],
)
def test_a_role_that_sagemaker_may_assume_is_fine(on_moto: Session, statement: dict[str, Any]) -> None:
    [found] = role(on_moto, make_role(on_moto, statement, path="/teams/ml/"))
    assert found.status is Status.OK


@pytest.mark.parametrize(
    "statement",
    [
        SAGEMAKER | {"Principal": {"Service": "ec2.amazonaws.com"}},
        SAGEMAKER | {"Principal": {"AWS": "arn:aws:iam::123456789012:root"}},
        SAGEMAKER | {"Effect": "Deny"},
        SAGEMAKER | {"Action": "sts:TagSession"},
    ],
)
def test_a_role_that_sagemaker_may_not_assume_is_an_error(on_moto: Session, statement: dict[str, Any]) -> None:
    [found] = role(on_moto, make_role(on_moto, statement))
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.USAGE)
    assert "trust policy" in found.fix


def test_a_role_that_does_not_exist_is_an_error(on_moto: Session) -> None:
    [found] = role(on_moto, "arn:aws:iam::123456789012:role/nothing")
    assert (found.status, found.message) == (Status.ERROR, "there is no role nothing")


def test_a_role_of_another_account_is_a_matter_of_credentials(on_moto: Session) -> None:
    [found] = role(on_moto, "arn:aws:iam::999999999999:role/gpuplan")
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.CREDENTIALS)


def test_a_role_given_without_its_path_is_found_under_its_own_arn(on_moto: Session) -> None:
    arn = make_role(on_moto, SAGEMAKER, path="/teams/")
    [found] = role(on_moto, arn.replace("teams/", ""))
    assert (found.status, found.fix) == (Status.ERROR, f"add --role {arn}")


def test_a_look_at_the_role_that_is_denied_is_only_a_warning(stubbed: StubbedSession) -> None:
    stubbed.denied("iam", "get_role", "iam:GetRole")
    arn = "arn:aws:iam::123456789012:role/gpuplan"
    [found] = guarded("role", lambda: role(stubbed, arn), denied=Status.WARNING)
    assert (found.status, found.exit_code) == (Status.WARNING, ExitCode.OK)
    assert found.message.startswith("cannot see: iam:GetRole not allowed")
    assert found.fix.startswith("allow iam:GetRole")
