"""The user's own command on an emulated SageMaker: real containers, real torchrun, the CLI as a process of its own.

Slow on purpose and few: each test starts PyTorch several times.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.conftest import Client
    from gpuplan.testing import Emulator, JobView

pytestmark = pytest.mark.slow

SMALL = ("--epochs", "2", "--runs", "1", "--lr-iterations", "40")
"""Enough for a range test with a minimum and a training that beats guessing."""
TWO = (*SMALL, "--world-size", "2")
PATIENCE = 240.0


def parameters(job: JobView) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in job.request["HyperParameters"].items()}


def unlocated(request: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Return a request without what a plan cannot know: the run's id, and what follows from it."""
    document: dict[str, Any] = json.loads(json.dumps(request).replace(run_id, "RUN"))
    return document


def aws_cli(client: Client, *arguments: str) -> Any:  # noqa: ANN401 - whatever the command prints
    program = shutil.which("aws", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the AWS CLI is not installed beside this Python")
    done = subprocess.run(
        [program, *arguments, "--region", "us-east-1", "--output", "json"],
        capture_output=True,
        text=True,
        env=client.environment,
        check=True,
    )
    return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.1)


def test_lr_then_train_on_g5(client: Client, emulator: Emulator) -> None:
    plan = client.json("plan", "--instance", "g5", "--pipeline", "lr-then-train", "--backend", "sagemaker", *TWO)
    launch = ["launch", "--instance", "g5", "--pipeline", "lr-then-train", "--backend", "sagemaker", "--yes", *TWO]
    run = client.json(*launch)

    assert (run["state"], run["exit_code"]) == ("succeeded", 0)
    find, train = (emulator.job(f"{run['run_id']}-{step}-1") for step in ("lr-find", "train"))
    assert find.request["ResourceConfig"]["InstanceType"] == "ml.g5.xlarge"
    assert train.request["ResourceConfig"]["InstanceType"] == "ml.g5.12xlarge"
    assert (find.status, train.status) == ("Completed", "Completed")

    told_find, told_train = parameters(find), parameters(train)
    assert told_find["batch"]["per_gpu"] == told_train["batch"]["per_gpu"] == 64
    assert (told_find["batch"]["world_size"], told_train["batch"]["world_size"]) == (1, 2)
    assert told_train["train"]["learning_rate"] == run["lr"]["training_learning_rate"]
    found = run["lr"]["suggestion"]["learning_rate"]
    # Four digits are told.
    assert told_train["train"]["learning_rate"] == pytest.approx(found * run["lr"]["multiplier"], rel=1e-3)

    assert run["train"]["world_size"] == 2
    assert run["train"]["metrics"]["best_val_accuracy"] > 0.5, "ten classes"
    assert run["train"]["checkpoint"].startswith(
        f"s3://{client.bucket}/gpuplan/runs/{run['run_id']}/train/checkpoints/"
    )
    check_request_is_the_planned_one(plan, run, find, train)
    check_cost(plan, run, find, train)
    check_a_foreign_client_sees_the_same(client, run, train)


def check_request_is_the_planned_one(plan: dict[str, Any], run: dict[str, Any], *jobs: JobView) -> None:
    """What `plan` printed without a call is what was sent, but for the id, the time and the learning rate."""
    for step, job in zip(plan["steps"], jobs, strict=True):
        planned, sent = step["request"], unlocated(job.request, run["run_id"])
        tags = {tag["Key"]: tag["Value"] for tag in sent.pop("Tags")}
        expected = {tag["Key"]: tag["Value"] for tag in planned.pop("Tags")}
        assert planned.pop("name") == planned["TrainingJobName"]
        if step["name"] == "train":
            assert planned["HyperParameters"].pop("train") == {"unknown": "found by lr-find"}
            sent["HyperParameters"].pop("train")
        # The launch's plan knows the same; only the run's own name is in the id that the fingerprint is taken of.
        assert sent == planned
        for key in ("gpuplan:step", "gpuplan:attempt", "gpuplan:plan", "gpuplan:owner"):
            assert tags[key] == expected[key]
        assert set(tags) == set(expected)


def check_cost(plan: dict[str, Any], run: dict[str, Any], *jobs: JobView) -> None:
    """Each attempt's cost is what AWS bills, at the plan's rate, and stands beside the estimate."""
    for step, planned, job in zip(run["steps"], plan["steps"], jobs, strict=True):
        assert step["billable_seconds"] == job.billable_seconds
        rate = Decimal(planned["rate_usd_per_hour"]["amount"])
        assert Decimal(step["cost_usd"]) == round(rate * Decimal(str(job.billable_seconds)) / 3600, 4)
        assert step["planned_cost_usd"] == {key: f"{Decimal(planned['cost_usd'][key]):.4f}" for key in ("p50", "p90")}


