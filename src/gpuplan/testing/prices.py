"""Prices as the Pricing API and EC2's spot price history state them, from a table that the test gives.

moto has no Pricing API and one price for all spot capacity. Held by the emulator, answered through the HTTP front.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from gpuplan.testing.errors import ApiError
from gpuplan.testing.paging import page
from gpuplan.testing.replies import Reply, xml_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpuplan.testing.wire import Incoming

_PAGE = 100
_SERVICES = {"AmazonEC2", "AmazonSageMaker"}
_EC2_VARIANTS: tuple[tuple[dict[str, str], float], ...] = (
    ({"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "operation": "RunInstances"}, 1.0),
    (
        {"operatingSystem": "Windows", "tenancy": "Shared", "preInstalledSw": "NA", "operation": "RunInstances:0002"},
        2.0,
    ),
    ({"operatingSystem": "Linux", "tenancy": "Dedicated", "preInstalledSw": "NA", "operation": "RunInstances"}, 1.1),
)
"""What AWS lists beside the plain price of an instance, with a factor that makes a mix-up show."""
_SAGEMAKER_COMPONENTS = (("Training", 1.0), ("Hosting", 1.1), ("Studio-JupyterLab", 1.2))
_SPOT = "DescribeSpotPriceHistory"


@dataclass
class Prices:
    """US dollars an hour: on demand by service code, instance type and region; spot by type and zone."""

    _on_demand: dict[tuple[str, str, str], str] = field(default_factory=dict)
    _spot: dict[tuple[str, str], str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def set(self, service: str, instance_type: str, region: str, usd_per_hour: str) -> None:
        """List a price; `service` is `ec2` or `sagemaker`, the type EC2's name for both."""
        code = {"ec2": "AmazonEC2", "sagemaker": "AmazonSageMaker"}[service]
        with self._lock:
            self._on_demand[code, instance_type, region] = usd_per_hour

    def set_spot(self, instance_type: str, zones: Mapping[str, str]) -> None:
        """Let spot capacity of a type cost this in these availability zones."""
        with self._lock:
            for zone, amount in zones.items():
                self._spot[instance_type, zone] = amount

    def handles(self, call: Incoming) -> bool:
        """Tell whether a call is about prices; moto keeps the spot prices of types that no test has priced."""
        if call.service == "ec2" and call.operation == _SPOT:
            with self._lock:
                return bool(self._spot)
        return call.service == "pricing" and call.operation == "GetProducts"

    def answer(self, call: Incoming) -> dict[str, Any] | Reply:
        """Answer a call about prices.

        Raises:
            ApiError: a service or a filter that AWS refuses.
        """
        return self._spot_history(call) if call.operation == _SPOT else self._products(json.loads(call.body))

    def _products(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("ServiceCode") not in _SERVICES:
            raise ApiError("InvalidParameterException", f"Input Parameters are invalid: {body.get('ServiceCode')}")
        filters = body.get("Filters", [])
        if any(one["Type"] != "TERM_MATCH" for one in filters):
            raise ApiError("InvalidParameterException", "Filter type is not valid")
        with self._lock:
            rows = [(*key, amount) for key, amount in sorted(self._on_demand.items())]
        listed = [product for row in rows for product in _listed(*row) if row[0] == body["ServiceCode"]]
        wanted = [
            json.dumps(product)
            for product in listed
            if all(product["product"]["attributes"].get(one["Field"]) == one["Value"] for one in filters)
        ]
        return {"FormatVersion": "aws_v1", **page("PriceList", wanted, body, _PAGE)}

    def _spot_history(self, call: Incoming) -> Reply:
        form = parse_qs(call.body.decode())
        types = {values[0] for name, values in form.items() if name.startswith("InstanceType.")}
        with self._lock:
            rows = [(kind, zone, usd) for (kind, zone), usd in sorted(self._spot.items()) if kind in types]
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        items = "".join(
            f"<item><instanceType>{escape(kind)}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{escape(amount)}</spotPrice><timestamp>{since}</timestamp>"
            f"<availabilityZone>{escape(zone)}</availabilityZone></item>"
            for kind, zone, amount in rows
            if zone.startswith(call.region)
        )
        return xml_reply(
            f'<{_SPOT}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>emulated</requestId>'
            f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken></nextToken></{_SPOT}Response>"
        )


def _listed(code: str, instance_type: str, region: str, amount: str) -> list[dict[str, Any]]:
    """Return the products that AWS lists of a type: the one that counts among others that must not be taken for it."""
    if code == "AmazonEC2":
        common = {"instanceType": instance_type, "capacitystatus": "Used", "marketoption": "OnDemand"}
        return [_product(code, region, {**common, **more}, amount, factor) for more, factor in _EC2_VARIANTS]
    name = f"ml.{instance_type}"
    return [
        _product(
            code, region, {"instanceName": name, "instanceType": f"{name}-{one}", "component": one}, amount, factor
        )
        for one, factor in _SAGEMAKER_COMPONENTS
    ]


def _product(code: str, region: str, attributes: dict[str, str], amount: str, factor: float) -> dict[str, Any]:
    price = amount if factor == 1 else f"{float(amount) * factor:.10f}"
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": price}, "beginRange": "0", "endRange": "Inf"}
    term = {"priceDimensions": {"EMULATED.RATE": dimension}, "effectiveDate": "2026-01-01T00:00:00Z"}
    return {
        "product": {"attributes": {"servicecode": code, "regionCode": region, **attributes}},
        "serviceCode": code,
        "terms": {"OnDemand": {"EMULATED.TERM": term}},
    }
