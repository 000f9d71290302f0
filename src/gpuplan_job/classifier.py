"""The Lightning module around a classification network, with losses and accuracies that are exact over all ranks.

Called by `train`. It takes the network and the sampler as arguments and knows no data set, file or progress line. What
an epoch draws depends on seed, epoch and rank alone, so that a training can go on at any of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import distributed

from gpuplan_job import optim, runtime
from gpuplan_job.checkpoint_io import EPOCHS
from gpuplan_job.contract import EpochMetrics
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
    from torch import Tensor, nn

    from gpuplan_job.contract import TrainSpec, WorkloadSpec
    from gpuplan_job.loaders import EpochBatches

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images [B, C, H, W] and classes [B]."""
_TRAIN_LOSS, _TRAIN_COUNT, _VAL_LOSS, _VAL_CORRECT, _VAL_COUNT = range(5)


class Classifier(pl.LightningModule):
    """A network in training; `epochs` grows by one entry after each validation, the same on every rank.

    In a checkpoint the network's own keys carry the prefix `network.`:
    `{key.removeprefix("network."): value for key, value in torch.load(path, weights_only=True)["state_dict"].items()}`.
    """

    def __init__(self, network: nn.Module, workload: WorkloadSpec, batches: EpochBatches, train: TrainSpec) -> None:
        super().__init__()
        self.network = network
        self.workload = workload
        self.batches = batches
        self.layout = batches.layout
        self.train_spec = train
        self.learning_rate = train.learning_rate
        self.epochs: list[EpochMetrics] = []
        self._sums = torch.zeros(5)
        self._epoch_started = 0.0
        self.last_rate = 0.0

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the workload's optimizer, and its schedule advancing once per optimizer step."""
        optimizer = optim.build(self.workload, self.network.parameters(), self.learning_rate)
        total = self.layout.steps * self.workload.epochs
        schedule = optim.schedule(self.workload, optimizer, self.train_spec, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Choose the epoch's permutation and the stream its dropout draws from, and start its sums and clock."""
        # Lightning asks for it only from samplers of its own making. But for the first epoch of a process, the
        # iterator is made after this hook.
        self.batches.set_epoch(self.current_epoch)
        # Ranks draw apart: dropout must not repeat on each.
        runtime.seed_everything(runtime.derived_seed(self.batches.seed, "draw", self.current_epoch, self.batches.rank))
        # float64 keeps a sum over millions of samples exact to the digits shown; MPS does not have it.
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(5, device=self.device, dtype=kind)
        self._epoch_started = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the micro-batch's share of the loss, scaled so that the step's gradient is that of the global mean.

        DDP averages gradients over ranks and Lightning divides a loss by the micro-batches per step. With sum of losses
        * world size * accumulation / samples of the whole step, both cancel, in a ragged last step too.
        """
        images, targets = batch
        total = optim.loss(self.network(images), targets, self.workload.label_smoothing, "sum")
        self._sums[_TRAIN_LOSS] += total.detach()
        self._sums[_TRAIN_COUNT] += len(targets)
        step_samples = self.batches.micro_batches[batch_idx].step_samples
        return total * (self.layout.world_size * self.layout.accumulation / step_samples)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the figures of the epochs so far."""
        checkpoint[EPOCHS] = [asdict(metrics) for metrics in self.epochs]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on after the epochs that a checkpoint knows."""
        self.epochs = [EpochMetrics(**metrics) for metrics in checkpoint[EPOCHS]]
        self.batches.set_epoch(len(self.epochs))

    def mean_train_loss(self) -> float:
        """Return this rank's mean loss over the epoch so far; it waits for the GPU."""
        total, count = self._sums[_TRAIN_LOSS], self._sums[_TRAIN_COUNT]
        return float(total / count)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the learning rate of the step: afterwards the schedule has moved on."""
        self.last_rate = float(optimizer.param_groups[0]["lr"])

    def on_validation_start(self) -> None:
        """Give every rank the buffers of rank 0, which are the ones that a checkpoint holds.

        BatchNorm's running statistics differ between ranks; unequal, they would make the distributed accuracy that
        of no network at all.
        """
        if self.layout.world_size > 1:
            for buffer in self.network.buffers():
                distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, _batch_idx: int) -> None:
        """Add up loss (without label smoothing), correct answers and samples."""
        images, targets = batch
        logits = self.network(images)
        self._sums[_VAL_LOSS] += optim.loss(logits, targets, 0.0, "sum")
        self._sums[_VAL_CORRECT] += (logits.argmax(dim=1) == targets).sum()
        self._sums[_VAL_COUNT] += len(targets)

    def on_validation_epoch_end(self) -> None:
        """Reduce the epoch's sums over all ranks, once, and record its metrics.

        Raises:
            JobError: a loss is not finite, or a sample was lost or seen twice.
        """
        if self.layout.world_size > 1:
            distributed.all_reduce(self._sums)
        train_loss, train_count, val_loss, correct, val_count = self._sums.tolist()
        if train_count != self.layout.samples:
            problem = f"the ranks saw {train_count:.0f} of {self.layout.samples} training samples"
            raise JobError("internal", problem, "report it: it should not happen")
        require_finite(train_loss, self.learning_rate, self.trainer.global_step)
        require_finite(val_loss, self.learning_rate, self.trainer.global_step)
        self.epochs.append(
            EpochMetrics(
                epoch=self.current_epoch + 1,
                train_loss=train_loss / train_count,
                val_loss=val_loss / val_count,
                val_accuracy=correct / val_count,
                learning_rate=self.last_rate,
                seconds=time.perf_counter() - self._epoch_started,
            )
        )


def require_finite(loss: float, learning_rate: float, step: int) -> None:
    """Refuse to go on after a loss that is NaN or infinite.

    Raises:
        JobError: the training diverged; the fix halves the learning rate.
    """
    if not math.isfinite(loss):
        message = f"the training diverged: the loss is {loss} after {step} steps at learning rate {learning_rate:.3g}"
        raise JobError("user-code", message, f"use a lower learning rate: --lr {learning_rate / 2:.3g}")
