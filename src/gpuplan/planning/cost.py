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

    from gpuplan.planning.throughput import Hours


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
    return Cost(p50=amount * _decimal(hours.p50), p90=amount * _decimal(hours.p90))


def total(costs: Mapping[str, Cost | Unknown]) -> Cost | Unknown:
    """Return the sum over named steps; if any is unknown, an Unknown that names each of those.

    p90s are added as they are: the steps' errors have one cause, the same estimate, so they do not cancel.
    """
    missing = [f"{name}: {c.unknown}" for name, c in costs.items() if isinstance(c, Unknown)]
    if missing:
        return Unknown(unknown="; ".join(missing))
    known = [c for c in costs.values() if isinstance(c, Cost)]
    return Cost(p50=sum((c.p50 for c in known), Decimal(0)), p90=sum((c.p90 for c in known), Decimal(0)))


def _decimal(hours: float) -> Decimal:
    # The shortest text of the float: its binary expansion would put digits into a price that nobody wrote.
    return Decimal(repr(hours))
