"""Stops a training that diverges or learns nothing, with the learning rate to try instead.

Called by `train` as a Lightning callback, after `figures`. All ranks see the same losses, summed over all of them once
a block of steps, and stop at the same step: none waits for another. It must not change what is trained; what counts as
a sign is `divergence_rule`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import distributed

from gpuplan_job import network_loss, optim
from gpuplan_job.classifier import Classifier
from gpuplan_job.divergence_rule import LossRule
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from gpuplan_job.divergence_rule import Finding
    from gpuplan_job.figures import EpochFigures

_LOWER, _HIGHER = 0.5, 1.5
"""What the learning rate is multiplied by where a training is unstable, and where it is too slow."""


class DivergenceGuard(pl.Callback):
    """Judges the losses of a training with `val_samples` validation samples."""

    def __init__(self, figures: EpochFigures, label_smoothing: float, val_samples: int) -> None:
        self.figures = figures
        self.label_smoothing = label_smoothing
        self.val_samples = val_samples
        training = figures.batches.training
        self.rule = LossRule(training.steps, len(training.epochs))
        self._chance_accuracy: float | None = None
        self._targets: list[Tensor] = []
        self._counts_targets = True
        self._step: Tensor | None = None
        """Sum of the losses, and samples, of the step under way [2]."""
        self._steps: list[Tensor] = []
        """The same of the block's finished steps."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
    ) -> None:
        """Take the micro-batch's loss, and judge at the end of a block of steps: only then is the GPU waited for.

        Raises:
            JobError: the training should not go on.
        """
        del outputs
        latest = self.figures.latest
        self._step = latest if self._step is None else self._step + latest
        if self._counts_targets and isinstance(pl_module, Classifier):
            targets = network_loss.class_targets(pl_module.network, batch)
            self._targets += [] if targets is None else [targets]
        if not self.figures.batches.micro_batches[batch_idx].last_of_step:
            return
        self._steps.append(self._step)
        self._step = None
        if len(self._steps) < self.rule.block:
            return
        if self._counts_targets:
            self._learn_chance(trainer.world_size)
        sums = torch.stack(self._steps)
        self._steps = []
        if trainer.world_size > 1:
            distributed.all_reduce(sums)
        self._stop_at(self.rule.add([loss / count for loss, count in sums.tolist()]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the epoch's accuracy, where that of chance is known.

        Raises:
            JobError: the training should not go on.
        """
        del trainer, pl_module
        metrics = self.figures.epochs[-1]
        if self._chance_accuracy is not None and metrics.val_accuracy is not None:
            accuracy, loss = metrics.val_accuracy, metrics.train_loss
            self._stop_at(self.rule.epoch(accuracy, self.val_samples, self._chance_accuracy, loss))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: a resumed training is held against its own start."""
        return {
            "rule": self.rule.state_dict(),
            "chance": self.rule.chance,
            "chance_accuracy": self._chance_accuracy,
            "counts_targets": self._counts_targets,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what the process before this one had seen."""
        self.rule.load_state_dict(state_dict["rule"])
        self.rule.chance = state_dict["chance"]
        self._chance_accuracy = state_dict["chance_accuracy"]
        self._counts_targets = state_dict["counts_targets"]

    def _learn_chance(self, world_size: int) -> None:
        """Take loss and accuracy of chance from the first block's targets on all ranks; a collective on each."""
        self._counts_targets = False
        device = self._steps[0].device
        mine = torch.cat(self._targets) if self._targets else torch.zeros(0, dtype=torch.long, device=device)
        mine = mine[mine >= 0]
        self._targets = []
        size = mine.max().reshape(1) + 1 if len(mine) else torch.zeros(1, dtype=torch.long, device=device)
        if world_size > 1:
            distributed.all_reduce(size, op=distributed.ReduceOp.MAX)
        counts = torch.bincount(mine, minlength=int(size.item()))
        if world_size > 1:
            distributed.all_reduce(counts)
        seen = {label: count for label, count in enumerate(counts.tolist()) if count}
        self.rule.chance = optim.chance_loss(seen, self.label_smoothing)
        if self.rule.chance is not None:
            self._chance_accuracy = max(seen.values()) / sum(seen.values())

    def _stop_at(self, found: Finding | None) -> None:
        if found is None:
            return
        rate = self.figures.learning_rate
        lower = f"half the learning rate: --lr {rate * _LOWER:.3g}"
        higher = f"a higher learning rate, --lr {rate * _HIGHER:.3g}, or one from gpuplan find-lr"
        advice = f"{lower}, or --clip-norm 1" if found.sign == "exploding" else lower if found.too_high else higher
        raise JobError(
            "diverged",
            f"the training does not go on ({found.sign} at step {found.step}, learning rate {rate:.3g}): {found.text}",
            f"{advice}; --no-divergence-guard trains on whatever the loss does",
        )
