"""The emulated trainings of `lr_regret.py` against real DistributedDataParallel: the same final validation loss.

    python benchmarks/lr_ddp_check.py

Trains a network with BatchNorm and one without on the digits over 2 and 4 gloo processes, with gpuplan's own cut of the
epochs, and once more with `lr.training.final_loss`. Ends with an error if a loss differs by more than `TOLERANCE`.
Needs the `local` extra.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from lr.tasks import BATCH, Task, arrays
from lr.training import final_loss
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from gpuplan_job import optim, runtime
from gpuplan_job.contract import TrainSpec
from gpuplan_job.loaders import permutation
from gpuplan_job.sampling import EpochLayout

TASKS = (Task("digits", "resnet", "sgd"), Task("digits", "mlp", "sgd"), Task("digits", "mlp", "adamw"))
"""Two of plain networks, for their ranks are put together in the emulation; one with BatchNorm, where they are not."""
GPUS = (2, 4)
RATES = {"sgd": 0.02, "adamw": 1e-3}
STEPS = 60
"""Of either training, with its schedule over all of them; more than one epoch on 2 GPUs and on 4."""
SEED = 3
TOLERANCE = 1e-4
"""Relative. The two add the same numbers in another order: weights end apart by 1e-8, losses often to the bit. The
losses on 2 and on 4 GPUs must lie further apart than this, or the comparison could not tell one from the other."""


def real_loss(task: Task, gpus: int) -> float:
    """Train with `gpus` processes under DistributedDataParallel and return rank 0's validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "loss"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        spawn(_train, args=(gpus, port, task, str(file)), nprocs=gpus)  # type: ignore[no-untyped-call] # torch's
        return float(file.read_text(encoding="utf-8"))


def _train(rank: int, gpus: int, port: int, task: Task, file: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=gpus)
    workload, layout = task.workload(SEED), EpochLayout(task.samples, BATCH, gpus, 1)
    runtime.seed_everything(SEED)
    network = task.build()
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        # Newer releases of torch have another name for it, which the oldest that gpuplan supports does not know.
        parallel = DistributedDataParallel(network, broadcast_buffers=False)
    rate = RATES[task.optimizer]
    optimizer = optim.build(workload, parallel, rate)
    schedule = optim.schedule(workload, optimizer, TrainSpec(rate), STEPS)
    held = arrays(task.data)
    parallel.train()  # type: ignore[no-untyped-call] # torch leaves it untyped
    for step in range(STEPS):
        epoch, index = divmod(step, layout.steps)
        cut = layout.micro_batches(rank)[index]
        chosen = permutation(layout.samples, SEED, epoch)[cut.start : cut.stop]
        loss = optim.loss(parallel(held.train_images[chosen]), held.train_labels[chosen], 0.0, "sum")
        optimizer.zero_grad()
        # DDP divides the sum of the ranks' gradients by their number.
        (loss / cut.step_samples * gpus).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        optimizer.step()
        schedule.step()
    if rank == 0:
        network.eval()
        with torch.no_grad():
            found = float(optim.loss(network(held.val_images), held.val_labels, 0.0))
        Path(file).write_text(repr(found), encoding="utf-8")
    distributed.barrier()
    distributed.destroy_process_group()


def main() -> int:
    """Compare, print, and return the exit code."""
    torch.set_num_threads(1)
    worst, nearest = 0.0, math.inf
    print(f"{'task':24} {'GPUs':>4} {'DDP':>12} {'emulated':>12} {'difference':>11}")
    for task in TASKS:
        losses = []
        for gpus in GPUS:
            real = real_loss(task, gpus)
            emulated = final_loss(task, RATES[task.optimizer], gpus, SEED, STEPS)
            difference = abs(emulated / real - 1)
            worst = max(worst, difference)
            losses.append(real)
            print(f"{task.name:24} {gpus:4} {real:12.6f} {emulated:12.6f} {difference:11.1e}", flush=True)
        nearest = min(nearest, abs(losses[1] / losses[0] - 1))
    print(f"\nLargest relative difference {worst:.1e}, allowed {TOLERANCE:g}; 2 and 4 GPUs differ by {nearest:.1e}.")
    if not worst <= TOLERANCE < nearest:
        print("error: the emulation is not what DDP computes, or the trainings cannot tell", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
