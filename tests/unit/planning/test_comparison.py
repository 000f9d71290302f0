"""Rows are plans: in order of cost, the best of what may be launched marked, what cannot be compared last, with why."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.cli.options import Given
from gpuplan.cli.planning import built, gather, instances, over_defaults, plan_from, resolve_profile, said, settled
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.comparison import Row, compare
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Cost
from gpuplan.planning.placement import service
from gpuplan.planning.speed.throughput import Hours
from gpuplan.profiles.hardware import QUOTA_NAMES

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan

IMAGENET: dict[str, object] = {"workload.model": "resnet50", "workload.data": "imagenet", "workload.epochs": 90}
LARGE: dict[str, object] = {"workload.model": "vit_b_16", "workload.data": "imagenet", "workload.per_gpu_batch": 2048}
LAST = {"unknown", "does_not_fit", "cannot"}


def one(instance: str, values: dict[str, object]) -> PlanInputs:
    """Return what the row of an instance is a function of."""
    backend = {} if instance == "local" else {"launch.backend": "sagemaker"}
    wanted: dict[str, object] = {**backend, **values, "launch.instance": instance}
    profile = resolve_profile(instance)
    return gather(settled(over_defaults(said(Given(wanted, dict.fromkeys(wanted, "a test"), None)), profile)), profile)


def inputs(values: dict[str, object], *more: str) -> list[PlanInputs]:
    return [one(name, values) for name in (*(profile.name for profile in instances()), *more)]


def rows(values: dict[str, object], *more: str) -> dict[str, Row]:
    """Return the rows by instance, in their order."""
    return {row.instance: row for row in compare(inputs(values, *more), built)}


@cache
def usual() -> tuple[Row, ...]:
    return tuple(rows(IMAGENET).values())


@cache
def priced(name: str) -> tuple[PlanInputs, LaunchPlan]:
    made = one(name, IMAGENET)
    return made, built(made)


@pytest.mark.parametrize("row", usual(), ids=lambda row: row.instance)
def test_a_row_is_what_plan_says_of_the_instance(row: Row) -> None:
    given: dict[str, object] = {**IMAGENET, "launch.instance": row.instance}
    plan = plan_from(Given(given, dict.fromkeys(given, "a test"), None)).plan
    assert row.plan_id == plan.plan_id
    assert (row.cost_usd, row.time_hours) == (plan.total.cost_usd, plan.total.time_hours)
    train = plan.step("train")
    assert train is not None
    assert (row.batch, row.memory) == (train.batch, train.memory)


def test_rows_stand_in_order_of_cost() -> None:
    costs = [row.cost_usd.p50 for row in usual() if isinstance(row.cost_usd, Cost)]
    assert costs == sorted(costs)
    assert len(costs) == len(usual())


def test_the_best_by_price_and_by_time_are_marked_and_a_retired_one_never_is() -> None:
    marked = {what: row for row in usual() for what in row.best}
    assert marked["price"].instance == usual()[0].instance
    times = {row.instance: row.time_hours.p50 for row in usual() if isinstance(row.time_hours, Hours)}
    assert times[marked["time"].instance] == min(times.values())
    retired = next(row for row in usual() if row.instance == "p3.16xlarge")
    assert (retired.status, retired.lifecycle, retired.best) == ("retired", "retired", ())
    assert retired.reason


prices = st.integers(1, 500).map(Decimal)
columns = st.fixed_dictionaries(
    {
        name: st.tuples(prices, st.floats(0.1, 99))
        for name in ("g5.12xlarge", "g6.12xlarge", "p3.16xlarge", "p4d.24xlarge")
    }
)


@given(figures=columns, budget=st.none() | prices)
def test_the_best_by_price_costs_least_among_what_may_be_launched(
    figures: dict[str, tuple[Decimal, float]], budget: Decimal | None
) -> None:
    plans: dict[str, LaunchPlan] = {}
    made = []
    for name, (dollars, hours) in figures.items():
        what, plan = priced(name)
        cost = plan.total.cost_usd
        assert not isinstance(cost, Unknown)
        total = plan.total.model_copy(
            update={
                "cost_usd": cost.model_copy(update={"p50": dollars, "p90": 2 * dollars}),
                "time_hours": Hours(p50=hours, p90=2 * hours),
            }
        )
        plans[name] = plan.model_copy(update={"total": total})
        launch = what.settings.launch.model_copy(update={"max_cost": budget})
        made.append(replace(what, settings=what.settings.model_copy(update={"launch": launch})))
    found = compare(made, lambda wanted: plans[wanted.profile.name])
    may = {
        name
        for name, (dollars, _) in figures.items()
        if name != "p3.16xlarge" and (budget is None or 2 * dollars <= budget)
    }
    for mark, index in (("price", 0), ("time", 1)):
        best = {row.instance for row in found if mark in row.best}
        assert best <= may
        assert bool(best) == bool(may)
        assert all(figures[name][index] == min(figures[other][index] for other in may) for name in best)


def test_a_batch_that_does_not_fit_becomes_the_largest_that_does() -> None:
    cards = ("g4dn.12xlarge", "g5.12xlarge", "p4d.24xlarge", "p5.48xlarge")
    for row in compare([one(name, LARGE) for name in cards], built):
        name = row.instance
        assert row.wanted_per_gpu_batch == 2048
        assert not isinstance(row.batch, Unknown)
        assert not isinstance(row.memory, Unknown)
        assert row.batch.per_gpu < 2048
        assert (row.status, row.memory.verdict) == ("ok", "fits")
        assert row.memory.peak_gib <= row.memory.capacity_gib
        again = built(one(name, LARGE | {"workload.per_gpu_batch": row.batch.per_gpu}))
        assert row.plan_id == again.plan_id, "what the row says can be planned"
        train = built(one(name, LARGE | {"workload.per_gpu_batch": row.batch.per_gpu + 1})).step("train")
        assert train is not None
        assert isinstance(train.memory, MemoryEstimate)
        one_more_fits = train.memory.verdict == "fits" and train.memory.peak_gib <= train.memory.capacity_gib
        assert not one_more_fits or name == "p5.48xlarge", "or lr-find has no larger GPU"


def test_each_gpu_computes_in_its_best_precision_and_one_without_bf16_cannot_if_that_is_forced() -> None:
    assert {row.instance: row.precision for row in usual()}["g4dn.12xlarge"] == "16-mixed"
    forced = rows(IMAGENET | {"workload.precision": "bf16-mixed"})
    for name in ("g4dn.12xlarge", "p3.16xlarge", "p3dn.24xlarge"):
        assert forced[name].status == "cannot"
        assert "no bf16" in forced[name].reason
        assert isinstance(forced[name].cost_usd, Unknown)
    assert forced["g5.12xlarge"].status == "ok"
    assert list(forced)[-3:] == ["g4dn.12xlarge", "p3.16xlarge", "p3dn.24xlarge"]


def test_what_has_no_price_stands_last_with_why_and_is_never_the_best() -> None:
    found = rows(IMAGENET | {"aws.region": "eu-west-1"})
    unknown = [row for row in found.values() if row.status == "unknown"]
    assert unknown
    for row in unknown:
        assert "no sagemaker price" in row.reason
        assert row.best == ()
        assert not isinstance(row.time_hours, Unknown), "time needs no price"
    statuses = [row.status in LAST for row in found.values()]
    assert statuses == sorted(statuses)


def test_what_passes_the_budget_is_shown_and_not_the_best() -> None:
    found = rows(IMAGENET | {"launch.max_cost": Decimal(200)})
    over = {name for name, row in found.items() if row.status == "over_budget"}
    assert over
    assert not any(found[name].best for name in over)
    assert "p4d.24xlarge" not in over


def test_a_row_that_cannot_be_planned_says_why_and_the_others_stand() -> None:
    found = rows(IMAGENET | {"launch.world_size": 8})
    assert "more than the 4 GPUs" in found["g5.12xlarge"].reason
    assert (found["g5.12xlarge"].status, found["p4d.24xlarge"].status) == ("cannot", "ok")


def test_what_holds_for_every_row_is_an_error() -> None:
    with pytest.raises(UsageError, match="--pipeline train needs a learning rate"):
        rows({"launch.pipeline": "train"})


def test_this_machine_costs_nothing_and_is_no_bargain_of_aws() -> None:
    found = rows({"workload.epochs": 2}, "local")
    assert (found["local"].billed, found["local"].best, found["local"].status) == (False, (), "ok")
    assert any("price" in row.best for row in found.values())
    assert isinstance(found["local"].images_per_usd, Unknown)


def test_dollars_an_epoch_and_images_a_dollar_follow_from_the_cost() -> None:
    for row in usual():
        assert isinstance(row.cost_usd, Cost)
        assert isinstance(row.usd_per_epoch, Decimal)
        assert isinstance(row.images_per_usd, int)
        assert row.usd_per_epoch * 90 == pytest.approx(row.cost_usd.p50)
        assert row.images_per_usd == int(90 * 1_281_167 / row.cost_usd.p50)
    nothing_trained = rows(IMAGENET | {"launch.pipeline": "lr"})["g5.12xlarge"]
    assert isinstance(nothing_trained.usd_per_epoch, Unknown)


def test_every_quota_has_its_code_and_its_name() -> None:
    for spot in (False, True):
        for row in rows(IMAGENET | {"launch.spot": spot}).values():
            assert row.ec2_quota in QUOTA_NAMES
            assert ("Spot" in QUOTA_NAMES[row.ec2_quota or ""]) == spot


def test_a_comparison_is_of_what_aws_bills() -> None:
    assert all(service(made) == "sagemaker" for made in inputs(IMAGENET))
