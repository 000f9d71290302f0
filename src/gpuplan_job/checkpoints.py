"""Keeps the newest and the best checkpoint of a training; a kill at any instant leaves whole files only.

Called by `train` as a Lightning callback. No file is ever overwritten: each epoch writes a new one, then the one before
is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytorch_lightning as pl

from gpuplan_job.atomic import link_or_copy, sync_file, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.classifier import Classifier

FOLDER = "checkpoints"
BEST = f"{FOLDER}/best.ckpt"
LAST = f"{FOLDER}/last.ckpt"


class CheckpointKeeper(pl.Callback):
    """Saves after each epoch's validation; best is the highest validation accuracy, of equals the earlier epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.best_epoch = -1
        self._best_accuracy = -1.0
        self._kept: set[Path] = set()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch. Every rank takes part, rank 0 writes."""
        classifier: Classifier = pl_module  # type: ignore[assignment] # train pairs the two
        metrics = classifier.epochs[-1]
        last = self.folder / f"last-{metrics.epoch:04d}.ckpt"
        temporary = self.folder / f".{last.name}.tmp"
        self.folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(temporary)
        better = metrics.val_accuracy > self._best_accuracy
        if better:
            self._best_accuracy, self.best_epoch = metrics.val_accuracy, metrics.epoch
        if not trainer.is_global_zero:
            return
        sync_file(temporary)
        temporary.replace(last)
        best = self.folder / f"best-{self.best_epoch:04d}.ckpt"
        if better:
            link_or_copy(last, best)
        sync_folder(self.folder)
        for old in self._kept - {last, best}:
            old.unlink()
        self._kept = {last, best}

    def finish(self) -> None:
        """Give the two kept files their final names; rank 0 calls it once, after the last epoch."""
        for kept in self._kept:
            kept.replace(self.folder / f"{kept.name.partition('-')[0]}.ckpt")
        sync_folder(self.folder)
