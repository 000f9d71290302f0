"""From a planned step to what its job is told. Pure; called by the engine and by reports that show the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan, StepPlan


def job_input(
    plan: LaunchPlan,
    step: StepPlan,
    *,
    run_id: str,
    attempt: int,
    learning_rate: float | None,
    multiplier: float | None = None,
) -> JobInput:
    """Return the input of one attempt of a step; `learning_rate` binds the training and is ignored by lr-find.

    `multiplier` is that learning rate over the one found on one GPU, None where it is not known: one that does not grow
    needs no warm-up.

    Raises:
        ValueError: a training without a learning rate.
    """
    train = None
    if step.sweep is None:
        if learning_rate is None:
            raise ValueError("a training step needs a learning rate before it can be bound")
        warmup = plan.lr.warmup.for_lr(multiplier) if plan.lr.warmup else None
        steps = warmup.steps if warmup else 0
        saving = step.checkpoints
        train = TrainSpec(
            learning_rate,
            steps,
            warmup.start if warmup and steps else 0.0,
            # What a save takes the job will measure itself.
            mean_seconds_between_failures=saving.hours_between_failures * SECONDS_PER_HOUR if saving else None,
            checkpoint_seconds=saving.interval_minutes * 60 if saving and saving.asked else None,
        )
    batch = step.batch
    return JobInput(
        run_id=run_id,
        step=step.name,
        attempt=attempt,
        plan_id=plan.plan_id,
        workload=plan.workload,
        batch=BatchSpec(batch.per_gpu, batch.world_size, batch.accumulation),
        device=plan.device,
        sweep=step.sweep,
        train=train,
    )
