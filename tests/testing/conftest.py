"""What the emulator's own tests share: a request that AWS accepts, an emulator without processes, one with them."""

from __future__ import annotations

import sys
import time
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gpuplan.testing import Emulator, EmulatorError, JobView, Timing, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET, ROLE = "gpuplan-test", "gpuplan-execution"


class MakeRequest(Protocol):
    """Make a CreateTrainingJob body that is accepted, changed at dotted paths; None takes a member away."""

    def __call__(self, name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]: ...


@pytest.fixture(scope="session")
def make_request() -> MakeRequest:
    def make(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/code/"}
        body: dict[str, Any] = {
            "TrainingJobName": name,
            "RoleArn": f"arn:aws:iam::123456789012:role/{ROLE}",
            "AlgorithmSpecification": {
                "TrainingImage": "1.dkr.ecr.us-east-1.amazonaws.com/any:1",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/main.py"],
            },
            "InputDataConfig": [{"ChannelName": "code", "DataSource": {"S3DataSource": source}}],
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/{name}/output/"},
            "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/{name}/checkpoints/"},
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 600},
            "EnableNetworkIsolation": True,
        }
        body = deepcopy(body)
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            place = body
            for parent in parents:
                place = place[parent]
            if value is None:
                del place[last]
            else:
                place[last] = value
        return body

    return make


class Wait(Protocol):
    """Wait until a job ended, or is in one of some secondary states."""

    def __call__(self, aws: Emulator, name: str, *states: str, seconds: float = 20.0) -> JobView: ...


@pytest.fixture(scope="session")
def wait() -> Wait:
    def until(aws: Emulator, name: str, *states: str, seconds: float = 20.0) -> JobView:
        deadline = time.monotonic() + seconds
        while True:
            job = aws.job(name)
            if job.secondary_status in states or job.status in {"Completed", "Failed", "Stopped"}:
                return job
            assert time.monotonic() < deadline, job
            time.sleep(0.02)

    return until


@pytest.fixture(scope="module")
def _held_emulator() -> Iterator[Emulator]:
    with Emulator(execute=False) as aws:
        aws.prepare(BUCKET, ROLE)
        aws.client("s3").put_object(Bucket=BUCKET, Key="code/main.py", Body=b"")
        yield aws


@pytest.fixture
def held(_held_emulator: Emulator) -> Iterator[Emulator]:
    yield _held_emulator
    _held_emulator.faults.clear()


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    try:
        sandbox.check()
    except EmulatorError as error:
        pytest.skip(str(error))
    timing = Timing(starting_seconds=0.02, restart_seconds=0.05, stop_grace_seconds=1, checkpoint_poll_seconds=0.1)
    with Emulator(python=sys.executable, timing=timing, max_processes=2) as aws:
        aws.prepare(BUCKET, ROLE)
        yield aws
