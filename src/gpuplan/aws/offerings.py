"""Where EC2 offers an instance type: availability zones of the session's region, and other regions of the account.

Called by the checks before a launch and by the doctor. SageMaker has no such list of its own; what EC2 does not offer
in a region, SageMaker does not have there either. Read-only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gpuplan.aws.errors import part
from gpuplan.core.errors import GpuplanError

if TYPE_CHECKING:
    from collections.abc import Collection

    from gpuplan.aws.session import Session

_AT_ONCE = 8


def zones(session: Session, instance_types: Collection[str]) -> dict[str, list[str]]:
    """Return the availability zones that offer each type (EC2's names, without `ml.`), sorted; none: an empty list.

    Raises:
        AccessDeniedError: `ec2:DescribeInstanceTypeOfferings` is not allowed.
        GpuplanError: as `errors.calling`.
    """
    found: dict[str, list[str]] = {instance_type: [] for instance_type in instance_types}
    if not found:
        return found
    with session.calling(f"list what EC2 offers in {session.region}"):
        pages = session.client("ec2").get_paginator("describe_instance_type_offerings")
        wanted = [{"Name": "instance-type", "Values": sorted(found)}]
        for page in pages.paginate(LocationType="availability-zone", Filters=wanted):
            for offering in part(page, "InstanceTypeOfferings"):
                found[offering["InstanceType"]].append(offering["Location"])
    return {instance_type: sorted(locations) for instance_type, locations in found.items()}


def regions(session: Session, instance_types: Collection[str]) -> dict[str, list[str]]:
    """Return the other regions enabled for the account that offer each type; a region that does not answer is left out.

    Raises:
        AccessDeniedError: `ec2:DescribeRegions` is not allowed.
        GpuplanError: as `errors.calling`.
    """
    with session.calling("list the account's regions"):
        reply = session.client("ec2").describe_regions()
    others = sorted({region["RegionName"] for region in part(reply, "Regions")} - {session.region})
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        offered = list(pool.map(lambda region: _offered(session.in_region(region), instance_types), others))
    return {
        instance_type: [region for region, there in zip(others, offered, strict=True) if instance_type in there]
        for instance_type in instance_types
    }


def _offered(session: Session, instance_types: Collection[str]) -> set[str]:
    try:
        return {instance_type for instance_type, there in zones(session, instance_types).items() if there}
    except GpuplanError:
        return set()
