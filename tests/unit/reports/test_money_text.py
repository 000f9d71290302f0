"""The money lines of a plan: every price with its age, amounts where they count, what is not counted by name."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli.planning import build
from gpuplan.core.frozen import Unknown
from gpuplan.planning.money.cost import beside_instance
from gpuplan.profiles.prices import LIVE_SOURCE, LivePrices, Price
from gpuplan.reports.layout import Table
from gpuplan.reports.money_text import OLD_DAYS, beside, cost_text, money_facts
from gpuplan.reports.plan_text import plan_text

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan

TODAY = date(2026, 11, 22)
G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
IMAGENET = G5 | {"workload.data": "imagenet", "workload.model": "resnet50", "workload.epochs": 90}


def facts(plan: LaunchPlan, today: date = TODAY) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for label, value in money_facts(plan, today):
        values.setdefault(label, []).append(value)
    return values


def test_prices_say_where_and_how_old_they_are(make_plan: MakePlan) -> None:
    known, undated = facts(make_plan(G5))["prices"]
    assert known.startswith("ml.g5.xlarge $1.41/h in us-east-1 (2026-08-17, 97 days old")
    assert undated.startswith("ml.g5.12xlarge $7.09/h in us-east-1 (undated")


@pytest.mark.parametrize(("days", "old"), [(0, False), (1, False), (OLD_DAYS, False), (OLD_DAYS + 1, True)])
def test_a_price_says_how_to_refresh_it_once_it_is_old(make_plan: MakePlan, days: int, *, old: bool) -> None:
    today = date.fromordinal(date(2026, 8, 17).toordinal() + days)
    line = facts(make_plan(G5), today)["prices"][0]
    assert f"{days} day{'' if days == 1 else 's'} old" in line
    assert ("--live-prices refreshes" in line) == old


def test_a_price_without_a_date_is_old(make_plan: MakePlan) -> None:
    assert facts(make_plan(G5))["prices"][1].endswith("(undated; --live-prices refreshes)")


def test_a_price_that_was_derived_says_so(make_plan: MakePlan) -> None:
    assert all("derived from EC2's" in line for line in facts(make_plan(G5 | {"aws.region": "eu-west-1"}))["prices"])


def test_a_live_price_says_so_with_its_day(make_plan: MakePlan) -> None:
    row = Price(
        service="sagemaker",
        instance_type="g5.12xlarge",
        region="us-east-1",
        usd_per_hour=Decimal("7.5"),
        as_of=date(2026, 11, 21),
        source=LIVE_SOURCE,
    )
    live = LivePrices(
        fetched_at=datetime(2026, 11, 21, tzinfo=UTC),
        region="us-east-1",
        instance_types=("g5.12xlarge",),
        prices=(row,),
    )
    plan = build(make_plan(G5).provenance.settings, live_prices=live)
    assert facts(plan)["prices"][1] == "ml.g5.12xlarge $7.50/h in us-east-1 (2026-11-21, 1 day old, live)"


def test_this_machine_costs_nothing_and_says_so(make_plan: MakePlan) -> None:
    assert facts(make_plan()) == {"prices": ["none: this machine costs nothing here"]}


def test_what_is_charged_beside_the_instances_has_a_row_where_it_shows_in_cents(make_plan: MakePlan) -> None:
    for values, shown in ((G5, False), (IMAGENET, True)):
        plan = make_plan(values)
        [table] = [block for block in plan_text(plan, TODAY) if isinstance(block, Table)]
        rows = {row[0]: row[-1] for row in table.rows}
        known, _ = beside_instance(charge for step in plan.steps for charge in step.charges)
        assert ("charges" in rows) == (beside(plan) is not None) == shown
        assert rows.get("charges", cost_text(known)) == cost_text(known)


def test_charges_name_what_is_in_the_total_what_is_not_and_the_age_of_their_prices(make_plan: MakePlan) -> None:
    [line] = facts(make_plan(IMAGENET))["charges"]
    inside, _, outside = line.partition("; not in it: ")
    assert inside.startswith("in the total: $2.35 ($4.56) for billed start-up, S3 reads $0.56")
    assert "S3 storage $0.64 a month" in outside
    assert "data transfer, tax" in outside
    assert "(prices of 2025-10-28, 390 days old)" in outside


def test_a_charge_without_a_price_is_named_as_not_counted_with_the_reason(make_plan: MakePlan) -> None:
    plan = make_plan(IMAGENET | {"aws.region": "us-west-2"})
    line = facts(plan)["charges"][-1]
    assert line.startswith("unknown, not in the total: S3 reads, S3 writes, logs")
    assert "us-west-2" in line
    assert not isinstance(plan.total.cost_usd, Unknown)


def test_elsewhere_compares_and_says_that_nothing_runs_there(make_plan: MakePlan) -> None:
    [line] = facts(make_plan(IMAGENET))["elsewhere"]
    assert "EC2 on demand $98.66" in line
    assert "at $5.67/h (2026-07-20, 125 days old)" in line
    assert "at $2.18/h (sampled 2025-09..2026-05, it moves)" in line
    assert "SageMaker spot unknown (its discount is not published)" in line
    assert line.endswith("this version has no EC2 backend")
    assert "SageMaker on demand" not in line, "that is the plan itself"


def test_a_range_test_alone_is_compared_with_nothing(make_plan: MakePlan) -> None:
    assert "elsewhere" not in facts(make_plan(G5 | {"launch.pipeline": "lr"}))
