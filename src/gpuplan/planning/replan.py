"""The training's estimates again, with what lr-find measured on the same GPU. Pure; called by the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.planning.advice.critical_batch import CriticalBatch, Reference, critical_batch
from gpuplan.planning.memory.estimate import MARGIN, MemoryEstimate, MemoryItem
from gpuplan.planning.money.cost import Cost, cost
from gpuplan.planning.speed.throughput import Hours, from_measured

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan_job.contract import Measured

_MEASURED_BAND = 0.05
"""What may still differ: the training adds buckets and NCCL's buffers, and holds its gradients longer."""


class Replan(Frozen):
    """New time, cost and memory of the training."""

    time_hours: Hours
    cost_usd: Cost | Unknown
    memory: MemoryEstimate | Unknown


def replan(plan: LaunchPlan, measured: Measured) -> Replan | None:
    """Return the training's estimates with a measured step; None where the measurement does not carry over."""
    step = plan.step("train")
    if step is None or step.measured_scale is None:
        return None
    time = from_measured(
        max(_busy_seconds(measured) * step.measured_scale, step.loading_seconds),
        plan.batch.steps_per_epoch * plan.workload.epochs,  # full ones: a growing batch takes more, smaller steps
        step.startup_minutes,
        step.batch.global_batch,
    )
    return Replan(
        time_hours=time.hours,
        cost_usd=cost(step.rate_usd_per_hour, time.hours, step.instances),
        memory=_memory(plan, measured),
    )


def more_gpus(plan: LaunchPlan, noise_scale: float | None, measured: Measured) -> CriticalBatch | Unknown:
    """Return what other numbers of GPUs take to the loss that the plan's training reaches in its epochs.

    `noise_scale` is the gradient noise scale in samples, None where the measurement carried no signal.
    """
    if noise_scale is None:
        return Unknown(unknown="the gradient noise scale carried no signal")
    if not plan.gpu_options:
        return Unknown(unknown="the plan compares no other numbers of GPUs")
    epochs = plan.workload.epochs
    reference = Reference(
        batch=plan.batch.train.global_batch,
        steps=plan.batch.steps_per_epoch * epochs,
        examples=plan.data.train_samples * epochs,
    )
    return critical_batch(noise_scale, plan.gpu_options, reference, _busy_seconds(measured))


def _busy_seconds(measured: Measured) -> float:
    """Return the measured step without its wait for data: a finder of few vCPUs may wait where the training does not.

    Each has its own loading time. A clock too coarse to tell the two apart shows no time at all, which is none.
    """
    return measured.busy_seconds or measured.step_seconds


def _memory(plan: LaunchPlan, measured: Measured) -> MemoryEstimate | Unknown:
    """Return the training's peak, corrected by as much as the range test's measured peak differs from its estimate.

    A measured peak is what the allocator holds, and under pressure it gives cached blocks back: a corrected peak over
    the capacity is `tight`, never `too_big`.
    """
    finder, train = plan.step("lr-find"), plan.step("train")
    if finder is None or train is None or measured.peak_gib is None:
        return Unknown(unknown="lr-find measured no peak memory")
    if finder.batch.per_gpu != train.batch.per_gpu:
        return Unknown(unknown="lr-find ran at another per-GPU batch")
    if any(at.batch.per_gpu > finder.batch.per_gpu for at in (finder.sweep.compare if finder.sweep else ())):
        return Unknown(unknown="lr-find was planned for the largest batch it compares, and measured at its own")
    if isinstance(finder.memory, Unknown) or isinstance(train.memory, Unknown):
        return Unknown(unknown="the memory of the training was not known, so a measured one corrects nothing")
    outside = sum(item.gib for item in finder.memory.items if item.name == "context")
    difference = measured.peak_gib + outside - finder.memory.peak_gib
    peak = train.memory.peak_gib + difference
    item = MemoryItem(name="measured", gib=difference, how="lr-find's measured peak less its estimate")
    return MemoryEstimate(
        peak_gib=peak,
        capacity_gib=train.memory.capacity_gib,
        verdict="fits" if peak * (1 + MARGIN) <= train.memory.capacity_gib else "tight",
        items=(*train.memory.items, item),
        error_band=(peak * (1 - _MEASURED_BAND), peak * (1 + _MEASURED_BAND)),
    )
