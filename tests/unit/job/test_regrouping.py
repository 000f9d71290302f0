"""Other processes go on where the same samples make each step; else the words say what would fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job import regrouping
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSchedule, BatchSpec, WorkloadSpec
from gpuplan_job.loop_state import Place
from gpuplan_job.sampling import EpochLayout

WORKLOAD = WorkloadSpec(
    model="m",
    data="d",
    optimizer="sgd",
    momentum=0.9,
    weight_decay=0.0,
    schedule="onecycle",
    label_smoothing=0.0,
    epochs=3,
    precision="fp32",
    seed=0,
    workers=0,
)


def refused(
    before: BatchSpec, now: BatchSpec, samples: int = 1000, schedule: BatchSchedule = "constant"
) -> tuple[str, str] | None:
    workload = replace(WORKLOAD, batch_schedule=schedule)
    layout = TrainingLayout.of(samples, now, schedule, workload.epochs)
    return regrouping.refusal(before, layout, now, workload)


def test_half_the_gpus_go_on_with_twice_the_accumulation() -> None:
    assert refused(BatchSpec(32, 4, 1), BatchSpec(32, 2, 2)) is None
    assert refused(BatchSpec(32, 4, 1), BatchSpec(16, 4, 2)) is None


@pytest.mark.parametrize(
    ("now", "fix"),
    [
        (BatchSpec(8, 1, 4), "on 1 GPUs --per-gpu-batch 8 --accumulate 3 keeps it"),
        (BatchSpec(7, 1, 4), "on 1 GPUs --per-gpu-batch 6 --accumulate 4 keeps it"),
        (BatchSpec(5, 5, 1), "5 GPUs cannot share 24 samples evenly; these can: 1, 2, 3, 4, 6, 8, 12, 24"),
    ],
)
def test_another_global_batch_is_refused_with_what_would_fit(now: BatchSpec, fix: str) -> None:
    why, said = refused(BatchSpec(6, 2, 2), now) or ("", "")
    assert why == f"its steps take 6 x 2 GPUs x 2 = 24 samples, this job's {regrouping.product(now)}"
    assert said == fix


def test_a_ragged_step_that_other_ranks_cannot_share_is_refused() -> None:
    # Two samples are a step for one rank, and too few for four.
    why, fix = refused(BatchSpec(8, 1, 1), BatchSpec(2, 4, 1), samples=50) or ("", "")
    assert "21 steps of the training and not 18" in why
    assert fix == "resume with --per-gpu-batch 8 on 1 GPUs"


def test_a_batch_that_grows_by_accumulation_is_not_regrouped_by_accumulation() -> None:
    assert refused(BatchSpec(8, 2, 2), BatchSpec(8, 1, 4), schedule="linear") is not None
    assert refused(BatchSpec(8, 2, 2), BatchSpec(16, 1, 2), schedule="linear") is None


@given(
    samples=st.integers(8, 400),
    per_gpu=st.integers(1, 8),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 4),
)
def test_a_place_is_counted_in_the_micro_batches_that_end_its_steps(
    samples: int, per_gpu: int, world_size: int, accumulation: int
) -> None:
    if samples < per_gpu * world_size * accumulation:
        return
    layout = EpochLayout(samples, per_gpu, world_size, accumulation)
    training = TrainingLayout((layout, layout))
    ends = [at for at, cut in enumerate(layout.micro_batches(world_size - 1), 1) if cut.last_of_step]
    assert [Place(1, step).micro_batches(training) for step in range(layout.steps + 1)] == [0, *ends]
    assert Place(1, layout.steps).validates(training)
    assert not Place(2, 0).validates(training)
