"""What stands in the account, what a change of it would do, and what a removal left, for people and for scripts.

Called by `gpuplan infra`. It returns blocks and documents; it makes no call.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from gpuplan.core.frozen import Unknown
from gpuplan.reports.layout import Facts, Line, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from gpuplan.aws.location import Location
    from gpuplan.aws.session import Identity
    from gpuplan.aws.stack import Stack, StackOutputs
    from gpuplan.aws.stack_changes import ChangeSet
    from gpuplan.aws.stack_removal import BucketFate
    from gpuplan.aws.stack_template import Parameter, Resource

Blocks = list[Line | Table | Facts]

_NONE = "none"
_WHAT_ACTIONS_MEAN = {"Add": "+ add", "Modify": "~ change", "Remove": "- remove"}
_REPLACED = {"True": "yes: made anew, the old one goes", "Conditional": "perhaps", "False": "no"}


@dataclass(frozen=True)
class Deployed:
    """A stack and whether the template it was made from is the one that gpuplan ships."""

    stack: Stack
    template_is_current: bool | Unknown


@dataclass(frozen=True)
class NotDeployed:
    """There is no stack of that name."""

    region: str


Found = Deployed | NotDeployed | Unknown


def place_facts(stack_name: str, location: Location, identity: Identity) -> Facts:
    """Return whose account and which region it is about, and where both came from."""
    return Facts(
        (
            ("stack", stack_name),
            ("account", f"{identity.account}   {identity.arn}"),
            ("region", f"{location.region}   from {location.region_from}"),
            ("AWS profile", f"{location.profile or _NONE}   from {location.profile_from}"),
        )
    )


def show_text(name: str, resources: Sequence[Resource], parameters: Sequence[Parameter], found: Found) -> Blocks:
    """Return what the template creates and may be told, and the stack if it is there."""
    values = found.stack.parameters if isinstance(found, Deployed) else {}
    rows = tuple((p.name, values.get(p.name, p.default) or _NONE, p.description) for p in parameters)
    return [
        Line(f"gpuplan infra · stack {name} · {len(resources)} resources"),
        Table(
            ("resource", "type", "for"),
            tuple((r.logical_id, r.resource_type, r.purpose) for r in resources),
        ),
        Table(("parameter", "value" if values else "default", "meaning"), rows),
        Facts((*_found_facts(found), *_next_steps(name, found), ("next", "gpuplan infra show --template"))),
    ]


def show_document(
    name: str, resources: Sequence[Resource], parameters: Sequence[Parameter], found: Found
) -> dict[str, Any]:
    """Return the same as `gpuplan.infra/1`."""
    return {
        "schema": "gpuplan.infra/1",
        "template": {
            "resources": [
                {
                    "name": r.logical_id,
                    "type": r.resource_type,
                    "purpose": r.purpose,
                    "condition": r.condition or "always",
                }
                for r in resources
            ],
            "parameters": [{"name": p.name, "default": p.default, "meaning": p.description} for p in parameters],
        },
        "stack": _stack_document(name, found),
    }


def change_text(change_set: ChangeSet) -> Blocks:
    """Return what a change set does, resource by resource and parameter by parameter."""
    verb = "creates the stack" if change_set.creates else "changes the stack"
    blocks: Blocks = [Line(f"this {verb} {change_set.stack_name}:")]
    if change_set.changes:
        blocks.append(
            Table(
                ("action", "resource", "type", "replaced"),
                tuple(
                    (
                        _WHAT_ACTIONS_MEAN.get(change.action, change.action),
                        change.logical_id,
                        change.resource_type,
                        _REPLACED.get(change.replacement, change.replacement),
                    )
                    for change in change_set.changes
                ),
            )
        )
    if change_set.parameters:
        blocks.append(
            Table(
                ("parameter", "before", "after"),
                tuple(
                    (change.name, "" if change.before is None else change.before or _NONE, change.after or _NONE)
                    for change in change_set.parameters
                ),
            )
        )
    return blocks


def deployed_text(stack: Stack, *, changed: bool, next_command: str) -> Blocks:
    """Return the outputs of a stack after a deploy."""
    done = f"stack {stack.name}: {stack.status}" if changed else f"stack {stack.name}: nothing to change"
    facts = tuple(_output_facts(stack.outputs)) if stack.outputs else ()
    return [Line(done), Facts((*facts, ("next", next_command)))]


def deployed_document(stack: Stack, *, changed: bool) -> dict[str, Any]:
    """Return a deploy as `gpuplan.infra-deploy/1`."""
    return {"schema": "gpuplan.infra-deploy/1", "changed": changed, "stack": _stack_fields(stack)}


def removal_text(stack: Stack, bucket: str | None) -> Blocks:
    """Return what a removal would take away."""
    kept = f"{bucket}: deleted only if it is empty, old versions included" if bucket else "none"
    return [
        Line(f"this deletes the stack {stack.name} ({stack.status}):"),
        Facts(
            (
                ("role", "deleted: a job that still runs can no longer write"),
                ("launcher policy", "deleted"),
                ("bucket", kept),
            )
        ),
    ]


def removed_text(name: str, fate: BucketFate | None, location: Location) -> Blocks:
    """Return what a removal left, and the commands that empty and delete a bucket that was kept."""
    if fate is None:
        return [Line(f"stack {name} deleted; it had no bucket")]
    if not fate.kept:
        return [Line(f"stack {name} deleted, and its empty bucket {fate.name}")]
    return [
        Line(f"stack {name} deleted; the bucket {fate.name} stays: {fate.why}"),
        Facts(
            (
                ("still bills", "what the bucket holds: checkpoints, results, old versions"),
                ("to read it", f"gpuplan status RUN --bucket {fate.name}"),
                ("to delete it", "the two commands below: every version of every object, then the bucket"),
                *(("next", line) for line in emptying_commands(fate.name, location)),
            )
        ),
    ]


def removed_document(name: str, fate: BucketFate | None, location: Location) -> dict[str, Any]:
    """Return a removal as `gpuplan.infra-destroy/1`."""
    document: dict[str, Any] = {"schema": "gpuplan.infra-destroy/1", "stack": name}
    if fate is not None:
        document["bucket"] = {"name": fate.name, "kept": fate.kept}
        if fate.kept:
            document["bucket"] |= {"why": fate.why, "delete_all": list(emptying_commands(fate.name, location))}
    return document


def emptying_commands(bucket: str, location: Location) -> tuple[str, str]:
    """Return shell commands that delete every version of every object of a bucket, then the bucket."""
    aws = f"aws s3api --region {location.region}" + (f" --profile {location.profile}" if location.profile else "")
    # A page of at most 1,000 at a time, the most that delete-objects takes, until a page names no version.
    listed = (
        f"{aws} list-object-versions --bucket {bucket} --max-items 1000 --output json"
        " --query '{Quiet: `true`, Objects: [Versions, DeleteMarkers][].{Key: Key, VersionId: VersionId}}'"
    )
    deleted = f"{aws} delete-objects --bucket {bucket} --delete file://versions.json"
    return (
        f"while {listed} > versions.json && grep -q VersionId versions.json; do {deleted}; done",
        f"{aws} delete-bucket --bucket {bucket}",
    )


def _found_facts(found: Found) -> Iterator[tuple[str, str]]:
    if isinstance(found, NotDeployed):
        yield "stack", f"not deployed in {found.region}"
        return
    if isinstance(found, Unknown):
        yield "stack", f"unknown: {found.unknown}"
        return
    stack = found.stack
    yield "stack", f"{stack.status} since {_minute(stack.changed_at)}"
    if stack.reason:
        yield "stack", stack.reason
    yield "id", stack.stack_id
    if stack.outputs:
        yield from _output_facts(stack.outputs)
    yield (
        "drift",
        f"{stack.drift}, checked {_minute(stack.drift_checked_at)}"
        if stack.drift_checked_at
        else "unknown: never checked",
    )
    if isinstance(found.template_is_current, Unknown):
        yield "template", f"unknown: {found.template_is_current.unknown}"
    else:
        yield "template", "as this gpuplan ships it" if found.template_is_current else "not what this gpuplan ships"


def _next_steps(name: str, found: Found) -> Iterator[tuple[str, str]]:
    if isinstance(found, NotDeployed):
        yield "next", f"gpuplan infra deploy --stack {name} --region {found.region}"
    if not isinstance(found, Deployed):
        return
    region = found.stack.stack_id.split(":")[3]
    if found.template_is_current is False:
        yield "next", f"gpuplan infra deploy --stack {name} --region {region}"
    if found.stack.drift_checked_at is None:
        yield "next", f"aws cloudformation detect-stack-drift --stack-name {name} --region {region}"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _output_facts(outputs: StackOutputs) -> Iterator[tuple[str, str]]:
    yield "bucket", outputs.bucket
    yield "role", outputs.role_arn
    yield "launcher policy", outputs.launcher_policy_arn


def _stack_document(name: str, found: Found) -> dict[str, Any]:
    if isinstance(found, NotDeployed):
        return {"name": name, "deployed": False, "region": found.region}
    if isinstance(found, Unknown):
        return {"name": name, "deployed": found.document()}
    current = found.template_is_current
    return {
        "deployed": True,
        **_stack_fields(found.stack),
        "template_is_current": current.document() if isinstance(current, Unknown) else current,
    }


def _stack_fields(stack: Stack) -> dict[str, Any]:
    drift: dict[str, str] = {"unknown": "never checked"}
    if stack.drift_checked_at is not None:
        drift = {"status": stack.drift, "checked_at": stack.drift_checked_at.isoformat()}
    missing = {"unknown": f"the stack is {stack.status}"}
    outputs = stack.outputs
    return {
        "name": stack.name,
        "id": stack.stack_id,
        "status": stack.status,
        "changed_at": stack.changed_at.isoformat(),
        "bucket": outputs.bucket if outputs else missing,
        "role_arn": outputs.role_arn if outputs else missing,
        "launcher_policy_arn": outputs.launcher_policy_arn if outputs else missing,
        "parameters": dict(stack.parameters),
        "drift": drift,
    }
