"""A LightningModule as people write them: its own loss, optimizer and schedule, and a learning rate that can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig


class DigitsNet(pl.LightningModule):
    """Two convolutions and a linear layer for images [B, 1, 8, 8] of ten digits."""

    def __init__(self, width: int, dropout: float = 0.1, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        """gpuplan finds it and sets it here, for configure_optimizers to use."""
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 10]."""
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        images, digits = batch
        loss = functional.cross_entropy(self(images), digits)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _batch_idx: int) -> None:
        """Log loss and accuracy; gpuplan keeps the checkpoint of the best epoch by them."""
        images, digits = batch
        logits = self(images)
        self.log("val_loss", functional.cross_entropy(logits, digits))
        self.log("val_accuracy", (logits.argmax(dim=1) == digits).float().mean())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW with cosine annealing over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