def check_a_foreign_client_sees_the_same(client: Client, run: dict[str, Any], train: JobView) -> None:
    listed = aws_cli(client, "sagemaker", "list-training-jobs", "--name-contains", run["run_id"])
    assert {job["TrainingJobName"] for job in listed["TrainingJobSummaries"]} == {
        step["handle"].rpartition("/")[2] for step in run["steps"]
    }
    described = aws_cli(client, "sagemaker", "describe-training-job", "--training-job-name", train.name)
    assert described["TrainingJobStatus"] == "Completed"
    assert described["ResourceConfig"]["InstanceType"] == "ml.g5.12xlarge"
    tags = aws_cli(client, "sagemaker", "list-tags", "--resource-arn", train.arn)["Tags"]
    assert {"Key": "gpuplan:run", "Value": run["run_id"]} in tags
    folder = f"s3://{client.bucket}/gpuplan/runs/{run['run_id']}/"
    objects = aws_cli(client, "s3", "ls", "--recursive", folder)
    for name in ("lr-find/1/results/lr_result.json", "train/1/results/train_result.json", "train/checkpoints/best"):
        assert name in objects
    group = ("--log-group-name", "/aws/sagemaker/TrainingJobs")
    streams = aws_cli(client, "logs", "describe-log-streams", *group, "--log-stream-name-prefix", f"{train.name}/")
    stream = streams["logStreams"][0]["logStreamName"]
    events = aws_cli(client, "logs", "get-log-events", *group, "--log-stream-name", stream)["events"]
    assert any("epoch 2 of 2" in event["message"] for event in events)


def put_images(client: Client, folder: str, samples: dict[str, int]) -> None:
    """Upload images of two classes, by colour, so many of each for a part."""
    s3 = client.aws.client("s3")
    for part, count in samples.items():
        for number in range(count):
            for name, base in (("dark", (40, 60, 50)), ("light", (200, 180, 190))):
                content = io.BytesIO()
                colour = tuple(value + number % 40 for value in base)
                Image.new("RGB", (16, 16), colour).save(content, "PNG")
                s3.put_object(Bucket=client.bucket, Key=f"{folder}/{part}/{name}/{number}.png", Body=content.getvalue())


def test_lr_then_train_on_images_on_s3_streams_them_to_lr_find_and_copies_them_to_the_training(
    client: Client, emulator: Emulator
) -> None:
    put_images(client, "flowers", {"train": 64, "val": 8})
    data = f"imagefolder:s3://{client.bucket}/flowers?train=128&val=16&classes=2&bytes=200"
    arguments = ["--instance", "g5", "--pipeline", "lr-then-train", "--world-size", "1", "--data", data]
    arguments += ["--image-size", "16", "--per-gpu-batch", "16", *SMALL]
    plan = client.json("plan", *arguments)
    run = client.json("launch", "--yes", *arguments)
    assert (run["state"], run["exit_code"]) == ("succeeded", 0), run
    find, train = (emulator.job(f"{run['run_id']}-{step}-1") for step in ("lr-find", "train"))
    for job, planned, mode in zip((find, train), plan["steps"], ("FastFile", "File"), strict=True):
        sent = job.request["InputDataConfig"]
        assert {each["ChannelName"]: each["InputMode"] for each in sent} == {"code": "File", "training": mode}
        assert planned["request"]["InputDataConfig"][1] == sent[1]
    assert [step["s3_data"] for step in plan["steps"]] == ["streamed", "copied"]
    assert run["train"]["epochs"] == 2


def test_a_training_on_two_instances_is_one_training(client: Client, emulator: Emulator) -> None:
    arguments = ["launch", "--instance", "g5", "--pipeline", "train", "--lr", "0.05", "--yes", "--epochs", "1"]
    run = client.json(*arguments, "--nodes", "2", "--world-size", "4")
    job = emulator.job(f"{run['run_id']}-train-1")
    assert run["state"] == "succeeded", run
    assert job.request["ResourceConfig"]["InstanceCount"] == 2
    assert job.request["Environment"]["GPUPLAN_GPUS"] == "2"
    assert run["train"]["world_size"] == 4
    rate = Decimal("7.09")
    assert Decimal(run["steps"][0]["cost_usd"]) == round(2 * rate * Decimal(str(job.billable_seconds)) / 3600, 4)


def test_an_interrupted_spot_training_goes_on_from_its_checkpoint_and_so_does_a_new_attempt(
    client: Client, emulator: Emulator
) -> None:
    arguments = ["launch", "--instance", "g5", "--pipeline", "train", "--lr", "0.05", "--yes", "--spot"]
    data = ("--data", "fake:1x8x8:10:800", "--epochs", "6", "--world-size", "2")
    process = client.start(*arguments, *data, "-o", "json")
    s3 = emulator.client("s3")

    def saved() -> int:
        """Return the newest epoch of which there is a checkpoint on S3."""
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        found = s3.list_objects_v2(Bucket=client.bucket, Prefix=f"gpuplan/runs/{client_run(client)}/train/checkpoints/")
        names = [re.search(r"/last-(\d+)\.ckpt$", entry["Key"]) for entry in found.get("Contents", [])]
        return max((int(name[1]) for name in names if name), default=0)

    wait_for(lambda: saved() >= 1, "a checkpoint on S3")
    name = f"{client_run(client)}-train-1"
    emulator.interrupt(name)
    wait_for(lambda: "Interrupted" in [each.status for each in emulator.job(name).transitions], "the interruption")
    before = saved()
    wait_for(lambda: saved() > before, "a checkpoint after the interruption")
    emulator.client("sagemaker").stop_training_job(TrainingJobName=name)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0

    run = client.json("resume", client_run(client))
    assert (run["state"], [step["attempt"] for step in run["steps"]]) == ("succeeded", [2])
    assert run["train"]["epochs"] == 6
    log = client.run("logs", run["run_id"]).stdout
    assert "the job was stopped; its state after step" in log
    assert log.count("going on after") == 2


def client_run(client: Client) -> str:
    return next((path.name for path in (client.home / "runs").glob("*") if path.is_dir()), "no run yet")
