"""Prices as AWS states them: the plain hour among many that look like it, and nothing that is not understood."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.stub import ANY, Stubber

from gpuplan.aws.errors import AccessDeniedError
from gpuplan.aws.pricing import live_prices
from gpuplan.aws.session import Session
from gpuplan.core.errors import UnreachableError
from gpuplan.profiles.prices import LIVE_SOURCE, LivePrices

NOW = datetime(2026, 11, 29, 10, 30, tzinfo=UTC)
REGION = "eu-west-1"
EC2 = {
    "instanceType": "g5.xlarge",
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "operation": "RunInstances",
    "marketoption": "OnDemand",
}
SAGEMAKER = {"instanceName": "ml.g5.xlarge", "component": "Training"}


class Prices(Session):
    """A session whose Pricing API and EC2 answer with what they are given, in order, and fail on any call beyond."""

    def __init__(self) -> None:
        super().__init__(REGION, "work")
        unsigned = Config(signature_version=UNSIGNED)
        self.clients = {
            "pricing": boto3.client("pricing", "us-east-1", config=unsigned),
            "ec2": boto3.client("ec2", REGION, config=unsigned),
        }
        self.stubs = {name: Stubber(client) for name, client in self.clients.items()}
        self.asked: list[str] = []
        for stub in self.stubs.values():
            stub.activate()

    def client(self, service: str) -> Any:  # noqa: ANN401 - botocore is untyped
        return self.clients[service]

    def in_region(self, region: str) -> Session:
        self.asked.append(region)
        return self

    def lists(self, *products: object, more: str = "") -> Prices:
        """Let the Pricing API answer its next call with these products, as the text it sends."""
        texts = [product if isinstance(product, str) else json.dumps(product) for product in products]
        reply: dict[str, Any] = {"PriceList": texts} | ({"NextToken": more} if more else {})
        self.stubs["pricing"].add_response("get_products", reply)
        return self

    def spot(self, *rows: dict[str, Any]) -> Prices:
        self.stubs["ec2"].add_response("describe_spot_price_history", {"SpotPriceHistory": list(rows)})
        return self

    def read(self) -> LivePrices:
        return live_prices(self, "g5.xlarge", NOW)


def product(attributes: dict[str, str], *amounts: str, unit: str = "Hrs", region: str = REGION) -> dict[str, Any]:
    dimensions = {str(i): {"unit": unit, "pricePerUnit": {"USD": amount}} for i, amount in enumerate(amounts)}
    return {
        "product": {"attributes": {"regionCode": region, **attributes}},
        "terms": {"OnDemand": {"T": {"priceDimensions": dimensions}}},
    }


def spot_row(zone: str, price: str, at: datetime = NOW, kind: str = "g5.xlarge") -> dict[str, Any]:
    return {"AvailabilityZone": zone, "SpotPrice": price, "Timestamp": at, "InstanceType": kind}


def test_both_services_prices_are_read_with_source_and_day() -> None:
    session = Prices().lists(product(EC2, "1.1230000000")).lists(product(SAGEMAKER, "1.5722")).spot()
    found = session.read()
    assert [(row.service, row.usd_per_hour) for row in found.prices] == [
        ("ec2", Decimal("1.123")),
        ("sagemaker", Decimal("1.5722")),
    ]
    assert {(row.as_of, row.source, row.region, row.derived) for row in found.prices} == {
        (date(2026, 11, 29), LIVE_SOURCE, REGION, False)
    }
    assert (found.fetched_at, found.instance_types) == (NOW, ("g5.xlarge",))
    for stub in session.stubs.values():
        stub.assert_no_pending_responses()


def test_the_pricing_api_is_asked_where_it_is_for_what_counts() -> None:
    session = Prices()
    for code, attributes in (("AmazonEC2", EC2), ("AmazonSageMaker", SAGEMAKER)):
        wanted = {"regionCode": REGION, **attributes}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        expected = {"ServiceCode": code, "Filters": filters, "FormatVersion": "aws_v1"}
        session.stubs["pricing"].add_response("get_products", {"PriceList": []}, expected)
    session.stubs["ec2"].add_response(
        "describe_spot_price_history",
        {"SpotPriceHistory": []},
        {"InstanceTypes": ["g5.xlarge"], "ProductDescriptions": ["Linux/UNIX"], "StartTime": ANY},
    )
    assert session.read().prices == ()
    assert set(session.asked) == {"us-east-1"}


def test_what_a_service_does_not_offer_has_no_row() -> None:
    found = Prices().lists(product(EC2, "1.1")).lists().spot().read()
    assert [row.service for row in found.prices] == ["ec2"]


def test_every_page_is_read() -> None:
    session = Prices().lists(product(EC2, "1.1"), more="2").lists(product(EC2, "1.2")).lists().spot()
    assert [row.usd_per_hour for row in session.read().prices] == [Decimal("1.2")]


def test_of_several_prices_the_highest_counts_and_an_allowance_of_0_does_not() -> None:
    found = Prices().lists(product(EC2, "0.0000000000", "1.1", "1.3")).lists(product(SAGEMAKER, "0")).spot().read()
    assert [(row.service, row.usd_per_hour) for row in found.prices] == [("ec2", Decimal("1.3"))]


def test_what_is_not_by_the_hour_is_no_price_of_an_hour() -> None:
    assert Prices().lists(product(EC2, "99", unit="Quantity")).lists().spot().read().prices == ()


@pytest.mark.parametrize(
    "strange",
    [
        "{",
        "[]",
        '"text"',
        "{}",
        {"product": {"attributes": {}}, "terms": {}},
        product({**EC2, "operatingSystem": "Windows"}, "2.2"),
        product({**EC2, "tenancy": "Dedicated"}, "2.2"),
        product(EC2, "2.2", region="us-east-1"),
        {**product(EC2, "1.1"), "terms": {"OnDemand": {"T": {}}}},
        {**product(EC2, "1.1"), "terms": {"OnDemand": []}},
        product(EC2, "free"),
        product(EC2, "NaN"),
        product(EC2, "Infinity"),
        product(EC2, "-1.0"),
    ],
    ids=str,
)
def test_a_product_that_is_not_understood_is_an_error_and_no_price(strange: object) -> None:
    with pytest.raises(UnreachableError) as caught:
        Prices().lists(product(EC2, "1.1"), strange).lists().spot().read()
    assert caught.value.why.startswith("it holds ")


def test_a_cut_reply_is_an_error() -> None:
    session = Prices()
    session.stubs["pricing"].add_response("get_products", {})
    with pytest.raises(UnreachableError, match="PriceList"):
        session.read()


def test_spot_is_the_median_of_the_zones_each_at_its_newest() -> None:
    earlier = NOW - timedelta(hours=2)
    rows = [
        spot_row("eu-west-1a", "0.50"),
        spot_row("eu-west-1a", "0.90", earlier),
        spot_row("eu-west-1b", "0.60", earlier),
        spot_row("eu-west-1c", "0.80"),
    ]
    for order in (rows, rows[::-1]):
        [spot] = Prices().lists().lists().spot(*order).read().spot_prices
        assert (spot.usd_per_hour, spot.low, spot.high) == (Decimal("0.60"), Decimal("0.50"), Decimal("0.80"))
        assert spot.zones == 3
        assert spot.sampled_from == spot.sampled_to == NOW.date()


def test_a_type_without_spot_capacity_has_no_spot_price() -> None:
    assert Prices().lists().lists().spot().read().spot_prices == ()


@pytest.mark.parametrize(
    "row",
    [
        {"InstanceType": "g5.xlarge"},
        spot_row("eu-west-1a", "cheap"),
        spot_row("eu-west-1a", "0"),
        spot_row("eu-west-1a", "NaN"),
        spot_row("eu-west-1a", "0.5", kind="g5.48xlarge"),
    ],
    ids=str,
)
def test_a_spot_price_that_is_not_understood_is_an_error(row: dict[str, Any]) -> None:
    with pytest.raises(UnreachableError, match="cannot be understood"):
        Prices().lists().lists().spot(row).read()


@pytest.mark.parametrize(
    ("service", "operation", "action"),
    [
        ("pricing", "get_products", "pricing:GetProducts"),
        ("ec2", "describe_spot_price_history", "ec2:DescribeSpotPriceHistory"),
    ],
)
def test_a_denied_look_names_the_action(service: str, operation: str, action: str) -> None:
    session = Prices()
    if service == "ec2":
        session.lists().lists()
    said = f"User: arn:aws:iam::123456789012:user/ada is not authorized to perform: {action}"
    session.stubs[service].add_client_error(operation, "AccessDeniedException", said, 403)
    with pytest.raises(AccessDeniedError) as caught:
        session.read()
    assert caught.value.action == action
