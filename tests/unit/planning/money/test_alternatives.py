"""The training's instances bought otherwise: side by side on one basis, and spot with what interruptions cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.money.alternatives import interrupted
from gpuplan.planning.money.cost import Alternative, Cost, Rate
from gpuplan.planning.money.interruptions import HOURLY_SHARE, INTERRUPTIONS_PER_HOUR, MONTHLY_SHARE
from gpuplan.planning.speed.throughput import Hours

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan

G5: dict[str, object] = {
    "launch.instance": "g5",
    "launch.backend": "sagemaker",
    "workload.data": "imagenet",
    "workload.model": "resnet50",
    "workload.epochs": 90,
}
HOURS = st.floats(0.01, 1e4)
RATES = st.floats(0, 1)
LOST = st.floats(0, 10)


def alternatives(plan: LaunchPlan) -> dict[tuple[str, str], Alternative]:
    step = plan.step("train")
    assert step is not None
    return {(one.service, one.purchase): one for one in step.alternatives}


def test_both_services_and_both_purchases_are_compared(make_plan: MakePlan) -> None:
    expected = {(service, purchase) for service in ("sagemaker", "ec2") for purchase in ("on-demand", "spot")}
    assert set(alternatives(make_plan(G5))) == expected


def test_what_is_planned_costs_in_the_comparison_what_it_costs_in_the_plan(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"launch.nodes": 2})
    step = plan.step("train")
    assert step is not None
    planned = alternatives(plan)["sagemaker", "on-demand"]
    assert (planned.cost_usd, planned.rate_usd_per_hour) == (step.cost_usd, step.rate_usd_per_hour)


def test_sagemakers_spot_price_is_unknown_not_derived(make_plan: MakePlan) -> None:
    spot = alternatives(make_plan(G5))["sagemaker", "spot"]
    assert isinstance(spot.rate_usd_per_hour, Unknown)
    assert isinstance(spot.cost_usd, Unknown)


def test_a_spot_sample_without_a_day_says_its_window_and_claims_no_day(make_plan: MakePlan) -> None:
    spot = alternatives(make_plan(G5))["ec2", "spot"]
    assert isinstance(spot.rate_usd_per_hour, Rate)
    assert spot.rate_usd_per_hour.as_of is None
    assert (str(spot.sampled_from), str(spot.sampled_to)) == ("2025-09-01", "2026-05-25")


@pytest.mark.parametrize("values", [G5, G5 | {"launch.nodes": 4}], ids=["one", "four"])
def test_spot_costs_its_hours_and_what_interruptions_undo(make_plan: MakePlan, values: dict[str, object]) -> None:
    plan = make_plan(values)
    step = plan.step("train")
    spot = alternatives(plan)["ec2", "spot"]
    assert step is not None
    assert isinstance(step.time_hours, Hours)
    assert isinstance(spot.cost_usd, Cost)
    assert spot.interruptions is not None
    for band, usd, per_hour, minutes in (
        ("p50", 2.1824, INTERRUPTIONS_PER_HOUR[0], step.startup_minutes[0]),
        ("p90", 2.7804, INTERRUPTIONS_PER_HOUR[1], step.startup_minutes[1]),
    ):
        hours = getattr(step.time_hours, band)
        # Between two saves lie 180 s on one instance, sqrt(2 x 0.41 s x 9.5 h); an epoch takes longer.
        between_saves = (2 * 0.40934 * 3600 / INTERRUPTIONS_PER_HOUR[1] / step.instances) ** 0.5 / 3600
        lost = between_saves / 2 + minutes / 60
        total = hours / (1 - per_hour * step.instances * lost)
        assert float(getattr(spot.cost_usd, band)) == pytest.approx(usd * step.instances * total)
        assert getattr(spot.interruptions, band) == pytest.approx(per_hour * step.instances * total)


def test_a_training_on_so_many_instances_that_it_never_gets_through_has_no_spot_cost(make_plan: MakePlan) -> None:
    slow = G5 | {"workload.data": "imagenet:s3://bucket/imagenet", "launch.nodes": 64}
    spot = alternatives(make_plan(slow))["ec2", "spot"]
    assert isinstance(spot.cost_usd, Unknown)
    assert "faster than it is done" in spot.cost_usd.unknown


def test_a_type_that_was_not_sampled_is_unknown(make_plan: MakePlan) -> None:
    spot = alternatives(make_plan(G5 | {"launch.instance": "g6"}))["ec2", "spot"]
    assert isinstance(spot.rate_usd_per_hour, Unknown)
    assert "g6.12xlarge" in spot.rate_usd_per_hour.unknown


def test_nothing_is_compared_where_aws_bills_nothing_and_for_a_range_test(make_plan: MakePlan) -> None:
    assert alternatives(make_plan(G5 | {"launch.backend": "fake"})) == {}
    finder = make_plan(G5).step("lr-find")
    assert finder is not None
    assert finder.alternatives == ()


def test_the_assumed_rates_are_those_of_the_stated_shares() -> None:
    assert 1 - math.exp(-INTERRUPTIONS_PER_HOUR[0] * 730) == pytest.approx(MONTHLY_SHARE)
    assert 1 - math.exp(-INTERRUPTIONS_PER_HOUR[1]) == pytest.approx(HOURLY_SHARE)


@given(HOURS, RATES, LOST)
def test_the_time_with_interruptions_solves_its_own_equation(hours: float, per_hour: float, lost: float) -> None:
    total = interrupted(hours, per_hour, lost)
    assert total >= hours
    if math.isfinite(total) and per_hour * lost < 0.999:
        assert total == pytest.approx(hours + per_hour * total * lost)


@given(HOURS, RATES, LOST, st.floats(1, 2))
def test_more_or_costlier_interruptions_never_take_less_time(
    hours: float, per_hour: float, lost: float, more: float
) -> None:
    assert interrupted(hours, per_hour * more, lost) >= interrupted(hours, per_hour, lost)
    assert interrupted(hours, per_hour, lost * more) >= interrupted(hours, per_hour, lost)


@given(HOURS, st.floats(0.001, 1))
def test_without_interruptions_nothing_is_lost(hours: float, lost: float) -> None:
    assert interrupted(hours, 0.0, lost) == hours
