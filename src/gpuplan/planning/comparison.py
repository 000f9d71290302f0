"""One workload on many instances: each row is the plan of one of them, in order of cost, the best marked. Pure.

Called by `gpuplan compare` with `pipelines.build`, so that a row is what `gpuplan plan` says of that instance. It loads
no profile and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from gpuplan.core.errors import OverBudgetError, PlanRefusedError, UsageError
from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.planning.batch import StepBatch, largest_fitting
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Cost, Rate, rate
from gpuplan.planning.placement import device, service
from gpuplan.planning.plan import LaunchPlan, LifecycleState, TotalCost
from gpuplan.planning.refuse import refuse_cost, refuse_size
from gpuplan.planning.speed.throughput import Hours
from gpuplan_job.contract import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.planning.inputs import PlanInputs

Build = Callable[["PlanInputs"], LaunchPlan]
Status = Literal["ok", "retired", "over_budget", "unknown", "does_not_fit", "cannot"]
"""`cannot`: there is no such plan; `unknown`: its time or its price is not known."""

_AT_THE_END = {"unknown", "does_not_fit", "cannot"}


class Row(Frozen):
    """One instance under one backend; time and cost are of the whole pipeline, as its plan states them."""

    instance: str
    backend: str
    region: str
    gpu: str
    gpus: int
    """Of the instance."""
    precision: Precision
    status: Status
    reason: str = ""
    """Why the status is not `ok`."""
    lifecycle: LifecycleState
    wanted_per_gpu_batch: int
    """What was asked for, or the profile's default; `batch` has less where only less fits."""
    batch: StepBatch | Unknown
    memory: MemoryEstimate | Unknown
    """Of a training process."""
    time_hours: Hours | Unknown
    cost_usd: TotalCost | Unknown
    usd_per_epoch: Decimal | Unknown
    """p50, all steps' cost over the epochs."""
    images_per_usd: int | Unknown
    """p50, samples trained on over all steps' cost."""
    spot: bool
    finder_instance: str | None = None
    ec2_usd_per_hour: Rate | Unknown
    """EC2's on-demand price, for orientation."""
    ec2_quota: str | None = None
    """Code of EC2's quota that the instance counts against."""
    billed: bool
    """Whether AWS bills the jobs."""
    plan_id: str | None = None
    best: tuple[Literal["price", "time"], ...] = ()
    """What no other row that AWS bills and that may be launched betters."""


def compare(inputs: Sequence[PlanInputs], build: Build) -> tuple[Row, ...]:
    """Return a row for each of the inputs: by p50 cost, what cannot be compared last.

    Raises:
        UsageError: the pipeline cannot be run like this on any of them.
    """
    rows: list[Row] = []
    errors: list[UsageError] = []
    for one in inputs:
        try:
            rows.append(_row(one, build))
        except UsageError as error:
            errors.append(error)
            rows.append(_without_plan(one, "cannot", error.what))
    if errors and len(errors) == len(rows):
        raise errors[0]
    return tuple(sorted(_marked(rows), key=_order))


def _row(one: PlanInputs, build: Build) -> Row:
    """Return the row of one instance.

    Raises:
        UsageError: there is no such plan.
    """
    gpu, precision = one.profile.gpu, one.settings.workload.precision
    if precision == "bf16-mixed" and device(one) == "cuda" and not gpu.bf16:
        return _without_plan(one, "cannot", f"{gpu.model} has no bf16: --precision 16-mixed, or leave it out")
    plan = build(one)
    if not _fits(plan):
        wanted = one.settings.workload.per_gpu_batch
        found = largest_fitting(lambda batch: _fits_safely(build(_at(one, batch))), wanted)
        plan = build(_at(one, found)) if found else plan
    return _of(one, plan)


def _at(one: PlanInputs, per_gpu_batch: int) -> PlanInputs:
    workload = one.settings.workload.model_copy(update={"per_gpu_batch": per_gpu_batch})
    return replace(one, settings=one.settings.model_copy(update={"workload": workload}))


def _fits(plan: LaunchPlan) -> bool:
    """Tell whether no step is too big; what is not known is not held against it."""
    return not any(isinstance(step.memory, MemoryEstimate) and step.memory.verdict == "too_big" for step in plan.steps)


def _fits_safely(plan: LaunchPlan) -> bool:
    """Tell whether, besides, the training's peak stays under its GPU's memory.

    lr-find may be tight: a larger batch can move it to a larger GPU, so asking more of it would not be monotone.
    """
    step = plan.step("train") or plan.steps[-1]
    memory = step.memory
    safe = isinstance(memory, Unknown) or (memory.verdict == "fits" and memory.peak_gib <= memory.capacity_gib)
    return _fits(plan) and (safe or step.name != "train")


