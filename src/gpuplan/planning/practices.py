"""What a workload's practices ask of a plan: which do not go together, how the batch grows, what the LR then is. Pure.

Called by the pipelines and by `planning.steps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.planning.range_test import policy
from gpuplan_job import transfer
from gpuplan_job.batch_growth import accumulations
from gpuplan_job.contract import OWN
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.workload.schema import Settings


def refuse_contradictions(settings: Settings) -> None:
    """Return if the settings of the training can be had together.

    Raises:
        UsageError: they cannot.
    """
    work = settings.workload
    if work.optimizer == OWN and ":" not in work.model:
        raise UsageError(
            f"--optimizer own: {work.model} is a torchvision network and configures no optimizer",
            fix="--optimizer sgd, adamw or lamb",
        )
    if work.schedule == OWN and work.optimizer != OWN:
        raise UsageError(
            f"--schedule own goes with the optimizer that the model configures itself, not with {work.optimizer}",
            fix="--schedule onecycle, cosine or constant",
        )
    if work.batch_schedule == "constant":
        return
    if work.accumulate == 1:
        raise UsageError(
            f"--batch-schedule {work.batch_schedule} has nothing to grow: the batch grows by accumulation",
            why="the per-GPU batch stays, so that memory and speed do",
            fix="--accumulate 4: from a quarter of the global batch to all of it",
        )
    if work.schedule == OWN:
        raise UsageError(
            f"--batch-schedule {work.batch_schedule} with --schedule own: the learning rate has to follow the batch",
            fix="--schedule cosine, onecycle or constant drives the model's optimizer",
        )


def lr_shares(settings: Settings, batches: BatchPlan) -> tuple[float, ...]:
    """Return each epoch's share of the learning rate while the batch grows; nothing where it does not.

    The share is what the transfer policy makes of the smaller batch. A policy that goes by a measurement is stood in
    for by the square root, as it does itself.
    """
    work, full = settings.workload, batches.train
    if work.batch_schedule == "constant":
        return ()
    rule, single = transfer.load(policy(settings.lr)), full.per_gpu * full.world_size
    counts = accumulations(work.batch_schedule, full.accumulation, work.epochs)
    return tuple(1 / rule.multiplier(Transfer(single * count, full.global_batch, None)) for count in counts)
