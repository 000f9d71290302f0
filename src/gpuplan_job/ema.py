"""An exponential moving average of the weights: updated once an optimizer step, validated in their place, and kept.

Called by `train` as a Lightning callback. The optimizer never sees it. BatchNorm's running statistics are averaged with
the weights that they belong to. In a checkpoint it lies under `EMA_WEIGHTS`, keyed as `state_dict` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import distributed
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

EMA_WEIGHTS = "ema_state_dict"
"""Key in a checkpoint: the averaged parameters and buffers by name."""


class WeightAverage(pl.Callback):
    """Averages parameters and buffers: average = d x average + (1 - d) x weights (Polyak and Juditsky 1992).

    After t optimizer steps d = min(decay, (1 + t) / (10 + t)), so that the first weights are soon forgotten (as in
    TensorFlow's `ExponentialMovingAverage` with `num_updates`). Buffers that are no floats are taken as they are.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._average: dict[str, Tensor] = {}
        self._steps = 0
        self._aside: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, or go on from a checkpoint's average."""
        del trainer
        held = self._average
        self._average = {
            name: (held[name].to(p.device) if name in held else p.detach().clone())
            for name, p in _state(pl_module).items()
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
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call] # torch does not type it
        now = _state(pl_module)
        moving = [name for name, value in now.items() if value.is_floating_point()]
        with torch.no_grad():
            update([self._average[name] for name in moving], [now[name].detach() for name in moving], 0)
            for name in now.keys() - set(moving):
                self._average[name].copy_(now[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the weights' place; of buffers, which differ between ranks, that of rank 0."""
        if trainer.world_size > 1:
            for name, _ in pl_module.named_buffers():
                if name in self._average:
                    distributed.broadcast(self._average[name], src=0)
        self._aside = {name: value.detach().clone() for name, value in _state(pl_module).items()}
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
        del trainer
        names = _names(pl_module)
        checkpoint[EMA_WEIGHTS] = {name: self._average[own] for name, own in names.items()}
        if self._aside:
            checkpoint["state_dict"].update({name: self._aside[own] for name, own in names.items()})

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with a checkpoint's average."""
        del trainer, pl_module
        self._average = dict(checkpoint[EMA_WEIGHTS])


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: parameters that are trained, and the buffers that a checkpoint holds."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    kept = {
        f"{path}.{name}" if path else name: buffer
        for path, part in module.named_modules()
        for name, buffer in part.named_buffers(recurse=False)
        if name not in part._non_persistent_buffers_set  # noqa: SLF001 - torch has no public way
    }
    return {**trained, **kept}


def _names(module: nn.Module) -> dict[str, str]:
    """Return the names of `state_dict` with the one in `_state` of the same tensor: tied weights have several."""
    own = {id(value): name for name, value in _state(module).items()}
    found = module.state_dict(keep_vars=True)
    return {name: own[id(value)] for name, value in found.items() if id(value) in own}


def _fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _state(module).items():
            value.copy_(values[name])
