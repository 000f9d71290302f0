"""What each epoch of a training came to, over all ranks, kept in its checkpoints.

Called by `train` as a Lightning callback, before those that report or save. It reads and reduces; it must not change
what is trained.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import distributed

from gpuplan_job.checkpoint_io import EPOCHS, SO_FAR
from gpuplan_job.classifier import Classifier
from gpuplan_job.contract import EpochMetrics
from gpuplan_job.failures import JobError
from gpuplan_job.finder.feed import samples_in

if TYPE_CHECKING:
    from torch import Tensor

    from gpuplan_job.loaders import EpochBatches

_ACCURACY = ("val_accuracy", "val_acc", "valid_accuracy", "valid_acc", "validation_accuracy")
_LOSS = ("val_loss", "valid_loss", "validation_loss")


@dataclass(frozen=True)
class EpochSoFar:
    """What a checkpoint keeps of an epoch that is under way; of one that is whole no sums."""

    sums: list[list[float]]
    """Of the losses and of the samples, by rank."""
    seconds: float
    learning_rate: float

    def sums_of(self, rank: int, world_size: int) -> list[float]:
        """Return where a rank's sums go on: its own, or where there were other ranks all of them with rank 0."""
        if world_size == len(self.sums):
            return self.sums[rank]
        return [0.0, 0.0] if rank else [math.fsum(column) for column in zip(*self.sums, strict=True)]


class EpochFigures(pl.Callback):
    """Grows `epochs` by one entry an epoch, the same on every rank."""

    def __init__(self, batches: EpochBatches, learning_rate: float) -> None:
        self.batches = batches
        self.learning_rate = learning_rate
        self.epochs: list[EpochMetrics] = []
        self.last_rate = 0.0
        """Learning rate of the newest optimizer step, of its first parameter group."""
        self.latest = torch.zeros(2)
        """Sum of the losses, and samples, of the newest micro-batch; on the device."""
        self._sums = torch.zeros(2)
        self._of_ranks: list[torch.Tensor] = []
        self._started = 0.0
        self._so_far: EpochSoFar | None = None
        """What a checkpoint knows of the epoch that is gone on with."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's sums and its clock, or go on with those of a checkpoint."""
        # float64 keeps a sum over millions of samples exact to the digits shown; MPS does not have it.
        kind = torch.float32 if pl_module.device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, device=pl_module.device, dtype=kind)
        self._of_ranks = []
        self._started = time.perf_counter()
        if self._so_far is not None:
            found, self._so_far = self._so_far, None
            self._sums += torch.tensor(found.sums_of(trainer.global_rank, trainer.world_size), dtype=kind).to(
                pl_module.device
            )
            self._started -= found.seconds
            self.last_rate = found.learning_rate

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Remember the learning rate of the step: afterwards the schedule has moved on."""
        del trainer, pl_module
        self.last_rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
    ) -> None:
        """Add the micro-batch's loss, without waiting for the GPU."""
        cut = self.batches.micro_batches[batch_idx]
        # A module of the user's may have batches whose first tensor is not of one entry a sample.
        seen = samples_in(batch) if isinstance(pl_module, Classifier) else None
        count = seen or cut.stop - cut.start
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            raise JobError("user-code", "training_step returned no loss", "return the loss of every batch")
        # Lightning has divided it by the micro-batches of a step.
        loss = loss.detach().to(self._sums.dtype)
        self.latest = torch.stack([loss * (count * trainer.accumulate_grad_batches), torch.full_like(loss, count)])
        self._sums += self.latest

    def mean_train_loss(self) -> float:
        """Return this rank's mean loss over the epoch so far; it waits for the GPU."""
        total, count = self._sums.tolist()
        return float(total / count) if count else math.nan

    def gather(self) -> None:
        """Bring the sums of all ranks together, for a checkpoint; a collective, called between two optimizer steps."""
        self._of_ranks = [self._sums.clone()]
        if (world_size := self.batches.layout.world_size) > 1:
            self._of_ranks = [torch.empty_like(self._sums) for _ in range(world_size)]
            distributed.all_gather(self._of_ranks, self._sums)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reduce the epoch's sums over all ranks, once, and record its metrics.

        Raises:
            JobError: the training loss is not finite, or a sample was lost or seen twice.
        """
        validated = _finite(_validated(trainer, pl_module), trainer.current_epoch + 1)
        if self.batches.layout.world_size > 1:
            distributed.all_reduce(self._sums)
        loss, count = self._sums.tolist()
        if count != self.batches.layout.samples:
            problem = f"the ranks saw {count:.0f} of {self.batches.layout.samples} training samples"
            raise JobError("internal", problem, "report it: it should not happen")
        self.require_finite(loss, trainer.global_step)
        self._of_ranks = []
        self.epochs.append(
            EpochMetrics(
                epoch=trainer.current_epoch + 1,
                train_loss=loss / count,
                val_loss=validated.pop("val_loss", None),
                val_accuracy=validated.pop("val_accuracy", None),
                learning_rate=self.last_rate,
                seconds=time.perf_counter() - self._started,
                logged=validated,
            )
        )

    def require_finite(self, loss: float, step: int) -> None:
        """Refuse to go on after a loss that is NaN or infinite.

        Raises:
            JobError: the training diverged; the fix halves the learning rate.
        """
        if not math.isfinite(loss):
            rate = self.learning_rate
            message = f"the training diverged: the loss is {loss} after {step} steps at learning rate {rate:.3g}"
            raise JobError("diverged", message, f"use a lower learning rate: --lr {rate / 2:.3g}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the figures of the epochs so far, and of the one that is under way as of the last `gather`."""
        del trainer, pl_module
        checkpoint[EPOCHS] = [asdict(metrics) for metrics in self.epochs]
        seconds = time.perf_counter() - self._started
        so_far = EpochSoFar([sums.tolist() for sums in self._of_ranks], seconds, self.last_rate)
        checkpoint[SO_FAR] = asdict(so_far)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on after the epochs that a checkpoint knows, and in the one that it was made in."""
        del trainer, pl_module
        self.epochs = [EpochMetrics(**metrics) for metrics in checkpoint[EPOCHS]]
        self._so_far = EpochSoFar(**checkpoint[SO_FAR]) if checkpoint[SO_FAR]["sums"] else None


def _finite(validated: dict[str, float], epoch: int) -> dict[str, float]:
    """Return the figures that are finite, and say which are not: BatchNorm's first running statistics may overflow."""
    for name, value in validated.items():
        if not math.isfinite(value):
            sys.stderr.write(f"{name} is {value} in epoch {epoch}: not recorded\n")
    return {name: value for name, value in validated.items() if math.isfinite(value)}


def _validated(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
    """Return what the epoch's validation gave, loss and accuracy under these names: `val_loss`, `val_accuracy`."""
    exact = getattr(module, "validated", None)
    if callable(exact):
        return dict(exact())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    found = {name: value for name, value in logged.items() if _plain(name).startswith("val")}
    for wanted, known in (("val_accuracy", _ACCURACY), ("val_loss", _LOSS)):
        name = next((name for name in found if _plain(name) in known), None)
        if name is not None:
            found = {wanted: found.pop(name), **found}
    return found


def _plain(name: str) -> str:
    return name.lower().replace("/", "_").replace("-", "_").removesuffix("_epoch")
