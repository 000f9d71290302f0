"""Trainings on N GPUs, emulated in one process: what DistributedDataParallel computes, to the rounding of a sum.

Each rank's micro-batch goes through the network by itself, so BatchNorm sees the samples of one GPU, and the gradients
add up to that of the global mean. The optimizer, its schedule and the cut of the epochs are gpuplan's own.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from gpuplan_job import optim, runtime
from gpuplan_job.contract import TrainSpec
from gpuplan_job.loaders import permutation
from gpuplan_job.sampling import EpochLayout
from lr.tasks import BATCH, arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.sampling import MicroBatch
    from lr.tasks import Task


def final_loss(task: Task, learning_rate: float, gpus: int, seed: int, steps: int | None = None) -> float:
    """Train and return the validation loss (nats) at the end; infinity where the training diverged.

    `steps` fixes the number of optimizer steps in place of the epochs: as many as the training on one GPU has.
    """
    workload = task.workload(seed)
    layout = EpochLayout(task.samples, BATCH, gpus, 1)
    if steps is not None:
        workload = replace(workload, epochs=-(-steps // layout.steps))
    total = workload.epochs * layout.steps if steps is None else steps
    runtime.seed_everything(seed)
    network = task.build()
    optimizer = optim.build(workload, network, learning_rate)
    schedule = optim.schedule(workload, optimizer, TrainSpec(learning_rate), total)
    train_images, train_labels = arrays(task.data).train_images, arrays(task.data).train_labels
    network.train()
    buffers: dict[str, torch.Tensor] = {}
    # Without BatchNorm a rank's samples do not meet in the network: all ranks' together give the same gradient.
    parts = gpus if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()) else 1
    ranks = [layout.micro_batches(rank) for rank in range(gpus)]
    for order, cuts in _steps(layout, ranks, seed, total):
        optimizer.zero_grad()
        for part in range(parts):
            cut = cuts[part]
            chosen = order[cut.start : cut.stop] if parts == gpus else order[cut.start : cuts[-1].stop]
            loss = optim.loss(network(train_images[chosen]), train_labels[chosen], workload.label_smoothing, "sum")
            (loss / cut.step_samples).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            if part == 0 and parts > 1:
                buffers = {name: value.clone() for name, value in network.named_buffers()}
        # The validation uses the running statistics of rank 0, and they are its own alone.
        with torch.no_grad():
            for name, value in network.named_buffers():
                if parts > 1:
                    value.copy_(buffers[name])
        optimizer.step()
        schedule.step()
        if not math.isfinite(float(loss.detach())):
            return math.inf
    found = _validation_loss(network, task)
    return found if math.isfinite(found) else math.inf


def _steps(
    layout: EpochLayout, ranks: list[list[MicroBatch]], seed: int, total: int
) -> Iterator[tuple[torch.Tensor, tuple[MicroBatch, ...]]]:
    """Yield the epoch's order and one micro-batch a rank for each optimizer step."""
    done, epoch = 0, 0
    while True:
        order = permutation(layout.samples, seed, epoch)
        for cuts in zip(*ranks, strict=True):
            if done == total:
                return
            yield order, cuts
            done += 1
        epoch += 1


def _validation_loss(network: nn.Module, task: Task) -> float:
    held_out = arrays(task.data)
    copy = deepcopy(network).eval()
    with torch.no_grad():
        return float(optim.loss(copy(held_out.val_images), held_out.val_labels, 0.0))
