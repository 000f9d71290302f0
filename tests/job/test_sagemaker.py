"""The container entry point with real processes below a folder of its own: what it reads, starts and leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan_job import sagemaker
from gpuplan_job.contract import BatchSpec, Failure, JobInput, LrTarget, SweepSpec
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCEEDS = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[2])
(folder / "checkpoints" / "environment.json").write_text(json.dumps(dict(os.environ)))
(folder / "checkpoints" / "best.ckpt").write_text("weights")
(folder / "train_result.json").write_text(json.dumps({"input": pathlib.Path(sys.argv[1]).read_text()}))
"""
FAILS = """
import pathlib, sys
from gpuplan_job.contract import JobInput
from gpuplan_job.failures import JobError, write_failure
job = JobInput.from_json(pathlib.Path(sys.argv[1]).read_bytes())
write_failure(pathlib.Path(sys.argv[2]), job, JobError("data", "no images. " * 150, "add some"), rank=0)
raise SystemExit(1)
"""
WAITS = """
import pathlib, sys, time
(pathlib.Path(sys.argv[2]) / "checkpoints" / "started").touch()
time.sleep(60)
"""
FILLS_THE_DISK = """
import pathlib, sys
(pathlib.Path(sys.argv[2]) / "checkpoints" / "waste").write_bytes(bytes(10**9))
"""


