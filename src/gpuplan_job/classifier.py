"""The Lightning module around a network that is none: its loss, and validation figures that are exact over all ranks.

Called by `train`. It takes the network as an argument and knows no data set, file, optimizer or progress line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import distributed

from gpuplan_job import network_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs [B, ...] and targets [B, ...]; classes [B] where the network has no loss of its own."""
_LOSS, _CORRECT, _COUNT = range(3)


class Classifier(pl.LightningModule):
    """A network in training.

    In a checkpoint the network's own keys carry the prefix `network.`:
    `{key.removeprefix("network."): value for key, value in torch.load(path, weights_only=True)["state_dict"].items()}`.
    """

    def __init__(self, network: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing
        self._sums = torch.zeros(3)
        self._counts_correct = True

    def forward(self, inputs: Tensor) -> Any:  # noqa: ANN401 - what the network gives
        """Return the network's outputs."""
        return self.network(inputs)

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """Return the mean loss of the micro-batch."""
        inputs, targets = batch
        return network_loss.mean(self.network, self.network(inputs), targets, self.label_smoothing)

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(3, device=self.device, dtype=kind)
        self._counts_correct = True

    def validation_step(self, batch: Batch, _batch_idx: int) -> None:
        """Add up loss (without label smoothing), correct answers and samples."""
        inputs, targets = batch
        outputs = self.network(inputs)
        self._sums[_LOSS] += network_loss.mean(self.network, outputs, targets, 0.0) * len(targets)
        self._sums[_COUNT] += len(targets)
        if network_loss.are_logits(outputs, targets):
            self._sums[_CORRECT] += (outputs.argmax(dim=1) == targets).sum()
        else:
            self._counts_correct = False

    def validated(self) -> dict[str, float]:
        """Return the validation loss, and the accuracy where the outputs are logits of classes; a collective."""
        if distributed.is_initialized():
            distributed.all_reduce(self._sums)
        loss, correct, count = self._sums.tolist()
        return {"val_loss": loss / count} | ({"val_accuracy": correct / count} if self._counts_correct else {})
