"""What a training is told beside its workload, and what it reached.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gpuplan_job.contract.workload import Measured
from gpuplan_job.document import ContractError, Document

ONECYCLE_RISE = 0.3
"""Share of the steps in which one-cycle rises: PyTorch's default, and a warm-up of its own."""


@dataclass(frozen=True)
class TrainSpec:
    """What only the training step needs."""

    learning_rate: float
    warmup_steps: int = 0
    """First optimizer steps over which the learning rate rises to its full value; 0: it starts there."""
    warmup_start: float = 0.0
    """Share of the learning rate at which the rise starts."""
    lr_shares: list[float] = field(default_factory=list)
    """Of the learning rate in each epoch, while the global batch grows to the one it is for; empty: 1 in all."""
    mean_seconds_between_failures: float | None = None
    """Of all its machines together: how often it saves follows from it; None: as seldom as it may."""
    checkpoint_seconds: float | None = None
    """Seconds between saves within an epoch as the user wants them; None: they follow from the above."""

    def __post_init__(self) -> None:
        """Refuse a rise that is none."""
        if self.warmup_steps < 0 or not 0 <= self.warmup_start <= 1:
            raise ContractError("TrainSpec: warmup_steps must not be negative, warmup_start be from 0 to 1")
        if any(
            value is not None and value <= 0 for value in (self.mean_seconds_between_failures, self.checkpoint_seconds)
        ):
            raise ContractError("TrainSpec: seconds between failures and between checkpoints must be positive")


@dataclass(frozen=True)
class EpochMetrics:
    """Figures of one epoch over all ranks: every sample counted once where gpuplan takes them itself.

    Of a LightningModule they are what it logs in validation; None where it logs no such figure.
    """

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    """Of the epoch's last optimizer step."""
    seconds: float
    logged: dict[str, float] = field(default_factory=dict)
    """Whatever else the module logged in validation, by its own names."""

    @property
    def score(self) -> float:
        """What the best epoch has most of: accuracy, else the loss negated, else the epochs' number."""
        if self.val_accuracy is not None:
            return self.val_accuracy
        return float(self.epoch) if self.val_loss is None else -self.val_loss


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
    """The epoch of highest validation accuracy, counted from 1, of equals the earlier; without accuracies that of least
    validation loss, without validation the last."""
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
