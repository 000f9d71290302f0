"""Beats while a training goes on, with how long the next beat may take: the launcher's watchdog listens.

Called by `train` as a Lightning callback, before `checkpoints`. It measures the host's own pace and waits for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from gpuplan_job.heartbeat import Heart
from gpuplan_job.stall import START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LEAST_SECONDS = 60.0
_TIMES_MEDIAN = 20.0
"""Of the micro-batches so far: one that takes so much longer than its fellows is not slow but stuck."""
_RARE_SECONDS = 300.0
"""For what happens once an epoch: data-loading processes start, the validation begins."""
_CHECKPOINT_SECONDS = 1800.0
"""For a checkpoint on its way to a disk: 100 GB at 60 MB/s."""
_FIRST = 3
"""Micro-batches that may take as long as the start-up: kernels are chosen and compiled."""
_KEPT = 50


class Pulse(pl.Callback):
    """Beats for one rank; `clock` counts seconds."""

    def __init__(self, folder: Path, rank: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.heart = Heart(folder, rank)
        self.clock = clock
        self._intervals: deque[float] = deque(maxlen=_KEPT)
        self._seen = 0
        self._since: float | None = None
        self.heart.beat("start-up", 0, START_SECONDS)

    def saving(self, steps: int) -> None:
        """Leave the time for a checkpoint, which other ranks wait for in their next step."""
        self.heart.beat("checkpoint", steps, _CHECKPOINT_SECONDS)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for an epoch's first data."""
        del pl_module
        self._since = None
        self._beat(trainer, "first data", _RARE_SECONDS)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """Begin a micro-batch."""
        del pl_module
        self._beat(trainer, "step")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """End it, and wait for the next one's data."""
        del pl_module
        now = self.clock()
        if self._since is not None:
            self._intervals.append(now - self._since)
        self._since = now
        self._seen += 1
        self._beat(trainer, "data")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for a validation's first data."""
        del pl_module
        self._beat(trainer, "validation", _RARE_SECONDS)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """Count a batch of the validation."""
        del pl_module
        self._beat(trainer, "validation", _RARE_SECONDS)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the time for a checkpoint, and for what other ranks write."""
        del pl_module
        self._beat(trainer, "checkpoint", _CHECKPOINT_SECONDS)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Do so where one is written in the midst of an epoch."""
        del pl_module, checkpoint
        self._beat(trainer, "checkpoint", _CHECKPOINT_SECONDS)

    def _beat(self, trainer: pl.Trainer, phase: str, least_seconds: float = _LEAST_SECONDS) -> None:
        if self._seen < _FIRST:
            limit = START_SECONDS
        else:
            usual = statistics.median(self._intervals) if self._intervals else 0.0
            limit = max(least_seconds, _TIMES_MEDIAN * usual)
        self.heart.beat(phase, trainer.global_step, limit)
