"""The LR range test of a run: its sweeps, what its learning rate is for, which policy carries it over. Pure.

Called by `planning.steps`, and by whoever asks whether a stored range test is the one that a run would make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan_job.contract import BatchSpec, LrTarget, SweepAt, SweepSpec
from gpuplan_job.sampling import EpochLayout
from gpuplan_job.sweep_design import CHECK_RUNS, design

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.workload.schema import Lr

NOISE_MICRO_BATCHES = 16
"""Fewest that give a usable gradient noise scale: with two, |G|^2 came out negative."""
POLICIES = {"epochs": "noise-scale", "steps": "none"}
"""The transfer policy by what the training fixes, where the user names none."""
ACCUMULATE = "accumulate"
"""The policy that goes by the sweeps at the training's own batch, and so needs them."""


def policy(settings: Lr) -> str:
    """Return the transfer policy of a run: the user's, else the one for what the training fixes."""
    return settings.transfer or POLICIES[settings.fixed]


def range_test(inputs: PlanInputs, batches: BatchPlan) -> SweepSpec:
    """Return what the range test's job is told.

    Raises:
        UsageError: a batch to compare is larger than the data.
    """
    settings = inputs.settings
    epochs = settings.workload.epochs
    training_steps = batches.steps_per_epoch * epochs
    by_steps = settings.lr.fixed == "steps"

    def reference(steps_per_epoch: int) -> int:
        """Return T at a batch on one GPU."""
        return training_steps if by_steps else steps_per_epoch * epochs

    own = reference(batches.finder_steps_per_epoch)
    designed = design(own)
    target = LrTarget(
        rule=settings.lr.rule,
        transfer=policy(settings.lr),
        global_batch=batches.train.global_batch,
        steps=training_steps,
        fixed=settings.lr.fixed,
    )
    finder = batches.lr_find.per_gpu
    check = None
    accumulation, rest = divmod(batches.train.global_batch, finder)
    wanted = settings.lr.check or target.transfer == ACCUMULATE
    if wanted and not rest and accumulation > 1:
        check = SweepAt(
            batch=BatchSpec(finder, 1, accumulation),
            runs=CHECK_RUNS,
            iterations=settings.lr.iterations or design(training_steps).iterations,
            reference_steps=training_steps,
        )
    return SweepSpec(
        runs=settings.lr.runs,
        iterations=settings.lr.iterations or designed.iterations,
        lr_min=settings.lr.lr_min or designed.lr_min,
        lr_max=settings.lr.lr_max or designed.lr_max,
        reference_steps=own,
        noise_micro_batches=NOISE_MICRO_BATCHES,
        target=target,
        check=check,
        compare=[
            SweepAt(
                batch=BatchSpec(batch, 1, 1),
                runs=settings.lr.runs,
                iterations=settings.lr.iterations or designed.iterations,
                reference_steps=reference(_steps_per_epoch(inputs.data.train_samples, batch)),
            )
            for batch in settings.lr.compare_batches
            if batch != finder
        ],
    )


def _steps_per_epoch(samples: int, batch: int) -> int:
    if samples < batch:
        raise UsageError(
            f"--compare-batches {batch}: the data have {samples:,} training samples",
            fix=f"--compare-batches with batches of at most {samples}",
        )
    return EpochLayout(samples, batch, 1, 1).steps
