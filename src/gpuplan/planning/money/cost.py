"""Dollars of a step and of a plan, in Decimal; a price that is not known stays unknown and is never 0.

Called by plans, comparisons and budget checks. It fetches no price: the profile or the live price list brings them.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol

from gpuplan.core.frozen import Frozen, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpuplan.planning.speed.throughput import Hours


class Rate(Frozen):
    """US dollars an hour of one machine, with where and when the figure was seen."""

    amount: Decimal
    as_of: date | None = None
    """None: the source bears no date."""
    source: str
    derived: bool = False
    """Computed from another published price, not seen itself."""


class Cost(Frozen):
    """US dollars that half (p50) and nine in ten (p90) of such runs stay within; not rounded (see `core.units.usd`)."""

    p50: Decimal
    p90: Decimal


ChargeName = Literal["instance", "start-up", "volume", "s3-reads", "s3-writes", "logs", "s3-storage"]


class Charge(Frozen):
    """A line of what AWS bills for a step; made by `charges`."""

    name: ChargeName
    billed: Literal["run", "month"]
    """By the run, or for each month that what is left of it lies there."""
    part_of: Literal["instance"] | None = None
    """The line that this one is contained in."""
    cost_usd: Cost | Unknown
    how: str
    """Quantity x price."""
    as_of: date | None = None
    """Of the price; None: its source bears no date, or there is none."""
    source: str | None = None


class Interruptions(Frozen):
    """Expected number of spot interruptions, under the two assumptions that stand for p50 and p90."""

    p50: float
    p90: float


class Alternative(Frozen):
    """What a step's instances would cost bought otherwise; a price comparison, not a place where gpuplan can run."""

    service: Literal["sagemaker", "ec2"]
    purchase: Literal["on-demand", "spot"]
    rate_usd_per_hour: Rate | Unknown
    """Of one instance; for spot the median over the availability zones."""
    cost_usd: Cost | Unknown
    """Of the instances alone; for spot with the work that interruptions undo."""
    interruptions: Interruptions | None = None
    """Spot only."""
    sampled_from: date | None = None
    """Spot only: first day on which the price may have been sampled."""
    sampled_to: date | None = None
    """Spot only: the last."""


class PriceRow(Protocol):
    """A row of a price list, such as `profiles.schema.Price`; `instance_type` is without SageMaker's `ml.`."""

    @property
    def service(self) -> str:
        """`ec2` or `sagemaker`."""
        ...

    @property
    def instance_type(self) -> str:
        """EC2's name."""
        ...

    @property
    def region(self) -> str:
        """AWS region."""
        ...

    @property
    def usd_per_hour(self) -> Decimal:
        """US dollars an hour of the whole instance."""
        ...

    @property
    def as_of(self) -> date | None:
        """Day of the price; None counts as the oldest."""
        ...

    @property
    def source(self) -> str:
        """Where it was seen."""
        ...

    @property
    def derived(self) -> bool:
        """Whether it was computed from another price."""
        ...


LOCAL_RATE = Rate(amount=Decimal(0), as_of=None, source="this machine: no AWS charge")


def rate(
    prices: Iterable[PriceRow], service: Literal["ec2", "sagemaker"], instance_type: str, region: str
) -> Rate | Unknown:
    """Return the newest price of an instance type (with or without `ml.`) in a region, or why there is none.

    Of two prices of a day the higher one counts, whatever their order: a plan may err on the dear side only.
    """
    name = instance_type.removeprefix("ml.")
    found = [p for p in prices if (p.service, p.instance_type, p.region) == (service, name, region)]
    if not found:
        shown = f"ml.{name}" if service == "sagemaker" else name
        return Unknown(unknown=f"no {service} price of {shown} in {region} in the price list")
    row = max(found, key=lambda p: (p.as_of or date.min, p.usd_per_hour))
    return Rate(amount=row.usd_per_hour, as_of=row.as_of, source=row.source, derived=row.derived)


def cost(hourly: Rate | Unknown, hours: Hours | Unknown, instances: int = 1) -> Cost | Unknown:
    """Return rate x hours x instances in US dollars; unknown if either of the first two is."""
    if isinstance(hourly, Unknown):
        return hourly
    if isinstance(hours, Unknown):
        return hours
    amount = hourly.amount * instances
    return Cost(p50=amount * exact(hours.p50), p90=amount * exact(hours.p90))


def total(costs: Mapping[str, Cost | Unknown]) -> Cost | Unknown:
    """Return the sum over named steps; if any is unknown, an Unknown that names each of those.

    p90s are added as they are: the steps' errors have one cause, the same estimate, so they do not cancel.
    """
    missing = [f"{name}: {c.unknown}" for name, c in costs.items() if isinstance(c, Unknown)]
    if missing:
        return Unknown(unknown="; ".join(missing))
    known = [c for c in costs.values() if isinstance(c, Cost)]
    return Cost(p50=sum((c.p50 for c in known), Decimal(0)), p90=sum((c.p90 for c in known), Decimal(0)))


def beside_instance(charges: Iterable[Charge]) -> tuple[Cost, tuple[Charge, ...]]:
    """Return the sum of known charges that the run adds to its instances' cost, and those that are not known."""
    added = [c for c in charges if c.billed == "run" and c.part_of is None and c.name != "instance"]
    known = [c.cost_usd for c in added if isinstance(c.cost_usd, Cost)]
    summed = Cost(p50=sum((c.p50 for c in known), Decimal(0)), p90=sum((c.p90 for c in known), Decimal(0)))
    return summed, tuple(c for c in added if isinstance(c.cost_usd, Unknown))


def exact(number: float) -> Decimal:
    """Return a float as its shortest decimal text: its binary expansion would put digits there that nobody wrote."""
    return Decimal(repr(number))
