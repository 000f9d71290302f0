"""The figures of each LR transfer policy, and what each says about itself."""

from __future__ import annotations

import math

import pytest

from gpuplan_job import transfer
from gpuplan_job.transfer.base import Transfer


def change(to: int, noise_scale: float | None = None) -> Transfer:
    return Transfer(32, to, noise_scale)


@pytest.mark.parametrize(("policy", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_a_batch_four_times_as_large(policy: str, factor: float) -> None:
    assert transfer.load(policy).multiplier(change(128)) == pytest.approx(factor)


def test_noise_scale_by_the_papers_formula() -> None:
    policy = transfer.load("noise-scale")
    assert policy.multiplier(change(128, noise_scale=64.0)) == pytest.approx((1 + 2) / (1 + 0.5))


def test_noise_far_above_the_batches_is_linear_and_far_below_is_none() -> None:
    policy = transfer.load("noise-scale")
    assert policy.multiplier(change(128, 1e9)) == pytest.approx(4, rel=1e-6)
    assert policy.multiplier(change(128, 1e-9)) == pytest.approx(1, rel=1e-6)


def test_without_a_measurement_noise_scale_is_the_square_root_and_says_so() -> None:
    policy = transfer.load("noise-scale")
    assert policy.multiplier(change(128)) == math.sqrt(4)
    assert "square root" in (policy.note(change(128)) or "")
    assert policy.note(change(128, 64.0)) is None
    assert policy.note(change(32)) is None


def test_linear_warns_beyond_the_batch_it_was_verified_at() -> None:
    policy = transfer.load("linear")
    assert policy.note(change(8192)) is None
    assert "8192" in (policy.note(change(16384)) or "")


@pytest.mark.parametrize("noise_scale", [math.nan, math.inf, -1.0])
def test_a_noise_scale_that_is_no_measurement_is_refused(noise_scale: float) -> None:
    with pytest.raises(ValueError, match="noise_scale"):
        change(64, noise_scale)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch"):
        change(0)


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(LookupError, match="noise-scale"):
        transfer.load("cubic")


def test_accumulate_is_what_the_range_test_at_the_batch_gave() -> None:
    policy = transfer.load("accumulate")
    assert policy.multiplier(Transfer(32, 128, 64.0, checked=1.7)) == 1.7
    assert policy.note(Transfer(32, 128, 64.0, checked=1.7)) is None


def test_accumulate_without_one_is_the_noise_scale_and_then_the_square_root_and_says_so() -> None:
    policy = transfer.load("accumulate")
    assert policy.multiplier(change(128, 64.0)) == transfer.load("noise-scale").multiplier(change(128, 64.0))
    assert "gradient noise scale" in (policy.note(change(128, 64.0)) or "")
    assert policy.multiplier(change(128)) == 2.0
    assert "square root" in (policy.note(change(128)) or "")
    assert policy.note(change(32)) is None


@pytest.mark.parametrize("checked", [math.nan, math.inf, 0.0, -1.0])
def test_a_check_that_gave_no_learning_rate_is_refused(checked: float) -> None:
    with pytest.raises(ValueError, match="checked"):
        Transfer(32, 128, None, checked=checked)
