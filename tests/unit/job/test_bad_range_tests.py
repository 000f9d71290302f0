"""No generated range test that holds no answer gets a learning rate; `benchmarks/lr_bad_curves.py` judges far more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from range_tests.bad import KINDS, bad_range_tests
from range_tests.recorded import RangeTest, geometric, result_of
from range_tests.sound import SMALL_FALL, sound_range_tests

from gpuplan_job import rules
from gpuplan_job.contract import Curve
from gpuplan_job.suggestion import NoSuggestion, Suggestion, suggest

BAD = list(bad_range_tests(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_range_test_gets_no_lr_from_any_rule(kind: str) -> None:
    tests = [test for test in BAD if test.kind == kind]
    assert tests
    for test in tests:
        for rule in rules.names():
            assert isinstance(suggest(test.result(), rule), NoSuggestion), (len(test.sweeps), rule)


def test_sound_range_tests_get_an_lr() -> None:
    sound = [test for test in sound_range_tests(4) if test.kind != SMALL_FALL]
    refused = [test.kind for test in sound if isinstance(suggest(test.result(), "edge"), NoSuggestion)]
    assert len(refused) <= 1, refused


def answer(losses: list[list[float]], chance_loss: float | None = None) -> Suggestion | NoSuggestion:
    test = RangeTest("", geometric(60), losses)
    return suggest(replace(test.result(), chance_loss=chance_loss), "edge")


def valley(start: float, low: float) -> list[float]:
    return [*[start] * 20, *(start - (start - low) * i / 10 for i in range(10)), *[low] * 20, *[3 * start] * 10]


def test_a_fall_to_what_the_frequencies_of_the_classes_give_is_none_of_learning() -> None:
    at_chance = [valley(3.0, 2.29)] * 3
    refused = answer(at_chance, chance_loss=2.3026)
    assert isinstance(refused, NoSuggestion)
    assert refused.verdict == "flat"
    assert "labels" in refused.fix
    assert isinstance(answer([valley(3.0, 2.0)] * 3, chance_loss=2.3026), Suggestion)
    assert isinstance(answer(at_chance), NoSuggestion) is False


def test_a_small_fall_needs_more_than_one_sweep() -> None:
    refused = answer([valley(2.3, 1.9)])
    assert isinstance(refused, NoSuggestion)
    assert refused.fix == "--runs 3"
    assert isinstance(answer([valley(2.3, 1.9)] * 3), Suggestion)


def test_sweeps_whose_picks_lie_far_apart_are_refused_though_a_cap_would_make_them_one() -> None:
    # The first diverged so low that a quarter of that LR lies below every pick.
    low = RangeTest("", geometric(60), [valley(2.3, 0.5)]).recorded()[0]
    rates = [rate * 30 for rate in low.learning_rates]
    high = Curve(rates, low.losses, "completed", rates[-1], 1)
    early = replace(low, stop_reason="diverged", stopped_at_lr=1e-4)
    refused = suggest(result_of([early, high], geometric(60), 800), "edge")
    assert isinstance(refused, NoSuggestion)
    assert refused.verdict == "noisy"
