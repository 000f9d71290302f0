"""Create or update the stack by a change set: proposed, shown by the caller, then executed or taken back.

Called by `gpuplan infra deploy`. It asks nobody and prints nothing; nothing in the account changes before `execute`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpuplan.aws import stack_template
from gpuplan.aws.stack import REVIEW, STACK_TAG, Stack, check_changeable, command, describe
from gpuplan.aws.stack_wait import Operation
from gpuplan.core.errors import GpuplanError, UnreachableError, UsageError
from gpuplan.core.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpuplan.aws.session import Session
    from gpuplan.aws.stack_wait import StackEvent
    from gpuplan.core.clock import Clock

_DEADLINE_SECONDS = 5 * 60.0
_POLL_SECONDS = 1.0
_PENDING = {"CREATE_PENDING", "CREATE_IN_PROGRESS"}
_NOTHING = ("didn't contain changes", "No updates are to be performed")
"""How CloudFormation says that a change set is empty: it has no code for it."""


@dataclass(frozen=True)
class ResourceChange:
    """What a change set does to one resource."""

    action: str
    """`Add`, `Modify`, `Remove`, or another word of CloudFormation's."""
    logical_id: str
    resource_type: str
    replacement: str
    """Whether a modified resource is made anew and the old one goes: `True`, `False`, `Conditional`; else empty."""


@dataclass(frozen=True)
class ParameterChange:
    """A parameter that will not be what it was."""

    name: str
    before: str | None
    """None in a new stack."""
    after: str


@dataclass(frozen=True)
class ChangeSet:
    """A proposal that CloudFormation holds until it is executed or discarded."""

    change_set_id: str
    stack_name: str
    stack_id: str
    creates: bool
    """Whether the stack is made by it; there was none, or nothing in it."""
    made_the_stack: bool
    """Whether the empty stack that holds the proposal came with it, and goes with it."""
    empty: bool
    """Nothing would change."""
    changes: tuple[ResourceChange, ...]
    parameters: tuple[ParameterChange, ...]


def propose(session: Session, stack_name: str, wanted: Mapping[str, str], clock: Clock) -> ChangeSet:
    """Return what the shipped template with `wanted` parameters would change in a stack.

    A parameter that is not wanted keeps the value the stack has, or takes the template's default in a new one.

    Raises:
        UsageError: an unknown parameter, a value the template refuses, a stack that cannot be changed.
        CredentialsError: the caller may not.
        UnreachableError: AWS did not answer, or made no change set by the deadline.
    """
    known = {parameter.name: parameter for parameter in stack_template.parameters()}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"the template has no parameter {name!r}", why=did_you_mean(name, known), fix="gpuplan infra show"
            )
    stack = describe(session, stack_name)
    creates = stack is None or stack.status == REVIEW
    if stack is not None and not creates:
        check_changeable(session, stack)
    before = {} if stack is None or creates else {k: v for k, v in stack.parameters.items() if k in known}
    # All values are spelled out, kept ones too: that is what UsePreviousValue means, and it can be shown.
    values = {name: parameter.default for name, parameter in known.items()} | before | dict(wanted)
    stamp = f"gpuplan-{clock.now():%Y%m%dT%H%M%S%f}"
    with session.calling(f"propose a change of the stack {stack_name}"):
        reply = session.client("cloudformation").create_change_set(
            StackName=stack_name,
            ChangeSetName=stamp,
            ChangeSetType="CREATE" if creates else "UPDATE",
            ClientToken=stamp,  # so that botocore's retry of a lost reply meets its own change set
            Description="gpuplan infra deploy",
            TemplateBody=stack_template.text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
            Capabilities=["CAPABILITY_IAM"],
            Tags=[{"Key": STACK_TAG, "Value": stack_name}],
        )
    proposed = ChangeSet(
        change_set_id=reply["Id"],
        stack_name=stack_name,
        stack_id=reply["StackId"],
        creates=creates,
        made_the_stack=stack is None,
        empty=False,
        changes=(),
        parameters=tuple(
            ParameterChange(name, None if creates else before.get(name, ""), after)
            for name, after in values.items()
            if after != before.get(name, "")
        ),
    )
    try:
        return _described(session, proposed, clock)
    except BaseException:
        with suppress(GpuplanError):  # what went wrong first is what the user must see
            discard(session, proposed)
        raise


