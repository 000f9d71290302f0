"""Makes each epoch what its number says, whatever came before: its order, its random streams, its global batch.

Called by `train` as a Lightning callback, the first of all. It must not depend on what was drawn earlier, so that a
training can go on at any step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from torch import distributed

from gpuplan_job import runtime
from gpuplan_job.checkpoint_io import place_of

if TYPE_CHECKING:
    from gpuplan_job.loaders import EpochBatches


class EpochDraws(pl.Callback):
    """Sets the sampler, the seeds and the accumulation of each epoch."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the epoch's permutation, the stream that its start draws from, and its micro-batches a step."""
        del pl_module
        epoch = trainer.current_epoch
        # Lightning asks for it only from samplers of its own making.
        self.batches.set_epoch(epoch)
        trainer.accumulate_grad_batches = self.batches.layout.accumulation
        self._draw_from("epoch", epoch)  # its steps have streams of their own, see `loaders`

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the next epoch, whose length Lightning asks for before it starts."""
        del pl_module
        if self.batches.training.grows and trainer.current_epoch + 1 < len(self.batches.training.epochs):
            self.batches.set_epoch(trainer.current_epoch + 1)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Choose where to go on: the first iterator of a process is made before its epoch starts."""
        del trainer, pl_module
        place = place_of(checkpoint)
        self.batches.set_epoch(place.epoch, place.step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give every rank the buffers of rank 0, which are the ones that a checkpoint holds.

        BatchNorm's running statistics differ between ranks; unequal, they would make the distributed accuracy that
        of no network at all.
        """
        self._draw_from("validate", trainer.current_epoch)
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                distributed.broadcast(buffer, src=0)

    def _draw_from(self, purpose: str, epoch: int) -> None:
        runtime.seed_everything(runtime.derived_seed(self.batches.seed, purpose, epoch, self.batches.rank))
