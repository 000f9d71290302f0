"""Numbers as people read them: never off by a power of ten, never more digits than they are worth, money in Decimal."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpuplan.core.units import count, duration, gib_from_bytes, gib_from_mib, learning_rate, significant, usd

PLAIN = st.floats(1e-4, 999_999) | st.floats(-999_999, -1e-4)
ANY_SIZE = st.floats(-1e300, 1e300)
SECONDS_IN = {"s": 1, "min": 60, "h": 3600, "days": 86_400}


def read(text: str) -> float:
    return float(text.replace(",", ""))


def seconds(text: str) -> float:
    number, unit = text.split()
    return read(number) * SECONDS_IN[unit]


@given(ANY_SIZE, st.integers(1, 6))
@example(9.996, 3)
@example(999_999.6, 3)
@example(0.00099996, 3)
@example(5e-324, 2)
def test_a_number_is_off_by_at_most_half_a_unit_of_its_last_digit(value: float, digits: int) -> None:
    assert math.isclose(read(significant(value, digits)), value, rel_tol=0.5001 * 10 ** (1 - digits))


@given(PLAIN, st.integers(1, 6))
def test_an_everyday_number_has_no_exponent(value: float, digits: int) -> None:
    assert re.fullmatch(r"-?[\d,]+(\.\d+)?", significant(value, digits))


@given(st.floats(1e-4, 999), st.integers(3, 6))
def test_a_number_shows_as_many_digits_as_it_is_said_to_have(value: float, digits: int) -> None:
    assert len(significant(value, digits).replace(".", "").lstrip("0")) == digits


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-0.0, "0"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.0512, "0.0512"),
        (-1.2345, "-1.23"),
        (1234.5, "1,230"),
        (999_499, "999,000"),
        (1e-4, "0.000100"),
        (9.9e-5, "9.90e-05"),
        (1e6, "1.00e+06"),
    ],
)
def test_three_digits_of_a_number(value: float, shown: str) -> None:
    assert significant(value) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("0.01", "$0.01"),
        ("0.0099", "$0.0099"),
        ("0.00125", "$0.0013"),
        ("0.00124", "$0.0012"),
        ("0.00996", "$0.0100"),
        ("0.125", "$0.13"),
        ("0.135", "$0.14"),
        ("2.675", "$2.68"),
        ("1234567.5", "$1,234,567.50"),
    ],
)
def test_dollars_have_cents_and_four_decimals_under_a_cent_rounded_half_up(amount: str, shown: str) -> None:
    assert usd(Decimal(amount)) == shown


@given(st.decimals("0", "1e9", places=6))
def test_dollars_are_off_by_at_most_half_of_their_last_place(amount: Decimal) -> None:
    shown = Decimal(usd(amount).removeprefix("$").replace(",", ""))
    place = Decimal("0.0001") if 0 < amount < Decimal("0.01") else Decimal("0.01")
    assert abs(shown - amount) <= place / 2


@given(st.integers(0, 60))
def test_dollars_of_any_size_can_be_shown(exponent: int) -> None:
    assert usd(Decimal(10) ** exponent).startswith("$1")


@pytest.mark.parametrize(
    ("hours", "shown"),
    [
        (0, "0 s"),
        (40 / 3600, "40 s"),
        (89.4 / 3600, "89 s"),
        (90 / 3600, "2 min"),
        (14 / 60, "14 min"),
        (89.4 / 60, "89 min"),
        (1.5, "1.5 h"),
        (3.2, "3.2 h"),
        (9.96, "10 h"),
        (31, "31 h"),
        (47.9, "48 h"),
        (48, "2.0 days"),
        (98.4, "4.1 days"),
    ],
)
def test_a_duration_changes_its_unit_where_people_do(hours: float, shown: str) -> None:
    assert duration(hours) == shown


@given(st.floats(1e-6, 1e5))
def test_a_duration_is_never_off_by_more_than_its_rounding(hours: float) -> None:
    # Worst just above 90 s, which is two minutes to the minute.
    assert math.isclose(seconds(duration(hours)), hours * 3600, rel_tol=1 / 3)


@given(st.floats(0.05, 1e5))
def test_a_duration_of_minutes_or_more_is_within_a_sixth(hours: float) -> None:
    assert math.isclose(seconds(duration(hours)), hours * 3600, rel_tol=1 / 6)


def test_a_learning_rate_looks_like_what_people_type() -> None:
    assert [learning_rate(value) for value in (0.0513, 2.113e-5, 0.1, 1.0)] == ["0.0513", "2.11e-05", "0.1", "1"]


def test_counts_have_separators_from_a_thousand_on() -> None:
    assert [count(value) for value in (0, 999, 1000, 1_281_167, -1234)] == ["0", "999", "1,000", "1,281,167", "-1,234"]


def test_sizes_are_binary() -> None:
    assert gib_from_mib(22_528) == 22
    assert gib_from_bytes(3 * 2**30) == 3
