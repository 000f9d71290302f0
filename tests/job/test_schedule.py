"""The learning rate over a training's steps on real optimizers: warm-up, one-cycle's own rise, and going on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from torch import nn

from gpuplan_job import optim
from gpuplan_job.contract import TrainSpec

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from gpuplan_job.contract import JobInput, WorkloadSpec

Schedule = Literal["onecycle", "constant"]
Name = Literal["sgd", "adamw"]


def made(workload: WorkloadSpec, train: TrainSpec, total: int) -> tuple[Optimizer, LRScheduler]:
    optimizer = optim.build(workload, nn.Linear(1, 2), train.learning_rate)
    return optimizer, optim.schedule(workload, optimizer, train, total)


def go(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    """Return the learning rate of each of the next steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


def rates(workload: WorkloadSpec, train: TrainSpec, total: int) -> list[float]:
    return go(*made(workload, train, total), total)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_constant_schedule_rises_in_equal_steps_from_its_share_and_stays(
    train_input: JobInput, optimizer: Name
) -> None:
    workload = replace(train_input.workload, schedule="constant", optimizer=optimizer)
    found = rates(workload, TrainSpec(0.8, 4, 0.25), 10)
    assert found[:5] == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8])
    assert found[4:] == [0.8] * 6


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_onecycle_is_the_same_with_a_warm_up_within_its_own_rise(train_input: JobInput, optimizer: Name) -> None:
    workload = replace(train_input.workload, schedule="onecycle", optimizer=optimizer)
    assert rates(workload, TrainSpec(0.8, 30, 0.1), 100) == rates(workload, TrainSpec(0.8), 100)


@pytest.mark.parametrize("warmup", [31, 50, 80, 99])
def test_onecycle_rises_as_long_as_a_longer_warm_up(train_input: JobInput, warmup: int) -> None:
    workload = replace(train_input.workload, schedule="onecycle")
    found = rates(workload, TrainSpec(0.8, warmup, 0.1), 100)
    peak = found.index(max(found))
    assert peak == warmup - 1
    assert max(found) == pytest.approx(0.8)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


@pytest.mark.parametrize("name", ["onecycle", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("warmup", [0, 1, 2, 3, 6, 50])
def test_a_short_training_has_a_rate_for_each_step(
    train_input: JobInput, name: Schedule, total: int, warmup: int
) -> None:
    found = rates(replace(train_input.workload, schedule=name), TrainSpec(0.8, warmup, 0.1), total)
    assert len(found) == total
    assert all(0 < rate <= 0.8 + 1e-12 for rate in found)


@pytest.mark.parametrize("name", ["onecycle", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("after", [3, 8, 15])
def test_a_schedule_taken_up_from_its_state_goes_on_as_it_would_have(
    train_input: JobInput, name: Schedule, optimizer: Name, after: int
) -> None:
    workload = replace(train_input.workload, schedule=name, optimizer=optimizer)
    train = TrainSpec(0.8, 10, 0.125)
    first, schedule = made(workload, train, 20)
    go(first, schedule, after)
    kept: list[dict[str, Any]] = [first.state_dict(), schedule.state_dict()]
    second, again = made(workload, train, 20)
    second.load_state_dict(kept[0])
    again.load_state_dict(kept[1])
    assert go(second, again, 20 - after) == go(first, schedule, 20 - after)
