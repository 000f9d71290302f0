"""A training that diverges or learns nothing is stopped with advice; one that learns, however it gets there, is not."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec
from gpuplan_job.divergence_rule import LossRule, block_steps
from gpuplan_job.failures import JobError
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process
from gpuplan_job.train import fit

if TYPE_CHECKING:
    from pathlib import Path

CHANCE = math.log(10)
ALONE = Process(0, 0, 1, 1)
EPOCH_STEPS = 18  # of 280 samples, 16 a step, the ragged last one among them


def noisy(levels: list[float], spread: float = 0.1, seed: int = 0) -> list[float]:
    """Return losses around levels, with a spread that is a share of each."""
    draw = random.Random(seed)  # noqa: S311 - noise of a test
    return [level * (1 + spread * draw.gauss(0, 1)) for level in levels]


def falling(steps: int, start: float = CHANCE, end: float = 0.1) -> list[float]:
    return [end + (start - end) * math.exp(-5 * step / steps) for step in range(steps)]


@given(
    steps=st.integers(100, 3000),
    start=st.floats(0.5, 12),
    end_share=st.floats(0, 0.7),
    spread=st.floats(0, 0.3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_loss_that_comes_down_is_left_alone(
    steps: int, start: float, end_share: float, spread: float, seed: int
) -> None:
    losses = noisy(falling(steps, start, start * end_share), spread, seed)
    assert LossRule(steps, 10).add(losses) is None
    assert LossRule(steps, 10, chance=start).add(losses) is None


def test_a_spike_that_passes_is_left_alone() -> None:
    levels = falling(2000)
    for offset in range(60):
        levels[700 + offset] = 40 * math.exp(-offset / 15)
    assert LossRule(2000, 10, CHANCE).add(noisy(levels)) is None


def test_a_loss_that_explodes_is_found_within_nine_blocks() -> None:
    levels = falling(500)[:200] + [2.0 + 0.5 * step for step in range(300)]
    found = LossRule(500, 10, CHANCE).add(noisy(levels))
    assert found is not None
    assert (found.sign, found.too_high) == ("exploding", True)
    assert found.step <= 200 + 9 * block_steps(500)


def test_a_network_that_dies_after_learning_is_found() -> None:
    found = LossRule(1000, 10, CHANCE).add(noisy(falling(1000)[:300] + [CHANCE] * 700, 0.02))
    assert found is not None
    assert (found.sign, found.too_high, found.step <= 420) == ("collapsed", True, True)


@pytest.mark.parametrize(("later", "too_high"), [(CHANCE, False), (1.45 * CHANCE, True)])
def test_a_loss_that_stays_at_chance_is_found_after_a_sixth_of_the_training(later: float, *, too_high: bool) -> None:
    found = LossRule(2000, 10, CHANCE).add(noisy([CHANCE] * 40 + [later] * 1960, 0.05))
    assert found is not None
    assert (found.sign, found.step, found.too_high) == ("not falling", 300, too_high)


def test_a_loss_that_is_not_finite_is_found_at_its_step() -> None:
    found = LossRule(2000, 10, CHANCE).add([CHANCE] * 7 + [math.inf, math.nan])
    assert found is not None
    assert (found.sign, found.step, found.text) == ("not finite", 8, "the loss is inf")


def test_without_knowledge_of_chance_a_loss_that_never_falls_is_found_later() -> None:
    found = LossRule(2000, 10).add(noisy([5.0] * 2000, 0.005))
    assert found is not None
    assert (found.sign, found.step) == ("not falling", 1000)


def test_a_loss_too_noisy_to_tell_is_left_alone() -> None:
    assert LossRule(1000, 10).add(noisy([5.0] * 1000, 3.0)) is None


def test_fine_tuning_that_starts_below_chance_and_falls_no_further_is_left_alone() -> None:
    assert LossRule(2000, 10, CHANCE).add(noisy([0.3] * 2000)) is None


def test_a_negative_loss_that_falls_is_left_alone_and_one_that_rises_is_not() -> None:
    assert LossRule(1000, 10).add([-1 - 0.01 * step for step in range(1000)]) is None
    found = LossRule(1000, 10).add([-1 + 0.01 * step for step in range(1000)])
    assert found is not None
    assert found.sign == "exploding"


def test_accuracy_at_chance_counts_in_a_row_unless_the_training_loss_is_well_below() -> None:
    rule = LossRule(1000, 5, CHANCE)
    assert [rule.epoch(0.11, 1000, 0.1, 2.3) for _ in range(2)] == [None, None]
    found = rule.epoch(0.1, 1000, 0.1, 2.3)
    assert found is not None
    assert (found.sign, "0.1 is that of chance in 3 epochs in a row" in found.text) == ("at chance", True)
    learning = LossRule(1000, 5, CHANCE)
    assert [learning.epoch(0.1, 1000, 0.1, 1.0) for _ in range(5)] == [None] * 5
    recovered = LossRule(1000, 5, CHANCE)
    assert [recovered.epoch(acc, 1000, 0.1, 2.3) for acc in (0.1, 0.1, 0.5, 0.1, 0.1)] == [None] * 5


def test_a_rule_that_is_taken_up_again_comes_to_the_same() -> None:
    losses = noisy(falling(500)[:200] + [2.0 + 0.5 * step for step in range(300)])
    first, second = LossRule(500, 10, CHANCE), LossRule(500, 10, CHANCE)
    assert first.add(losses[:205]) is None
    second.load_state_dict(first.state_dict())
    assert second.add(losses[205:]) == first.add(losses[205:])


def data(*, learnable: bool) -> DataSets:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(340) % 4
    images = torch.randn(340, 8, generator=generator)
    if learnable:
        images[:, :4] += 3 * nn.functional.one_hot(labels, 4)
    pairs = [TensorDataset(images[part], labels[part]) for part in (slice(0, 280), slice(280, 340))]
    return DataSets(*pairs)  # type: ignore[arg-type] # pairs of tensors are samples too


def trained(train_input: JobInput, folder: Path, rate: float, *, guard: bool = True, learnable: bool = True) -> int:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    workload = replace(train_input.workload, epochs=4, schedule="constant")
    job_input = replace(
        train_input, workload=workload, batch=BatchSpec(16, 1, 1), train=TrainSpec(rate, divergence_guard=guard)
    )
    return fit(job_input, "0" * 64, network, data(learnable=learnable), folder, ALONE).optimizer_steps


def test_a_training_that_learns_runs_to_its_end(tmp_path: Path, train_input: JobInput) -> None:
    assert trained(train_input, tmp_path, 0.05) == 4 * EPOCH_STEPS


def test_a_training_at_far_too_high_a_rate_stops_and_asks_for_half(tmp_path: Path, train_input: JobInput) -> None:
    # Whether the guard or the look once a second finds it is a matter of the machine's speed.
    with pytest.raises(JobError) as caught:
        trained(train_input, tmp_path, 20.0)
    assert (caught.value.kind, "--lr 10" in caught.value.fix) == ("diverged", True)


def test_a_training_at_far_too_low_a_rate_stops_and_asks_for_more(tmp_path: Path, train_input: JobInput) -> None:
    with pytest.raises(JobError, match="at chance at step 50, learning rate 1e-09") as caught:
        trained(train_input, tmp_path, 1e-9)
    assert "--lr 1.5e-09, or one from gpuplan find-lr" in caught.value.fix


def test_without_the_guard_only_a_loss_that_is_not_finite_stops_it(tmp_path: Path, train_input: JobInput) -> None:
    assert trained(train_input, tmp_path, 1e-9, guard=False) == 4 * EPOCH_STEPS


def test_the_guard_goes_on_from_a_checkpoint(tmp_path: Path, train_input: JobInput) -> None:
    trained(train_input, tmp_path, 0.05)
    assert trained(train_input, tmp_path, 0.05) == 4 * EPOCH_STEPS
