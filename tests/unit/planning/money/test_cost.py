from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.money.cost import LOCAL_RATE, Cost, Rate, cost, rate, total
from gpuplan.planning.speed.throughput import Hours

amounts = st.decimals(min_value=0, max_value=1000, places=6)
hours = st.floats(min_value=0, max_value=1e5).map(lambda h: Hours(p50=h, p90=1.3 * h))
costs = st.builds(Cost, p50=amounts, p90=amounts)


@dataclass(frozen=True)
class Row:
    usd_per_hour: Decimal
    as_of: date | None = date(2026, 8, 17)
    service: str = "sagemaker"
    instance_type: str = "g5.12xlarge"
    region: str = "us-east-1"
    source: str = "price list"
    derived: bool = False


def hourly(amount: Decimal) -> Rate:
    return Rate(amount=amount, as_of=date(2026, 8, 17), source="test")


def test_a_price_is_found_by_either_name_and_keeps_its_source_and_date() -> None:
    rows = [Row(Decimal("7.09")), Row(Decimal("5.672"), service="ec2")]
    expected = Rate(amount=Decimal("7.09"), as_of=date(2026, 8, 17), source="price list")
    assert rate(rows, "sagemaker", "ml.g5.12xlarge", "us-east-1") == expected
    assert rate(rows, "sagemaker", "g5.12xlarge", "us-east-1") == expected


def test_the_newest_price_wins_in_any_order_and_an_undated_one_is_oldest() -> None:
    old, new, undated = Row(Decimal("32.77"), date(2025, 1, 1)), Row(Decimal("21.96")), Row(Decimal(99), None)
    for rows in ([old, new, undated], [undated, new, old]):
        found = rate(rows, "sagemaker", "g5.12xlarge", "us-east-1")
        assert isinstance(found, Rate)
        assert found.amount == Decimal("21.96")


def test_a_derived_price_stays_marked() -> None:
    found = rate([Row(Decimal(1), derived=True)], "sagemaker", "g5.12xlarge", "us-east-1")
    assert isinstance(found, Rate)
    assert found.derived


@pytest.mark.parametrize(("service", "region"), [("ec2", "us-east-1"), ("sagemaker", "eu-west-1")])
def test_a_price_of_another_service_or_region_is_not_taken(service: Literal["ec2", "sagemaker"], region: str) -> None:
    found = rate([Row(Decimal("7.09"))], service, "g5.12xlarge", region)
    assert isinstance(found, Unknown)
    assert region in found.unknown


def test_dollars_are_decimal_to_the_last_digit() -> None:
    found = cost(hourly(Decimal("21.957642")), Hours(p50=0.1, p90=0.3))
    assert found == Cost(p50=Decimal("2.1957642"), p90=Decimal("6.5872926"))


def test_this_machine_costs_nothing_and_says_why() -> None:
    assert cost(LOCAL_RATE, Hours(p50=3.0, p90=4.0)) == Cost(p50=Decimal(0), p90=Decimal(0))
    assert LOCAL_RATE.source == "this machine: no AWS charge"


def test_json_shows_money_as_decimal_strings() -> None:
    assert '"amount":"7.09"' in hourly(Decimal("7.09")).canonical_json()
    assert Rate.model_validate_json(hourly(Decimal("7.09")).canonical_json()) == hourly(Decimal("7.09"))


@given(amounts, hours, st.integers(1, 50))
def test_cost_is_linear_in_rate_and_never_negative(amount: Decimal, time: Hours, factor: int) -> None:
    once, many = cost(hourly(amount), time), cost(hourly(amount * factor), time)
    assert isinstance(once, Cost)
    assert isinstance(many, Cost)
    assert many.p90 == pytest.approx(factor * once.p90)
    assert 0 <= once.p50 <= once.p90


@given(amounts, hours)
def test_an_unknown_rate_or_time_makes_an_unknown_cost(amount: Decimal, time: Hours) -> None:
    assert cost(Unknown(unknown="no price"), time) == Unknown(unknown="no price")
    assert cost(hourly(amount), Unknown(unknown="no model")) == Unknown(unknown="no model")


@given(st.dictionaries(st.text(min_size=1), costs))
def test_a_total_is_the_sum_of_its_steps(steps: dict[str, Cost]) -> None:
    summed = total(steps)
    assert isinstance(summed, Cost)
    assert summed.p50 == sum(c.p50 for c in steps.values())
    assert summed.p90 == sum(c.p90 for c in steps.values())


@given(st.dictionaries(st.sampled_from(["lr-find", "find-batch"]), costs))
def test_one_unknown_step_makes_the_total_unknown_and_is_named(steps: dict[str, Cost]) -> None:
    summed = total({**steps, "train": Unknown(unknown="no price of p9")})
    assert summed == Unknown(unknown="train: no price of p9")
