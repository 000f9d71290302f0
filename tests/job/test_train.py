"""The training's entry point in this process: what it refuses, and what it leaves behind when it fails."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gpuplan_job import train
from gpuplan_job.contract import BatchSpec, Failure, FailureKind, JobInput, TrainResult, TrainSpec
from gpuplan_job.failures import JobError
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from pathlib import Path

ALONE = Process(rank=0, local_rank=0, world_size=1, local_world_size=1)


class Points(Dataset[tuple[Tensor, int]]):
    """Two clouds of points."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.randn(3, generator=torch.Generator().manual_seed(index))
        return noise + 3.0 * (index % 2), index % 2

    def __len__(self) -> int:
        return self.samples


def fit(job_input: JobInput, folder: Path, samples: int = 50, process: Process = ALONE) -> TrainResult:
    torch.manual_seed(0)
    return train.fit(job_input, "0" * 64, nn.Linear(3, 2), DataSets(Points(samples), Points(20)), folder, process)


def test_a_separable_problem_is_learned(tmp_path: Path, train_input: JobInput) -> None:
    result = fit(replace(train_input, batch=BatchSpec(8, 1, 1)), tmp_path)
    assert result.epochs[-1].score >= 0.9
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert result.epochs[-1].learning_rate < result.learning_rate


def test_of_equal_epochs_the_earlier_is_best(tmp_path: Path, train_input: JobInput) -> None:
    result = fit(replace(train_input, batch=BatchSpec(8, 1, 1), train=TrainSpec(1e-12)), tmp_path)
    assert result.epochs[0].val_accuracy == result.epochs[1].val_accuracy
    assert result.best_epoch == 1


def test_bf16_mixed_trains_on_a_cpu(tmp_path: Path, train_input: JobInput) -> None:
    workload = replace(train_input.workload, precision="bf16-mixed", epochs=1)
    result = fit(replace(train_input, workload=workload, batch=BatchSpec(8, 1, 2)), tmp_path)
    assert result.optimizer_steps == 4
    assert math.isfinite(result.epochs[0].val_loss or math.nan)


def test_a_loss_that_is_not_finite_stops_with_a_lower_rate_to_try(tmp_path: Path, train_input: JobInput) -> None:
    job_input = replace(train_input, batch=BatchSpec(8, 1, 1), train=TrainSpec(1e38))
    with pytest.raises(JobError, match="diverged") as caught:
        fit(job_input, tmp_path)
    assert (caught.value.kind, "--lr 5e+37" in caught.value.fix) == ("diverged", True)


def test_data_smaller_than_a_global_batch_is_refused(tmp_path: Path, train_input: JobInput) -> None:
    with pytest.raises(JobError, match="20 samples do not fill one global batch of 32") as caught:
        fit(train_input, tmp_path, samples=20)
    assert "--per-gpu-batch" in caught.value.fix


def test_another_number_of_processes_than_planned_is_refused(tmp_path: Path, train_input: JobInput) -> None:
    with pytest.raises(JobError, match="1 processes run, the plan says 4"):
        fit(replace(train_input, batch=BatchSpec(8, 4, 1)), tmp_path)


@pytest.mark.parametrize(
    ("workload", "kind", "text"),
    [
        (("resnet19", "digits"), "usage", "resnet19"),
        (("resnet18", "fake:1x8x8"), "data", "fake:3x32x32"),
        (("resnet18", "imagefolder:/nowhere"), "data", "/nowhere"),
    ],
)
def test_a_failure_is_written_with_rank_and_trace(
    tmp_path: Path, train_input: JobInput, workload: tuple[str, str], kind: FailureKind, text: str
) -> None:
    source = tmp_path / "input.json"
    source.write_text(
        replace(train_input, workload=replace(train_input.workload, model=workload[0], data=workload[1])).to_json()
    )
    assert train.main([str(source), str(tmp_path)]) == 1
    failure = Failure.from_json((tmp_path / "failure.json").read_bytes())
    assert (failure.kind, failure.rank, failure.run_id) == (kind, 0, "run-1")
    assert text in failure.message
    assert "Traceback" in failure.trace
    assert not (tmp_path / "train_result.json").exists()
