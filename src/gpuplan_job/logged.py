"""Writes the figures of the progress lines to the training's loggers as well, and its settings once.

Called by `train` as a Lightning callback; the loggers are also Lightning's own, so that what a module logs itself goes
there too.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from gpuplan_job import loggers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpuplan_job.contract import JobInput, Progress


class Logged(pl.Callback):
    """The loggers of one training; `loggers` goes to the Trainer, `and_log` around what prints progress."""

    def __init__(self, job_input: JobInput, folder: Path, rank: int, say: Callable[[str], None]) -> None:
        self.job_input = job_input
        self.loggers = loggers.build(job_input, folder, rank, say)

    def and_log(self, emit: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Return what does `emit` and then logs the same progress."""

        def both(progress: Progress) -> None:
            emit(progress)
            self._log(progress)

        return both

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the loggers where the training goes on, and log its settings at its first start."""
        del pl_module
        for logger in self.loggers:
            logger.begin(trainer.global_step)
            if not trainer.global_step:
                logger.log_hyperparams(settings(self.job_input))

    def _log(self, progress: Progress) -> None:
        values = dict(progress.values)
        if progress.ends_epoch:
            values["train_loss"] = values.pop("loss")
        values["epoch"] = float(progress.phase.split()[1])
        for logger in self.loggers:
            logger.log_metrics(values, progress.done)


def settings(job_input: JobInput) -> dict[str, object]:
    """Return what a training was told, flat, by the names of the settings."""
    train = asdict(job_input.train) if job_input.train else {}
    batch = {**asdict(job_input.batch), "global_batch": job_input.batch.global_batch}
    return {"run_id": job_input.run_id, "attempt": job_input.attempt, **asdict(job_input.workload), **batch, **train}
