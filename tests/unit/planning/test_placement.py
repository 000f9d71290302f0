"""Which machine runs which step: all GPUs for the training, the cheapest GPU that holds the batch for lr-find."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Cost, Rate
from gpuplan.planning.speed.throughput import Hours

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan, StepPlan

LARGE: dict[str, object] = {
    "launch.instance": "p4de",
    "launch.backend": "sagemaker",
    "workload.model": "resnet152",
    "workload.data": "fake:3x224x224:1000:1000000",
    "lr.iterations": 60,  # how long a range test is by itself is not what is looked at here
}


def step(plan: LaunchPlan, name: str) -> StepPlan:
    found = plan.step(name)
    assert found is not None
    return found


def rate(plan: LaunchPlan, name: str) -> Decimal:
    return rate_of(step(plan, name))


def rate_of(found: StepPlan) -> Decimal:
    assert isinstance(found.rate_usd_per_hour, Rate)
    return found.rate_usd_per_hour.amount


def verdict(plan: LaunchPlan, name: str) -> str:
    found = step(plan, name).memory
    assert isinstance(found, MemoryEstimate)
    return found.verdict


@pytest.mark.parametrize(
    ("batch", "finder", "fits"),
    [
        (64, "ml.g6.xlarge", "fits"),
        (512, "ml.g6e.xlarge", "tight"),
        (700, "ml.p5.4xlarge", "fits"),
        (4096, "ml.p5.4xlarge", "too_big"),
    ],
)
def test_a_finder_that_is_too_small_is_passed_over(make_plan: MakePlan, batch: int, finder: str, fits: str) -> None:
    plan = make_plan(LARGE | {"workload.per_gpu_batch": batch})
    assert step(plan, "lr-find").instance_type == finder
    assert verdict(plan, "lr-find") == fits


def test_the_finder_batch_is_what_counts_for_the_finder(make_plan: MakePlan) -> None:
    plan = make_plan(LARGE | {"workload.per_gpu_batch": 700, "lr.finder_batch": 64})
    assert step(plan, "lr-find").instance_type == "ml.g6.xlarge"


@pytest.mark.parametrize(("instance", "carries_over"), [("g5", True), ("p5", True), ("p4d", False), ("p4de", False)])
def test_a_measurement_carries_over_from_the_same_gpu_only(
    make_plan: MakePlan, instance: str, *, carries_over: bool
) -> None:
    plan = make_plan({"launch.instance": instance, "workload.per_gpu_batch": 32})
    assert (step(plan, "train").measured_scale is not None) == carries_over


@pytest.mark.parametrize(
    ("backend", "machine", "amount"),
    [("sagemaker", "ml.g5.12xlarge", "7.09"), ("ec2", "g5.12xlarge", "5.672"), ("fake", "g5.12xlarge", "0")],
)
def test_each_service_has_its_own_names_and_prices(
    make_plan: MakePlan, backend: str, machine: str, amount: str
) -> None:
    plan = make_plan({"launch.instance": "g5", "launch.backend": backend})
    assert step(plan, "train").instance_type == machine
    assert rate(plan, "train") == Decimal(amount)


def test_lr_find_pays_for_one_gpu_and_training_for_all(make_plan: MakePlan) -> None:
    plan = make_plan({"launch.instance": "g5", "launch.backend": "sagemaker"})
    assert (rate(plan, "lr-find"), rate(plan, "train")) == (Decimal("1.408"), Decimal("7.09"))
    assert (step(plan, "lr-find").gpus, step(plan, "train").gpus) == (1, 4)


def test_another_region_has_other_prices_and_an_unheard_of_one_has_none(make_plan: MakePlan) -> None:
    base: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
    assert rate(make_plan(base | {"aws.region": "eu-west-1"}), "train") == Decimal("7.9145875")
    unknown = make_plan(base | {"aws.region": "nowhere-1"})
    assert isinstance(step(unknown, "train").rate_usd_per_hour, Unknown)
    assert isinstance(unknown.total.cost_usd, Unknown)
    assert not isinstance(unknown.total.time_hours, Unknown), "time needs no price"


@pytest.mark.parametrize("backend", ["local", "fake"])
def test_this_machine_costs_nothing_and_starts_soon(make_plan: MakePlan, backend: str) -> None:
    here, there = (
        step(make_plan({"launch.instance": "g5", "launch.backend": name}), "train") for name in (backend, "sagemaker")
    )
    assert isinstance(here.rate_usd_per_hour, Rate)
    assert here.rate_usd_per_hour.amount == 0
    assert here.startup_minutes < there.startup_minutes


@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_fewer_processes_than_gpus_may_be_asked_for(make_plan: MakePlan, wanted: int) -> None:
    plan = make_plan({"launch.instance": "g5", "launch.world_size": wanted})
    assert step(plan, "train").gpus == plan.batch.train.world_size == wanted


@pytest.mark.parametrize("wanted", [5, 4096])
def test_more_processes_than_gpus_are_refused(make_plan: MakePlan, wanted: int) -> None:
    with pytest.raises(UsageError, match=r"more than the 4 GPUs of 1 x g5\.12xlarge") as caught:
        make_plan({"launch.instance": "g5", "launch.world_size": wanted})
    assert "--world-size 4" in caught.value.fix


SEVERAL: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_several_nodes_train_on_all_their_gpus_and_lr_find_on_one(make_plan: MakePlan, nodes: int) -> None:
    plan = make_plan(SEVERAL | {"launch.nodes": nodes, "workload.per_gpu_batch": 16})
    finder, training = plan.steps
    assert (finder.instances, finder.gpus) == (1, 1)
    assert (training.instances, training.gpus) == (nodes, 4 * nodes)
    assert plan.batch.train.world_size == 4 * nodes


def test_every_node_is_paid_for(make_plan: MakePlan) -> None:
    for nodes in (1, 3):
        training = step(make_plan(SEVERAL | {"launch.nodes": nodes, "workload.per_gpu_batch": 16}), "train")
        assert isinstance(training.cost_usd, Cost)
        assert isinstance(training.time_hours, Hours)
        for band in ("p50", "p90"):
            hours = Decimal(repr(getattr(training.time_hours, band)))
            assert getattr(training.cost_usd, band) == Decimal("7.09") * nodes * hours
        assert rate_of(training) == Decimal("7.09"), "the rate is that of one instance"


def test_processes_divide_evenly_over_the_nodes_or_are_refused(make_plan: MakePlan) -> None:
    two = make_plan(SEVERAL | {"launch.nodes": 2, "launch.world_size": 6})
    assert (step(two, "train").gpus, step(two, "train").instances) == (6, 2)
    with pytest.raises(UsageError, match="--world-size 5 does not divide over --nodes 2") as caught:
        make_plan(SEVERAL | {"launch.nodes": 2, "launch.world_size": 5})
    assert caught.value.fix == "--world-size 4"
    with pytest.raises(UsageError) as caught:
        make_plan(SEVERAL | {"launch.nodes": 3, "launch.world_size": 1})
    assert caught.value.fix == "--world-size 3"


def test_more_processes_than_all_nodes_have_gpus_are_refused(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match=r"more than the 8 GPUs of 2 x g5\.12xlarge"):
        make_plan(SEVERAL | {"launch.nodes": 2, "launch.world_size": 9})


@pytest.mark.parametrize("backend", ["local", "fake"])
def test_a_backend_on_one_machine_refuses_several_nodes(make_plan: MakePlan, backend: str) -> None:
    with pytest.raises(UsageError, match="runs jobs on one machine") as caught:
        make_plan({"launch.nodes": 2, "launch.backend": backend})
    assert caught.value.fix == "--nodes 1"


def test_processes_on_cpus_share_the_memory_of_their_own_node(make_plan: MakePlan) -> None:
    cpu = SEVERAL | {"launch.device": "cpu", "workload.per_gpu_batch": 16}
    one, two = (step(make_plan(cpu | {"launch.nodes": nodes}), "train") for nodes in (1, 2))
    assert isinstance(one.memory, MemoryEstimate)
    assert isinstance(two.memory, MemoryEstimate)
    assert one.memory.capacity_gib == two.memory.capacity_gib
    assert one.measured_scale == two.measured_scale, "as many processes share the cores of a node"


@pytest.mark.parametrize(("asked", "used"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_an_aws_instance_uses_its_gpu_unless_asked_otherwise(make_plan: MakePlan, asked: str, used: str) -> None:
    plan = make_plan({"launch.instance": "g5", "launch.device": asked})
    assert plan.device == used
    assert step(plan, "train").gpus == 4, "a rehearsal on CPUs runs the same number of processes"


def test_a_backend_nobody_has_heard_of_is_refused(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match=r"--backend .sagmaker. is not known") as caught:
        make_plan({"launch.backend": "sagmaker"})
    assert caught.value.why == "did you mean 'sagemaker'?"
