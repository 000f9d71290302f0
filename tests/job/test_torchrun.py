"""The launcher, torchrun and a real training together: it succeeds, a stop leaves no process behind, a kill no gap."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gpuplan_job import manifest
from gpuplan_job.contract import BatchSpec, Failure, JobInput, Progress, TrainResult
from gpuplan_job.document import sha256_hex
from gpuplan_job.manifest import Owner

pytestmark = pytest.mark.slow
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")


def start(folder: Path, job_input: JobInput) -> subprocess.Popen[str]:
    source = folder.with_suffix(".json")
    source.write_text(job_input.to_json())
    command = [sys.executable, "-m", "gpuplan_job.launch", str(source), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def small(train_input: JobInput, epochs: int, world_size: int) -> JobInput:
    workload = replace(train_input.workload, model="resnet18", data="fake:1x8x8:4:80", epochs=epochs)
    return replace(train_input, workload=workload, batch=BatchSpec(8, world_size, 1))


def of_job(folder: Path) -> list[int]:
    marker = f"GPUPLAN_JOB_DIR={folder}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:
            continue
    return found


def test_a_training_alone_writes_its_result_and_checkpoints(tmp_path: Path, train_input: JobInput) -> None:
    # A folder this deep would not leave room for a socket's name, which data-loading workers need.
    folder = tmp_path / ("deep" * 30)
    job_input = small(train_input, epochs=2, world_size=1)
    job_input = replace(job_input, workload=replace(job_input.workload, workers=2))
    process = start(folder, job_input)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    result = TrainResult.from_json((folder / "train_result.json").read_bytes())
    assert result.input_sha256 == sha256_hex(folder.with_suffix(".json").read_bytes())
    assert [epoch.epoch for epoch in result.epochs] == [1, 2]
    assert (result.optimizer_steps, result.world_size) == (18, 1)
    assert result.measured.step_seconds > 0
    for name in (result.best_checkpoint, result.last_checkpoint):
        assert "state_dict" in torch.load(folder / name, weights_only=True)
    reported = [progress for line in output.splitlines() if (progress := Progress.from_line(line))]
    assert [line for line in output.splitlines() if Progress.from_line(line) is None] == []
    assert (reported[-1].done, reported[-1].total) == (18, 18)
    assert reported[-1].values["val_accuracy"] == result.epochs[-1].val_accuracy


def started(folder: Path, job_input: JobInput) -> subprocess.Popen[str]:
    """Start a training and return once its first epoch has ended."""
    process = start(folder, job_input)
    assert process.stdout is not None
    while True:
        progress = Progress.from_line(process.stdout.readline().rstrip("\n"))
        assert process.poll() is None
        if progress is not None and "val_accuracy" in progress.values:
            return process


def ranks(folder: Path) -> list[int]:
    """Return the processes of the ranks, without torchrun and the launcher."""
    return [pid for pid in of_job(folder) if b"RANK=" in Path(f"/proc/{pid}/environ").read_bytes()]


def trains(folder: Path, rank: int) -> int:
    """Return the process that trains as a rank, without the one that watches it."""
    found = [pid for pid in ranks(folder) if f"RANK={rank}".encode() in environment(pid)]
    return next(pid for pid in found if b"gpuplan_job.rank" not in Path(f"/proc/{pid}/cmdline").read_bytes())


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def wait_until_empty(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while of_job(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of_job(folder) == []


@needs_proc
def test_a_stop_leaves_no_process_of_a_torchrun_behind(tmp_path: Path, train_input: JobInput) -> None:
    folder = tmp_path / "attempt"
    process = started(folder, small(train_input, epochs=5000, world_size=2))
    assert len(of_job(folder)) >= 3
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == json.loads((folder / "exit.json").read_text())["code"] == 143
    assert of_job(folder) == []
    assert Failure.from_json((folder / "failure.json").read_bytes()).kind == "killed"
    assert not (folder / "tmp").exists()


@needs_proc
def test_a_killed_launcher_takes_torchrun_and_all_ranks_with_it(tmp_path: Path, train_input: JobInput) -> None:
    folder = tmp_path / "attempt"
    process = started(folder, small(train_input, epochs=5000, world_size=2))
    process.kill()
    process.communicate(timeout=60)
    wait_until_empty(folder)


@needs_proc
def test_a_killed_rank_ends_the_job_and_is_not_blamed_on_gpuplan(tmp_path: Path, train_input: JobInput) -> None:
    folder = tmp_path / "attempt"
    process = started(folder, small(train_input, epochs=5000, world_size=2))
    os.kill(trains(folder, rank=1), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    failure = Failure.from_json((folder / "failure.json").read_bytes())
    assert (failure.kind, failure.rank, failure.signal) == ("killed", 1, "SIGKILL")
    assert of_job(folder) == []


def train_to_the_end(folder: Path, job_input: JobInput) -> TrainResult:
    process = start(folder, job_input)
    process.communicate(timeout=120)
    assert process.returncode == 0
    return TrainResult.from_json((folder / "train_result.json").read_bytes())


def test_a_training_of_two_processes_that_was_killed_goes_on_to_the_same_bits(
    tmp_path: Path, train_input: JobInput
) -> None:
    job_input = small(train_input, epochs=3, world_size=2)
    # With dropout and BatchNorm, so that what ranks draw and keep to themselves would show.
    job_input = replace(job_input, workload=replace(job_input.workload, model="mobilenet_v3_small"))
    whole = train_to_the_end(tmp_path / "whole", job_input)
    process = started(tmp_path / "cut", job_input)
    process.kill()
    process.communicate(timeout=60)
    wait_until_empty(tmp_path / "cut")
    mount, again = tmp_path / "mount", tmp_path / "again"
    (tmp_path / "cut" / "checkpoints").rename(mount)
    again.mkdir()
    (again / "checkpoints").symlink_to(mount)
    resumed = train_to_the_end(again, replace(job_input, attempt=2))
    for one, other in zip(resumed.epochs, whole.epochs, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    assert (resumed.best_epoch, resumed.optimizer_steps) == (whole.best_epoch, whole.optimizer_steps)
    weights = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (tmp_path / "whole", again)
    ]
    for key, value in weights[0]["state_dict"].items():
        assert torch.equal(weights[1]["state_dict"][key], value)


def test_a_kill_at_any_instant_costs_no_epoch_that_was_reported(tmp_path: Path, train_input: JobInput) -> None:
    job_input = small(train_input, epochs=5000, world_size=1)
    folder, owner = tmp_path / "attempt", Owner.of(job_input)
    kept, refused = 0, list[str]()
    for number in range(3):
        process = started(folder, job_input)
        time.sleep(0.21 * number)
        process.kill()
        output, _ = process.communicate(timeout=60)
        progress = [found for line in output.splitlines() if (found := Progress.from_line(line))]
        reported = [int(found.phase.split()[1]) for found in progress if "val_loss" in found.values]
        assert all(epoch > kept for epoch in reported)
        whole = [found.epoch for found, _ in manifest.verified(folder / "checkpoints", owner, refused.append)]
        kept = max(whole, default=0)
        assert kept >= max(reported, default=1)
        for left in (folder / "claim", folder / "failure.json"):
            left.unlink(missing_ok=True)
