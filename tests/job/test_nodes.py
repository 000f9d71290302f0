"""Two containers as one job, with real torchruns over loopback: one training, published once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan_job.contract import BatchSpec, Failure, JobInput, TrainResult
from gpuplan_job.document import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
HOSTS = ["127.0.0.1", "algo-2"]
"""The first is where all meet, so it has to resolve."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def start(root: Path, host: str, job_input: JobInput, hosts: list[str]) -> subprocess.Popen[str]:
    config = root / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    document = json.loads(job_input.to_json())
    parameters = {key: canonical_json(value) for key, value in document.items()}
    resources = {"hosts": hosts, "current_host": host, "network_interface_name": LOOPBACK}
    for name, content in (("hyperparameters", parameters), ("resourceconfig", resources), ("inputdataconfig", {})):
        (config / f"{name}.json").write_text(json.dumps(content))
    processes = job_input.batch.world_size // len(hosts)
    settings = {**os.environ, "GPUPLAN_GPUS": str(processes), "GPUPLAN_ATTEMPT": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gpuplan_job.sagemaker", str(root)]
    return subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def job_input(train_input: JobInput) -> JobInput:
    workload = replace(train_input.workload, data="fake:1x8x8:4:160", model="shufflenet_v2_x0_5")
    return replace(train_input, workload=workload, batch=BatchSpec(8, 4, 1))


@pytest.fixture
def free_port() -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 29500))
        except OSError:
            pytest.skip("port 29500, where hosts meet, is taken on this machine")


def result(root: Path) -> TrainResult:
    return TrainResult.from_json((root / "checkpoints" / "results" / "1" / "train_result.json").read_bytes())


@pytest.mark.usefixtures("free_port")
def test_two_hosts_train_together_and_go_on_together(tmp_path: Path, job_input: JobInput) -> None:
    roots = [tmp_path / host for host in HOSTS]
    started = [start(root, host, job_input, HOSTS) for root, host in zip(roots, HOSTS, strict=True)]
    said = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = result(roots[0])
    assert found.world_size == 4
    assert found.optimizer_steps == 2 * 5  # epochs of 144 samples, 32 a step
    assert list((roots[1] / "checkpoints" / "results" / "1").iterdir()) == []
    assert (roots[0] / "checkpoints" / "best.ckpt").exists()
    # The second host has no checkpoint of its own: the first hands over what to go on from.
    assert not list((roots[1] / "checkpoints").glob("*.ckpt"))
    again = [start(root, host, job_input, HOSTS) for root, host in zip(roots, HOSTS, strict=True)]
    said = [process.communicate(timeout=240)[1] for process in again]
    assert [process.returncode for process in again] == [0, 0], said
    assert "going on after epoch 2, from" in said[0]
    assert result(roots[0]).epochs == found.epochs


@pytest.mark.usefixtures("free_port")
def test_a_failure_on_the_second_host_is_told_by_it(tmp_path: Path, job_input: JobInput) -> None:
    roots = [tmp_path / host for host in HOSTS]
    workload = replace(job_input.workload, data="imagefolder:/nowhere")
    broken = replace(job_input, workload=workload)
    started = [start(root, host, broken, HOSTS) for root, host in zip(roots, HOSTS, strict=True)]
    for process in started:
        process.communicate(timeout=240)
    assert [process.returncode for process in started] == [11, 11]
    for root, name in zip(roots, ["failure.json", f"failure-{HOSTS[1]}.json"], strict=True):
        assert Failure.from_json((root / "checkpoints" / "results" / "1" / name).read_bytes()).kind == "data"