def discard(session: Session, change_set: ChangeSet) -> None:
    """Take a proposal back, with the empty stack that came with it; nothing in the account has changed.

    Raises:
        CredentialsError: the caller may not.
        UnreachableError: AWS did not answer.
    """
    client = session.client("cloudformation")
    with session.calling(f"discard the change set of {change_set.stack_name}"):
        client.delete_change_set(ChangeSetName=change_set.change_set_id)
        if change_set.made_the_stack:
            stack = describe(session, change_set.stack_id)
            if stack is not None and stack.status == REVIEW:
                client.delete_stack(StackName=change_set.stack_id)


def execute(session: Session, change_set: ChangeSet, clock: Clock, progress: Callable[[StackEvent], None]) -> Stack:
    """Carry a proposal out and return the stack as it stands then; CloudFormation rolls back what fails.

    Raises:
        UsageError: a resource failed, with its reason, or the proposal is out of date.
        CredentialsError: a resource failed for lack of permission.
        CapacityError: a resource failed for a quota.
        UnreachableError: AWS did not answer, or the operation did not end by the deadline; it may go on.
    """
    operation = Operation(session, change_set.stack_name, change_set.stack_id, clock)
    again = command(session, "deploy", change_set.stack_name)
    with session.calling(f"change the stack {change_set.stack_name}", fix=again):
        session.client("cloudformation").execute_change_set(
            ChangeSetName=change_set.change_set_id,
            ClientRequestToken=change_set.change_set_id.rpartition("/")[2],
            # A creation that fails leaves no bucket behind; the template keeps it in every other case.
            RetainExceptOnCreate=True,
        )
    status = operation.wait(progress)
    if status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
        raise operation.failure(status)
    stack = describe(session, change_set.stack_id)
    if stack is None or stack.outputs is None:
        raise UsageError(
            f"the stack {change_set.stack_name} is {status} but has no outputs",
            why="another client may have changed it since",
            fix=command(session, "show", change_set.stack_name),
        )
    return stack


def _described(session: Session, proposed: ChangeSet, clock: Clock) -> ChangeSet:
    """Wait until CloudFormation has worked the proposal out, and return it with its changes."""
    until = clock.monotonic() + _DEADLINE_SECONDS
    while True:
        found = _pages(session, proposed)
        status, reason = found[0]["Status"], found[0].get("StatusReason", "")
        if status not in _PENDING:
            break
        if clock.monotonic() >= until:
            raise UnreachableError(
                f"CloudFormation did not work out the change of {proposed.stack_name} in {_DEADLINE_SECONDS:.0f} s",
                fix=command(session, "deploy", proposed.stack_name),
            )
        clock.sleep(_POLL_SECONDS)
    if status != "CREATE_COMPLETE":
        if not any(words in reason for words in _NOTHING):
            raise UsageError(
                f"CloudFormation refuses the change of {proposed.stack_name}: {reason or status}",
                fix="gpuplan infra show    lists the parameters",
            )
        discard(session, proposed)
        return replace(proposed, empty=True)
    return replace(proposed, changes=tuple(_change(c) for page in found for c in page.get("Changes", [])))


def _pages(session: Session, proposed: ChangeSet) -> list[dict[str, Any]]:
    with session.calling(f"read the change set of {proposed.stack_name}"):
        pages = session.client("cloudformation").get_paginator("describe_change_set")
        return list(pages.paginate(ChangeSetName=proposed.change_set_id))


def _change(found: dict[str, Any]) -> ResourceChange:
    change = found.get("ResourceChange", {})
    return ResourceChange(
        action=change.get("Action", ""),
        logical_id=change.get("LogicalResourceId", ""),
        resource_type=change.get("ResourceType", ""),
        replacement=change.get("Replacement", ""),
    )
