"""From a planned step to what its job is told. Pure; called by the engine and by reports that show the request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, gib_from_bytes
from gpuplan_job.contract import BatchSpec, CodeSpec, Expected, JobInput, TrainSpec

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan, StepPlan

_BYTES_OF_FLOAT = 4
_PREFETCHED = 2
"""Batches that PyTorch's loader asks each worker for in advance."""


def job_input(
    plan: LaunchPlan,
    step: StepPlan,
    *,
    run_id: str,
    attempt: int,
    learning_rate: float | None,
    multiplier: float | None = None,
) -> JobInput:
    """Return the input of one attempt of a step; `learning_rate` binds the training and is ignored by the searches.

    `multiplier` is that learning rate over the one found on one GPU, None where it is not known: one that does not grow
    needs no warm-up.

    Raises:
        ValueError: a training without a learning rate.
    """
    train = None
    if step.name == "train":
        if learning_rate is None:
            raise ValueError("a training step needs a learning rate before it can be bound")
        warmup = plan.lr.warmup.for_lr(multiplier) if plan.lr.warmup else None
        steps = warmup.steps if warmup else 0
        saving = step.checkpoints
        train = TrainSpec(
            learning_rate,
            steps,
            warmup.start if warmup and steps else 0.0,
            list(plan.lr.shares),
            divergence_guard=plan.provenance.settings.launch.divergence_guard,
            # What a save takes the job will measure itself.
            mean_seconds_between_failures=saving.hours_between_failures * SECONDS_PER_HOUR if saving else None,
            checkpoint_seconds=saving.interval_minutes * 60 if saving and saving.asked else None,
        )
    batch, code = step.batch, plan.provenance.code
    return JobInput(
        run_id=run_id,
        step=step.name,
        attempt=attempt,
        plan_id=plan.plan_id,
        workload=replace(plan.workload, workers=step.workers),
        batch=BatchSpec(batch.per_gpu, batch.world_size, batch.accumulation),
        device=plan.device,
        sweep=step.sweep,
        train=train,
        loggers=list(plan.provenance.settings.launch.loggers) if train else [],
        batch_search=step.search,
        code=None if code is None else CodeSpec(code.sha256, code.archive_bytes),
        expected=_expected(plan, step),
    )


def _expected(plan: LaunchPlan, step: StepPlan) -> Expected:
    """Return what a process of the step is planned to need, for the job to hold against its machine."""
    data, saving = plan.data, step.checkpoints
    side = plan.workload.image_size
    pixels = side * side if side else data.height * data.width
    batch_gib = gib_from_bytes(step.batch.per_gpu * data.channels * pixels * _BYTES_OF_FLOAT)
    return Expected(
        peak_gib=None if isinstance(step.memory, Unknown) else _rounded(step.memory.peak_gib),
        checkpoint_gib=_rounded(saving.size_gib) if saving and saving.size_gib is not None else None,
        loader_gib=_rounded(step.workers * _PREFETCHED * batch_gib),
    )


def _rounded(gib: float) -> float:
    return float(f"{gib:.4g}")
