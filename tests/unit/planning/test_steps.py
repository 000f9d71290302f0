"""What a step is planned with beyond its machine: spot capacity, and only where an interruption loses little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from conftest import MakePlan

G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
SPOT: dict[str, object] = G5 | {"launch.spot": True}


def test_spot_is_for_the_training_alone(make_plan: MakePlan) -> None:
    # A range test writes no checkpoint.
    assert [(step.name, step.spot) for step in make_plan(SPOT).steps] == [("lr-find", False), ("train", True)]
    assert not any(step.spot for step in make_plan(G5).steps)


def test_spot_is_priced_as_on_demand(make_plan: MakePlan) -> None:
    spot, plain = make_plan(SPOT), make_plan(G5)
    assert [step.cost_usd for step in spot.steps] == [step.cost_usd for step in plain.steps]
    assert spot.total == plain.total


@pytest.mark.parametrize("backend", ["local", "fake"])
def test_a_backend_without_spot_capacity_refuses_it(make_plan: MakePlan, backend: str) -> None:
    with pytest.raises(UsageError, match=f"backend {backend} has no spot capacity") as caught:
        make_plan(SPOT | {"launch.backend": backend})
    assert caught.value.fix == "drop --spot"


def test_a_training_whose_only_checkpoint_is_its_last_refuses_spot(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="1 epoch") as caught:
        make_plan(SPOT | {"workload.epochs": 1})
    assert "--epochs 2" in caught.value.fix
    assert make_plan(SPOT | {"workload.epochs": 2}).steps[-1].spot


def test_a_pipeline_of_a_range_test_alone_refuses_spot(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="lr-find writes no checkpoint"):
        make_plan(SPOT | {"launch.pipeline": "lr"})


def test_a_step_knows_the_gpu_that_its_image_must_support(make_plan: MakePlan) -> None:
    # lr-find for p4d runs on another GPU than the training.
    plan = make_plan({"launch.instance": "p4d", "launch.backend": "sagemaker"})
    assert [step.compute_capability for step in plan.steps] == ["8.9", "8.0"]
    assert [step.compute_capability for step in make_plan(G5).steps] == ["8.6", "8.6"]
