"""Makes each epoch what its number says, whatever came before: its order, its random streams, its global batch.

Called by `train` as a Lightning callback, the first of all. It must not depend on what was drawn earlier, so that a
training can go on at any epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from torch import distributed

from gpuplan_job import runtime
from gpuplan_job.checkpoint_io import EPOCHS

if TYPE_CHECKING:
    from gpuplan_job.loaders import EpochBatches


class EpochDraws(pl.Callback):
    """Sets the sampler, the seeds and the accumulation of each epoch."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the epoch's permutation, the stream its dropout draws from, and its micro-batches a step."""
        del pl_module
        epoch = trainer.current_epoch
        # Lightning asks for it only from samplers of its own making.
        self.batches.set_epoch(epoch)
        trainer.accumulate_grad_batches = self.batches.layout.accumulation
        # Ranks draw apart: dropout must not repeat on each.
        runtime.seed_everything(runtime.derived_seed(self.batches.seed, "draw", epoch, self.batches.rank))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the next epoch, whose length Lightning asks for before it starts."""
        del pl_module
        if self.batches.training.grows and trainer.current_epoch + 1 < len(self.batches.training.epochs):
            self.batches.set_epoch(trainer.current_epoch + 1)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Choose the epoch to go on with: the first iterator of a process is made before its epoch starts."""
        del trainer, pl_module
        self.batches.set_epoch(len(checkpoint[EPOCHS]))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give every rank the buffers of rank 0, which are the ones that a checkpoint holds.

        BatchNorm's running statistics differ between ranks; unequal, they would make the distributed accuracy that
        of no network at all.
        """
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                distributed.broadcast(buffer, src=0)
