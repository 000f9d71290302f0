"""Where lr-find runs: the cheapest single GPU that holds batch, data and precision, or the training's own if near."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws import images
from gpuplan.cli.options import Given
from gpuplan.cli.planning import built, gather, over_defaults, resolve_profile, said, settled
from gpuplan.core.errors import PlanRefusedError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.finder import SAME_GPU_WORTH, Option, choose
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Cost, Rate
from gpuplan.planning.placement import place_finders, place_training
from gpuplan.planning.refuse import refuse
from gpuplan.planning.speed.throughput import Hours, TimeEstimate

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import FinderPlan, LaunchPlan

IMAGENET: dict[str, object] = {
    "launch.backend": "sagemaker",
    "workload.model": "resnet50",
    "workload.data": "imagenet",
    "workload.epochs": 90,
    "lr.iterations": 60,  # how long a range test is by itself is not what is looked at here
}
NO_TIME = Unknown(unknown="the model")


def inputs(values: dict[str, object] | None = None, instance: str = "g5") -> PlanInputs:
    """Return what a plan on SageMaker is a function of."""
    wanted: dict[str, object] = {"launch.instance": instance, "launch.backend": "sagemaker", **(values or {})}
    upper = said(Given(wanted, dict.fromkeys(wanted, "the test"), None))
    profile = resolve_profile(instance)
    return gather(settled(over_defaults(upper, profile)), profile)


G5 = inputs()
TRAINING = place_training(G5)
PLACES = {place.instance_type: place for place in place_finders(inputs({"workload.precision": "fp32"}))}


def estimate(verdict: str) -> MemoryEstimate:
    return MemoryEstimate.model_validate(
        {"peak_gib": 1.0, "capacity_gib": 2.0, "verdict": verdict, "items": (), "error_band": (1.0, 1.0)}
    )


def option(
    name: str, dollars: str | None = "0.10", verdict: str | None = "fits", *, disk: bool = True, priced: bool = True
) -> Option:
    """Return a machine on which the range test takes an hour at the price of the whole; None: not known."""
    rate = Rate(amount=Decimal(dollars or "1"), source="the test") if priced else Unknown(unknown="the price")
    hour = TimeEstimate(hours=Hours(p50=1.0, p90=2.0), samples_per_second=1.0, bound="compute", how="the test")
    return Option(
        place=replace(PLACES[f"ml.{name}"], rate=rate),
        memory=estimate(verdict) if verdict else NO_TIME,
        time=hour if dollars else NO_TIME,
        holds_data=disk,
    )


def chosen(*options: Option, training: str = "0") -> tuple[str, str]:
    """Return the instance type and the reason, for a training on A10Gs of so many dollars."""
    spent = Cost(p50=Decimal(training), p90=Decimal(training))
    found = choose(options, TRAINING, spent, asked=False)
    return found.place.instance_type.removeprefix("ml."), found.reason


def finder(plan: LaunchPlan) -> FinderPlan:
    assert plan.finder is not None
    return plan.finder


def test_the_whole_cost_decides_not_the_hourly_rate() -> None:
    slow = option("g6.xlarge", "0.20")
    slow = replace(slow, place=replace(slow.place, rate=Rate(amount=Decimal("0.05"), source="the test")))
    slow = replace(slow, time=slow.time.model_copy(update={"hours": Hours(p50=40.0, p90=80.0)}))
    assert chosen(slow, option("g6e.xlarge", "1.50"))[0] == "g6e.xlarge"


@pytest.mark.parametrize(
    ("own", "other", "training", "found"),
    [
        ("0.35", "0.10", "1", "g5.xlarge"),
        ("0.36", "0.10", "1", "g6.xlarge"),
        ("1.10", "0.10", "100", "g5.xlarge"),
        ("1.11", "0.10", "100", "g6.xlarge"),
        ("0.10", "0.20", "1", "g5.xlarge"),
    ],
)
def test_the_training_gpu_is_taken_if_it_costs_little_more_than_the_cheapest(
    own: str, other: str, training: str, found: str
) -> None:
    name, reason = chosen(option("g6.xlarge", other), option("g5.xlarge", own), training=training)
    assert name == found
    assert "training's own GPU" in reason


cents = st.integers(1, 500).map(lambda cent: str(Decimal(cent) / 100))


@given(costs=st.lists(cents, min_size=4, max_size=4), training=cents)
def test_no_choice_costs_more_than_the_training_gpu_is_worth(costs: list[str], training: str) -> None:
    names = ("g5.xlarge", "g6.xlarge", "g6e.xlarge", "p5.4xlarge")
    dollars = dict(zip(names, map(Decimal, costs), strict=True))
    found, _ = chosen(*(option(name, amount) for name, amount in zip(names, costs, strict=True)), training=training)
    least, share = SAME_GPU_WORTH
    cheapest = min(dollars.values())
    assert dollars[found] - cheapest <= (max(least, share * Decimal(training)) if found == "g5.xlarge" else 0)


def test_what_does_not_hold_batch_or_data_is_passed_over_and_said_of_the_training_gpu() -> None:
    dear = option("g6e.xlarge", "9")
    name, reason = chosen(option("g5.xlarge", verdict="too_big"), option("g4dn.xlarge", disk=False), dear)
    assert name == "g6e.xlarge"
    assert "g5.xlarge with the training's A10G has too little memory" in reason
    assert "too little disk for the data" in chosen(option("g5.xlarge", disk=False), dear)[1]
    assert "has no known price here" in chosen(option("g5.xlarge", priced=False), dear)[1]
    assert "no single-GPU instance on offer has the training's A10G" in chosen(dear)[1]


def test_where_none_fits_the_largest_is_planned_so_that_the_refusal_names_it() -> None:
    small, large = (option(name, verdict="too_big") for name in ("g5.xlarge", "p5.4xlarge"))
    assert chosen(small, large)[0] == "p5.4xlarge"


def test_an_unknown_speed_is_measured_on_the_training_gpu_else_the_rate_decides() -> None:
    own, other = option("g5.xlarge", None), option("g6.xlarge", None)
    assert chosen(other, own)[0] == "g5.xlarge"
    assert chosen(option("p5.4xlarge", None), other)[0] in {"g6.xlarge", "p5.4xlarge"}
    cheap = replace(other, place=replace(other.place, rate=Rate(amount=Decimal("0.5"), source="the test")))
    assert chosen(option("p5.4xlarge", None), cheap)[0] == "g6.xlarge"


def test_an_unknown_need_of_memory_gets_a_gpu_as_large_as_the_training_gpu() -> None:
    assert chosen(option("g4dn.xlarge", "0.01", None), option("g6.xlarge", "2", None))[0] == "g6.xlarge"


def test_a_price_that_is_not_known_is_never_the_cheapest() -> None:
    assert chosen(option("g6.xlarge", "0.01", priced=False), option("p5.4xlarge", "5"))[0] == "p5.4xlarge"
    nowhere = built(inputs({"aws.region": "nowhere-1"}, "p4d"))
    assert nowhere.steps[0].instance_type == "ml.g6e.xlarge"
    assert "no single-GPU instance has a known price" in finder(nowhere).reason
    assert isinstance(finder(nowhere).naive_cost_usd, Unknown)


@pytest.mark.parametrize(("instance", "times"), [("g5", 4), ("p3", 8), ("p4d", 10), ("p4de", 10), ("p5", 5)])
def test_one_gpu_costs_a_fraction_of_the_whole_instance(make_plan: MakePlan, instance: str, times: float) -> None:
    plan = make_plan({"launch.instance": instance, **IMAGENET})
    naive, here = finder(plan).naive_cost_usd, plan.steps[0].cost_usd
    assert isinstance(naive, Cost)
    assert isinstance(here, Cost)
    assert naive.p50 >= Decimal(times) * here.p50
    assert finder(plan).naive_instance_type == plan.steps[1].instance_type


@pytest.mark.parametrize("instance", ["g5", "p5"])
def test_a_measurement_that_carries_over_is_said_to(make_plan: MakePlan, instance: str) -> None:
    plan = make_plan({"launch.instance": instance, **IMAGENET})
    assert finder(plan).same_gpu
    assert plan.steps[1].measured_scale is not None
    assert not any(warning.code == "finder-gpu-differs" for warning in plan.warnings)


def test_on_another_gpu_nothing_but_the_learning_rate_carries_over(make_plan: MakePlan) -> None:
    plan = make_plan({"launch.instance": "p4d", **IMAGENET})
    assert not finder(plan).same_gpu
    assert plan.steps[1].measured_scale is None
    assert any(warning.code == "finder-gpu-differs" for warning in plan.warnings)
    assert plan.steps[0].compute_capability == "8.9", "the image must run on the finder's GPU"


def test_a_disk_too_small_for_the_data_is_no_obstacle_as_they_are_read_from_s3(make_plan: MakePlan) -> None:
    # 125 GB on a g4dn.xlarge, some 206 GB of images and room.
    plan = make_plan({"launch.instance": "g4dn", **IMAGENET, "workload.data": "imagenet:s3://bucket/imagenet"})
    assert plan.steps[0].instance_type == "ml.g4dn.xlarge"
    refuse(plan, None, allow_retired=False)


@pytest.mark.parametrize("instance", ["g4dn", "g5", "g6", "p3", "p3dn", "p4d", "p4de", "p5"])
def test_no_finder_is_retired_lacks_the_precision_or_has_no_image(make_plan: MakePlan, instance: str) -> None:
    for precision in ("fp32", "16-mixed", "bf16-mixed"):
        made = inputs({"workload.precision": precision}, instance)
        for place in place_finders(made):
            assert place.profile.lifecycle.state != "retired"
            assert place.gpu.bf16 or precision != "bf16-mixed"
            assert not isinstance(images.image("us-east-1", place.gpu.compute_capability), Unknown)
    plan = make_plan({"launch.instance": instance, **IMAGENET})
    assert plan.steps[0].instances == plan.steps[0].gpus == 1


def test_a_finder_can_be_asked_for_by_either_name(make_plan: MakePlan) -> None:
    for name in ("g6e.xlarge", "ml.g6e.xlarge", "ML.G6E.XLARGE"):
        plan = make_plan({"launch.instance": "g5", **IMAGENET, "lr.finder_instance": name})
        assert plan.steps[0].instance_type == "ml.g6e.xlarge"
        assert finder(plan).reason == "as asked with --finder-instance"


def test_a_finder_that_is_asked_for_and_too_small_is_refused_as_any(make_plan: MakePlan) -> None:
    small: dict[str, object] = {
        "lr.finder_instance": "g4dn.xlarge",
        "workload.precision": "16-mixed",
        "workload.per_gpu_batch": 700,
    }
    plan = make_plan({"launch.instance": "p4d", **IMAGENET, "workload.data": "fake:3x224x224:10:99999", **small})
    with pytest.raises(PlanRefusedError, match="lr-find does not fit"):
        refuse(plan, None, allow_retired=False)


@pytest.mark.parametrize(
    ("values", "what", "fix"),
    [
        ({"lr.finder_instance": "g6.xlrage"}, "is no single-GPU instance", "drop --finder-instance"),
        ({"lr.finder_instance": "g6"}, "g6 has 4 GPUs", "--finder-instance g6.xlarge"),
        ({"lr.finder_instance": "p4d.24xlarge"}, "has 8 GPUs", "--finder-instance g6e.xlarge"),
        ({"lr.finder_instance": "g4dn.xlarge"}, "its T4 has no bf16", "--precision 16-mixed"),
        ({"lr.finder_instance": "p3.2xlarge", "workload.precision": "fp32"}, "is retired", "drop --finder-instance"),
        ({"lr.finder_instance": "g5.xlarge", "launch.backend": "fake"}, "chooses no instances", "drop"),
    ],
)
def test_a_finder_that_cannot_be_is_refused_with_the_way_out(
    make_plan: MakePlan, values: dict[str, object], what: str, fix: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        make_plan({"launch.instance": "g5", "launch.backend": "sagemaker", **values})
    assert fix in caught.value.fix


def test_a_change_of_the_finder_profile_makes_another_plan() -> None:
    made = inputs({"lr.finder_instance": "g6.xlarge"}, "p4d")
    plan = built(made)
    assert finder(plan).profile == "g6.12xlarge"

    def edited(name: str) -> LaunchPlan:
        changed = tuple(
            one.model_copy(update={"description": "edited"}) if one.name == name else one for one in made.candidates
        )
        return built(replace(made, candidates=changed))

    assert edited("g6.12xlarge").plan_id != plan.plan_id
    assert edited("g4dn.12xlarge").plan_id == plan.plan_id, "a profile that no step uses changes nothing"


def test_where_aws_does_not_bill_there_is_nothing_to_choose(make_plan: MakePlan) -> None:
    for plan in (make_plan(), make_plan({"launch.instance": "p4d"})):
        assert plan.finder is None
        assert plan.provenance.finder_profile_sha256 is None
    assert make_plan({"launch.instance": "p4d"}).steps[0].instance_type == "g6e.xlarge"
