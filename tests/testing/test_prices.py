"""The emulated price list: the price that counts stands among others, in pages, filtered as AWS filters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from gpuplan.testing import Emulator


def products(aws: Emulator, code: str, **attributes: str) -> list[dict[str, Any]]:
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in attributes.items()]
    pages = (
        aws.client("pricing")
        .get_paginator("get_products")
        .paginate(ServiceCode=code, Filters=filters, PaginationConfig={"PageSize": 2})
    )
    return [json.loads(text)["product"]["attributes"] for page in pages for text in page["PriceList"]]


@pytest.fixture
def priced(held: Emulator) -> Emulator:
    for kind in ("g5.xlarge", "g5.12xlarge"):
        held.price("ec2", kind, "1.5")
        held.price("sagemaker", kind, "2.5")
    return held


def test_filters_narrow_what_is_listed_down_to_the_one_that_counts(priced: Emulator) -> None:
    assert len(products(priced, "AmazonEC2")) == 6
    assert len(products(priced, "AmazonSageMaker", instanceName="ml.g5.xlarge")) == 3
    [found] = products(priced, "AmazonSageMaker", instanceName="ml.g5.xlarge", component="Training")
    assert found["regionCode"] == "us-east-1"
    assert products(priced, "AmazonEC2", regionCode="eu-west-1") == []


def test_a_service_without_emulated_prices_is_refused(priced: Emulator) -> None:
    with pytest.raises(ClientError, match="InvalidParameterException"):
        products(priced, "AmazonRDS")


def test_spot_prices_are_those_of_the_region_and_the_types_asked_for(held: Emulator) -> None:
    held.spot_price("g5.xlarge", {"us-east-1a": "0.4", "us-east-1b": "0.5", "eu-west-1a": "0.6"})
    held.spot_price("g5.12xlarge", {"us-east-1a": "2.1"})
    history = held.client("ec2").describe_spot_price_history(InstanceTypes=["g5.xlarge"])["SpotPriceHistory"]
    assert [(row["AvailabilityZone"], row["SpotPrice"]) for row in history] == [
        ("us-east-1a", "0.4"),
        ("us-east-1b", "0.5"),
    ]
    assert held.client("ec2").describe_spot_price_history(InstanceTypes=["g6.xlarge"])["SpotPriceHistory"] == []
