"""A training that runs out of memory goes on once with smaller micro-batches at the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job import oom_retry, train
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSpec, Failure, JobInput, OomRetry, TrainResult, TrainSpec
from gpuplan_job.document import ContractError, sha256_hex
from gpuplan_job.manifest import Owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.contract import BatchSchedule, FailureKind


def failed(kind: FailureKind = "out-of-memory") -> Failure:
    return Failure("run-1", "train", 1, kind, "CUDA out of memory", "smaller", rank=1)


def at(job_input: JobInput, per_gpu: int, world_size: int = 2, accumulation: int = 1) -> JobInput:
    return replace(job_input, batch=BatchSpec(per_gpu, world_size, accumulation))


def test_half_the_micro_batch_and_twice_the_accumulation(train_input: JobInput) -> None:
    retry = oom_retry.retry_of(at(train_input, 64, 4, 2), failed())
    assert retry == OomRetry(64, 32, 4, 1, "CUDA out of memory")
    assert oom_retry.announcement(retry, 4) == (
        "out of memory on rank 1 at 64 samples per GPU (CUDA out of memory); going on once from the newest checkpoint "
        "with 32 x 4 x 4 = 512, the same global batch. BatchNorm, where there is any, now takes its statistics over "
        "32 samples."
    )


def test_an_odd_micro_batch_is_cut_into_its_smallest_factor_of_parts(train_input: JobInput) -> None:
    assert oom_retry.retry_of(at(train_input, 15), failed()) == OomRetry(15, 5, 3, 1, "CUDA out of memory")
    assert oom_retry.retry_of(at(train_input, 7), failed()) == OomRetry(7, 1, 7, 1, "CUDA out of memory")


def test_one_sample_a_gpu_another_cause_and_a_range_test_are_not_tried_again(train_input: JobInput) -> None:
    assert oom_retry.retry_of(at(train_input, 1), failed()) is None
    assert oom_retry.retry_of(at(train_input, 64), failed("device")) is None
    retry = oom_retry.retry_of(at(train_input, 64), failed())
    again = replace(train_input, train=TrainSpec(0.1, oom_retry=retry))
    assert oom_retry.retry_of(at(again, 64), failed()) is None


def test_it_happens_once(tmp_path: Path, train_input: JobInput) -> None:
    job_input = at(train_input, 64)
    assert oom_retry.after_failure(job_input, failed("device"), tmp_path) is None
    assert oom_retry.after_failure(job_input, failed(), tmp_path) is not None
    assert oom_retry.batch_of(oom_retry.applied(job_input, tmp_path)) == BatchSpec(32, 2, 2)
    assert oom_retry.after_failure(job_input, failed(), tmp_path) is None


def test_without_a_retry_the_input_is_as_it_was_sent(tmp_path: Path, train_input: JobInput) -> None:
    assert oom_retry.applied(train_input, tmp_path) is train_input
    assert oom_retry.batch_of(train_input) == train_input.batch


def test_a_split_that_does_not_keep_the_batch_is_refused() -> None:
    with pytest.raises(ContractError, match="64 does not split into 48"):
        OomRetry(64, 48, 2, None, "")


def test_checkpoints_from_before_the_retry_are_gone_on_from(train_input: JobInput) -> None:
    retry = oom_retry.retry_of(at(train_input, 64), failed())
    assert train_input.train is not None
    again = replace(train_input, train=replace(train_input.train, oom_retry=retry))
    assert Owner.of(again) == Owner.of(train_input)


@given(
    per_gpu=st.integers(2, 24),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 4),
    more=st.integers(0, 200),
    schedule=st.sampled_from(["constant", "linear", "exponential"]),
)
def test_every_step_of_a_retry_holds_the_samples_of_the_planned_step(
    per_gpu: int, world_size: int, accumulation: int, more: int, schedule: BatchSchedule
) -> None:
    batch = BatchSpec(per_gpu, world_size, accumulation)
    parts = next(parts for parts in range(2, per_gpu + 1) if per_gpu % parts == 0)
    planned = TrainingLayout.of(batch.global_batch + more, batch, schedule, 3)
    retried = TrainingLayout.of(batch.global_batch + more, batch, schedule, 3, parts)

    def steps(training: TrainingLayout) -> list[set[int]]:
        """Return the positions of each optimizer step over all ranks."""
        found: list[set[int]] = []
        for layout in training.epochs:
            cuts = [layout.micro_batches(rank) for rank in range(world_size)]
            mine: set[int] = set()
            for same in zip(*cuts, strict=True):
                for cut in same:
                    mine |= set(range(cut.start, cut.stop))
                if same[0].last_of_step:
                    found.append(mine)
                    mine = set()
        return found

    assert steps(retried) == steps(planned)
    assert retried.steps == planned.steps


HUNGRY = """
import torch
from torch import nn

class Hungry(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))
        self.steps = 0

    def forward(self, images):
        self.steps += self.training
        if self.training and len(images) > (MOST if self.steps > FREE else 1000):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.body(images)

def build(name, description, image_size):
    return Hungry()
"""


@pytest.fixture
def launch(tmp_path: Path, payload: Callable[[str], Path], train_input: JobInput) -> Callable[..., tuple[int, str]]:
    """Return what trains in ranks a network that takes at most so many samples, after so many free forwards."""

    def run(most: int, free: int, ranks: int = 2) -> tuple[int, str]:
        path = payload(Path(train.__file__).read_text())
        text = HUNGRY.replace("MOST", str(most)).replace("FREE", str(free))
        (path / "gpuplan_job" / "model.py").write_text(text)
        workload = replace(train_input.workload, data="fake:1x8x8:4:80")
        job_input = replace(train_input, workload=workload, batch=BatchSpec(16, ranks, 1))
        source = tmp_path / "job.json"
        source.write_text(job_input.to_json())
        done = subprocess.run(
            [sys.executable, "-m", "gpuplan_job.launch", str(source), str(tmp_path / "job")],
            env={**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        return done.returncode, done.stderr

    return run


@pytest.mark.slow
def test_two_ranks_that_run_out_of_memory_go_on_from_their_checkpoint_with_half(
    tmp_path: Path, launch: Callable[..., tuple[int, str]]
) -> None:
    code, said = launch(8, 3)  # the first epoch has three steps
    assert code == 0, said
    result = TrainResult.from_json((tmp_path / "job" / "train_result.json").read_bytes())
    assert result.oom_retry is not None
    assert (result.oom_retry.per_gpu, result.oom_retry.accumulation, result.world_size) == (8, 2, 2)
    assert "with 8 x 2 x 2 = 32, the same global batch" in said
    assert "going on after epoch 1" in said
    assert (len(result.epochs), result.optimizer_steps) == (2, 2 * 3)
    assert result.input_sha256 == sha256_hex((tmp_path / "job.json").read_bytes())
    assert not (tmp_path / "job" / "failure.json").exists()


@pytest.mark.slow
def test_a_second_time_it_is_out_of_memory(tmp_path: Path, launch: Callable[..., tuple[int, str]]) -> None:
    code, said = launch(4, 0, 1)
    assert code != 0
    assert said.count("going on once") == 1
    failure = Failure.from_json((tmp_path / "job" / "failure.json").read_bytes())
    assert (failure.kind, "per-gpu-batch" in failure.fix) == ("out-of-memory", True)
