"""The CloudFormation stack as it stands in an account: outputs, parameters, state, and what may be done with it.

Called wherever role and bucket come from the stack, and by `gpuplan infra`. It only reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.core.errors import GpuplanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gpuplan.aws.session import Session

STACK_TAG = "gpuplan:stack"
"""Key of the tag that every stack and resource of gpuplan carries; its value is the stack's name."""
IN_PROGRESS = "_IN_PROGRESS"
REVIEW = "REVIEW_IN_PROGRESS"
"""A change set was made for a stack that does not exist yet; nothing else was."""

_OUR_DESCRIPTION = "gpuplan:"
_CHANGEABLE = {
    "CREATE_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_FAILED",
    "UPDATE_ROLLBACK_COMPLETE",
}
_ONLY_DELETABLE = {"CREATE_FAILED", "DELETE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"}


@dataclass(frozen=True)
class StackOutputs:
    """What the rest of gpuplan needs of the stack."""

    bucket: str
    role_arn: str
    launcher_policy_arn: str


@dataclass(frozen=True)
class Stack:
    """A stack at one moment."""

    name: str
    stack_id: str
    status: str
    """CloudFormation's own word, such as `CREATE_COMPLETE`."""
    reason: str
    """Why it has this status; empty where CloudFormation says nothing."""
    parameters: Mapping[str, str]
    outputs: StackOutputs | None
    """None before its first creation is done, and for a stack that is not gpuplan's."""
    ours: bool
    """Whether gpuplan's template made it."""
    changed_at: datetime
    drift: str
    """What the last drift detection found, in CloudFormation's word; `NOT_CHECKED` if there was none."""
    drift_checked_at: datetime | None


def describe(session: Session, name: str) -> Stack | None:
    """Return a stack by name or id, None if there is none; by id a deleted stack can still be seen.

    Raises:
        CredentialsError: the caller may not look.
        UnreachableError: AWS did not answer.
    """
    from botocore.exceptions import ClientError

    client = session.client("cloudformation")
    action = f"look at the stack {name}"
    try:
        with session.calling(action, passes=("ValidationError",)):
            reply = client.describe_stacks(StackName=name)
    except ClientError as error:
        said = str(error.response["Error"].get("Message", ""))
        if "does not exist" in said:
            return None
        raise UsageError(f"cannot {action}: {said}", fix="gpuplan infra show --stack gpuplan") from error
    return _stack(reply["Stacks"][0])


def outputs(session: Session, stack_name: str) -> StackOutputs | None:
    """Return bucket, role and launcher policy of a stack; None if there is no such stack.

    Raises:
        UsageError: the stack is there but has no such outputs: not gpuplan's, or not fully created.
        CredentialsError: the caller may not look.
        UnreachableError: AWS did not answer.
    """
    stack = describe(session, stack_name)
    if stack is None or stack.status == REVIEW:
        return None
    if stack.outputs is not None:
        return stack.outputs
    if not stack.ours:
        raise foreign(session, stack)
    raise _unfinished(session, stack)


def template_body(session: Session, stack: Stack) -> str | None:
    """Return the template a stack was made from; None where it is not kept as text.

    Raises:
        CredentialsError: the caller may not look.
        UnreachableError: AWS did not answer.
    """
    with session.calling(f"read the template of the stack {stack.name}"):
        body = session.client("cloudformation").get_template(StackName=stack.stack_id)["TemplateBody"]
    return body if isinstance(body, str) else None


def check_changeable(session: Session, stack: Stack) -> None:
    """Refuse a stack that cannot be updated as it is.

    Raises:
        UsageError: not gpuplan's, in the middle of something, or stuck; says what to do.
    """
    if not stack.ours:
        raise foreign(session, stack)
    if stack.status not in _CHANGEABLE:
        raise _unfinished(session, stack)


def check_deletable(session: Session, stack: Stack) -> None:
    """Refuse a stack that is not ours to delete, or not now.

    Raises:
        UsageError: not gpuplan's, or in the middle of something.
    """
    if not stack.ours and stack.status != REVIEW:
        raise foreign(session, stack)
    if stack.status.endswith(IN_PROGRESS) and stack.status != REVIEW:
        raise _unfinished(session, stack)


def command(session: Session, verb: str, name: str) -> str:
    """Return the `gpuplan infra` command that means the same stack, region and profile."""
    profile = f" --profile {session.profile}" if session.profile else ""
    return f"gpuplan infra {verb} --stack {name} --region {session.region}{profile}"


def foreign(session: Session, stack: Stack) -> GpuplanError:
    """Return the refusal of a stack that gpuplan's template did not make."""
    return UsageError(
        f"the stack {stack.name} in {session.region} is not gpuplan's",
        why="neither its description nor its tags are, and a change by gpuplan would delete what it holds",
        fix=f"{command(session, 'deploy', 'gpuplan')}    or another name that is free",
    )


def _unfinished(session: Session, stack: Stack) -> GpuplanError:
    """Return the refusal of a stack in a state in which it can be neither used nor changed."""
    what = f"the stack {stack.name} in {session.region} is {stack.status}"
    if stack.status.endswith(IN_PROGRESS):
        return UsageError(
            what,
            why="another operation is under way, and CloudFormation does one at a time",
            fix=f"{command(session, 'show', stack.name)}    until it is done",
        )
    if stack.status in _ONLY_DELETABLE:
        return UsageError(
            what,
            why=stack.reason or "CloudFormation can only delete a stack in this state",
            fix=f"{command(session, 'destroy', stack.name)}    then deploy again",
        )
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        profile = f" --profile {session.profile}" if session.profile else ""
        return UsageError(
            what,
            why=stack.reason or "the way back from a failed update failed as well",
            fix="aws cloudformation continue-update-rollback"
            f" --stack-name {stack.name} --region {session.region}{profile}",
        )
    if stack.status in _CHANGEABLE:
        return UsageError(
            f"{what}, but names no bucket, role and launcher policy among its outputs",
            why="another version of the template made it",
            fix=command(session, "deploy", stack.name),
        )
    return UsageError(what, why=stack.reason, fix=command(session, "show", stack.name))


def _stack(found: dict[str, Any]) -> Stack:
    tags = {tag["Key"] for tag in found.get("Tags", [])}
    drift = found.get("DriftInformation", {})
    return Stack(
        name=found["StackName"],
        stack_id=found["StackId"],
        status=found["StackStatus"],
        reason=found.get("StackStatusReason", ""),
        parameters={one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", [])},
        outputs=_outputs({one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}),
        ours=STACK_TAG in tags or found.get("Description", "").startswith(_OUR_DESCRIPTION),
        changed_at=found.get("LastUpdatedTime") or found["CreationTime"],
        drift=drift.get("StackDriftStatus", "NOT_CHECKED"),
        drift_checked_at=drift.get("LastCheckTimestamp"),
    )


def _outputs(values: dict[str, str]) -> StackOutputs | None:
    try:
        return StackOutputs(values["BucketName"], values["ExecutionRoleArn"], values["LauncherPolicyArn"])
    except KeyError:
        return None
