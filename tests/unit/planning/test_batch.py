"""One per-GPU batch for lr-find and train: a plan that breaks this without saying so cannot be made."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.core.errors import UsageError
from gpuplan.planning.batch import BatchOverride, BatchPlan, StepBatch, largest_fitting, plan_batches
from gpuplan_job.sampling import EpochLayout

SAMPLES = st.integers(1, 10**7)
PER_GPU = st.integers(1, 4096)
WORLD = st.integers(1, 64)
ACCUMULATION = st.integers(1, 16)


def made(lr_find: StepBatch, train: StepBatch, override: BatchOverride | None = None) -> BatchPlan:
    return BatchPlan(
        lr_find=lr_find,
        train=train,
        steps_per_epoch=1,
        first_epoch_steps=1,
        steps=1,
        finder_steps_per_epoch=1,
        override=override,
    )


@given(PER_GPU, PER_GPU)
def test_unequal_per_gpu_batches_cannot_be_planned_unless_an_override_says_so(finder: int, train: int) -> None:
    assume(finder != train)
    with pytest.raises(ValidationError, match="same per-GPU batch"):
        made(StepBatch.of(finder), StepBatch.of(train, 4))
    said = BatchOverride(lr_find_per_gpu=finder, reason="--finder-batch")
    assert made(StepBatch.of(finder), StepBatch.of(train, 4), said).override == said


@given(PER_GPU, PER_GPU, PER_GPU)
def test_an_override_that_says_something_else_is_refused(finder: int, train: int, said: int) -> None:
    assume(said != finder)
    with pytest.raises(ValidationError, match="same per-GPU batch"):
        made(StepBatch.of(finder), StepBatch.of(train), BatchOverride(lr_find_per_gpu=said, reason="x"))


@given(PER_GPU, WORLD, ACCUMULATION, st.integers(-5, 5))
def test_the_global_batch_is_the_product_and_nothing_else(per_gpu: int, world: int, acc: int, off: int) -> None:
    batch = StepBatch.of(per_gpu, world, acc)
    assert batch.global_batch == per_gpu * world * acc
    assume(off)
    with pytest.raises(ValidationError):
        StepBatch.model_validate({**batch.document(), "global": batch.global_batch + off})


@pytest.mark.parametrize("wrong", [{"per_gpu": 0}, {"world_size": 0}, {"accumulation": -1}, {"per_gpu": 2.0}])
def test_a_batch_is_made_of_positive_integers(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StepBatch.model_validate({"per_gpu": 1, "world_size": 1, "accumulation": 1, "global": 1, **wrong})


@given(SAMPLES, PER_GPU, WORLD, ACCUMULATION)
def test_a_plan_counts_the_steps_that_the_job_will_take(samples: int, per_gpu: int, world: int, acc: int) -> None:
    assume(samples >= per_gpu * world * acc)
    plan = plan_batches(samples, StepBatch.of(per_gpu, world, acc), epochs=3)
    assert plan.train == StepBatch.of(per_gpu, world, acc)
    assert plan.lr_find == StepBatch.of(per_gpu), "one GPU, nothing accumulated"
    assert plan.steps_per_epoch == EpochLayout(samples, per_gpu, world, acc).steps
    assert plan.steps == 3 * plan.steps_per_epoch
    assert plan.finder_steps_per_epoch == EpochLayout(samples, per_gpu, 1, 1).steps
    assert plan.override is None


@given(SAMPLES, PER_GPU, PER_GPU)
def test_another_batch_for_the_finder_is_on_record(samples: int, per_gpu: int, finder: int) -> None:
    assume(samples >= max(per_gpu, finder))
    plan = plan_batches(samples, StepBatch.of(per_gpu), epochs=3, finder_batch=finder)
    assert plan.lr_find.per_gpu == finder
    assert (plan.override is None) == (finder == per_gpu)
    assert plan.finder_steps_per_epoch == EpochLayout(samples, finder, 1, 1).steps


@given(SAMPLES, PER_GPU, WORLD, ACCUMULATION)
def test_a_batch_the_data_cannot_fill_is_refused_and_the_advice_works(
    samples: int, per_gpu: int, world: int, acc: int
) -> None:
    assume(world * acc <= samples < per_gpu * world * acc)
    with pytest.raises(UsageError) as caught:
        plan_batches(samples, StepBatch.of(per_gpu, world, acc), epochs=3)
    advised = int(re.findall(r"--per-gpu-batch (\d+)", caught.value.fix)[0])
    assert plan_batches(samples, StepBatch.of(advised, world, acc), epochs=3)


def test_a_finder_batch_the_data_cannot_fill_is_refused_by_its_own_name() -> None:
    with pytest.raises(UsageError) as caught:
        plan_batches(100, StepBatch.of(10, 2), epochs=3, finder_batch=200)
    assert "lr-find" in caught.value.why
    assert "--finder-batch" in caught.value.fix


@given(SAMPLES, PER_GPU, WORLD)
def test_json_and_back_is_the_same_batch_plan(samples: int, per_gpu: int, world: int) -> None:
    assume(samples >= per_gpu * world)
    plan = plan_batches(samples, StepBatch.of(per_gpu, world), epochs=3)
    assert BatchPlan.model_validate_json(plan.canonical_json()) == plan


@given(largest=st.integers(0, 3000), below=st.integers(1, 2000))
def test_the_search_finds_the_largest_batch_that_fits(largest: int, below: int) -> None:
    asked: list[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return batch <= largest

    assert largest_fitting(fits, below) == (min(largest, below - 1) or None)
    assert all(1 <= batch < below for batch in asked)
    assert len(asked) <= 2 * below.bit_length()
