"""The CreateTrainingJob request: the whole input carried to the byte, a fingerprint of all but the tags, gaps named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws import layout, request_check, training_job
from gpuplan.aws.training_job import FINGERPRINT_TAG, Machine, Site
from gpuplan.core.frozen import Unknown
from gpuplan.planning.plan import Limits
from gpuplan_job.contract import BatchSpec, JobInput, LrTarget, SweepSpec, TrainSpec, WorkloadSpec
from gpuplan_job.document import canonical_json, sha256_hex

RUN = "digits-0000000000001"
WORKLOAD = WorkloadSpec(
    model="resnet18",
    data="digits",
    optimizer="sgd",
    momentum=0.9,
    weight_decay=1e-4,
    schedule="onecycle",
    label_smoothing=0.0,
    epochs=5,
    precision="16-mixed",
    seed=0,
    workers=4,
)
SWEEP = SweepSpec(
    runs=3,
    iterations=100,
    lr_min=1e-5,
    lr_max=10.0,
    reference_steps=1000,
    noise_micro_batches=16,
    target=LrTarget("edge", "noise-scale", 512, 125),
)
TRAINING = JobInput(
    run_id=RUN,
    step="train",
    attempt=1,
    plan_id="a" * 64,
    workload=WORKLOAD,
    batch=BatchSpec(64, 8, 1),
    device="cuda",
    train=TrainSpec(0.05),
)
FINDING = replace(TRAINING, step="lr-find", batch=BatchSpec(64, 1, 1), sweep=SWEEP, train=None)
SITE = Site(
    bucket="gpuplan-123456789012",
    role_arn="arn:aws:iam::123456789012:role/gpuplan-execution",
    image="763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.14",
    code="gpuplan/code/" + "c" * 64 + "/",
    network_isolation=True,
)
NOWHERE = replace(SITE, bucket=None, role_arn=Unknown(unknown="no role"), image=Unknown(unknown="no image"))
MACHINE = Machine("ml.g5.12xlarge", 2, spot=False, limits=Limits(max_runtime_seconds=3600, volume_gb=30))
SPOT = replace(MACHINE, spot=True, limits=Limits(max_runtime_seconds=3600, max_wait_seconds=90_000, volume_gb=30))
EXPIRES = datetime(2026, 11, 24, 12, 30, 15, tzinfo=UTC)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORKLOADS = st.builds(
    WorkloadSpec,
    model=st.text(max_size=60),
    data=st.text(max_size=60),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    momentum=FINITE,
    weight_decay=FINITE,
    schedule=st.sampled_from(["onecycle", "constant"]),
    label_smoothing=FINITE,
    epochs=st.integers(),
    precision=st.sampled_from(["fp32", "16-mixed", "bf16-mixed"]),
    seed=st.integers(),
    workers=st.integers(),
    image_size=st.none() | st.integers(),
)
"""Whatever text a user may have got past the settings, quotes and control characters among it."""
INPUTS = st.builds(
    lambda workload, task, attempt: replace(TRAINING, workload=workload, attempt=attempt, **task),
    WORKLOADS,
    st.one_of(st.builds(lambda lr: {"train": TrainSpec(lr)}, FINITE), st.just({"train": None, "sweep": SWEEP})),
    st.integers(1, 99),
)


def body(
    job: JobInput = TRAINING, machine: Machine = MACHINE, site: Site = SITE, data: str | None = None
) -> dict[str, Any]:
    name = f"{job.run_id}-{job.step}-{job.attempt}"
    place = layout.attempt_place("gpuplan", job.run_id, job.step, job.attempt)
    return training_job.request(name, job, machine, site, place, data)


def tags(request: dict[str, Any], job: JobInput = TRAINING, owner: str = "ada") -> dict[str, Any]:
    return {tag["Key"]: tag["Value"] for tag in training_job.tags(job, request, owner, EXPIRES)}


def as_the_container_reads(parameters: dict[str, str]) -> str:
    """Return the input's text as the job puts it together from SageMaker's hyperparameters file."""
    return canonical_json({key: json.loads(value) for key, value in parameters.items()})


@given(INPUTS)
def test_the_input_comes_out_of_the_hyperparameters_to_the_byte(job: JobInput) -> None:
    parameters = training_job.hyperparameters(job)
    assert all(isinstance(value, str) for value in parameters.values())
    # SageMaker keeps them as JSON in between.
    kept = json.loads(json.dumps(parameters))
    text = as_the_container_reads(kept)
    assert text == job.to_json()
    assert sha256_hex(text) == sha256_hex(job.to_json())
    assert JobInput.from_json(text) == job


@pytest.mark.parametrize("job", [TRAINING, FINDING], ids=["train", "lr-find"])
def test_a_request_says_where_what_and_for_how_long(job: JobInput) -> None:
    request = body(job)
    root = f"s3://{SITE.bucket}/gpuplan/runs/{RUN}/{job.step}"
    assert request["TrainingJobName"] == f"{RUN}-{job.step}-1"
    assert request["AlgorithmSpecification"]["ContainerEntrypoint"] == [
        "python3",
        "/opt/ml/input/data/code/payload.pyz",
    ]
    assert request["OutputDataConfig"] == {"S3OutputPath": f"{root}/1/output/"}
    assert request["CheckpointConfig"] == {"S3Uri": f"{root}/checkpoints/", "LocalPath": "/opt/ml/checkpoints"}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    assert request["ResourceConfig"] == {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}
    assert request["EnableNetworkIsolation"] is True
    assert request["EnableManagedSpotTraining"] is False
    assert request["RoleArn"] == SITE.role_arn
    assert json.loads(json.dumps(request)) == request


def test_each_instance_is_told_how_many_processes_are_its_own() -> None:
    assert body()["Environment"] == {"GPUPLAN_GPUS": "4", "GPUPLAN_ATTEMPT": "1"}
    assert body(machine=replace(MACHINE, instances=1))["Environment"]["GPUPLAN_GPUS"] == "8"
    assert body(FINDING, replace(MACHINE, instances=1))["Environment"]["GPUPLAN_GPUS"] == "1"


def test_code_has_a_channel_and_so_have_data_on_s3() -> None:
    def channels(request: dict[str, Any]) -> dict[str, str]:
        return {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"] for c in request["InputDataConfig"]}

    code = f"s3://{SITE.bucket}/{SITE.code}"
    assert channels(body()) == {"code": code}
    assert channels(body(data="s3://flowers/all/")) == {"code": code, "training": "s3://flowers/all/"}


def test_a_range_test_reads_its_data_as_it_opens_them_and_everything_else_is_copied_first() -> None:
    def modes(request: dict[str, Any]) -> dict[str, str]:
        return {channel["ChannelName"]: channel["InputMode"] for channel in request["InputDataConfig"]}

    data = "s3://flowers/all/"
    assert modes(body(FINDING, data=data)) == {"code": "File", "training": "FastFile"}
    assert modes(body(TRAINING, data=data)) == {"code": "File", "training": "File"}
    assert request_check.faults(body(FINDING, data=data)) == []


def test_spot_sends_both_limits() -> None:
    request = body(machine=SPOT)
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 90_000}


def test_a_request_names_nothing_that_it_does_not_know() -> None:
    request = body(site=NOWHERE)
    missing = dict(request_check.unknowns(request))
    assert missing["RoleArn"] == "no role"
    assert missing["AlgorithmSpecification.TrainingImage"] == "no image"
    uris = {reason for path, reason in missing.items() if "S3" in path}
    assert len(uris) == 3
    assert all(reason.startswith("s3://BUCKET/gpuplan/") and "--bucket" in reason for reason in uris)
    assert list(request_check.unknowns(body())) == []


OTHERWISE: dict[str, dict[str, Any]] = {
    "learning rate": body(replace(TRAINING, train=TrainSpec(0.06))),
    "attempt": body(replace(TRAINING, attempt=2)),
    "run": body(replace(TRAINING, run_id="digits-0000000000002")),
    "epochs": body(replace(TRAINING, workload=replace(WORKLOAD, epochs=6))),
    "instance type": body(machine=replace(MACHINE, instance_type="ml.g6.12xlarge")),
    "instances": body(machine=replace(MACHINE, instances=1)),
    "spot": body(machine=SPOT),
    "time limit": body(machine=replace(MACHINE, limits=Limits(max_runtime_seconds=3601, volume_gb=30))),
    "volume": body(machine=replace(MACHINE, limits=Limits(max_runtime_seconds=3600, volume_gb=31))),
    "bucket": body(site=replace(SITE, bucket="other-bucket")),
    "role": body(site=replace(SITE, role_arn="arn:aws:iam::123456789012:role/other")),
    "image": body(site=replace(SITE, image="other:1")),
    "code": body(site=replace(SITE, code="gpuplan/code/" + "d" * 64 + "/")),
    "network": body(site=replace(SITE, network_isolation=False)),
    "data": body(data="s3://flowers/all/"),
}


@pytest.mark.parametrize("change", OTHERWISE)
def test_another_request_has_another_fingerprint(change: str) -> None:
    fingerprints = {name: tags(request)[FINGERPRINT_TAG] for name, request in OTHERWISE.items()}
    assert fingerprints[change] != tags(body())[FINGERPRINT_TAG]
    assert len(set(fingerprints.values())) == len(fingerprints)


@given(st.text(max_size=20), st.datetimes(timezones=st.just(UTC)))
def test_who_launches_it_and_when_does_not_change_the_fingerprint(owner: str, expires: datetime) -> None:
    other = {tag["Key"]: tag["Value"] for tag in training_job.tags(TRAINING, body(), owner, expires)}
    assert other[FINGERPRINT_TAG] == tags(body())[FINGERPRINT_TAG]


@given(st.permutations(list(body())))
def test_the_order_of_keys_does_not_change_the_fingerprint(order: list[str]) -> None:
    request = body()
    assert tags({key: request[key] for key in order}) == tags(request)


def test_every_tag_that_a_sweep_of_the_account_needs_is_there() -> None:
    found = tags(body())
    assert found.pop(FINGERPRINT_TAG) == sha256_hex(canonical_json(body()))
    assert found == {
        "gpuplan:run": RUN,
        "gpuplan:step": "train",
        "gpuplan:attempt": "1",
        "gpuplan:plan": "a" * 64,
        "gpuplan:owner": "ada",
        "gpuplan:expires-at": "2026-11-24T12:30:15Z",
    }


def test_when_a_job_expires_is_told_to_the_second_or_not_known() -> None:
    later = training_job.tags(TRAINING, body(), "ada", EXPIRES + timedelta(days=40))
    assert {"Key": "gpuplan:expires-at", "Value": "2027-01-03T12:30:15Z"} in later
    unknown = {tag["Key"]: tag["Value"] for tag in training_job.tags(TRAINING, body(), "ada", None)}
    assert "submitted" in unknown["gpuplan:expires-at"]["unknown"]


def test_the_learning_rate_stands_where_a_plan_that_has_none_yet_says_so() -> None:
    at: Any = body()
    for part in training_job.LEARNING_RATE_AT:
        at = at[part]
    assert json.loads(at) == asdict(TrainSpec(0.05))


@pytest.mark.parametrize(
    ("data", "modes"),
    [
        ("imagefolder:s3://bucket/x?train=9&val=9&classes=2&bytes=9", ["FastFile", "File"]),
        ("webdataset:s3://bucket/x?train=9&val=9&classes=2&bytes=9&shards=1", ["File", "File"]),
    ],
)
def test_only_single_files_are_read_from_s3_as_they_are_opened(data: str, modes: list[str]) -> None:
    workload = replace(TRAINING.workload, data=data)
    jobs = [replace(TRAINING, workload=workload, train=None, sweep=SWEEP), replace(TRAINING, workload=workload)]
    assert [body(job, data="s3://bucket/x/")["InputDataConfig"][1]["InputMode"] for job in jobs] == modes
