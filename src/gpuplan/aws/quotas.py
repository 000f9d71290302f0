"""SageMaker's quotas for training instances, one for each type and purchase option, found by their name.

Called by the checks before a launch and by the doctor. Read-only: it asks for no increase, it says the command that
does.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.aws.errors import part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from gpuplan.aws.session import Session

_SERVICE = "sagemaker"
_PAGE_SIZE = 100


@dataclass(frozen=True)
class ServiceQuota:
    """One quota as the account has it."""

    name: str
    code: str
    value: float
    """Instances at the same time."""
    adjustable: bool
    default: bool
    """Whether this is AWS's default, because nothing else was ever set for the account."""


def training_quota_name(instance_type: str, *, spot: bool) -> str:
    """Return what AWS calls the quota of training on an `ml.` instance type."""
    return f"{instance_type} for {'spot ' if spot else ''}training job usage"


def training_quotas(session: Session, names: Collection[str]) -> dict[str, ServiceQuota]:
    """Return the quotas of these names in the session's region; a name that is absent does not exist there.

    What was set for the account counts, then AWS's default. Pages are read until every name is found.

    Raises:
        AccessDeniedError: `servicequotas:ListServiceQuotas` or `ListAWSDefaultServiceQuotas` is not allowed.
        GpuplanError: as `errors.calling`.
    """
    found: dict[str, ServiceQuota] = {}
    for operation in ("list_service_quotas", "list_aws_default_service_quotas"):
        missing = set(names) - set(found)
        if not missing:
            break
        for entry in _listed(session, operation):
            name = entry.get("QuotaName")
            if name in missing and "Value" in entry:  # without one, AWS says in ErrorReason that it could not read it
                found[name] = _quota(entry, default=operation != "list_service_quotas")
                missing.discard(name)
                if not missing:
                    break
    return found


def increase_command(quota: ServiceQuota, needed: int, session: Session) -> str:
    """Return the AWS CLI command that asks for a quota large enough."""
    profile = f" --profile {shlex.quote(session.profile)}" if session.profile else ""
    return (
        f"aws service-quotas request-service-quota-increase --service-code {_SERVICE} --quota-code {quota.code} "
        f"--desired-value {needed} --region {session.region}{profile}"
    )


def _listed(session: Session, operation: str) -> Iterator[dict[str, Any]]:
    with session.calling(f"list SageMaker's quotas in {session.region}"):
        pages = session.client("service-quotas").get_paginator(operation)
        for page in pages.paginate(ServiceCode=_SERVICE, PaginationConfig={"PageSize": _PAGE_SIZE}):
            yield from part(page, "Quotas")


def _quota(entry: dict[str, Any], *, default: bool) -> ServiceQuota:
    return ServiceQuota(
        name=entry["QuotaName"],
        code=entry["QuotaCode"],
        value=float(entry["Value"]),
        adjustable=bool(entry.get("Adjustable", True)),
        default=default,
    )
