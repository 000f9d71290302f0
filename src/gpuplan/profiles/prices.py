"""Prices as values: on-demand rows and spot samples of the profiles, and the rows that AWS was asked for just now.

Built by `profiles.load` from TOML and by `aws.pricing` from AWS's replies; read by planning. Values only: it must not
fetch a price or know the time.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from gpuplan.core.frozen import Frozen
from gpuplan.profiles.hardware import InstanceType, NonEmpty, PositiveInt

Service = Literal["ec2", "sagemaker"]
LIVE_SOURCE = "AWS Pricing API, live"
LIVE_SPOT_SOURCE = "EC2 DescribeSpotPriceHistory, live"


def _money(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f'write money in quotes, as "{value}": a TOML float is binary and rounds')  # noqa: TRY004 - pydantic reports ValueError only
    if isinstance(value, str):
        try:
            return Decimal(value)
        except InvalidOperation:
            raise ValueError(f"{value!r} is no decimal number") from None
    return value


Usd = Annotated[Decimal, BeforeValidator(_money), Field(gt=0)]
Region = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]


class Price(Frozen):
    """One on-demand price. There is one row for each service, instance type and region: the newest seen."""

    service: Service
    """Who bills: `ec2` or `sagemaker` (training)."""
    instance_type: InstanceType
    """EC2 name without `ml.`, for SageMaker too."""
    region: Region
    """AWS region."""
    usd_per_hour: Usd
    """US dollars per hour of the whole instance, before tax."""
    as_of: date | None = None
    """Day of the price; absent when its source bears no date (then it counts as the oldest)."""
    source: NonEmpty
    """Where the price was read; for a derived price, where the EC2 price and the ratio come from."""
    ec2_ratio: Usd | None = None
    """Only on a derived SageMaker price: the number by which the EC2 price of that type and region was multiplied."""

    @property
    def derived(self) -> bool:
        """Whether the price was computed from EC2's, not read."""
        return self.ec2_ratio is not None


class SpotPrice(Frozen):
    """What EC2's spot capacity of one type cost in a region when it was sampled, over its availability zones."""

    instance_type: InstanceType
    """EC2 name."""
    region: Region
    """AWS region."""
    usd_per_hour: Usd
    """US dollars per hour of the whole instance: the median of the zones."""
    low: Usd
    """The cheapest zone."""
    high: Usd
    """The dearest zone."""
    zones: PositiveInt
    """Availability zones in the sample."""
    sampled_from: date
    """First day on which the sample may have been taken."""
    sampled_to: date
    """Last such day; equal to the first where the sample is dated."""
    source: NonEmpty
    """Where it was read."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.usd_per_hour <= self.high:
            raise ValueError(
                f"the spot price of {self.instance_type} lies outside of its zones' {self.low}-{self.high}"
            )
        if self.sampled_from > self.sampled_to:
            raise ValueError(f"the spot price of {self.instance_type} was sampled from a later day on than to")
        return self


class LivePrices(Frozen):
    """What AWS answered for some instance types of a region; these rows stand in place of the shipped ones."""

    fetched_at: AwareDatetime
    """UTC; of the oldest answer among them."""
    region: Region
    """AWS region."""
    instance_types: tuple[InstanceType, ...] = Field(min_length=1)
    """What was asked for: a type without a row here has no price."""
    prices: tuple[Price, ...] = ()
    """On demand."""
    spot_prices: tuple[SpotPrice, ...] = ()
    """Spot, now."""


def on_demand(shipped: tuple[Price, ...], live: LivePrices | None) -> tuple[Price, ...]:
    """Return the rows that count: live ones for what was asked, shipped ones for everything else."""
    return shipped if live is None else (*(row for row in shipped if not _asked(live, row)), *live.prices)


def spot(shipped: tuple[SpotPrice, ...], live: LivePrices | None) -> tuple[SpotPrice, ...]:
    """Return the same of the spot samples."""
    return shipped if live is None else (*(row for row in shipped if not _asked(live, row)), *live.spot_prices)


def _asked(live: LivePrices, row: Price | SpotPrice) -> bool:
    return row.region == live.region and row.instance_type in live.instance_types
