"""Prices of what AWS bills beside the instance: storage, requests, logs. Dated rows of a shipped file.

Read by `charges`. It fetches nothing and derives no region from another.
"""

from __future__ import annotations

import json
import tomllib
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.profiles.prices import Usd

TABLE = Path(__file__).with_name("small_prices.toml")

Item = Literal["s3-storage", "s3-put", "s3-get", "logs", "ebs-gp3", "sagemaker-volume"]

_NAMES: dict[Item, str] = {
    "s3-storage": "S3 storage",
    "s3-put": "S3 PUT requests",
    "s3-get": "S3 GET requests",
    "logs": "CloudWatch Logs",
    "ebs-gp3": "EBS gp3 volumes",
    "sagemaker-volume": "SageMaker's training volumes",
}


class SmallPrice(Frozen):
    """One row: US dollars for one unit of `per`."""

    item: Item
    region: str
    usd: Usd
    per: str
    as_of: date | None = None
    """None: the source bears no date."""
    source: str


class _Table(Frozen):
    prices: tuple[SmallPrice, ...]


def small_price(item: Item, region: str) -> SmallPrice | Unknown:
    """Return the price of an item in a region, or why there is none."""
    found = next((row for row in _rows() if (row.item, row.region) == (item, region)), None)
    return found or Unknown(unknown=f"no price of {_NAMES[item]} in {region} was found")


@cache
def _rows() -> tuple[SmallPrice, ...]:
    # By way of JSON, as the profiles: pydantic's strict mode then reads lists and dates into the schema's types.
    document = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return _Table.model_validate_json(json.dumps(document, default=str)).prices
