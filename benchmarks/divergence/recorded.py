"""Trainings really made, good and bad: the loss of every optimizer step, from far too low to far too high an LR.

Kept in `benchmarks/data/training_losses.json.xz` and recorded anew by `divergence_guard.py --record`. It must not know
of any guard.
"""

from __future__ import annotations

import json
import lzma
import math
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lr.tasks import BATCH, TASKS, Task, arrays
from lr.truth import landscapes

from gpuplan_job import optim, runtime
from gpuplan_job.contract import TrainSpec
from gpuplan_job.loaders import permutation
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from gpuplan_job.contract import Schedule

FILE = Path(__file__).parent.parent / "data" / "training_losses.json.xz"
FACTORS = (1.0, 100.0, 0.1, 10.0, 1000.0, 3.0)
"""Learning rates over the best one that the truth knows of the task."""
_LOW = (0.01, 0.001)
"""Those at which little is learnt, with the first recipe alone."""
_RECIPES: tuple[tuple[Schedule, int, int], ...] = (("onecycle", BATCH, 0), ("constant", BATCH, 1), ("cosine", 8, 2))
"""Schedule, samples of a step, seed; the batch of 8 has the noisiest losses."""
_QUICK = ("digits-noisy", BATCH)
"""Where residual networks are trained too: the others alone would take an hour."""
_DIGITS = 4


@dataclass(frozen=True)
class Training:
    """One training as its guard could see it, and what became of it."""

    name: str
    factor: float
    """Its learning rate over the best one."""
    epochs: int
    total: int
    """Optimizer steps it was to take."""
    losses: list[float]
    """Of each step; shorter than `total` where the next one was not finite."""
    accuracies: list[float]
    """Validation accuracy after each epoch."""
    chance: float
    """Loss of answering with the classes' frequencies, in nats."""
    chance_accuracy: float
    """Share of the largest class among the validation samples."""

    @property
    def finished(self) -> bool:
        """Whether all its losses were finite."""
        return len(self.losses) == self.total


def record(task: Task, factor: float, schedule: Schedule, batch: int, seed: int) -> Training:
    """Train once, on the CPU, and return what a guard would have seen."""
    workload = replace(task.workload(seed), schedule=schedule)
    layout = EpochLayout(task.samples, batch, 1, 1)
    total = workload.epochs * layout.steps
    rate = landscapes()[task.name, 1, "epochs"].best_lr * factor
    runtime.seed_everything(seed)
    network = task.build()
    optimizer = optim.build(workload, network, rate)
    plan = optim.schedule(workload, optimizer, TrainSpec(rate), total)
    held = arrays(task.data)
    losses: list[float] = []
    accuracies: list[float] = []
    for epoch in range(workload.epochs):
        order = permutation(layout.samples, seed, epoch)
        for cut in layout.micro_batches(0):
            chosen = order[cut.start : cut.stop]
            network.train()
            loss = optim.loss(network(held.train_images[chosen]), held.train_labels[chosen], 0.0)
            if not math.isfinite(found := float(loss.detach())):
                break
            losses.append(float(f"{found:.{_DIGITS}g}"))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            optimizer.step()
            plan.step()
        else:
            accuracies.append(_accuracy(network, task))
            continue
        break
    counts = {label: int(count) for label, count in enumerate(held.train_labels.bincount().tolist())}
    largest = int(held.val_labels.bincount().max()) / len(held.val_labels)
    return Training(
        f"{task.name}/{schedule}/{batch}",
        factor,
        workload.epochs,
        total,
        losses,
        accuracies,
        optim.chance_loss(counts, 0.0) or math.nan,
        largest,
    )


def record_all() -> Iterator[Training]:
    """Make every training; an hour on one core."""
    for factor in (*FACTORS, *_LOW):
        for schedule, batch, seed in _RECIPES if factor in FACTORS else _RECIPES[:1]:
            for task in TASKS:
                if task.data == "mnist-long" or (task.network == "resnet" and (task.data, batch) != _QUICK):
                    continue
                yield record(task, factor, schedule, batch, seed)


def store(trainings: list[Training]) -> None:
    """Write all trainings into the data folder."""
    text = json.dumps([asdict(training) for training in trainings], separators=(",", ":"))
    FILE.write_bytes(lzma.compress(text.encode(), preset=9))


def stored() -> list[Training]:
    """Return the trainings of the data folder."""
    return [Training(**row) for row in json.loads(lzma.decompress(FILE.read_bytes()))]


def _accuracy(network: nn.Module, task: Task) -> float:
    held = arrays(task.data)
    copy = deepcopy(network).eval()
    with torch.no_grad():
        right = copy(held.val_images).argmax(dim=1) == held.val_labels
    return round(float(right.float().mean()), 4)
