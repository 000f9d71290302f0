"""The batch search: what a job is told of it, the tries it made on the device, and the batches it names.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gpuplan_job.contract.workload import BatchSpec, Measured, Precision, WorkloadSpec
from gpuplan_job.document import ContractError, Document

Outcome = Literal["ran", "out-of-memory", "too-slow"]


@dataclass(frozen=True)
class BatchSearchSpec:
    """A search for the largest safe per-GPU batch of a training; the job's own batch is the one to start from."""

    largest: int
    """No batch above is tried: data, settings or the training's number of steps allow none."""
    memory_share: float
    """A batch is safe if its peak stays within this share of the device's memory."""
    world_size: int
    """Processes of the training: with several, room for DDP's buckets is held while a batch is tried."""
    accumulation: int
    """Micro-batches per optimizer step of the training: with several, gradients stay alive in the backward pass."""
    trial_seconds: float
    """A try takes no more timed steps than fit into this, and a batch whose steps do not fit is none to go on from."""
    memory_gib: float | None = None
    """Takes this for the device's memory where the device has more; None: what it has."""

    def __post_init__(self) -> None:
        """Refuse a search that can find nothing."""
        positive = (self.largest, self.world_size, self.accumulation, self.trial_seconds, self.memory_gib or 1)
        if min(positive) <= 0 or not 0 < self.memory_share <= 1:
            raise ContractError("BatchSearchSpec: sizes and times must be positive, memory_share in (0, 1]")


@dataclass(frozen=True)
class BatchTrial:
    """One batch, tried with real optimizer steps; the figures are there if and only if it ran."""

    batch: int
    outcome: Outcome
    peak_gib: float | None = None
    """Most of the device's memory that was in use: on CUDA all processes and the context, on a CPU this process alone.
    None: not measurable."""
    step_seconds: float | None = None
    """Median of a micro-batch with its share of the optimizer step, data on the host already, after warm-up."""
    samples_per_second: float | None = None

    def __post_init__(self) -> None:
        """Refuse figures of a batch that did not run, and a run without them."""
        times = (self.step_seconds, self.samples_per_second)
        if self.batch < 1 or any((time is not None) != (self.outcome == "ran") for time in times):
            raise ContractError("BatchTrial: a batch has its times if and only if it ran")
        if any(value is not None and value <= 0 for value in (*times, self.peak_gib)):
            raise ContractError("BatchTrial: times and memory must be positive")


@dataclass(frozen=True)
class BatchResult(Document):
    """What a batch search found, and the conditions it holds under."""

    SCHEMA: ClassVar[str] = "gpuplan.batch-result/1"

    run_id: str
    step: str
    attempt: int
    input_sha256: str
    workload: WorkloadSpec
    search: BatchSearchSpec
    batch: BatchSpec
    """The one that the search started from."""
    precision: Precision
    """The one in effect on the device."""
    capacity_gib: float
    """The device's memory, as far as the search was allowed to take it for that."""
    reserved_gib: float
    """Held during every try for what a training on several GPUs takes beside."""
    trials: list[BatchTrial]
    """In the order in which they were made."""
    chosen: int
    """The per-GPU batch of the next steps."""
    largest: int
    """The largest safe batch."""
    fastest: int
    """The safe batch that takes the least time a sample."""
    measured: Measured
    """Of the chosen batch."""
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """Refuse batches that were not tried, or twice."""
        ran = {trial.batch for trial in self.trials if trial.outcome == "ran"}
        if len({trial.batch for trial in self.trials}) != len(self.trials):
            raise ContractError("BatchResult: a batch was tried twice")
        if not {self.chosen, self.largest, self.fastest} <= ran:
            raise ContractError("BatchResult: chosen, largest and fastest must be batches that ran")
        if not (math.isfinite(self.capacity_gib) and self.capacity_gib > 0 <= self.reserved_gib):
            raise ContractError("BatchResult: the device has no memory")

    def trial(self, batch: int) -> BatchTrial:
        """Return the try of a batch.

        Raises:
            KeyError: it was not tried.
        """
        found = next((trial for trial in self.trials if trial.batch == batch), None)
        if found is None:
            raise KeyError(batch)
        return found
