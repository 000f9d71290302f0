"""The shipped prices of what AWS bills beside the instance: each has a source, none stands for another region."""

from __future__ import annotations

import tomllib
from collections import Counter
from datetime import date
from decimal import Decimal
from typing import get_args

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.planning.money.small_prices import TABLE, Item, SmallPrice, small_price

ROWS = tomllib.loads(TABLE.read_text(encoding="utf-8"))["prices"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['item']}-{row['region']}")
def test_every_row_is_found_with_its_source_and_no_day_in_the_future(row: dict[str, object]) -> None:
    found = small_price(row["item"], str(row["region"]))  # type: ignore[arg-type] # the schema checks it
    assert isinstance(found, SmallPrice)
    assert found.usd == Decimal(str(row["usd"])) > 0
    assert len(found.source) > 20
    assert found.as_of is None or found.as_of <= date.today()  # noqa: DTZ011 - days, not moments
    assert found.as_of or "undated" in found.source


def test_no_item_has_two_prices_in_a_region() -> None:
    assert set(Counter((row["item"], row["region"]) for row in ROWS).values()) == {1}


@pytest.mark.parametrize("item", get_args(Item))
def test_a_region_without_a_row_is_unknown_by_name(item: Item) -> None:
    found = small_price(item, "ap-northeast-1")
    assert isinstance(found, Unknown)
    assert "ap-northeast-1" in found.unknown
