"""What a job is told, what it says while it runs, and how it says that it failed.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gpuplan_job.contract.batch_search import BatchSearchSpec
from gpuplan_job.contract.range_test import SweepSpec
from gpuplan_job.contract.training import TrainSpec
from gpuplan_job.contract.workload import BatchSpec, CodeSpec, Device, WorkloadSpec
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
    "crash",
    "user-code",
    "internal",
]
"""Why a job failed; docs/failures.md says how each is recognised."""

EXIT_CODES: dict[FailureKind, int] = {
    "internal": 1,
    "usage": 2,
    "user-code": 10,
    "data": 11,
    "import": 12,
    "out-of-memory": 13,
    "disk": 14,
    "device": 15,
    "communication": 16,
    "stall": 17,
    "killed": 18,
    "crash": 19,
    "diverged": 20,
}
"""Exit codes of a job that failed. One that a signal ended has 128 + its number, as in a shell."""


LoggerName = Literal["csv", "tensorboard", "mlflow", "wandb"]
LOGS_FOLDER = "logs"
"""In a job's folder: what its loggers write."""
CHECKPOINTS_FOLDER = "checkpoints"
"""In a job's folder: what its training goes on from."""


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
    """All that a job is told. Exactly one of `sweep`, `train` and `batch_search` is set, and names the task."""

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
    batch_search: BatchSearchSpec | None = None
    loggers: list[LoggerName] = field(default_factory=list)
    """Where a training's figures go besides the progress lines; they change nothing of what is trained."""
    code: CodeSpec | None = None
    """None where model and data are gpuplan's own kinds."""
    expected: Expected | None = None

    def __post_init__(self) -> None:
        """Refuse an input that names no task or two."""
        if [self.sweep, self.train, self.batch_search].count(None) != 2:  # noqa: PLR2004 - all but one
            raise ContractError("JobInput: exactly one of sweep, train and batch_search must be set")

    @property
    def packages(self) -> list[str]:
        """What the job imports beside the standard library and numpy, by the names of its packages."""
        lightning = self.train is not None or self.code is not None
        lamb = self.workload.optimizer == "lamb"
        return [
            "torch",
            "torchvision",
            *(["pytorch_lightning"] if lightning else []),
            *(["pytorch_optimizer"] if lamb else []),
        ]


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
    eta_seconds: float | None = None
    """Seconds until the last step at the rates measured so far, validation included; None before there are any."""
    ends_epoch: bool = False
    """Whether an epoch has ended, and the values are those of all of it."""

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
    """The rank that failed first; None where none of them is to blame."""
    trace: str = ""
    where: str = ""
    """The line of the user's own code that it came from, `model.py:12 in forward`."""
    exit_code: int | None = None
    """What that rank's process ended with, where it ended by itself."""
    signal: str = ""
    """The signal that ended it, such as SIGKILL."""
    last_lines: list[str] = field(default_factory=list)
    """What that rank printed last, oldest first."""
    at: float | None = None
    """Seconds since the epoch at which the rank met it."""
    echo: bool = False
    """It is what a rank meets when another one has ended: the cause lies elsewhere."""
