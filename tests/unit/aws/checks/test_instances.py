from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Literal

import pytest

from gpuplan.aws.checks.base import InstanceNeed, Status, guarded
from gpuplan.aws.checks.instances import lifecycle, offering, quota
from gpuplan.core.errors import ExitCode
from gpuplan.profiles.schema import Lifecycle

if TYPE_CHECKING:
    from unit.aws.checks.conftest import StubbedSession

FINDER = InstanceNeed("ml.g5.xlarge", 1, spot=False, compute_capability="8.6")
TRAINER = InstanceNeed("ml.g5.12xlarge", 2, spot=True, compute_capability="8.6")


def allow(session: StubbedSession, **values: float) -> None:
    """Queue the account's quotas: `xlarge` for the finder, `spot` for the trainer."""
    names = {"xlarge": "ml.g5.xlarge for training job usage", "spot": "ml.g5.12xlarge for spot training job usage"}
    rows = [
        {"QuotaName": names[key], "QuotaCode": f"L-0000000{len(key)}", "Value": value, "Adjustable": True}
        for key, value in values.items()
    ]
    session.stub("service-quotas").add_response("list_service_quotas", {"Quotas": rows})
    if len(values) < len(names):
        session.stub("service-quotas").add_response("list_aws_default_service_quotas", {"Quotas": []})


def test_quotas_that_suffice_are_fine_and_shown(stubbed: StubbedSession) -> None:
    allow(stubbed, xlarge=1, spot=2)
    finder, trainer = quota(stubbed, [FINDER, TRAINER])
    assert (finder.status, trainer.status) == (Status.OK, Status.OK)
    assert trainer.message == "ml.g5.12xlarge for spot training job usage: 2, this run needs 2 (quota L-00000004)"


def test_a_quota_that_is_too_small_names_code_need_have_and_the_command(stubbed: StubbedSession) -> None:
    allow(stubbed, xlarge=1, spot=1)
    _, trainer = quota(stubbed, [FINDER, TRAINER])
    assert (trainer.status, trainer.exit_code) == (Status.ERROR, ExitCode.CAPACITY)
    assert trainer.message == "ml.g5.12xlarge for spot training job usage: 1, this run needs 2 (quota L-00000004)"
    assert "--quota-code L-00000004 --desired-value 2 --region us-east-1" in trainer.fix


def test_a_type_without_a_quota_is_not_trained_on_there(stubbed: StubbedSession) -> None:
    allow(stubbed, xlarge=1)
    _, trainer = quota(stubbed, [FINDER, TRAINER])
    assert (trainer.status, trainer.exit_code) == (Status.ERROR, ExitCode.CAPACITY)
    assert "no such quota in us-east-1" in trainer.message


def test_steps_on_one_type_follow_one_another_so_the_larger_need_counts(stubbed: StubbedSession) -> None:
    allow(stubbed, xlarge=3, spot=0)
    again = InstanceNeed("ml.g5.xlarge", 3, spot=False, compute_capability="8.6")
    found = list(quota(stubbed, [FINDER, again, TRAINER]))
    assert [check.status for check in found] == [Status.OK, Status.ERROR]


def test_a_denied_look_at_quotas_is_unknown_and_no_error(stubbed: StubbedSession) -> None:
    stubbed.denied("service-quotas", "list_service_quotas", "servicequotas:ListServiceQuotas")
    [found] = guarded("quota", lambda: quota(stubbed, [FINDER]))
    assert (found.status, found.exit_code) == (Status.UNKNOWN, ExitCode.OK)
    assert "servicequotas:ListServiceQuotas not allowed" in found.message


def offer(session: StubbedSession, **zones: list[str]) -> None:
    """Queue what EC2 offers in the session's region: zones by `size`, of g5."""
    rows = [
        {"InstanceType": f"g5.{size}", "LocationType": "availability-zone", "Location": zone}
        for size, names in zones.items()
        for zone in names
    ]
    session.stub("ec2").add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": rows})


def regions(session: StubbedSession, *names: str) -> None:
    """Queue the account's regions."""
    rows = [{"RegionName": name} for name in names]
    session.stub("ec2").add_response("describe_regions", {"Regions": rows})


def test_a_type_that_is_offered_shows_its_zones(stubbed: StubbedSession) -> None:
    offer(stubbed, xlarge=["us-east-1a", "us-east-1c"])
    [found] = offering(stubbed, [FINDER, FINDER])
    assert (found.status, found.message) == (Status.OK, "g5.xlarge in us-east-1a, us-east-1c")


def test_a_type_that_is_not_offered_says_where_it_is(stubbed: StubbedSession) -> None:
    names = [f"eu-north-{number}" for number in range(1, 9)]
    offer(stubbed)
    regions(stubbed, "us-east-1", *names)
    for name in names:
        offer(stubbed.in_region(name), xlarge=[f"{name}a"])
    [found] = offering(stubbed, [FINDER])
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.CAPACITY)
    assert found.message.startswith("g5.xlarge is not offered in us-east-1; it is in eu-north-1, eu-north-2, ")
    assert found.message.endswith("eu-north-6 and 2 more")
    assert found.fix == "add --region eu-north-1"


def test_a_type_that_is_nowhere_is_an_error_without_a_region_to_go_to(stubbed: StubbedSession) -> None:
    offer(stubbed)
    regions(stubbed, "us-east-1")
    [found] = offering(stubbed, [FINDER])
    assert (found.status, found.fix) == (Status.ERROR, "gpuplan profiles list")


def test_a_type_that_is_not_offered_is_an_error_though_other_regions_may_not_be_listed(stubbed: StubbedSession) -> None:
    offer(stubbed)
    stubbed.denied("ec2", "describe_regions", "ec2:DescribeRegions")
    [found] = guarded("offering", lambda: offering(stubbed, [FINDER]))
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.CAPACITY)
    assert "where else is not known" in found.message


@pytest.mark.parametrize(
    ("state", "status", "exit_code"),
    [
        ("current", Status.OK, ExitCode.OK),
        ("previous-generation", Status.WARNING, ExitCode.OK),
        ("retired", Status.ERROR, ExitCode.PLAN_REFUSED),
    ],
)
def test_the_lifecycle_of_the_profile_is_judged(
    state: Literal["current", "previous-generation", "retired"], status: Status, exit_code: ExitCode
) -> None:
    found = lifecycle(Lifecycle(state=state, as_of=date(2026, 10, 27), note="so it is.", substitutes=("p4d.24xlarge",)))
    assert (found.status, found.exit_code) == (status, exit_code)
    assert found.message == f"{state} (as of 2026-10-27): so it is."
    assert bool(found.fix) is (status is not Status.OK)
