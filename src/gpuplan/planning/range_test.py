"""The LR range test of a run: its sweeps, what its learning rate is for, which policy carries it over. Pure.

Called by `planning.steps`, and by whoever asks whether a stored range test is the one that a run would make.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.planning.checked_code import optimizer_kept
from gpuplan_job import sweep_design
from gpuplan_job.contract import BatchSpec, LrTarget, SweepAt, SweepSpec
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.workload.schema import Lr

ACCUMULATE = "accumulate"
"""The policy that goes by the sweeps at the training's own batch, and so needs them."""


def policy(settings: Lr) -> str:
    """Return the transfer policy of a run: the user's, else the one for what the training fixes."""
    return settings.transfer or sweep_design.POLICIES[settings.fixed]


def why_policy(settings: Lr) -> str:
    """Return why it is that policy, in words that follow its name."""
    return "as given" if settings.transfer else f"the default where the {settings.fixed} are fixed"


def target_of(inputs: PlanInputs, batches: BatchPlan) -> LrTarget:
    """Return the training that a learning rate is looked for."""
    settings = inputs.settings
    return LrTarget(
        rule=settings.lr.rule,
        transfer=policy(settings.lr),
        global_batch=batches.train.global_batch,
        steps=batches.steps,
        fixed=settings.lr.fixed,
    )


def target_on(plan: LaunchPlan, told: LrTarget, gpus: int) -> LrTarget:
    """Return what a planned training on that many GPUs instead would look for: `told` at its own batch and steps.

    Raises:
        UsageError: the data do not fill one global batch.
    """
    train = plan.batch.train
    if gpus == train.world_size:
        return told
    samples, batch = plan.data.train_samples, train.per_gpu * gpus * train.accumulation
    if samples < batch:
        raise UsageError(
            f"--world-size {gpus}: the data have {samples:,} training samples, fewer than a global batch of {batch:,}",
            fix=f"--world-size {max(1, samples // (train.per_gpu * train.accumulation))} or less",
        )
    steps = told.steps
    if told.fixed == "epochs":
        steps = EpochLayout(samples, train.per_gpu, gpus, train.accumulation).steps * plan.workload.epochs
    return replace(told, global_batch=batch, steps=steps)


def reference_steps(inputs: PlanInputs, batches: BatchPlan) -> int:
    """Return T: the training's optimizer steps on one GPU at lr-find's batch; where steps are fixed, its own."""
    settings = inputs.settings
    return batches.steps if settings.lr.fixed == "steps" else batches.finder_steps_per_epoch * settings.workload.epochs


def range_test(inputs: PlanInputs, batches: BatchPlan) -> SweepSpec:
    """Return what the range test's job is told.

    Raises:
        UsageError: a batch to compare is larger than the data, the training's global batch cannot be accumulated, or
            the learning rates do not rise.
    """
    settings = inputs.settings
    target, own = target_of(inputs, batches), reference_steps(inputs, batches)
    iterations = settings.lr.iterations or sweep_design.iterations(own)
    kept = optimizer_kept(inputs)
    designed = sweep_design.lr_range(kept.optimizer, kept.momentum)
    low, high = settings.lr.lr_min or designed[0], settings.lr.lr_max or designed[1]
    if low >= high:
        raise UsageError(
            f"the range test would sweep from {low:g} to {high:g}",
            why="its learning rates rise; what is not given is chosen for the training",
            fix="give both --lr-min and --lr-max, or neither",
        )
    finder = batches.lr_find.per_gpu
    wanted = settings.lr.check or target.transfer == ACCUMULATE
    accumulation = _accumulation(batches) if wanted else 1
    check = SweepAt(
        batch=BatchSpec(finder, 1, accumulation),
        runs=sweep_design.CHECK_RUNS,
        iterations=settings.lr.iterations or sweep_design.iterations(target.steps),
        reference_steps=target.steps,
    )
    return SweepSpec(
        runs=settings.lr.runs,
        iterations=iterations,
        lr_min=low,
        lr_max=high,
        reference_steps=own,
        noise_micro_batches=sweep_design.NOISE_MICRO_BATCHES,
        target=target,
        check=check if accumulation > 1 else None,
        compare=[
            SweepAt(
                batch=BatchSpec(batch, 1, 1),
                runs=settings.lr.runs,
                iterations=iterations,
                reference_steps=own
                if settings.lr.fixed == "steps"
                else _steps_per_epoch(inputs.data.train_samples, batch) * settings.workload.epochs,
            )
            for batch in settings.lr.compare_batches
            if batch != finder
        ],
    )


def _accumulation(batches: BatchPlan) -> int:
    """Return how many of lr-find's batches make up the training's global batch."""
    accumulation, rest = divmod(batches.train.global_batch, batches.lr_find.per_gpu)
    if rest:
        raise UsageError(
            f"a check at the training's global batch of {batches.train.global_batch:,} cannot be made of lr-find's "
            f"batches of {batches.lr_find.per_gpu}",
            why="it accumulates whole batches (--lr-check, --lr-transfer accumulate)",
            fix="drop --finder-batch, or give one that divides the global batch",
        )
    return accumulation


def _steps_per_epoch(samples: int, batch: int) -> int:
    if samples < batch:
        raise UsageError(
            f"--compare-batches {batch}: the data have {samples:,} training samples",
            fix=f"--compare-batches with batches of at most {samples}",
        )
    return EpochLayout(samples, batch, 1, 1).steps
