"""An exponential moving average of the weights: updated once an optimizer step, validated in their place, and kept.

Called by `train` as a Lightning callback. The optimizer never sees it. In a checkpoint it lies under `EMA_WEIGHTS`,
keyed as `state_dict` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

EMA_WEIGHTS = "ema_state_dict"
"""Key in a checkpoint: the averaged parameters by name."""


class WeightAverage(pl.Callback):
    """Averages the parameters: average = decay x average + (1 - decay) x weights (Polyak and Juditsky 1992)."""

    def __init__(self, decay: float) -> None:
        self._update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call] # torch does not type it
        self._average: dict[str, Tensor] = {}
        self._steps = 0
        self._aside: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, or go on from a checkpoint's average."""
        del trainer
        held = self._average
        self._average = {
            name: (held[name].to(p.device) if name in held else p.detach().clone())
            for name, p in _trained(pl_module).items()
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from here: only now does Lightning know the steps of a checkpoint."""
        del pl_module
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
    ) -> None:
        """Update after an optimizer step, whatever number of micro-batches made it."""
        del outputs, batch, batch_idx
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        with torch.no_grad():
            self._update(list(self._average.values()), [p.detach() for p in _trained(pl_module).values()], 0)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the weights' place."""
        del trainer
        self._aside = {name: p.detach().clone() for name, p in _trained(pl_module).items()}
        _fill(pl_module, self._average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        del trainer
        _fill(pl_module, self._aside)
        self._aside = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the weights back if a validation broke off."""
        del exception
        if self._aside:
            self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the average; the weights are kept, though in a validation the average stands in their place."""
        del trainer, pl_module
        checkpoint[EMA_WEIGHTS] = dict(self._average)
        checkpoint["state_dict"].update(self._aside)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with a checkpoint's average."""
        del trainer, pl_module
        self._average = dict(checkpoint[EMA_WEIGHTS])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in _trained(module).items():
            parameter.copy_(values[name])
