"""One operation on a stack from before its call to its end: events as they come, the resource that failed, a deadline.

Called by `stack_changes` and `stack_removal`. It starts nothing itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.aws.stack import IN_PROGRESS, command
from gpuplan.core.errors import CapacityError, CredentialsError, GpuplanError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.aws.session import Session
    from gpuplan.core.clock import Clock

DEADLINE_SECONDS = 30 * 60.0
"""Longest wait for an operation: the template's resources take seconds to a few minutes each."""
_POLL_SECONDS = 3.0
_FAILED = "_FAILED"
_CONSEQUENCE = re.compile(r"^Resource (creation|update|deletion) cancelled$", re.IGNORECASE)
_DENIED = re.compile(r"AccessDenied|access denied|not authorized|UnauthorizedOperation", re.IGNORECASE)
_LIMIT = re.compile(r"LimitExceeded|quota|TooManyBuckets", re.IGNORECASE)
_WHAT_NOW = {
    "ROLLBACK_COMPLETE": ("destroy", "then deploy again"),
    "ROLLBACK_FAILED": ("destroy", "then deploy again"),
    "CREATE_FAILED": ("destroy", "then deploy again"),
    "UPDATE_ROLLBACK_COMPLETE": ("deploy", "once the cause is gone: the stack is as it was before"),
    "DELETE_FAILED": ("destroy", "once the cause is gone"),
}


@dataclass(frozen=True)
class StackEvent:
    """One line of a stack's history."""

    logical_id: str
    resource_type: str
    status: str
    reason: str


class Operation:
    """One operation: made before the call that starts it, so that only its own events count as its progress."""

    def __init__(self, session: Session, stack_name: str, stack_id: str, clock: Clock) -> None:
        self._session = session
        self._name = stack_name
        self._id = stack_id
        self._clock = clock
        self._known: set[str] = set()
        self._failures: list[StackEvent] = []
        self._new_events()

    def wait(self, progress: Callable[[StackEvent], None], deadline_seconds: float = DEADLINE_SECONDS) -> str:
        """Return the status in which the operation ended, telling `progress` of every event in order.

        Raises:
            UnreachableError: it did not end by the deadline; it goes on in AWS.
            CredentialsError: the caller may not look any more; it goes on in AWS.
        """
        until = self._clock.monotonic() + deadline_seconds
        while True:
            try:
                events = self._new_events()
            except UnreachableError:  # the operation does not depend on our being able to watch it
                if self._clock.monotonic() >= until:
                    raise
                events = []
            for found in events:
                event = _event(found)
                progress(event)
                if event.status.endswith(_FAILED):
                    self._failures.append(event)
                # The stack's own event, not its status, ends the wait: right after the call the status may be the old.
                if found.get("PhysicalResourceId") == self._id and not event.status.endswith(IN_PROGRESS):
                    return event.status
            if self._clock.monotonic() >= until:
                raise UnreachableError(
                    f"the operation on the stack {self._name} did not end in {deadline_seconds / 60:.0f} minutes",
                    why="it goes on in AWS",
                    fix=command(self._session, "show", self._name),
                )
            self._clock.sleep(_POLL_SECONDS)

    def failure(self, status: str) -> GpuplanError:
        """Return the error of an operation that ended in `status`: the first resource that failed, and its reason."""
        causes = [event for event in self._failures if not _CONSEQUENCE.match(event.reason)] or self._failures
        first = causes[0] if causes else StackEvent(self._name, "", status, "CloudFormation gives no reason")
        verb, when = _WHAT_NOW.get(status, ("show", "says how the stack stands"))
        return _kind(first.reason)(
            f"the stack {self._name} is {status}: {first.logical_id} {first.resource_type} {first.status}",
            why=first.reason,
            fix=f"{command(self._session, verb, self._name)}    {when}",
        )

    def _new_events(self) -> list[dict[str, Any]]:
        """Return the events that came since the last call, oldest first; AWS lists the newest first."""
        fresh: list[dict[str, Any]] = []
        with self._session.calling(f"follow the stack {self._name}"):
            pages = self._session.client("cloudformation").get_paginator("describe_stack_events")
            for page in pages.paginate(StackName=self._id):
                new = [event for event in page["StackEvents"] if event["EventId"] not in self._known]
                fresh += new
                if len(new) < len(page["StackEvents"]) or not self._known:
                    break
        self._known |= {event["EventId"] for event in fresh}
        return fresh[::-1]


def _event(found: dict[str, Any]) -> StackEvent:
    return StackEvent(
        logical_id=found.get("LogicalResourceId", ""),
        resource_type=found.get("ResourceType", ""),
        status=found.get("ResourceStatus", ""),
        reason=found.get("ResourceStatusReason", ""),
    )


def _kind(reason: str) -> type[GpuplanError]:
    if _DENIED.search(reason):
        return CredentialsError
    return CapacityError if _LIMIT.search(reason) else UsageError
