"""Trains tiny networks in every process of a torchrun, or alone: `ddp_worker.py FOLDER`. The DDP tests start it.

What each process saw is written beside the results; the tests compare two processes with one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process
from gpuplan_job.train import fit

TRAIN_SAMPLES, VAL_SAMPLES, CLASSES, SIDE, EPOCHS = 109, 33, 4, 6, 3
LEARNING_RATE = 0.05
GLOBAL = {"plain": (8, 1), "accumulated": (8, 2), "batchnorm": (8, 1)}
"""Samples of a micro-batch over all processes, and micro-batches of a step; 109 is a multiple of neither step."""


class Recorded(Dataset[tuple[Tensor, int]]):
    """Noisy class patterns; remembers which samples were asked for, in order."""

    def __init__(self, samples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        patterns = torch.randn(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
        self.labels = torch.randint(CLASSES, (samples,), generator=generator).tolist()
        self.images = patterns[self.labels] + 1.5 * torch.randn(samples, 1, SIDE, SIDE, generator=generator)
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        return self.images[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


def network(name: str) -> nn.Module:
    """Return the network of a scenario, the same weights in every process."""
    torch.manual_seed(3)
    if name == "batchnorm":
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, CLASSES)
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def data() -> tuple[Recorded, Recorded]:
    """Return the training and validation data of every scenario."""
    return Recorded(TRAIN_SAMPLES, 1), Recorded(VAL_SAMPLES, 2)


def workload(name: str) -> WorkloadSpec:
    """Return the workload of a scenario."""
    return WorkloadSpec(
        model=name,
        data="tests",
        optimizer="sgd",
        momentum=0.9,
        weight_decay=1e-3,
        schedule="onecycle",
        label_smoothing=0.1,
        epochs=EPOCHS,
        precision="fp32",
        seed=5,
        workers=0,
    )


def run(name: str, folder: Path, process: Process) -> None:
    """Train one scenario; rank 0 writes the result, every rank the samples it saw."""
    micro, accumulation = GLOBAL[name]
    batch = BatchSpec(micro // process.world_size, process.world_size, accumulation)
    job_input = JobInput("run-1", "train", 1, "plan", workload(name), batch, "cpu", train=TrainSpec(LEARNING_RATE))
    train_set, val_set = data()
    folder.mkdir(parents=True, exist_ok=True)
    result = fit(job_input, "0" * 64, network(name), DataSets(train_set, val_set), folder, process)
    seen = {"train": train_set.asked, "val": val_set.asked}
    (folder / f"seen-{process.rank}.json").write_text(json.dumps(seen))
    if process.rank == 0:
        (folder / "result.json").write_text(result.to_json())


if __name__ == "__main__":
    for scenario in GLOBAL:
        run(scenario, Path(sys.argv[1]) / scenario, Process.from_environment(os.environ))
