"""What all pipelines share: the door by which they are found, and how planned steps become a plan with its totals."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from gpuplan import pipelines
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.core.names import did_you_mean
from gpuplan.planning.advice.parts import norm_of
from gpuplan.planning.batch import BatchPlan, StepBatch, plan_batches
from gpuplan.planning.checked_code import checked_code
from gpuplan.planning.gpu_options import gpu_options
from gpuplan.planning.limits import limit_steps, worst_case
from gpuplan.planning.money.alternatives import alternatives
from gpuplan.planning.money.charges import charges
from gpuplan.planning.money.cost import beside_instance, total
from gpuplan.planning.placement import device, place_training, service
from gpuplan.planning.plan import LaunchPlan, LrPlan, Provenance, StepPlan, Total, TotalCost
from gpuplan.planning.practices import lr_shares, refuse_contradictions
from gpuplan.planning.range_test import policy, why_policy
from gpuplan.planning.reuse import reused
from gpuplan.planning.speed.throughput import Hours
from gpuplan.planning.steps import finder_plan
from gpuplan.planning.warm_up import warm_up
from gpuplan.planning.warnings import warnings_for
from gpuplan_job import discover
from gpuplan_job.contract import WorkloadSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from gpuplan.planning.finder import Finder
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import FindBatchPlan

    class Pipeline(Protocol):
        """What a file of this folder offers."""

        def build(self, inputs: PlanInputs) -> LaunchPlan:
            """Return the plan of a run."""
            ...


def names() -> list[str]:
    """Return the pipelines there are."""
    return discover.names(pipelines)


def load(name: str) -> Pipeline:
    """Return the pipeline of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return cast("Pipeline", discover.load(pipelines, name))
    except LookupError as error:
        raise UsageError(
            f"unknown pipeline {name!r}", why=did_you_mean(name, names()), fix="--pipeline lr-then-train"
        ) from error


def lr_is_known(inputs: PlanInputs) -> bool:
    """Tell whether there is nothing to find: a learning rate was given, or another run's range test."""
    return inputs.settings.lr.learning_rate is not None or inputs.lr_source is not None


def batches(inputs: PlanInputs, gpus: int | None = None) -> BatchPlan:
    """Return the batches that the settings and `gpus` add up to, by default the instance's.

    Raises:
        UsageError: settings contradict each other, or a training was told how many GPUs a range test alone is for.
    """
    workload = inputs.settings.workload
    refuse_contradictions(inputs.settings)
    if gpus is None and inputs.settings.lr.carry_to_gpus is not None:
        raise UsageError(
            "--carry-to-gpus is for a range test alone, and this pipeline trains",
            why="the learning rate of a training is carried over to the GPUs that it runs on",
            fix="--world-size, or gpuplan find-lr --carry-to-gpus",
        )
    world_size = gpus or place_training(inputs).hardware.gpus
    return plan_batches(
        inputs.data.train_samples,
        StepBatch.of(workload.per_gpu_batch, world_size, workload.accumulate),
        epochs=workload.epochs,
        schedule=workload.batch_schedule,
        finder_batch=inputs.settings.lr.finder_batch,
    )


def at_batch(inputs: PlanInputs, per_gpu: int) -> BatchPlan:
    """Return the batches of a run at a per-GPU batch that find-batch found, or is expected to find.

    Raises:
        UsageError: as `batches`.
    """
    workload = inputs.settings.workload.model_copy(update={"per_gpu_batch": per_gpu})
    return batches(replace(inputs, settings=inputs.settings.model_copy(update={"workload": workload})))


