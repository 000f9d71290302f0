"""Whether the caller may read the jobs' log streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.aws.checks.base import Check, Status
from gpuplan.aws.logs import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.aws.session import Session


def logs(session: Session) -> Iterator[Check]:
    """Yield whether streams of SageMaker's log group can be listed; before the first job there is no group."""
    client = session.client("logs")
    try:
        with session.calling("logs:DescribeLogStreams", passes=("ResourceNotFoundException",)):
            client.describe_log_streams(logGroupName=GROUP, limit=1)
    except client.exceptions.ResourceNotFoundException:
        yield Check("logs", Status.OK, f"{GROUP} does not exist yet: the first job makes it")
    else:
        yield Check("logs", Status.OK, f"{GROUP} can be read")
