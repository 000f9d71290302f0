"""The local backend before it starts anything: what is missing is said first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.base import JobSpec
from gpuplan.backends.local import LocalBackend
from gpuplan.core.errors import UsageError
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec

if TYPE_CHECKING:
    from pathlib import Path

WORKLOAD = WorkloadSpec("resnet18", "digits", "sgd", 0.9, 5e-4, "onecycle", 0.0, 2, "fp32", 0, 0)
JOB = JobInput("run-1", "train", 1, "plan", WORKLOAD, BatchSpec(32, 1, 1), "cpu", train=TrainSpec(0.05))


def test_a_logger_that_was_asked_for_and_is_not_installed_is_refused_before_the_job_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else object())
    backend = LocalBackend(tmp_path)
    job = replace(JOB, loggers=["csv", "mlflow"])
    with pytest.raises(UsageError) as caught:
        backend.submit(backend.render(JobSpec(job, "local")))
    assert "--loggers names mlflow" in caught.value.what
    assert caught.value.fix.startswith("pip install 'gpuplan[mlflow]'")
    assert list(tmp_path.iterdir()) == []
