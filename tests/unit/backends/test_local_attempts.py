"""Attempts of a step on this machine: each has a folder of its own, and all of them the same checkpoints and logs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpuplan.backends.base import JobSpec
from gpuplan.backends.local import LocalBackend
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec

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


@pytest.mark.parametrize("kept", ["checkpoints", "logs"])
def test_a_later_attempt_finds_what_those_before_it_kept(tmp_path: Path, kept: str) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho $$ > "$4/claim"\n')
    launcher.chmod(0o755)
    backend = LocalBackend(tmp_path / "runs", python=str(launcher))
    job = JobInput("run-1", "train", 1, "plan", WORKLOAD, BatchSpec(8, 1, 1), "cpu", train=TrainSpec(0.1))
    folders = []
    for attempt in (1, 2, 3):
        request = backend.render(JobSpec(replace(job, attempt=attempt), "local"))
        backend.submit(request)
        folder = Path(request.body["folder"])
        (folder / kept).mkdir(exist_ok=True)
        (folder / kept / f"of-{attempt}").touch()
        folders.append(folder)
    for folder in folders:
        assert [path.name for path in sorted((folder / kept).iterdir())] == ["of-1", "of-2", "of-3"]