def _of(one: PlanInputs, plan: LaunchPlan) -> Row:
    step = plan.step("train") or plan.steps[-1]
    finder = plan.step("lr-find")
    status, reason = _status(one, plan)
    cost, epochs = plan.total.cost_usd, one.settings.workload.epochs
    usd_per_epoch: Decimal | Unknown = Unknown(unknown="nothing is trained")
    images_per_usd: int | Unknown = Unknown(unknown="nothing is trained")
    if step.name == "train":
        usd_per_epoch = cost if isinstance(cost, Unknown) else cost.p50 / epochs
        images_per_usd = _images_per_usd(cost, one.data.train_samples * epochs)
    return _without_plan(one, status, reason).model_copy(
        update={
            "batch": step.batch,
            "memory": step.memory,
            "time_hours": plan.total.time_hours,
            "cost_usd": cost,
            "usd_per_epoch": usd_per_epoch,
            "images_per_usd": images_per_usd,
            "finder_instance": finder.instance_type if finder else None,
            "plan_id": plan.plan_id,
        }
    )


def _images_per_usd(cost: Cost | Unknown, images: int) -> int | Unknown:
    if isinstance(cost, Unknown):
        return cost
    return int(images / cost.p50) if cost.p50 else Unknown(unknown="it costs nothing here")


def _status(one: PlanInputs, plan: LaunchPlan) -> tuple[Status, str]:
    try:
        refuse_size(plan)
    except PlanRefusedError as error:
        return "does_not_fit", error.what
    for value in (plan.total.time_hours, plan.total.cost_usd):
        if isinstance(value, Unknown):
            return "unknown", _unknown_part(plan) or value.unknown
    if plan.lifecycle == "retired":
        return "retired", one.profile.lifecycle.note
    try:
        refuse_cost(plan, one.settings.launch.max_cost)
    except OverBudgetError as error:
        return "over_budget", error.what
    return "ok", ""


def _unknown_part(plan: LaunchPlan) -> str:
    """Return why a step's time is not known; the plan's total only names the step."""
    return next((step.time_hours.unknown for step in plan.steps if isinstance(step.time_hours, Unknown)), "")


def _without_plan(one: PlanInputs, status: Status, reason: str) -> Row:
    """Return what is known of a row without a plan."""
    settings, profile = one.settings, one.profile
    nothing = Unknown(unknown=reason or "no plan")
    quota = profile.quota_of(profile.train)
    return Row(
        instance=profile.name,
        backend=settings.launch.backend,
        region=settings.aws.region,
        gpu=profile.gpu.model,
        gpus=profile.train.gpus,
        precision=settings.workload.precision,
        status=status,
        reason=reason,
        lifecycle=profile.lifecycle.state,
        wanted_per_gpu_batch=settings.workload.per_gpu_batch,
        batch=nothing,
        memory=nothing,
        time_hours=nothing,
        cost_usd=nothing,
        usd_per_epoch=nothing,
        images_per_usd=nothing,
        spot=settings.launch.spot,
        ec2_usd_per_hour=rate(one.prices_of(profile), "ec2", profile.train.instance_type, settings.aws.region),
        ec2_quota=(quota.spot if settings.launch.spot else quota.on_demand) if quota else None,
        billed=service(one) is not None,
    )


def _marked(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the least cost and the least time marked, among those AWS bills and would run."""
    running = [row for row in rows if row.status == "ok" and row.billed]
    least_cost = min((_p50_usd(row) for row in running), default=None)
    least_time = min((_p50_hours(row) for row in running), default=None)
    marked: list[Row] = []
    for row in rows:
        best: list[str] = []
        if row in running:
            best += ["price"] * (_p50_usd(row) == least_cost) + ["time"] * (_p50_hours(row) == least_time)
        marked.append(row.model_copy(update={"best": tuple(best)}))
    return marked


def _order(row: Row) -> tuple[bool, Decimal, float, str, str]:
    return row.status in _AT_THE_END, _p50_usd(row), _p50_hours(row), row.instance, row.backend


def _p50_usd(row: Row) -> Decimal:
    return row.cost_usd.p50 if isinstance(row.cost_usd, Cost) else Decimal("Infinity")


def _p50_hours(row: Row) -> float:
    return row.time_hours.p50 if isinstance(row.time_hours, Hours) else float("inf")
