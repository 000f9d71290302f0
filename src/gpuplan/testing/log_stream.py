"""CloudWatch Logs as SageMaker writes them: group /aws/sagemaker/TrainingJobs, stream `<job>/<host>-<epoch>`.

Used by the executor and by scripts; talks to moto over HTTP as the platform.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

GROUP = "/aws/sagemaker/TrainingJobs"
_BATCH = 1000


class LogStream:
    """One host's stream; it is made with the first line."""

    def __init__(self, logs: Any, job: str, host: str, started_at: datetime) -> None:  # noqa: ANN401 -- a boto3 client
        self._logs = logs
        self.name = f"{job}/{host}-{int(started_at.timestamp())}"
        self._made = False

    def write(self, lines: Sequence[str]) -> None:
        """Append lines with the time of now."""
        if not lines:
            return
        self._make()
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": line or " "} for line in lines]
        for start in range(0, len(events), _BATCH):
            self._logs.put_log_events(
                logGroupName=GROUP, logStreamName=self.name, logEvents=events[start : start + _BATCH]
            )

    def _make(self) -> None:
        if self._made:
            return
        exists = self._logs.exceptions.ResourceAlreadyExistsException
        for make, names in (
            (self._logs.create_log_group, {"logGroupName": GROUP}),
            (self._logs.create_log_stream, {"logGroupName": GROUP, "logStreamName": self.name}),
        ):
            try:
                make(**names)
            except exists:
                continue
        self._made = True
