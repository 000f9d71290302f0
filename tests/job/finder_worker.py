"""Fits a Lightning module with `FindLearningRate` in every process of a torchrun: `finder_worker.py FOLDER`.

The tests of the callback start it with two processes; each writes what it saw as `rank<N>.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gpuplan_job.finder import FindLearningRate, find_lr

FEATURES, CLASSES, SAMPLES, BATCH, RUNS, ITERATIONS = 8, 4, 320, 8, 2, 60
NAN_FROM, SEED, STEPS = 7, 4, 20


def data(batch: int, *, shared: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    """Return separable classes in a fixed order; of `shared` data two ranks take what one does with twice the batch."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SAMPLES) % CLASSES
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    held = TensorDataset(centres[targets] + torch.randn(SAMPLES, FEATURES, generator=generator), targets)
    sampler: DistributedSampler[Any] | None = DistributedSampler(held, shuffle=False) if shared else None
    return DataLoader(held, batch, sampler=sampler)


class Lit(pl.LightningModule):
    """An MLP with a part that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.lr = 1e-3
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def on_train_start(self) -> None:
        self.at_start = digest(self)


def digest(module: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in module.parameters())).hexdigest()


def main(folder: Path) -> None:
    module, callback = Lit(), FindLearningRate(runs=RUNS, iterations=ITERATIONS)
    fresh = digest(module)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, data(BATCH))
    assert callback.found is not None
    rank, calls = distributed.get_rank(), 0

    def step(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        loss = functional.cross_entropy(network(batch[0]), batch[1])
        return loss * math.nan if rank == 1 and calls > NAN_FROM else loss

    torch.manual_seed(SEED)
    network = nn.Linear(FEATURES, CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    broken = find_lr(network, data(BATCH), step=step, optimizer=optimizer, steps=40, runs=1, iterations=20)
    together = find_lr(Lit(), data(BATCH, shared=True), steps=STEPS, runs=1, iterations=ITERATIONS)
    told = {
        "result": json.loads(callback.found.result.to_json()),
        "lr": module.lr,
        "optimizer_lr": trainer.optimizers[0].param_groups[0]["lr"],
        "steps": trainer.global_step,
        "fresh": fresh,
        "at_start": module.at_start,
        "at_end": digest(module),
        "broken": json.loads(broken.result.to_json())["curves"][0],
        "broken_calls": calls,
        "together": json.loads(together.result.to_json())["curves"][0],
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
