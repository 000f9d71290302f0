"""Batches of a run: the per-GPU batch is one number, used by lr-find and train alike.

Built by `planning.steps`. The invariant lives in the type: a plan that breaks it says so in `override`.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Frozen
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSpec
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.contract import BatchSchedule

BATCHNORM_NEEDS = 16
"""Samples per GPU under which BatchNorm's statistics grow noisy."""
LARGE_BATCH = 8192
"""Goyal et al. 2017 hold accuracy up to this global batch; past it a layer-wise optimizer is advised."""


class StepBatch(Frozen):
    """The batch of one step of a pipeline; `global` is samples per optimizer step over all GPUs."""

    per_gpu: int = Field(ge=1)
    world_size: int = Field(ge=1)
    accumulation: int = Field(ge=1)
    global_batch: int = Field(alias="global")

    @model_validator(mode="after")
    def _product(self) -> Self:
        if self.global_batch != self.per_gpu * self.world_size * self.accumulation:
            raise ValueError("global must be per_gpu * world_size * accumulation")
        return self

    @classmethod
    def of(cls, per_gpu: int, world_size: int = 1, accumulation: int = 1) -> StepBatch:
        """Return the batch with its product filled in."""
        product = per_gpu * world_size * accumulation
        return cls.model_validate(
            {"per_gpu": per_gpu, "world_size": world_size, "accumulation": accumulation, "global": product}
        )


class BatchOverride(Frozen):
    """A per-GPU batch of lr-find that differs from the training's because the user asked for it."""

    lr_find_per_gpu: int
    reason: str


class BatchPlan(Frozen):
    """Batches of a whole run; lr-find uses the training's per-GPU batch unless an override is recorded."""

    lr_find: StepBatch
    train: StepBatch
    steps_per_epoch: int = Field(ge=1)
    """Optimizer steps of the training in one epoch at its full batch."""
    first_epoch_steps: int = Field(ge=1)
    """The same in its first epoch: more of them where the batch grows."""
    steps: int = Field(ge=1)
    """Optimizer steps of the whole training, those of a growing batch included."""
    finder_steps_per_epoch: int = Field(ge=1)
    """Optimizer steps one GPU at the finder's batch would take in one epoch: the finder's reference."""
    override: BatchOverride | None = None

    @model_validator(mode="after")
    def _equal_per_gpu(self) -> Self:
        expected = self.override.lr_find_per_gpu if self.override else self.train.per_gpu
        if self.lr_find.per_gpu != expected:
            raise ValueError("lr-find and train must have the same per-GPU batch, or an override that says otherwise")
        return self


def plan_batches(
    samples: int,
    train: StepBatch,
    *,
    epochs: int,
    schedule: BatchSchedule = "constant",
    finder_batch: int | None = None,
) -> BatchPlan:
    """Return the batches of a run over `samples` training samples, whose training comes to the batch `train`.

    Raises:
        UsageError: the data do not fill one global batch.
    """
    override = None
    if finder_batch is not None and finder_batch != train.per_gpu:
        override = BatchOverride(lr_find_per_gpu=finder_batch, reason="--finder-batch")
    lr_find = StepBatch.of(finder_batch or train.per_gpu)
    for step, batch, flag in (
        ("train", train, "--per-gpu-batch"),
        ("lr-find", lr_find, "--finder-batch" if override else "--per-gpu-batch"),
    ):
        if samples < batch.global_batch:
            raise UsageError(
                f"the data have {samples:,} training samples, fewer than one global batch of {batch.global_batch:,}",
                why=f"{step}: {batch.per_gpu} per GPU x {batch.world_size} GPUs x {batch.accumulation} accumulated",
                fix=_smaller(samples, batch, flag),
            )
    cut = BatchSpec(train.per_gpu, train.world_size, train.accumulation)
    training = TrainingLayout.of(samples, cut, schedule, epochs)
    return BatchPlan(
        lr_find=lr_find,
        train=train,
        steps_per_epoch=EpochLayout(samples, cut.per_gpu, cut.world_size, cut.accumulation).steps,
        first_epoch_steps=training.epochs[0].steps,
        steps=training.steps,
        finder_steps_per_epoch=EpochLayout(samples, lr_find.per_gpu, 1, 1).steps,
        override=override,
    )


def largest_fitting(fits: Callable[[int], bool], below: int) -> int | None:
    """Return the largest batch under `below` that fits, None if not even 1 does; `fits` is monotone.

    It halves from `below` on, so that searches from the same batch for other machines ask for the same ones.
    """
    return bisect_left(range(1, below), True, key=lambda batch: not fits(batch)) or None  # noqa: FBT003 - the key sought


def _smaller(samples: int, batch: StepBatch, flag: str) -> str:
    """Return the flag that makes a global batch fit the samples."""
    per_gpu = samples // (batch.world_size * batch.accumulation)
    if per_gpu >= 1:
        return f"{flag} {per_gpu} or less"
    return f"--world-size {max(1, samples // batch.accumulation)} or less, with a smaller {flag}"
