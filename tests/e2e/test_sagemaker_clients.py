"""Clients that leave, come back, meet each other or cannot write, before an emulated SageMaker that counts the jobs.

Signals, detaching, two drivers of one run, cancelling from elsewhere, a full disk; all with the real command line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.aws.s3 import Bucket
from gpuplan.aws.session import Session
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.core.errors import MayBeBillingError
from gpuplan.engine.cancel import cancel
from gpuplan.store.mirror import MirroredStore

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from conftest import FakeClock
    from e2e.conftest import Client, Player
    from gpuplan.store.sqlite import RunStore

    Play = Callable[[], AbstractContextManager[Player]]
    Started = list[subprocess.Popen[str]]

LAUNCH = ("launch", "--instance", "g5", "--yes")
TRAIN = (*LAUNCH, "--pipeline", "train", "--lr", "0.05")
SLOW = {"GPUPLAN_POLL_SECONDS": "20"}
PATIENCE = 120.0


@pytest.fixture
def play(scripted: Client) -> Play:
    """Let jobs end well by themselves from now on."""
    players: Any = sys.modules[type(scripted).__module__]
    return lambda: players.Player(scripted.aws)


@pytest.fixture
def ended() -> Iterator[Started]:
    """Processes that are not to outlive the test."""
    started: Started = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.05)


def head(client: Client) -> dict[str, Any]:
    """Return the head of the only run in the bucket, an empty one before it is there."""
    s3 = client.aws.client("s3")
    listed = s3.list_objects_v2(Bucket=client.bucket, Prefix="gpuplan/runs/").get("Contents", [])
    keys = [entry["Key"] for entry in listed if entry["Key"].endswith("/state.json")]
    if not keys:
        return {"run_id": "", "events": []}
    (key,) = keys
    document: dict[str, Any] = json.loads(s3.get_object(Bucket=client.bucket, Key=key)["Body"].read())
    return document


def looks(client: Client) -> int:
    """Return how many states of jobs were recorded; each client records the first that it sees."""
    return sum(item["event"]["kind"] == "observed" for item in head(client)["events"])


def drive(client: Client, ended: Started, *arguments: str) -> subprocess.Popen[str]:
    """Start a client and return once it waits for its job."""
    before = looks(client)
    process = client.start(*arguments)
    ended.append(process)

    def waits() -> bool:
        assert process.poll() is None, process.communicate()
        return looks(client) > before

    wait_for(waits, "a look at the job")
    return process


def killed(client: Client, point: str) -> bool:
    """Tell whether a launch died at a failpoint, by SIGKILL."""
    return client.run(*TRAIN, **SLOW, GPUPLAN_FAILPOINT=f"{point}:kill").returncode == -signal.SIGKILL


def signalled(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


def test_ctrl_c_a_kill_and_a_closed_terminal_leave_the_job_running_and_any_machine_goes_on(
    scripted: Client, play: Play, ended: Started, tmp_path: Path
) -> None:
    launched = drive(scripted, ended, *LAUNCH)
    run_id = head(scripted)["run_id"]
    code, err = signalled(launched, signal.SIGINT)
    assert code == 130
    assert "detached: lr-find goes on without this client; train starts only after resume" in err
    assert f"gpuplan resume {run_id}" in err
    assert f"gpuplan cancel {run_id}" in err
    for number in (signal.SIGTERM, signal.SIGHUP):
        code, err = signalled(drive(scripted, ended, "resume"), number)
        assert code == 130
        assert "detached: lr-find goes on" in err
    (job,) = scripted.aws.jobs()
    assert job.status == "InProgress"
    there = scripted.elsewhere(tmp_path / "there")
    with play():
        assert there.json("resume", run_id)["state"] == "succeeded", "whoever detached let go of the run"
    assert len(scripted.aws.jobs()) == 2


def test_ctrl_c_twice_ends_the_client_at_once_and_loses_nothing(scripted: Client, play: Play, ended: Started) -> None:
    launched = drive(scripted, ended, *TRAIN)
    scripted.aws.faults.delay("s3:PutObject", 4, where="state.json")
    writes = scripted.aws.calls_of("PutObject")
    launched.send_signal(signal.SIGINT)
    wait_for(lambda: scripted.aws.calls_of("PutObject") > writes, "the client letting go of the run")
    begun = time.monotonic()
    code, _ = signalled(launched, signal.SIGINT)
    assert code == -signal.SIGINT
    assert time.monotonic() - begun < 3, "it did not wait for the write"
    assert [job.status for job in scripted.aws.jobs()] == ["InProgress"]
    with play():
        assert scripted.json("resume")["state"] == "succeeded"
    assert len(scripted.aws.jobs()) == 1


def test_ctrl_c_in_the_middle_of_the_create_call_is_followed_by_one_job(
    scripted: Client, play: Play, ended: Started
) -> None:
    scripted.aws.faults.delay("CreateTrainingJob", 3)
    process = scripted.start(*TRAIN)
    ended.append(process)
    wait_for(lambda: scripted.aws.calls_of("CreateTrainingJob") > 0, "the call")
    code, err = signalled(process, signal.SIGINT)
    assert code == 130
    assert "detached" in err
    with play():
        assert scripted.json("resume")["state"] == "succeeded"
    assert len(scripted.aws.jobs()) == 1


def test_of_clients_that_resume_a_run_at_once_one_drives_it(
    scripted: Client, play: Play, ended: Started, tmp_path: Path
) -> None:
    detached = scripted.run(*TRAIN, "--detach")
    assert detached.returncode == 130
    assert "detached: train goes on" in detached.stderr
    run_id = head(scripted)["run_id"]
    there, third = scripted.elsewhere(tmp_path / "there"), scripted.elsewhere(tmp_path / "third")
    clients = [machine.start("resume", run_id) for machine in (there, there, third)]
    ended.extend(clients)
    wait_for(lambda: sum(client.poll() is not None for client in clients) == 2, "two clients giving up")
    with play():
        errors = [client.communicate(timeout=PATIENCE)[1] for client in clients]
    assert sorted(client.returncode for client in clients) == [0, 8, 8]
    assert sum("is being driven by" in error for error in errors) == 2
    assert len(scripted.aws.jobs()) == 1


def test_a_driver_that_slept_through_a_take_over_is_fenced_and_creates_nothing(
    scripted: Client, play: Play, ended: Started, tmp_path: Path
) -> None:
    asleep = scripted.start(*LAUNCH, GPUPLAN_FAILPOINT="aws/after-code-upload:stop")
    ended.append(asleep)
    os.waitid(os.P_PID, asleep.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert scripted.aws.calls_of("CreateTrainingJob") == 0
    run_id = head(scripted)["run_id"]
    there = scripted.elsewhere(tmp_path / "there")
    assert there.run("resume", run_id).returncode == 8
    with play():
        assert there.run("resume", run_id, "--take-over").returncode == 0
    code, err = signalled(asleep, signal.SIGCONT)
    assert code == 8, err
    assert "fenced" in err
    assert [job.name for job in scripted.aws.jobs()] == [f"{run_id}-lr-find-1", f"{run_id}-train-1"]


def test_a_cancel_from_another_machine_ends_the_job_and_its_driver(
    scripted: Client, ended: Started, tmp_path: Path
) -> None:
    driver = drive(scripted, ended, *LAUNCH)
    run_id = head(scripted)["run_id"]
    there = scripted.elsewhere(tmp_path / "there")
    cancelled = there.run("cancel", run_id)
    _, err = driver.communicate(timeout=PATIENCE)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "stopped, nothing of it is left" in cancelled.stderr
    assert driver.returncode == 130, err
    (job,) = scripted.aws.jobs()
    assert job.status == "Stopped"
    assert there.json("status", run_id)["state"] == scripted.json("status", run_id)["state"] == "cancelled"


class Canceller:
    """Another machine's `cancel` in this process, where time passes when it waits."""

    def __init__(self, client: Client, clock: FakeClock) -> None:
        session = Session("us-east-1")
        self.store: RunStore = MirroredStore(client.home, clock, Bucket(session, client.bucket), "gpuplan")
        self._clock = clock
        self._session = session
        self._wheels = client.home / "wheels"

    def cancel(self, run_id: str) -> str:
        """Cancel the run and return its state."""
        self.store.resolve(run_id)
        aws = self.store.record(run_id).plan.provenance.settings.aws
        backend = SageMakerBackend(aws, self._session, self._wheels, self._clock.sleep)
        return cancel(run_id, self.store, backend, self._clock).state


