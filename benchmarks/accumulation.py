"""Whether accumulated micro-batches and several processes make the update of one large batch, for every optimizer.

The same training three ways: 4b samples at once; b samples, 4 micro-batches; b samples, 2 micro-batches, 2 processes.
Without BatchNorm, whose statistics follow the micro-batch. Printed is the largest difference of any weight at the end,
averaged ones included, over the weights' own root mean square. `python benchmarks/accumulation.py`
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gpuplan_job import data, train
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.ema import EMA_WEIGHTS
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process
from gpuplan_job.torchrun import Nodes, environment

if TYPE_CHECKING:
    from gpuplan_job.contract import Optimizer

PER_GPU, EPOCHS = 16, 2
WAYS = {
    "4b x 1": BatchSpec(4 * PER_GPU, 1, 1),
    "b x 4": BatchSpec(PER_GPU, 1, 4),
    "b x 2 x 2": BatchSpec(PER_GPU, 2, 2),
}
RATES: dict[Optimizer, float] = {"sgd": 0.05, "adamw": 0.002, "lamb": 0.01}
PRACTICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_norm": 0.5},
    "averaged": {"ema_decay": 0.95},
    "bf16": {"precision": "bf16-mixed"},
    "all of them": {"clip_norm": 0.5, "ema_decay": 0.95, "precision": "bf16-mixed"},
}
TOLERANCE = {"fp32": 1e-4, "bf16-mixed": 0.05}
"""Of a difference over the root mean square of all weights: bf16 keeps 8 bits, and each micro-batch rounds anew."""


def scenarios() -> dict[str, WorkloadSpec]:
    """Return the workloads by name."""
    plain = WorkloadSpec("convolutions", "digits", "sgd", 0.9, 5e-4, "onecycle", 0.1, EPOCHS, "fp32", 0, 0)
    return {
        f"{optimizer}, {practice}": replace(plain, optimizer=optimizer, **changes)
        for optimizer in RATES
        for practice, changes in PRACTICES.items()
    }


def network() -> nn.Module:
    """Return a network with GroupNorm, the same weights in every process."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 10))


def run(folder: Path, way: str, process: Process) -> None:
    """Train every scenario one way; checkpoints are left under `folder`."""
    sets = DataSets(*data.load("digits", None))
    for name, workload in scenarios().items():
        spec = TrainSpec(RATES[workload.optimizer])
        job = JobInput("run", "train", 1, "plan", workload, WAYS[way], "cpu", train=spec)
        train.fit(job, "0" * 64, network(), sets, folder / way / name, process)


def weights(folder: Path, way: str, name: str) -> Tensor:
    """Return what was trained, as one vector: the averaged weights where there are any, beside the weights."""
    held = torch.load(folder / way / name / "checkpoints" / "last.ckpt", weights_only=True)
    parts = [*held["state_dict"].values(), *held.get(EMA_WEIGHTS, {}).values()]
    return torch.cat([part.flatten().double() for part in parts])


def main() -> int:
    """Print a line a scenario; return whether all are within the tolerance."""
    with tempfile.TemporaryDirectory() as name:
        folder, good = Path(name), True
        for way, batch in WAYS.items():
            settings = environment({**os.environ, "OMP_NUM_THREADS": "1"}, folder, batch.world_size, 2, Nodes())
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
            command = [sys.executable, *(torchrun if batch.world_size > 1 else []), __file__, "--worker", way, name]
            subprocess.run(command, env=settings, check=True, stdout=subprocess.DEVNULL)
        print(f"largest difference of a weight over their root mean square, after {EPOCHS} epochs, against 4b x 1")
        print(f"{'':24} {'b x 4':>10} {'b x 2 x 2':>10}   tolerance")
        for scenario, workload in scenarios().items():
            whole = weights(folder, "4b x 1", scenario)
            size = whole.square().mean().sqrt()
            found = [float((weights(folder, way, scenario) - whole).abs().max() / size) for way in list(WAYS)[1:]]
            limit = TOLERANCE[workload.precision]
            good &= max(found) <= limit
            print(f"{scenario:24} {found[0]:10.1e} {found[1]:10.1e}   {limit:g}")
    print("all within" if good else "NOT all within")
    return 0 if good else 1


if __name__ == "__main__":
    if "--worker" in sys.argv:
        run(Path(sys.argv[-1]), sys.argv[-2], Process.from_environment(os.environ))
    else:
        sys.exit(main())
