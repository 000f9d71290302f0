"""May a checkpoint be gone on from with other processes? Yes, where the same samples make each optimizer step.

Called by `checkpoints` and `train`. Standard library only. It says what would fit and chooses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.batch_growth import TrainingLayout

if TYPE_CHECKING:
    from gpuplan_job.contract import BatchSpec, WorkloadSpec


def refusal(before: BatchSpec, now: TrainingLayout, batch: BatchSpec, workload: WorkloadSpec) -> tuple[str, str] | None:
    """Return why a training at `before` cannot go on at `batch`, whose layout is `now`, and what would fit; else None.

    Positions in an epoch are global, so the same steps over the same samples are the same work however they are cut.
    """
    told = f"its steps take {product(before)} samples, this job's {product(batch)}"
    if before.global_batch != batch.global_batch:
        return told, fitting(before.global_batch, batch)
    if before == batch:
        return None
    samples = now.epochs[0].samples
    try:
        earlier = TrainingLayout.of(samples, before, workload.batch_schedule, workload.epochs)
    except ValueError as error:
        return str(error), fitting(before.global_batch, batch)
    if [(cut.global_batch, cut.steps) for cut in earlier.epochs] == [
        (cut.global_batch, cut.steps) for cut in now.epochs
    ]:
        return None
    return (
        f"{told}: the same, but they make {earlier.steps} steps of the training and not {now.steps}",
        f"resume with --per-gpu-batch {before.per_gpu} on {before.world_size} GPUs",
    )


def product(batch: BatchSpec) -> str:
    """Return how a global batch is made up."""
    return f"{batch.per_gpu} x {batch.world_size} GPUs x {batch.accumulation} = {batch.global_batch}"


def fitting(global_batch: int, batch: BatchSpec) -> str:
    """Return what keeps a global batch on the GPUs of `batch`, at its per-GPU batch or a smaller one that divides."""
    each, rest = divmod(global_batch, batch.world_size)
    if rest:
        counts = [str(n) for n in range(1, global_batch + 1) if global_batch % n == 0][:8]
        return f"{batch.world_size} GPUs cannot share {global_batch} samples evenly; these can: {', '.join(counts)}"
    per_gpu = max(size for size in range(1, min(each, batch.per_gpu) + 1) if each % size == 0)
    return f"on {batch.world_size} GPUs --per-gpu-batch {per_gpu} --accumulate {each // per_gpu} keeps it"
