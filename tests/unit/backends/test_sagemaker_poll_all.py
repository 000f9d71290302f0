"""Asking SageMaker for many jobs: a list for those in progress, a description for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.aws.session import Session
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.core.errors import ExitCode, UnreachableError
from gpuplan.core.job_state import JobState
from gpuplan.testing import Emulator
from gpuplan.workload.schema import Aws

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = [f"digits-0000000000{number:03d}-train-1" for number in range(8)]
HANDLES = [f"sagemaker://us-east-1/{name}" for name in NAMES]


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulator]:
    """Eight jobs, half of them training."""
    with Emulator(execute=False) as emulator:
        bucket, role = emulator.prepare()
        for name in NAMES:
            emulator.client("sagemaker").create_training_job(**request(name, bucket, role))
        for name in NAMES[:4]:
            emulator.advance(name, "Training")
        emulator.complete(NAMES[4], billed_seconds=61)
        emulator.fail(NAMES[5], "CapacityError: none free")
        emulator.client("sagemaker").stop_training_job(TrainingJobName=NAMES[6])
        emulator.faults.stuck_stopping(NAMES[6], seconds=3600)
        yield emulator


@pytest.fixture
def backend(aws: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerBackend]:
    for name, value in {**aws.environment(), "AWS_MAX_ATTEMPTS": "1"}.items():  # no waiting between attempts
        monkeypatch.setenv(name, value)
    yield SageMakerBackend(Aws(region="us-east-1"), Session("us-east-1"), tmp_path)
    aws.faults.clear()
    aws.faults.stuck_stopping(NAMES[6], seconds=3600)


def request(name: str, bucket: str, role: str) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1",
            "TrainingInputMode": "File",
        },
        "RoleArn": role,
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/out/"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def calls(aws: Emulator, since: int) -> list[str]:
    return [call.operation for call in aws.calls[since:]]


def test_it_says_of_every_job_what_asking_for_each_says(aws: Emulator, backend: SageMakerBackend) -> None:
    del aws
    assert backend.poll_all(HANDLES) == {handle: backend.poll(handle) for handle in HANDLES}


def test_jobs_in_progress_cost_one_call_together_and_the_others_one_each(
    aws: Emulator, backend: SageMakerBackend
) -> None:
    before = len(aws.calls)
    found = backend.poll_all(HANDLES)
    assert sorted(calls(aws, before)) == ["DescribeTrainingJob"] * 3 + ["ListTrainingJobs"]
    assert [found[handle].state for handle in HANDLES] == [
        *[JobState.RUNNING] * 4,
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.STOPPING,
        JobState.STARTING,
    ]


def test_what_ended_comes_with_what_only_a_description_knows(backend: SageMakerBackend) -> None:
    found = backend.poll_all(HANDLES)
    assert found[HANDLES[4]].billable_seconds == 61
    assert found[HANDLES[5]].exit_code is ExitCode.CAPACITY


def test_one_job_is_described(aws: Emulator, backend: SageMakerBackend) -> None:
    before = len(aws.calls)
    backend.poll_all(HANDLES[:1])
    assert calls(aws, before) == ["DescribeTrainingJob"]


def test_a_job_that_does_not_exist_is_told_apart(backend: SageMakerBackend) -> None:
    missing = "sagemaker://us-east-1/digits-0000000000999-train-1"
    found = backend.poll_all([*HANDLES, missing])
    assert not found[missing].exists
    assert all(found[handle].exists for handle in HANDLES)


def test_who_may_not_list_still_describes(aws: Emulator, backend: SageMakerBackend) -> None:
    expected = backend.poll_all(HANDLES)
    aws.faults.refuse("ListTrainingJobs", "AccessDeniedException", 400, "not authorized")
    before = len(aws.calls)
    assert backend.poll_all(HANDLES) == expected
    assert calls(aws, before).count("DescribeTrainingJob") == len(HANDLES)


def test_an_answer_in_part_is_better_than_none(aws: Emulator, backend: SageMakerBackend) -> None:
    aws.faults.refuse("DescribeTrainingJob", "ThrottlingException", 400, "rate exceeded", times=None)
    assert backend.poll_all(HANDLES).keys() == {*HANDLES[:4], HANDLES[7]}


def test_no_answer_at_all_is_unreachable(aws: Emulator, backend: SageMakerBackend) -> None:
    aws.faults.refuse("ListTrainingJobs", "ThrottlingException", 400, "rate exceeded", times=None)
    with pytest.raises(UnreachableError):
        backend.poll_all(HANDLES)
    aws.faults.refuse("DescribeTrainingJob", "ThrottlingException", 400, "rate exceeded", times=None)
    with pytest.raises(UnreachableError):
        backend.poll_all(HANDLES[:1])
