"""gpuplan's range tests on the tasks of `lr_regret.py`: its own sweep loop and noise measurement, fed from memory."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gpuplan_job import noise, optim, runtime, sweep_design
from gpuplan_job.contract import LrTarget, SweepSpec
from gpuplan_job.learner import Learner
from gpuplan_job.loaders import permutation
from gpuplan_job.pace import Pace
from gpuplan_job.sampling import EpochLayout
from gpuplan_job.sweep import Sweeper
from lr.tasks import BATCH, arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from gpuplan_job.contract import Curve, NoiseScale
    from lr.tasks import Task

CPU = torch.device("cpu")
FIRST_SEED = 100
"""Range tests draw weights and orders that no training of the truth draws."""


def spec(task: Task, gpus: int = 1, iterations: int | None = None) -> SweepSpec:
    """Return a range test of one run at the batch of so many GPUs, as long as gpuplan designs it or as is asked."""
    workload = task.workload()
    low, high = sweep_design.lr_range(workload.optimizer, workload.momentum)
    return SweepSpec(
        runs=1,
        iterations=iterations or sweep_design.iterations(task.steps(gpus)),
        lr_min=low,
        lr_max=high,
        reference_steps=task.steps(gpus),
        noise_micro_batches=sweep_design.NOISE_MICRO_BATCHES,
        target=LrTarget("edge", "none", BATCH * gpus, task.steps(gpus)),
    )


def sweep(task: Task, one: SweepSpec, seed: int, accumulation: int = 1) -> Curve:
    """Return one sweep's curve, from fresh weights."""
    workload = task.workload(seed)
    runtime.seed_everything(seed)
    network = task.build()
    pace = Pace("lr-find", one.iterations, BATCH * accumulation, time.perf_counter, lambda _progress: None)
    learner, scaler = Learner.of(network, workload, CPU), runtime.grad_scaler("fp32", CPU)
    optimizer = learner.optimizer(one.lr_min)
    return Sweeper(one, pace).sweep(learner, optimizer, scaler, _steps(task, seed, accumulation), seed)


def noise_scale(task: Task, seed: int, burn_in: tuple[int, float] = (0, 0.0)) -> NoiseScale | None:
    """Return the gradient noise scale after `burn_in` optimizer steps at a constant learning rate."""
    workload = replace(task.workload(seed), schedule="constant")
    runtime.seed_everything(seed)
    network = task.build()
    steps, learning_rate = burn_in
    batches = _steps(task, seed, 1)
    if steps:
        _train(
            network,
            workload.label_smoothing,
            optim.build(workload, network, learning_rate),
            batches,
            steps,
        )
    # Of an order of its own: no sample in two micro-batches.
    fresh = _steps(task, seed + 1, 1)
    return noise.measure(
        network,
        (next(fresh)[0] for _ in range(sweep_design.NOISE_MICRO_BATCHES)),
        lambda logits, targets: optim.loss(logits, targets, workload.label_smoothing),
        "fp32",
        CPU,
    )


def _train(
    network: nn.Module,
    label_smoothing: float,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list[tuple[Tensor, Tensor]]],
    steps: int,
) -> None:
    network.train()
    for _ in range(steps):
        (inputs, targets), *_ = next(batches)
        optimizer.zero_grad()
        optim.loss(network(inputs), targets, label_smoothing).backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.step()


def _steps(task: Task, seed: int, accumulation: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the micro-batches of one full optimizer step after the other, as the job's loader does."""
    held = arrays(task.data)
    layout = EpochLayout(task.samples, BATCH, 1, accumulation)
    epoch = 0
    while True:
        order = permutation(layout.samples, seed, epoch)
        step = []
        for cut in layout.micro_batches(0):
            chosen = order[cut.start : cut.stop]
            step.append((held.train_images[chosen], held.train_labels[chosen]))
            if cut.last_of_step:
                if cut.step_samples == layout.global_batch:
                    yield step
                step = []
        epoch += 1
