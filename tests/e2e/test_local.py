"""The main job for real: this machine, the shipped digits, torchrun with two gloo processes.

Small on purpose: each test starts PyTorch a few times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

SMALL = ["--epochs", "2", "--runs", "1", "--lr-iterations", "40"]
"""Enough for a range test with a minimum and a training that beats guessing."""
PATIENCE = 240.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments]


def gpuplan(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(home), cwd=home, check=False
    )


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(home),
        cwd=home,
        start_new_session=True,
    )


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"GPUPLAN_HOME": str(home), "OMP_NUM_THREADS": "1"}


def job_processes(home: Path) -> list[psutil.Process]:
    """Return every live process of any job under this home."""
    found = []
    for process in psutil.process_iter():
        try:
            folder = process.environ().get("GPUPLAN_JOB_DIR", "")
            if folder.startswith(str(home)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(what: str, condition: object, home: Path) -> None:
    """Wait until a function returns something true."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        logs = [path.read_text(errors="replace")[-2000:] for path in home.glob("runs/*/jobs/*/log.txt")]
        assert time.monotonic() < deadline, f"waited in vain for {what}\n{logs}"
        time.sleep(0.2)


def progressed(home: Path, step: str) -> bool:
    """Tell whether a step's job has begun to take optimizer steps."""
    logs = home.glob(f"runs/*/jobs/{step}-*/log.txt")
    return any('"done":' in log.read_text(errors="replace") for log in logs)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_launch_finds_an_lr_and_trains_on_two_processes(tmp_path: Path) -> None:
    done = gpuplan(tmp_path, "launch", "--instance", "local", "--device", "cpu", *SMALL, "--yes", "-o", "json")
    assert done.returncode == 0, done.stderr
    run = document(done)
    assert run["schema"] == "gpuplan.run/1"
    assert run["state"] == "succeeded"
    assert run["batch"]["train"]["per_gpu"] == run["batch"]["lr_find"]["per_gpu"]
    assert run["lr"]["suggestion"]["verdict"] == "ok"
    assert run["lr"]["training_learning_rate"] == pytest.approx(
        run["lr"]["suggestion"]["learning_rate"] * run["lr"]["multiplier"], rel=1e-3
    )
    assert run["train"]["world_size"] == 2
    assert run["train"]["metrics"]["best_val_accuracy"] > 0.5
    assert Path(run["train"]["checkpoint"]).is_file()
    assert Path(run["lr"]["curve"]).read_text(encoding="utf-8").count("<svg") == 1
    assert [step["cost_usd"] for step in run["steps"]] == ["0.0000", "0.0000"]
    assert job_processes(tmp_path) == []

    suggested = gpuplan(tmp_path, "suggest", "--lr-rule", "normalised", "-o", "json")
    again = document(suggested)["decisions"][0]
    assert again["training_learning_rate"] == run["lr"]["training_learning_rate"], "the same curve, the same bits"


def test_a_killed_client_leaves_the_job_running_and_resume_adopts_it(tmp_path: Path) -> None:
    client = start(tmp_path, "launch", "--device", "cpu", "--pipeline", "lr", *SMALL, "--yes")
    wait_for("lr-find to run", lambda: progressed(tmp_path, "lr-find"), tmp_path)
    client.send_signal(signal.SIGKILL)
    client.wait()
    alive = job_processes(tmp_path)
    assert alive, "the job must outlive its client"
    resumed = gpuplan(tmp_path, "resume", "-o", "json")
    assert resumed.returncode == 0, resumed.stderr
    run = document(resumed)
    assert run["steps"][0]["attempt"] == 1, "the running job was adopted, not started again"
    assert job_processes(tmp_path) == []


def test_ctrl_c_detaches_and_cancel_ends_the_whole_tree(tmp_path: Path) -> None:
    client = start(tmp_path, "launch", "--device", "cpu", "--lr", "0.02", "--epochs", "500", "--yes")
    wait_for("training to run", lambda: progressed(tmp_path, "train"), tmp_path)
    client.send_signal(signal.SIGINT)
    output, _ = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "gpuplan resume" in output
    assert "gpuplan cancel" in output
    assert len(job_processes(tmp_path)) >= 4, "launcher, torchrun and two ranks go on"
    cancelled = gpuplan(tmp_path, "cancel", "-o", "json")
    assert cancelled.returncode == 0, cancelled.stderr
    assert document(cancelled)["state"] == "cancelled"
    assert job_processes(tmp_path) == []


def test_a_killed_launcher_is_a_failure_that_leaves_nothing_and_resume_tries_again(tmp_path: Path) -> None:
    client = start(tmp_path, "launch", "--device", "cpu", "--pipeline", "lr", *SMALL, "--yes")
    wait_for("lr-find to run", lambda: progressed(tmp_path, "lr-find"), tmp_path)
    launcher = min(job_processes(tmp_path), key=lambda process: process.create_time())
    launcher.kill()
    output, _ = client.communicate(timeout=60)
    assert client.returncode == 7, output
    assert job_processes(tmp_path) == [], "no rank may train on unseen"
    resumed = gpuplan(tmp_path, "resume", "-o", "json")
    assert resumed.returncode == 0, resumed.stderr
    assert document(resumed)["steps"][0]["attempt"] == 2
