"""The training's instances bought otherwise: SageMaker and EC2, on demand and spot, side by side. Pure.

Called by `pipelines.base`. It compares prices; that EC2 is cheaper does not mean that gpuplan can run there. What
a spot interruption is assumed to cost is stated here and in docs/estimates.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.planning.checkpointing import checkpoints
from gpuplan.planning.money.cost import Alternative, Cost, Interruptions, Rate, cost, exact, rate
from gpuplan.planning.money.interruptions import INTERRUPTIONS_PER_HOUR
from gpuplan.planning.placement import service

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import StepPlan
    from gpuplan.profiles.prices import Service, SpotPrice

_MINUTES_PER_HOUR = 60


def alternatives(step: StepPlan, inputs: PlanInputs) -> tuple[Alternative, ...]:
    """Return four ways to buy the training's hours; none for lr-find, and where AWS bills nothing.

    The hours are those planned, start-up included: a step takes as long on either service.
    """
    if service(inputs) is None or step.sweep is not None:
        return ()
    return (
        _on_demand(step, inputs, "sagemaker"),
        Alternative(
            service="sagemaker",
            purchase="spot",
            rate_usd_per_hour=Unknown(unknown="its discount is not published"),
            cost_usd=Unknown(unknown="AWS's billable seconds tell after the run"),
        ),
        _on_demand(step, inputs, "ec2"),
        _ec2_spot(step, inputs),
    )


def interrupted(hours: float, per_hour: float, lost_hours: float) -> float:
    """Return how long a run takes in all if interruptions, `per_hour` of them, undo `lost_hours` of work each.

    t = hours + per_hour t lost_hours: what is done again can be interrupted, too. Infinite where no progress is made.
    """
    share = per_hour * lost_hours
    return hours / (1 - share) if share < 1 else math.inf


def _on_demand(step: StepPlan, inputs: PlanInputs, biller: Service) -> Alternative:
    hourly = rate(inputs.prices, biller, step.instance_type, inputs.settings.aws.region)
    return Alternative(
        service=biller,
        purchase="on-demand",
        rate_usd_per_hour=hourly,
        cost_usd=cost(hourly, step.time_hours, step.instances),
    )


def _ec2_spot(step: StepPlan, inputs: PlanInputs) -> Alternative:
    region, name = inputs.settings.aws.region, step.instance_type.removeprefix("ml.")
    sample = next((s for s in inputs.spot_prices if (s.instance_type, s.region) == (name, region)), None)
    if sample is None:
        missing = Unknown(unknown=f"no spot price of {name} in {region} was found")
        return Alternative(service="ec2", purchase="spot", rate_usd_per_hour=missing, cost_usd=missing)
    dated = sample.sampled_to if sample.sampled_from == sample.sampled_to else None
    hourly = Rate(amount=sample.usd_per_hour, as_of=dated, source=sample.source)
    saving = checkpoints(inputs, instances=step.instances, spot=True, own_disk=step.local_storage_gb is not None)
    between_saves = saving.interval_minutes / _MINUTES_PER_HOUR
    amount, expected = _spot_cost(step, inputs.settings.workload.epochs, between_saves, sample)
    return Alternative(
        service="ec2",
        purchase="spot",
        rate_usd_per_hour=hourly,
        cost_usd=amount,
        interruptions=expected,
        sampled_from=sample.sampled_from,
        sampled_to=sample.sampled_to,
    )


def _spot_cost(
    step: StepPlan, epochs: int, between_saves: float, sample: SpotPrice
) -> tuple[Cost | Unknown, Interruptions | None]:
    """Return the cost and the interruptions: p50 at the zones' median price, p90 at the dearest zone's.

    All instances of a job stop with the first that is taken, so their rates add up. An interruption undoes half of what
    lies between two saves, which are no farther apart than `between_saves` hours or an epoch, and costs a start-up.
    """
    hours = step.time_hours
    if isinstance(hours, Unknown):
        return hours, None
    totals = [
        interrupted(
            whole, per_hour * step.instances, min(whole / epochs, between_saves) / 2 + minutes / _MINUTES_PER_HOUR
        )
        for whole, per_hour, minutes in zip(
            (hours.p50, hours.p90), INTERRUPTIONS_PER_HOUR, step.startup_minutes, strict=True
        )
    ]
    if not all(map(math.isfinite, totals)):
        return Unknown(
            unknown="interruptions would undo the work faster than it is done: starting again takes too long"
        ), None
    counts = [t * per_hour * step.instances for t, per_hour in zip(totals, INTERRUPTIONS_PER_HOUR, strict=True)]
    amount = Cost(
        p50=sample.usd_per_hour * step.instances * exact(totals[0]),
        p90=sample.high * step.instances * exact(totals[1]),
    )
    return amount, Interruptions(p50=counts[0], p90=counts[1])
