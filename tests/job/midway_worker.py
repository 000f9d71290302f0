"""Trains in each process of a torchrun: `midway_worker.py FOLDER whole|stopped|resumed`. `test_midway_ddp` starts it.

`whole` trains to the end undisturbed; `stopped` is asked to stop within its second epoch; `resumed` goes on there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gpuplan_job import fail_fast, stop_request
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process
from gpuplan_job.supervision import StoppedError
from gpuplan_job.train import fit

SAMPLES, EPOCHS = 110, 3
STOP_AFTER = 14
"""Micro-batches of a rank: three of the second epoch, which is amid an optimizer step."""


class Recorded(Dataset[tuple[Tensor, int]]):
    """Two clouds of points, shaken anew each time if they are to train on; remembers what was asked for."""

    def __init__(self, samples: int, noise: float) -> None:
        self.samples = samples
        self.noise = noise
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        centre = torch.randn(4, generator=torch.Generator().manual_seed(index)) + 1.0 * (index % 2)
        return centre + self.noise * torch.randn(4), index % 2

    def __len__(self) -> int:
        return self.samples


class Asking(nn.Module):
    """A network that has the launcher's part: it asks the job to stop in a forward pass."""

    def __init__(self, folder: Path | None, *, slow: bool = False) -> None:
        super().__init__()
        self.slow = slow
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.folder = folder
        self.passes = 0

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits [B, 2]."""
        self.passes += self.training
        if self.slow:
            time.sleep(0.15)  # steps of more than a quarter of a second are each followed by a vote
        if self.folder is not None and self.passes == STOP_AFTER:
            stop_request.ask(self.folder)
        logits: Tensor = self.layers(points)
        return logits


def job_input(batch: BatchSpec) -> JobInput:
    """Return the input of a training at a batch; its own is 6 x 2 x 2."""
    workload = WorkloadSpec(
        model="tiny",
        data="clouds",
        optimizer="adamw",
        momentum=0.9,
        weight_decay=1e-3,
        schedule="onecycle",
        label_smoothing=0.1,
        epochs=EPOCHS,
        precision="fp32",
        seed=5,
        workers=0,
        ema_decay=0.9,
    )
    return JobInput("run-1", "train", 1, "plan", workload, batch, "cpu", train=TrainSpec(0.01))


def data() -> DataSets:
    """Return the data of every training."""
    return DataSets(Recorded(SAMPLES, 0.3), Recorded(21, 0.0))


def main(folder: Path, scenario: str, process: Process) -> int:
    """Train one scenario; return the exit code."""
    place = folder / ("whole" if scenario == "whole" else "cut")
    stops = scenario == "stopped"
    network = Asking(place if stops and process.rank == 0 else None, slow=stops)
    torch.manual_seed(hash(scenario) % 1000 + process.rank)  # what was drawn before must not matter
    try:
        result = fit(job_input(BatchSpec(6, 2, 2)), "0" * 64, network, data(), place, process)
    except StoppedError as error:
        return fail_fast.code(error)
    if process.rank == 0:
        (place / "result.json").write_text(result.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Process.from_environment(os.environ)))
