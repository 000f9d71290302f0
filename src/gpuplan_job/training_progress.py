"""Prints how far a training is, about once a second and after each epoch, and stops one that has diverged.

Called by `train` as a Lightning callback. Only rank 0 prints.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from gpuplan_job.contract import Progress
from gpuplan_job.eta import Eta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from gpuplan_job.figures import EpochFigures

_PERIOD_SECONDS = 1.0


class TrainingProgress(pl.Callback):
    """Reports through `emit`, one `Progress` at a time; `clock` counts seconds."""

    def __init__(
        self,
        step: str,
        figures: EpochFigures,
        emit: Callable[[Progress], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.step = step
        self.figures = figures
        self.emit = emit
        self.clock = clock
        self._reported = self._stepped = clock()
        self._done_then = 0
        self._eta = Eta()
        self._epoch_began: tuple[float, int] = (self._reported, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give SIGTERM its plain meaning back."""
        # Lightning's handler starts a collective, which hangs when the other ranks are gone already.
        del trainer, pl_module
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock: validation and checkpoints are not training time."""
        del pl_module
        now = self.clock()
        self._reported, self._done_then = now, trainer.global_step
        self._epoch_began = (now, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, object] | None,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
    ) -> None:
        """Look at the loss about once a second and report.

        Raises:
            JobError: the loss is not finite.
        """
        del pl_module, outputs, batch, batch_idx
        self._stepped = self.clock()
        if self._stepped - self._reported < _PERIOD_SECONDS:
            return
        loss = self.figures.mean_train_loss()
        self.figures.require_finite(loss, trainer.global_step)
        now = self.clock()  # the loss was waited for, and with it the steps before it
        steps, seconds = trainer.global_step - self._done_then, now - self._reported
        rate = steps * self.figures.batches.layout.global_batch / seconds
        self._count(trainer, now)
        self._report(trainer, {"loss": loss, "learning_rate": self.figures.last_rate, "samples_per_second": rate})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch's exact figures."""
        del pl_module
        began, done_then = self._epoch_began
        steps, seconds = trainer.global_step - done_then, self._stepped - began
        self._count(trainer, self._stepped)
        self._eta.rested(self.clock() - self._stepped)
        metrics = self.figures.epochs[-1]
        values = {"loss": metrics.train_loss, "learning_rate": metrics.learning_rate}
        if seconds > 0:
            values["samples_per_second"] = steps * self.figures.batches.layout.global_batch / seconds
        for name in ("val_loss", "val_accuracy"):
            if (value := getattr(metrics, name)) is not None:
                values[name] = value
        self._report(trainer, values, ends_epoch=True)

    def _count(self, trainer: pl.Trainer, now: float) -> None:
        """Count the steps since the last report."""
        if trainer.global_step > self._done_then and now > self._reported:
            self._eta.trained(trainer.global_step - self._done_then, now - self._reported)
        self._reported, self._done_then = now, trainer.global_step

    def _report(self, trainer: pl.Trainer, values: dict[str, float], *, ends_epoch: bool = False) -> None:
        if not trainer.is_global_zero:
            return
        training = self.figures.batches.training
        ends = len(training.epochs) - len(self.figures.epochs)
        self.emit(
            Progress(
                step=self.step,
                phase=f"epoch {trainer.current_epoch + 1} of {len(training.epochs)}",
                done=trainer.global_step,
                total=training.steps,
                values=values,
                ends_epoch=ends_epoch,
                eta_seconds=self._eta.seconds_left(training.steps - trainer.global_step, ends),
            )
        )
