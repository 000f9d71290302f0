"""Delete the stack; its bucket goes only if nothing is in it, old versions included.

Called by `gpuplan infra destroy`. It asks nobody, prints nothing and never empties a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.aws.errors import AccessDeniedError
from gpuplan.aws.stack import check_deletable, command
from gpuplan.aws.stack_wait import Operation
from gpuplan.core.errors import CredentialsError, GpuplanError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.aws.session import Session
    from gpuplan.aws.stack import Stack
    from gpuplan.aws.stack_wait import StackEvent
    from gpuplan.core.clock import Clock

_GONE = "DELETE_COMPLETE"
_BUCKET = "AWS::S3::Bucket"


@dataclass(frozen=True)
class BucketFate:
    """What became of the stack's bucket."""

    name: str
    kept: bool
    why: str
    """Why it was kept; empty where it was not."""


def bucket_of(session: Session, stack: Stack) -> str | None:
    """Return the name of the stack's bucket, None if it made none or it is gone.

    Raises:
        CredentialsError: the caller may not look.
        UnreachableError: AWS did not answer.
    """
    with session.calling(f"list the resources of the stack {stack.name}"):
        found = session.client("cloudformation").describe_stack_resources(StackName=stack.stack_id)["StackResources"]
    for resource in found:
        if resource.get("ResourceType") == _BUCKET and resource.get("ResourceStatus") != _GONE:
            name = resource.get("PhysicalResourceId")
            return str(name) if name else None
    return None


def check_unused(session: Session, stack: Stack) -> None:
    """Refuse to delete a launcher policy that people still have: CloudFormation would get stuck on it.

    Raises:
        UsageError: it is attached; names to whom, and the commands that detach it.
        CredentialsError: AWS does not know who asks.
        UnreachableError: AWS did not answer.
    """
    if stack.outputs is None:
        return
    from botocore.exceptions import ClientError

    arn = stack.outputs.launcher_policy_arn
    try:
        with session.calling(f"see who has the policy {arn}", passes=("NoSuchEntity",)):
            pages = session.client("iam").get_paginator("list_entities_for_policy").paginate(PolicyArn=arn)
            holders = [
                (kind, entity[f"{kind.capitalize()}Name"])
                for page in pages
                for kind in ("user", "group", "role")
                for entity in page.get(f"Policy{kind.capitalize()}s", [])
            ]
    except (AccessDeniedError, ClientError):  # deleted already, or CloudFormation will say so itself
        return
    if holders:
        detach = "; ".join(
            f"aws iam detach-{kind}-policy --{kind}-name {name} --policy-arn {arn}" for kind, name in holders
        )
        raise UsageError(
            f"the launcher policy is still attached to {', '.join(f'{kind} {name}' for kind, name in holders)}",
            why="a policy that somebody has cannot be deleted",
            fix=detach,
        )


def remove(session: Session, stack: Stack, clock: Clock, progress: Callable[[StackEvent], None]) -> BucketFate | None:
    """Delete the stack, then its bucket if it is empty; return what became of the bucket, None if there was none.

    Raises:
        UsageError: not gpuplan's stack, not now, or a resource could not be deleted, with its reason.
        CredentialsError: the caller may not.
        UnreachableError: AWS did not answer, or the deletion did not end by the deadline; it may go on.
    """
    check_deletable(session, stack)
    bucket = bucket_of(session, stack)
    operation = Operation(session, stack.name, stack.stack_id, clock)
    with session.calling(f"delete the stack {stack.name}", fix=command(session, "destroy", stack.name)):
        session.client("cloudformation").delete_stack(StackName=stack.stack_id)
    status = operation.wait(progress)
    if status != _GONE:
        raise operation.failure(status)
    return None if bucket is None else _remove_if_empty(session, bucket)


def _remove_if_empty(session: Session, bucket: str) -> BucketFate:
    """Delete a bucket that holds no object, no old version and no delete marker."""
    from botocore.exceptions import ClientError

    client = session.client("s3")
    owner = session.identity().account
    try:
        with session.calling(f"look into the bucket {bucket}", passes=("NoSuchBucket", "BucketNotEmpty")):
            found = client.list_object_versions(Bucket=bucket, MaxKeys=1, ExpectedBucketOwner=owner)
            if found.get("Versions") or found.get("DeleteMarkers"):
                return BucketFate(bucket, kept=True, why="it is not empty")
            client.delete_bucket(Bucket=bucket, ExpectedBucketOwner=owner)
    except ClientError as error:
        # Between the look and the deletion somebody put something into it, or deleted it.
        kept = error.response["Error"]["Code"] == "BucketNotEmpty"
        return BucketFate(bucket, kept=kept, why="it is not empty" if kept else "")
    except (CredentialsError, UnreachableError, UsageError) as error:
        return BucketFate(bucket, kept=True, why=_said(error))
    return BucketFate(bucket, kept=False, why="")


def _said(error: GpuplanError) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what
