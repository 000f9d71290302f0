"""Prices as AWS states them now: on demand from the Pricing API, spot from EC2. Read-only, nothing is cached here.

Called by `cli.live_prices`. Replies are read strictly: what is not understood is an error, never a price.
"""

from __future__ import annotations

import json
import statistics
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from gpuplan.aws._faults import AGAIN
from gpuplan.aws.errors import part
from gpuplan.core.errors import UnreachableError
from gpuplan.profiles.prices import LIVE_SOURCE, LIVE_SPOT_SOURCE, LivePrices, Price, SpotPrice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from gpuplan.aws.session import Session
    from gpuplan.profiles.prices import Service

_PRICING_REGION = "us-east-1"
"""The Pricing API answers for all regions, and has endpoints in few."""
_LINUX_ON_DEMAND = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "operation": "RunInstances",
    "marketoption": "OnDemand",
}
"""What tells the plain hour of an EC2 instance from Windows, dedicated hosts, reservations and capacity blocks."""
_TRAINING = "Training"
"""The component of SageMaker whose hour counts; notebooks and endpoints of the type have other prices."""
_SPOT_PRODUCT = "Linux/UNIX"


def live_prices(session: Session, instance_type: str, now: datetime) -> LivePrices:
    """Return what AWS says of an instance type (EC2's name) in the session's region: on demand and spot.

    A service that does not offer the type there has no row.

    Raises:
        AccessDeniedError: `pricing:GetProducts` or `ec2:DescribeSpotPriceHistory` is not allowed.
        UnreachableError: no answer, or one that cannot be understood.
        GpuplanError: as `errors.calling`.
    """
    found = {
        "ec2": _hourly(session, "AmazonEC2", {"instanceType": instance_type, **_LINUX_ON_DEMAND}),
        "sagemaker": _hourly(
            session, "AmazonSageMaker", {"instanceName": f"ml.{instance_type}", "component": _TRAINING}
        ),
    }
    services: tuple[Service, ...] = ("ec2", "sagemaker")
    prices = tuple(
        Price(
            service=service,
            instance_type=instance_type,
            region=session.region,
            usd_per_hour=amount,
            as_of=now.date(),
            source=LIVE_SOURCE,
        )
        for service in services
        if (amount := found[service]) is not None
    )
    return LivePrices(
        fetched_at=now,
        region=session.region,
        instance_types=(instance_type,),
        prices=prices,
        spot_prices=tuple(_spot(session, instance_type, now)),
    )


def _hourly(session: Session, service_code: str, attributes: Mapping[str, str]) -> Decimal | None:
    """Return the price of an hour, the highest where AWS lists several; None where it lists none."""
    amounts: set[Decimal] = set()
    for product in _products(session, service_code, {"regionCode": session.region, **attributes}):
        amounts |= _per_hour(product)
    return max(amounts, default=None)


def _products(session: Session, service_code: str, attributes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    wanted = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in attributes.items()]
    with session.calling(f"read prices of {service_code} (pricing:GetProducts)"):
        pages = session.in_region(_PRICING_REGION).client("pricing").get_paginator("get_products")
        for page in pages.paginate(ServiceCode=service_code, Filters=wanted, FormatVersion="aws_v1"):
            for text in part(page, "PriceList"):
                product = _document(text)
                _check(product, attributes)
                yield product


def _document(text: object) -> dict[str, Any]:
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _not_understood("an entry that is no JSON object")
    return document


def _check(product: Mapping[str, Any], attributes: Mapping[str, str]) -> None:
    """Refuse a product that is not what was asked for: its price would be taken for another's."""
    try:
        stated = product["product"]["attributes"]
        wrong = [field for field, value in attributes.items() if stated[field] != value]
    except (KeyError, TypeError) as error:
        raise _not_understood(f"a product without {error}") from error
    if wrong:
        raise _not_understood(f"a product with another {wrong[0]} than asked for")


def _per_hour(product: Mapping[str, Any]) -> set[Decimal]:
    """Return the US dollars an hour in a product's on-demand terms; a price of 0 is an allowance, not the price."""
    amounts = set()
    try:
        for term in product["terms"].get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                if dimension["unit"].casefold() in {"hrs", "hours"}:
                    amounts.add(Decimal(dimension["pricePerUnit"]["USD"]))
    except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise _not_understood(f"terms that cannot be read ({type(error).__name__}: {error})") from error
    if not all(amount.is_finite() and amount >= 0 for amount in amounts):
        raise _not_understood("a price that is no amount")
    return {amount.normalize() + 0 for amount in amounts if amount > 0}


def _spot(session: Session, instance_type: str, now: datetime) -> Iterator[SpotPrice]:
    """Yield the spot price over the zones, each at its newest; nothing where no zone has the type."""
    zones: dict[str, tuple[Any, Decimal]] = {}
    with session.calling(f"read spot prices in {session.region} (ec2:DescribeSpotPriceHistory)"):
        pages = session.client("ec2").get_paginator("describe_spot_price_history")
        # From now on: AWS then returns the price that holds now, with the time since when it does.
        for page in pages.paginate(InstanceTypes=[instance_type], ProductDescriptions=[_SPOT_PRODUCT], StartTime=now):
            for row in part(page, "SpotPriceHistory"):
                zone, since, amount = _spot_row(row, instance_type)
                if zone not in zones or zones[zone][0] < since:
                    zones[zone] = (since, amount)
    amounts = sorted(amount for _, amount in zones.values())
    if amounts:
        yield SpotPrice(
            instance_type=instance_type,
            region=session.region,
            usd_per_hour=statistics.median(amounts),
            low=amounts[0],
            high=amounts[-1],
            zones=len(amounts),
            sampled_from=now.date(),
            sampled_to=now.date(),
            source=LIVE_SPOT_SOURCE,
        )


def _spot_row(row: Mapping[str, Any], instance_type: str) -> tuple[str, Any, Decimal]:
    try:
        amount = Decimal(row["SpotPrice"])
        zone, since, named = row["AvailabilityZone"], row["Timestamp"], row["InstanceType"]
    except (KeyError, TypeError, InvalidOperation) as error:
        raise _not_understood(f"a spot price that cannot be read ({type(error).__name__}: {error})") from error
    if named != instance_type or not (amount.is_finite() and amount > 0):
        raise _not_understood("a spot price of something else, or of nothing")
    return zone, since, amount


def _not_understood(found: str) -> UnreachableError:
    return UnreachableError("AWS's price list cannot be understood", why=f"it holds {found}", fix=AGAIN)
