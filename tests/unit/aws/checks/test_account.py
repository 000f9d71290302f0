from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.checks import account
from gpuplan.aws.checks.base import Status
from gpuplan.aws.location import Location
from gpuplan.aws.session import Credentials, Identity, Session
from gpuplan.core.errors import ExitCode, UnreachableError

if TYPE_CHECKING:
    from gpuplan.core.errors import GpuplanError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Caller(Session):
    """A session that knows its answers."""

    def __init__(self, arn: str = "arn:aws:iam::123456789012:user/ann", ends: datetime | None = None) -> None:
        super().__init__("us-east-1", "work")
        self.arn = arn
        self.ends = ends

    def identity(self) -> Identity:
        return Identity("123456789012", self.arn)

    def credentials(self) -> Credentials:
        return Credentials("sso", self.ends)


class Nobody(Session):
    def __init__(self, error: GpuplanError) -> None:
        super().__init__("us-east-1")
        self.error = error

    def identity(self) -> Identity:
        raise self.error


def test_the_caller_is_named() -> None:
    found = account.identity(Caller())
    assert found.status is Status.OK
    assert found.message == "account 123456789012, arn:aws:iam::123456789012:user/ann"


def test_the_root_user_is_warned_of() -> None:
    assert account.identity(Caller("arn:aws:iam::123456789012:root")).status is Status.WARNING


def test_an_unknown_caller_keeps_the_errors_own_exit_and_fix() -> None:
    found = account.identity(Nobody(UnreachableError("no answer", fix="again")))
    assert (found.status, found.exit_code, found.message, found.fix) == (
        Status.ERROR,
        ExitCode.CAPACITY,
        "no answer",
        "again",
    )


@pytest.mark.parametrize(
    ("left", "status"),
    [(None, Status.OK), (timedelta(hours=7), Status.OK), (timedelta(minutes=50), Status.WARNING)],
)
def test_credentials_that_end_within_the_hour_are_warned_of(left: timedelta | None, status: Status) -> None:
    found = account.credentials(Caller(ends=None if left is None else NOW + left), NOW)
    assert found.status is status
    assert found.message.startswith("sso")
    assert (found.fix == "aws sso login --profile work") is (status is Status.WARNING)


def test_region_and_profile_come_with_their_origins() -> None:
    region, profile = account.place(Session("eu-west-1"), Location("eu-west-1", "AWS_REGION", "work", "AWS_PROFILE"))
    assert (region.status, region.message) == (Status.OK, "eu-west-1 (from AWS_REGION)")
    assert profile.message == "work (from AWS_PROFILE)"


def test_a_region_that_may_be_misspelt_is_warned_of_with_the_nearest() -> None:
    region, profile = account.place(Session("us-east1"), Location("us-east1", "--region", None, "AWS_ACCESS_KEY_ID"))
    assert region.status is Status.WARNING
    assert "did you mean 'us-east-1'?" in region.message
    assert profile.message == "none (AWS_ACCESS_KEY_ID)"
