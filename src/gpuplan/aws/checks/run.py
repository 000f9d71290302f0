"""All checks in their order: `doctor` with everything about caller and place, `preflight` with what a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gpuplan.aws.checks import account, instances
from gpuplan.aws.checks import base as checks
from gpuplan.aws.checks.base import Check, Status, guarded
from gpuplan.aws.checks.bucket import bucket, public_access, versioning
from gpuplan.aws.checks.image import image
from gpuplan.aws.checks.logs import logs
from gpuplan.aws.checks.role import role
from gpuplan.aws.stack import outputs
from gpuplan.core.errors import ExitCode, GpuplanError

if TYPE_CHECKING:
    from datetime import date, datetime

    from gpuplan.aws.checks.base import Needs
    from gpuplan.aws.location import Location
    from gpuplan.aws.session import Identity, Session

_NO_INSTANCE = Check(
    "instances",
    Status.UNKNOWN,
    "no instance of AWS was asked about: image, quotas and offerings were not looked at",
    "add --instance g5",
)
_NOBODY = Check("everything else", Status.UNKNOWN, "not looked at: AWS does not say who is calling")


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found."""

    caller: Identity | None
    """None where AWS does not know the caller."""
    location: Location
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> ExitCode:
        """The exit status of the worst finding."""
        return checks.exit_code(self.checks)


def doctor(session: Session, location: Location, needs: Needs, now: datetime) -> Diagnosis:
    """Return every finding, in order; read-only, and nothing that is wrong stops it but an unknown caller."""
    who = account.identity(session)
    found = [who]
    if who.status is not Status.ERROR:
        found += guarded("credentials", lambda: [account.credentials(session, now)])
    found += guarded("region", partial(account.place, session, location))
    if who.status is Status.ERROR:
        return Diagnosis(None, location, (*found, _NOBODY))
    found += _needed(session, needs, now.date())
    if not needs.instance_types:
        found.append(_NO_INSTANCE)
    return Diagnosis(session.identity(), location, tuple(found))


def preflight(session: Session, needs: Needs) -> list[Check]:
    """Return what stands against a run, and what does not, before its first paid call; read-only."""
    who = account.identity(session)
    return [who, _NOBODY] if who.status is Status.ERROR else [who, *_needed(session, needs, None)]


def _needed(session: Session, needs: Needs, today: date | None) -> list[Check]:
    found, role_arn, bucket_name = _stack(session, needs)
    if role_arn:
        found += guarded("role", partial(role, session, role_arn), denied=Status.WARNING)
    if bucket_name:
        there = guarded("bucket", partial(bucket, session, bucket_name), denied=Status.ERROR)
        found += there
        if all(check.status is Status.OK for check in there):
            found += guarded("bucket-versioning", partial(versioning, session, bucket_name))
            found += guarded("bucket-public-access", partial(public_access, session, bucket_name))
    if needs.instance_types:
        capabilities = [need.compute_capability for need in needs.instance_types]
        found += guarded("image", partial(image, session, capabilities, needs.image, today))
        found += guarded("quota", partial(instances.quota, session, needs.instance_types))
        found += guarded("offering", partial(instances.offering, session, needs.instance_types))
    if needs.lifecycle is not None and needs.instance_types:
        found.append(instances.lifecycle(needs.lifecycle))
    return found + guarded("logs", partial(logs, session), denied=Status.WARNING)


def _stack(session: Session, needs: Needs) -> tuple[list[Check], str | None, str | None]:
    """Return what is found of the stack, then role and bucket: as given, or else the stack's outputs."""
    if needs.role_arn and needs.bucket:
        return [], needs.role_arn, needs.bucket
    missing = " and ".join(
        flag for flag, value in (("--role", needs.role_arn), ("--bucket", needs.bucket)) if not value
    )
    try:
        found = outputs(session, needs.stack)
    except GpuplanError as error:
        return [checks.failed("stack", error)], needs.role_arn, needs.bucket
    if found is None:
        said = f"{missing} not given, and there is no stack {needs.stack} in {session.region} to take them from"
        fix = f"gpuplan infra deploy --region {session.region}"
        return [Check("stack", Status.ERROR, said, fix, ExitCode.USAGE)], needs.role_arn, needs.bucket
    said = f"{needs.stack} gives {missing.replace('--', '')}"
    return [Check("stack", Status.OK, said)], needs.role_arn or found.role_arn, needs.bucket or found.bucket
