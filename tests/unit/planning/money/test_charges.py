"""What AWS bills for a step, line by line: each follows from a stated quantity, and an unknown price hides no other."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.planning.money.cost import Charge, Cost, Rate, beside_instance

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan, StepPlan

G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker", "workload.workers": 2}
IMAGENET = G5 | {"workload.data": "imagenet", "workload.model": "resnet50", "workload.epochs": 10}
P3: dict[str, object] = {"launch.instance": "p3", "launch.backend": "sagemaker", "workload.workers": 2}
RESNET50 = 25_557_032
BUFFERS = 53_120 * 4 + 53 * 8
"""Bytes of its 53 BatchNorms: means, variances and a counter of each."""


def step(plan: LaunchPlan, name: str = "train") -> StepPlan:
    found = plan.step(name)
    assert found is not None
    return found


def lines(planned: StepPlan) -> dict[str, Charge]:
    return {charge.name: charge for charge in planned.charges}


def amount(charge: Charge) -> Cost:
    assert isinstance(charge.cost_usd, Cost), charge
    return charge.cost_usd


def test_the_instance_line_is_the_steps_cost_and_start_up_is_a_part_of_it(make_plan: MakePlan) -> None:
    for planned in make_plan(G5 | {"launch.nodes": 2}).steps:
        whole, start = lines(planned)["instance"], lines(planned)["start-up"]
        assert whole.cost_usd == planned.cost_usd
        assert start.part_of == "instance"
        assert isinstance(planned.rate_usd_per_hour, Rate)
        for band, minutes in zip(("p50", "p90"), planned.startup_minutes, strict=True):
            expected = float(planned.rate_usd_per_hour.amount) * planned.instances * minutes / 60
            assert float(getattr(amount(start), band)) == pytest.approx(expected)
            assert getattr(amount(start), band) < getattr(amount(whole), band)


def test_where_aws_bills_nothing_there_are_no_lines(make_plan: MakePlan) -> None:
    for backend in ("local", "fake"):
        assert all(planned.charges == () for planned in make_plan(G5 | {"launch.backend": backend}).steps)


def test_every_object_of_the_data_is_read_by_every_instance_of_a_training(make_plan: MakePlan) -> None:
    read = amount(lines(step(make_plan(IMAGENET | {"launch.nodes": 3})))["s3-reads"])
    assert read.p50 == read.p90 == Decimal("0.0004") * (1_281_167 + 50_000) * 3 / 1000


def test_a_range_test_reads_the_objects_that_it_opens_and_lists_them_all(make_plan: MakePlan) -> None:
    planned = step(make_plan(IMAGENET), "lr-find")
    assert planned.sweep is not None
    micro_batches = planned.sweep.runs * planned.sweep.iterations + planned.sweep.noise_micro_batches
    read = lines(planned)["s3-reads"]
    assert amount(read).p50 == Decimal("0.0004") * micro_batches * planned.batch.per_gpu / 1000
    assert "of 1,331,167" in read.how
    # 1,332 lists of 1,000 objects and 50 small files.
    assert amount(lines(planned)["s3-writes"]).p50 == Decimal("0.005") * (1332 + 50) / 1000


def test_data_that_are_no_files_on_s3_cost_no_reads(make_plan: MakePlan) -> None:
    assert all("s3-reads" not in lines(planned) for planned in make_plan(G5).steps)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "copies"), [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adamw", 0.9, 2)], ids=str
)
def test_a_checkpoint_is_the_weights_and_the_optimizers_copies(
    make_plan: MakePlan, optimizer: str, momentum: float, copies: int
) -> None:
    plan = make_plan(IMAGENET | {"workload.optimizer": optimizer, "workload.momentum": momentum})
    kept = lines(step(plan))["s3-storage"]
    gigabytes = Decimal(4 * RESNET50 * (1 + copies) + BUFFERS) / 10**9
    # One an epoch stays, and the best again for half of the epochs or for all; and two where an epoch is long.
    assert amount(kept).p50 == Decimal("0.023") * gigabytes * 15
    assert amount(kept).p90 == Decimal("0.023") * gigabytes * 22


def test_storage_is_billed_by_the_month_and_is_not_in_the_runs_sum(make_plan: MakePlan) -> None:
    planned = step(make_plan(IMAGENET))
    assert lines(planned)["s3-storage"].billed == "month"
    known, unknown = beside_instance(planned.charges)
    of_the_run = [charge for charge in planned.charges if charge.name in {"s3-reads", "s3-writes", "logs"}]
    assert known.p50 == sum(amount(charge).p50 for charge in of_the_run)
    assert not unknown


def test_a_range_test_leaves_no_checkpoint(make_plan: MakePlan) -> None:
    found = lines(step(make_plan(IMAGENET), "lr-find"))
    assert "s3-storage" not in found
    assert amount(found["s3-writes"]).p50 < amount(lines(step(make_plan(IMAGENET)))["s3-writes"]).p50


def test_more_epochs_write_more(make_plan: MakePlan) -> None:
    few, many = (step(make_plan(IMAGENET | {"workload.epochs": epochs})) for epochs in (2, 20))
    for name in ("s3-writes", "s3-storage", "logs"):
        assert amount(lines(few)[name]).p50 < amount(lines(many)[name]).p50


def test_an_instance_with_disks_of_its_own_is_billed_no_volume(make_plan: MakePlan) -> None:
    assert all("volume" not in lines(planned) for planned in make_plan(G5).steps)


def test_a_volume_whose_price_nobody_published_is_unknown_and_says_what_ec2_takes(make_plan: MakePlan) -> None:
    plan = make_plan(P3)
    volume = lines(step(plan))["volume"].cost_usd
    assert isinstance(volume, Unknown)
    assert "SageMaker's training volumes in us-east-1" in volume.unknown
    assert "0.08 USD/GB-month" in volume.unknown
    assert not isinstance(plan.total.cost_usd, Unknown), "an unknown small charge hides no total"


def test_a_volume_is_billed_by_the_hour_where_its_price_is_known(make_plan: MakePlan) -> None:
    planned = step(make_plan(P3 | {"aws.region": "eu-west-1"}))
    assert planned.limits is not None
    volume = amount(lines(planned)["volume"])
    for band in ("p50", "p90"):
        expected = 0.154 * planned.limits.volume_gb * getattr(planned.time_hours, band) / 730
        assert float(getattr(volume, band)) == pytest.approx(expected)


def test_a_region_without_small_prices_leaves_each_line_unknown_and_the_total_known(make_plan: MakePlan) -> None:
    plan = make_plan(IMAGENET | {"aws.region": "us-west-2"})
    for planned in plan.steps:
        known, unknown = beside_instance(planned.charges)
        assert known == Cost(p50=Decimal(0), p90=Decimal(0))
        assert [charge.name for charge in unknown] == ["s3-reads", "s3-writes", "logs"]
    assert not isinstance(plan.total.cost_usd, Unknown)


def test_a_model_that_cannot_be_traced_leaves_unknown_what_depends_on_its_size(make_plan: MakePlan) -> None:
    plan = make_plan(IMAGENET | {"workload.image_size": 1, "workload.model": "vgg16"})
    known = {charge.name for charge in step(plan).charges if isinstance(charge.cost_usd, Cost)}
    assert known == {"start-up", "s3-reads"}


def test_every_known_line_says_how_and_from_where(make_plan: MakePlan) -> None:
    for planned in make_plan(IMAGENET).steps:
        for charge in planned.charges:
            assert charge.how
            assert charge.source, charge.name
            assert charge.as_of is not None or "undated" in charge.source


def test_a_budget_keeps_room_for_the_known_charges(make_plan: MakePlan) -> None:
    budget = Decimal(300)
    plan = make_plan(IMAGENET | {"launch.max_cost": budget})
    total = plan.total.cost_usd
    assert not isinstance(total, Unknown)
    assert isinstance(total.worst_case, Decimal)
    beside, _ = beside_instance(charge for planned in plan.steps for charge in planned.charges)
    assert beside.p90 > Decimal("0.5")
    assert budget - Decimal("0.01") < total.worst_case + beside.p90 <= budget
