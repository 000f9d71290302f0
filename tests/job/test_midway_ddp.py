"""Two processes stop at the same step, and go on to the same bits; one process goes on where two stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gpuplan_job import loaders, train
from gpuplan_job.contract import BatchSpec, Failure, TrainResult
from gpuplan_job.process import Process
from gpuplan_job.torchrun import Nodes, environment

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("midway_worker.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
STEP = 7
"""Optimizer steps before the stop: five of the first epoch, and the one that was under way is finished."""


def start(folder: Path, scenario: str) -> subprocess.Popen[bytes]:
    (folder / "tmp").mkdir(exist_ok=True)
    settings = environment({**os.environ, "OMP_NUM_THREADS": "1"}, folder, 2, cpus=2, nodes=Nodes())
    return subprocess.Popen([sys.executable, *TORCHRUN, str(WORKER), str(folder), scenario], env=settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an undisturbed training, of one that was stopped, and of the same gone on with."""
    folder = tmp_path_factory.mktemp("ddp")
    both = [start(folder, "whole"), start(folder, "stopped")]
    assert both[0].wait(timeout=240) == 0
    assert both[1].wait(timeout=240) != 0
    shutil.copytree(folder / "cut", folder / "stopped")
    assert start(folder, "resumed").wait(timeout=240) == 0
    return folder


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("midway_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return found


def test_all_ranks_stop_after_the_step_that_was_under_way_and_say_that_it_is_saved(folder: Path) -> None:
    failure = Failure.from_json((folder / "stopped" / "failure.json").read_bytes())
    assert failure.message == f"the job was stopped; its state after step {STEP} of 15 is saved"
    assert failure.kind == "killed"
    manifest = json.loads((folder / "stopped" / "checkpoints" / "midway-1.ckpt.json").read_text())
    assert (manifest["epoch"], manifest["step"]) == (1, STEP - 5)


def test_two_ranks_go_on_to_the_same_bits(folder: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (stored(folder / run, name) for run in ("cut", "whole"))
        for key in ("state_dict", "ema_state_dict"):
            assert all(torch.equal(ours[key][part], value) for part, value in theirs[key].items())
        assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    whole_run, cut_run = (
        TrainResult.from_json((folder / run / "result.json").read_bytes()) for run in ("whole", "cut")
    )
    assert [epoch.train_loss for epoch in cut_run.epochs] == [epoch.train_loss for epoch in whole_run.epochs]
    assert [epoch.val_loss for epoch in cut_run.epochs] == [epoch.val_loss for epoch in whole_run.epochs]


def test_one_process_goes_on_with_twice_the_accumulation_over_the_samples_that_are_left(
    folder: Path, tmp_path: Path, worker: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "stopped", tmp_path / "alone")
    job_input = worker.job_input(BatchSpec(6, 1, 4))
    sets, alone = worker.data(), Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
    result = train.fit(job_input, "0" * 64, worker.Asking(None), sets, tmp_path / "alone", alone)
    assert "was 6 x 2 GPUs x 2 = 24, goes on as 6 x 1 GPUs x 4 = 24" in capsys.readouterr().err
    second, third = (loaders.permutation(worker.SAMPLES, 5, epoch).tolist() for epoch in (1, 2))
    assert sets.train.asked == second[24 * (STEP - 5) :] + third
    whole = TrainResult.from_json((folder / "whole" / "result.json").read_bytes())
    assert result.optimizer_steps == whole.optimizer_steps
    assert result.epochs[0] == TrainResult.from_json((folder / "cut" / "result.json").read_bytes()).epochs[0]
    # Dropout draws otherwise on one rank than on two.
    assert result.epochs[-1].train_loss == pytest.approx(whole.epochs[-1].train_loss, rel=0.1)
