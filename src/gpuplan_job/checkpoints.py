"""When a training saves its state, where it goes on, and how it stops: between two optimizer steps, all ranks alike.

Called by `train` as a Lightning callback, the last that has anything to save. What becomes of the files is
`checkpoint_folder`'s business, how ranks agree is `agreement`'s.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from gpuplan_job import checkpoint_io, loop_state, regrouping
from gpuplan_job.agreement import Agreement, Wish
from gpuplan_job.checkpoint_folder import CheckpointFolder
from gpuplan_job.checkpoint_interval import MOST_SECONDS, interval_seconds
from gpuplan_job.contract import TrainSpec
from gpuplan_job.failures import JobError
from gpuplan_job.loop_state import Place
from gpuplan_job.manifest import Owner
from gpuplan_job.stop_request import StopRequest
from gpuplan_job.supervision import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import distributed

    from gpuplan_job.contract import EpochMetrics, JobInput
    from gpuplan_job.figures import EpochFigures
    from gpuplan_job.manifest import Manifest

_FIRST_SAVE_SECONDS = 1.0
"""What a save is taken to cost before one was measured."""


class CheckpointKeeper(pl.Callback):
    """Saves after each epoch's validation, now and then within an epoch, and before it stops."""

    def __init__(
        self,
        folder: Path,
        job_input: JobInput,
        figures: EpochFigures,
        *,
        before_save: Callable[[int], None] = lambda _steps: None,
        after_save: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = CheckpointFolder(folder, Owner.of(job_input))
        self.job_input = job_input
        self.figures = figures
        self.training = figures.batches.training
        self.stop = StopRequest(folder, clock)
        self._before_save = before_save
        """Told before each save, with the optimizer steps done: it may take long."""
        self._after_save = after_save
        """Told after each save: its time is not training time."""
        self._clock = clock
        self._kept_steps = 0
        """Optimizer steps of the newest checkpoint, or of the start; every rank knows them."""
        self._due = 0.0
        self._loads = False
        self._rank = 0
        self._agreement = Agreement(None, 0, self._wish, clock)

    def agree_over(self, group: distributed.ProcessGroup | None, rank: int) -> None:
        """Let the ranks of a group agree on when to save; before the training."""
        self._rank = rank
        self._agreement = Agreement(group, rank, self._wish, self._clock)

    def find(self, say: Callable[[str], None]) -> bytes | None:
        """Return the contents of the newest checkpoint of this job that verifies and loads, None if there is none.

        `say` is told which, and of each other one why not. Rank 0 calls it once, before the training.

        Raises:
            JobError: its steps take other samples than this job's.
        """
        newest: bytes | None = None
        for found, content in self.files.verified(lambda why: say(f"not used: {why}")):
            if newest is None:
                problem = checkpoint_io.problem(content, found.place)
                if problem is not None:
                    say(f"not used: {found.file}: {problem}")
                    continue
                self._require_same_steps(found, say)
                say(f"going on after {self._words(found.place)}, from {found.file}")
                newest = content
            self.files.know(found)
        return newest

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let Lightning's loops go on at the checkpoint's place, counted in the micro-batches of this training."""
        del trainer, pl_module
        place = checkpoint_io.place_of(checkpoint)
        loop_state.set_place(checkpoint["loops"]["fit_loop"], place, self.training)
        self._kept_steps = place.steps(self.training)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and listen for a request to stop."""
        del pl_module
        self._due = self._clock() + self._interval(_FIRST_SAVE_SECONDS)
        if trainer.local_rank == 0:
            self.stop.listen()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs: by now the one before is saved, and everyone has said what it came to.

        Raises:
            StoppedError: the ranks were asked to stop, and are.
        """
        del pl_module
        if self.figures.epochs and self._agreement.settled().stop:
            raise self._stopped(self._place(trainer), wait=True)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
    ) -> None:
        """Save after an optimizer step, if that is due: here every hook of the step has been called.

        Raises:
            StoppedError: the ranks were asked to stop, and are.
        """
        del pl_module, batch
        if batch_idx and self.figures.batches.micro_batches[batch_idx - 1].last_of_step:
            self._after_step(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save before the validation, if that is due.

        Raises:
            StoppedError: the ranks were asked to stop, and are.
        """
        del pl_module
        self.figures.gather()  # rank 0 may have to save in its validation, where no rank waits for another
        self._after_step(trainer)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401 - a batch is what the loader gives
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let rank 0 stop: it alone saves, and ends the others by its end.

        Raises:
            StoppedError: it was asked to.
        """
        del pl_module, batch, batch_idx, dataloader_idx
        if trainer.is_global_zero and self.stop.asked():
            place = self._place(trainer)
            if place.steps(self.training) != self._kept_steps:
                self._write(trainer, place)
            raise self._stopped(place)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch. Every rank takes part, rank 0 writes."""
        del pl_module
        loop_state.forget_restart(trainer)
        self._save(trainer, Place(self.figures.epochs[-1].epoch, 0))

    def finish(self, epochs: Sequence[EpochMetrics]) -> None:
        """End the agreement; rank 0 gives the two kept files their final names. Once, after the last epoch."""
        self._agreement.close()
        self.stop.close()
        if self._rank == 0:
            self.files.finish(epochs)

    def _wish(self) -> Wish:
        # Asked for at the next chance it would come too late.
        due = self._clock() + self._agreement.delay_seconds >= self._due
        return Wish(save=due and self._rank == 0, stop=self.stop.asked())

    def _after_step(self, trainer: pl.Trainer) -> None:
        """Do what the ranks agree to do after the optimizer step that was just taken; every rank calls it."""
        place = self._place(trainer)
        if place.steps(self.training) == self._kept_steps:
            return  # gone on with from here
        agreed = self._agreement.stepped()
        if agreed.save or agreed.stop:
            self.figures.gather()
            self._save(trainer, place)
        if agreed.stop:
            raise self._stopped(place, wait=True)

    def _place(self, trainer: pl.Trainer) -> Place:
        epoch = trainer.current_epoch
        return Place(epoch, trainer.global_step - self.training.starts[epoch])

    def _save(self, trainer: pl.Trainer, place: Place) -> None:
        self._before_save(trainer.global_step)
        if trainer.is_global_zero:
            started = self._clock()
            self._write(trainer, place)
            ended = self._clock()
            # A save that is cut off is lost with its own time.
            self._due = ended + self._interval(ended - started) - (ended - started)
        self._kept_steps = place.steps(self.training)
        self._after_save()

    def _interval(self, save_seconds: float) -> float:
        train = self.job_input.train or TrainSpec(0.0)
        if train.checkpoint_seconds is not None:
            return train.checkpoint_seconds
        if train.mean_seconds_between_failures is None:
            return MOST_SECONDS
        return interval_seconds(save_seconds, train.mean_seconds_between_failures)

    def _stopped(self, place: Place, *, wait: bool = False) -> StoppedError:
        if wait:
            # The first to leave is the end of all: torchrun sees to it.
            self._agreement.together()
        return StoppedError(place.steps(self.training), self.training.steps)

    def _write(self, trainer: pl.Trainer, place: Place) -> None:
        """Write a checkpoint of a place in the training; rank 0 does."""
        temporary = self.files.temporary(place)
        # Lightning's public way waits for all ranks, which rank 0 must not while it validates.
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # noqa: SLF001 - see above
        state[checkpoint_io.PLACE] = asdict(place)
        loop_state.set_place(state["loops"]["fit_loop"], place, self.training)
        trainer.strategy.checkpoint_io.save_checkpoint(state, temporary)
        self._require_loadable(temporary, place)
        self.files.keep(temporary, place, self.job_input.batch, self.figures.epochs)

    def _require_loadable(self, path: Path, place: Place) -> None:
        """Refuse to go on for hours with what nobody could go on from; the first checkpoint tells.

        Raises:
            JobError: the checkpoint holds more than tensors and plain values.
        """
        if self._loads:
            return
        problem = checkpoint_io.problem(path, place)
        if problem is not None:
            path.unlink()
            raise JobError(
                "user-code",
                f"no training could go on from this checkpoint: {problem}",
                "keep tensors and plain values alone in save_hyperparameters and on_save_checkpoint",
            )
        self._loads = True

    def _require_same_steps(self, found: Manifest, say: Callable[[str], None]) -> None:
        batch = self.job_input.batch
        refused = regrouping.refusal(found.batch, self.training, batch, self.job_input.workload)
        if refused is not None:
            why, fix = refused
            raise JobError("usage", f"{found.file} cannot be gone on from: {why}", fix)
        if found.batch != batch:
            say(f"was {regrouping.product(found.batch)}, goes on as {regrouping.product(batch)}: the same steps, but")
            say("sums are rounded otherwise, and BatchNorm sees other micro-batches: not the same to the bit")

    def _words(self, place: Place) -> str:
        if not place.step:
            return f"epoch {place.epoch}"
        return f"step {place.step} of {self.training.epochs[place.epoch].steps} of epoch {place.epoch + 1}"
