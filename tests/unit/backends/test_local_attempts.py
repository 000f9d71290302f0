"""Attempts of a step on this machine: each has a folder of its own, and all of them the same checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.backends.base import JobSpec
from gpuplan.backends.local import LocalBackend
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec

if TYPE_CHECKING:
    import pytest

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


def test_a_later_attempt_finds_the_checkpoints_of_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho $$ > "$4/claim"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    backend = LocalBackend(tmp_path / "runs", python=str(launcher))
    job = JobInput("run-1", "train", 1, "plan", WORKLOAD, BatchSpec(8, 1, 1), "cpu", train=TrainSpec(0.1))
    folders = []
    for attempt in (1, 2, 3):
        request = backend.render(JobSpec(replace(job, attempt=attempt), "local"))
        backend.submit(request)
        folder = Path(request.body["folder"])
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / f"of-{attempt}").touch()
        folders.append(folder)
    for folder in folders:
        assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["of-1", "of-2", "of-3"]
