"""The limits sent with each job, which AWS enforces whatever becomes of the client; their cost is the worst case. Pure.

Called by `pipelines.base` for planned steps and by the engine for an attempt that must fit what is left of a budget.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan.planning.money.cost import Cost, beside_instance
from gpuplan.planning.plan import LONGEST_SECONDS, Limits
from gpuplan.planning.speed.data_transfer import stored_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.planning.plan import LaunchPlan, StepPlan
    from gpuplan.planning.speed.data_transfer import S3Data
    from gpuplan.planning.speed.throughput import Hours
    from gpuplan_job.contract import DataDescription

ORDINARY_LONGEST_SECONDS = 5 * 24 * SECONDS_PER_HOUR
"""The default of SageMaker's quota `Longest run time for a training job`, and of the launcher policy's limit."""
_ROOM = 1.5
"""Times the p90 time: a limit is for what went wrong, not for the slowest tenth of good runs."""
_ROOM_SECONDS = 900
_UNKNOWN_HOURS = 24.0
"""Where the time is not known."""
_ROUND_SECONDS = 60
_SPOT_WAIT_SECONDS = 24 * SECONDS_PER_HOUR
"""Time without capacity, before the start and between interruptions; it is not billed."""
_BASE_VOLUME_GB = 30
"""Wheels, checkpoints of common models, temporary files."""
_DATA_ROOM = 1.2
_GB = 1e9


def limit_steps(
    steps: Sequence[StepPlan], *, data: DataDescription, max_cost: Decimal | None, max_hours: float | None
) -> list[StepPlan]:
    """Return the steps with their limits.

    By default a step may take 1.5 x p90 + 15 min. A budget gives lr-find no more than leaves the training its p90, and
    the training all that is left, but no more than is both ordinary and needed; `max_hours` bounds the training.
    """
    limited: list[StepPlan] = []
    left = max_cost
    for index, step in enumerate(steps):
        seconds = _natural(step.time_hours)
        if step.name == "train" and max_hours is not None:
            seconds = math.ceil(max_hours * SECONDS_PER_HOUR)
        affordable = None if left is None else affordable_seconds(step, left - _p90_of(steps[index + 1 :]))
        if affordable is not None:
            last = index == len(steps) - 1
            if last and max_hours is None:  # a large budget alone must not ask for what no account is given
                seconds = max(seconds, ORDINARY_LONGEST_SECONDS)
            seconds = min(seconds, affordable)
        seconds = max(_ROUND_SECONDS, min(LONGEST_SECONDS, seconds))
        limits = Limits(
            max_runtime_seconds=seconds,
            max_wait_seconds=seconds + _SPOT_WAIT_SECONDS if step.spot else None,
            volume_gb=_volume_gb(step, data),
        )
        step = step.model_copy(update={"limits": limits})  # noqa: PLW2901 - the step as it will be
        limited.append(step)
        most = worst_case(step)
        if left is not None and isinstance(most, Decimal):
            left -= most
    return limited


def within(limits: Limits, seconds: int) -> Limits:
    """Return the limits with a running time of at most `seconds`."""
    shorter = min(limits.max_runtime_seconds, seconds)
    wait = None if limits.max_wait_seconds is None else shorter + _SPOT_WAIT_SECONDS
    return Limits(max_runtime_seconds=shorter, max_wait_seconds=wait, volume_gb=limits.volume_gb)


def affordable_seconds(step: StepPlan, budget: Decimal) -> int | None:
    """Return how long a step may run for `budget` USD, rounded down; None where its price is not known or is 0."""
    rate = step.rate_usd_per_hour
    if isinstance(rate, Unknown) or rate.amount == 0:
        return None
    seconds = budget * SECONDS_PER_HOUR / (rate.amount * step.instances)
    return max(0, int(seconds.to_integral_value(rounding=ROUND_FLOOR)))


def worst_case(step: StepPlan) -> Decimal | Unknown:
    """Return the USD of a step that runs into its limit."""
    rate = step.rate_usd_per_hour
    if isinstance(rate, Unknown):
        return rate
    if rate.amount == 0:
        return Decimal(0)
    if step.limits is None:
        return Unknown(unknown=f"no time limit is sent with {step.name}")
    return rate.amount * step.instances * step.limits.max_runtime_seconds / SECONDS_PER_HOUR


def _natural(hours: Hours | Unknown) -> int:
    if isinstance(hours, Unknown):
        return round(_UNKNOWN_HOURS * SECONDS_PER_HOUR)
    seconds = _ROOM * hours.p90 * SECONDS_PER_HOUR + _ROOM_SECONDS
    return math.ceil(seconds / _ROUND_SECONDS) * _ROUND_SECONDS


def _p90_of(steps: Sequence[StepPlan]) -> Decimal:
    return sum((step.cost_usd.p90 for step in steps if isinstance(step.cost_usd, Cost)), Decimal(0))


def disk_gb(data: DataDescription, s3_data: S3Data | None) -> int:
    """Return the disk in GB that a job needs: wheels, checkpoints, temporary files, and the data if not streamed."""
    kept = 0.0 if s3_data == "streamed" else stored_bytes(data)
    return math.ceil(_BASE_VOLUME_GB + _DATA_ROOM * kept / _GB)


def _volume_gb(step: StepPlan, data: DataDescription) -> int:
    """Return the volume's size; an instance with its own disks takes no size above theirs."""
    wanted = disk_gb(data, step.s3_data)
    return wanted if step.local_storage_gb is None else min(wanted, step.local_storage_gb)


def at_most(plan: LaunchPlan) -> Decimal | None:
    """Return the US dollars that the limits sent allow, with the charges beside; None where nothing bounds or bills."""
    total = plan.total.cost_usd
    if isinstance(total, Unknown) or isinstance(total.worst_case, Unknown) or not total.worst_case:
        return None
    charged, _ = beside_instance(charge for step in plan.steps for charge in step.charges)
    return total.worst_case + charged.p90
