"""How much of a bare DDP loop's throughput the training job keeps, and a plain Lightning trainer's beside it.

Two processes on a CPU train the same network on the same data, in the same precision and batches; each round runs all
three loops in the same processes, in another order. The figure is samples/s over whole epochs after the first, of which
validation takes the same small share everywhere. `python benchmarks/train_throughput.py [rounds]`
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from gpuplan_job import data, model, optim, train
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process
from gpuplan_job.torchrun import Nodes, environment

if TYPE_CHECKING:
    from collections.abc import Callable

PROCESSES, PER_GPU, EPOCHS, ROUNDS = 2, 32, 3, 7
RATE = 0.01
AIM = 0.95
NETWORKS = ("resnet18", "perceptron")
"""A network as in the demo, and one so small that a loop's own cost is most of a step: 0.1 ms of arithmetic."""


def network(name: str) -> nn.Module:
    """Return a network with fresh weights, the same in every process."""
    torch.manual_seed(0)
    if name == "perceptron":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return model.build(name, data.describe("digits"), None)


def workload(name: str) -> WorkloadSpec:
    """Return what is trained."""
    return WorkloadSpec(name, "digits", "sgd", 0.9, 5e-4, "constant", 0.0, EPOCHS, "fp32", 0, 0)


def gpuplan(name: str, sets: DataSets, process: Process) -> list[float]:
    """Return the seconds of each epoch in the training job, validation included, its checkpoints not."""
    batch = BatchSpec(PER_GPU, process.world_size, 1)
    job = JobInput("run", "train", 1, "plan", workload(name), batch, "cpu", train=TrainSpec(RATE))
    with tempfile.TemporaryDirectory() as folder:
        result = train.fit(job, "0" * 64, network(name), sets, Path(folder), process)
    return [epoch.seconds for epoch in result.epochs]


def bare(name: str, sets: DataSets, process: Process) -> list[float]:
    """Return the same of the loop that people write: DistributedDataParallel, DistributedSampler, no more."""
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    with warnings.catch_warnings(action="ignore"):
        wrapped = DistributedDataParallel(network(name))
    optimizer = optim.build(workload(name), wrapped, RATE)
    trained, held = _loaders(sets, process)
    seconds = []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        trained.sampler.set_epoch(epoch)  # type: ignore[attr-defined] # it is a DistributedSampler
        wrapped.train()  # type: ignore[no-untyped-call] # torch does not type it
        for images, targets in trained:
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(images), targets).backward()  # type: ignore[no-untyped-call] # as above
            optimizer.step()
        wrapped.eval()
        found = torch.zeros(2)
        with torch.no_grad():
            for images, targets in held:
                logits = wrapped.module(images)
                loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
                found += torch.stack([loss, (logits.argmax(1) == targets).sum()])
        distributed.all_reduce(found)
        seconds.append(time.perf_counter() - started)
    return seconds


def lightning(name: str, sets: DataSets, process: Process) -> list[float]:
    """Return the same of Lightning's Trainer as its documentation starts it, without bar, logger and checkpoints."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(name)

        def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
            logits = self.network(batch[0])
            self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]), sync_dist=True)
            self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean(), sync_dist=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optim.build(workload(name), self, RATE)

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.started = 0.0
            self.seconds: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:  # noqa: ANN401 - Lightning's
            self.started = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:  # noqa: ANN401 - as above
            self.seconds.append(time.perf_counter() - self.started)

    clock = Clock()
    trained, held = _loaders(sets, process)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=process.world_size,
        strategy="ddp",
        max_epochs=EPOCHS,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Module(), trained, held)
    return clock.seconds


def _loaders(sets: DataSets, process: Process) -> tuple[DataLoader[Any], DataLoader[Any]]:
    count, rank = process.world_size, process.rank
    return (
        DataLoader(sets.train, PER_GPU, sampler=DistributedSampler(sets.train, count, rank)),
        DataLoader(sets.val, PER_GPU, sampler=DistributedSampler(sets.val, count, rank, shuffle=False)),
    )


LOOPS: dict[str, Callable[[str, DataSets, Process], list[float]]] = {
    "gpuplan": gpuplan,
    "bare": bare,
    "lightning": lightning,
}


def worker(rounds: int, folder: Path) -> None:
    """Run all loops in this process, one of two; rank 0 leaves the seconds of an epoch by network, loop and round."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    process = Process.from_environment(os.environ)
    sets = DataSets(*data.load("digits", None))
    found: dict[str, dict[str, list[float]]] = {name: {loop: [] for loop in LOOPS} for name in NETWORKS}
    for number in range(rounds):
        for name in NETWORKS:
            order = list(LOOPS)
            for loop in order[number % 3 :] + order[: number % 3]:
                found[name][loop].append(statistics.mean(LOOPS[loop](name, sets, process)[1:]))
    if process.rank == 0:
        (folder / "seconds.json").write_text(json.dumps(found))


def main(rounds: int) -> int:
    """Print the shares of the bare loop's throughput; return whether the aim is met."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = environment({**os.environ, "OMP_NUM_THREADS": "1"}, folder, PROCESSES, PROCESSES, Nodes())
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command = [sys.executable, *torchrun, f"--nproc-per-node={PROCESSES}", __file__, "--worker", str(rounds), name]
        subprocess.run(command, env=settings, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((folder / "seconds.json").read_text())
    print(
        f"{PROCESSES} processes, {PER_GPU} samples each, {rounds} rounds; median (lowest to highest) of paired ratios"
    )
    print(f"{'network':12} {'loop':10} {'throughput / bare loop':28} samples/s")
    samples = len(DataSets(*data.load("digits", None)).train)  # type: ignore[arg-type] # it has a length
    met = True
    for network_name, loops in found.items():
        for loop, seconds in loops.items():
            ratios = [one / own for one, own in zip(loops["bare"], seconds, strict=True)]
            middle = statistics.median(ratios)
            shown = f"{middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            print(f"{network_name:12} {loop:10} {shown:28} {samples / statistics.median(seconds):,.0f}")
            if (network_name, loop) == (NETWORKS[0], "gpuplan"):
                met = middle >= AIM
    print(f"aim: gpuplan keeps {AIM:.2f} of the bare loop on {NETWORKS[0]}: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    if "--worker" in sys.argv:
        worker(int(sys.argv[-2]), Path(sys.argv[-1]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
