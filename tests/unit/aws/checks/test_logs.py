from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.aws.checks.base import Status, guarded
from gpuplan.aws.checks.logs import logs

if TYPE_CHECKING:
    from gpuplan.aws.session import Session
    from unit.aws.checks.conftest import StubbedSession


def test_a_group_that_no_job_has_made_yet_is_fine(on_moto: Session) -> None:
    [found] = logs(on_moto)
    assert (found.status, "first job" in found.message) == (Status.OK, True)


def test_a_group_that_can_be_listed_is_fine(on_moto: Session) -> None:
    on_moto.client("logs").create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    [found] = logs(on_moto)
    assert (found.status, found.message) == (Status.OK, "/aws/sagemaker/TrainingJobs can be read")


def test_logs_that_may_not_be_read_are_a_warning(stubbed: StubbedSession) -> None:
    stubbed.denied("logs", "describe_log_streams", "logs:DescribeLogStreams")
    [found] = guarded("logs", lambda: logs(stubbed), denied=Status.WARNING)
    assert found.status is Status.WARNING
    assert "logs:DescribeLogStreams" in found.message
