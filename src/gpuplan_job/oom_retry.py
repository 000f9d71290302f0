"""One more try for a training that ran out of memory: smaller micro-batches, more of them, the same global batch.

Called by `launch`, which starts the processes anew because the device state of the old ones cannot be trusted, and by
`train`, which reads what was decided. Standard library only. A range test never retries: its batch is what was asked
about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import RETRY_FILE, BatchSpec, OomRetry

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.contract import Failure, JobInput


def retry_of(job_input: JobInput, failure: Failure) -> OomRetry | None:
    """Return how a failed training goes on, None where it does not: another cause, one sample a GPU, a second time.

    A micro-batch is halved, an odd one cut into its smallest factor of parts, so that the global batch stays.
    """
    per_gpu, accumulation = job_input.batch.per_gpu, job_input.batch.accumulation
    train = job_input.train
    if train is None or train.oom_retry is not None or failure.kind != "out-of-memory" or per_gpu == 1:
        return None
    parts = next(parts for parts in range(2, per_gpu + 1) if per_gpu % parts == 0)
    return OomRetry(per_gpu, per_gpu // parts, accumulation * parts, failure.rank, failure.message)


def after_failure(job_input: JobInput, failure: Failure, folder: Path) -> OomRetry | None:
    """Return how the training in a job's folder goes on after a failure, and note it there; None where it stands.

    Raises:
        OSError: the folder cannot be written.
    """
    retry = retry_of(job_input, failure)
    if retry is None or (folder / RETRY_FILE).exists():
        return None
    write_atomic(folder / RETRY_FILE, retry.to_json())
    return retry


def applied(job_input: JobInput, folder: Path) -> JobInput:
    """Return a job's input with the retry that its folder holds, as it was sent where there is none.

    Raises:
        ContractError: the retry cannot be read.
    """
    path = folder / RETRY_FILE
    if job_input.train is None or not path.exists():
        return job_input
    return replace(job_input, train=replace(job_input.train, oom_retry=OomRetry.from_json(path.read_bytes())))


def batch_of(job_input: JobInput) -> BatchSpec:
    """Return the batch that a job's processes work with: the planned one, or that of its retry."""
    retry = job_input.train.oom_retry if job_input.train else None
    batch = job_input.batch
    return batch if retry is None else BatchSpec(retry.per_gpu, batch.world_size, retry.accumulation)


def announcement(retry: OomRetry, world_size: int) -> str:
    """Return what the job's log says of a retry."""
    batch = retry.per_gpu * world_size * retry.accumulation
    where = "" if retry.rank is None else f" on rank {retry.rank}"
    cut = f"{retry.per_gpu} x {world_size} x {retry.accumulation} = {batch}"
    return (
        f"out of memory{where} at {retry.planned_per_gpu} samples per GPU ({retry.message}); "
        f"going on once from the newest checkpoint with {cut}, the same global batch. "
        f"BatchNorm, where there is any, now takes its statistics over {retry.per_gpu} samples."
    )
