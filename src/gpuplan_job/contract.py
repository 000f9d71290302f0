"""The one door between client and job: the files a job reads and writes, as stdlib dataclasses <-> JSON.

Both packages import it. Standard library only; every reader must refuse what does not fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gpuplan_job.document import ContractError, Document

INPUT_FILE = "input.json"
CLAIM_FILE = "claim"
"""Locked (flock) by the launcher for as long as the job lives; holds its process id."""
EXIT_FILE = "exit.json"
"""Written last of all, by the launcher: `{"code": n}`. With it the job is over."""
LR_RESULT_FILE = "lr_result.json"
TRAIN_RESULT_FILE = "train_result.json"
FAILURE_FILE = "failure.json"
PROGRESS_PREFIX = "gpuplan.progress "
"""A log line that starts so carries one `Progress`; every backend that streams logs streams progress."""
JOB_DIR_VARIABLE = "GPUPLAN_JOB_DIR"
"""Variable with the job's output folder, inherited by every process of the job: how its tree is found."""

Precision = Literal["fp32", "16-mixed", "bf16-mixed"]
Device = Literal["auto", "cuda", "mps", "cpu"]
StopReason = Literal["completed", "diverged", "non-finite"]
FailureKind = Literal["usage", "data", "import", "out-of-memory", "disk", "device", "killed", "user-code", "internal"]


@dataclass(frozen=True)
class WorkloadSpec:
    """What to train, as the job sees it. `gpuplan.workload.schema.Workload` is the same with validation."""

    model: str
    data: str
    optimizer: Literal["sgd", "adamw"]
    momentum: float
    weight_decay: float
    schedule: Literal["onecycle", "constant"]
    label_smoothing: float
    epochs: int
    precision: Precision
    seed: int
    workers: int
    """Data-loading processes per training process."""
    image_size: int | None = None
    """Side in pixels to resize images to; None keeps the data's own size."""


@dataclass(frozen=True)
class BatchSpec:
    """Batch of one step: samples per GPU and micro-batch, processes, micro-batches per optimizer step."""

    per_gpu: int
    world_size: int
    accumulation: int

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all GPUs."""
        return self.per_gpu * self.world_size * self.accumulation


@dataclass(frozen=True)
class SweepSpec:
    """An LR range test: `runs` geometric sweeps of `iterations` optimizer steps from `lr_min` to `lr_max`."""

    runs: int
    iterations: int
    lr_min: float
    lr_max: float
    reference_steps: int
    """T: optimizer steps the whole training would take on one GPU at the sweep's own batch (same epochs).
    Rules normalise by iterations / T; the transfer policy then goes from that one GPU to all of them."""
    noise_micro_batches: int
    """Micro-batches at frozen weights for the gradient noise scale; 0 skips the measurement."""


@dataclass(frozen=True)
class TrainSpec:
    """What only the training step needs."""

    learning_rate: float


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

    def __post_init__(self) -> None:
        """Refuse an input that names no task or two."""
        if (self.sweep is None) == (self.train is None):
            raise ContractError("JobInput: exactly one of sweep and train must be set")


@dataclass(frozen=True)
class Curve:
    """One sweep: `losses[i]` is the training loss of optimizer step i, taken at `learning_rates[i]`.

    Only finite losses are kept: a sweep that met NaN or Infinity ends one point before it.
    """

    learning_rates: list[float]
    losses: list[float]
    stop_reason: StopReason
    stopped_at_lr: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if len(self.learning_rates) != len(self.losses):
            raise ContractError("Curve: learning_rates and losses differ in length")
        if any(b <= a for a, b in zip(self.learning_rates, self.learning_rates[1:], strict=False)):
            raise ContractError("Curve: learning_rates must increase")
        if any(lr <= 0 for lr in self.learning_rates):
            raise ContractError("Curve: learning_rates must be positive")


@dataclass(frozen=True)
class NoiseScale:
    """Gradient noise scale, McCandlish et al. 2018, appendix A: B_noise = trace_covariance / squared_gradient."""

    squared_gradient: float
    """|G|^2, unbiased; may come out negative from few micro-batches."""
    trace_covariance: float
    """tr(Sigma), unbiased, per sample."""
    micro_batches: int
    micro_batch_size: int

    @property
    def samples(self) -> float | None:
        """B_noise in samples, or None where the measurement carries no signal."""
        signal = self.squared_gradient > 0 and self.trace_covariance >= 0
        ratio = self.trace_covariance / self.squared_gradient if signal else math.inf
        return ratio if math.isfinite(ratio) else None


@dataclass(frozen=True)
class Measured:
    """What the job saw on its own device."""

    step_seconds: float
    """Median wall time of an optimizer step, after warm-up."""
    samples_per_second: float
    """Over all processes."""
    peak_gib: float | None
    """Peak memory the device's allocator reserved in GiB; on CPU the process's peak RSS. None: not measurable."""
    device: str
    busy_seconds: float | None = None
    """The same without the wait for data; None where the two were not told apart."""


@dataclass(frozen=True)
class LrResult(Document):
    """What an LR range test found; the suggestion is made from it, not in it."""

    SCHEMA: ClassVar[str] = "gpuplan.lr-result/1"

    run_id: str
    step: str
    attempt: int
    input_sha256: str
    sweep: SweepSpec
    batch: BatchSpec
    optimizer: str
    precision: Precision
    curves: list[Curve]
    noise_scale: NoiseScale | None
    measured: Measured
    versions: dict[str, str]


@dataclass(frozen=True)
class EpochMetrics:
    """Exact figures of one epoch: every sample counted once, over all ranks."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    """Of the epoch's last optimizer step."""
    seconds: float


@dataclass(frozen=True)
class TrainResult(Document):
    """What a training reached. File paths are relative to the job's output folder."""

    SCHEMA: ClassVar[str] = "gpuplan.train-result/1"

    run_id: str
    step: str
    attempt: int
    input_sha256: str
    world_size: int
    learning_rate: float
    epochs: list[EpochMetrics]
    best_epoch: int
    """The epoch of highest validation accuracy, counted from 1; of equals the earlier."""
    best_checkpoint: str
    last_checkpoint: str
    optimizer_steps: int
    measured: Measured
    versions: dict[str, str]

    @property
    def best(self) -> EpochMetrics:
        """The figures of the best epoch."""
        return self.epochs[self.best_epoch - 1]

    def __post_init__(self) -> None:
        """Refuse a result whose best epoch is not among its epochs."""
        if [metrics.epoch for metrics in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ContractError("TrainResult: epochs are not 1, 2, 3, ...")
        if not 1 <= self.best_epoch <= len(self.epochs):
            raise ContractError(f"TrainResult: there is no epoch {self.best_epoch}")


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


@dataclass(frozen=True)
class DataDescription:
    """What a plan needs to know of a data set, without reading it."""

    train_samples: int
    val_samples: int
    channels: int
    height: int
    width: int
    classes: int
    bytes_per_sample: float
    """Stored bytes to read per training sample."""
    storage: Literal["tensors", "jpeg"] = "tensors"
    """Whether each sample has to be decoded and augmented, or is at hand as numbers."""
    plan_only: bool = False
    """A description without a location: enough for a plan, not for a launch."""
    source: str = ""
    """Where the figures, or the data, come from."""
