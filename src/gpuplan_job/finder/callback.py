"""`FindLearningRate`: a Lightning callback that finds the learning rate before the first step of a training.

For users of `Trainer.fit`. It writes no checkpoint and no file, and leaves the trainer's loops alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

try:
    import pytorch_lightning as pl
except ImportError:  # the same under its other name
    import lightning.pytorch as pl  # type: ignore[import-not-found,no-redef] # one of the two is installed

from gpuplan_job.finder.errors import FindLrError, NoLearningRateError
from gpuplan_job.finder.learner import Lightning, peak_rates
from gpuplan_job.finder.search import find_lr

if TYPE_CHECKING:
    import torch

    from gpuplan_job.finder.found import FoundLr

_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")
"""Strategies under which every process holds the whole module."""


class FindLearningRate(pl.Callback):
    """Finds the LR when a fit starts, and trains with it; `found` tells what was found, on every rank the same.

    The sweeps run at the training's own global batch, on all its processes, so there is no LR to carry over. The LR
    goes to `module.learning_rate` (or `lr`, or the same in `hparams`) and the optimizers are configured again, so that
    schedules know it too. A fit that resumes from a checkpoint goes on with the LR of that checkpoint.
    """

    def __init__(self, *, keep_going: bool = False, **options: Any) -> None:  # noqa: ANN401 - those of find_lr
        """Take options of `find_lr` that a trainer does not tell: runs, iterations, lr_min, lr_max, rule, seed ...

        With `keep_going`, a range test that gives no LR leaves the module's own; without, the fit ends there.
        """
        self.keep_going = keep_going
        self.options = options
        self.found: FoundLr | None = None
        self._resumed = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search and set the learning rate.

        Raises:
            NoLearningRateError: there is none; the message says why and what to do.
            FindLrError: this training cannot be range-tested.
        """
        if self._resumed or trainer.ckpt_path is not None or getattr(trainer, "fast_dev_run", False):
            return
        if type(trainer.strategy).__name__ not in _STRATEGIES:
            raise FindLrError(
                f"under {type(trainer.strategy).__name__} no process holds the whole module",
                "find the learning rate on one device with find_lr",
            )
        if len(trainer.optimizers) != 1:
            raise FindLrError(f"the module has {len(trainer.optimizers)} optimizers", "find_lr the bare networks")
        steps = trainer.estimated_stepping_batches  # sets the loaders up, with their distributed samplers
        if not math.isfinite(steps) and "steps" not in self.options:
            raise FindLrError("the training has no end", "pass FindLearningRate(steps=...), its optimizer steps")
        options = {"steps": int(steps) if math.isfinite(steps) else None, **self.options}
        options.setdefault("optimizer", trainer.optimizers[0])
        options.setdefault("device", trainer.strategy.root_device)
        self.found = find_lr(
            pl_module,
            _Prepared(trainer.train_dataloader, getattr(trainer, "datamodule", None)),
            trainer=trainer,
            **options,
        )
        if self.found.ok:
            _set(trainer, pl_module, self.found)
        elif not self.keep_going:
            raise NoLearningRateError(str(self.found))

    def state_dict(self) -> dict[str, Any]:
        """Return that the LR of this training was found."""
        return {"found": self.found is not None or self._resumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the checkpoint's LR, if it was found."""
        self._resumed = bool(state_dict["found"])


@dataclass(frozen=True)
class _Prepared:
    """The trainer's own training loader, with the data module whose hooks move its batches."""

    loader: Any
    datamodule: Any

    def train_dataloader(self) -> Any:  # noqa: ANN401 - a loader
        """Return the loader that the training will use."""
        return self.loader


def _set(trainer: pl.Trainer, module: pl.LightningModule, found: FoundLr) -> None:
    """Give the module and its optimizer the learning rate, schedules included."""
    rate = found.training_learning_rate
    if rate is not None and Lightning(module).state_rate(rate):
        trainer.strategy.setup_optimizers(trainer)
    _scale(trainer.optimizers[0], found.group_learning_rates)
    for config in trainer.lr_scheduler_configs:
        _tell(config.scheduler, trainer.optimizers[0])


def _scale(optimizer: torch.optim.Optimizer, wanted: tuple[float, ...]) -> None:
    """Set each group's LR where the module states none, or its optimizer goes by another than it states."""
    for group, before, rate in zip(optimizer.param_groups, peak_rates(optimizer), wanted, strict=True):
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            if key in group and before > 0 and not math.isclose(before, rate, rel_tol=1e-6):
                group[key] = group[key] * rate / before


def _tell(schedule: object, optimizer: torch.optim.Optimizer) -> None:
    """Let a schedule know its optimizer's LRs, in whichever of its lists it keeps them."""
    for name, key in (("base_lrs", "initial_lr"), ("max_lrs", "max_lr"), ("_last_lr", "lr")):
        if len(getattr(schedule, name, ())) == len(optimizer.param_groups):
            setattr(schedule, name, [group.get(key, group["lr"]) for group in optimizer.param_groups])
