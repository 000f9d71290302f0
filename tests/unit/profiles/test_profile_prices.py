"""Prices as values: which rows count when AWS was asked, and what a spot sample must be."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.profiles.prices import LivePrices, Price, SpotPrice, on_demand, spot

TYPES = ("g5.xlarge", "g5.12xlarge", "g6.xlarge")
REGIONS = ("us-east-1", "eu-west-1")
NOW = datetime(2026, 11, 29, tzinfo=UTC)


def price(instance_type: str, region: str, service: str = "ec2", amount: str = "1.0") -> Price:
    return Price.model_validate(
        {
            "service": service,
            "instance_type": instance_type,
            "region": region,
            "usd_per_hour": Decimal(amount),
            "source": "the test",
        }
    )


def sample(instance_type: str = "g5.xlarge", region: str = "us-east-1", **changes: object) -> SpotPrice:
    values: dict[str, object] = {
        "instance_type": instance_type,
        "region": region,
        "usd_per_hour": Decimal("0.5"),
        "low": Decimal("0.4"),
        "high": Decimal("0.6"),
        "zones": 3,
        "sampled_from": date(2025, 9, 1),
        "sampled_to": date(2026, 5, 25),
        "source": "the test",
    }
    return SpotPrice.model_validate(values | changes)


SHIPPED = tuple(price(t, r, s) for t in TYPES for r in REGIONS for s in ("ec2", "sagemaker"))
SAMPLES = tuple(sample(t, r) for t in TYPES for r in REGIONS)
ASKED = st.lists(st.sampled_from(TYPES), min_size=1, unique=True).map(tuple)


def test_without_an_answer_the_shipped_rows_count() -> None:
    assert on_demand(SHIPPED, None) == SHIPPED
    assert spot(SAMPLES, None) == SAMPLES


@given(ASKED, st.sampled_from(REGIONS), st.data())
def test_what_was_asked_for_is_answered_live_or_not_at_all(
    asked: tuple[str, ...], region: str, data: st.DataObject
) -> None:
    answered = data.draw(st.lists(st.sampled_from(asked), unique=True))
    live = LivePrices(
        fetched_at=NOW,
        region=region,
        instance_types=asked,
        prices=tuple(price(t, region, amount="2.0") for t in answered),
        spot_prices=tuple(sample(t, region, high=Decimal("0.9")) for t in answered),
    )
    for rows, shipped, fresh in (
        (on_demand(SHIPPED, live), SHIPPED, live.prices),
        (spot(SAMPLES, live), SAMPLES, live.spot_prices),
    ):
        inside = [row for row in rows if row.region == region and row.instance_type in asked]
        assert inside == list(fresh)
        assert [row for row in rows if row not in inside] == [
            row for row in shipped if row.region != region or row.instance_type not in asked
        ]


@pytest.mark.parametrize(
    "changes",
    [
        {"low": Decimal("0.51")},
        {"high": Decimal("0.49")},
        {"sampled_from": date(2026, 5, 26)},
        {"zones": 0},
        {"usd_per_hour": Decimal(0)},
    ],
    ids=str,
)
def test_a_spot_sample_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        sample("g5.xlarge", "us-east-1", **changes)


def test_a_moment_without_a_time_zone_is_no_moment() -> None:
    with pytest.raises(ValidationError):
        LivePrices(fetched_at=datetime(2026, 11, 29), region="us-east-1", instance_types=TYPES)  # noqa: DTZ001 - meant


def test_live_prices_survive_json() -> None:
    live = LivePrices(
        fetched_at=NOW, region="us-east-1", instance_types=TYPES, prices=SHIPPED[:1], spot_prices=SAMPLES[:1]
    )
    assert LivePrices.model_validate_json(live.canonical_json()) == live
