"""A rank that fails says why and is gone at once, so that torchrun ends its siblings and no GPU waits for a peer.

Called by `train` as a Lightning callback and at its end. It must not touch the process group: both an orderly teardown
and an abort can wait for collectives that the failed rank will never join.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from gpuplan_job.failures import report
from gpuplan_job.supervision import CODE_STOPPED, StoppedError

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.contract import JobInput
    from gpuplan_job.process import Process


class FailFast(pl.Callback):
    """Acts on the first exception of a training, before Lightning's teardown, which may hang."""

    def __init__(self, folder: Path, job_input: JobInput, process: Process) -> None:
        self.folder = folder
        self.job_input = job_input
        self.process = process

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the collective that Lightning 2.6 adds to every micro-batch to spread a SIGTERM.

        It makes the host wait for the GPU each time, and is of no use here: SIGTERM ends each rank by itself, and a
        stop is agreed on as `checkpoints` does.
        """
        del pl_module
        loop = trainer.fit_loop.epoch_loop
        if hasattr(loop, "_broadcast_sigterm_tensor"):
            loop.__dict__["_broadcast_sigterm_tensor"] = lambda: None  # there is no public switch

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Report, and where there are siblings leave without a teardown."""
        del trainer, pl_module
        report(self.folder, self.job_input, exception, self.process.rank)
        if self.process.world_size > 1:
            leave(code(exception))


def code(error: BaseException) -> int:
    """Return the exit code of a rank that ends with an error."""
    return CODE_STOPPED if isinstance(error, StoppedError) else 1


def leave(code: int) -> None:
    """End this process now, without exit handlers: one of them would wait for the other ranks."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