class Container:
    """A folder like /opt/ml, and the processes started on it."""

    def __init__(self, root: Path, path: Path, job_input: JobInput, hosts: int = 1, host: int = 1) -> None:
        self.root = root
        self.path = path
        self.job_input = job_input
        document = json.loads(job_input.to_json())
        self.write("hyperparameters", {key: canonical_json(value) for key, value in document.items()})
        names = [f"algo-{number}" for number in range(hosts, 0, -1)]
        self.write("resourceconfig", {"hosts": names, "current_host": f"algo-{host}", "network_interface_name": "lo"})
        self.write("inputdataconfig", {"code": {"TrainingInputMode": "File"}})
        self.environment = {"GPUPLAN_GPUS": str(job_input.batch.world_size // hosts), "GPUPLAN_ATTEMPT": "1"}

    def write(self, name: str, content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        path = self.root / "input" / "config" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def start(self) -> subprocess.Popen[str]:
        settings = {**os.environ, "PYTHONPATH": str(self.path), "PYTHONSAFEPATH": "1", **self.environment}
        command = [sys.executable, "-m", "gpuplan_job.sagemaker", str(self.root)]
        return subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)

    def run(self) -> tuple[int, str]:
        process = self.start()
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def published(self, name: str) -> str:
        return (self.root / "checkpoints" / "results" / "1" / name).read_text()

    @property
    def results(self) -> list[str]:
        return sorted(path.name for path in (self.root / "checkpoints" / "results" / "1").iterdir())

    @property
    def exit(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.published("exit.json"))
        return found

    @property
    def failure(self) -> Failure:
        return Failure.from_json(self.published("failure.json"))

    @property
    def reason(self) -> str:
        return (self.root / "output" / "failure").read_text()


@pytest.fixture
def container(payload: Callable[[str], Path], tmp_path: Path, train_input: JobInput) -> Callable[[str], Container]:
    return lambda script: Container(tmp_path / "ml", payload(script), train_input)


def test_a_job_leaves_its_result_with_digests_and_its_checkpoints(container: Callable[[str], Container]) -> None:
    job = container(SUCCEEDS)
    code, said = job.run()
    assert code == 0, said
    assert job.results == ["exit.json", "train_result.json"]
    result = job.published("train_result.json")
    assert job.exit == {"code": 0, "files": {"train_result.json": sha256_hex(result)}}
    assert json.loads(result)["input"] == job.job_input.to_json()
    assert (job.root / "checkpoints" / "best.ckpt").read_text() == "weights"
    assert (job.root / "output" / "gpuplan-job" / "logs").resolve() == job.root / "checkpoints" / "logs"
    assert not (job.root / "output" / "failure").exists()
    assert "host algo-1, 1 of 1: 1 processes here" in said


def test_no_process_of_a_job_sees_credentials(container: Callable[[str], Container]) -> None:
    job = container(SUCCEEDS)
    secrets = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    )
    job.environment |= dict.fromkeys(secrets, "secret") | {"AWS_REGION": "us-east-1"}
    assert job.run()[0] == 0
    seen = json.loads((job.root / "checkpoints" / "environment.json").read_text())
    assert "secret" not in seen.values()
    assert seen["AWS_REGION"] == "us-east-1"
    assert seen["AWS_EC2_METADATA_DISABLED"] == "true"


def test_the_training_channel_reaches_the_job_only_where_there_is_one(container: Callable[[str], Container]) -> None:
    job = container(SUCCEEDS)
    job.environment["GPUPLAN_TRAINING_CHANNEL"] = "/somebody/elses"
    job.run()
    seen = job.root / "checkpoints" / "environment.json"
    assert "GPUPLAN_TRAINING_CHANNEL" not in json.loads(seen.read_text())
    job.write("inputdataconfig", {"code": {}, "training": {}})
    job.run()
    assert json.loads(seen.read_text())["GPUPLAN_TRAINING_CHANNEL"] == str(job.root / "input" / "data" / "training")


def test_a_job_that_fails_says_why_to_the_client_and_to_sagemaker(container: Callable[[str], Container]) -> None:
    job = container(FAILS)
    assert job.run()[0] == 11
    assert job.failure.kind == "data"
    assert job.exit == {"code": 11, "files": {"failure.json": sha256_hex(job.published("failure.json"))}}
    assert job.reason == ("no images. " * 150)[:1000]


def test_a_stop_is_passed_on_and_published(container: Callable[[str], Container]) -> None:
    job = container(WAITS)
    process = job.start()
    while not (job.root / "checkpoints" / "started").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == job.exit["code"] == 143
    assert (job.failure.kind, job.failure.run_id) == ("killed", "run-1")
    assert job.reason.startswith("the job was stopped by SIGTERM. ")


def test_a_restart_begins_anew_beside_the_checkpoints_that_were_brought_back(
    container: Callable[[str], Container],
) -> None:
    job = container(FAILS)
    job.run()
    checkpoint = job.root / "checkpoints" / "last-0003.ckpt"
    checkpoint.write_text("weights")
    (job.path / "gpuplan_job" / "train.py").write_text(SUCCEEDS)
    assert job.run()[0] == 0
    assert job.results == ["exit.json", "train_result.json"]
    assert job.exit["code"] == 0
    assert checkpoint.read_text() == "weights"


@pytest.mark.parametrize("name", ["hyperparameters", "resourceconfig", "inputdataconfig"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_damaged_configuration_is_a_failure_in_words(
    container: Callable[[str], Container], name: str, damage: Callable[[Path], object]
) -> None:
    job = container(SUCCEEDS)
    damage(job.root / "input" / "config" / f"{name}.json")
    code, said = job.run()
    assert code == 1
    assert "Traceback" not in said
    assert job.failure.kind == "usage"
    assert f"{name}.json cannot be used" in job.failure.message
    assert job.reason.startswith(f"SageMaker's {name}.json cannot be used")
    assert job.exit["code"] == 1


def test_an_input_that_is_no_job_is_a_failure_in_words(container: Callable[[str], Container]) -> None:
    job = container(SUCCEEDS)
    job.write("hyperparameters", {"schema": '"gpuplan.job-input/9"'})
    assert job.run()[0] == 1
    assert job.failure.kind == "usage"
    assert "expected schema" in job.reason


def test_other_processes_than_the_plan_says_are_refused(container: Callable[[str], Container]) -> None:
    job = container(SUCCEEDS)
    job.environment["GPUPLAN_GPUS"] = "4"
    assert job.run()[0] == 1
    assert job.failure.message == "1 instances of 4 processes make 4, the plan says 1"


def test_a_host_that_is_not_the_first_speaks_only_of_its_own_failure(
    payload: Callable[[str], Path], tmp_path: Path, train_input: JobInput
) -> None:
    two = replace(train_input, batch=BatchSpec(8, 2, 1))
    job = Container(tmp_path / "ml", payload(SUCCEEDS), two, hosts=2, host=2)
    results = job.root / "checkpoints" / "results" / "1"
    results.mkdir(parents=True)
    (results / "exit.json").write_text("the first host's")
    (results / "failure-algo-2.json").write_text("of an earlier start")
    job.environment["GPUPLAN_GPUS"] = "2"
    assert job.run()[0] == 1
    assert job.results == ["exit.json", "failure-algo-2.json"]
    assert job.published("exit.json") == "the first host's"
    assert "2 instances of 2 processes make 4" in Failure.from_json(job.published("failure-algo-2.json")).message
    assert "2 instances of 2 processes make 4" in job.reason


def test_a_results_folder_that_cannot_be_written_still_gives_a_reason(container: Callable[[str], Container]) -> None:
    job = container(SUCCEEDS)
    job.root.joinpath("checkpoints").write_text("a file where the folder should be")
    code, said = job.run()
    assert code == 1
    assert "Traceback" not in said
    assert "checkpoints" in job.reason


ON_A_SMALL_DISK = """
cp -r "$1/input" "$3.input" && mkdir -p "$1$4" && mount -t tmpfs -o size=1m tmpfs "$1$4" || exit 77
[ -d "$1/input" ] || cp -r "$3.input" "$1/input"
"$2" -m gpuplan_job.sagemaker "$1"
code=$?
cp -r "$1/checkpoints/results/1" "$3"
cp "$1/output/failure" "$3"
exit $code
"""


@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="mounts a small filesystem")
@pytest.mark.parametrize("mounted", ["", "/checkpoints"], ids=["the whole volume", "the checkpoints"])
def test_a_full_disk_is_reported_from_the_room_kept_free(container: Callable[[str], Container], mounted: str) -> None:
    job = container(FILLS_THE_DISK)
    kept = job.root.parent / "kept"
    settings = {**os.environ, "PYTHONPATH": str(job.path), "PYTHONSAFEPATH": "1", **job.environment}
    arguments = [str(job.root), sys.executable, str(kept), mounted]
    command = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, "sh", *arguments]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to mount")
    assert done.returncode == 14
    assert Failure.from_json((kept / "failure.json").read_bytes()).kind == "disk"
    assert json.loads((kept / "exit.json").read_text())["code"] == 14
    assert (kept / "failure").read_text().startswith("no space is left")


def test_the_lr_range_test_of_a_job_leaves_its_curves(
    payload: Callable[[str], Path], tmp_path: Path, train_input: JobInput
) -> None:
    sweep = replace(
        train_input, train=None, sweep=SweepSpec(1, 10, 1e-4, 1.0, 100, 0, LrTarget("edge", "noise-scale", 256, 100))
    )
    job = Container(tmp_path / "ml", payload(""), sweep)
    (job.path / "gpuplan_job" / "lr_find.py").write_text(SUCCEEDS.replace("train_result", "lr_result"))
    assert job.run()[0] == 0
    assert job.results == ["exit.json", "lr_result.json"]


def test_credentials_are_known_by_their_names() -> None:
    kept = sagemaker.without_credentials({"PATH": "/bin", "AWS_DEFAULT_PROFILE": "me", "AWS_REGION": "eu-west-1"})
    assert kept == {"PATH": "/bin", "AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"}
