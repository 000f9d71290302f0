"""kill -9 of the client at every failpoint of a run on SageMaker, then `resume` here or on another machine.

One run is killed again and again, each time one failpoint further on, by the real command line before an emulator that
counts its jobs. The failpoints are read from the source: one that is added is missed here until it is in a list.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import Client, Player

SOURCE = Path(__file__).resolve().parents[2] / "src" / "gpuplan"
FAILPOINTS = {
    name for path in SOURCE.rglob("*.py") for name in re.findall(r'failpoint\("([a-z/-]+)"\)', path.read_text())
}
LAUNCH = ("launch", "--instance", "g5", "--yes")

OF_A_LAUNCH = ("before-create", "after-planned")
OF_A_STEP = (
    "before-intent",
    "after-intent",
    "aws/after-code-upload",
    "after-submit-before-record",
    "after-submitted",
    "while-polling",
    "after-job-ended",
    "aws/after-publish",
    "after-result-before-record",
    "after-result-recorded",
)
AFTER_LR_FIND = ("after-conclusion", "after-conclusion", "between-steps")
"""Two conclusions: the learning rate, the new estimate."""
HEAD_WRITES = ("aws/after-head-write", "aws/after-head-write:2")
"""The first of a launch begins the run; of a resumed client it takes the lease, and the second records what it sees."""
OF_A_CANCEL = ("aws/after-stop",)
RATES = {"lr-find": Decimal("1.408"), "train": Decimal("7.09")}
BILLED_SECONDS = 600


@pytest.fixture
def player(scripted: Client) -> Iterator[Player]:
    """Jobs end well by themselves, 600 billed seconds each."""
    players: Any = sys.modules[type(scripted).__module__]
    with players.Player(scripted.aws) as playing:
        yield playing


def killed(client: Client, point: str, *arguments: str) -> None:
    """Run a command that has to die at a failpoint, `name` or `name:time`."""
    name, _, time = point.partition(":")
    done = client.run(*arguments, GPUPLAN_FAILPOINT=f"{name}:kill:{time or 1}")
    assert done.returncode == -signal.SIGKILL, f"{arguments} did not come to {point}: {done.stderr}"


def heads(client: Client) -> dict[str, dict[str, Any]]:
    """Return every run's head in the bucket, by run id."""
    s3 = client.aws.client("s3")
    listed = s3.list_objects_v2(Bucket=client.bucket, Prefix="gpuplan/runs/").get("Contents", [])
    keys = [entry["Key"] for entry in listed if entry["Key"].endswith("/state.json")]
    found = (json.loads(s3.get_object(Bucket=client.bucket, Key=key)["Body"].read()) for key in keys)
    return {head["run_id"]: head for head in found}


def events(client: Client, run_id: str, kind: str) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = heads(client)[run_id]["events"]
    return [item["event"] for item in stored if item["event"]["kind"] == kind]


def check_each_step_was_done_once(client: Client, run: dict[str, Any]) -> None:
    """One job a step, of its first attempt, created by the request that was recorded every time it was intended."""
    names = [f"{run['run_id']}-{step}-1" for step in ("lr-find", "train")]
    assert run["state"] == "succeeded"
    assert [(step["attempt"], step["state"]) for step in run["steps"]] == [(1, "succeeded")] * 2
    assert [job.name for job in client.aws.jobs()] == names
    assert {job.status for job in client.aws.jobs()} == {"Completed"}
    for step, name in zip(run["steps"], names, strict=True):
        job = client.aws.job(name)
        intents = [event for event in events(client, run["run_id"], "submitting") if event["step"] == step["name"]]
        assert {event["request_sha256"] for event in intents} == {sha256_hex(canonical_json(job.request))}
        assert {event["job_name"] for event in intents} == {name}
        untagged = {key: value for key, value in job.request.items() if key != "Tags"}
        assert job.tags["gpuplan:fingerprint"] == sha256_hex(canonical_json(untagged))
        assert Decimal(step["cost_usd"]) == round(RATES[step["name"]] * BILLED_SECONDS / 3600, 4)


def test_every_failpoint_is_in_one_of_the_lists() -> None:
    points = {*OF_A_LAUNCH, *OF_A_STEP, *AFTER_LR_FIND, *HEAD_WRITES, *OF_A_CANCEL}
    assert {point.partition(":")[0] for point in points} == FAILPOINTS


def test_kill_9_at_each_point_in_turn_here_and_on_another_machine_ends_with_each_step_done_once(
    scripted: Client, player: Player, tmp_path: Path
) -> None:
    del player
    killed(scripted, OF_A_LAUNCH[0], *LAUNCH)
    assert "no runs yet" in scripted.run("list").stdout
    assert heads(scripted) == {}
    killed(scripted, HEAD_WRITES[0], *LAUNCH)
    (run_id,) = heads(scripted)
    assert not (scripted.home / "runs" / run_id).exists(), "the head comes first"
    for point in (HEAD_WRITES[1], *OF_A_STEP, *AFTER_LR_FIND):
        killed(scripted, point, "resume", run_id)
    assert [job.name for job in scripted.aws.jobs()] == [f"{run_id}-lr-find-1"]

    there = scripted.elsewhere(tmp_path / "there")
    refused = there.run("resume", run_id)
    assert refused.returncode == 8
    assert "is being driven by" in refused.stderr
    assert f"gpuplan resume {run_id} --take-over" in refused.stderr
    machines = [there, scripted]
    for point in (*HEAD_WRITES, AFTER_LR_FIND[-1], *OF_A_STEP):
        killed(machines[0], point, "resume", run_id, "--take-over")
        machines.reverse()
    check_each_step_was_done_once(there, there.json("resume", run_id))
    assert scripted.json("status", run_id)["state"] == "succeeded"


def test_a_launch_that_is_killed_can_be_resumed_and_a_cancel_that_is_killed_repeated(scripted: Client) -> None:
    killed(scripted, OF_A_LAUNCH[1], *LAUNCH)
    assert scripted.aws.jobs() == []
    detached = scripted.run("resume", "--detach")
    assert detached.returncode == 130, detached.stderr
    killed(scripted, *OF_A_CANCEL, "cancel")
    assert scripted.run("cancel").returncode == 0
    (job,) = scripted.aws.jobs()
    assert job.status == "Stopped"
    assert scripted.json("status")["state"] == "cancelled"
