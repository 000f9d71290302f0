"""When a plan must not be launched: it does not fit, its instance is retired, it costs too much. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import OverBudgetError, PlanRefusedError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import significant, usd
from gpuplan.planning.limits import disk_gb
from gpuplan.workload.schema import MOST_ACCUMULATION
from gpuplan_job import data

if TYPE_CHECKING:
    from decimal import Decimal

    from gpuplan.planning.plan import LaunchPlan, StepPlan


def refuse(plan: LaunchPlan, max_cost: Decimal | None, *, allow_retired: bool) -> None:
    """Return if the plan may be launched.

    Raises:
        UsageError: the data have no location.
        PlanRefusedError: a retired instance, or a step that cannot fit its GPU.
        OverBudgetError: the p90 cost passes `max_cost`, or is not known while there is a limit.
    """
    if plan.lifecycle == "retired" and not allow_retired:
        note = next(warning.message for warning in plan.warnings if warning.code == "retired")
        raise PlanRefusedError(
            f"{plan.instance} is retired",
            why=note,
            fix=f"like it: {', '.join(plan.substitutes)}    still: gpuplan plan works for comparison; "
            "--allow-retired launches anyway",
        )
    if plan.provenance.unchecked is not None:
        what, _, fix = plan.provenance.unchecked.partition("; ")
        raise UsageError(f"your own code is not launched: {what}", fix=fix)
    in_aws = plan.billed
    if plan.data.plan_only:
        raise UsageError(
            f"--data {plan.workload.data} is a description for plans: it says nothing of where the images lie",
            fix=f"--data {plan.workload.data}:s3://BUCKET/PREFIX"
            if in_aws
            else "--data imagefolder:PATH, where PATH holds train/ and val/",
        )
    on_s3, kind = data.s3_location(plan.workload.data) is not None, plan.workload.data.partition(":")[0]
    if in_aws and data.lies_on_this_machine(plan.workload.data):
        raise UsageError(
            f"--data {plan.workload.data} lies on this machine, and the job runs on {plan.instance}",
            fix=f"aws s3 sync FOLDER s3://BUCKET/PREFIX    then: --data '{kind}:s3://BUCKET/PREFIX?train=N&val=N&classes=N'",
        )
    if on_s3 and not in_aws:
        raise UsageError(
            f"--data {plan.workload.data} lies on S3, and backend {plan.backend} does not fetch it",
            fix=f"aws s3 sync s3://BUCKET/PREFIX FOLDER    then: --data {kind}:FOLDER",
        )
    refuse_size(plan)
    refuse_cost(plan, max_cost)


def refuse_size(plan: LaunchPlan) -> None:
    """Return if each step fits its GPU and the data fit its disk.

    Raises:
        PlanRefusedError: one does not.
    """
    for step in plan.steps:
        _refuse_disk(plan, step)
        memory = step.memory
        if step.search is not None:
            _refuse_search(step)
            continue
        if plan.find_batch is not None and plan.find_batch.found is None:
            continue  # planned at a batch that is yet to be measured
        if not isinstance(memory, Unknown) and memory.verdict == "too_big":
            raise PlanRefusedError(
                f"{step.name} does not fit: about {significant(memory.peak_gib, 2)} GiB at batch "
                f"{step.batch.per_gpu} per GPU, {significant(memory.capacity_gib)} GiB there are",
                why=f"even the low end of the estimate, {significant(memory.error_band[0], 2)} GiB, is too much",
                fix=f"{_smaller(plan, step)}; or a GPU with more memory",
            )


def _refuse_search(step: StepPlan) -> None:
    memory = step.memory
    if not isinstance(memory, Unknown) and memory.verdict == "too_big":
        raise PlanRefusedError(
            f"{step.name} would find nothing: not even one sample a GPU fits {significant(memory.capacity_gib)} GiB",
            why=f"even the low end of the estimate, {significant(memory.error_band[0], 2)} GiB, is too much",
            fix="a smaller --image-size or --model, a larger --memory-gib, or a GPU with more memory",
        )


def refuse_cost(plan: LaunchPlan, max_cost: Decimal | None) -> None:
    """Return if the p90 cost stays within `max_cost`, or there is none.

    Raises:
        OverBudgetError: it passes `max_cost`, or is not known.
    """
    if max_cost is None:
        return
    cost = plan.total.cost_usd
    if isinstance(cost, Unknown):
        raise OverBudgetError(
            f"--max-cost {usd(max_cost)} cannot be kept: the cost is not known", why=cost.unknown, fix="drop --max-cost"
        )
    if cost.p90 > max_cost:
        raise OverBudgetError(
            f"the p90 cost {usd(cost.p90)} passes --max-cost {usd(max_cost)}",
            why=f"p50 is {usd(cost.p50)}; nothing was started",
            fix="fewer --epochs, another --instance (gpuplan compare), or a higher --max-cost",
        )


def _refuse_disk(plan: LaunchPlan, step: StepPlan) -> None:
    needed = disk_gb(plan.data, step.s3_data)
    if step.limits is not None and step.local_storage_gb is not None and needed > step.local_storage_gb:
        raise PlanRefusedError(
            f"the data do not fit the disk of {step.instance_type}: {needed} GB are needed, {step.local_storage_gb} GB "
            "there are",
            why="SageMaker copies the data set to the instance before the job starts",
            fix="another --instance, or smaller images: resize them once, before the upload",
        )


def _smaller(plan: LaunchPlan, step: StepPlan) -> str:
    """Return the flags of half the micro-batch, with twice the accumulation where that keeps the global batch."""
    if plan.batch.override and step.sweep:
        return f"--finder-batch {max(1, step.batch.per_gpu // 2)}"
    per_gpu, accumulation = plan.batch.train.per_gpu, plan.batch.train.accumulation
    half = f"--per-gpu-batch {max(1, per_gpu // 2)}"
    if per_gpu % 2 == 0 and 2 * accumulation <= MOST_ACCUMULATION:
        return f"{half} --accumulate {2 * accumulation} keeps the global batch"
    return half