@pytest.fixture
def canceller(scripted: Client, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canceller:
    for name, value in scripted.environment.items():
        monkeypatch.setenv(name, value)
    return Canceller(scripted.elsewhere(tmp_path / "there"), clock)


def test_a_cancel_of_a_run_whose_driver_died_on_another_machine_takes_it_over(
    scripted: Client, canceller: Canceller, clock: FakeClock
) -> None:
    assert killed(scripted, "while-polling")
    assert canceller.cancel(head(scripted)["run_id"]) == "cancelled"
    assert clock.elapsed < 600, "not until the dead driver's lease is over"
    assert [job.status for job in scripted.aws.jobs()] == ["Stopped"]


def test_a_cancel_does_not_take_over_while_a_create_call_may_be_on_its_way(
    scripted: Client, canceller: Canceller
) -> None:
    assert killed(scripted, "after-intent")
    run_id = head(scripted)["run_id"]
    with pytest.raises(MayBeBillingError, match="could not be confirmed") as unsure:
        canceller.cancel(run_id)
    assert f"{run_id}-train-1" in unsure.value.why
    assert canceller.store.record(run_id).state == "cancelling"


def test_a_job_that_does_not_stop_is_said_to_bill_and_the_next_cancel_confirms(
    scripted: Client, canceller: Canceller
) -> None:
    assert scripted.run(*TRAIN, "--detach", **SLOW).returncode == 130
    run_id = head(scripted)["run_id"]
    scripted.aws.advance(f"{run_id}-train-1", "Training")
    scripted.aws.faults.stuck_stopping(seconds=3600)
    with pytest.raises(MayBeBillingError, match=f"{run_id}-train-1 is still stopping") as stuck:
        canceller.cancel(run_id)
    assert stuck.value.exit_code == 10
    assert "gpuplan cancel" in stuck.value.fix
    assert canceller.store.record(run_id).state == "cancelling"
    scripted.aws.faults.clear()
    assert scripted.run("cancel").returncode == 0
    assert scripted.json("status")["state"] == "cancelled"


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_machine_that_cannot_write_spends_nothing(
    scripted: Client, ended: Started, disk: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "home" if disk == "full" else tmp_path / "file" / "home"
    process = scripted.start(*TRAIN, GPUPLAN_HOME=str(home))
    ended.append(process)
    if disk == "full":
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, err
    assert "GPUPLAN_HOME" in err
    assert scripted.aws.calls_of("CreateTrainingJob") == 0
    kinds = [item["event"]["kind"] for item in head(scripted)["events"]]
    assert kinds in ([], ["planned"]), "a head without a job at most: it is written before its copy here"
