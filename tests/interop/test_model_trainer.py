from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sagemaker.train", reason="the `sagemaker` extra is not installed")

import boto3
from moto.server import ThreadedMotoServer
from sagemaker.core.helper.session_helper import Session

from gpuplan.aws import layout, training_job
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.interop import model_trainer_from_request
from gpuplan.planning.plan import Limits
from gpuplan_job.contract import BatchSpec, JobInput, LrTarget, SweepSpec, TrainSpec, WorkloadSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGION = "eu-west-1"
NAME = "train-0123456789abc-train-1"
ROLE = "arn:aws:iam::123456789012:role/gpuplan-execution"
IMAGE = f"763104351884.dkr.ecr.{REGION}.amazonaws.com/pytorch:2.14-cu133-amzn2023-sagemaker"
PLACE = layout.attempt_place("gpuplan", "train-0123456789abc", "train", 1)
DATA = "s3://data/images"


def job(model: str = "resnet18") -> JobInput:
    workload = WorkloadSpec(model, "imagefolder:" + DATA, "sgd", 0.9, 1e-4, "onecycle", 0.1, 2, "16-mixed", 0, 4)
    return JobInput(
        "train-0123456789abc", "train", 1, "plan", workload, BatchSpec(32, 8, 1), "auto", train=TrainSpec(0.05)
    )


def finding() -> JobInput:
    """A range test: its data channel is read from S3 as the job opens it."""
    target = LrTarget("edge", "noise-scale", 256, 13)
    sweep = SweepSpec(3, 60, 1e-5, 10.0, reference_steps=100, noise_micro_batches=16, target=target)
    return replace(job(), step="lr-find", batch=BatchSpec(32, 1, 1), train=None, sweep=sweep)


def rendered(
    *,
    spot: bool = False,
    instances: int = 1,
    role: str | Unknown = ROLE,
    model: str = "resnet18",
    of: JobInput | None = None,
) -> dict[str, Any]:
    """The request that `gpuplan launch` would send."""
    limits = Limits(max_runtime_seconds=7200, max_wait_seconds=93600 if spot else None, volume_gb=75)
    machine = training_job.Machine("ml.g5.12xlarge", instances, spot, limits)
    site = training_job.Site("my-bucket", role, IMAGE, layout.code_folder("gpuplan", "0" * 64), network_isolation=True)
    told = of or job(model)
    body = training_job.request(NAME, told, machine, site, PLACE, DATA)
    return body | {"Tags": training_job.tags(told, body, "me", None)}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def session(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    # Its own bucket has the account's number in the name, and for that the SDK asks STS at its public address.
    return Session(boto_session=boto3.Session(region_name=REGION), default_bucket="sdk-bucket")


def sent(request: dict[str, Any], session: Session) -> dict[str, Any]:
    """Let the SDK start the job for real, against a fake AWS, and return the CreateTrainingJob call it made."""
    calls: list[dict[str, Any]] = []
    session.boto_session.events.register(
        "provide-client-params.sagemaker.CreateTrainingJob", lambda params, **_: calls.append(params)
    )
    model_trainer_from_request(request, session).train(wait=False, logs=False)
    assert len(calls) == 1
    return calls[0]


@pytest.mark.parametrize(("spot", "instances", "of"), [(False, 1, None), (True, 2, None), (False, 1, finding())])
def test_what_the_sdk_sends_is_our_request_but_for_what_it_always_does_itself(
    session: Session, of: JobInput | None, *, spot: bool, instances: int
) -> None:
    ours = rendered(spot=spot, instances=instances, of=of)
    assert ours["InputDataConfig"][1]["InputMode"] == ("FastFile" if of else "File")
    theirs = sent(ours, session)
    for key in (
        "RoleArn",
        "HyperParameters",
        "CheckpointConfig",
        "ResourceConfig",
        "StoppingCondition",
        "EnableManagedSpotTraining",
        "EnableNetworkIsolation",
        "Environment",
    ):
        assert theirs.pop(key) == ours.pop(key), key
    assert theirs.pop("InputDataConfig")[:2] == ours.pop("InputDataConfig")
    assert theirs.pop("OutputDataConfig") == ours.pop("OutputDataConfig") | {"CompressionType": "GZIP"}
    assert theirs.pop("TrainingJobName").startswith(ours.pop("TrainingJobName"))
    algorithm, wanted = theirs.pop("AlgorithmSpecification"), ours.pop("AlgorithmSpecification")
    for key in ("TrainingImage", "TrainingInputMode"):
        assert algorithm[key] == wanted[key]
    tags = theirs.pop("Tags")
    assert tags == [
        tag for tag in ours.pop("Tags") if tag["Key"] != "gpuplan:fingerprint" and isinstance(tag["Value"], str)
    ]
    assert theirs == ours == {}


def test_its_start_script_becomes_the_payload(session: Session) -> None:
    theirs = sent(rendered(), session)
    *_, drivers = theirs["InputDataConfig"]
    assert drivers["ChannelName"] == "sm_drivers"
    bucket, _, prefix = drivers["DataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://").partition("/")
    body = session.boto_session.client("s3").get_object(Bucket=bucket, Key=f"{prefix.rstrip('/')}/sm_train.sh")["Body"]
    script = body.read().decode()
    assert "\nexec python3 /opt/ml/input/data/code/payload.pyz\n" in script


def test_its_start_script_carries_our_hyperparameters_to_the_payload(tmp_path: Path) -> None:
    """The SDK writes each value into a shell file and sources it; what our JSON holds must survive that."""
    import sagemaker.train.container_drivers.scripts.environment as driver

    ours = rendered(model='res$(false)`false`"net\\18')
    lines = tmp_path / "sm_training.env"
    resources = {
        "current_host": "algo-1",
        "current_instance_type": "ml.g5.12xlarge",
        "hosts": ["algo-1"],
        "network_interface_name": "eth0",
    }
    program = (
        "import json, os, sys; sys.path.insert(0, os.path.dirname(os.path.dirname(sys.argv[1]))); import runpy; "
        "driver = runpy.run_path(sys.argv[1]); "
        "driver['set_env'](json.loads(sys.argv[2]), {'code': {}}, json.loads(sys.argv[3]), sys.argv[4])"
    )
    command = [
        sys.executable,
        "-c",
        program,
        driver.__file__,
        json.dumps(resources),
        json.dumps(ours["HyperParameters"]),
        str(lines),
    ]
    subprocess.run(command, check=True, capture_output=True, env={"TRAINING_JOB_NAME": NAME, "PATH": "/usr/bin:/bin"})
    shell = ["bash", "-ec", f'source {lines}; printf %s "$SM_HPS"']
    found = json.loads(subprocess.run(shell, check=True, capture_output=True, text=True).stdout)
    assert found == {key: json.loads(value) for key, value in ours["HyperParameters"].items()}


def test_an_apostrophe_is_refused_because_it_would_kill_the_job(session: Session) -> None:
    with pytest.raises(UsageError, match="cannot carry the apostrophe in workload"):
        model_trainer_from_request(rendered(model="o'net"), session)


def test_a_request_with_something_unknown_makes_no_trainer(session: Session) -> None:
    with pytest.raises(UsageError, match="RoleArn is not known: no role given") as raised:
        model_trainer_from_request(rendered(role=Unknown(unknown="no role given")), session)
    assert "--role" in raised.value.fix
