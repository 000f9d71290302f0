"""Who is calling, for how long, and where: identity, credentials, region, profile."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import TYPE_CHECKING

from gpuplan.aws.checks.base import Check, Status, failed
from gpuplan.core.errors import GpuplanError
from gpuplan.core.names import did_you_mean
from gpuplan.core.units import duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from gpuplan.aws.location import Location
    from gpuplan.aws.session import Session

_ENDS_SOON = timedelta(hours=1)


def identity(session: Session) -> Check:
    """Return who AWS says is calling."""
    try:
        caller = session.identity()
    except GpuplanError as error:
        return failed("identity", error)
    said = f"account {caller.account}, {caller.arn}"
    if caller.arn.endswith(":root"):
        fix = "aws configure sso    or keys of a user with the launcher policy"
        return Check("identity", Status.WARNING, f"{said}: the root user, whom no policy limits", fix)
    return Check("identity", Status.OK, said)


def credentials(session: Session, now: datetime) -> Check:
    """Return how the credentials were found and when they end; a run that outlives them goes on without its watcher."""
    found = session.credentials()
    if found.expires_at is None:
        return Check("credentials", Status.OK, f"{found.method}, with no end that is known")
    left = found.expires_at - now
    said = f"{found.method}, until {found.expires_at:%Y-%m-%d %H:%M} UTC"
    if left > _ENDS_SOON:
        return Check("credentials", Status.OK, f"{said} ({duration(left / timedelta(hours=1))})")
    renew = f"aws sso login{f' --profile {shlex.quote(session.profile)}' if session.profile else ''}"
    return Check("credentials", Status.WARNING, f"{said}: soon; a run goes on, but nobody follows it", renew)


def place(session: Session, location: Location) -> Iterator[Check]:
    """Yield region and profile with their origins; a region that SageMaker is not known to be in may be misspelt."""
    known = session.regions_of("sagemaker")
    said = f"{location.region} (from {location.region_from})"
    if location.region in known:
        yield Check("region", Status.OK, said)
    else:
        guess = did_you_mean(location.region, known)
        why = "misspelt, or newer than this version of botocore"
        hint = f"; {guess}" if guess.startswith("did") else ""
        yield Check(
            "region", Status.WARNING, f"{said}: SageMaker is not known to be there: {why}{hint}", "add --region NAME"
        )
    if location.profile is None:
        yield Check("profile", Status.OK, f"none ({location.profile_from})")
    else:
        yield Check("profile", Status.OK, f"{location.profile} (from {location.profile_from})")
