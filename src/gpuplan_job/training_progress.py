"""Prints how far a training is, about once a second and after each epoch, and stops one that has diverged.

Called by `train` as a Lightning callback. Only rank 0 prints.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from gpuplan_job.classifier import require_finite
from gpuplan_job.contract import Progress
from gpuplan_job.eta import Eta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from gpuplan_job.classifier import Batch, Classifier

_PERIOD_SECONDS = 1.0


class TrainingProgress(pl.Callback):
    """Reports through `emit`, one `Progress` at a time; `clock` counts seconds."""

    def __init__(
        self,
        step: str,
        emit: Callable[[Progress], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.step = step
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
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Look at the loss about once a second and report.

        Raises:
            JobError: the loss is not finite.
        """
        del outputs, batch, batch_idx
        self._stepped = self.clock()
        if self._stepped - self._reported < _PERIOD_SECONDS:
            return
        classifier: Classifier = pl_module  # type: ignore[assignment] # train pairs the two
        loss = classifier.mean_train_loss()
        require_finite(loss, classifier.learning_rate, trainer.global_step)
        now = self.clock()  # the loss was waited for, and with it the steps before it
        steps, seconds = trainer.global_step - self._done_then, now - self._reported
        rate = steps * classifier.layout.global_batch / seconds
        self._count(trainer, now)
        values = {"loss": loss, "learning_rate": classifier.last_rate, "samples_per_second": rate}
        self._report(trainer, classifier, values)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch's exact figures."""
        classifier: Classifier = pl_module  # type: ignore[assignment] # train pairs the two
        began, done_then = self._epoch_began
        steps, seconds = trainer.global_step - done_then, self._stepped - began
        self._count(trainer, self._stepped)
        self._eta.rested(self.clock() - self._stepped)
        metrics = classifier.epochs[-1]
        values = {
            "loss": metrics.train_loss,
            "learning_rate": metrics.learning_rate,
            **({"samples_per_second": steps * classifier.layout.global_batch / seconds} if seconds > 0 else {}),
            "val_loss": metrics.val_loss,
            "val_accuracy": metrics.val_accuracy,
        }
        self._report(trainer, classifier, values)

    def _count(self, trainer: pl.Trainer, now: float) -> None:
        """Count the steps since the last report."""
        if trainer.global_step > self._done_then and now > self._reported:
            self._eta.trained(trainer.global_step - self._done_then, now - self._reported)
        self._reported, self._done_then = now, trainer.global_step

    def _report(self, trainer: pl.Trainer, classifier: Classifier, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        epochs = classifier.workload.epochs
        total = classifier.layout.steps * epochs
        ends = epochs - len(classifier.epochs)
        self.emit(
            Progress(
                step=self.step,
                phase=f"epoch {classifier.current_epoch + 1} of {epochs}",
                done=trainer.global_step,
                total=total,
                values=values,
                eta_seconds=self._eta.seconds_left(total - trainer.global_step, ends),
            )
        )
