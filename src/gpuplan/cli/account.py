"""The AWS account behind a plan: whose credentials, which region, role and bucket; asked only where a run needs it.

Called by the commands that start or follow runs. `plan` does not come here: it needs no account.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

from gpuplan.aws.location import Location, configuration_text, locate
from gpuplan.backends import base as backends
from gpuplan.cli.home import home
from gpuplan.core.errors import CredentialsError, UsageError
from gpuplan.profiles.schema import Service

if TYPE_CHECKING:
    from gpuplan.aws.session import Identity, Session
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.workload.schema import Aws, Settings


def runs_in_aws(plan: LaunchPlan) -> bool:
    """Tell whether a plan's jobs run where AWS bills them."""
    return bills(plan.backend)


def bills(backend: str) -> bool:
    """Tell whether AWS bills what a backend runs."""
    return backend in get_args(Service)


def located(aws: Aws, origin: str = "the plan") -> Location:
    """Return region and profile with their origins; a profile that settings leave out comes from the environment."""
    return locate(aws.region, origin, aws.profile, origin, os.environ, configuration_text(os.environ))


def session(aws: Aws) -> Session:
    """Return a session for these settings; it calls nothing yet."""
    from gpuplan.aws.session import Session

    place = located(aws)
    return Session(place.region, place.profile)


def backend_of(plan: LaunchPlan, profile: str | None = None) -> backends.Backend:
    """Return the backend of a plan, with the AWS profile that counts here and now: `profile`, else the plan's."""
    aws = plan.provenance.settings.aws
    if runs_in_aws(plan):
        aws = aws.model_copy(update={"profile": profile} if profile else {})
        aws = aws.model_copy(update={"profile": located(aws).profile})
    return backends.create(plan.backend, home(), aws)


def completed(settings: Settings) -> Settings:
    """Return settings whose role and bucket are known: what is left out are the outputs of the stack.

    Raises:
        UsageError: there is no such stack.
        CredentialsError: AWS does not know who asks.
    """
    aws = completed_aws(settings.aws)
    return settings if aws == settings.aws else settings.model_copy(update={"aws": aws})


def completed_aws(aws: Aws) -> Aws:
    """Return the same for the one section; see `completed`."""
    if aws.role_arn and aws.bucket:
        return aws
    from gpuplan.aws.stack import outputs

    found = outputs(session(aws), aws.stack)
    if found is None:
        missing = " and ".join(
            flag for flag, value in (("--role", aws.role_arn), ("--bucket", aws.bucket)) if value is None
        )
        raise UsageError(
            f"{missing} not given, and there is no stack {aws.stack!r} in {aws.region} to take them from",
            why="jobs need an execution role and a bucket",
            fix=f"gpuplan infra deploy --region {aws.region}    or give {missing}",
        )
    filled = {"role_arn": aws.role_arn or found.role_arn, "bucket": aws.bucket or found.bucket}
    return aws.model_copy(update=filled)


def owner_account(aws: Aws) -> str | None:
    """Return the account that the role belongs to, whose bucket it must be."""
    return aws.role_arn.split(":")[4] if aws.role_arn else None


def identified(aws: Aws) -> Identity:
    """Return who AWS says we are, in the account that the role belongs to.

    Raises:
        CredentialsError: AWS does not know us, or we are in another account than the role.
    """
    caller = session(aws).identity()
    owner = owner_account(aws) or caller.account
    if owner != caller.account:
        raise CredentialsError(
            f"the credentials are of account {caller.account}, the plan's role is of {owner}",
            why=f"caller {caller.arn}",
            fix="--profile NAME of that account, or plan again here",
        )
    return caller
