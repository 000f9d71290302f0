"""The fake backend does what its script says, keeps its jobs in files, and makes results that pass for real ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict, Unpack

import pytest

from gpuplan.backends.base import JobSpec
from gpuplan.backends.fake import FakeBackend, Script, create, synthetic_results
from gpuplan.core.job_state import JobState
from gpuplan.planning.job_input import job_input
from gpuplan_job.contract import LR_RESULT_FILE, TRAIN_RESULT_FILE, JobInput, LrResult, TrainResult
from gpuplan_job.document import sha256_hex
from gpuplan_job.suggestion import Suggestion, suggest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakePlan
    from gpuplan.workload.schema import Aws

RUN = "digits-0000000000001"


class Changes(TypedDict, total=False):
    """What may differ between two jobs."""

    attempt: int
    run_id: str


@pytest.fixture
def job(make_plan: MakePlan) -> JobInput:
    return made(make_plan, "lr-find")


def made(make_plan: MakePlan, step: str, **changes: Unpack[Changes]) -> JobInput:
    plan = make_plan()
    found = plan.step(step)
    assert found is not None
    return job_input(
        plan, found, run_id=changes.get("run_id", RUN), attempt=changes.get("attempt", 1), learning_rate=0.05
    )


def states(backend: FakeBackend, handle: str, polls: int) -> list[JobState]:
    return [backend.poll(handle).state for _ in range(polls)]


def test_a_job_plays_one_state_a_poll_and_stays_in_the_last(tmp_path: Path, job: JobInput) -> None:
    script = Script(states=(JobState.PENDING, JobState.UNKNOWN, JobState.FAILED))
    backend = FakeBackend(tmp_path, script)
    handle = backend.submit(backend.render(JobSpec(job, "x")))
    assert states(backend, handle, 5) == [JobState.PENDING, JobState.UNKNOWN, *[JobState.FAILED] * 3]


def test_another_client_finds_the_job_where_it_was_left(tmp_path: Path, job: JobInput, aws: Aws) -> None:
    first = create(tmp_path, aws)
    handle = first.submit(first.render(JobSpec(job, "x")))
    states(first, handle, 2)
    assert states(create(tmp_path, aws), handle, 2) == [JobState.RUNNING, JobState.SUCCEEDED]
    assert create(tmp_path, aws).created() == [f"{RUN}-lr-find-1"]


def test_every_created_job_is_counted_once(tmp_path: Path, make_plan: MakePlan) -> None:
    backend = FakeBackend(tmp_path)
    for attempt in (1, 2, 2, 1):
        backend.submit(backend.render(JobSpec(made(make_plan, "train", attempt=attempt), "x")))
    assert backend.created() == [f"{RUN}-train-1", f"{RUN}-train-2"]


def test_a_dry_run_creates_nothing(tmp_path: Path, job: JobInput) -> None:
    backend = FakeBackend(tmp_path / "jobs")
    backend.render(JobSpec(job, "x"))
    assert backend.created() == []
    assert not (tmp_path / "jobs").exists()


def test_a_stopped_job_is_stopped_whatever_the_script_has_left(tmp_path: Path, job: JobInput) -> None:
    backend = FakeBackend(tmp_path)
    handle = backend.submit(backend.render(JobSpec(job, "x")))
    assert backend.stop(handle).state is JobState.STOPPED
    assert states(backend, handle, 3) == [JobState.STOPPED] * 3


def test_a_job_that_has_ended_is_not_stopped_any_more(tmp_path: Path, job: JobInput) -> None:
    backend = FakeBackend(tmp_path, Script(states=(JobState.SUCCEEDED,)))
    handle = backend.submit(backend.render(JobSpec(job, "x")))
    assert backend.stop(handle).state is JobState.SUCCEEDED


def test_the_script_decides_what_the_job_leaves_and_prints(tmp_path: Path, job: JobInput) -> None:
    script = Script(results=lambda found: {"note.txt": found.run_id.encode()}, log=("one", "two"))
    backend = FakeBackend(tmp_path, script)
    handle = backend.submit(backend.render(JobSpec(job, "x")))
    assert backend.fetch(handle, "note.txt") == RUN.encode()
    assert backend.logs(handle).lines == ("one", "two")
    with pytest.raises(FileNotFoundError):
        backend.fetch(handle, LR_RESULT_FILE)


def test_a_healthy_range_test_passes_the_contract_and_the_gate(job: JobInput) -> None:
    files = synthetic_results(job)
    assert list(files) == [LR_RESULT_FILE]
    result = LrResult.from_json(files[LR_RESULT_FILE])
    assert result.input_sha256 == sha256_hex(job.to_json())
    assert job.sweep is not None
    assert len(result.curves) == job.sweep.runs
    found = suggest(result, "edge")
    assert isinstance(found, Suggestion)
    assert job.sweep.lr_min < found.learning_rate < job.sweep.lr_max


def test_a_healthy_training_passes_the_contract_and_learns(make_plan: MakePlan) -> None:
    job = made(make_plan, "train")
    files = synthetic_results(job)
    assert list(files) == [TRAIN_RESULT_FILE]
    result = TrainResult.from_json(files[TRAIN_RESULT_FILE])
    assert result.learning_rate == 0.05
    assert [epoch.epoch for epoch in result.epochs] == list(range(1, job.workload.epochs + 1))
    losses = [epoch.val_loss for epoch in result.epochs if epoch.val_loss is not None]
    assert losses == sorted(losses, reverse=True)


def test_a_request_is_the_job_as_json(tmp_path: Path, job: JobInput) -> None:
    request = FakeBackend(tmp_path).render(JobSpec(job, "g5.xlarge"))
    assert request.body == {"instance_type": "g5.xlarge", "input": json.loads(job.to_json())}
