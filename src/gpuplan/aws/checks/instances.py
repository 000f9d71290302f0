"""Whether the instances can be had: SageMaker's quotas, EC2's offerings, the lifecycle that their profile states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.aws import offerings, quotas
from gpuplan.aws.checks.base import Check, Status
from gpuplan.core.errors import ExitCode, GpuplanError
from gpuplan.profiles.hardware import SAGEMAKER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpuplan.aws.checks.base import InstanceNeed
    from gpuplan.aws.session import Session
    from gpuplan.profiles.schema import Lifecycle

_MOST_REGIONS = 6


def quota(session: Session, needs: Iterable[InstanceNeed]) -> Iterator[Check]:
    """Yield for each type whether the account may run as many as a step needs; steps follow one another."""
    wanted: dict[str, int] = {}
    for need in needs:
        name = quotas.training_quota_name(need.instance_type, spot=need.spot)
        wanted[name] = max(need.count, wanted.get(name, 0))
    found = quotas.training_quotas(session, wanted)
    for name, count in wanted.items():
        yield _quota(session, name, count, found.get(name))


def _quota(session: Session, name: str, count: int, found: quotas.ServiceQuota | None) -> Check:
    if found is None:
        said = f"{name}: no such quota in {session.region}, so SageMaker does not train on it there"
        return Check("quota", Status.ERROR, said, "gpuplan profiles list    or another --region", ExitCode.CAPACITY)
    code = f"{found.code}, AWS's default" if found.default else found.code
    said = f"{name}: {found.value:g}, this run needs {count} (quota {code})"
    if found.value >= count:
        return Check("quota", Status.OK, said)
    fix = quotas.increase_command(found, count, session) if found.adjustable else "ask AWS Support for an increase"
    return Check("quota", Status.ERROR, said, fix, ExitCode.CAPACITY)


def offering(session: Session, needs: Iterable[InstanceNeed]) -> Iterator[Check]:
    """Yield for each type whether EC2 offers it in the region and, where not, where it does."""
    types = list(dict.fromkeys(need.instance_type.removeprefix(SAGEMAKER_PREFIX) for need in needs))
    here = offerings.zones(session, types)
    missing = [instance_type for instance_type, zones in here.items() if not zones]
    elsewhere = _elsewhere(session, missing) if missing else {}
    for instance_type, zones in here.items():
        if zones:
            yield Check("offering", Status.OK, f"{instance_type} in {', '.join(zones)}")
        else:
            yield _not_offered(session, instance_type, elsewhere)


def _elsewhere(session: Session, missing: list[str]) -> dict[str, list[str]] | str:
    """Return the regions that offer what this one does not, or why they are not known: that changes no finding."""
    try:
        return offerings.regions(session, missing)
    except GpuplanError as error:
        return error.what


def _not_offered(session: Session, instance_type: str, elsewhere: dict[str, list[str]] | str) -> Check:
    said, fix = f"{instance_type} is not offered in {session.region}", "gpuplan profiles list"
    if isinstance(elsewhere, str):
        said += f"; where else is not known: {elsewhere}"
    elif not (regions := elsewhere[instance_type]):
        said += ", nor in the account's other regions"
    else:
        more = f" and {len(regions) - _MOST_REGIONS} more" if len(regions) > _MOST_REGIONS else ""
        said += f"; it is in {', '.join(regions[:_MOST_REGIONS])}{more}"
        fix = f"add --region {regions[0]}"
    return Check("offering", Status.ERROR, said, fix, ExitCode.CAPACITY)


def lifecycle(state: Lifecycle) -> Check:
    """Return whether AWS still has the instance, as its profile states with a date."""
    said = f"{state.state} (as of {state.as_of})" if state.as_of else state.state
    note = f": {state.note}" if state.note else ""
    instead = f"gpuplan plan --instance {state.substitutes[0]}" if state.substitutes else ""
    if state.state == "retired":
        return Check("lifecycle", Status.ERROR, f"{said}{note}", instead, ExitCode.PLAN_REFUSED)
    if state.state == "previous-generation":
        return Check("lifecycle", Status.WARNING, f"{said}{note}", instead)
    return Check("lifecycle", Status.OK, f"{said}{note}")
