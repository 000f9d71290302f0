"""Names that go into paths, job names and tags: one alphabet, one length, sortable by time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.names import did_you_mean, owner, run_id, slug

SLUG = re.compile(r"[a-z0-9](-?[a-z0-9])*")
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds the zone
ENTROPY = st.integers(0, 2**20 - 1)


@given(st.text())
def test_any_text_becomes_a_safe_name(text: str) -> None:
    name = slug(text)
    assert SLUG.fullmatch(name)
    assert len(name) <= 24


@pytest.mark.parametrize(
    ("user", "known_as"), [("ada", "ada"), ("Ada Lovelace", "ada-lovelace"), ("DOMAIN\\ada; rm", "domain-ada-rm")]
)
def test_whoever_runs_it_is_known_by_a_safe_name(monkeypatch: pytest.MonkeyPatch, user: str, known_as: str) -> None:
    monkeypatch.setenv("LOGNAME", user)  # the first that Python's getpass looks at
    assert owner() == known_as


@given(st.text())
def test_a_safe_name_stays_as_it_is(text: str) -> None:
    assert slug(slug(text)) == slug(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet18-digits", "resnet18-digits"),
        ("../../etc/passwd", "etc-passwd"),
        ("Größe 3", "gr-e-3"),
        ("-- ", "run"),
        ("", "run"),
        ("a" * 23 + "-b", "a" * 23),
    ],
)
def test_what_is_left_of_a_text(text: str, name: str) -> None:
    assert slug(text) == name


@given(st.text(), TIMES, ENTROPY)
def test_a_run_id_is_a_safe_name_with_a_last_part_of_13_symbols(text: str, now: datetime, entropy: int) -> None:
    found = run_id(text, now, entropy)
    assert SLUG.fullmatch(found)
    assert len(found.rpartition("-")[2]) == 13
    assert len(found) <= 38, "room for a step and an attempt in the 63 characters of a SageMaker job name"


@given(st.text(), st.text(), TIMES, st.timedeltas(timedelta(milliseconds=1), timedelta(days=9999)), ENTROPY, ENTROPY)
def test_run_ids_sort_by_time_whatever_the_workload_and_the_entropy(
    first: str, second: str, now: datetime, later: timedelta, one: int, other: int
) -> None:
    before, after = run_id(first, now, one), run_id(second, now + later, other)
    assert before.rpartition("-")[2] < after.rpartition("-")[2]


@given(TIMES, ENTROPY, ENTROPY)
def test_two_runs_of_one_millisecond_differ_by_their_entropy(now: datetime, one: int, other: int) -> None:
    assert (run_id("x", now, one) == run_id("x", now, other)) == (one == other)


def test_a_near_miss_names_the_one_choice_that_was_meant() -> None:
    assert did_you_mean("EGDE", ["minimum", "edge"]) == "did you mean 'edge'?"


def test_a_far_miss_lists_all_choices() -> None:
    assert did_you_mean("steepest", ["edge", "minimum"]) == "choose from: edge, minimum"


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=10), min_size=1))
def test_a_suggestion_is_always_one_of_the_choices(wrong: str, choices: list[str]) -> None:
    said = did_you_mean(wrong, choices)
    listed = "choose from: " + ", ".join(choices)
    assert said == listed or said in {f"did you mean {choice!r}?" for choice in choices}
