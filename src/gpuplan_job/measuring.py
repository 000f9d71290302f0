"""Times the training's optimizer steps and keeps what it measured, for the training's result.

Called by `train` as a Lightning callback. A resumed training reports its own steps, if it takes any.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from gpuplan_job import runtime
from gpuplan_job.contract import Measured
from gpuplan_job.step_clock import StepClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from gpuplan_job.loaders import EpochBatches


class Measuring(pl.Callback):
    """Measures this process; it must come before callbacks that wait for the GPU."""

    def __init__(self, device: torch.device, batches: EpochBatches) -> None:
        self.device = device
        self.batches = batches
        self.clock = StepClock(device)
        self._layout = batches.layout
        """Whose steps the clock times: a growing batch makes others, and those of the last epochs count."""
        self._earlier: Measured | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock: validation and checkpoints are not training time."""
        del trainer, pl_module
        if self.batches.layout != self._layout:
            self._layout, self.clock = self.batches.layout, StepClock(self.device)
        self.clock.restart()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, object] | None,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
    ) -> None:
        """Mark the end of an optimizer step."""
        del trainer, pl_module, outputs, batch
        if self.batches.micro_batches[batch_idx].last_of_step:
            self.clock.tick()

    def clock_restart(self) -> None:
        """Leave out what was no step."""
        self.clock.restart()

    def measured(self) -> Measured:
        """Return step time, rate and peak memory of this process, or of the one before it where this one took no step.

        Raises:
            ValueError: no process took a step.
        """
        if not self.clock.ticked and self._earlier is not None:
            return self._earlier
        seconds = self.clock.median_seconds()
        return Measured(
            step_seconds=seconds,
            samples_per_second=self.batches.layout.global_batch / seconds,
            peak_gib=runtime.peak_gib(self.device),
            device=runtime.device_name(self.device),
        )

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps: a training whose last checkpoint is its end can still say how fast it was."""
        return asdict(self.measured())

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Take over what the process before this one measured."""
        self._earlier = Measured(**state_dict)  # type: ignore[arg-type] # as `state_dict` wrote it
