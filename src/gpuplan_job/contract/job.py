"""What a job is told, what it says while it runs, and how it says that it failed.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gpuplan_job.contract.range_test import SweepSpec
from gpuplan_job.contract.training import TrainSpec
from gpuplan_job.contract.workload import BatchSpec, Device, WorkloadSpec
from gpuplan_job.document import ContractError, Document

PROGRESS_PREFIX = "gpuplan.progress "
"""A log line that starts so carries one `Progress`; every backend that streams logs streams progress."""

FailureKind = Literal[
    "usage",
    "data",
    "import",
    "out-of-memory",
    "disk",
    "device",
    "communication",
    "stall",
    "diverged",
    "killed",
    "user-code",
    "internal",
]


@dataclass(frozen=True)
class Expected:
    """What the plan expects a process to need, held against the machine before the first step; None: not known."""

    peak_gib: float | None = None
    """Of a GPU's memory, or of this machine's where there is none."""
    checkpoint_gib: float | None = None
    loader_gib: float | None = None
    """Batches that the data-loading workers of a process hold ready in shared memory."""


@dataclass(frozen=True)
class JobInput(Document):
    """All that a job is told. Exactly one of `sweep` and `train` is set, and names the task."""

    SCHEMA: ClassVar[str] = "gpuplan.job-input/1"

    run_id: str
    step: str
    attempt: int
    plan_id: str
    workload: WorkloadSpec
    batch: BatchSpec
    device: Device
    sweep: SweepSpec | None = None
    train: TrainSpec | None = None
    expected: Expected | None = None

    def __post_init__(self) -> None:
        """Refuse an input that names no task or two."""
        if (self.sweep is None) == (self.train is None):
            raise ContractError("JobInput: exactly one of sweep and train must be set")


@dataclass(frozen=True)
class Progress(Document):
    """Where a job stands, printed now and then as a log line."""

    SCHEMA: ClassVar[str] = "gpuplan.progress/1"

    step: str
    phase: str
    """For people: `sweep 2 of 3`, `epoch 4 of 6`."""
    done: int
    """Optimizer steps done, over all phases."""
    total: int
    values: dict[str, float]
    """For people, in this order of keys: loss, learning_rate, samples_per_second, val_loss, val_accuracy."""

    def to_line(self) -> str:
        """Return the log line that `from_line` reads."""
        return PROGRESS_PREFIX + self.to_json()

    @classmethod
    def from_line(cls, line: str) -> Progress | None:
        """Return the progress in a log line, None if the line is anything else or is damaged."""
        if not line.startswith(PROGRESS_PREFIX):
            return None
        try:
            return cls.from_json(line.removeprefix(PROGRESS_PREFIX))
        except ContractError:
            return None


@dataclass(frozen=True)
class Failure(Document):
    """Why a job failed, in words for its user, with the trace for whoever debugs it."""

    SCHEMA: ClassVar[str] = "gpuplan.failure/1"

    run_id: str
    step: str
    attempt: int
    kind: FailureKind
    message: str
    fix: str
    rank: int | None = None
    trace: str = ""