def assemble(
    inputs: PlanInputs,
    pipeline: str,
    batch: BatchPlan,
    steps: Sequence[StepPlan],
    found: Finder | None = None,
    *,
    search: FindBatchPlan | None = None,
) -> LaunchPlan:
    """Return the plan made of these steps, with totals, warnings and provenance; `found` is lr-find's machine."""
    settings, profile = inputs.settings, inputs.profile
    steps = [
        step.model_copy(update={"charges": charges(step, inputs), "alternatives": alternatives(step, inputs)})
        for step in steps
    ]
    if service(inputs) == "sagemaker":
        steps = limit_steps(
            steps, data=inputs.data, max_cost=_for_jobs(steps, inputs), max_hours=settings.launch.max_hours
        )
    elif settings.launch.max_hours is not None:
        raise UsageError(
            f"--max-hours: backend {settings.launch.backend} enforces no time limit", fix="drop --max-hours"
        )
    finder = finder_plan(inputs, batch, found) if found else None
    source = reused(inputs, batch)
    sweep = next((step.sweep for step in steps if step.sweep), None)
    plan = LaunchPlan(
        pipeline=pipeline,
        instance=profile.name,
        gpu=profile.gpu.model,
        backend=settings.launch.backend,
        region=settings.aws.region,
        device=device(inputs),
        lifecycle=profile.lifecycle.state,
        substitutes=profile.lifecycle.substitutes,
        workload=_workload_spec(inputs, steps[-1].workers),
        data=inputs.data,
        checked=checked_code(inputs),
        batch=batch,
        steps=tuple(steps),
        total=Total(time_hours=_total_hours(steps), cost_usd=_total_cost(steps)),
        lr=LrPlan(
            rule=settings.lr.rule,
            transfer=policy(settings.lr),
            transfer_why=why_policy(settings.lr),
            fixed=settings.lr.fixed,
            check=sweep is not None and sweep.check is not None,
            runs=settings.lr.runs,
            iterations=sweep.iterations if sweep else None,
            learning_rate=source.decision.training_learning_rate if source else settings.lr.learning_rate,
            reused=source,
            warmup=warm_up(settings, batch),
            shares=lr_shares(settings, batch),
        ),
        gpu_options=gpu_options(inputs, batch, found) if found else (),
        find_batch=search,
        finder=finder,
        warnings=(),
        provenance=Provenance(
            gpuplan_version=inputs.gpuplan_version,
            payload_sha256=inputs.payload_sha256,
            profile_sha256=profile.digest(),
            finder_profile_sha256=_profile_digest(inputs, finder.profile) if finder else None,
            settings=settings,
            live_prices=inputs.live,
            found_batch=inputs.found_batch,
            lr_source=inputs.lr_source,
            code=inputs.code,
            unchecked=inputs.checked.unknown if isinstance(inputs.checked, Unknown) else None,
        ),
    )
    traced = inputs.traced()
    norm = norm_of(None if isinstance(traced, Unknown) else traced.step)
    return plan.model_copy(update={"warnings": warnings_for(plan, profile, norm)})


def _profile_digest(inputs: PlanInputs, name: str) -> str:
    return next(profile for profile in (inputs.profile, *inputs.candidates) if profile.name == name).digest()


def _workload_spec(inputs: PlanInputs, workers: int) -> WorkloadSpec:
    """Return what is trained; `workers` is the last step's, and each job is told its own."""
    workload = inputs.settings.workload.model_copy(update={"workers": workers})
    return WorkloadSpec(**{field.name: getattr(workload, field.name) for field in dataclasses.fields(WorkloadSpec)})


def _for_jobs(steps: Sequence[StepPlan], inputs: PlanInputs) -> Decimal | None:
    """Return what --max-cost leaves for instances: limits bound them alone, so the known rest is put aside."""
    budget = inputs.settings.launch.max_cost
    beside, _ = beside_instance(charge for step in steps for charge in step.charges)
    return None if budget is None else max(Decimal(0), budget - beside.p90)


def _total_cost(steps: Sequence[StepPlan]) -> TotalCost | Unknown:
    cost = total({step.name: step.cost_usd for step in steps})
    if isinstance(cost, Unknown):
        return cost
    beside, _ = beside_instance(charge for step in steps for charge in step.charges)
    most = [worst_case(step) for step in steps]
    unknown = next((amount for amount in most if isinstance(amount, Unknown)), None)
    worst = unknown or sum((amount for amount in most if isinstance(amount, Decimal)), Decimal(0))
    return TotalCost(p50=cost.p50 + beside.p50, p90=cost.p90 + beside.p90, worst_case=worst)


def _total_hours(steps: Sequence[StepPlan]) -> Hours | Unknown:
    known = [step.time_hours for step in steps if isinstance(step.time_hours, Hours)]
    if len(known) < len(steps):
        missing = next(step for step in steps if not isinstance(step.time_hours, Hours))
        return Unknown(unknown=f"the time of {missing.name} is not known")
    return Hours(p50=sum(hours.p50 for hours in known), p90=sum(hours.p90 for hours in known))
