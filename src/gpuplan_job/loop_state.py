"""Where Lightning's loops stand at a place in a training, whatever led there: no trace of earlier interruptions.

Called by `checkpoints` when a state is kept and when it is taken up. Lightning keeps its counters as they are in the
midst of a hook, from which it goes on in ways that depend on the hook; from the counters set here it starts the epoch,
hooks included, and goes on after the micro-batches that are done. It must not count anything but epochs and batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from gpuplan_job.batch_growth import TrainingLayout

_EPOCHS, _BATCHES, _VALIDATION, _LOOP = (
    "epoch_progress",
    "epoch_loop.batch_progress",
    "epoch_loop.val_loop.batch_progress",
    "epoch_loop.state_dict",
)
"""Keys in the state of Lightning's fit loop."""


@dataclass(frozen=True)
class Place:
    """A place between two optimizer steps: whole epochs done, and optimizer steps done in the epoch after them."""

    epoch: int
    step: int

    def steps(self, training: TrainingLayout) -> int:
        """Return the optimizer steps of the training up to here."""
        return training.starts[self.epoch] + self.step

    def micro_batches(self, training: TrainingLayout) -> int:
        """Return the micro-batches of a rank in the epoch up to here; ranks have equally many."""
        return training.epochs[self.epoch].micro_batches_before(self.step) if self.step else 0

    def validates(self, training: TrainingLayout) -> bool:
        """Return whether all that is left of the epoch is its validation."""
        return self.epoch < len(training.epochs) and self.step == training.epochs[self.epoch].steps


def set_place(fit_loop: dict[str, Any], place: Place, training: TrainingLayout) -> None:
    """Set the state of Lightning's fit loop to a place, counted in the micro-batches of this training."""
    begun, batches = int(place.step > 0), place.micro_batches(training)
    # An epoch that is ready and not started is one whose hooks are called when it is gone on with.
    fit_loop[_EPOCHS] = _progress(place.epoch + begun, place.epoch, place.epoch)
    before = sum(layout.micro_batches_before(layout.steps) for layout in training.epochs[: place.epoch])
    fit_loop[_BATCHES] = {
        "total": _counts(*[before + batches] * 3),
        "current": _counts(*[batches] * 3),
        "is_last_batch": False,
    }
    # A validation that was started and not processed is one that Lightning runs before it goes on.
    due = int(place.validates(training))
    fit_loop[_VALIDATION] = {"total": _counts(due, due, 0), "current": _counts(0, 0, 0), "is_last_batch": False}
    fit_loop.setdefault(_LOOP, {})["_batches_that_stepped"] = place.steps(training) - due


def forget_restart(trainer: pl.Trainer) -> None:
    """Let an epoch that was gone on with end as any other: schedules that follow its validation step, too."""
    trainer.fit_loop.restarting = False


def _progress(ready: int, started: int, done: int) -> dict[str, Any]:
    return {"total": _counts(ready, started, done), "current": _counts(ready, started, done)}


def _counts(ready: int, started: int, done: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": done, "completed": done}
