"""`gpuplan watch --all`: a line a change on stderr, one result on stdout, and no run is touched."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli.app import main
from gpuplan.core.clock import SystemClock
from gpuplan.store import events as ev
from gpuplan.store import lock
from gpuplan.store.sqlite import RunStore
from gpuplan.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakePlan

Capture = pytest.CaptureFixture[str]
WATCH = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", "watch", "--all"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def gpuplan(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def detached(home: Path) -> str:
    """Launch a run on the fake backend, whose job nobody drives; return its id."""
    known = set(run_ids(home))
    gpuplan("launch", "--backend", "fake", "--yes", "--detach")
    (run_id,) = set(run_ids(home)) - known
    return run_id


def run_ids(home: Path) -> list[str]:
    return [path.name for path in home.glob("runs/*")]


@pytest.fixture
def driven(home: Path) -> Iterator[str]:
    """A run that goes on: this test holds its lock as a client would."""
    run_id = detached(home)
    with lock.hold(home / "runs" / run_id, run_id, SystemClock()):
        yield run_id


def test_changes_are_lines_on_stderr_and_the_end_is_a_table_on_stdout(home: Path, capsys: Capture) -> None:
    runs = {detached(home), detached(home)}
    capsys.readouterr()
    assert gpuplan("watch", "--all") == 0
    out, err = capsys.readouterr()
    for run_id in runs:
        states = [line.split("lr-find: ")[1] for line in err.splitlines() if line.startswith(run_id)]
        assert states == ["pending", "starting", "running", "verifying"]
        assert f"gpuplan resume {run_id}" in out
    assert "2 running, not driven here" in out


def test_json_is_one_document_with_every_followed_run(home: Path, capsys: Capture) -> None:
    gpuplan("launch", "--backend", "fake", "--yes")
    run_id = detached(home)
    capsys.readouterr()
    assert gpuplan("watch", "--all", "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gpuplan.watch/1"
    assert [run["run_id"] for run in document["runs"]] == [run_id]
    assert [step["state"] for step in document["runs"][0]["steps"]] == ["verifying", "waiting"]


def test_without_open_runs_it_says_so(home: Path, capsys: Capture) -> None:
    assert gpuplan("watch", "--all") == 0
    assert "no open runs" in capsys.readouterr().out
    assert gpuplan("watch", "--all", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []
    assert not home.exists()


def test_a_run_and_all_at_once_is_refused(home: Path, capsys: Capture) -> None:
    run_id = detached(home)
    assert gpuplan("watch", run_id, "--all") == 2
    assert f"gpuplan watch {run_id}" in capsys.readouterr().err


def test_one_run_is_watched_as_before(home: Path, capsys: Capture) -> None:
    run_id = detached(home)
    capsys.readouterr()
    assert gpuplan("watch", run_id, "-o", "json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == "gpuplan.run/1"
    assert f"no client drives this run: gpuplan resume {run_id}" in err


def test_ctrl_c_ends_the_watch_with_130_and_still_prints_the_document(driven: str) -> None:
    watching = subprocess.Popen([*WATCH, "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stderr is not None
    assert driven in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    (run,) = json.loads(out)["runs"]
    assert (run["run_id"], run["state"], run["goes_on"]) == (driven, "running", True)
    assert "Traceback" not in err


def test_on_a_terminal_a_table_stays_until_the_watch_ends(driven: str) -> None:
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    watching = subprocess.Popen(WATCH, stdout=subprocess.PIPE, stderr=follower, env=environment, text=True)
    os.close(follower)
    shown = ""
    deadline = time.monotonic() + 30
    while f"{driven}" not in shown or "verifying" not in shown:
        assert time.monotonic() < deadline, shown
        shown += os.read(leader, 65536).decode()
    watching.send_signal(signal.SIGINT)
    out, _ = watching.communicate(timeout=30)
    os.close(leader)
    assert watching.returncode == 130
    assert "1 run: 1 verifying" in shown
    assert "instance" in shown
    assert driven in out


class TestOverTwoRegions:
    """Runs whose jobs are on the emulated SageMaker, three in each of two regions; nobody drives them."""

    REGIONS = ("us-east-1", "eu-west-1")

    @pytest.fixture
    def aws(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
        with Emulator(execute=False) as emulator:
            for name, value in emulator.environment().items():
                monkeypatch.setenv(name, value)
            emulator.prepare("us-east-1-jobs", "execution")
            elsewhere = {"LocationConstraint": "eu-west-1"}
            s3 = emulator.client("s3", region="eu-west-1")
            s3.create_bucket(Bucket="eu-west-1-jobs", CreateBucketConfiguration=elsewhere)
            yield emulator

    @pytest.fixture
    def jobs(self, aws: Emulator, home: Path, make_plan: MakePlan) -> list[str]:
        return [self.run(aws, home, make_plan, region, number) for region in self.REGIONS for number in range(3)]

    def run(self, aws: Emulator, home: Path, make_plan: MakePlan, region: str, number: int) -> str:
        """Begin a run with a training job that is in progress; return the job's name."""
        place = {"aws.region": region, "aws.poll_seconds": 0.1}
        plan = make_plan({"launch.instance": "g5", "launch.backend": "sagemaker", **place})
        run_id = f"digits-{region[:2]}{number:011d}"
        name = f"{run_id}-lr-find-1"
        aws.client("sagemaker", region=region).create_training_job(
            TrainingJobName=name,
            AlgorithmSpecification={"TrainingImage": "registry/trainer:1", "TrainingInputMode": "File"},
            RoleArn=f"arn:aws:iam::{aws.account()}:role/execution",
            OutputDataConfig={"S3OutputPath": f"s3://{region}-jobs/"},
            ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            StoppingCondition={"MaxRuntimeInSeconds": 3600},
        )
        aws.advance(name, "Training")
        store = RunStore(home, SystemClock())
        store.create(run_id, ev.Planned(plan=plan))
        handle = f"sagemaker://{region}/{name}"
        store.append(
            run_id, ev.Submitting(step="lr-find", attempt=1, job_name=name, handle=handle, request_sha256="0" * 64)
        )
        store.append(run_id, ev.Submitted(step="lr-find", attempt=1))
        return name

    def test_each_region_is_asked_once_a_look_and_described_is_only_what_has_ended(
        self, aws: Emulator, jobs: list[str], capsys: Capture
    ) -> None:
        before = len(aws.calls)

        def end_all() -> None:
            while aws.calls_of("ListTrainingJobs") < 6:
                time.sleep(0.01)
            for name in jobs:
                aws.fail(name)

        ending = Thread(target=end_all)
        ending.start()
        assert gpuplan("watch", "--all", "-o", "json") == 0
        ending.join()
        document = json.loads(capsys.readouterr().out)
        assert [run["steps"][0]["state"] for run in document["runs"]] == ["failed"] * 6
        called = [call.operation for call in aws.calls[before:]]
        assert set(called) == {"ListTrainingJobs", "DescribeTrainingJob"}
        # Once for each end; a look between the ends may describe the last one of a region before its own.
        assert len(jobs) <= called.count("DescribeTrainingJob") <= 2 * len(jobs)

    def test_a_region_that_refuses_is_given_up_and_decides_the_exit_status(
        self, aws: Emulator, jobs: list[str], capsys: Capture
    ) -> None:
        aws.faults.refuse("ListTrainingJobs", "ExpiredTokenException", 400, "expired", times=None)
        assert gpuplan("watch", "--all") == 3
        out, err = capsys.readouterr()
        assert f"{len(jobs)} running, not driven here" in out
        assert "expired" in err
