"""The stack and its operations against a CloudFormation that takes its time, fails, and is busy with something else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from gpuplan.aws import stack_changes, stack_removal, stack_template
from gpuplan.aws.session import Identity, Session
from gpuplan.aws.stack import StackOutputs, check_changeable, check_deletable, describe, outputs
from gpuplan.aws.stack_wait import Operation, StackEvent
from gpuplan.core.errors import CapacityError, CredentialsError, ExitCode, GpuplanError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import FakeClock

NAME = "gpuplan"
STACK_ID = f"arn:aws:cloudformation:eu-west-1:123456789012:stack/{NAME}/1"
BUCKET = "gpuplan-bucket-1"
OUTPUTS = {
    "BucketName": BUCKET,
    "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r",
    "LauncherPolicyArn": "arn:aws:iam::123456789012:policy/p",
}
_EVENT_IDS = count()


def refused(code: str, message: str, operation: str = "Operation") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def found(status: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a reply
    """Return one stack as DescribeStacks has it."""
    return {
        "StackName": NAME,
        "StackId": STACK_ID,
        "StackStatus": status,
        "Description": "gpuplan: ...",
        "CreationTime": datetime(2026, 11, 22, tzinfo=UTC),
        "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in OUTPUTS.items()],
        **changes,
    }


def bare(status: str) -> dict[str, Any]:
    return found(status, Outputs=[])


@dataclass
class FakeAws:
    """CloudFormation, S3 and IAM in one: what it is told to hold, and every call that changes something."""

    stack: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """Events so far, oldest first."""
    to_come: list[list[dict[str, Any]]] = field(default_factory=list)
    """Events that the operation adds, one batch with each look."""
    replies: list[dict[str, Any]] = field(default_factory=list)
    """Change sets as DescribeChangeSet will tell them; the last stays."""
    versions: dict[str, Any] = field(default_factory=dict)
    failing: dict[str, Exception] = field(default_factory=dict)
    """Calls that raise, by name."""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    looks: int = 0
    running: bool = False

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _did(self, name: str, arguments: dict[str, Any]) -> None:
        if name in self.failing:
            raise self.failing[name]
        self.calls.append((name, arguments))

    def describe_stacks(self, **asked: str) -> dict[str, Any]:
        if "describe_stacks" in self.failing:
            raise self.failing["describe_stacks"]
        if self.stack is None:
            raise refused("ValidationError", f"Stack with id {asked['StackName']} does not exist")
        return {"Stacks": [self.stack]}

    def describe_stack_resources(self, **asked: str) -> dict[str, Any]:
        del asked
        role = {"ResourceType": "AWS::IAM::Role", "PhysicalResourceId": "r", "ResourceStatus": "CREATE_COMPLETE"}
        bucket = {"ResourceType": "AWS::S3::Bucket", "PhysicalResourceId": BUCKET, "ResourceStatus": "CREATE_COMPLETE"}
        return {"StackResources": [role, bucket]}

    def create_change_set(self, **asked: Any) -> dict[str, str]:  # noqa: ANN401 - as sent
        self._did("create_change_set", asked)
        if self.stack is None:
            self.stack = bare("REVIEW_IN_PROGRESS")
        return {"Id": "arn:aws:cloudformation:eu-west-1:123456789012:changeSet/c/7", "StackId": STACK_ID}

    def execute_change_set(self, **asked: Any) -> None:  # noqa: ANN401 - as sent
        self._did("execute_change_set", asked)
        self.running = True

    def delete_change_set(self, **asked: str) -> None:
        self._did("delete_change_set", asked)

    def delete_stack(self, **asked: str) -> None:
        self._did("delete_stack", asked)
        self.running = True

    def list_object_versions(self, **asked: Any) -> dict[str, Any]:  # noqa: ANN401 - as sent
        self._did("list_object_versions", asked)
        return self.versions

    def delete_bucket(self, **asked: str) -> None:
        self._did("delete_bucket", asked)

    def get_paginator(self, operation: str) -> Any:  # noqa: ANN401 - botocore's is untyped
        return {
            "describe_stack_events": _Pages(self._event_pages),
            "describe_change_set": _Pages(self._change_set_pages),
        }[operation]

    def _event_pages(self) -> Iterator[dict[str, Any]]:
        self.looks += 1
        if "describe_stack_events" in self.failing and self.running:
            raise self.failing.pop("describe_stack_events")
        if self.running and self.to_come:
            self.history += self.to_come.pop(0)
            last = self.history[-1]
            if last["LogicalResourceId"] == NAME:
                self.stack = found(last["ResourceStatus"])
        newest_first = self.history[::-1]
        for start in range(0, max(1, len(newest_first)), 2):
            yield {"StackEvents": newest_first[start : start + 2]}

    def _change_set_pages(self) -> Iterator[dict[str, Any]]:
        yield self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)


@dataclass
class _Pages:
    pages: Callable[[], Iterator[dict[str, Any]]]

    def paginate(self, **asked: str) -> Iterator[dict[str, Any]]:
        del asked
        return self.pages()


class FakeSession(Session):
    def __init__(self, aws: FakeAws) -> None:
        super().__init__("eu-west-1", "work")
        self._aws = aws

    def client(self, service: str) -> Any:  # noqa: ANN401 - as botocore's
        assert service in {"cloudformation", "s3", "iam"}
        return self._aws

    def identity(self) -> Identity:
        return Identity("123456789012", "arn:aws:iam::123456789012:user/u")


def event(logical_id: str, status: str, reason: str = "") -> dict[str, Any]:
    own = {"PhysicalResourceId": STACK_ID} if logical_id == NAME else {}
    kind = "AWS::CloudFormation::Stack" if logical_id == NAME else "AWS::IAM::Role"
    return {
        "EventId": str(next(_EVENT_IDS)),
        "LogicalResourceId": logical_id,
        "ResourceType": kind,
        "ResourceStatus": status,
        **({"ResourceStatusReason": reason} if reason else {}),
        **own,
    }


def ignored(event: StackEvent) -> None:
    del event


def planned(*changes: dict[str, str], status: str = "CREATE_COMPLETE", reason: str = "") -> dict[str, Any]:
    return {
        "Status": status,
        "StatusReason": reason,
        "Changes": [{"Type": "Resource", "ResourceChange": change} for change in changes],
    }


ADD = {"Action": "Add", "LogicalResourceId": "Bucket", "ResourceType": "AWS::S3::Bucket"}


def test_outputs_are_bucket_role_and_policy() -> None:
    stack = FakeSession(FakeAws(found("UPDATE_COMPLETE")))
    assert outputs(stack, NAME) == StackOutputs(BUCKET, OUTPUTS["ExecutionRoleArn"], OUTPUTS["LauncherPolicyArn"])


@pytest.mark.parametrize("stack", [None, bare("REVIEW_IN_PROGRESS")])
def test_a_stack_that_is_not_there_or_only_proposed_has_no_outputs(stack: dict[str, Any] | None) -> None:
    assert outputs(FakeSession(FakeAws(stack)), NAME) is None


@pytest.mark.parametrize(
    ("stack", "what", "fix"),
    [
        (bare("CREATE_IN_PROGRESS"), "is CREATE_IN_PROGRESS", "gpuplan infra show"),
        (bare("ROLLBACK_COMPLETE"), "is ROLLBACK_COMPLETE", "gpuplan infra destroy"),
        (found("CREATE_COMPLETE", Description="a web shop", Outputs=[]), "is not gpuplan's", "gpuplan infra deploy"),
        (found("UPDATE_COMPLETE", Outputs=[]), "UPDATE_COMPLETE, but names no bucket", "gpuplan infra deploy"),
    ],
)
def test_a_stack_without_outputs_says_why_and_what_to_do(stack: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(UsageError) as raised:
        outputs(FakeSession(FakeAws(stack)), NAME)
    assert what in raised.value.what
    assert fix in raised.value.fix
    assert "--region eu-west-1 --profile work" in raised.value.fix


def test_a_name_cloudformation_does_not_take_is_a_usage_error() -> None:
    aws = FakeAws(failing={"describe_stacks": refused("ValidationError", "1 validation error detected")})
    with pytest.raises(UsageError, match="1 validation error"):
        describe(FakeSession(aws), NAME)


def test_a_denied_look_is_an_error_of_permission() -> None:
    aws = FakeAws(failing={"describe_stacks": refused("AccessDenied", "User u is not authorized")})
    with pytest.raises(CredentialsError) as raised:
        outputs(FakeSession(aws), NAME)
    assert raised.value.exit_code == ExitCode.CREDENTIALS


CHANGEABLE = ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "UPDATE_FAILED"]
STUCK = {
    "CREATE_FAILED": "gpuplan infra destroy",
    "ROLLBACK_COMPLETE": "gpuplan infra destroy",
    "ROLLBACK_FAILED": "gpuplan infra destroy",
    "DELETE_FAILED": "gpuplan infra destroy",
    "UPDATE_ROLLBACK_FAILED": "aws cloudformation continue-update-rollback",
    "A_STATUS_OF_2030": "gpuplan infra show",
}
BUSY = ["CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "DELETE_IN_PROGRESS"]


@pytest.mark.parametrize("status", CHANGEABLE)
def test_a_settled_stack_can_be_changed_and_deleted(status: str) -> None:
    session = FakeSession(FakeAws(found(status)))
    stack = describe(session, NAME)
    assert stack is not None
    check_changeable(session, stack)
    check_deletable(session, stack)


@pytest.mark.parametrize(("status", "fix"), STUCK.items())
def test_a_stuck_stack_cannot_be_changed_but_deleted(status: str, fix: str) -> None:
    session = FakeSession(FakeAws(found(status, StackStatusReason="the reason")))
    stack = describe(session, NAME)
    assert stack is not None
    with pytest.raises(UsageError) as raised:
        check_changeable(session, stack)
    assert status in raised.value.what
    assert raised.value.why == "the reason"
    assert raised.value.fix.startswith(fix)
    check_deletable(session, stack)


@pytest.mark.parametrize("status", BUSY)
def test_a_busy_stack_is_left_alone(status: str) -> None:
    session = FakeSession(FakeAws(found(status)))
    stack = describe(session, NAME)
    assert stack is not None
    for check in (check_changeable, check_deletable):
        with pytest.raises(UsageError, match=status):
            check(session, stack)


def test_an_operation_ends_with_the_stacks_own_event_and_tells_each_event_once_in_order(clock: FakeClock) -> None:
    old = [event(NAME, "CREATE_IN_PROGRESS"), event("Role", "CREATE_COMPLETE"), event(NAME, "CREATE_COMPLETE")]
    aws = FakeAws(found("CREATE_COMPLETE"), history=old)
    operation = Operation(FakeSession(aws), NAME, STACK_ID, clock)
    aws.running = True
    aws.to_come = [
        [],
        [event(NAME, "UPDATE_IN_PROGRESS"), event("Role", "UPDATE_IN_PROGRESS"), event("Policy", "UPDATE_IN_PROGRESS")],
        [event("Role", "UPDATE_COMPLETE")],
        [event(NAME, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"), event(NAME, "UPDATE_COMPLETE")],
    ]
    told: list[StackEvent] = []
    assert operation.wait(told.append) == "UPDATE_COMPLETE"
    assert [(one.logical_id, one.status) for one in told] == [
        (NAME, "UPDATE_IN_PROGRESS"),
        ("Role", "UPDATE_IN_PROGRESS"),
        ("Policy", "UPDATE_IN_PROGRESS"),
        ("Role", "UPDATE_COMPLETE"),
        (NAME, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"),
        (NAME, "UPDATE_COMPLETE"),
    ]


def test_an_operation_that_does_not_end_is_given_up_at_its_deadline_and_said_to_go_on(clock: FakeClock) -> None:
    aws = FakeAws(found("UPDATE_IN_PROGRESS"), history=[event(NAME, "UPDATE_IN_PROGRESS")])
    operation = Operation(FakeSession(aws), NAME, STACK_ID, clock)
    with pytest.raises(UnreachableError, match="did not end in 30 minutes") as raised:
        operation.wait(ignored)
    assert raised.value.why == "it goes on in AWS"
    assert clock.elapsed == pytest.approx(30 * 60, abs=5)


def test_one_look_that_fails_does_not_end_the_wait(clock: FakeClock) -> None:
    aws = FakeAws(found("UPDATE_IN_PROGRESS"), history=[event(NAME, "UPDATE_IN_PROGRESS")])
    operation = Operation(FakeSession(aws), NAME, STACK_ID, clock)
    aws.running = True
    aws.failing["describe_stack_events"] = ConnectTimeoutError(endpoint_url="https://cloudformation")
    aws.to_come = [[event(NAME, "UPDATE_COMPLETE")]]
    assert operation.wait(ignored) == "UPDATE_COMPLETE"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("API: iam:CreateRole User: u is not authorized to perform: iam:CreateRole", CredentialsError),
        ("Resource handler returned message: (HandlerErrorCode: AccessDenied)", CredentialsError),
        ("You have attempted to create more buckets than allowed (TooManyBuckets)", CapacityError),
        ("The provided key does not exist", UsageError),
    ],
)
def test_a_failed_creation_names_the_first_resource_that_failed_not_what_was_cancelled(
    clock: FakeClock, reason: str, kind: type[GpuplanError]
) -> None:
    aws = FakeAws(replies=[planned(ADD)], history=[event(NAME, "REVIEW_IN_PROGRESS")])
    session = FakeSession(aws)
    proposed = stack_changes.propose(session, NAME, {}, clock)
    aws.to_come = [
        [event(NAME, "CREATE_IN_PROGRESS"), event("Bucket", "CREATE_FAILED", "Resource creation cancelled")],
        [event("ExecutionRole", "CREATE_FAILED", reason), event(NAME, "ROLLBACK_IN_PROGRESS")],
        [event(NAME, "ROLLBACK_COMPLETE")],
    ]
    with pytest.raises(kind) as raised:
        stack_changes.execute(session, proposed, clock, ignored)
    assert raised.value.what.endswith("is ROLLBACK_COMPLETE: ExecutionRole AWS::IAM::Role CREATE_FAILED")
    assert raised.value.why == reason
    assert raised.value.fix.startswith("gpuplan infra destroy --stack gpuplan --region eu-west-1 --profile work")


def test_a_new_stack_is_proposed_with_every_default_then_made_and_a_failed_one_leaves_no_bucket(
    clock: FakeClock,
) -> None:
    pending = {"Status": "CREATE_IN_PROGRESS"}
    aws = FakeAws(replies=[pending, pending, planned(ADD)])
    session = FakeSession(aws)
    proposed = stack_changes.propose(session, NAME, {"CheckpointDays": "90"}, clock)
    sent = dict(aws.calls)["create_change_set"]
    assert sent["ChangeSetType"] == "CREATE"
    assert sent["TemplateBody"] == stack_template.text()
    assert sent["Capabilities"] == ["CAPABILITY_IAM"]
    assert sent["Tags"] == [{"Key": "gpuplan:stack", "Value": NAME}]
    defaults = {p.name: p.default for p in stack_template.parameters()}
    parameters = {p["ParameterKey"]: p["ParameterValue"] for p in sent["Parameters"]}
    assert parameters == defaults | {"CheckpointDays": "90"}
    assert (proposed.creates, proposed.made_the_stack, proposed.empty) == (True, True, False)
    assert [change.logical_id for change in proposed.changes] == ["Bucket"]
    aws.to_come = [[event(NAME, "CREATE_COMPLETE")]]
    assert stack_changes.execute(session, proposed, clock, ignored).outputs is not None
    assert dict(aws.calls)["execute_change_set"]["RetainExceptOnCreate"] is True


def test_an_update_keeps_what_is_not_wanted_and_drops_what_the_template_no_longer_knows(clock: FakeClock) -> None:
    standing = {"Prefix": "team-a", "CheckpointDays": "60", "Forgotten": "1"}
    held = [{"ParameterKey": key, "ParameterValue": value} for key, value in standing.items()]
    aws = FakeAws(found("CREATE_COMPLETE", Parameters=held), replies=[planned()])
    proposed = stack_changes.propose(FakeSession(aws), NAME, {"CheckpointDays": "90"}, clock)
    sent = dict(aws.calls)["create_change_set"]
    parameters = {p["ParameterKey"]: p["ParameterValue"] for p in sent["Parameters"]}
    assert sent["ChangeSetType"] == "UPDATE"
    assert (parameters["Prefix"], parameters["CheckpointDays"]) == ("team-a", "90")
    assert "Forgotten" not in parameters
    changes = {change.name: (change.before, change.after) for change in proposed.parameters}
    assert changes["CheckpointDays"] == ("60", "90")
    assert "Prefix" not in changes
    assert not proposed.made_the_stack


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information.",
        "No updates are to be performed.",
    ],
)
def test_a_change_set_without_changes_is_empty_and_taken_back(clock: FakeClock, reason: str) -> None:
    aws = FakeAws(found("UPDATE_COMPLETE"), replies=[planned(status="FAILED", reason=reason)])
    assert stack_changes.propose(FakeSession(aws), NAME, {}, clock).empty
    assert aws.names() == ["create_change_set", "delete_change_set"]


def test_a_refused_proposal_is_taken_back_with_the_empty_stack_and_says_why(clock: FakeClock) -> None:
    aws = FakeAws(replies=[planned(status="FAILED", reason="Template error: unknown resource type")])
    with pytest.raises(UsageError, match="unknown resource type"):
        stack_changes.propose(FakeSession(aws), NAME, {}, clock)
    assert aws.names() == ["create_change_set", "delete_change_set", "delete_stack"]


def test_a_proposal_that_is_never_worked_out_is_given_up_and_taken_back(clock: FakeClock) -> None:
    aws = FakeAws(found("UPDATE_COMPLETE"), replies=[{"Status": "CREATE_PENDING"}])
    with pytest.raises(UnreachableError, match="did not work out"):
        stack_changes.propose(FakeSession(aws), NAME, {}, clock)
    assert aws.names() == ["create_change_set", "delete_change_set"]


def test_what_stood_before_a_proposal_stays_when_it_is_discarded(clock: FakeClock) -> None:
    aws = FakeAws(bare("REVIEW_IN_PROGRESS"), replies=[planned(ADD)])
    session = FakeSession(aws)
    stack_changes.discard(session, stack_changes.propose(session, NAME, {}, clock))
    assert aws.names() == ["create_change_set", "delete_change_set"]


def test_an_unknown_parameter_is_refused_before_any_call(clock: FakeClock) -> None:
    aws = FakeAws()
    with pytest.raises(UsageError, match="no parameter 'CheckpointDay'") as raised:
        stack_changes.propose(FakeSession(aws), NAME, {"CheckpointDay": "1"}, clock)
    assert "CheckpointDays" in raised.value.why
    assert not aws.calls


def removal(aws: FakeAws, clock: FakeClock) -> stack_removal.BucketFate | None:
    session = FakeSession(aws)
    stack = describe(session, NAME)
    assert stack is not None
    return stack_removal.remove(session, stack, clock, ignored)


def deletable(**changes: Any) -> FakeAws:  # noqa: ANN401 - fields of FakeAws
    return FakeAws(found("UPDATE_COMPLETE"), to_come=[[event(NAME, "DELETE_COMPLETE")]], **changes)


def test_an_empty_bucket_goes_after_the_stack(clock: FakeClock) -> None:
    aws = deletable()
    assert removal(aws, clock) == stack_removal.BucketFate(BUCKET, kept=False, why="")
    assert aws.names() == ["delete_stack", "list_object_versions", "delete_bucket"]
    assert dict(aws.calls)["delete_bucket"]["ExpectedBucketOwner"] == "123456789012"


@pytest.mark.parametrize("versions", [{"Versions": [{"Key": "k"}]}, {"DeleteMarkers": [{"Key": "k"}]}])
def test_a_bucket_that_holds_anything_is_not_touched(clock: FakeClock, versions: dict[str, Any]) -> None:
    aws = deletable(versions=versions)
    assert removal(aws, clock) == stack_removal.BucketFate(BUCKET, kept=True, why="it is not empty")
    assert "delete_bucket" not in aws.names()


def test_a_bucket_that_is_filled_at_the_last_moment_is_kept(clock: FakeClock) -> None:
    aws = deletable(failing={"delete_bucket": refused("BucketNotEmpty", "The bucket is not empty")})
    assert removal(aws, clock) == stack_removal.BucketFate(BUCKET, kept=True, why="it is not empty")


def test_a_bucket_that_is_gone_already_is_gone(clock: FakeClock) -> None:
    aws = deletable(failing={"list_object_versions": refused("NoSuchBucket", "no such bucket")})
    assert removal(aws, clock) == stack_removal.BucketFate(BUCKET, kept=False, why="")


def test_a_bucket_that_may_not_be_looked_into_is_kept_and_the_reason_said(clock: FakeClock) -> None:
    aws = deletable(failing={"list_object_versions": refused("AccessDenied", "Access Denied", "ListObjectVersions")})
    fate = removal(aws, clock)
    assert fate is not None
    assert fate.kept
    assert "cannot look into the bucket" in fate.why
    assert "delete_bucket" not in aws.names()


def test_a_deletion_that_fails_names_the_resource_and_leaves_the_bucket_alone(clock: FakeClock) -> None:
    aws = deletable()
    aws.to_come = [
        [event("LauncherPolicy", "DELETE_FAILED", "Cannot delete a policy attached to entities.")],
        [event(NAME, "DELETE_FAILED", "The following resource(s) failed to delete: [LauncherPolicy].")],
    ]
    with pytest.raises(UsageError, match="LauncherPolicy AWS::IAM::Role DELETE_FAILED") as raised:
        removal(aws, clock)
    assert raised.value.why == "Cannot delete a policy attached to entities."
    assert aws.names() == ["delete_stack"]
