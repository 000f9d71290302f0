"""The money of a plan as people read it: what else is billed, what it costs elsewhere, how old the prices are.

Called by `plan_text`, which sets the lines. It computes no cost: the plan holds them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import usd
from gpuplan.planning.money.cost import Cost, Rate, beside_instance
from gpuplan.profiles.prices import LIVE_SOURCE, LIVE_SPOT_SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from gpuplan.planning.money.cost import Alternative, Charge
    from gpuplan.planning.plan import LaunchPlan

OLD_DAYS = 90
"""From this age on, a price is said to be old."""
_REFRESH = "--live-prices refreshes"
_SHOWN = Decimal("0.01")
"""Dollars from which an amount is worth a place in a plan."""
_NAMES = {
    "s3-reads": "S3 reads",
    "s3-writes": "S3 writes",
    "logs": "logs",
    "volume": "volume",
    "s3-storage": "S3 storage",
}
_NEVER_COUNTED = "data transfer, tax"


def cost_text(value: Cost | Unknown) -> str:
    """Return `$0.33 ($0.49)`, or that it is not known."""
    return "unknown" if isinstance(value, Unknown) else f"{usd(value.p50)} ({usd(value.p90)})"


def beside(plan: LaunchPlan) -> Cost | None:
    """Return what the run is known to be billed beside its instances; None where that is less than a cent."""
    known, _ = beside_instance(charge for step in plan.steps for charge in step.charges)
    return known if known.p90 >= _SHOWN else None


def money_facts(plan: LaunchPlan, today: date) -> Iterator[tuple[str, str]]:
    """Yield the labelled lines, nothing but the prices where AWS bills nothing."""
    charges = [charge for step in plan.steps for charge in step.charges]
    if charges:
        yield from _charges(charges, today)
    for step in plan.steps:
        if step.alternatives:
            yield "elsewhere", _elsewhere(step.alternatives, plan, today)
    yield from _prices(plan, today)


def _charges(charges: list[Charge], today: date) -> Iterator[tuple[str, str]]:
    """Yield what is in the total, what is not, and what nobody knows; fractions of a cent are left out."""
    sums = {name: total for name, total in _sums(charges).items() if total.p50 >= _SHOWN}
    startup = sums.pop("start-up", None)
    kept = sums.pop("s3-storage", None)
    inside = [f"{cost_text(startup)} for billed start-up"] if startup else []
    inside += [f"{_NAMES[name]} {usd(total.p50)}" for name, total in sums.items() if name in _NAMES]
    outside = [f"S3 storage {usd(kept.p50)} a month until deleted"] if kept else []
    outside.append(_NEVER_COUNTED)
    dates = [charge.as_of for charge in charges if charge.name in _NAMES and charge.as_of]
    aged = f" (prices of {_age(min(dates), today)})" if dates else ""
    told = f"in the total: {', '.join(inside)}; not in it: " if inside else "not in the total: "
    yield "charges", f"{told}{', '.join(outside)}{aged}"
    missing = {
        _NAMES[c.name]: c.cost_usd.unknown for c in charges if isinstance(c.cost_usd, Unknown) and c.name in _NAMES
    }
    if missing:
        # Most lack a price for one reason, the region's: told once.
        yield "charges", f"unknown, not in the total: {', '.join(missing)} ({next(iter(missing.values()))})"


def _sums(charges: Iterable[Charge]) -> dict[str, Cost]:
    sums: dict[str, Cost] = {}
    for charge in charges:
        if isinstance(charge.cost_usd, Cost):
            before = sums.get(charge.name, Cost(p50=Decimal(0), p90=Decimal(0)))
            now = charge.cost_usd
            sums[charge.name] = Cost(p50=before.p50 + now.p50, p90=before.p90 + now.p90)
    return sums


def _elsewhere(alternatives: Iterable[Alternative], plan: LaunchPlan, today: date) -> str:
    """Return what the training's instances cost bought otherwise than planned, what is known before what is not."""
    others = [one for one in alternatives if (one.service, one.purchase) != (plan.backend, "on-demand")]
    others.sort(key=lambda one: isinstance(one.rate_usd_per_hour, Unknown))
    told = "; ".join(_alternative(one, today) for one in others)
    return f"{told}. For comparison: this version has no EC2 backend"


def _alternative(other: Alternative, today: date) -> str:
    name = f"{'EC2' if other.service == 'ec2' else 'SageMaker'} {other.purchase.replace('-', ' ')}"
    rate = other.rate_usd_per_hour
    if isinstance(rate, Unknown):
        return f"{name} unknown ({rate.unknown})"
    when = _dated(rate, today)
    if other.sampled_from and other.sampled_to and other.sampled_from != other.sampled_to:
        when = f"sampled {other.sampled_from:%Y-%m}..{other.sampled_to:%Y-%m}"
    moves = ", it moves" if other.purchase == "spot" else ""
    return f"{name} {cost_text(other.cost_usd)} at {usd(rate.amount)}/h ({when}{moves})"


def _prices(plan: LaunchPlan, today: date) -> Iterator[tuple[str, str]]:
    rates = [step.rate_usd_per_hour for step in plan.steps]
    if all(isinstance(rate, Rate) and rate.amount == 0 for rate in rates):
        yield "prices", "none: this machine costs nothing here"
        return
    for step, rate in zip(plan.steps, rates, strict=True):
        if isinstance(rate, Unknown):
            yield "prices", f"{step.name}: unknown ({rate.unknown})"
            continue
        derived = ", derived from EC2's" if rate.derived else ""
        old = f"; {_REFRESH}" if _is_old(rate, today) else ""
        yield (
            "prices",
            f"{step.instance_type} {usd(rate.amount)}/h in {plan.region} ({_dated(rate, today)}{derived}{old})",
        )


def _dated(rate: Rate, today: date) -> str:
    live = ", live" if rate.source in {LIVE_SOURCE, LIVE_SPOT_SOURCE} else ""
    return f"{_age(rate.as_of, today)}{live}" if rate.as_of else "undated"


def _age(as_of: date, today: date) -> str:
    days = (today - as_of).days
    return f"{as_of}, {days} day{'s' if days != 1 else ''} old"


def _is_old(rate: Rate, today: date) -> bool:
    return rate.as_of is None or (today - rate.as_of).days > OLD_DAYS
